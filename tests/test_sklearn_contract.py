"""The interface beside scikit-learn's: the same numbers, attributes, messages, and every deliberate difference."""

import copy
import pickle
import re
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import sklearn
from products import mostly_slow
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn_shared import GaussianMixture as Reference

from daskgmm import GaussianMixture
from daskgmm.core.covariance import STRUCTURES as ALL
from daskgmm.errors import (
    CoincidingComponentsWarning,
    IllDefinedCovarianceError,
    InitializationWarning,
    InvalidWeightsError,
)
from daskgmm.events import StartFinished

pytestmark = pytest.mark.covering

SHAPES = {"full": (3, 4, 4), "tied": (4, 4), "diag": (3, 4), "spherical": (3,)}
SHAPES |= {"tied-diag": (4,), "tied-spherical": (1,)}
STRUCTURES = list(ALL)
PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]

ignore_convergence = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def overlapping(n=400, seed=3):
    """Three components in four features that overlap: EM takes tens of iterations."""
    rng = np.random.RandomState(seed)
    shapes = [np.diag([1.0, 2.0, 0.5, 1.0]), np.eye(4) * 0.4, np.eye(4) + 0.3]
    centers = [[0, 0, 0, 0], [-1, 2, 1.5, 0], [2, 1, 0, 1]]
    rows = [rng.multivariate_normal(c, s, size=n // 3 + 1) for c, s in zip(centers, shapes, strict=True)]
    return np.concatenate(rows)[rng.permutation(3 * (n // 3 + 1))[:n]]


def given(structure):
    """weights_init, means_init and precisions_init for `overlapping`."""
    precisions = {
        "full": np.stack([np.eye(4) * s for s in (1.0, 2.0, 0.7)]),
        "tied": np.eye(4) + 0.2,
        "diag": np.outer([1.0, 2.0, 0.7], [1.0, 0.5, 2.0, 1.0]),
        "spherical": np.array([1.0, 2.0, 0.7]),
        "tied-diag": np.array([1.0, 0.5, 2.0, 1.0]),
        "tied-spherical": np.array([1.2]),
    }
    return {
        "weights_init": np.array([0.3, 0.3, 0.4]),
        "means_init": np.array([[0.0, 0, 0.5, 0], [-1, 1, 1, 0], [1, 1, 0, 1]]),
        "precisions_init": precisions[structure],
    }


def in_order(model):
    """Components by their first mean: starts that tie to the last bit may come out in either order."""
    return np.argsort(model.means_[:, 0])


def assert_same_fit(ours, reference, *, bound=1e-10, parameters=1e-8):
    assert ours.n_iter_ == reference.n_iter_
    assert ours.converged_ == reference.converged_
    if hasattr(reference, "lower_bounds_"):  # scikit-learn 1.7 and later
        np.testing.assert_allclose(ours.lower_bounds_, reference.lower_bounds_, rtol=bound)
    np.testing.assert_allclose(ours.lower_bound_, reference.lower_bound_, rtol=bound)
    i, j = in_order(ours), in_order(reference)
    for name in PARAMETERS:
        mine, theirs = getattr(ours, name), getattr(reference, name)
        if len(mine) == len(i) and not (ALL[ours.covariance_type].shared and name in PARAMETERS[2:]):
            mine, theirs = mine[i], theirs[j]
        np.testing.assert_allclose(mine, theirs, rtol=parameters, atol=parameters, err_msg=name)


def both(x, **parameters):
    return GaussianMixture(**parameters).fit(x), Reference(**parameters).fit(x)


# ---- scikit-learn's checks of any estimator


def expected_failures(estimator):
    if estimator.init_params == "random":
        reason = "random responsibilities are drawn for each row, so repeated rows make another start"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    return {}


CHECKS = parametrize_with_checks(
    [
        GaussianMixture(),
        GaussianMixture(covariance_type="tied", init_params="k-means++"),
        GaussianMixture(2, covariance_type="diag", init_params="random", missing="drop"),
    ],
    expected_failed_checks=expected_failures,
)


# Older releases of scikit-learn hand over a generator, which newer releases of pytest refuse.
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
@ignore_convergence
@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")  # the checks' data are noise
def test_estimator_checks(estimator, check):
    check(estimator)


def test_the_constructor_is_scikit_learns_and_a_little_more():
    theirs, ours = Reference().get_params(), GaussianMixture().get_params()
    # With at most 100,000 rows, "auto" means one start.
    assert {name: ours[name] for name in theirs} == theirs | {"n_init": "auto"}
    assert ours.keys() - theirs.keys() == {"init_size", "acceleration", "cache", "missing", "scheduler", "callbacks"}


# ---- the same trajectory


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("init", ["kmeans", "random"])
@pytest.mark.parametrize("n_init", [1, 3])
def test_trajectory_equals_scikit_learns(structure, init, n_init):
    # From there components with one covariance for all of them do not part, here as there; only this library says so.
    told = pytest.warns(CoincidingComponentsWarning) if (structure, init) == ("tied", "random") else nullcontext()
    with told:
        ours, theirs = both(
            overlapping(),
            n_components=3,
            covariance_type=structure,
            init_params=init,
            n_init=n_init,
            random_state=7,
            tol=1e-5,
            max_iter=500,
        )
    assert ours.converged_
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_trajectory_from_given_parameters_equals_scikit_learns(structure, tol):
    start = given(structure)
    ours, theirs = both(overlapping(), n_components=3, covariance_type=structure, tol=tol, max_iter=1000, **start)
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["weights_init", "means_init", "precisions_init"])
def test_one_given_parameter_leaves_the_others_to_the_start(structure, name):
    # Item 8: what is not given comes from the k-means start, and precisions_init is a precision.
    start = {name: given(structure)[name]}
    ours, theirs = both(overlapping(), n_components=3, covariance_type=structure, random_state=1, max_iter=500, **start)
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_reg_covar_is_in_squared_units_of_the_data(structure, scale):
    # Item 6: added to every variance at every M-step, whatever the units that the computation uses.
    ours, theirs = both(
        overlapping() * scale,
        n_components=3,
        covariance_type=structure,
        reg_covar=0.3 * scale**2,
        random_state=0,
    )
    assert_same_fit(ours, theirs, parameters=1e-8 * max(1, scale**2))


@pytest.mark.parametrize("structure", STRUCTURES)
@ignore_convergence
def test_m_step_equals_scikit_learns(structure):
    # Item 6, one step from given parameters: soft counts, weights, ridge.
    start = given(structure)
    ours, theirs = both(overlapping(60), n_components=3, covariance_type=structure, max_iter=1, reg_covar=0.1, **start)
    assert_same_fit(ours, theirs, parameters=1e-13)
    np.testing.assert_allclose(ours.weights_.sum(), 1, rtol=1e-15)


def test_one_feature_and_one_component():
    x = np.random.RandomState(0).normal(5, 3, size=(50, 1))
    for structure in STRUCTURES:
        ours, theirs = both(x, covariance_type=structure)
        assert_same_fit(ours, theirs)
        np.testing.assert_allclose(ours.means_, [[x.mean()]])


@pytest.mark.parametrize(
    ("structure", "own"), [("tied", "full"), ("tied-diag", "diag"), ("tied-spherical", "spherical")]
)
def test_one_component_shares_its_covariance_with_nobody(structure, own):
    x = overlapping()
    shared = GaussianMixture(covariance_type=structure, reg_covar=1e-3).fit(x)
    theirs = SklearnMixture(covariance_type=own, reg_covar=1e-3).fit(x)
    np.testing.assert_allclose(shared.covariances_, theirs.covariances_.reshape(SHAPES[structure]), rtol=1e-12)
    np.testing.assert_allclose(shared.score_samples(x), theirs.score_samples(x), rtol=1e-11)
    assert shared.bic(x) == pytest.approx(theirs.bic(x), rel=1e-12)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64])
def test_integers_are_taken_as_double_precision(dtype):
    x = np.random.RandomState(0).randint(0, 2 if dtype is bool else 100, size=(80, 3)).astype(dtype)
    ours, theirs = both(x, n_components=2, random_state=0, reg_covar=1e-2)
    assert_same_fit(ours, theirs)
    assert ours.means_.dtype == np.float64


# ---- data in single precision


@pytest.mark.parametrize("structure", STRUCTURES)
def test_float32_data_give_float32_attributes_near_the_double_precision_fit(structure):
    # Item 9. From the same start, the float32 fit follows the float64 fit of the same values.
    x = overlapping().astype(np.float32)
    start = given(structure)
    parameters = {"n_components": 3, "covariance_type": structure, "tol": 1e-4, "max_iter": 500, **start}
    ours, exact = GaussianMixture(**parameters).fit(x), Reference(**parameters).fit(x.astype(np.float64))
    assert abs(ours.n_iter_ - exact.n_iter_) <= 1
    np.testing.assert_allclose(ours.lower_bound_, exact.lower_bound_, rtol=1e-5)
    for name in PARAMETERS:
        assert getattr(ours, name).dtype == np.float32
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), rtol=1e-2, atol=1e-2)
    assert ours.predict(x).dtype == np.int64
    for result in (ours.predict_proba(x), ours.score_samples(x)):
        assert result.dtype == np.float32
    assert isinstance(ours.score(x), float)


def test_the_score_of_float32_data_is_added_in_double_precision():
    # scikit-learn takes a float32 mean of the float32 densities.
    x = overlapping(4000).astype(np.float32)
    model = GaussianMixture(3, random_state=0).fit(x)
    assert model.score(x) == pytest.approx(model.score_samples(x).astype(np.float64).mean(), rel=1e-7)


# ---- weights of samples


@pytest.mark.parametrize("structure", STRUCTURES)
def test_integer_weights_equal_repeated_rows(structure):
    x = overlapping(200)
    weights = np.random.RandomState(1).randint(0, 4, size=len(x))
    repeated = np.repeat(x, weights, axis=0)
    model = GaussianMixture(3, covariance_type=structure, tol=1e-6, max_iter=500, **given(structure))
    weighted, rows = clone(model).fit(x, sample_weight=weights), clone(model).fit(repeated)
    assert_same_fit(weighted, rows)
    assert_same_fit(weighted, Reference(**model_parameters(model)).fit(repeated))
    assert weighted.score(x, sample_weight=weights) == pytest.approx(weighted.score(repeated), rel=1e-12)


def model_parameters(model):
    """Parameters of scikit-learn's estimator for the same fit of few rows."""
    return {name: getattr(model, name) for name in Reference().get_params()} | (
        {"n_init": 1} if model.n_init == "auto" else {}
    )


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
def test_equal_weights_change_nothing(init):
    x = overlapping(200)
    model = GaussianMixture(3, init_params=init, random_state=4, max_iter=500)
    plain = clone(model).fit(x)
    assert_same_fit(plain, clone(model).fit(x, sample_weight=np.ones(len(x))))
    assert_same_fit(plain, clone(model).fit(x, sample_weight=np.full(len(x), 2.5)), parameters=1e-7)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
def test_rows_of_weight_zero_have_no_say(init):
    x = overlapping(200)
    outliers = np.full((20, 4), 1e6)
    weights = np.r_[np.ones(200), np.zeros(20)]
    model = GaussianMixture(2, init_params=init, random_state=0, max_iter=500)
    model.fit(np.concatenate([x, outliers]), sample_weight=weights)
    assert np.abs(model.means_).max() < 10
    assert model.lower_bound_ > -10


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
def test_too_few_rows_with_a_weight_are_told(init):
    weights = np.zeros(50)
    weights[:2] = 1
    with pytest.raises(InvalidWeightsError, match=r"positive for 2 rows.*n_components = 3"):
        GaussianMixture(3, init_params=init).fit(overlapping(50), sample_weight=weights)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e30])
def test_only_the_ratios_of_weights_matter(structure, scale):
    x, weights = overlapping(200), np.random.RandomState(0).rand(200)
    model = GaussianMixture(3, covariance_type=structure, random_state=4, max_iter=500)
    plain = clone(model).fit(x, sample_weight=weights)
    scaled = clone(model).fit(x, sample_weight=weights * scale)
    assert_same_fit(scaled, plain)
    assert scaled.score(x, sample_weight=weights * scale) == pytest.approx(plain.score(x, sample_weight=weights))


def test_a_scalar_weight_is_every_rows_weight():
    x = overlapping(200)
    model = GaussianMixture(3, random_state=4, max_iter=500)
    assert_same_fit(clone(model).fit(x, sample_weight=2.0), clone(model).fit(x, sample_weight=np.full(200, 2.0)))


# ---- stopping


@ignore_convergence
def test_tolerance_zero_never_converges():
    # Item 1: the change has to be below tol, strictly.
    x = overlapping(60)
    for model in both(x, n_components=1, tol=0.0, max_iter=5):
        assert not model.converged_
        assert model.n_iter_ == 5


@ignore_convergence
def test_the_lower_bound_belongs_to_the_parameters_before_the_last_m_step():
    # Item 1.
    x, start = overlapping(), given("full")
    model = GaussianMixture(3, max_iter=6, tol=0, **start).fit(x)
    before = GaussianMixture(3, max_iter=5, tol=0, **start).fit(x)
    assert model.lower_bound_ == pytest.approx(before.score(x), rel=1e-14)
    assert model.lower_bound_ == model.lower_bounds_[-1] < model.score(x)
    assert len(model.lower_bounds_) == model.n_iter_ == 6


def test_the_likelihood_never_falls():
    model = GaussianMixture(4, random_state=0, tol=1e-7, reg_covar=0, max_iter=1000).fit(overlapping())
    assert model.converged_
    assert (np.diff(model.lower_bounds_) > -1e-12).all()


def test_a_fit_that_does_not_converge_warns_where_it_was_called():
    # Item 10.
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge") as caught:
        model = GaussianMixture(3, max_iter=2, tol=1e-9, random_state=0).fit(overlapping())
    assert [w.filename for w in caught] == [__file__]
    assert not model.converged_
    assert model.n_iter_ == 2


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("init", ["kmeans", "random"])
def test_no_iterations_leave_the_start(structure, init):
    # Item 4: n_iter_ 0, no bound, no warning.
    ours, theirs = both(
        overlapping(), n_components=3, covariance_type=structure, init_params=init, max_iter=0, random_state=2
    )
    assert ours.n_iter_ == 0
    assert ours.lower_bounds_ == []
    assert ours.lower_bound_ == -np.inf
    assert not ours.converged_
    assert_same_fit(ours, theirs)
    assert ours.predict(overlapping()).shape == (400,)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_iterations_and_everything_given_is_a_model(structure):
    # Item 4. scikit-learn 1.9 has no covariances_ then and its fit raises AttributeError.
    x, start = overlapping(), given(structure)
    model = GaussianMixture(3, covariance_type=structure, max_iter=0, **start).fit(x)
    for name in ("weights", "means", "precisions"):
        np.testing.assert_allclose(getattr(model, f"{name}_"), start[f"{name}_init"], rtol=1e-14)
    reference = Reference(3, covariance_type=structure, max_iter=1, **start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(x)
    assert model.score(x) == pytest.approx(reference.lower_bound_, rel=1e-12)


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="seen in scikit-learn 1.9")
def test_no_iterations_and_everything_given_fail_in_scikit_learn():
    with pytest.raises(AttributeError):
        Reference(3, max_iter=0, **given("full")).fit(overlapping())


# ---- several starts


def test_starts_share_one_stream_and_the_best_is_kept():
    # Item 2.
    x = overlapping()
    state = np.random.RandomState(11)
    single = GaussianMixture(4, init_params="random", tol=1e-4, max_iter=500, random_state=state)
    bounds = [clone(single).set_params(random_state=state).fit(x).lower_bound_ for _ in range(4)]
    several = clone(single).set_params(n_init=4, random_state=11).fit(x)
    assert len(set(bounds)) > 1
    assert several.lower_bound_ == max(bounds)
    assert several.lower_bounds_[-1] == several.lower_bound_


def test_a_start_that_fails_is_dropped_with_a_warning():
    # Item 2: in scikit-learn it ends the whole fit. Without a ridge most starts lose components to five rows, more
    # often than these may begin anew.
    x = np.concatenate([np.random.RandomState(0).normal(size=(60, 4)), np.full((1, 4), 3.5)])
    model = GaussianMixture(8, reg_covar=0, n_init=4, tol=1e-6, max_iter=300)
    for seed in range(30):
        model.set_params(random_state=seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model.fit(x)
            except IllDefinedCovarianceError:
                continue
        break
    dropped = [warning for warning in caught if warning.category is InitializationWarning]
    assert 1 <= len(dropped) <= 3
    for warning in dropped:
        assert re.match(r"start \d of 4 was dropped: Fitting the mixture model failed", str(warning.message))
        assert warning.filename == __file__
    assert np.isfinite(model.score(x))
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        Reference(**model_parameters(model)).fit(x)


def test_a_fit_fails_only_when_every_start_does():
    x = np.repeat(np.eye(3), 5, axis=0)
    with (
        pytest.raises(ValueError, match="ill-defined empirical covariance"),
        pytest.warns(InitializationWarning) as caught,
    ):
        GaussianMixture(3, reg_covar=0, n_init=3, random_state=0).fit(x)
    assert len(caught) == 3


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("init", ["k-means++", "random_from_data"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_starts_from_rows_are_usable(structure, init, scale):
    # Item 7: equal weights, rows of the data as means, a covariance of the size of the data.
    x = overlapping() * scale
    ours = GaussianMixture(
        3, covariance_type=structure, init_params=init, max_iter=0, random_state=0, reg_covar=1e-6 * scale**2
    ).fit(x)
    np.testing.assert_allclose(ours.weights_, 1 / 3)
    assert all((x == mean).all(axis=1).any() for mean in ours.means_)
    variance = ours.covariances_
    if structure in ("full", "tied"):
        variance = np.einsum("...ii->...i", variance)
    assert (variance > 0.01 * scale**2).all()
    assert (variance < 10 * scale**2).all()


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="seen in scikit-learn 1.9")
@pytest.mark.parametrize("init", ["k-means++", "random_from_data"])
def test_starts_from_rows_in_scikit_learn_have_no_covariance_and_little_weight(init):
    theirs = Reference(3, init_params=init, max_iter=0, random_state=0).fit(overlapping())
    np.testing.assert_allclose(theirs.covariances_, np.stack([1e-6 * np.eye(4)] * 3), atol=1e-12)
    assert theirs.weights_.sum() == pytest.approx(3 / 400)


# ---- warm start


@ignore_convergence
@pytest.mark.parametrize("structure", mostly_slow(STRUCTURES, "full", "tied", "diag"))
def test_warm_starts_equal_scikit_learns(structure):
    # Item 5: no new start once fitted, n_init counts for the first fit only, bounds of the last call.
    x = overlapping()
    parameters = {"n_components": 3, "covariance_type": structure, "warm_start": True, "max_iter": 3}
    ours = GaussianMixture(**parameters, n_init=2, random_state=0)
    theirs = Reference(**parameters, n_init=2, random_state=0)
    for _ in range(5):
        assert_same_fit(ours.fit(x), theirs.fit(x))
        assert len(ours.lower_bounds_) == ours.n_iter_ <= 3
    assert ours.n_passes_ == 1 + ours.n_iter_


def test_a_warm_start_goes_on_with_parameters_set_by_hand():
    x = overlapping()
    ours, theirs = (kind(3, warm_start=True, random_state=0).fit(x) for kind in (GaussianMixture, Reference))
    for model in (ours, theirs):
        model.means_ = model.means_ + 0.3
        model.fit(x)
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_goes_on_where_the_model_does(copied):
    x = overlapping()
    model = GaussianMixture(3, warm_start=True, random_state=0).fit(x)
    assert copied(model).fit(x).lower_bound_ == model.fit(x).lower_bound_


def test_a_warm_start_with_another_number_of_components_is_refused():
    x = overlapping()
    model = GaussianMixture(3, warm_start=True, random_state=0).fit(x)
    with pytest.raises(ValueError, match=r"warm_start=True.*\(3, 4, 'full'\).*\(2, 4, 'full'\)"):
        model.set_params(n_components=2).fit(x)
    with pytest.raises(ValueError, match=r"warm_start"):
        model.set_params(n_components=3, covariance_type="diag").fit(x)


# ---- passes over the data


@pytest.mark.parametrize("n_init", [1, 3])
def test_a_fit_reads_the_data_once_for_each_iteration_and_once_before(n_init):
    # Item 3: no pass for labels.
    x = overlapping()
    events = []
    model = GaussianMixture(3, random_state=0, n_init=n_init, callbacks=[events.append]).fit(x)
    longest = max(event.n_iter for event in events if isinstance(event, StartFinished))
    assert model.n_passes_ == 1 + longest  # starts share the passes
    assert longest >= model.n_iter_
    assert n_init > 1 or longest == model.n_iter_


@pytest.mark.parametrize("parameters", [{}, {"max_iter": 2}, {"tol": 0.1}, {"n_init": 3}], ids=str)
@ignore_convergence
def test_fit_predict_agrees_with_fit_and_predict(parameters):
    # Item 3.
    x = overlapping()
    model = GaussianMixture(3, random_state=0, **parameters)
    labels = clone(model).fit_predict(x)
    np.testing.assert_array_equal(labels, clone(model).fit(x).predict(x))
    np.testing.assert_array_equal(labels, Reference(**model_parameters(model)).fit_predict(x))


# ---- what a fitted model says


@pytest.fixture(scope="module", params=STRUCTURES)
def fitted(request):
    return both(overlapping(), n_components=3, covariance_type=request.param, random_state=0, max_iter=500)


def test_attributes_have_scikit_learns_shapes_and_types(fitted):
    ours, theirs = fitted
    for name in vars(theirs):
        if name.endswith("_"):
            mine, expected = getattr(ours, name), getattr(theirs, name)
            assert isinstance(expected, type(mine)), name  # float for numpy.float64
            assert np.shape(mine) == np.shape(expected), name
            assert np.asarray(mine).dtype == np.asarray(expected).dtype, name
    assert ours.covariances_.shape == SHAPES[ours.covariance_type]
    if ours.covariance_type in ("full", "tied"):  # U is upper triangular, precision = U Uᵀ
        u = ours.precisions_cholesky_
        assert (np.tril(u, -1) == 0).all()
        np.testing.assert_allclose(ours.precisions_, u @ np.swapaxes(u, -1, -2))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic"])
def test_methods_equal_scikit_learns(fitted, method):
    # Items 10 and 11, on rows that were not fitted.
    ours, theirs = fitted
    new = overlapping(150, seed=8) * 1.5
    mine, expected = getattr(ours, method)(new), getattr(theirs, method)(new)
    np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-10)
    assert np.asarray(mine).dtype == np.asarray(expected).dtype


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score"])
def test_methods_of_the_exact_scikit_learn_parameters(fitted, method):
    ours, theirs = clone(fitted[0]).fit(overlapping()), fitted[1]
    for name in PARAMETERS:
        setattr(ours, name, getattr(theirs, name).copy())
    new = overlapping(150, seed=8) * 3
    np.testing.assert_allclose(getattr(ours, method)(new), getattr(theirs, method)(new), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("structure", "count"),
    [("full", 44), ("tied", 24), ("diag", 26), ("spherical", 17), ("tied-diag", 18), ("tied-spherical", 15)],
)
def test_information_criteria_count_the_free_parameters(structure, count):
    # Item 11.
    x = overlapping()
    model = GaussianMixture(3, covariance_type=structure, random_state=0, max_iter=500).fit(x)
    log_likelihood = model.score(x) * len(x)
    assert model.bic(x) == pytest.approx(-2 * log_likelihood + count * np.log(len(x)), rel=1e-13)
    assert model.aic(x) == pytest.approx(-2 * log_likelihood + 2 * count, rel=1e-13)


def test_samples_are_grouped_and_repeatable(fitted):
    # Item 12.
    ours, theirs = fitted
    rows, labels = ours.sample(5000)
    again, _ = ours.sample(5000)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(labels, theirs.sample(5000)[1])
    assert rows.shape == (5000, 4)
    assert (np.diff(labels) >= 0).all()
    for k in range(3):
        mine = rows[labels == k]
        values = theirs.covariances_ if ALL[ours.covariance_type].shared else theirs.covariances_[k]
        covariance = values if np.ndim(values) == 2 else values * np.eye(4)
        np.testing.assert_allclose(mine.mean(axis=0), theirs.means_[k], atol=0.2)
        np.testing.assert_allclose(np.cov(mine.T), covariance, atol=0.35)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "3", None])
def test_a_bad_number_of_samples_is_named(fitted, n_samples):
    with pytest.raises(ValueError, match="Invalid value for 'n_samples'"):
        fitted[0].sample(n_samples)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic", "sample"])
def test_methods_of_an_unfitted_model_say_so(method):
    argument = 3 if method == "sample" else overlapping(10)
    with pytest.raises(NotFittedError, match="This GaussianMixture instance is not fitted yet"):
        getattr(GaussianMixture(), method)(argument)


def test_rows_far_from_everything_have_finite_densities_and_whole_probabilities(fitted):
    ours, theirs = fitted
    far = np.full((3, 4), 1e8)
    np.testing.assert_allclose(ours.score_samples(far), theirs.score_samples(far), rtol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(far).sum(axis=1), 1)


# ---- huge offsets


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("dtype", "offset"), [(np.float32, 1e4), (np.float64, 1e6), (np.float64, 1e8), (np.float64, 1e10)]
)
def test_offsets_do_not_matter(structure, dtype, offset):
    # Item 13. The rows are rounded to what the dtype holds at that offset first; the rest is ours to get right.
    rng = np.random.RandomState(0)
    x = np.concatenate([rng.normal(size=(100, 2)) + shift for shift in (0, 6, [12, 0])]) + offset
    shifted = x.astype(dtype)
    centered = shifted.astype(np.float64) - offset
    parameters = {"n_components": 3, "covariance_type": structure, "random_state": 0, "tol": 1e-6}
    moved = GaussianMixture(**parameters).fit(shifted)
    still = Reference(**parameters).fit(centered)
    single = dtype is np.float32
    i, j = in_order(moved), in_order(still)
    tied = ALL[structure].shared
    mine, expected = (
        (moved.covariances_, still.covariances_) if tied else (moved.covariances_[i], still.covariances_[j])
    )
    np.testing.assert_allclose(mine, expected, rtol=1e-3 if single else 1e-7, atol=1e-3 if single else 1e-7)
    np.testing.assert_allclose(moved.means_[i] - offset, still.means_[j], atol=2e-3 if single else offset * 1e-15)
    np.testing.assert_allclose(moved.lower_bound_, still.lower_bound_, rtol=1e-5 if single else 1e-9)
    labels = still.predict(centered)
    np.testing.assert_array_equal(np.argsort(i)[moved.predict(shifted)], np.argsort(j)[labels])


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_constant_feature_is_exact(structure):
    # Its variance is the ridge, however far it lies from zero; scikit-learn's diag loses half of the digits there.
    model = GaussianMixture(2, covariance_type=structure, init_params="random", random_state=0, tol=1e-5)
    with pytest.warns(CoincidingComponentsWarning, match="0, 1 coincide"):
        model.fit(np.full((50, 1), 3.25))
    np.testing.assert_allclose(model.covariances_, 1e-6, rtol=1e-12)
    assert model.lower_bound_ == pytest.approx(-0.5 * np.log(2 * np.pi * 1e-6), rel=1e-14)


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="seen in scikit-learn 1.9")
@pytest.mark.parametrize("structure", ["tied", "diag", "spherical"])
@pytest.mark.parametrize(("dtype", "offset"), [(np.float32, 1e4), (np.float64, 1e8)])
def test_offsets_at_which_scikit_learn_fails(structure, dtype, offset):
    rng = np.random.RandomState(0)
    x = np.concatenate([rng.normal(size=(100, 2)) + shift for shift in (0, 6, [12, 0])]) + offset
    with pytest.raises(ValueError, match="ill-defined"):
        Reference(3, covariance_type=structure, random_state=0).fit(x.astype(dtype))


# ---- messages


def without_times(text):
    return re.sub(r"time lapse \d+\.\d+s", "time lapse", text)


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("interval", [1, 4])
@ignore_convergence
def test_verbose_prints_what_scikit_learn_prints(verbose, interval, capsys):
    parameters = {"n_components": 3, "n_init": 2, "random_state": 0, "max_iter": 9, "init_params": "random"}
    parameters |= {"verbose": verbose, "verbose_interval": interval}
    GaussianMixture(**parameters).fit(overlapping())
    ours = capsys.readouterr()
    Reference(**parameters).fit(overlapping())
    theirs = capsys.readouterr()
    assert without_times(ours.out) == without_times(theirs.out) != ""
    assert ours.err == ""


def test_a_quiet_fit_prints_nothing(capsys):
    GaussianMixture(2, random_state=0).fit(overlapping())
    assert capsys.readouterr() == ("", "")


def test_too_few_rows_for_the_components_are_told_as_scikit_learn_tells_it():
    # Item 9.
    message = "Expected n_samples >= n_components but got n_components = 5, n_samples = 3"
    for kind in (GaussianMixture, Reference):
        with pytest.raises(ValueError, match=re.escape(message)):
            kind(5).fit(np.eye(3))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_collapsed_component_ends_in_the_documented_error(structure):
    # Item 10.
    # (scikit-learn lets rounding serve as a covariance for tied and spherical here.)
    x = np.repeat(np.eye(3), 4, axis=0)
    message = r"ill-defined empirical covariance.*increase reg_covar"
    with pytest.raises(IllDefinedCovarianceError, match=message) as caught:
        GaussianMixture(3, covariance_type=structure, reg_covar=0, random_state=0).fit(x)
    assert caught.value.components == (() if ALL[structure].shared else (0, 1, 2))
    model = GaussianMixture(3, covariance_type=structure, random_state=0).fit(x)  # the remedy works
    np.testing.assert_array_equal(np.sort(model.predict(x)), np.repeat([0, 1, 2], 4))


# ---- scikit-learn's machinery


def test_clones_keep_every_parameter():
    model = GaussianMixture(3, covariance_type="diag", means_init=np.eye(3), callbacks=[print], init_size=10)
    copy = clone(model)
    assert copy is not model
    for name, value in model.get_params().items():
        if name == "means_init":
            np.testing.assert_array_equal(getattr(copy, name), value)
        else:
            assert getattr(copy, name) == value


def test_pickles_of_fitted_models_predict_the_same():
    x = overlapping()
    model = GaussianMixture(3, random_state=0).fit(x)
    copy = pickle.loads(pickle.dumps(model))
    for method in ("predict", "predict_proba", "score_samples", "score"):
        np.testing.assert_array_equal(getattr(copy, method)(x), getattr(model, method)(x))
    assert copy.get_params() == model.get_params()


def test_parameters_set_by_hand_serve():
    model = GaussianMixture(2, covariance_type="spherical")
    model.weights_ = np.array([0.5, 0.5])
    model.means_ = np.array([[0.0, 0.0], [4.0, 4.0]])
    model.precisions_cholesky_ = np.array([1.0, 2.0])
    model.covariances_ = np.array([1.0, 0.25])
    labels = model.predict(np.array([[0.1, 0.0], [3.9, 4.0]]))
    np.testing.assert_array_equal(labels, [0, 1])
    rows, _ = model.sample(50)
    assert rows.shape == (50, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_changed_in_place_serve(dtype):
    x = overlapping().astype(dtype)
    changed, reference = GaussianMixture(3, random_state=0).fit(x), GaussianMixture(3, random_state=0).fit(x)
    changed.means_[0] += 2
    reference.means_ = reference.means_ + np.array([[2], [0], [0]], dtype)
    np.testing.assert_array_equal(changed.score_samples(x), reference.score_samples(x))
    assert changed.score(x) < GaussianMixture(3, random_state=0).fit(x).score(x)


@pytest.mark.parametrize("transform", ["default", "pandas"])
def test_pipelines(transform):
    x = pd.DataFrame(overlapping(), columns=list("abcd"))
    steps = [
        make_pipeline(StandardScaler(), kind(3, random_state=0)).set_output(transform=transform)
        for kind in (GaussianMixture, Reference)
    ]
    ours, theirs = (pipeline.fit(x) for pipeline in steps)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.score(x), theirs.score(x), rtol=1e-10)
    assert hasattr(ours[-1], "feature_names_in_") == (transform == "pandas")


def test_grid_search_finds_what_scikit_learn_finds():
    x = overlapping(200)
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "spherical"]}
    searches = [
        GridSearchCV(kind(random_state=0, max_iter=500), grid, cv=KFold(3, shuffle=True, random_state=0)).fit(x)
        for kind in (GaussianMixture, Reference)
    ]
    ours, theirs = searches
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-8)


def test_sample_weights_are_routed():
    x, weights = overlapping(200), np.random.RandomState(0).rand(200)
    with sklearn.config_context(enable_metadata_routing=True):
        model = GaussianMixture(3, random_state=0, max_iter=500).set_fit_request(sample_weight=True)
        pipeline = clone(make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model))
        pipeline.fit(x, sample_weight=weights)
    expected = GaussianMixture(3, random_state=0, max_iter=500)
    expected.fit(StandardScaler().fit_transform(x), sample_weight=weights)
    np.testing.assert_array_equal(pipeline[-1].means_, expected.means_)


def test_feature_names_are_kept_and_checked():
    frame = pd.DataFrame(overlapping(), columns=list("abcd"))
    model = GaussianMixture(2, random_state=0).fit(frame)
    assert list(model.feature_names_in_) == list("abcd")
    assert model.n_features_in_ == 4
    np.testing.assert_array_equal(model.predict(frame), GaussianMixture(2, random_state=0).fit_predict(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("dcba")])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(frame.to_numpy())


def test_fitting_does_not_touch_the_data():
    x = overlapping()
    before = x.copy()
    x.flags.writeable = False
    model = GaussianMixture(3, random_state=0).fit(x)
    model.predict(x)
    np.testing.assert_array_equal(x, before)


def test_lists_are_data_too():
    rows = overlapping(50).tolist()
    np.testing.assert_array_equal(
        GaussianMixture(2, random_state=0).fit(rows).means_,
        GaussianMixture(2, random_state=0).fit(np.array(rows)).means_,
    )
