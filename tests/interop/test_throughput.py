"""Each server that is installed is asked for the same, and tells the same."""

import pytest
from peers import peer

from nbexport.bench.throughput import Bench, Workload, bitmap_context, ratios

pytestmark = pytest.mark.interop


def test_every_peer_takes_part_where_it_can():
    for name in ("qemu-nbd", "nbdkit"):
        peer(name)
    small = Workload(size=1 << 28, share=0.1, depth=4)
    with Bench(["qemu-nbd", "nbdkit"], rounds=1) as bench:
        rates = bench.rates(small)
        assert [rate.server for rate in rates] == ["nbexport", "qemu-nbd"]
        # the same places have the same extents, whoever tells them
        shares = [rate.extents / rate.requests for rate in rates]
        assert shares[0] == pytest.approx(shares[1], rel=0.2)
        assert ratios(rates)["qemu-nbd"] > 0
        # other maps than ours would be an error
        times = bench.map_times(small, [(bitmap_context(),), ("base:allocation",)])
        assert len({time.extents for time in times}) == 1
        raw = Workload(size=1 << 28, share=0.1, contexts=("base:allocation",), raw=True)
        names = [rate.server for rate in bench.rates(raw)]
    assert names == ["nbexport", "qemu-nbd", "nbdkit"]
