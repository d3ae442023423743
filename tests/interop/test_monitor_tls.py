"""The monitor's NBD server over TLS and at every kind of address, beside QEMU 7.2's.

The same commands and the same clients; what they get is compared.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time

import pytest
import tls_files
from beside import QUIET
from monitors import DAEMON, OURS, OURS_AS_SYSTEM, SYSTEM, monitor, unix
from peers import TIME_LIMIT, background, peer, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
LAPTOP = r"O=Example\, Inc.,OU=Tests,CN=laptop"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tls_files.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def both(tmp_path, act, programs, *files):
    """Do the same with both programs and compare what they told and what ``act`` returns."""
    found = []
    for program in programs:
        with monitor(program, tmp_path / program, *files) as client:
            seen = act(client)
            found.append((client.log, seen))
    for theirs, ours in zip(*(log for log, _seen in found), strict=True):
        assert ours == theirs
    assert found[1][1] == found[0][1]
    return found[1]


def served(client, folders, *, addr=None, kind="tls-creds-x509", authz=None, **properties):
    """Export a disk over TLS; return what the command that starts the server says."""
    given = {"endpoint": "server", **properties}
    if kind == "tls-creds-x509":
        given["dir"] = str(folders.server)
    client.execute("object-add", qom_type=kind, id="t", **given)
    more = {} if authz is None else {"tls_authz": authz}
    answer = client.execute("nbd-server-start", addr=addr or unix(), tls_creds="t", **more)
    file = {"driver": "file", "filename": "disk.raw"}
    client.execute("blockdev-add", driver="raw", node_name="n", file=file, read_only=True)
    client.execute("block-export-add", type="nbd", id="e", node_name="n", name="disk")
    return answer


def uri(client, certificates, *, tls="nbds", more=""):
    folder = f"&tls-certificates={certificates}" if certificates else ""
    return f"{tls}+unix:///disk?socket={client.folder}/nbd.sock{folder}{more}"


def size(address):
    """Return what nbdinfo says of an export's size, or that it was not let in."""
    done = subprocess.run(
        [peer("nbdinfo"), "--size", address],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    return int(done.stdout) if done.returncode == 0 else "refused"


def test_who_speaks_tls_and_who_is_known(tmp_path, folders, image):
    def act(client):
        served(client, folders)
        who = [folders.client, folders.other, folders.stranger, None]
        seen = [size(uri(client, folder)) for folder in who]
        seen.append(size(uri(client, None, tls="nbd")))
        copy = client.folder / "copy"
        subprocess.run(
            [peer("nbdcopy"), uri(client, folders.client), copy], timeout=TIME_LIMIT, check=True
        )
        assert copy.read_bytes() == image.read_bytes()
        client.execute("object-del", id="t")  # the server keeps what it has been given
        seen.append(size(uri(client, folders.client)))
        client.execute("nbd-server-stop")
        return seen

    for programs in ((DAEMON, OURS), (SYSTEM, OURS_AS_SYSTEM)):
        _log, seen = both(tmp_path, act, programs, image)
        assert seen == [MiB, MiB, "refused", "refused", "refused", MiB]


def test_qemu_img_reads_over_tls(tmp_path, folders, image):
    def act(client):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}
        client.execute("object-add", qom_type="tls-creds-x509", id="t", endpoint="server",
                       dir=str(folders.server))  # fmt: skip
        assert client.execute("nbd-server-start", addr=address, tls_creds="t") == {}
        file = {"driver": "file", "filename": "disk.raw"}
        client.execute("blockdev-add", driver="raw", node_name="n", file=file, read_only=True)
        client.execute("block-export-add", type="nbd", id="e", node_name="n", name="disk")
        options = f"driver=nbd,host=127.0.0.1,port={port},export=disk,tls-creds=c"
        creds = f"tls-creds-x509,id=c,endpoint=client,dir={folders.client}"
        copy = client.folder / "copy"
        subprocess.run(
            [peer("qemu-img"), "convert", "--object", creds, "--image-opts", options, copy],
            timeout=TIME_LIMIT,
            check=True,
        )
        return copy.read_bytes() == image.read_bytes()

    found = []
    for program in (DAEMON, OURS):
        with monitor(program, tmp_path / program, image) as client:
            found.append(act(client))
            assert not any("error" in each for each in client.log), client.log
    assert found == [True, True]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"qom_type": "authz-simple", "identity": LAPTOP}, [MiB, "refused"]),
        ({"qom_type": "authz-simple", "identity": "CN=laptop"}, ["refused", "refused"]),
        ({"qom_type": "authz-list"}, ["refused", "refused"]),
        ({"qom_type": "authz-list", "policy": "allow"}, [MiB, MiB]),
        (
            {
                "qom_type": "authz-list",
                "rules": [
                    {"match": "*laptop", "policy": "deny", "format": "glob"},
                    {"match": "*CN=*", "policy": "allow", "format": "glob"},
                ],
            },
            ["refused", MiB],
        ),
        ({"qom_type": "authz-list", "rules": [{"match": "*", "policy": "allow"}]},
         ["refused", "refused"]),
        (None, ["refused", "refused"]),
        ({"qom_type": "secret", "data": "x"}, ["refused", "refused"]),
    ],
)  # fmt: skip
def test_who_is_authorized(tmp_path, folders, image, rules, expected):
    def act(client):
        if rules is not None:
            client.execute("object-add", id="a", **rules)
        assert served(client, folders, authz="a") == {}
        seen = [size(uri(client, folder)) for folder in (folders.client, folders.other)]
        client.execute("object-del", id="a")
        seen.append(size(uri(client, folders.client)))
        return seen

    _log, seen = both(tmp_path, act, (DAEMON, OURS), image)
    assert seen == [*expected, "refused"]


def test_certificates_that_need_not_be_shown(tmp_path, folders, image):
    def act(client):
        client.execute("object-add", qom_type="authz-list", id="nobody")
        served(client, folders, authz="nobody", verify_peer=False)
        return [size(uri(client, folder)) for folder in (folders.client, folders.stranger)]

    both(tmp_path, act, (DAEMON, OURS), image)


def test_anonymous_tls(tmp_path, folders, image):
    def act(client):
        served(client, folders, kind="tls-creds-anon")
        options = "driver=nbd,server.type=unix,server.path=nbd.sock,export=disk,tls-creds=c"
        copy = client.folder / "copy"
        done = subprocess.run(
            [peer("qemu-img"), "convert", "--object", "tls-creds-anon,id=c,endpoint=client",
             "--image-opts", options, copy],
            cwd=client.folder, timeout=TIME_LIMIT, check=False, capture_output=True, text=True,
        )  # fmt: skip
        return done.stderr, copy.exists() and copy.read_bytes() == image.read_bytes()

    _log, seen = both(tmp_path, act, (DAEMON, OURS), image)
    assert seen == ("", True)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="shared keys need Python 3.13")
def test_shared_keys(tmp_path, folders, image):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.psk").write_text("alice:0123456789abcdef0123456789abcdef\n")

    def act(client):
        served(client, folders, kind="tls-creds-psk", dir=str(keys))
        psk = f"&tls-psk-file={keys}/keys.psk"
        return [
            size(uri(client, None, more=psk).replace("+unix://", f"+unix://{user}@"))
            for user in ("alice", "bob")
        ]

    _log, seen = both(tmp_path, act, (DAEMON, OURS), image)
    assert seen == [MiB, "refused"]


@pytest.mark.parametrize("programs", [(SYSTEM, OURS_AS_SYSTEM), (DAEMON, OURS)])
def test_credentials_that_are_refused(tmp_path, folders, programs):
    def act(client):
        def start(addr=None, **more):
            client.execute("nbd-server-start", addr=addr or unix(), **more)
            return (client.folder / "nbd.sock").exists()

        add = client.execute
        add("object-add", qom_type="iothread", id="io")
        for end, folder in (("client", folders.client), ("server", folders.server)):
            add("object-add", qom_type="tls-creds-x509", id=end, endpoint=end, dir=str(folder))
        add("object-add", qom_type="tls-creds-anon", id="anon")
        seen = [start(tls_creds=name) for name in ("nope", "io", "client", "anon", "")]
        seen.append(start({"type": "unix", "data": {"path": "/none/nbd.sock"}}, tls_creds="nope"))
        seen.append(start(tls_authz="nope"))
        seen.append(start(tls_creds="nope"))
        client.execute("nbd-server-stop")
        seen.append(start(tls_creds="server", tls_authz="nope"))
        client.execute("nbd-server-stop")
        return seen

    _log, seen = both(tmp_path, act, programs)
    assert seen == [False] * 6 + [True] * 3


@pytest.fixture(scope="module")
def secured(tmp_path_factory, folders, image):
    """Serve the image by qemu-nbd over TLS at a unix socket and at a TCP port."""
    folder = tmp_path_factory.mktemp("secured")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [peer("qemu-nbd"), "-t", "-e", "9", "-r", "-f", "raw", "-x", "disk"]
    words += ["--object", f"tls-creds-x509,id=t,endpoint=server,dir={folders.server}"]
    words += ["--tls-creds", "t"]
    at_path, at_port = ["-k", folder / "s"], ["-b", "127.0.0.1", "-p", str(port)]
    pid = folder / "pid"
    with (
        background(*words, *at_path, image, ready=folder / "s", **QUIET),
        background(*words, *at_port, "--pid-file", pid, image, **QUIET),
    ):
        deadline = time.monotonic() + TIME_LIMIT
        while not pid.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield {"type": "unix", "path": str(folder / "s")}, str(port)


@pytest.mark.parametrize("programs", [(SYSTEM, OURS_AS_SYSTEM), (DAEMON, OURS)])
def test_an_export_of_another_server_over_tls(tmp_path, folders, secured, programs):
    here, port = secured
    at_port = {"type": "inet", "port": port}

    def act(client):
        make = client.execute
        for name, kind, more in (
            ("laptop", "tls-creds-x509", {"dir": str(folders.client)}),
            ("anon", "tls-creds-anon", {}),
            ("server", "tls-creds-x509", {"dir": str(folders.server), "endpoint": "server"}),
        ):
            make("object-add", qom_type=kind, id=name, **{"endpoint": "client", **more})
        make("object-add", qom_type="secret", id="word", data="x")
        told = []
        for number, (server, more) in enumerate(
            (
                (here, {}),
                (here, {"tls_creds": "none"}),
                (here, {"tls_creds": "word"}),
                (here, {"tls_creds": "server"}),
                (here, {"tls_creds": "laptop"}),
                (here, {"tls_creds": "laptop", "tls_hostname": "localhost"}),
                ({**at_port, "host": "127.0.0.1"}, {"tls_creds": "laptop"}),
                ({**at_port, "host": "localhost"}, {"tls_creds": "laptop"}),
            )
        ):
            words = {"read_only": True, "node_name": f"n{number}", "export": "disk", **more}
            make("blockdev-add", driver="nbd", server=server, **words)
        # What the two libraries for TLS say differs; that it is an error does not.
        for number, more in enumerate(
            (
                {"tls_creds": "anon"},
                {"tls_creds": "laptop", "tls_hostname": "example.org"},
            )
        ):
            words = {"read_only": True, "node_name": f"x{number}", "export": "disk", **more}
            said = make("blockdev-add", driver="nbd", server=here, **words)
            told.append(said == {})
            client.log.pop()
        make("nbd-server-start", addr=unix())
        for name in ("n5", "n6", "n7"):
            make("block-export-add", type="nbd", id=name, node_name=name, name=name)
            address = f"nbd+unix:///{name}?socket={client.folder}/nbd.sock"
            told.append(run("qemu-img", "bench", "-f", "raw", "-c", "1", address).returncode)
            out = client.folder / name
            run("nbdcopy", address, out)
            told.append(hashlib.sha256(out.read_bytes()).hexdigest())
        return told

    _log, told = both(tmp_path, act, programs)
    assert told[:2] == [False] * 2


def inet(host, port, **more):
    return {"type": "inet", "data": {"host": host, "port": port, **more}}


def path(name, **more):
    return {"type": "unix", "data": {"path": name, **more}}


ADDRESSES = [
    path("/nonexistent/x/s.sock"), path("x" * 109), path("."), path("here"),
    path(""), path("x" * 107), path("seen", tight=False),
    path("nbexport-test-abstract", abstract=True), path("y" * 108, abstract=True),
    path("nbexport-test-wide", abstract=True, tight=False),
    inet("127.0.0.1", "nope"), inet("127.0.0.1", "-1"), inet("127.0.0.1", "1.5"),
    inet("127.0.0.1", "65536"), inet("127.0.0.1", ""), inet("", "0"), inet("127.0.0.1", "0"),
    inet("::1", "0"), inet("[::1]", "0"), inet("127.0.0.1", "0", ipv4=False, ipv6=False),
    inet("127.0.0.1", "0", ipv6=True), inet("127.0.0.1", "0", ipv4=False),
    inet("::1", "0", ipv6=False), inet("::1", "0", ipv4=True), inet("", "0", ipv4=True, ipv6=True),
    inet("127.0.0.1", "0", numeric=True), inet("localhost", "0", numeric=True),
    inet("127.0.0.1", "0", **{"keep-alive": True}), inet("127.0.0.1", "0", to=5),
    inet("127.0.0.1", "30000", to=5), inet("127.0.0.1", "0", to=70000),
    inet("192.0.2.1", "10809"), inet("127.0.0.1", 1),
    {"type": "fd", "data": {"str": "name"}}, {"type": "fd", "data": {"str": "1"}},
    {"type": "vsock", "data": {"cid": "x", "port": "5000"}},
    {"type": "vsock", "data": {"cid": "1", "port": "x"}},
    {"type": "vsock", "data": {"cid": "4294967296", "port": "5000"}},
    {"type": "vsock", "data": {"cid": "99", "port": "5000"}},
    {"type": "bogus", "data": {}},
]  # fmt: skip


@pytest.mark.parametrize("programs", [(SYSTEM, OURS_AS_SYSTEM), (DAEMON, OURS)])
def test_addresses(tmp_path, programs):
    def act(client):
        (client.folder / "here").mkdir()
        for address in ADDRESSES:
            client.execute("nbd-server-start", addr=address)
            client.execute("nbd-server-start", addr=address)
            client.execute("nbd-server-stop")
            client.execute("nbd-server-stop")
        return sorted(each.name for each in client.folder.iterdir())

    log, seen = both(tmp_path, act, programs)
    assert seen == ["here", "qmp.sock"]
    assert len([each for each in log if "error" in each]) > len(ADDRESSES)


@pytest.mark.parametrize("program", [DAEMON, OURS])
def test_an_abstract_socket_is_reached(tmp_path, program):
    for tight in (True, False):
        with monitor(program, tmp_path / f"{program}-{tight}") as client:
            name = f"nbexport-{program}-{tight}"
            client.execute("nbd-server-start", addr=path(name, abstract=True, tight=tight))
            raw = b"\0" + name.encode()
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(raw if tight else raw.ljust(108, b"\0"))
                assert caller.recv(8) == b"NBDMAGIC"


@pytest.mark.parametrize("program", [DAEMON, OURS])
def test_the_next_free_port_is_taken(tmp_path, program):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with monitor(program, tmp_path / program) as client:
            alone = inet("127.0.0.1", str(port))
            refused = client.execute("nbd-server-start", addr=alone)
            assert refused == "Failed to find an available port: Address already in use"
            more = inet("127.0.0.1", str(port), to=min(port + 20, 65535))
            assert client.execute("nbd-server-start", addr=more) == {}
            found = []
            for number in range(port + 1, min(port + 20, 65535) + 1):
                with socket.socket() as caller:
                    if caller.connect_ex(("127.0.0.1", number)) == 0:
                        caller.settimeout(TIME_LIMIT)
                        found.append(caller.recv(8))
            assert b"NBDMAGIC" in found
