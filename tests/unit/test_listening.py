import socket

import pytest

from nbexport.errors import UsageError
from nbexport.listening import UnixListener, tcp_listeners


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s"


def test_a_path_is_listened_on_and_cleaned_up(path):
    listener = UnixListener("s", 1)
    with listener.socket, socket.socket(socket.AF_UNIX) as client:
        client.connect("s")
        assert listener.path == path
        listener.unlink()
    assert not path.exists()
    listener.unlink()


def test_a_stale_socket_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s")
    with UnixListener("s", 1).socket, socket.socket(socket.AF_UNIX) as client:
        client.connect("s")


@pytest.mark.parametrize("backlog", [0, 1])
def test_a_live_socket_is_refused_even_when_its_queue_is_full(path, backlog):
    listener = UnixListener("s", backlog)
    waiting = []
    with listener.socket:
        for _ in range(backlog + 1):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].connect("s")
        with pytest.raises(UsageError, match="s: another program listens on this socket"):
            UnixListener("s", 1)
        for client in waiting:
            client.close()
    assert path.is_socket()


def test_anything_else_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(UsageError, match="s: exists and is no socket"):
        UnixListener("s", 1)
    assert path.read_text() == "precious"


def test_a_path_that_the_kernel_cannot_hold_is_refused():
    with pytest.raises(UsageError, match=r"UNIX socket path 'x+' is too long"):
        UnixListener("x" * 109, 1)
    with pytest.raises(FileNotFoundError):
        UnixListener("none/" + "x" * 102, 1)
    with pytest.raises(FileNotFoundError):
        UnixListener("none/" + "x" * 103, 1)


def test_a_file_that_took_the_sockets_place_is_kept(path):
    listener = UnixListener("s", 1)
    with listener.socket:
        path.unlink()
        path.write_text("somebody else's")
        listener.unlink()
    assert path.exists()


def test_all_addresses_get_the_same_port():
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", 0)),
    ]
    sockets = tcp_listeners(found, 0, 1)
    ports = {sock.getsockname()[1] for sock in sockets}
    addresses = [sock.getsockname()[0] for sock in sockets]
    for sock in sockets:
        sock.close()
    assert len(ports) == 1
    assert addresses == ["127.0.0.1", "127.0.0.2"]


def test_an_occupied_port_is_an_error_and_leaves_nothing_open():
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
        with pytest.raises(OSError, match="in use") as refused:
            tcp_listeners(found, port, 1)
        assert refused.value.filename == f"127.0.0.1:{port}"


def test_a_folder_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError) as refused:
        UnixListener(path / "s", 1)
    assert refused.value.filename == str(path / "s")
