"""Images as QEMU's tools name them: file name, URI, ``json:{...}``, or options with dotted keys.

Unlike those of ``blockdev-add``, such options may leave out drivers, which are guessed then, and
have their numbers in any notation. What comes out is what `Builder` opens. Words are those of
qemu-nbd 7.2.

Source: QEMU's ``docs/system/qemu-block-drivers.rst`` and its manual page qemu-img(1),
``--image-opts``.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from nbexport import block, nbd
from nbexport.block.chain import is_known_driver, probe_format
from nbexport.emulator import filters, permissions
from nbexport.emulator.builder import NESTING_MAX, Builder
from nbexport.emulator.image_types import Kind, kind_of, names_of
from nbexport.errors import CommandError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nbexport.emulator.graph import Graph, Node
    from nbexport.emulator.release import Release

    Overlay = Callable[[Callable[[dict[str, Any]], Node], Node], Node]
    """Gets what opens nodes and a node, and returns one above it."""

Options = dict[str, Any]

_FORMATS: Final = frozenset({
    "compress", "copy-before-write", "copy-on-read", "preallocate", "qcow2", "raw", "throttle",
})  # fmt: skip
_PROTOCOLS: Final = frozenset({"blkdebug", "file", "host_device", "nbd", "null-aio", "null-co"})
_FIRST_OF_NBD: Final = ("nbd", "nbd+tcp", "nbd+unix", "nbds")
_GUESSED = (
    "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
    "         Automatically detecting the format is dangerous for raw images, write operations on "
    "block 0 will be restricted.\n"
    "         Specify the 'raw' format explicitly to remove the restrictions."
)
_EMPTY_BACKING = 'warning: Use of "backing": "" is deprecated; use "backing": null instead'


def split_options(
    text: str, warn: Callable[[str], None], implied: str | None = "file"
) -> dict[str, str]:
    """Return the options of ``--image-opts``: their names, dotted, and their values.

    Args:
        text: ``name=value,...``; a name alone means ``on``, and ``off`` with ``no`` before it.
        warn: told of names alone, which are deprecated.
        implied: the name of a value alone at the beginning, None if there is no such thing.
    """
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        stop = next((at for at in range(position, len(text)) if text[at] in "=,"), len(text))
        name, alone = text[position:stop], text[stop : stop + 1] != "="
        if alone and not position and implied is not None:
            name, stop = implied, -1  # its value begins where the text does
        elif alone:
            shown, value = name, "on"
            if name.startswith("no"):
                name, value = name[2:], "off"
            if shown not in {"help", "?"}:
                warn(
                    f"warning: short-form boolean option '{shown}' deprecated\n"
                    f"Please use {name}={value} instead"
                )
            found[name] = value
            position = stop + 1
            continue
        value, position = _value(text, stop + 1)
        if name != "id":
            found.pop(name, None)
            found[name] = value
    return found


def _value(text: str, start: int) -> tuple[str, int]:
    """Return a value, in which a comma is written twice, and where the next name begins."""
    value = ""
    while start < len(text):
        if text[start] == ",":
            if text[start + 1 : start + 2] != ",":
                return value, start + 1
            start += 1
        value += text[start]
        start += 1
    return value, start


def parse_json_name(name: str) -> Options:
    """Return the options in a file name that begins with ``json:``.

    Raises:
        CommandError: they are no JSON object.
    """
    from nbexport.qmp import jsonstream  # noqa: PLC0415 - plain file names need none of it

    try:
        found = jsonstream.parse(name.removeprefix("json:"))
    except CommandError as error:
        raise CommandError(f"Could not parse the JSON options: {error}") from error
    if not isinstance(found, dict):
        raise CommandError("Invalid JSON object given")
    return found


def nested(flat: Mapping[str, Any]) -> Options:
    """Return options with dotted names as objects in objects.

    Raises:
        CommandError: a name is both a value and an object.
    """
    made: Options = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        here = made
        for part in path:
            below = here.setdefault(part, {})
            if not isinstance(below, dict):
                raise CommandError(
                    "Cannot reference an existing block device with additional options or a new "
                    "filename"
                )
            here = below
        inner = nested(value) if isinstance(value, dict) else value
        if isinstance(inner, dict) and isinstance(here.get(last), dict):
            here[last].update(inner)
        elif isinstance(here.get(last), dict):
            raise CommandError(
                "Cannot reference an existing block device with additional options or a new "
                "filename"
            )
        else:
            here[last] = inner
    return made


class ImageOpener:
    """Opens images by name and options.

    Args:
        release: decides the words of some errors.
        graph: gets the nodes.
        objects: finds TLS credentials by id; None if the process has no objects.
        warn: told what is worth a warning, as the text to print.
    """

    def __init__(
        self, release: Release, graph: Graph, objects: Any, warn: Callable[[str], None]
    ) -> None:
        self._release = release
        self._graph = graph
        self._objects = objects
        self._warn = warn
        self._aio: str | None = None

    def open(
        self,
        filename: str | None,
        options: Mapping[str, Any],
        *,
        writable: bool,
        aio: str | None = None,
        over: Overlay | None = None,
    ) -> Node:
        """Open an image for an export.

        Args:
            filename: a path, a URI or ``json:``; None if the options say all.
            options: of its top node, with dotted names or nested.
            writable: whether the user writes.
            aio: what is to do the reading and writing, where the options do not say it.
            over: puts an overlay over the image, which is only read then.

        Raises:
            CommandError: it cannot be opened; what was opened stays in the graph.
        """
        try:
            whole = nested(options)
            if filename is not None and filename.startswith("json:"):
                whole = nested(parse_json_name(filename)) | whole
                filename = None
            if over is not None:
                whole["read-only"] = True
            whole.setdefault("read-only", not writable)
            self._aio = aio
            node = self._build(self._top(whole, filename))
            if over is not None:
                node = over(self._build, node)
            use = permissions.export_use(writable=writable)
            permissions.begin(self._release, self._graph, node, use)
        except block.ImageLockedError as error:
            raise CommandError(error.reason) from error
        except FormatError as error:
            raise CommandError(error.message) from error
        except (OSError, UsageError) as error:
            raise CommandError(str(error)) from error
        return node

    def part(self, node: Node, offset: int, *, writable: bool, over: Overlay | None = None) -> Node:
        """Return a node for what is behind an offset of another one; raises as `open`."""
        if offset > _INT64_MAX:
            raise CommandError(_no_size("offset"))
        read_only = over is not None or not writable
        options = {"driver": "raw", "file": node.name, "offset": offset, "read-only": read_only}
        made = self._build(options)
        return made if over is None else over(self._build, made)

    def _build(self, options: Options) -> Node:
        return Builder(self._release, self._graph, objects=self._objects).build(options)

    def _top(self, options: Options, filename: str | None, depth: int = 0) -> Options:
        """Return the description of a node that may be a format above a protocol."""
        if depth > NESTING_MAX:
            raise CommandError(f"Nodes are nested too deeply (limit {NESTING_MAX})")
        driver = _driver(options)
        if driver in _PROTOCOLS:
            return self._protocol(options, filename, depth)
        is_guessed = driver is None
        given = options.get("file")
        file: str | Options | None = None
        if isinstance(given, str):
            if filename is not None:
                raise CommandError(
                    "Cannot reference an existing block device with additional options or a new "
                    "filename"
                )
            file = given
        elif given is not None or filename is not None:
            inherited = {key: options[key] for key in ("read-only", "cache") if key in options}
            file = self._protocol(inherited | (given or {}), filename, depth + 1)
        if driver is None:
            if file is None:
                raise CommandError("Must specify either driver or file")
            driver, file = self._guess(options, file)
        elif file is None:
            raise CommandError('A block device must be specified for "file"')
        names = _names_of_backing(options)
        if "backing" in options:
            options["backing"] = self._backing(options["backing"], depth)
        if isinstance(options.get("target"), dict):
            options["target"] = self._top(options["target"], None, depth + 1)
        made = _typed({**options, "driver": driver, "file": file})
        if driver == "raw" and is_guessed:
            made["probed"] = True
        if names is not None:
            made["backing-names"] = names
        return made

    def _guess(self, options: Options, file: str | Options) -> tuple[str, str]:
        """Return the format of what is in a file, and the name of the file's node."""
        if not isinstance(file, str):
            below = self._build(file)
            file = below.name
        below = self._graph.find(file)
        driver = probe_format(below.block)
        if driver == "raw" and not below.read_only and options.get("read-only") in {False, "off"}:
            self._warn(_GUESSED.format(below.block.filename))
        return driver, file

    def _backing(self, given: Any, depth: int) -> str | Options | None:
        if given == "":
            self._warn(_EMPTY_BACKING)
            return None
        if isinstance(given, dict):
            return self._top(given, None, depth + 1)
        return given if isinstance(given, str) else None

    def _protocol(self, options: Options, filename: str | None, depth: int) -> Options:
        """Return the description of a node that needs no other one below it."""
        driver = _driver(options)
        if driver in _FORMATS:
            return self._top(options, filename, depth)
        options = dict(options)
        if filename is not None and "filename" not in options:
            if driver is None:
                driver = _protocol_of(filename)
            options |= _parsed_name(driver, filename)
        elif driver is None:
            if not isinstance(options.get("filename"), str):
                raise CommandError("Must specify either driver or file")
            driver = _device_or_file(options["filename"])
        options["driver"] = driver
        if driver == "blkdebug":
            return self._injecting(options, depth)
        if filename is None and str(options.get("filename", "")).startswith("file:"):
            # Only in a name that stands alone it is a protocol; one such is taken off below.
            options["filename"] = f"file:{options['filename']}"
        if driver in {"file", "host_device"} and not options.get("filename"):
            raise CommandError(f"The '{driver}' block driver requires a file name")
        if driver.startswith("null"):
            options.pop("filename", None)
        made = _typed(options)
        if driver in {"file", "host_device"}:
            _check_aio({"aio": self._aio, **made})
        if driver == "nbd":
            _name_server(made)
        return made

    def _injecting(self, options: Options, depth: int) -> Options:
        """Return the description of a node that injects errors into a protocol's."""
        name, image = options.pop("x-image", None), options.get("image")
        if not isinstance(image, str):
            if image is None and name is None:
                raise CommandError('A block device must be specified for "image"')
            inherited = {key: options[key] for key in ("read-only", "cache") if key in options}
            options["image"] = self._protocol(inherited | (image or {}), name, depth + 1)
        for group in ("inject-error", "set-state"):
            if group in options:
                options[group] = filters.typed_rules(options[group], group)
        for group in ("take-child-perms", "unshare-child-perms"):
            if isinstance(options.get(group), dict):
                options[group] = list(options[group].values())
        return _typed(options)


_INT64_MAX = (1 << 63) - 1


def _names_of_backing(options: Options) -> Options | None:
    """Take out what options say of the backing file that the image itself names.

    Raises:
        CommandError: it is more than the names of nodes.
    """
    given = options.get("backing")
    if not isinstance(given, dict) or "driver" in given or isinstance(given.get("file"), str):
        return None
    file = given.get("file", {})
    if file.keys() & {"driver", "filename"}:
        return None
    del options["backing"]
    _check_names(given, "backing")
    return given


def _check_names(given: Options, path: str) -> None:
    for name, value in given.items():
        if name in {"backing", "file"} and isinstance(value, dict):
            _check_names(value, f"{path}.{name}")
        elif name != "node-name":
            raise CommandError(f"Option '{path}.{name}' is not supported by this emulator")


def _driver(options: Mapping[str, Any]) -> str | None:
    """Return the driver that the options name.

    Raises:
        CommandError: there is none of this name, or it is none of ours.
    """
    driver = options.get("driver")
    if not isinstance(driver, str):
        return None
    if driver not in _FORMATS | _PROTOCOLS:
        if is_known_driver(driver):
            raise CommandError(f"Driver '{driver}' is not supported")
        raise CommandError(f"Unknown driver '{driver}'")
    return driver


def _protocol_of(name: str) -> str:
    head, colon, _ = name.partition(":")
    if not colon or "/" in head:
        return _device_or_file(name)
    if head in _FIRST_OF_NBD:
        return "nbd"
    if head in {"blkdebug", "file", "host_device", "null-co", "null-aio"}:
        return head
    raise CommandError(f"Unknown protocol '{head}'")


def _device_or_file(name: str) -> str:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - an empty name is none, not the folder
    except (OSError, ValueError):
        return "file"  # the attempt to open it tells why
    return "host_device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "file"


def _parsed_injection(name: str) -> Options:
    """Return the options in ``blkdebug:CONFIG:IMAGE``; without the prefix it is the image."""
    if not name.startswith("blkdebug:"):
        return {"x-image": name}
    config, colon, image = name.removeprefix("blkdebug:").partition(":")
    if not colon:
        raise CommandError("blkdebug requires both config file and image path")
    return {"x-image": image, **({"config": config} if config else {})}


def _parsed_name(driver: str, name: str) -> Options:
    """Return the options that a file name stands for."""
    if driver == "blkdebug":
        return _parsed_injection(name)
    if driver != "nbd":
        head = f"{driver}:"
        return {"filename": name.removeprefix(head)}
    if "://" in name:
        try:
            uri = nbd.NbdUri.parse(name.replace("nbd+tcp:", "nbd:", 1))
        except UsageError as error:
            raise CommandError("No valid URL specified") from error
        found: Options = {"export": uri.export} if uri.export else {}
        if uri.socket is not None:
            return found | {"server": {"type": "unix", "path": uri.socket}}
        return found | {"server": {"type": "inet", "host": uri.host, "port": str(uri.port)}}
    rest, _, export = name.removeprefix("nbd:").partition(":exportname=")
    found = {"export": export} if export else {}
    if rest.startswith("unix:"):
        return found | {"server": {"type": "unix", "path": rest.removeprefix("unix:")}}
    host, colon, port = rest.rpartition(":")
    if not colon:
        raise CommandError(f"error parsing address '{rest}'")
    return found | {"server": {"type": "inet", "host": host.strip("[]"), "port": port}}


def _name_server(options: Options) -> None:
    """Put the old way to name an NBD server into the new one's form."""
    if "server" in options:
        kind = options["server"].get("type") if isinstance(options["server"], dict) else None
        if kind not in {"unix", "inet", "fd", "vsock"}:
            raise CommandError("Parameter 'server.type' is missing")
        return
    path, host = options.pop("path", None), options.pop("host", None)
    port = options.pop("port", str(nbd.DEFAULT_PORT))
    if path is not None and host is not None:
        raise CommandError("path and host may not be used at the same time")
    if path is not None:
        options["server"] = {"type": "unix", "path": path}
    elif host is not None:
        options["server"] = {"type": "inet", "host": host, "port": port}
    else:
        raise CommandError("NBD server address missing")


def _check_aio(options: Options) -> None:
    if options.get("aio") == "native" and not options.get("cache", {}).get("direct", False):
        raise CommandError(
            "aio=native was specified, but it requires cache.direct=on, which was not specified."
        )


def _typed(options: Options) -> Options:
    """Return the options of a node as the schema would have them; children stay as they are.

    Raises:
        CommandError: a value is wrong, or the driver has no such option.
    """
    driver = options["driver"]
    made: Options = {}
    unknown = [name for name in options if name not in names_of(driver)]
    for name, value in options.items():
        if name in unknown:
            continue
        made[name] = _converted(driver, name, value)
    if unknown:
        shown = _first_leaf(unknown[0], options[unknown[0]])
        if driver in _PROTOCOLS:
            raise CommandError(f"Block protocol '{driver}' doesn't support the option '{shown}'")
        raise CommandError(f"Block format '{driver}' does not support the option '{shown}'")
    return made


def _first_leaf(name: str, value: Any) -> str:
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        name += f".{key}"
    return name


def _converted(driver: str, name: str, value: Any) -> Any:
    kind = kind_of(driver, name)
    if kind is None or value is None:
        return value
    if kind is Kind.CACHE:
        if not isinstance(value, dict):
            raise CommandError(f"Block format '{driver}' does not support the option '{name}'")
        return {key: Kind.BOOL.read(f"cache.{key}", each) for key, each in value.items()}
    return kind.read(name, value)


def _no_size(name: str) -> str:
    return Kind.SIZE.refusal(name)
