"""`nbexport serve` and `nbexport map` beside qemu-nbd and the clients that people use."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys

import pytest
from peers import TIME_LIMIT, background, nbdinfo_map, qemu_nbd, run

pytestmark = pytest.mark.interop

BITMAPS = ("weekly", "daily")
OPTIONS = ("-A", *(word for name in BITMAPS for word in ("-B", name)))
CONTEXTS = (
    "base:allocation",
    "qemu:allocation-depth",
    *(f"qemu:dirty-bitmap:{name}" for name in BITMAPS),
)
NBEXPORT = (sys.executable, "-m", "nbexport")


@contextlib.contextmanager
def serve(image, socket, *options):
    """Serve an image by our command until the block ends; give the URI it prints."""
    with background(
        *NBEXPORT, "serve", image, "--socket", socket, *options, ready=socket,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process.stdout.readline().decode().strip()


@pytest.fixture(scope="module")
def ours(two_bitmaps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    with serve(two_bitmaps, folder / "nbd.sock", *OPTIONS) as uri:
        yield uri


@pytest.fixture(scope="module")
def theirs(two_bitmaps, tmp_path_factory):
    with qemu_nbd(two_bitmaps, tmp_path_factory.mktemp("theirs"), "-r", *OPTIONS) as uri:
        yield uri


def nbexport(*words, check=True):
    done = subprocess.run(
        [*NBEXPORT, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("context", CONTEXTS)
def test_nbdinfo_maps_are_those_of_qemu_nbd(ours, theirs, context):
    expected = nbdinfo_map(theirs, context)
    assert nbdinfo_map(ours, context) == expected
    assert len(expected) > 5


@pytest.mark.parametrize("context", CONTEXTS)
def test_our_map_prints_what_nbdinfo_prints(ours, theirs, context):
    expected = run("nbdinfo", f"--map={context}", theirs).stdout
    for uri in (ours, theirs):
        assert nbexport("map", uri, "--context", context).stdout == f"{context}\n{expected}"


def test_our_map_as_json_has_every_context_at_once(ours, theirs):
    for uri in (ours, theirs):
        printed = json.loads(nbexport("map", uri, "--json").stdout)
        assert printed["uri"] == uri
        assert printed["size"] == 64 << 20
        assert set(printed["contexts"]) == set(CONTEXTS)
        for context, extents in printed["contexts"].items():
            assert extents == nbdinfo_map(theirs, context)


def image_options(uri, **options):
    path = uri.partition("?socket=")[2]
    return "json:" + json.dumps(
        {"driver": "nbd", "server": {"type": "unix", "path": path}, **options}
    )


@pytest.mark.parametrize("context", [None, *CONTEXTS[1:]])
def test_qemu_img_maps_are_those_of_qemu_nbd(ours, theirs, context):
    options = {} if context is None else {"x-dirty-bitmap": context}
    printed = [
        json.loads(run("qemu-img", "map", "--output=json", image_options(uri, **options)).stdout)
        for uri in (theirs, ours)
    ]
    assert printed[0] == printed[1]


def test_qemu_img_compare_finds_no_difference(ours, two_bitmaps):
    done = run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", ours, two_bitmaps)
    assert "identical" in done.stdout


def test_qemu_img_compare_finds_a_difference_where_there_is_one(ours, two_bitmaps, tmp_path):
    other = tmp_path / "other.raw"
    run("qemu-img", "convert", "-O", "raw", two_bitmaps, other)
    with other.open("r+b") as file:
        file.seek(12345678)
        file.write(b"!")
    done = run("qemu-img", "compare", "-f", "raw", "-F", "raw", ours, other, check=False)
    assert done.returncode == 1


def test_nbdcopy_copies_the_disk(ours, theirs, tmp_path):
    copies = []
    for name, uri in (("theirs", theirs), ("ours", ours)):
        run("nbdcopy", uri, tmp_path / name)
        copies.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert copies[0] == copies[1]


def test_qemu_nbd_lists_the_export_as_its_own(ours, theirs):
    listings = [
        run("qemu-nbd", "--list", "-k", uri.partition("?socket=")[2]).stdout
        for uri in (theirs, ours)
    ]
    # qemu-nbd turns the order of its -B options round; we keep it.
    assert sorted(listings[0].splitlines()) == sorted(listings[1].splitlines())
    assert "available meta contexts: 4" in listings[0]


def test_qemu_io_reads_the_patterns_that_were_written(ours):
    reads = ("read -P 0x31 9M 8k", "read -P 0x41 9224k 12k", "read -P 0 40M 2M",
             "read -P 0x11 100k 1000k", "read -P 0x45 65528k 8k")  # fmt: skip
    words = [word for command in reads for word in ("-c", command)]
    done = run("qemu-io", "-r", "-f", "raw", *words, ours)
    assert "verification failed" not in done.stdout
    assert done.stdout.count("read ") == len(reads)


def test_a_raw_image_on_tcp(tmp_path):
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(1 << 20)
        file.write(b"x" * 65536)
    words = [*NBEXPORT, "serve", image, "-f", "raw", "--port", "0", "-A", "-x", "a b"]
    with background(*words, stdout=subprocess.PIPE) as process:
        uri = process.stdout.readline().decode().strip()
        assert uri.startswith("nbd://127.0.0.1:")
        with qemu_nbd(image, tmp_path, "-r", "-f", "raw", "-A") as theirs:
            for context in CONTEXTS[:2]:
                assert nbdinfo_map(uri, context) == nbdinfo_map(theirs, context)


# Bad input: one line that names the thing, status 1, nothing left behind.


def refused(folder, *words):
    before = sorted(p.name for p in folder.iterdir())
    done = nbexport(*words, check=False)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("nbexport: ")
    assert sorted(p.name for p in folder.iterdir()) == before
    return done.stderr


def test_a_file_that_is_no_qcow2(tmp_path):
    (tmp_path / "text").write_text("not an image" * 100)
    text = refused(tmp_path, "serve", tmp_path / "text", "-f", "qcow2", "--socket", tmp_path / "s")
    assert text == f"nbexport: {tmp_path}/text: Image is not in qcow2 format\n"


def test_an_occupied_socket_path(two_bitmaps, tmp_path):
    socket = tmp_path / "s"
    with serve(two_bitmaps, socket, "-B", "daily") as uri:
        assert str(socket) in refused(tmp_path, "serve", two_bitmaps, "--socket", socket)
        assert nbexport("map", uri).returncode == 0


def test_a_socket_path_that_is_a_file_is_kept(two_bitmaps, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("data")
    assert str(precious) in refused(tmp_path, "serve", two_bitmaps, "--socket", precious)
    assert precious.read_text() == "data"


@pytest.mark.parametrize("length", [0, 4, 100, 600, 5000, 40000])
def test_a_truncated_image(two_bitmaps_copy, tmp_path, length):
    os.truncate(two_bitmaps_copy, length)
    qemu = run(
        "qemu-nbd", "-r", "-t", "-k", tmp_path / "q", "-f", "qcow2", "-B", "daily",
        two_bitmaps_copy, check=False,
    )  # fmt: skip
    text = refused(
        tmp_path, "serve", two_bitmaps_copy, "-f", "qcow2", "-B", "daily",
        "--socket", tmp_path / "s",
    )  # fmt: skip
    assert qemu.returncode == 1
    assert text.rpartition(": ")[2].strip() in qemu.stderr


def test_an_unreachable_export(tmp_path):
    text = refused(tmp_path, "map", f"nbd+unix:///?socket={tmp_path}/none")
    assert f"{tmp_path}/none" in text


def test_an_unknown_context(ours, tmp_path):
    text = refused(tmp_path, "map", ours, "--context", "qemu:dirty-bitmap:none")
    assert "no metadata context 'qemu:dirty-bitmap:none'" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "imgae", "x"], "unknown parameter 'imgae'"),
        (["-p", "bitmaps", "[1"], "'bitmaps' takes list"),
    ],
)
def test_a_wrong_parameter_of_a_notebook(tmp_path, words, message):
    output = tmp_path / "out" / "x.ipynb"
    assert message in refused(tmp_path, "run", "01_multiple_bitmaps", *words, "-o", output)


def test_an_unknown_notebook(tmp_path):
    assert "99_none" in refused(tmp_path, "run", "99_none", "-o", tmp_path / "x.ipynb")
