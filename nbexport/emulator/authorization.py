"""Who is let in: the rules of the ``authz-*`` objects.

Source: QEMU's ``docs/system/authz.rst``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.nbd.tls import matches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Rule:
    """What becomes of one identity, or of all that fit a pattern."""

    match: str
    allow: bool
    glob: bool = False

    def fits(self, identity: str) -> bool:
        """Return whether the rule speaks of an identity."""
        return matches(identity, self.match) if self.glob else identity == self.match


@dataclass(frozen=True)
class Authorization:
    """Rules, the first of which that fits decides.

    Attributes:
        rules: the rules, in their order.
        allow: what becomes of an identity that no rule speaks of.
    """

    rules: Sequence[Rule] = ()
    allow: bool = False

    def allows(self, identity: str) -> bool:
        """Return whether an identity is let in."""
        return next((rule.allow for rule in self.rules if rule.fits(identity)), self.allow)


def simple(properties: Mapping[str, Any]) -> Authorization:
    """Return what the properties of an ``authz-simple`` say; without an identity: nobody."""
    identity = properties.get("identity")
    return Authorization(() if identity is None else (Rule(identity, allow=True),))


def from_list(properties: Mapping[str, Any]) -> Authorization:
    """Return what the properties of an ``authz-list`` say."""
    rules = tuple(
        Rule(rule["match"], rule["policy"] == "allow", rule.get("format", "exact") == "glob")
        for rule in properties.get("rules", ())
    )
    return Authorization(rules, properties.get("policy", "deny") == "allow")
