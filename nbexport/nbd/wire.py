"""Numbers, names and layouts of the NBD protocol. All integers on the wire are big-endian.

Source: NBD protocol specification, "Values" and the sections named beside each group.
"""

from __future__ import annotations

import struct
from typing import Final

from nbexport.units import KiB, MiB

DEFAULT_PORT: Final = 10809

# Greeting ("Newstyle negotiation"): 0 8 NBDMAGIC, 8 8 IHAVEOPT, 16 2 handshake flags.
GREETING_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
GREETING: Final = struct.Struct(">QQH")
FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1
CLIENT_FLAGS: Final = struct.Struct(">I")

# Option request: 0 8 IHAVEOPT, 8 4 option, 12 4 length; data follows.
OPTION: Final = struct.Struct(">QII")
OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_PEEK_EXPORT: Final = 4
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10
OPT_EXTENDED_HEADERS: Final = 11
# As QEMU 7.2 names them to its clients; a number without a name is "<unknown>".
OPTION_NAMES: Final[dict[int, str]] = {
    OPT_EXPORT_NAME: "export name",
    OPT_ABORT: "abort",
    OPT_LIST: "list",
    OPT_STARTTLS: "starttls",
    OPT_INFO: "info",
    OPT_GO: "go",
    OPT_STRUCTURED_REPLY: "structured reply",
    OPT_LIST_META_CONTEXT: "list meta context",
    OPT_SET_META_CONTEXT: "set meta context",
}

# Option reply: 0 8 magic, 8 4 option, 12 4 reply type, 16 4 length; data follows.
REPLY_MAGIC: Final = 0x0003E889045565A9
OPTION_REPLY: Final = struct.Struct(">QIII")
REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_FLAG_ERROR: Final = 1 << 31
REP_ERR_UNSUP: Final = REP_FLAG_ERROR | 1
REP_ERR_POLICY: Final = REP_FLAG_ERROR | 2
REP_ERR_INVALID: Final = REP_FLAG_ERROR | 3
REP_ERR_PLATFORM: Final = REP_FLAG_ERROR | 4
REP_ERR_TLS_REQD: Final = REP_FLAG_ERROR | 5
REP_ERR_UNKNOWN: Final = REP_FLAG_ERROR | 6
REP_ERR_SHUTDOWN: Final = REP_FLAG_ERROR | 7
REP_ERR_BLOCK_SIZE_REQD: Final = REP_FLAG_ERROR | 8
REP_ERR_TOO_BIG: Final = REP_FLAG_ERROR | 9
REP_ERR_EXT_HEADER_REQD: Final = REP_FLAG_ERROR | 10
REPLY_NAMES: Final[dict[int, str]] = {
    REP_ACK: "acknowledged",
    REP_SERVER: "server",
    REP_INFO: "info",
    REP_META_CONTEXT: "meta context",
    REP_ERR_UNSUP: "unsupported",
    REP_ERR_POLICY: "denied by policy",
    REP_ERR_INVALID: "invalid",
    REP_ERR_PLATFORM: "platform lacks support",
    REP_ERR_TLS_REQD: "TLS required",
    REP_ERR_UNKNOWN: "export unknown",
    REP_ERR_SHUTDOWN: "server shutting down",
    REP_ERR_BLOCK_SIZE_REQD: "block size required",
    REP_ERR_TOO_BIG: "option payload too big",
    REP_ERR_EXT_HEADER_REQD: "extended headers required",
}

# Information types of OPT_INFO and OPT_GO; each reply begins with the type.
INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3
INFO_EXPORT_DATA: Final = struct.Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE_DATA: Final = struct.Struct(">HIII")  # type, minimum, preferred, maximum

# Answer to OPT_EXPORT_NAME: 0 8 size, 8 2 transmission flags, 124 zeroes unless waived.
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")
EXPORT_NAME_PADDING: Final = bytes(124)

# Transmission flags
HAS_FLAGS: Final = 1 << 0
READ_ONLY: Final = 1 << 1
SEND_FLUSH: Final = 1 << 2
SEND_FUA: Final = 1 << 3
ROTATIONAL: Final = 1 << 4
SEND_TRIM: Final = 1 << 5
SEND_WRITE_ZEROES: Final = 1 << 6
SEND_DF: Final = 1 << 7
CAN_MULTI_CONN: Final = 1 << 8
SEND_CACHE: Final = 1 << 10
SEND_FAST_ZERO: Final = 1 << 11
BLOCK_STATUS_PAYLOAD: Final = 1 << 12

# Request: 0 4 magic, 4 2 flags, 6 2 type, 8 8 cookie, 16 8 offset, 24 4 length.
REQUEST_MAGIC: Final = 0x25609513
REQUEST: Final = struct.Struct(">IHHQQI")
# With extended headers: 0 4 magic, 4 2 flags, 6 2 type, 8 8 cookie, 16 8 offset, 24 8 length; a
# payload of that length follows where the flag PAYLOAD_LEN says so.
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
EXTENDED_REQUEST: Final = struct.Struct(">IHHQQQ")
CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_CACHE: Final = 5
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7
COMMAND_NAMES: Final[dict[int, str]] = {
    CMD_READ: "read",
    CMD_WRITE: "write",
    CMD_DISC: "disconnect",
    CMD_FLUSH: "flush",
    CMD_TRIM: "trim",
    CMD_CACHE: "cache",
    CMD_WRITE_ZEROES: "write zeroes",
    CMD_BLOCK_STATUS: "block status",
}
CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2
CMD_FLAG_REQ_ONE: Final = 1 << 3
CMD_FLAG_FAST_ZERO: Final = 1 << 4
CMD_FLAG_PAYLOAD_LEN: Final = 1 << 5

# Simple reply: 0 4 magic, 4 4 error, 8 8 cookie; the data of a read follows.
SIMPLE_REPLY_MAGIC: Final = 0x67446698
SIMPLE_REPLY: Final = struct.Struct(">IIQ")

# Structured reply chunk: 0 4 magic, 4 2 flags, 6 2 type, 8 8 cookie, 16 4 length; payload follows.
CHUNK_MAGIC: Final = 0x668E33EF
CHUNK: Final = struct.Struct(">IHHQI")
# With extended headers: 0 4 magic, 4 2 flags, 6 2 type, 8 8 cookie, 16 8 offset of the request,
# 24 8 length; payload follows.
EXTENDED_CHUNK_MAGIC: Final = 0x6E8A278C
EXTENDED_CHUNK: Final = struct.Struct(">IHHQQQ")
CHUNK_FLAG_DONE: Final = 1 << 0
CHUNK_NONE: Final = 0
CHUNK_OFFSET_DATA: Final = 1  # 0 8 offset; data
CHUNK_OFFSET_HOLE: Final = 2  # 0 8 offset, 8 4 length
CHUNK_BLOCK_STATUS: Final = 5  # 0 4 context id; descriptors of 4 length, 4 flags
CHUNK_BLOCK_STATUS_EXT: Final = 6  # 0 4 context id, 4 4 count; descriptors of 8 length, 8 flags
CHUNK_FLAG_ERROR: Final = 1 << 15
CHUNK_ERROR: Final = CHUNK_FLAG_ERROR | 1  # 0 4 error, 4 2 length of text; text
CHUNK_ERROR_OFFSET: Final = CHUNK_FLAG_ERROR | 2  # the same, then 8 offset
OFFSET: Final = struct.Struct(">Q")
HOLE: Final = struct.Struct(">QI")
CONTEXT_ID: Final = struct.Struct(">I")
ERROR: Final = struct.Struct(">IH")
CONTEXT_ID_COUNT: Final = struct.Struct(">II")
UINT64: Final = struct.Struct(">Q")
UINT32: Final = struct.Struct(">I")
UINT16: Final = struct.Struct(">H")

# Error values of replies ("Error values").
EPERM: Final = 1
EIO: Final = 5
ENOMEM: Final = 12
EINVAL: Final = 22
ENOSPC: Final = 28
EOVERFLOW: Final = 75
ENOTSUP: Final = 95
ESHUTDOWN: Final = 108
ERROR_NAMES: Final[dict[int, str]] = {
    EPERM: "EPERM",
    EIO: "EIO",
    ENOMEM: "ENOMEM",
    EINVAL: "EINVAL",
    ENOSPC: "ENOSPC",
    EOVERFLOW: "EOVERFLOW",
    ENOTSUP: "ENOTSUP",
    ESHUTDOWN: "ESHUTDOWN",
}

STRING_MAX: Final = 4096
"""Bytes of a name, description or query ("Values": no string is longer)."""
OPTION_LENGTH_MAX: Final = 32 * MiB
"""An option that claims to be longer ends the connection, as in QEMU."""
OPTION_BODY_MAX: Final = 4 + 256 * (4 + STRING_MAX)
"""Longest option body that is kept, about 1 MiB: the count of queries, then an export's name and
255 queries of the longest kind, each with its length. What is longer is read and dropped."""
PAYLOAD_MAX: Final = 32 * MiB
"""Longest data of one request; also what QEMU tells its clients."""
BLOCK_PREFERRED: Final = 4 * KiB
EXTENTS_MAX: Final = 131072
"""Extents in one block-status chunk: 1 MiB of descriptors of 8 bytes, QEMU's number."""
ECHO_MAX: Final = 80
"""Bytes of a client's name that an error text repeats."""


def option_name(option: int) -> str:
    """Return QEMU's name of an option."""
    return OPTION_NAMES.get(option, "<unknown>")


def command_name(command: int) -> str:
    """Return QEMU's name of a command."""
    return COMMAND_NAMES.get(command, "<unknown>")


def pack_option(option: int, data: bytes = b"") -> bytes:
    """Return an option as a client sends it."""
    return OPTION.pack(OPTION_MAGIC, option, len(data)) + data


def pack_option_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    """Return a reply to an option."""
    return OPTION_REPLY.pack(REPLY_MAGIC, option, reply, len(data)) + data


def pack_string(text: bytes) -> bytes:
    """Return a string with its length before it, as names and queries are sent."""
    return UINT32.pack(len(text)) + text


def pack_request(
    command: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0
) -> bytes:
    """Return a request header."""
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def pack_simple_reply(cookie: int, error: int = 0) -> bytes:
    """Return a simple reply's header."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def pack_chunk(cookie: int, kind: int, length: int, *, done: bool) -> bytes:
    """Return a structured reply chunk's header."""
    return CHUNK.pack(CHUNK_MAGIC, CHUNK_FLAG_DONE if done else 0, kind, cookie, length)


def pack_error_chunk(cookie: int, error: int, message: str) -> bytes:
    """Return an error chunk that ends a reply."""
    text = message.encode("utf-8", "backslashreplace")
    payload = ERROR.pack(error, len(text)) + text
    return pack_chunk(cookie, CHUNK_ERROR, len(payload), done=True) + payload
