"""The schema language of QEMU's interfaces: read it, check it, show it, check values with it.

One module a stage: ``source``, ``lexer``, ``docs``, ``parser``, ``checks`` and ``names``,
``model``, ``schema`` and ``resolve``, ``introspect``, ``validate``; ``releases`` finds the
interfaces that travel with the package.
"""

from __future__ import annotations

from nbexport.qapi.arrange import arrange
from nbexport.qapi.introspect import introspect
from nbexport.qapi.releases import interface_of, known_releases, load_release
from nbexport.qapi.schema import Schema, load_schema, parse_release
from nbexport.qapi.source import QapiError
from nbexport.qapi.validate import validate

__all__ = [
    "QapiError",
    "Schema",
    "arrange",
    "interface_of",
    "introspect",
    "known_releases",
    "load_release",
    "load_schema",
    "parse_release",
    "validate",
]
