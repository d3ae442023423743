"""Random schemas that break no rule: every construct of the language, names that fit together."""

from __future__ import annotations

import json

from hypothesis import strategies as st

SYMBOLS = st.sampled_from(["CONFIG_A", "CONFIG_B", "HOST_C"])
CONDITIONS = st.recursive(
    SYMBOLS,
    lambda inner: st.one_of(
        st.builds(lambda part: {"not": part}, inner),
        st.builds(
            lambda word, parts: {word: parts},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=5,
)
FEATURES = ["deprecated", "unstable", "fast", "far"]
BUILTIN = ["str", "int", "uint32", "size", "number", "bool", "any", "null"]
WORDS = st.sampled_from(
    [
        *("some words", "it is", "(since 5.2)", "  indented", "", "- item", "  - item below"),
        *("text: with a colon", "@reference in text", ".. note:: directive", "=", "TODO"),
    ]
)


@st.composite
def paragraphs(draw):
    """Lines of text, to be put behind a margin."""
    first = draw(st.sampled_from(["Words.", "More words,"]))
    return [first, *draw(st.lists(WORDS, max_size=4))]


class _Texts:
    """What is written so far.

    Args:
        draw: hypothesis's.
        conditional: whether arguments can have conditions, as until 8.0; then comments have no
            text that stands under another one, which had to be in the same column.
    """

    def __init__(self, draw, *, conditional):
        self.draw = draw
        self.conditional = conditional
        self.structs = [f"Ss{number}" for number in range(draw(st.integers(1, 4)))]
        self.parts = []
        self.types = [*BUILTIN, "Kind", "Union", "Either", *self.structs]

    def marks(self, value, *, features=(), condition=True):
        if condition and self.draw(st.booleans()):
            value["if"] = self.draw(CONDITIONS)
        if features and self.draw(st.booleans()):
            names = self.draw(st.lists(st.sampled_from(features), unique=True, max_size=2))
            value["features"] = [
                {"name": name, "if": "HOST_C"} if self.draw(st.booleans()) else name
                for name in names
            ]
        return value

    def type(self):
        name = self.draw(st.sampled_from(self.types))
        return [name] if self.draw(st.booleans()) else name

    def members(self, prefix, *, condition=True):
        found = {}
        for number in range(self.draw(st.integers(0, 3))):
            star = "*" if self.draw(st.booleans()) else ""
            value = self.marks({"type": self.type()}, features=FEATURES, condition=condition)
            plain = len(value) == 1 and self.draw(st.booleans())
            found[f"{star}{prefix}-{number}"] = value["type"] if plain else value
        return found

    def add(self, content, names, features, *, command=False):
        """Add a definition, with a comment or without."""
        if self.draw(st.booleans()):
            meta = next(iter(content))
            lines = [f"@{content[meta]}:", "", *self.draw(paragraphs()), ""]
            lines = [line for line in lines if not line.startswith(("  ", "="))]
            for name in names:
                if self.conditional:
                    lines += [f"@{name}: what it is", ""]
                    continue
                lines += [f"@{name}: {self.draw(st.sampled_from(['', 'what it is']))}".rstrip()]
                lines += ["    " + line for line in self.draw(paragraphs())] + [""]
            if features:
                lines += ["Features:", ""]
            for name in features:
                lines += [f"@{name}: why", ""]
            if command and not self.conditional and self.draw(st.booleans()):
                lines += ["Errors:", "    - some", "", "    - more", ""]
            if self.draw(st.booleans()):
                lines += ["Text behind.", "", "  Further in.", ""]
            lines += [f"Since: {self.draw(st.sampled_from(['1.3', '5.2']))}"]
            self.parts.append(
                "##\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines) + "##"
            )
        self.parts.append(json.dumps(content).replace('"', "'"))


def _features(*values):
    names = {}
    for value in values:
        parts = value.get("features", ()) if isinstance(value, dict) else ()
        names.update({part if isinstance(part, str) else part["name"]: None for part in parts})
    return list(names)


def _plain(members):
    return [name.removeprefix("*") for name in members]


@st.composite
def schema_texts(draw, *, conditional=False):
    """Texts of whole schemas."""
    texts = _Texts(draw, conditional=conditional)
    values = [texts.marks({"name": name}, features=FEATURES) for name in ("one", "two", "3d")]
    kind = texts.marks({"enum": "Kind", "data": values}, features=["many"])
    if draw(st.booleans()):
        kind["prefix"] = "KIND\\\\X"
    texts.add(kind, ["one", "two", "3d"], _features(kind, *values))
    for number, name in enumerate(texts.structs):
        members = texts.members(f"m{number}")
        struct = texts.marks({"struct": name, "data": members}, features=["wide"])
        if number and draw(st.booleans()):
            struct["base"] = texts.structs[number - 1]
        texts.add(struct, _plain(members), _features(struct, *members.values()))
    base = {"kind": "Kind", **texts.members("base")}
    branches = {
        value: texts.marks({"type": draw(st.sampled_from(texts.structs))})
        for value in draw(st.lists(st.sampled_from(["one", "two", "3d"]), unique=True))
    }
    union = {"union": "Union", "base": base, "discriminator": "kind", "data": branches}
    texts.add(texts.marks(union, features=["wide"]), _plain(base), _features(union, *base.values()))
    either = {"name": "str", "object": "Union", "many": ["int"]}
    chosen = draw(st.lists(st.sampled_from(list(either)), unique=True, min_size=1))
    data = {name: texts.marks({"type": either[name]}) for name in chosen}
    alternate = texts.marks({"alternate": "Either", "data": data}, features=["both"])
    texts.add(alternate, chosen, _features(alternate))
    for number in range(draw(st.integers(0, 4))):
        event = draw(st.booleans())
        call = {"event": f"EVENT_{number}"} if event else {"command": f"do-{number}"}
        names, parts = [], []
        if draw(st.booleans()):
            call |= {"data": draw(st.sampled_from([*texts.structs, "Union"])), "boxed": True}
        elif draw(st.booleans()):
            data = texts.members("arg", condition=conditional)
            call["data"] = data
            names, parts = _plain(data), list(data.values())
        if not event:
            returned = draw(st.sampled_from([None, "Union", *texts.structs]))
            if returned is not None:
                call["returns"] = [returned] if draw(st.booleans()) else returned
            for flag in ("gen", "success-response"):
                if draw(st.booleans()):
                    call[flag] = False
            for flag in ("allow-preconfig", draw(st.sampled_from(["allow-oob", "coroutine"]))):
                if draw(st.booleans()):
                    call[flag] = True
        texts.marks(call, features=FEATURES)
        texts.add(call, names, _features(call, *parts), command=not event)
    return "\n".join(texts.parts)
