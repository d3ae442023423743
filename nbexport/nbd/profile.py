"""Whom a server behaves like, where servers differ.

Most of the protocol leaves no choice. Where it does, or where QEMU decided otherwise than the
protocol says, a profile holds the decision; the default is QEMU 7.2, which clients are tested
against. Plain faults of QEMU are in no profile.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbexport.errors import UsageError


@dataclass(frozen=True)
class Profile:
    """Decisions of one server.

    Attributes:
        name: what a user calls it.
        extended: whether 64-bit requests and replies can be negotiated.
        one_errno: whether every refused request is told EINVAL, as QEMU does. The protocol wants
            EPERM for writing to a read-only export and ENOSPC for writing behind the end.
        blank_in_length: QEMU had a blank too many in one text before it spoke 64-bit requests.
        checks_alignment: whether a request that breaks the block size that its client asked for
            is refused, as the protocol recommends, or served.
        unknown_flags: transmission flags that the server is too old for.
    """

    name: str
    extended: bool = False
    one_errno: bool = True
    blank_in_length: bool = False
    checks_alignment: bool = False
    unknown_flags: int = 0


QEMU_7_2 = Profile("qemu-7.2", blank_in_length=True)
QEMU_8_2 = Profile("qemu-8.2", extended=True)
SPEC = Profile("spec", extended=True, one_errno=False, checks_alignment=True)
PROFILES = {profile.name: profile for profile in (QEMU_7_2, QEMU_8_2, SPEC)}


def find_profile(name: str) -> Profile:
    """Return a profile by its name.

    Raises:
        UsageError: there is no such profile.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown profile '{name}' (known: {', '.join(PROFILES)})")
    return PROFILES[name]
