"""Changing stored bitmaps and locking images, without any peer."""

from __future__ import annotations

import shutil

import pytest

from nbexport.bits import Bitmap
from nbexport.block import (
    FileNode,
    ImageLockedError,
    InconsistentBitmapError,
    check_image,
    edit_bitmaps,
    locks,
    open_image,
)
from nbexport.errors import FormatError, UsageError


@pytest.fixture
def image(two_bitmaps_copy):
    return two_bitmaps_copy


def stored(image):
    with open_image(image) as node:
        return dict(node.bitmaps)


def test_what_is_changed_is_stored_when_the_block_ends(image):
    before = stored(image)
    first, second = before
    with edit_bitmaps(image) as store:
        store.add("new", 4096, enabled=False)
        store.merge("new", store.find(first))
        store.clear(second)
        store.disable(second)
    after = stored(image)
    assert list(after) == [first, second, "new"]
    assert after[first] == before[first]
    assert (after[second].enabled, after[second].bitmap.count) == (False, 0)
    assert after["new"].bitmap == before[first].bitmap.at_granularity(4096)
    assert not after["new"].enabled
    assert check_image(str(image)).messages == []
    with edit_bitmaps(image) as store:
        for name in after:
            store.remove(name)
    assert stored(image) == {}
    found = check_image(str(image))
    assert (found.leaks, found.corruptions) == (0, 0)


def test_a_writer_that_dies_leaves_them_inconsistent(image, tmp_path):
    crashed = tmp_path / "crashed.qcow2"
    before = stored(image)
    with edit_bitmaps(image):
        shutil.copy(image, crashed)
    assert stored(image) == before
    assert all(one.inconsistent for one in stored(crashed).values())
    with edit_bitmaps(crashed) as store:
        for name in before:
            for act in (store.clear, store.enable, store.disable):
                with pytest.raises(InconsistentBitmapError, match="is inconsistent"):
                    act(name)
            with pytest.raises(InconsistentBitmapError):
                store.merge(name, store.find(name))
        store.remove(next(iter(before)))
    left = stored(crashed)
    assert list(left) == list(before)[1:]
    assert all(one.inconsistent for one in left.values())


def test_writes_are_marked_until_the_close(image):
    first = next(iter(stored(image)))
    with edit_bitmaps(image) as store:
        store.clear(first)
        store.enable(first)
        store._node.tracking.begin()
        store._node.tracking.end(0, 1)
        store.disable(first)
        store._node.tracking.begin()
        store._node.tracking.end(1 << 20, 1)
    bitmap = stored(image)[first].bitmap
    assert bitmap.count == bitmap.granularity


def test_what_an_image_cannot_have_is_refused_in_qemus_words(image):
    first = next(iter(stored(image)))
    size = stored(image)[first].bitmap.size
    other = Bitmap(size * 2, 65536)
    with edit_bitmaps(image) as store:
        for name, granularity, text in (
            ("", None, "Bitmap name cannot be empty"),
            ("x", 511, "Granularity must be power of 2 and at least 512"),
            (first, None, f"Bitmap already exists: {first}"),
            ("n" * 1024, None, "Name length exceeds maximum"),
            ("a\0b", None, "Name has a NUL"),
            ("x", 1 << 32, "Granularity exceeds maximum"),
        ):
            with pytest.raises(UsageError, match=text):
                store.add(name, granularity)
        with pytest.raises(UsageError, match="Dirty bitmap 'no' not found"):
            store.remove("no")
        wrong = stored_with(store.find(first), other)
        with pytest.raises(UsageError, match="different sizes"):
            store.merge(first, wrong)
    assert stored(image)[first].bitmap.size == size


def stored_with(one, bitmap):
    from dataclasses import replace

    return replace(one, bitmap=bitmap)


def test_a_header_without_room_is_refused_and_leaves_the_image_as_it_was(image):
    raw = bytearray(image.read_bytes())
    length = int.from_bytes(raw[100:104], "big")
    cluster = 1 << int.from_bytes(raw[20:24], "big")
    # One extension that nobody knows takes the whole cluster, and the backing file goes.
    raw[8:20] = bytes(12)
    raw[length : length + 8] = b"room" + (cluster - length - 16).to_bytes(4, "big")
    raw[cluster - 8 : cluster] = bytes(8)
    raw[88:96] = bytes(8)
    image.write_bytes(raw)
    with pytest.raises(FormatError, match="no room"), edit_bitmaps(image) as store:
        store.add("x")
    assert image.read_bytes()[:cluster] == raw[:cluster]


def test_locks_are_shared_by_readers_and_refused_to_writers(image):
    with open_image(image), open_image(image):
        with pytest.raises(ImageLockedError) as caught, edit_bitmaps(image):
            pass
        assert caught.value.reason == 'Failed to get "write" lock'
        assert f"Is another process using the image [{image}]?" in str(caught.value)
    with edit_bitmaps(image):
        with pytest.raises(ImageLockedError, match='Failed to get shared "write" lock'):
            open_image(image)
        open_image(image, force_share=True).close()
    with FileNode(image) as file:
        file.locks.acquire(*locks.for_format(writable=False))
        file.locks.keep(locks.Permission.CONSISTENT_READ, locks.NOTHING)
        with edit_bitmaps(image):
            pass
    with pytest.raises(UsageError, match="force-share=on"):
        locks.for_format(writable=True, force_share=True)


def test_a_file_system_without_locks_is_used_without(image, monkeypatch):
    with FileNode(image) as file:

        def refused(*_):
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr("nbexport.block.locks.fcntl.fcntl", refused)
        file.locks.acquire(*locks.for_format(writable=True))
        assert not file.locks.held
