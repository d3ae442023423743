"""qcow2 images built here, byte by byte, against a model of a few lines."""

from __future__ import annotations

import gc
import struct
import threading
import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbexport.bits import Bitmap, Extents
from nbexport.block import FROM_HEADER, FileNode, Qcow2Node, RawNode, open_image
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = 512
PER_TABLE = CLUSTER // 8

HOLE, NORMAL, ZERO, ZERO_MAPPED, COMPRESSED = range(5)


@dataclass
class Image:
    """A version 3 image of 512-byte clusters: what each cluster is, and its bitmaps."""

    clusters: list[int]
    bitmaps: dict[str, tuple[Bitmap, int]] = field(default_factory=dict)
    backing: str = ""
    seed: int = 1

    @property
    def size(self) -> int:
        return len(self.clusters) * CLUSTER

    def content(self, number: int) -> bytes | None:
        """Return what this image alone makes of a cluster; None: ask below."""
        kind = self.clusters[number]
        if kind == HOLE:
            return None
        if kind in {ZERO, ZERO_MAPPED}:
            return bytes(CLUSTER)
        return bytes((self.seed * 31 + number * 7 + at // 16) % 256 for at in range(CLUSTER))

    def build(self) -> bytes:
        l1_size = -(-len(self.clusters) // PER_TABLE)
        places: list[bytes] = [b"", b"", b""]  # header, refcount table, refcount block

        def add(data: bytes) -> int:
            at = len(places) * CLUSTER
            padded = data.ljust(-(-len(data) // CLUSTER) * CLUSTER, b"\0")
            places.extend(padded[i : i + CLUSTER] for i in range(0, len(padded), CLUSTER))
            return at

        l1 = []
        for table in range(l1_size):
            entries = []
            for number in range(table * PER_TABLE, (table + 1) * PER_TABLE):
                kind = self.clusters[number] if number < len(self.clusters) else HOLE
                if kind == HOLE:
                    entries.append(0)
                elif kind == ZERO:
                    entries.append(1)
                elif kind == COMPRESSED:
                    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
                    packed = packer.compress(self.content(number)) + packer.flush()
                    assert len(packed) <= 512
                    entries.append(1 << 62 | add(packed))  # one sector: no extra ones
                elif kind == ZERO_MAPPED:
                    entries.append(1 << 63 | add(b"\xee" * CLUSTER) | 1)
                else:
                    entries.append(1 << 63 | add(self.content(number)))
            l1.append(1 << 63 | add(struct.pack(f">{PER_TABLE}Q", *entries)) if any(entries) else 0)
        l1_at = add(struct.pack(f">{l1_size}Q", *l1)) if l1_size else CLUSTER
        extension = b""
        if self.bitmaps:
            directory = b""
            for name, (bitmap, flags) in self.bitmaps.items():
                words = bitmap.to_bytes()
                words = words.ljust(-(-len(words) // 8) * 8, b"\0")
                parts = [words[i : i + CLUSTER] for i in range(0, len(words), CLUSTER)]
                table = [
                    0 if not any(part) else 1 if part == b"\xff" * CLUSTER else add(part)
                    for part in parts
                ]
                at = add(struct.pack(f">{len(table)}Q", *table))
                bits = bitmap.granularity.bit_length() - 1
                raw = name.encode("utf-8", "surrogateescape")
                entry = struct.pack(">QIIBBHI", at, len(table), flags, 1, bits, len(raw), 0) + raw
                directory += entry.ljust(-(-len(entry) // 8) * 8, b"\0")
            at = add(directory)
            extension = struct.pack(
                ">IIIIQQ", 0x23852875, 24, len(self.bitmaps), 0, len(directory), at
            )
        name = self.backing.encode()
        extension += struct.pack(">II", 0xE2792ACA, 5) + b"qcow2\0\0\0" if name else b""
        extension += bytes(8)
        places[1] = struct.pack(">Q", 2 * CLUSTER)
        places[2] = b"\0\1" * 256
        places[0] = (
            struct.pack(
                ">4sIQIIQIIQQIIQQQQIIQ",
                b"QFI\xfb",
                3,
                112 + len(extension) if name else 0,
                len(name),
                9,
                self.size,
                0,
                l1_size,
                l1_at,
                CLUSTER,
                1,
                0,
                0,
                0,
                0,
                1 if self.bitmaps else 0,
                4,
                112,
                0,
            )
            + extension
            + name
        )
        return b"".join(place.ljust(CLUSTER, b"\0") for place in places)


KINDS = st.sampled_from([HOLE, HOLE, NORMAL, NORMAL, ZERO, ZERO_MAPPED, COMPRESSED])
LAYOUTS = st.one_of(
    st.lists(KINDS, max_size=200),
    # Whole tables left out between others.
    st.lists(st.tuples(KINDS, st.integers(1, 150)), max_size=5).map(
        lambda runs: [kind for kind, length in runs for _ in range(length)]
    ),
)


def model(chain: list[Image], number: int) -> tuple[bytes, int, int]:
    """Return content, allocation flags and depth of a cluster of the topmost image."""
    for depth, image in enumerate(chain, 1):
        if number >= len(image.clusters):
            return bytes(CLUSTER), 3, depth
        content = image.content(number)
        if content is not None:
            kind = image.clusters[number]
            return content, 3 if kind in {ZERO, ZERO_MAPPED} else 0, depth
    return bytes(CLUSTER), 3, 0


def write_chain(folder: Path, chain: list[Image]) -> Path:
    for number, image in enumerate(chain):
        image.seed = number + 1
        image.backing = f"{number + 1}.qcow2" if number + 1 < len(chain) else ""
        (folder / f"{number}.qcow2").write_bytes(image.build())
    return folder / "0.qcow2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("qcow2")


@settings(deadline=None, max_examples=60)
@given(layouts=st.lists(LAYOUTS, min_size=1, max_size=4), data=st.data())
def test_chain_against_the_model(folder, layouts, data):
    chain = [Image(clusters) for clusters in layouts]
    with open_image(write_chain(folder, chain)) as node:
        count = len(chain[0].clusters)
        expected = [model(chain, number) for number in range(count)]
        content = b"".join(part for part, _, _ in expected)
        assert node.size == len(content)
        assert node.read(0, node.size) == content
        flags = Extents.from_lengths([CLUSTER] * count, [flag for _, flag, _ in expected])
        depth = Extents.from_lengths([CLUSTER] * count, [number for _, _, number in expected])
        start = data.draw(st.integers(0, node.size))
        end = data.draw(st.integers(start, node.size))
        assert node.read(start, end - start) == content[start:end]
        # The part first: it must not need the whole.
        assert node.allocation(start, end) == flags.clip(start, end)
        assert node.allocation() == flags
        assert node.depth(start, end) == depth.clip(start, end)
        assert node.depth() == depth
        assert [layer.size for layer in node.chain()] == [image.size for image in chain]


@settings(deadline=None, max_examples=60)
@given(
    clusters=st.integers(1, 5000),
    granularities=st.lists(st.integers(9, 31), min_size=1, max_size=3),
    data=st.data(),
)
def test_bitmaps_are_read_as_they_were_stored(folder, clusters, granularities, data):
    image = Image([HOLE] * clusters)
    for number, bits in enumerate(granularities):
        bitmap = Bitmap(image.size, 1 << bits)
        for _ in range(data.draw(st.integers(0, 4))):
            offset = data.draw(st.integers(0, image.size))
            bitmap.set(offset, data.draw(st.integers(0, image.size - offset)))
        flags = data.draw(st.sampled_from([0, 1, 2, 3]))
        image.bitmaps[f"b{number}\u00e9"] = bitmap, flags
    with open_image(write_chain(folder, [image])) as node:
        assert list(node.bitmaps) == list(image.bitmaps)
        for name, (bitmap, flags) in image.bitmaps.items():
            stored = node.bitmaps[name]
            assert stored.name == name
            assert stored.granularity == bitmap.granularity
            assert stored.enabled == bool(flags & 2)
            assert stored.inconsistent == bool(flags & 1)
            assert stored.bitmap == (None if flags & 1 else bitmap)


SEED_IMAGE = Image(
    [NORMAL, COMPRESSED, ZERO, HOLE, ZERO_MAPPED] * 30,
    bitmaps={
        "a": (Bitmap.from_bytes(b"\x5a" * 19, 150 * 512, 512), 2),
        "b": (Bitmap(150 * 512, 4096), 0),
    },
)
# Where a change means most: header and extensions, then anywhere.
POSITIONS = st.one_of(st.integers(0, 200), st.integers(0, len(SEED_IMAGE.build()) - 1))
EDITS = st.lists(
    st.one_of(
        st.tuples(POSITIONS, st.binary(min_size=1, max_size=8)),
        st.tuples(POSITIONS, st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7])),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(edits=EDITS, cut=st.none() | st.integers(0, 40_000))
def test_damage_is_an_error_and_nothing_else(folder, edits, cut):
    data = bytearray(SEED_IMAGE.build())
    for at, change in edits:
        data[at : at + len(change)] = change
    path = folder / "damaged.qcow2"
    path.write_bytes(data[:cut])
    texts = []
    try:
        node = open_image(path, format="qcow2")
    except (FormatError, OSError) as error:
        texts.append(str(error))
    else:
        with node:
            for question in (
                lambda: node.read(0, min(node.size, 1 << 20)),
                lambda: node.read(max(0, node.size - 4096), min(node.size, 4096)),
                node.allocation,
                node.depth,
            ):
                try:
                    question()
                except (FormatError, OSError) as error:
                    texts.append(str(error))
    for text in texts:
        assert text
        assert "\n" not in text


@pytest.fixture
def built(tmp_path):
    """Return a function that writes an image and gives its path."""

    def build(clusters=(NORMAL,), name="a.qcow2", **kwargs):
        path = tmp_path / name
        path.write_bytes(Image(list(clusters), **kwargs).build())
        return path

    return build


def test_backing_by_reference_none_and_from_the_header(built):
    base = built([NORMAL] * 4, name="base.qcow2", seed=9)
    top = built([HOLE, NORMAL, HOLE, ZERO], backing="base.qcow2")
    with FileNode(top) as file, open_image(base) as lower:
        alone = Qcow2Node(file, backing=None)
        assert alone.backing is None
        assert alone.backing_filename == "base.qcow2"
        assert alone.backing_format == "qcow2"
        assert alone.read(0, 512) == bytes(512)
        assert list(alone.allocation(0, 512)) == [(0, 512, 3)]
        referred = Qcow2Node(file, backing=lower)
        assert referred.read(0, 512) == lower.read(0, 512) != bytes(512)
        referred.close()
        assert lower.read(0, 512) == Image([NORMAL], seed=9).content(0)  # not ours to close
        named = Qcow2Node(file, backing=FROM_HEADER)
        assert named.backing is not None
        assert named.read(0, 2048) == referred.read(0, 2048)
        opened = named.backing.file
        named.close()
        named.close()
        with pytest.raises(OSError, match="cannot read"):
            opened.read(0, 1)
        assert file.read(0, 4) == b"QFI\xfb"


def test_find_bitmap_prefers_the_top(built):
    bits = Bitmap(512, 512)
    built(name="base.qcow2", bitmaps={"both": (bits, 2), "below": (bits, 2)})
    top = built(bitmaps={"both": (bits, 0)}, backing="base.qcow2")
    with open_image(top) as node:
        where, bitmap = node.find_bitmap("both")
        assert where is node
        assert not bitmap.enabled
        where, bitmap = node.find_bitmap("below")
        assert where is node.backing
        assert bitmap.enabled
        assert node.find_bitmap("none") is None


def test_relative_names_are_relative_to_the_overlay(built, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    built(name="base.qcow2")
    built([HOLE], name="sub/top.qcow2", backing="../base.qcow2")
    monkeypatch.chdir(tmp_path / "sub")
    with open_image("top.qcow2") as node:
        assert [layer.filename for layer in node.chain()] == ["top.qcow2", "../base.qcow2"]
    monkeypatch.chdir(tmp_path)
    with open_image("sub/top.qcow2") as node:
        assert node.backing.filename == "sub/../base.qcow2"
        assert node.read(0, 512) == Image([NORMAL]).content(0)


def test_loops_are_refused(built):
    top = built([HOLE], name="a.qcow2", backing="b.qcow2")
    built([HOLE], name="b.qcow2", backing="a.qcow2")
    with pytest.raises(FormatError, match=r"loop: '.*a\.qcow2' is in it already"):
        open_image(top)
    with pytest.raises(FormatError, match="loop"):
        open_image(built([HOLE], name="c.qcow2", backing="c.qcow2"))


def test_the_longest_chain_reads_and_a_longer_one_is_refused(tmp_path):
    for number in range(201):
        backing = f"{number + 1}.qcow2" if number < 200 else ""
        image = Image([HOLE] if number < 200 else [NORMAL], backing=backing)
        (tmp_path / f"{number}.qcow2").write_bytes(image.build())
    with open_image(tmp_path / "1.qcow2") as node:
        assert node.read(0, 512) == Image([NORMAL]).content(0)
        assert list(node.depth()) == [(0, 512, 200)]
    with pytest.raises(FormatError, match=r"longer than 200 images at '.*/200\.qcow2'"):
        open_image(tmp_path / "0.qcow2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ('json:{"driver":"file"}', "'json:' file names are not supported"),
        ("nbd:unix:/run/x", "Unknown protocol 'nbd'"),
        ("https://example.org/x", "Unknown protocol 'https'"),
    ],
)
def test_protocols_are_refused_by_name(built, name, text):
    with pytest.raises(UsageError, match=text):
        open_image(name)
    with pytest.raises(FormatError, match=f"^.*: Could not open backing file: {text}"):
        open_image(built([HOLE], backing=name))


def test_a_failed_open_leaves_no_file_open(built, monkeypatch):
    opened, closed = [], []

    def note_closing(self):
        closed.append(self)

    monkeypatch.setattr(FileNode, "_close_own", note_closing)
    real = FileNode.__init__
    monkeypatch.setattr(
        FileNode,
        "__init__",
        lambda self, path, **options: (real(self, path, **options), opened.append(self))[0],
    )
    built([HOLE], name="b.qcow2", backing="c.qcow2")
    (built(name="c.qcow2")).write_bytes(b"garbage")
    with pytest.raises(FormatError, match="Image is not in qcow2 format"):
        open_image(built([HOLE], name="a.qcow2", backing="b.qcow2"))
    assert len(opened) == 3
    assert sorted(map(id, closed)) == sorted(map(id, opened))
    monkeypatch.undo()
    for node in opened:
        node.close()
    gc.collect()


def test_bitmaps_without_the_autoclear_bit_are_left_out_with_a_warning(built, caplog):
    path = built(bitmaps={"a": (Bitmap(512, 512), 2)})
    data = bytearray(path.read_bytes())
    data[88:96] = bytes(8)
    path.write_bytes(data)
    with open_image(path) as node:
        assert dict(node.bitmaps) == {}
    assert "wrote to this image without keeping its bitmaps" in caplog.text


def test_bitmaps_together_are_bounded(built, monkeypatch):
    from nbexport.block.qcow2 import layout

    path = built([HOLE] * 5000, bitmaps={n: (Bitmap(5000 * 512, 512), 2) for n in "ab"})
    monkeypatch.setattr(layout, "ALL_BITMAPS_BYTES_MAX", 1000)
    with pytest.raises(FormatError, match="Bitmap 'b' does not fit"):
        open_image(path)


def test_requests_outside_the_disk(built):
    with open_image(built([NORMAL] * 2)) as node:
        for offset, length in ((-1, 1), (0, 1025), (1024, 1), (1 << 70, 1), (0, 1 << 70), (0, -1)):
            with pytest.raises(UsageError, match="outside the disk"):
                node.read(offset, length)
        for start, end in ((-1, 5), (0, 1025), (5, 4)):
            with pytest.raises(UsageError, match="outside the disk"):
                node.allocation(start, end)
        assert node.read(1024, 0) == b""
        assert node.allocation(1024, 1024) == Extents.empty(1024)


def test_threads_read_the_same(built):
    clusters = [NORMAL, COMPRESSED, HOLE, ZERO] * 500
    with open_image(built(clusters)) as node:
        expected = node.read(0, node.size)
        allocation = node.allocation()
    wrong = []

    def work(node, seed):
        for step in range(40):
            offset = (seed * 7919 + step * 104729) % (node.size - 3000)
            if node.read(offset, 3000) != expected[offset : offset + 3000]:
                wrong.append(offset)
            if node.allocation() != allocation:
                wrong.append("map")

    with open_image(built(clusters)) as node:
        threads = [threading.Thread(target=work, args=(node, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_raw_over_an_overlay_is_a_hole_that_is_not_zero(built):
    """A raw node asks only the layer below it, so what is in the backing file is unknown."""
    built([NORMAL] * 2, name="base.qcow2")
    with open_image(built([HOLE, NORMAL], backing="base.qcow2")) as node:
        raw = RawNode(node)
        assert raw.read(0, 1024) == node.read(0, 1024)
        assert list(raw.allocation()) == [(0, 512, 1), (512, 512, 0)]
        assert list(raw.depth()) == [(0, 512, 0), (512, 512, 1)]


def test_sizes_and_attributes(built):
    with open_image(built([NORMAL])) as node:
        wanted = SimpleNamespace(driver="qcow2", read_only=True, request_alignment=1, size=512)
        for name, value in vars(wanted).items():
            assert getattr(node, name) == value
        assert node.cluster_size == 512
        assert node.file.driver == "file"
        assert node.allocated_size() == node.file.allocated_size() > 0
