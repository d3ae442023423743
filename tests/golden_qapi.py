"""The corpus of schema files, and what is kept of each: a listing of its model, or its error."""

from __future__ import annotations

import re
from pathlib import Path

from nbexport.qapi import QapiError, load_schema, parse_release
from nbexport.qapi.model import AlternateType, Command, EnumType, Event, ObjectType

CORPUS = Path(__file__).parent / "golden" / "qapi"
CASES = sorted(path.stem for path in CORPUS.glob("*.json"))
_AS_OF = re.compile(r"# as-of: (\S+)\n")


def as_of(case):
    """The release by whose rules a case is read, from its first line; None for the newest."""
    match = _AS_OF.match((CORPUS / f"{case}.json").read_text())
    return parse_release(match[1]) if match else None


def result(case):
    """The kind of golden file that a case has, and what belongs in it."""
    try:
        schema = load_schema(str(CORPUS / f"{case}.json"), as_of=as_of(case))
    except QapiError as error:
        return "err", str(error).replace(f"{CORPUS}/", "") + "\n"
    return "out", "".join(f"{line}\n" for line in listing(schema))


def listing(schema):
    """Everything that a schema's text says, one thing a line, file by file."""
    for path, entities in schema.modules.items():
        lines = [line for entity in entities for line in _entity(entity)]
        if lines or path != schema.root:
            yield f"module {Path(path).name}"
        yield from lines
    yield from _free_text(schema)


def definitions(schema):
    """The same in the order of definition, whichever file it stands in."""
    for entity in schema.entities.values():
        if entity.info is not None:
            yield from _entity(entity)
    yield from _free_text(schema)


def _free_text(schema):
    for doc in schema.docs:
        if doc.symbol is None:
            yield "text"
            yield from _doc(doc)


def _entity(entity):
    words = [entity.meta if not isinstance(entity, ObjectType) else entity.describe().split()[0]]
    words.append(entity.name)
    if isinstance(entity, EnumType):
        words += [f"prefix {entity.prefix}"] if entity.prefix else []
    elif isinstance(entity, ObjectType):
        words += [f"base {entity.base.name}"] if entity.base else []
        words += [f"tag {entity.tag_name}"] if entity.is_union else []
    elif isinstance(entity, Command | Event):
        words += [f"arg {entity.arg_type.name}"] if entity.arg_type else []
        if isinstance(entity, Command):
            words += [f"ret {entity.ret_type.name}"] if entity.ret_type else []
            flags = ("gen", "success_response", "allow_oob", "allow_preconfig", "coroutine")
            words += [f"{flag}={getattr(entity, flag)}" for flag in flags]
        words.append(f"boxed={entity.boxed}")
    yield " ".join(words + _marks(entity))
    if isinstance(entity, EnumType):
        for value in entity.members:
            yield " ".join(["   ", "value", value.name, *_marks(value)])
    elif isinstance(entity, ObjectType):
        for member in entity.local_members:
            name = member.name + ("?" if member.optional else "")
            yield " ".join(["   ", "member", f"{name}:", member.type.name, *_marks(member)])
    if isinstance(entity, ObjectType | AlternateType):
        for variant in entity.variants:
            yield " ".join(
                ["   ", "branch", f"{variant.name}:", variant.type.name, *_marks(variant)]
            )
    if entity.doc is not None:
        yield from _doc(entity.doc)


def _marks(part):
    marks = [f"if ({part.condition})"] if part.condition else []
    for feature in getattr(part, "features", ()):
        mark = f"feature {feature.name}"
        marks.append(f"{mark} if ({feature.condition})" if feature.condition else mark)
    return marks


def _doc(doc):
    parts = [("doc", doc.body)]
    parts += [(f"doc @{name}", section) for name, section in doc.members.items()]
    parts += [(f"doc feature @{name}", section) for name, section in doc.features.items()]
    parts += [(f"doc {section.tag or 'text'}", section) for section in doc.sections]
    for title, section in parts:
        if section.text:
            yield f"    {title} {section.text!r}"
