"""Datasets of HDF5 files are read piece by piece, in chunks of theirs, and by name in other processes."""

import pickle

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, select
from daskgmm.data.inputs import resolve
from daskgmm.errors import DataChangedError, NonFiniteDataError, StoreError, StoreNotFoundError, UnsupportedDataError
from daskgmm.results import write_predictions

h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, ROWS = 700, 3, 100
X = np.random.default_rng(0).normal(size=(N, D)) + np.repeat([[0.0], [9.0]], N // 2, axis=0)
WEIGHTS = np.arange(N) % 3 + 1.0


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("g/x", data=X, chunks=(ROWS, 2), compression="gzip")
        file.create_dataset("whole", data=X.astype(">f4"))
        file.create_dataset("weights", data=WEIGHTS)
    return tmp_path / "x.h5"


@pytest.fixture
def file(path):
    with h5py.File(path) as file:
        yield file


def fit(data, **more):
    return GaussianMixture(2, random_state=0, max_iter=3, tol=0).fit(data, **more)


@pytest.fixture
def reads(monkeypatch):
    """Ranges of rows that are read of two-dimensional datasets."""
    ranges, plain = [], h5py.Dataset.__getitem__

    def recorded(self, index):
        if self.ndim == 2:
            ranges.append((index.start, index.stop))
        return plain(self, index)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recorded)
    return ranges


def test_a_fit_reads_whole_chunks_and_never_all_of_them(file, reads, tune):
    tune(slab_bytes=2 * ROWS * D * 8)
    model = fit(file["g/x"], sample_weight=file["weights"])  # one reading, as the rows are kept
    np.testing.assert_array_equal(model.means_, fit(X, sample_weight=WEIGHTS).means_)
    assert all(start % ROWS == 0 and stop - start <= 2 * ROWS for start, stop in reads)
    assert sum(stop - start for start, stop in reads) == N


@pytest.mark.parametrize("name", ["g/x", "whole"])
def test_results_are_lazy(name, file, reads, tmp_path):
    model, data = fit(X), file[name]
    x = data[:]
    reads.clear()
    results = [getattr(model, method)(data) for method in ("predict", "predict_proba", "score_samples")]
    assert all(isinstance(result, da.Array) for result in results)
    assert reads == []
    assert results[0].chunks[0] == ((ROWS,) * 7 if name == "g/x" else (N,))
    np.testing.assert_array_equal(results[0].compute(), model.predict(x))
    np.testing.assert_allclose(results[1].compute(), model.predict_proba(x), rtol=1e-6)
    assert model.score(data) == pytest.approx(model.score(x), rel=1e-13)
    write_predictions(model, data, tmp_path / "out.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr/labels")[:], model.predict(x))


def test_a_model_knows_the_file_and_the_dataset(file, path):
    origin = fit(file["g/x"], sample_weight=file["weights"]).origin_
    assert (origin.data.kind, origin.data.address) == ("HDF5 dataset", f"{path}::g/x")
    assert (origin.data.shape, origin.data.dtype) == ((N, D), "float64")
    assert origin.sample_weight.address == f"{path}::weights"


def test_select_reads_it(file):
    assert select(file["g/x"], [1, 2], estimator=GaussianMixture(random_state=0)).best == (2, "full")


def test_another_process_opens_it_anew(file, path, monkeypatch, tmp_path):
    handle = resolve(file["g/x"]).handle
    sent = pickle.dumps(handle)
    file.close()
    np.testing.assert_array_equal(pickle.loads(sent)[90:210], X[90:210])
    path.rename(tmp_path / "moved.h5")
    with pytest.raises(StoreNotFoundError, match=r"x\.h5 is not visible to this worker"):
        pickle.loads(sent)[:1]


def test_a_file_in_memory_cannot_travel():
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        file["x"] = X
        np.testing.assert_array_equal(fit(file["x"]).means_, fit(X).means_)
        with pytest.raises(StoreError, match="the HDF5 file is in the memory of this process"):
            pickle.dumps(resolve(file["x"]).handle)


def test_a_file_that_was_closed(file):
    data, model = file["g/x"], fit(X)
    lazy = model.predict(data)
    file.close()
    for method in (fit, model.predict, model.score):
        with pytest.raises(StoreError, match="an HDF5 file that was closed"):
            method(data)
    with pytest.raises(StoreError, match=r"x\.h5::g/x was closed. Keep it open"):
        lazy.compute()


def test_a_dataset_that_grows_during_the_fit(path):
    with h5py.File(path, "a") as file:
        data = file.create_dataset("growing", data=X, chunks=(ROWS, D), maxshape=(None, D))
        model = GaussianMixture(2, callbacks=[lambda event: data.resize((N + ROWS, D))])
        with pytest.raises(DataChangedError, match=r"its shape was \(700, 3\), and is \(800, 3\)"):
            model.fit(data)


@pytest.mark.parametrize("scale", [0.5, np.float32(0.5), np.array([0.5])], ids=["f8", "f4", "one in an array"])
def test_attributes_say_how_numbers_are_read(scale, path):
    """As the netCDF library writes them."""
    with h5py.File(path, "a") as file:
        packed = file.create_dataset("packed", data=np.rint(X * 2).astype("i2"))
        packed.attrs["scale_factor"], packed.attrs["_FillValue"] = scale, np.array([-99], "i2")
        x = np.rint(X * 2) / 2
        np.testing.assert_allclose(fit(packed).means_, fit(x).means_, atol=1e-5)
        assert fit(packed).means_.dtype == np.asarray(scale).dtype
        packed[55, 1] = -99
        with pytest.raises(NonFiniteDataError, match=r"NaN in row 55: .*x\.h5::packed stores -99"):
            fit(packed)


def test_a_file_and_a_group_are_no_dataset(file):
    for data, message in ((file, "HDF5 file .g, weights, whole."), (file["g"], "HDF5 group .x.")):
        with pytest.raises(UnsupportedDataError, match=message + "; expected one dataset"):
            fit(data)
    with pytest.raises(UnsupportedDataError, match=r"^sample_weight is an HDF5 file"):
        fit(X, sample_weight=file)


def test_bad_shapes(file, path):
    with pytest.raises(ValueError, match="expected 2D array, got 1D array"):
        fit(file["weights"])
    with h5py.File(path.with_name("y.h5"), "w") as other:
        other["nothing"] = h5py.Empty("f8")
        other["text"] = np.array([[b"a", b"b"]] * 5)
        with pytest.raises(ValueError, match="expected 2D array, got 0D array"):
            fit(other["nothing"])
        with pytest.raises(UnsupportedDataError, match="X has dtype"):
            fit(other["text"])


def test_a_lazy_result_reads_its_own_dataset(path):
    """Also while a result of another dataset, or of an earlier state of the same one, is kept."""
    model = fit(X)
    long_name = "x" * 300
    with h5py.File(path, "r+") as file:
        file.create_dataset(long_name + "1", data=X)
        file.create_dataset(long_name + "2", data=X[:100] + 3)
        growing = file.create_dataset("growing", data=X[:300], maxshape=(None, D), chunks=(ROWS, D))
        kept = [model.score_samples(file[long_name + "1"]), model.score_samples(growing)]
        np.testing.assert_allclose(model.score_samples(file[long_name + "2"]), model.score_samples(X[:100] + 3))
        growing.resize(N, axis=0)
        growing[300:] = X[300:]
        np.testing.assert_allclose(model.score_samples(file["growing"]), model.score_samples(X))
        del file["growing"]
        file["growing"] = X + 1
        np.testing.assert_allclose(model.score_samples(file["growing"]), model.score_samples(X + 1))
        np.testing.assert_allclose(kept[0], model.score_samples(X))
