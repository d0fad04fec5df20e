"""Tasks that are submitted once, for many passes to depend on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import dask
import distributed
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof

Graph = dict[Any, Any]

_LARGE_GRAPH = "distributed.admin.large-graph-warning-threshold"

_quiet = threading.Lock()


class Holdings:
    """Tasks, and the futures that make a scheduler keep the values of the tasks.

    Parameters
    ----------
    message_bytes : int
        Size of one submission.
    """

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._tasks: Graph = {}
        self._futures: dict[Any, distributed.Future] = {}
        self._client: distributed.Client | None = None

    @property
    def keys(self) -> list[Any]:
        """Keys of all tasks."""
        return list(self._tasks)

    def add(self, tasks: Mapping[Any, Any]) -> None:
        """Add tasks without dependencies; the next work submits them."""
        self._tasks.update(tasks)

    def submit(self, client: distributed.Client) -> None:
        """Submit the tasks that a client does not hold: all for a new client, else those that failed or were lost."""
        if client is not self._client:
            self.release()
            self._client = client
        missing = [key for key in self._tasks if key not in self._futures or not _is_alive(self._futures[key])]
        for key in missing:
            if key in self._futures:
                self._futures.pop(key).release()  # with the error of the task, if there is one
        for portion in _portions({key: self._tasks[key] for key in missing}, self._message_bytes):
            graph = HighLevelGraph.from_collections(f"gmm-data-{uuid.uuid4().hex}", portion)
            # Dask's warning would advise to do just this.
            with _quiet, dask.config.set({_LARGE_GRAPH: 1 << 60}):
                promised = client.get(graph, list(portion), sync=False)
            self._futures.update({future.key: future for future in distributed.client.futures_of(promised)})

    def release(self) -> None:
        """Let the scheduler forget all tasks."""
        while self._futures:
            with suppress(Exception):  # the client is gone, and its futures with it
                self._futures.popitem()[1].release()


def _is_alive(future: distributed.Future) -> bool:
    return future.status in ("pending", "finished")


def _portions(tasks: Graph, message_bytes: int) -> Iterator[Graph]:
    portion: Graph = {}
    size = 0
    for key, task in tasks.items():
        portion[key] = task
        size += sizeof(task)
        if size >= message_bytes:
            yield portion
            portion, size = {}, 0
    if portion:
        yield portion
