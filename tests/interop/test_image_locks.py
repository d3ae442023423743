"""Locks: QEMU and this package see each other's use of an image, and say the same about it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_place import make_folder
from peers import background, peer, qemu_nbd, run

from nbexport.block import FileNode, ImageLockedError, check_image, image_info, locks, open_image
from nbexport.emulator.targets import launch

pytestmark = pytest.mark.interop


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder, which is the process's too, with an image of each kind."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "ext.qcow2", "1M")
    return tmp_path


def words(done: subprocess.CompletedProcess[str]) -> str | None:
    """Return what a QEMU tool says of a lock, None if nothing was in its way."""
    if done.returncode == 0 and not done.stderr:
        return None
    text = done.stderr.strip()
    backing = text.find("Could not open backing file: ")
    return text[backing if backing >= 0 else text.index("Failed to") :]


def ours(name: str, **options: bool) -> str | None:
    try:
        open_image(name, **options).close()
    except ImageLockedError as error:
        return str(error)
    return None


def told_facts(name: str) -> str | None:
    try:
        image_info(name)
    except ImageLockedError as error:
        return str(error)
    return None


@contextlib.contextmanager
def held(folder: Path, image: str, *options: str):
    """Hold an image by qemu-nbd; for writing unless the options say otherwise."""
    form = "raw" if image.endswith(".raw") else "qcow2"
    with qemu_nbd(Path(image), folder, "-f", form, *options):
        wait_until(lambda: 203 in locked(image))  # it listens a moment before it opens the image
        yield


def locked(image: str) -> set[int]:
    """Return the bytes near the permissions' that somebody locks, as a third process sees them."""
    with FileNode(image) as file:
        return {byte for byte in range(95, 210) if file.locks._ask(byte, 1)}


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


HOLDERS = [
    (image, options)
    for image in ("disk.raw", "base.qcow2", "top.qcow2", "ext.qcow2", "data.raw")
    for options in ((), ("-r",))
]


@pytest.mark.parametrize(("holder", "options"), HOLDERS)
def test_what_qemu_holds_is_respected_with_its_words(images, holder, options):
    with held(images, holder, *options):
        for name in ("disk.raw", "base.qcow2", "top.qcow2", "ext.qcow2", "data.raw"):
            form = "raw" if name.endswith(".raw") else "qcow2"
            theirs = words(run("qemu-io", "-r", "-f", form, "-c", "quit", name, check=False))
            assert ours(name) == theirs, name
            assert ours(name, force_share=True) is None, name
            facts = words(run("qemu-img", "info", "-f", form, name, check=False))
            assert told_facts(name) == facts, name
            image_info(name, force_share=True)


def test_the_text_is_as_qemu_prints_it(images):
    with held(images, "top.qcow2"):
        with pytest.raises(ImageLockedError) as caught:
            open_image("top.qcow2")
        assert caught.value.reason == 'Failed to get shared "write" lock'
        done = run("qemu-img", "map", "top.qcow2", check=False)
        assert done.stderr == f"qemu-img: Could not open 'top.qcow2': {caught.value}\n"
        with pytest.raises(ImageLockedError, match="shared"):
            check_image("top.qcow2")
    with held(images, "base.qcow2"):
        with pytest.raises(ImageLockedError) as caught:
            open_image("top.qcow2")
        done = run("qemu-img", "map", "top.qcow2", check=False)
        assert done.stderr == f"qemu-img: Could not open 'top.qcow2': {caught.value}\n"


@pytest.mark.parametrize("name", ["disk.raw", "top.qcow2", "ext.qcow2"])
def test_qemu_minds_our_reading(images, name):
    form = "raw" if name.endswith(".raw") else "qcow2"

    def writer() -> str | None:
        return words(run("qemu-io", "-f", form, "-c", "quit", name, check=False))

    with open_image(name):
        told = writer()
        run("qemu-io", "-r", "-f", form, "-c", "quit", name)  # readers share
    with held(images, name, "-r"):
        assert told == writer()
    assert writer() is None


@pytest.mark.parametrize("name", ["disk.raw", "top.qcow2", "ext.qcow2"])
@pytest.mark.parametrize("writing", [False, True])
def test_the_locked_bytes_are_those_of_qemu(images, name, writing):
    form = "raw" if name.endswith(".raw") else "qcow2"
    option = [] if writing else ["-r"]

    with background(
        peer("qemu-io"), *option, "-f", form, name, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.read(len(b"qemu-io> "))
        wait_until(lambda: locked(name))
        theirs = locked(name)
    with FileNode(name) as file:
        take = locks.for_data if form == "raw" else locks.for_format
        file.locks.acquire(*take(writable=writing))
        assert locked(name) == theirs


def test_two_of_our_own_see_each_other(images):
    with open_image("top.qcow2"), open_image("top.qcow2"), FileNode("top.qcow2") as file:
        with pytest.raises(ImageLockedError) as caught:
            file.locks.acquire(*locks.for_format(writable=True))
        assert caught.value.reason == 'Failed to get "write" lock'
        assert not file.locks.held
    with FileNode("top.qcow2") as file:
        file.locks.acquire(*locks.for_format(writable=True))
        with pytest.raises(ImageLockedError, match='Failed to get shared "write" lock'):
            open_image("top.qcow2")
        file.locks.release()
        open_image("top.qcow2").close()


def test_the_command_has_qemus_option(images):
    command = [sys.executable, "-m", "nbexport", "image"]
    with held(images, "top.qcow2"):
        for what in (["info"], ["map"], ["check"]):
            plain = subprocess.run(
                [*command, *what, "top.qcow2"], capture_output=True, text=True, check=False
            )
            assert plain.returncode == 1
            assert 'Failed to get shared "write" lock' in plain.stderr
            assert "Is another process using the image [top.qcow2]?" in plain.stderr
            subprocess.run([*command, *what, "-U", "top.qcow2"], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["disk.raw", "top.qcow2", "ext.qcow2"])
@pytest.mark.parametrize("options", [(), ("--writable",)])
def test_an_export_of_ours_holds_what_one_of_qemu_holds(images, name, options):
    files = [file.name for file in images.iterdir() if file.suffix in {".raw", ".qcow2"}]
    with held(images, name, *(() if options else ("-r",))):
        wait_until(lambda: name != "ext.qcow2" or locked("data.raw") >= {100, 203})
        wait_until(lambda: name != "top.qcow2" or 203 in locked("base.qcow2"))
        theirs = {file: locked(file) for file in files}
    path = images / "ours.sock"
    form = "raw" if name.endswith(".raw") else "qcow2"
    command = [sys.executable, "-m", "nbexport", "serve", "-f", form, "--socket", path]
    with background(*command, *options, name, ready=path, stdout=subprocess.DEVNULL):
        assert {file: locked(file) for file in files} == theirs
        done = run("qemu-img", "resize", "-f", form, name, "2M", check=False)
        assert done.returncode == 1
        assert 'Failed to get "' in done.stderr


@pytest.mark.parametrize("use", ["none", "reading", "writing"])
def test_an_external_data_file_is_held_as_by_qemu(images, use):
    commands = make_folder(images)
    node = "driver=qcow2,node-name=n,file.driver=file,file.filename=ext.qcow2"
    words = ["--blockdev", node, "--nbd-server", f"addr.type=unix,addr.path={images}/n.sock"]
    if use != "none":
        writable = "on" if use == "writing" else "off"
        words += ["--export", f"type=nbd,id=e,node-name=n,writable={writable}"]
    told = []
    for command in (peer("qemu-storage-daemon"), commands / "qemu-storage-daemon"):
        pid = images / "pid"
        with background(command, *words, "--pidfile", pid, cwd=images):
            wait_until(pid.exists)
            wait_until(pid.read_text)
            told.append(locked("data.raw"))
        pid.unlink(missing_ok=True)
    assert told[1] == told[0]
    assert 203 in told[0]


def qcow2(name: str, **options) -> dict:
    file = {"driver": "file", "filename": name}
    return {"driver": "qcow2", "node-name": "n", "file": file, **options}


def test_the_monitor_holds_and_minds_what_qemus_does(images):
    files = [str(images / name) for name in ("top.qcow2", "base.qcow2")]
    answers: dict[str, list] = {}
    for target in ("emulated", "qemu-storage-daemon"):
        said = answers[target] = []
        with launch(target, "7.2") as monitor:
            for holder, option in (("top.qcow2", ()), ("top.qcow2", ("-r",)), ("base.qcow2", ())):
                with held(images, holder, *option):
                    for name in files:
                        for read_only in (False, True):
                            options = qcow2(name, **{"read-only": read_only})
                            said.append(monitor.ask("blockdev-add", options))
                            said.append(monitor.ask("blockdev-del", {"node-name": "n"}))
                            options["backing"] = None
                            said.append(monitor.ask("blockdev-add", options))
                            said.append(monitor.ask("blockdev-del", {"node-name": "n"}))
            # A file of its own outlives the image on it, and is free again.
            file = {"driver": "file", "node-name": "f", "filename": files[0]}
            said.append(monitor.ask("blockdev-add", file))
            said.append(sorted(locked(files[0])))
            for read_only in (False, True):
                options = qcow2("", file="f", **{"read-only": read_only})
                said.append(monitor.ask("blockdev-add", options))
                said.append([sorted(locked(name)) for name in files])
                said.append(words(run("qemu-img", "info", files[0], check=False)))
                said.append(monitor.ask("blockdev-del", {"node-name": "n"}))
                said.append([sorted(locked(name)) for name in files])
            said.append(monitor.ask("blockdev-add", qcow2("", file="f", backing="no")))
            said.append([sorted(locked(name)) for name in files])
    assert answers["emulated"] == answers["qemu-storage-daemon"]
    assert any("Failed to get" in str(answer) for answer in answers["emulated"])
