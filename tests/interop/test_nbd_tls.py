"""TLS beside qemu-nbd: the same bytes before and after it, the same clients let in."""

import contextlib
import json
import ssl
import struct
import subprocess
import sys
import time

import pytest
import tls_files
from nbd_talk import (
    ABORT,
    CLOSED,
    DISC,
    EXTENDED,
    GO,
    INFO,
    LIST,
    LIST_META,
    READ,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    Talk,
    info,
    option,
    queries,
    request,
)  # fmt: skip
from peers import background, peer, run

pytestmark = pytest.mark.interop

NBEXPORT = (sys.executable, "-m", "nbexport")
BASE = b"base:allocation"
LAPTOP = r"O=Example\, Inc.,OU=Tests,CN=laptop"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tls_files.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@contextlib.contextmanager
def ours(folder, image, folders, *words):
    path = folder / "o"
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", "--tls-creds", folders.server, "-k", path, *words,
        ready=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        yield path


@contextlib.contextmanager
def theirs(folder, image, folders, *, verify=True, identity=None):
    path = folder / "t"
    creds = f"tls-creds-x509,id=t,endpoint=server,dir={folders.server},verify-peer="
    words = ["--object", creds + ("on" if verify else "off"), "--tls-creds", "t"]
    if identity is not None:
        simple = {"qom-type": "authz-simple", "id": "a", "identity": identity}
        words += ["--object", json.dumps(simple), "--tls-authz", "a"]
    with background(
        peer("qemu-nbd"), "-t", "-r", "-f", "raw", "-e", "0", "-k", path, *words, image,
        ready=path, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        yield path


@pytest.fixture(scope="module")
def pair(folders, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    with theirs(folder, image, folders) as qemu, ours(folder, image, folders) as mine:
        yield qemu, mine


@pytest.fixture(scope="module")
def optional(folders, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("optional")
    with ours(folder, image, folders, "--tls", "optional", "--no-tls-verify-peer") as path:
        yield path


def client_context(folders, who="client"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folders.server / "ca-cert.pem")
    if who is not None:
        folder = getattr(folders, who)
        context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    return context


def compare(pair, script):
    logs = []
    for path in pair:
        with Talk(path) as talk:
            script(talk)
            logs.append(talk.log)
    assert logs[0] == logs[1]
    return logs[1]


@pytest.mark.parametrize("number", [LIST, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED, 99])
@pytest.mark.parametrize("data", [b"", b"x" * 5000], ids=["plain", "data"])
def test_057_every_option_before_tls_is_refused_as_by_qemu(pair, number, data):
    def script(t):
        t.flags()
        t.option(number, data)
        t.option(LIST)

    log = compare(pair, script)
    assert log[1][12:16] == bytes.fromhex("80000005")


def test_057_058_what_ends_the_connection_before_tls(pair):
    def by_name(t):
        t.flags()
        t.export_name(b"")
        t.end()

    def with_data(t):
        t.flags()
        t.option(STARTTLS, b"x")
        t.end()

    def cannot_negotiate(t):
        t.flags(0)
        t.option(STARTTLS)

    for script in (by_name, with_data, cannot_negotiate):
        compare(pair, script)


def test_057_abort_before_tls_is_acknowledged(pair):
    """The protocol excepts ABORT; QEMU tells it, too, that TLS is required."""
    kinds = []
    for path in pair:
        with Talk(path) as talk:
            talk.flags()
            kinds.append(talk.option(ABORT)[12:16])
            assert talk.end() == CLOSED
    assert kinds == [bytes.fromhex("80000005"), bytes.fromhex("00000001")]


def test_059_after_tls_everything_is_as_with_qemu(pair, folders):
    def script(t):
        t.flags()
        t.start_tls(client_context(folders))
        t.option(STARTTLS)
        t.option(STARTTLS, b"x")
        t.option(LIST)
        t.option(STRUCTURED)
        t.option(SET_META, queries(b"", BASE))
        t.option(GO, info(b""))
        t.request(STATUS, 0, 1 << 20)
        t.request(READ, 1000, 100_000)
        t.request(READ, 0, 1 << 20)

    compare(pair, script)


def test_063_tls_1_2_works_and_1_1_does_not(pair, folders):
    for path in pair:
        context = client_context(folders)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with Talk(path) as talk:
            talk.flags()
            talk.start_tls(context)
            assert talk._socket.version() == "TLSv1.2"
            assert talk.option(LIST).endswith(b"\0\0\0\1\0\0\0\0")
    old = client_context(folders)
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with Talk(pair[1]) as talk:
        talk.flags()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            talk.start_tls(old)


def test_060_what_was_agreed_before_tls_is_forgotten(optional, folders):
    with Talk(optional) as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", BASE))
        talk.start_tls(client_context(folders, None))
        talk.option(GO, info(b""))
        assert talk.request(READ, 1, 3) == bytes.fromhex("6744669800000000") + (
            b"\x11\x22\x33\x44\x55\x66\x77\x88\1\2\3"
        )
        assert talk.request(STATUS, 0, 512)[4:8] == b"\0\0\0\x16"


def test_optional_tls_serves_who_does_without(optional):
    with Talk(optional) as talk:
        talk.flags()
        assert talk.option(STARTTLS, b"x")[12:16] == bytes.fromhex("80000003")
        talk.option(GO, info(b""))
        assert talk.request(READ, 7, 1)[-1:] == b"\7"


@pytest.mark.parametrize("mode", ["required", "optional"])
@pytest.mark.parametrize("behind", [option(LIST), b"\x16\x03\x01" + bytes(50), b"x"])
def test_061_what_comes_in_clear_behind_starttls_is_never_executed(pair, optional, mode, behind):
    path = optional if mode == "optional" else pair[1]
    with Talk(path) as talk:
        talk.send(struct.pack(">I", 3) + option(STARTTLS) + behind)
        assert talk.end() == CLOSED
    with Talk(path) as talk:  # others are served
        talk.flags()
        assert len(talk.option(LIST)) > 20


@pytest.mark.parametrize("who", ["stranger", None])
def test_062_a_client_without_a_good_certificate_is_cut_alone(pair, folders, who):
    for path in pair:
        with Talk(path) as good, Talk(path) as bad:
            good.flags()
            good.start_tls(client_context(folders))
            bad.flags()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                bad.start_tls(client_context(folders, who))
            with pytest.raises((ssl.SSLError, OSError, AssertionError)):
                assert not bad.option(LIST).endswith(CLOSED)
            assert good.option(LIST).endswith(b"\0\0\0\1\0\0\0\0")


def test_062_garbage_instead_of_tls(pair):
    for path in pair:
        with Talk(path) as talk:
            talk.flags()
            talk.option(STARTTLS)
            talk.send(b"GET / HTTP/1.0\r\n\r\n" * 10)
            assert talk.end().endswith(CLOSED)


def test_065_the_end_is_told_in_tls(pair, folders):
    with Talk(pair[1]) as talk:
        talk.flags()
        talk.start_tls(client_context(folders))
        talk.option(GO, info(b""))
        talk.send(request(DISC))
        assert talk._socket.recv(1) == b""  # a bare end would be an error


def test_016_a_tls_handshake_that_stalls_ends_in_time(image, folders, tmp_path):
    with ours(tmp_path, image, folders, "--handshake-limit", "0.5") as path, Talk(path) as talk:
        talk.flags()
        talk.option(STARTTLS)
        started = time.monotonic()
        assert talk.end() == CLOSED
        assert 0.2 < time.monotonic() - started < 5


def test_tls_authz_lets_in_whom_qemu_lets_in(image, folders, tmp_path):
    with (
        theirs(tmp_path, image, folders, identity=LAPTOP) as qemu,
        ours(tmp_path, image, folders, "--tls-authz", "CN=x", "--tls-authz", LAPTOP) as mine,
    ):
        for path in (qemu, mine):
            for who, expected in (("client", 0), ("other", 1)):
                assert listing(path, getattr(folders, who)).returncode == expected


def test_a_revoked_certificate_is_refused_as_by_qemu(image, tmp_path):
    folders = tls_files.make(tmp_path, revoked="other")
    with theirs(tmp_path, image, folders) as qemu, ours(tmp_path, image, folders) as mine:
        for path in (qemu, mine):
            for who, expected in (("client", 0), ("other", 1)):
                assert listing(path, getattr(folders, who)).returncode == expected


def listing(path, folder, hostname="localhost"):
    creds = f"tls-creds-x509,id=t,endpoint=client,dir={folder}"
    return run("qemu-nbd", "--list", "-k", path, "--object", creds, "--tls-creds", "t",
               "--tls-hostname", hostname, check=False)  # fmt: skip


def test_qemu_nbd_lists_both_alike_and_checks_the_name(pair, folders):
    done = [listing(path, folders.client) for path in pair]
    assert done[0].stdout == done[1].stdout
    assert "exports available: 1" in done[1].stdout
    assert [listing(path, folders.client, "wrong").returncode for path in pair] == [1, 1]


def test_qemu_img_and_libnbd_read_through_tls(pair, folders, image, tmp_path):
    for path in pair:
        creds = f"tls-creds-x509,id=t,endpoint=client,dir={folders.client}"
        remote = (f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={path},"
                  "file.tls-creds=t,file.tls-hostname=localhost")  # fmt: skip
        local = f"driver=raw,file.filename={image}"
        done = run("qemu-img", "compare", "--object", creds, "--image-opts", remote, local)
        assert "identical" in done.stdout
        uri = (f"nbds+unix:///?socket={path}&tls-certificates={folders.client}"
               "&tls-hostname=localhost")  # fmt: skip
        assert json.loads(run("nbdinfo", "--json", uri).stdout)["TLS"] is True
        run("nbdcopy", uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_tls_over_tcp_and_the_uri_that_says_so(image, folders):
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", "--tls-creds", folders.server, "--port", "0",
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        uri = process.stdout.readline().decode().strip()
        assert uri.startswith("nbds://127.0.0.1:")
        done = run("nbdinfo", "--size", f"{uri}?tls-certificates={folders.client}")
        assert done.stdout.strip() == str(1 << 20)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--tls", "required"], 2, "--tls required needs --tls-creds"),
        (["--tls-authz", "x"], 2, "--tls-authz is not permitted without --tls-creds"),
        (["--tls-creds", "/none"], 1, "Unable to access credentials /none/ca-cert.pem: No such"),
        (["--tls-creds", "GOOD", "--tls", "none"], 2, "--tls none does not go with --tls-creds"),
        (["--tls-creds", "GOOD", "--no-tls-verify-peer", "--tls-authz", "x"], 1,
         "cannot be authorized by a certificate that is not verified"),
        (["--tls-creds", "BAD"], 1, "server-cert.pem"),
    ],
)  # fmt: skip
def test_wrong_credentials_stop_the_start(image, folders, tmp_path, words, code, text):
    for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
        (tmp_path / name).write_text("no certificate")
    places = {"GOOD": str(folders.server), "BAD": str(tmp_path)}
    done = subprocess.run(
        [*NBEXPORT, "serve", str(image), "-k", str(tmp_path / "s"),
         *(places.get(word, word) for word in words)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert text in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "psk"
    folder.mkdir()
    (folder / "keys.psk").write_text("alice:00112233445566778899aabbccddeeff\n\nbob:ff00\n")
    return folder


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python has shared keys")
def test_064_shared_keys_are_refused_where_python_has_none(image, keys, tmp_path):
    done = subprocess.run(
        [*NBEXPORT, "serve", image, "--tls-creds", keys, "-k", str(tmp_path / "s")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "TLS with pre-shared keys needs Python 3.13 or later" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 13), reason="shared keys need Python 3.13")
def test_064_shared_keys(image, keys, tmp_path):
    path = tmp_path / "o"
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", "--tls-creds", keys, "-k", path,
        ready=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        wrong = tmp_path / "wrong.psk"
        wrong.write_text("alice:" + "00" * 16 + "\ncarol:" + "11" * 16 + "\n")
        for user, file, good in (
            ("alice", keys / "keys.psk", True),
            ("alice", wrong, False),
            ("carol", wrong, False),
        ):
            uri = f"nbds+unix://{user}@/?socket={path}&tls-psk-file={file}"
            done = run("nbdinfo", "--size", uri, check=False)
            assert (done.returncode == 0) == good, done.stderr
        creds = f"tls-creds-psk,id=t,endpoint=client,dir={keys},username=alice"
        done = run("qemu-nbd", "--list", "-k", path, "--object", creds, "--tls-creds", "t")
        assert "exports available: 1" in done.stdout
