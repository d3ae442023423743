"""Files and raw images."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.block import FileNode, HostDeviceNode, RawNode, open_image
from nbexport.block import file as file_module
from nbexport.errors import FormatError, UsageError

MiB = 1 << 20


@pytest.fixture
def sparse(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(4 * MiB + 100)
        file.seek(MiB)
        file.write(b"x" * 65536)
    return path


@pytest.mark.parametrize(("length", "size"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_length_is_rounded_up_and_the_tail_is_a_hole(length, size, tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(b"\1" * length)
    with open_image(path, format="raw") as node:
        assert node.size == size
        assert node.read(0, size) == b"\1" * length + b"\0" * (size - length)
        expected = [(0, length, 0)] if length else []
        if size > length:
            expected.append((length, size - length, 3))
        assert list(node.allocation()) == expected
        assert list(node.depth()) == ([(0, size, 1)] if size else [])


def test_holes(sparse):
    with open_image(sparse) as node:
        assert node.driver == "raw"
        assert node.request_alignment == 512
        assert list(node.allocation()) == [
            (0, MiB, 3),
            (MiB, 65536, 0),
            (MiB + 65536, node.size - MiB - 65536, 3),
        ]
        assert list(node.allocation(MiB + 1, MiB + 3)) == [(MiB + 1, 2, 0)]
        assert list(node.depth(5, 10)) == [(5, 5, 1)]


def test_a_map_follows_the_file(sparse):
    with open_image(sparse, format="raw") as node:
        before = node.allocation()
        with sparse.open("r+b") as file:
            file.seek(2 * MiB)
            file.write(b"y" * 4096)
        os.utime(sparse, ns=(1, 1))  # whatever the resolution of the host's clock
        assert node.allocation() != before
        assert node.allocation().at(2 * MiB) == 0


def test_too_many_boundaries_count_as_data(sparse, monkeypatch):
    monkeypatch.setattr(file_module, "MAX_HOST_EXTENTS", 2)
    with open_image(sparse, format="raw") as node:
        assert list(node.allocation()) == [(0, MiB, 3), (MiB, node.size - MiB, 0)]


def test_a_file_cut_while_open_is_an_error_not_zeroes(sparse):
    with open_image(sparse, format="raw") as node:
        os.truncate(sparse, MiB + 10)
        assert node.read(MiB, 10) == b"x" * 10
        with pytest.raises(OSError, match=r"file ends before offset 1048586") as caught:
            node.read(MiB, 20)
        assert caught.value.errno == 5


@settings(deadline=None, max_examples=100)
@given(offset=st.integers(0, 3000), sectors=st.none() | st.integers(0, 8), data=st.data())
def test_window(offset, sectors, data, tmp_path_factory):
    content = bytes(range(256)) * 10 + b"tail"
    path = tmp_path_factory.getbasetemp() / "window"
    path.write_bytes(content)
    padded = content.ljust(3072, b"\0")
    with FileNode(path) as file:
        size = None if sectors is None else sectors * 512
        if size is not None and offset + size > 3072:
            with pytest.raises(UsageError, match="has to be smaller or equal to the  actual size"):
                RawNode(file, offset, size)
            return
        node = RawNode(file, offset, size)
        expected = padded[offset:] if size is None else padded[offset : offset + size]
        expected = expected.ljust(node.size, b"\0")
        assert node.size % 512 == 0
        assert len(expected) == node.size
        start = data.draw(st.integers(0, node.size))
        end = data.draw(st.integers(start, node.size))
        assert node.read(start, end - start) == expected[start:end]
        assert node.allocation().end == node.size
        assert node.allocation(start, end) == node.allocation().clip(start, end)
        node.close()
        assert file.read(0, 1) == b"\0"  # not the window's to close


def test_windows_that_cannot_be(sparse):
    with FileNode(sparse) as file:
        for offset, size, text in (
            (file.size + 1, None, "cannot be greater than size of the containing file"),
            (0, 513, "Specified size is not multiple of 512"),
            (0, file.size + 512, "The sum of offset"),
            (-1, None, "must not be negative"),
            (0, -512, "must not be negative"),
        ):
            with pytest.raises(UsageError, match=text):
                RawNode(file, offset, size)


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match=f"^'file' driver requires '{path}' to be a regular file"):
            open_image(path)
    regular = tmp_path / "regular"
    regular.write_bytes(b"")
    with pytest.raises(OSError, match="to be either a character or block device"):
        HostDeviceNode(regular)


def test_missing_files(tmp_path):
    with pytest.raises(
        OSError, match=r"^Could not open '.*/no': No such file or directory$"
    ) as caught:
        open_image(tmp_path / "no")
    assert caught.value.errno == 2
    assert caught.value.filename == str(tmp_path / "no")
    with pytest.raises(OSError, match="Could not open"):
        open_image("a\0b")


def test_formats_and_names(sparse, tmp_path, monkeypatch):
    with pytest.raises(FormatError, match="Unknown driver 'nonsense'"):
        open_image(sparse, format="nonsense")
    with pytest.raises(FormatError, match="Driver 'vmdk' is not supported"):
        open_image(sparse, format="vmdk")
    with pytest.raises(FormatError, match="Image is not in qcow2 format"):
        open_image(sparse, format="qcow2")
    with open_image(f"file:{sparse}", format="file") as node:
        assert node.driver == "file"
        assert node.request_alignment == 1
    monkeypatch.chdir(tmp_path)
    sparse.rename(tmp_path / "a:b")
    with pytest.raises(UsageError, match="Unknown protocol 'a'"):
        open_image("a:b")
    with (
        open_image("./a:b") as one,
        open_image(tmp_path.joinpath("a:b").relative_to(tmp_path)) as two,
    ):
        assert one.filename == two.filename == "./a:b"


def test_closing_ends_reading(sparse):
    node = open_image(sparse)
    node.close()
    with pytest.raises(OSError, match="cannot read"):
        node.read(0, 1)
