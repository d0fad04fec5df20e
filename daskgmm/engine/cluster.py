"""An embedded cluster: worker processes on this machine, for as long as a ``with`` block lasts."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import dask
import distributed
from dask.system import CPU_COUNT
from distributed.worker_memory import parse_memory_limit

from ..config import timeout_seconds
from ..data.output_locks import locked
from ..errors import SchedulerError
from .events import EngineClosed, Listener, Waiting
from .main_guard import check_main_guard
from .memory import Worker, check_limit
from .scheduler import Planned

_LOOPBACK = "127.0.0.1"  # out of reach for the network: whoever reaches a scheduler can run code
_SCRATCH = "daskgmm-cluster-"
_START, _STOP = "5min", "60s"  # time limits for workers to start, imports included, and to end

_log = logging.getLogger("daskgmm")


@contextmanager
def embedded_cluster(
    n_workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: str | int | None = "auto",
    *,
    dashboard: bool = False,
    callbacks: Iterable[Listener] = (),
) -> Iterator[distributed.Client]:
    """Start worker processes on this machine, which end with the block, and a client of them.

    Parameters
    ----------
    n_workers : int, optional
        None: the number of processors divided by the threads of each worker.
    threads_per_worker : int, optional
        None: the processors divided among the workers; one thread each where ``n_workers`` is None, too.
    memory_limit : str or int, optional
        Limit of each worker, for example ``"1GB"`` or a number of bytes; ``"auto"``: an equal share of this machine's
        memory; None: no limit.
    dashboard : bool, default=False
        Serve Dask's dashboard, on this machine alone; needs bokeh.
    callbacks : iterable of callable, default=()
        Called with a `Waiting` when worker processes are started, and with an `EngineClosed` where the block fails.

    Yields
    ------
    distributed.Client
        Not the default client of this process: pass the client on.

    Raises
    ------
    WorkerMemoryError
        If ``memory_limit`` is less than a worker process takes before any data. Nothing has been started.
    SchedulerError
        If the workers do not start within 5 minutes, or the configuration value ``daskgmm.timeout``. If the main
        script has no main guard, because each worker imports the script again.
    """
    check_main_guard()
    workers = describe_workers(n_workers, threads_per_worker, memory_limit)
    waiting = Waiting(f"starting {len(workers)} worker process{'es' * (len(workers) > 1)}")
    with (
        _announce(tuple(callbacks), waiting),
        _children_end_with_it(),
        _scratch() as scratch,
        distributed.LocalCluster(
            n_workers=0,  # Dask waits without a bound for workers that it starts here
            threads_per_worker=workers[0].n_threads,
            memory_limit=workers[0].limit or None,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",  # any free port: a fixed port may be taken
            scheduler_kwargs={"dashboard": dashboard, "local_directory": scratch},
            local_directory=scratch,
            silence_logs=logging.ERROR,  # workers with little memory log every pause
        ) as cluster,
        _ended(cluster),
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        cluster.sync(_block_interrupts)
        cluster.scale(len(workers))
        _await(client, len(workers))
        yield client


def planned_cluster(
    n_workers: int | None = None, threads_per_worker: int | None = None, memory_limit: str | int | None = "auto"
) -> Planned:
    """Scheduler for `plan` alone: the cluster that `embedded_cluster` would start, without its processes."""
    return Planned(describe_workers(n_workers, threads_per_worker, memory_limit))


def describe_workers(
    n_workers: int | None, threads_per_worker: int | None, memory_limit: str | int | None
) -> list[Worker]:
    """Worker processes that `embedded_cluster` starts for these arguments.

    Raises
    ------
    ValueError
        If one of the numbers is not positive, or the limit is no size.
    WorkerMemoryError
        If the limit is less than a worker process takes before any data.
    """
    for name, number in (("n_workers", n_workers), ("threads_per_worker", threads_per_worker)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}; expected a number of 1 or more, or None")
    workers = n_workers or max(1, CPU_COUNT // (threads_per_worker or 1))
    limit = _limit(memory_limit, workers)
    check_limit(memory_limit, limit, workers)
    threads = threads_per_worker or max(1, CPU_COUNT // workers)
    return [Worker(f"{number} of {workers}", threads, limit) for number in range(1, workers + 1)]


def _limit(asked: str | int | None, n_workers: int) -> int:
    """Bytes of each worker; 0 for no limit."""
    if not asked:
        return 0
    asked = f"{asked}B" if isinstance(asked, int) else asked  # Dask takes the number 1 for all memory
    try:
        return parse_memory_limit(asked, 1, n_workers, logger=_log) or 0
    except ValueError as error:
        raise ValueError(f"memory_limit={asked!r:.80}; expected a size such as '500MB', '2GB' or '1GiB'") from error


async def _block_interrupts() -> None:
    """Keep Ctrl-C, which a terminal sends to every process, from workers: they inherit the signals a thread blocks.

    This thread starts the workers, and handles no signals of this process. Workers never receive the interrupt; the
    interrupted driver ends them.
    """
    if hasattr(signal, "pthread_sigmask"):
        multiprocessing.resource_tracker.ensure_running()  # its start would unblock the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def _announce(callbacks: tuple[Listener, ...], waiting: Waiting) -> Iterator[None]:
    """Send an event at the beginning of the block, and another event where the block fails."""
    for callback in callbacks:
        callback(waiting)
    try:
        yield
    except BaseException:
        for callback in callbacks:
            callback(EngineClosed(failed=True))
        raise


def _await(client: distributed.Client, n_workers: int) -> None:
    limit = timeout_seconds(_START)
    try:
        client.wait_for_workers(n_workers, timeout=limit)
    except TimeoutError as error:
        raise SchedulerError(
            f"{n_workers} worker processes were to start on this machine, and did not within {limit:g} s ({error}). "
            "Start fewer, or wait longer for them: dask.config.set({'daskgmm.timeout': '10min'})."
        ) from error


@contextmanager
def _ended(cluster: distributed.LocalCluster) -> Iterator[None]:
    """Close the cluster within a time limit: Dask waits for ever for a worker process that never comes up."""
    try:
        yield
    finally:
        try:
            cluster.close(timeout=timeout_seconds(_STOP))
        except TimeoutError:
            _log.warning("The worker processes on this machine did not end, and are killed")
        finally:  # also after a second Ctrl-C: nothing is left to wait for
            for nanny in cluster.workers.values():
                nanny.close_gracefully("daskgmm-cluster-ends")  # a nanny in this state does not restart a killed worker
            cluster.status = distributed.core.Status.closed


@contextmanager
def _children_end_with_it() -> Iterator[None]:
    """Kill worker processes that are still there when the block has ended."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for process in set(multiprocessing.active_children()) - before:
            if process.name.startswith("Dask Worker process"):
                process.kill()
                process.join(10)


@contextmanager
def _scratch() -> Iterator[str]:
    """Make a new directory that nobody else can enter, for files that workers spill; removed with the block.

    Dask's own directory is ``dask-scratch-space`` below the temporary directory. Whoever makes that directory first
    owns it, and can replace spilled files, which workers unpickle, and add modules, because Dask's servers, here too,
    put the directory first on ``sys.path``.
    """
    parent = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    _remove_left(parent)
    with ExitStack() as stack:
        yield _held(parent, stack)


def _held(parent: str, stack: ExitStack) -> str:
    while True:
        # After an interrupt a worker may still write for a moment: the next cluster removes such remains.
        made = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True)
        directory = stack.enter_context(made)
        try:
            stack.enter_context(locked(directory))
        except (FileNotFoundError, BlockingIOError):
            continue  # another process took it for a remainder before it was locked
        except OSError:
            return directory  # no locks on this file system, so no process removes remains
        if os.path.exists(directory):
            return directory


def _remove_left(parent: str) -> None:
    """Remove directories that killed processes of this user left: those that nobody has locked."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if re.fullmatch(_SCRATCH + r"\w{8}", entry.name) and _is_ours(entry):
                with suppress(OSError), locked(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return hasattr(os, "geteuid") and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    return False
