"""Objects of the monitor, the machine's state and its devices beside QEMU 7.2's.

The same commands; replies and events are compared, and what the objects are good for.
"""

from __future__ import annotations

import base64
import json
import shutil

import pytest
import tls_files
from monitors import DAEMON, OURS, OURS_AS_SYSTEM, SYSTEM, monitor, unix

pytestmark = pytest.mark.interop

MiB = 1 << 20
KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
VECTOR = base64.b64encode(bytes(range(16))).decode()
PROGRAMS = [(SYSTEM, OURS_AS_SYSTEM), (DAEMON, OURS)]


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
    return found[0][0]


def errors(log):
    return [each["error"]["desc"] for each in log if "error" in each]


def adder(client):
    def add(kind, identifier, **properties):
        client.execute("object-add", qom_type=kind, id=identifier, **properties)

    return add


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_secrets(tmp_path, programs):
    (tmp_path / "password").write_text("hello\n")

    def act(client):
        add = adder(client)
        client.execute("object-add")
        client.execute("object-add", id="x")
        client.execute("object-add", qom_type="secret")
        client.execute("object-add", qom_type="nope", id="x")
        client.execute("object-add", qom_type=1, id=2)
        add("secret", "s0")
        add("secret", "s0", data="a", file="password")
        add("secret", "s0", data=1)
        add("secret", "s0", data="a", other=1)
        add("secret", "s0", data="a")
        for again in ({"data": "a"}, {}, {"file": "/nonexistent"}, {"data": "a", "loaded": True}):
            add("secret", "s0", **again)
        for name in ("1s", "", "a b", "\u00e9", "a/b"):
            add("secret", name, data="a")
        for file in ("/nonexistent", ".", "password"):
            add("secret", "s1", file=file)
        client.execute("object-del", id="s1")
        client.execute("object-del", id="s1")
        client.execute("object-del")
        for text in ("%%%", "", "aGVs\nbG8=", "aGVsbG8", "aG=sbG8=", "/w==", "\u00e9", "a b"):
            add("secret", "s2", data=text, format="base64")
            client.execute("object-del", id="s2")
        add("secret", "s3", data="x", format="bogus")
        add("secret", "s3", data="x", iv="AAAA")
        add("secret", "s4", data="x", loaded=False)

    told = errors(both(tmp_path, act, programs, tmp_path / "password"))
    assert "Either 'file' or 'data' must be provided" in told
    assert any("Failed to open file" in text for text in told)


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_encrypted_secrets(tmp_path, programs):
    """What is decrypted is the password of a key: a wrong one would not open it."""
    from cryptography.hazmat.primitives import padding, serialization
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    folders = tls_files.make(tmp_path)
    path = folders.server / "server-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    password = b"a password longer than a block"
    protection = serialization.BestAvailableEncryption(password)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    padder = padding.PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(base64.b64decode(KEY)), modes.CBC(base64.b64decode(VECTOR)))
    encryptor = cipher.encryptor()
    padded = padder.update(password) + padder.finalize()
    good = base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()
    (tmp_path / "master.aes").write_bytes(base64.b64decode(KEY))

    def act(client):
        add = adder(client)
        add("secret", "k0", data="short")
        add("iothread", "io")
        for keyid in ("nope", "k0", "io"):
            add("secret", "s", data="x", keyid=keyid)
        add("secret", "k", file="master.aes")
        for vector in ({}, {"iv": "AAAA"}, {"iv": "%%"}, {"iv": VECTOR}):
            add("secret", "s", data="x", keyid="k", **vector)
        for text in ("AAAAAAA=", "A%AAAAA=", "A" * 22 + "=="):
            add("secret", "s", data=text, keyid="k", iv=VECTOR, format="base64")
        add("secret", "s", data="0123456789abcdef", keyid="k", iv=VECTOR)
        add("secret", "s", data=good, keyid="k", iv=VECTOR, format="base64")
        add("secret", "wrong", data="another password")
        add("secret", "bytes", data="/w==", format="base64")
        tls = {"endpoint": "server", "dir": str(folders.server)}
        add("tls-creds-x509", "t", **tls)
        for password_id in ("nope", "io", "wrong", "bytes", "s", "s"):
            add("tls-creds-x509", "t", passwordid=password_id, **tls)
        client.execute("object-del", id="s")
        client.execute("object-del", id="t")

    log = both(tmp_path, act, programs, tmp_path / "master.aes")
    assert [log[-1], log[-2]] == [{"return": {}}] * 2
    assert "Cannot load certificate" in errors(log)[-3]


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_threads_and_authorizations(tmp_path, programs):
    def act(client):
        add = adder(client)
        add("iothread", "io")
        add("iothread", "io")
        for name in ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"):
            add("iothread", "t", **{name: -1})
            add("iothread", "t", **{name: 1 << 63})
        for name, value in (("min", -1), ("max", -1), ("min", 65), ("max", 0), ("max", 1 << 31)):
            add("iothread", "t", **{f"thread-pool-{name}": value})
        add("iothread", "t", thread_pool_min=65, thread_pool_max=70, aio_max_batch=1 << 40)
        add("authz-simple", "a")
        add("authz-simple", "a", identity="")
        add("authz-list", "l")
        add("authz-list", "m", policy="bogus")
        add("authz-list", "m", rules=[{"match": "x"}])
        add("authz-list", "m", rules=[{"match": "x", "policy": "allow", "format": "re"}])
        add("authz-list", "m", rules=[{"match": "x", "policy": "deny", "format": "glob"}])
        add("authz-list", "m", policy="allow")
        for name in ("io", "t", "a", "l", "m", "m"):
            client.execute("object-del", id=name)

    assert len(errors(both(tmp_path, act, programs))) == 20


def variants(folder):
    """Make folders of credentials that lack a file or have a wrong one; return them by name."""
    folders = tls_files.make(folder)
    made = {"good": folders.server, "client": folders.client, "none": folder / "none"}
    made["none"].mkdir()
    stranger_key = (folders.client / "client-key.pem").read_text()
    leaf = (folders.client / "client-cert.pem").read_text()
    foreign = (folders.stranger / "client-cert.pem").read_text()
    foreign_key = (folders.stranger / "client-key.pem").read_text()
    changes = {
        "no-ca": {"ca-cert": None},
        "no-cert": {"server-cert": None},
        "no-key": {"server-key": None},
        "bad-ca": {"ca-cert": "junk"},
        "bad-cert": {"server-cert": "junk"},
        "bad-key": {"server-key": "junk"},
        "bad-crl": {"ca-crl": "junk"},
        "other-key": {"server-key": stranger_key},
        "leaf-ca": {"ca-cert": leaf},
        "ca-leaf": {"server-cert": (folders.server / "ca-cert.pem").read_text()},
        "foreign": {"server-cert": foreign, "server-key": foreign_key},
        "client-for-server": {"server-cert": leaf, "server-key": stranger_key},
    }
    for name, files in changes.items():
        made[name] = folder / name
        shutil.copytree(folders.server, made[name])
        for file, text in files.items():
            path = made[name] / f"{file}.pem"
            path.unlink() if text is None else path.write_text(text)
    return made


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_credentials(tmp_path, programs):
    made = variants(tmp_path)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.psk").write_text("qemu:0123456789abcdef0123456789abcdef\nshort:ffff\nnothex:zz\n")

    def act(client):
        add = adder(client)
        for kind in ("tls-creds-x509", "tls-creds-psk", "tls-creds-anon"):
            add(kind, "t")
            add(kind, "u", dir="/nonexistent")
            add(kind, "v", dir=str(made["none"]), endpoint="server")
            add(kind, "w", endpoint="both")
            add(kind, "w", loaded=True, endpoint="server")
            add(kind, "w", other=True)
        for name, folder in made.items():
            for endpoint in ("server", "client"):
                add("tls-creds-x509", f"{name}-{endpoint}", dir=str(folder), endpoint=endpoint)
        add("tls-creds-x509", "good-server", dir=str(made["good"]), endpoint="server")
        for name in ("bad-cert", "bad-key"):
            add("tls-creds-x509", "x", dir=str(made[name]), endpoint="server",
                sanity_check=False)  # fmt: skip
        add("tls-creds-x509", "unverified", dir=str(made["good"]), endpoint="server",
            verify_peer=False, priority="NORMAL")  # fmt: skip
        psk = {"dir": str(keys), "endpoint": "client"}
        for user in ("qemu", "short", "nothex", "nobody"):
            add("tls-creds-psk", f"p-{user}", username=user, **psk)
        add("tls-creds-psk", "p", **psk)
        add("tls-creds-psk", "q", dir=str(keys), endpoint="server", username="qemu")
        add("tls-creds-psk", "q", dir=str(keys), endpoint="server")

    told = "\n".join(errors(both(tmp_path, act, programs)))
    for words in ("do not show a CA", "show a CA, but we need one for a server", "do not match",
                  "hasn't got a known issuer", "Cannot load CRL", "found in PSK file"):  # fmt: skip
        assert words in told, words


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_types_are_listed_in_the_programs_order(tmp_path, programs):
    def listed(client, **arguments):
        names = [each["name"] for each in client.execute("qom-list-types", **arguments)]
        told = [each for each in client.log.pop()["return"] if each["name"] in known]
        assert names
        return told

    from nbexport.emulator.objects import TYPES

    known = TYPES.keys()

    def act(client):
        filters = [{"implements": name} for name in
                   ("user-creatable", "object", "tls-creds", "authz", "secret", "secret_common",
                    "iothread", "event-loop-base")]  # fmt: skip
        filters.append({})
        return [
            listed(client, **each, **more) for each in filters for more in ({}, {"abstract": True})
        ]

    both(tmp_path, act, programs)


def test_exports_in_threads(tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(MiB))

    def act(client):
        add = adder(client)
        add("iothread", "i1")
        add("iothread", "i2")
        add("secret", "s", data="x")
        client.execute("nbd-server-start", addr=unix())
        for node in ("n", "m"):
            client.execute("blockdev-add", driver="raw", node_name=node, read_only=True,
                           file={"driver": "file", "filename": "disk.raw"})  # fmt: skip

        def export(name, node, **more):
            client.execute("block-export-add", type="nbd", id=name, node_name=node, name=name,
                           **more)  # fmt: skip

        for thread in ("nope", "s", ""):
            export("a", "n", iothread=thread)
        export("a", "nope", iothread="nope")
        export("a", "n", iothread="nope", writable=True)
        export("a", "n", iothread="i1")
        export("b", "n", iothread="i2")
        export("c", "n", iothread="i2", fixed_iothread=True)
        export("d", "n", iothread="i1")
        export("e", "n", iothread="i1", fixed_iothread=True)
        export("e", "n", iothread="/objects/i2", fixed_iothread=True)
        export("f", "m", fixed_iothread=True)
        export("g", "m", iothread="i1")
        export("p", "m", iothread="i1", fixed_iothread=True)
        client.execute("block-export-del", id="f")
        client.execute("block-export-del", id="g")
        export("g", "m", iothread="i1", fixed_iothread=True)
        client.execute("nbd-server-stop")
        export("h", "n", iothread="nope")
        export("h", "n", iothread="i1", fixed_iothread=True)
        client.execute("object-del", id="i2")
        export("h", "n", iothread="i2")

    told = errors(both(tmp_path, act, (SYSTEM, OURS_AS_SYSTEM), raw))
    assert told.count("Cannot change iothread of active block backend") == 2, told


def test_the_machine_stands_still_and_runs(tmp_path):
    def act(client):
        for command in ("query-status", "stop", "query-status", "stop", "cont", "query-status",
                        "cont", "stop", "query-block"):  # fmt: skip
            client.execute(command)

    log = both(tmp_path, act, (SYSTEM, OURS_AS_SYSTEM))
    assert [each["event"] for each in log if "event" in each] == ["STOP", "RESUME", "STOP"]


def test_devices_find_no_bus(tmp_path):
    def act(client):
        client.execute("device_add")
        for driver in ("virtio-blk-pci", "virtio-blk", "virtio-blk-device", "scsi-hd", "ide-hd",
                       "usb-storage", "nvme", "loader", "pc-dimm", "device", "secret", "nope", "",
                       "virtio-scsi-pci", "isa-fdc", "floppy", 1):  # fmt: skip
            client.execute("device_add", driver=driver, drive="n0", id="d")
        for more in ({"id": "1x"}, {"bus": "pci.0"}, {"bus": "/x/y"}, {"wide": {"a": 1}}):
            client.execute("device_add", driver="virtio-blk-pci", **more)
        client.execute("device_del")
        for name in ("d", "", "/machine", "/objects", "/d"):
            client.execute("device_del", id=name)

    log = both(tmp_path, act, (SYSTEM, OURS_AS_SYSTEM))
    assert {"class": "DeviceNotFound", "desc": "Device 'd' not found"} in [
        each.get("error") for each in log
    ]


def test_the_storage_daemon_has_no_machine(tmp_path):
    def act(client):
        for command in ("query-status", "stop", "cont", "device_add", "device_del"):
            client.execute(command)

    assert len(errors(both(tmp_path, act, (DAEMON, OURS)))) == 5


@pytest.mark.parametrize("programs", PROGRAMS, ids=["system", "daemon"])
def test_commands_are_listed_in_qemus_order(tmp_path, programs):
    lists = []
    for program in programs:
        with monitor(program, tmp_path / program) as client:
            lists.append([each["name"] for each in client.execute("query-commands")])
    theirs, ours = lists
    assert len(ours) > 40
    assert [name for name in theirs if name in ours] == ours, json.dumps(ours)
