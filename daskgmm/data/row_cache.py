"""Rows that were read, kept in the memory of a process for the following passes of a fit.

A cache has the name of a fit, and there is one in each process that holds a `RowLease` of that name; the rows go with
the last lease. A cache keeps what comes until its limit is reached, and drops nothing before its end: passes read the
rows from the first to the last, again and again, and of such a cycle a fixed part is the most that a cache can serve.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .forks import begin_anew_in_children

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Consecutive rows of a source, in the form in which passes compute on them."""

    start: int
    stop: int
    values: Array
    checksum: int | None
    """Checksum of the values; None where only a part of the kept rows is meant."""

    def part(self, start: int, stop: int) -> KeptRows:
        """View of some of the rows."""
        if (start, stop) == (self.start, self.stop):
            return self
        return KeptRows(start, stop, self.values[start - self.start : stop - self.start], None)


class RowCache:
    """Rows of several sources, which are numbered.

    Parameters
    ----------
    limit : int
        Largest number of bytes.
    has_room : callable, optional
        Number of bytes -> False if the process has no room for them.
    """

    def __init__(self, limit: int, has_room: Callable[[int], bool] = lambda n_bytes: True) -> None:
        self._limit, self._has_room = limit, has_room
        self._lock = threading.RLock()  # a lease may end, and clear the cache, wherever Python frees memory, here too
        self._starts: dict[int, list[int]] = {}
        self._kept: dict[tuple[int, int], KeptRows] = {}
        self.n_bytes = 0

    def find(self, source: int, start: int, stop: int) -> KeptRows | None:
        """Return rows ``start`` to ``stop`` of a source if they were kept in one piece."""
        with self._lock:
            kept = self._nearest(source, start)
        return None if kept is None or kept.stop < stop else kept.part(start, stop)

    def keep(self, source: int, start: int, values: Array, checksum: int) -> KeptRows | None:
        """Keep the rows from ``start`` on, and return them; None if there is no room."""
        stop = start + len(values)
        with self._lock:
            nearest = self._nearest(source, stop - 1)
            if start == stop or (nearest is not None and nearest.stop > start):
                return None  # there are none, or some of them are kept in another piece
            if self.n_bytes + values.nbytes > self._limit or not self._has_room(values.nbytes):
                return None
            # A view would keep all of a larger array; an array that a task returned may be changed by its owner.
            kept = KeptRows(start, stop, np.array(values, order="K"), checksum)
            self._kept[source, start] = kept
            insort(self._starts.setdefault(source, []), start)
            self.n_bytes += values.nbytes
        return kept

    def clear(self) -> None:
        """Drop all rows, and keep none any more; frames of an error that somebody holds may refer to the cache."""
        with self._lock:
            self._limit = self.n_bytes = 0
            self._starts.clear()
            self._kept.clear()

    def pieces(self, source: int, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Cut consecutive ranges of rows so that each is kept in one piece, or not kept at all."""
        found: list[tuple[int, int]] = []
        row, last = ranges[0][0], ranges[-1][1]
        with self._lock:
            starts = self._starts.get(source, [])
            for _, stop in ranges:
                while row < stop:
                    kept, following = self._nearest(source, row), bisect_right(starts, row)
                    if kept is not None and kept.stop > row:
                        end = min(kept.stop, last)
                    else:
                        end = min([stop, *starts[following : following + 1]])
                    found.append((row, end))
                    row = end
        return found

    def _nearest(self, source: int, row: int) -> KeptRows | None:
        """Return the last piece that begins at a row or before it."""
        starts = self._starts.get(source, [])
        place = bisect_right(starts, row)
        return self._kept[source, starts[place - 1]] if place else None


_lock = threading.RLock()  # a lease may end wherever Python frees memory, here too
_caches: dict[str, RowCache] = {}
_leases: dict[str, int] = {}


@begin_anew_in_children
def _begin_anew() -> None:
    """Drop the parent's caches in a forked child."""
    global _lock
    _lock = threading.RLock()
    _caches.clear()
    _leases.clear()


def kept_bytes() -> int:
    """Bytes of rows that all caches of this process hold."""
    return sum(cache.n_bytes for cache in list(_caches.values()))  # without the lock: caches ask while they have theirs


class RowLease:
    """Lease of a cache in this process: the cache exists as long as somebody holds a lease of its name.

    A copy in another process is no lease.

    Parameters
    ----------
    name : str
    limit : int
        Largest number of bytes of the cache.
    has_room : callable, optional
        See `RowCache`.
    """

    def __init__(self, name: str, limit: int, has_room: Callable[[int], bool] = lambda n_bytes: True) -> None:
        self._name = name
        with _lock:
            _leases[name] = _leases.get(name, 0) + 1
            if name not in _caches:
                _caches[name] = RowCache(limit, has_room)

    def close(self) -> None:
        """End the lease."""
        with _lock:
            name, self._name = self._name, ""
            if name not in _leases:
                return
            _leases[name] -= 1
            if _leases[name]:
                return
            del _leases[name]
            cache = _caches.pop(name)
        cache.clear()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_lease, ()


def _no_lease() -> None:
    """Return nothing in the place of a lease that belongs to another process."""


@dataclass(frozen=True)
class OpenCache:
    """Cache of this process, as the reader of a data set sees it."""

    cache: RowCache
    numbers: Mapping[int, int]
    """Number in the cache of each source that is kept, by the position of the source in `Dataset.sources`."""

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Cut consecutive ranges so that the rows of each are kept in one piece, or not kept at all."""
        return self.cache.pieces(self.numbers[0], ranges) if ranges and 0 in self.numbers else ranges

    def find(self, start: int, stop: int) -> KeptBlock:
        """Return what is kept of rows ``start`` to ``stop``."""
        found = {place: self.cache.find(number, start, stop) for place, number in self.numbers.items()}
        return {place: kept for place, kept in found.items() if kept is not None}

    def is_complete(self, start: int, stop: int) -> bool:
        """Test for rows of which nothing has to be read."""
        return bool(self.numbers) and len(self.find(start, stop)) == len(self.numbers)

    def keep(self, place: int, start: int, values: Array, checksum: int) -> KeptRows | None:
        """Keep rows of the source at that position; return None if they are not kept."""
        number = self.numbers.get(place)
        return None if number is None else self.cache.keep(number, start, values, checksum)


KeptBlock = Mapping[int, KeptRows]
"""Kept rows of some sources, by the position of the source in `Dataset.sources`."""


@dataclass(frozen=True)
class CacheAccess:
    """Access of tasks to the cache of the process in which they run."""

    name: str = ""
    numbers: Mapping[int, int] = field(default_factory=dict)
    """See `OpenCache`; empty where no rows are kept."""

    def open(self) -> OpenCache:
        """Return the cache of this process, which keeps nothing if there is none of that name."""
        cache = _caches.get(self.name)
        return OpenCache(RowCache(0), {}) if cache is None else OpenCache(cache, self.numbers)


NOT_KEPT = CacheAccess()
"""Access of a pass whose rows are not kept."""
