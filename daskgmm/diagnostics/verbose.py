"""`verbose`: lines on standard output, as scikit-learn prints them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..fitting.events import IterationFinished, StartBegun, StartFinished

_Key = tuple[str, int]
"""Label of the mixture, and number of the start."""


class VerboseListener:
    """Listener that prints starts and iterations.

    Starts run together, but are printed one after the other: the lines of a start wait until the starts before have
    ended.

    Parameters
    ----------
    level : int
        1 for iterations, 2 for their changes and times as well.
    interval : int
        Number of iterations between two lines.
    """

    def __init__(self, level: int, interval: int) -> None:
        self.level, self.interval = level, interval
        self._seconds: dict[_Key, float] = defaultdict(float)
        # Waiting lines, in the order of the starts; lines of the first start are printed at once. None ends a start.
        self._waiting: dict[_Key, list[str | None]] = {}

    def __call__(self, event: Any) -> None:
        if isinstance(event, StartBegun):
            key = event.label, event.start
            self._seconds[key] = 0.0
            self._waiting[key] = []
            of = f" of {event.label}" if event.label else ""
            resumed = f" goes on after {event.n_iter} iterations" if event.n_iter else ""
            self._print(key, f"Initialization {event.start}{of}{resumed}")
        elif isinstance(event, IterationFinished):
            key = event.label, event.start
            self._seconds[key] += event.seconds
            if event.iteration % self.interval == 0:
                self._print(key, f"  Iteration {event.iteration}{self._progress(event)}")
        elif isinstance(event, StartFinished):
            key = event.label, event.start
            status = "converged." if event.converged else "did not converge."
            self._print(key, f"Initialization {status}{self._end(event)}")
            self._finish(key)

    def _progress(self, event: IterationFinished) -> str:
        if self.level < 2:
            return ""
        seconds = self._seconds[event.label, event.start]
        return f"\t time lapse {seconds:.5f}s\t ll change {event.change:.5f}"

    def _end(self, event: StartFinished) -> str:
        if self.level < 2:
            return ""
        seconds = self._seconds[event.label, event.start]
        return f" time lapse {seconds:.5f}s\t lower bound {event.lower_bound:.5f}."

    def _print(self, key: _Key, line: str) -> None:
        if key == self._first():
            print(line)
        else:
            self._waiting[key].append(line)

    def _first(self) -> _Key | None:
        return next(iter(self._waiting), None)

    def _finish(self, key: _Key) -> None:
        if key != self._first():
            self._waiting[key].append(None)
            return
        del self._waiting[key]
        while (following := self._first()) is not None:
            lines, self._waiting[following] = self._waiting[following], []
            for line in lines:
                if line is not None:
                    print(line)
            if not lines or lines[-1] is not None:
                return
            del self._waiting[following]
