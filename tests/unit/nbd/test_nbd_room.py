"""Data of a read go into memory that is not cleared: every byte of it has to be written."""

import os

import pytest

from nbexport import block, nbd
from nbexport.nbd import replies, requests, transmission, wire
from nbexport.nbd.negotiation import Choice
from nbexport.resources import data_path

STALE = 0xAA


@pytest.fixture
def stale(monkeypatch):
    made = []

    def room(length):
        made.append(length)
        return memoryview(bytearray([STALE]) * length)

    monkeypatch.setattr(requests, "room_for", room)
    monkeypatch.setattr(transmission, "room_for", room)
    return made


def images():
    folder = data_path("images")
    return sorted(p for p in folder.iterdir() if p.suffix in {".qcow2", ".raw", ".img"})


def read_all(node, step):
    """Read the disk as a client without structured replies does, who gets no holes."""
    export = nbd.from_node(node, "")
    engine = transmission.ServerTransmission(Choice(export, False, (), False, 1))
    data = b""
    for offset in range(0, node.size, step):
        length = min(step, node.size - offset)
        engine.receive_data(wire.pack_request(wire.CMD_READ, 1, offset, length))
        request = engine.next_request()
        reply = engine.kept_reply(request) or requests.answer(engine, request)
        head, body = b"".join(reply[:1]), b"".join(reply[1:])
        assert wire.SIMPLE_REPLY.unpack(head) == (wire.SIMPLE_REPLY_MAGIC, 0, 1)
        data += body
    return data


@pytest.mark.parametrize("path", images(), ids=lambda path: path.name)
def test_images(path, stale):
    with block.open_image(path) as node:
        expected = bytearray()
        for offset in range(0, node.size, 1 << 20):
            expected += node.read(offset, min(1 << 20, node.size - offset))
        assert read_all(node, 1 << 20) == bytes(expected)
    assert stale


def test_a_file_with_holes_and_an_odd_end(tmp_path, stale):
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 300_000)
        file.seek(100_000)
        file.write(b"x" * 5000)
    with block.open_image(path, format="raw") as node:
        expected = path.read_bytes() + bytes(node.size - 300_000)
        assert read_all(node, 70_001) == expected
    assert stale


def test_short_reads_have_cleared_memory():
    assert not any(replies.room_for(1000))
    assert len(replies.room_for(1 << 20)) == 1 << 20
