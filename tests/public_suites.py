"""Other projects' test suites with our commands in the PATH, beside the same with QEMU's.

``make suites`` calls this. Sources are fetched at run time into ``build/suites``, what they need is
compiled or installed there, and nothing of them is kept in the project. Each test runs with QEMU's
programs first; what then ends otherwise with ours is listed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77  # automake's status of a test that cannot run
TIME_LIMIT = 120

Results = dict[str, str]


class Place(NamedTuple):
    """Where a suite is, and what it runs with.

    Attributes:
        source: its files.
        logs: a folder for what its tests print.
        environment: in which its tests run.
    """

    source: Path
    logs: Path
    environment: Mapping[str, str]


class Suite(NamedTuple):
    """One project's tests.

    Attributes:
        fetch: brings the sources into a folder that is not there yet.
        prepare: compiles and installs what they need.
        run: runs all tests that use QEMU's servers; gives each one's outcome.
    """

    fetch: Callable[[Path, Path | None], None]
    prepare: Callable[[Path], None]
    run: Callable[[Place], Results]


def call(*words: str | Path, folder: Path | None = None) -> None:
    """Run a step that has to succeed."""
    subprocess.run([str(word) for word in words], cwd=folder, check=True, timeout=1800)


def debian(package: str) -> Callable[[Path, Path | None], None]:
    """Return what fetches a Debian source package."""

    def fetch(folder: Path, _: Path | None) -> None:
        call(ROOT / ".ci" / "fetch_source.sh", package, folder)

    return fetch


def git(address: str, revision: Callable[[], str]) -> Callable[[Path, Path | None], None]:
    """Return what fetches a revision of a git repository, or of a copy of it."""

    def fetch(folder: Path, copy: Path | None) -> None:
        folder.mkdir(parents=True)
        call("git", "init", "--quiet", folder)
        where = str(copy) if copy is not None else address
        call("git", "-C", folder, "fetch", "--quiet", "--depth=1", where, revision())
        call("git", "-C", folder, "checkout", "--quiet", "FETCH_HEAD")

    return fetch


def shell_test(place: Place, script: Path) -> str:
    """Run a test that follows automake's rules, in its folder; return its outcome."""
    log = place.logs / f"{script.name}.log"
    with log.open("wb") as out, subprocess.Popen(
        [str(script)], cwd=script.parent, env=dict(place.environment), stdin=subprocess.DEVNULL,
        stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            status = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "failed"
    return {0: "passed", SKIPPED: "skipped"}.get(status, "failed")


def pytest_suite(place: Place, python: Path, *words: str) -> Results:
    """Run a suite of pytest; return each test's outcome."""
    report = place.logs / "report.xml"
    with (place.logs / "log").open("wb") as out, tempfile.TemporaryDirectory() as temporary:
        argv = [python, "-m", "pytest", f"--junitxml={report}", f"--basetemp={temporary}/t", *words]
        subprocess.run(
            argv, cwd=place.source, env=dict(place.environment), stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, timeout=3600, check=False,
        )  # fmt: skip
    found: Results = {}
    for case in ET.parse(report).iter("testcase"):  # the suite is trusted: it runs here
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        found[name] = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
    return found


# libnbd: the interop programs and the shell tests, with the tools that are installed

LIBNBD_SHELL = [
    "interop/dirty-bitmap.sh", "interop/structured-read.sh", "interop/interop-qemu-block-size.sh",
    "interop/interop-qemu-storage-daemon.sh", "copy/copy-file-to-qcow2.sh",
    "copy/copy-file-to-qcow2-compressed.sh", "dump/dump-empty-qcow2.sh", "fuse/test-qcow2.sh",
    "info/info-description-qemu.sh", "info/info-list-json-qemu.sh", "info/info-list-qemu.sh",
    "info/info-map-qemu-allocation-depth.sh", "info/info-map-qemu-dirty-bitmap.sh",
]  # fmt: skip


def _libnbd_programs(tests: Path) -> dict[str, tuple[str, list[str]]]:
    """Return each program's source and its definitions, as the suite's makefile has them."""
    raw = '"-f", "raw", "-x", "/", TMPFILE'
    x509 = f'"--object", "tls-creds-x509,id=tls0,endpoint=server,dir={tests}/pki"'
    psk = f'"--object", "tls-creds-psk,id=tls0,endpoint=server,dir={tests}"'
    common = ["-DSOCKET_ACTIVATION=1", "-DNEEDS_TMPFILE=1", '-DSERVER="qemu-nbd"']
    named = [*common, '-DEXPORT_NAME="/"']
    tls = [*named, "-DTLS_MODE=LIBNBD_TLS_REQUIRE"]
    return {
        "interop-qemu-nbd": ("interop.c", [*named, f"-DSERVER_PARAMS={raw}"]),
        "interop-qemu-nbd-tls-certs": (
            "interop.c",
            [*tls, "-DCERTS=1", f'-DSERVER_PARAMS={x509}, "--tls-creds", "tls0", {raw}'],
        ),
        "interop-qemu-nbd-tls-psk": (
            "interop.c",
            [*tls, "-DPSK=1", f'-DSERVER_PARAMS={psk}, "--tls-creds", "tls0", {raw}'],
        ),
        "list-exports-qemu-nbd": (
            "list-exports.c",
            [
                *common,
                '-DSERVER_PARAMS="-f", "raw", "-x", "testing", "-D", "data", TMPFILE',
                '-DEXPORTS="testing"',
                '-DDESCRIPTIONS="data"',
            ],
        ),
        "socket-activation-qemu-nbd": (
            "socket-activation.c",
            ['-DSERVER="qemu-nbd"', '-DSERVER_PARAMS="-f", "raw", "-x", "", tmpfile'],
        ),
        "dirty-bitmap": ("dirty-bitmap.c", []),
        "structured-read": ("structured-read.c", []),
    }


def prepare_libnbd(source: Path) -> None:
    """Compile the programs against the installed library, and make keys."""
    import trustme

    tests, interop = source / "tests", source / "interop"
    functions = (tests / "functions.sh.in").read_text("utf-8")
    (tests / "functions.sh").write_text(functions.replace("@abs_top_srcdir@", str(source)), "utf-8")
    (source / "config.h").touch()
    shutil.copy(tests / "requires.c", interop)
    library = next(Path("/usr/lib").glob("*/libnbd.so.0"))
    includes = [f"-I../{name}" for name in ("common/include", "include", "tests", ".")]
    for name, (file, definitions) in _libnbd_programs(tests).items():
        call("gcc", "-w", *includes, *definitions, "-o", name, file, "requires.c", library,
             folder=interop)  # fmt: skip
    (tests / "keys.psk").write_text(f"alice:{'ab' * 16}\n", "utf-8")
    pki = tests / "pki"
    pki.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(pki / "ca-cert.pem"))
    for name in ("server", "client"):
        made = authority.issue_cert("localhost", "127.0.0.1")
        made.private_key_pem.write_to_path(str(pki / f"{name}-key.pem"))
        made.cert_chain_pems[0].write_to_path(str(pki / f"{name}-cert.pem"))


def run_libnbd(place: Place) -> Results:
    """Run the tests that need QEMU's servers; ``dirty-bitmap`` and its like are run by scripts."""
    environment = {**place.environment, "LIBNBD_DEBUG": "1", "QEMU_NBD": "qemu-nbd"}
    environment["QEMU_STORAGE_DAEMON"] = "qemu-storage-daemon"
    place = place._replace(environment=environment)
    helpers = {"dirty-bitmap", "structured-read"}
    programs = [f"interop/{name}" for name in _libnbd_programs(place.source) if name not in helpers]
    return {name: shell_test(place, place.source / name) for name in [*programs, *LIBNBD_SHELL]}


# nbdkit: what it runs qemu-nbd for, as a server and as what lists exports

NBDKIT = ["test-ondemand-list.sh", "test-eflags.sh", "test-long-name.sh", "test-nbd-qcow2.sh"]


def nbdkit_release() -> str:
    """Return the tag of the installed release."""
    done = subprocess.run(["nbdkit", "--version"], capture_output=True, text=True, check=True)
    return f"v{done.stdout.split()[1]}"


def prepare_nbdkit(source: Path) -> None:
    """Put what a configuration would into the suite's functions."""
    text = (source / "tests" / "functions.sh.in").read_text("utf-8")
    values = {
        "abs_top_srcdir": str(source), "SOEXT": "so", "EXEEXT": "", "CUT": "cut", "SED": "sed",
        "STAT": "stat", "PYTHON": "python3",
    }  # fmt: skip
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (source / "tests" / "functions.sh").write_text(text, "utf-8")


def run_nbdkit(place: Place) -> Results:
    """Run the tests that call qemu-nbd."""
    return {name: shell_test(place, place.source / "tests" / name) for name in NBDKIT}


# oVirt imageio: a server of images that has QEMU's NBD servers behind it, and its client

IMAGEIO = [
    "backends/nbd_test.py", "backends_test.py", "backup_test.py", "client_io_test.py",
    "client_test.py", "handlers/checksum_test.py", "nbd_test.py", "nbdutil_test.py",
    "qemu_img_test.py", "qemu_nbd_test.py", "qmp_test.py",
]  # fmt: skip


def prepare_imageio(source: Path) -> None:
    """Make its environment and its compiled module."""
    python = source / "venv" / "bin" / "python"
    call(shutil.which("python3", path="/usr/bin") or sys.executable, "-m", "venv", source / "venv")
    call(python, "-m", "pip", "install", "--quiet", "pytest", "pytest-timeout", "setuptools",
         "userstorage")  # fmt: skip
    call(python, "setup.py", "--quiet", "build_ext", "--build-lib", ".", folder=source)
    # It asks the file of another distribution which version of that it runs on.
    (source / "test" / "distro.py").write_text("def is_centos(*_):\n    return False\n", "utf-8")


def run_imageio(place: Place) -> Results:
    """Run the tests that start QEMU's programs."""
    place = place._replace(environment={**place.environment, "QEMU": "qemu-system-x86_64"})
    words = ["-m", "not benchmark", "--timeout", str(TIME_LIMIT), "-o", "addopts=--strict-markers"]
    files = [f"test/{name}" for name in IMAGEIO]
    return pytest_suite(place, place.source / "venv" / "bin" / "python", *words, *files)


SUITES = {
    "libnbd": Suite(debian("libnbd"), prepare_libnbd, run_libnbd),
    "nbdkit": Suite(
        git("https://gitlab.com/nbdkit/nbdkit.git", nbdkit_release), prepare_nbdkit, run_nbdkit
    ),
    "imageio": Suite(
        git("https://github.com/oVirt/ovirt-imageio.git", lambda: "HEAD"),
        prepare_imageio,
        run_imageio,
    ),
}


def both(name: str, folder: Path, copies: Path | None) -> tuple[Results, Results]:
    """Run a suite with QEMU's programs, then with ours."""
    suite = SUITES[name]
    source = folder / name
    if not (source / ".prepared").exists():
        shutil.rmtree(source, ignore_errors=True)
        copy = None if copies is None else copies / name
        suite.fetch(source, copy if copy is not None and copy.exists() else None)
        suite.prepare(source)
        (source / ".prepared").touch()
    # libnbd's shell belongs to the system's Python.
    path = f"/usr/bin:{os.environ['PATH']}"
    ours = in_place.make_folder(folder)
    told = []
    for who, first in (("theirs", ""), ("ours", f"{ours}{os.pathsep}")):
        logs = folder / "logs" / name / who
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        told.append(suite.run(Place(source, logs, {**os.environ, "PATH": first + path})))
    return told[0], told[1]


def table(rows: Mapping[str, tuple[Results, Results]]) -> str:
    """Return the counts as a table in Markdown, and what ended otherwise with ours."""
    lines = ["| suite | programs | passed | failed | skipped |", "| --- | --- | --- | --- | --- |"]
    others = []
    for name, (theirs, ours) in rows.items():
        for who, results in (("QEMU's", theirs), ("ours", ours)):
            count = Counter(results.values())
            numbers = " | ".join(str(count[kind]) for kind in ("passed", "failed", "skipped"))
            lines.append(f"| {name} | {who} | {numbers} |")
        for test in theirs | ours:
            before, after = theirs.get(test, "missing"), ours.get(test, "missing")
            if before != after:
                others.append(f"- {name}, `{test}`: {before} with QEMU's, {after} with ours")
    return "\n".join([*lines, "", *others]) + "\n"


def main() -> None:
    """Run the suites that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "suites")
    parser.add_argument("--copies", type=Path, help="a folder of git repositories named as suites")
    given = parser.parse_args()
    folder = given.folder.resolve()
    rows = {name: both(name, folder, given.copies) for name in given.suites or SUITES}
    text = table(rows)
    (folder / "table.md").write_text(text, "utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
