"""Pull backups, command by command; tests/interop tries that they work."""

from collections import deque
from pathlib import Path

import pytest

from nbexport.emulator.fleecing import PullBackup, PullBackups, checkpoint, offer, open_scratch
from nbexport.errors import PeerError, UsageError
from nbexport.qapi import known_releases, load_release, validate

INCREMENT = PullBackup("b", "nbd+unix:///b?socket=s", "old", "new")
FULL = PullBackup("b", "nbd+unix:///b?socket=s", None, "new")
RELEASES = [each for each in known_releases() if tuple(map(int, each.split("."))) >= (4, 0)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("backup", [FULL, INCREMENT])
def test_the_commands_fit_the_interface_of_each_release(release, backup):
    schema = load_release(release)
    named = "block-export-add" in {command.name for command in schema.commands()}
    for command in (
        open_scratch("disk", backup, Path("/x.qcow2")),
        checkpoint("disk", backup),
        offer(backup, named=named),
    ):
        validate(schema, schema.command(command[0]).arg_type, command[1])


class Monitor:
    """A target that says yes, but for what it is told to refuse."""

    name = "monitor"

    def __init__(self, *refused, exports=(), named=True):
        self.sent = []
        self.refused = refused
        self.exports = deque(exports)
        self.commands = ["block-export-add"] if named else []
        self.qmp = self

    def nbd_uri(self, name):
        return f"nbd+unix:///{name}?socket=s"

    def ask(self, command, arguments):
        self.sent.append((command, arguments))
        if command in self.refused:
            return {"error": {"class": "GenericError", "desc": "no"}}
        return {"return": {}}

    def execute(self, command):
        if command == "query-commands":
            return [{"name": name} for name in self.commands]
        assert command == "query-block-exports"
        return [{"id": self.exports.popleft()}] if self.exports else []

    def wait_event(self, name):
        assert name == "JOB_STATUS_CHANGE"
        return {"data": {"id": "b-job", "status": "concluded"}}

    def names(self):
        return [command for command, _ in self.sent]


def begin(monitor, since="old"):
    pulls = PullBackups(monitor, "disk")
    return pulls, pulls.begin("b", Path("/x"), since=since, following="new")


def test_a_backup_begins_with_its_scratch_and_ends_with_its_bitmap():
    monitor = Monitor(exports=["b", "b"])
    pulls, backup = begin(monitor)
    assert backup == INCREMENT
    assert monitor.names() == ["blockdev-add", "transaction", "block-export-add"]
    kinds = [action["type"] for action in monitor.sent[1][1]["actions"]]
    assert kinds == ["block-dirty-bitmap-disable", "block-dirty-bitmap-add", "blockdev-backup"]
    pulls.end(backup)
    assert monitor.names()[3:] == ["block-export-del", "job-cancel", "job-dismiss", "blockdev-del",
                                   "block-dirty-bitmap-remove"]  # fmt: skip
    assert monitor.sent[-1][1] == {"node": "disk", "name": "old"}
    assert not monitor.exports, "it was waited for"
    assert [command for command, _ in pulls.log] == monitor.sent


def test_a_failed_increment_is_merged_into_the_next():
    monitor = Monitor()
    pulls, backup = begin(monitor)
    pulls.end(backup, succeeded=False)
    merge = {"node": "disk", "target": "new", "bitmaps": ["old"]}
    assert monitor.sent[-2:] == [
        ("block-dirty-bitmap-merge", merge),
        ("block-dirty-bitmap-remove", {"node": "disk", "name": "old"}),
    ]


def test_after_a_failed_full_backup_nothing_is_left():
    monitor = Monitor()
    pulls, backup = begin(monitor, since=None)
    assert "bitmaps" not in monitor.sent[2][1]
    pulls.end(backup, succeeded=False)
    assert monitor.sent[-1] == ("block-dirty-bitmap-remove", {"node": "disk", "name": "new"})


def test_a_backup_that_cannot_begin_leaves_nothing():
    monitor = Monitor("transaction")
    with pytest.raises(UsageError, match="monitor refuses transaction: no"):
        begin(monitor)
    assert monitor.sent[-1] == ("blockdev-del", {"node-name": "b-scratch"})


def test_a_backup_that_cannot_be_exported_keeps_what_changed():
    monitor = Monitor("block-export-add")
    with pytest.raises(UsageError, match="block-export-add"):
        begin(monitor)
    taken_down = ["job-cancel", "job-dismiss", "blockdev-del"]
    merged = ["block-dirty-bitmap-merge", "block-dirty-bitmap-remove"]
    assert monitor.names()[3:] == taken_down + merged


def test_before_5_2_the_older_commands_do_it():
    monitor = Monitor(named=False)
    pulls, backup = begin(monitor)
    pulls.end(backup)
    assert monitor.sent[2] == ("nbd-server-add", {"device": "b-scratch", "name": "b",
                                                  "bitmap": "old"})  # fmt: skip
    assert monitor.sent[3] == ("nbd-server-remove", {"name": "b", "mode": "hard"})


def test_an_export_that_stays_is_an_error():
    monitor = Monitor(exports=["b"] * 5000)
    pulls, backup = begin(monitor)
    with pytest.raises(PeerError, match="export 'b' does not go"):
        pulls.end(backup)
