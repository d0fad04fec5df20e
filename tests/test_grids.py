"""Arrays of more than two dimensions: one axis has the features, the others are a grid of samples."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture, load, select, write_predictions
from daskgmm.errors import DimensionError, InvalidWeightsError, UnsupportedDataError
from daskgmm.tuning import tuned

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

C, Z, Y, X = 2, 3, 8, 10
SHAPE = (Z, Y, X)
VOLUME = np.random.default_rng(0).normal(size=(C, *SHAPE)) + 5 * (np.arange(Y) < 4)[:, None]
ROWS = VOLUME.reshape(C, -1).T
FIRST = {
    "weights_init": [0.5, 0.5],
    "means_init": [[0.0, 0.0], [5.0, 5.0]],
    "precisions_init": np.stack([np.eye(2)] * 2),
}
"""First parameters with which the order of rows makes no difference but rounding."""

quick = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def many_leaves():
    """Leaves of 16 rows and several tasks in a pass, so that small data are divided as large data are."""
    with tuned(shortest_leaf=16, longest_leaf=16, slab_bytes=60 * C * 8, shortest_task=0.0):
        yield


def fit(x, parameters=None, **more):
    return GaussianMixture(2, **({"random_state": 0, "max_iter": 3, "tol": 0} | (parameters or {}))).fit(x, **more)


def in_file(x, path):
    mapped = np.lib.format.open_memmap(path / "x.npy", "w+", dtype=x.dtype, shape=x.shape)
    mapped[:] = x
    return np.load(path / "x.npy", mmap_mode="r")


KINDS = {
    "numpy": lambda x, path: x,
    "memmap": in_file,
    "dask": lambda x, path: da.from_array(x, chunks=tuple(1 if n == Z else n for n in x.shape)),
    "dask, channels in blocks": lambda x, path: da.from_array(
        x, chunks=tuple(1 if n in (Z, C) else n for n in x.shape)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_results_have_the_shape_of_the_samples(kind, axis, tmp_path):
    x = KINDS[kind](np.moveaxis(VOLUME, 0, axis), tmp_path)
    found, expected = fit(x, feature_axis=axis), fit(ROWS)
    assert found.lower_bound_ == expected.lower_bound_
    np.testing.assert_array_equal(found.means_, expected.means_)
    assert found.feature_axis_ == axis
    labels = found.predict(x)
    assert labels.shape == SHAPE
    assert isinstance(labels, da.Array) == (kind.startswith("dask") or (kind == "memmap" and axis != -1))
    np.testing.assert_array_equal(np.asarray(labels).ravel(), expected.predict(ROWS))
    assert found.predict_proba(x, feature_axis=axis).shape == (*SHAPE, 2)
    assert found.score(x) == pytest.approx(expected.score(ROWS), rel=1e-12)
    assert fit(x, feature_axis=axis).criteria(x)["bic"] == pytest.approx(expected.criteria(ROWS)["bic"], rel=1e-12)


def cuts(n):
    return st.lists(st.integers(1, n), min_size=1, max_size=3).map(
        lambda edges: np.diff(sorted({0, *edges, n})).tolist()
    )


@given(st.tuples(*map(cuts, SHAPE)), st.integers(-4, 3))
@quick
def test_any_blocks(lengths, axis):
    x = np.moveaxis(VOLUME, 0, axis)
    chunks = list(map(tuple, lengths))
    chunks.insert(axis % 4, (1, 1))
    found = fit(da.from_array(x, chunks=tuple(chunks)), FIRST, feature_axis=axis)
    np.testing.assert_allclose(found.means_, fit(ROWS, FIRST).means_, rtol=1e-9)
    labels = found.predict(da.from_array(x, chunks=tuple(chunks)))
    assert labels.chunks == tuple(map(tuple, lengths))
    np.testing.assert_array_equal(labels.compute(), found.predict(x))


def test_the_axis_is_remembered_and_images_may_have_fewer_dimensions(tmp_path):
    found = fit(VOLUME, feature_axis=0)
    found.save(tmp_path / "m.zarr")
    loaded = load(tmp_path / "m.zarr")
    assert loaded.feature_axis_ == 0
    np.testing.assert_array_equal(loaded.predict(VOLUME[:, 0]), found.predict(VOLUME)[0])
    np.testing.assert_array_equal(loaded.predict(ROWS), found.predict(VOLUME).ravel())  # two dimensions are rows
    np.testing.assert_array_equal(loaded.predict(ROWS.T, feature_axis=0), found.predict(ROWS))
    assert not hasattr(loaded.fit(ROWS), "feature_axis_")


def test_select_and_plan():
    x = da.from_array(VOLUME, chunks=(1, 1, Y, X))
    estimator = GaussianMixture(random_state=0)
    found = select(x, [1, 2], estimator=estimator, feature_axis=0)
    assert found.table == select(ROWS, [1, 2], estimator=estimator).table
    assert found.model.predict(x).shape == SHAPE
    assert GaussianMixture(2).plan(x, feature_axis=0).n_rows == len(ROWS)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_have_the_shape_of_the_samples(lazy):
    weights = np.random.default_rng(1).random(SHAPE)
    x = da.from_array(VOLUME, chunks=(1, 2, 3, 4)) if lazy else VOLUME
    expected = fit(ROWS, FIRST, sample_weight=weights.ravel())
    for form in (weights, weights.ravel(), da.from_array(weights, chunks=3), weights.tolist()):
        np.testing.assert_allclose(fit(x, FIRST, sample_weight=form, feature_axis=0).means_, expected.means_, rtol=1e-9)
    with pytest.raises(InvalidWeightsError, match=r"sample_weight.shape == \(8, 10\), expected \(3, 8, 10\)"):
        fit(x, sample_weight=weights[0], feature_axis=0)


@pytest.mark.parametrize(
    ("x", "more", "error", "message"),
    [
        (VOLUME, {}, ValueError, r"got 4D array.*feature_axis=.*moveaxis\(X, axis, -1\)\.reshape\(-1, n_features\)"),
        (da.from_array(VOLUME), {}, ValueError, r"got 4D array.*feature_axis="),
        (VOLUME, {"feature_axis": 4}, DimensionError, "feature_axis=4, and X has 4 dimension.*from -4 to 3"),
        (VOLUME, {"feature_axis": "c"}, TypeError, "feature_axis='c'; expected an integer"),
        (VOLUME, {"feature_axis": True}, TypeError, "feature_axis=True; expected an integer"),
        (VOLUME, {"feature_axis": 0, "dim": "z"}, DimensionError, "both given"),
        (VOLUME[0, 0, 0], {"feature_axis": 0}, DimensionError, "has 1 dimension"),
        (VOLUME.tolist(), {"feature_axis": 0}, DimensionError, r"X is a list; .*numpy\.asarray"),
        (VOLUME.astype("U"), {"feature_axis": 0}, UnsupportedDataError, "dtype <U"),
        (VOLUME[:, :0], {"feature_axis": 0}, ValueError, r"0 sample\(s\)"),
    ],
)
def test_errors(x, more, error, message):
    with pytest.raises(error, match=message):
        fit(x, **more)


def test_predictions_of_a_grid_are_not_written_as_rows(tmp_path):
    found = fit(VOLUME, feature_axis=0)
    with pytest.raises(UnsupportedDataError, match=r"grid of the shape \(3, 8, 10\).*to_zarr"):
        write_predictions(found, VOLUME, tmp_path / "out.zarr")
    assert write_predictions(found, ROWS, tmp_path / "out.zarr") == {"labels": (len(ROWS),)}
