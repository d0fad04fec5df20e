"""`verbose`: lines on standard output, as scikit-learn prints them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..fitting.events import IterationFinished, StartBegun, StartFinished


class VerboseListener:
    """Prints starts and iterations.

    Starts run together, and are printed one after the other: the lines of each wait until those before it have ended.

    Parameters
    ----------
    level : int
        1 for the iterations, 2 for their change and time as well.
    interval : int
        Iterations between two lines.
    """

    def __init__(self, level: int, interval: int) -> None:
        self.level, self.interval = level, interval
        self._seconds: dict[int, float] = defaultdict(float)
        self._waiting: dict[int, list[str]] = {}

    def __call__(self, event: Any) -> None:
        if isinstance(event, StartBegun):
            self._seconds[event.start] = 0.0
            self._waiting[event.start] = []
            self._print(event.start, f"Initialization {event.start}")
        elif isinstance(event, IterationFinished):
            self._seconds[event.start] += event.seconds
            if event.iteration % self.interval == 0:
                self._print(event.start, f"  Iteration {event.iteration}{self._progress(event)}")
        elif isinstance(event, StartFinished):
            status = "converged." if event.converged else "did not converge."
            self._print(event.start, f"Initialization {status}{self._end(event)}")
            self._finish(event.start)

    def _progress(self, event: IterationFinished) -> str:
        if self.level < 2:
            return ""
        return f"\t time lapse {self._seconds[event.start]:.5f}s\t ll change {event.change:.5f}"

    def _end(self, event: StartFinished) -> str:
        if self.level < 2:
            return ""
        return f" time lapse {self._seconds[event.start]:.5f}s\t lower bound {event.lower_bound:.5f}."

    def _print(self, start: int, line: str) -> None:
        if start == min(self._waiting):
            print(line)
        else:
            self._waiting[start].append(line)

    def _finish(self, start: int) -> None:
        if start != min(self._waiting):
            self._waiting[start].append("")  # it has ended
            return
        del self._waiting[start]
        while self._waiting:
            following = min(self._waiting)
            lines, self._waiting[following] = self._waiting[following], []
            for line in lines:
                if line:
                    print(line)
            if not lines or lines[-1]:
                return
            del self._waiting[following]
