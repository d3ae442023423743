"""Rate limits, with times that are made up."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nbexport.emulator import Release
from nbexport.qapi import load_release
from nbexport.qmp import Dispatcher, QmpServer, RateLimit, throttle
from nbexport.qmp.throttle import Emission, Throttle

LIMITS = {"RTC_CHANGE": RateLimit(), "VSERPORT_CHANGE": RateLimit(key="id")}


def made(event, number, **data):
    return Emission(event, {"n": number, **data}, (number, 0))


def numbers(emissions):
    return [emission.data["n"] for emission in emissions]


def test_the_first_goes_out_at_once_and_the_last_when_the_period_ends():
    limited = Throttle(LIMITS)
    assert numbers(limited.submit(made("RTC_CHANGE", 1), 100.0)) == [1]
    assert limited.next_time is None
    for number in (2, 3, 4):
        assert limited.submit(made("RTC_CHANGE", number), 100.0 + number / 10) == []
    assert limited.next_time == 101.0
    assert limited.expire(100.9) == []
    late = limited.expire(101.0)
    # the time of an event is that of its happening, not of its sending
    assert [(e.data["n"], e.stamp) for e in late] == [(4, (4, 0))]
    # what waited began a period of its own
    assert limited.submit(made("RTC_CHANGE", 5), 101.5) == []
    assert numbers(limited.expire(102.0)) == [5]
    assert limited.expire(103.0) == []
    assert numbers(limited.submit(made("RTC_CHANGE", 6), 103.1)) == [6]


def test_kinds_are_limited_apart():
    limited = Throttle(LIMITS)
    assert numbers(limited.submit(made("VSERPORT_CHANGE", 1, id="a"), 0.0)) == [1]
    assert numbers(limited.submit(made("VSERPORT_CHANGE", 2, id="b"), 0.1)) == [2]
    assert numbers(limited.submit(made("RTC_CHANGE", 3), 0.2)) == [3]
    assert limited.submit(made("VSERPORT_CHANGE", 4, id="b"), 0.3) == []
    assert limited.submit(made("VSERPORT_CHANGE", 5, id="a"), 0.4) == []
    assert numbers(limited.expire(5.0)) == [5, 4]


def test_events_without_a_limit_pass():
    limited = Throttle(LIMITS)
    for number in range(5):
        assert numbers(limited.submit(made("SHUTDOWN", number), 0.0)) == [number]


def test_kinds_are_bounded(monkeypatch):
    monkeypatch.setattr(throttle, "MAX_KEYS", 3)
    limited = Throttle(LIMITS)
    for number in range(6):
        sent = limited.submit(made("VSERPORT_CHANGE", number, id=str(number)), 0.0)
        assert numbers(sent) == [number]
    assert limited.submit(made("VSERPORT_CHANGE", 9, id="0"), 0.5) == []
    assert numbers(limited.submit(made("VSERPORT_CHANGE", 9, id="5"), 0.5)) == [9]


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["a", "b"])), max_size=60))
def test_no_two_in_a_period_and_the_last_always_comes(steps):
    limited = Throttle(LIMITS)
    now = 0.0
    sent = []
    last = {}
    for number, (wait, key) in enumerate(steps):
        now += wait
        last[key] = number
        due = limited.submit(made("VSERPORT_CHANGE", number, id=key), now)
        sent += [(now, each.data["id"], each.data["n"]) for each in due]
    due = limited.expire(now + 10)
    sent += [(now + 10, each.data["id"], each.data["n"]) for each in due]
    assert limited.next_time is None
    for key in ("a", "b"):
        mine = [(when, n) for when, name, n in sent if name == key]
        assert all(y[0] - x[0] >= 1.0 - 1e-9 for x, y in pairwise(mine))
        assert [n for _, n in mine] == sorted(n for _, n in mine)
        if key in last:
            assert mine[-1][1] == last[key]


def test_releases_have_their_own_table():
    old, new = (Release.parse(name).rate_limits for name in ("4.2", "8.2"))
    assert set(new) - set(old) == {"MEMORY_DEVICE_SIZE_CHANGE", "HV_BALLOON_STATUS_REPORT"}
    assert "BLOCK_EXPORT_DELETED" not in new


def test_the_server_sends_the_last_one_by_itself(tmp_path):
    async def scenario():
        limits = {"BLOCK_EXPORT_DELETED": RateLimit(0.05)}
        dispatcher = Dispatcher(load_release("7.2"), {}, release=(7, 2))
        server = QmpServer(dispatcher, version={}, clock=lambda: (1, 2), limits=limits)
        path = tmp_path / "m.sock"
        await server.listen_unix(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"{'execute':'qmp_capabilities'}")
        await reader.readuntil(b"\r\n")
        await reader.readuntil(b"\r\n")
        for name in "abcd":
            server.emit("BLOCK_EXPORT_DELETED", {"id": name})
        found = [await reader.readuntil(b"\r\n") for _ in range(2)]
        assert [b'"a"' in found[0], b'"d"' in found[1]] == [True, True]
        server.emit("BLOCK_EXPORT_DELETED", {"id": "e"})
        writer.close()
        await server.close()  # with an event that waits

    async def limited():
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(limited())
