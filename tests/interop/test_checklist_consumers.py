"""What backup programs and libvirt do, step by step, with qemu-nbd or QEMU beside our process."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import ssl
import struct
import sys
import threading

import pytest
import tls_files
from beside import (
    BASE,
    BITMAP,
    DEPTH,
    NBEXPORT,
    QUIET,
    Pair,
    ask,
    assemble,
    beside,
    nbdsh,
    same,
    statuses,
    uri,
)  # fmt: skip
from disks import alternating, layers, write
from monitors import DAEMON, OURS, monitor, qcow2, unix
from nbd_talk import (
    DF,
    DISC,
    GO,
    LIST,
    LIST_META,
    READ,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    Talk,
    info,
    option,
    queries,
    request,
)
from peers import background, nbdinfo_map, peer, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
SIZE = 64 << 20
STEP = 2 << 30  # the longest range that ovirt-imageio asks for


def option_replies(reply):
    """Return (type, data) of each reply to an option."""
    found, at = [], 0
    while at < len(reply):
        _, _, kind, length = struct.unpack_from(">QIII", reply, at)
        found.append((kind, reply[at + 20 : at + 20 + length]))
        at += 20 + length
    return found


def meta(reply):
    """Return the names by their numbers that a LIST or SET of contexts brought."""
    *found, (last, rest) = option_replies(reply)
    assert (last, rest) == (1, b"")
    assert all(kind == 4 for kind, _ in found)
    return [(int.from_bytes(data[:4], "big"), data[4:].decode()) for _, data in found]


def imageio(talk, export=b""):
    """Do what ovirt-imageio's client does; return its extents, (length, zero, dirty).

    It goes without dirty extents unless there is exactly one bitmap.
    """
    talk.flags(1)
    assert option_replies(talk.option(STRUCTURED)) == [(1, b"")]
    listed = meta(talk.option(LIST_META, queries(export, b"qemu:dirty-bitmap:")))
    bitmaps = [name for _, name in listed] if len(listed) == 1 else []
    wanted = [BASE, DEPTH, *bitmaps]
    chosen = dict(meta(talk.option(SET_META, queries(export, *(n.encode() for n in wanted)))))
    assert set(chosen.values()) <= set(wanted)
    *infos, last = option_replies(talk.option(GO, queries(export)[: 4 + len(export)] + b"\0\0"))
    assert last == (1, b"")
    sizes = {int.from_bytes(data[:2], "big"): data[2:] for _, data in infos}
    size, _ = struct.unpack(">QH", sizes[0])
    least = struct.unpack(">3I", sizes[3])[0] if 3 in sizes else 1
    merged = []
    offset = 0
    while offset < size:
        found = dict(statuses(talk.request(STATUS, offset, min(STEP, size - offset))))
        parts = {chosen[number]: extents for number, extents in found.items()}
        for extents in parts.values():
            assert len(extents) <= 1048575
            assert all(length % least == 0 for length, _ in extents)
        reached = offset
        for length, flags in together([parts[name] for name in wanted if name in parts]):
            zero = bool(flags[wanted.index(BASE)] & 2)
            merged.append((length, zero, bool(flags[-1] & 1) if bitmaps else None))
            reached += length
        assert reached > offset
        offset = reached
    data, _ = assemble(talk.request(READ, 0, MiB), 0, MiB)
    talk.send(request(DISC))
    return merged, data, len(listed)


def together(lists):
    """Walk lists of extents side by side up to the end of the shortest."""
    heads = [list(extents) for extents in lists]
    while all(heads):
        length = min(extents[0][0] for extents in heads)
        yield length, [extents[0][1] for extents in heads]
        for extents in heads:
            rest, flags = extents.pop(0)
            if rest > length:
                extents.insert(0, (rest - length, flags))


def by_nbdinfo(path, bitmap):
    """Return the same extents from libnbd's maps."""
    names = (BASE, *((bitmap,) if bitmap else ()))
    maps = [[(row["length"], row["type"]) for row in nbdinfo_map(uri(path), name)]
            for name in names]  # fmt: skip
    return [(length, bool(flags[0] & 2), bool(flags[1] & 1) if bitmap else None)
            for length, flags in together(maps)]  # fmt: skip


def joined(extents):
    found = []
    for length, *rest in extents:
        if found and found[-1][1:] == rest:
            found[-1][0] += length
        else:
            found.append([length, *rest])
    return found


@pytest.mark.parametrize("bitmaps", [("weekly",), ("weekly", "daily")])
def test_139_the_steps_of_ovirt_imageio(two_bitmaps, tmp_path, bitmaps):
    """With one bitmap zero and dirty extents come out; with two it goes on without dirty ones."""
    with beside(two_bitmaps, tmp_path, "-f", "qcow2", "-A", bitmaps=bitmaps) as pair:
        (theirs, its_data, _), (mine, data, listed) = ask(pair, imageio)
        assert mine == theirs
        assert data == its_data
        assert listed == len(bitmaps)
        one = BITMAP + bitmaps[0] if len(bitmaps) == 1 else None
        assert joined(mine) == joined(by_nbdinfo(pair.theirs, one))
    assert {dirty for _, _, dirty in mine} == ({True, False} if one else {None})
    assert sum(length for length, _, _ in mine) == SIZE


VIRTNBDBACKUP = """
size, least = h.get_size(), h.get_block_size(nbd.SIZE_MINIMUM)
most = h.get_block_size(nbd.SIZE_MAXIMUM)
step = min(size, (1 << 32) - 1 - ((1 << 32) - 1) % max(least, 1))
maps = {{{base!r}: [], {bitmap!r}: []}}
replies, offset = [], 0
while offset < size:
    found = {{}}
    def extent(name, at, entries, error):
        found[name] = entries
    h.block_status(min(step, size - offset), offset, extent)
    for name, entries in found.items():
        maps[name] += zip(entries[::2], entries[1::2])
    replies.append([sum(entries[::2]) for entries in found.values()])
    offset += sum(found[{bitmap!r}][::2])
assert all(flags in (0, 1, 2, 3) for _, flags in maps[{base!r}])
assert all(flags in (0, 1) for _, flags in maps[{bitmap!r}])
told = [size, most, replies, maps]
"""


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory):
    """A disk whose bitmap and whose allocation both change all the time."""
    folder = tmp_path_factory.mktemp("fragmented")
    image = alternating(folder / "disk.qcow2", 80 * MiB, 80 * MiB - 65536)
    run("qemu-img", "bitmap", "--disable", image, "b")
    write(image, *(f"write -q -P 1 {at}k 64k" for at in range(0, 80 << 10, 192)))
    with beside(image, folder, "-f", "qcow2", bitmaps=("b",)) as pair:
        yield pair


def test_140_the_steps_of_virtnbdbackup(fragmented):
    """It steps by what the bitmap's extents cover and takes the others as they come.

    So the contexts of each of our replies end together. QEMU's do not: there the allocation that
    the program puts together is longer than the disk.
    """
    code = VIRTNBDBACKUP.format(base=BASE, bitmap=f"{BITMAP}b")
    theirs, mine = (nbdsh(path, code, BASE, f"{BITMAP}b") for path in fragmented)
    size, most, replies, maps = mine
    assert (size, most) == (80 * MiB, 32 * MiB)
    assert len(replies) == 2
    assert all(base == bits for base, bits in replies)
    assert any(base != bits for base, bits in theirs[2])
    assert maps[f"{BITMAP}b"] == theirs[3][f"{BITMAP}b"]
    for name, extents in maps.items():
        rows = nbdinfo_map(uri(fragmented.theirs), name)
        assert joined(extents) == [[row["length"], row["type"]] for row in rows]


def test_140_what_virtnbdbackup_copies_is_the_disk(fragmented):
    """Its reads of what is dirty, never longer than the longest, are the same from both."""
    code = f"""
import hashlib
told, at, most = [], 0, h.get_block_size(nbd.SIZE_MAXIMUM)
found = {{}}
h.block_status(1 << 20, 3 << 20, lambda name, at, entries, error: found.update({{name: entries}}))
at = 3 << 20
for length, flags in zip(found[{f"{BITMAP}b"!r}][::2], found[{f"{BITMAP}b"!r}][1::2]):
    if flags:
        told.append([at, hashlib.sha256(h.pread(min(length, most), at)).hexdigest()])
    at += length
"""
    told = [nbdsh(path, code, BASE, f"{BITMAP}b") for path in fragmented]
    assert told[0] == told[1]
    assert len(told[1]) == MiB // 1024


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Three disks of a machine, each with the bitmaps of two checkpoints."""
    folder = tmp_path_factory.mktemp("machine")
    made = {}
    for number, target in enumerate(("vda", "vdb", "sda")):
        below = folder / target
        below.mkdir()
        image = layers(below, ("qcow2", f"{4 + number}M", "", ("write -P 1 1M 1M",)))
        run("qemu-img", "bitmap", "--add", image, "monday")
        write(image, f"write -q -P 2 {number + 1}M 192k")
        run("qemu-img", "bitmap", "--disable", image, "monday")
        run("qemu-img", "bitmap", "--add", image, "tuesday")
        write(image, "write -q -z 3M 64k")
        made[target] = shutil.copy(image, folder / f"{target}.qcow2")
    return made


def libvirt_begins(client, machine):
    """Do what libvirt does for a pull-mode backup, but for the job that keeps the disk as it was.

    The bitmaps since the checkpoint are merged into one for this backup, all disks at once.
    """
    assert client.execute("nbd-server-start", addr=unix()) == {}
    nodes = {target: f"libvirt-{number}-format" for number, target in enumerate(machine, 1)}
    actions = []
    for target, node in nodes.items():
        assert client.execute("blockdev-add", node_name=node, **qcow2(f"{target}.qcow2")) == {}
        name = f"backup-{target}"
        actions += [
            {"type": "block-dirty-bitmap-add",
             "data": {"node": node, "name": name, "persistent": False, "disabled": True}},
            {"type": "block-dirty-bitmap-merge",
             "data": {"node": node, "target": name, "bitmaps": ["monday", "tuesday"]}},
        ]  # fmt: skip
    # One that does not work out leaves nothing behind.
    wrong = {"node": nodes["sda"], "target": "backup-sda", "bitmaps": ["wednesday"]}
    failing = [*actions, {"type": "block-dirty-bitmap-merge", "data": wrong}]
    told = client.execute("transaction", actions=failing)
    assert told == "Dirty bitmap 'wednesday' not found"
    assert client.execute("transaction", actions=actions) == {}
    for target, node in nodes.items():
        added = {"type": "nbd", "id": f"libvirt-nbd-{node}", "node_name": node, "name": target,
                 "writable": False}  # fmt: skip
        told = client.execute("block-export-add", bitmaps=["missing"], **added)
        assert told == "Bitmap 'missing' is not found"
        assert client.execute("block-export-add", bitmaps=[f"backup-{target}"], **added) == {}
    client.execute("query-block-exports")
    return client.folder / "nbd.sock"


def maps_at_once(path, machine):
    """Return the maps of every disk, each asked for by a client of its own at the same time."""
    found = {}

    def one(target):
        names = (BASE, f"{BITMAP}backup-{target}")
        found[target] = [nbdinfo_map(uri(path, target), name) for name in names]

    threads = [threading.Thread(target=one, args=(target,)) for target in machine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_142_libvirts_backup_of_a_machine_with_several_disks(machine, tmp_path):
    """One server, an export and a bitmap for each disk, clients at once, then all is taken down."""
    seen = []
    for program in (DAEMON, OURS):
        with monitor(program, tmp_path / program, *machine.values()) as client:
            path = libvirt_begins(client, machine)
            listed = json.loads(run("nbdinfo", "--list", "--json", uri(path)).stdout)
            maps = maps_at_once(path, machine)
            # The job is over: the exports go one by one, the server last.
            for number in range(1, len(machine) + 1):
                node = f"libvirt-{number}-format"
                told = client.execute("block-export-del", id=f"libvirt-nbd-{node}", mode="hard")
                assert told == {}
                client.wait_for("BLOCK_EXPORT_DELETED", number)
            assert client.execute("nbd-server-stop") == {}
            for number in range(1, len(machine) + 1):
                assert client.execute("blockdev-del", node_name=f"libvirt-{number}-format") == {}
            for export in listed["exports"]:
                export.pop("uri", None)
            order = sorted(client.log, key=str)  # the end of a client may come before a reply
            seen.append((listed, maps, order))
    assert seen[0] == seen[1]
    listed, maps, _ = seen[1]
    assert {each["export-name"] for each in listed["exports"]} == set(machine)
    assert all(
        each["contexts"] == [BASE, f"{BITMAP}backup-{each['export-name']}"]
        for each in listed["exports"]
    )
    dirty = {target: sum(row["length"] for row in rows if row["type"])
             for target, (_, rows) in maps.items()}  # fmt: skip
    assert dirty == {"vda": 256 << 10, "vdb": 256 << 10, "sda": 192 << 10}


def test_142_release_5_2_takes_the_same_steps(machine, tmp_path):
    """The first release with these commands, as far as the emulator has it."""
    with monitor(OURS, tmp_path / "o", *machine.values(), release="5.2") as client:
        path = libvirt_begins(client, machine)
        assert {len(rows) for rows in maps_at_once(path, machine).values()} == {2}
        assert client.execute("nbd-server-stop") == {}
        assert len(client.events("BLOCK_EXPORT_DELETED")) == len(machine)


# TLS clients in a hurry

SLOW = """
import asyncio, sys, time
once = asyncio.base_events.BaseEventLoop._run_once
def slowly(loop):
    time.sleep(0.001)
    once(loop)
asyncio.base_events.BaseEventLoop._run_once = slowly
from nbexport.cli.main import main
sys.argv = ["nbexport", *sys.argv[1:]]
main()
"""


@contextlib.contextmanager
def tls_pair(folder, image, folders, *launcher):
    """Serve an image over TLS by both; clients need no certificate."""
    pair = Pair(folder / "t", folder / "o")
    creds = f"tls-creds-x509,id=t,endpoint=server,dir={folders.server},verify-peer=off"
    its = (peer("qemu-nbd"), "-t", "-r", "-f", "raw", "-e", "0", "-k", pair.theirs,
           "--object", creds, "--tls-creds", "t", image)  # fmt: skip
    mine = (*(launcher or NBEXPORT), "serve", image, "-f", "raw", "-k", pair.ours,
            "--tls-creds", folders.server, "--no-tls-verify-peer")  # fmt: skip
    with (
        background(*its, ready=pair.theirs, **QUIET),
        background(*mine, ready=pair.ours, **QUIET),
    ):
        yield pair


@pytest.mark.parametrize(("speed", "clients"), [("as it is", 200), ("slow", 60)])
def test_143_upgrades_of_clients_in_a_hurry(speed, clients, tmp_path):
    """Clients that begin with TLS the moment they may are all served, however slow we are."""
    (tmp_path / "certificates").mkdir()
    folders = tls_files.make(tmp_path / "certificates")
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(range(256)) * 4096)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folders.server / "ca-cert.pem")

    def script(t):
        t.flags()
        t.start_tls(context)
        t.option(LIST)
        begin_after_tls(t)
        t.request(READ, 1000, 5)

    launcher = (sys.executable, "-c", SLOW) if speed == "slow" else ()
    with tls_pair(tmp_path, image, folders, *launcher) as pair:
        same(pair, script)
        choose = random.Random(143)
        for _ in range(clients):
            with Talk(pair.ours) as talk:
                if choose.random() < 0.5:
                    talk.flags()
                    talk.start_tls(context)
                else:  # the greeting of TLS is on its way before the acknowledgement is read
                    talk.send(struct.pack(">I", 3) + option(STARTTLS)[:8])
                    talk.send(option(STARTTLS)[8:])
                    assert talk.take_option().endswith(b"\0\0\0\1\0\0\0\0")
                    talk._socket = context.wrap_socket(talk._socket, server_hostname="localhost")
                begin_after_tls(talk)
                assert talk.request(READ, 1000, 5, DF)[-5:] == bytes(range(232, 237))


def begin_after_tls(talk):
    talk.option(STRUCTURED)
    talk.option(GO, info(b""))
