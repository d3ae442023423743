"""Documentation: which definition, its members, features and tagged sections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbexport.qapi.source import SourceInfo

_RELEASE = re.compile(r"\d+\.\d+(?:\.\d+)?")
# (since 5.2), (default: false; since 5.2), or a text that says nothing else.
_SINCE_REMARK = re.compile(
    r"\((?:[^()]*?[;,])??\s*since:?\s+(\d+\.\d+(?:\.\d+)?)\b[^)]*\)"
    r"|\A\s*since:?\s+(\d+\.\d+(?:\.\d+)?)\.?\s*\Z",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Section:
    """A part of a documentation comment.

    Args:
        info: the line on which it begins.
        tag: ``Since``, ``Returns``, ``Note``, ...; None for plain text.
        lines: its text, line by line, the markers removed. Of a section with a tag or a name the
            first is what stands on the line of that.
    """

    info: SourceInfo
    tag: str | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is no text in it."""
        return not any(map(str.strip, self.lines))

    @property
    def text(self) -> str:
        """The text without surrounding blank lines and common indentation."""
        return _dedent(self.lines)

    @property
    def since(self) -> str | None:
        """The release named by a remark such as ``(since 5.2)`` in the text, if any."""
        match = _SINCE_REMARK.search(self.text)
        return (match.group(1) or match.group(2)) if match else None


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
