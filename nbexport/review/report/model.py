"""What is reported: findings of a change and of each of its patches, and what was let pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nbexport.review.finding import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.patch import PatchedSchemas, Step
    from nbexport.review.policy import Ignored

NOTHING = "Nothing to mend."
"""The advice that is none; forms for people leave it out."""


@dataclass(frozen=True, slots=True)
class StepReview:
    """The review of one patch.

    Attributes:
        step: the patch and the schemas around it.
        findings: what it does wrong by itself, judged by the policy.
        ignored: what the policy lets pass.
    """

    step: Step
    findings: tuple[Finding, ...]
    ignored: tuple[Ignored, ...] = ()


@dataclass(frozen=True)
class Review:
    """A review.

    Attributes:
        old: the old schema's name.
        new: the new schema's name.
        findings: of the change as a whole, judged by the policy, worst things included.
        ignored: what the policy lets pass.
        fail_on: the lowest level that makes the review fail.
        release: the release under development, None if it is not known.
        steps: one for each patch; none where two schemas were compared.
        patched: the patches as applied; None where two schemas were compared.
        notes: what else a reader must know: mails left aside, hunks that moved.
        rules: all rules that were looked at.
    """

    old: str
    new: str
    findings: tuple[Finding, ...]
    ignored: tuple[Ignored, ...] = ()
    fail_on: Level = Level.RISKY
    release: str | None = None
    steps: tuple[StepReview, ...] = ()
    patched: PatchedSchemas | None = None
    notes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the change as a whole has a finding at or above ``fail_on``."""
        return any(finding.level >= self.fail_on for finding in self.findings)

    @cached_property
    def lasting(self) -> frozenset[str]:
        """The fingerprints of what is found at the end."""
        return frozenset(finding.fingerprint for finding in self.findings)

    @cached_property
    def whole_only(self) -> tuple[Finding, ...]:
        """What no patch does by itself, only all together; everything where there are none."""
        own = {finding.fingerprint for step in self.steps for finding in step.findings}
        return tuple(finding for finding in self.findings if finding.fingerprint not in own)

    def only_here(self, finding: Finding) -> bool:
        """Whether a patch does what the series as a whole does not do."""
        return finding.fingerprint not in self.lasting


def counted(findings: Sequence[Finding]) -> str:
    """Return the number of findings in words, by level, the worst first."""
    if not findings:
        return "no findings"
    total = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    numbers = {level: sum(finding.level == level for finding in findings) for level in Level}
    by_level = [f"{numbers[level]} {level}" for level in reversed(Level) if numbers[level]]
    return f"{total} ({', '.join(by_level)})"


def route(finding: Finding) -> str:
    """Return how the element is reached, on one line; empty where the message says it all."""
    return " -> ".join(finding.path) if len(finding.path) > 1 else ""
