"""Fits that lose a component go on, and what rounding may decide: nothing."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from fractions import Fraction

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn_shared import GaussianMixture as Reference

from daskgmm import BayesianGaussianMixture, GaussianMixture, load
from daskgmm.core import acceleration
from daskgmm.core.acceleration import Accelerator, AcceleratorState, Proposed
from daskgmm.core.covariance import STRUCTURES
from daskgmm.errors import (
    CoincidingComponentsWarning,
    DataRangeError,
    IllDefinedCovarianceError,
    InitializationWarning,
    ReseedingWarning,
)
from daskgmm.events import IterationFinished
from daskgmm.fitting import em
from daskgmm.fitting.em import RESEEDINGS

pytestmark = pytest.mark.covering


def with_an_outlier():
    """Few rows in four dimensions: without a ridge, components collapse on five of them."""
    return np.concatenate([np.random.RandomState(0).normal(size=(60, 4)), np.full((1, 4), 3.5)])


def clusters(n_rows=900):
    rng = np.random.RandomState(1)
    return np.concatenate([rng.normal(size=(n_rows // 3, 2)) + shift for shift in (0, 8, [0, 16])])


def losing(structure, **parameters):
    """A start whose last component lies where no row is."""
    precisions = {
        "full": np.stack([np.eye(2)] * 3),
        "tied": np.eye(2),
        "diag": np.ones((3, 2)),
        "spherical": np.ones(3),
        "tied-diag": np.ones(2),
        "tied-spherical": np.ones(1),
    }
    return GaussianMixture(
        3,
        covariance_type=structure,
        weights_init=[0.6, 0.3, 0.1],
        means_init=[[0, 0], [8, 8], [1e6, 1e6]],
        precisions_init=precisions[structure],
        **parameters,
    )


def fitted(model, *data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data)
    return [warning for warning in caught if warning.category is ReseedingWarning]


def kinds(model):
    return [record.kind for record in model.history_]


# ---- collapse


def scikit_learn_fails(**parameters):
    try:
        Reference(**parameters).fit(with_an_outlier())
    except ValueError as error:
        return "ill-defined" in str(error)
    return False


@pytest.mark.parametrize("seed", [2, 7, 10, 22])
def test_a_fit_survives_a_collapse_that_ends_scikit_learns(seed):
    parameters = {"n_components": 6, "reg_covar": 0, "n_init": 4, "tol": 1e-6, "max_iter": 300, "random_state": seed}
    assert scikit_learn_fails(**parameters)
    model = GaussianMixture(**parameters)
    told = fitted(model, with_an_outlier())
    assert model.converged_
    np.testing.assert_allclose(model.weights_.sum(), 1)
    assert np.isfinite(model.score(with_an_outlier()))
    assert len(told) <= kinds(model).count("reseeded") > 0
    for warning in told:
        assert "collapsed in iteration" in str(warning.message)
        assert "increase reg_covar" in str(warning.message)
        assert warning.filename == __file__


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_components_of_a_start_begin_anew_only_so_often(limit, monkeypatch):
    monkeypatch.setattr(em, "RESEEDINGS", limit)
    often = 0
    for seed in (13, 15, 16, 19):
        model = GaussianMixture(9, init_params="random_from_data", reg_covar=0, tol=1e-6, max_iter=300)
        model.set_params(random_state=seed)
        heard = []
        with contextlib.suppress(IllDefinedCovarianceError):
            fitted(model.set_params(callbacks=[heard.append]), with_an_outlier())
        times = sum(event.kind == "reseeded" for event in heard if isinstance(event, IterationFinished))
        often = max(often, times)
    assert often == limit


@pytest.mark.parametrize("structure", ["full", "diag", "spherical"])
def test_fewer_places_than_components_end_in_the_error_at_once(structure):
    x = np.repeat(np.random.RandomState(0).normal(size=(4, 2)), 50, axis=0)
    heard = []
    model = GaussianMixture(4, covariance_type=structure, reg_covar=0, random_state=0, callbacks=[heard.append])
    with pytest.raises(IllDefinedCovarianceError):
        model.fit(x)
    assert sum(isinstance(event, IterationFinished) for event in heard) == 0


def test_one_place_too_few_ends_in_the_error_soon():
    # There is always a component that could be split, and no split helps.
    x = np.concatenate([np.repeat(np.eye(4), 50, axis=0), np.random.RandomState(0).normal(size=(20, 4)) + 50])
    heard = []
    model = GaussianMixture(6, reg_covar=0, init_params="kmeans", random_state=0, max_iter=10_000, tol=0)
    with pytest.raises(IllDefinedCovarianceError):
        model.set_params(callbacks=[heard.append]).fit(x)
    assert sum(isinstance(event, IterationFinished) for event in heard) < 500


def test_a_covariance_that_all_share_is_not_for_one_to_save():
    with pytest.raises(IllDefinedCovarianceError, match="that all components share"):
        GaussianMixture(2, covariance_type="tied", reg_covar=0, random_state=0).fit(np.repeat(np.eye(2), 20, axis=0))


# ---- emptiness


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_empty_component_finds_a_cluster(structure):
    x = clusters()
    model = losing(structure, tol=1e-6)
    (told,) = fitted(model, x)
    assert str(told.message).startswith("component(s) 2 were left without rows in iteration 1")
    assert told.filename == __file__
    assert kinds(model)[1] == "reseeded"
    assert kinds(model).count("reseeded") == 1
    np.testing.assert_allclose(model.weights_, 1 / 3, atol=0.02)
    theirs = Reference(3, covariance_type=structure, random_state=0, n_init=5, tol=1e-6).fit(x)
    np.testing.assert_allclose(model.lower_bound_, theirs.lower_bound_, rtol=1e-4)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_bound_falls_nowhere_else(structure):
    model = losing(structure, tol=1e-6)
    fitted(model, clusters())
    reseeded = np.flatnonzero([kind == "reseeded" for kind in kinds(model)[1:]])
    falls = np.flatnonzero(np.diff(model.lower_bounds_) < -1e-12)
    assert set(falls) <= set(reseeded)
    assert len(model.lower_bounds_) == model.n_iter_


def test_a_step_that_ended_in_new_components_does_not_count_as_the_last():
    # Without a loss, iteration 2 is the first that has a change, and any change is small enough here.
    x = clusters()
    assert GaussianMixture(3, tol=1e9, random_state=0).fit(x).n_iter_ == 2
    model = losing("full", tol=1e9)
    fitted(model, x)
    assert model.converged_
    assert model.n_iter_ == 3
    last = losing("full", max_iter=1)
    with pytest.warns(ReseedingWarning), pytest.warns(UserWarning, match="did not converge"):
        last.fit(x)
    assert not last.converged_
    assert (last.weights_ > 0.1).all()


def test_what_began_anew_on_a_sample_is_told_too():
    model = losing("full", random_state=0, init_size=300)
    (told,) = fitted(model, clusters(9000))
    assert "component(s) 2 were left without rows in iteration 1 on a sample of 300 rows" in str(told.message)
    assert kinds(model)[:2] == ["survey", "sample"]
    assert model.weights_.min() > 0.3


def test_what_stays_empty_is_left_so():
    # One place: whatever begins anew there is empty again, and the fit ends as scikit-learn's does.
    x = np.zeros((50, 1))
    model = GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[0.0], [1e3]],
        precisions_init=[[[1.0]], [[1.0]]],
        max_iter=50,
    )
    told = fitted(model, x)
    assert len(told) <= RESEEDINGS
    assert model.converged_
    assert model.score(x) == pytest.approx(-0.5 * np.log(2 * np.pi * 1e-6), rel=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_chunks_do_not_matter(structure):
    x = clusters()
    whole, chunked = losing(structure, tol=1e-6), losing(structure, tol=1e-6, scheduler="threads")
    fitted(whole, x)
    fitted(chunked, da.from_array(x, chunks=(77, 1)))
    np.testing.assert_array_equal(chunked.means_, whole.means_)
    assert chunked.lower_bounds_ == whole.lower_bounds_


def test_empty_components_of_a_bayesian_mixture_are_what_it_is_for():
    model = BayesianGaussianMixture(
        n_components=10, weight_concentration_prior=1e-3, tol=1e-6, max_iter=1000, random_state=0
    ).fit(clusters())
    assert (model.weights_ < 0.01).sum() >= 6
    assert "reseeded" not in kinds(model)


def test_dropped_starts_are_told_of_and_their_components_are_not():
    model = GaussianMixture(8, reg_covar=0, n_init=4, tol=1e-6, max_iter=300, random_state=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(with_an_outlier())
    assert {warning.category for warning in caught} == {InitializationWarning}


# ---- with an acceleration


@dataclass(frozen=True)
class Seen(AcceleratorState):
    """Bounds since the beginning."""

    bounds: tuple[float, ...] = ()


class Waiting(Accelerator):
    """Proposes nothing, and learns the bounds."""

    state_type = Seen
    latest = Seen()

    def __init__(self, smallest_variance):
        pass

    def initial(self):
        return Seen()

    def propose(self, state, step):
        Waiting.latest = Seen((*state.bounds, step.bound))
        return Proposed(Waiting.latest)

    def reject(self, state, updated):
        raise AssertionError("nothing was proposed")

    def settled(self, state, change, tol):
        return abs(change) < tol


def test_an_accelerator_forgets_what_was_before(monkeypatch):
    monkeypatch.setattr(Waiting, "latest", None)
    monkeypatch.setitem(acceleration.ACCELERATIONS, "waiting", Waiting)
    monkeypatch.setitem(
        GaussianMixture._parameter_constraints,
        "acceleration",
        [*GaussianMixture._parameter_constraints["acceleration"], str],
    )
    model, plain = losing("full", tol=1e-6, acceleration="waiting"), losing("full", tol=1e-6)
    fitted(model, clusters())
    fitted(plain, clusters())
    assert list(Waiting.latest.bounds) == model.lower_bounds_[1:]
    # The first passes of an accelerated fit round the rows to single precision.
    np.testing.assert_allclose(model.lower_bounds_[1:], plain.lower_bounds_[1:], rtol=1e-6)


# ---- noise of single precision


def far_apart():
    """Two pairs of clusters that overlap, forty deviations from the center of all: single precision sees them badly."""
    rng = np.random.default_rng(3)
    centers = np.array([[-41.0], [-39.0], [38.8], [41.2]]).repeat(2, axis=1)
    return (centers[rng.integers(4, size=4000)] + rng.normal(size=(4000, 2))).astype(np.float32), centers


STARTS = {
    GaussianMixture: {"weights_init": [0.25] * 4, "means_init": far_apart()[1] + 0.5, "random_state": 0},
    BayesianGaussianMixture: {},
}


@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")
@pytest.mark.parametrize("kind", list(STARTS))
@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_a_change_within_the_noise_of_single_precision_is_no_convergence(kind, structure):
    rows, _ = far_apart()
    settings = {"covariance_type": structure, "tol": 1e-6, "max_iter": 500} | {"random_state": 0} | STARTS[kind]
    single, double = (kind(n_components=4, **settings).fit(rows.astype(dtype)) for dtype in ("f4", "f8"))
    assert single.converged_
    assert abs(single.n_iter_ - double.n_iter_) <= 2
    exact = rows.astype(np.float64)
    assert single.score(exact) == pytest.approx(double.score(exact), abs=1e-7)
    assert {"float32", "float64"} <= {record.arithmetic for record in single.history_}


def test_hardly_any_change_in_single_precision_is_no_convergence_below_its_noise():
    """One component is where it ends after a step: the bound changes by less than ``tol``, and may be off by more."""
    rows, _ = far_apart()
    model = GaussianMixture(1, covariance_type="diag", tol=1e-7).fit(rows)
    assert model.converged_
    assert [record.arithmetic for record in model.history_[1:]] == ["float32"] * 2 + ["float64"] * 2


def test_an_accelerated_fit_of_single_precision_ends_where_one_of_double_does():
    rows, _ = far_apart()
    settings = STARTS[GaussianMixture] | {"tol": 1e-7, "max_iter": 500, "acceleration": "lbfgs"}
    single, double = (GaussianMixture(4, **settings).fit(rows.astype(dtype)) for dtype in ("f4", "f8"))
    assert single.converged_
    exact = rows.astype(np.float64)
    assert single.score(exact) == pytest.approx(double.score(exact), abs=1e-6)


def test_single_precision_serves_where_its_noise_is_below_the_tolerance():
    rows, _ = far_apart()
    model = GaussianMixture(4, tol=1e-2, **STARTS[GaussianMixture]).fit(rows)
    assert {record.arithmetic for record in model.history_[1:]} == {"float32"}


def test_a_tolerance_of_zero_takes_no_finer_arithmetic():
    rows, _ = far_apart()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(4, tol=0, max_iter=60, **STARTS[GaussianMixture]).fit(rows)
    assert (model.converged_, model.n_iter_) == (False, 60)
    assert {record.arithmetic for record in model.history_[1:]} == {"float32"}


def test_a_tolerance_below_the_noise_of_double_precision():
    """Two tight components far from the center: 1e-13 nats take the precise kernel."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(center, size=(500, 2)) for center in ((300, 0), (303, 3), (-300, 0))])
    start = {"weights_init": [1 / 3] * 3, "means_init": [[300, 0], [303, 3], [-300, 0]]}
    model = GaussianMixture(3, tol=1e-13, max_iter=2000, random_state=0, **start).fit(rows)
    assert model.converged_
    changes = np.diff(model.lower_bounds_)
    assert abs(changes[-1]) < 1e-13 < abs(changes[0])
    assert {record.arithmetic for record in model.history_[1:]} == {"float64", "precise"}


# ---- features that are sums of others


def exact_log_likelihood(rows, ridge):
    """Of one Gaussian with the covariance of these rows, in rational numbers up to the last logarithm."""
    x = [[Fraction(float(value)) for value in row] for row in rows]
    n, d = len(x), len(x[0])
    mean = [sum(row[i] for row in x) / n for i in range(d)]
    second = [[sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in x) / n for j in range(d)] for i in range(d)]
    # Gauss and Jordan on [Σ + ridge, Σ]: the left becomes the unit matrix, the right (Σ + ridge)⁻¹ Σ.
    left = [[second[i][j] + Fraction(ridge) * (i == j) for j in range(d)] for i in range(d)]
    work, determinant = [left[i] + second[i] for i in range(d)], Fraction(1)
    for i in range(d):
        pivot = work[i][i]
        determinant *= pivot
        work[i] = [value / pivot for value in work[i]]
        for j in range(d):
            if j != i:
                work[j] = [a - work[j][i] * b for a, b in zip(work[j], work[i], strict=True)]
    log_determinant = math.log(determinant.numerator) - math.log(determinant.denominator)
    trace = float(sum(work[i][d + i] for i in range(d)))
    return -0.5 * (d * math.log(2 * math.pi) + log_determinant + trace)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e3, 1e4, 3e5, 1e7])
@pytest.mark.parametrize("structure", ["full", "tied"])
@pytest.mark.parametrize("ridge", [1e-6, 1e-3])
def test_a_feature_that_is_the_sum_of_others_is_fitted_right_or_refused(structure, scale, ridge):
    """A pivot that was rounding passed for a variance: −24.59 where −22.63 is true."""
    outcomes = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        pair = random.normal(size=(150, 2)) @ random.normal(size=(2, 2))
        rows = scale * np.column_stack([pair, pair.sum(axis=1)])[:, random.permutation(3)]
        try:
            model = GaussianMixture(1, covariance_type=structure, reg_covar=ridge).fit(rows)
        except IllDefinedCovarianceError as error:
            assert "linear combination" in str(error)  # noqa: PT017  # both outcomes are right
            outcomes.append("refused")
        else:
            assert model.lower_bound_ == pytest.approx(exact_log_likelihood(rows, ridge), abs=0.03)
            outcomes.append("fitted")
    if scale <= 1e2:
        assert outcomes == ["fitted"] * 3
    if scale >= 3e5 and ridge == 1e-6:
        assert outcomes == ["refused"] * 3


@pytest.mark.parametrize("part", [1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_feature_that_is_nearly_the_sum_of_others_keeps_its_digits(part, scale):
    random = np.random.default_rng(0)
    pair = random.normal(size=(150, 2))
    rows = scale * np.column_stack([pair, pair.sum(axis=1) + part * random.normal(size=150)])
    model = GaussianMixture(1, reg_covar=0).fit(rows)
    assert model.lower_bound_ == pytest.approx(exact_log_likelihood(rows, 0), abs=1e-5)


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_a_bayesian_mixture_refuses_a_feature_that_is_the_sum_of_others(structure):
    pair = 3e5 * np.random.default_rng(0).normal(size=(150, 2))
    rows = np.column_stack([pair, pair.sum(axis=1)])
    with pytest.raises(IllDefinedCovarianceError, match="linear combination"):
        BayesianGaussianMixture(n_components=2, covariance_type=structure).fit(rows)


# ---- values and weights of any size

TWO = np.concatenate(
    [np.random.default_rng(0).normal(size=(150, 3)) - 4, np.random.default_rng(1).normal(size=(50, 3))]
)
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def finite(model):
    return all(np.isfinite(getattr(model, name)).all() for name in ATTRIBUTES)


@pytest.mark.parametrize("scale", [1e-30, 1e15, 3e37])
@pytest.mark.parametrize("structure", list(STRUCTURES))
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
@pytest.mark.parametrize("weighted", [False, True])
def test_single_precision_rows_of_any_size_are_fitted_as_the_same_in_double(scale, structure, init_params, weighted):
    rows = (TWO * scale).astype(np.float32)
    weights = np.random.default_rng(2).uniform(0.5, 2, len(rows)) if weighted else None
    model = GaussianMixture(2, covariance_type=structure, init_params=init_params, reg_covar=0, random_state=0)
    found, expected = (clone(model).fit(x, sample_weight=weights) for x in (rows, rows.astype(np.float64)))
    assert finite(found)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-3)
    np.testing.assert_array_equal(found.predict(rows), expected.predict(rows))
    assert (found.covariances_.dtype == np.float32) == (1e-19 < scale < 1e19)
    np.testing.assert_allclose(found.covariances_, expected.covariances_, rtol=2e-3, atol=1e-3 * scale**2)


@pytest.mark.parametrize("scale", [1e25, 3e37])
@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_large_single_precision_rows_with_priors(scale, structure):
    rows = (TWO * scale).astype(np.float32)
    model = BayesianGaussianMixture(n_components=2, covariance_type=structure, random_state=0)
    found, expected = (clone(model).fit(x) for x in (rows, rows.astype(np.float64)))
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-3)
    np.testing.assert_array_equal(found.predict(rows), expected.predict(rows))


@pytest.mark.parametrize("exponent", [-500, -200, 200, 450])
def test_units_that_are_powers_of_two_change_nothing_else(exponent):
    model = GaussianMixture(3, reg_covar=0, max_iter=500, random_state=3)
    expected, found = clone(model).fit(TWO).means_, clone(model).fit(np.ldexp(TWO, exponent)).means_
    np.testing.assert_allclose(np.ldexp(found, -exponent), expected, rtol=1e-11)


@pytest.mark.parametrize("fill", [1e20, 9.969209968386869e36])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_with_a_fill_value_leave_the_others_their_components(fill, dtype):
    good = np.concatenate([TWO, 0.5 * TWO + 20])
    rows = np.concatenate([good, np.full((8, 3), fill)]).astype(dtype)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(3, random_state=0, max_iter=300, n_init=4).fit(rows)
    clean = GaussianMixture(2, random_state=0, max_iter=300).fit(good)
    assert model.score(good.astype(dtype)) == pytest.approx(clean.score(good), abs=0.1)


def test_a_saved_model_keeps_what_single_precision_does_not_hold(tmp_path):
    rows = (TWO * 1e30).astype(np.float32)
    model = GaussianMixture(2, random_state=0).fit(rows)
    model.save(tmp_path / "m.zarr")
    loaded = load(tmp_path / "m.zarr")
    np.testing.assert_array_equal(loaded.covariances_, model.covariances_)
    assert loaded.score(rows) == model.score(rows)


@pytest.mark.parametrize("factor", [1e-190, 1e-20, 1e60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
def test_only_ratios_of_weights_matter(factor, dtype, init_params):
    weights = np.random.default_rng(2).uniform(0.5, 2, len(TWO))
    model = GaussianMixture(2, init_params=init_params, random_state=0, max_iter=500)
    rows = TWO.astype(dtype)
    found, expected = (clone(model).fit(rows, sample_weight=w) for w in (weights * factor, weights))
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-4)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-3)


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("scale", [1e155, 1e200, 1e307])
def test_squares_beyond_double_precision(kind, scale):
    rows = TWO * [1, 1, scale]
    with pytest.raises(DataRangeError, match=r"in feature 2.*Scale the feature") as caught:
        kind(n_components=2).fit(rows)
    assert caught.value.feature == 2
    assert isinstance(caught.value, ValueError)


def test_a_row_without_weight_may_be_of_any_size():
    rows, weights = np.concatenate([TWO, np.full((2, 3), 1e300)]), np.repeat([1.0, 0.0], [len(TWO), 2])
    model = GaussianMixture(2, random_state=0)
    expected, found = clone(model).fit(TWO), model.fit(rows, sample_weight=weights)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-9)


# ---- components that coincide


def told(category, fit):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    return [str(warning.message) for warning in caught if warning.category is category]


@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_components_that_coincide_are_named(structure):
    precisions = {
        "full": np.stack([np.eye(2)] * 4),
        "tied": np.eye(2),
        "diag": np.ones((4, 2)),
        "spherical": np.ones(4),
        "tied-diag": np.ones(2),
        "tied-spherical": np.ones(1),
    }
    model = GaussianMixture(
        4,
        covariance_type=structure,
        weights_init=np.full(4, 0.25),
        means_init=[[0, 0], [8, 8], [0, 16], [8, 8]],
        precisions_init=precisions[structure],
    )
    (message,) = told(CoincidingComponentsWarning, lambda: model.fit(clusters()))
    assert message.startswith("components 1, 3 coincide")
    assert "Decrease n_components" in message
    model = GaussianMixture(3, covariance_type=structure, means_init=[[0, 0], [8, 8], [0, 16]])
    assert told(CoincidingComponentsWarning, lambda: model.fit(clusters())) == []


def test_random_responsibilities_that_end_at_once_are_told():
    model = GaussianMixture(3, init_params="random", random_state=0)
    (message,) = told(CoincidingComponentsWarning, lambda: model.fit(clusters(90_000)))
    assert message.startswith("components 0, 1, 2 coincide")
    assert "a smaller tol" in message
    model.set_params(tol=1e-7, max_iter=500)
    assert told(CoincidingComponentsWarning, lambda: model.fit(clusters())) == []


@pytest.mark.parametrize("kind", ["dirichlet_process", "dirichlet_distribution"])
def test_components_that_a_bayesian_fit_does_without_do_not_coincide(kind):
    model = BayesianGaussianMixture(
        n_components=12, weight_concentration_prior_type=kind, max_iter=1000, random_state=0
    )
    assert told(CoincidingComponentsWarning, lambda: model.fit(clusters())) == []
    assert np.count_nonzero(model.weights_ < 0.01) >= 2


def test_a_bayesian_fit_tells_of_components_that_coincide():
    model = BayesianGaussianMixture(
        n_components=3, init_params="random", weight_concentration_prior=1e4, tol=1e-2, random_state=0
    )
    (message,) = told(CoincidingComponentsWarning, lambda: model.fit(clusters(90_000)))
    assert message.startswith("components 0, 1, 2 coincide")
