"""An embedded cluster: worker processes on this machine, for as long as a ``with`` block lasts."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import dask
import distributed

from ..data.claims import locked

_LOOPBACK = "127.0.0.1"  # nobody else on the network can reach it: whoever reaches a scheduler can run code
_SCRATCH = "daskgmm-cluster-"


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
        _scratch() as scratch,
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads_per_worker or max(1, processors // workers),
            memory_limit=memory_limit,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",  # any free port: a fixed one may be taken
            scheduler_kwargs={"dashboard": dashboard, "local_directory": scratch},
            local_directory=scratch,
            silence_logs=logging.ERROR,  # workers with little memory tell of every pause
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupts())
        yield client


@contextmanager
def _scratch() -> Iterator[str]:
    """A new directory that nobody else can enter, for what workers spill; gone with the block.

    Dask's own is ``dask-scratch-space`` below the temporary directory. Whoever makes that first owns it: he can put
    files in the place of those that workers spilled and will unpickle, and modules, because Dask's servers, which are
    in this process too, put it before everything else on ``sys.path``.
    """
    parent = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    _remove_left(parent)
    with ExitStack() as stack:
        yield _held(parent, stack)


def _held(parent: str, stack: ExitStack) -> str:
    while True:
        # An interrupt may leave a worker that still writes for a moment: what stays then, the next cluster removes.
        made = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True)
        directory = stack.enter_context(made)
        try:
            stack.enter_context(locked(directory))
        except (FileNotFoundError, BlockingIOError):
            continue  # taken for one that was left, before it was held
        except OSError:
            return directory  # no locks on this file system, so nobody removes what others left
        if os.path.exists(directory):
            return directory


def _remove_left(parent: str) -> None:
    """Remove what processes left that were killed: such directories of ours that nobody holds."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if re.fullmatch(_SCRATCH + r"\w{8}", entry.name) and _is_ours(entry):
                with suppress(OSError), locked(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return hasattr(os, "geteuid") and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    return False


class _IgnoreInterrupts(distributed.WorkerPlugin):  # type: ignore[misc]
    """Leaves Ctrl-C, which a terminal sends to every process, to the one that ends the others."""

    name = "daskgmm-ignore-interrupts"

    def setup(self, worker: distributed.Worker) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
