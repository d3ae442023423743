"""Monitor sessions as data, one for each purpose: what is compared between QEMU and the emulator.

Each module holds sessions by name; `SESSIONS` has all of them. Files are those of
`qmp_play.make_files`; each session begins on an empty process with a negotiated connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmp_sessions import arguments, bitmaps, exports, filters, nodes, protocol, server, transactions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qmp_play import Step

SESSIONS: Mapping[str, Sequence[Step]] = {
    f"{module.__name__.rpartition('.')[2]}: {name}": steps
    for module in (arguments, bitmaps, exports, filters, nodes, protocol, server, transactions)
    for name, steps in module.SESSIONS.items()
}
