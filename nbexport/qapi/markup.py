"""Documentation comments to their parts, in the mark-up of each release.

Two generations: until 8.2 a comment was read line by line, each line deciding where it belongs
(`AlignedReader`); since 9.0 section by section (`SectionReader`). Both leave the lexer at the
token after the comment.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.qapi.docs import Doc, Section
from nbexport.qapi.rules import RELAXED, SECTIONED
from nbexport.qapi.source import QapiError

if TYPE_CHECKING:
    from nbexport.qapi.lexer import Comment, Lexer
    from nbexport.qapi.rules import Rules
    from nbexport.qapi.source import SourceInfo

_OLD_TAGS = ("Returns:", "Since:", "Note:", "Notes:", "Example:", "Examples:", "TODO:")
_TAG_INITIALS = frozenset(tag[0] for tag in _OLD_TAGS)
_NAME = re.compile(r"@([^:]*): *")
_OLD_NAME = re.compile(r"@\S*:\s*")
_OLD_TAG = re.compile(r"\S*:\s*")
_RELAXED_TAG = re.compile(r"(Returns|Since|Notes?|Examples?|TODO): *")
_TAG = re.compile(r"(Returns|Errors|Since|Notes?|Examples?|TODO): *")
_SINGLE_COLON_TAG = re.compile(r"(Returns|Errors|Since|Notes?|Examples?|TODO)(?!::): *")
_FREE_NAME = re.compile(r"@\S+:")
_ONLY_ONCE = ("Returns", "Errors", "Since")


def read_docs(lexer: Lexer, rules: Rules) -> list[Doc]:
    """Read the comment that the lexer stands at, and go to the token behind it.

    Returns:
        One value; several where a heading inside a free-form comment begins another one, as it
        did until 8.2.

    Raises:
        QapiError: mark-up that has no meaning, at its line.
    """
    comment = lexer.comment()
    if rules.markup == SECTIONED:
        reader = SectionReader(comment, rules)
        found = [reader.read()]
        # Empty sections are found when the comment is over, and then a bad token has been met.
        lexer.advance()
        reader.finish()
        return found
    found = _read_lines(comment, rules)
    lexer.advance()
    return found


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


# -- until 8.2 --------------------------------------------------------------------------------


def _read_lines(comment: Comment, rules: Rules) -> list[Doc]:
    start = comment.info
    reader = AlignedReader(comment, rules, Doc(start, None, Section(start)))
    docs: list[Doc] = []
    for index, line in enumerate(comment.lines):
        reader.index = index
        if line.startswith("# ="):
            if reader.doc.symbol:
                raise comment.fail(index, "unexpected '=' markup in definition documentation")
            if reader.doc.body.lines:
                docs.append(reader.finish())
                reader = AlignedReader(comment, rules, Doc(start, None, Section(start)))
                reader.index = index
        reader.feed(line)
    if comment.error is not None:
        raise comment.error
    reader.index = len(comment.lines)
    docs.append(reader.finish())
    return docs


class AlignedReader:
    """The state while the lines of one comment are read.

    Args:
        comment: for the places of errors.
        rules: whether and how indentation is checked.
        doc: the value to fill.

    Attributes:
        index: which line of the comment is fed; that behind the last is the closing fence.
    """

    def __init__(self, comment: Comment, rules: Rules, doc: Doc) -> None:
        self.doc = doc
        self.index = 0
        self._comment = comment
        self._relaxed = rules.markup == RELAXED
        self._checked = rules.since(5, 2)
        self._section = doc.body
        self._name = ""
        # the column of the section's text; None until its second line tells
        self._indent: int | None = 0
        self._line = self._body_line

    def finish(self) -> Doc:
        """Close the last section and return the value."""
        self._close()
        return self.doc

    def feed(self, line: str) -> None:
        """Take one line, beginning with its ``#``."""
        if line == "#":
            self._section.lines.append("")
        elif line.startswith("#  "):
            # indented, as most lines are: no name, no tag
            self._append(line[2:])
        elif line[1] != " ":
            raise self._fail("missing space after #")
        else:
            self._line(line[2:])

    def _fail(self, message: str) -> QapiError:
        return self._comment.fail(self.index, message)

    # Which of these is `_line` tells the part of the comment.

    def _body_line(self, line: str) -> None:
        doc = self.doc
        if not doc.symbol and not doc.body.lines and line.startswith("@"):
            if not line.endswith(":"):
                raise self._fail("line should end with ':'")
            doc.symbol = line[1:-1]
            if not doc.symbol:
                raise self._fail("name required after '@'")
            doc.body.info = self._comment.at(self.index + 1)
        elif not doc.symbol:
            self._append(line)
        elif self._is_name(line):
            self._line = self._member_line
            self._member_line(line)
        elif line == "Features:":
            self._line = self._feature_line
        elif self._is_tag(line):
            self._line = self._later_line
            self._later_line(line)
        else:
            self._append(line)

    def _member_line(self, line: str) -> None:
        if self._is_name(line):
            self._named(line, self.doc.members)
        elif not self._ended(line):
            self._append(line)
        elif line == "Features:":
            self._line = self._feature_line
        else:
            self._leave(line)

    def _feature_line(self, line: str) -> None:
        if self._is_name(line):
            self._named(line, self.doc.features)
        elif self._ended(line):
            self._leave(line)
        else:
            self._append(line)

    def _later_line(self, line: str) -> None:
        if self._is_name(line):
            shown, tag = line.split(" ", 1)[0], self.doc.sections[0].tag
            raise self._fail(f"'{shown}' can't follow '{tag}' section")
        if self._is_tag(line):
            match = (_RELAXED_TAG if self._relaxed else _OLD_TAG).match(line)
            assert match is not None
            tag = line.split(":", 1)[0]
            if tag in _ONLY_ONCE and self.doc.section(tag):
                raise self._fail(f"duplicated '{tag}' section")
            section = Section(self._comment.at(self.index), tag)
            self._open(section, tag)
            self.doc.sections.append(section)
            self._first(line, match.end())
        else:
            self._append(line)

    def _is_name(self, line: str) -> bool:
        if not line.startswith("@"):
            return False
        if self._relaxed:
            return _NAME.match(line) is not None
        word = line.split(" ", 1)[0]
        return word.endswith(":")

    def _is_tag(self, line: str) -> bool:
        if self._relaxed:
            return _RELAXED_TAG.match(line) is not None
        return line[:1] in _TAG_INITIALS and line.split(" ", 1)[0] in _OLD_TAGS

    def _ended(self, line: str) -> bool:
        """Whether a line does not belong to a member or feature any more."""
        if self._is_tag(line):
            return True
        lines = self._section.lines
        blank = len(lines) > 1 and not lines[-1]
        return blank and bool(line) and not line[0].isspace()

    def _leave(self, line: str) -> None:
        """Begin the part after members and features."""
        self._line = self._later_line
        if not self._is_tag(line):
            section = Section(self._comment.at(self.index))
            self._open(section, "")
            self.doc.sections.append(section)
        self._later_line(line)

    def _named(self, line: str, known: dict[str, Section]) -> None:
        match = (_NAME if self._relaxed else _OLD_NAME).match(line)
        if match is None:
            # a tab, say, before the colon: only a blank ends the word that was looked at
            raise self._fail("invalid parameter name")
        name = match[1] if self._relaxed else line.split(" ", 1)[0][1:-1]
        if not name:
            raise self._fail("invalid parameter name")
        if name in known:
            raise self._fail(f"'{name}' parameter name duplicated")
        section = Section(self._comment.at(self.index))
        self._open(section, name)
        known[name] = section
        self._first(line, match.end())

    def _first(self, line: str, column: int) -> None:
        """Take the rest of the line that began a section."""
        rest = line[column:]
        if self._relaxed:
            self._indent = None
            self._section.lines.append(rest.rstrip())
        elif rest:
            self._indent = column if self._checked else 0
            self._append(" " * self._indent + rest)
        else:
            self._indent = 0
            self._append("")

    def _open(self, section: Section, name: str) -> None:
        self._close()
        self._section = section
        self._name = name
        self._indent = 0

    def _close(self) -> None:
        if self._section is not self.doc.body and self._section.empty:
            raise self._fail(f"empty doc section '{self._name}'")

    def _append(self, line: str) -> None:
        match = _FREE_NAME.match(line) if line.startswith("@") else None
        if match:
            raise self._fail(f"'{match.group()}' not allowed in free-form documentation")
        if line and self._indent != 0:
            indent = _indentation(line)
            if self._indent is None:
                self._indent = indent
            elif self._checked and indent < self._indent:
                raise self._fail(f"unexpected de-indent (expected at least {self._indent} spaces)")
            line = line[self._indent :]
        self._section.lines.append(line.rstrip())


# -- since 9.0 --------------------------------------------------------------------------------


class SectionReader:
    """Reads one comment, section by section.

    Args:
        comment: the comment.
        rules: which tags are out of use.
    """

    def __init__(self, comment: Comment, rules: Rules) -> None:
        self._comment = comment
        self._index = -1
        self._directives = rules.since(9, 1)
        # a line that began with '=' was a heading, and had its place
        self._headings = not rules.since(10, 1)
        self._tag = _SINGLE_COLON_TAG if self._directives else _TAG
        info = comment.info
        self._doc = Doc(info, None, Section(info))
        self._section = self._doc.body
        self._plain = True  # whether that section has neither tag nor name
        self._names: list[tuple[str, Section]] = []

    def read(self) -> Doc:
        """Return what the comment says.

        Raises:
            QapiError: mark-up that has no meaning.
        """
        line = self._next()
        if line is not None and line.startswith("@"):
            self._definition(line)
        else:
            self._free(line)
        return self._doc

    def finish(self) -> None:
        """Check that no section is empty.

        Raises:
            QapiError: one is.
        """
        for name, section in self._names:
            if section.empty:
                raise QapiError(section.info, f"text required after '{name}:'")

    def _fail(self, message: str) -> QapiError:
        return self._comment.fail(self._index, message)

    def _info(self) -> SourceInfo:
        return self._comment.at(self._index)

    def _next(self) -> str | None:
        """Go to the next line; return it without ``# ``, None at the end of the comment."""
        self._index += 1
        if self._index == len(self._comment.lines):
            if self._comment.error is not None:
                raise self._comment.error
            return None
        line = self._comment.lines[self._index]
        if line == "#":
            return ""
        if line[1] != " ":
            raise self._fail("missing space after #")
        return line[2:].rstrip()

    def _after_blank(self, line: str | None) -> str | None:
        while line == "":
            line = self._next()
        return line

    def _free(self, line: str | None) -> None:
        first = True
        while line is not None:
            match = _NAME.match(line)
            if match:
                raise self._fail(f"'@{match[1]}:' not allowed in free-form documentation")
            if self._headings and line.startswith("=") and not first:
                raise self._fail("'=' heading must come first in a comment block")
            self._doc.body.lines.append(line)
            line = self._next()
            first = False

    def _definition(self, line: str) -> None:
        if not line.endswith(":"):
            raise self._fail("line should end with ':'")
        if line == "@:":
            raise self._fail("name required after '@'")
        self._doc.symbol = line[1:-1]
        described = False  # whether members or sections have come
        rest = self._after_blank(self._next())
        while rest is not None:
            name = _NAME.match(rest)
            tag = self._tag.match(rest)
            if rest == "Features:":
                rest = self._features()
                described = True
            elif name:
                if described:
                    raise self._fail(f"description of '@{name[1]}:' follows a section")
                rest = self._descriptions(rest, self._doc.members)
                described = True
            elif tag:
                self._tagged(tag[1])
                rest = self._described(rest[tag.end() :])
                described = True
            elif self._headings and rest.startswith("="):
                raise self._fail("unexpected '=' markup in definition documentation")
            else:
                rest = self._paragraph(rest)
            rest = self._after_blank(rest)

    def _features(self) -> str | None:
        if self._doc.features:
            raise self._fail("duplicated 'Features:' line")
        line = self._descriptions(self._after_blank(self._next()), self._doc.features)
        if not self._doc.features:
            raise self._fail("feature descriptions expected")
        return line

    def _descriptions(self, line: str | None, known: dict[str, Section]) -> str | None:
        """Read members or features as long as there are any; return the line after them."""
        while line is not None and (match := _NAME.match(line)):
            name = match[1]
            if not name:
                raise QapiError(self._info(), "invalid parameter name")
            if name in known:
                raise QapiError(self._info(), f"'{name}' parameter name duplicated")
            self._section = known[name] = Section(self._info())
            self._plain = False
            what = "Feature" if known is self._doc.features else "Member"
            self._names.append((what, self._section))
            line = self._described(line[match.end() :])
        return line

    def _tagged(self, tag: str) -> None:
        if self._directives and tag.startswith("Note"):
            raise self._fail(f"'{tag}:' is no section any more: write '.. note::'")
        if self._directives and tag.startswith("Example"):
            raise self._fail(f"'{tag}:' is no section any more: write '.. qmp-example::'")
        if tag in _ONLY_ONCE and self._doc.section(tag):
            raise QapiError(self._info(), f"duplicated '{tag}' section")
        self._section = Section(self._info(), tag)
        self._plain = False
        self._doc.sections.append(self._section)
        self._names.append((tag, self._section))

    def _described(self, text: str) -> str | None:
        """Take the text of a section; return the line that does not belong to it any more."""
        lines = self._section.lines
        lines.append(text)
        line = self._next()
        while line == "":
            lines.append(line)
            line = self._next()
        indent = 0 if line is None else _indentation(line)
        if line is None or not indent:
            return line
        lines.append(line)
        first = True
        while True:
            line = self._next()
            if line is None or _NAME.match(line):
                return line
            if line and _indentation(line) < indent:
                # Only the second line of a text is held to the first one's column; after that a
                # line further left ends the section.
                if not first:
                    return line
                raise self._fail(f"unexpected de-indent (expected at least {indent} spaces)")
            lines.append(line)
            first = False

    def _paragraph(self, line: str | None) -> str | None:
        """Take plain text up to a blank line."""
        if not self._plain:
            self._section = Section(self._info())
            self._doc.sections.append(self._section)
            self._plain = True
        elif self._section.lines:
            self._section.lines.append("")
        else:
            self._section.info = self._info()
        while line:
            self._section.lines.append(line)
            line = self._next()
        return line
