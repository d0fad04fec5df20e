"""Results for every row go to Zarr in one pass, aligned, and whole or not at all."""

import os
import pickle
import threading
import tracemalloc

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, open_zarr
from daskgmm.data.output import as_blocks
from daskgmm.data.row_arrays import RowArray, _write_block, regular_blocks, write_rows
from daskgmm.data.stored_rows import StoredRows, StoreSource
from daskgmm.data.write import new_store, record
from daskgmm.errors import DataChangedError, NonFiniteDataError, OutputExistsError, UnsupportedDataError
from daskgmm.results import write_predictions, write_samples


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
    blocks = as_blocks(StoreSource(open_zarr(tmp_path / "x.zarr"))).chunks[0]
    assert len(blocks) > 2
    assert spans == [(s - n, s) for s, n in zip(np.cumsum(blocks).tolist(), blocks, strict=True)]
    assert_complete(model, rows, tmp_path / "out.zarr")


def test_all_that_is_done_to_a_block_is_one_task(model, rows, tmp_path):
    """So a worker holds one block and its results for each thread."""
    blocks = da.from_array(rows, chunks=(20_000, 2))
    arrays = {"labels": RowArray(model.predict(blocks), -1, {}), "d": RowArray(model.score_samples(blocks), -1, {})}
    computed = []

    def compute(collection):
        computed.append(collection)
        return collection.compute()

    with new_store(tmp_path / "out.zarr", record("results")) as group:
        write_rows(group, arrays, compute)
    blocks_of = [key[0].split("-")[:2] for key in dict(computed[0].dask) if isinstance(key, tuple)]
    assert blocks_of == [["gmm", "predict"]] * 3


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
    monkeypatch.setattr("daskgmm.data.row_arrays._write_block", failing_block)
    with pytest.raises(OSError, match="disk full"):
        everything(model, da.from_array(rows, chunks=20_000), tmp_path / "out.zarr", overwrite=True)
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert_complete(model, rows, tmp_path / "out.zarr")
    monkeypatch.undo()
    write_predictions(model, da.from_array(rows), tmp_path / "out.zarr", overwrite=True)
    assert os.listdir(tmp_path / "out.zarr") != []
    assert [name for name, _ in zarr.open_group(tmp_path / "out.zarr").arrays()] == ["labels"]


_first, _written = threading.Lock(), threading.Event()


def failing_block(block, target, on_rows, block_info=None):
    """The disk is full as soon as one block is written."""
    if not _first.acquire(blocking=False):
        assert _written.wait(60)
        raise OSError("disk full")
    start = block_info[0]["array-location"][0][0]
    target[start : start + len(block)] = block
    _written.set()
    return np.array([len(block)])


def test_blocks_that_are_not_as_long_as_they_said(tmp_path):
    lying = da.from_array(np.arange(40_000.0), chunks=20_000).map_blocks(lambda block: block[:1], dtype=float)
    with (
        pytest.raises(DataChangedError, match="1 rows came for rows"),
        new_store(tmp_path / "out.zarr", record("results")) as group,
    ):
        write_rows(group, {"labels": RowArray(lying, -1, {})}, lambda collection: collection.compute())
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
        _write_block(np.ones(4), arrays[0], None, {0: {"array-location": [(0, 4)]}})
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
    monkeypatch.setattr("daskgmm.data.row_arrays.os.path.isdir", lambda path: True)  # as it was a moment before
    assert _write_block(np.ones(4), arrays[0], None, {0: {"array-location": [(0, 4)]}}) == [4]
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

    monkeypatch.setattr("daskgmm.data.claims.time.sleep", sleep)
    with pytest.raises(ZeroDivisionError):
        write()
    assert growing == []
    assert os.listdir(tmp_path) == []


def test_blocks_become_regular():
    def chunks(*lengths):
        return regular_blocks(da.zeros(sum(lengths), chunks=(lengths,))).chunks[0]

    assert chunks(20_000, 20_000, 7) == (20_000, 20_000, 7)
    assert chunks(20_000, 7, 20_000) == (20_000, 20_000, 7)
    assert chunks(5, 5, 5) == (15,)
    assert chunks(*[10_000] * 5) == (20_000, 20_000, 10_000)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        regular_blocks(da.zeros(10, chunks=5)[da.ones(10, chunks=5) > 0])


def test_data_in_memory_have_no_business_here(model, rows, tmp_path):
    with pytest.raises(UnsupportedDataError, match="expected a path or URL"):
        everything(model, rows, tmp_path / "out.zarr")


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
    tracemalloc.start()
    try:
        write_samples(model, n_samples, tmp_path / "s.zarr")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rows, labels = model.sample(n_samples)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    np.testing.assert_array_equal(group["rows"][:], rows)
    np.testing.assert_array_equal(group["labels"][:], labels)
    assert group["rows"].nchunks == 5
    assert peak < 0.8 * rows.nbytes, f"{peak / 1e6:.0f} MB"
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
