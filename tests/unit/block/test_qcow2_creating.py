"""Images that we make: they are sound, and what cannot be made is refused in QEMU's words."""

import pytest

from nbexport.block import Plan, begin, check_image, create, create_file, open_image
from nbexport.block.file import FileNode
from nbexport.block.qcow2 import Qcow2Node
from nbexport.errors import UsageError

MiB = 1 << 20


def make(path, plan):
    path.touch()
    with FileNode(path, writable=True) as file:
        create(file, plan)


def writable(path):
    file = FileNode(path, writable=True)
    disk = Qcow2Node(file, backing=None, writable=True)
    disk.begin_writing(*begin(disk, file))
    disk.adopt(file)
    return disk


@pytest.mark.parametrize(
    "plan",
    [
        Plan(0),
        Plan(64 * MiB),
        Plan(64 * MiB, version=2),
        Plan(2048 * MiB, cluster_size=512),
        Plan(8 * MiB, cluster_size=512, refcount_bits=64),
        Plan(32 * MiB, cluster_size=2 * MiB, refcount_bits=1, preallocation="metadata"),
        Plan(4 * MiB, extended_l2=True, compression=1, lazy_refcounts=True),
        Plan(4 * MiB, extended_l2=True, preallocation="metadata"),
        Plan(4 * MiB, preallocation="full"),
        Plan(4 * MiB, preallocation="falloc"),
        Plan(1 << 50, cluster_size=2 * MiB),
    ],
)
def test_an_image_is_as_it_was_planned(tmp_path, plan):
    path = tmp_path / "a.qcow2"
    make(path, plan)
    found = check_image(str(path))
    assert (found.corruptions, found.leaks) == (0, 0)
    with open_image(path) as disk:
        header = disk.header
        assert (disk.size, header.version) == (plan.size, plan.version)
        assert (header.cluster_size, header.refcount_bits) == (
            plan.cluster_size, plan.refcount_bits
        )  # fmt: skip
        assert (header.extended_l2, header.compression_type) == (
            plan.extended_l2, plan.compression
        )  # fmt: skip
        places = 0 if plan.preallocation == "off" else plan.size // plan.cluster_size
        assert found.allocated_clusters == places
        if plan.size:
            assert disk.read(plan.size - 512, 512) == bytes(512)


def test_an_image_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"x" * 5 * MiB)
    make(path, Plan(MiB))
    assert check_image(str(path)).corruptions == 0


def test_names_of_other_files_are_kept(tmp_path):
    make(tmp_path / "base", Plan(MiB))
    path = tmp_path / "a.qcow2"
    make(path, Plan(2 * MiB, backing_file="base", backing_format="qcow2"))
    with open_image(path) as disk:
        assert (disk.backing_filename, disk.backing_format) == ("base", "qcow2")
    data = tmp_path / "data"
    data.touch()
    make(path, Plan(MiB, data_file=str(data), data_file_raw=True))
    assert data.stat().st_size == MiB
    with writable(path) as disk:
        disk.write_from(512, memoryview(b"x" * 512))
    assert data.read_bytes()[512:1025] == b"x" * 512 + b"\0"


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan(1), "Image size must be a multiple of 512 bytes"),
        (Plan(512, cluster_size=1000), "Cluster size must be a power of two"),
        (Plan(512, cluster_size=0), "Cluster size must be a power of two"),
        (Plan(512, cluster_size=512, extended_l2=True), "at least 16384 bytes"),
        (Plan(512, refcount_bits=3), "Refcount width must be a power of two"),
        (Plan(512, version=2, refcount_bits=8), "Different refcount widths"),
        (Plan(512, version=2, lazy_refcounts=True), "Lazy refcounts only"),
        (Plan(512, version=2, compression=1), "Non-zlib compression type"),
        (Plan(512, backing_format="raw"), "without backing file"),
        (Plan(512, data_file_raw=True), "requires data-file"),
        (Plan(512, backing_file="b", preallocation="full"), "only be used at the same time"),
    ],
)
def test_what_cannot_be_made_is_refused(plan, text):
    with pytest.raises(UsageError, match=text):
        plan.check()


def test_a_disk_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Failed to grow the L1 table: File too large"):
        make(tmp_path / "a.qcow2", Plan(1 << 60))


@pytest.mark.parametrize("mode", ["off", "falloc", "full"])
def test_a_file_is_made_and_cut(tmp_path, mode):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3 * MiB)
    create_file(str(path), MiB, mode)
    assert path.read_bytes() == bytes(MiB)
    assert (path.stat().st_blocks * 512 >= MiB) is (mode != "off")


def test_a_file_that_cannot_be_made_is_told(tmp_path):
    with pytest.raises(OSError, match=r"Could not create '.*': No such file or directory"):
        create_file(str(tmp_path / "none/f"), 1)
    with pytest.raises(OSError, match="Unsupported preallocation mode"):
        create_file(str(tmp_path / "f"), 1, "metadata")


def test_a_disk_grows_with_its_tables(tmp_path):
    path = tmp_path / "a.qcow2"
    make(path, Plan(MiB, cluster_size=512))
    with writable(path) as disk:
        disk.write_from(100, memoryview(b"old"))
        disk.resize(1024 * MiB)
        assert disk.read(99, 5) == b"\0old\0"
        disk.write_from(1000 * MiB, memoryview(b"new"))
        with pytest.raises(OSError, match="not supported by this emulator"):
            disk.resize(MiB)
    found = check_image(str(path))
    assert (found.corruptions, found.leaks) == (0, 0)
    with open_image(path) as disk:
        assert (disk.size, disk.read(1000 * MiB, 3)) == (1024 * MiB, b"new")


def test_what_a_longer_backing_file_has_is_hidden(tmp_path):
    make(tmp_path / "base", Plan(2 * MiB))
    with writable(tmp_path / "base") as disk:
        disk.write_from(MiB, memoryview(b"x" * 512))
    path = tmp_path / "a.qcow2"
    make(path, Plan(MiB, backing_file="base", backing_format="qcow2"))
    base = open_image(tmp_path / "base")
    file = FileNode(path, writable=True)
    with file, base, Qcow2Node(file, backing=base, writable=True) as disk:
        disk.begin_writing(*begin(disk, file))
        disk.resize(2 * MiB)
        assert disk.read(MiB, 512) == bytes(512)
