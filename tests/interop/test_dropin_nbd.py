"""Our qemu-nbd beside the real one: the same command lines, output, errors and exit statuses."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import dropin
import pytest
import tls_files
from activation import listeners, started
from peers import background, listens, peer, run

from nbexport.cli.dropin.nbd_options import OPTIONS

pytestmark = pytest.mark.interop

LONG = "a" * 4097
FAR = "/" + "a" * 120
ANON = "tls-creds-anon,id=x,endpoint="


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with images: r.raw, q.qcow2 with bitmaps b0 and b1, o.qcow2 above it."""
    path = tmp_path_factory.mktemp("images")
    (path / "r.raw").write_bytes(bytes(1 << 20))
    (path / "d").mkdir()
    run("qemu-img", "create", "-q", "-f", "qcow2", path / "q.qcow2", "1M")
    for name in ("b0", "b1"):
        run("qemu-img", "bitmap", "--add", path / "q.qcow2", name)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "q.qcow2", "-F", "qcow2",
        path / "o.qcow2")  # fmt: skip
    run("qemu-img", "snapshot", "-c", "snap", path / "q.qcow2")
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with dropin.starter(tmp_path_factory.mktemp("starter")) as made:
        yield made


# What ends by itself: each is run by both, and every byte of output and the status are compared.
COMMAND_LINES = [
    # the command line itself
    [], ["a", "b"], ["-Z"], ["--zzz=4"], ["--fork=x"], ["-p"], ["--port"], ["-rZ"], ["-tvrp"],
    ["--disc="], ["--di"], ["--tls"], ["--", "-x"], ["-r", "--", "a", "b"], ["--persist=1"],
    ["--bit"], ["--so"], ["nope", "-r", "-t"], ["--read", "nope"], ["-d"],
    # values
    ["-o", "3M", "x"], ["-o", "", "x"], ["-o", "0x", "x"], ["--offset=1.5", "x"], ["-e", "-1", "x"],
    ["-e", "x", "x"], ["-e", "99999999999", "x"], ["-e ", "x"], ["--shared=", "x"],
    ["-k", "x", "x"], ["-k", "", "x"], ["-x", LONG, "x"], ["-D", LONG, "x"],
    ["--cache=foo", "x"], ["-n", "--cache=none", "x"], ["-nn", "x"], ["--aio=x", "x"],
    ["--aio=threads", "--aio=native", "x"], ["--discard=x", "x"],
    ["--discard=on", "--discard=off", "x"], ["--detect-zeroes=x", "x"],
    ["--detect-zeroes=unmap", "x"], ["--detect-zeroes=unmap", "--discard=unmap", "x"],
    ["-T", "foo=1", "x"], ["-T", "events=/none", "x"],
    # options that do not go together
    ["-L", "x"], ["-L", "-x", "a"], ["-L", "-D", "a"], ["-L", "--fork"], ["-L", "-f", "raw"],
    ["-L", "-o", "1"], ["-L", "-B", "a"], ["-L", "-A"], ["-L", "--cache=none"], ["-L", "-n"],
    ["-L", "--discard=on"], ["-L", "--aio=threads"], ["-L", "-c", "/none"], ["-L", "-d"],
    ["-L", "-l", "a"], ["-L", "--fork", "-x", ""], ["--tls-creds", "x", "r.raw"],
    ["--tls-authz", "x", "r.raw"], ["--tls-hostname", "x", "r.raw"],
    ["--tls-creds", "x", "--tls-hostname", "x", "r.raw"],
    ["--tls-creds", "x", "--tls-authz", "y", "-L"], ["--tls-creds", "x", "-c", "d", "r.raw"],
    ["--selinux-label=x", "r.raw"], ["--selinux-label=x", "-k", "SOCKET", "r.raw"],
    ["-f", "raw", "--image-opts", "x", "-k", "SOCKET"],
    # objects
    ["--object", "secret"], ["--object", "secret,id=a"], ["--object", "id=a"],
    ["--object", "foo,id=x"], ["--object", "secret,id=a,data"], ["--object", "secret,id=1"],
    ["--object", "secret,id=a,data=x,format=foo"], ["--object", ""], ["--object", "secret,,x"],
    ["--object", "tls-creds-x509,id=t,dir=/x,verify-peer=k"],
    ["--object", "tls-creds-x509,id=t,dir=/none,endpoint=server"],
    ["--object", "authz-list,id=a,rules.0.match=x"], ["--object", "{x"], ["--object", "json:{}"],
    ["--object", '{"qom-type":"secret","id":1}'], ["--object", "secret,id=a,file=/none"],
    ["--object", "secret,id=a,data=x", "--object", "secret,id=a,data=y", "r.raw"],
    ["--object", "secret,id=x,data=a", "--tls-creds", "x", "r.raw"],
    ["--object", f"{ANON}client", "--tls-creds", "x", "r.raw"],
    ["--object", f"{ANON}server", "--tls-creds", "x", "-L"],
    # addresses
    ["-k", "/none/s", "r.raw"], ["-k", "/tmp", "r.raw"], ["-k", FAR, "r.raw"], ["-L", "-k", FAR],
    ["-p", "foo", "r.raw"], ["-p", "-1", "r.raw"], ["-b", "none.invalid", "r.raw"],
    ["-b", "192.0.2.1", "-p", "0", "r.raw"], ["-L", "-p", "foo"], ["-L", "-p", "1"],
    ["-L", "-b", "127.0.0.1", "-p", "1"], ["-L", "-k", "/none"], ["-L", "-b", "none.invalid"],
    # images
    ["nope"], ["-r", "nope"], [""], ["-f", "xxx", "r.raw"], ["-f", "qcow2", "r.raw"],
    ["-f", "", "r.raw"], ["d"], ["-r", "d"], ["foo:bar"], ["file:nope"], ["-f", "raw", "file:"],
    ["nbd:unix:/none"], ["nbd:none"], ["nbd://127.0.0.1:1"], ["nbd+unix:///?socket=/none"],
    ["--aio=native", "-f", "raw", "r.raw"], ["-s", "nope"],
    ["-B", "x", "q.qcow2"], ["-B", "b0", "-B", "x", "-B", "y", "q.qcow2"], ["-B", "", "q.qcow2"],
    ["-B", "b0", "-o", "512", "q.qcow2"], ["-B", "b0", "-f", "raw", "q.qcow2"],
    ["-o", "2097152", "-f", "raw", "r.raw"], ["-o", "-1", "-f", "raw", "r.raw"],
    ["-l", "x", "-f", "raw", "r.raw"], ["-l", "x", "q.qcow2"], ["-l", "snapshot.id=9", "q.qcow2"],
    ["-l", "snapshot.name=nope", "q.qcow2"], ["-l", "snapshot.id=1,foo=2", "q.qcow2"],
    ["-l", "snapshot.id=2,snapshot.name=snap", "q.qcow2"],
    ["--pid-file", "/none/x", "-f", "raw", "r.raw"],
    ["--fork", "nope"], ["--fork", "--pid-file", "/none/x", "-f", "raw", "r.raw"],
    ["-d", "/none"], ["-v", "-c", "/none/nbd0", "-f", "raw", "r.raw", "-k", "SOCKET"],
    # JSON
    ["json:"], ["json:5"], ["json:[]"], ["json:{"], ["json:{}"], ["json:nul"], ['json:"'],
    ["json:-"], ["json:{} x"], ['json:{"driver":1}'], ['json:{"driver":"xx"}'],
    ['json:{"driver":"raw"}'], ['json:{"driver":"raw","file":"r.raw"}'],
    ['json:{"driver":"raw","file":{"driver":"file","filename":"nope"}}'],
    ['json:{"driver":"qcow2","file.filename":"o.qcow2","foo.bar":1}'],
    ['json:{"driver":"raw","file":{"driver":"host_device","filename":"r.raw"}}'],
    ['json:{"driver":"raw","file":{"filename":"r.raw"},"size":512,"read-only":true}'],
    ['json:{"driver":"raw","file":{"filename":"r.raw"},"offset":1048577}'],
    # options of images
    *(["--image-opts", text] for text in (
        "", "r.raw", "file=r.raw", "foo=1", "id=x", "help", "driver=raw", "driver=raw,help",
        "driver=raw,file.filename=r.raw,foo=1", "driver=raw,file.filename=r.raw,file.foo=1",
        "driver=raw,file.filename=r.raw,size=1x", "driver=raw,file.filename=r.raw,size=600",
        "driver=raw,file.filename=r.raw,offset=-1", "driver=raw,file.filename=r.raw,read-only",
        "driver=raw,file.filename=r.raw,read-only=xx", "driver=raw,file=r.raw,file.driver=file",
        "driver=raw,file.driver=zz", "driver=qcow2,file.driver=file",
        "driver=qcow2,file.filename=r.raw", "driver=qcow2,file.filename=q.qcow2,backing=xx",
        "driver=null-co,size=1G,foo=2", "driver=nbd,path=/none", "driver=nbd,export=x",
        "driver=nbd,server.type=unix,server.path=/none", "driver=nbd,path=/x,host=y",
        "driver=raw,file.filename=file:r.raw", "driver=file,filename=n,,o=p",
    )),
]  # fmt: skip


def words_of(given, folder):
    """Return a command line that disturbs no other process: one listens in the folder only."""
    words = [str(folder / "sock") if word == "SOCKET" else word for word in given]
    has_address = any(word in {"-k", "-p", "-b", "-L"} for word in words)
    return words if has_address or not words else ["-k", str(folder / "sock"), *words]


@pytest.mark.parametrize("given", COMMAND_LINES, ids=lambda given: " ".join(given)[:60] or "none")
def test_what_ends_by_itself_says_and_returns_the_same(given, folder, ours):
    words = words_of(given, folder)
    expected = dropin.theirs(words, folder)
    (folder / "sock").unlink(missing_ok=True)  # qemu-nbd leaves it
    got = ours.run(words, folder)
    assert not (folder / "sock").exists()
    if "-s" in given:
        assert (got.status, "-s is not supported" in got.err) == (1, True)
        return
    assert got == expected
