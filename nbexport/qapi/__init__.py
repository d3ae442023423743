"""The schema language of QEMU's interfaces: read it, check it, show it, check values with it.

One module a stage: ``source`` and ``rules``, ``lexer``, ``markup`` and ``docs``, ``parser``,
``checks`` with ``names`` and ``conditions``,
``model``, ``schema`` and ``resolve``, ``introspect``, ``validate``; ``releases`` finds the
interfaces that travel with the package.
"""

from __future__ import annotations

from nbexport.qapi.arrange import arrange
from nbexport.qapi.introspect import introspect
from nbexport.qapi.releases import interface_of, known_releases, load_release
from nbexport.qapi.removal import load_without
from nbexport.qapi.schema import Schema, check_schema, load_schema, parse_release
from nbexport.qapi.source import QapiError
from nbexport.qapi.validate import validate

__all__ = [
    "QapiError",
    "Schema",
    "arrange",
    "check_schema",
    "interface_of",
    "introspect",
    "known_releases",
    "load_release",
    "load_schema",
    "load_without",
    "parse_release",
    "validate",
]
