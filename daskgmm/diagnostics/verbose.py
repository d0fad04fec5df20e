"""`verbose`: lines on standard output, as scikit-learn prints them."""

from __future__ import annotations

from typing import Any

from ..fitting.events import IterationFinished, StartBegun, StartFinished


class VerboseListener:
    """Prints starts and iterations.

    Parameters
    ----------
    level : int
        1 for the iterations, 2 for their change and time as well.
    interval : int
        Iterations between two lines.
    """

    def __init__(self, level: int, interval: int) -> None:
        self.level, self.interval = level, interval
        self._seconds = 0.0

    def __call__(self, event: Any) -> None:
        if isinstance(event, StartBegun):
            self._seconds = 0.0
            print(f"Initialization {event.start}")
        elif isinstance(event, IterationFinished):
            self._seconds += event.seconds
            if event.iteration % self.interval == 0:
                detail = f"\t time lapse {self._seconds:.5f}s\t ll change {event.change:.5f}" if self.level >= 2 else ""
                print(f"  Iteration {event.iteration}{detail}")
        elif isinstance(event, StartFinished):
            status = "converged." if event.converged else "did not converge."
            detail = (
                f" time lapse {self._seconds:.5f}s\t lower bound {event.lower_bound:.5f}." if self.level >= 2 else ""
            )
            print(f"Initialization {status}{detail}")
