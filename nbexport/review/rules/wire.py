"""Rules about the wire itself: one for each kind of difference and direction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nbexport.qapi.model import Member
from nbexport.review.compare import Kind
from nbexport.review.finding import Direction, Level
from nbexport.review.rules.registry import Example, Rule, Taxonomy, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.review.facts import Difference
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

SENDS, RECEIVES, NOBODY = Direction.SENDS, Direction.RECEIVES, Direction.NONE
BREAKING, RISKY, NOTICE, INFO = Level.BREAKING, Level.RISKY, Level.NOTICE, Level.INFO
SPECIAL = ("deprecated", "unstable")

_KEEP = "Keep it, deprecate it, and remove it when the window is over."


def call(data: str, *, more: str = "") -> str:
    """Return a schema with one command that takes arguments."""
    return f"{{ 'command': 'add-map', 'data': {data}{more} }}\n"


def result(data: str) -> str:
    """Return a schema with one command that returns an object."""
    return f"{{ 'struct': 'Map', 'data': {data} }}\n{{ 'command': 'get-map', 'returns': 'Map' }}\n"


def values(data: str, *, returned: bool = False) -> str:
    """Return a schema with an enumeration that is sent or returned."""
    mode = f"{{ 'enum': 'Mode', 'data': {data} }}\n"
    return mode + (result("{ 'mode': 'Mode' }") if returned else call("{ 'mode': 'Mode' }"))


def plain(*words: str) -> str:
    """Return a schema out of definitions."""
    return "".join(f"{{ {word} }}\n" for word in words)


def change(old: str, new: str) -> Example:
    """Return an example out of two texts."""
    return Example(old, new)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the table below: a rule, and which differences it is about."""

    id: str
    level: Level
    what: str
    direction: Direction
    kind: Kind
    message: str
    reason: str
    fix: str
    positive: Example
    negative: Example
    opposite: str
    only: Callable[[Difference], bool] = lambda _: True
    companions: tuple[str, ...] = ()


def _required(difference: Difference) -> bool:
    part = difference.new_part or difference.old_part
    return isinstance(part, Member) and not part.optional


def _optional(difference: Difference) -> bool:
    return not _required(difference)


def _plain_feature(difference: Difference) -> bool:
    return difference.name not in SPECIAL


def _named(name: str) -> Callable[[Difference], bool]:
    return lambda difference: difference.name == name


_TEXT_NAME = "{ 'name': 'str' }"
_BOTH = "{ 'name': 'str', '*size': 'int' }"
_ANY = "{ 'name': 'str', 'size': 'int' }"
_NEW_NAME = change(call(_TEXT_NAME), call(_TEXT_NAME))

_LINES = (
    _Line(
        "command-removed", BREAKING, "command", NOBODY, Kind.COMMAND_REMOVED,
        "the command {name} is gone",
        "Clients that send it get CommandNotFound.",
        _KEEP,
        change(plain("'command': 'stop'", "'command': 'go'"), plain("'command': 'go'")),
        change(
            plain("'command': 'go'", "'struct': 'State', 'data': {}"), plain("'command': 'go'"),
        ),
        "command-added",
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "command-added", INFO, "command", NOBODY, Kind.COMMAND_ADDED,
        "the command {name} is new",
        "Clients can find it in introspection; nobody sends it yet.",
        "Nothing to mend; what ships cannot be changed any more, so look at its arguments now.",
        change(plain("'command': 'go'"), plain("'command': 'go'", "'command': 'stop'")),
        change(plain("'command': 'go'"), plain("'command': 'go'", "'event': 'STOPPED'")),
        "command-removed",
    ),
    _Line(
        "event-removed", BREAKING, "event", NOBODY, Kind.EVENT_REMOVED,
        "the event {name} is gone",
        "Clients that wait for it wait forever.",
        _KEEP,
        change(plain("'command': 'go'", "'event': 'GONE'"), plain("'command': 'go'")),
        change(plain("'event': 'GONE'"), plain("'event': 'GONE', 'data': {}")),
        "event-added",
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "event-added", INFO, "event", NOBODY, Kind.EVENT_ADDED,
        "the event {name} is new",
        "Clients ignore events that they do not know.",
        "Nothing to mend.",
        change(plain("'command': 'go'"), plain("'command': 'go'", "'event': 'GONE'")),
        change(plain("'event': 'GONE'"), plain("'event': 'GONE'", "'command': 'go'")),
        "event-removed",
    ),
    _Line(
        "argument-removed", BREAKING, "argument", SENDS, Kind.MEMBER_REMOVED,
        "{element} is not taken any more",
        "Commands that have it are refused: the parameter is unexpected.",
        _KEEP,
        change(call(_BOTH), call(_TEXT_NAME)),
        change(
            "{ 'struct': 'Size', 'data': { '*size': 'int' } }\n"
            "{ 'struct': 'Map', 'base': 'Size', 'data': { 'name': 'str' } }\n"
            + call("'Map'"),
            call(_BOTH),
        ),
        "argument-added",
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "argument-added", INFO, "argument", SENDS, Kind.MEMBER_ADDED,
        "{element} is new: {now}",
        "Nobody has to send it; introspection tells whether it can be sent.",
        "Nothing to mend.",
        change(call(_TEXT_NAME), call(_BOTH)),
        change(result(_TEXT_NAME), result(_BOTH)),
        "argument-removed",
        only=_optional,
    ),
    _Line(
        "argument-added-required", BREAKING, "argument", SENDS, Kind.MEMBER_ADDED,
        "{element} is new, and has to be sent",
        "Every command that was right before is refused: the parameter is missing.",
        "Make it optional, with a default that does what was done before.",
        change(call(_TEXT_NAME), call(_ANY)),
        change(call(_TEXT_NAME), call(_BOTH)),
        "argument-removed",
        only=_required,
    ),
    _Line(
        "argument-became-required", BREAKING, "argument", SENDS, Kind.BECAME_REQUIRED,
        "{element} has to be sent now",
        "Commands without it, which were right before, are refused.",
        "Keep it optional; deprecate leaving it out if that must end.",
        change(call(_BOTH), call(_ANY)),
        change(result(_BOTH), result(_ANY)),
        "argument-became-optional",
    ),
    _Line(
        "argument-became-optional", INFO, "argument", SENDS, Kind.BECAME_OPTIONAL,
        "{element} can be left out now",
        "What was right before is right still.",
        "Nothing to mend; the documentation should tell the default.",
        change(call(_ANY), call(_BOTH)),
        change(result(_ANY), result(_BOTH)),
        "argument-became-required",
    ),
    _Line(
        "argument-type-narrowed", BREAKING, "argument", SENDS, Kind.TYPE_NARROWED,
        "{element} takes fewer values: {was}, now {now}",
        "Some values that were right before are refused.",
        "Keep the type, and check the value in the command.",
        change(call("{ 'size': 'int' }"), call("{ 'size': 'uint32' }")),
        change(call("{ 'size': 'int32' }"), call("{ 'size': 'int64' }")),
        "argument-type-widened",
    ),
    _Line(
        "argument-type-widened", INFO, "argument", SENDS, Kind.TYPE_WIDENED,
        "{element} takes more values: {was}, now {now}",
        "What was right before is right still.",
        "Nothing to mend; a feature can tell clients where introspection does not.",
        change(
            call("{ 'map': 'str' }"),
            "{ 'alternate': 'Maps', 'data': { 'one': 'str', 'many': ['str'] } }\n"
            + call("{ 'map': 'Maps' }"),
        ),
        change(call("{ 'size': 'int64' }"), call("{ 'size': 'int' }")),
        "argument-type-narrowed",
    ),
    _Line(
        "argument-type-changed", BREAKING, "argument", SENDS, Kind.TYPE_CHANGED,
        "{element} takes other values: {was}, now {now}",
        "What was right before is refused; no client can send one form to every release.",
        "Take both with an alternate, or add an argument beside the old one.",
        change(call("{ 'map': 'str' }"), call("{ 'map': ['str'] }")),
        change(
            call("{ 'map': 'str' }"),
            "{ 'alternate': 'Maps', 'data': { 'one': 'str', 'many': ['str'] } }\n"
            + call("{ 'map': 'Maps' }"),
        ),
        "argument-type-changed",
        companions=("frozen-interface-changed",),
    ),
    _Line(
        "argument-value-removed", BREAKING, "value", SENDS, Kind.VALUE_REMOVED,
        "{element} is not taken any more",
        "Commands with this value are refused.",
        _KEEP,
        change(values("['safe', 'hard']"), values("['safe']")),
        change(values("['safe', 'hard']"), values("['hard', 'safe']")),
        "argument-value-added",
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "argument-value-added", INFO, "value", SENDS, Kind.VALUE_ADDED,
        "{element} is new",
        "Nobody has to send it; introspection tells whether it can be sent.",
        "Nothing to mend.",
        change(values("['safe']"), values("['safe', 'hard']")),
        change(
            values("['safe']", returned=True), values("['safe', 'hard']", returned=True),
        ),
        "argument-value-removed",
    ),
    _Line(
        "result-removed", BREAKING, "result", RECEIVES, Kind.MEMBER_REMOVED,
        "{element} is gone",
        "Clients that read it find nothing where the schema promised something.",
        _KEEP,
        change(result(_ANY), result(_TEXT_NAME)),
        change(result(_BOTH), result(_TEXT_NAME)),
        "result-added",
        only=_required,
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "result-removed-optional", RISKY, "result", RECEIVES, Kind.MEMBER_REMOVED,
        "{element}, which could be missing before, is gone",
        "Clients can live without it, but may have lost what they knew by it.",
        _KEEP,
        change(result(_BOTH), result(_TEXT_NAME)),
        change(call(_BOTH), call(_TEXT_NAME)),
        "result-added",
        only=_optional,
        companions=("removed-without-deprecation",),
    ),
    _Line(
        "result-added", INFO, "result", RECEIVES, Kind.MEMBER_ADDED,
        "{element} is new: {now}",
        "Clients have to ignore members that they do not know.",
        "Nothing to mend.",
        change(result(_TEXT_NAME), result(_ANY)),
        change(call(_TEXT_NAME), call(_BOTH)),
        "result-removed",
    ),
    _Line(
        "result-became-optional", BREAKING, "result", RECEIVES, Kind.BECAME_OPTIONAL,
        "{element} can be missing now",
        "Clients that rely on it fail where it is missing.",
        "Go on sending it; deprecate it if it has lost its meaning.",
        change(result(_ANY), result(_BOTH)),
        change(call(_ANY), call(_BOTH)),
        "result-became-required",
    ),
    _Line(
        "result-became-required", INFO, "result", RECEIVES, Kind.BECAME_REQUIRED,
        "{element} is always there now",
        "Clients that can do without it can do with it.",
        "Nothing to mend.",
        change(result(_BOTH), result(_ANY)),
        change(call(_BOTH), call(_ANY)),
        "result-became-optional",
    ),
    _Line(
        "result-type-widened", RISKY, "result", RECEIVES, Kind.TYPE_WIDENED,
        "{element} can have more values: {was}, now {now}",
        "Clients get values that the schema did not announce before.",
        "Send the new values in a member of their own.",
        change(result("{ 'size': 'uint32' }"), result("{ 'size': 'uint64' }")),
        change(call("{ 'size': 'uint32' }"), call("{ 'size': 'uint64' }")),
        "result-type-narrowed",
    ),
    _Line(
        "result-type-narrowed", INFO, "result", RECEIVES, Kind.TYPE_NARROWED,
        "{element} has fewer values: {was}, now {now}",
        "Clients know all of them.",
        "Nothing to mend.",
        change(result("{ 'size': 'uint64' }"), result("{ 'size': 'uint32' }")),
        change(call("{ 'size': 'uint64' }"), call("{ 'size': 'uint32' }")),
        "result-type-widened",
    ),
    _Line(
        "result-type-changed", BREAKING, "result", RECEIVES, Kind.TYPE_CHANGED,
        "{element} has other values: {was}, now {now}",
        "Clients find a value of a kind that they do not expect.",
        "Keep the member, and add one of the new type.",
        change(result("{ 'map': 'str' }"), result("{ 'map': ['str'] }")),
        change(result("{ 'map': 'str' }"), result("{ 'map': 'str', 'maps': ['str'] }")),
        "result-type-changed",
        companions=("frozen-interface-changed",),
    ),
    _Line(
        "result-value-added", RISKY, "value", RECEIVES, Kind.VALUE_ADDED,
        "{element} is new",
        "Clients get a value that they do not know.",
        "Tell in the documentation that values may be added, and when this one occurs.",
        change(
            values("['safe']", returned=True), values("['safe', 'hard']", returned=True),
        ),
        change(values("['safe']"), values("['safe', 'hard']")),
        "result-value-removed",
    ),
    _Line(
        "result-value-removed", INFO, "value", RECEIVES, Kind.VALUE_REMOVED,
        "{element} does not occur any more",
        "Clients that know it wait for it in vain, and are right otherwise.",
        "Nothing to mend, if the state that it told of does not exist any more.",
        change(
            values("['safe', 'hard']", returned=True), values("['safe']", returned=True),
        ),
        change(values("['safe', 'hard']"), values("['safe']")),
        "result-value-added",
    ),
    _Line(
        "feature-removed", RISKY, "feature", NOBODY, Kind.FEATURE_REMOVED,
        "{element} has lost the feature '{name}'",
        "Clients that look for the feature do without what it announces.",
        "Keep the feature as long as what it announces is there.",
        change(call("{}", more=", 'features': ['fast']"), call("{}")),
        change(call("{}", more=", 'features': ['deprecated']"), call("{}")),
        "feature-added",
        only=_plain_feature,
    ),
    _Line(
        "feature-added", INFO, "feature", NOBODY, Kind.FEATURE_ADDED,
        "{element} has the feature '{name}' now",
        "Clients can look for it.",
        "Nothing to mend.",
        change(call("{}"), call("{}", more=", 'features': ['fast']")),
        change(
            call("{}", more=", 'features': ['fast']"),
            call("{}", more=", 'features': [ { 'name': 'fast' } ]"),
        ),
        "feature-removed",
        only=_plain_feature,
    ),
    _Line(
        "became-deprecated", NOTICE, "deprecation", NOBODY, Kind.FEATURE_ADDED,
        "{element} is deprecated now",
        "Clients have to change to something else before the window is over.",
        "List it with the deprecated features, with what to use instead.",
        change(call("{}"), call("{}", more=", 'features': ['deprecated']")),
        change(call("{}"), call("{}", more=", 'features': ['fast']")),
        "deprecation-withdrawn",
        only=_named("deprecated"),
        companions=("deprecation-without-note",),
    ),
    _Line(
        "deprecation-withdrawn", NOTICE, "deprecation", NOBODY, Kind.FEATURE_REMOVED,
        "{element} is not deprecated any more",
        "Clients that have changed to something else did so in vain.",
        "Take it off the list of deprecated features, and say why.",
        change(call("{}", more=", 'features': ['deprecated']"), call("{}")),
        change(call("{}", more=", 'features': ['fast']"), call("{}")),
        "became-deprecated",
        only=_named("deprecated"),
    ),
    _Line(
        "condition-narrowed", RISKY, "condition", NOBODY, Kind.CONDITION_NARROWED,
        "{title} is there in fewer builds: {was}, now {now}",
        "Some builds that had it have it no longer.",
        "Keep it in all builds that can have it, or tell who loses it.",
        change(call("{}"), call("{}", more=", 'if': 'CONFIG_LINUX'")),
        change(
            call("{}", more=", 'if': 'CONFIG_LINUX'"),
            call("{}", more=", 'if': { 'all': ['CONFIG_LINUX'] }"),
        ),
        "condition-widened",
    ),
    _Line(
        "condition-widened", INFO, "condition", NOBODY, Kind.CONDITION_WIDENED,
        "{title} is there in more builds: {was}, now {now}",
        "Builds that had it have it still.",
        "Nothing to mend.",
        change(call("{}", more=", 'if': 'CONFIG_LINUX'"), call("{}")),
        change(call("{}"), call("{}", more=", 'if': 'CONFIG_LINUX'")),
        "condition-narrowed",
    ),
    _Line(
        "condition-changed", RISKY, "condition", NOBODY, Kind.CONDITION_CHANGED,
        "{title} is there in other builds: {was}, now {now}",
        "Some builds that had it have it no longer, others have it now.",
        "Keep it in all builds that can have it, or tell who loses it.",
        change(
            call("{}", more=", 'if': 'CONFIG_LINUX'"), call("{}", more=", 'if': 'CONFIG_WIN32'"),
        ),
        change(
            call("{}", more=", 'if': { 'all': ['CONFIG_A', 'CONFIG_B'] }"),
            call("{}", more=", 'if': { 'not': { 'any': [ { 'not': 'CONFIG_B' }, "
                            "{ 'not': 'CONFIG_A' } ] } }"),
        ),
        "condition-changed",
    ),
)  # fmt: skip

_GO = "'command': 'go'"
_FLAG_LINES = (
    _Line(
        "oob-lost", BREAKING, "flag", NOBODY, Kind.FLAG_REMOVED,
        "{element} cannot be sent out of band any more",
        "Clients that send it with exec-oob are refused.",
        "Keep allow-oob.",
        change(plain(f"{_GO}, 'allow-oob': true"), plain(_GO)),
        change(
            plain(f"{_GO}, 'allow-oob': true"),
            plain(f"{_GO}, 'allow-oob': true, 'allow-preconfig': true"),
        ),
        "oob-gained",
        only=_named("out-of-band"),
    ),
    _Line(
        "oob-gained", INFO, "flag", NOBODY, Kind.FLAG_ADDED,
        "{element} can be sent out of band",
        "Clients can send it with exec-oob, and need not.",
        "Nothing to mend; see that it never blocks.",
        change(plain(_GO), plain(f"{_GO}, 'allow-oob': true")),
        change(plain(_GO), plain(f"{_GO}, 'allow-preconfig': true")),
        "oob-lost",
        only=_named("out-of-band"),
    ),
    _Line(
        "preconfig-lost", BREAKING, "flag", NOBODY, Kind.FLAG_REMOVED,
        "{element} cannot be sent any more before the machine is made",
        "Clients that send it in the preconfig state are refused.",
        "Keep allow-preconfig.",
        change(plain(f"{_GO}, 'allow-preconfig': true"), plain(_GO)),
        change(
            plain(f"{_GO}, 'allow-preconfig': true"),
            plain(f"{_GO}, 'allow-preconfig': true, 'allow-oob': true"),
        ),
        "preconfig-gained",
        only=_named("preconfig"),
    ),
    _Line(
        "preconfig-gained", INFO, "flag", NOBODY, Kind.FLAG_ADDED,
        "{element} can be sent before the machine is made",
        "Clients can send it earlier, and need not; introspection does not tell.",
        "Nothing to mend.",
        change(plain(_GO), plain(f"{_GO}, 'allow-preconfig': true")),
        change(plain(_GO), plain(f"{_GO}, 'allow-oob': true")),
        "preconfig-lost",
        only=_named("preconfig"),
    ),
    _Line(
        "reply-lost", BREAKING, "flag", NOBODY, Kind.FLAG_REMOVED,
        "{element} is not answered any more when it succeeds",
        "Clients that wait for the answer wait forever.",
        "Keep the answer.",
        change(plain(_GO), plain(f"{_GO}, 'success-response': false")),
        change(plain(_GO), plain(f"{_GO}, 'gen': false")),
        "reply-gained",
        only=_named("reply"),
    ),
    _Line(
        "reply-gained", RISKY, "flag", NOBODY, Kind.FLAG_ADDED,
        "{element} is answered now when it succeeds",
        "Clients that expect no answer take it for that of their next command.",
        "Make it a command of another name.",
        change(plain(f"{_GO}, 'success-response': false"), plain(_GO)),
        change(
            plain(f"{_GO}, 'success-response': false"),
            plain(f"{_GO}, 'success-response': false, 'allow-oob': true"),
        ),
        "reply-lost",
        only=_named("reply"),
    ),
    _Line(
        "arguments-checked", RISKY, "flag", NOBODY, Kind.FLAG_ADDED,
        "the arguments of {element} are checked now",
        "Commands with arguments that the schema does not have are refused.",
        "Describe in the schema what was taken before.",
        change(plain(f"{_GO}, 'gen': false"), plain(_GO)),
        change(plain(f"{_GO}, 'gen': false"), plain(f"{_GO}, 'gen': false, 'allow-oob': true")),
        "arguments-unchecked",
        only=_named("checked"),
    ),
    _Line(
        "arguments-unchecked", NOTICE, "flag", NOBODY, Kind.FLAG_REMOVED,
        "the arguments of {element} are not checked any more",
        "Clients do not learn from the schema what they can send.",
        "Describe the arguments in the schema.",
        change(plain(_GO), plain(f"{_GO}, 'gen': false")),
        change(plain(_GO), plain(f"{_GO}, 'success-response': false")),
        "arguments-checked",
        only=_named("checked"),
    ),
)  # fmt: skip


def _check(line: _Line, rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference in subject.differences:
        if difference.kind is not line.kind or not line.only(difference):
            continue
        if line.direction is not NOBODY and difference.direction is not line.direction:
            continue
        name, element = difference.name, difference.element
        # a feature's condition is about the feature
        title = f"the {name} of {element}" if name.startswith("feature ") else element
        message = line.message.format(
            element=element, title=title, name=name, was=difference.was, now=difference.now
        )
        yield subject.about(rule, message, difference)


def _action(kind: Kind) -> str:
    return kind.value.rpartition("-")[2]


# where the rules for arguments and for results do not have the same name
_OTHER_WAYS = {
    # what is hard on the sender of an argument is easy on the reader of a result, and the reverse
    "argument-added-required": "result-added",
    "result-removed-optional": "argument-removed",
}


def _other_way(line: _Line) -> str:
    """Return the rule about the same difference in what the other side sends."""
    if line.direction is NOBODY:
        return ""
    here, there = ("argument", "result") if line.direction is SENDS else ("result", "argument")
    return _OTHER_WAYS.get(line.id, line.id.replace(here, there, 1))


for _line in (*_LINES, *_FLAG_LINES):
    register(
        Rule(
            _line.id,
            _line.level,
            Taxonomy(_line.what, _line.direction, _action(_line.kind)),
            _line.reason,
            _line.fix,
            _line.positive,
            _line.negative,
            partial(_check, _line),
            opposite=_line.opposite,
            other_way=_other_way(_line),
            companions=_line.companions,
        )
    )
