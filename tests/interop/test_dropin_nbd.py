"""Our qemu-nbd beside the real one: the same command lines, output, errors and exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dropin
import pytest
import tls_files
from activation import listeners, started
from peers import listens, peer, run
from peers import qemu_nbd as peers_qemu_nbd

from nbexport.cli.dropin.nbd_options import OPTIONS

pytestmark = pytest.mark.interop

LONG = "a" * 4097
FAR = "/" + "a" * 120
SYSTEM_PYTHON = {**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}"}
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
    ["--aio=native", "-f", "raw", "r.raw"], ["-s", "nope"], ["-s", "-l", "snap", "q.qcow2"],
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
    left = (folder / "sock").exists()
    (folder / "sock").unlink(missing_ok=True)
    got = ours.run(words, folder)
    assert got == expected
    assert (folder / "sock").exists() == left
    (folder / "sock").unlink(missing_ok=True)


# What goes on to run


@contextmanager
def serving(command, folder, *words, name="s"):
    """Run a command that serves, in a folder; give the process and its socket."""
    path = folder / name
    path.unlink(missing_ok=True)
    argv = [str(command), "-k", str(path), *map(str, words)]
    process = subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 20
        while not listens(process.pid, path):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process, path
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return a qemu-nbd that is ours, in a folder for the PATH."""
    return dropin.in_place(tmp_path_factory.mktemp("bin") / "bin")


def both(command):
    return (peer("qemu-nbd"), str(command))


def listed(command, *words):
    done = subprocess.run(
        [str(command), "-L", *map(str, words)], capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.replace(str(command), "qemu-nbd")


@pytest.mark.parametrize(
    "words",
    [
        ["-x", "exp", "-D", "a text", "-A", "-B", "b0", "-B", "b1", "-r", "q.qcow2"],
        ["-t", "-e", "0", "-f", "qcow2", "-B", "b0", "o.qcow2"],
        ["-r", "-o", "512", "-f", "raw", "r.raw"],
        ["-r", "r.raw"],
        ["-r", "json:{'driver':'raw','size':4096,'file':{'driver':'file','filename':'r.raw'}}"],
        ["--image-opts", "driver=raw,offset=64k,size=0x1000,file.filename=r.raw"],
        ["--image-opts", "driver=null-co,size=1.5M"],
        ["-l", "snap", "q.qcow2"],
        ["-l", "snapshot.name=snap", "-f", "qcow2", "q.qcow2"],
        ["-e", "2", "-f", "raw", "--discard=unmap", "--cache=none", "--aio=native", "r.raw"],
    ],
    ids=" ".join,
)
def test_what_is_exported_is_the_same_whoever_asks(words, folder, command):
    """Server and lister are exchanged: four outputs, one text."""
    seen = []
    for server in both(command):
        with serving(server, folder, *words) as (_, path):
            seen += [listed(lister, "-k", path) for lister in both(command)]
    assert seen[0][0] == 0
    assert seen[0][1].startswith("exports available: 1\n")
    assert seen == [seen[0]] * 4


def test_lists_over_tls_and_refusals_are_the_same(folder, command, tmp_path):
    folders = tls_files.make(tmp_path)
    server = f"tls-creds-x509,id=t,endpoint=server,dir={folders.server}"
    client = f"tls-creds-x509,id=t,endpoint=client,dir={folders.client}"
    secured = ["--object", client, "--tls-creds", "t"]
    asked = [[], secured, [*secured, "--tls-hostname", "localhost"]]
    seen = []
    for each in both(command):
        with serving(each, folder, "--object", server, "--tls-creds", "t", "-r", "-t", "-f", "raw",
                     "r.raw") as (_, path):  # fmt: skip
            seen += [
                [listed(lister, "-k", path, *words) for words in asked] for lister in both(command)
            ]
        with serving(each, folder, "-r", "-t", "-f", "raw", "r.raw") as (_, path):
            seen[-1].append(listed(command, "-k", path, *secured))
            seen[-2].append(listed(peer("qemu-nbd"), "-k", path, *secured))
    refused, nameless, found, clear = seen[0]
    assert "Did you forget a valid tls-creds?\nserver reported: " in refused[2]
    assert "No hostname for certificate validation" in nameless[2]
    assert found[:2] == (0, found[1])
    assert "Denied by server for option 5 (starttls)" in clear[2]
    for other in seen[1:]:
        assert (other[0], other[2], other[3]) == (refused, found, clear)
        assert other[1][2].startswith("qemu-nbd: No hostname for certificate validation\n")


@pytest.mark.parametrize("which", [0, 1], ids=["theirs", "ours"])
def test_the_end_of_the_last_client_is_the_end(which, folder, command):
    """Without -t; who has only looked around does not count."""
    with serving(both(command)[which], folder, "-r", "-f", "raw", "r.raw") as (process, path):
        assert listed(peer("qemu-nbd"), "-k", path)[0] == 0
        assert process.poll() is None
        run("nbdsh", "-c", f"h.connect_unix({str(path)!r})", "-c", "h.shutdown()",
            env=SYSTEM_PYTHON)  # fmt: skip
        assert process.wait(20) == 0
        assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_success(number, folder, command):
    ended = []
    for each in both(command):
        with serving(each, folder, "-t", "-r", "-f", "raw", "r.raw") as (process, path):
            assert listed(peer("qemu-nbd"), "-k", path)[0] == 0  # it is lost if it comes earlier
            process.send_signal(number)
            ended.append((process.wait(20), path.exists(), *process.communicate()))
    assert ended[0] == ended[1] == (0, False, "", "")


def test_the_warning_about_a_guessed_format_is_the_same(folder, command):
    said = []
    for each in both(command):
        with serving(each, folder, "-t", "r.raw") as (process, path):
            assert listed(peer("qemu-nbd"), "-k", path)[0] == 0
            process.terminate()
            said.append(process.communicate(timeout=20))
    assert said[0] == said[1]
    assert said[0][1].startswith("WARNING: Image format was not specified for 'r.raw' and probing")


@pytest.mark.parametrize("words", [["-f", "raw"], []], ids=["silent", "with a warning"])
def test_a_fork_returns_when_clients_can_come(words, folder, command):
    """Its status is 1 if it has said anything, even a warning; the pid file names the server."""
    seen = []
    for each in both(command):
        path, pid_file = folder / "forked", folder / "pid"
        pid_file.unlink(missing_ok=True)
        argv = [each, "-k", path, "--fork", "--pid-file", pid_file, "-t", *words, "r.raw"]
        done = subprocess.run(
            list(map(str, argv)), cwd=folder, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        text = pid_file.read_text()
        try:
            seen.append((done.returncode, done.stdout, done.stderr, listed(each, "-k", path)[1]))
        finally:
            dropin.end(int(text))
        assert text == f"{int(text)}\n"
    assert seen[0] == seen[1]
    assert seen[0][0] == (0 if words else 1)


def test_a_guessed_image_cannot_be_made_another_format(folder, command, tmp_path):
    """As the warning says; with -f raw it can."""
    magic = tmp_path / "magic"
    magic.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(504))
    for words, text in (([], "Operation not permitted"), (["-f", "raw"], "")):
        seen = []
        for each in both(command):
            image = tmp_path / "r.raw"
            image.write_bytes(bytes(1 << 20))
            with serving(each, folder, "-t", *words, image) as (_, path):
                target = f"nbd+unix:///?socket={path}"
                done = run("qemu-io", "-f", "raw", "-c", f"write -s {magic} 0 512", "-c",
                           "write -P 7 512 512", target, check=False)  # fmt: skip
                seen.append((done.stderr, done.stdout.splitlines()[0], image.read_bytes()))
        assert seen[0] == seen[1]
        assert text in seen[0][1] + seen[0][0]


def test_writes_reach_the_image_and_its_bitmaps(folder, command, tmp_path):
    """Both write the same; qemu-img sees the same image afterwards."""
    seen = []
    for number, each in enumerate(both(command)):
        image = tmp_path / f"{number}.qcow2"
        shutil.copy(folder / "q.qcow2", image)
        words = ["-f", "qcow2", "-B", "b0", "--cache=writethrough", image]
        with serving(each, folder, *words) as (process, path):
            target = f"nbd+unix:///?socket={path}"
            run("qemu-io", "-f", "raw", "-c", "write -P 5 128k 64k", target)
            assert process.wait(20) == 0
        where = f"driver=qcow2,file.filename={image}"
        found = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", where).stdout)
        for extent in found:
            extent.pop("offset", None)  # where in the file is everybody's own choice
        seen.append(json.dumps(found))
        with peers_qemu_nbd(image, folder, "-r", "-B", "b0") as uri:
            seen[-1] += run("nbdinfo", "--map=qemu:dirty-bitmap:b0", uri).stdout
        run("qemu-img", "check", image)
    assert seen[0] == seen[1]
    assert "131072" in seen[0]


def test_a_clients_limit_lets_the_next_one_wait(folder, command):
    for each in both(command):
        with serving(each, folder, "-t", "-r", "-f", "raw", "-e", "1", "r.raw") as (_, path):
            code = (
                f"import socket, nbd as n; a = n.NBD(); a.connect_unix({str(path)!r});"
                f"s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); s.settimeout(0.3)\n"
                "try:\n    s.recv(8); print('greeted')\nexcept TimeoutError: print('waits')\n"
                "a.shutdown(); s.settimeout(10); print(s.recv(8).decode())"
            )
            done = run("nbdsh", "-c", code, env=SYSTEM_PYTHON)
            assert done.stdout == "waits\nNBDMAGIC\n"


ACTIVATED = [
    (1, ["-r", "nope"], "Could not open 'nope'"),
    (2, ["-r", "nope"], "does not support socket activation with LISTEN_FDS > 1"),
    (1, ["-k", "/x/y", "nope"], "Unix socket can't be set when using socket activation"),
    (1, ["-b", "x", "nope"], "The interface can't be set when using socket activation"),
    (1, ["-p", "1", "nope"], "TCP port number can't be set when using socket activation"),
    (1, ["-c", "x", "nope"], "NBD device can't be set when using socket activation"),
    (1, ["--selinux-label=x", "nope"], "SELinux label can't be set when using socket activation"),
    (1, ["-L"], "List mode is incompatible with socket activation"),
]


@pytest.mark.parametrize(("count", "words", "text"), ACTIVATED, ids=lambda v: str(v)[:30])
def test_refusals_with_sockets_from_a_manager_are_the_same(count, words, text, command, tmp_path):
    seen = []
    for each in both(command):
        with listeners(tmp_path, count) as sockets:
            process = started([*dropin.with_pid(each), *words], sockets, LISTEN_FDS=str(count))
            seen.append((process.communicate(timeout=20)[1], process.returncode))
        for path in tmp_path.iterdir():
            path.unlink()
    assert seen[0] == seen[1]
    assert text in seen[0][0]


def test_a_socket_from_a_manager_is_served(folder, command, tmp_path):
    for each in both(command):
        with listeners(tmp_path, 1) as sockets:
            words = [*dropin.with_pid(each), "-r", "-f", "raw", str(folder / "r.raw")]
            process = started(words, sockets, LISTEN_FDS="1")
            path = sockets[0].getsockname()
            done = run("nbdinfo", "--size", f"nbd+unix:///?socket={path}")
            assert done.stdout == "1048576\n"
            assert process.wait(20) == 0
            process.communicate()
        (tmp_path / "s0").unlink()


# What only we say


def test_the_version_is_read_as_qemu_nbds_is(command):
    """Programs take the second word of the first line for its numbers."""
    texts = [
        subprocess.run([each, "--version"], capture_output=True, text=True, check=True).stdout
        for each in both(command)
    ]
    form = re.compile(r"\S*qemu-nbd (\d+)\.(\d+)\.(\d+) \(.+\)\n")
    theirs, ours = (form.match(text) for text in texts)
    assert theirs is not None
    assert ours is not None
    assert theirs.groups()[:2] == ours.groups()[:2]


def test_nothing_heavy_is_imported_before_it_is_known_what_to_do():
    code = (
        "import sys; from nbexport.cli.dropin import nbd; nbd.usage('x');"
        "print({'asyncio', 'click', 'numpy', 'dataclasses', 'json'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_help_names_every_option_of_qemu_nbds(ours, folder):
    """Ours has one more: 10.0's."""
    found = []
    for done in (dropin.theirs(["--help"], folder), ours.run(["--help"], folder)):
        assert (done.status, done.err) == (0, "")
        found.append(set(re.findall(r"(?:^|, | )(--[a-z-]+)", done.out, re.MULTILINE)))
        assert done.out.startswith("Usage: qemu-nbd [OPTIONS] FILE\n  or:  qemu-nbd -L [OPTIONS]\n")
    assert found[1] - found[0] == {"--handshake-limit", "--tls-hostname"}
    assert found[0] <= found[1]
    assert found[1] == {f"--{option.name}" for option in OPTIONS}


def test_help_about_objects_has_qemu_nbds_form(ours, folder):
    for words in (["--object", "help"], ["--object", "secret,help"]):
        expected, got = dropin.theirs(words, folder), ours.run(words, folder)
        assert got.status == expected.status == 0
        assert got.out.splitlines()[0] == expected.out.splitlines()[0]
        assert set(got.out.splitlines()) <= set(expected.out.splitlines())


def test_the_handshake_limit_is_refused_as_by_10_0(ours, folder):
    done = ours.run(["--handshake-limit=x", "nope"], folder)
    assert done == (1, "", "qemu-nbd: Invalid handshake limit 'x'\n")


@pytest.mark.parametrize("file", ["test_asking.py", "test_client_tls.py"])
def test_tests_that_start_qemu_nbd_do_not_notice(file, command):
    """The tests of this project, with our command in qemu-nbd's place."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider",
         str(here / file)],
        env=dropin.first_in_path(command.parent), cwd=here.parents[1], capture_output=True,
        text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
