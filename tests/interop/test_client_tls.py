"""Our client over TLS, to qemu-nbd, nbdkit and our own server."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import tls_files
from peers import background, peer

from nbexport.errors import PeerError, SourceError, UsageError
from nbexport.nbd import Client, list_exports

pytestmark = pytest.mark.interop

DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tls_files.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(DATA)
    return path


@contextmanager
def serving(server, folders, image, path):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if server == "nbexport":
        words = [sys.executable, "-m", "nbexport", "serve", "-f", "raw", "-k", path]
        words += ["--tls-creds", folders.server, image]
    elif server == "qemu-nbd":
        creds = f"tls-creds-x509,id=t,endpoint=server,dir={folders.server},verify-peer=on"
        words = [peer("qemu-nbd"), "--object", creds, "--tls-creds", "t", "-r", "-t", "-f", "raw"]
        words += ["-k", path, image]
    else:
        words = [peer("nbdkit"), "-f", "-r", "-U", path, "--tls=require", "--tls-verify-peer"]
        words += [f"--tls-certificates={folders.server}", "file", image]
    with background(*words, ready=path, **quiet):
        yield


def uri(path, folder, *more):
    query = "&".join(
        [f"socket={quote(str(path))}", f"tls-certificates={quote(str(folder))}", *more]
    )
    return f"nbds+unix:///?{query}"


@pytest.mark.parametrize("server", ["nbexport", "qemu-nbd", "nbdkit"])
def test_a_secured_disk_is_read(server, folders, image, tmp_path):
    path = tmp_path / "s"
    with serving(server, folders, image, path):
        with Client.connect(uri(path, folders.client)) as client:
            assert client.read(0, len(DATA)) == DATA
            assert client.map()["base:allocation"].end == len(DATA)
        assert [info.size for info in list_exports(uri(path, folders.client))] == [len(DATA)]
        # one of another authority is not let in; when it learns of that differs
        with (
            pytest.raises(PeerError),
            Client.connect(uri(path, folders.stranger)) as client,
        ):
            client.read(0, 512)
        # and our side checks the server's name
        with pytest.raises(PeerError, match=r"TLS: .*(mismatch|not valid)"):
            Client.connect(uri(path, folders.client, "tls-hostname=elsewhere.example"))
        with Client.connect(
            uri(path, folders.client, "tls-hostname=elsewhere.example", "tls-verify-peer=false")
        ) as client:
            assert client.export_size == len(DATA)
        # in clear nobody is served
        with pytest.raises(PeerError, match=r"TLS|tls"):
            Client.connect(f"nbd+unix:///?socket={path}")


def test_a_server_without_tls_is_not_used(image, folders, tmp_path):
    path = tmp_path / "s"
    words = [sys.executable, "-m", "nbexport", "serve", "-f", "raw", "-k", path, image]
    with (
        background(*words, ready=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        pytest.raises(PeerError, match="TLS: TLS not configured"),
    ):
        Client.connect(uri(path, folders.client))


def test_files_that_are_of_no_use(image, folders, tmp_path):
    path = tmp_path / "s"
    empty = tmp_path / "empty"
    empty.mkdir()
    with serving("nbexport", folders, image, path):
        with pytest.raises(SourceError, match=r"ca-cert\.pem: No such file"):
            Client.connect(uri(path, empty))
        (empty / "ca-cert.pem").write_text("no certificate")
        with pytest.raises(SourceError, match=r"ca-cert\.pem"):
            Client.connect(uri(path, empty))
        keys = tmp_path / "keys"
        keys.write_text("anna:00ff\n")
        if sys.version_info < (3, 13):
            with pytest.raises(UsageError, match=r"need Python 3\.13"):
                Client.connect(f"nbds+unix:///?socket={path}&tls-psk-file={keys}")
        with pytest.raises(SourceError, match="no key of 'berta'"):
            Client.connect(f"nbds+unix:///?socket={path}&tls-psk-file={keys}&tls-username=berta")
