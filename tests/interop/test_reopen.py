"""blockdev-reopen beside QEMU 7.2's: what changes, what is refused, and what images hold then."""

from __future__ import annotations

import json
import re

import pytest
from monitors import DAEMON, OURS, OURS_AS_SYSTEM, SYSTEM, monitor, unix
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
GENERATED = re.compile(r"#block\d+")


def file(name, node=None, **more):
    named = {} if node is None else {"node-name": node}
    return {"driver": "file", "filename": name, **named, **dashed(more)}


def qcow2(node, child, **more):
    return {"driver": "qcow2", "node-name": node, "file": child, **dashed(more)}


def raw(node, child, **more):
    return {"driver": "raw", "node-name": node, "file": child, **dashed(more)}


def dashed(members):
    return {name.replace("_", "-"): value for name, value in members.items()}


class Driver:
    """One monitor, with the words of this family."""

    def __init__(self, client):
        self.client = client

    def add(self, options):
        return self.client.execute("blockdev-add", **options)

    def reopen(self, *options):
        return self.client.execute("blockdev-reopen", options=list(options))

    def delete(self, *nodes):
        for node in nodes:
            self.client.execute("blockdev-del", node_name=node)

    def bitmap(self, what, name, **more):
        self.client.execute(f"block-dirty-bitmap-{what}", node="t", name=name, **more)

    def look(self):
        self.client.execute("query-named-block-nodes", flat=True)

    def export(self, name, **more):
        self.client.execute("block-export-add", type="nbd", id=name, node_name="t", name=name,
                            **more)  # fmt: skip

    def serve(self):
        self.client.execute("nbd-server-start", addr=unix())

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.client.folder}/nbd.sock"

    def stored(self):
        """Return what the image itself says of its bitmaps now."""
        told = run(
            "qemu-img", "info", "-U", "--output=json", self.client.folder / "top.qcow2"
        ).stdout
        return json.loads(told)["format-specific"]["data"].get("bitmaps")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    base, top, other = (folder / f"{name}.qcow2" for name in ("base", "top", "other"))
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 1M", base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", top, cwd=folder)
    run("qemu-img", "create", "-q", "-f", "qcow2", other, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 3M", other)
    run("qemu-img", "bitmap", "--add", top, "b0")
    run("qemu-img", "bitmap", "--add", "--disable", top, "bd")
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(range(256)) * 4096)
    return [base, top, other, disk]


def both(tmp_path, images, act, programs=(SYSTEM, OURS_AS_SYSTEM)):
    """Do the same with both programs and compare what they told and what ``act`` returns."""
    found = []
    for program in programs:
        with monitor(program, tmp_path / program, *images) as client:
            seen = act(Driver(client))
            client.quit()
            text = json.dumps(client.log, sort_keys=True)
            text = re.sub(r'"(actual|virtual)-size": \d+', r'"\1-size": 0', text)
            found.append((json.loads(GENERATED.sub("#block", text)), seen))
    for theirs, ours in zip(*(log for log, _seen in found), strict=True):
        assert ours == theirs
    assert found[1][1] == found[0][1]
    for image in ("top.qcow2", "base.qcow2", "other.qcow2"):
        for program in programs:
            checked = run("qemu-img", "check", tmp_path / program / image)
            assert "No errors" in checked.stdout
    return found[1]


def errors(log):
    return [each["error"]["desc"] for each in log if "error" in each]


def test_arguments_that_are_refused(tmp_path, images):
    def act(it):
        it.client.execute("blockdev-reopen")
        it.reopen({})
        it.reopen({"driver": "qcow2"})
        it.reopen({"driver": "bogus"})
        it.reopen(file("x", "nope"))
        it.add(file("other.qcow2", "f"))
        it.add(qcow2("t", "f"))
        it.reopen(file("other.qcow2"))
        it.reopen(qcow2("t", "f"), file("x", "nope"))
        for other in ({"filename": "base.qcow2"}, {"filename": "./other.qcow2"}, {"aio": "threads"},
                      {"locking": "auto"}, {"pr-manager": "x"}):  # fmt: skip
            it.reopen({**file("other.qcow2", "f"), **other})
        it.reopen({"driver": "null-co", "node-name": "f"})
        it.reopen(raw("t", "f"))
        for child in (file("other.qcow2"), "nope", "t"):
            it.reopen(qcow2("t", child))
        it.reopen(qcow2("t", "f", backing=file("base.qcow2")))
        it.reopen(qcow2("t", "f", backing="nope"))
        it.reopen(qcow2("t", "f", backing="t"))
        it.reopen(qcow2("t", "f", detect_zeroes="unmap"))
        it.look()

    told = errors(both(tmp_path, images, act)[0])
    assert len(told) == 21, told


@pytest.mark.parametrize("programs", [(SYSTEM, OURS_AS_SYSTEM), (DAEMON, OURS)])
def test_to_read_only_and_back(tmp_path, images, programs):
    def act(it):
        it.add(file("other.qcow2", "f"))
        it.add(qcow2("t", "f"))
        ro, ro_file = {"read_only": True}, file("other.qcow2", "f", read_only=True)
        rw, rw_file = qcow2("t", "f"), file("other.qcow2", "f")
        ro = qcow2("t", "f", **ro)
        for options in ([ro_file], [ro], [rw], [ro_file, ro], [rw], [rw, rw_file], [ro, ro_file],
                        [rw_file, rw], [rw, ro], [ro, rw], [rw], [ro], [ro_file],
                        [rw_file]):  # fmt: skip
            it.reopen(*options)
            it.look()
        it.delete("t")
        it.reopen(ro_file)
        it.add(rw)
        it.add(ro)
        it.reopen(rw)
        it.serve()
        it.export("e")
        it.export("w", writable=True)
        it.reopen(rw_file, rw)
        it.export("w", writable=True)
        it.reopen(ro)
        it.reopen(ro_file)
        it.client.execute("block-export-del", id="w")
        it.reopen(ro_file, ro)
        it.client.execute("nbd-server-stop")
        it.delete("t", "f")

    told = errors(both(tmp_path, images, act, programs)[0])
    assert "Block node is read-only" in told
    assert "Read-only block node 't' cannot support read-write users" in told


def test_a_child_that_was_described_follows(tmp_path, images):
    def act(it):
        it.add(qcow2("t", file("other.qcow2", "tf")))
        for options in ({"read_only": True}, {}, {"read_only": False}, {"read_only": True}):
            it.reopen(qcow2("t", "tf", **options))
            it.look()
        described = file("other.qcow2")
        for child in (described, file("base.qcow2"), {**described, "aio": "native"},
                      file("other.qcow2", "zz"), file("other.qcow2", read_only=True)):  # fmt: skip
            it.reopen(qcow2("t", child))
            it.reopen(qcow2("t", child, read_only=True))
            it.look()
        it.delete("t")

    both(tmp_path, images, act)


def test_a_backing_file_that_was_described_follows(tmp_path, images):
    def act(it):
        base = qcow2("b", file("base.qcow2", "bf"))
        top = qcow2("t", file("top.qcow2", "f"), backing=base)
        it.add(top)
        for change in (
            *({}, {"read-only": True}, {}, {"cache": {"no-flush": True}}, {}),
            *({"l2-cache-entry-size": 128 << 10}, {"l2-cache-size": MiB, "cache-size": MiB >> 1}),
            {"backing": {**base, "node-name": "other"}},
            {"backing": {**base, "driver": "raw"}},
            *({"backing": {**base, "read-only": False}}, {}, {"backing": None}),
        ):
            it.reopen({**top, **change})
            it.look()
        it.add(base)
        it.reopen({**top, "backing": "b"})
        it.reopen({**base, "read-only": True})
        it.reopen(top)
        it.look()
        it.delete("b", "t", "b")

    told = errors(both(tmp_path, images, act)[0])
    assert len(told) == 6, told


def test_bitmaps_are_stored_and_go_on(tmp_path, images):
    """The way that libvirt makes an image of a chain writable for a moment."""

    def act(it):
        it.add(file("top.qcow2", "f", auto_read_only=True, discard="unmap"))
        it.add(qcow2("t", "f", backing=None, read_only=True))
        it.serve()
        rw = qcow2("t", "f", backing=None)
        ro = qcow2("t", "f", backing=None, read_only=True)
        seen = []
        it.bitmap("clear", "b0")
        it.reopen(rw)
        it.look()
        seen.append(it.stored())
        it.bitmap("add", "p", persistent=True)
        it.bitmap("add", "tmp")
        it.export("w", writable=True)
        run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 128k", it.uri("w"))
        it.client.execute("block-export-del", id="w")
        it.bitmap("remove", "bd")
        it.reopen(ro)
        it.look()
        seen.append(it.stored())
        it.export("r", bitmaps=["b0", "p", "tmp"])
        seen += [nbdinfo_map(it.uri("r"), f"qemu:dirty-bitmap:{b}") for b in ("b0", "p", "tmp")]
        it.client.execute("block-export-del", id="r")
        for what, name in (("clear", "b0"), ("clear", "tmp"), ("remove", "p"), ("disable", "b0")):
            it.bitmap(what, name)
        it.reopen(rw)
        it.look()
        it.export("w", writable=True, bitmaps=["b0", "p", "tmp"])
        run("qemu-io", "-f", "raw", "-c", "write -P 2 3M 64k", it.uri("w"))
        seen += [nbdinfo_map(it.uri("w"), f"qemu:dirty-bitmap:{b}") for b in ("b0", "p", "tmp")]
        it.client.execute("nbd-server-stop")
        it.bitmap("remove", "p")
        seen.append(it.stored())
        it.delete("t")
        seen.append(it.stored())
        return seen

    _log, seen = both(tmp_path, images, act)
    assert [each["flags"] for each in seen[0]] == [["in-use", "auto"], ["in-use"]]
    assert sorted(each["name"] for each in seen[1]) == ["b0", "p"]
    assert all("in-use" not in each["flags"] for each in seen[1])
    assert [each["name"] for each in seen[-1]] == ["b0"]


def test_another_backing_file(tmp_path, images):
    def act(it):
        it.add(qcow2("b", file("base.qcow2"), read_only=True))
        it.add(qcow2("o", file("other.qcow2"), read_only=True))
        it.add(qcow2("t", file("top.qcow2", "tf"), backing="b"))
        it.serve()
        it.export("e", allocation_depth=True)
        seen = []
        for backing in ({"backing": "b"}, {}, {"backing": "o"}, {"backing": None},
                        {"backing": "t"}, {"backing": "tf"}, {"backing": "b"}):  # fmt: skip
            it.reopen(qcow2("t", "tf", **backing))
            it.look()
            seen.append(nbdinfo_map(it.uri("e"), "base:allocation"))
            seen.append(nbdinfo_map(it.uri("e"), "qemu:allocation-depth"))
            dump = run("qemu-io", "-r", "-f", "raw", "-c", "read -v 2M 32", it.uri("e")).stdout
            seen.append(dump.splitlines()[:2])
        it.client.execute("block-export-del", id="e")
        it.add(raw("r", "b"))
        it.reopen(qcow2("t", "tf", backing="r"))
        it.look()
        it.delete("b", "r")
        it.reopen(qcow2("t", "tf", backing=None))
        it.delete("b", "r", "b")
        it.add(qcow2("t2", file("base.qcow2"), backing="t"))
        it.reopen(qcow2("t", "tf", backing="t2"))
        it.look()

    log, _seen = both(tmp_path, images, act)
    assert "Making 't2' a backing child of 't' would create a cycle" in errors(log)


def test_another_window_and_another_file(tmp_path, images):
    def act(it):
        it.add(raw("t", file("disk.raw", "rf")))
        it.add(file("other.qcow2", "of"))
        for options in ({"offset": 512}, {"size": 1000}, {"size": 1024}, {"offset": 2 * MiB},
                        {"offset": 1024, "size": MiB}, {"offset": 4096, "size": 8192}):  # fmt: skip
            it.reopen(raw("t", "rf", **options))
            it.look()
        it.serve()
        it.export("e")
        seen = run("qemu-io", "-r", "-f", "raw", "-c", "read -v 0 32", it.uri("e")).stdout
        it.client.execute("block-export-del", id="e")
        it.reopen(raw("t", "of"))
        it.look()
        it.reopen(raw("t", "rf"))
        it.reopen(raw("t", "of", read_only=True))
        it.reopen(raw("t", "of"))
        it.delete("of", "t", "of")
        return seen.splitlines()[:2]

    both(tmp_path, images, act)


def test_other_options(tmp_path, images):
    def act(it):
        it.add(file("other.qcow2", "f"))
        it.add(qcow2("t", "f"))
        for more in ({"discard": "unmap"}, {"detect_zeroes": "on"}, {"cache": {"direct": True}},
                     {"cache": {"no-flush": True}}, {"lazy_refcounts": True},
                     {"l2_cache_size": MiB}, {"overlap_check": "all"},
                     {"detect_zeroes": "unmap", "discard": "unmap"}, {}):  # fmt: skip
            it.reopen(qcow2("t", "f", **more))
            it.look()
        for more in ({"auto_read_only": True}, {"discard": "unmap"}, {"drop_cache": False}, {}):
            it.reopen(file("other.qcow2", "f", **more))
            it.look()

    both(tmp_path, images, act)


def test_disks_of_other_drivers(tmp_path, images):
    def act(it):
        null = {"driver": "null-co", "node-name": "n", "size": MiB}
        it.add(null)
        for more in ({"size": 2 * MiB}, {"read-only": True}, {"latency-ns": 5}, {}):
            it.reopen({**null, **more})
            it.look()
        it.reopen({"driver": "null-co", "node-name": "n"})
        it.add(qcow2("t", file("other.qcow2")))
        cbw = {"driver": "copy-before-write", "node-name": "c", "file": "t", "target": "n"}
        it.reopen(null)
        it.add(cbw)
        for more in ({}, {"file": "nope"}, {"read-only": True}, {"detect-zeroes": "unmap"}):
            it.reopen({**cbw, **more})
        it.delete("c", "t", "n")

    told = errors(both(tmp_path, images, act)[0])
    assert "Option 'size' cannot be reset to its default value" in told
