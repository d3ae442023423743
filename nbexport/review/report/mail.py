"""The report as mail: a reply to the patch, each remark under the line that it is about.

Headers are those of a reply (RFC 5322, section 3.6.4), all that ``git send-email`` does not add by
itself: that are sender, date and message id. Several mails are written as a mailbox.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from email.header import Header
from email.utils import formataddr, getaddresses, parseaddr
from posixpath import normpath
from typing import TYPE_CHECKING

from nbexport import __version__
from nbexport.review.finding import Level
from nbexport.review.report.quoting import place, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.patch import Patch
    from nbexport.review.report.model import Review

# What git writes before each mail of a mailbox; the date is that of its invention.
_SEPARATOR = f"From {'0' * 40} Mon Sep 17 00:00:00 2001"
_WIDTH = 72
# Of more findings of one kind the first is told, the others are listed with it.
_ALIKE_MAX = 3
_LISTED_MAX = 12
_ARTICLES = ("the ", "a ", "an ", "no ")
# Rules whose findings are said with those of others that say more, if both are about one place.
_TOLD_BY = (
    {
        "deprecated-gained-member": ("leak-through-base",),
        "became-deprecated": (
            "replacement-not-shipped",
            "deprecation-without-note",
            "migration-note-lacks-rename",
        ),
    }
    | dict.fromkeys(
        ("command-removed", "event-removed", "argument-removed", "argument-value-removed"),
        ("removed-without-deprecation", "removed-before-two-releases"),
    )
    | dict.fromkeys(
        ("argument-type-changed", "argument-type-narrowed", "result-type-changed"),
        ("frozen-interface-changed",),
    )
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A mail.

    Attributes:
        headers: names and values, folded and encoded.
        body: the lines of its text.
    """

    headers: tuple[tuple[str, str], ...]
    body: tuple[str, ...]

    def __str__(self) -> str:
        head = "".join(f"{name}: {value}\n" for name, value in self.headers)
        return head + "\n" + "\n".join(self.body) + "\n"


def replies(review: Review) -> list[Reply]:
    """Return the answers to a patch or series.

    Each patch that has findings gets one. What only the series as a whole does goes to its cover
    letter, or to the first patch where there is none; so does the word that nothing was found.
    Findings of level ``info`` are no remarks and are left out.

    Args:
        review: the review of a patch; one of two schemas has nothing to reply to.
    """
    assert review.patched is not None
    found = []
    for step in review.steps:
        findings = _remarkable(step.findings)
        if findings:
            found.append(_reply(step.step.patch, _body(review, step.step.patch, findings)))
    whole = _remarkable(review.whole_only) if len(review.steps) > 1 else []
    series = review.patched.series
    top = series.cover or series.patches[0]
    if whole:
        found.insert(0, _reply(top, [*_attribution(top), *_whole(whole), *_signature()]))
    elif not found:
        clean = f"Nothing to object to in the interface{_for(review)}."
        if not any(step.step.applying.files for step in review.steps):
            clean = "No file of the schema is changed, so the interface stays as it is."
        found.append(_reply(top, [*_attribution(top), *_wrapped(clean), *_signature()]))
    return found


def as_mail(review: Review) -> str:
    """Return the answers as one text: a mail, or a mailbox if they are several."""
    mails = replies(review)
    if len(mails) == 1:
        return str(mails[0])
    return "\n".join(f"{_SEPARATOR}\n{mail}" for mail in mails)


def _for(review: Review) -> str:
    return f" for {review.release}" if review.release is not None else ""


def _remarkable(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level > Level.INFO]


# -- headers --------------------------------------------------------------------------------


def _reply(patch: Patch, body: Sequence[str]) -> Reply:
    headers: list[tuple[str, str]] = []
    mail = patch.mail
    subject = mail.subject if mail is not None and mail.subject else f"[PATCH] {patch.title}"
    headers.append(("Subject", _encoded(f"Re: {subject}", "Subject")))
    if mail is not None:
        to = _addresses([mail.reply_to or mail.sender])
        cc = {key: shown for key, shown in _addresses([mail.to, mail.cc]).items() if key not in to}
        headers += [("To", ",\n ".join(to.values()))] if to else []
        headers += [("Cc", ",\n ".join(cc.values()))] if cc else []
        if mail.message_id:
            headers.append(("In-Reply-To", mail.message_id))
            thread = [item for item in mail.references if item != mail.message_id]
            headers.append(("References", "\n ".join([*thread, mail.message_id])))
    headers += [
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=UTF-8"),
        ("Content-Transfer-Encoding", "8bit"),
    ]
    return Reply(tuple(headers), tuple(body))


def _addresses(fields: Iterable[str]) -> dict[str, str]:
    """Return the addresses of header fields in lower case, and how each is written."""
    found: dict[str, str] = {}
    for name, address in getaddresses([field for field in fields if field]):
        if "@" in address and address.isascii():
            found.setdefault(address.lower(), formataddr((name, address)))
    return found


def _encoded(text: str, name: str) -> str:
    """Return a header's text, encoded by RFC 2047 where it is not ASCII."""
    charset = "us-ascii" if text.isascii() else "utf-8"
    return Header(text, charset, maxlinelen=76, header_name=name).encode()


# -- body -----------------------------------------------------------------------------------


def _attribution(patch: Patch) -> list[str]:
    """Return the line that says who is quoted."""
    if patch.mail is None or not patch.mail.sender:
        return []
    name, address = parseaddr(patch.mail.sender)
    who = name or address
    when = f"On {patch.mail.date}, " if patch.mail.date else ""
    return [f"{when}{who} wrote:"]


def _signature() -> list[str]:
    return ["", "-- ", f"nbexport {__version__}"]


def _body(review: Review, patch: Patch, findings: Sequence[Finding]) -> list[str]:
    step = next(item.step for item in review.steps if item.step.patch is patch)
    speaker = _Speaker(review, findings)
    placed = place([item for item in findings if speaker.speaks_of(item)], step.applying.places)
    remarks = {line: speaker.remark(items) for line, items in sorted(placed.under.items())}
    lines = [*_attribution(patch), *quoted(patch, remarks)]
    if placed.elsewhere:
        lines += ["", "Outside of the lines of this patch:"]
        for item in placed.elsewhere:
            lines += ["", *speaker.remark([item], where=_where(item, step.applying.files))]
    return lines + _signature()


def _whole(findings: Sequence[Finding]) -> list[str]:
    speaker = _Speaker(None, findings)
    lines = ["", *_wrapped("No patch by itself, but the series as a whole does this:")]
    for item in findings:
        if speaker.speaks_of(item):
            lines += ["", *speaker.remark([item], where=_where(item, {}))]
    return lines


def _where(finding: Finding, names: Mapping[str, str]) -> str:
    """Return file and line as the beginning of a sentence; files as the patch calls them."""
    place = finding.new or finding.old
    return "" if place is None else f"{names.get(normpath(place.file), place.file)}:{place.line}: "


class _Speaker:
    """Words for findings, in the order in which they are said: nothing is said twice.

    Args:
        review: tells what the series as a whole does; None where that is no question.
        findings: all of a mail.
    """

    def __init__(self, review: Review | None, findings: Sequence[Finding]) -> None:
        self._review = review
        self._advised: set[str] = set()
        self._ways: set[tuple[str, ...]] = set()
        self._likewise: dict[Finding, list[Finding]] = {}
        by_rule: dict[str, list[Finding]] = {}
        for finding in findings:
            by_rule.setdefault(finding.rule, []).append(finding)
        for first, *others in by_rule.values():
            if len(others) >= _ALIKE_MAX:
                self._likewise[first] = others
        self._silent = {item for others in self._likewise.values() for item in others}

    def speaks_of(self, finding: Finding) -> bool:
        """Whether a finding gets words of its own; else it is listed with the first of its kind."""
        return finding not in self._silent

    def remark(self, findings: Sequence[Finding], *, where: str = "") -> list[str]:
        """Return the lines about one place: a paragraph for each thing, the worst one first."""
        lines: list[str] = []
        told: set[str] = set()
        by_rule: dict[str, list[Finding]] = {}
        for finding in sorted(findings, key=lambda item: -item.level):
            by_rule.setdefault(finding.rule, []).append(finding)
        for rule, (finding, *others) in by_rule.items():
            if _covers(by_rule, general=rule, element=finding.element):
                continue
            lines += [""] if lines else []
            labels = [rule, *(name for name in by_rule if rule in _TOLD_BY.get(name, ()))]
            labels = [name for name in labels if name not in told]
            told |= set(labels)
            lines += self._paragraph(finding, others, where, ", ".join(labels))
        return lines

    def _paragraph(
        self, finding: Finding, others: Sequence[Finding], where: str, label: str
    ) -> list[str]:
        sentences = [where + _sentence(finding.message)]
        if others:
            names = [f"'{item.element.rpartition('.')[2]}'" for item in others]
            sentences.append(f"The same goes for {', '.join(names)}.")
        lines: list[str] = []
        # how a base brings a member to a command is what no reader of a diff sees
        of_wire = not finding.rule.startswith(("doc-", "since-"))
        through_base = any(step.startswith("base ") for step in finding.path)
        if of_wire and through_base and finding.path not in self._ways:
            self._ways.add(finding.path)
            lines = [*_wrapped(" ".join(sentences)), "", *_way(finding.path), ""]
            sentences = []
        if self._review is not None and self._review.only_here(finding):
            # there is nothing to mend that a later patch does not
            sentences.append("The series as a whole does not do this.")
        elif finding.rule not in self._advised and finding.advice:
            self._advised.add(finding.rule)
            sentences.append(_sentence(finding.advice))
        lines += _wrapped(" ".join(sentences), f"[{label}]")
        if finding in self._likewise:
            lines += _wrapped(_list(self._likewise[finding]))
        return lines


def _covers(by_rule: dict[str, list[Finding]], *, general: str, element: str) -> bool:
    """Whether something that is said here anyway says more of the same."""
    root = element.partition(".")[0]
    return any(
        item.element.partition(".")[0] == root
        for name in _TOLD_BY.get(general, ())
        for item in by_rule.get(name, ())
    )


def _sentence(text: str) -> str:
    """Return a text with a full stop, and a capital where it begins with a word of English."""
    if text.startswith(_ARTICLES):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _way(path: tuple[str, ...]) -> list[str]:
    """Show how an element is reached: from a command, through types and bases."""
    return _wrapped(" -> ".join(_glued(step) for step in path), margin="    ")


def _list(findings: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(finding.element for finding in findings))
    more = len(names) - _LISTED_MAX
    shown = ", ".join(names[:_LISTED_MAX])
    return f"Likewise {shown}{f' and {more} more' if more > 0 else ''}."


def _glued(text: str) -> str:
    """Return a text in one piece for `_wrapped`."""
    return text.replace(" ", "\0")


def _wrapped(text: str, label: str = "", margin: str = "") -> list[str]:
    """Fill a paragraph; its label is the last word."""
    lines = textwrap.wrap(
        f"{text} {_glued(label)}" if label else text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin + margin[:2],
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]
