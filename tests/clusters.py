"""What the tests of faults share: real schedulers and workers in processes of their own, and ways to end them."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time

import dask
import dask.array as da
import distributed
import numpy as np
import psutil
import zarr

from daskgmm import GaussianMixture
from daskgmm.events import BatchFinished, PassFinished, PassStarted
from daskgmm.tuning import tuned

N, ROWS = 40_000, 2500


def overlapping(n=N, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 3)) + np.array([[0, 0, 0], [4, 1, 0], [0, 5, 2]])[rng.randint(3, size=n)]


X = overlapping()


@contextlib.contextmanager
def small_tasks():
    """Several tasks a pass, levels of merges, and rows that are sent once; nothing to compile in new processes."""
    with (
        dask.config.set({"daskgmm.compiled": False}),
        tuned(
            shortest_task=0.0,
            longest_task=1e-9,
            most_carried_bytes=0,
            arity=2,
            longest_leaf=4096,
            fewest_result_rows=1,
        ),
    ):
        yield


def model(**parameters):
    return GaussianMixture(3, **({"random_state": 0, "max_iter": 2, "tol": 0} | parameters))


def assert_same_bits(one, other):
    assert one.lower_bounds_ == other.lower_bounds_
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(true, seconds=60):
    """Wait for what a process is to do; the bound is there so that no test hangs."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


_server = multiprocessing.get_context("forkserver")  # what a process takes to start is its imports, made once
_server.set_forkserver_preload(
    ["daskgmm.estimators.selection", "distributed.http.scheduler.info", "psutil", "zarr.codecs"]
)


def _begin(log, config):
    dask.config.set(config)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _be_scheduler(log, config, security, port):
    async def serve():
        async with distributed.Scheduler(
            host="127.0.0.1", port=port, dashboard=False, dashboard_address="127.0.0.1:0", security=security
        ) as scheduler:
            await scheduler.finished()

    _begin(log, config)
    asyncio.run(serve())


def _be_worker(log, config, security, address, n_threads):
    async def serve():
        async with distributed.Worker(
            address, nthreads=n_threads, memory_limit=0, dashboard=False, host="127.0.0.1", security=security
        ) as worker:
            await worker.finished()

    _begin(log, config)
    asyncio.run(serve())


class Processes:
    """A scheduler and workers without nannies: each a process that can be killed."""

    def __init__(self, folder, security=None, config=None, n_threads=1):
        self._common = str(folder / "log.txt"), config or {}, security
        self._security, self._n_threads, self._started = security, n_threads, []
        self._port = free_port()
        self.address = f"{'tcp' if security is None else 'tls'}://127.0.0.1:{self._port}"
        self.workers = []

    def start(self, n_workers):
        self.scheduler = self._start(_be_scheduler, self._port)
        for _ in range(n_workers):
            self.start_worker()
        return self

    def start_worker(self):
        self.workers.append(self._start(_be_worker, self.address, self._n_threads))

    def connect(self, n_workers=1, **options):
        """A client, when there are so many workers."""
        with distributed.Client(self.address, set_as_default=False, security=self._security, timeout=60) as client:
            client.wait_for_workers(n_workers, timeout=60)
        return distributed.Client(self.address, set_as_default=False, security=self._security, **options)

    def kill_scheduler(self):
        """Its workers end themselves."""
        kill(self.scheduler.pid)
        self.scheduler.join(60)

    def restart(self, n_workers=1):
        """As a supervisor would, at the same address."""
        for process in self.workers:
            process.kill()  # they would end by themselves, some seconds later
        self.workers.clear()
        self.start(n_workers)

    def end(self):
        for process in self._started:
            process.kill()
        for process in self._started:
            process.join(60)
            process.close()

    def _start(self, target, *arguments):
        process = _server.Process(target=target, args=(*self._common, *arguments))
        process.start()
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def supervised(self):
        """Workers that die are replaced, while the block lasts."""
        ended = threading.Event()

        def supervise():
            while not ended.wait(0.05):
                for worker in [worker for worker in self.workers if not worker.is_alive()]:
                    self.workers.remove(worker)
                    self.start_worker()

        supervisor = threading.Thread(target=supervise)
        supervisor.start()
        try:
            yield
        finally:
            ended.set()
            supervisor.join()


@contextlib.contextmanager
def processes(folder, n_workers=1, **options):
    started = Processes(folder, **options)
    try:
        yield started.start(n_workers)
    finally:
        started.end()


def settle(collection):
    """Wait for what is persisted."""
    for future in distributed.client.futures_of(collection):
        future.result(60)


def pids(client):
    """Process of each worker, by its address."""
    return client.run(os.getpid)


def kill(pid):
    """And wait until it is gone: what a parent has not looked at yet counts as gone."""
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)


class DieOfRows(distributed.WorkerPlugin):
    """Ends the worker's process whenever it reads that row of a store."""

    name = "die-of-rows"

    def __init__(self, row):
        self.row = row

    def setup(self, worker):
        from daskgmm.data.stored_rows import StoredRows

        read = StoredRows.__getitem__

        def die(stored, rows):
            if rows.start <= self.row < rows.stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(stored, rows)

        StoredRows.__getitem__ = die


class DieOnceWhileWriting(distributed.WorkerPlugin):
    """Ends the worker's process when it has written a chunk but not yet given it its name; only where a flag is."""

    def __init__(self, flag):
        self.flag = flag

    def setup(self, worker):
        from pathlib import Path

        replace = Path.replace

        def die(path, target):
            if path.suffix == ".partial":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.flag)
                    os.kill(os.getpid(), signal.SIGKILL)
            return replace(path, target)

        Path.replace = die


# ---- ways to strike in the middle of a pass


def hold(block, gate):
    """Wait as long as the gate is closed: what began before it was shut is not done before it is opened."""
    deadline = time.monotonic() + 60
    while os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.01)
    return block


class Strike:
    """A callback that does something at one moment, when a pass has still tasks to do."""

    def __init__(self, moment, act, gate):
        (self.kind, self.label, self.number), self.act, self.gate = moment, act, gate
        self.seen, self.done, self.heard = 0, False, []

    def __call__(self, event):
        self.heard.append(event)
        if self.done:
            return
        if type(event) is not self.kind or getattr(event, "label", "") != self.label:
            return
        self.seen += 1
        if self.seen == self.number:
            self.done = True
            self.gate.touch()
            try:
                self.act()
            finally:
                self.gate.unlink()


def gated(gate):
    """The rows, in blocks that wait where a gate is closed."""
    return da.from_array(X, chunks=(ROWS, 3)).map_blocks(hold, gate=str(gate), dtype=X.dtype, meta=X[:0])


def check_events(heard):
    """Whatever happened, the rows of each pass are told once."""
    rows = n_passes = 0
    for event in heard:
        match event:
            case PassStarted():
                rows = 0
            case BatchFinished():
                rows += event.n_rows
            case PassFinished():
                assert rows == event.n_rows == N
                n_passes += 1
    return n_passes


def check_results(path, fitted, folder):
    results = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(results["labels"][:], fitted.predict(X))
    np.testing.assert_array_equal(results["probabilities"][:], fitted.predict_proba(X))
    names = [name for _, _, files in os.walk(folder) for name in files]
    assert not [name for name in names if "partial" in name or "discarded" in name]
    assert {name for name in os.listdir(folder) if "out" in name} == {path.name}
