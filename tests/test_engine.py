"""One pass: its canonical tree, on every scheduler, and what happens when something goes wrong in it."""

import contextlib
import itertools
import logging
import os
import pickle
import platform
import random
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import threadpoolctl
import zarr
from clusters import wait_until
from dask.local import get_sync
from dask.threaded import get as get_threaded
from hypothesis import given, settings
from hypothesis import strategies as st
from products import mostly_slow
from sklearn.base import clone

from daskgmm import GaussianMixture, events, load, open_zarr, select
from daskgmm.data.arrays import ArraySource
from daskgmm.data.dask_blocks import BlockSource
from daskgmm.data.dataset import Dataset
from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_block import RowBlock
from daskgmm.engine import blas, graph, remote
from daskgmm.engine.few_rows import FewRowsEngine, short_leaf
from daskgmm.engine.run import DaskEngine
from daskgmm.engine.tree import Accumulator, leaf_rows
from daskgmm.errors import DaskGMMError, DataChangedError, NonFiniteDataError, SchedulerError, StoreError
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import Tuning, tuned

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(120),
]

quick = settings(deadline=None)
PARAMETERS = ["weights_", "means_", "covariances_"]
LEAF = 8


# ---- the tree, exactly


@dataclass(frozen=True)
class Written:
    """A sum that writes down how it was added up."""

    text: str

    def __add__(self, other):
        return Written(f"({self.text}+{other.text})")


@dataclass(frozen=True)
class Spelling:
    """A fold whose value spells the tree, and the rows of each leaf."""

    leaf_rows: int = LEAF
    row_seconds: float = 0.0
    work_bytes: int = 0
    value_bytes: int = 0
    process_bytes: int = 0

    def start(self):
        return lambda start, block: Written(f"{start}:{block.rows[:, 0].astype(int).tolist()}")


@dataclass(frozen=True)
class Rounding:
    """A fold of floats in which each other grouping of the leaves rounds to other bits."""

    leaf_rows: int = LEAF
    row_seconds: float = 0.0
    work_bytes: int = 0
    value_bytes: int = 0
    process_bytes: int = 0

    def start(self):
        return lambda start, block: float(block.rows.sum())


def canonical(leaves):
    """The left-aligned pairwise tree, from its definition: neighbours are joined until one value is left."""
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        leaves = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


def leaves_of(fold, rows):
    evaluate = fold.start()
    return [evaluate(i, RowBlock(rows[i : i + fold.leaf_rows])) for i in range(0, len(rows), fold.leaf_rows)]


def numbered(n):
    return np.column_stack([np.arange(n), np.zeros(n)])


def wild(n, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 2)) * 10.0 ** rng.randint(-12, 13, size=(n, 2))


def in_random_order(tasks, key, seed=0):
    """The value of a key of a graph whose tasks run in an order that nobody chose."""
    order, done = random.Random(seed), {}
    while key not in done:
        ready = [k for k, task in tasks.items() if k not in done and task.dependencies <= done.keys()]
        chosen = order.choice(ready)
        done[chosen] = tasks[chosen](done)
    return done[key]


def total(dataset, fold, size, arity, get=get_sync):
    context = graph.Context(fold, dataset.reader(1 << 20), dataset.n_rows, None)
    (wave,) = graph.plan_waves(dataset, graph.plan_batches(dataset, fold, size), 50_000)
    return get(*graph.build_graph(context, dataset, wave, "estep", whole=True, arity=arity)).value


@given(st.integers(1, 700), st.integers(1, 800), st.integers(2, 16))
@quick
def test_the_tree_does_not_depend_on_batches_and_arity(n, size, arity):
    value = total(Dataset(ArraySource(numbered(n))), Spelling(), size, arity)
    assert value == canonical(leaves_of(Spelling(), numbered(n)))


@given(st.lists(st.integers(0, 70), min_size=1, max_size=25), st.integers(1, 300), st.integers(2, 16))
@quick
def test_the_tree_does_not_depend_on_where_reads_have_to_stop(chunks, size, arity):
    n = sum(chunks)
    if n == 0:
        return
    x = da.from_array(numbered(n), chunks=(tuple(chunks), 2))
    value = total(Dataset(BlockSource(x)), Spelling(), size, arity)
    assert value == canonical(leaves_of(Spelling(), numbered(n)))


@given(st.integers(1, 400), st.lists(st.integers(0, 400), max_size=15), st.randoms(use_true_random=False))
@quick
def test_parts_may_be_joined_in_any_grouping(n, cuts, order):
    edges = sorted({0, n, *(c for c in cuts if c < n)})
    rows = numbered(n)
    parts = []
    for a, b in itertools.pairwise(edges):
        accumulator = Accumulator(Spelling(), n)
        accumulator.add_rows(a, RowBlock(rows[a:b]))
        parts.append(accumulator.parts)
    while len(parts) > 1:
        i = order.randrange(len(parts) - 1)
        accumulator = Accumulator(Spelling(), n)
        for part in parts[i] + parts[i + 1]:
            accumulator.add(part)
        parts[i : i + 2] = [accumulator.parts]
    last = Accumulator(Spelling(), n)
    for part in parts[0]:
        last.add(part)
    assert last.total() == canonical(leaves_of(Spelling(), rows))


@given(st.integers(5 * LEAF, 600), st.integers(0, 50), st.integers(1, 200), st.integers(2, 16))
@quick
def test_sums_of_floats_are_exact_to_the_bit(n, seed, size, arity):
    rows, fold = wild(n, seed), Rounding()
    leaves = leaves_of(fold, rows)
    expected = canonical(leaves)
    for get in (get_sync, get_threaded, lambda *task: in_random_order(*task, seed=seed)):
        assert total(Dataset(ArraySource(rows)), fold, size, arity, get) == expected


def test_another_grouping_would_change_bits():
    # What makes the test above able to fail.
    leaves = [leaves_of(Rounding(), wild(400, seed)) for seed in range(20)]
    different = sum(sum(values) != canonical(values) for values in leaves)
    assert different > 10


@given(st.integers(1, 2000), st.integers(1, 30))
@quick
def test_a_task_holds_no_more_than_the_logarithm_of_its_leaves(n, step):
    accumulator = Accumulator(Rounding(), n)
    rows = np.ones((n, 1))
    largest = 0
    for start in range(0, n, step):
        accumulator.add_rows(start, RowBlock(rows[start : start + step]))
        largest = max(largest, len(accumulator.parts))
    assert largest <= 2 + int(np.log2(-(-n // LEAF)) + 1)
    assert accumulator.total() == n


def test_rows_that_are_missing_are_noticed():
    rows = numbered(100)
    for gap in ((0, 8), (8, 16), (50, 51), (96, 100), (3, 70)):
        accumulator = Accumulator(Spelling(), 100)
        accumulator.add_rows(0, RowBlock(rows[: gap[0]]))
        accumulator.add_rows(gap[1], RowBlock(rows[gap[1] :]))
        with pytest.raises(DataChangedError, match="100 rows were expected"):
            accumulator.total()


@pytest.mark.parametrize("n_features", [1, 3, 16, 64, 1000])
def test_leaves_follow_from_the_shape_alone(n_features):
    rows = leaf_rows(n_features)
    assert rows & (rows - 1) == 0
    assert 256 <= rows <= 65_536
    assert leaf_rows(n_features, 1 << 30) >= rows


# ---- a few rows in memory


@dataclass(frozen=True)
class Meeting(Rounding):
    """A fold whose first leaves wait for each other, so that one thread alone would not end."""

    row_seconds: float = 1.0
    barrier: threading.Barrier | None = None

    def start(self):
        evaluate, waits = super().start(), [self.barrier]

        def meet(start, block):
            barrier = waits.pop() if waits else None
            if barrier is not None:
                barrier.wait(timeout=60)
            return evaluate(start, block)

        return meet


def test_threads_share_a_few_rows_and_have_no_influence_on_bits():
    dataset, tuning = as_dataset(wild(4000))[0], Tuning(few_rows_leaf=256)
    values = [FewRowsEngine(n, tuning).run(dataset, Meeting(barrier=threading.Barrier(n)), "sum") for n in (1, 2, 5)]
    leaf = short_leaf(4000, 2, Meeting(), tuning)
    assert leaf == LEAF  # no longer than the leaves of the fold
    assert values == [canonical(leaves_of(Rounding(), wild(4000)))] * 3


@pytest.mark.parametrize(
    ("row_seconds", "value_bytes", "leaf"), [(1e-9, 8, 10_000), (1e-5, 8, 5000), (1.0, 8, 1112), (1.0, 1 << 20, 3336)]
)
def test_leaves_of_a_few_rows_follow_from_rows_and_costs(row_seconds, value_bytes, leaf):
    costs = Rounding(leaf_rows=1 << 16, row_seconds=row_seconds, value_bytes=value_bytes)
    assert short_leaf(10_000, 40, costs, Tuning(few_rows_leaf=1024)) == leaf


@dataclass(frozen=True)
class Failing(Rounding):
    """A fold with a leaf that fails."""

    row_seconds: float = 1.0

    def start(self):
        def evaluate(start, block):
            if start > 2000:
                raise DataChangedError("a leaf failed")
            return 0.0

        return evaluate


def test_an_error_of_a_thread_is_raised():
    with pytest.raises(DataChangedError, match="a leaf failed"):
        FewRowsEngine(2, Tuning(few_rows_leaf=256)).run(as_dataset(wild(4000))[0], Failing(), "sum")


# ---- the same bits on every scheduler


@pytest.fixture(scope="module", autouse=True)
def many_tasks():
    """Several tasks a pass, and several levels of merges, though the rows are few."""
    with tuned(shortest_task=0.0, arity=2, longest_leaf=8192):
        yield


def overlapping(n=40_000, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 3)) + np.array([[0, 0, 0], [4, 1, 0], [0, 5, 2]])[rng.randint(3, size=n)]


X = overlapping()
WEIGHTS = np.random.RandomState(1).rand(len(X))


def model(**parameters):
    return GaussianMixture(3, **({"random_state": 0, "max_iter": 2, "tol": 0} | parameters))


def assert_same_bits(one, other):
    assert one.lower_bounds_ == other.lower_bounds_
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def watch(block):
    """Write down where a block is read: dask copies closures, but not the functions of this module."""
    try:
        watch.workers.append(distributed.get_worker().name)
    except ValueError:
        watch.workers.append(None)
    watch.threads.append(threading.current_thread())
    return block


watch.workers, watch.threads = [], []


def watched():
    watch.workers.clear()
    return da.from_array(X, chunks=(5000, 3)).map_blocks(watch, dtype=X.dtype, meta=X[:0])


@pytest.fixture(scope="module")
def expected():
    return model().fit(X)


@pytest.fixture(scope="module")
def cluster():
    """Two workers that are threads of this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def processes():
    """Two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same rows in a store, in shards, and in a file that can be mapped."""
    path = tmp_path_factory.mktemp("rows")
    zarr.create_array(path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(3000, 3))[...] = X
    zarr.create_array(path / "s.zarr", shape=X.shape, dtype=X.dtype, chunks=(1000, 3), shards=(4000, 3))[...] = X
    np.save(path / "x.npy", X)
    return path


INPUTS = {
    "numpy": lambda files: X,
    "dask": lambda files: da.from_array(X, chunks=(5555, 2)),
    "rechunked": lambda files: da.from_array(X, chunks=(5555, 2)).rechunk((7000, 3)),
    "zarr": lambda files: files / "x.zarr",
    "shards": lambda files: files / "s.zarr",
    "memmap": lambda files: np.load(files / "x.npy", mmap_mode="r"),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_local_schedulers_give_the_same_bits(kind, scheduler, files, expected):
    assert_same_bits(model(scheduler=scheduler).fit(INPUTS[kind](files)), expected)


@pytest.mark.parametrize("kind", INPUTS)
def test_a_distributed_scheduler_gives_the_same_bits(kind, files, expected, client):
    assert_same_bits(model(scheduler=client).fit(INPUTS[kind](files)), expected)


def test_persisted_rows_give_the_same_bits(expected, client):
    x = client.persist(da.from_array(X, chunks=(5555, 2)))
    fitted = model(scheduler=client).fit(x)
    assert_same_bits(fitted, expected)
    labels = client.compute(fitted.predict(x)).result()
    np.testing.assert_array_equal(labels, expected.predict(X))


@pytest.mark.parametrize("n_workers", [1, 3, 7])
def test_the_number_of_threads_does_not_matter(n_workers, expected):
    with dask.config.set(num_workers=n_workers):
        assert_same_bits(model(scheduler="threads").fit(da.from_array(X, chunks=2000)), expected)


def test_dasks_own_scheduler_setting_is_followed(expected):
    watch.threads.clear()
    with dask.config.set(scheduler="synchronous"):
        assert_same_bits(model().fit(watched()), expected)
    assert set(watch.threads) == {threading.current_thread()}


@pytest.mark.covering
@pytest.mark.parametrize("structure", mostly_slow(COVARIANCE_TYPES, "full", "tied-diag"))
@pytest.mark.parametrize("weighted", [False, True])
def test_structures_and_weights_on_a_distributed_scheduler(structure, weighted, client):
    weights = WEIGHTS if weighted else None
    lazy = da.from_array(WEIGHTS, chunks=9999) if weighted else None
    local = model(covariance_type=structure).fit(X, sample_weight=weights)
    remote = model(covariance_type=structure, scheduler=client).fit(
        da.from_array(X, chunks=(7777, 3)), sample_weight=lazy
    )
    assert_same_bits(remote, local)
    assert remote.score(da.from_array(X, chunks=(9000, 3)), sample_weight=lazy) == local.score(X, sample_weight=weights)


@pytest.mark.cluster
@pytest.mark.parametrize("kind", mostly_slow(INPUTS, "zarr"))
def test_worker_processes_give_the_same_bits(kind, files, expected, processes):
    fitted = model(scheduler=processes).fit(INPUTS[kind](files))
    assert_same_bits(fitted, expected)
    x = INPUTS[kind](files)
    assert fitted.score(x) == expected.score(X)


@pytest.mark.cluster
def test_views_of_memory_maps_travel_to_processes(files, processes):
    mapped = np.load(files / "x.npy", mmap_mode="r")
    for view in (mapped[101:30_101], mapped[::2], mapped[:, 1:], mapped[::-1]):
        assert_same_bits(model(scheduler=processes).fit(view), model().fit(np.array(view)))


@pytest.mark.cluster
def test_results_are_computed_by_processes(files, expected, processes):
    labels = expected.predict(files / "x.zarr")
    np.testing.assert_array_equal(processes.compute(labels).result(), expected.predict(X))
    proba = expected.predict_proba(da.from_array(X, chunks=(9000, 2)))
    np.testing.assert_allclose(processes.compute(proba).result(), expected.predict_proba(X), rtol=1e-12)


def test_a_fit_leaves_no_lines_in_the_logs_of_a_cluster(client, caplog, monkeypatch, tune):
    """Functions that are run there have a line each, and it is looked at every two seconds."""
    looks = []
    tune(look_seconds=0.001)
    monkeypatch.setattr(remote._Watch, "look", lambda watch, look=remote._Watch.look: looks.append(look(watch)))
    with caplog.at_level(logging.INFO, "distributed"):
        model(scheduler=client).fit(da.from_array(X, chunks=(3000, 3)))
    assert len(looks) > 2
    assert not [told.getMessage() for told in caplog.records if "out-of-band" in told.getMessage()]


# ---- rows in memory on a cluster


def add_first(block, whole):
    return block + whole[: len(block)]


IN_MEMORY = {
    "numpy": lambda: X,
    "dask": lambda: da.from_array(X, chunks=(5555, 3)),
    "columns": lambda: da.from_array(X, chunks=(5555, 2)),
    "rechunked": lambda: da.from_array(X, chunks=(5555, 2)).rechunk((7000, 3)),
    "mapped": lambda: da.from_array(X, chunks=(5555, 3)).map_blocks(np.negative, dtype=X.dtype, meta=X[:0]),
    "argument": lambda: da.zeros(X.shape, chunks=(5555, 3)).map_blocks(add_first, X, dtype=X.dtype, meta=X[:0]),
    "persisted": lambda: None,
}


@pytest.fixture
def all_rows_are_large(tune):
    """And so is every graph that they are in, of which Dask warns."""
    tune(most_carried_bytes=0, most_task_bytes=0, smallest_piece=1 << 14)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "60 kB"}):
        yield


def in_memory(kind, client):
    if kind == "persisted":
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GB"}):
            return client.persist(IN_MEMORY["columns"]())
    return IN_MEMORY[kind]()


@pytest.mark.covering
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", IN_MEMORY)
def test_rows_in_memory_are_sent_once(kind, weighted, client, cluster, all_rows_are_large):
    x = in_memory(kind, client)
    weights = WEIGHTS if weighted else None
    rows = X if kind == "persisted" else np.asarray(x)
    expected = model().fit(rows, sample_weight=weights)
    fitted = model(scheduler=client).fit(x, sample_weight=weights)
    assert_same_bits(fitted, expected)
    assert fitted.score(x, sample_weight=weights) == expected.score(rows, sample_weight=weights)
    del x
    wait_until(lambda: not cluster.scheduler.tasks)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_weights_in_memory_that_a_sample_is_drawn_by_are_sent_once(criterion, client, all_rows_are_large):
    weights = da.from_array(WEIGHTS, chunks=1000)
    estimator = model(init_size=100)
    found, expected = (
        select(X, [2], criterion=criterion, estimator=estimator, sample_weight=weights, **more)
        for more in ({"scheduler": client}, {})
    )
    assert found.table == expected.table


@pytest.mark.slow
def test_a_selection_with_rows_held_out_sends_them_once(client, all_rows_are_large):
    found = select(X, [1, 2], criterion="held_out", estimator=model(), scheduler=client, sample_weight=WEIGHTS)
    expected = select(X, [1, 2], criterion="held_out", estimator=model(), sample_weight=WEIGHTS)
    assert found.table == expected.table


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numpy", "dask", "rechunked"])
def test_rows_in_memory_are_sent_once_to_processes(kind, expected, processes, all_rows_are_large):
    assert_same_bits(model(scheduler=processes).fit(in_memory(kind, processes)), expected)


def test_rows_that_workers_have_no_room_for_are_sent_with_every_pass(expected, client, all_rows_are_large, tune):
    tune(held_share=0.0)
    with pytest.warns(UserWarning, match="large graph") as told:
        fitted = model(scheduler=client).fit(X)
    assert len([warning for warning in told if "large graph" in str(warning.message)]) == fitted.n_passes_
    assert_same_bits(fitted, expected)


def test_a_plan_sends_no_rows(client, cluster, all_rows_are_large):
    before = cluster.scheduler.transition_counter
    assert model(scheduler=client).plan(X).n_rows == len(X)
    assert cluster.scheduler.transition_counter == before


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc's malloc")
def test_worker_processes_use_memory_again(processes, tmp_path, tune):
    """Under Dask's setting of malloc every array of rows would be mapped anew: two page faults a page in each pass."""
    tune(slab_bytes=1 << 20, tasks_per_thread=1)
    rows = np.random.default_rng(0).normal(size=(1_000_000, 8))
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(16_384, 8), compressors=None)
    faults = []

    def count(event):
        if isinstance(event, events.PassFinished):
            faults.append(sum(processes.run(page_faults).values()))

    GaussianMixture(
        2, tol=0, max_iter=6, init_params="random_from_data", random_state=0, scheduler=processes, callbacks=[count]
    ).fit(tmp_path / "x.zarr")
    of_a_pass = np.median(np.diff(faults))
    assert of_a_pass < 0.5 * rows.nbytes / os.sysconf("SC_PAGE_SIZE")


KEPT = """
import numpy as np
import daskgmm.estimators.selection  # a process with as much in it as a worker has
from daskgmm.engine import malloc

def use(limit):
    malloc._limit = lambda: limit
    with malloc.reusing_memory():
        arrays = [np.ones(1 << 20) for _ in range(7)]
        del arrays[:]
        kept.append(malloc._resident() - before)
    kept.append(malloc._resident() - before)

kept, before = [], malloc._resident()
use(100 * before)
use(before)
arrays = [np.ones(1 << 20) for _ in range(7)]
del arrays[:]
kept.append(malloc._resident() - before)
print(*kept)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc's malloc")
def test_a_worker_with_little_room_gives_memory_back():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC"))}
    environment["MALLOC_TRIM_THRESHOLD_"] = "65536"
    run = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True, check=True)
    *kept, given_back, after = map(int, run.stdout.split())
    assert min(kept) > 40e6
    assert given_back < 10e6
    assert after < 10e6  # as Dask has set it


CONFINED = """
import os, threading
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import numpy as np
from daskgmm import GaussianMixture
from daskgmm.engine.cluster import planned_cluster
started, start = [], threading.Thread.start
threading.Thread.start = lambda thread: started.append(thread.name) or start(thread)
x = np.random.default_rng(0).normal(size=(70_000, 1))
plan = GaussianMixture(2).plan(x)
planned = GaussianMixture(2, scheduler=planned_cluster()).plan(x)
GaussianMixture(2, max_iter=1, tol=1e3, init_params="random_from_data").fit(x).predict(x)
print(plan.n_threads, planned.n_threads, sum(name.startswith("gmm-rows") for name in started))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot confine a process")
def test_a_confined_process_has_as_many_threads_as_processors():
    run = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "1", "1"], run.stderr


@pytest.mark.cluster
def test_worker_processes_hold_blas_at_one_thread(processes):
    model(scheduler=processes).fit(da.from_array(X, chunks=(7777, 3)))
    infos = processes.run(threadpoolctl.threadpool_info)
    assert all(pool["num_threads"] == 1 for info in infos.values() for pool in info if pool["user_api"] == "blas")


# ---- keys


def test_every_pass_has_new_keys_with_known_prefixes():
    seen = []

    def record(tasks, keys, **options):
        seen.append({k for k in tasks if "gmm" in str(k)})
        return get_sync(tasks, keys, **options)

    with dask.config.set(scheduler=record):
        fitted = model().fit(da.from_array(X, chunks=(5000, 3)))
    passes = [keys for keys in seen if keys]
    assert len(passes) == fitted.n_passes_ == 3
    for one, other in itertools.combinations(passes, 2):
        assert not one & other
    names = [str(k[0] if isinstance(k, tuple) else k) for k in passes[1]]
    for prefix in ("gmm-estep-", "gmm-context-", "gmm-total-", "gmm-reduce-"):
        assert any(name.startswith(prefix) for name in names)


def test_two_fits_at_once_do_not_disturb_each_other(client):
    x = da.from_array(X, chunks=(5000, 3))

    def fit(structure):
        return model(covariance_type=structure, scheduler=client).fit(x)

    with ThreadPoolExecutor(4) as pool:
        fitted = list(pool.map(fit, ["full", "tied", "diag", "full"]))
    for one, structure in zip(fitted, ["full", "tied", "diag", "full"], strict=True):
        assert_same_bits(one, model(covariance_type=structure).fit(X))


def test_results_kept_on_a_cluster_are_not_taken_for_new_ones(client, expected):
    rows = X[:1000]
    stored = zarr.create_array({}, shape=rows.shape, dtype=rows.dtype, chunks=(300, 3))
    stored[...] = rows
    kept = client.persist(expected.score_samples(stored))
    np.testing.assert_allclose(client.compute(kept).result(), expected.score_samples(rows), rtol=1e-12)
    stored[...] = rows + 1
    for fitted in (expected, model(covariance_type="diag").fit(X)):
        fresh = client.compute(fitted.score_samples(stored)).result()
        np.testing.assert_allclose(fresh, fitted.score_samples(rows + 1), rtol=1e-12)
    np.testing.assert_allclose(client.compute(kept).result(), expected.score_samples(rows), rtol=1e-12)


# ---- batches


@pytest.mark.parametrize("size", [1, 500, 2500, 9000, 10**6])
def test_tasks_begin_at_shards(size, files):
    dataset, _ = as_dataset(open_zarr(files / "s.zarr"))
    edges = graph.plan_batches(dataset, Rounding(), size).tolist()
    assert all(start % 4000 == 0 for start in edges[:-1])
    slabs = [
        slab
        for batch in itertools.pairwise(edges)
        for slab in dataset.reader(Tuning.slab_bytes).slabs(dataset.batch(*batch))
    ]
    assert all(start % 1000 == 0 for start, _ in slabs)
    assert [0, *(stop for _, stop in slabs)] == [*(start for start, _ in slabs), len(X)]


# ---- data that change


def shrink(block, block_id=None):
    if block_id[0] != 2:
        return block
    shrink.reads_left -= 1
    return block if shrink.reads_left >= 0 else block[:-1]


def shrinking(after):
    """A dask array one of whose blocks loses a row once it was read ``after`` times."""
    shrink.reads_left = after
    return da.from_array(X, chunks=(5000, 3)).map_blocks(shrink, dtype=X.dtype, meta=X[:0])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_rows_that_vanish_end_the_fit(after):
    with pytest.raises(DataChangedError, match=r"X: rows .* but \d+ came"):
        model(scheduler="synchronous").fit(shrinking(after))


def test_rows_that_vanish_on_a_worker_end_the_fit(client):
    with pytest.raises(DataChangedError, match="X: rows"):
        model(scheduler=client).fit(shrinking(1))


def test_weights_that_vanish_end_the_fit():
    weights = da.from_array(WEIGHTS, chunks=5000).map_blocks(lambda w: w[1:], dtype=WEIGHTS.dtype, meta=WEIGHTS[:0])
    with pytest.raises(DataChangedError, match="sample_weight: rows"):
        model().fit(da.from_array(X, chunks=(5000, 3)), sample_weight=weights)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_columns_that_are_not_there_end_the_fit(width):
    wrong = da.from_array(X, chunks=(5000, 3)).map_blocks(
        lambda block: np.resize(block, (len(block), width)), dtype=X.dtype, meta=X[:0]
    )
    with pytest.raises(DataChangedError, match="columns"):
        model().fit(wrong)


# ---- errors in tasks


@pytest.fixture
def damaged(files, tmp_path):
    """A store one of whose chunks is cut off."""
    array = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(3000, 3))
    array[...] = X
    chunk = tmp_path / "x.zarr" / "c" / "7" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    return tmp_path / "x.zarr"


@pytest.fixture(params=["synchronous", "threads", "distributed"])
def scheduler(request):
    return request.getfixturevalue("client") if request.param == "distributed" else request.param


@pytest.mark.parametrize("row", [0, 8191, 8192, 23_456, 39_999])
def test_the_row_of_a_bad_number_is_told_from_anywhere(row, scheduler):
    x = X.copy()
    x[row, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match=f"Input X contains NaN in row {row}\\.") as caught:
        model(scheduler=scheduler).fit(da.from_array(x, chunks=(7000, 2)))
    assert caught.value.row == row


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_a_number_that_turns_bad_during_the_fit_is_told(dtype, value, name):
    x = X.astype(dtype)

    def spoil(event):
        if isinstance(event, events.IterationFinished):
            x[12_345, 0] = value

    with pytest.raises(NonFiniteDataError, match=f"{name} in row 12345"):
        model(callbacks=[spoil]).fit(x)


def test_a_damaged_chunk_is_told_with_its_store_and_rows(damaged, scheduler):
    with pytest.raises(StoreError, match=r"Rows \d+ to \d+ of .*x\.zarr cannot be read") as caught:
        model(scheduler=scheduler).fit(damaged)
    first, last = (int(number) for number in re.search(r"Rows (\d+) to (\d+)", str(caught.value)).groups())
    assert first < 24_000
    assert last > 21_000  # rows 21 000 to 24 000 lie in that chunk


def test_an_error_of_the_users_own_function_comes_through(scheduler):
    def fail(block):
        raise ZeroDivisionError("my own mistake")

    x = da.from_array(X, chunks=(5000, 3)).map_blocks(fail, dtype=X.dtype, meta=X[:0])
    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        model(scheduler=scheduler).fit(x)


@pytest.mark.cluster
def test_errors_of_worker_processes_keep_their_type_and_row(damaged, processes):
    x = X.copy()
    x[23_456, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match="NaN in row 23456") as caught:
        model(scheduler=processes).fit(da.from_array(x, chunks=(7000, 3)))
    assert caught.value.row == 23_456
    with pytest.raises(StoreError, match=r"x\.zarr cannot be read"):
        model(scheduler=processes).fit(damaged)
    assert_same_bits(model(scheduler=processes).fit(da.from_array(X, chunks=(7000, 3))), model().fit(X))


def frames(error):
    return traceback.extract_tb(error.__traceback__)


@pytest.mark.cluster
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("work", ["fit", "score"])
def test_mistakes_of_users_are_told_in_few_lines(work, scheduler, expected, request):
    """Frames of ours say nothing that the message does not, and those of a worker are another machine's."""
    x = X.copy()
    x[12_345, 1] = np.nan
    chosen = request.getfixturevalue("processes") if scheduler == "processes" else scheduler
    fitted = model(scheduler=chosen).fit(X)
    with pytest.raises(NonFiniteDataError, match="row 12345") as caught:
        getattr(fitted, work)(da.from_array(x, chunks=(7000, 3)))
    assert len(frames(caught.value)) <= 4
    with pytest.raises(StoreError) as caught:
        getattr(fitted, work)(zarr.create_array({}, shape=(9000, 3), chunks=(1000, 3), dtype="f8"))
    assert len(frames(caught.value)) <= 4


def test_public_methods_tell_mistakes_in_few_lines(tmp_path, caplog):
    fitted, x = model().fit(X), X.copy()
    x[123, 1] = np.nan
    calls = {
        "fit": lambda: fitted.fit("nothere.zarr"),
        "predict": lambda: fitted.predict(x),
        "predict_proba": lambda: fitted.predict_proba(x),
        "score_samples": lambda: fitted.score_samples(x),
        "score": lambda: fitted.score(x[:200]),
        "bic": lambda: fitted.bic(x[:200]),
        "select": lambda: select("nothere.zarr", [1, 2]),
        "load": lambda: load(tmp_path / "nothere.zarr"),
    }
    for name, call in calls.items():
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "daskgmm"), pytest.raises(DaskGMMError) as caught:
            call()
        assert len(frames(caught.value)) <= 3, name  # of this test, its lambda, and the method
        (told,) = (record for record in caplog.records if record.name == "daskgmm")
        assert told.exc_info[1] is caught.value


def test_other_errors_keep_their_frames():
    x = da.from_array(X, chunks=(7000, 3)).map_blocks(lambda block: [1 / 0], dtype=X.dtype, meta=X[:0])
    with pytest.raises(ZeroDivisionError) as caught:
        model().fit(x)
    assert "<lambda>" in [frame.name for frame in frames(caught.value)]
    try:
        raise KeyError("the caller's own")
    except KeyError as error:
        handled = error
        with pytest.raises(SchedulerError):
            model(scheduler="bogus://127.0.0.1:1").fit(X)
    assert len(frames(handled)) == 1


def test_workers_log_mistakes_of_users_in_a_line(client, caplog):
    x = X.copy()
    x[12_345, 1] = np.nan
    lazy = da.from_array(x, chunks=(7000, 3))
    fitted = model(scheduler=client).fit(X)
    with caplog.at_level(logging.INFO, "distributed.worker"):
        with pytest.raises(NonFiniteDataError):
            fitted.score(lazy)
        with pytest.raises(NonFiniteDataError):
            client.compute(fitted.predict(lazy)).result()
    told = [record for record in caplog.records if "row 12345" in record.getMessage()]
    assert {record.levelname for record in told} == {"INFO"}
    assert all("Traceback" not in record.getMessage() for record in told)
    with pytest.raises(ZeroDivisionError):
        fitted.score(lazy.map_blocks(lambda block: [1 / 0], dtype=X.dtype, meta=X[:0]))
    assert "Compute Failed" in caplog.text


def test_a_failed_fit_leaves_blas_and_the_scheduler_as_they_were(client):
    before = threadpoolctl.threadpool_info()
    with pytest.raises(ZeroDivisionError):
        model(scheduler=client, callbacks=[lambda event: 1 / 0]).fit(da.from_array(X, chunks=(5000, 3)))
    assert threadpoolctl.threadpool_info() == before
    assert client.status == "running"


# ---- schedulers that do not answer


@pytest.fixture
def impatient():
    with dask.config.set({"daskgmm.timeout": "500ms"}):
        yield


@pytest.fixture
def silent_port():
    """Something that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_a_scheduler_that_does_not_answer_is_told_promptly(port, impatient, request):
    address = f"tcp://127.0.0.1:{request.getfixturevalue(port)}"
    begin = time.monotonic()
    with pytest.raises(SchedulerError, match=f"scheduler='{address}' does not answer"):
        model(scheduler=address).fit(da.from_array(X, chunks=(5000, 3)))
    assert time.monotonic() - begin < 30  # nobody waits for ever


def test_a_scheduler_without_workers_is_told_promptly(impatient):
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty,
        distributed.Client(empty, set_as_default=False) as client,
    ):
        for scheduler in (client, empty.scheduler_address):
            with pytest.raises(SchedulerError, match=r"has no workers after 0\.5 s\. Start some with `dask worker"):
                model(scheduler=scheduler).fit(X)


@pytest.mark.parametrize("address", ["bogus://127.0.0.1:1", "127.0.0.1:notaport", "tcp://:x"])
def test_an_address_that_is_none_is_told(address, impatient):
    with pytest.raises(SchedulerError, match="does not answer"):
        model(scheduler=address).fit(X)


def test_a_client_that_was_closed_is_told(cluster):
    client = distributed.Client(cluster, set_as_default=False)
    client.close()
    with pytest.raises(SchedulerError, match=r"distributed\.Client in use is closed"):
        model(scheduler=client).fit(X)


def test_an_asynchronous_client_is_told(cluster):
    async def try_it():
        async with distributed.Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(TypeError, match="asynchronous"):
                model(scheduler=client).fit(X)

    cluster.sync(try_it)


# ---- clients


def test_a_client_in_scope_is_used_for_lazy_data_and_stays_open(cluster, expected):
    with distributed.Client(cluster) as client:
        assert_same_bits(model().fit(watched()), expected)
        assert None not in watch.workers
        assert len(watch.workers) == 3 * 8
        assert client.status == "running"
        assert client.submit(sum, [1, 2]).result() == 3


def test_rows_in_memory_stay_in_this_process_unless_a_client_is_given(cluster, expected):
    with distributed.Client(cluster) as client:
        before = cluster.scheduler.transition_counter
        assert_same_bits(model().fit(X), expected)
        assert cluster.scheduler.transition_counter == before
        assert_same_bits(model(scheduler=client).fit(X), expected)
        assert cluster.scheduler.transition_counter > before


def test_an_explicit_scheduler_beats_the_client_in_scope(cluster, expected):
    with distributed.Client(cluster):
        assert_same_bits(model(scheduler="threads").fit(watched()), expected)
    assert set(watch.workers) == {None}


def test_an_address_opens_a_client_and_closes_it(cluster, expected):
    before = set(cluster.scheduler.clients)
    during = []
    fitted = model(
        scheduler=cluster.scheduler_address, callbacks=[lambda event: during.append(len(cluster.scheduler.clients))]
    )
    assert_same_bits(fitted.fit(da.from_array(X, chunks=(5000, 3))), expected)
    assert max(during) == len(before) + 1
    deadline = time.monotonic() + 10
    while set(cluster.scheduler.clients) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(cluster.scheduler.clients) == before
    with pytest.raises(ValueError, match="No global client"):
        distributed.get_client()


def test_clones_share_the_client_and_pickles_keep_its_address(cluster, client, expected):
    given = model(scheduler=client)
    assert clone(given).scheduler is client
    assert_same_bits(clone(given).fit(da.from_array(X, chunks=(5000, 3))), expected)
    fitted = pickle.loads(pickle.dumps(given.fit(X)))
    assert fitted.scheduler == cluster.scheduler_address
    np.testing.assert_array_equal(fitted.predict(X), expected.predict(X))
    assert_same_bits(fitted.fit(X), expected)


def test_a_fit_leaves_nothing_on_the_scheduler(client, cluster):
    model(scheduler=client).fit(da.from_array(X, chunks=(5000, 3)))
    deadline = time.monotonic() + 10
    while cluster.scheduler.tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not cluster.scheduler.tasks


# ---- events


def check_passes(heard, n_passes, n_rows):
    """Order of the events, and that the rows of the batches of every pass add up."""
    running, finished = None, []
    for event in heard:
        if isinstance(event, events.PassStarted):
            assert running is None
            assert event.n_rows == n_rows
            running, done, n_batches = event.label, 0, 0
        elif isinstance(event, events.BatchFinished):
            assert event.label == running
            done, n_batches = done + event.n_rows, n_batches + 1
        elif isinstance(event, events.PassFinished):
            assert (event.label, event.n_rows, done) == (running, n_rows, n_rows)
            assert event.seconds > 0
            finished.append(running)
            running = None
    assert len(finished) == n_passes
    return finished


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_events_tell_the_passes_in_order(kind, files, scheduler):
    heard = []
    fitted = model(scheduler=scheduler, callbacks=[heard.append], n_init=2).fit(INPUTS[kind](files))
    passes = check_passes(heard, fitted.n_passes_, len(X))
    assert passes == ["survey", "estep", "estep"]  # both starts see the rows of every pass
    assert isinstance(heard[-1], events.EngineClosed)
    outline = [type(e).__name__ for e in heard if not isinstance(e, events.BatchFinished)]
    read, iterated = ["PassStarted", "PassFinished"], ["IterationFinished"]
    last = [*read, *[*iterated, "StartFinished"] * 2]
    assert outline == [*read, *["StartBegun"] * 2, *read, *iterated * 2, *last, "EngineClosed"]


def test_events_tell_what_the_fit_did():
    heard = []
    fitted = model(callbacks=[heard.append], tol=1e-3, max_iter=100).fit(X)
    iterations = [e for e in heard if isinstance(e, events.IterationFinished)]
    assert [e.lower_bound for e in iterations] == fitted.lower_bounds_
    assert [e.iteration for e in iterations] == list(range(1, fitted.n_iter_ + 1))
    assert iterations[0].change == np.inf
    np.testing.assert_allclose([e.change for e in iterations[1:]], np.diff(fitted.lower_bounds_))
    assert {e.arithmetic for e in iterations} == {"float64"}
    (end,) = [e for e in heard if isinstance(e, events.StartFinished)]
    assert (end.start, end.n_iter, end.lower_bound, end.converged) == (0, fitted.n_iter_, fitted.lower_bound_, True)


@pytest.mark.cluster
def test_events_of_worker_processes_tell_the_passes_in_order(files, processes):
    heard = []
    fitted = model(scheduler=processes, callbacks=[heard.append]).fit(files / "x.zarr")
    assert check_passes(heard, fitted.n_passes_, len(X)) == ["survey", "estep", "estep"]


def linger(block):
    """The first worker that comes here stays until it is let go."""
    if linger.first.acquire(blocking=False):
        linger.worker, linger.thread = distributed.get_worker().address, threading.current_thread()
        linger.held.set()
        assert linger.let_go.wait(60)
    return block


async def give_up(address, dask_scheduler):
    """As the scheduler does with a worker that it has not heard of for its time to live."""
    await dask_scheduler.remove_worker(address, stimulus_id="a test")


def test_a_worker_that_was_given_up_does_not_report_to_a_later_pass():
    """Its thread goes on, and comes to the end of its task when the pass is over."""
    linger.first, linger.held, linger.let_go = threading.Lock(), threading.Event(), threading.Event()
    heard = []
    rows = da.from_array(wild(400), chunks=(100, 2))
    lingering = rows.map_blocks(linger, dtype=rows.dtype, meta=wild(0))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        DaskEngine(client, listeners=[heard.append]) as engine,
    ):
        striking = threading.Thread(
            target=lambda: linger.held.wait(60) and client.run_on_scheduler(give_up, linger.worker)
        )
        striking.start()
        engine.run(Dataset(BlockSource(lingering)), Rounding(), "first")
        striking.join()
        linger.let_go.set()
        linger.thread.join(60)
        assert not linger.thread.is_alive()
        engine.run(Dataset(ArraySource(wild(24))), Rounding(), "second")
    batches = [event for event in heard if isinstance(event, events.BatchFinished)]
    told = {label: sum(batch.n_rows for batch in batches if batch.label == label) for label in ("first", "second")}
    assert told == {"first": 400, "second": 24}


def test_scores_are_told_too():
    fitted = model().fit(X)
    heard = []
    fitted.callbacks = [heard.append]
    fitted.score(da.from_array(X, chunks=(5000, 3)))
    assert check_passes(heard, 1, len(X)) == ["score"]


# ---- BLAS


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.usefixtures("free_blas")
def test_blas_has_one_thread_within_fits_and_its_own_number_after():
    with threadpoolctl.threadpool_limits(2):
        during = []
        model(callbacks=[lambda event: during.append(blas_threads())]).fit(X)
        assert all(threads == {1} for threads in during)
        assert blas_threads() == {2}
        with blas.one_blas_thread():
            with blas.one_blas_thread():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}


@pytest.fixture
def free_blas():
    """Release BLAS if earlier tests did tasks of another driver in this process, which holds BLAS from then on."""
    if blas._is_worker:
        blas._is_worker = False
        blas._release()


@contextlib.contextmanager
def work_of_another_driver():
    """What this process does for a driver that is elsewhere, and no longer after the block."""
    blas.limit_worker("the driver, elsewhere")
    try:
        yield
    finally:
        blas._is_worker = False
        blas._release()


@pytest.mark.usefixtures("free_blas")
def test_a_worker_process_holds_blas_at_one_thread_and_its_driver_does_not():
    with threadpoolctl.threadpool_limits(2):
        blas.limit_worker(blas.this_process())
        assert blas_threads() == {2}
        with work_of_another_driver():
            assert blas_threads() == {1}
        assert blas_threads() == {2}


@pytest.mark.usefixtures("free_blas")
def test_a_fit_in_a_task_leaves_blas_held_for_the_tasks_of_others():
    with threadpoolctl.threadpool_limits(2):
        driver = blas.one_blas_thread()
        driver.__enter__()
        with work_of_another_driver():
            driver.__exit__(None, None, None)
            assert blas_threads() == {1}
        assert blas_threads() == {2}


@pytest.mark.usefixtures("free_blas")
def test_blas_is_held_whatever_thread_set_it_before():
    """threadpoolctl lets one thread set it, as long as that one lives, and ignores the others."""

    def held_here():
        with blas.one_blas_thread():
            return blas_threads()

    def held_in_a_worker():
        with work_of_another_driver():
            return blas_threads()

    for held in (held_here, held_in_a_worker):
        with ThreadPoolExecutor(1) as pool, threadpoolctl.threadpool_limits(2, user_api="blas"):  # in control from here
            assert pool.submit(held).result() == {1}
            assert blas_threads() == {2}


@pytest.mark.usefixtures("free_blas")
def test_blas_is_held_again_where_somebody_else_has_set_it():
    with blas.one_blas_thread(), threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert blas_threads() == {2}
        with blas.one_blas_thread():
            assert blas_threads() == {1}


@pytest.mark.usefixtures("free_blas")
def test_blas_is_for_others_to_set_after_a_fit():
    """Also while the thread that the fit was in lives."""
    with ThreadPoolExecutor(1) as pool:

        def fit():
            with blas.one_blas_thread():
                pass

        pool.submit(fit).result()
        for n_threads in (1, 2):
            with threadpoolctl.threadpool_limits(n_threads, user_api="blas"):
                assert blas_threads() == {n_threads}


@pytest.mark.usefixtures("free_blas")
def test_libraries_that_come_with_a_later_import_are_held_too(monkeypatch):
    class Library:
        user_api, n_threads = "blas", 4

        def get_num_threads(self):
            return self.n_threads

        def set_num_threads(self, n_threads):
            self.n_threads = n_threads

    with blas.one_blas_thread():
        pass
    late, found = Library(), blas.ThreadpoolController().lib_controllers
    monkeypatch.setattr(blas, "ThreadpoolController", lambda: SimpleNamespace(lib_controllers=[*found, late]))
    monkeypatch.setitem(sys.modules, "one_that_brings_a_library", ModuleType("one_that_brings_a_library"))
    with blas.one_blas_thread():
        assert late.n_threads == 1
    assert late.n_threads == 4


@pytest.mark.usefixtures("free_blas")
def test_fits_that_end_in_another_order_leave_blas_as_it_was():
    with ThreadPoolExecutor(1) as pool, threadpoolctl.threadpool_limits(2, user_api="blas"):
        pool.submit(blas._acquire).result()
        with blas.one_blas_thread():
            pool.submit(blas._release).result()
            assert blas_threads() == {1}
        assert blas_threads() == {2}


def test_an_engine_counts_its_passes():
    dataset = Dataset(ArraySource(wild(200)))
    with DaskEngine("synchronous") as engine:
        values = [engine.run(dataset, Rounding(), "estep") for _ in range(3)]
    assert engine.n_passes == 3
    assert len(set(values)) == 1


@pytest.mark.slow
def test_an_error_of_the_users_own_graph_stays_what_it_is(client):
    """A file that a block wants to read is missing: that says nothing of the scheduler."""

    def read(block):
        raise FileNotFoundError("january.dat")

    x = da.from_array(X, chunks=(7000, 3)).map_blocks(read, dtype=X.dtype, meta=X[:0])
    with pytest.raises(FileNotFoundError, match=r"january\.dat"):
        model(scheduler=client).fit(x)
