"""What may pile up, counted while the run goes on."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, LocalCluster

SAMPLING = 1.0  # seconds
SETTLING = 120.0  # seconds, for a worker to be started again and for tasks to be forgotten
RECENT = 60.0  # seconds in which workers still tell the scheduler what they did in a span

Counts = dict[str, int]


@dataclass(frozen=True)
class Sample:
    """Resident sets at one time, in bytes, and how many workers had died by then."""

    seconds: float
    driver: int
    """With the scheduler and the nannies, which are in the same process."""
    spared: int
    others: list[int]
    deaths: int


@dataclass
class Watch:
    """Counts of one cluster and of this process.

    Parameters
    ----------
    cluster : LocalCluster
    client : Client
    spared : object
        Name of the worker that lives as long as the cluster.
    n_workers : int
    """

    cluster: LocalCluster
    client: Client
    spared: Any
    n_workers: int
    begin: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def elapsed(self) -> float:
        return time.monotonic() - self.begin

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Take samples while the block runs."""
        finished = threading.Event()

        def sample() -> None:
            while not finished.wait(SAMPLING):
                self.samples.append(self._sample())

        sampler = threading.Thread(target=sample, name="soak-sampler")
        sampler.start()
        try:
            yield
        finally:
            finished.set()
            sampler.join()

    def _sample(self) -> Sample:
        pids = {name: nanny.pid for name, nanny in list(self.cluster.workers.items())}
        others = [_resident(pid) for name, pid in pids.items() if name != self.spared]
        deaths = self.client.run_on_scheduler(_deaths)
        return Sample(self.elapsed(), _resident(os.getpid()), _resident(pids[self.spared]), others, deaths)

    def settle(self) -> None:
        """Wait until all workers are there and the scheduler holds no tasks, or until they took too long."""
        deadline = time.monotonic() + SETTLING
        while time.monotonic() < deadline:
            counts = self.client.run_on_scheduler(_scheduler_state)
            if not counts["tasks"] and counts["workers"] == self.n_workers:
                return
            self.cluster.scale(self.n_workers)  # a nanny that is lost with its worker is replaced here
            time.sleep(SAMPLING / 5)
        nannies = {name: nanny.status.name for name, nanny in self.cluster.workers.items()}
        raise SystemExit(
            f"after {SETTLING:g} s the scheduler still has {counts}; there should be {self.n_workers} workers and no "
            f"tasks. Nannies: {nannies}"
        )

    def forget(self) -> None:
        """Take away what Dask keeps of each graph that it ever computed (dask/distributed#7977).

        The scheduler keeps its span and groups of tasks, and workers keep sums of seconds and bytes by span. That has
        no bound, whoever computes; what grows besides is to be seen.
        """
        self.client.run_on_scheduler(_forget_spans)
        self.client.run(_forget_timings, workers=[self.cluster.workers[self.spared].worker_address])

    def census(self) -> Counts:
        """Everything that should be as it was after any other round."""
        gc.collect()
        state = self.client.run_on_scheduler(_scheduler_state)
        told = {f"scheduler: {name}": count for name, count in state.items() if name != "workers"}
        this, spared = psutil.Process(), psutil.Process(self.cluster.workers[self.spared].pid)
        return {
            **told,
            "driver: futures": len(self.client.futures),
            "driver: handlers of topics": len(self.client._event_handlers),
            "driver: threads": this.num_threads(),
            "driver: file descriptors": this.num_fds(),
            "driver: processes below": len(this.children(recursive=True)),
            "worker: threads": spared.num_threads(),
            "worker: file descriptors": spared.num_fds(),
        }


def _resident(pid: int | None) -> int:
    with suppress(psutil.NoSuchProcess, TypeError):
        return psutil.Process(pid).memory_info().rss if pid else 0
    return 0


def _deaths(dask_scheduler: Any = None) -> int:
    return int(dask_scheduler._workers_removed_total)


def _scheduler_state(dask_scheduler: Any = None) -> Counts:
    # Dask keeps the topics of workers and clients that are gone for an hour; they are its own.
    topics = [name for name in dask_scheduler.get_events() if "://" not in name and not name.startswith("Client-")]
    return {
        "workers": len(dask_scheduler.workers),
        "tasks": len(dask_scheduler.tasks),
        "groups of tasks": len(dask_scheduler.task_groups),
        "past spans": sum(
            span.enqueued < time.time() - 2 * RECENT for span in dask_scheduler.extensions["spans"].spans.values()
        ),
        "prefixes of tasks": len(dask_scheduler.task_prefixes),
        "topics": len(topics),
        "clients": len(dask_scheduler.clients),
        "plugins": len(dask_scheduler.plugins),
        "plugins for workers": len(dask_scheduler.worker_plugins) + len(dask_scheduler.nanny_plugins),
    }


def _forget_spans(dask_scheduler: Any = None) -> None:
    extension = dask_scheduler.extensions["spans"]
    before = time.time() - RECENT
    past = {name for name, span in extension.spans.items() if span.done and span.enqueued < before}
    for name in past:
        del extension.spans[name]
    by_name, by_tag = extension.spans_search_by_name.values(), extension.spans_search_by_tag.values()
    for spans in (extension.root_spans, *by_name, *by_tag):
        spans[:] = [span for span in spans if span.id not in past]


def _forget_timings(dask_worker: Any = None) -> None:
    for digests in (dask_worker.digests_total, dask_worker.digests_max):
        for key in [key for key in digests if isinstance(key, tuple)]:
            del digests[key]


def files_below(folder: Path) -> list[str]:
    """Names of everything in a folder, hidden or not; of Dask's scratch space only that it is there."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def processes_below() -> list[str]:
    """Command lines of the processes that this one has started and that still run; not multiprocessing's own."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if "resource_tracker" not in line and process.status() != psutil.STATUS_ZOMBIE:
                lines.append(line[:200])
    return lines
