"""Measurements: processes for the contestants, and what becomes of those that take too much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from dask.utils import format_bytes
from memory import Process

from contest.contestants import CONTESTANTS
from contest.problem import Mixture, Problem, Task

POLLING = 0.1  # seconds
LEAD = 1  # iterations of the shorter fit: what is special about the first is in both
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Contest:
    """Measures contestants in turns, and does not try what cannot take less than what was beyond a limit."""

    contestants: list[str]
    seconds: float
    """That a measurement may take."""
    memory: int
    """Bytes that it may take."""
    directory: Path
    """For data, which are removed as soon as they are not needed."""
    beyond: dict[str, list[tuple[Problem, str]]] = field(default_factory=dict)

    def measure(self, problem: Problem, rounds: int, tol: float | None, max_iter: int) -> Iterator[dict[str, Any]]:
        """Records, one for each round and contestant.

        With ``tol`` they are of a fit that it stops, or ``max_iter``; without, of two fits, of which the second has so
        many more iterations than the first that their difference tells the time of one.
        """
        iterations = [max_iter] if tol else [LEAD, LEAD + problem.iterations]
        with tempfile.TemporaryDirectory(dir=self.directory, ignore_cleanup_errors=True) as directory:
            task = Task(problem, Path(directory).resolve())
            task.write()
            for turn in range(rounds):
                for name in self.contestants:
                    about = {"contestant": name, "problem": asdict(problem), "tol": tol, "round": turn}
                    yield about | self._try(name, task, iterations, tol)

    def _try(self, name: str, task: Task, iterations: list[int], tol: float | None) -> dict[str, Any]:
        for easier, limit in self.beyond.get(name, []):
            if task.problem.needs_at_least(easier):
                return {"error": f"not tried: {limit} at {easier}"}
        fitted = task.directory / "fitted.npz"
        config = {"contestant": name, "problem": asdict(task.problem), "directory": str(task.directory)}
        config |= {"iterations": iterations, "tol": tol, "mixture": str(fitted)}
        result, limit = self._run_child(config)
        if limit and tol is None:  # what a whole fit takes says nothing of the next problem
            self.beyond.setdefault(name, []).append((task.problem, limit))
        if "error" not in result:
            with np.load(fitted) as arrays:
                rows = np.load(task.rows, mmap_mode="r")
                result["log_likelihood"] = float(Mixture(**arrays).mean_log_likelihood(rows))
        return result

    def _run_child(self, config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """What a contestant's process prints, or the ``error`` that ended it; and the limit that it went beyond."""
        threads = CONTESTANTS[config["contestant"]].blas_threads or config["problem"]["threads"]
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"TMPDIR": config["directory"]}
        # Files, not pipes: nobody reads while it runs, and what it has started may write there after its end.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
            child = subprocess.Popen(
                [sys.executable, "-m", "contest.child", json.dumps(config)],
                cwd=Path(__file__).parents[1],
                env=environment,
                stdout=output,
                stderr=messages,
            )
            begin, process = time.monotonic(), Process(child.pid, children=True)
            try:
                while child.poll() is None:
                    if limit := self._beyond_limit(time.monotonic() - begin, process.resident()):
                        return {"error": limit}, limit
                    time.sleep(POLLING)
            finally:
                process.kill()
                child.wait()
            try:
                return json.loads(_last_line(output)), None
            except ValueError:  # it could not even say what went wrong
                return {"error": f"ended with status {child.returncode}: {_last_line(messages)}"}, None

    def _beyond_limit(self, seconds: float, memory: int) -> str | None:
        if seconds > self.seconds:
            return f"time limit of {self.seconds:g} s"
        return f"memory limit of {format_bytes(self.memory)}" if memory > self.memory else None


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    return (file.read().decode(errors="replace").strip().splitlines() or [""])[-1]
