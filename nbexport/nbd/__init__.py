"""The NBD protocol: engines (`negotiation`, `transmission`), then a server and a client."""

from __future__ import annotations

from nbexport.nbd.client import BlockSize, Client, ExportInfo, list_exports
from nbexport.nbd.contexts import (
    ALLOCATION_DEPTH,
    BASE_ALLOCATION,
    MetaContext,
    dirty_bitmap_name,
)
from nbexport.nbd.export import Export, ExtentsProvider, from_node
from nbexport.nbd.negotiation import Choice, ServerNegotiation
from nbexport.nbd.server import NbdServer
from nbexport.nbd.transmission import Request, ServerTransmission
from nbexport.nbd.uri import NbdUri
from nbexport.nbd.wire import DEFAULT_PORT

__all__ = [
    "ALLOCATION_DEPTH",
    "BASE_ALLOCATION",
    "DEFAULT_PORT",
    "BlockSize",
    "Choice",
    "Client",
    "Export",
    "ExportInfo",
    "ExtentsProvider",
    "MetaContext",
    "NbdServer",
    "NbdUri",
    "Request",
    "ServerNegotiation",
    "ServerTransmission",
    "dirty_bitmap_name",
    "from_node",
    "list_exports",
]
