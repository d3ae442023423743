"""The QEMU Machine Protocol: engines (``jsonstream``, ``session``, ``dispatch``), then I/O.

``server`` serves monitors, ``client`` talks to one. What is here is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbexport.qmp.client import QmpClient, QmpCommandError
    from nbexport.qmp.connection import CONNECTED, DISCONNECTED, RECEIVED, SENT, Observer
    from nbexport.qmp.dispatch import Dispatcher, Handler
    from nbexport.qmp.policy import CompatPolicy
    from nbexport.qmp.server import QmpServer
    from nbexport.qmp.session import Session
    from nbexport.qmp.throttle import RateLimit

__all__ = [
    "CONNECTED",
    "DISCONNECTED",
    "RECEIVED",
    "SENT",
    "CompatPolicy",
    "Dispatcher",
    "Handler",
    "Observer",
    "QmpClient",
    "QmpCommandError",
    "QmpServer",
    "RateLimit",
    "Session",
]

_PLACES = {
    "client": ("QmpClient", "QmpCommandError"),
    "connection": ("CONNECTED", "DISCONNECTED", "RECEIVED", "SENT", "Observer"),
    "dispatch": ("Dispatcher", "Handler"),
    "policy": ("CompatPolicy",),
    "server": ("QmpServer",),
    "session": ("Session",),
    "throttle": ("RateLimit",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
