"""The same asked of this package and of an installed QEMU, and what each of them answers.

A bounded part of what the tests compare, for a page that can be read: sessions of the monitor,
which are data (``data/conformance.toml``), disks over NBD, and the facts of images.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import nbd
from nbexport.bench.images import write_pieces, write_scattered
from nbexport.bench.servers import OURS, Disk, Server
from nbexport.block.info import image_info
from nbexport.emulator import Release, launch, play
from nbexport.emulator.branches import known_releases
from nbexport.errors import FormatError, PeerError, UsageError
from nbexport.resources import data_path
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nbexport.emulator import StepAnswer, Target

PROGRAMS = {
    "qemu-storage-daemon": "qemu-storage-daemon",
    "qemu-system": "qemu-system-x86_64",
    "qemu-nbd": "qemu-nbd",
    "qemu-img": "qemu-img",
}
"""What can be compared with, and the program that has to be installed for it."""

DISK_SIZE = 4 * MiB
_TIME_LIMIT_S = 60
_GENERATED = re.compile(r"#block\d+")
_BY_NATURE = re.compile(r'("(?:actual-size|disk size)": )\d+')
_IMAGES = ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2")


@dataclass(frozen=True)
class Session:
    """A conversation with a monitor.

    Attributes:
        title: what it is about.
        steps: commands with their arguments, in which names of files are still to be put.
    """

    title: str
    steps: Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Compared:
    """One thing that both were asked.

    Attributes:
        group: the session, the disk or the image.
        asked: the question.
        theirs: what QEMU said, without what differs by nature.
        ours: what this package said.
    """

    group: str
    asked: str
    theirs: str
    ours: str

    @property
    def same(self) -> bool:
        """Whether both said the same."""
        return self.theirs == self.ours


@dataclass(frozen=True)
class Comparison:
    """All that was compared with one peer.

    Attributes:
        peer: one of `PROGRAMS`.
        version: that it tells; empty if it is not installed.
        release: what this package behaved as, where it can choose.
        found: what both said.
    """

    peer: str
    version: str = ""
    release: str = ""
    found: Sequence[Compared] = ()

    @property
    def installed(self) -> bool:
        """Whether there was anything to compare with."""
        return bool(self.version)

    @property
    def different(self) -> list[Compared]:
        """What was not said alike."""
        return [each for each in self.found if not each.same]


def sessions(path: Path | None = None) -> list[Session]:
    """Return the sessions that are played.

    Args:
        path: the file; None for the one that travels with the package.

    Raises:
        FormatError: it is no TOML, or a session or step is not what it has to be.
        OSError: it cannot be read.
    """
    path = path or data_path("conformance.toml")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["session"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise FormatError(f"no sessions: {error}", path=str(path)) from error
    if not isinstance(entries, list):
        raise FormatError("'session' is no list of tables", path=str(path))
    found = []
    for number, entry in enumerate(entries, 1):
        steps = entry.get("steps") if isinstance(entry, dict) else None
        title = entry.get("title") if isinstance(entry, dict) else None
        if not isinstance(title, str) or not isinstance(steps, list):
            raise FormatError(f"session {number} has no title or no steps", path=str(path))
        for place, step in enumerate(steps, 1):
            if not _is_step(step):
                text = f"session {number}, step {place}: not a command with its arguments"
                raise FormatError(text, path=str(path))
        found.append(Session(title, [(step[0], step[1] if step[1:] else {}) for step in steps]))
    return found


def _is_step(step: Any) -> bool:
    return (
        isinstance(step, list)
        and 1 <= len(step) <= 2
        and isinstance(step[0], str)
        and all(isinstance(part, dict) for part in step[1:])
    )


def compare_with(peer: str) -> Comparison:
    """Compare with a peer all that it can be asked.

    Args:
        peer: one of `PROGRAMS`.

    Returns:
        What was found; one without version if the peer is not installed.

    Raises:
        UsageError: there is no such peer.
        PeerError: one of the two failed.
    """
    if peer not in PROGRAMS:
        raise UsageError(f"unknown peer '{peer}' (known: {', '.join(PROGRAMS)})")
    if shutil.which(PROGRAMS[peer]) is None:
        return Comparison(peer)
    if peer == "qemu-nbd":
        return Comparison(peer, _told_version(peer), found=compare_disks())
    if peer == "qemu-img":
        return Comparison(peer, _told_version(peer), found=compare_images())
    return compare_monitors(peer, sessions())


def matching_release(version: str) -> str:
    """Return the release to emulate for a QEMU that tells ``version``.

    A release that is newer than all that are known is compared with the newest of these.
    """
    for text in (version, version.rpartition(".")[0]):
        try:
            Release.parse(text)
        except UsageError:
            continue
        return text
    return known_releases()[-1]


# The monitor


def compare_monitors(peer: str, wanted: Sequence[Session]) -> Comparison:
    """Play sessions at one of QEMU's programs and at the emulator of the same release.

    Raises:
        UsageError: the program is not installed.
        PeerError: one of the two ended or did not answer.
    """
    with launch(peer, "") as theirs:
        release = matching_release(theirs.version)
        program = "qemu-storage-daemon" if peer == "qemu-storage-daemon" else "qemu-system"
        with launch("emulated", release, ["--program", program]) as ours:
            found = []
            for session in wanted:
                answers = [_play(target, session) for target in (theirs, ours)]
                for (command, arguments), *said in zip(session.steps, *answers, strict=True):
                    asked = f"{command} {json.dumps(arguments)}" if arguments else command
                    found.append(Compared(session.title, asked, said[0], said[1]))
        return Comparison(peer, theirs.version, release, found)


def _play(target: Target, session: Session) -> list[str]:
    """Return what a target says to each step; afterwards it is as empty as before."""
    names = _lay_out(target.folder)
    script = {
        str(number): (command, _put(arguments, names))
        for number, (command, arguments) in enumerate(session.steps)
    }
    generated: dict[str, str] = {}
    said = [
        _text(answer, str(target.folder), generated) for answer in play(target, script).values()
    ]
    _empty(target)
    return said


def _lay_out(folder: Path) -> dict[str, str]:
    """Give a process the files that a session begins with; return what their names stand for."""
    for name in _IMAGES:
        shutil.copy(data_path("images", name), folder)
    write_scattered(folder / "disk.qcow2", DISK_SIZE, 0, bitmaps=())
    files = {"image": _IMAGES[0], "base": _IMAGES[1], "disk": "disk.qcow2", "socket": "nbd.sock"}
    return {f"{{{word}}}": str(folder / name) for word, name in files.items()}


def _put(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _put(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_put(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _empty(target: Target) -> None:
    target.ask("nbd-server-stop")
    while nodes := target.qmp.execute("query-named-block-nodes", {"flat": True}):
        gone = [target.ask("blockdev-del", {"node-name": node["node-name"]}) for node in nodes]
        if all("error" in reply for reply in gone):
            raise PeerError(f"{target.name}: nodes stay: {gone[0]['error']['desc']}")
    target.qmp.events.clear()


def _text(answer: StepAnswer, folder: str, generated: dict[str, str]) -> str:
    """Return an answer with its events in order, without what differs by nature."""
    told = [*answer.before, answer.reply, *answer.after]
    lines = [
        json.dumps({key: part for key, part in each.items() if key != "timestamp"}, sort_keys=True)
        for each in told
    ]
    text = _BY_NATURE.sub(r"\g<1>0", "\n".join(lines).replace(folder, "{folder}"))
    return _GENERATED.sub(lambda at: generated.setdefault(at[0], f"#{len(generated)}"), text)


# Disks over NBD


def compare_disks() -> list[Compared]:
    """Serve disks by qemu-nbd and by this package, and compare all that a client can learn.

    Raises:
        PeerError: one of the two failed.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="nbexport-") as name:
        folder = Path(name)
        for title, disk in _disks(folder).items():
            said = []
            for server in ("qemu-nbd", OURS):
                with Server(server, disk, folder) as running:
                    said.append(_seen(running.uri))
            found += [
                Compared(title, question, said[0][question], said[1][question])
                for question in said[0]
            ]
    return found


def _disks(folder: Path) -> dict[str, Disk]:
    image = data_path("images", _IMAGES[0])
    scattered = write_scattered(folder / "scattered.qcow2", 256 * MiB, 1000, run=2)
    pieces = write_pieces(folder / "pieces.raw", 64 * MiB, 200)
    return {
        "two-bitmaps.qcow2": Disk(image, "qcow2", ("weekly", "daily")),
        "1,000 scattered clusters": Disk(scattered.path, "qcow2", scattered.bitmaps),
        "200 pieces of a raw disk": Disk(pieces, "raw"),
    }


def _seen(uri: str) -> dict[str, str]:
    """Return what a client learns of an export, question by question."""
    with nbd.Client.connect(uri) as client:
        asked: dict[str, Callable[[], object]] = {
            "size": lambda: client.export_size,
            "transmission flags": lambda: f"{client.transmission_flags:#x}",
            "block sizes": lambda: client.block_size,
            # their order is that of the command lines, which the programs read differently
            "metadata contexts": lambda: sorted(client.server_contexts),
            "content": lambda: _content(client),
        }
        seen = {question: str(answer()) for question, answer in asked.items()}
        maps = client.map()
    for context in sorted(maps):
        extents = maps[context]
        digest = hashlib.sha256(extents.bounds.tobytes() + extents.flags.tobytes()).hexdigest()
        seen[f"map of {context}"] = f"{len(extents)} extents, {digest[:16]}"
    return seen


def _content(client: nbd.Client) -> str:
    digest = hashlib.sha256()
    for offset in range(0, client.export_size, 16 * MiB):
        digest.update(client.read(offset, min(16 * MiB, client.export_size - offset)))
    return digest.hexdigest()[:16]


# Images


def compare_images() -> list[Compared]:
    """Compare the facts that qemu-img and this package tell of images, member by member.

    Raises:
        PeerError: qemu-img failed.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="nbexport-") as name:
        folder = Path(name)
        write_scattered(folder / "scattered.qcow2", 256 * MiB, 1000, run=2)
        write_pieces(folder / "pieces.raw", 64 * MiB, 200)
        paths = [data_path("images", each) for each in _IMAGES]
        paths += [folder / "scattered.qcow2", folder / "pieces.raw"]
        for path in paths:
            theirs = _qemu_img_info(path)
            ours = image_info(str(path))
            # "children" came with 8.0; what a file occupies can change while one looks
            members = [key for key in theirs | ours if key not in {"children", "actual-size"}]
            found += [
                Compared(path.name, member, _member(theirs, member), _member(ours, member))
                for member in members
            ]
    return found


def _qemu_img_info(path: Path) -> dict[str, Any]:
    words = ["qemu-img", "info", "--output=json", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT_S)
    if done.returncode:
        raise PeerError(f"qemu-img: {done.stderr.strip()}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _member(facts: Mapping[str, Any], member: str) -> str:
    if member not in facts:
        return ""
    return json.dumps(facts[member], sort_keys=True)


def _told_version(program: str) -> str:
    """Return the version in the first line that a program prints for ``--version``."""
    done = subprocess.run(
        [PROGRAMS[program], "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIME_LIMIT_S,
    )
    version = re.search(r"\d+\.\d+\.\d+", done.stdout)
    return version[0] if version else "unknown"
