"""Memory of a pass, computed before the pass runs and compared with the limits of the workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import psutil
from dask.utils import format_bytes

from ..data.dataset import Dataset
from ..data.row_cache import kept_bytes
from ..errors import WorkerMemoryError
from ..tuning import Tuning
from .fold import Costs

Array = np.ndarray[Any, np.dtype[Any]]

#: Memory of a worker process with Python, Dask, Zarr and this library, before any data.
PROCESS_BYTES = 240 << 20

#: Freed memory that malloc keeps for each thread while tasks run, at most (`daskgmm.engine.malloc`).
MOST_KEPT_FREE = 64 << 20

_LARGEST_SLIP = 64
"""Largest number of gigabytes that is suggested for a limit with a missing or a too small unit."""


@dataclass(frozen=True)
class TaskMemory:
    """The most that one task holds at a time, in bytes."""

    slabs: int
    """Rows in computation and rows that are being read, with everything that reading allocates."""

    leaves: int
    """Copied rows of leaves that lie in several tasks."""

    work: int
    """Scratch arrays."""

    values: int
    """Sums of leaves."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.slabs + self.leaves + self.work + self.values


def task_memory(dataset: Dataset, fold: Costs, edges: Array, tuning: Tuning) -> TaskMemory:
    """Memory of the largest task of a pass.

    Parameters
    ----------
    dataset : Dataset
    fold : Costs
    edges : numpy.ndarray
        Row numbers where batches begin, and where the last batch ends.
    tuning : Tuning
    """
    arity = tuning.arity
    slabs = _slab_bytes(dataset, int(np.diff(edges).max()), tuning.slab_bytes)
    leaf = min(fold.leaf_rows, dataset.n_rows) * dataset.row_bytes
    # A leaf that lies in two tasks is copied where they end, and put together where they meet.
    shared = bool(np.any(edges[1:-1] % fold.leaf_rows))
    leaves_of_task = max(1.0, float(np.diff(edges).max()) / fold.leaf_rows)
    nodes = 3 + math.ceil(math.log2(leaves_of_task))  # one of each level, and two that are joined to a third
    batch = TaskMemory(slabs, 3 * leaf * shared, fold.work_bytes, nodes * fold.value_bytes)
    # A batch that ends inside leaves may hand over two nodes of each level.
    handed_over = 2 * nodes if shared else 1
    values = (arity * handed_over + nodes) * fold.value_bytes
    merge = TaskMemory(0, (2 * arity + 1) * leaf * shared, fold.work_bytes * shared, values)
    return max(batch, merge, key=lambda task: task.total)


def _slab_bytes(dataset: Dataset, batch_rows: int, slab_bytes: int) -> int:
    rows = dataset.longest_slab(batch_rows, slab_bytes)
    reading = sum(source.reading_bytes(rows) for source in dataset.sources)
    if dataset.reads_ahead and rows < batch_rows:
        reading += sum(rows * source.row_bytes for source in dataset.sources)
    return reading + dataset.held_bytes(batch_rows)


def target_share() -> float:
    """Share of the memory limit at which Dask begins to free a worker's memory."""
    return float(dask.config.get("distributed.worker.memory.target", 0.6) or 0.6)


def spare_bytes(workers: Sequence[Worker], plans: Sequence[PassPlan], n_threads: int, held_bytes: int = 0) -> int:
    """Memory that passes leave to each process for other uses.

    Of a worker, that is what is left of its limit below the share at which Dask begins to free memory. Workers without
    a limit count as if they shared this machine's memory. Where there are no workers, it is half of what this machine
    has left.

    Parameters
    ----------
    workers : sequence of Worker
    plans : sequence of PassPlan
    n_threads : int
        Threads of this process, where there are no workers.
    held_bytes : int
        Rows that all workers together hold anyway.
    """
    task = max(plan.task.total + plan.reused_bytes for plan in plans)
    if not workers:
        return max(0, (_left_bytes() - n_threads * task) // 2)
    process = max(plan.process_bytes for plan in plans) + held_bytes // len(workers)
    limits = {worker: worker.limit or machine_bytes() // len(workers) for worker in workers}
    left = min(int(target_share() * limit) - process - worker.n_threads * task for worker, limit in limits.items())
    return max(0, left)


def has_room_here(n_bytes: int) -> bool:
    """Test for room for more kept rows in this process: all of its caches hold no more than this machine has left."""
    return kept_bytes() + n_bytes <= _left_bytes() - n_bytes


def _left_bytes() -> int:
    """Memory that this process may still take."""
    return min(psutil.virtual_memory().available, machine_bytes() - psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class PassPlan:
    """Division of a pass into tasks, and memory of a task."""

    n_batches: int
    batch_rows: int
    """Rows of the longest batch."""
    slab_rows: int
    """Rows that are read at once, at most."""
    leaf_rows: int
    """Rows of a leaf."""
    task: TaskMemory
    process_bytes: int
    """Memory of a process before any data."""
    reused_bytes: int = 0
    """Freed memory that malloc keeps for the next slab of a task; a worker with little room gives it back."""


def machine_bytes() -> int:
    """Memory that this process may use: that of the machine, or of the container that confines the process."""
    from distributed.system import MEMORY_LIMIT  # takes long to import, and is rarely needed

    return int(MEMORY_LIMIT)


def plan_pass(dataset: Dataset, costs: Costs, edges: Array, tuning: Tuning) -> PassPlan:
    """Plan of a pass whose batches begin at ``edges``; see `task_memory`."""
    batch_rows = int(np.diff(edges).max())
    task = task_memory(dataset, costs, edges, tuning)
    return PassPlan(
        n_batches=len(edges) - 1,
        batch_rows=batch_rows,
        slab_rows=dataset.longest_slab(batch_rows, tuning.slab_bytes),
        leaf_rows=costs.leaf_rows,
        task=task,
        process_bytes=PROCESS_BYTES + costs.process_bytes,
        # Slabs are freed by the thread that computes; the next ones are allocated by the thread that reads.
        reused_bytes=(1 + dataset.reads_ahead) * min(MOST_KEPT_FREE, task.total),
    )


@dataclass(frozen=True)
class Worker:
    """A worker process, running or planned."""

    address: str
    n_threads: int
    limit: int
    """Bytes; 0 for none."""


def check_limit(asked: Any, limit: int, n_workers: int) -> None:
    """Raise if a worker process cannot even be started.

    Parameters
    ----------
    asked : str or int
        The user's limit, or ``"auto"`` for a share of this machine's memory.
    limit : int
        Limit in bytes; 0 for none.
    n_workers : int

    Raises
    ------
    WorkerMemoryError
        If the limit is less than the memory of Python and packages.
    """
    least = math.ceil(PROCESS_BYTES / _usable_share())
    if not limit or limit >= least:
        return
    takes = f"Python and packages take {format_bytes(PROCESS_BYTES)} of each before any data"
    if asked == "auto":
        most = max(1, limit * n_workers // least)
        raise WorkerMemoryError(
            f"{n_workers} worker processes would share this machine's memory, {format_bytes(limit)} each, and {takes}. "
            f"Start {most} or fewer."
        )
    meant = _larger_unit(limit)
    raise WorkerMemoryError(
        f"memory_limit={asked}: worker processes of {format_bytes(limit)} cannot run, because {takes}. "
        + (f"Did you mean {meant}? " if meant else "")
        + f"Give each worker {format_bytes(least)} or more."
    )


def _larger_unit(size: int) -> str:
    """Size in gigabytes that the user may have meant by a size in a smaller unit; empty where none is likely."""
    for base, unit in ((1000, "GB"), (1024, "GiB")):
        number = size
        while number % base == 0:
            number //= base
        if number <= _LARGEST_SLIP:
            return f"{number}{unit}"
    return ""


def _usable_share() -> float:
    """Share of the memory limit above which Dask kills a worker."""
    return float(dask.config.get("distributed.worker.memory.terminate", 0.95) or 1.0)


def check_memory(workers: Sequence[Worker], plan: PassPlan, held_bytes: int = 0) -> None:
    """Raise unless a pass fits into the workers.

    Parameters
    ----------
    workers : sequence of Worker
    plan : PassPlan
    held_bytes : int
        Rows that all workers together hold for the length of a fit; they stay in memory, however Dask spills.

    Raises
    ------
    WorkerMemoryError
        If a worker would come so near its limit that Dask kills it.
    """
    fraction = _usable_share()
    for worker in workers:
        # Not the memory in use now: results and persisted data can go to disk, and freed memory may still be counted.
        held = held_bytes // len(workers)
        needed = plan.process_bytes + held + worker.n_threads * plan.task.total
        if worker.limit and needed > fraction * worker.limit:
            raise WorkerMemoryError(_message(worker, plan, held, needed, fraction))


def _message(worker: Worker, plan: PassPlan, held: int, needed: int, fraction: float) -> str:
    task, base = plan.task, plan.process_bytes + held
    threads = int((fraction * worker.limit - base) // max(1, task.total))
    remedies = [f"give each worker {format_bytes(math.ceil(needed / fraction))} or more"]
    if threads >= 1:
        remedies.append(f"start it with {threads} thread{'s' * (threads > 1)}")
    if task.slabs > task.work + task.values:
        remedies.append("store the data in chunks of fewer rows")
    else:
        remedies.append("use fewer components, or a covariance_type with fewer parameters")
    return (
        f"A pass would take {format_bytes(needed)} of worker {worker.address}, whose limit is "
        f"{format_bytes(worker.limit)}: {format_bytes(plan.process_bytes)} for Python and packages, "
        f"{f'{format_bytes(held)} for rows that were in memory, ' if held else ''}and in each of "
        f"{worker.n_threads} threads {format_bytes(task.total)} ({format_bytes(task.slabs)} for rows as they are read, "
        f"{format_bytes(task.leaves)} for rows at the ends of tasks, {format_bytes(task.work)} for work arrays, "
        f"{format_bytes(task.values)} for sums). To make it fit, {', or '.join(remedies)}."
    )
