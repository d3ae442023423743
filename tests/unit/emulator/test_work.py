"""How a job keeps its speed."""

from __future__ import annotations

import pytest

from nbexport.emulator import work


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(work.time, "monotonic", lambda: now[0])
    return now


def test_without_a_limit_nothing_waits(clock):
    assert work.Pace(0).delay(1 << 40) == 0
    assert clock == [1000.0]


def test_what_is_above_a_slice_s_share_is_waited_for(clock):
    pace = work.Pace(1000)  # 100 bytes in a slice of 0.1 s
    assert pace.delay(60) == 0
    assert pace.delay(60) == pytest.approx(0.12)
    clock[0] += 0.05
    assert pace.delay(80) == pytest.approx(0.15)
    clock[0] += 0.2
    assert pace.delay(60) == 0


def test_a_new_speed_counts_what_was_done(clock):
    pace = work.Pace(1)
    assert pace.delay(10) == pytest.approx(1.0)
    pace.set(1000)
    assert pace.delay(90) == pytest.approx(0.1)
    pace.set(0)
    assert pace.delay(1 << 30) == 0
    assert clock == [1000.0]
