"""A schema's files with patches on top, in memory: which file a patch means, and what it becomes.

Names in patches begin at the top of somebody's tree. They are looked for in the base as they are,
then beside its root file, then without their first folders: so a patch for ``qapi/x.json`` or for
``data/interface/5.1/x.json`` applies to ``release:5.1``, whose files lie at the top. Only what
schemas are made of is applied, JSON files and the documents that list what is deprecated; the rest
of a patch is skipped and named.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.review.patch.apply import Line, apply_hunks, split_lines
from nbexport.review.patch.diff import strip
from nbexport.review.patch.errors import PatchError

if TYPE_CHECKING:
    from nbexport.review.patch.apply import Applied
    from nbexport.review.patch.diff import FilePatch
    from nbexport.review.patch.series import Patch
    from nbexport.sources.text import TextSource

# Where QEMU's tree has the list of what is deprecated: since 6.1, since 5.1, before; and where a
# schema by itself has one.
DEPRECATION_DOCS = (
    "docs/about/deprecated.rst",
    "docs/system/deprecated.rst",
    "qemu-deprecated.texi",
    "deprecated.rst",
)
_DOC_NAMES = frozenset(name.rpartition("/")[2] for name in DEPRECATION_DOCS)
# Folders of QEMU's tree with schemas of their own; their files are not those of QMP's schema.
_ELSEWHERE = ("docs", "qga", "storage-daemon", "tests")

Place = tuple[str, int]
"""A file of the tree and a line of it, from 1."""


@dataclass(slots=True)
class Places:
    """Which lines of files a patch shows.

    Attributes:
        new: for a place after the patch the line of the patch's text, from 0, and whether the
            patch adds it.
        old: the same for places before the patch, and whether it removes them.
    """

    new: dict[Place, tuple[int, bool]] = field(default_factory=dict)
    old: dict[Place, tuple[int, bool]] = field(default_factory=dict)


@dataclass(slots=True)
class Applying:
    """What came of one patch.

    Attributes:
        places: the lines that it shows.
        files: the files of the tree that it changes, and what the patch calls them.
        skipped: the names of those that were left out.
        notes: hunks that were found at an offset.
    """

    places: Places = field(default_factory=Places)
    files: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Tree:
    """The files of a base, as far as patches have changed them.

    Args:
        source: the base.
        strip: how many leading folders of a patch's names are left out (``git apply -p``); None
            for one, and names that have no prefix are understood, too.
        context: lines of context that must match (``git apply -C``), None for all.
    """

    def __init__(
        self, source: TextSource, *, strip: int | None = None, context: int | None = None
    ) -> None:
        self.source = source
        self._strip = strip
        self._context = context
        self._folder = posixpath.dirname(source.root)
        self._files: dict[str, list[Line] | None] = {}
        self._texts: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._as_named = False
        self._known: dict[str, bool] = {}
        self.removed: dict[Place, tuple[int, int]] = {}
        """Lines of the base that went: number of the patch and line of its text, from 0."""

    # -- reading ----------------------------------------------------------------------------

    def has_file(self, path: str) -> bool:
        """Return whether there is such a file now."""
        path = posixpath.normpath(path)
        if path in self._files:
            return self._files[path] is not None
        if path not in self._known:
            self._known[path] = self.source.has_file(path)
        return self._known[path]

    def read(self, path: str) -> str:
        """Return the text of a file as it is now.

        Raises:
            OSError: it is not there.
            UnicodeDecodeError: it is no UTF-8.
        """
        path = posixpath.normpath(path)
        if path not in self._texts:
            lines = self._files.get(path)
            if lines is not None:
                self._texts[path] = "".join(line.text for line in lines)
            elif path in self._files:
                raise OSError("the patch deletes it")
            else:
                self._texts[path] = self.source.read(path)
        return self._texts[path]

    def origins(self) -> dict[Place, tuple[int, int]]:
        """Return the lines that patches brought: number of the patch and line of its text."""
        return {
            (path, index + 1): line.origin
            for path, lines in self._files.items()
            for index, line in enumerate(lines or ())
            if line.origin is not None
        }

    def deprecations(self) -> str | None:
        """Return the text of the document that lists what is deprecated, None if there is none."""
        beside = posixpath.join(self._folder, DEPRECATION_DOCS[-1])
        for name in (*DEPRECATION_DOCS, beside):
            if self.has_file(name):
                return self.read(name)
        return None

    # -- patching ---------------------------------------------------------------------------

    def apply(self, patch: Patch, number: int, *, name: str = "") -> Applying:
        """Apply a patch; the tree is as it was if that fails.

        Args:
            patch: the patch.
            number: its number in the series, from 0.
            name: what errors call it.

        Raises:
            PatchError: a hunk does not apply, or a file is or is not there.
        """
        done = Applying()
        made: dict[str, list[Line]] = {}
        gone: set[str] = set()
        removed: dict[Place, tuple[int, int]] = {}
        lost: list[FilePatch] = []
        for item in filter(_counts, patch.files):
            for path in filter(None, (item.old, item.new)):
                if path.startswith("/") or ".." in path.split("/"):
                    raise _error(item, "invalid path", name)
        # where files are that exist tells where new ones go
        for item in patch.files:
            if item.old is not None and _counts(item):
                self._find(item)
        for item in patch.files:
            if not _counts(item):
                done.skipped.append(item.shown)
                continue
            if item.binary:
                raise _error(item, "a binary difference of a file that has to be text", name)
            old = self._find(item) if item.old is not None else None
            if item.old is not None and old is None:
                self._miss(item, name)
                lost.append(item)
                done.skipped.append(item.shown)
                continue
            new = self._target(item, old, name) if item.new is not None else None
            before = self._before(item, old, made)
            applied = apply_hunks(before, item, number=number, context=self._context, name=name)
            if new is None and applied.lines:
                raise _error(item, "it is to be deleted, but lines of it are left", name)
            is_new = new is not None and (old is None or new != old)
            if is_new and (new in made or (self.has_file(str(new)) and new not in gone)):
                raise _error(item, f"it is to be created, but is in {self.source.name}", name)
            if old is not None and new != old and not item.copied:
                gone.add(old)
                made.pop(old, None)
            if new is not None:
                made[new] = applied.lines
                gone.discard(new)
            _note(done, item, old, new, applied)
            for line, place in applied.removed:
                if line.base is not None:
                    removed[line.base] = (number, place)
        if lost and not done.files:
            raise _error(lost[0], f"no such file in {self.source.name}", name)
        for path in gone:
            self._files[path] = None
            self._texts.pop(path, None)
        for path, lines in made.items():
            self._files[path] = lines
            self._texts.pop(path, None)
        self.removed |= removed
        return done

    def _before(self, item: FilePatch, old: str | None, made: dict[str, list[Line]]) -> list[Line]:
        """Return the lines that a file patch starts from.

        A rename or copy is about the file as it was before the whole patch.
        """
        if old is None:
            return []
        if old in made and not item.renamed and not item.copied:
            return made[old]
        lines = self._files.get(old)
        if lines is None:
            try:
                text = self.read(old)
            except (OSError, UnicodeDecodeError) as error:
                raise PatchError(f"{old} of {self.source.name} cannot be read: {error}") from error
            lines = [Line(line, (old, at + 1)) for at, line in enumerate(split_lines(text))]
        return lines

    # -- names ------------------------------------------------------------------------------

    def _names(self, item: FilePatch, name: str) -> list[str]:
        """Return what a name of a patch can mean, counted from the top of its tree."""
        count = 1 if self._strip is None else self._strip
        count = max(count - 1, 0) if item.bare else count
        found = [strip(name, count)]
        prefixed = name.startswith(("a/", "b/", "c/", "i/", "o/", "w/"))
        if self._strip is None and not item.bare and not prefixed:
            found.insert(0, strip(name, 0))
        return [path for path in found if path is not None]

    def _find(self, item: FilePatch) -> str | None:
        """Return the file of the tree that a patch changes."""
        assert item.old is not None
        names = self._names(item, item.old)
        if not item.git and item.new is not None:
            names += self._names(item, item.new)
        for path in names:
            if self.has_file(path):
                self._learn(path, path)
                return path
        for path in names:
            beside = posixpath.join(self._folder, path)
            if self.has_file(beside):
                self._learn(path, beside)
                return beside
            parts = path.split("/")
            if parts[0] in _ELSEWHERE and not _is_doc(path):
                continue
            for count in range(1, len(parts)):
                tail = "/".join(parts[count:])
                for found in (tail, posixpath.join(self._folder, tail)):
                    if self.has_file(found):
                        self._learn(path, found)
                        return found
        return None

    def _target(self, item: FilePatch, old: str | None, patch_name: str) -> str:
        """Return the file of the tree that the new name means."""
        assert item.new is not None
        names = self._names(item, item.new)
        if not names:
            raise _error(item, f"-p{self._strip} leaves nothing of its name", patch_name)
        path = names[0]
        folder, _, base = path.rpartition("/")
        # without a rename line the two sides of a diff of two folders differ in the folder only
        if old is not None and not item.renamed and not item.copied:
            self._folders.setdefault(folder, posixpath.dirname(old))
            return old
        if folder in self._folders:
            return posixpath.join(self._folders[folder], base)
        of_schema = self._folder and path.startswith(f"{self._folder}/")
        if self._as_named or path.split("/")[0] in _ELSEWHERE or of_schema:
            return path
        # nothing tells but the name of the folder in which QEMU has its schema
        of_qemu = path.endswith(".json") and folder.rpartition("/")[2] == "qapi"
        return posixpath.join(self._folder, base) if of_qemu else path

    def _learn(self, path: str, found: str) -> None:
        """Remember which folder of the tree stands for a folder of the patch."""
        self._folders[posixpath.dirname(path)] = posixpath.dirname(found)
        self._as_named = self._as_named or path == found

    def _miss(self, item: FilePatch, name: str) -> None:
        """Refuse a patch for a file of the schema that the base does not have."""
        assert item.old is not None
        paths = self._names(item, item.old)
        if not paths:
            raise _error(item, f"-p{self._strip} leaves nothing of its name", name)
        folder = posixpath.dirname(paths[0])
        of_schema = not folder or folder.endswith("qapi")
        elsewhere = folder.split("/", 1)[0] in _ELSEWHERE
        if item.shown.endswith(".json") and of_schema and not elsewhere:
            raise _error(item, f"no such file in {self.source.name}", name)


def _counts(item: FilePatch) -> bool:
    """Whether a file can be part of what is reviewed."""
    names = [name for name in (item.old, item.new) if name is not None]
    return any(name.endswith(".json") or _is_doc(name) for name in names)


def _is_doc(path: str) -> bool:
    return path.rpartition("/")[2] in _DOC_NAMES


def _error(item: FilePatch, message: str, name: str) -> PatchError:
    return PatchError(f"{item.shown}: {message}", name=name, line=item.place + 1)


def _note(
    done: Applying, item: FilePatch, old: str | None, new: str | None, applied: Applied
) -> None:
    """Record what a file patch showed and did."""
    if new is not None:
        done.files[new] = item.shown
        done.places.new |= {(new, line): shown for line, shown in applied.new.items()}
    if old is not None:
        done.files.setdefault(old, item.shown)
        done.places.old |= {(old, line): shown for line, shown in applied.old.items()}
    for index, moved in enumerate(applied.offsets):
        if moved and item.hunks[index].old_start:
            lines = "line" if abs(moved) == 1 else "lines"
            done.notes.append(f"{item.shown}: hunk {index + 1} applies {moved:+d} {lines} away")
