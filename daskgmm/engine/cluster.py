"""An embedded cluster: worker processes on this machine, for as long as a ``with`` block lasts."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import distributed

_LOOPBACK = "127.0.0.1"  # nobody else on the network can reach it: whoever reaches a scheduler can run code


@contextmanager
def embedded_cluster(
    n_workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: str | int | None = "auto",
    *,
    dashboard: bool = False,
) -> Iterator[distributed.Client]:
    """Client of worker processes on this machine, which end with the block.

    Parameters
    ----------
    n_workers : int, optional
        None: as many as the processors allow with that many threads each.
    threads_per_worker : int, optional
        None: the processors divided among the workers; one each where the number of workers is open, too.
    memory_limit : str or int, optional
        Of each worker, for example ``"1GB"``; ``"auto"``: its share of this machine's memory; None: no limit.
    dashboard : bool, default=False
        Serve Dask's dashboard, on this machine alone. It needs bokeh.

    Yields
    ------
    distributed.Client
        Not the default of this process: pass it on.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = n_workers or max(1, processors // (threads_per_worker or 1))
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads_per_worker or max(1, processors // workers),
            memory_limit=memory_limit,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",  # any free port: a fixed one may be taken
            scheduler_kwargs={"dashboard": dashboard},
            silence_logs=logging.ERROR,  # workers with little memory tell of every pause
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupts())
        yield client


class _IgnoreInterrupts(distributed.WorkerPlugin):  # type: ignore[misc]
    """Leaves Ctrl-C, which a terminal sends to every process, to the one that ends the others."""

    name = "daskgmm-ignore-interrupts"

    def setup(self, worker: distributed.Worker) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
