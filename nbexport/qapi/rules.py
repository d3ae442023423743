"""What the language was in each release, as far as a schema can tell.

The rules of 5.2, 7.2 and 10.0 were compared with those releases' own front ends, input by input;
the others follow from what the schemas of the releases use and from the dates of the changes. Of
what changed after 10.0 only that ``=`` may begin a line of documentation (10.1) is known here.
"""

from __future__ import annotations

from dataclasses import dataclass

OLDEST = (2, 5)
NEWEST = (11, 0)
"""The release whose rules apply unless another one is asked for."""

# What pragmas excuse since 2.9, the language itself excused before.
OLD_EXCEPTIONS = {
    "command_returns_exceptions": (
        *("human-monitor-command", "qom-get", "query-migrate-cache-size", "query-tpm-models"),
        *("query-tpm-types", "ringbuf-read", "guest-file-open", "guest-fsfreeze-freeze"),
        *("guest-fsfreeze-freeze-list", "guest-fsfreeze-status", "guest-fsfreeze-thaw"),
        *("guest-get-time", "guest-set-vcpus", "guest-sync", "guest-sync-delimited"),
    ),
    "member_name_exceptions": (
        *("ACPISlotType", "CpuInfo", "CpuInfoMIPS", "CpuInfoTricore", "ErrorClass"),
        *("QapiErrorClass", "UuidInfo", "X86CPURegister32"),
    ),
}
ALIGNED, RELAXED, SECTIONED = "aligned", "relaxed", "sectioned"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one release.

    Attributes:
        release: major and minor number.
    """

    release: tuple[int, ...] = NEWEST

    def since(self, *release: int) -> bool:
        """Whether the rules are those of a release or of a newer one."""
        return self.release >= release

    @property
    def markup(self) -> str | None:
        """How documentation comments are read.

        None: they are ordinary comments (before 2.9). ``aligned``: line by line, the text of a
        section in the column of its beginning (checked since 5.2). ``relaxed``: the second line
        of a section decides (8.1). ``sectioned``: paragraph by paragraph (9.0).
        """
        if self.since(9, 0):
            return SECTIONED
        if self.since(8, 1):
            return RELAXED
        return ALIGNED if self.since(2, 9) else None

    @property
    def pragmas(self) -> dict[str, str]:
        """The pragmas that take a list of names, and what each is called here."""
        if not self.since(2, 9):
            return {}
        if not self.since(6, 0):
            return {
                "returns-whitelist": "command_returns_exceptions",
                "name-case-whitelist": "member_name_exceptions",
            }
        found = {
            name: name.replace("-", "_")
            for name in (
                "command-name-exceptions",
                "command-returns-exceptions",
                "member-name-exceptions",
            )
        }
        if self.since(9, 0):
            found["documentation-exceptions"] = "documentation_exceptions"
        return found


STRICT = Rules()
