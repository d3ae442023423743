"""Boards, their buses, and where devices find a place."""

from __future__ import annotations

import asyncio

import pytest

from nbexport.cli.dropin import machine_types
from nbexport.emulator import Release, plugging, properties
from nbexport.emulator.board import PCI_SLOTS, Board, Device
from nbexport.emulator.machine import Machine
from nbexport.emulator.models import MODELS
from nbexport.emulator.objects import Objects
from nbexport.errors import CommandError, UsageError


def plugged(board, model, identifier=None, **given):
    """Plug a device in at the first bus for it."""
    kind = MODELS[model]
    device = Device(kind, board.path_for(identifier), identifier, board.bus_for(kind.bus, model))
    device.properties = {name.replace("_", "-"): value for name, value in given.items()}
    board.plug(device)
    return device


def test_a_bus_has_as_many_places_as_it_has():
    board = Board("pc")
    places = [plugged(board, "virtio-scsi-pci").place[0] for _ in range(PCI_SLOTS - 2)]
    assert places == list(range(2, PCI_SLOTS))
    with pytest.raises(CommandError, match="no slot/function available for virtio-scsi-pci"):
        plugged(board, "virtio-scsi-pci")
    assert [bus.name for bus in board.buses()][1:3] == ["scsi.29", "scsi.28"]


def test_disks_go_to_the_newest_controller_and_share_none_of_their_places():
    board = Board("q35")
    with pytest.raises(CommandError, match="No 'SCSI' bus found for device 'scsi-hd'"):
        plugged(board, "scsi-hd")
    plugged(board, "virtio-scsi-pci", "s0")
    plugged(board, "virtio-scsi-pci", "s1")
    first, second = plugged(board, "scsi-hd", "a"), plugged(board, "scsi-hd", "b")
    third = plugged(board, "scsi-cd", "c", scsi_id=1)
    assert {device.bus.name for device in (first, second, third)} == {"s1.0"}
    assert [device.place for device in (first, second, third)] == [(0, 0), (1, 0), (1, 1)]
    with pytest.raises(CommandError, match="lun already used by 'c'"):
        plugged(board, "scsi-hd", scsi_id=1, lun=1)
    board.unplug(second)
    assert plugged(board, "scsi-hd").place == (1, 0)
    assert board.find("b") is None
    assert board.find("/machine/peripheral/a") is first


def test_a_device_without_a_name_has_a_place_in_the_tree_that_is_its_own():
    board = Board("pc")
    paths = [board.path_for(None), board.path_for(None), board.path_for(None, own=True)]
    assert paths[:2] == [f"/machine/peripheral-anon/device[{index}]" for index in (0, 1)]
    assert paths[2].startswith("/machine/unattached/")
    plugged(board, "virtio-blk-pci", "v")
    with pytest.raises(CommandError, match="Duplicate device ID 'v'"):
        board.path_for("v")
    assert (board.default_bus, Board("none").default_bus) == ("ide", "none")
    assert list(Board("none").buses()) == []


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [("share-rw", "yes", True), ("share-rw", False, False), ("num-queues", "0x10", 16),
     ("bootindex", "-1", -1), ("addr", "0x1f.7", 255), ("addr", "a", 80), ("serial", 12, "12"),
     ("min_io_size", "4k", 4096), ("logical_block_size", "0", 0), ("iothread", "", None)],
)  # fmt: skip
def test_properties_are_read_as_their_types_are(name, given, value):
    objects = Objects(Release.parse("7.2"))
    assert properties.read(MODELS["virtio-blk-pci"], name, given, objects) == value


async def refusal(machine, arguments):
    with pytest.raises(CommandError) as told:
        await plugging.add(machine, arguments)
    return str(told.value)


def test_an_attempt_that_fails_leaves_nothing():
    asyncio.run(attempt_and_fail())


async def attempt_and_fail():
    machine = Machine(Release.parse("7.2"))
    machine.board = Board("pc")
    add = machine.handlers()["blockdev-add"]
    await add({"driver": "null-co", "node-name": "n"})
    for more, text in (
        ({"bogus": "1"}, "Property 'virtio-blk-pci.bogus' not found"),
        ({"addr": "1"}, "PCI: slot 1 function 0 not available"),
        ({"logical_block_size": "4k", "physical_block_size": "512"}, "not supported"),
    ):
        given = {"driver": "virtio-blk", "drive": "n", **more}
        assert text in await refusal(machine, given)
        assert machine.graph.disks == []
        assert list(machine.board.devices()) == []
    device = await plugging.add(machine, {"driver": "virtio-blk", "drive": "n", "id": "v"})
    assert machine.graph.disks == [device.disk]
    assert machine.board.disk_of("v/virtio-backend") is device.disk
    await machine.close()


@pytest.mark.parametrize("release", ["2.12", "5.0", "7.2", "11.0"])
def test_a_second_wish_to_leave_is_refused_since_there_is_a_word_for_it(release):
    asyncio.run(wish_twice(release))


async def wish_twice(release):
    machine = Machine(Release.parse(release))
    machine.board = Board("pc")
    await plugging.add(machine, {"driver": "virtio-scsi", "id": "s"})
    plugging.ask_to_leave(machine, "s")
    if machine.release.refuses_second_unplug:
        with pytest.raises(CommandError, match="already in the process of unplug"):
            plugging.ask_to_leave(machine, "s")
    else:
        plugging.ask_to_leave(machine, "s")
    events = []
    machine.on_event(lambda name, data: events.append((name, dict(data or {}))))
    plugging.reset(machine)
    await machine.close()
    assert [name for name, _ in events] == ["RESET", "DEVICE_DELETED", "DEVICE_DELETED"]
    assert events[-1][1] == {"device": "s", "path": "/machine/peripheral/s"}
    assert machine.release.refuses_second_unplug == (release != "2.12")


@pytest.mark.parametrize(
    ("kind", "release", "board"),
    [("pc", "7.2", "pc"), ("pc-i440fx-4.1", "7.2", "pc"), ("pc-q35-7.2", "7.2", "q35"),
     ("pc-q35-8.0", "7.2", None), ("pc-q35-2.3", "7.2", None), ("none", "2.12", "none"),
     ("microvm", "7.2", None)],
)  # fmt: skip
def test_types_of_machines_are_those_up_to_the_release(kind, release, board):
    known = Release.parse(release)
    if board is None:
        with pytest.raises(UsageError, match="unsupported machine type"):
            machine_types.board_of(kind, known)
    else:
        assert machine_types.board_of(kind, known) == board
        assert f"pc-i440fx-{release}" in machine_types.machines(known)
