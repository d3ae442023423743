"""Limits: how long a request waits, who shares them, and which limits go together."""

import threading
import time

import pytest

from nbexport.block import Configuration, NullNode, ThrottleGroup, ThrottleNode
from nbexport.block.throttling import Bucket

SIZE = 1 << 30


def limits(**given):
    found = Configuration()
    found.update({name.replace("_", "-"): value for name, value in given.items()})
    found.check()
    return found


def seconds(act):
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def test_a_bucket_takes_a_tenth_of_a_second_at_once():
    bucket = Bucket(average=100)
    for _ in range(10):
        assert bucket.wait() == 0
        bucket.take(1)
    bucket.take(5)
    assert bucket.wait() == pytest.approx(0.05)
    bucket.leak(0.05)
    assert bucket.wait() == pytest.approx(0)


def test_a_burst_is_as_long_as_it_may_be():
    bucket = Bucket(average=10, most=100, length=3)
    bucket.take(10)
    assert bucket.wait() == 0
    bucket.take(5)  # faster than the burst's own rate
    assert bucket.wait() == pytest.approx(0.05)
    bucket.leak(1)
    bucket.take(300)
    assert bucket.wait() == pytest.approx((305 - 300) / 10)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bps_total": 1, "bps_read": 1}, "cannot be used at the same time"),
        ({"iops_size": 1}, "requires an iops value"),
        ({"bps_total": -1}, "must be within"),
        ({"bps_total": 10**15 + 1}, "must be within"),
        ({"bps_total": 1, "bps_total_max_length": 0}, "cannot be 0"),
        ({"bps_total": 1, "bps_total_max_length": 2}, "without burst rate"),
        ({"bps_total_max": 1}, "require corresponding"),
        ({"bps_total": 2, "bps_total_max": 1}, "cannot be lower"),
        ({"bps_total": 1, "bps_total_max": 10**12, "bps_total_max_length": 2000}, "too high"),
        ({"bps_total_max_length": 1 << 32}, "range"),
    ],
)
def test_limits_that_do_not_go_together_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        limits(**given)


def test_limits_are_told_as_they_were_set():
    told = limits(iops_total=5, iops_total_max=9, iops_total_max_length=2, iops_size=4096).limits()
    assert told["iops-total"], told["iops-total-max"] == (5, 9)
    assert (told["iops-total-max-length"], told["iops-size"], told["bps-read"]) == (2, 4096, 0)
    assert len(told) == 19


def test_reads_and_writes_wait_for_their_own():
    node = ThrottleNode(NullNode(SIZE), ThrottleGroup(limits(iops_write=20)))
    assert seconds(lambda: [node.read(0, 512) for _ in range(100)]) < 0.1
    spent = seconds(lambda: [node.write_from(0, memoryview(bytes(512))) for _ in range(8)])
    assert 0.2 < spent < 1


def test_a_long_request_passes_and_the_next_one_waits():
    node = ThrottleNode(NullNode(SIZE), ThrottleGroup(limits(bps_total=1 << 20)))
    assert seconds(lambda: node.write_zeroes(0, 1 << 19)) < 0.1
    assert 0.3 < seconds(lambda: node.discard(0, 512)) < 1


def test_a_long_request_counts_as_several():
    node = ThrottleNode(NullNode(SIZE), ThrottleGroup(limits(iops_total=40, iops_size=512)))
    node.read(0, 512 * 12)
    assert 0.1 < seconds(lambda: node.read(0, 512)) < 0.8


def test_disks_of_a_group_share_it():
    group = ThrottleGroup(limits(iops_total=20))
    one, other = ThrottleNode(NullNode(SIZE), group), ThrottleNode(NullNode(SIZE), group)
    assert group.members == [one, other]
    for _ in range(3):
        one.read(0, 512)
    assert seconds(lambda: other.read(0, 512)) > 0.02
    other.join(ThrottleGroup())
    assert seconds(lambda: other.read(0, 512)) < 0.02
    one.close()
    assert group.members == []


@pytest.mark.parametrize("verb", ["lift", "drain", "configure"])
def test_who_waits_can_be_let_pass(verb):
    group = ThrottleGroup(limits(bps_read=1000))
    node = ThrottleNode(NullNode(SIZE), group)
    node.read(0, 1 << 20)
    waiting = threading.Thread(target=node.read, args=(0, 512))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    if verb == "configure":
        group.configure(limits(bps_read=1 << 30))
    else:
        getattr(node, verb)()
    waiting.join(10)
    assert not waiting.is_alive()
