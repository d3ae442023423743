"""The NBD protocol: engines (`negotiation`, `transmission`), then a server and a client."""

from __future__ import annotations

from nbexport.nbd.client import Client
from nbexport.nbd.contexts import (
    ALLOCATION_DEPTH,
    BASE_ALLOCATION,
    MetaContext,
    dirty_bitmap_name,
)
from nbexport.nbd.export import Export, ExtentsProvider, WritableDisk, from_node
from nbexport.nbd.handshake import BlockSize, ExportInfo, RefusedError, list_exports
from nbexport.nbd.loopback import serving
from nbexport.nbd.negotiation import Choice, ServerNegotiation, TlsMode
from nbexport.nbd.node import NbdNode
from nbexport.nbd.profile import PROFILES, QEMU_7_2, QEMU_8_2, SPEC, Profile, find_profile
from nbexport.nbd.server import NbdServer
from nbexport.nbd.transmission import Request, ServerTransmission
from nbexport.nbd.uri import NbdUri, TlsChoice
from nbexport.nbd.wire import DEFAULT_PORT

__all__ = [
    "ALLOCATION_DEPTH",
    "BASE_ALLOCATION",
    "DEFAULT_PORT",
    "PROFILES",
    "QEMU_7_2",
    "QEMU_8_2",
    "SPEC",
    "BlockSize",
    "Choice",
    "Client",
    "Export",
    "ExportInfo",
    "ExtentsProvider",
    "MetaContext",
    "NbdNode",
    "NbdServer",
    "NbdUri",
    "Profile",
    "RefusedError",
    "Request",
    "ServerNegotiation",
    "ServerTransmission",
    "TlsChoice",
    "TlsMode",
    "WritableDisk",
    "dirty_bitmap_name",
    "find_profile",
    "from_node",
    "list_exports",
    "serving",
]
