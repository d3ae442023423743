"""The QEMU Machine Protocol: engines (``jsonstream``, ``session``, ``dispatch``), then I/O.

``server`` serves monitors, ``client`` talks to one.
"""

from __future__ import annotations

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
