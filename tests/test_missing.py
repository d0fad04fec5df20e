"""Incomplete rows: refused, or left out of everything as if they were not there."""

import json
import pickle
import re
import warnings

import dask
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture as ReferenceBayesian
from sklearn.mixture import GaussianMixture as Reference

from daskgmm import BayesianGaussianMixture, GaussianMixture, load, select, write_predictions
from daskgmm.cli import main
from daskgmm.data.input_kinds import InputKind, register, unregister
from daskgmm.data.inputs import accept, as_dataset
from daskgmm.data.row_block import RowBlock
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import (
    CheckpointError,
    IncompleteDataError,
    InvalidWeightsError,
    MissingChunkError,
    NonFiniteDataError,
    UnsupportedDataError,
)
from daskgmm.events import PassFinished
from daskgmm.fitting.first_pass import take_surveys
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import tuned

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

STRUCTURES = list(COVARIANCE_TYPES)
N, D = 240, 3

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def many_leaves():
    """Leaves of 16 rows, reads of 20 and several tasks a pass, so that small data are divided as large data are."""
    with tuned(shortest_leaf=16, longest_leaf=16, slab_bytes=20 * D * 8, shortest_task=0.0):
        yield


def blobs(n=N, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, D)) + np.array([[0, 0, 0], [6, 1, 0], [0, 7, 2]])[rng.randint(3, size=n)]


def with_holes(x, mask, seed=0):
    """Copy of the rows, with NaN in one or more features of the masked rows."""
    rng = np.random.RandomState(seed)
    holes = rng.rand(*x.shape) < 0.4
    holes[np.arange(len(x)), rng.randint(x.shape[1], size=len(x))] = True
    return np.where(holes & mask[:, None], np.nan, x)


X = blobs()
MASK = np.random.RandomState(1).rand(N) < 0.3
MASK[32:64] = True  # two whole leaves
HOLES = with_holes(X, MASK)
WEIGHTS = np.random.RandomState(5).rand(N) + 0.1


def fit(x, sample_weight=None, kind=GaussianMixture, **parameters):
    parameters = {"random_state": 0, "max_iter": 4, "tol": 0} | parameters
    return kind(n_components=3, **parameters).fit(x, sample_weight=sample_weight)


def assert_same_bits(model, expected):
    assert model.lower_bounds_ == expected.lower_bounds_
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(expected, name), err_msg=name, strict=True)


# ---- fits


@pytest.fixture(scope="module")
def models():
    return {structure: fit(HOLES, covariance_type=structure, missing="drop") for structure in STRUCTURES}


@given(
    st.lists(st.integers(1, N - 1), max_size=8),
    st.floats(0, 0.95),
    st.integers(0, 1000),
    st.sampled_from(STRUCTURES),
    st.sampled_from(["f8", "f4"]),
)
@quick
def test_a_row_left_out_is_any_row_of_weight_zero(cuts, share, seed, structure, dtype):
    rng = np.random.RandomState(seed)
    mask = rng.rand(N) < share
    mask[:4] = False
    rows = with_holes(X, mask, seed).astype(dtype)
    others = np.where(mask[:, None], rng.normal(size=X.shape) * 50, X).astype(dtype)
    edges = [0, *sorted(set(cuts)), N]
    chunked = da.from_array(rows, chunks=(tuple(np.diff(edges).tolist()), (1, D - 1)))
    options = {"covariance_type": structure, "max_iter": 2}
    expected = fit(others, np.where(mask, 0.0, 1.0), **options)
    assert_same_bits(fit(chunked, missing="drop", **options), expected)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_fit_is_that_of_the_complete_rows(models, structure):
    alone = fit(X[~MASK], covariance_type=structure)
    np.testing.assert_allclose(models[structure].means_, alone.means_, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(models[structure].covariances_, alone.covariances_, rtol=1e-11)
    np.testing.assert_allclose(models[structure].lower_bounds_, alone.lower_bounds_, rtol=1e-12)


@pytest.mark.parametrize("structure", ["full", "tied", "diag", "spherical"])
def test_a_fit_is_scikit_learns_of_the_complete_rows(structure):
    options = {"covariance_type": structure, "random_state": 0, "tol": 1e-6, "max_iter": 200}
    ours = GaussianMixture(3, missing="drop", **options).fit(HOLES)
    theirs = Reference(3, **options).fit(X[~MASK])
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6, atol=1e-6)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.score(HOLES) == pytest.approx(theirs.score(X[~MASK]), rel=1e-9)
    for name in ("bic", "aic"):
        assert getattr(ours, name)(HOLES) == pytest.approx(getattr(theirs, name)(X[~MASK]), rel=1e-9)


def test_a_bayesian_fit_is_scikit_learns_of_the_complete_rows():
    options = {"random_state": 0, "max_iter": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = BayesianGaussianMixture(n_components=3, missing="drop", tol=0, **options).fit(HOLES)
        theirs = ReferenceBayesian(n_components=3, tol=1e-300, **options).fit(X[~MASK])
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.mean_prior_, X[~MASK].mean(axis=0), rtol=1e-12)
    expected = fit(X, np.where(MASK, 0.0, 1.0), BayesianGaussianMixture)
    assert_same_bits(fit(HOLES, kind=BayesianGaussianMixture, missing="drop"), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_complete_data_have_the_same_bits_either_way(structure, weights):
    options = {"covariance_type": structure, "max_iter": 2}
    assert_same_bits(fit(X, weights, missing="drop", **options), fit(X, weights, missing="raise", **options))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_weights_of_one_have_the_bits_of_no_weights(structure):
    options = {"covariance_type": structure, "max_iter": 2}
    assert_same_bits(fit(X, np.ones(N), **options), fit(X, **options))
    model = fit(X, **options)
    assert model.score(X, sample_weight=np.ones(N)) == model.score(X)


def stored(path, values, attributes, zarr_format=3):
    chunks = (50, 2)[: values.ndim]
    return zarr.create_array(path, data=values, chunks=chunks, attributes=attributes, zarr_format=zarr_format)


def packed():
    """Integers that mean hundredths, and −9999 for a missing value; and the numbers they mean."""
    integers = np.where(np.isnan(HOLES), -9999, np.round(np.nan_to_num(HOLES) * 100)).astype("i2")
    attributes = {"scale_factor": 0.01, "_FillValue": -9999}
    values = integers * 0.01
    return integers, attributes, np.where(integers == -9999, np.nan, values)


def in_hdf5(path, values, attributes):
    file = h5py.File(path, "w")
    dataset = file.create_dataset("x", data=values, chunks=(50, D))
    dataset.attrs.update(attributes)
    return dataset


PLAIN = {
    "memmap": lambda path: np.memmap(path / "x", "f8", "w+", shape=HOLES.shape),
    "dask": lambda path: da.from_array(HOLES, chunks=(37, D)),
    "zarr": lambda path: stored(path / "x.zarr", HOLES, {}),
    "path": lambda path: (stored(path / "x.zarr", HOLES, {}), str(path / "x.zarr"))[1],
    "hdf5": lambda path: in_hdf5(path / "x.h5", HOLES, {}),
    "pandas": lambda path: pd.DataFrame(HOLES, columns=list("abc")),
    "nullable": lambda path: pd.DataFrame(HOLES, columns=list("abc")).convert_dtypes(),
    "records": lambda path: np.rec.fromarrays(HOLES.T, names="a,b,c"),
    "masked": lambda path: np.ma.masked_invalid(HOLES),
    "masked in dask": lambda path: da.ma.masked_invalid(da.from_array(HOLES, chunks=(37, D))),
    "fortran": lambda path: np.asfortranarray(HOLES),
}


@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("kind", PLAIN)
def test_every_kind_of_input_leaves_rows_out(models, kind, tmp_path):
    data = PLAIN[kind](tmp_path)
    if kind == "memmap":
        data[...] = HOLES
    assert_same_bits(fit(data, missing="drop"), models["full"])
    with pytest.raises((NonFiniteDataError, UnsupportedDataError), match=r"missing='drop'"):
        fit(data)
    labels = np.asarray(models["full"].predict(data))
    np.testing.assert_array_equal(labels == -1, MASK)
    if kind == "hdf5":
        data.file.close()


ENCODED = {
    "zarr 3": lambda path, *x: stored(path / "x.zarr", *x),
    "zarr 2": lambda path, *x: stored(path / "x.zarr", *x, zarr_format=2),
    "hdf5": lambda path, *x: in_hdf5(path / "x.h5", *x),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_stored_values_that_mean_missing_are_left_out(kind, tmp_path):
    integers, attributes, values = packed()
    data = ENCODED[kind](tmp_path, integers, attributes)
    model = fit(data, missing="drop")
    assert_same_bits(model, fit(values, missing="drop"))
    np.testing.assert_array_equal(np.asarray(model.predict(data)) == -1, MASK)
    assert model.origin_.n_incomplete == MASK.sum()
    with pytest.raises(NonFiniteDataError, match=r"_FillValue.*missing='drop'"):
        fit(data)
    with pytest.raises(NonFiniteDataError, match="_FillValue"):  # the kept rows of one are not those of the other
        np.asarray(model.set_params(missing="raise").predict(data))


@pytest.mark.parametrize("kind", ENCODED)
def test_other_processes_leave_the_same_rows_out(kind, tmp_path):
    integers, attributes, values = packed()
    data = ENCODED[kind](tmp_path, integers, attributes)
    if kind == "hdf5":
        data.file.flush()
    rows = accept(data, missing="drop").rows
    dataset, _ = as_dataset(rows, missing="drop")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows.handle))[0:N], values)
    block, mask = pickle.loads(pickle.dumps(dataset.row_kind)).usable(RowBlock(values))
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(block.weights, 1.0 - MASK)
    np.testing.assert_array_equal(block.rows[~MASK], values[~MASK])


def test_masked_integers_are_left_out(models):
    integers = np.ma.masked_array(np.round(X * 100).astype("i4"), mask=np.isnan(HOLES))
    expected = fit(np.where(np.isnan(HOLES), np.nan, np.round(X * 100)), missing="drop")
    assert_same_bits(fit(integers, missing="drop"), expected)
    assert_same_bits(fit(da.from_array(integers, chunks=(50, D), asarray=False), missing="drop"), expected)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i4"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_mask_of_nothing_changes_no_bits_of_small_integers(dtype, lazy):
    rows = np.ma.masked_array(np.clip(np.abs(X * 10), 0, 200).astype(dtype), mask=False)
    given_rows = da.from_array(rows, chunks=(50, D), asarray=False) if lazy else rows
    options = {"max_iter": 1, "init_params": "random_from_data"}
    assert_same_bits(fit(given_rows, missing="drop", **options), fit(given_rows, missing="raise", **options))


# ---- weights


def test_weights_of_incomplete_rows_do_not_matter(tmp_path):
    expected = fit(X, np.where(MASK, 0.0, WEIGHTS))
    for unknown in (np.nan, -1.0, 7.0):
        weights = np.where(MASK, unknown, WEIGHTS)
        for given_weights in (weights, da.from_array(weights, chunks=50), stored(tmp_path / f"{unknown}", weights, {})):
            model = fit(da.from_array(HOLES, chunks=(37, D)), given_weights, missing="drop")
            assert_same_bits(model, expected)
            score = model.score(HOLES, sample_weight=weights)
            assert score == pytest.approx(expected.score(X[~MASK], sample_weight=WEIGHTS[~MASK]), rel=1e-12)


def test_stored_weights_may_be_missing_where_rows_are(tmp_path):
    integers = np.where(MASK, -1, np.arange(1, N + 1)).astype("i2")
    weights = stored(tmp_path / "w.zarr", integers, {"_FillValue": -1})
    expected = fit(X, np.where(MASK, 0.0, np.arange(1, N + 1)))
    assert_same_bits(fit(HOLES, weights, missing="drop"), expected)


def test_a_complete_row_needs_a_weight():
    row = int(np.flatnonzero(~MASK)[100])
    weights = np.where(np.arange(N) == row, np.nan, WEIGHTS)
    with pytest.raises(InvalidWeightsError, match=f"sample_weight contains nan in row {row}"):
        fit(HOLES, weights, missing="drop")
    model = fit(HOLES, missing="drop")
    with pytest.raises(InvalidWeightsError, match=f"row {row}"):
        model.score(HOLES, sample_weight=weights)


# ---- samples of large data


def large(share, n=6000):
    x = blobs(n, seed=3)
    mask = np.random.RandomState(4).rand(n) < share
    return x, mask, with_holes(x, mask)


def surveyed(x, sample_weight=None, init_size=500):
    model = GaussianMixture(2, init_size=init_size, random_state=0)
    dataset, _ = as_dataset(x, sample_weight, missing="drop")
    with DaskEngine("synchronous") as engine:
        (survey,) = take_surveys(engine, dataset, [model._spec(D)])
        return survey, engine.n_passes


@pytest.mark.parametrize("weighted", [False, True])
def test_a_sample_of_half_the_rows_has_its_size_without_another_pass(weighted):
    x, mask, holes = large(0.4)
    weights = np.random.RandomState(8).rand(len(x)) if weighted else None
    survey, n_passes = surveyed(holes, weights)
    assert n_passes == 1
    assert len(survey.sample) == 500
    assert survey.n_incomplete == mask.sum()
    known = {tuple(row) for row in x[~mask]}
    assert all(tuple(row) in known for row in survey.sample)
    assert len({tuple(row) for row in survey.sample}) == 500
    mean = np.average(x[~mask], axis=0, weights=None if weights is None else weights[~mask])
    np.testing.assert_allclose(survey.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(np.average(survey.sample, axis=0, weights=survey.sample_weight), mean, atol=0.6)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_second_survey_samples_the_few_complete_rows(weighted):
    x, mask, holes = large(0.85)
    weights = np.random.RandomState(8).rand(len(x)) if weighted else None
    survey, n_passes = surveyed(holes, weights)
    assert n_passes == 2
    assert 400 < len(survey.sample) <= 500
    x, mask, holes = large(0.97)  # fewer complete rows than the sample may have
    survey, n_passes = surveyed(holes, weights)
    assert n_passes == 2
    assert survey.is_complete
    np.testing.assert_array_equal(survey.sample, x[~mask])


@pytest.mark.covering
@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf, 50.0, 1e6, 1e300])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_sample_may_meet_any_weights_of_incomplete_rows(weight, lazy):
    x, mask, holes = large(0.4)
    weights = np.where(mask, weight, 0.5 + np.random.RandomState(8).rand(len(x)))
    survey, n_passes = surveyed(holes, da.from_array(weights, chunks=700) if lazy else weights)
    assert n_passes <= 2 + lazy  # the weights have a pass of their own
    assert 400 < len(survey.sample) <= 500
    known = {tuple(row) for row in x[~mask]}
    assert all(tuple(row) in known for row in survey.sample)
    assert survey.sample_weight.sum() == pytest.approx(survey.weight_sum, rel=0.1)
    weights[row := int(np.flatnonzero(~mask)[7])] = -1.0
    with pytest.raises(InvalidWeightsError, match=f"sample_weight contains -1.0 in row {row}"):
        surveyed(holes, weights)


@pytest.mark.parametrize("weights", [None, "equal", "different", "few"])
def test_large_complete_data_have_the_same_sample_either_way(weights):
    x, _, _ = large(0)
    rng = np.random.RandomState(9)
    weights = {
        "equal": np.full(len(x), 0.3),
        "different": rng.rand(len(x)),
        "few": 1.0 * (rng.rand(len(x)) < 0.05),
    }.get(weights)
    options = {"init_size": 500, "max_iter": 1, "tol": 1e-2, "n_init": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_bits(fit(x, weights, missing="drop", **options), fit(x, weights, **options))


def test_a_fit_that_begins_with_a_sample_finds_the_clusters():
    x, mask, holes = large(0.8)
    model = GaussianMixture(3, init_size=300, random_state=0, missing="drop").fit(da.from_array(holes, chunks=(700, D)))
    alone = GaussianMixture(3, random_state=0, tol=1e-3).fit(x[~mask])
    np.testing.assert_allclose(
        model.means_[np.argsort(model.means_[:, 0] - model.means_[:, 1])],
        alone.means_[np.argsort(alone.means_[:, 0] - alone.means_[:, 1])],
        atol=0.05,
    )
    assert model.n_passes_ <= model.plan(holes).most_passes


# ---- predictions


def test_predictions_of_incomplete_rows(models):
    model = models["full"]
    probabilities, densities = model.predict_proba(HOLES), model.score_samples(HOLES)
    np.testing.assert_array_equal(np.isnan(probabilities), np.repeat(MASK[:, None], 3, axis=1))
    np.testing.assert_array_equal(np.isnan(densities), MASK)
    np.testing.assert_array_equal(model.predict(HOLES)[~MASK], probabilities[~MASK].argmax(axis=1))
    theirs = Reference(3).fit(X[:50])
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        setattr(theirs, name, getattr(model, name))
    np.testing.assert_allclose(probabilities[~MASK], theirs.predict_proba(X[~MASK]), atol=1e-12)
    np.testing.assert_allclose(densities[~MASK], theirs.score_samples(X[~MASK]), rtol=1e-10)
    assert model.score(HOLES) == pytest.approx(densities[~MASK].mean(), rel=1e-12)
    assert model.fit_predict is not None


def test_lazy_predictions_are_those_in_memory(models, tmp_path):
    model = models["full"]
    for data in (da.from_array(HOLES, chunks=(37, D)), stored(tmp_path / "x.zarr", HOLES, {})):
        for method in ("predict", "predict_proba", "score_samples"):
            result = getattr(model, method)(data)
            assert isinstance(result, da.Array)
            np.testing.assert_array_equal(result.compute(), getattr(model, method)(HOLES))


def test_written_predictions(models, tmp_path):
    model = models["full"]
    holes = HOLES.copy()
    holes[:100] = np.nan  # a whole chunk, which must not read as a lost one
    data = stored(tmp_path / "x.zarr", holes, {})
    write_predictions(model, data, tmp_path / "out.zarr", probabilities=True, log_density=True)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    np.testing.assert_array_equal(group["labels"][...], model.predict(holes))
    np.testing.assert_array_equal(group["probabilities"][...], model.predict_proba(holes))
    np.testing.assert_array_equal(group["log_density"][...], model.score_samples(holes))
    assert group["labels"].fill_value not in (-1, 0, 1, 2)
    assert np.isinf(group["log_density"].fill_value)
    read = GaussianMixture(1, missing="drop", random_state=0).fit(group["probabilities"])  # every chunk is there
    assert read.origin_.n_incomplete == (MASK | (np.arange(N) < 100)).sum()


def test_chunks_of_missing_values_may_not_be_stored(models, tmp_path):
    holes = HOLES.copy()
    holes[50:100] = np.nan
    zarr.create_array(tmp_path / "x.zarr", data=holes, chunks=(50, D), fill_value=np.nan)
    with pytest.raises(MissingChunkError, match=r"daskgmm\.missing-chunks"):
        fit(tmp_path / "x.zarr", missing="drop")
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        assert_same_bits(fit(tmp_path / "x.zarr", missing="drop"), fit(holes, missing="drop"))


# ---- what refuses


@pytest.mark.parametrize("lazy", [False, True])
def test_without_a_complete_row(models, lazy):
    rows = np.where(np.eye(D)[np.arange(N) % D], np.nan, X)
    data = da.from_array(rows, chunks=(50, D)) if lazy else rows
    with pytest.raises(IncompleteDataError, match=f"no complete row: {N} of {N} rows contain NaN, and missing='drop'"):
        fit(data, missing="drop")
    with pytest.raises(IncompleteDataError, match="no complete row"):
        fit(data, WEIGHTS, missing="drop")
    with pytest.raises(IncompleteDataError, match="no complete row") as caught:
        models["full"].score(data)
    assert (caught.value.n_rows, caught.value.n_incomplete) == (N, N)
    with pytest.raises(IncompleteDataError, match="no complete row"):
        select(data, [1, 2], estimator=GaussianMixture(missing="drop"))
    assert (np.asarray(models["full"].predict(data)) == -1).all()


def test_fewer_complete_rows_than_components():
    rows = HOLES.copy()
    rows[2:] = np.nan
    rows[:2] = X[:2]
    with pytest.raises(IncompleteDataError, match="2 complete rows, and 3 are needed: 238 of 240"):
        fit(rows, missing="drop")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("lazy", [False, True])
def test_infinity_is_an_error_all_the_same(models, value, lazy):
    row = int(np.flatnonzero(~MASK)[50])
    rows = HOLES.copy()
    rows[row, :2] = value, -value  # their sum is NaN
    rows[np.flatnonzero(MASK)[0], :2] = value, np.nan  # this row is incomplete
    data = da.from_array(rows, chunks=(50, D)) if lazy else rows
    calls = [
        lambda: fit(data, missing="drop"),
        lambda: np.asarray(models["full"].predict(data)),
        lambda: models["full"].score(data),
    ]
    for call in calls:
        with pytest.raises(NonFiniteDataError, match=f"infinity in row {row}"):
            call()


def test_an_infinity_after_incomplete_rows_is_named(models):
    rows = HOLES.copy()
    rows[:3, 0], rows[3] = np.nan, np.inf  # the first complete row
    for call in (lambda: fit(rows, missing="drop"), lambda: models["full"].predict(rows)):
        with pytest.raises(NonFiniteDataError, match="infinity in row 3"):
            call()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_huge_values_are_not_missing(models, dtype):
    row, largest = int(np.flatnonzero(~MASK)[50]), np.finfo(dtype).max
    rows = HOLES.astype(dtype)
    rows[row] = largest, largest, -largest  # their sum may be infinity minus infinity
    labels = models["full"].predict(rows)
    np.testing.assert_array_equal(labels == -1, MASK)


def test_other_values_of_the_parameter_are_named(models):
    with pytest.raises(ValueError, match=r"'missing' parameter of GaussianMixture must be .*'drop'.* Got 'skip'"):
        fit(HOLES, missing="skip")
    model = clone(models["full"])
    vars(model).update(vars(models["full"]) | {"missing": "skip"})
    with pytest.raises(ValueError, match="missing='skip'; expected None, 'raise' or 'drop'"):
        model.predict(HOLES)


@pytest.mark.parametrize("missing", [None, "raise"])
def test_arrays_raise_by_default(missing):
    row = int(np.flatnonzero(MASK)[0])
    with pytest.raises(NonFiniteDataError, match=f"NaN in row {row}.*missing='drop'"):
        fit(HOLES, missing=missing)


class Grid:
    """A kind of data whose own sums skip NaN."""

    def __init__(self, rows):
        self.rows = rows


class Grids(InputKind):
    missing = "drop"

    def recognises(self, data, name):
        return isinstance(data, Grid)

    def rows(self, data, name):
        return data.rows


def test_a_kind_of_input_may_leave_rows_out_by_default(models):
    register(kind := Grids())
    try:
        model = fit(Grid(HOLES))
        assert_same_bits(model, models["full"])
        assert model.missing is None
        np.testing.assert_array_equal(model.predict(Grid(HOLES)) == -1, MASK)
        assert model.score(Grid(HOLES)) == models["full"].score(HOLES)
        assert select(Grid(HOLES), [2]).n_incomplete == MASK.sum()
        with pytest.raises(NonFiniteDataError):
            model.predict(HOLES)
        with pytest.raises(NonFiniteDataError):
            fit(Grid(HOLES), missing="raise")
    finally:
        unregister(kind)


def test_scikit_learn_is_told():
    assert not GaussianMixture().__sklearn_tags__().input_tags.allow_nan
    assert BayesianGaussianMixture(missing="drop").__sklearn_tags__().input_tags.allow_nan
    assert clone(GaussianMixture(missing="drop")).get_params()["missing"] == "drop"


# ---- selection, files, terminal


@pytest.mark.parametrize("criterion", ["bic", "icl", "held_out"])
def test_selection(criterion):
    base = GaussianMixture(missing="drop", random_state=0)
    found = select(da.from_array(HOLES, chunks=(37, D)), [2, 3], ["full", "tied"], criterion=criterion, estimator=base)
    assert found.best[0] == 3
    assert found.n_incomplete == MASK.sum() == found.as_record()["n_incomplete"]
    assert f"240 rows ({MASK.sum()} of them incomplete and left out)" in str(found)
    if criterion == "bic":
        alone = select(X[~MASK], [2, 3], ["full", "tied"], estimator=GaussianMixture(random_state=0))
        for row, expected in zip(found.table, alone.table, strict=True):
            assert row["bic"] == pytest.approx(expected["bic"], rel=1e-9)
            assert row["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-9)


def test_criteria(models):
    found, expected = models["full"].criteria(HOLES), models["full"].criteria(X[~MASK])
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_model_file_keeps_the_treatment_and_the_count(models, tmp_path):
    models["tied"].save(tmp_path / "m.zarr")
    model = load(tmp_path / "m.zarr")
    assert model.missing == "drop"
    assert model.origin_ == models["tied"].origin_
    assert model.origin_.n_incomplete == MASK.sum()
    np.testing.assert_array_equal(model.predict(HOLES), models["tied"].predict(HOLES))


class Stop(KeyboardInterrupt):
    pass


def stop_after_two(seen):
    def listen(event):
        seen.extend([event] if isinstance(event, PassFinished) else [])
        if len(seen) == 3:
            raise Stop

    return listen


@pytest.mark.filterwarnings("ignore::daskgmm.errors.InterruptedWarning")
@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_a_checkpoint_goes_on_with_the_same_bits(kind, tmp_path):
    options = {"random_state": 0, "max_iter": 4, "tol": 0, "missing": "drop"}
    data, path = da.from_array(HOLES, chunks=(37, D)), tmp_path / "c"
    with pytest.raises(Stop):
        kind(n_components=3, callbacks=[stop_after_two([])], **options).fit(data, checkpoint=path)
    for other in (None, "raise"):
        with pytest.raises(CheckpointError, match="was made with missing='drop', and this fit has missing='raise'"):
            kind(n_components=3, **options | {"missing": other}).fit(X, checkpoint=path, resume=True)
    model = kind(n_components=3, **options).fit(data, checkpoint=path, resume=True)
    assert_same_bits(model, kind(n_components=3, **options).fit(HOLES))
    assert model.origin_.n_incomplete == MASK.sum()


def test_the_terminal(tmp_path, capsys):
    integers, attributes, _ = packed()
    stored(tmp_path / "x.zarr", integers, attributes)
    data, model, out = (str(tmp_path / name) for name in ("x.zarr", "m.zarr", "out.zarr"))
    fitting = ["fit", data, "--model", model, "-k", "3", "--seed", "0", "--quiet"]
    assert main(fitting) == 1
    assert "--missing 'drop'" in capsys.readouterr().err
    assert main([*fitting, "--missing", "drop", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n_incomplete"] == MASK.sum()
    assert record["settings"]["missing"] == "drop"
    assert main(["inspect", model]) == 0
    assert re.search(rf"left out\s+{MASK.sum()} incomplete rows", capsys.readouterr().out)
    assert main(["predict", data, "--model", model, "--output", out, "--quiet"]) == 0
    np.testing.assert_array_equal(zarr.open_group(out, mode="r")["labels"][...] == -1, MASK)
    capsys.readouterr()
    assert main(["score", data, "--model", model, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["n_incomplete"] == MASK.sum()
    assert main(["score", data, "--model", model, "--missing", "raise", "--quiet"]) == 1
    assert "declare to mean" in capsys.readouterr().err
    assert main(["select", data, "-k", "2:3", "--missing", "drop", "--quiet"]) == 0
    assert "incomplete and left out" in capsys.readouterr().out
