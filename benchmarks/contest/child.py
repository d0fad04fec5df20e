"""One measurement in a process of its own: ``python -m contest.child`` with a JSON object as its argument.

Prints another one: the measurement, or ``error``. With a ``seed`` it is a whole fit from a start of the peer's own,
otherwise fits of given numbers of iterations from the common start. The fitted mixture goes into a file, so that the
parent judges it, and the memory which that takes is not the contestant's.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from memory import Process, peak_memory

from contest.contestants import CONTESTANTS, Attempt, Fit, Peer
from contest.problem import Mixture, Problem, Task


def clocks(process: Process) -> np.ndarray[Any, Any]:
    """Wall seconds, and processor seconds of this process and its children."""
    return np.array([time.perf_counter(), process.processor_seconds()])


def timed(fit: Fit, start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, dict[str, Any]]:
    process = Process(os.getpid(), children=True)
    begin = clocks(process)
    mixture, n_iter = fit(start, max_iter, tol)
    seconds, processor_seconds = clocks(process) - begin
    if tol is None and n_iter != max_iter:
        raise RuntimeError(f"stopped by itself after {n_iter} of {max_iter} iterations")
    times = {"seconds": seconds, "processor_seconds": processor_seconds}
    return mixture, {"max_iter": max_iter, "n_iter": n_iter} | times


def measure(name: str, task: Task, iterations: list[int], tol: float | None) -> tuple[Mixture, dict[str, Any]]:
    """Fits of so many iterations each. Where nothing stops them they are warm: what happens once has happened."""
    process = Process(os.getpid(), children=True)
    contestant = CONTESTANTS[name]
    steps = contestant.steps(task)
    next(steps)
    idle = process.resident()
    fit = _peer(next(steps)).fit
    with peak_memory({name: process}) as peaks:
        if tol is None:
            for max_iter in iterations if contestant.compiles else iterations[:1]:
                fit(task.start, max_iter, None)
        fits = [timed(fit, task.start, max_iter, tol) for max_iter in iterations]
    return fits[-1][0], {"idle_bytes": idle, "peak_bytes": peaks[name], "fits": [numbers for _, numbers in fits]}


class Progress:
    """The trajectory of a fit: iterations, wall seconds, processor seconds, mean log-likelihood, in a file of lines.

    The clock stands still while a mixture is judged.
    """

    def __init__(self, task: Task, path: Path) -> None:
        self.rows = np.load(task.rows, mmap_mode="r")
        self.process = Process(os.getpid(), children=True)
        self.file = path.open("w")
        self.begin = clocks(self.process)

    def tell(self, n_iter: int, level: Mixture | float) -> float:
        now = clocks(self.process)
        if isinstance(level, Mixture):
            level = level.mean_log_likelihood(self.rows)
        print(json.dumps([n_iter, *(now - self.begin).round(6), level]), file=self.file, flush=True)
        self.begin += clocks(self.process) - now
        return level


def solve(name: str, task: Task, config: dict[str, Any]) -> tuple[Mixture, dict[str, Any]]:
    """A whole fit as somebody would use the contestant; nothing has been compiled or loaded."""
    steps = CONTESTANTS[name].steps(task)
    next(steps)
    solution = _peer(next(steps)).solve
    if solution is None:
        raise RuntimeError("has no start of its own")
    progress = Progress(task, Path(config["trajectory"]))
    chosen = (config["seed"], config["tol"], config["max_iter"], config["settings"])
    mixture, n_iter, n_passes = solution(Attempt(*chosen, progress.tell))
    progress.tell(n_iter, mixture)
    return mixture, {"n_iter": n_iter, "passes": n_passes}


def _peer(step: Peer | None) -> Peer:
    assert step is not None
    return step


def first_line(error: BaseException) -> str:
    """Of an error's text; of Java's own where Spark wraps one."""
    text = str(getattr(error, "java_exception", error)).strip()
    return f"{type(error).__name__}: {text.partition(os.linesep)[0]}"


def main() -> None:
    config = json.loads(sys.argv[1])
    task = Task(Problem(**config["problem"]), Path(config["directory"]))
    if hasattr(os, "sched_setaffinity"):  # JAX has no setting that limits its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.problem.threads])
    warnings.simplefilter("ignore")  # that fits did not converge: they are stopped on purpose
    try:
        if "seed" in config:
            mixture, result = solve(config["contestant"], task, config)
        else:
            mixture, result = measure(config["contestant"], task, config["iterations"], config["tol"])
        np.savez(config["mixture"], **vars(mixture))
    except Exception as error:  # whatever a peer raises is its result
        result = {"error": first_line(error)}
    print(json.dumps(result), flush=True)
    os._exit(0)  # the parent ends what a peer has started, sooner than that would end by itself


if __name__ == "__main__":
    main()
