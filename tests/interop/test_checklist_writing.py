"""Writing what is read-only, statement by statement, qemu-nbd beside our server."""

from __future__ import annotations

import pytest
from beside import (
    EINVAL,
    EPERM,
    ask,
    begin,
    beside,
    error_of,
    nbdsh,
    ours,
    same,
)  # fmt: skip
from disks import RAW_SIZE, raw_disk
from nbd_talk import (
    CACHE,
    CLOSED,
    DF,
    DISC,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    request,
)  # fmt: skip

pytestmark = pytest.mark.interop

MAX = 32 << 20
SIZE = 4 << 20
LAST = (1 << 64) - 1
BOTH_FORMS = pytest.mark.parametrize("structured", [True, False])


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A raw disk that nobody may write, behind both servers."""
    folder = tmp_path_factory.mktemp("raw")
    image = raw_disk(folder / "disk.raw")
    before = image.read_bytes()
    with beside(image, folder, "-f", "raw") as pair:
        yield pair
        assert image.read_bytes() == before


@pytest.fixture(scope="module")
def by_the_book(tmp_path_factory):
    """The same disk behind a server that follows the protocol where QEMU does not."""
    folder = tmp_path_factory.mktemp("book")
    image = raw_disk(folder / "disk.raw")
    with ours(image, folder / "s", "-f", "raw", "--profile", "spec"):
        yield folder / "s"


@BOTH_FORMS
def test_080_a_write_to_what_is_read_only_is_read_and_refused(raw, by_the_book, structured):
    """The data of a refused write are never taken for requests; the next request is served."""

    def steps(t):
        begin(t, structured=structured)
        told = [t.request(WRITE, 0, len(data), payload=data)
                for data in (b"hello", request(DISC), request(READ, 0, 1) * 3000, b"")]  # fmt: skip
        told.append(t.request(WRITE, LAST, 5, payload=b"hello"))
        told.append(t.request(WRITE, 0, 3, FUA, payload=b"abc"))
        assert t.request(READ, 5, 7)[-7:] == bytes(range(5, 12))
        return [error_of(reply) for reply in told]

    same(raw, steps)
    # QEMU says EINVAL where the protocol wants EPERM; clients take either for a refusal.
    assert ask(raw, steps) == [[EINVAL] * 6] * 2
    with Talk(by_the_book) as talk:
        assert steps(talk) == [EPERM] * 6


@BOTH_FORMS
def test_081_zeroing_and_trimming_what_is_read_only_is_refused(raw, by_the_book, structured):
    """The same for the commands that change a disk without data."""

    def steps(t):
        begin(t, structured=structured)
        told = [t.request(command, 0, 4096, flags)
                for command in (ZEROES, TRIM) for flags in (0, FUA)]  # fmt: skip
        told.append(t.request(ZEROES, 0, 4096, NO_HOLE | FAST_ZERO))
        assert t.request(READ, 5, 7)[-7:] == bytes(range(5, 12))
        return [error_of(reply) for reply in told]

    same(raw, steps)
    assert ask(raw, steps) == [[EINVAL] * 5] * 2
    with Talk(by_the_book) as talk:
        assert steps(talk) == [EPERM] * 5


@pytest.mark.parametrize("length", [MAX + 1, (1 << 32) - 1])
def test_082_a_write_of_more_than_the_limit_ends_the_connection(raw, length):
    """Nobody reads so much: the client is told, and what it sends on is no request."""

    def script(t):
        begin(t)
        assert error_of(t.request(WRITE, 0, length)) == EINVAL
        t.send(request(ZEROES, 0, SIZE) * 10)
        assert t.end() == CLOSED

    same(raw, script)


@BOTH_FORMS
def test_083_a_flush_has_nothing_to_do_and_succeeds(raw, structured):
    """Flushing is offered for a read-only disk too, and is never refused."""

    def script(t):
        begin(t, structured=structured)
        for arguments in ((), (0, 0, FUA), (4096, 5)):
            assert error_of(t.request(FLUSH, *arguments)) == 0
        assert error_of(t.request(FLUSH, 0, 0, DF)) == EINVAL

    same(raw, script)
    code = "h.flush(); told = [h.can_flush(), h.is_read_only(), h.pread(2, 7).hex()]"
    assert [nbdsh(path, code) for path in raw] == [[True, True, "0708"]] * 2


@BOTH_FORMS
def test_084_cache_requests_change_nothing(raw, structured):
    """They are taken within the disk and the longest length, without flags that nobody knows."""

    def script(t):
        begin(t, structured=structured)
        assert error_of(t.request(CACHE, 0, 4096)) == 0
        assert error_of(t.request(CACHE, 1 << 20, MAX, FUA)) == 0
        for flags in (DF, REQ_ONE, NO_HOLE, FAST_ZERO, PAYLOAD_LEN, 0x8000):
            assert error_of(t.request(CACHE, 0, 4096, flags)) == EINVAL
        assert error_of(t.request(CACHE, 0, MAX + 1)) == EINVAL
        assert error_of(t.request(CACHE, RAW_SIZE, 1)) == EINVAL
        t.request(READ, 0, 8192)

    same(raw, script)
    code = "h.cache(65536, 0); told = [h.can_cache(), h.pread(2, 7).hex()]"
    assert [nbdsh(path, code) for path in raw] == [[True, "0708"]] * 2


@BOTH_FORMS
def test_085_commands_that_nobody_knows_are_refused(raw, structured):
    """RESIZE and every other number: EINVAL, and the stream stays in step."""

    def script(t):
        begin(t, structured=structured)
        for command in (8, 9, 77, 0xFFFF):
            for arguments in ((0, 0), (0, 512), (0, 0, FUA), (RAW_SIZE, 1)):
                assert error_of(t.request(command, *arguments)) == EINVAL
        t.request(READ, 5, 7)

    same(raw, script)


@pytest.mark.parametrize("garbage", [(0, 0, 0), (LAST, (1 << 32) - 1, 0xFFFF)])
def test_086_a_goodbye_is_not_answered_whatever_stands_in_it(raw, garbage):
    """DISC is not answered and ends the connection; its other fields are not looked at."""

    def script(t):
        begin(t)
        t.request(READ, 5, 7)
        t.send(request(DISC, *garbage))
        assert t.end() == CLOSED

    same(raw, script)


def test_086_what_was_asked_before_a_goodbye_is_answered(raw):
    """The protocol has pending requests finished first; QEMU cuts its replies short."""

    def steps(t):
        begin(t)
        t.send(request(READ, 0, 1 << 20, DF) * 8 + request(DISC) + request(READ, 0, 1))
        return t.end()

    theirs, ours = ask(raw, steps)
    assert len(ours) == 8 * (28 + (1 << 20)) + len(CLOSED)
    assert len(theirs) <= len(ours)


@BOTH_FORMS
@pytest.mark.parametrize("magic", [b"\x12\x60\x95\x13", b"\x25\x60\x95\x14", bytes(4)])
def test_087_a_wrong_magic_ends_the_connection(raw, magic, structured):
    """Nobody knows where the next request would begin."""

    def script(t):
        begin(t, structured=structured)
        t.send(magic + request(READ, 0, 1)[4:] + request(READ, 0, 1))
        assert t.end().endswith(CLOSED)

    same(raw, script)
