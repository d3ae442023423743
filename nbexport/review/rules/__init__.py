"""The rules of a review, in a registry.

Each module registers its rules when it is imported; the order here is that of lists.
"""

from __future__ import annotations

from nbexport.review.rules import deprecation, documentation, removal, since, stability, wire
from nbexport.review.rules.registry import RULES, Example, Rule, Taxonomy

__all__ = [
    "RULES",
    "Example",
    "Rule",
    "Taxonomy",
    "deprecation",
    "documentation",
    "removal",
    "since",
    "stability",
    "wire",
]
