"""Servers that send what a script says, whatever a client asks, and the frames of such scripts."""

import contextlib
import socket
import struct
import threading

from nbd_talk import EXTENDED, GO, LIST_META, SET_META, STRUCTURED

GREETING = b"NBDMAGICIHAVEOPT\0\3"


def reply(number, kind, data=b""):
    return bytes.fromhex("0003e889045565a9") + struct.pack(">III", number, kind, len(data)) + data


def chunk(kind, payload, *, done=True, cookie=1, length=None):
    size = len(payload) if length is None else length
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, size) + payload


def meta(option, number=4, name=b"x:y"):
    return reply(option, 4, struct.pack(">I", number) + name)


SIZE = 1 << 20
SIZES = struct.pack(">HIII", 3, 1, 4096, 32 << 20)


def export_info(size=SIZE, *, sizes=SIZES):
    return reply(GO, 3, sizes) + reply(GO, 3, struct.pack(">HQH", 0, size, 0x8F)) + reply(GO, 1)


COMPACT = GREETING + reply(EXTENDED, 1 << 31 | 1)
AGREED = COMPACT + reply(STRUCTURED, 1)
LISTED = AGREED + meta(LIST_META, 0) + reply(LIST_META, 1)
SELECTED = LISTED + meta(SET_META) + reply(SET_META, 1)
READY = SELECTED + export_info()


@contextlib.contextmanager
def scripted(tmp_path, data, *, endless=b""):
    """Listen once and send ``data``, then ``endless`` again and again, then close."""
    path = tmp_path / "hostile"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.sendall(data)
                while endless:
                    peer.sendall(endless)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"nbd+unix:///?socket={path}"
    finally:
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def data_chunk(offset, length, **options):
    return chunk(1, struct.pack(">Q", offset) + bytes(length), **options)


def hole(offset, length, **options):
    return chunk(2, struct.pack(">QI", offset, length), **options)


def status(*pairs, number=4, **options):
    words = [word for pair in pairs for word in pair]
    return chunk(5, struct.pack(f">I{len(words)}I", number, *words), **options)
