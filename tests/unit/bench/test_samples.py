"""Disks to look at: what a client reads of them is what they are made of."""

import shutil

import numpy as np
import pytest

from nbexport import nbd
from nbexport.bench.samples import image_sample, made_up_sample
from nbexport.bits.measures import coarsen
from nbexport.block.editing import edit_bitmaps
from nbexport.errors import PeerError, UsageError

MONDAY, TUESDAY = (nbd.dirty_bitmap_name(day) for day in ("monday", "tuesday"))


def test_what_a_client_reads_of_a_made_up_disk_is_what_was_written():
    sample = made_up_sample("mixed", 1 << 30, 3000, 65536, seed=5)
    maps = sample.read()
    assert list(maps) == ["base:allocation", MONDAY, TUESDAY]
    for day in sample.bitmaps:
        seen = maps[nbd.dirty_bitmap_name(day)]
        assert seen == coarsen(sample.written[day], 65536)
        assert sample.granularities[day] == 65536
    stored = maps["base:allocation"].map_flags(lambda flags: flags == 0)
    # what is dirty was written, and what was written is stored
    assert stored.combine(maps[MONDAY], np.minimum).total(1) == maps[MONDAY].total(1)


def test_an_image_shows_its_bitmaps(two_bitmaps):
    with image_sample(two_bitmaps) as sample:
        maps = sample.read()
    assert sample.bitmaps == ("weekly", "daily")
    assert sample.granularities == {"weekly": 65536, "daily": 4096}
    for name in sample.bitmaps:
        assert maps[nbd.dirty_bitmap_name(name)] == sample.written[name]
    with image_sample(two_bitmaps, ["daily"]) as one:
        assert list(one.read())[2:] == [nbd.dirty_bitmap_name("daily")]


def test_bitmaps_that_are_not_there_are_named(two_bitmaps, tmp_path):
    with pytest.raises(UsageError, match="no bitmap 'none'"):
        image_sample(two_bitmaps, ["none"])
    for path in two_bitmaps.parent.glob("*.qcow2"):
        shutil.copy(path, tmp_path)
    copy = tmp_path / two_bitmaps.name
    with edit_bitmaps(copy) as edit:
        for name in ("weekly", "daily"):
            edit.remove(name)
    with pytest.raises(UsageError, match="has no bitmaps"):
        image_sample(copy)


def test_the_server_ends_with_the_block():
    sample = made_up_sample("random", 1 << 22, 10, 512)
    with nbd.serving(sample.export) as uri:
        assert [export.name for export in nbd.list_exports(uri)] == [""]
    with pytest.raises(PeerError):
        nbd.Client.connect(uri)
