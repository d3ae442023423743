"""What was measured, and how it compares."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, field
from typing import Any

from nbexport import __version__
from nbexport.bench.servers import OURS


@dataclass
class Comparison:
    """One piece of work on every server that can do it.

    Attributes:
        name: which work.
        what: what was done, for a reader.
        unit: of the samples: ``s`` or ``B``; less is better.
        samples: what was measured for each server, in the order of the rounds.
        target: the ratio to reach against qemu-nbd, None where none was set.
        limit: what this package's own figure has to stay below, in ``unit``.
    """

    name: str
    what: str
    unit: str = "s"
    samples: dict[str, list[float]] = field(default_factory=dict)
    target: float | None = None
    limit: float | None = None

    def add(self, server: str, value: float) -> None:
        """Take one more measurement."""
        self.samples.setdefault(server, []).append(value)

    def median(self, server: str) -> float:
        """The median of a server's samples."""
        return statistics.median(self.samples[server])

    def ratio(self, peer: str) -> float | None:
        """How many times as much the peer needs; None if one of the two was not measured."""
        if peer not in self.samples or OURS not in self.samples:
            return None
        return self.median(peer) / self.median(OURS)

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        peers = [name for name in self.samples if name != OURS]
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "samples": self.samples,
            "medians": {name: self.median(name) for name in self.samples},
            "ratios": {name: self.ratio(name) for name in peers},
            "target": self.target,
            "limit": self.limit,
        }


@dataclass
class Report:
    """All comparisons of a run.

    Attributes:
        comparisons: in the order of the run.
        rounds: how often each was measured.
        versions: what each server calls itself.
    """

    comparisons: list[Comparison]
    rounds: int
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "nbexport": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "rounds": self.rounds,
            "versions": self.versions,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
        }

    def lines(self) -> list[str]:
        """Lay it out as text: a table of medians and ratios."""
        servers = list(dict.fromkeys(name for c in self.comparisons for name in c.samples))
        peers = [name for name in servers if name != OURS]
        header = ["", *servers, *(f"{name} / {OURS}" for name in peers), "target"]
        rows = [header]
        for comparison in self.comparisons:
            row = [comparison.name]
            row += [
                _amount(comparison.median(name), comparison.unit)
                if name in comparison.samples
                else "-"
                for name in servers
            ]
            for name in peers:
                ratio = comparison.ratio(name)
                row.append("-" if ratio is None else f"{ratio:.2f}")
            if comparison.limit is not None:
                row.append(f"< {_amount(comparison.limit, comparison.unit)}")
            else:
                row.append("" if comparison.target is None else f">= {comparison.target:g}")
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**20:.1f} MiB"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
