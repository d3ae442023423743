"""A pytest plugin: a monitor that behaves as a QEMU release, for each release that matters.

Whoever has nbexport installed has the fixture `qmp_emulator`. A test that uses it runs once for
each release, with a process of its own::

    from nbexport.nbd import list_exports

    def test_the_disk_is_exported(qmp_emulator, tmp_path):
        (tmp_path / "disk").write_bytes(bytes(1 << 20))
        disk = {"driver": "file", "node-name": "disk", "filename": str(tmp_path / "disk")}
        qmp_emulator.qmp.execute("blockdev-add", disk)
        address = {"type": "unix", "data": {"path": str(qmp_emulator.nbd_socket)}}
        qmp_emulator.qmp.execute("nbd-server-start", {"addr": address})
        my_application(qmp_emulator.monitor_socket)  # has to find out what the release can do
        assert [each.name for each in list_exports(qmp_emulator.nbd_uri())] == ["disk"]

Which releases these are is said, in this order, by the marker ``qmp_releases`` of the test, by
``--qmp-releases 5.2,7.2`` on the command line, by ``qmp_releases = 5.2 7.2`` in the configuration;
otherwise they are `DEFAULT_RELEASES`. The command line also narrows down the marker: of its
releases those run that both name. ``all`` stands for every known release. The marker
``qmp_options`` holds further words for ``nbexport qmp``, such as ``--compat`` and its value.

Loading the plugin imports nothing of nbexport; the first test that uses the fixture does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nbexport.emulator import Target

FIXTURE = "qmp_emulator"
ALL = "all"
DEFAULT_RELEASES = ("4.2", "5.2", "6.2", "7.2", "11.0")
"""Before and after exports had ids, the last with either word for a bad value, today's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--qmp-releases`` and the setting of the same name."""
    group = parser.getgroup("nbexport")
    group.addoption(
        "--qmp-releases",
        metavar="RELEASES",
        help="QEMU releases to run tests of qmp_emulator with, separated by commas, or 'all'",
    )
    parser.addini(
        "qmp_releases", "QEMU releases that the fixture qmp_emulator behaves as", type="args"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers."""
    for text in (
        "qmp_releases(*releases): QEMU releases to run the test with, each with its qmp_emulator",
        "qmp_options(*words): further words of the command line of qmp_emulator's process",
    ):
        config.addinivalue_line("markers", text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that uses the fixture run once for each release."""
    if FIXTURE not in metafunc.fixturenames:
        return
    releases = _releases_of(metafunc)
    metafunc.parametrize(FIXTURE, releases, indirect=True, ids=releases)


@pytest.fixture
def qmp_emulator(request: pytest.FixtureRequest) -> Iterator[Target]:
    """An emulated QEMU process of one release, started for the test and ended after it.

    It is a `nbexport.emulator.Target`: ``qmp`` is a negotiated client of its monitor, ``ask`` sends
    a command and returns the whole reply, ``monitor_socket`` is where an application finds a
    monitor of its own, ``folder`` a temporary folder, ``nbd_socket`` a place in it for the NBD
    server, ``nbd_uri(name)`` the URI of an export there, ``release`` the release asked for.
    """
    from nbexport.emulator import launch  # noqa: PLC0415 - it takes time that others need not spend

    marker = request.node.get_closest_marker("qmp_options")
    with launch("emulated", request.param, marker.args if marker else ()) as target:
        yield target


def _releases_of(metafunc: pytest.Metafunc) -> list[str]:
    config = metafunc.config
    asked = (config.getoption("qmp_releases") or "").replace(",", " ").split()
    from_command_line = _known(asked, "--qmp-releases")
    marker = metafunc.definition.get_closest_marker("qmp_releases")
    if marker is not None:
        marked = _known(marker.args, f"the marker qmp_releases of {metafunc.definition.nodeid}")
        return [each for each in marked if not asked or each in from_command_line]
    return (
        from_command_line
        or _known(config.getini("qmp_releases"), "the setting qmp_releases")
        or list(DEFAULT_RELEASES)
    )


def _known(given: Iterable[str], where: str) -> list[str]:
    """Return releases without repetitions.

    Raises:
        pytest.Collector.CollectError: one of them cannot be emulated.
    """
    from nbexport.emulator.branches import known_releases  # noqa: PLC0415 - as above
    from nbexport.emulator.release import Release  # noqa: PLC0415 - as above
    from nbexport.errors import UsageError  # noqa: PLC0415 - as above

    found: dict[str, None] = {}
    for each in given:
        if each == ALL:
            found.update(dict.fromkeys(known_releases()))
            continue
        try:
            Release.parse(str(each))
        except UsageError as error:
            raise pytest.Collector.CollectError(f"{where}: {error}") from None
        found[str(each)] = None
    return list(found)
