"""What is said before the transmission phase: our process and qemu-nbd get the same bytes.

The numbers are those of the project's list of what a server has to do.
"""

from __future__ import annotations

import json
import struct
import subprocess
import time

import pytest
from beside import NBEXPORT, ask, beside, ours, same, shell, uri
from nbd_talk import (
    ABORT,
    CLOSED,
    GO,
    INFO,
    LIST,
    PEEK,
    READ,
    STRUCTURED,
    Talk,
    info,
    option,
    request,
)  # fmt: skip
from peers import background, peer, run

pytestmark = pytest.mark.interop

NAME = "ö b"
BNAME = NAME.encode()
UNSUP, INVALID, UNKNOWN, TOO_BIG = 0x80000001, 0x80000003, 0x80000006, 0x80000009
ACK, SERVER, INFO_REPLY = 1, 2, 3
REPLY_MAGIC = 0x0003E889045565A9
READ_ONLY_FLAGS = 0x50F


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.fixture(scope="module")
def pair(image, tmp_path_factory):
    options = ("-f", "raw", "-x", NAME, "-D", "ein Text, ä")
    with beside(image, tmp_path_factory.mktemp("pair"), *options) as sockets:
        yield sockets


@pytest.fixture(scope="module")
def unnamed(image, tmp_path_factory):
    with beside(image, tmp_path_factory.mktemp("unnamed"), "-f", "raw") as sockets:
        yield sockets


def frames(reply):
    """Return option, type and data of each reply to an option; check the magic numbers."""
    found, at = [], 0
    while at < len(reply):
        magic, number, kind, length = struct.unpack_from(">QIII", reply, at)
        assert magic == REPLY_MAGIC
        found.append((number, kind, reply[at + 20 : at + 20 + length]))
        at += 20 + length
    return found


def last_kind(reply):
    return frames(reply)[-1][1]


def serves(pair):
    """Show that both go on serving who comes now."""

    def script(talk):
        talk.flags()
        talk.option(GO, info(BNAME))
        talk.request(READ, 5, 7)

    same(pair, script)


# Greeting and framing


def test_001_the_greeting_comes_before_anything_is_read(pair):
    log = same(pair, lambda talk: None)
    assert log == [b"NBDMAGICIHAVEOPT\0\3"]


@pytest.mark.parametrize("flags", [4, 7, 1 << 31, 0xFFFFFFFF])
def test_002_flags_that_nobody_knows_end_the_connection(pair, flags):
    def script(talk):
        talk.flags(flags)
        talk.end()

    assert same(pair, script)[-1] == CLOSED


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_003_all_known_flags_are_taken(pair, flags):
    def script(talk):
        talk.flags(flags)
        talk.export_name(BNAME, zeroes=not flags & 2)
        talk.request(READ, 250, 12)

    assert same(pair, script)[-1].endswith(bytes(range(250, 256)) + bytes(range(6)))


@pytest.mark.parametrize("number", [LIST, GO, STRUCTURED, 99])
def test_004_a_client_that_cannot_negotiate_may_name_an_export_only(pair, number):
    def script(talk):
        talk.flags(0)
        talk.option(number, info(BNAME) if number == GO else b"")
        talk.end()

    same(pair, script)
    serves(pair)


def test_005_a_wrong_magic_number_ends_the_connection(pair):
    def script(talk):
        talk.flags()
        talk.send(b"IHAVEOPX" + option(LIST)[8:])
        talk.end()

    assert same(pair, script)[-1] == CLOSED
    serves(pair)


def test_006_every_reply_names_its_option(pair):
    numbers = (LIST, INFO, STRUCTURED, GO)

    def script(talk):
        talk.flags()
        for number in numbers:
            talk.option(number, info(BNAME, 1, 2, 3) if number in {INFO, GO} else b"")

    log = same(pair, script)[1:]
    for number, reply in zip(numbers, log, strict=True):
        assert {echo for echo, _, _ in frames(reply)} == {number}


@pytest.mark.parametrize("size", [0, 1, 4096])
@pytest.mark.parametrize("number", [0, PEEK, 99, 0xFFFFFFFF])
def test_007_an_unknown_option_is_refused_and_the_next_one_heard(pair, number, size):
    def script(talk):
        talk.flags()
        talk.option(number, bytes(size))
        talk.option(LIST)

    _, refused, listed = same(pair, script)
    assert last_kind(refused) == UNSUP
    assert last_kind(listed) == ACK


def test_008_an_endless_option_closes_at_once_and_costs_nothing(image, tmp_path):
    path = tmp_path / "o"
    with ours(image, path, "-f", "raw") as process:
        before = peak(process)
        for length in (0xFFFFFFFF, 1 << 31, (32 << 20) + 1):
            with Talk(path) as talk:
                talk.flags()
                talk.send(option(99, b"", length))
                begun = time.monotonic()
                assert talk.end() == CLOSED
                assert time.monotonic() - begun < 5
        assert peak(process) - before < 8 << 20


def peak(process):
    """Return the most memory that a process has had, in bytes."""
    with open(f"/proc/{process.pid}/status") as lines:  # noqa: PTH123 - not a file of ours
        line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_009_a_long_option_that_comes_slowly_is_dropped_as_it_comes(image, tmp_path):
    """qemu-nbd reads it to the end as well; its own memory is its own affair."""
    path = tmp_path / "o"
    with ours(image, path, "-f", "raw", "--handshake-limit", "30") as process, Talk(path) as talk:
        talk.flags()
        before = peak(process)
        talk.send(option(99, b"", 32 << 20))
        for _ in range(32):
            talk.send(bytes(1 << 20))
        assert last_kind(talk.take_option()) == UNSUP
        assert last_kind(talk.option(LIST)) == ACK
        assert peak(process) - before < 8 << 20


@pytest.mark.parametrize("data", [b"", b"why not"])
def test_010_a_goodbye_is_acknowledged(pair, data):
    def script(talk):
        talk.flags()
        talk.option(ABORT, data)
        talk.end()

    _, reply, end = same(pair, script)
    assert frames(reply) == [(ABORT, ACK, b"")]
    assert end == CLOSED


def test_011_a_client_that_leaves_without_reading_hurts_nobody(pair):
    for path in pair:
        for _ in range(20):
            with Talk(path) as talk:
                talk.flags()
                talk.send(option(ABORT) + option(LIST) * 50)
    serves(pair)


def test_012_a_client_that_says_nothing_makes_no_noise(image, tmp_path):
    path, noise = tmp_path / "o", tmp_path / "stderr"
    with noise.open("wb") as stderr:
        words = [*NBEXPORT, "serve", str(image), "-f", "raw", "-k", str(path)]
        with background(*words, ready=path, stdout=subprocess.DEVNULL, stderr=stderr) as process:
            files = open_files(process)
            for _ in range(50):
                with Talk(path):
                    pass
            until = time.monotonic() + 20
            while open_files(process) > files and time.monotonic() < until:
                time.sleep(0.05)
            assert open_files(process) <= files
    assert noise.read_bytes() == b""


def open_files(process):
    done = run("ls", f"/proc/{process.pid}/fd")
    return len(done.stdout.split())


def test_013_two_options_in_one_piece_are_answered_in_order(pair):
    def script(talk):
        talk.flags()
        talk.send(option(LIST) + option(99, b"abc") + option(INFO, info(BNAME)))
        for _ in range(3):
            talk.take_option()

    log = same(pair, script)
    assert [frames(reply)[-1][0] for reply in log[1:]] == [LIST, 99, INFO]


def test_014_an_option_may_come_byte_by_byte(pair):
    def script(talk):
        for byte in struct.pack(">I", 3) + option(STRUCTURED) + option(GO, info(BNAME)):
            talk.send(bytes([byte]))
        talk.take_option()
        talk.take_option()
        for byte in request(READ, 9, 3):
            talk.send(bytes([byte]))
        talk.take_reply()

    same(pair, script)


def test_015_who_does_not_choose_in_time_is_left(image, tmp_path):
    limited, free = tmp_path / "l", tmp_path / "f"
    with (
        ours(image, limited, "-f", "raw", "--handshake-limit", "0.5"),
        ours(image, free, "-f", "raw", "--handshake-limit", "0"),
        Talk(free) as patient,
    ):
        for begun in (b"", struct.pack(">I", 3), struct.pack(">I", 3) + option(LIST)[:9]):
            with Talk(limited) as talk:
                talk.send(begun)
                started = time.monotonic()
                assert talk.end() == CLOSED
                assert 0.2 < time.monotonic() - started < 15
        with Talk(limited) as talk:  # who has chosen may take all the time
            talk.flags()
            talk.option(GO, info(b""))
            time.sleep(1)
            assert talk.request(READ, 1, 1)[-1:] == b"\1"
        patient.flags()
        assert last_kind(patient.option(LIST)) == ACK


def test_017_a_hundred_half_open_clients_do_not_stop_the_next(pair):
    halves = [Talk(path) for path in pair for _ in range(100)]
    try:
        for number, talk in enumerate(halves):
            talk.send(struct.pack(">I", 3)[: number % 5])
        serves(pair)
    finally:
        for talk in halves:
            talk.close()


# LIST, INFO, GO, EXPORT_NAME


def test_018_list_tells_every_export(pair):
    def script(talk):
        talk.flags()
        talk.option(LIST)

    entry, end = frames(same(pair, script)[-1])
    told = struct.pack(">I", len(BNAME)) + BNAME + "ein Text, ä".encode()
    assert (entry, end) == ((LIST, SERVER, told), (LIST, ACK, b""))
    listed = [json.loads(run("nbdinfo", "--list", "--json", uri(path)).stdout) for path in pair]
    names = [[one["export-name"] for one in each["exports"]] for each in listed]
    assert names == [[NAME], [NAME]]
    theirs, ours_ = (run("qemu-nbd", "--list", "-k", path).stdout for path in pair)
    assert theirs == ours_
    assert f"export: '{NAME}'" in theirs


def test_018_another_client_lists_it_too(image):
    """nbd-client is the reference implementation's."""
    words = [*NBEXPORT, "serve", str(image), "-f", "raw", "-x", "plain", "--port", "0"]
    with background(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        port = process.stdout.readline().decode().rpartition(":")[2].split("/")[0]
        done = run(peer("nbd-client"), "-l", "127.0.0.1", port)
    assert done.stdout.splitlines()[-1] == "plain"


def test_019_list_has_no_data(pair):
    def script(talk):
        talk.flags()
        talk.option(LIST, b"x")
        talk.option(LIST)

    _, refused, listed = same(pair, script)
    assert (last_kind(refused), last_kind(listed)) == (INVALID, ACK)


def infos(reply):
    """Return the information types that a reply tells, with their data."""
    *told, (_, kind, _) = frames(reply)
    assert kind == ACK
    assert {kind for _, kind, _ in told} == {INFO_REPLY}
    return [(int.from_bytes(data[:2], "big"), data[2:]) for _, _, data in told]


def asked(pair, *kinds, number=INFO):
    def script(talk):
        talk.flags()
        talk.option(number, info(BNAME, *kinds))

    return infos(same(pair, script)[-1])


def test_020_info_tells_the_export_once(pair):
    found = [data for kind, data in asked(pair) if kind == 0]
    assert found == [struct.pack(">QH", 1 << 20, READ_ONLY_FLAGS)]


def test_021_block_sizes_are_powers_of_two_in_order_and_come_before_the_export(pair):
    kinds = asked(pair, 3)
    names = [kind for kind, _ in kinds]
    assert names.index(3) < names.index(0)
    minimum, preferred, maximum = struct.unpack(">III", dict(kinds)[3])
    assert minimum <= preferred <= maximum
    assert all(size & (size - 1) == 0 for size in (minimum, preferred, maximum))
    told = json.loads(run("nbdinfo", "--json", uri(pair.ours, "%C3%B6%20b")).stdout)["exports"][0]
    assert told["block_size_minimum"] == minimum
    assert told["block_size_maximum"] == maximum


def test_022_name_and_description_arrive_as_they_are(pair, image, tmp_path):
    kinds = dict(asked(pair, 1, 2))
    assert kinds[1] == BNAME
    assert kinds[2] == "ein Text, ä".encode()
    long = "n" * 4096
    with beside(image, tmp_path, "-f", "raw", "-x", long, "-D", "d" * 4096) as sockets:

        def script(talk):
            talk.flags()
            talk.option(LIST)
            talk.option(INFO, info(long.encode(), 1, 2))

        log = same(sockets, script)
        assert dict(infos(log[-1]))[1] == long.encode()
        for path in sockets:
            assert run("nbdinfo", "--size", uri(path, long)).stdout.strip() == str(1 << 20)


def test_023_unknown_and_repeated_questions_are_ignored(pair):
    assert asked(pair, 77, 0xFFFF) == asked(pair)
    twice, once = asked(pair, 1, 1, 3, 3), asked(pair, 1, 3)
    assert sorted(twice) == sorted(once)


def test_024_an_export_that_is_not_there(pair):
    def script(talk):
        talk.flags()
        for number in (INFO, GO):
            talk.option(number, info(b"none"))
        talk.option(GO, info(BNAME))
        talk.request(READ, 1, 1)

    _, asked_, gone, _, _ = same(pair, script)
    assert [kind for _, kind, _ in frames(asked_) + frames(gone)] == [UNKNOWN, UNKNOWN]
    refused = "\n".join((
        "h.set_export_name('none')", "h.set_opt_mode(True)",
        f"h.connect_unix({str(pair.ours)!r})", "told = []",
        "try: h.opt_info()", "except nbd.Error as error: told.append(error.errno)",
        f"h.set_export_name({NAME!r})", "h.opt_go()", "told.append(h.get_size())",
    ))  # fmt: skip
    assert shell(refused) == ["ENOENT", 1 << 20]


@pytest.mark.parametrize("length", [4, 100, 4096, 1 << 31, 0xFFFFFFFF])
def test_025_a_name_longer_than_the_option(pair, length):
    def script(talk):
        talk.flags()
        for number in (INFO, GO):
            talk.option(number, struct.pack(">I", length) + b"raw\0\0")
        talk.option(LIST)

    _, first, second, _ = same(pair, script)
    assert {last_kind(first), last_kind(second)} == {INVALID}


@pytest.mark.parametrize(("size", "kind"), [(4096, UNKNOWN), (4097, None), (9999, None)])
def test_026_the_longest_name_and_longer_ones(pair, size, kind):
    def script(talk):
        talk.flags()
        talk.option(INFO, info(b"n" * size))
        talk.option(LIST)

    _, refused, listed = same(pair, script)
    assert last_kind(refused) & 0x80000000
    assert kind is None or last_kind(refused) == kind
    assert len(refused) < 300  # the text does not repeat all of the name
    assert last_kind(listed) == ACK


@pytest.mark.parametrize("name", [BNAME + b"\0", b"\0" + BNAME, BNAME + b"\0x"])
def test_027_a_name_is_not_cut_at_a_zero(pair, name):
    def script(talk):
        talk.flags()
        talk.option(INFO, info(name))
        talk.option(GO, info(name))

    for reply in same(pair, script)[1:]:
        assert last_kind(reply) in {INVALID, UNKNOWN}


@pytest.mark.parametrize("data", [
    info(BNAME, 1)[:-2], info(BNAME)[:-2] + b"\xff\xff", info(BNAME, 1) + b"x",
    info(BNAME)[:-1],
], ids=["too few", "far too few", "too many", "half a count"])  # fmt: skip
def test_028_a_count_that_does_not_fit_the_data(pair, data):
    def script(talk):
        talk.flags()
        talk.option(INFO, data)
        talk.option(GO, data)
        talk.option(LIST)

    _, first, second, listed = same(pair, script)
    assert (last_kind(first), last_kind(second), last_kind(listed)) == (INVALID, INVALID, ACK)


def test_029_info_and_go_tell_the_same(pair):
    assert asked(pair, 1, 2, 3) == asked(pair, 1, 2, 3, number=GO)


def test_030_nothing_stands_between_the_acknowledgement_and_the_first_reply(pair):
    def script(talk):
        talk.flags()
        talk.send(option(GO, info(BNAME)) + request(READ, 3, 2))
        talk.take_option()
        talk.take_reply(2)

    assert same(pair, script)[-1].endswith(b"\3\4")


@pytest.mark.parametrize("flags", [1, 3])
def test_031_the_answer_to_a_name_has_zeroes_unless_they_were_waived(pair, flags):
    def script(talk):
        talk.flags(flags)
        talk.export_name(BNAME, zeroes=flags == 1)
        talk.request(READ, 0, 1)

    answer = same(pair, script)[1]
    head = struct.pack(">QH", 1 << 20, READ_ONLY_FLAGS)
    assert answer == head + (bytes(124) if flags == 1 else b"")


@pytest.mark.parametrize("name", [b"none", b"n" * 4097, b"n" * 9999, b""])
def test_032_a_wrong_name_can_only_end_the_connection(pair, name):
    def script(talk):
        talk.flags()
        talk.export_name(name)

    assert same(pair, script)[-1] == CLOSED
    serves(pair)


def test_033_the_empty_name_is_the_default_export(unnamed, pair):
    def script(talk):
        talk.flags()
        talk.option(GO, info(b""))
        talk.request(READ, 4, 4)

    assert same(unnamed, script)[-1].endswith(b"\4\5\6\7")
    for path in unnamed:
        assert run("nbdinfo", "--size", uri(path)).stdout.strip() == str(1 << 20)
    refused = ask(pair, lambda talk: (talk.flags(), talk.option(GO, info(b"")))[1])
    assert [last_kind(reply) for reply in refused] == [UNKNOWN, UNKNOWN]


def flags_of(path, *, structured=False, number=INFO, name=BNAME):
    with Talk(path) as talk:
        talk.flags()
        if structured:
            talk.option(STRUCTURED)
        told = dict(infos(talk.option(number, info(name))))
    return struct.unpack(">QH", told[0])[1]


def test_034_a_read_only_export_says_so(pair, tmp_path, image):
    for path in pair:
        assert flags_of(path) & 3 == 3
        assert run("nbdinfo", "--is", "read-only", uri(path, "%C3%B6%20b")).returncode == 0
    twin = tmp_path / "twin.raw"
    for disk in (twin, tmp_path / "other.raw"):
        disk.write_bytes(image.read_bytes())
    images = (tmp_path / "other.raw", twin)
    with beside(images, tmp_path, "-f", "raw", writable=True) as sockets:
        theirs, ours_ = (flags_of(path, name=b"") for path in sockets)
    assert theirs == ours_
    assert ours_ & 3 == 1


def test_035_what_cannot_be_done_on_a_read_only_export_is_not_offered(pair):
    trim, zeroes, fast = 1 << 5, 1 << 6, 1 << 11
    for path in pair:
        assert not flags_of(path) & (trim | zeroes | fast)
        for what in ("trim", "zero", "fast-zero"):
            done = run("nbdinfo", "--can", what, uri(path, "%C3%B6%20b"), check=False)
            assert done.returncode == 2


def test_036_fragments_can_be_forbidden_once_replies_are_structured(pair):
    for path in pair:
        plain, structured = flags_of(path), flags_of(path, structured=True)
        assert not plain & 1 << 7
        assert structured == plain | 1 << 7


@pytest.mark.parametrize(("limit", "shared"), [("1", False), ("2", True), ("0", True)])
def test_037_several_connections_are_offered_if_several_may_come(image, tmp_path, limit, shared):
    with beside(image, tmp_path, "-f", "raw", "-e", limit) as sockets:
        for path in sockets:
            assert bool(flags_of(path, name=b"") & 1 << 8) is shared
        done = run("nbdinfo", "--can", "multi-conn", uri(sockets.ours), check=False)
        assert done.returncode == (0 if shared else 2)
