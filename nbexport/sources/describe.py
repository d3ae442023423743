"""One command, event or type of a schema, explained: its members with those of bases and branches.

For the interfaces that travel with the package its history is computed from their data: in which
releases it exists, and what changed between them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nbexport.errors import UsageError
from nbexport.qapi import known_releases, load_release
from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    EnumType,
    Event,
    ObjectType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi import Schema
    from nbexport.qapi.model import Entity, Feature, Member, Type

# An enumeration with more values is shown by its name where it is a member's type.
_VALUES_SHOWN = 6
_SUGGESTIONS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A member, a value of an enumeration, or a choice of an alternate.

    Attributes:
        name: as on the wire; for a choice the name of its branch, which is not on the wire.
        type: in the notation of the language, ``[str]``; empty for values.
        optional: whether it can be left out.
        origin: ``own``; ``base TYPE``; ``implicit base``, with ``of UNION`` if that is another
            definition; ``TYPE`` for the named type of a command's arguments or of a branch.
        branch: ``type=nbd`` for what exists for that value of the tag only, else empty.
        condition: the ``if`` condition, empty for always.
        features: names of its features.
        since: the release that the documentation names, if any.
        doc: its documentation.
    """

    name: str
    type: str = ""
    optional: bool = False
    origin: str = "own"
    branch: str = ""
    condition: str = ""
    features: tuple[str, ...] = ()
    since: str | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is different in a release.

    Attributes:
        release: the release with the new form.
        texts: one line for each difference.
    """

    release: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """What a schema says of one name.

    Attributes:
        name: the name.
        meta: ``command``, ``event``, ``struct``, ``union``, ``enum``, ``alternate``, ``array`` or
            ``built-in``.
        place: file and line of its definition, empty where there is none.
        returns: a command's result in the notation of the language, else empty.
        tag: the member that chooses a branch, else empty.
        flags: ``boxed``, ``allow-oob``, ``allow-preconfig``, ``coroutine``, ``no-gen``,
            ``no-success-response``.
        condition: the ``if`` condition, empty for always.
        features: its features with their documentation.
        since: the release that the documentation names.
        doc: the text of the documentation before its sections.
        sections: further sections as pairs of tag (may be empty) and text.
        parts: its members, values or choices, in the order in which QEMU looks at them.
        releases: the releases of this package's data that have it, oldest first.
        history: what changed between these.
    """

    name: str
    meta: str
    place: str = ""
    returns: str = ""
    tag: str = ""
    flags: tuple[str, ...] = ()
    condition: str = ""
    features: dict[str, str] = field(default_factory=dict)
    since: str | None = None
    doc: str = ""
    sections: tuple[tuple[str, str], ...] = ()
    parts: tuple[Part, ...] = ()
    releases: tuple[str, ...] = ()
    history: tuple[Change, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; what is empty is left out."""
        shown = asdict(self)
        shown["parts"] = [_without_empty(part) for part in shown["parts"]]
        if "parts" in shown and not shown["parts"]:
            del shown["parts"]
        return _without_empty(shown)


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item not in ("", None, (), [], {}, False)}


def describe(schema: Schema, name: str, *, with_history: bool = False) -> Description:
    """Explain one command, event or type of a schema.

    Args:
        schema: the schema; what its symbols exclude is not shown.
        name: the command, event or type.
        with_history: whether to look the name up in every release of the package's data.

    Raises:
        UsageError: the schema has nothing of that name; names that are alike are told.
    """
    entity = schema.entities.get(name)
    if entity is None or not schema.enabled(entity):
        alike = _alike(schema, name)
        hint = f" (did you mean {', '.join(alike)}?)" if alike else ""
        raise UsageError(f"no command, event or type '{name}' in this schema{hint}")
    doc = entity.doc
    body = doc.body.text if doc is not None else ""
    sections = () if doc is None else tuple((s.tag or "", s.text) for s in doc.sections)
    documented = {} if doc is None else {key: s.text for key, s in doc.features.items()}
    releases, changes = _history(name) if with_history else ((), ())
    returns = ""
    if isinstance(entity, Command) and entity.ret_type is not None:
        returns = type_text(schema, entity.ret_type)
    return Description(
        name,
        _meta(entity),
        str(entity.info).splitlines()[-1] if entity.info is not None else "",
        returns,
        _tag(entity),
        _flags(entity),
        str(entity.condition),
        {key: documented.get(key, "") for key in _names(schema, entity.features)},
        doc.since if doc is not None else None,
        body,
        tuple((tag, text) for tag, text in sections if tag != "Since" and text),
        tuple(parts_of(schema, entity)),
        releases,
        changes,
    )


def _alike(schema: Schema, name: str) -> list[str]:
    import difflib  # noqa: PLC0415 - only for a mistake

    return difflib.get_close_matches(name, schema.entities, _SUGGESTIONS)


def _meta(entity: Entity) -> str:
    if isinstance(entity, ObjectType):
        return "union" if entity.is_union else "struct"
    return entity.meta


def _tag(entity: Entity) -> str:
    kind = entity.arg_type if isinstance(entity, Command | Event) else entity
    return kind.tag_name or "" if isinstance(kind, ObjectType) else ""


def _flags(entity: Entity) -> tuple[str, ...]:
    if isinstance(entity, Event):
        return ("boxed",) if entity.boxed else ()
    if not isinstance(entity, Command):
        return ()
    flags = {
        "boxed": entity.boxed,
        "allow-oob": entity.allow_oob,
        "allow-preconfig": entity.allow_preconfig,
        "coroutine": entity.coroutine,
        "no-gen": not entity.gen,
        "no-success-response": not entity.success_response,
    }
    return tuple(name for name, is_set in flags.items() if is_set)


def _names(schema: Schema, features: tuple[Feature, ...]) -> tuple[str, ...]:
    return tuple(feature.name for feature in features if schema.enabled(feature))


def parts_of(schema: Schema, entity: Entity) -> Iterator[Part]:
    """Give the members, values or choices of an entity, those of bases and branches included.

    They come in the order in which QEMU looks at them: base, own, then branch by branch.
    """
    if isinstance(entity, Command | Event):
        if entity.arg_type is not None:
            yield from _members(schema, entity.arg_type, entity.name, "")
    elif isinstance(entity, ObjectType):
        yield from _members(schema, entity, entity.name, "")
    elif isinstance(entity, EnumType):
        for value in entity.members:
            if schema.enabled(value):
                since, doc = _documented(entity, value.name)
                yield Part(
                    value.name,
                    condition=str(value.condition),
                    features=_names(schema, value.features),
                    since=since,
                    doc=doc,
                )
    elif isinstance(entity, AlternateType):
        for variant in entity.variants:
            if schema.enabled(variant):
                since, doc = _documented(entity, variant.name)
                yield Part(
                    variant.name,
                    type_text(schema, variant.type),
                    condition=str(variant.condition),
                    since=since,
                    doc=doc,
                )
    elif isinstance(entity, ArrayType):
        yield Part("[]", type_text(schema, entity.element))


def _members(schema: Schema, kind: ObjectType, asked: str, branch: str) -> Iterator[Part]:
    for member in schema.members(kind):
        since, doc = _documented(schema.entities.get(owner_name(member.defined_in)), member.name)
        yield Part(
            member.name,
            type_text(schema, member.type),
            member.optional,
            _origin(kind, member, asked),
            branch,
            str(member.condition),
            _names(schema, member.features),
            since,
            doc,
        )
    for variant in kind.variants:
        if schema.enabled(variant) and isinstance(variant.type, ObjectType):
            tag = f"{kind.tag_name}={variant.name}"
            within = f"{branch}, {tag}" if branch else tag
            yield from _members(schema, variant.type, asked, within)


def _origin(kind: ObjectType, member: Member, asked: str) -> str:
    """Say whose text holds a member."""
    owner = owner_name(member.defined_in)
    if member.defined_in != owner and member.defined_in.endswith("-base"):
        return "implicit base" if owner == asked else f"implicit base of {owner}"
    if owner == asked:
        return "own"
    return owner if member.defined_in == kind.name else f"base {owner}"


def _documented(entity: Entity | None, name: str) -> tuple[str | None, str]:
    """Return release and text that an entity's documentation has for a member."""
    section = entity.doc.members.get(name) if entity is not None and entity.doc else None
    return (section.since, section.text) if section is not None else (None, "")


def type_text(schema: Schema, kind: Type, above: tuple[Type, ...] = ()) -> str:
    """Return a type in the notation of the language; short enumerations by their values.

    An alternate may hold a list of itself; there it is shown by its name. ``above`` is for that.
    """
    if isinstance(kind, ArrayType):
        return f"[{type_text(schema, kind.element, above)}]"
    if isinstance(kind, EnumType):
        values = [member.name for member in kind.members if schema.enabled(member)]
        return "|".join(values) if len(values) <= _VALUES_SHOWN else kind.name
    if isinstance(kind, AlternateType) and kind not in above:
        return " or ".join(
            type_text(schema, variant.type, (*above, kind))
            for variant in kind.variants
            if schema.enabled(variant)
        )
    if isinstance(kind, BuiltinType):
        return "int" if kind.name == "integer" else kind.name
    return kind.name


# -- history --------------------------------------------------------------------------------


def _history(name: str) -> tuple[tuple[str, ...], tuple[Change, ...]]:
    """Return the known releases that have a name, and the changes from one to the next."""
    present: list[str] = []
    changes: list[Change] = []
    before: tuple[Schema, Entity] | None = None
    for number, release in enumerate(known_releases()):
        schema = load_release(release)
        entity = schema.entities.get(name)
        if entity is None or not schema.enabled(entity):
            if before is not None:
                changes.append(Change(release, ("gone",)))
            before = None
            continue
        present.append(release)
        if before is None:
            first = "there already (the oldest release known)" if number == 0 else "new"
            changes.append(Change(release, (first,)))
        else:
            texts = tuple(_differences(before, (schema, entity)))
            if texts:
                changes.append(Change(release, texts))
        before = schema, entity
    return tuple(present), tuple(changes)


def _differences(before: tuple[Schema, Entity], after: tuple[Schema, Entity]) -> Iterator[str]:
    """Give what a client can see of the change from one form to another, a line each."""
    (old_schema, old), (new_schema, new) = before, after
    yield from _feature_changes(_names(old_schema, old.features), _names(new_schema, new.features))
    yield from _feature_changes(_wire_flags(old), _wire_flags(new))
    if isinstance(old, Command) and isinstance(new, Command):
        was, now = (
            type_text(schema, entity.ret_type) if entity.ret_type is not None else "nothing"
            for schema, entity in ((old_schema, old), (new_schema, new))
        )
        if was != now:
            yield f"returns {was} -> {now}"
    was_parts = {(part.name, part.branch): part for part in parts_of(old_schema, old)}
    now_parts = {(part.name, part.branch): part for part in parts_of(new_schema, new)}
    for key, part in now_parts.items():
        earlier = was_parts.get(key)
        title = f"{part.name} ({part.branch})" if part.branch else part.name
        if earlier is None:
            shown = f": {part.type}{', optional' if part.optional else ''}" if part.type else ""
            yield f"+ {title}{shown}"
            continue
        if earlier.type != part.type:
            yield f"{title}: {earlier.type} -> {part.type}"
        if earlier.optional != part.optional:
            yield f"{title}: now {'optional' if part.optional else 'required'}"
        for text in _feature_changes(earlier.features, part.features):
            yield f"{title}: {text}"
    for key, part in was_parts.items():
        if key not in now_parts:
            yield f"- {part.name} ({part.branch})" if part.branch else f"- {part.name}"


def _wire_flags(entity: Entity) -> tuple[str, ...]:
    """Return the flags that a client can notice; the others are about the C code."""
    return tuple(flag for flag in _flags(entity) if flag.startswith(("allow-", "no-success")))


def _feature_changes(before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    for name in after:
        if name not in before:
            yield f"now {name}"
    for name in before:
        if name not in after:
            yield f"no longer {name}"
