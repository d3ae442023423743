"""QEMU's own schema front end as a judge: a program of its own that answers for many files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import NamedTuple

TIME_LIMIT = 60.0
# Its public class reads and checks a schema; what it raises has the place. Anything else that it
# raises is a fault of its own: a rejection that names no place.
JUDGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from qapi.error import QAPIError
from qapi.schema import QAPISchema
for line in sys.stdin:
    path = json.loads(line)
    try:
        QAPISchema(path)
        answer = {"verdict": "accepted"}
    except QAPIError as error:
        info = getattr(error, "info", None)
        answer = {"verdict": "rejected", "message": getattr(error, "msg", str(error))}
        if info is not None:
            answer |= {"path": info.fname, "line": info.line}
    except BaseException as error:
        answer = {"verdict": "crashed", "message": repr(error)}
    print(json.dumps(answer), flush=True)
"""


class Verdict(NamedTuple):
    """What became of a schema: accepted, rejected or crashed; where, and why."""

    verdict: str
    path: str | None = None
    line: int | None = None
    message: str = ""


class FrontEnd:
    """A running judge.

    Args:
        source: the folder that holds ``scripts/qapi``.
    """

    def __init__(self, source):
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-c", JUDGE, str(source / "scripts")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def judge(self, path):
        """What it says to a file."""
        timer = threading.Timer(TIME_LIMIT, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(str(path)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert answer, f"the front end gave no answer to {path}"
        return Verdict(**json.loads(answer))

    def close(self):
        """End it."""
        self._process.stdin.close()
        self._process.wait(TIME_LIMIT)
        self._process.stdout.close()
