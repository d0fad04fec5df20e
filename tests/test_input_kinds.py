"""What every kind of input does: the same bits as NumPy, results of its rows in their order, errors that say enough."""

from contextlib import contextmanager

import dask
import numpy as np
import pytest
from input_kinds import COLUMNS, KINDS, PART

from daskgmm import GaussianMixture, write_predictions
from daskgmm.errors import InvalidWeightsError, NonFiniteDataError, UnsupportedDataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names"),
]

N, D = 60, 3
X = np.random.RandomState(0).normal(size=(N, D)) + np.repeat([[0], [5]], N // 2, axis=0)
WEIGHTS = np.random.RandomState(1).uniform(0.5, 2, size=N)
METHODS = ["predict", "predict_proba", "score_samples"]
WITHOUT_TEXT = ("nullable", "dask nullable", "dask arrow", "parquet", "csv")
every_kind = pytest.mark.parametrize("kind", KINDS)
variants_slow = pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=[pytest.mark.slow] if kind.variant else []) for name, kind in KINDS.items()]
)


def fit(x, sample_weight=None, **parameters):
    parameters = {"n_components": 2, "random_state": 0, "max_iter": 2} | parameters
    return GaussianMixture(**parameters).fit(x, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def model():
    return fit(X)


@pytest.fixture
def make(tmp_path):
    """Data of a kind; an HDF5 file stays open until the end of the test."""
    open_files = []

    def made(kind, values):
        folder = tmp_path / str(len(open_files))
        folder.mkdir()
        data = KINDS[kind].make(values, folder)
        open_files.append(getattr(data, "file", None))
        return data

    yield made
    for file in open_files:
        if file is not None:
            file.close()


@contextmanager
def forbidden_compute():
    def get(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=get):
        yield


def values_of(result):
    return np.asarray(result.compute(scheduler="synchronous") if hasattr(result, "compute") else result)


def assert_same_bits(model, expected):
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(expected, name), err_msg=name)


@every_kind
def test_a_fit_has_the_bits_of_numpy(kind, make, model):
    fitted = fit(make(kind, X))
    assert_same_bits(fitted, model)
    names = getattr(fitted, "feature_names_in_", None)
    assert (None if names is None else list(names)) == (COLUMNS[:D] if KINDS[kind].table else None)


@pytest.mark.covering
@pytest.mark.parametrize("other", KINDS)
@every_kind
def test_weights_may_be_of_every_kind(kind, other, make):
    rows, weights = make(kind, X), make(other, WEIGHTS)
    weighted = fit(X, WEIGHTS)
    assert_same_bits(fit(rows, weights), weighted)
    assert weighted.score(rows, sample_weight=weights) == weighted.score(X, sample_weight=WEIGHTS)


@variants_slow
def test_results_are_those_of_the_rows_and_lazy_where_the_rows_are(kind, make, model):
    rows = make(kind, X)
    for method in METHODS:
        with forbidden_compute():
            result = getattr(model, method)(rows)
        expected = {"Series": "DataFrame"} if method == "predict_proba" else {}
        assert type(result).__name__ == expected.get(KINDS[kind].results, KINDS[kind].results)
        np.testing.assert_allclose(values_of(result), getattr(model, method)(X), rtol=1e-12, atol=1e-300)
    assert model.score(rows) == model.score(X)


@variants_slow
def test_results_can_be_stored(kind, make, model, tmp_path):
    zarr = pytest.importorskip("zarr")
    assert write_predictions(model, make(kind, X), tmp_path / "out.zarr") == {"labels": (N,)}
    labels = zarr.open_group(tmp_path / "out.zarr", mode="r")["labels"]
    np.testing.assert_array_equal(labels[:], model.predict(X))


@variants_slow
def test_incomplete_rows_are_refused_or_left_out(kind, make):
    holes = X.copy()
    holes[[3, 40], [0, 2]] = np.nan
    rows = make(kind, holes)
    with pytest.raises((NonFiniteDataError, UnsupportedDataError), match="missing='drop'"):
        fit(rows, missing="raise")
    if not KINDS[kind].grid:
        with pytest.raises((NonFiniteDataError, UnsupportedDataError), match="missing='drop'"):
            fit(rows)
    dropped = fit(rows, missing="drop")
    assert_same_bits(dropped, fit(holes, missing="drop"))
    assert dropped.origin_.n_incomplete == 2
    assert np.flatnonzero(values_of(dropped.predict(rows)) == -1).tolist() == [3, 40]
    assert np.flatnonzero(np.isnan(values_of(dropped.score_samples(rows)))).tolist() == [3, 40]


@variants_slow
def test_no_rows(kind, make, model):
    rows = make(kind, X[:0])
    with pytest.raises(ValueError, match=r"0 sample\(s\)" if kind != "csv" else "has no rows"):
        fit(rows)
    if kind == "csv":
        return  # nothing tells the types of its columns
    if KINDS[kind].results == "Series":  # of unknown length
        assert len(values_of(model.predict(rows))) == 0
    else:
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            model.predict(rows)


@variants_slow
def test_one_row(kind, make, model):
    rows = make(kind, X[:1])
    with pytest.raises(ValueError, match=r"(1 sample\(s\)|n_samples = 1)"):
        fit(rows)
    np.testing.assert_array_equal(values_of(model.predict(rows)), model.predict(X[:1]))


@variants_slow
def test_one_feature(kind, make):
    assert_same_bits(fit(make(kind, X[:, :1])), fit(X[:, :1]))


@variants_slow
@pytest.mark.parametrize("width", [2, 4])
def test_another_number_of_features(kind, width, make):
    if kind == "Dataset" and width > D:
        return  # variables are found by their names
    rows, same = make(kind, X), make(kind, np.resize(X, (N, width)))
    with pytest.raises(ValueError, match=r"(expecting 3 features|feature names should match|fitted with the features)"):
        fit(rows).predict(same)


@variants_slow
def test_weights_of_another_length(kind, make):
    with pytest.raises(
        InvalidWeightsError, match=r"sample_weight(\.shape == \(59,\), expected \(60,| has the size 59)"
    ):
        fit(make(kind, X), make(kind, WEIGHTS[1:]))


@variants_slow
def test_more_dimensions(kind, make):
    if KINDS[kind].table or KINDS[kind].grid:
        return  # tables have two, and grids any number
    cube = np.stack([X, X])
    with pytest.raises(ValueError, match=r"got 3D array of shape \(2, 60, 3\).*moveaxis"):
        fit(make(kind, cube))


@variants_slow
def test_text_is_refused_before_anything_is_read(kind, make):
    if (
        not KINDS[kind].table
        or KINDS[kind].grid
        or kind in ("nullable", "dask nullable", "dask arrow", "parquet", "csv")
    ):
        return
    texts = np.array([f"t{i}" for i in range(N)])
    if kind == "records":
        rows = np.rec.fromarrays([X[:, 0], texts], names="a,b")
    elif kind == "astropy":
        rows = make(kind, X[:, :2])
        rows["b"] = texts
    else:
        rows = with_text(kind, make(kind, X[:, :2]), texts)
    with forbidden_compute(), pytest.raises(UnsupportedDataError, match=r"(field|column) 'b' is of dtype"):
        fit(rows)


def with_text(kind, rows, texts):
    if kind == "arrow":
        return rows.set_column(1, "b", [texts.tolist()])
    if kind == "polars":
        return rows.with_columns(b=pytest.importorskip("polars").Series(texts.tolist()))
    return rows.assign(b="text")


def test_rows_are_in_several_pieces():
    assert N > 2 * PART
