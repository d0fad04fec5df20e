"""The embedded cluster: on this machine alone, and gone with its block."""

import os
import signal
import subprocess
import sys
from unittest import mock

import dask
import dask.array as da
import distributed
import numpy as np
import psutil
import pytest
from clusters import wait_until

from daskgmm import GaussianMixture
from daskgmm.engine.cluster import embedded_cluster, planned_cluster
from daskgmm.errors import SchedulerError, WorkerMemoryError
from daskgmm.events import EngineClosed, IterationFinished, PassStarted, Waiting
from daskgmm.results import write_predictions


@pytest.mark.cluster
def test_an_embedded_cluster(tmp_path):
    me = psutil.Process()
    before = set(me.children(recursive=True))
    rows = np.concatenate([np.random.default_rng(0).normal(c, 1.0, (20_000, 2)) for c in (0.0, 8.0)])
    data = da.from_array(rows, chunks=(10_000, 2))
    expected = GaussianMixture(2, random_state=0).fit(data)
    told = []
    with embedded_cluster(2, 1, "500MB", callbacks=[told.append]) as client:
        assert told == [Waiting("starting 2 worker processes")]
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [(w["nthreads"], w["memory_limit"]) for w in workers] == [(1, 500_000_000)] * 2
        processes = [me, *(set(me.children(recursive=True)) - before)]
        listening = {c.laddr.ip for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        model = GaussianMixture(2, random_state=0, scheduler=client).fit(data)
        np.testing.assert_array_equal(model.means_, expected.means_)
        rows_done = []
        write_predictions(model, data, tmp_path / "out.zarr", callbacks=[rows_done.append])
    assert [type(event).__name__ for event in rows_done][-1] == "EngineClosed"
    left = [p for p in set(me.children(recursive=True)) - before if "resource_tracker" not in " ".join(p.cmdline())]
    assert left == []


@pytest.mark.cluster
def test_a_second_ctrl_c_does_not_wait_for_workers(monkeypatch):
    """It ends what the first one had begun to close; Dask would close it once more, and wait for ever."""
    status_at_close = []
    close = distributed.LocalCluster.close

    def interrupted(self, timeout=None):
        status_at_close.append(self.status.name)
        if len(status_at_close) == 1:
            raise KeyboardInterrupt
        return close(self, timeout)

    def interrupt():
        monkeypatch.setattr(distributed.LocalCluster, "close", interrupted)
        raise KeyboardInterrupt

    before, told = set(psutil.Process().children(recursive=True)), []
    with pytest.raises(KeyboardInterrupt), embedded_cluster(1, 1, None, callbacks=[told.append]):
        interrupt()
    assert told == [Waiting("starting 1 worker process"), EngineClosed(failed=True)]
    assert status_at_close == ["running", "closed"]
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if "resource_tracker" not in " ".join(p.cmdline())]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1, 4), r"memory_limit=4: worker processes of 4 B cannot run.* Did you mean 4GB\? .* 252.63 MiB or more"),
        ((2, 1, "8MB"), r"memory_limit=8MB: .* Did you mean 8GB\?"),
        ((2, 1, 1), r"memory_limit=1: .* Did you mean 1GB\?"),
        ((2, 1, "100MB"), r"memory_limit=100MB: .* Give each worker 252.63 MiB or more"),
        ((100_000, 1), r"100000 worker processes would share this machine's memory, .* Start \d+ or fewer"),
        ((2, 1, "lots"), "memory_limit='lots'; expected a size such as '500MB'"),
        ((0,), "n_workers=0; expected a number of 1 or more"),
        ((1, -1), "threads_per_worker=-1; expected"),
    ],
    ids=str,
)
def test_what_no_worker_can_run_in_is_refused_before_one_starts(monkeypatch, arguments, message):
    monkeypatch.setattr(distributed, "LocalCluster", lambda *args, **kwargs: pytest.fail("workers were started"))
    with pytest.raises(ValueError, match=message), embedded_cluster(*arguments):
        pass
    with pytest.raises(ValueError, match=message):
        planned_cluster(*arguments)


@pytest.mark.parametrize("data", [np.zeros((200_000, 8)), da.from_array(np.zeros((200_000, 8)))])
def test_a_planned_cluster_plans_for_rows_in_memory(data):
    plan = GaussianMixture(2, scheduler=planned_cluster(2, 1, "2GB")).plan(data)
    assert plan.as_record()["n_rows"] == 200_000


def test_a_planned_cluster_plans_and_does_nothing_else():
    cluster = planned_cluster(64, 2, "1GB")
    x = da.zeros((100_000, 3), chunks=(10_000, 3))
    plan = GaussianMixture(2, scheduler=cluster).plan(x)
    assert [(worker.n_threads, worker.limit) for worker in plan.workers] == [(2, 10**9)] * 64
    assert plan.n_threads == 128
    with pytest.raises(WorkerMemoryError, match="1 of 1"):
        GaussianMixture(2, scheduler=planned_cluster(1, 1, "300MB")).plan(da.zeros((2**22, 8), chunks=(2**21, 8)))
    unknown = x[x[:, 0] > 1]
    with pytest.raises(SchedulerError, match=r"compute_chunk_sizes\(\) .* or start the cluster"):
        GaussianMixture(2, scheduler=cluster).plan(unknown)
    with pytest.raises(SchedulerError, match="planned cluster has no worker processes"):
        GaussianMixture(2, scheduler=cluster).fit(x)


WITHOUT_A_GUARD = """
from daskgmm.engine.cluster import embedded_cluster

def run():
    with embedded_cluster(1, 1, "1GB"):
        print("started")

run()
"""
GUARDED = WITHOUT_A_GUARD.replace("\nrun()", "\nif __name__ == '__main__':\n    run()")


def test_a_script_without_a_main_guard(tmp_path):
    """Dask alone would print hundreds of lines, and wait for workers that never come."""
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_A_GUARD)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == (
        "daskgmm.errors.SchedulerError: script.py, line 8, starts worker processes without a main guard. Every worker "
        'imports the script, and would start workers in turn: put what it does below `if __name__ == "__main__":`.'
    )


@pytest.mark.slow
@pytest.mark.cluster
def test_a_script_with_a_main_guard_and_code_that_is_no_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    for program in ([script], ["-c", WITHOUT_A_GUARD]):
        done = subprocess.run([sys.executable, *program], capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def _pause(dask_worker):
    dask_worker.status = distributed.core.Status.paused  # what Dask does at 80 % of the memory limit


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_stay_paused_end_in_an_error():
    """As they do where Python and its packages alone fill most of the memory limit: Dask itself would wait for ever."""
    data = da.random.default_rng(0).normal(size=(20_000, 2), chunks=(10_000, 2))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        dask.config.set({"daskgmm.timeout": "3s"}),
    ):

        def pause(event):
            if isinstance(event, PassStarted) and event.label == "estep":
                client.run(_pause)

        model = GaussianMixture(2, random_state=0, scheduler=client, callbacks=[pause])
        with pytest.raises(SchedulerError, match=r"No worker of .* raise their memory limit"):
            model.fit(data)
        with pytest.raises(SchedulerError, match="has no workers after 3 s"):
            model.fit(data)


# ---- clusters that grow and shrink

ROWS = np.random.default_rng(0).normal(size=(40_000, 2)) + 6 * np.random.default_rng(1).integers(2, size=(40_000, 1))


def model(**parameters):
    return GaussianMixture(2, random_state=0, max_iter=2, tol=0, **parameters)


@pytest.fixture
def empty():
    """A client of a cluster without workers, which are threads of this process."""
    with (
        distributed.LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_cluster_that_scales_with_the_work_may_have_no_workers_before_and_between_passes(empty):
    def shrink(event):
        if isinstance(event, IterationFinished):
            cluster.adapt(minimum=0, maximum=0, interval="50ms", wait_count=1)
            wait_until(lambda: not cluster.scheduler.workers)
            cluster.adapt(minimum=0, maximum=2, interval="50ms", wait_count=1)

    cluster = empty.cluster
    cluster.adapt(minimum=0, maximum=2, interval="50ms", wait_count=1)
    data = da.from_array(ROWS, chunks=(10_000, 2))
    fitted = model(scheduler=empty, callbacks=[shrink]).fit(data)
    assert fitted.lower_bounds_ == model().fit(ROWS).lower_bounds_
    wait_until(lambda: not cluster.scheduler.tasks)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_workers_that_join_later_are_counted_in_the_next_pass(empty, tune):
    n_batches = []

    def grow(event):
        if isinstance(event, PassStarted):
            n_batches.append(event.n_batches)
            empty.cluster.scale(4)
            empty.wait_for_workers(4, timeout=60)

    tune(shortest_task=0.0, longest_leaf=1024)
    empty.cluster.scale(1)
    fitted = model(scheduler=empty, callbacks=[grow]).fit(da.from_array(ROWS, chunks=(1000, 2)))
    assert n_batches[0] < n_batches[1] == n_batches[2]
    assert fitted.lower_bounds_ == model().fit(ROWS).lower_bounds_


def test_workers_that_a_cluster_has_asked_for_are_told(empty):
    with (
        mock.patch.object(type(empty.cluster), "plan", {"first", "second"}),
        dask.config.set({"daskgmm.timeout": "500ms"}),
        pytest.raises(
            SchedulerError, match=r"no workers after 0\.5 s, though its cluster has asked for 2, which may be"
        ),
    ):
        model(scheduler=empty).fit(ROWS)


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_do_not_start_are_told():
    """Dask waits for ever for them, and for ever to end them."""
    hang = {"distributed.worker.preload": ["import time; time.sleep(3600)"], "daskgmm.timeout": "3s"}
    before = set(psutil.Process().children(recursive=True))
    with (
        dask.config.set(hang),
        pytest.raises(SchedulerError, match=r"2 worker processes were to start .* within 3 s"),
        embedded_cluster(2, 1, None),
    ):
        pass
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if "resource_tracker" not in " ".join(p.cmdline())]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_stopped_worker_does_not_outlive_its_cluster():
    with embedded_cluster(2, 1, None) as client:
        pid, _ = client.run(os.getpid).values()
        os.kill(pid, signal.SIGSTOP)
    assert not psutil.pid_exists(pid)
