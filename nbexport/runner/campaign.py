"""Runs a matrix: here or on a cluster, keeps what every run left, and compares the results."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.errors import NotebookError, PeerError, UsageError
from nbexport.runner import storage
from nbexport.runner.compare import Baseline, Difference, compare
from nbexport.runner.execute import FAILED, MISSING, PASSED, LostRunError, Order, Outcome, execute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.runner.matrix import Matrix, MatrixRun

DIFFERS = "differs"
"""A run that passed, but found something else than the baseline says."""

ATTEMPTS = 3
"""How often a run is taken up whose process or worker was lost."""

SCHEDULER_TIME_LIMIT_S = 10.0

STATUSES = (PASSED, DIFFERS, FAILED, MISSING)


@dataclass(frozen=True)
class Verdict:
    """One run, how it went, and what that means.

    Attributes:
        run: what was asked for.
        outcome: how it went.
        status: one of `STATUSES`.
        differences: from the baseline.
        kept: whether the outcome is that of an earlier campaign.
    """

    run: MatrixRun
    outcome: Outcome
    status: str
    differences: tuple[Difference, ...] = ()
    kept: bool = False


class Outputs:
    """Where a campaign keeps what its runs left: a folder, or an address that papermill can write.

    Args:
        place: the folder or the address.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")

    def write(self, name: str, text: str) -> None:
        """Write a file; on this machine it appears as a whole or not at all.

        Raises:
            NotebookError: the address cannot be written.
            OSError: the folder cannot be written.
        """
        if storage.is_remote(self.place):
            storage.write_text(f"{self.place}/{name}", text)
            return
        path = Path(self.place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, name: str) -> str | None:
        """Return the text of a file, None if there is none."""
        if storage.is_remote(self.place):
            with contextlib.suppress(NotebookError):
                return storage.read_text(f"{self.place}/{name}")
            return None
        with contextlib.suppress(OSError):
            return Path(self.place, name).read_text(encoding="utf-8")
        return None


@contextlib.contextmanager
def local_executor(jobs: int | None = None) -> Iterator[Executor]:
    """Give an executor whose threads each wait for one run's process.

    Args:
        jobs: runs at a time; None for the number of processors.
    """
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="run") as pool:
        yield pool


@contextlib.contextmanager
def cluster_executor(address: str) -> Iterator[Executor]:
    """Give an executor that runs on the workers of a Dask cluster.

    A run whose worker is lost is given to another one by the scheduler.

    Args:
        address: the scheduler's, ``tcp://HOST:PORT``.

    Raises:
        UsageError: the package was installed without its extra ``cluster``.
        PeerError: there is no scheduler.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UsageError("a scheduler needs the extra: pip install 'nbexport[cluster]'") from error
    try:
        client = Client(address, timeout=SCHEDULER_TIME_LIMIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PeerError(f"no scheduler at {address}: {error}") from error
    try:
        yield client.get_executor(pure=False)
    finally:
        client.close()


def select(matrix: Matrix, patterns: Sequence[str]) -> Matrix:
    """Return a matrix with only those runs whose ids match one of the patterns.

    Raises:
        UsageError: none does.
    """
    if not patterns:
        return matrix
    # A run's id has brackets, which are no character class here.
    plain = [pattern.replace("[", "[[]") for pattern in patterns]
    runs = tuple(
        run for run in matrix.runs if any(fnmatch.fnmatchcase(run.id, each) for each in plain)
    )
    if not runs:
        raise UsageError(f"no run matches {', '.join(patterns)}")
    return replace(matrix, runs=runs)


def run_matrix(
    matrix: Matrix,
    outputs: Outputs,
    executor: Executor,
    *,
    baseline: Baseline | None = None,
    resume: bool = False,
    progress: bool = False,
) -> list[Verdict]:
    """Run everything that a matrix asks for.

    Each run leaves a folder ``runs/NAME`` with the executed copy, ``log.txt`` and
    ``outcome.json`` as soon as it has ended: what was done is not lost when the rest is.

    Args:
        matrix: what to run.
        outputs: where the folders go.
        executor: what runs them; see `local_executor` and `cluster_executor`.
        baseline: what the results are compared with; None compares nothing.
        resume: whether a run that passed in an earlier campaign of the same place, with the same
            notebook and code of the package, is taken as it was.
        progress: whether to draw a progress bar on standard error.

    Returns:
        A verdict for each run, in the order of the matrix.

    Raises:
        NotebookError: a notebook cannot be read any more.
        OSError: the folder cannot be written.
    """
    from tqdm import tqdm  # noqa: PLC0415 - needed only here

    verdicts: dict[str, Verdict] = {}
    texts = {run.notebook.source: run.notebook.text() for run in matrix.runs}
    waiting: dict[Future[Outcome], tuple[MatrixRun, Order, int]] = {}
    bar = tqdm(total=len(matrix.runs), desc=matrix.title, unit="run", disable=not progress)
    with bar:
        for run in matrix.runs:
            order = _order(run, texts[run.notebook.source])
            earlier = _earlier(outputs, run, order) if resume else None
            if earlier is not None:
                verdicts[run.id] = _judge(matrix, run, earlier, baseline, kept=True)
                bar.update()
            else:
                waiting[executor.submit(execute, order)] = (run, order, 1)
        while waiting:
            # What is taken up again joins the next round.
            for future in as_completed(list(waiting)):
                run, order, attempt = waiting.pop(future)
                outcome = _outcome(future, order, attempt)
                if outcome is None:
                    waiting[executor.submit(execute, order)] = (run, order, attempt + 1)
                    continue
                _keep(outputs, run, order, outcome)
                verdicts[run.id] = _judge(matrix, run, outcome, baseline)
                bar.update()
    return [verdicts[run.id] for run in matrix.runs]


def _order(run: MatrixRun, text: str) -> Order:
    return Order(
        run.id, run.notebook.path.name, text, dict(run.parameters), run.time_limit, run.requires
    )


def _outcome(future: Future[Outcome], order: Order, attempt: int) -> Outcome | None:
    """Return how a run ended, None if it has to be taken up again."""
    try:
        return future.result()
    except LostRunError as error:
        if attempt < ATTEMPTS:
            return None
        return Outcome(order.id, FAILED, f"lost {attempt} times: {error}")
    except Exception as error:
        # whatever a worker or its scheduler raises
        reason = str(error).strip().partition("\n")[0]
        return Outcome(order.id, FAILED, f"its worker failed: {type(error).__name__}: {reason}")


def _judge(
    matrix: Matrix,
    run: MatrixRun,
    outcome: Outcome,
    baseline: Baseline | None,
    *,
    kept: bool = False,
) -> Verdict:
    if outcome.status != PASSED or baseline is None:
        return Verdict(run, outcome, outcome.status, kept=kept)
    differences = compare(
        run.id,
        outcome.results,
        baseline.get(run.id, {}),
        ignore=matrix.ignore,
        tolerance=matrix.tolerance,
    )
    if run.id not in baseline and not differences:
        differences = [Difference("the run", "", "passed")]
    status = DIFFERS if differences else PASSED
    return Verdict(run, outcome, status, tuple(differences), kept)


def _keep(outputs: Outputs, run: MatrixRun, order: Order, outcome: Outcome) -> None:
    """Write what a run left; last the file that says that the rest is there."""
    base = f"runs/{run.folder}"
    if outcome.notebook is not None:
        outputs.write(f"{base}/{run.notebook.path.name}", outcome.notebook)
    outputs.write(f"{base}/log.txt", outcome.log)
    told = asdict(outcome)
    del told["notebook"], told["log"]
    told |= {"parameters": dict(run.parameters), "made_from": _origin(order)}
    outputs.write(f"{base}/outcome.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def _origin(order: Order) -> str:
    """Return what an outcome depends on besides its parameters: the notebook and the package."""
    return f"{__version__} {_package()} {hashlib.sha256(order.text.encode()).hexdigest()[:16]}"


@functools.cache
def _package() -> str:
    """Return a digest of the package's code: in a checkout it changes without a new version."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _earlier(outputs: Outputs, run: MatrixRun, order: Order) -> Outcome | None:
    """Return the outcome that an earlier campaign kept, if the run passed then."""
    text = outputs.read(f"runs/{run.folder}/outcome.json")
    try:
        told: dict[str, Any] = json.loads(text or "")
        if (told["id"], told["made_from"]) != (run.id, _origin(order)):
            return None
        outcome = Outcome(
            run.id, told["status"], "", float(told["seconds"]), told["results"], told["measured"]
        )
    except (ValueError, KeyError, TypeError):
        return None  # an interrupted campaign's, or something else: the run is made again
    return outcome if outcome.status == PASSED else None


def new_baseline(verdicts: Sequence[Verdict], old: Baseline) -> Baseline:
    """Return a baseline with the results of every run that passed.

    A run that failed, or could not be tried, keeps its old entry; one that the matrix no longer
    has loses it.
    """
    made = {}
    for verdict in verdicts:
        if verdict.outcome.status == PASSED:
            made[verdict.run.id] = dict(verdict.outcome.results)
        elif verdict.run.id in old:
            made[verdict.run.id] = old[verdict.run.id]
    return made
