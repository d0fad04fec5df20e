"""How a task tells its driver that it has finished: directly in the same process, else through the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import distributed

Report = tuple[int, int, int]
"""Number of the pass, first row of a task, and how many rows it has done."""

_listeners: dict[str, Callable[[Report], None]] = {}


@dataclass(frozen=True)
class Reporter:
    """What the tasks of one pass call with the first of the rows that they have done, and their number; picklable."""

    topic: str
    """Of the driver."""
    number: int
    """Of the pass: tasks of an earlier one may still run on a worker that was given up."""

    def __call__(self, start: int, n_rows: int) -> None:
        listener = _listeners.get(self.topic)
        if listener is not None:
            listener((self.number, start, n_rows))
            return
        # A process of another scheduler has no way to tell; only progress displays miss it.
        with suppress(ValueError):
            distributed.get_worker().log_event(self.topic, (self.number, start, n_rows))


@contextmanager
def listening(topic: str, listener: Callable[[Report], None]) -> Iterator[None]:
    """Call ``listener`` with what tasks in this process report to ``topic``, in their threads."""
    _listeners[topic] = listener
    try:
        yield
    finally:
        del _listeners[topic]
