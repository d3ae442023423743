"""What the commands of the monitor for humans do: mostly what those of QMP do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import permissions, plugging
from nbexport.emulator.commands.registry import COMMANDS
from nbexport.emulator.disks import Drives
from nbexport.emulator.graph import Backend
from nbexport.emulator.hmp import show
from nbexport.emulator.hmp.table import INFO, Screen, entry, helps
from nbexport.emulator.hmp.words import Word
from nbexport.emulator.optionlist import Group, HelpWantedError
from nbexport.emulator.qemuio import Target, run
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.machine import Machine

Arguments = dict[str, Any]

_DEVICE = Word("device", "block")
_INTERFACES = ("ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen")


@entry("help|?", Word("name", "rest", optional=True), shown="[cmd]", summary="tell of commands")
async def _help(machine: Machine, screen: Screen, given: Arguments) -> None:
    for line in helps(machine, given.get("name", "")):
        screen.tell(line)


@entry("info", shown="[subcommand]", summary="tell about something")
async def _info(machine: Machine, screen: Screen, given: Arguments) -> None:
    del given
    for line in helps(machine, "info"):
        screen.tell(line)


# the machine


@entry("quit|q", summary="end the process")
async def _quit(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["quit"](machine, given)


@entry("stop|s", summary="let the machine stand still")
async def _stop(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["stop"](machine, given)


@entry("cont|c", summary="let the machine run")
async def _cont(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["cont"](machine, given)


@entry("system_reset", summary="reset the machine")
async def _reset(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["system_reset"](machine, given)


@entry("status", summary="tell whether the machine runs", table=INFO)
async def _info_status(machine: Machine, screen: Screen, given: Arguments) -> None:
    status = await COMMANDS["query-status"](machine, given)
    words = "running" if status["running"] else "paused"
    if not status["running"] and status["status"] != "paused":
        words += f" ({status['status']})"
    screen.tell(f"VM status: {words}\n")


@entry("version", summary="tell the version", table=INFO)
async def _info_version(machine: Machine, screen: Screen, given: Arguments) -> None:
    del given
    version = machine.version
    numbers = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    screen.tell(f"{numbers}{version['package']}\n")


@entry("name", summary="tell the name of the machine", table=INFO)
async def _info_name(machine: Machine, screen: Screen, given: Arguments) -> None:
    """Tell nothing: a name is a hint only."""


# disks and their devices


@entry(
    "block",
    Word("nodes", "flag", letter="n"),
    Word("images", "flag", letter="v"),
    Word("device", "block", optional=True),
    shown="[-n] [-v] [device]",
    summary="tell about disks, or about nodes (-n)",
    table=INFO,
)
async def _info_block(machine: Machine, screen: Screen, given: Arguments) -> None:
    name, images = given.get("device"), given.get("images", False)
    told = False
    if "nodes" not in given:
        for number, info in enumerate(await COMMANDS["query-block"](machine, {})):
            if name in {None, info["device"]}:
                screen.tell("\n" * bool(number))
                screen.tell(show.disk(info, info.get("inserted"), images=images))
                told = True
    if (name is None and "nodes" not in given) or told:
        return
    for number, node in enumerate(await COMMANDS["query-named-block-nodes"](machine, {})):
        if name in {None, node["node-name"]}:
            screen.tell("\n" * bool(number))
            screen.tell(show.disk(None, node, images=images))


@entry("device_add", Word("options", "string", optional=True), shown="driver[,prop=value][,...]",
       summary="plug a device in")  # fmt: skip
async def _device_add(machine: Machine, screen: Screen, given: Arguments) -> None:
    try:
        options = Group("device", "driver", warn=_warning(screen)).parse(given.get("options", ""))
    except HelpWantedError:
        raise CommandError("Help is not supported by this emulator here") from None
    await plugging.add(machine, options)


@entry("device_del", Word("id", "string"), shown="device", summary="take a device out")
async def _device_del(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    plugging.ask_to_leave(machine, given["id"])


@entry(
    "drive_add",
    Word("node", "flag", letter="n"),
    Word("pci_addr", "string"),
    Word("opts", "string"),
    shown="[-n] addr options",
    summary="open a disk",
)
async def _drive_add(machine: Machine, screen: Screen, given: Arguments) -> None:
    group = Group("drive", None, warn=_warning(screen))
    try:
        options = group.parse(given["opts"])
        if "node" in given:
            screen.tell("drive_add -n is not supported by this emulator\n")
            return
        kind = options.get("if", machine.board.default_bus)
        if options.get("id") in machine.graph.backends:
            screen.tell(f"Duplicate ID '{options['id']}' for drive\n")
            return
        drives = Drives(machine, _warning(screen))
        await drives.add(options)
    except HelpWantedError:
        return
    except CommandError as error:
        # A lock has more to tell than its first line.
        whole = str(error.__cause__ or "")
        screen.tell(f"{whole if whole.startswith(str(error)) else error}\n")
        return
    if kind == "none":
        screen.tell("OK\n")
        return
    await machine.drop_disk(drives.made[0].disk)
    screen.tell(f"Can't hot-add drive to type {_INTERFACES.index(kind) + 1}\n")


def _warning(screen: Screen) -> Any:
    return lambda text: screen.tell(f"{text}\n")


@entry("eject", Word("force", "flag", letter="f"), _DEVICE, shown="[-f] device",
       summary="take the medium from a disk whose device lets go of it")  # fmt: skip
async def _eject(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["eject"](machine, given)


@entry(
    "drive_del",
    Word("id", "block"),
    shown="device",
    summary="forget a disk, or leave its device without one",
)
async def _drive_del(machine: Machine, screen: Screen, given: Arguments) -> None:
    name = given["id"]
    if name in machine.graph.nodes:
        try:
            await COMMANDS["blockdev-del"](machine, {"node-name": name})
        except CommandError as error:
            screen.tell(f"{error}\n")
        return
    disk = machine.graph.backends.get(name)
    if disk is None:
        screen.tell(f"Device '{name}' not found\n")
        return
    if disk.device is None:
        await machine.drop_disk(disk)
        return
    # The device keeps an empty disk without a name.
    await machine.empty_disk(disk)
    disk.name = ""
    disk.on_error = ("report", "report")


@entry("block_resize", _DEVICE, Word("size", "size"), shown="device size",
       summary="give a disk another length", needs="block_resize")  # fmt: skip
async def _block_resize(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["block_resize"](machine, given)


# qemu-io


@entry(
    "qemu-io",
    Word("qdev", "flag", letter="d"),
    _DEVICE,
    Word("command", "string"),
    shown='[-d] [device] "[command]"',
    summary="run a command of qemu-io on a disk",
)
async def _qemu_io(machine: Machine, screen: Screen, given: Arguments) -> None:
    name = given["device"]
    if "qdev" in given:
        disk, lasting = machine.board.disk_of(name), True
    elif name in machine.graph.backends:
        disk, lasting = machine.graph.backends[name], True
    else:
        node = machine.graph.nodes.get(name)
        if node is None:
            raise CommandError(f"Cannot find device='' nor node-name='{name}'")
        disk, lasting = Backend("", node), False

    def permit() -> None:
        if disk.node is None or disk.writable:
            return
        node = disk.node
        new = permissions.write_use()
        if lasting:
            new = permissions.backend_use(disk)._replace(required=new.required)
            # It is no user while it is compared with the others.
            disk.node = None
        try:
            permissions.begin(machine.release, machine.graph, node, new)
        except block.ImageLockedError as error:
            raise CommandError(error.reason) from error
        finally:
            disk.node = node
        disk.writable = True

    target = Target(machine, disk, permit, screen.write, screen.complain, screen.tell)
    await run(target, given["command"])
    if not lasting:
        # A disk that is there for this command alone waits for what it has begun.
        if target.begun:
            await machine.wait_for(target.begun)
        permissions.settle(machine.graph)


# exports


@entry(
    "nbd_server_start",
    Word("all", "flag", letter="a"),
    Word("writable", "flag", letter="w"),
    Word("uri", "string"),
    shown="[-a] [-w] host:port",
    summary="listen for clients of NBD, with all disks exported (-a) or none",
)
async def _server_start(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    if "writable" in given and "all" not in given:
        raise CommandError("-w only valid together with -a")
    await COMMANDS["nbd-server-start"](machine, {"addr": _address(given["uri"])})
    if "all" not in given:
        return
    for disk in list(machine.graph.disks):
        if disk.node is None:
            continue
        try:
            await COMMANDS["nbd-server-add"](
                machine, {"device": disk.name, "writable": "writable" in given}
            )
        except CommandError:
            await machine.stop_nbd_server()
            raise


def _address(text: str) -> dict[str, Any]:
    if text.startswith("unix:"):
        if text == "unix:":
            raise CommandError("invalid Unix socket address")
        return {"type": "unix", "data": {"path": text.removeprefix("unix:")}}
    if text.startswith("fd:"):
        return {"type": "fd", "data": {"str": text.removeprefix("fd:")}}
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if not colon:
        raise CommandError(f"error parsing address '{text}'")
    return {"type": "inet", "data": {"host": host.strip("[]"), "port": port}}


@entry(
    "nbd_server_add",
    Word("writable", "flag", letter="w"),
    _DEVICE,
    Word("name", "string", optional=True),
    shown="[-w] device [name]",
    summary="export a disk",
)
async def _server_add(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    named = {"name": given["name"]} if "name" in given else {}
    await COMMANDS["nbd-server-add"](
        machine, {"device": given["device"], "writable": "writable" in given, **named}
    )


@entry("nbd_server_remove", Word("force", "flag", letter="f"), Word("name", "string"),
       shown="[-f] name", summary="take an export back", needs="nbd-server-remove")  # fmt: skip
async def _server_remove(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    mode = "hard" if "force" in given else "safe"
    await COMMANDS["nbd-server-remove"](machine, {"name": given["name"], "mode": mode})


@entry("nbd_server_stop", summary="listen no more")
async def _server_stop(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["nbd-server-stop"](machine, given)


# jobs


@entry("block-jobs", summary="tell about the jobs that run", table=INFO)
async def _info_jobs(machine: Machine, screen: Screen, given: Arguments) -> None:
    screen.tell(show.jobs(await COMMANDS["query-block-jobs"](machine, given)))


@entry("block_job_cancel", Word("force", "flag", letter="f"), _DEVICE, shown="[-f] device",
       summary="end a job")  # fmt: skip
async def _job_cancel(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["block-job-cancel"](
        machine, {"device": given["device"], "force": "force" in given}
    )


def _job_verb(name: str, summary: str) -> None:
    @entry(f"block_job_{name}", _DEVICE, shown="device", summary=summary, needs=f"block-job-{name}")
    async def act(machine: Machine, screen: Screen, given: Arguments) -> None:
        del screen
        await COMMANDS[f"block-job-{name}"](machine, given)


_job_verb("complete", "let a job that is ready end")
_job_verb("pause", "let a job wait")
_job_verb("resume", "let a job go on")


@entry("block_job_set_speed", _DEVICE, Word("speed", "size"), shown="device speed",
       summary="limit what a job does in a second", needs="block-job-set-speed")  # fmt: skip
async def _job_speed(machine: Machine, screen: Screen, given: Arguments) -> None:
    del screen
    await COMMANDS["block-job-set-speed"](machine, given)
