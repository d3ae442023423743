"""Devices and boards of ``nbexport-monitor``: what they are, use and refuse, as in QEMU."""

from __future__ import annotations

import re

import pytest
from dropin_pair import folder_of_commands, masked, run_both, run_ours
from monitors import SYSTEM, Monitor
from peers import TIME_LIMIT, background, peer, run

pytestmark = pytest.mark.interop

BARE = ["-nodefaults", "-display", "none", "-S"]
NODES = [
    *("-blockdev", "file,node-name=f,filename=e.qcow2", "-blockdev", "qcow2,node-name=n,file=f"),
    *("-blockdev", "null-co,node-name=m", "-blockdev", "null-co,node-name=ro,read-only=on"),
    *("-object", "iothread,id=t0", "-object", "iothread,id=t1"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    for name in ("theirs", "ours"):
        (folder / name).mkdir()
        run("qemu-img", "create", "-q", "-f", "qcow2", folder / name / "e.qcow2", "1M")
        run("qemu-img", "create", "-q", "-f", "raw", folder / name / "r.raw", "1M")
    return folder


def play(folders, words, steps):
    """Run both programs, and the steps in each; return what their monitors told."""
    found = []
    programs = (("theirs", peer(SYSTEM)), ("ours", folder_of_commands(folders) / SYSTEM))
    for where, program in programs:
        folder = folders / where
        (folder / "qmp.sock").unlink(missing_ok=True)
        given = [*BARE, *words, "-qmp", "unix:qmp.sock,server=on,wait=off"]
        with background(program, *given, ready=folder / "qmp.sock", cwd=folder) as process:
            with Monitor(folder) as monitor:
                for step in steps:
                    step(monitor)
                found.append(masked(monitor.log))
                monitor.quit()
            assert process.wait(TIME_LIMIT) == 0
    return found


def do(name, /, **arguments):
    return lambda monitor: monitor.execute(name, **arguments)


def add(text):
    """Plug a device in that a command line would describe so."""
    driver, *pairs = text.split(",")
    return do("device_add", driver=driver, **dict(pair.split("=") for pair in pairs))


def drop(name, *, gone=None):
    """Ask for a device to go, and wait until it has; ``gone`` events have come by then."""

    def step(monitor):
        monitor.execute("device_del", id=name)
        if gone is not None:
            monitor.wait_for("DEVICE_DELETED", gone)

    return step


BLOCK = do("query-block")
SESSIONS = {
    "virtio-blk": (
        ["-device", "virtio-blk,drive=n,id=v0", "-device", "virtio-blk,drive=ro"],
        [
            BLOCK,
            do("query-named-block-nodes", flat=True),
            do("blockdev-del", node_name="n"),
            add("virtio-blk,drive=n,id=v1"),
            add("virtio-blk,drive=m,id=v2,serial=1,write-cache=off,werror=report,share-rw=on"),
            add("virtio-blk,drive=m,id=v3,share-rw=true,num-queues=2,iothread=t0"),
            add("virtio-blk,drive=m,id=v4"),
            do("block-export-add", type="nbd", id="x", node_name="n", writable=True),
            do("block-dirty-bitmap-add", node="n", name="b"),
            BLOCK,
            drop("v0"),
            drop("v0"),
            BLOCK,
            do("system_reset"),
            lambda monitor: monitor.wait_for("DEVICE_DELETED", 2),
            BLOCK,
            do("blockdev-del", node_name="n"),
        ],
    ),
    "scsi": (
        ["-device", "virtio-scsi-pci,id=s0", "-device", "virtio-scsi"],
        [
            add("scsi-hd,drive=n,id=h0"),
            add("scsi-hd,drive=m,id=h1,bus=s0.0,lun=5,serial=x,rerror=stop"),
            add("scsi-hd,drive=ro,id=h2,bus=s0.0,scsi-id=0,lun=5"),
            add("scsi-hd,drive=ro,id=h2,bus=s0.0,scsi-id=256"),
            add("scsi-hd,drive=ro,id=h2,bus=s0.0,lun=16384"),
            add("scsi-hd,drive=ro,id=h2,channel=1"),
            add("scsi-hd,drive=ro,id=h2,removable=on"),
            add("scsi-hd,drive=ro,id=h0"),
            add("scsi-cd,drive=ro"),
            add("scsi-cd,id=empty"),
            BLOCK,
            do("eject", device="nobody"),
            do("eject", id="h0"),
            do("eject", id="nobody"),
            do("eject", device="h0", id="h0"),
            do("eject", id="empty"),
            do("eject", id="h2"),
            BLOCK,
            drop("h0", gone=1),
            drop("h0"),
            do("blockdev-del", node_name="n"),
            drop("s0"),
            drop("/machine/peripheral/h1", gone=2),
            drop("/machine"),
            BLOCK,
        ],
    ),
    "threads": (
        ["-device", "virtio-scsi,id=s0,iothread=t0", "-device", "virtio-scsi,id=s1,iothread=t1"],
        [
            add("scsi-hd,drive=ro,id=h0,bus=s0.0"),
            add("scsi-hd,drive=ro,id=h1,bus=s0.0"),
            add("scsi-hd,drive=ro,id=h2,bus=s1.0"),
            do("block-export-add", type="nbd", id="x", node_name="ro", iothread="t1",
               fixed_iothread=True),
            drop("h0", gone=1),
            drop("h1", gone=2),
            add("scsi-hd,drive=ro,id=h2,bus=s1.0"),
            add("virtio-scsi,id=s2,iothread=nobody"),
            add("virtio-scsi,id=s2,iothread="),
        ],
    ),
    "what is wrong": (
        ["-drive", "if=none,id=e0", "-drive", "if=none,id=d0,driver=null-co",
         "-drive", "if=virtio,id=d1,driver=null-co", "-device", "virtio-scsi,id=s0"],
        [
            add("virtio-blk,drive=d1"),
            add("virtio-blk,drive=e0"),
            add("scsi-hd,drive=e0"),
            add("scsi-cd,drive=e0"),
            add("virtio-blk,drive=d0,id=v1"),
            add("scsi-hd,drive=d0"),
            add("virtio-blk,drive=nobody"),
            add("scsi-cd,drive=nobody"),
            add("virtio-blk"),
            add("virtio-blk,drive=m,bogus=1"),
            add("virtio-blk,drive=m,num-queues=99999999"),
            add("virtio-blk,drive=m,num-queues=x"),
            add("virtio-blk,drive=m,share-rw=x"),
            add("virtio-blk,drive=m,werror=x"),
            add("virtio-blk,drive=m,write-cache=x"),
            add("virtio-blk,drive=m,iothread=x"),
            add("virtio-blk,drive=m,addr=x"),
            add("virtio-blk,drive=m,addr=1"),
            add("virtio-blk,drive=m,addr=40"),
            add("virtio-blk,drive=m,addr=0x9,id=v9"),
            add("virtio-blk,drive=ro,addr=9"),
            add("virtio-blk,drive=m,id=1"),
            add("virtio-blk,drive=m,bus=nobody"),
            add("virtio-blk,drive=m,bus=s0.0"),
            add("virtio-blk,drive=m,bus=/x/y"),
            add("scsi-hd,drive=m,bus=pci.0"),
            add("scsi-hd,drive=m,iothread=t0"),
            add("ide-hd,drive=m"),
            add("virtio-blk-device,drive=m"),
            add("usb-storage,drive=m"),
            add("bogus"),
            add("scsi-device"),
            do("device_add", id="x"),
            drop("nobody"),
            BLOCK,
        ],
    ),
    "another disk by qom-set": (
        ["-device", "virtio-scsi,id=s0", "-device", "scsi-hd,drive=n,id=h0"],
        [
            do("qom-get", path="h0", property="drive"),
            do("qom-set", path="/machine/peripheral/h0", property="drive", value="m"),
            do("qom-get", path="/machine/peripheral/h0", property="drive"),
            do("blockdev-del", node_name="n"),
            do("qom-set", path="h0", property="drive", value="ro"),
            do("qom-set", path="h0", property="drive", value="nobody"),
            do("qom-set", path="h0", property="bogus", value="x"),
            do("qom-set", path="h0", property="lun", value=1),
            do("qom-set", path="nobody", property="drive", value="m"),
            do("qom-get", path="nobody", property="drive"),
            BLOCK,
        ],
    ),
    "q35": (
        ["-M", "q35", "-device", "virtio-scsi,id=s0", "-drive", "if=ide,media=cdrom"],
        [add("virtio-blk,drive=m"), add("scsi-hd,drive=m,id=h0"), drop("s0"), BLOCK],
    ),
    "an export goes with its medium": (
        ["-drive", "if=none,id=d,media=cdrom,file=e.qcow2,driver=qcow2",
         "-device", "virtio-scsi", "-device", "scsi-cd,drive=d,id=c"],
        [
            do("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd.sock"}}),
            do("nbd-server-add", device="d"),
            do("eject", device="d"),
            lambda monitor: monitor.wait_for("DEVICE_TRAY_MOVED", 1),
            do("query-block-exports"),
            BLOCK,
        ],
    ),
}  # fmt: skip


def bare_nodes(words):
    """Leave out the nodes that would have the images for themselves."""
    return [] if any("e.qcow2" in word for word in words) else NODES


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_with_devices_is_that_of_qemu(name, folders):
    words, steps = SESSIONS[name]
    theirs, ours = play(folders, [*bare_nodes(words), *words], steps)
    assert ours == theirs
    assert len(ours) >= len(steps)


# What the options make, on the board that is there without a type.
MADE = [
    ["e.qcow2"],
    ["-hdb", "e.qcow2", "-cdrom", "r.raw"],
    ["-drive", "file=e.qcow2,format=qcow2", "-drive", "if=ide,media=cdrom"],
    ["-drive", "if=virtio,file=e.qcow2,format=qcow2,werror=report", "-device", "virtio-scsi",
     "-drive", "if=virtio,driver=null-co,cache=writethrough", "-device", "scsi-cd"],
    ["-M", "pc-q35-6.0", "-drive", "driver=null-co", "-drive", "if=none,id=x,driver=null-co"],
    ["-device", "ide-cd", "-device", '{"driver": "virtio-scsi", "id": "s"}',
     "-device", '{"driver": "scsi-cd", "lun": 3}'],
]  # fmt: skip


@pytest.mark.parametrize("words", MADE, ids=" ".join)
def test_options_make_the_devices_that_they_make_in_qemu(words, folders):
    theirs, ours = play(folders, words, [BLOCK])
    assert ours == theirs


ENDS = [
    ["-M", "pc-i440fx-99.0"],
    ["-M", "bogus"],
    ["-drive", "if=scsi,driver=null-co"],
    ["-drive", "if=ide,index=5,driver=null-co"],
    ["-drive", "if=virtio,id=a"],
    ["-drive", "if=none,unit=2,driver=null-co", "-drive", "if=none,unit=2,driver=null-co"],
    ["-drive", "if=none,unit=2,index=1,driver=null-co"],
    ["-hda", "nobody"],
    ["-device", ""],
    ["-device", "bogus"],
    ["-device", "bogus,help"],
    ["-device", "{"],
    ["-device", '{"id": "x"}'],
    ["-device", "virtio-blk"],
    ["-device", "virtio-blk,drive=x"],
    ["-device", "virtio-blk,id=1"],
    ["-device", "virtio-scsi,id=a", "-device", "virtio-scsi,id=a"],
    ["-device", "virtio-scsi", "-device", '{"driver": "scsi-cd", "lun": "x"}'],
    ["-device", "virtio-scsi", "-device", '{"driver": "scsi-cd", "serial": 1}'],
    ["-device", '{"driver": "virtio-blk", "share-rw": 1}'],
    ["-device", '{"driver": "virtio-blk", "logical_block_size": "x"}'],
    ["-device", "virtio-scsi,bogus=1"],
    *(
        ["-blockdev", "null-co,node-name=n", "-device", f"virtio-blk,drive=n,{sizes}"]
        for sizes in (
            *("logical_block_size=x", "logical_block_size=513", "logical_block_size=256"),
            "logical_block_size=1024,physical_block_size=512",
        )
    ),
    ["-blockdev", "null-co,node-name=n", "-device", "scsi-hd,drive=n"],
    ["-blockdev", "null-co,node-name=n", "-device", "ide-hd,bus=ide.0,unit=5,drive=n"],
    ["-blockdev", "null-co,node-name=n,read-only=on", "-device", "ide-hd,drive=n"],
    ["-M", "none", "-device", "virtio-blk"],
]


@pytest.mark.parametrize("words", ENDS, ids=" ".join)
def test_a_command_line_that_ends_says_the_same(words, folders):
    theirs, ours = run_both(SYSTEM, [*BARE, *words], folders)
    assert ours == theirs
    assert ours.err


def test_what_helps_lists_is_among_what_qemus_does(folders):
    theirs, ours = run_both(SYSTEM, ["-M", "none", "-device", "help"], folders)
    line = re.compile(r'^name "(\S+)", bus (\S+?)(?:, alias "(\S+?)")?(?:,|$)', re.MULTILINE)
    listed = line.findall(ours.out)
    assert len(listed) == len(ours.out.splitlines()) - 1 >= 6
    assert set(listed) <= set(line.findall(theirs.out))
    for name, *_ in listed:
        theirs, ours = run_both(SYSTEM, ["-device", f"{name},help"], folders)
        known = dict(re.findall(r"^  (\S+?)=<(.*?)>(?: |$)", theirs.out, re.MULTILINE))
        found = dict(re.findall(r"^  (\S+?)=<(.*?)>$", ours.out, re.MULTILINE))
        parts = {part for part, kind in known.items() if kind.startswith("child<")}
        assert found == {part: known[part] for part in known if part not in parts}
    assert run_ours(SYSTEM, ["-machine", "help"], folders).out.count(" (default)\n") == 1
    theirs, ours = run_both(SYSTEM, ["-drive", "format=help"], folders)
    assert set(ours.out.split()) <= set(theirs.out.split())
    assert (ours.status, ours.out.count("\n")) == (theirs.status, theirs.out.count("\n")) == (0, 2)


def test_an_image_names_its_backing_file_whose_nodes_are_named(folders):
    for where in ("theirs", "ours"):
        folder = folders / where
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", folder / "e.qcow2", "-F", "qcow2",
            folder / "o.qcow2")  # fmt: skip
    drive = "if=virtio,file=o.qcow2,format=qcow2,backing.node-name=b,backing.file.node-name=f"
    steps = [
        lambda monitor: sorted(
            node["node-name"]
            for node in monitor.execute("query-named-block-nodes", flat=True)
            if node["node-name"] in "bf"
        ),
        do("block-dirty-bitmap-add", node="b", name="x", persistent=True),
        do("blockdev-reopen", options=[{"driver": "qcow2", "node-name": "b", "file": "f",
                                        "read-only": False}]),
        do("block-dirty-bitmap-add", node="b", name="x", persistent=True),
    ]  # fmt: skip
    theirs, ours = play(folders, ["-drive", drive], steps)
    for log in (theirs, ours):
        for node in log[0]["return"]:
            node["image"] = {}
            node["file"] = node["file"].rpartition("/")[2]
            node.pop("backing_file", None)
    assert ours == theirs
