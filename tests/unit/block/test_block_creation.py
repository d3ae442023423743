import pytest

from nbexport import block
from nbexport.block.qcow2.creation import create_image
from nbexport.errors import UsageError

TABLE_COVERS = 512 << 20  # one entry of the L1 table
LARGEST = TABLE_COVERS * (32 << 20) // 8


@pytest.mark.parametrize("size", [0, 512, TABLE_COVERS, TABLE_COVERS + 512, LARGEST])
def test_an_image_is_made_that_can_be_checked_and_written(size, tmp_path):
    path = tmp_path / "new.qcow2"
    with path.open("wb") as file:
        create_image(file.fileno(), size)
    with block.open_writable(str(path), format="qcow2") as node:
        assert (node.size, node.header.version, node.cluster_size) == (size, 3, 1 << 16)
        if size:
            node.write_from(size - 512, memoryview(b"end" * 100))
            node.flush()
            assert bytes(node.read(size - 512, 512)) == (b"end" * 100).ljust(512, b"\0")
    result = block.check_image(str(path))
    assert (result.corruptions, result.leaks) == (0, 0)


def test_a_disk_that_needs_larger_clusters_is_refused(tmp_path):
    path = tmp_path / "new.qcow2"
    with path.open("wb") as file, pytest.raises(UsageError, match="grow the L1 table"):
        create_image(file.fileno(), LARGEST + 512)
    assert path.read_bytes() == b""
