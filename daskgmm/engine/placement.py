"""Placement of tasks: leases of caches on every worker, and tasks that prefer the worker whose cache has their rows.

A lease is the value of a task that runs on one worker and stays there, as long as the client holds the task's future.
So the rows go when the fit ends, when its process dies (the scheduler forgets a client that is gone, and the values of
its futures), and when Dask spills the worker's values because memory is short.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import distributed
import numpy as np
import psutil
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import Task

from ..data.reading import Holder
from ..data.row_cache import RowLease
from .memory import target_share

Array = np.ndarray[Any, np.dtype[Any]]


def placed(graph: Mapping[Any, Any], workers: Mapping[Any, str], *, only: bool = False) -> HighLevelGraph:
    """Return a graph some of whose tasks prefer a worker, or run ``only`` there.

    Parameters
    ----------
    graph : dict of tasks
    workers : mapping
        Address of a worker by key.
    only : bool
        No other worker may run the tasks.
    """
    name = f"gmm-{uuid.uuid4().hex}"
    addresses = {key: [worker] for key, worker in workers.items()}
    layer = MaterializedLayer(graph, annotations={"workers": addresses.get, "allow_other_workers": not only})
    return HighLevelGraph({name: layer}, {name: set()})


class Leases:
    """Leases of caches of rows on the workers of a cluster."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._futures: dict[tuple[str, str], distributed.Future] = {}
        self._client: distributed.Client | None = None

    def add(self, name: str, n_bytes: int) -> None:
        """Add a cache of up to ``n_bytes`` in each worker; the next work opens the caches."""
        self._limits[name] = n_bytes

    def submit(self, client: distributed.Client, workers: Callable[[], Iterable[str]], seconds: float) -> None:
        """Open the caches on workers that have none yet.

        Parameters
        ----------
        client : distributed.Client
        workers : callable
            Returns the addresses of all workers.
        seconds : float
            Longest wait. A worker that does not open its cache in time keeps rows from the next pass on.
        """
        if not self._limits:
            return
        if client is not self._client:
            self.release()
            self._client = client
        addresses = set(workers())
        for key in [key for key in self._futures if key[1] not in addresses]:
            self._futures.pop(key).release()
        missing = [
            (name, address) for name in self._limits for address in addresses if (name, address) not in self._futures
        ]
        if not missing:
            return
        keys = {f"gmm-cache-{uuid.uuid4().hex}": place for place in missing}
        tasks = {key: Task(key, open_cache, name, self._limits[name]) for key, (name, _) in keys.items()}
        graph = placed(tasks, {key: address for key, (_, address) in keys.items()}, only=True)
        futures = distributed.client.futures_of(client.get(graph, list(keys), sync=False))
        self._futures.update({keys[future.key]: future for future in futures})
        with suppress(Exception):  # too busy, or just gone: caches only save time
            distributed.wait(futures, timeout=seconds)

    def release(self) -> None:
        """End all leases."""
        while self._futures:
            with suppress(Exception):  # the client is gone, and its futures with it
                self._futures.popitem()[1].release()


def open_cache(name: str, n_bytes: int) -> RowLease:
    """Open a cache in the process of the worker that runs this task."""
    limit = distributed.get_worker().memory_manager.memory_limit
    return RowLease(name, n_bytes, partial(_has_room, int(limit or 0)))


def _has_room(limit: int, n_bytes: int) -> bool:
    """Test for room for more rows in a worker of that memory limit, before Dask begins to spill its values."""
    if limit:
        return bool(psutil.Process().memory_info().rss + n_bytes <= target_share() * limit)
    memory = psutil.virtual_memory()
    return bool(memory.total - memory.available + n_bytes <= target_share() * memory.total)


class Placement:
    """Workers whose caches have rows of a source, as the tasks have told."""

    def __init__(self) -> None:
        self._holders: list[Holder] = []
        """In the order of the rows; no two overlap."""
        self.shortest_batch: int | None = None
        """Rows of the shortest batches so far: longer ones would have rows on several workers."""

    def update(self, holders: Sequence[Holder]) -> None:
        """Take in the holders that a pass has found, in the order of their rows."""
        starts = [holder.start for holder in holders]

        def is_known(old: Holder) -> bool:
            place = bisect_right(starts, old.stop - 1)
            return place > 0 and holders[place - 1].stop > old.start

        self._holders = sorted(
            [*holders, *(old for old in self._holders if not is_known(old))], key=lambda holder: holder.start
        )

    def preferred(self, borders: Array) -> dict[int, str]:
        """Return the worker that has most rows of a batch, by the number of the batch; none has any of the others."""
        starts = [holder.start for holder in self._holders]
        found = {}
        for number, (begin, end) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)):
            rows: Counter[str] = Counter()
            for place in range(max(0, bisect_right(starts, begin) - 1), bisect_left(starts, end)):
                holder = self._holders[place]
                rows[holder.worker] += max(0, min(end, holder.stop) - max(begin, holder.start))
            if +rows:
                found[number] = rows.most_common(1)[0][0]
        return found
