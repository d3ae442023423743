"""Internal snapshots: what their table says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.block.qcow2 import layout
from nbexport.units import align_up

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import Header


@dataclass(frozen=True)
class Snapshot:
    """One internal snapshot.

    Attributes:
        id: its identifier, a number as text if QEMU made it.
        name: its name.
        l1_table_offset: where its L1 table is in the file.
        l1_entries: entries of that table.
        date_sec: seconds since 1970 when it was taken.
        date_nsec: the nanoseconds beside them.
        vm_clock_nsec: the guest's clock.
        vm_state_size: bytes of the saved machine, 0 if only the disk was saved.
        disk_size: size of the disk then, in bytes.
        icount: executed instructions, None if not recorded.

    Source: qcow2 specification, "Snapshots".
    """

    id: str
    name: str
    l1_table_offset: int
    l1_entries: int
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    vm_state_size: int
    disk_size: int
    icount: int | None


def read_snapshots(file: BlockNode, header: Header) -> tuple[Snapshot, ...]:
    """Return the snapshots of an image whose header was checked.

    Raises:
        OSError: the host cannot read.
    """
    # The header's check has bounded the table by 64 MiB; entries behind the file's end are zeroes.
    area = bytearray(header.snapshots_length)
    file.read_padded(header.snapshots_offset, memoryview(area))
    found: list[Snapshot] = []
    at = 0
    while len(found) < header.nb_snapshots:
        at = align_up(at, 8)
        if at + layout.SNAPSHOT_FIELDS.size > len(area):
            break
        (
            l1_offset, l1_entries, id_length, name_length, seconds, nanos, clock, state, extra,
        ) = layout.SNAPSHOT_FIELDS.unpack_from(area, at)  # fmt: skip
        at += layout.SNAPSHOT_FIELDS.size
        more = bytes(area[at : at + extra])
        wide_state, disk_size, icount = layout.SNAPSHOT_EXTRA.unpack(
            more[: layout.SNAPSHOT_EXTRA.size].ljust(layout.SNAPSHOT_EXTRA.size, b"\0")
        )
        at += extra
        identifier = bytes(area[at : at + id_length])
        name = bytes(area[at + id_length : at + id_length + name_length])
        at += id_length + name_length
        no_icount = len(more) < 24 or icount == (1 << 64) - 1
        found.append(
            Snapshot(
                id=identifier.decode("utf-8", "surrogateescape"),
                name=name.decode("utf-8", "surrogateescape"),
                l1_table_offset=l1_offset,
                l1_entries=l1_entries,
                date_sec=seconds,
                date_nsec=nanos,
                vm_clock_nsec=clock,
                vm_state_size=wide_state if len(more) >= 8 else state,
                disk_size=disk_size if len(more) >= 16 else header.size,
                icount=None if no_icount else icount,
            )
        )
    return tuple(found)
