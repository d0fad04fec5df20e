"""Sizes and times by which engines divide a pass, as one record.

Only the lengths of leaves affect the bits of a result; the other values affect time and memory. No value is a parameter
of an estimator: an engine is made with a record (``DaskEngine(tuning=…)``), or takes the record in force in this
process, which `tuned` replaces for the length of a block, for tests and measurements. Folds, sources and lazy results,
which are made without an engine, always take the record in force: lengths of leaves, ``shortest_pass``,
``most_layers``, and the sizes of results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """Sizes and times by which passes are divided."""

    # ---- leaves: they determine the last bits of results

    leaf_bytes: int = 4 << 20
    """Bytes of rows in a leaf, in double precision: work arrays of a leaf stay in a cache of ordinary size."""

    shortest_leaf: int = 256
    """Rows of the shortest leaf: shorter ones would cost more calls than arithmetic."""

    longest_leaf: int = 65_536
    """Rows of the longest leaf: longer ones would leave data of few features too few leaves to share."""

    few_rows_leaf: int = 8192
    """Rows of the shortest leaf of a sample in memory, which threads share: shorter ones cost more than a tenth of
    their arithmetic."""

    few_rows_seconds: float = 0.04
    """Estimated seconds of the shortest leaf of a sample in memory; compiled loops take a tenth of the estimate."""

    # ---- tasks

    slab_bytes: int = 16 << 20
    """Bytes of one read, if the layout leaves a choice; the next read is in memory at the same time."""

    read_bytes_per_second: float = 5e8
    """Speed of decoding a compressed store, in bytes of rows, for the estimate of a task's time."""

    shortest_task: float = 0.05
    """Seconds of the shortest task: long beside the milliseconds that a scheduler spends on a task."""

    longest_task: float = 5.0
    """Seconds of the longest task: short enough to balance the work of a pass and to report progress."""

    tasks_per_thread: int = 3
    """Tasks of a pass for each thread, where their times allow it: fewer would leave threads idle at the end."""

    shortest_pass: float = 0.05
    """Seconds of a pass over rows in memory below which setting up threads would take longer than they save."""

    # ---- results for each row

    joined_bytes: int = 1 << 20
    """Bytes of rows, or of their results, up to which small stored chunks are joined to one block of a lazy result: a
    block costs as much time as the computation of about 10 000 rows."""

    many_chunks: int = 1000
    """Stored chunks up to which every chunk is a block of its own in a lazy result."""

    fewest_result_rows: int = 1 << 14
    """Rows of the smallest chunk of stored results: a chunk is a file, and a smaller file costs more to open than to
    read."""

    # ---- graphs

    arity: int = 8
    """Parts that one merge joins."""

    wave_tasks: int = 50_000
    """Tasks of one graph, not counting merges: Dask works badly near twice as many."""

    most_layers: int = 1000
    """Layers of a dask array's graph up to which Dask optimises them as layers, in time quadratic in their number."""

    # ---- memory

    most_shared_bytes: int = 512 << 20
    """Bytes that folds sharing a pass may take in each thread of this process."""

    # ---- rows in memory, for a cluster

    most_carried_bytes: int = 1 << 20
    """Bytes of rows in memory that are sent with every pass; more are sent once, and held by the workers."""

    held_share: float = 0.25
    """Share of the workers' memory that held rows may take: rows that are held cannot be spilled."""

    most_held_bytes: int = 64 << 20
    """Bytes of held rows that one task may read."""

    fewest_pieces: int = 64
    """Smallest number of pieces that held rows are cut into, as far as the sizes of pieces allow."""

    smallest_piece: int = 256 << 10
    """Bytes of the smallest piece of held rows."""

    largest_piece: int = 4 << 20
    """Bytes of the largest piece of held rows."""

    most_task_bytes: int = 64 << 10
    """Bytes of the largest task that is sent with every pass and needed by several blocks; larger tasks are held."""

    message_bytes: int = 64 << 20
    """Bytes of one submission of held rows: the scheduler answers no request while it unpacks a submission."""

    # ---- waiting for a cluster

    look_seconds: float = 2.0
    """Seconds between two looks at the workers of a running pass."""

    most_replays: int = 3
    """Number of times that interrupted work is restarted before the work counts as the cause."""


_lock = threading.Lock()
_changes: list[dict[str, Any]] = []
_current = Tuning()


def current() -> Tuning:
    """Return the record in force in this process."""
    return _current


@contextmanager
def tuned(**changes: Any) -> Iterator[Tuning]:
    """Change some values of the record in force, in all threads of this process, for the length of a ``with`` block.

    Blocks may end in any order: each takes away its own changes.
    """
    _change(lambda: _changes.append(changes))
    try:
        yield _current
    finally:
        _change(lambda: _changes.pop(next(i for i, each in enumerate(_changes) if each is changes)))


def _change(act: Callable[[], Any]) -> None:
    global _current
    with _lock:
        act()
        _current = replace(Tuning(), **{name: value for each in _changes for name, value in each.items()})
