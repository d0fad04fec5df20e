"""Workers that are killed, stopped or short of memory in the middle of what they do: the same bits, or an error."""

import contextlib
import os
import re
import signal
import threading

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import zarr
from clusters import (
    ROWS,
    DieOfRows,
    DieOnceWhileWriting,
    N,
    Strike,
    X,
    assert_same_bits,
    check_events,
    check_results,
    gated,
    hold,
    kill,
    model,
    pids,
    processes,
    settle,
    small_tasks,
    wait_until,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture, select
from daskgmm.errors import SchedulerError
from daskgmm.events import BatchFinished, IterationFinished, PassStarted
from daskgmm.results import write_predictions

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::daskgmm.errors.InterruptedWarning"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module", autouse=True)
def several_tasks():
    with small_tasks():
        yield


@pytest.fixture(scope="module")
def expected():
    return model().fit(X)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(ROWS, 3))[...] = X
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with processes(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(three):
    """Three workers without nannies, whatever became of those of the test before."""
    three.workers = [worker for worker in three.workers if worker.is_alive()]
    while len(three.workers) < 3:
        three.start_worker()
    with three.connect(3):
        yield three


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "closed"


# ---- killed


MOMENTS = {
    "before the survey": (PassStarted, "survey", 1),
    "in the survey": (BatchFinished, "survey", 2),
    "before an E-step": (PassStarted, "estep", 1),
    "in an E-step": (BatchFinished, "estep", 3),
    "in its merges": (BatchFinished, "estep", 16),
    "between E-steps": (IterationFinished, "", 1),
    "in the last E-step": (BatchFinished, "estep", 20),
}
OFTEN = {"in the survey", "in an E-step", "in its merges"}


def kill_one(cluster):
    kill(cluster.workers[0].pid)


def kill_all_but_one(cluster):
    for worker in cluster.workers[1:]:
        kill(worker.pid)


def replace_all(cluster):
    for worker in cluster.workers:
        kill(worker.pid)
    cluster.start_worker()


@pytest.mark.covering
@pytest.mark.parametrize("act", [pytest.param(kill_one, marks=pytest.mark.slow), kill_all_but_one, replace_all])
@pytest.mark.parametrize(
    "moment", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS]
)
def test_killed_workers_change_no_bit(moment, act, cluster, gate, expected):
    strike = Strike(MOMENTS[moment], lambda: act(cluster), gate)
    fitted = model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate))
    assert strike.done
    assert_same_bits(fitted, expected)
    assert check_events(strike.heard) == fitted.n_passes_ == 3


@pytest.mark.parametrize("act", [pytest.param(kill_one, marks=pytest.mark.slow), replace_all])
def test_killed_workers_that_read_a_store(act, cluster, gate, files, expected):
    strike = Strike((BatchFinished, "estep", 1), lambda: act(cluster), gate)
    fitted = model(scheduler=cluster.address, callbacks=[strike]).fit(files)
    assert strike.done
    assert_same_bits(fitted, expected)
    assert check_events(strike.heard) == 3


@pytest.mark.slow
def test_workers_that_nannies_replace(gate, expected):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        before = set(pids(client).values())
        strike = Strike((BatchFinished, "estep", 1), lambda: [kill(pid) for pid in before], gate)
        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(gated(gate)), expected)
        assert strike.done
        assert not before & set(pids(client).values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # by Dask, of workers that were killed
@pytest.mark.filterwarnings("ignore:(?s).*unclosed .*socket:pytest.PytestUnraisableExceptionWarning")
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(strikes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_workers_killed_at_any_moments(strikes, three, expected):
    """Lists of (which event, how many workers die, how many come instead)."""
    plan = {moment: (n_killed, n_new) for moment, n_killed, n_new in strikes}
    events = []

    def strike(event):
        events.append(event)
        n_killed, n_new = plan.get(len(events), (0, 0))
        alive = [worker for worker in three.workers if worker.is_alive()]
        for worker in alive[:n_killed]:
            kill(worker.pid)
        for _ in range(max(n_new, n_killed >= len(alive))):
            three.start_worker()

    if not any(worker.is_alive() for worker in three.workers):
        three.start_worker()
    fitted = model(scheduler=three.address, callbacks=[strike]).fit(da.from_array(X, chunks=(ROWS, 3)))
    assert_same_bits(fitted, expected)
    assert check_events(events) == 3


@pytest.mark.parametrize("work", ["score", pytest.param("bic", marks=pytest.mark.slow)])
def test_killed_workers_change_no_score(work, cluster, gate, expected):
    score = getattr(expected, work)(X)
    strike = Strike((BatchFinished, "score", 2), lambda: kill_all_but_one(cluster), gate)
    fitted = model(scheduler=cluster.address).fit(da.from_array(X, chunks=(ROWS, 3)))
    fitted.set_params(callbacks=[strike])
    assert getattr(fitted, work)(gated(gate)) == score
    assert strike.done


def test_workers_killed_while_lengths_are_counted(cluster, gate, tmp_path, expected):
    started = tmp_path / "started"

    def kill_some():
        wait_until(started.exists)
        kill_all_but_one(cluster)
        gate.unlink()

    gate.touch()
    counted = da.from_array(X, chunks=(ROWS, 3)).map_blocks(
        mark_and_hold, gate=str(gate), started=str(started), dtype=X.dtype, meta=X[:0], chunks=((np.nan,) * 16, (3,))
    )
    killer = threading.Thread(target=kill_some)
    killer.start()
    fitted = model(scheduler=cluster.address).fit(counted)
    killer.join()
    assert_same_bits(fitted, expected)
    assert fitted.n_passes_ == 4


def mark_and_hold(block, gate, started):
    with open(started, "a"):
        return hold(block, gate)


def test_killed_workers_change_no_selection(cluster, gate):
    keys = [1, 2, 3]
    estimator = GaussianMixture(random_state=0, max_iter=3, tol=0)
    expected = select(X, keys, estimator=estimator)
    strike = Strike((BatchFinished, "estep", 20), lambda: kill_all_but_one(cluster), gate)
    found = select(gated(gate), keys, estimator=estimator, scheduler=cluster.address, callbacks=[strike])
    assert strike.done
    assert found.best == expected.best
    for key, fitted in expected.models.items():
        assert_same_bits(found.models[key], fitted)


# ---- results


@pytest.mark.parametrize("act", [kill_all_but_one, pytest.param(replace_all, marks=pytest.mark.slow)])
def test_killed_workers_change_no_results(act, cluster, gate, tmp_path, expected):
    strike = Strike((BatchFinished, "predict", 1), lambda: act(cluster), gate)
    fitted = model(scheduler=cluster.address).fit(da.from_array(X, chunks=(ROWS, 3)))
    write_predictions(fitted, gated(gate), tmp_path / "out.zarr", probabilities=True, callbacks=[strike])
    assert strike.done
    assert check_events(strike.heard) == 1
    check_results(tmp_path / "out.zarr", expected, tmp_path)


def test_a_worker_killed_while_it_writes_a_chunk_leaves_nothing(cluster, tmp_path, expected):
    flag = tmp_path / "flag"
    fitted = model(scheduler=cluster.address).fit(da.from_array(X, chunks=(ROWS, 3)))
    with cluster.connect(3) as client:
        client.register_plugin(DieOnceWhileWriting(str(flag)))
        flag.touch()
        write_predictions(fitted, da.from_array(X, chunks=(ROWS, 3)), tmp_path / "out.zarr", probabilities=True)
    assert not flag.exists()
    assert sum(not worker.is_alive() for worker in cluster.workers) == 1
    check_results(tmp_path / "out.zarr", expected, tmp_path)


# ---- tasks that workers die of


def die(block, row, block_info=None):
    start, stop = block_info[0]["array-location"][0]
    if start <= row < stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def deadly(row):
    return da.from_array(X, chunks=(ROWS, 3)).map_blocks(die, row=row, dtype=X.dtype, meta=X[:0])


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """Two workers with two threads, and a scheduler that gives a task up when a second worker died with it."""
    config = {"distributed.scheduler.allowed-failures": 1}
    with (
        processes(tmp_path_factory.mktemp("impatient"), 2, config=config, n_threads=2) as cluster,
        cluster.supervised(),
    ):
        yield cluster


def is_named(error, row, text):
    """Whether a message names rows with that row, few of them, and what to do."""
    ((first, last),) = [map(int, found) for found in re.findall(r"rows (\d+) to (\d+) of", str(error))]
    return first <= row < last <= first + 2 * ROWS and text in str(error) and "fewer threads" in str(error)


@pytest.mark.parametrize(
    "row", [pytest.param(0, marks=pytest.mark.slow), 23_456, pytest.param(N - 1, marks=pytest.mark.slow)]
)
def test_rows_that_end_every_worker_are_named(row, impatient):
    with pytest.raises(SchedulerError, match=r"The workers of .* die of rows") as caught:
        model(scheduler=impatient.address).fit(deadly(row))
    assert is_named(caught.value, row, "of a dask array (block")


@pytest.mark.parametrize("row", [pytest.param(0, marks=pytest.mark.slow), 23_456])
def test_chunks_of_a_store_that_end_every_worker_are_named(row, impatient, files):
    with impatient.connect() as client:
        client.register_plugin(DieOfRows(row))
        try:
            with pytest.raises(SchedulerError, match=f"die of rows .*{files}") as caught:
                model(scheduler=client).fit(files)
        finally:
            client.unregister_worker_plugin("die-of-rows")
    assert is_named(caught.value, row, f"(chunk {row // ROWS} along the rows)")


@pytest.mark.slow
def test_rows_that_end_every_worker_are_named_in_predictions_and_counts(impatient, tmp_path, expected):
    fitted = model(scheduler=impatient.address).fit(da.from_array(X, chunks=(ROWS, 3)))
    with pytest.raises(SchedulerError, match="die of rows 22500 to 25000 of a dask array"):
        write_predictions(fitted, deadly(23_456), tmp_path / "out.zarr")
    assert os.listdir(tmp_path) == []
    x = deadly(23_456)
    x._chunks = ((np.nan,) * x.numblocks[0], (3,))
    with pytest.raises(SchedulerError, match="die of block 9 of a dask array"):
        fitted.fit(x)


@pytest.mark.slow
def test_rows_that_ended_all_workers_there_were_are_named(tmp_path):
    with (
        processes(tmp_path, 2) as cluster,
        dask.config.set({"daskgmm.timeout": "5s"}),
        pytest.raises(
            SchedulerError, match=r"has been at work for 5 s.* The last to die had been given .*rows 2[0-5]"
        ) as caught,
    ):
        model(scheduler=cluster.address).fit(deadly(23_456))
    assert "of a dask array (block" in str(caught.value)


def test_tasks_beside_a_worker_that_is_killed_are_not_to_blame(tmp_path, gate, expected):
    """To a scheduler that gives a task up with the first worker, every task that a killed worker had is one."""
    with processes(tmp_path, 2, config={"distributed.scheduler.allowed-failures": 0}) as cluster:
        strike = Strike((BatchFinished, "estep", 3), lambda: kill_one(cluster), gate)
        fitted = model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate))
        assert strike.done
        assert_same_bits(fitted, expected)
        assert check_events(strike.heard) == 3


# ---- paused, stopped, short of memory

_ballast = []


def load(dask_worker):
    """Fill the worker's memory as far as it takes for Dask to pause it."""
    manager = dask_worker.memory_manager
    used = dask_worker.monitor.get_process_memory()
    _ballast.append(b"x" * max(0, int(0.85 * manager.memory_limit) - used))


def unload(dask_worker):
    _ballast.clear()


@pytest.mark.slow
def test_workers_that_are_paused_for_their_memory_go_on_with_the_same_bits(gate, expected):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit="800MB"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def states():
            return {worker.status.name for worker in cluster.scheduler.workers.values()}

        def pause():
            client.run(load)
            wait_until(lambda: states() == {"paused"})
            threading.Timer(3.0, lambda: client.run(unload)).start()

        strike = Strike((BatchFinished, "estep", 3), pause, gate)
        fitted = model(scheduler=client, callbacks=[strike]).fit(gated(gate))
        assert strike.done
        assert_same_bits(fitted, expected)
        assert check_events(strike.heard) == 3


@pytest.mark.slow
def test_rows_that_were_spilled_to_disk_give_the_same_bits(expected, tmp_path):
    config = {"distributed.worker.memory.target": 1e-4, "temporary-directory": str(tmp_path)}
    with (
        dask.config.set(config),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit="800MB"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        persisted = client.persist(da.from_array(X, chunks=(ROWS, 3)))
        settle(persisted)
        spilled = sum(client.run(lambda dask_worker: dask_worker.data.spilled_total.disk).values())
        assert spilled > X.nbytes / 2
        assert_same_bits(model(scheduler=client).fit(persisted), expected)


@pytest.mark.slow
@pytest.mark.parametrize("nanny", [True, False])
def test_a_worker_that_is_stopped_is_given_up_after_its_time_to_live(nanny, tmp_path, gate, expected):
    """The scheduler's ``worker-ttl``, which is five minutes unless configured and never less than 5 s."""

    def stop():
        os.kill(min(pids(client).values()), signal.SIGSTOP)

    config = {"distributed.scheduler.worker-ttl": "3s"}
    strike = Strike((BatchFinished, "estep", 3), stop, gate)
    with contextlib.ExitStack() as stack:
        if nanny:
            stack.enter_context(dask.config.set(config))
            local = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
                )
            )
            client = stack.enter_context(distributed.Client(local, set_as_default=False))
        else:
            client = stack.enter_context(stack.enter_context(processes(tmp_path, 2, config=config)).connect(2))
        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(gated(gate)), expected)
        assert strike.done
        assert check_events(strike.heard) == 3


def test_no_worker_at_all_is_told(tmp_path):
    with processes(tmp_path, 0) as cluster, dask.config.set({"daskgmm.timeout": "500ms"}):
        with distributed.Client(cluster.address, set_as_default=False):
            pass  # it is up
        with pytest.raises(SchedulerError, match=r"has no workers after 0\.5 s"):
            model(scheduler=cluster.address).fit(X)
