"""Reports of finished tasks to their driver: directly in the same process, else through the scheduler.

All fits share one topic of Dask's, and each report names its fit: schedulers and clients keep a topic for ever.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import distributed

from ..data.forks import begin_anew_in_children

Report = tuple[int, int, int]
"""Number of the pass, first row of the task, and number of its rows."""

TOPIC = "daskgmm"
"""Topic of Dask's, under which tasks in other processes report."""

_listeners: dict[str, Callable[[Report], None]] = {}
_lock = threading.Lock()
_uses: weakref.WeakKeyDictionary[distributed.Client, int] = weakref.WeakKeyDictionary()


@begin_anew_in_children
def _begin_anew() -> None:
    """Drop the copies of the parent's listeners in a forked child."""
    global _lock
    _lock = threading.Lock()
    _listeners.clear()
    _uses.clear()


@dataclass(frozen=True)
class Reporter:
    """Report of the tasks of one pass; called with the first row of a task and its number of rows; picklable."""

    listener: str
    """Name of the driver's listener."""
    number: int
    """Number of the pass: tasks of an earlier pass may still run on a worker that was given up."""

    def __call__(self, start: int, n_rows: int) -> None:
        listener = _listeners.get(self.listener)
        if listener is not None:
            listener((self.number, start, n_rows))
            return
        # A process without a worker cannot report; only progress displays miss the report.
        with suppress(ValueError):
            distributed.get_worker().log_event(TOPIC, (self.listener, self.number, start, n_rows))


@contextmanager
def listening(name: str, listener: Callable[[Report], None]) -> Iterator[None]:
    """Call ``listener`` with reports to that name, in the threads of tasks or of clients that are `hearing`."""
    _listeners[name] = listener
    try:
        yield
    finally:
        del _listeners[name]


@contextmanager
def hearing(client: distributed.Client) -> Iterator[None]:
    """Hear reports of tasks in other processes by way of a client's scheduler; fits may share a client."""
    with _lock:
        _uses[client] = _uses.get(client, 0) + 1
        if _uses[client] == 1:
            client.subscribe_topic(TOPIC, _hear)
    try:
        yield
    finally:
        with _lock:
            _uses[client] -= 1
            if not _uses[client]:
                del _uses[client]
                with suppress(Exception):  # the scheduler is gone
                    if client.status == "running":
                        client.unsubscribe_topic(TOPIC)


def _hear(event: tuple[float, tuple[str, int, int, int]]) -> None:
    name, *report = event[1]
    listener = _listeners.get(name)  # none for a fit of another process, or for a fit that is over
    if listener is not None:
        listener(tuple(report))  # type: ignore[arg-type]  # the other three
