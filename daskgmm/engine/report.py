"""How a task tells its driver that it has finished: directly in the same process, else through the scheduler.

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
"""Number of the pass, first row of a task, and how many rows it has done."""

TOPIC = "daskgmm"
"""Of Dask, where tasks in other processes report."""

_listeners: dict[str, Callable[[Report], None]] = {}
_lock = threading.Lock()
_uses: weakref.WeakKeyDictionary[distributed.Client, int] = weakref.WeakKeyDictionary()


@begin_anew_in_children
def _begin_anew() -> None:
    """Nobody listens in a forked child: its copies of the listeners are those of its parent."""
    global _lock
    _lock = threading.Lock()
    _listeners.clear()
    _uses.clear()


@dataclass(frozen=True)
class Reporter:
    """What the tasks of one pass call with the first of the rows that they have done, and their number; picklable."""

    listener: str
    """Name of the driver's."""
    number: int
    """Of the pass: tasks of an earlier one may still run on a worker that was given up."""

    def __call__(self, start: int, n_rows: int) -> None:
        listener = _listeners.get(self.listener)
        if listener is not None:
            listener((self.number, start, n_rows))
            return
        # A process of another scheduler has no way to tell; only progress displays miss it.
        with suppress(ValueError):
            distributed.get_worker().log_event(TOPIC, (self.listener, self.number, start, n_rows))


@contextmanager
def listening(name: str, listener: Callable[[Report], None]) -> Iterator[None]:
    """Call ``listener`` with what tasks report to it, in their threads or in those of clients that are `hearing`."""
    _listeners[name] = listener
    try:
        yield
    finally:
        del _listeners[name]


@contextmanager
def hearing(client: distributed.Client) -> Iterator[None]:
    """Hear what tasks in other processes report by way of a client's scheduler; fits may share a client."""
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
                with suppress(Exception):  # a scheduler that is gone
                    if client.status == "running":
                        client.unsubscribe_topic(TOPIC)


def _hear(event: tuple[float, tuple[str, int, int, int]]) -> None:
    name, *report = event[1]
    listener = _listeners.get(name)  # none for a fit of another process, or for one that is over
    if listener is not None:
        listener(tuple(report))  # type: ignore[arg-type]  # the other three
