"""One notation for every source, and a clear error for each way in which it can fail."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading

import pytest

from nbexport.errors import NbexportError, SourceError, UsageError
from nbexport.qapi import QapiError, introspect, load_release
from nbexport.sources import load
from nbexport.sources.git import split_address

ROOT_TEXT = "{ 'include': 'sub/part.json' }\n{ 'command': 'top', 'if': 'CONFIG_TOP' }\n"
PART_TEXT = "{ 'include': '../common.json' }\n{ 'command': 'part', 'data': { 'x': 'Common' } }\n"
COMMON_TEXT = "{ 'struct': 'Common', 'data': { 'n': 'int' } }\n"


def refused(source, *, kind=SourceError, **kwargs):
    with pytest.raises(kind) as caught:
        load(source, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def git(folder, *words):
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    done = subprocess.run(
        ["git", "-C", folder, *words], check=True, capture_output=True, env=environment, text=True
    )
    return done.stdout.strip()


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository whose second commit takes the schema apart; its work tree is empty of it."""
    folder = tmp_path_factory.mktemp("re@po")
    git(folder, "init", "-q", "-b", "main")
    write(
        folder,
        {
            "qapi/qapi-schema.json": ROOT_TEXT,
            "qapi/sub/part.json": PART_TEXT,
            "qapi/common.json": COMMON_TEXT,
            "other.json": "{ 'include': 'qapi/common.json' }\n{ 'command': 'other' }\n",
            "outside/out.json": "{ 'include': '../../x.json' }\n",
            "outside/absolute.json": "{ 'include': '/etc/passwd' }\n",
            "bad/bad.json": "{ 'include': 'worse.json' }\n",
            "bad/worse.json": "\n{ 'command': 'c', 'data': { 'x': 'Nope' } }\n",
            "latin.json": "",
        },
    )
    (folder / "latin.json").write_bytes(b"# \xe9\n")
    (folder / "link.json").symlink_to("other.json")
    (folder / "away.json").symlink_to("/etc/passwd")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    git(folder, "tag", "v1.0")
    git(folder, "branch", "topic/with/slashes")
    git(folder, "rm", "-q", "-r", ".")
    write(folder, {"README": "nothing\n"})
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "two")
    return folder


@pytest.fixture(scope="module")
def bare(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare") / "repo.git"
    git(repository, "clone", "-q", "--bare", str(repository), str(folder))
    return folder


def names(loaded):
    return [command.name for command in loaded.schema.commands()]


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["schema.json", "qapi-schema.json", "qapi/qapi-schema.json"])
def test_a_folder_has_a_root(tmp_path, root):
    write(tmp_path, {root: "{ 'command': 'c' }"})
    loaded = load(str(tmp_path))
    assert (names(loaded), loaded.kind, loaded.release) == (["c"], "file", None)
    assert not loaded.introspected


def test_a_file_with_its_includes(tmp_path):
    write(tmp_path, {"r.json": ROOT_TEXT, "sub/part.json": PART_TEXT, "common.json": COMMON_TEXT})
    assert names(load(str(tmp_path / "r.json"))) == ["top", "part"]
    assert names(load(str(tmp_path / "r.json"), defines=())) == ["part"]
    assert names(load(str(tmp_path / "r.json"), defines=["CONFIG_TOP"])) == ["top", "part"]


def test_a_schema_with_an_error_is_that_error(tmp_path):
    write(tmp_path, {"r.json": "\n{ 'command': 'C c' }"})
    with pytest.raises(QapiError, match=r"r\.json:2: "):
        load(str(tmp_path / "r.json"))


def test_files_that_are_none(tmp_path):
    assert refused(str(tmp_path / "no.json")).endswith("no.json: no such file or folder")
    assert "no schema.json or qapi-schema.json or" in refused(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert refused(str(tmp_path / "pipe")).endswith("neither a file nor a folder")


# -- introspection --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries():
    return introspect(load_release("7.2"))


GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}}}


def test_the_forms_of_a_saved_answer(tmp_path, entries):
    version = {"return": {"qemu": {"micro": 0, "minor": 2, "major": 5}, "package": ""}, "id": 1}
    answer = {"return": entries, "id": "libvirt-3"}
    noise = [{"return": []}, {"return": [{"name": "quit"}]}, {"execute": "x", "id": 1}]
    forms = {
        "list": (json.dumps(entries), None),
        "reply": (json.dumps(answer, indent=2), None),
        "session": ("\n\n".join(json.dumps(v) for v in [GREETING, *noise, answer]), (7, 2, 22)),
        "replies": ("\n\n".join(json.dumps(v) for v in [version, {}, answer]), (5, 2, 0)),
        "marked": ("\ufeff" + json.dumps(entries), None),
    }
    for name, (text, release) in forms.items():
        path = tmp_path / f"{name}.replies"
        path.write_text(text, encoding="utf-8")
        loaded = load(str(path))
        assert loaded.kind == "introspection", name
        assert loaded.introspected
        assert loaded.release == release, name
        assert introspect(loaded.schema) == entries, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", ":1:2: not JSON: Expecting value"),
        ('{"return": [}', ":1:13: not JSON: "),
        ("[]", ": no answer to query-qmp-schema in it"),
        ('{"return": {}}\n\n{"return": []}', ": no answer to query-qmp-schema in it"),
        ("[" * 100_000, ": not an introspection: nested too deeply"),
        ('[{"name": "x", "meta-type": "y"}]', ":1: entry 'x' has no known meta-type"),
        ('[\n"\udcff"]', ": not JSON: byte 3 is no UTF-8"),
    ],
)
def test_files_that_are_no_introspection(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    shown = refused(str(path))
    assert shown.startswith(f"{path}{message}")


def test_options_of_the_language_do_not_apply(tmp_path, entries):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entries))
    assert "symbols do not apply" in refused(str(path), kind=UsageError, defines=["X"])


# -- releases -------------------------------------------------------------------------------


def test_releases():
    loaded = load("release:7.2")
    assert (loaded.kind, loaded.name, loaded.release) == ("release", "release:7.2", (7, 2))
    other = load("release:7.2.22")
    assert other.name == "release:7.2.22 (interface of 7.2)"
    assert other.release == (7, 2, 22)
    assert "is no release" in refused("release:seven", kind=UsageError)
    assert "no interface of release 1.0" in refused("release:1.0", kind=UsageError)


# -- git ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rev", ["v1.0", "topic/with/slashes", "main~1", "HEAD^", "v1.0^{tree}"])
@pytest.mark.parametrize("where", ["repository", "bare"])
def test_a_revision_is_read_without_a_checkout(request, rev, where):
    folder = request.getfixturevalue(where)
    before = sorted(folder.iterdir())
    loaded = load(f"git:{folder}@{rev}")
    assert (names(loaded), loaded.kind) == (["top", "part"], "git")
    assert names(load(f"git:{folder}@{rev}:other.json")) == ["other"]
    assert names(load(f"git:{folder}@{rev}:link.json")) == ["other"]
    assert sorted(folder.iterdir()) == before


def test_a_folder_inside_of_a_repository_and_the_current_one(repository, monkeypatch):
    (repository / "inner").mkdir(exist_ok=True)
    assert names(load(f"git:{repository}/inner@v1.0")) == ["top", "part"]
    monkeypatch.chdir(repository)
    assert names(load("git:.@v1.0")) == ["top", "part"]
    assert names(load("git:@v1.0")) == ["top", "part"]
    assert names(load("git:@HEAD@{1}")) == ["top", "part"]


def test_variables_of_git_do_not_lead_elsewhere(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert names(load(f"git:{repository}@v1.0")) == ["top", "part"]


def test_an_error_in_a_revision_names_revision_and_file(repository):
    with pytest.raises(QapiError) as caught:
        load(f"git:{repository}@v1.0:bad/bad.json")
    lines = str(caught.value).splitlines()
    assert lines[0] == "In file included from v1.0:bad/bad.json:1:"
    assert lines[-1].startswith("v1.0:bad/worse.json:2: ")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "outside/out.json",
            "can't read include file 'v1.0:outside/../../x.json': it lies outside",
        ),
        ("outside/absolute.json", "can't read include file '/etc/passwd': it lies outside"),
        ("latin.json", "can't read schema file 'v1.0:./latin.json': byte 2 is no UTF-8"),
    ],
)
def test_includes_stay_inside_of_the_revision(repository, path, message):
    with pytest.raises(QapiError) as caught:
        load(f"git:{repository}@v1.0:{path}")
    assert message in str(caught.value)


def test_revisions_that_are_none(repository, tmp_path):
    name = f"git:{repository}"
    assert "expected git:REPO@REV" in refused("git:nothing")
    assert "expected git:REPO@REV" in refused(f"git:{repository}/x@")
    assert "no such folder: /no/such" in refused("git:/no/such@v1.0")
    assert f"{tmp_path} is no git repository" in refused(f"git:{tmp_path}@v1.0")
    assert "unknown revision 'v9'" in refused(f"{name}@v9")
    assert "unknown revision" in refused(f"{name}@v1.0^{{tree}}/x")
    assert "no qapi/qapi-schema.json or" in refused(f"{name}@main")
    assert "no file 'nope.json' in revision v1.0" in refused(f"{name}@v1.0:nope.json")
    assert "no file 'qapi' in revision v1.0" in refused(f"{name}@v1.0:qapi")
    assert "no file 'away.json'" in refused(f"{name}@v1.0:away.json")


@pytest.mark.parametrize("rev", ["--help", "--git-dir", "-h", "--all", "--output=x"])
def test_a_revision_is_no_option(repository, rev):
    before = sorted(repository.iterdir())
    assert f"unknown revision '{rev}'" in refused(f"git:{repository}@{rev}")
    assert sorted(repository.iterdir()) == before


def test_a_missing_git_is_named(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in refused(f"git:{repository}@v1.0")


def test_a_hanging_git_is_given_up(repository, monkeypatch, tmp_path):
    script = tmp_path / "git"
    script.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("nbexport.sources.git.TIME_LIMIT", 0.3)
    assert "took more than 0.3 s" in refused(f"git:{repository}@v1.0")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/@v1", ("/", "v1", None)),
        ("/@a/b:c/d.json", ("/", "a/b", "c/d.json")),
        ("/no@such/x@v1:p", ("/no@such/x", "v1", "p")),
        ("@v1", (".", "v1", None)),
        ("/@HEAD@{1}", ("/", "HEAD@{1}", None)),
        ("/@main@{1 day ago 10:00}:p.json", ("/", "main@{1 day ago 10:00}", "p.json")),
    ],
)
def test_the_parts_of_an_address(text, parts):
    assert split_address(text) == parts


# -- monitors -------------------------------------------------------------------------------


@pytest.fixture
def monitor(tmp_path):
    """Start a peer that says what a test wants and answers each request with the next reply."""
    threads = []

    def start(greeting, replies, *, tcp=False):
        family = socket.AF_INET if tcp else socket.AF_UNIX
        listener = socket.socket(family)
        listener.bind(("127.0.0.1", 0) if tcp else str(tmp_path / "m.sock"))
        listener.listen(1)
        listener.settimeout(10)

        def serve():
            connection = listener.accept()[0]
            with connection, connection.makefile("rwb") as file:
                file.write(greeting + b"\n")
                file.flush()
                for reply in replies:
                    request = json.loads(file.readline())
                    file.write(json.dumps({**reply, "id": request["id"]}).encode() + b"\n")
                    file.flush()
            listener.close()

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        port = listener.getsockname()[1] if tcp else 0
        return f"qmp:127.0.0.1:{port}" if tcp else f"qmp:{tmp_path}/m.sock"

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("tcp", [False, True])
def test_a_monitor_is_asked(monitor, entries, tcp):
    source = monitor(json.dumps(GREETING).encode(), [{"return": {}}, {"return": entries}], tcp=tcp)
    loaded = load(source)
    assert (loaded.kind, loaded.name, loaded.release) == ("monitor", source, (7, 2, 22))
    assert introspect(loaded.schema) == entries


def test_monitors_that_are_none(monitor, tmp_path):
    source = monitor(b'{"QMP": {}}', [{"return": {}}, {"error": {"class": "CommandNotFound"}}])
    assert refused(source) == f"{source}: this monitor has no query-qmp-schema"
    (tmp_path / "m.sock").unlink()
    error = {"error": {"class": "GenericError", "desc": "no"}}
    source = monitor(b'{"QMP": {}}', [{"return": {}}, error])
    assert refused(source) == f"{source}: query-qmp-schema failed: no"
    (tmp_path / "m.sock").unlink()
    source = monitor(b'{"QMP": {}}', [{"return": {}}, {"return": [1]}])
    assert "entry 1 is no object" in refused(source)
    (tmp_path / "m.sock").unlink()
    source = monitor(b"SSH-2.0-x", [])
    assert refused(source).startswith(f"{source}: not QMP: ")


def test_addresses_of_no_monitor(tmp_path):
    text = refused(f"qmp:{tmp_path}/none")
    assert text == f"qmp:{tmp_path}/none: cannot connect: No such file or directory"
    assert "expected qmp:PATH or qmp:HOST:PORT" in refused("qmp:")
    assert "no port 99999" in refused("qmp:localhost:99999")
    assert "symbols do not apply" in refused("qmp:x", kind=UsageError, defines=["X"])


@pytest.mark.parametrize("source", ["", "git:", "qmp:", "release:", "file:x", "\0", "x" * 5000])
def test_nonsense_is_refused_in_one_line(source):
    refused(source, kind=(NbexportError, OSError))
