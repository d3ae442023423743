"""Objects, threads, reopening and the machine's state, release by release, without any peer."""

import asyncio
import base64
import shutil

import pytest
import tls_files
from hypothesis import given
from hypothesis import strategies as st

from nbexport.emulator import Machine, Release, aes, authorization, secret
from nbexport.emulator.branches import known_releases
from nbexport.emulator.objects import OBJECTS_MAX, Objects
from nbexport.errors import CommandError
from nbexport.qapi import validate
from nbexport.qmp import Dispatcher

ALL = known_releases()
KEY = bytes(range(32))


class Monitor:
    """A machine's commands, without the monitor's protocol; each reply must fit the schema."""

    def __init__(self, release, program="qemu-system"):
        self.machine = Machine(Release.parse(release), program=program)
        self.schema = self.machine.schema
        version = self.machine.release.version
        self.dispatcher = Dispatcher(self.schema, self.machine.handlers(), release=version)
        self.events = []
        self.machine.on_event(lambda name, data: self.events.append((name, data)))

    async def ask(self, command, **arguments):
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        result = await self.dispatcher.dispatch(command, words)
        validate(self.schema, self.schema.command(command).ret_type, result)
        return result

    async def say(self, command, **arguments):
        try:
            return await self.ask(command, **arguments)
        except CommandError as error:
            return str(error)

    async def add(self, kind, name, **properties):
        """Make an object in the form that the release takes."""
        if self.machine.release.describes_objects:
            return await self.say("object-add", qom_type=kind, id=name, **properties)
        words = {name.replace("_", "-"): value for name, value in properties.items()}
        return await self.say("object-add", qom_type=kind, id=name, props=words)


def play(release, story, program="qemu-system"):
    async def run():
        monitor = Monitor(release, program)
        try:
            return await story(monitor)
        finally:
            await monitor.machine.close()

    return asyncio.run(asyncio.wait_for(run(), 60))


# The cipher and the texts of secrets


def test_the_example_of_the_standard_is_decrypted():
    data = bytes.fromhex("8ea2b7ca516745bfeafc49904b496089")  # FIPS 197, appendix C.3
    assert aes.decrypt_cbc(KEY, bytes(16), data).hex() == "00112233445566778899aabbccddeeff"
    with pytest.raises(ValueError, match="whole blocks"):
        aes.decrypt_cbc(KEY, bytes(16), data[:-1])


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.binary())
def test_what_another_library_encrypts_is_decrypted(key, vector, text):
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    data = encryptor.update(padder.update(text) + padder.finalize()) + encryptor.finalize()
    properties = {
        "data": base64.b64encode(data).decode(),
        "format": "base64",
        "keyid": "k",
        "iv": base64.b64encode(vector).decode(),
    }
    assert secret.load(properties, {"k": key}.__getitem__) == text


@given(st.binary(), st.integers(0, 80))
def test_base64_is_read_with_breaks_anywhere(data, place):
    text = base64.b64encode(data)
    assert secret.decode_base64(text[:place] + b"\n" + text[place:]) == data


@given(st.binary())
def test_any_text_is_base64_or_refused(text):
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\n"
    if set(text) <= set(letters):
        assert len(secret.decode_base64(text)) <= len(text)
    else:
        with pytest.raises(CommandError, match=r"^Base64 data contains invalid characters$"):
            secret.decode_base64(text)


def test_a_secret_of_a_huge_file_is_refused(tmp_path):
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(secret.FILE_MAX + 1)
    with pytest.raises(CommandError, match="more than"):
        secret.read_file(str(big))


def test_objects_have_a_bound(monkeypatch):
    monkeypatch.setattr("nbexport.emulator.objects.OBJECTS_MAX", 2)
    assert OBJECTS_MAX > 2
    objects = Objects(Release.parse("7.2"))
    for number in range(2):
        objects.add("iothread", f"t{number}", {})
    with pytest.raises(CommandError, match="Too many objects"):
        objects.add("iothread", "t2", {})


# Authorization


@pytest.mark.parametrize(
    ("properties", "identity", "good"),
    [
        ({}, "a", False),
        ({"policy": "allow"}, "a", True),
        ({"rules": [{"match": "a", "policy": "allow"}]}, "a", True),
        ({"rules": [{"match": "*", "policy": "allow"}]}, "a", False),
        ({"rules": [{"match": "*", "policy": "allow", "format": "glob"}]}, "a", True),
        ({"rules": [{"match": "[a]", "policy": "allow", "format": "glob"}]}, "a", False),
        ({"policy": "allow", "rules": [{"match": "a", "policy": "deny"}]}, "a", False),
        (
            {"rules": [{"match": "a", "policy": "deny"}, {"match": "a", "policy": "allow"}]},
            "a",
            False,
        ),
    ],
)
def test_the_first_rule_that_fits_decides(properties, identity, good):
    assert authorization.from_list(properties).allows(identity) is good


def test_one_identity_is_let_in():
    simple = authorization.simple({"identity": "CN=a"})
    assert simple.allows("CN=a")
    assert not simple.allows("CN=ab")
    assert not authorization.simple({}).allows("")


# Releases


@pytest.mark.parametrize("release", ALL)
def test_objects_on_every_release(release, tmp_path):
    folders = tls_files.make(tmp_path)
    server = {"endpoint": "server", "dir": str(folders.server)}

    async def story(monitor):
        add, say = monitor.add, monitor.say
        assert await add("secret", "s", data="x") == {}
        text = "attempt to add duplicate property 's' to object (type 'container')"
        assert await add("secret", "s", data="x") == text
        assert await add("tls-creds-x509", "t", **server) == {}
        assert await add("iothread", "io", **{"poll-max-ns": 5}) == {}
        assert await add("authz-list", "l", rules=[{"match": "x", "policy": "allow"}]) == {}
        assert "range" in await add("iothread", "j", **{"poll-max-ns": -1})
        assert await say("nbd-server-start", addr=unix(tmp_path), tls_creds="s") == (
            "Object with id 's' is not TLS credentials"
        )
        started = await say("nbd-server-start", addr=unix(tmp_path), tls_creds="t")
        unsupported = "TLS is only supported with IPv4/IPv6"
        assert started == (unsupported if monitor.machine.release.tls_needs_inet else {})
        assert await say("object-del", id="t") == {}
        assert await say("object-del", id="t") == "object 't' not found"
        listed = await say("qom-list-types", implements="user-creatable")
        assert {each["name"] for each in listed} >= {"secret", "iothread", "tls-creds-psk"}

    play(release, story)


def unix(folder):
    return {"type": "unix", "data": {"path": str(folder / "nbd.sock")}}


@pytest.mark.parametrize("release", ["2.12", "4.2", "5.0", "5.2"])
def test_properties_checked_by_the_objects_themselves(release):
    async def story(monitor):
        say = monitor.say
        assert await say("object-add") == "Parameter 'qom-type' is missing"
        assert await say("object-add", qom_type="secret") == "Parameter 'id' is missing"
        assert await say("object-add", qom_type="no", id="x") == "invalid object type: no"
        abstract = await say("object-add", qom_type="tls-creds", id="x")
        assert abstract == "object type 'tls-creds' is abstract"
        assert await say("object-add", qom_type="secret", id="x", props=[]) == (
            "Invalid parameter type for 'props', expected: dict"
        )
        owner = "secret" if release == "5.2" else ""
        assert await monitor.add("secret", "x", foo=1) == f"Property '{owner}.foo' not found"
        wrong = await monitor.add("secret", "x", data=1)
        assert wrong == "Invalid parameter type for 'data', expected: string"
        assert await monitor.add("secret", "a b", data="1", loaded=True) == {}
        flat = await say("object-add", qom_type="secret", id="y", data="1")
        if release.startswith("5"):
            assert flat == {}
            twice = await say("object-add", qom_type="secret", id="z", data="1", props={"data": ""})
            assert "both" in twice
        else:
            assert flat == "Parameter 'data' is unexpected"

    play(release, story)


@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("6.0", "Expecting TLS credentials with a server endpoint"),
        ("7.2", "Expected TLS credentials for a server endpoint"),
    ],
)
def test_a_clients_credentials_are_refused_in_the_words_of_the_release(release, text, tmp_path):
    async def story(monitor):
        await monitor.add("tls-creds-anon", "t")
        return await monitor.say("nbd-server-start", addr=unix(tmp_path), tls_creds="t")

    assert play(release, story) == text


def test_types_have_their_parents_of_the_release():
    async def story(monitor):
        listed = await monitor.ask("qom-list-types", abstract=True)
        return {each["name"]: each.get("parent") for each in listed}

    old, new = play("4.2", story), play("7.2", story)
    assert (old["secret"], old["iothread"]) == ("object", "object")
    assert (new["secret"], new["iothread"]) == ("secret_common", "event-loop-base")
    assert "secret_common" not in old


@pytest.mark.parametrize("release", ALL)
def test_the_machine_stops_and_runs(release):
    async def story(monitor):
        assert (await monitor.ask("query-status"))["status"] == "running"
        for command in ("stop", "stop"):
            await monitor.ask(command)
        assert (await monitor.ask("query-status"))["running"] is False
        for command in ("cont", "cont"):
            await monitor.ask(command)
        assert monitor.events == [("STOP", None), ("RESUME", None)]
        assert await monitor.ask("query-block") == []
        assert "No 'PCI' bus" in await monitor.say("device_add", driver="virtio-blk-pci", id="d")
        assert await monitor.say("device_del", id="d") == "Device 'd' not found"

    play(release, story)


def test_the_storage_daemon_has_no_machine():
    async def story(monitor):
        return await monitor.say("stop")

    text = "The command stop has not been found"
    assert play("7.2", story, "qemu-storage-daemon") == text


# Several threads for an export are newer than any QEMU that these texts were compared with.


def test_a_set_of_threads_is_not_for_nbd(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))

    async def story(monitor):
        await monitor.ask("nbd-server-start", addr=unix(tmp_path))
        file = {"driver": "file", "filename": str(tmp_path / "disk")}
        await monitor.ask("blockdev-add", node_name="n", driver="raw", file=file, read_only=True)
        await monitor.add("iothread", "io")

        async def export(threads):
            return await monitor.say(
                "block-export-add", type="nbd", id="e", node_name="n", iothread=threads
            )

        assert await export([]) == "The set of I/O threads must not be empty"
        assert await export(["io", "no"]) == 'iothread "no" not found'
        assert await export(["io"]) == "NBD export does not support multi-threading"
        assert await export("io") == {}

    play("11.0", story)


# Reopening


@pytest.mark.parametrize("release", [each for each in ALL if each not in {"2.12", "3.0", "3.1"}])
def test_a_node_is_reopened_on_every_release(release, tmp_path, two_bitmaps):
    shutil.copy(two_bitmaps, tmp_path / "disk.qcow2")
    shutil.copy(two_bitmaps.with_name("two-bitmaps.base.qcow2"), tmp_path)
    path = str(tmp_path / "disk.qcow2")

    async def story(monitor):
        several = monitor.machine.release.reopens_several

        async def reopen(**options):
            given = {name.replace("_", "-"): value for name, value in options.items()}
            if several:
                return await monitor.say("blockdev-reopen", options=[given])
            return await monitor.say("x-blockdev-reopen", **given)

        file = {"driver": "file", "filename": path, "node-name": "f"}
        image = {"driver": "qcow2", "node_name": "n", "file": "f", "backing": None}
        await monitor.ask("blockdev-add", **file)
        await monitor.ask("blockdev-add", **image, read_only=True)
        node = monitor.machine.graph.nodes["n"]
        assert all(bitmap.readonly for bitmap in node.bitmaps)
        assert await reopen(**image) == {}
        assert node.block.writable
        assert not any(bitmap.readonly for bitmap in node.bitmaps)
        assert await reopen(**image, read_only=True) == {}
        assert not node.block.writable
        await monitor.ask("block-dirty-bitmap-add", node="n", name="tmp")
        missing = await reopen(**{**image, "node_name": "no"})
        assert missing == (
            "Failed to find node with node-name='no'" if several else "Cannot find node named 'no'"
        )
        assert await reopen(**{**image, "driver": "raw", "backing": None}) != {}
        assert await reopen(driver="file", filename="x", node_name="f") == (
            "Cannot change the option 'filename'"
        )

    play(release, story)


def test_a_file_that_may_not_be_written_stays_read_only(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))

    async def story(monitor):
        file = {"driver": "file", "filename": str(disk), "node-name": "f"}
        await monitor.ask("blockdev-add", **file, read_only=True)
        node = monitor.machine.graph.nodes["f"]

        def fail(*, writable):
            raise PermissionError(13, "Permission denied")

        node.block.reopen = fail
        text = await monitor.say("blockdev-reopen", options=[file])
        assert "Permission denied" in text
        assert node.read_only
        del node.block.reopen
        assert await monitor.say("blockdev-reopen", options=[file]) == {}
        assert not node.read_only

    play("7.2", story)


def test_what_fails_half_way_is_undone(tmp_path, two_bitmaps):
    shutil.copy(two_bitmaps, tmp_path / "disk.qcow2")
    path = str(tmp_path / "disk.qcow2")

    async def story(monitor):
        file = {"driver": "file", "filename": path, "node-name": "f"}
        image = {"driver": "qcow2", "node-name": "n", "file": "f", "backing": None}
        await monitor.ask("blockdev-add", **file, read_only=True)
        await monitor.ask("blockdev-add", **image, read_only=True)
        f, n = (monitor.machine.graph.nodes[name] for name in "fn")

        def fail(*_arguments):
            raise OSError(5, "Input/output error")

        n.block.begin_writing = fail
        text = await monitor.say("blockdev-reopen", options=[file, image])
        assert "Input/output error" in text
        assert f.read_only
        assert n.read_only
        assert not f.block.writable
        del n.block.begin_writing
        assert await monitor.say("blockdev-reopen", options=[file, image]) == {}
        assert f.block.writable
        assert n.block.writable

    play("7.2", story)
