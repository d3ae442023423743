"""Monitors' sockets that are there before anything else is."""

from __future__ import annotations

import socket

import pytest

from nbexport import listening
from nbexport.cli.dropin import early
from nbexport.qmp.endpoints import BACKLOG


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("qmp", "unix:a.sock,server=on,wait=off", "a.sock"),
        ("qmp", "unix:/x/a.sock,server,nowait", "/x/a.sock"),
        ("qmp-pretty", "unix:a,server,wait=off", "a"),
        ("chardev", "socket,id=m,path=a.sock,server=on,wait=off", "a.sock"),
        ("chardev", "socket,path=a.sock,id=m,server,nowait", "a.sock"),
        # Who waits for a client, connects, or is written in another way is opened in his turn.
        ("qmp", "unix:a.sock,server=on", None),
        ("qmp", "unix:a,,b,server=on,wait=off", None),
        ("qmp", "unix:a.sock,server=on,wait=off,abstract=on", None),
        ("qmp", "tcp:localhost:1,server=on,wait=off", None),
        ("monitor", "unix:a.sock,server=on,wait=off", None),
        ("chardev", "socket,id=m,path=a.sock", None),
        ("chardev", "socket,id=m,path=a.sock,server=on,wait=on", None),
        ("chardev", "socket,id=m,path=a,,b,server=on,wait=off", None),
        ("chardev", "socket,path=a.sock,server=on,wait=off", None),
        ("chardev", "stdio,id=m", None),
    ],
)
def test_what_is_most_often_written_is_understood(name, value, path):
    assert early._path(name, value) == path


def test_a_monitor_takes_what_is_open_already(tmp_path):
    path = str(tmp_path / "m.sock")
    with early.monitors([("qmp", f"unix:{path},server=on,wait=off")]):
        assert listening.is_early(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        listener = listening.open_unix(path, BACKLOG)
        assert not listening.is_early(path)
    assert (tmp_path / "m.sock").is_socket()
    listener.unlink()
    listener.socket.close()
    assert early.BACKLOG == BACKLOG


def test_what_nobody_takes_is_removed(tmp_path):
    path = tmp_path / "n.sock"
    with early.server(str(path)):
        assert path.is_socket()
    assert not path.exists()


def test_what_is_at_the_path_is_left_to_who_opens_it(tmp_path):
    path = tmp_path / "n.sock"
    path.write_text("precious")
    with early.server(str(path)):
        assert not listening.is_early(str(path))
    assert path.read_text() == "precious"
    with early.server(str(tmp_path / "none" / "n.sock")), early.server("/" + "x" * 200):
        pass
