"""The engines take any bytes: only the errors they are meant to raise, bounds kept, and the same
events however the bytes are split. `make fuzz` goes on looking for longer."""

import random

import pytest
from fuzz_targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(name, data):
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_many_more_bytes(name):
    """The same ones each time, longer than those above."""
    chance = random.Random(name)
    for _ in range(300):
        TARGETS[name](chance.randbytes(chance.randrange(600)))
