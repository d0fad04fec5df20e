"""How a task tells its driver that it has finished: directly in the same process, else through the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import distributed

_listeners: dict[str, Callable[[int], None]] = {}


def report(topic: str, n_rows: int) -> None:
    """Tell the driver that listens to ``topic`` that ``n_rows`` more rows are done."""
    listener = _listeners.get(topic)
    if listener is not None:
        listener(n_rows)
        return
    # A process of another scheduler has no way to tell; only progress displays miss it.
    with suppress(ValueError):
        distributed.get_worker().log_event(topic, n_rows)


@contextmanager
def listening(topic: str, listener: Callable[[int], None], client: Any = None) -> Iterator[None]:
    """Call ``listener`` with the rows of every batch that reports to ``topic``, in whatever process it runs."""
    _listeners[topic] = listener
    if client is not None:
        client.subscribe_topic(topic, lambda event: listener(event[1]))
    try:
        yield
    finally:
        del _listeners[topic]
        if client is not None and client.status == "running":
            client.unsubscribe_topic(topic)
