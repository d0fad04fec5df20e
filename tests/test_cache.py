"""Rows that are kept between the passes of a fit: same bits, fewer bytes read, and nothing left afterwards."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import dask
import dask.array as da
import distributed
import h5py
import numpy as np
import pytest
import zarr
from products import mostly_slow

from daskgmm import BayesianGaussianMixture, GaussianMixture, select
from daskgmm.data.inputs import as_dataset
from daskgmm.data.reading import Holder, Reading
from daskgmm.data.row_cache import CacheAccess, RowLease, kept_bytes
from daskgmm.diagnostics.progress import ProgressBar
from daskgmm.engine.cluster import planned_cluster
from daskgmm.engine.memory import PassPlan, TaskMemory, Worker, spare_bytes
from daskgmm.engine.placement import Placement
from daskgmm.engine.plain import PlainEngine
from daskgmm.errors import DataChangedError
from daskgmm.events import EngineClosed, PassFinished, PassStarted

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D = 20_000, 3
X = np.random.default_rng(0).normal(size=(N, D))
X[::3] += [4, 0, 2]
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2, size=N)
WORKERS_GONE = 30  # seconds that the end of a driver may take to be noticed, at most


@pytest.fixture(autouse=True)
def many_slabs(tune):
    tune(shortest_leaf=256, longest_leaf=256, slab_bytes=1 << 15, shortest_task=0.0, tasks_per_thread=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    for name, values in {"x": X, "f": X.astype("f4"), "i": (100 * X).astype("i2"), "w": WEIGHTS}.items():
        chunks = (900, *values.shape[1:])
        zarr.create_array(folder / f"{name}.zarr", shape=values.shape, chunks=chunks, dtype=values.dtype)[:] = values
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(900, D), compression="gzip")
    return folder


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def model(kind=GaussianMixture, **parameters):
    return kind(**{"n_components": 2, "random_state": 0, "max_iter": 4, "tol": 0, "reg_covar": 1e-3} | parameters)


def assert_same(one, other):
    assert one.lower_bounds_ == other.lower_bounds_
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.covariances_, other.covariances_)


def read_and_kept(fitted):
    return [(record.bytes_read, record.bytes_cached) for record in fitted.history_]


def wait_until_nothing_is_kept():
    deadline = time.monotonic() + WORKERS_GONE
    while kept_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert kept_bytes() == 0


INPUTS = {
    "zarr": lambda folder: folder / "x.zarr",
    "hdf5": lambda folder: h5py.File(folder / "x.h5", "r")["x"],
    "dask of zarr": lambda folder: da.from_zarr(folder / "x.zarr"),
    "dask, views": lambda folder: da.concatenate([da.from_zarr(folder / "x.zarr")] * 2, axis=1)[:, ::2],
    "dask, computed": lambda folder: da.from_zarr(folder / "x.zarr").rechunk((1111, D)) + 1,
    "integers": lambda folder: folder / "i.zarr",
    "float32": lambda folder: folder / "f.zarr",
}  # fmt: skip


@pytest.mark.covering
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "cluster"])
@pytest.mark.parametrize("kind", mostly_slow(INPUTS, "zarr", "dask of zarr"))
def test_the_second_pass_reads_nothing_and_the_bits_are_the_same(kind, scheduler, folder, client):
    scheduler = client if scheduler == "cluster" else scheduler
    data = INPUTS[kind](folder)
    plain = model(cache=None, scheduler=scheduler).fit(data)
    n_bytes = plain.history_[0].bytes_read
    assert read_and_kept(plain) == [(n_bytes, 0)] * 5
    kept = model(scheduler=scheduler).fit(data)
    assert_same(kept, plain)
    passes = read_and_kept(kept)
    assert passes[0] == (n_bytes, 0)
    assert all(read + cached == n_bytes for read, cached in passes)
    assert passes[-1] == (0, n_bytes)
    if scheduler is not client:  # on a cluster a task may be done elsewhere once
        assert passes[1] == (0, n_bytes)
    part = model(cache=n_bytes // 3, scheduler=scheduler).fit(data)
    assert_same(part, plain)
    limit = n_bytes // 3 * (2 if scheduler is client else 1)
    assert all(0 < cached <= limit for _, cached in read_and_kept(part)[1:])


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("cluster", marks=pytest.mark.slow)])
def test_weights_are_kept_with_the_rows(folder, client, scheduler):
    scheduler = client if scheduler == "cluster" else scheduler
    rows, weights = folder / "x.zarr", zarr.open_array(folder / "w.zarr", mode="r")
    for kind in (GaussianMixture, BayesianGaussianMixture):
        plain = model(kind, cache=None, scheduler=scheduler).fit(rows, sample_weight=weights)
        kept = model(kind, scheduler=scheduler).fit(rows, sample_weight=weights)
        assert_same(kept, plain)
        assert read_and_kept(kept)[-1] == (0, X.nbytes + WEIGHTS.nbytes)


def test_rows_in_memory_are_not_kept(client):
    whole, columns = (da.from_array(X, chunks=(900, width)) for width in (D, 2))
    kept = []
    wait_until_nothing_is_kept()  # workers drop the rows of an earlier fit a moment after its end
    for data, scheduler in ((X, None), (X, client), (whole, None), (columns, client), (client.persist(whole), client)):
        fitted = model(callbacks=[lambda event: kept.append(kept_bytes())], scheduler=scheduler).fit(data)
        assert read_and_kept(fitted) == [(X.nbytes, 0)] * 5
    assert set(kept) == {0}


def test_the_candidates_of_a_selection_share_one_cache(folder):
    def run(**how):
        heard = []
        found = select(
            folder / "x.zarr", [1, 2, 3], sample_weight=zarr.open_array(folder / "w.zarr", mode="r"), held_out=0.2,
            estimator=model(), callbacks=[heard.append], **how,
        )  # fmt: skip
        return found, [event for event in heard if isinstance(event, PassFinished)]

    (plain, all_read), (kept, some_read) = run(cache=0), run()
    assert kept.table == plain.table
    assert {event.bytes_cached for event in all_read} == {0}
    assert all(event.bytes_read == 0 for event in some_read if event.label == "estep")
    score = some_read[-1]  # its weights are those of all rows, which no pass has read before
    assert (score.label, score.bytes_read, score.bytes_cached) == ("score", WEIGHTS.nbytes, X.nbytes)


def test_a_resumed_fit_keeps_rows_anew(folder, tmp_path):
    def stop(event):
        if isinstance(event, PassStarted) and event.label == "estep" and event.n_batches:
            stop.passes += 1
            if stop.passes == 3:
                raise KeyboardInterrupt

    stop.passes = 0
    whole = model().fit(folder / "x.zarr")
    with pytest.warns(UserWarning, match="stopped"), pytest.raises(KeyboardInterrupt):
        model(callbacks=[stop]).fit(folder / "x.zarr", checkpoint=tmp_path / "c")
    resumed = model(cache=X.nbytes // 2).fit(folder / "x.zarr", checkpoint=tmp_path / "c", resume=True)
    assert_same(resumed, whole)
    assert [read > 0 for read, _ in read_and_kept(resumed)] == [True, False, False, True, True]


# ---- the end of a cache


@pytest.mark.covering
@pytest.mark.parametrize("scheduler", ["threads", "cluster"])
@pytest.mark.parametrize("end", ["success", ValueError, KeyboardInterrupt])
def test_nothing_is_kept_after_a_fit(folder, client, scheduler, end):
    seen = []

    def listen(event):
        if isinstance(event, PassFinished):
            seen.append(kept_bytes())
            if len(seen) == 3 and end != "success":
                raise end

    fitting = model(callbacks=[listen], scheduler=client if scheduler == "cluster" else scheduler)
    if end == "success":
        fitting.fit(folder / "x.zarr")
    elif end is KeyboardInterrupt:
        with pytest.warns(UserWarning, match="stopped"), pytest.raises(KeyboardInterrupt):
            fitting.fit(folder / "x.zarr")
    else:
        with pytest.raises(end):
            fitting.fit(folder / "x.zarr")
    assert seen[-1] == X.nbytes
    wait_until_nothing_is_kept()


def test_no_more_is_kept_than_allowed(folder):
    seen = []
    wait_until_nothing_is_kept()
    model(cache="200 kB", callbacks=[lambda event: seen.append(kept_bytes())]).fit(folder / "x.zarr")
    assert 100_000 < max(seen) <= 200_000
    assert kept_bytes() == 0


DRIVER = """
    import sys, time
    from daskgmm import GaussianMixture
    from daskgmm.events import PassStarted

    def listen(event):
        if isinstance(event, PassStarted) and event.label == "estep":
            print("kept", flush=True)
            time.sleep(600)

    GaussianMixture(2, scheduler=sys.argv[1], callbacks=[listen]).fit(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_nothing_is_kept_for_a_driver_that_died(folder, client):
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), client.scheduler.address, str(folder / "x.zarr")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "kept\n"
        assert kept_bytes() == X.nbytes
        driver.kill()
    wait_until_nothing_is_kept()


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_die_cost_only_time(folder):
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def listen(event):
            if isinstance(event, PassFinished) and event.label == "estep" and not killed:
                killed.extend(client.run(os.getpid).values())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)  # their nannies start others

        killed = []
        fitted = model(scheduler=client, callbacks=[listen], max_iter=8).fit(folder / "x.zarr")
    assert len(killed) == 2
    assert_same(fitted, model(max_iter=8).fit(X))
    passes = read_and_kept(fitted)
    assert passes[1][1] > 0
    assert passes[2] == (X.nbytes, 0)
    assert passes[-1][1] > 0


def test_a_cache_ends_with_its_last_lease():
    one, other, access = RowLease("name", 100), RowLease("name", 100), CacheAccess("name", {0: 0})
    opened = access.open()
    assert opened.keep(0, 0, np.ones(5), 1) is not None
    one.close()
    one.close()
    assert pickle.loads(pickle.dumps(other)) is None
    assert kept_bytes() == 40
    del other
    assert kept_bytes() == 0
    for ended in (opened, access.open()):
        assert ended.find(0, 5) == {}
        assert ended.keep(0, 0, np.ones(5), 1) is None


def test_a_cache_that_ends_while_it_keeps_rows():
    """Python may free a lease at any moment, also in the midst of work on its cache."""

    def free(n_bytes):
        lease.close()
        return True

    lease = RowLease("name", 100, free)
    CacheAccess("name", {0: 0}).open().keep(0, 0, np.ones(5), 1)
    assert kept_bytes() == 0


def test_caches_of_one_process_hold_no_more_than_they_leave(folder, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000 - kept_bytes()))
    dataset, _ = as_dataset(zarr.open_array(folder / "x.zarr", mode="r"))
    with PlainEngine() as one, PlainEngine() as other:
        one.keep_rows(1000)
        other.keep_rows(1000)
        for start in range(0, 200, 5):
            for engine in (one, other):
                engine.access(dataset).open().keep(0, start, np.ones(5), 1)
        assert 400 < kept_bytes() <= 500


# ---- data that change


def test_a_store_that_changes_is_noticed_though_nothing_is_read(folder, tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=X.shape, chunks=(900, D), dtype="f8")
    array[:] = X

    def listen(event):
        if isinstance(event, PassFinished) and event.label == "estep":
            zarr.open_array(tmp_path / "a.zarr", mode="r+").resize((N - 1, D))

    with pytest.raises(DataChangedError, match="shape"):
        model(callbacks=[listen]).fit(tmp_path / "a.zarr")


def test_rows_that_somebody_else_holds_and_changes_change_nothing():
    blocks = [X[:10_000].copy(), X[10_000:].copy()]
    lazy = [da.from_delayed(dask.delayed(lambda i: blocks[i])(i), (10_000, D), float) for i in range(2)]

    def listen(event):
        if isinstance(event, PassFinished) and event.label == "estep":
            blocks[0][0] += 1000

    assert_same(model(callbacks=[listen]).fit(da.concatenate(lazy)), model().fit(X))
    blocks[0][0] = X[0]
    with pytest.raises(DataChangedError):
        model(callbacks=[listen], cache=None).fit(da.concatenate(lazy))


# ---- memory


def test_a_plan_has_the_kept_rows(folder):
    everything = model().plan(folder / "x.zarr")
    assert everything.cache_bytes == X.nbytes
    assert model(cache=1000).plan(folder / "x.zarr").cache_bytes == 1000
    nothing = model(cache=None).plan(folder / "x.zarr")
    assert nothing.cache_bytes == model().plan(X).cache_bytes == 0
    assert everything.worker_bytes - nothing.worker_bytes == X.nbytes
    assert "468.75 kiB rows that are kept" in str(everything)
    assert everything.as_record()["cache_bytes"] == X.nbytes
    tight = model(cache=X.nbytes, scheduler=planned_cluster(2, 1, "500MB")).plan(folder / "x.zarr")
    assert tight.cache_bytes == X.nbytes
    assert model(scheduler=planned_cluster(2, 1, "400MB")).plan(folder / "x.zarr").cache_bytes == 0


def test_workers_spare_what_is_left_below_the_share_at_which_dask_spills():
    mib = 1 << 20
    plans = [PassPlan(1, 1, 1, 1, TaskMemory(total, 0, 0, 0), 240 * mib) for total in (50 * mib, 10 * mib)]
    workers = [Worker("tcp://a:1", 2, 1000 * mib), Worker("tcp://b:1", 1, 2000 * mib)]
    assert spare_bytes(workers, plans, 3) == (600 - 240 - 2 * 50) * mib
    assert spare_bytes(workers, plans, 3, 20 * mib) == (600 - 240 - 2 * 50 - 10) * mib
    assert spare_bytes([Worker("tcp://a:1", 2, 500 * mib)], plans, 2) == 0
    assert spare_bytes([Worker("tcp://a:1", 2, 0)], plans, 2) > 0  # no limit
    assert spare_bytes([], plans, 2) > 0


@pytest.mark.parametrize("value", ["much", "-1 GB", -1, 1.5, True, []])
def test_values_that_are_no_size(value):
    for use in (model(cache=value).fit, model(cache=value).plan, lambda x: select(x, [1], cache=value)):
        with pytest.raises((ValueError, TypeError), match=r"cache=.*expected 'auto', None"):
            use(X)


# ---- placement and reports


def test_tasks_prefer_the_worker_that_has_most_of_their_rows():
    placement = Placement()
    assert placement.preferred(np.array([0, 10])) == {}
    placement.update(Reading(0, 0, (Holder(0, 20, "a"), Holder(20, 50, "b"))).holders)
    assert placement.preferred(np.array([0, 10, 22, 40, 50, 60])) == {0: "a", 1: "a", 2: "b", 3: "b"}
    placement.update((Holder(10, 30, "c"),))
    assert placement.preferred(np.array([0, 10, 30, 50])) == {1: "c"}


def test_neighbours_on_one_worker_are_told_as_one():
    parts = [
        Reading(1, 2, (Holder(0, 5, "a"),)),
        Reading(3, 4, (Holder(5, 9, "a"),)),
        Reading(0, 0, (Holder(9, 10, "b"),)),
    ]
    assert sum(parts, Reading()) == Reading(4, 6, (Holder(0, 9, "a"), Holder(9, 10, "b")))


def test_the_display_tells_what_was_read(capfd):
    bar = ProgressBar(interval=0)
    for event in (
        PassStarted("score", 1000, 2),
        PassFinished("score", 1000, 0.5, 1 << 20, 3 << 20),
        EngineClosed(False),
    ):
        bar(event)
    assert capfd.readouterr().err == "score: 1,000 rows in 0.5 s, 2 k rows/s, 1.00 MiB read\n"


def test_rows_that_are_computed_are_worth_keeping(folder):
    x = da.from_zarr(folder / "x.zarr")
    for data, expected in (
        (x, True),
        (da.random.default_rng(0).normal(size=(100, 3)), True),
        (da.from_array(X), False),
    ):
        assert as_dataset(data)[0].rows.cacheable is expected
