import io

import numpy as np
import pytest

from nbexport.bench.backups import Fetched
from nbexport.bits import Extents
from nbexport.errors import UsageError
from nbexport.plots import backup_table, draw_backups, marks

MiB = 1 << 20
SIZE = 64 * MiB
ALLOCATION = Extents.from_lengths([16 * MiB, 48 * MiB], [0, 3])
DIRTY = Extents.from_lengths([MiB, 3 * MiB, SIZE - 4 * MiB], [0, 1, 0])
MAPS = {"base:allocation": ALLOCATION}
FULL = Fetched("onsite", None, MAPS, 16 * MiB, SIZE, 16 * MiB, True)
SINCE = Fetched("onsite", "o-1", {**MAPS, "qemu:dirty-bitmap:o-1": DIRTY}, 16 * MiB, 3 * MiB,
                2 * MiB, True)  # fmt: skip
WRONG = Fetched("off", "o-2", {**MAPS, "qemu:dirty-bitmap:o-2": DIRTY}, 16 * MiB, 3 * MiB,
                2 * MiB, False)  # fmt: skip


def test_a_table_tells_what_was_saved_and_what_is_wrong():
    rows = backup_table([FULL, SINCE, WRONG]).rows
    assert rows[0][:4] == ("onsite", "(full)", "all", "16 MiB")
    assert rows[1][4:] == ("16 MiB", "14 MiB (88%)", "yes")
    assert rows[2][-1] == "NO"


def test_only_bitmaps_are_lanes():
    assert marks([FULL, SINCE, WRONG]) == {
        "qemu:dirty-bitmap:o-1": DIRTY, "qemu:dirty-bitmap:o-2": DIRTY,
    }  # fmt: skip


def test_a_bar_is_as_long_as_what_was_copied():
    from PIL import Image

    plot = draw_backups([FULL, SINCE], title="Backups")
    assert plot.alt == (
        "Backups. onsite, full: 16 MiB copied, 0 B saved; o-1: 2 MiB copied, 14 MiB saved."
    )
    picture = np.asarray(Image.open(io.BytesIO(plot.png())).convert("RGB")).astype(int)
    blue = (abs(picture - [0x00, 0x72, 0xB2]).max(axis=2) <= 3).sum(axis=1)
    # the bar of the full backup is eight times as long as that of the increment
    lengths = sorted({int(n) for n in blue if n > 60})
    assert 7.5 < lengths[-1] / lengths[0] < 8.5


def test_no_backup_is_no_figure():
    with pytest.raises(UsageError, match="no backup"):
        draw_backups([])
