"""Runs a machine whose options stood on a command line, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.cli.dropin.hosting import (
    SIGNALS,
    Background,
    Reporter,
    StopError,
    version_numbers,
)
from nbexport.emulator.chardevs import Chardevs
from nbexport.emulator.host import make_monitor
from nbexport.emulator.machine import Machine
from nbexport.emulator.optionlist import CHARDEV_KINDS, HelpWantedError
from nbexport.emulator.release import Release
from nbexport.emulator.startup import Startup
from nbexport.errors import NbexportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from typing import Any

    from nbexport.qmp import CompatPolicy


class Host:
    """A process: a machine, its monitors and its character devices.

    Args:
        program: what it stands for, one of `nbexport.emulator.PROGRAMS`.
        reporter: tells messages.
        policy: what is done about deprecated and unstable interfaces.
        behind: its way into the background, if it goes there.

    Raises:
        UsageError: the environment names a release that is not known.
    """

    def __init__(
        self,
        program: str,
        reporter: Reporter,
        *,
        policy: CompatPolicy | None = None,
        behind: Background | None = None,
    ) -> None:
        self.reporter = reporter
        self.machine = Machine(Release.parse(version_numbers()[0]), program=program)
        # QEMU's programs end without a look at it; who waits for its end removes the file himself.
        self.machine.leaves_sockets = True
        self.monitors = make_monitor(self.machine, policy=policy, abort=os.abort)
        self.devices = Chardevs(self._told, daemon=behind is not None)
        self.startup = Startup(self.machine, self.monitors, self.devices)
        self._pid_file: PidFile | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _told(self, text: str, *, info: bool = True) -> None:
        if info:
            self.reporter.tell(f"info: {text}")
        else:
            place, self.reporter.place = self.reporter.place, ""
            self.reporter.tell(text)
            self.reporter.place = place

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Act on an option meanwhile: what goes wrong is told with its words, and ends all.

        Raises:
            StopError: it went wrong, or only help was wanted; that has been told.
        """
        self.reporter.place = place
        try:
            yield
        except HelpWantedError:
            names = "".join(f"\n  {kind}" for kind in CHARDEV_KINDS)
            sys.stdout.write(f"Available chardev backend types: {names}\n")
            raise StopError(0) from None
        except NbexportError as error:
            raise self.reporter.fail(_whole(error)) from error
        self.reporter.place = ""

    def write_pid(self, name: str) -> None:
        """Write the process's id to a file until the end.

        Raises:
            StopError: it cannot be written; that has been told.
        """
        try:
            self._pid_file = PidFile(name)
        except OSError as error:
            raise self.reporter.fail(f"cannot create PID file: {error.strerror}") from error

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` beside everything else, until the end."""
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def terminate(self, number: int, sender: int) -> None:
        """End because of a signal; the system emulator tells of it."""
        if self.machine.is_system_emulator:
            self.tell_signal(number, sender)
            self.machine.emit("SHUTDOWN", {"guest": False, "reason": "host-signal"})
        self.machine.later(self._leave())

    def tell_signal(self, number: int, sender: int) -> None:
        """Tell which signal ends the process, and whose."""
        whence = ""
        if sender:
            try:
                name = Path(f"/proc/{sender}/cmdline").read_bytes().split(b"\0")[0].decode()
            except (OSError, UnicodeDecodeError):
                name = ""
            name = name or "<unknown process>"
            whence = f" from pid {sender} ({name})"
        self._told(f"terminating on signal {number}{whence}", info=False)

    async def _leave(self) -> None:
        await self.machine.stop_nbd_server(ending=True)
        await self.machine.jobs.end_all()
        self.monitors.request_close()

    async def close(self, *, failed: bool = False) -> None:
        """End everything, and leave nothing behind but sockets' files where QEMU does.

        Args:
            failed: whether an option was wrong, so that clients have never been served.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.machine.close()
        await self.monitors.close()
        await self.startup.close(keep_files=failed)
        if self._pid_file is not None:
            self._pid_file.remove()


def run(
    program: str,
    reporter: Reporter,
    act: Callable[[Host], Awaitable[None]],
    *,
    policy: CompatPolicy | None = None,
    behind: Background | None = None,
) -> None:
    """Run a process until it is told to end.

    Args:
        program: what it stands for.
        reporter: tells messages.
        act: acts on the options.
        policy: what is done about deprecated and unstable interfaces.
        behind: its way into the background, if it goes there.

    Raises:
        StopError: it ended at its beginning.
    """
    asyncio.run(_run(program, reporter, act, policy, behind))


async def _run(
    program: str,
    reporter: Reporter,
    act: Callable[[Host], Awaitable[None]],
    policy: CompatPolicy | None,
    behind: Background | None,
) -> None:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    host: Host | None = None

    def end(number: int, sender: int) -> None:
        # While options are acted on, nothing else could end the wait for a client.
        if starting is not None:
            if host is not None and host.machine.is_system_emulator:
                host.tell_signal(number, sender)
            starting.cancel()
        elif host is not None:
            host.terminate(number, sender)

    _watch_signals(loop, end)
    try:
        host = Host(program, reporter, policy=policy, behind=behind)
    except NbexportError as error:
        raise reporter.fail(str(error)) from error
    failed = False
    try:
        await act(host)
        host.startup.serve()
        if behind is not None:
            behind.leave()
        starting = None
        # Clients notice the end by their connection: by then the images are closed.
        await host.monitors.wait_requested()
    except asyncio.CancelledError:
        raise StopError(0) from None
    except StopError:
        failed = True
        raise
    finally:
        await host.close(failed=failed)


def _whole(error: Exception) -> str:
    """Return an error's text with what a monitor would not be told."""
    cause = error.__cause__
    text = str(error)
    return str(cause) if cause is not None and str(cause).startswith(f"{text}\n") else text


class PidFile:
    """A file that has the process's id while it runs.

    Args:
        name: the file.

    Raises:
        OSError: it cannot be made, or another process has it.
    """

    def __init__(self, name: str) -> None:
        self._path = Path(name).absolute()
        try:
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OSError(error.errno, f"Could not create '{name}': {error.strerror}") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            reason = f"Could not lock '{name}': {error.strerror}"
            raise OSError(error.errno, reason) from error
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def _watch_signals(loop: asyncio.AbstractEventLoop, act: Callable[[int, int], object]) -> None:
    """Have ``act`` called in the loop with the number of a signal that asks to end, and its sender.

    The sender's process id is 0 where the kernel sent it. The signals are blocked already.
    """

    def wait() -> None:
        while True:
            told = signal.sigwaitinfo(SIGNALS)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(act, told.si_signo, told.si_pid)

    threading.Thread(target=wait, daemon=True, name="signals").start()
