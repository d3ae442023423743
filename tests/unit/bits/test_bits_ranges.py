"""Parts of a bitmap as extents, and the number that tells of changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap
from nbexport.errors import UsageError

SIZE = 200 * 512 - 100


@given(
    st.lists(st.integers(0, 199), max_size=60),
    st.integers(0, SIZE),
    st.integers(0, SIZE),
)
def test_a_range_is_the_clip_of_the_whole(granules, one, other):
    bitmap = Bitmap(SIZE, 512)
    for granule in granules:
        bitmap.set(granule * 512, min(512, SIZE - granule * 512))
    start, end = sorted((one, other))
    assert bitmap.extents(start, end) == bitmap.extents().clip(start, end)


def test_a_range_outside_the_disk_is_refused():
    with pytest.raises(UsageError, match="range outside the disk"):
        Bitmap(SIZE, 512).extents(0, SIZE + 1)


def test_each_change_is_another_version():
    bitmap = Bitmap(SIZE, 512)
    seen = [bitmap.version]
    for change in (
        lambda: bitmap.set(0, 1),
        lambda: bitmap.reset(0, 512),
        bitmap.clear,
        lambda: bitmap.merge(Bitmap(SIZE, 1024)),
    ):
        change()
        seen.append(bitmap.version)
    assert len(set(seen)) == len(seen)
