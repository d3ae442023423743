"""Documentation comments: which definition, its members, features and tagged sections.

Both generations of the markup are read: the one of QEMU 7.2 (``Note:``, ``Example:`` sections)
and the later one (``.. note::`` directives in the body, ``Errors:`` sections).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.qapi.source import QapiError

if TYPE_CHECKING:
    from nbexport.qapi.lexer import Token
    from nbexport.qapi.source import SourceInfo

_MEMBER = re.compile(r"@(\S*):(?:\s+(.*))?$")
_TAG = re.compile(r"(Returns|Errors|Since|Notes?|Examples?|TODO):(?:\s+(.*))?$")
_ONLY_ONCE = ("Returns", "Errors", "Since")
_RELEASE = re.compile(r"\d+\.\d+(?:\.\d+)?")
_SINCE_REMARK = re.compile(r"\(\s*since:?\s+(\d+\.\d+(?:\.\d+)?)\b[^)]*\)", re.IGNORECASE)


@dataclass(slots=True)
class Section:
    """A part of a documentation comment.

    Args:
        info: the line on which it begins.
        tag: ``Since``, ``Returns``, ``Note``, ...; None for plain text.
        lines: its text, line by line, the markers removed.
    """

    info: SourceInfo
    tag: str | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text without surrounding blank lines and common indentation."""
        return _dedent(self.lines)

    @property
    def since(self) -> str | None:
        """The release named by a remark such as ``(since 5.2)`` in the text, if any."""
        match = _SINCE_REMARK.search(self.text)
        return match.group(1) if match else None


def _dedent(lines: list[str]) -> str:
    """Join lines, removing the indentation that the second and later ones share."""
    tail = [line for line in lines[1:] if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in tail), default=0)
    shown = [line.strip() if index == 0 else line[margin:] for index, line in enumerate(lines)]
    return "\n".join(line.rstrip() for line in shown).strip("\n")


@dataclass(slots=True)
class Doc:
    """One documentation comment.

    Args:
        info: the line on which it begins.
        symbol: the definition that it documents, None for free text.
        body: the text before any section.
        members: the sections of arguments, members, values or branches, by name.
        features: the sections of features, by name.
        sections: the tagged and plain sections after these, in order.
    """

    info: SourceInfo
    symbol: str | None
    body: Section
    members: dict[str, Section] = field(default_factory=dict)
    features: dict[str, Section] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    def section(self, tag: str) -> Section | None:
        """Return the first section with a tag."""
        return next((section for section in self.sections if section.tag == tag), None)

    @property
    def since(self) -> str | None:
        """The release of the ``Since:`` section, ``5.2`` for example."""
        section = self.section("Since")
        match = _RELEASE.search(section.text) if section else None
        return match.group() if match else None

    def member_since(self, name: str) -> str | None:
        """Return the release of a member: its own remark, else the definition's."""
        section = self.members.get(name)
        return (section.since if section else None) or self.since


def parse_doc(token: Token) -> list[Doc]:
    """Return the documentation comments of one comment token.

    A heading (``# = Title``) inside a free-form comment begins another one.

    Args:
        token: a ``#`` token of the lexer.

    Raises:
        QapiError: markup that has no meaning, at its line.
    """
    parser = _DocParser(token.info)
    docs: list[Doc] = []
    info = token.info
    for offset, line in enumerate(token.text.split("\n") if token.text else []):
        info = token.info.at(token.info.line + 1 + offset)
        content = line[1:]
        if content and not content.startswith(" "):
            raise QapiError(info, "missing space after #", column=1)
        content = content[1:].rstrip()
        if content.startswith(("= ", "== ")):
            if parser.doc.symbol is not None:
                raise QapiError(info, "unexpected '=' markup in definition documentation", column=1)
            if parser.doc.body.text:
                docs.append(parser.finish())
                parser = _DocParser(info)
        parser.feed(content, info)
    docs.append(parser.finish())
    return docs


class _DocParser:
    """The state while the lines of one comment are read."""

    def __init__(self, info: SourceInfo) -> None:
        self.doc = Doc(info, None, Section(info))
        self._current = self.doc.body
        self._part = "body"

    def finish(self) -> Doc:
        """Close the last section and return the comment."""
        self._close()
        return self.doc

    def _close(self) -> None:
        section = self._current
        if section.tag is not None and section.tag != "TODO" and not section.text:
            raise QapiError(section.info, f"empty doc section '{section.tag}'", column=1)

    def _open(self, section: Section, first: str | None) -> None:
        self._close()
        self._current = section
        section.lines.append(first or "")

    def feed(self, line: str, info: SourceInfo) -> None:
        """Take one line without its ``#`` and space."""
        doc = self.doc
        if doc.symbol is None:
            self._free(line, info)
            return
        member = _MEMBER.match(line)
        tag = _TAG.match(line)
        if member:
            self._named(member.group(1), member.group(2), info)
        elif line == "Features:":
            if self._part == "sections":
                tag_name = doc.sections[0].tag
                raise QapiError(info, f"'Features:' can't follow '{tag_name}' section", column=1)
            self._part = "features"
            self._open(Section(info), None)
        elif tag:
            self._part = "sections"
            if tag.group(1) in _ONLY_ONCE and doc.section(tag.group(1)):
                raise QapiError(info, f"duplicated '{tag.group(1)}' section", column=1)
            section = Section(info, tag.group(1))
            doc.sections.append(section)
            self._open(section, tag.group(2))
        elif self._part in ("members", "features") and line and not line[0].isspace():
            lines = self._current.lines
            if lines and not lines[-1] and any(lines):
                # text back at the margin after a blank line belongs to the definition again
                self._part = "sections"
                section = Section(info)
                doc.sections.append(section)
                self._open(section, line)
            else:
                lines.append(line)
        else:
            self._current.lines.append(line)

    def _free(self, line: str, info: SourceInfo) -> None:
        doc = self.doc
        if line.startswith("@") and not doc.body.text:
            if not line.endswith(":"):
                raise QapiError(info, "line should end with ':'", column=1)
            if line == "@:":
                raise QapiError(info, "name required after '@'", column=1)
            doc.symbol = line[1:-1]
            return
        match = re.match(r"@\S+:", line)
        if match:
            raise QapiError(
                info, f"'{match.group()}' not allowed in free-form documentation", column=1
            )
        doc.body.lines.append(line)

    def _named(self, name: str, first: str | None, info: SourceInfo) -> None:
        doc = self.doc
        if self._part == "sections":
            what = doc.sections[0].tag
            raise QapiError(info, f"'@{name}:' can't follow '{what}' section", column=1)
        if not name:
            raise QapiError(info, "invalid parameter name", column=1)
        known = doc.features if self._part == "features" else doc.members
        if name in known:
            raise QapiError(info, f"'{name}' parameter name duplicated", column=1)
        if self._part == "body":
            self._part = "members"
        section = Section(info)
        known[name] = section
        self._open(section, first)
