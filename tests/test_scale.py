"""Very many chunks, blocks and tasks: what the driver holds stays small, waves give the same bits."""

import gc
import itertools
import pickle
import uuid
from dataclasses import dataclass, replace
from types import FunctionType, ModuleType

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import zarr
from dask.local import get_sync
from dask.task_spec import Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture, events
from daskgmm.core.elementwise import PLAIN
from daskgmm.data import dask_blocks, task_graphs
from daskgmm.data.dataset import Dataset
from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_block import RowBlock
from daskgmm.data.row_sample import NumberedRows, draw_rows
from daskgmm.data.source import Source, borders
from daskgmm.engine import graph
from daskgmm.engine.run import DaskEngine
from daskgmm.engine.tree import Accumulator, Node
from daskgmm.fitting.survey import survey_fold
from daskgmm.tuning import Tuning, tuned

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(120),
]

quick = settings(deadline=None)
LEAF = 8


@dataclass(frozen=True)
class Rounding:
    """A fold of floats in which each other grouping of the leaves rounds to other bits."""

    leaf_rows: int = LEAF
    row_seconds: float = 1e9  # so that every task reads as little as the layout allows
    work_bytes: int = 0
    value_bytes: int = 0
    process_bytes: int = 0

    def start(self):
        return lambda start, block: float((block.rows * (1 if block.weights is None else block.weights[:, None])).sum())


class Plain(Source):
    """So many chunks of rows that nobody reads."""

    def __init__(self, n_chunks, chunk_rows=1000):
        self.shape, self.dtype = (n_chunks * chunk_rows, 4), np.dtype(float)
        self.chunk_rows = self.batch_rows = chunk_rows


def wild(n, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 2)) * 10.0 ** rng.randint(-12, 13, size=(n, 2))


X = wild(1003)
WEIGHTS = np.random.RandomState(1).rand(len(X))


def in_zarr(chunks, **layout):
    array = zarr.create_array({}, shape=X.shape, dtype=X.dtype, chunks=(chunks, 2), **layout)
    array[...] = X
    return array


def shuffled(x):
    order = np.random.RandomState(1).permutation(len(X))
    return x[order][np.argsort(order)]


INPUTS = {
    "dask": lambda: da.from_array(X, chunks=(37, 1)),
    "dask in uneven chunks": lambda: da.from_array(X, chunks=((0, 1, 300, 0, 7, 9, 600, 86), 2)),
    "rechunked": lambda: da.from_array(X, chunks=(37, 2)).rechunk((41, 2)),
    "shuffled": lambda: shuffled(da.from_array(X, chunks=(100, 2))),
    "one block in all": lambda: da.from_array(X, chunks=50).map_blocks(np.subtract, da.zeros(1, chunks=1)[0]),
    "zarr": lambda: in_zarr(29),
    "zarr in leaves": lambda: in_zarr(LEAF),
    "shards": lambda: in_zarr(10, shards=(40, 2)),
}


@pytest.fixture(scope="module", autouse=True)
def short_tasks():
    with tuned(shortest_task=0.0):
        yield


@pytest.fixture(params=[1, 3, 10])
def wave_tasks(request, tune):
    tune(wave_tasks=request.param)
    return request.param


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["synchronous", "threads", "distributed"])
def scheduler(request):
    return request.getfixturevalue("client") if request.param == "distributed" else request.param


def one_pass(data, scheduler="synchronous", weights=None, listeners=()):
    dataset, _ = as_dataset(data, weights)
    with DaskEngine(scheduler, listeners=listeners) as engine:
        return engine.run(dataset, Rounding(), "estep")


def submitted(data):
    """The graphs of a pass."""
    graphs = []

    def record(tasks, key, **options):
        graphs.append(dict(tasks))
        return get_sync(tasks, key, **options)

    with dask.config.set(scheduler=record):
        one_pass(data, None)
    return graphs


# ---- waves


@pytest.mark.parametrize("kind", INPUTS)
def test_waves_give_the_same_bits(kind, scheduler, wave_tasks):
    expected = one_pass(X)
    assert one_pass(INPUTS[kind](), scheduler) == expected


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_waves_give_the_same_bits_with_weights(kind, scheduler, wave_tasks):
    expected = one_pass(X, weights=WEIGHTS)
    assert one_pass(INPUTS[kind](), scheduler, da.from_array(WEIGHTS, chunks=45)) == expected


@pytest.mark.parametrize("kind", ["dask", "rechunked", "zarr"])
def test_a_fit_in_waves_has_the_same_bits(kind, scheduler, wave_tasks):
    parameters = {"max_iter": 3, "tol": 0, "random_state": 0, "reg_covar": 1e-3}
    expected = GaussianMixture(2, **parameters).fit(X)
    fitted = GaussianMixture(2, scheduler=scheduler, **parameters).fit(INPUTS[kind]())
    assert fitted.lower_bounds_ == expected.lower_bounds_
    np.testing.assert_array_equal(fitted.means_, expected.means_)


@given(st.lists(st.integers(0, len(X) // 30), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 90))
@quick
def test_waves_give_the_same_bits_for_any_chunking(chunks, wave_tasks, again):
    rows = X[: sum(chunks)]  # there are so many
    if len(rows) == 0:
        return
    x = da.from_array(rows, chunks=(tuple(chunks), 2))
    with tuned(wave_tasks=wave_tasks):
        values = {one_pass(x), one_pass(x.rechunk((again, 2)))}
    assert values == {one_pass(rows)}


def batches_of(tasks):
    return [key for key in tasks if str(key[0]).startswith("gmm-estep")]


def merges_of(tasks):
    return [key for key in tasks if str(key).startswith(("gmm-total", "gmm-context", "('gmm-reduce"))]


@pytest.mark.parametrize("kind", ["dask", "rechunked", "zarr", "zarr in leaves", "shards"])
def test_every_graph_is_bounded(kind, tune):
    (whole,) = submitted(INPUTS[kind]())
    tune(wave_tasks=10)
    waves = submitted(INPUTS[kind]())
    assert len(waves) > 1
    for tasks in waves:
        assert len(tasks) - len(merges_of(tasks)) <= 10
        assert len(merges_of(tasks)) <= 4
    assert sum(len(batches_of(tasks)) for tasks in waves) == len(batches_of(whole))
    assert not set.intersection(*(set(merges_of(tasks)) | set(batches_of(tasks)) for tasks in waves))


def test_a_wave_brings_only_the_shared_tasks_that_it_needs(tune):
    tune(wave_tasks=20)
    calls = []

    def read(block):
        calls.append(block[0, 0])
        return block

    x = da.from_array(X, chunks=(20, 2)).map_blocks(read, dtype=X.dtype, meta=X[:0]).rechunk((31, 2))
    waves = submitted(x)
    assert len(waves) > 3
    assert len(calls) < 51 + len(waves)  # neighbouring waves share a block at most


def test_work_that_all_batches_share_is_not_repeated_by_waves(tune):
    tune(wave_tasks=20)
    calls = []

    def read(block):
        calls.append(len(block))
        return block

    x = shuffled(da.from_array(X, chunks=(40, 2)).map_blocks(read, dtype=X.dtype, meta=X[:0]))
    assert len(submitted(x)) == 1
    assert len(calls) == 26


def test_events_tell_of_the_whole_pass(scheduler, tune):
    heard = {}
    for wave_tasks in (10**6, 3):
        tune(wave_tasks=wave_tasks)
        heard[wave_tasks] = []
        one_pass(INPUTS["zarr"](), scheduler, listeners=[heard[wave_tasks].append])
    for told in heard.values():
        kinds = [type(event) for event in told]
        assert kinds.count(events.PassStarted) == kinds.count(events.PassFinished) == 1
        assert told[0].n_batches == kinds.count(events.BatchFinished) == 35
        assert sum(event.n_rows for event in told if isinstance(event, events.BatchFinished)) == len(X)


def test_an_error_in_a_later_wave_comes_through(scheduler, tune):
    tune(wave_tasks=3)

    def fail(block, block_id=None):
        if block_id[0] == 20:
            raise ZeroDivisionError("my own mistake")
        return block

    x = da.from_array(X, chunks=(37, 2)).map_blocks(fail, dtype=X.dtype, meta=X[:0])
    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        one_pass(x, scheduler)


# ---- what the driver holds


def held(*roots):
    """Objects that some hold, themselves included, without classes and code.

    Not a difference of what the whole process holds: other threads come and go in it.
    """
    found, stack = {}, list(roots)
    while stack:
        one = stack.pop()
        if id(one) not in found and not isinstance(one, (type, ModuleType, FunctionType)):
            found[id(one)] = one
            stack.extend(gc.get_referents(one))
    return list(found.values())


def test_a_plan_of_a_million_units_is_a_few_objects():
    dataset = Dataset(Plain(10**6))
    waves = graph.plan_waves(dataset, graph.plan_batches(dataset, Rounding(), 1), Tuning.wave_tasks)
    assert 20 < len(held(dataset, waves)) < 400
    assert len(held([wave.borders.tolist() for wave in waves])) > 10**6
    assert sum(wave.n_batches for wave in waves) == 10**6
    assert max(wave.n_tasks for wave in waves) == Tuning.wave_tasks
    for one, following in itertools.pairwise(waves):
        assert one.borders[-1] == following.borders[0]


def pickled_graph(dataset, size):
    context = graph.Context(Rounding(), dataset.reader(Tuning.slab_bytes), dataset.n_rows, None)
    (wave,) = graph.plan_waves(dataset, graph.plan_batches(dataset, Rounding(), size), Tuning.wave_tasks)
    return wave.n_batches, len(
        pickle.dumps(graph.build_graph(context, dataset, wave, "estep", whole=True, arity=Tuning.arity)[0])
    )


def test_a_graph_grows_by_a_few_bytes_a_batch_whatever_the_chunks():
    for chunk_rows in (1000, 10):
        sizes = [pickled_graph(Dataset(Plain(n * 1000 // chunk_rows, chunk_rows)), 1000) for n in (100, 2000)]
        (few, small), (many, large) = sizes
        assert many - few > 1000
        assert (large - small) / (many - few) < 250


def test_a_sample_of_all_rows_is_not_sent_and_is_what_their_numbers_give():
    dataset, _ = as_dataset(X)
    short = survey_fold(dataset, draw_rows(len(X), len(X), 0), PLAIN)
    assert len(pickle.dumps(short)) < len(
        pickle.dumps(replace(short, sampled=NumberedRows(np.arange(len(X)))))
    ) - 7 * len(X)
    for sampled in (range(len(X)), range(len(X) // 3)):
        folds = [replace(short, sampled=NumberedRows(numbers)) for numbers in (sampled, np.asarray(sampled))]
        one, other = (fold.start()(len(X) // 4, RowBlock(X[len(X) // 4 :])).sample for fold in folds)
        assert len(one) == len(sampled) - len(X) // 4
        np.testing.assert_array_equal(one, other)


def test_blocks_travel_with_their_own_batch_alone():
    def size(n):
        x = da.ones((n * 10, 2), chunks=(10, 2)) + 1
        return pickled_graph(as_dataset(x)[0], 10)

    (few, small), (many, large) = size(50), size(500)
    assert (large - small) / (many - few) < 2500


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled, monkeypatch):
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        one_pass(INPUTS["dask"]())
        assert gc.isenabled() == enabled
        monkeypatch.setattr(dask_blocks, "split_graph", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one_pass(INPUTS["dask"]())
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 100))
@quick
def test_borders_are_the_furthest_cuts(chunks, size):
    cuts = np.cumsum([0, *chunks])
    edges = borders(0, int(cuts[-1]), size, 1, cuts).tolist()
    assert edges[0] == 0
    assert edges[-1] == cuts[-1]
    for start, stop in itertools.pairwise(edges):
        later = sorted({c for c in cuts.tolist() if c > start})
        assert stop == max([c for c in later if c <= start + size] or later[:1])


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 90), st.integers(1, 90))
@quick
def test_borders_without_cuts_are_multiples(start, n, size, multiple):
    edges = borders(start, start + n, size, multiple, None).tolist()
    assert edges[0] == start
    assert edges[-1] == start + n
    assert all(a < b <= a + max(size, multiple) for a, b in itertools.pairwise(edges))
    assert all(edge % multiple == 0 for edge in edges[1:-1])


# ---- blocks


class Value:
    """Something whose life can be followed."""

    alive = 0
    most = 0

    def __init__(self, number=0):
        self.number = number
        Value.alive += 1
        Value.most = max(Value.most, Value.alive)

    def __del__(self):
        Value.alive -= 1


def add(*values):
    return Value(1 + sum(value.number for value in values))


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=30), st.data())
@quick
def test_a_small_graph_has_the_values_that_dask_gives_it(upstream, data):
    tasks = {}
    for i, some in enumerate(upstream):
        tasks[i] = Task(i, add, *(TaskRef(j) for j in some if j < i))
    keys = data.draw(st.lists(st.sampled_from(sorted(tasks)), min_size=1, max_size=3, unique=True))
    expected = [value.number for value in get_sync(tasks, keys)]
    assert [value.number for value in task_graphs.evaluate(tasks, keys, {})] == expected
    given_keys = tasks[keys[0]].dependencies - set(keys)
    values = {key: get_sync(tasks, key) for key in given_keys}
    rest = {key: task for key, task in tasks.items() if key not in given_keys}
    assert [value.number for value in task_graphs.evaluate(rest, keys, values)] == expected


def test_values_of_a_block_do_not_live_longer_than_they_are_needed():
    chain = {i: Task(i, add, *([TaskRef(i - 1)] if i else [])) for i in range(50)}
    Value.most = Value.alive = 0
    (last,) = task_graphs.evaluate(chain, [49], {})
    assert last.number == 50
    assert Value.most == 2


@pytest.mark.parametrize("kind", [kind for kind in INPUTS if "zarr" not in kind and kind != "shards"])
def test_arrays_of_many_layers_give_the_same_bits(kind, tune):
    expected = one_pass(X)
    tune(most_layers=0)
    assert one_pass(INPUTS[kind]()) == expected
    delayed = [dask.delayed(X[i : i + 40]) for i in range(0, len(X), 40)]
    parts = [da.from_delayed(part, (min(40, len(X) - 40 * i), 2), X.dtype) for i, part in enumerate(delayed)]
    assert one_pass(da.concatenate(parts)) == expected


# ---- engine


class NeverTheSame:
    """A function whose pickles differ."""

    def __call__(self, block):
        return block

    def __getstate__(self):
        return {"token": uuid.uuid4().hex}


def test_what_cannot_be_hashed_can_be_read(client):
    x = da.from_array(X, chunks=(100, 2)).map_blocks(NeverTheSame(), dtype=X.dtype, meta=X[:0])
    assert one_pass(x, client) == one_pass(X)


def test_joining_nodes_starts_no_evaluator():
    @dataclass(frozen=True)
    class Unstartable(Rounding):
        def start(self):
            raise AssertionError("scratch memory for nothing")

    accumulator = Accumulator(Unstartable(), 2 * LEAF)
    accumulator.add(Node(0, 0, 1.0))
    accumulator.add(Node(0, 1, 2.0))
    assert accumulator.total() == 3.0
