"""What is wrong with the input is said: a documented type of error, promptly, with a message that names the thing.

Every test is a table; a row of it is something bad, and what has to be read in the message.
"""

import json
import re
import tempfile

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr
from tracing import traced

from daskgmm import GaussianMixture, ProgressBar, open_zarr, select
from daskgmm.errors import (
    DaskGMMError,
    InvalidWeightsError,
    NonFiniteDataError,
    StoreError,
    StoreNotFoundError,
    UnsupportedDataError,
    WorkerMemoryError,
)

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(60),
]

N, D = 60, 3
X = np.random.RandomState(0).normal(size=(N, D)) + np.repeat([[0], [5]], N // 2, axis=0)

# A LinAlgError is a ValueError, and unchecked input runs into KeyError and IndexError: none of them is an answer.
NO_ANSWER = (np.linalg.LinAlgError, LookupError, AttributeError, AssertionError)


class _Thing:
    """An object of no known kind, whose name is the same in every process of a parallel run."""

    def __repr__(self) -> str:
        return "thing"


NOTHING_USEFUL = _Thing()


def fit(x=X, sample_weight=None, **parameters):
    parameters = {"n_components": 2, "random_state": 0, "max_iter": 2} | parameters
    return GaussianMixture(**parameters).fit(x, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def model():
    return fit()


def expect(error, message, function, *arguments, **named):
    with pytest.raises(error, match=message) as caught:
        function(*arguments, **named)
    assert not isinstance(caught.value, NO_ANSWER)
    return caught.value


def in_zarr(x, **layout):
    array = zarr.create_array({}, shape=x.shape, dtype=x.dtype, config={"write_empty_chunks": True}, **layout)
    array[...] = x
    return array


KINDS = {
    "numpy": lambda x: x,
    "list": lambda x: x.tolist(),
    "frame": lambda x: pd.DataFrame(x),
    "dask": lambda x: da.from_array(x, chunks=(17, 2)[: x.ndim]),
    "zarr": lambda x: in_zarr(x, chunks=(17, 2)[: x.ndim]),
    "memmap": lambda x: mapped(x),
}
ARRAYS = ["numpy", "dask", "zarr"]


def mapped(x):
    with tempfile.NamedTemporaryFile() as file:
        array = np.memmap(file.name, x.dtype, "w+", shape=x.shape)
    array[...] = x
    return array


METHODS = {
    "fit": lambda model, x: fit(x),
    "predict": lambda model, x: computed(model.predict(x)),
    "predict_proba": lambda model, x: computed(model.predict_proba(x)),
    "score_samples": lambda model, x: computed(model.score_samples(x)),
    "score": lambda model, x: model.score(x),
    "bic": lambda model, x: model.bic(x),
}


def computed(result):
    return result.compute(scheduler="synchronous") if isinstance(result, da.Array) else result


# ---- shapes


SHAPES = {
    "a number": (np.array(3.0), r"2D array"),
    "one dimension": (X[:, 0], r"(?s)2D array.*reshape"),
    "three dimensions": (X[None], r"got 3D array of shape \(1, 60, 3\).*moveaxis\(X, axis, -1\)\.reshape"),
    "no rows": (X[:0], r"0 sample\(s\)"),
    "no features": (X[:, :0], r"0 feature\(s\)"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, kind, method, model):
    x, message = SHAPES[shape]
    layout = {"numpy": lambda: x, "dask": lambda: da.from_array(x), "zarr": lambda: in_zarr(x)}
    expect(ValueError, message, METHODS[method], model, layout[kind]())


WIDE = da.zeros((16, 1_000_000), chunks=(16, 10_000))
EXCHANGED = {
    "dask": lambda: WIDE,
    "numpy": lambda: np.broadcast_to(np.arange(16.0)[:, None], (16, 1_000_000)),
    "zarr": lambda: zarr.create_array({}, shape=(16, 1_000_000), chunks=(16, 10_000), dtype="f8"),
}


@pytest.mark.parametrize("function", ["fit", "plan", "select"])
@pytest.mark.parametrize("kind", EXCHANGED)
def test_rows_and_columns_that_are_exchanged(kind, function):
    """Covariances of a million features would take 16 TB."""
    data = EXCHANGED[kind]()
    functions = {"fit": fit, "plan": GaussianMixture(2).plan, "select": lambda x: select(x, [1, 2])}
    message = r"X has 16 rows and 1000000 features\. The covariances \(full\) .* pass X\.T"
    with traced() as peak:
        assert isinstance(expect(WorkerMemoryError, message, functions[function], data), MemoryError)
    assert peak.n_bytes < 300e6  # the rows themselves have 128 MB


def test_many_features_of_few_rows_are_fitted_where_there_is_room():
    x = np.random.default_rng(0).normal(size=(12, 2000)) + np.repeat([[0], [5]], 6, axis=0)
    assert fit(x, covariance_type="diag", max_iter=1).means_.shape == (2, 2000)
    assert GaussianMixture(2).plan(da.zeros((100, 1000))).n_features == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_is_too_few_to_fit(kind):
    expect(ValueError, r"1 sample\(s\).* minimum of 2 is required by GaussianMixture", fit, KINDS[kind](X[:1]))


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_rows_than_components(kind):
    message = "Expected n_samples >= n_components but got n_components = 5, n_samples = 3"
    expect(ValueError, message, fit, KINDS[kind](X[:3]), n_components=5)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "fit"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_another_number_of_features(width, kind, method, model):
    x = KINDS[kind](np.resize(X, (N, width)))
    expect(ValueError, f"X has {width} features, but GaussianMixture is expecting 3", METHODS[method], model, x)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda x: x[x[:, 0] > 1e9], r"0 sample\(s\)"),
        (lambda x: x[x[:, 0] >= X[:, 0].max()], "n_components = 2, n_samples = 1"),
        (lambda x: x[:, x[0] > -1e9], "number of features is not known"),
    ],
    ids=["no rows", "one row", "features"],
)
def test_unknown_lengths_that_turn_out_wrong(select, message):
    expect(ValueError, message, fit, select(da.from_array(X, chunks=(17, D))))


# ---- kinds and dtypes


KIND_ERRORS = {
    "None": (lambda: None, ValueError, "2D array"),
    "a number": (lambda: 3, ValueError, "2D array"),
    "a dict": (lambda: {"a": [1, 2]}, ValueError, "2D array"),
    "a generator": (lambda: (row for row in X), ValueError, "2D array"),
    "bytes": (lambda: b"abc", ValueError, "2D array"),
    "ragged lists": (lambda: [[1, 2], [3]], ValueError, "inhomogeneous"),
    "a bag": (lambda: pytest.importorskip("dask.bag").from_sequence([1, 2]), UnsupportedDataError, "X is a dask Bag"),
    "delayed": (lambda: dask.delayed(X), UnsupportedDataError, "X is a dask Delayed.*from_delayed"),
    "a tree": (lambda: xr.DataTree(xr.Dataset({"a": (("i", "j"), X)})), UnsupportedDataError, r"DataTree.*to_dataset"),
    "sparse": (lambda: scipy.sparse.csr_matrix(X), TypeError, "Sparse data was passed for X"),
    "masked": (lambda: np.ma.masked_greater(X, 6), UnsupportedDataError, "masked in places.*filled"),
}


@pytest.mark.parametrize("method", ["fit", "predict", "score"])
@pytest.mark.parametrize("kind", KIND_ERRORS)
def test_things_that_are_no_rows(kind, method, model):
    make, error, message = KIND_ERRORS[kind]
    expect(error, message, METHODS[method], model, make())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_blocks(block, method, model):
    x = da.from_array(X, chunks=(20, D)).map_blocks(block, dtype=X.dtype, meta=X[:0])
    expect(UnsupportedDataError, r"blocks of this dask array are sparse.*toarray", METHODS[method], model, x)


@pytest.mark.parametrize("method", METHODS)
def test_masked_blocks(method, model):
    masked = da.ma.masked_greater(da.from_array(X, chunks=(20, D)), 6)
    expect(UnsupportedDataError, "masked in places", METHODS[method], model, masked)


def test_a_mask_that_hides_nothing_is_no_harm(model):
    np.testing.assert_array_equal(fit(np.ma.array(X)).means_, model.means_)
    unmasked = da.ma.masked_greater(da.from_array(X, chunks=(20, D)), 1e9)
    np.testing.assert_array_equal(fit(unmasked).means_, model.means_)


DTYPES = {
    "complex": (X.astype(complex), "Complex data not supported"),
    "datetime": (X.astype("M8[s]"), "dtype datetime64"),
    "timedelta": (X.astype("m8[s]"), "dtype timedelta64"),
    "string": (X.astype(str), "dtype <U32"),
    "bytes": (X.astype("S5"), "dtype |S5"),
    "structured": (np.zeros((N, D), [("a", "f8")]), "dtype .*'a'"),
    "void": (np.zeros((N, D), "V4"), "dtype |V4"),
}


@pytest.mark.parametrize("method", ["fit", "predict", "score"])
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
def test_dtypes_without_meaning(dtype, kind, method, model):
    x, message = DTYPES[dtype]
    error = expect(
        UnsupportedDataError, re.escape(message) if "|" in message else message, METHODS[method], model, KINDS[kind](x)
    )
    assert isinstance(error, TypeError)
    assert "X has dtype" in str(error)


@pytest.mark.parametrize("values", [["a", "b"], [None, 1], [{}, 2], [[1], 2]], ids=str)
def test_objects(values, model):
    x = np.empty((N, 2), object)
    x[:, 0], x[:, 1] = [values[0]] * N, [values[1]] * N
    expect((ValueError, TypeError), r"(string to float|X contains NaN|float\(\) argument|sequence)", fit, x)
    expect(UnsupportedDataError, "X has dtype object", fit, da.from_array(x, chunks=(20, 2)))


def test_objects_that_are_numbers_are_numbers_in_memory(model):
    np.testing.assert_array_equal(fit(X.astype(object)).means_, model.means_)


# ---- numbers that are none


VALUES = {"NaN": (np.nan, "NaN"), "inf": (np.inf, "infinity"), "-inf": (-np.inf, "infinity")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [0, 33, N - 1])
def test_the_row_of_a_value_that_is_not_finite(row, kind, method, model):
    for column, (value, name) in zip(range(D), VALUES.values(), strict=True):
        x = X.copy()
        x[row, column] = value
        error = expect(
            NonFiniteDataError, rf"Input X contains {name} in row {row}\.", METHODS[method], model, KINDS[kind](x)
        )
        assert error.row == row


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_the_first_of_several_rows_is_told(kind, dtype):
    x = X.astype(dtype)
    x[[50, 9, 55], [0, 1, 2]] = np.inf, -np.inf, np.nan  # their sum is not finite either way
    assert expect(NonFiniteDataError, "infinity in row 9", fit, KINDS[kind](x)).row == 9


def test_infinities_that_cancel_are_found():
    x = X.copy()
    x[20, 0], x[20, 1] = np.inf, -np.inf
    expect(NonFiniteDataError, "infinity in row 20", fit, x)


def test_finite_numbers_whose_sum_is_not_are_finite(model):
    x = X.copy()
    x[:4] = 1e308
    np.testing.assert_array_equal(model.predict(x)[4:], model.predict(X)[4:])


def test_the_row_within_a_chunk_where_nobody_knows_more(model):
    x = X.copy()
    x[42, 1] = np.nan
    lazy = da.from_array(x, chunks=(17, D))
    unknown = lazy[lazy[:, 0] > -1e9]
    expect(NonFiniteDataError, r"NaN in row 8 of a chunk", lambda: model.predict(unknown).compute())
    expect(NonFiniteDataError, r"NaN in row 42\.", fit, unknown)


# ---- weights


ONES = np.ones(N)
WEIGHTS = {
    "negative": (np.where(np.arange(N) == 7, -1, ONES), "sample_weight contains -1.0 in row 7"),
    "NaN": (np.where(np.arange(N) == 7, np.nan, ONES), "sample_weight contains nan in row 7"),
    "infinite": (np.where(np.arange(N) == 7, np.inf, ONES), "sample_weight contains inf in row 7"),
    "zero": (ONES * 0, "all weights are zero"),
    "too many": (np.ones(N + 1), r"sample_weight\.shape == \(61,\), expected \(60,\)"),
    "too few": (ONES[1:], r"sample_weight\.shape == \(59,\), expected \(60,\)"),
    "none": (ONES[:0], r"sample_weight\.shape == \(0,\)"),
    "two dimensions": (ONES[:, None], r"sample_weight: expected one dimension, got shape \(60, 1\)"),
    "vanishing": (ONES * 1e-320, "sample_weight: the weights sum to"),
    "overflowing": (ONES * 1e308, "sample_weight: the weights sum to inf"),
}


@pytest.mark.parametrize("method", ["fit", "score"])
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights(weights, kind, method, model):
    values, message = WEIGHTS[weights]
    function = fit if method == "fit" else model.score
    expect(InvalidWeightsError, message, function, KINDS[kind](X), sample_weight=KINDS[kind](values))


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-1, InvalidWeightsError, "sample_weight contains -1.0 in row 0"),
        (float("nan"), InvalidWeightsError, "sample_weight contains nan in row 0"),
        (0, InvalidWeightsError, "all weights are zero"),
        ([1, 2], InvalidWeightsError, r"sample_weight\.shape == \(2,\)"),
        ("nowhere.zarr", StoreNotFoundError, "sample_weight: There is nothing at .*nowhere.zarr"),
        ("w", StoreNotFoundError, "sample_weight: There is nothing at w"),
        (xr.Dataset(), UnsupportedDataError, "sample_weight is an xarray Dataset"),
        (NOTHING_USEFUL, UnsupportedDataError, "sample_weight has dtype object"),
        ({"a": 1}, UnsupportedDataError, "sample_weight has dtype object"),
        (np.ones(N) * 1j, UnsupportedDataError, "sample_weight has dtype complex128"),
        (np.ones(N).astype(str), UnsupportedDataError, "sample_weight has dtype <U32"),
        (np.ones(N).astype("M8[s]"), UnsupportedDataError, "sample_weight has dtype datetime64"),
    ],
)
def test_other_things_for_weights(weight, error, message, model):
    expect(error, message, fit, X, weight)
    expect(error, message, model.score, X, None, weight)


# ---- parameters


PARAMETERS = {
    "n_components": [0, -1, 1.5, "two", None],
    "covariance_type": ["round", None, 3],
    "tol": [-1, "small", None, np.nan, np.inf],
    "reg_covar": [-1e-9, "small", np.nan, np.inf],
    "max_iter": [-1, 1.5, None],
    "n_init": [0, 1.5],
    "init_params": ["guess", None],
    "random_state": ["seed", -1],
    "warm_start": ["yes", None],
    "verbose": ["yes", -1],
    "verbose_interval": [0, "often"],
    "init_size": [1, 0, "all"],
    "weights_init": ["equal", 5],
    "means_init": ["zero", 5],
    "precisions_init": ["one", 5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PARAMETERS.items() for value in values], ids=str
)
def test_parameter_values(name, value):
    expect(ValueError, f"The '{name}' parameter of GaussianMixture must be", fit, **{name: value})


EYE = np.stack([np.eye(D)] * 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights_init", [1], r"'weights' should have the shape of \(2,\), but got \(1,\)"),
        ("weights_init", [[0.5, 0.5]], r"'weights' should have the shape of \(2,\), but got \(1, 2\)"),
        ("weights_init", [0.5, 0.6], r"'weights' should be normalized, but got sum\(weights\) = 1.1"),
        ("weights_init", [-0.5, 1.5], r"'weights' .* range \[0, 1\], but got max value 1.50000, min value -0.50000"),
        ("weights_init", [np.nan, 1], "Input weights contains NaN"),
        ("weights_init", [1j, 0], "'weights' should be an array of real numbers"),
        ("means_init", X[:1], r"'means' should have the shape of \(2, 3\), but got \(1, 3\)"),
        ("means_init", X[:2, :2], r"'means' should have the shape of \(2, 3\), but got \(2, 2\)"),
        ("means_init", X[:2, :, None], r"'means' should have the shape of \(2, 3\)"),
        ("means_init", X[:2] * np.nan, "Input means contains NaN"),
        ("means_init", X[:2] * 1j, "'means' should be an array of real numbers"),
        ("means_init", [["a"] * 3] * 2, "'means' should be an array of real numbers"),
        ("precisions_init", np.eye(D), r"'full precision' should have the shape of \(2, 3, 3\), but got \(3, 3\)"),
        ("precisions_init", EYE + np.inf, "Input full precision contains infinity"),
        ("precisions_init", -EYE, "'full precision' should be symmetric, positive-definite"),
        ("precisions_init", EYE * 0, "'full precision' should be symmetric, positive-definite"),
        ("precisions_init", np.ones((2, D, D)), "'full precision' should be symmetric, positive-definite"),
        ("precisions_init", EYE + np.triu(EYE[0] * 0 + 1), "'full precision' should be symmetric"),
    ],
)
def test_initial_parameters(name, value, message):
    expect(ValueError, message, fit, **{name: value})


@pytest.mark.parametrize(
    ("structure", "shape", "message"),
    [
        ("tied", (D, D), "'tied precision' should be symmetric, positive-definite"),
        ("diag", (2, D), "'diag precision' should be positive"),
        ("spherical", (2,), "'spherical precision' should be positive"),
        ("tied-diag", (D,), "'tied-diag precision' should be positive"),
        ("tied-spherical", (1,), "'tied-spherical precision' should be positive"),
    ],
)
def test_initial_precisions_of_other_structures(structure, shape, message):
    expect(ValueError, message, fit, covariance_type=structure, precisions_init=-np.ones(shape))
    expect(ValueError, message, fit, covariance_type=structure, precisions_init=np.zeros(shape))
    expect(
        ValueError,
        rf"'{structure} precision' should have the shape of {re.escape(str(shape))}",
        fit,
        covariance_type=structure,
        precisions_init=np.ones((7, 7)),
    )


@pytest.mark.parametrize("callbacks", [5, None, [5], "print"], ids=str)
def test_callbacks(callbacks):
    expect(TypeError, "callbacks=.*expected an iterable of callables", fit, callbacks=callbacks)


def test_a_class_in_the_place_of_a_callback():
    """Every event would make another progress bar, which nobody sees."""
    expect(TypeError, r"the class ProgressBar; expected .* such as ProgressBar\(\)", fit, callbacks=[ProgressBar])


def test_a_sample_that_cannot_hold_a_row_for_each_component():
    x = np.random.default_rng(0).normal(size=(100, 2))
    message = "init_size=3 is less than n_components=5.*Increase init_size"
    expect(ValueError, message, GaussianMixture(5, init_size=3).fit, x)
    expect(ValueError, message, GaussianMixture(5, init_size=3).plan, x)
    expect(ValueError, message, select, x, [2, 5], estimator=GaussianMixture(init_size=3))


@pytest.mark.parametrize(
    ("scheduler", "error"),
    [
        ("processes", ValueError),
        ("", ValueError),
        ("8786", ValueError),
        (5, TypeError),
        ([], TypeError),
        (NOTHING_USEFUL, TypeError),
    ],
)
def test_schedulers(scheduler, error):
    expect(error, r"scheduler=.*expected .*'synchronous', 'threads'", fit, scheduler=scheduler)


# ---- stores


@pytest.fixture
def store(tmp_path):
    """A path at which there is a good store, of format 3."""
    zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(20, D))[...] = X
    return tmp_path / "x.zarr"


ABSENT = {
    "a path": lambda folder: folder / "none.zarr",
    "a string": lambda folder: str(folder / "none.zarr"),
    "an array in it": lambda folder: f"{folder}/none.zarr::rows",
    "a file URL": lambda folder: f"file://{folder}/none.zarr",
    "a URL": lambda folder: "memory://daskgmm-nowhere/none.zarr",
}


@pytest.mark.parametrize("method", ["fit", "predict", "score"])
@pytest.mark.parametrize("address", ABSENT)
def test_nothing_there(address, method, tmp_path, model):
    error = expect(StoreNotFoundError, r"none\.zarr", METHODS[method], model, ABSENT[address](tmp_path))
    assert isinstance(error, FileNotFoundError)


def make(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FOREIGN = {
    "a text file": lambda folder: make(folder / "x.txt", "1 2 3"),
    "an npy file": lambda folder: make(folder / "x.npy", b"\x93NUMPY\x01\x00"),
    "a zip file that is none": lambda folder: make(folder / "x.zip", b"PK\x03\x04 and nothing more"),
    "an empty folder": lambda folder: make(folder / "x" / "y", "").parent,
    "an HDF5 file": lambda folder: make(folder / "x.h5", b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "metadata: nothing": lambda folder: make(folder / "x.zarr" / "zarr.json", "").parent,
    "metadata: null": lambda folder: make(folder / "x.zarr" / "zarr.json", "null").parent,
    "metadata: a list": lambda folder: make(folder / "x.zarr" / "zarr.json", "[]").parent,
    "metadata: not JSON": lambda folder: make(folder / "x.zarr" / "zarr.json", "{zarr_format: 3}").parent,
    "metadata: binary": lambda folder: make(folder / "x.zarr" / "zarr.json", bytes(range(256))).parent,
    "metadata: a later format": lambda folder: make(folder / "x.zarr" / "zarr.json", '{"zarr_format": 9}').parent,
    "metadata: format 2, empty": lambda folder: make(folder / "x.zarr" / ".zarray", "{}").parent,
    "metadata: format 2, cut": lambda folder: make(folder / "x.zarr" / ".zarray", '{"shape": [3, ').parent,
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_something_else_there(foreign, tmp_path, model):
    path = FOREIGN[foreign](tmp_path)
    for function in (fit, model.predict, open_zarr):
        expect(StoreError, re.escape(path.name), function, path)


KEYS = ["shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "zarr_format", "node_type"]


@pytest.mark.parametrize("key", KEYS)
def test_metadata_that_lack_something(key, store):
    metadata = json.loads((store / "zarr.json").read_text())
    del metadata[key]
    (store / "zarr.json").write_text(json.dumps(metadata))
    expect(StoreError, r"x\.zarr cannot be opened as Zarr", fit, store)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [60]),
        ("shape", [-1, 3]),
        ("shape", "large"),
        ("data_type", "float65"),
        ("codecs", [{"name": "magic"}]),
        ("chunk_grid", {"name": "spiral"}),
        ("fill_value", "void"),
    ],
    ids=str,
)
def test_metadata_that_make_no_sense(key, value, store):
    metadata = json.loads((store / "zarr.json").read_text()) | {key: value}
    (store / "zarr.json").write_text(json.dumps(metadata))
    expect(StoreError, r"x\.zarr cannot be opened as Zarr", fit, store)


DAMAGE = {
    "cut off": lambda chunk: chunk[:50],
    "emptied": lambda chunk: b"",
    "first byte": lambda chunk: bytes([chunk[0] ^ 255]) + chunk[1:],
    "overwritten": lambda chunk: bytes(len(chunk)),
    "longer": lambda chunk: chunk + b"and more",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("method", ["fit", "predict", "score"])
def test_a_damaged_chunk(damage, zarr_format, method, tmp_path, model):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(20, D), zarr_format=zarr_format)[...] = X
    chunk = path / ("1.0" if zarr_format == 2 else "c/1/0")
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    expect(StoreError, r"Rows \d+ to \d+ of .*x\.zarr cannot be read .*damaged", METHODS[method], model, path)


@pytest.mark.parametrize("damage", ["cut off", "longer", "emptied"])
def test_a_damaged_chunk_without_compression(damage, tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(20, D), compressors=None)[...] = X
    chunk = path / "c" / "1" / "0"
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    expect(StoreError, r"x\.zarr cannot be read", fit, path)


@pytest.mark.parametrize("damage", ["cut off", "longer"])
def test_a_damaged_shard(damage, tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(10, D), shards=(20, D))[...] = X
    shard = path / "c" / "1" / "0"
    shard.write_bytes(DAMAGE[damage](shard.read_bytes()))
    expect(StoreError, r"x\.zarr cannot be read", fit, path)


def test_a_store_that_vanishes_before_it_is_read(store):
    array = zarr.open_array(store, mode="r")
    lazy = fit().predict(array)
    for file in sorted(store.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    store.rmdir()
    expect(StoreNotFoundError, r"x\.zarr", fit, store)
    assert lazy.shape == (N,)


@pytest.fixture
def group(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name in ("a", "b"):
        group.create_array(name, shape=X.shape, dtype=X.dtype)[...] = X
    group.create_group("empty")
    return tmp_path / "g.zarr"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (lambda g: g, r"group with 2 arrays \(a, b\).*path::a"),
        (lambda g: zarr.open_group(g), r"group with 2 arrays \(a, b\)"),
        (lambda g: f"{g}::c", r"has no array 'c'; its arrays are: a, b"),
        (lambda g: f"{g}::empty", r"has no array 'empty'"),
        (lambda g: g / "empty", r"group with 0 arrays \(none\)"),
        (lambda g: f"{g}/a::b", r"is an array, not a group: there is no 'b' inside it"),
    ],
)
def test_groups(address, message, group):
    expect(StoreError, message, fit, address(group))


def test_two_names_for_the_array(group):
    expect(StoreError, "names the array 'a' and array='b' names another", open_zarr, f"{group}::a", "b")


@pytest.mark.parametrize("address", ["bogus://nowhere/x.zarr", "bogus://user:secret@nowhere/x?token=secret"])
def test_urls_of_no_known_kind_keep_their_secrets(address):
    error = expect(StoreError, "bogus://", fit, address)
    assert "secret" not in str(error)


# ---- the answers themselves


def test_errors_are_of_the_documented_tree():
    for error in (
        expect(Exception, "NaN", fit, np.full((5, 2), np.nan)),
        expect(Exception, "nothing", fit, "/nowhere.zarr"),
        expect(Exception, "dtype", fit, X * 1j),
        expect(Exception, "weights", fit, X, np.zeros(N)),
    ):
        assert isinstance(error, DaskGMMError)
        assert isinstance(error, ValueError | FileNotFoundError)


def test_a_bad_parameter_is_told_before_the_data_are_read():
    def read(block):
        raise AssertionError("the data were read")

    x = da.from_array(X, chunks=(20, D)).map_blocks(read, dtype=X.dtype, meta=X[:0])
    expect(ValueError, "n_components", fit, x, n_components=0)
    expect(ValueError, "'means' should have the shape", fit, x, means_init=[[1]])
    expect(ValueError, "n_samples = 60", fit, x, n_components=61)
    expect(InvalidWeightsError, "sample_weight", fit, x, np.ones(3))
    expect(TypeError, "callbacks", fit, x, callbacks=3)


def test_a_huge_array_of_no_meaning_is_refused_without_being_made():
    with traced() as peak:
        expect(UnsupportedDataError, "dtype complex", fit, da.zeros((10**9, 10), dtype=complex, chunks=(10**6, 10)))
        expect(ValueError, r"3D array", fit, da.zeros((10**9, 10, 2), chunks=(10**6, 10, 2)))
    assert peak.n_bytes < 50e6


def test_a_failed_fit_leaves_the_last_one_usable():
    model = fit()
    expected = model.predict(X)
    for x in (X * np.nan, X[:1], X * 1j):
        with pytest.raises((ValueError, TypeError)):
            model.fit(x)
    np.testing.assert_array_equal(model.predict(X), expected)
