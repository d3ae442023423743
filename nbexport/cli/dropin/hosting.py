"""What the commands that run a whole process share: messages, background, process id, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

RELEASE_VARIABLE = "NBEXPORT_RELEASE"
"""The environment variable that names the release to behave as."""
DEFAULT_RELEASE = "7.2"
PROJECT_LINES = "nbexport emulates the block layer's interfaces; it has none of QEMU's code."
HINT_OF_ID = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What asks the process to end."""


def hold_signals() -> None:
    """Keep `SIGNALS` until somebody waits for them.

    To be called before the first thread is there, and libraries make threads when they are
    imported: one that does not hold a signal would be ended by it, and the process with it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class StopError(Exception):
    """The program has to end; why has been told.

    Args:
        status: its exit status.
    """

    def __init__(self, status: int = 1) -> None:
        super().__init__(status)
        self.status = status


class Reporter:
    """Tells messages on standard error, as QEMU's programs do.

    Args:
        program: the name before each message.

    Attributes:
        place: the words of the option that is acted on; empty for none.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self.place = ""

    def tell(self, text: str) -> None:
        """Tell something, with the place; nobody may be there to read it."""
        where = f"{self._program}: {self.place}: " if self.place else f"{self._program}: "
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{where}{text}\n")
            sys.stderr.flush()

    def fail(self, text: str) -> StopError:
        """Tell an error, and return what ends the program."""
        if text.endswith("expects an identifier"):
            text += f"\n{HINT_OF_ID}"
        self.tell(text)
        return StopError()


def program_name(default: str) -> str:
    """Return the name by which the program was called."""
    name = Path(sys.argv[0]).name
    return default if name in {"", "__main__.py", "-c"} else name


def version_numbers() -> tuple[str, str]:
    """Return the release to behave as, and its version in three numbers.

    Raises:
        UsageError: the environment names a release that is not known.
    """
    text = os.environ.get(RELEASE_VARIABLE) or DEFAULT_RELEASE
    from nbexport.emulator.branches import parse_version  # noqa: PLC0415 - only if asked for

    return text, ".".join(map(str, parse_version(text)))


def print_version(program: str, reporter: Reporter) -> None:
    """Print the version as QEMU's programs do.

    Args:
        program: how the program calls itself there.
        reporter: told if the environment names a release that is not known.
    """
    from nbexport.errors import UsageError  # noqa: PLC0415 - only if asked for

    try:
        _, version = version_numbers()
    except UsageError as error:
        raise reporter.fail(str(error)) from error
    sys.stdout.write(f"{program} version {version} (nbexport)\n{PROJECT_LINES}\n")


def leave(status: int) -> NoReturn:
    """End the process at once: to take the interpreter down takes longer than all before."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class Background:
    """The way of a process into the background, while who started it waits.

    The parent ends with status 0 once the child says that it is ready, and with 1 if the child
    ends before.
    """

    def __init__(self) -> None:
        read, write = os.pipe()
        if os.fork():
            os.close(write)
            with contextlib.suppress(OSError):
                ready = os.read(read, 1)
            os._exit(0 if ready else 1)
        os.close(read)
        os.setsid()
        self._ready = write

    def leave(self) -> None:
        """Let the parent end; leave its folder and its standard streams."""
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        os.write(self._ready, b"\0")
        os.close(self._ready)
