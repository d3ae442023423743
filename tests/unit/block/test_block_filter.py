"""What a copy-before-write filter does with copies that fail or take too long."""

import errno
import threading

import pytest

from nbexport.block import CopyBeforeWriteNode, NullNode

SIZE = 1 << 20
CLUSTER = 65536


class Slow(NullNode):
    """A target that waits until it may go on, or fails."""

    def __init__(self, error=None):
        super().__init__(SIZE)
        self.may_go_on = threading.Event()
        self.error = error

    def _write(self, offset, data):
        if self.error is not None:
            raise self.error
        assert self.may_go_on.wait(10)

    def _write_zeroes(self, offset, length, **more):
        self._write(offset, None)


def test_a_copy_that_takes_too_long_fails_the_write():
    source, target = NullNode(SIZE), Slow()
    node = CopyBeforeWriteNode(source, target, timeout_seconds=0.05)
    with pytest.raises(OSError, match="took too long") as caught:
        node.write_from(0, memoryview(bytes(512)))
    assert caught.value.errno == errno.ETIMEDOUT
    target.may_go_on.set()
    node.write_from(0, memoryview(bytes(512)))
    assert not node.copying.remaining.extents(0, CLUSTER).flags.any()


def test_a_copy_that_is_in_time_is_waited_for():
    target = Slow()
    node = CopyBeforeWriteNode(NullNode(SIZE), target, timeout_seconds=5)
    timer = threading.Timer(0.05, target.may_go_on.set)
    timer.start()
    node.write_from(0, memoryview(bytes(512)))
    assert target.may_go_on.is_set()
    assert node.copying.copied == CLUSTER


@pytest.mark.parametrize("timeout", [0, 5])
def test_an_error_fails_the_write_or_ends_the_copying(timeout):
    error = OSError(errno.ENOSPC, "full")
    node = CopyBeforeWriteNode(NullNode(SIZE), Slow(error), timeout_seconds=timeout)
    with pytest.raises(OSError, match="full"):
        node.write_from(0, memoryview(bytes(512)))
    node = CopyBeforeWriteNode(
        NullNode(SIZE), Slow(error), timeout_seconds=timeout, breaks_snapshot=True
    )
    node.write_from(0, memoryview(bytes(512)))
    node.write_from(CLUSTER, memoryview(bytes(512)))
    assert node.snapshot_error is error
    assert node.copying.remaining.count == SIZE


def test_without_a_guard_somebody_else_copies():
    node = CopyBeforeWriteNode(NullNode(SIZE), NullNode(SIZE), guarded=False)
    node.write_from(0, memoryview(bytes(512)))
    assert node.copying.copied == 0
