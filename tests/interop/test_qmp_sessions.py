"""Scripted monitor sessions, answered by the emulator as by QEMU 7.2, byte for byte.

What differs by nature is masked: the time, the version's package, generated node names (their
numbers are kept), and how many blocks a copied file occupies.
"""

from __future__ import annotations

import pytest
import qmp_family
from hypothesis import HealthCheck, given, settings
from qmp_play import PROGRAMS, Pair, make_files
from qmp_sessions import SESSIONS

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def files(tmp_path_factory, two_bitmaps):
    folder = tmp_path_factory.mktemp("files")
    make_files(folder, two_bitmaps)
    return folder


@pytest.fixture(scope="module", params=PROGRAMS)
def pair(request, tmp_path_factory, files):
    with Pair(request.param, tmp_path_factory.mktemp("pair"), files) as started:
        yield started


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_is_that_of_qemu(name, pair):
    difference = pair.difference(SESSIONS[name])
    assert not difference, f"{name}\n{difference}"


def test_there_are_sessions_enough_to_mean_something():
    assert len(SESSIONS) >= 30
    assert sum(map(len, SESSIONS.values())) >= 400


@settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=qmp_family.sessions())
def test_a_generated_session_is_that_of_qemu(pair, steps):
    difference = pair.difference(steps)
    assert not difference, difference
