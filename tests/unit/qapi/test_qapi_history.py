"""The interface of every release in the package's data: its members, features, documentation."""

from __future__ import annotations

import re

import pytest

from nbexport.qapi import introspect, known_releases, load_release, parse_release
from nbexport.qapi.model import AlternateType, Command, EnumType, Event, ObjectType
from nbexport.resources import data_path
from nbexport.timeline.history import effective_members
from nbexport.timeline.releases import releases

FOLDERS = [
    *("2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "3.0", "3.1"),
    *("4.0", "4.1", "4.2", "5.0", "5.1", "5.2", "6.0", "6.1", "6.2", "7.0", "7.1", "7.2"),
    *("8.0", "8.1", "8.2", "9.0", "9.1", "9.2", "10.0", "10.1", "10.2", "11.0"),
]
MAIN = [
    entry.name
    for entry in releases()
    if not entry.is_stable and (2, 5) <= entry.version[:2] <= (11, 0)
]


def within(release, span):
    first, last = (parse_release(name) for name in span.split("-"))
    return first <= parse_release(release) <= last


def in_table(table, release):
    """The row of a table for a release; None where it has none."""
    rows = [text for span, text in table.items() if within(release, span)]
    assert len(rows) <= 1
    return rows[0] if rows else None


# -- members, release by release --------------------------------------------------------------
# "*x: T" is optional; "(...)" are features; a release without a row does not have the command.

ADDRESS, LEGACY = "addr: SocketAddress", "addr: SocketAddressLegacy"
BITMAP = "node: str, name: str"
KINDS = "nbd|vhost-user-blk"
EXPORT = (
    "id: str, *fixed-iothread: bool, *iothread: str, node-name: str, *writable: bool, "
    "*writethrough: bool"
)
EXPORT_11 = EXPORT.replace("*iothread: str", "*iothread: str or [str]")
START = "*tls-creds: str, *tls-authz: str, *max-connections: uint32"
ADDED_4 = f"{BITMAP}, *granularity: uint32, *persistent: bool"

MEMBERS = {
    "nbd-server-start": {
        "2.5-2.5": ADDRESS,
        "2.6-2.9": f"{ADDRESS}, *tls-creds: str",
        "2.10-3.1": f"{LEGACY}, *tls-creds: str",
        "4.0-5.1": f"{LEGACY}, *tls-creds: str, *tls-authz: str",
        "5.2-9.2": f"{LEGACY}, {START}",
        "10.0-11.0": f"*handshake-max-seconds: uint32, {START}, {LEGACY}",
    },
    "nbd-server-add": {
        "2.5-2.11": "device: str, *writable: bool",
        "2.12-3.1": "device: str, *name: str, *writable: bool",
        "4.0-4.2": "device: str, *name: str, *writable: bool, *bitmap: str",
        "5.0-5.1": "device: str, *name: str, *description: str, *writable: bool, *bitmap: str",
        "5.2-11.0": "*name: str, *description: str, device: str, *writable: bool, *bitmap: str",
    },
    "nbd-server-remove": {"2.12-11.0": "name: str, *mode: safe|hard"},
    "nbd-server-stop": {"2.5-11.0": ""},
    "x-nbd-server-add-bitmap": {"3.0-3.1": "name: str, bitmap: str, *bitmap-export-name: str"},
    "block-export-add": {
        "5.2-5.2": f"type: {KINDS}, {EXPORT}",
        "6.0-7.0": f"type: {KINDS}|fuse, {EXPORT}",
        "7.1-9.2": f"type: {KINDS}|fuse|vduse-blk, {EXPORT}",
        "10.0-10.2": f"type: {KINDS}|fuse|vduse-blk, {EXPORT}, *allow-inactive: bool",
        "11.0-11.0": f"type: {KINDS}|fuse|vduse-blk, {EXPORT_11}, *allow-inactive: bool",
    },
    "block-export-add type=nbd": {
        "5.2-7.0": "*name: str, *description: str, *bitmaps: [str], *allocation-depth: bool",
        "7.1-11.0": "*name: str, *description: str, *bitmaps: [str or BlockDirtyBitmap], "
        "*allocation-depth: bool",
    },
    "block-export-add type=vhost-user-blk": {
        "5.2-11.0": f"{ADDRESS}, *logical-block-size: size, *num-queues: uint16",
    },
    "block-export-add type=fuse": {
        "6.0-6.0": "mountpoint: str, *growable: bool",
        "6.1-11.0": "mountpoint: str, *growable: bool, *allow-other: off|on|auto",
    },
    "block-export-add type=vduse-blk": {
        "7.1-11.0": "name: str, *num-queues: uint16, *queue-size: uint16, "
        "*logical-block-size: size, *serial: str",
    },
    "block-export-del": {"5.2-11.0": "id: str, *mode: safe|hard"},
    "query-block-exports": {"5.2-11.0": ""},
    "BlockExportInfo": {
        "5.2-5.2": "id: str, type: nbd|vhost-user-blk, node-name: str, shutting-down: bool",
        "6.0-7.0": "id: str, type: nbd|vhost-user-blk|fuse, node-name: str, shutting-down: bool",
        "7.1-11.0": "id: str, type: nbd|vhost-user-blk|fuse|vduse-blk, node-name: str, "
        "shutting-down: bool",
    },
    "BLOCK_EXPORT_DELETED": {"5.2-11.0": "id: str"},
    "block-dirty-bitmap-add": {
        "2.5-2.9": f"{BITMAP}, *granularity: uint32",
        "2.10-2.12": f"{ADDED_4}, *autoload: bool",
        "3.0-3.1": f"{ADDED_4}, *autoload: bool, *x-disabled: bool",
        "4.0-4.1": f"{ADDED_4}, *autoload: bool, *disabled: bool",
        "4.2-11.0": f"{ADDED_4}, *disabled: bool",
    },
    "block-dirty-bitmap-remove": {"2.5-11.0": BITMAP},
    "block-dirty-bitmap-clear": {"2.5-11.0": BITMAP},
    "x-block-dirty-bitmap-enable": {"3.0-3.1": BITMAP},
    "x-block-dirty-bitmap-disable": {"3.0-3.1": BITMAP},
    "x-block-dirty-bitmap-merge": {"3.0-3.1": "node: str, dst_name: str, src_name: str"},
    "block-dirty-bitmap-enable": {"4.0-11.0": BITMAP},
    "block-dirty-bitmap-disable": {"4.0-11.0": BITMAP},
    "block-dirty-bitmap-merge": {
        "4.0-4.0": "node: str, target: str, bitmaps: [str]",
        "4.1-11.0": "node: str, target: str, bitmaps: [str or BlockDirtyBitmap]",
    },
    "x-debug-block-dirty-bitmap-sha256": {"2.10-11.0": BITMAP},
    "BlockDirtyInfo": {
        "2.5-2.11": "*name: str, count: int, granularity: uint32, status: active|disabled|frozen",
        "2.12-3.1": "*name: str, count: int, granularity: uint32, "
        "status: active|disabled|frozen|locked",
        "4.0-4.2": "*name: str, count: int, granularity: uint32, recording: bool, busy: bool, "
        "status: active|disabled|frozen|locked|inconsistent, persistent: bool, "
        "*inconsistent: bool",
        "5.0-5.2": "*name: str, count: int, granularity: uint32, recording: bool, busy: bool, "
        "status: active|disabled|frozen|locked|inconsistent (deprecated), persistent: bool, "
        "*inconsistent: bool",
        "6.0-11.0": "*name: str, count: int, granularity: uint32, recording: bool, busy: bool, "
        "persistent: bool, *inconsistent: bool",
    },
    "blockdev-del": {"2.9-11.0": "node-name: str"},
    "x-blockdev-del": {"2.5-2.7": "*id: str, *node-name: str", "2.8-2.8": "node-name: str"},
    "query-block": {"2.5-10.2": "", "11.0-11.0": "*flat: bool"},
    "query-named-block-nodes": {"2.5-4.2": "", "5.0-11.0": "*flat: bool"},
    "transaction": {"2.5-11.0": "actions: [TransactionAction], *properties: TransactionProperties"},
    "qmp_capabilities": {"2.5-2.11": "", "2.12-11.0": "*enable: [oob]"},
    "InetSocketAddress": {
        "2.5-2.8": "host: str, port: str, *to: uint16, *ipv4: bool, *ipv6: bool",
        "2.9-4.1": "host: str, port: str, *numeric: bool, *to: uint16, *ipv4: bool, *ipv6: bool",
        "4.2-6.0": "host: str, port: str, *numeric: bool, *to: uint16, *ipv4: bool, *ipv6: bool, "
        "*keep-alive: bool",
        "6.1-10.0": "host: str, port: str, *numeric: bool, *to: uint16, *ipv4: bool, *ipv6: bool, "
        "*keep-alive: bool, *mptcp: bool",
        "10.1-11.0": "host: str, port: str, *numeric: bool, *to: uint16, *ipv4: bool, *ipv6: bool, "
        "*keep-alive: bool, *keep-alive-count: uint32, *keep-alive-idle: uint32, "
        "*keep-alive-interval: uint32, *mptcp: bool",
    },
    "UnixSocketAddress": {
        "2.5-5.0": "path: str",
        "5.1-5.1": "path: str, *tight: bool, *abstract: bool",
        "5.2-11.0": "path: str, *abstract: bool, *tight: bool",
    },
    "VsockSocketAddress": {"2.8-11.0": "cid: str, port: str"},
}


def told(members):
    return ", ".join(
        f"{'*' if m.optional else ''}{m.name}: {m.type}"
        + (f" ({', '.join(m.features)})" if m.features else "")
        for m in members
    )


@pytest.mark.parametrize("element", MEMBERS)
@pytest.mark.parametrize("release", MAIN)
def test_members_of_each_release(release, element):
    name, _, branch = element.partition(" ")
    members = effective_members(load_release(release), name)
    expected = in_table(MEMBERS[element], release)
    if members is not None:
        members = [member for member in members if member.branch == branch]
    if expected is None:
        assert not members
        assert branch or members is None
    else:
        assert members is not None
        assert told(members) == expected


@pytest.mark.parametrize("release", MAIN)
def test_addresses_of_the_server(release):
    schema = load_release(release)
    address = schema.command("nbd-server-start").arg_type
    kind = next(m.type for m in schema.members(address) if m.name == "addr")
    branches = {variant.name: variant.type for variant in kind.variants}
    vsock = ["vsock"] if parse_release(release) >= (2, 8) else []
    assert list(branches) == ["inet", "unix", *vsock, "fd"]
    # the members of an address are below `data`
    for branch in branches.values():
        (data,) = schema.members(branch)
        assert data.name == "data"
        assert isinstance(data.type, ObjectType)
    # where exports have an address of their own, they are not
    if parse_release(release) >= (5, 2):
        flat = effective_members(schema, "SocketAddress")
        assert [m.name for m in flat if m.branch == "type=fd"] == ["str"]


ACTIONS = {
    "2.5-2.12": "abort add clear",
    "3.0-3.0": "abort add clear x-enable x-disable",
    "3.1-3.1": "abort add clear x-enable x-disable x-merge",
    "4.0-4.1": "abort add clear enable disable merge",
    "4.2-11.0": "abort add remove clear enable disable merge",
}


@pytest.mark.parametrize("release", MAIN)
def test_actions_of_a_transaction(release):
    schema = load_release(release)
    kind = schema.find_type("TransactionAction")
    names = [variant.name for variant in kind.variants]
    assert names == [value.name for value in schema.find_type("TransactionActionKind").members]
    short = [name.replace("block-dirty-bitmap-", "") for name in names]
    always = "blockdev-backup blockdev-snapshot blockdev-snapshot-sync drive-backup"
    assert " ".join(short) == f"{in_table(ACTIONS, release)} {always}"
    for variant in kind.variants:
        # an action takes what the command of that name takes
        (data,) = schema.members(variant.type)
        command = schema.command(variant.name)
        if variant.name != "abort":
            assert told(effective_members(schema, data.type.name)) == told(
                effective_members(schema, command.name)
            )


# -- features, flags ----------------------------------------------------------------------------

FEATURES = {
    "2.5-4.0": {},
    "4.1-4.2": {"BlockdevOptionsFile": "dynamic-auto-read-only"},
    "5.0-5.1": {
        "BlockdevOptionsFile": "dynamic-auto-read-only",
        "BlockDirtyInfo.status": "deprecated",
        "BlockDeviceInfo.encryption_key_missing": "deprecated",
        "BlockInfo.dirty-bitmaps": "deprecated",
    },
    "5.2-5.2": {
        "BlockdevOptionsFile": "dynamic-auto-read-only",
        "BlockDirtyInfo.status": "deprecated",
        "BlockDeviceInfo.encryption_key_missing": "deprecated",
        "BlockInfo.dirty-bitmaps": "deprecated",
        "nbd-server-add": "deprecated",
        "nbd-server-remove": "deprecated",
    },
    "6.0-6.1": {
        "BlockdevOptionsFile": "dynamic-auto-read-only",
        "nbd-server-add": "deprecated",
        "nbd-server-remove": "deprecated",
    },
    "6.2-11.0": {
        "BlockdevOptionsFile": "dynamic-auto-read-only",
        "BlockdevOptionsFile.x-check-cache-dropped": "unstable",
        "nbd-server-add": "deprecated",
        "nbd-server-remove": "deprecated",
        "x-debug-block-dirty-bitmap-sha256": "unstable",
        "SchemaInfoEnum.values": "deprecated",
    },
}
# The same around exports and bitmaps; here several rows hold for a release.
AROUND = {
    "4.2-11.0": {"human-monitor-command": "savevm-monitor-nodes"},
    "5.0-11.0": {
        "eject.device": "deprecated",
        "BlockIOThrottle.device": "deprecated",
        "block-commit.base": "deprecated",
        "block-commit.top": "deprecated",
        "blockdev-snapshot": "allow-write-only-overlay",
    },
    "6.0-9.1": {
        f"{name}.loaded": "deprecated"
        for name in (
            *("SecretCommonProperties", "TlsCredsAnonProperties"),
            *("TlsCredsPskProperties", "TlsCredsX509Properties"),
        )
    },
    "6.2-6.2": {"device_add": "json-cli"},
    "6.2-11.0": {
        "BackupCommon.x-perf": "unstable",
        "TransactionActionKind.drive-backup": "deprecated",
        "drive-backup": "deprecated",
        "BlockdevOptionsNbd.x-dirty-bitmap": "unstable",
        "ThrottleGroupProperties.x-iops-size": "unstable",
        "x-blockdev-set-iothread": "unstable",
        **{
            f"ThrottleGroupProperties.x-{what}-{which}{more}": "unstable"
            for what in ("bps", "iops")
            for which in ("total", "read", "write")
            for more in ("", "-max", "-max-length")
        },
    },
    "7.0-11.0": {"device_add": "json-cli-hotplug"},
    "8.1-8.2": {"StatusInfo.singlestep": "deprecated"},
    "10.1-11.0": {
        f"block-job-{word}": "deprecated"
        for word in ("pause", "resume", "complete", "dismiss", "finalize")
    },
}


def defined(schema):
    """What the schema's text defines."""
    return [e for e in schema.entities.values() if e.info and not getattr(e, "implicit", False)]


def own_parts(entity):
    """The members, values or choices that an entity's own text has."""
    if isinstance(entity, EnumType):
        return list(entity.members)
    if isinstance(entity, AlternateType):
        return list(entity.variants)
    if isinstance(entity, Command | Event):
        arg = entity.arg_type
        return list(arg.local_members) if arg is not None and arg.implicit else []
    if isinstance(entity, ObjectType):
        base = entity.base if entity.base is not None and entity.base.implicit else None
        return [*(base.local_members if base else ()), *entity.local_members]
    return []


@pytest.mark.parametrize("release", MAIN)
def test_features_and_what_they_advise(release):
    schema = load_release(release)
    found = {}
    for entity in defined(schema):
        parts = [(entity.name, entity)]
        parts += [(f"{entity.name}.{p.name}", p) for p in own_parts(entity)]
        for title, part in parts:
            for feature in getattr(part, "features", ()):
                found[title] = feature.name
                text = entity.doc.features[feature.name].text
                assert text
                if feature.name == "deprecated":
                    assert re.match("use |ignore ", text), title
    expected = dict(in_table(FEATURES, release))
    for span, row in AROUND.items():
        expected |= row if within(release, span) else {}
    assert found == expected


EARLY_ALWAYS = {"qmp_capabilities", "query-version", "query-commands"}
EARLY_3 = EARLY_ALWAYS | {"qom-get", "qom-list-types", "qom-set", "query-status"}
EARLY_6 = EARLY_3 | {"quit", "query-qmp-schema"}
NEVER_EARLY = {
    *("transaction", "stop", "cont", "device_add", "device_del", "block-job-change"),
    *("eject", "human-monitor-command", "system_reset"),
}


@pytest.mark.parametrize("release", MAIN)
def test_what_is_allowed_before_the_machine_is_there(release):
    commands = list(load_release(release).commands())
    early = {command.name for command in commands if command.allow_preconfig}
    version = parse_release(release)
    if version >= (7, 1):
        late = {c.name for c in commands if c.name == "query-jobs" or c.name.startswith("job-")}
        assert early == {command.name for command in commands} - NEVER_EARLY - late
    else:
        expected = EARLY_6 if version >= (6, 0) else EARLY_3 if version >= (3, 0) else set()
        expected = expected | ({"object-add", "object-del"} if version >= (6, 1) else set())
        assert early == expected
    assert not any(command.allow_oob or command.coroutine for command in commands)


def test_what_was_never_there():
    for release in FOLDERS:
        schema = load_release(release)
        assert schema.command("nbd-server-add-bitmap") is None
        names = {member.name for member in effective_members(schema, "nbd-server-add")}
        assert not names & {"bitmaps", "allocation-depth", "alloc"}
        events = {event.name for event in schema.events()}
        assert not {name for name in events if name.startswith("NBD")}


def test_splitting_a_struct_changes_no_more_than_the_order():
    sets, orders = set(), []
    for release in ("5.1", "5.2"):
        entries = {e["name"]: e for e in introspect(load_release(release), release=(5, 1))}
        members = entries[entries["nbd-server-add"]["arg-type"]]["members"]
        orders.append([member["name"] for member in members])
        sets.add(frozenset((m["name"], m["type"], "default" in m) for m in members))
    assert len(sets) == 1
    assert orders[0] != orders[1]


# -- folders and their documentation ------------------------------------------------------------


def test_there_is_a_folder_for_each_release_that_changed_something():
    assert known_releases() == FOLDERS
    assert set(FOLDERS) <= set(MAIN)
    assert list(MAIN) == FOLDERS
    # an include that leaves its folder would tie two releases together
    for path in data_path("interface").glob("*/*.json"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"'include': '[^']*/", text)
        if path.name == "schema.json":
            assert f"QEMU {path.parent.name} " in text
        assert max(map(len, text.splitlines())) < 80, path


@pytest.mark.parametrize("release", FOLDERS)
def test_documentation_fits_the_definitions(release):
    schema = load_release(release)
    for entity in defined(schema):
        names = {part.name for part in own_parts(entity)}
        assert set(entity.doc.members) <= names, entity.name
        assert set(entity.doc.features) >= {feature.name for feature in entity.features}
        # enumerations of names that everybody knows need no words; everything else does
        if not isinstance(entity, EnumType) and entity.name not in WORDLESS:
            assert set(entity.doc.members) == names, entity.name
        texts = [entity.doc.body, *entity.doc.members.values(), *entity.doc.features.values()]
        for name in re.findall(
            r"\bsince:? (\d+\.\d+)", " ".join(s.text for s in texts), re.IGNORECASE
        ):
            assert parse_release(name) <= parse_release(release), entity.name
        if entity.doc.since:
            assert parse_release(entity.doc.since) <= parse_release(release), entity.name


WORDLESS = {"Qcow2OverlapCheckFlags"}
# its remark tells three releases, the first one is that of objects
TOLD_OTHERWISE = {("SchemaInfo", "features")}


def test_since_tags_name_the_folder_in_which_a_member_appeared():
    first = {}
    documented = 0
    for release in FOLDERS:
        for entity in defined(load_release(release)):
            first.setdefault(entity.name, release)
            for part in own_parts(entity):
                came = first.setdefault((entity.name, part.name), release)
                if came == FOLDERS[0] or (entity.name, part.name) in TOLD_OTHERWISE:
                    continue
                if came != first[entity.name] and part.name in entity.doc.members:
                    documented += 1
                    since = entity.doc.member_since(part.name)
                    assert since == came, (release, entity.name, part.name)
    assert documented > 500


@pytest.mark.parametrize("release", MAIN)
def test_the_default_of_max_connections_is_told(release):
    schema = load_release(release)
    command = schema.command("nbd-server-start")
    owner = command if parse_release(release) < (10, 0) else command.arg_type.base
    section = owner.doc.members.get("max-connections")
    if parse_release(release) < (5, 2):
        assert section is None
        return
    default, later = {
        "7.2": ("0", "7.2.14"),
        "8.2": ("0", "8.2.7"),
        "9.0": ("0", "9.0.3"),
    }.get(release, ("100" if parse_release(release) >= (9, 1) else "0", None))
    text = " ".join(section.text.split())
    assert re.search(rf"; default: {default}\b", text)
    assert (f"from {later} on 100" in text) is (later is not None)
