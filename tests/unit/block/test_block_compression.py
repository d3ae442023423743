"""Compressed clusters: what comes out, and what damage and malice cannot make come out."""

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nbexport.block.qcow2.clusters import _inflate_zlib, _inflate_zstd

SIZE = 65536


def packed(data, **options):
    return bytearray(zstandard.ZstdCompressor(**options).compress(data))


@given(st.binary(max_size=3000), st.integers(0, 5), st.binary(max_size=100))
def test_frames_are_joined_and_what_follows_is_somebody_elses(seed, cuts, behind):
    data = (seed or b"x") * (SIZE // len(seed or b"x") + 1)
    data = data[:SIZE]
    step = SIZE // (cuts + 1) + 1
    frames = b"".join(packed(data[at : at + step]) for at in range(0, SIZE, step))
    assert _inflate_zstd(bytearray(frames + behind), SIZE) == data


def test_a_frame_with_a_checksum_is_read_to_its_end():
    data = bytes(range(256)) * 256
    assert _inflate_zstd(packed(data, write_checksum=True), SIZE) == data


@pytest.mark.parametrize("extra", [1, SIZE, 1 << 20])
def test_a_frame_that_gives_more_than_a_cluster_gives_nothing(extra):
    assert _inflate_zstd(packed(bytes(SIZE + extra)), SIZE) == b""


@pytest.mark.parametrize("missing", [1, 3, 10])
def test_a_frame_that_was_cut_gives_nothing(missing):
    frame = packed(bytes(range(256)) * 256)
    assert _inflate_zstd(frame[:-missing], SIZE) == b""


def test_too_little_is_returned_as_it_is():
    assert _inflate_zstd(packed(b"abc"), SIZE) == b"abc"
    assert _inflate_zstd(bytearray(), SIZE) == b""


def test_garbage_is_an_error():
    with pytest.raises(zstandard.ZstdError):
        _inflate_zstd(bytearray(b"garbage" * 100), SIZE)


@pytest.mark.parametrize("inflate", [_inflate_zstd, _inflate_zlib])
def test_a_bomb_takes_no_memory(inflate):
    import zlib

    if inflate is _inflate_zlib:
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        bomb = bytearray(packer.compress(bytes(1 << 28)) + packer.flush())
    else:
        bomb = packed(bytes(1 << 28))
    tracemalloc.start()
    inflate(bomb, SIZE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
