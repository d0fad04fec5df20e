"""Results for every row go to Zarr in one pass, aligned, and whole or not at all."""

import gc
import os
import pickle

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import zarr
from dask.task_spec import DataNode
from tracing import traced

from daskgmm import GaussianMixture, open_zarr, write_predictions
from daskgmm.data import row_arrays
from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_arrays import RowWriter, result_rows
from daskgmm.data.stored_rows import StoredRows, StoreSource
from daskgmm.data.write import new_store, record
from daskgmm.errors import DataChangedError, MissingChunkError, NonFiniteDataError, OutputExistsError
from daskgmm.events import BatchFinished
from daskgmm.results import write_samples


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(c, 1.0, (30_000, 2)) for c in (0.0, 8.0)])
    rng.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def model(rows):
    return GaussianMixture(2, random_state=0).fit(rows)


def everything(model, data, output, **more):
    return write_predictions(model, data, output, probabilities=True, log_density=True, **more)


def assert_complete(model, rows, path):
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["labels"][:], model.predict(rows))
    # A block of one row is multiplied by another BLAS routine.
    np.testing.assert_allclose(group["probabilities"][:], model.predict_proba(rows), rtol=1e-12)
    np.testing.assert_allclose(group["log_density"][:], model.score_samples(rows), rtol=1e-12)


@pytest.mark.parametrize(
    "chunks",
    [(60_000,), (20_000,) * 3, (10_000, 50_000), (1, 0, 29_999, 30_000), (100,) * 600, (25_000, 25_000, 10_000)],
)
def test_results_of_dask_arrays_for_any_chunks(model, rows, tmp_path, chunks):
    data = da.from_array(rows, chunks=(chunks, (1, 1)))
    shapes = everything(model, data, tmp_path / "out.zarr")
    assert shapes == {"labels": (60_000,), "probabilities": (60_000, 2), "log_density": (60_000,)}
    assert_complete(model, rows, tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert {array.chunks[0] for _, array in group.arrays()} == {group["labels"].chunks[0]}
    assert group["labels"].chunks[0] >= 1 << 14


@pytest.mark.parametrize("shards", [None, (20_000, 2)])
def test_a_store_is_read_once_for_all_results(model, rows, tmp_path, monkeypatch, shards):
    store = zarr.create_array(
        tmp_path / "x.zarr", shape=rows.shape, chunks=(10_000, 2), shards=shards, dtype=rows.dtype
    )
    store[:] = rows
    reads = []
    read = StoredRows.__getitem__
    monkeypatch.setattr(StoredRows, "__getitem__", lambda self, index: (reads.append(index), read(self, index))[1])
    everything(model, str(tmp_path / "x.zarr"), tmp_path / "out.zarr")
    spans = sorted((r.start, r.stop) for r in reads if r.stop > r.start)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(rows)
    assert all(start % 10_000 == 0 for start, _ in spans)
    assert_complete(model, rows, tmp_path / "out.zarr")


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("chunks", [(60_000,), (20_000,) * 3, (7, 0, 29_993, 11_000, 19_000), (100,) * 600])
def test_each_chunk_of_the_results_is_written_by_one_task(model, rows, tmp_path, monkeypatch, chunks, scheduler):
    """Rows of a chunk may come from several chunks of the data."""
    written, write = [], RowWriter.write
    monkeypatch.setattr(
        RowWriter,
        "write",
        lambda self, start, results: (written.append((start, len(results[0]))), write(self, start, results))[1],
    )
    everything(model.set_params(scheduler=scheduler), da.from_array(rows, chunks=(chunks, 2)), tmp_path / "out.zarr")
    model.set_params(scheduler=None)
    length = zarr.open_group(tmp_path / "out.zarr", mode="r")["labels"].chunks[0]
    assert sorted(written) == [(start, min(length, 60_000 - start)) for start in range(0, 60_000, length)]


def test_a_chunk_that_is_written_again_stays_whole(rows, tmp_path):
    """A task runs again, at any time, where a worker was lost."""
    group = zarr.open_group(tmp_path / "out.zarr", mode="w")
    target = group.create_array("labels", shape=(60_000,), chunks=(20_000,), dtype="i8", fill_value=-1)
    for start in (0, 20_000, 40_000, 20_000):
        RowWriter((target,)).write(start, [np.arange(start, start + 20_000)])
    np.testing.assert_array_equal(target[:], np.arange(60_000))


def test_data_in_memory(model, rows, tmp_path):
    for x in (rows, np.asfortranarray(rows), rows.tolist()[:100]):
        events = []
        shapes = everything(model, x, tmp_path / "out.zarr", overwrite=True, callbacks=[events.append])
        assert shapes["labels"] == (len(x),)
        assert_complete(model, np.asarray(x), tmp_path / "out.zarr")
        assert sum(event.n_rows for event in events if isinstance(event, BatchFinished)) == len(x)
    assert zarr.open_group(tmp_path / "out.zarr").attrs["daskgmm"]["data"] == "an array in memory"


def test_dask_arrays_of_unknown_length(model, rows, tmp_path):
    x = da.from_array(rows, chunks=(20_000, 2))
    everything(model, x[x[:, 0] > 4], tmp_path / "out.zarr")
    assert_complete(model, rows[rows[:, 0] > 4], tmp_path / "out.zarr")


def test_the_models_own_callbacks_are_called_unless_others_are_given(model, rows, tmp_path):
    own, others = [], []
    model.set_params(callbacks=[own.append])
    write_predictions(model, rows, tmp_path / "out.zarr", callbacks=[others.append])
    assert (len(own) > 0, len(others) > 0) == (False, True)
    write_predictions(model, rows, tmp_path / "out.zarr", overwrite=True)
    model.set_params(callbacks=())
    assert len(own) == len(others)


# ---- several lazy results


def lazy_results(model, data):
    return [getattr(model, method)(data) for method in ("predict", "predict_proba", "score_samples")]


@pytest.fixture
def reads(monkeypatch):
    """First row of every read of stored rows, in this process."""
    found, read = [], StoredRows.__getitem__
    monkeypatch.setattr(
        StoredRows, "__getitem__", lambda self, index: (found.append(index.start), read(self, index))[1]
    )
    return found


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("scheduler", "how"),
    [
        ("synchronous", "path"),
        ("threads", "two arrays"),
        ("cluster", "path"),
        ("cluster", "array"),
        ("threads", "many small chunks"),
    ],
)
def test_several_lazy_results_read_a_store_once(model, rows, tmp_path, reads, request, tune, how, scheduler):
    path = tmp_path / "x.zarr"
    if how == "many small chunks":
        tune(many_chunks=5, joined_bytes=1 << 20)
    zarr.create_array(path, data=rows, chunks=(10_000, 2))
    array = zarr.open_array(path, mode="r")
    data = path if how == "path" else array
    lazy = lazy_results(model, data)
    if how == "two arrays":
        lazy[1] = model.predict_proba(zarr.open_array(path, mode="r"))
    assert reads == []
    if scheduler == "cluster":
        labels, probabilities, density = request.getfixturevalue("client").compute(lazy, sync=True)
    else:
        labels, probabilities, density = dask.compute(*lazy, scheduler=scheduler)
    assert sorted(reads) == list(range(0, 60_000, lazy[0].chunks[0][0]))
    np.testing.assert_array_equal(labels, model.predict(rows))
    np.testing.assert_allclose(probabilities, model.predict_proba(rows), rtol=1e-12)
    np.testing.assert_allclose(density, model.score_samples(rows), rtol=1e-12)


def test_results_of_a_store_that_was_rewritten_are_new(model, rows, tmp_path, client, caplog):
    """Also where earlier results are kept, in this process and on the cluster."""
    store = zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(10_000, 2))
    before = lazy_results(model, tmp_path / "x.zarr")
    kept = client.persist(before)
    with client.as_current():
        distributed.wait(kept)
    store[...] = rows + 1
    after = lazy_results(model, tmp_path / "x.zarr")
    density = client.compute(after, sync=True)[2]
    np.testing.assert_allclose(density, model.score_samples(rows + 1), rtol=1e-12)
    np.testing.assert_allclose(client.compute(kept[2], sync=True), model.score_samples(rows), rtol=1e-12)
    assert {result.name for result in before}.isdisjoint(result.name for result in after)
    assert "run_spec" not in caplog.text


def test_results_of_an_archive_that_was_replaced_are_new(model, rows, tmp_path):
    """An archive stays open, also behind fsspec."""
    for name, data in (("x", rows), ("y", rows + 1)):
        with zarr.storage.ZipStore(tmp_path / f"{name}.zip", mode="w") as store:
            zarr.create_array(store, data=data, chunks=(10_000, 2))
    address = f"zip://::file://{tmp_path}/x.zip"
    before = model.score_samples(address)
    np.testing.assert_allclose(before, model.score_samples(rows), rtol=1e-12)
    os.replace(tmp_path / "y.zip", tmp_path / "x.zip")
    np.testing.assert_allclose(model.score_samples(address), model.score_samples(rows + 1), rtol=1e-12)


class CacheOfEverything(dask.callbacks.Callback):
    """Intermediate values by their keys, as `dask.cache` keeps them."""

    def __init__(self):
        self.values = {}

    def _start(self, graph):
        graph.update({key: DataNode(key, self.values[key]) for key in self.values.keys() & graph.keys()})

    def _posttask(self, key, value, *_):
        self.values[key] = value


CacheOfEverything.__module__ = "dask.cache"


def test_a_cache_of_dask_does_not_answer_with_old_rows(model, rows, tmp_path):
    store = zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(10_000, 2))
    with CacheOfEverything():
        before = lazy_results(model, tmp_path / "x.zarr")
        dask.compute(*before)
        store[...] = rows + 1
        density = dask.compute(*lazy_results(model, tmp_path / "x.zarr"))[2]
    np.testing.assert_allclose(density, model.score_samples(rows + 1), rtol=1e-12)


@pytest.mark.parametrize("kind", ["memory", "archive"])
def test_what_travels_or_stays_open_is_read_for_each_result(model, rows, tmp_path, reads, kind):
    """An old copy of such a store would be taken for the store as it is."""
    store = {} if kind == "memory" else zarr.storage.ZipStore(tmp_path / "x.zip", mode="w")
    array = zarr.create_array(store, data=rows, chunks=(10_000, 2))
    if kind == "archive":
        store.close()
        array = open_zarr(tmp_path / "x.zip")
    dask.compute(*lazy_results(model, array))
    assert sorted(reads) == sorted(3 * list(range(0, 60_000, 10_000)))


def test_results_that_are_read_otherwise_share_nothing(model, rows, tmp_path, reads):
    array = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, dtype="f8", chunks=(10_000, 2))
    array[:50_000] = rows[:50_000]
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        filled = model.predict(tmp_path / "x.zarr")
    refused = model.predict(tmp_path / "x.zarr")
    with pytest.raises(MissingChunkError):
        dask.compute(filled, refused)
    assert len(filled.compute()) == 60_000


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # collected here, of other tests' clusters
@pytest.mark.filterwarnings("ignore:(?s).*unclosed .*socket:pytest.PytestUnraisableExceptionWarning")
def test_names_end_with_the_last_result(model, rows, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(10_000, 2))

    first = lazy_results(model, tmp_path / "x.zarr")
    shared = set.intersection(*(set(lazy.dask.layers) for lazy in first))
    assert shared
    del first
    gc.collect()
    assert not shared & set(model.predict(tmp_path / "x.zarr").dask.layers)


# ---- what is written


def test_arrays_say_what_they_are(model, rows, tmp_path):
    store = zarr.create_array(tmp_path / "x.zarr", data=rows)
    everything(model, store, tmp_path / "out.zarr", model_name="m.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    said = group.attrs["daskgmm"]
    assert said["format"] == "results"
    assert said["data"].endswith("x.zarr")
    assert said["model"] == os.path.abspath("m.zarr")
    assert group["labels"].metadata.dimension_names == ("row",)
    assert group["probabilities"].metadata.dimension_names == ("row", "component")
    assert group["labels"].fill_value == -1
    assert np.isnan(group["probabilities"].fill_value)
    assert group["log_density"].attrs["units"] == "nat"


def test_only_labels_unless_asked(model, rows, tmp_path):
    assert list(write_predictions(model, da.from_array(rows), tmp_path / "out.zarr")) == ["labels"]
    assert [name for name, _ in zarr.open_group(tmp_path / "out.zarr").arrays()] == ["labels"]


def test_single_precision_stays_single(rows, tmp_path):
    x = rows.astype(np.float32)
    model = GaussianMixture(2, random_state=0).fit(x)
    for method in (model.predict_proba, model.score_samples):
        lazy = method(da.from_array(x, chunks=20_000))
        assert lazy.dtype == lazy.compute().dtype == method(x).dtype == np.float32
    everything(model, da.from_array(x), tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert group["probabilities"].dtype == group["log_density"].dtype == np.float32
    assert group["labels"].dtype == np.int64


def test_a_failure_in_the_middle_leaves_nothing(model, rows, tmp_path):
    bad = rows.copy()
    bad[40_000, 1] = np.nan
    zarr.create_array(tmp_path / "x.zarr", data=bad, chunks=(10_000, 2))
    with pytest.raises(NonFiniteDataError, match="row 40000"):
        everything(model, tmp_path / "x.zarr", tmp_path / "out.zarr")
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_a_failure_leaves_the_old_results(model, rows, tmp_path, monkeypatch):
    everything(model, da.from_array(rows), tmp_path / "out.zarr")
    with pytest.raises(OutputExistsError):
        everything(model, da.from_array(rows), tmp_path / "out.zarr")
    write, written = RowWriter.write, []

    def failing(self, start, results):
        if written:
            raise OSError("disk full")
        written.append(start)
        write(self, start, results)

    monkeypatch.setattr(RowWriter, "write", failing)
    with pytest.raises(OSError, match="disk full"):
        everything(model, da.from_array(rows, chunks=20_000), tmp_path / "out.zarr", overwrite=True)
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert_complete(model, rows, tmp_path / "out.zarr")
    monkeypatch.undo()
    write_predictions(model, da.from_array(rows), tmp_path / "out.zarr", overwrite=True)
    assert os.listdir(tmp_path / "out.zarr") != []
    assert [name for name, _ in zarr.open_group(tmp_path / "out.zarr").arrays()] == ["labels"]


def test_blocks_that_are_not_as_long_as_they_said(model, rows, tmp_path):
    lying = da.from_array(rows, chunks=(20_000, 2)).map_blocks(lambda block: block[:1], dtype=float, meta=rows[:0])
    with pytest.raises(DataChangedError, match="were expected to be 60000 rows, but 3 came"):
        write_predictions(model.set_params(scheduler="synchronous"), lying, tmp_path / "out.zarr")
    model.set_params(scheduler=None)
    assert os.listdir(tmp_path) == []


def test_a_task_that_comes_too_late_writes_nothing(tmp_path):
    class Failed(Exception):
        pass

    def write():
        with new_store(tmp_path / "out.zarr", record("results")) as group:
            arrays.append(group.create_array("labels", shape=(4,), dtype="i8"))
            raise Failed

    arrays = []
    with pytest.raises(Failed):
        write()
    with pytest.raises(ValueError, match="has failed"):
        RowWriter((arrays[0],)).write(0, [np.ones(4)])
    assert os.listdir(tmp_path) == []


def test_a_task_that_writes_while_the_store_is_discarded_leaves_nothing(tmp_path, monkeypatch):
    """Zarr makes the directories anew."""
    arrays = []

    def write():
        with new_store(tmp_path / "out.zarr", record("results")) as group:
            arrays.append(group.create_array("labels", shape=(4,), dtype="i8"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    monkeypatch.setattr(row_arrays.os.path, "isdir", lambda path: True)  # as it was a moment before
    RowWriter((arrays[0],)).write(0, [np.ones(4)])
    assert os.listdir(tmp_path) == []


def test_a_store_that_comes_back_while_it_is_discarded_is_removed(tmp_path, monkeypatch):
    """By a thread of Zarr's own that nobody waits for."""
    growing = []

    def sleep(seconds):
        if growing:
            os.makedirs(growing.pop() / "labels")

    def write():
        with new_store(tmp_path / "out.zarr", record("results")) as group:
            growing.append(group.store.root)
            raise ZeroDivisionError

    monkeypatch.setattr("daskgmm.data.output_locks.time.sleep", sleep)
    with pytest.raises(ZeroDivisionError):
        write()
    assert growing == []
    assert os.listdir(tmp_path) == []


MANY = 10**8


@pytest.mark.parametrize(
    ("data", "result_bytes", "expected"),
    [
        (da.empty((50_000, 2), chunks=(20_000, 2)), 8, 20_000),  # a chunk of the data
        (da.empty((50_000, 2), chunks=(10_000, 2)), 8, 20_000),  # whole chunks
        (da.empty((50_000, 2), chunks=((20_000, 7, 29_993), 2)), 8, 1 << 14),  # uneven ones
        (da.empty((15, 2), chunks=(5, 2)), 8, 15),
        (da.empty((MANY, 2), chunks=(10**6, 2)), 8, 500_000),  # equal parts of large ones
        (da.empty((MANY, 2), chunks=(10**6, 2)), 800, 25_000),  # as small as large results demand
        (da.empty((10**7, 1000), chunks=(2000, 1000)), 8, 10_000),  # 64 MB of rows rather than many small files
        (da.empty((10**5, 10**6), chunks=(100, 10**6)), 8, 10),  # and no more where rows are long
    ],
    ids=str,
)
def test_chunks_of_results(data, result_bytes, expected):
    dataset, _ = as_dataset(data)
    assert result_rows(dataset.rows, result_bytes) == expected


def test_samples(model, tmp_path):
    assert write_samples(model, 500, tmp_path / "s.zarr", model_name="m") == {"rows": (500, 2), "labels": (500,)}
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    rows, labels = model.sample(500)
    np.testing.assert_array_equal(group["rows"][:], rows)
    np.testing.assert_array_equal(group["labels"][:], labels)


def test_many_samples_are_never_in_memory_at_once(tmp_path):
    """Five chunks of several blocks each, where components end inside of both."""
    rng = np.random.default_rng(0)
    model = GaussianMixture(3, random_state=0)
    model.fit(rng.normal(size=(300, 8)) + 6.0 * rng.integers(3, size=(300, 1)))
    n_samples = 1_200_000
    write_samples(model, 10, tmp_path / "few.zarr")  # once before: what loading code takes is not meant
    with traced() as peak:
        write_samples(model, n_samples, tmp_path / "s.zarr")
    rows, labels = model.sample(n_samples)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    np.testing.assert_array_equal(group["rows"][:], rows)
    np.testing.assert_array_equal(group["labels"][:], labels)
    assert group["rows"].nchunks == 5
    assert peak.n_bytes < 0.8 * rows.nbytes, f"{peak.n_bytes / 1e6:.0f} MB"
    assert set(np.unique(labels)) == {0, 1, 2}


def test_relative_stores_are_anchored(model, rows, tmp_path, monkeypatch):
    """A worker in another directory would find no chunks, and read zeros."""
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x.zarr", data=rows)
    for array in (zarr.open_array("x.zarr", mode="r"), open_zarr("x.zarr")):
        handle = pickle.dumps(StoreSource(array).handle)
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(pickle.loads(handle)[0:10], rows[:10])
        monkeypatch.chdir(tmp_path)
