"""Fields of records are the features, wherever the records are."""

import warnings

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, load, select
from daskgmm.errors import NonFiniteDataError, UnsupportedDataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]

N = 300
FIELDS = [("ra", ">f8"), ("mag", ">f4"), ("id", ">i8")]  # as FITS has them
_rng = np.random.default_rng(0)
TABLE = np.zeros(N, FIELDS)
TABLE["ra"], TABLE["mag"], TABLE["id"] = _rng.normal(size=N) + 9 * (np.arange(N) % 2), _rng.normal(18, 1, N), range(N)
X = np.stack([TABLE[name].astype(float) for name, _ in FIELDS], axis=1)


def mapped(table, folder):
    table.tofile(folder / "table.bin")
    return np.memmap(folder / "table.bin", table.dtype, "r")


def in_zarr(table, folder, zarr_format):
    path = folder / f"x{zarr_format}.zarr"
    if zarr_format == 3:  # Zarr writes big-endian records of that format so that nobody can read them
        table = table.astype([(name, table.dtype[name].newbyteorder("<")) for name in table.dtype.names])
    zarr.create_array(path, data=table, chunks=(70,), zarr_format=zarr_format)
    return path


def in_hdf5(table, folder):
    file = pytest.importorskip("h5py").File(folder / "x.h5", "w")
    return file.create_dataset("x", data=table, chunks=(70,))


KINDS = {
    "numpy": lambda table, folder: table,
    "recarray": lambda table, folder: table.view(np.recarray),
    "memmap": mapped,
    "dask": lambda table, folder: da.from_array(table, chunks=70),
    "zarr 2": lambda table, folder: in_zarr(table, folder, 2),
    "zarr 3": lambda table, folder: in_zarr(table, folder, 3),
    "hdf5": in_hdf5,
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def fit(data, **more):
    return GaussianMixture(2, random_state=0, max_iter=3, tol=0).fit(data, **more)


@EVERY_KIND
def test_fields_are_features(kind, tmp_path):
    data, expected = KINDS[kind](TABLE, tmp_path), fit(X)
    model = fit(data)
    np.testing.assert_array_equal(model.means_, expected.means_)
    assert model.n_features_in_ == 3
    assert list(model.feature_names_in_) == ["ra", "mag", "id"]
    np.testing.assert_array_equal(np.asarray(model.predict(data)), expected.predict(X))
    assert model.score(data) == pytest.approx(expected.score(X), rel=1e-13)
    assert isinstance(model.predict(data), np.ndarray) == (kind in ("numpy", "recarray"))


@EVERY_KIND
def test_the_row_of_a_value_that_is_not_finite(kind, tmp_path):
    table = TABLE.copy()
    table["mag"][123] = np.nan
    with pytest.raises(NonFiniteDataError, match=r"NaN in row 123\."):
        fit(KINDS[kind](table, tmp_path))


@EVERY_KIND
def test_a_field_of_text_is_named(kind, tmp_path):
    table = np.zeros(N, [("ra", "f8"), ("name", "S5"), ("dec", "f8")])
    with pytest.raises(UnsupportedDataError, match=r"its field 'name' is of dtype \|S5.*X\[\['ra', 'dec'\]\]"):
        fit(KINDS[kind](table, tmp_path))


def test_fields_that_hold_more_than_a_number():
    for field in (("a", "f8", (3,)), ("a", [("b", "f8")])):
        with pytest.raises(UnsupportedDataError, match="its field 'a' is of dtype"):
            fit(np.zeros(N, [field]))


def test_names_are_held_against_those_of_the_fit(tmp_path):
    model = fit(TABLE)
    other = TABLE.astype([("ra", "f8"), ("magnitude", "f8"), ("id", "f8")])
    with pytest.raises(ValueError, match=r"X has the features \['ra', 'magnitude', 'id'\], but GaussianMixture was"):
        model.predict(other)
    with pytest.raises(ValueError, match=r"\['ra', 'mag'\], but"):
        model.score(TABLE[["ra", "mag"]])
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        fit(X).predict(TABLE[["ra", "mag"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(TABLE)
    model.save(tmp_path / "m.zarr")
    assert list(load(tmp_path / "m.zarr").feature_names_in_) == ["ra", "mag", "id"]


def test_select_keeps_the_names():
    found = select(TABLE[["ra", "mag"]], [1, 2], estimator=GaussianMixture(random_state=0))
    assert list(found.model.feature_names_in_) == ["ra", "mag"]


def test_records_that_are_masked_in_places():
    masked = np.ma.array(TABLE)
    np.testing.assert_array_equal(fit(masked).means_, fit(X).means_)
    masked["mag"][7] = np.ma.masked
    with pytest.raises(UnsupportedDataError, match="masked in places"):
        fit(masked)


def test_one_precision_where_all_fields_have_it():
    assert fit(TABLE.astype([("ra", "f4"), ("mag", ">f4"), ("id", "f4")])).means_.dtype == np.float32


def test_records_of_two_dimensions():
    with pytest.raises(UnsupportedDataError, match="fields are the features"):
        fit(TABLE.reshape(-1, 2))
