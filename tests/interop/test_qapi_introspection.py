"""Our interface files describe what the installed QEMU's introspection shows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from peers import background, peer

from nbexport.qapi import introspect, known_releases, load_release
from nbexport.qmp import QmpClient

pytestmark = pytest.mark.interop

# narrowed on purpose: only some drivers, actions and types of objects
DRIVERS, ACTIONS, CREATION = ("blockdev-add", "transaction", "blockdev-create")
DRIVERS_SERVED = (
    "blkdebug", "compress", "copy-before-write", "copy-on-read", "file", "nbd", "null-aio",
    "null-co", "preallocate", "qcow2", "raw", "throttle",
)  # fmt: skip
NARROWED = (CREATION, DRIVERS, ACTIONS, "blockdev-reopen", "object-add")
PROGRAMS = ("qemu-system-x86_64", "qemu-storage-daemon")


class Shape:
    """Entities of an introspection with the numbers of types replaced by what they stand for."""

    def __init__(self, entries):
        self.entries = {entry["name"]: entry for entry in entries}

    def __contains__(self, name):
        return name in self.entries

    def expand(self, name, above=()):
        entry = dict(self.entries[name])
        meta = entry.pop("meta-type")
        del entry["name"]
        if meta == "builtin":
            return name
        if name in above:
            return f"the type {len(above) - above.index(name)} levels up"
        above = (*above, name)
        for key in ("arg-type", "ret-type", "element-type"):
            if key in entry:
                entry[key] = self.expand(entry[key], above)
        for key in ("members", "variants"):
            entry[key] = [
                {**part, "type": self.expand(part["type"], above)} if "type" in part else part
                for part in entry.get(key, [])
            ]
        return meta, entry


@pytest.fixture(scope="module", params=PROGRAMS)
def live(request):
    """The introspection of an installed program, as sent, and its release."""
    program = peer(request.param)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        if "storage" in request.param:
            chardev = f"socket,id=c,path={path},server=on,wait=off"
            options = ["--chardev", chardev, "--monitor", "chardev=c"]
        else:
            options = ["-M", "none", "-nodefaults", "-display", "none"]
            options += ["-qmp", f"unix:{path},server=on,wait=off"]
        with background(program, *options, ready=path), QmpClient(path) as client:
            version = client.greeting["version"]["qemu"]
            release = f"{version['major']}.{version['minor']}"
            if release not in known_releases():
                pytest.skip(f"there is no interface of release {release}")
            yield release, client.execute("query-qmp-schema"), client.execute("query-commands")


def test_every_command_and_event_is_described_alike(live):
    release, entries, _ = live
    theirs = Shape(entries)
    schema = load_release(release)
    ours = Shape(introspect(schema, release=(7, 2)))
    compared = []
    for entity in (*schema.commands(), *schema.events()):
        if entity.name in NARROWED or entity.name not in theirs:
            continue
        assert ours.expand(entity.name) == theirs.expand(entity.name), entity.name
        compared.append(entity.name)
    # the storage daemon has no SHUTDOWN; everything else is in both programs
    assert len(compared) >= 43


def test_the_drivers_that_are_served_are_described_alike(live):
    release, entries, _ = live
    theirs, ours = Shape(entries), Shape(introspect(load_release(release), release=(7, 2)))

    def pieces(shape):
        entry = shape.entries[shape.entries[DRIVERS]["arg-type"]]
        base = [
            (member["name"], "default" in member, member.get("features"))
            for member in entry["members"]
        ]
        branches = {branch["case"]: branch["type"] for branch in entry["variants"]}
        served = {}
        for driver in DRIVERS_SERVED:
            branch = shape.entries[branches[driver]]
            served[driver] = (
                branch.get("features"),
                [
                    # what refers to nodes again is compared by its kind only
                    {
                        **member,
                        "type": None if refers(shape, member) else shape.expand(member["type"]),
                    }
                    for member in branch["members"]
                ],
            )
        return base, served

    def refers(shape, member):
        return shape.entries[member["type"]]["meta-type"] == "alternate" and member["name"] in (
            "file",
            "backing",
            "data-file",
            "image",
            "target",
        )

    assert pieces(ours) == pieces(theirs)


def test_the_images_that_are_made_are_described_alike(live):
    release, entries, _ = live
    theirs, ours = Shape(entries), Shape(introspect(load_release(release), release=(7, 2)))

    def pieces(shape):
        job, options = shape.entries[shape.entries[CREATION]["arg-type"]]["members"]
        entry = shape.entries[options["type"]]
        branches = {branch["case"]: branch["type"] for branch in entry["variants"]}
        served = {}
        for driver in ("file", "qcow2"):
            members = shape.entries[branches[driver]]["members"]
            served[driver] = [
                # what refers to nodes and drivers is compared by its kind only
                {**member, "type": None}
                if member["name"] in {"file", "data-file", "backing-fmt"}
                else {**member, "type": shape.expand(member["type"])}
                for member in members
            ]
        return job, options["name"], served

    assert pieces(ours) == pieces(theirs)


def test_the_actions_that_are_served_are_described_alike(live):
    release, entries, _ = live
    theirs, ours = Shape(entries), Shape(introspect(load_release(release), release=(7, 2)))

    def pieces(shape):
        actions, properties = shape.entries[shape.entries[ACTIONS]["arg-type"]]["members"]
        action = shape.entries[shape.entries[actions["type"]]["element-type"]]
        branches = {
            branch["case"]: shape.expand(branch["type"])
            for branch in action["variants"]
            if branch["case"] in {"abort", "blockdev-backup"} or "bitmap" in branch["case"]
        }
        (tag,) = action["members"]
        values = shape.entries[tag["type"]]["members"]
        served = [value for value in values if value["name"] in branches]
        settings = shape.expand(properties.pop("type")), properties
        return actions["name"], action["tag"], branches, served, settings

    assert pieces(ours) == pieces(theirs)


def test_the_objects_that_are_served_are_described_alike(live):
    release, entries, _ = live
    theirs, ours = Shape(entries), Shape(introspect(load_release(release), release=(7, 2)))
    served = [value.name for value in load_release(release).entities["ObjectType"].members]
    assert len(served) == 8

    def pieces(shape):
        entry = shape.entries[shape.entries["object-add"]["arg-type"]]
        branches = {branch["case"]: shape.expand(branch["type"]) for branch in entry["variants"]}
        return [member["name"] for member in entry["members"]], {n: branches[n] for n in served}

    assert pieces(ours) == pieces(theirs)


def test_our_commands_are_among_theirs(live):
    release, _, commands = live
    theirs = {command["name"] for command in commands}
    ours = {command.name for command in load_release(release).commands()}
    # The storage daemon has no machine that could stop or take devices.
    assert ours - theirs in (
        set(),
        {
            *("query-status", "stop", "cont", "device_add", "device_del", "system_reset"),
            *("eject", "human-monitor-command", "block_set_io_throttle"),
        },
    )
