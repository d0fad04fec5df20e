"""`BayesianGaussianMixture` beside scikit-learn's, and what only data larger than memory ask of it."""

import pickle
from contextlib import nullcontext

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from products import mostly_slow
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn_shared import BayesianGaussianMixture as Reference

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.core.covariance import STRUCTURES as ALL
from daskgmm.engine.cluster import embedded_cluster
from daskgmm.errors import CoincidingComponentsWarning, IllDefinedCovarianceError, InvalidWeightsError
from daskgmm.events import IterationFinished, StartFinished
from daskgmm.fitting.survey import SurveyFold

pytestmark = pytest.mark.covering

STRUCTURES = list(ALL)
FAMILIES = ["dirichlet_process", "dirichlet_distribution"]
PRIORS = ["weight_concentration_prior", "mean_precision_prior", "mean_prior", "degrees_of_freedom_prior"]
PRIORS = [f"{name}_" for name in (*PRIORS, "covariance_prior")]
POSTERIOR = ["weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_"]
PARAMETERS = [*PRIORS, *POSTERIOR, "precisions_cholesky_", "precisions_", "weights_"]

ignore_convergence = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def overlapping(n=400, seed=3):
    """Three components in four features that overlap."""
    rng = np.random.RandomState(seed)
    shapes = [np.diag([1.0, 2.0, 0.5, 1.0]), np.eye(4) * 0.4, np.eye(4) + 0.3]
    centers = [[0, 0, 0, 0], [-1, 2, 1.5, 0], [2, 1, 0, 1]]
    rows = [rng.multivariate_normal(c, s, size=n // 3 + 1) for c, s in zip(centers, shapes, strict=True)]
    return np.concatenate(rows)[rng.permutation(3 * (n // 3 + 1))[:n]]


def separate(n=600, offset=0.0, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 2)) + np.array([[0, 0], [9, 1], [2, 12]])[np.arange(n) % 3] + offset


def both(x, *, tol=1e-3, **parameters):
    """Ours and theirs, whose bound, and so its tolerance, is the sum over the rows."""
    theirs = Reference(tol=tol * len(x), **parameters)
    return BayesianGaussianMixture(tol=tol, **parameters).fit(x), theirs.fit(x)


def assert_same_fit(ours, reference, *, n_rows, parameters=1e-8, bound=1e-9):
    assert ours.n_iter_ == reference.n_iter_
    assert ours.converged_ == reference.converged_
    assert ours.lower_bound_ == pytest.approx(float(np.squeeze(reference.lower_bound_)) / n_rows, rel=bound)
    if hasattr(reference, "lower_bounds_"):  # scikit-learn 1.7 and later
        theirs = np.reshape(reference.lower_bounds_, -1) / n_rows
        np.testing.assert_allclose(ours.lower_bounds_, theirs, rtol=bound)
    for name in PARAMETERS:
        mine, expected = np.asarray(getattr(ours, name)), np.asarray(getattr(reference, name))
        assert mine.shape == expected.shape, name
        np.testing.assert_allclose(mine, expected, rtol=parameters, atol=parameters, err_msg=name)


def given_priors(structure):
    covariance = {
        "full": np.eye(4) + 0.2,
        "tied": np.eye(4) + 0.2,
        "diag": np.array([1.0, 2.0, 0.5, 1.0]),
        "spherical": 0.7,
        "tied-diag": np.array([1.0, 2.0, 0.5, 1.0]),
        "tied-spherical": 0.7,
    }
    return {
        "weight_concentration_prior": 0.3,
        "mean_precision_prior": 2.5,
        "mean_prior": np.array([0.5, -1, 0, 2]),
        "degrees_of_freedom_prior": 5.5,
        "covariance_prior": covariance[structure],
    }


# ---- scikit-learn's checks of any estimator


def expected_failures(estimator):
    if estimator.init_params == "random":
        reason = "random responsibilities are drawn for each row, so repeated rows make another start"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    return {}


CHECKS = parametrize_with_checks(
    [
        BayesianGaussianMixture(),
        BayesianGaussianMixture(n_components=2, covariance_type="diag", init_params="random"),
        BayesianGaussianMixture(covariance_type="tied", weight_concentration_prior_type="dirichlet_distribution"),
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
    theirs, ours = Reference().get_params(), BayesianGaussianMixture().get_params()
    assert {name: ours[name] for name in theirs} == theirs | {"n_init": "auto"}
    assert ours.keys() - theirs.keys() == {"init_size", "cache", "missing", "scheduler", "callbacks"}


def test_there_are_no_information_criteria_as_in_scikit_learn():
    for kind in (BayesianGaussianMixture, Reference):
        assert not hasattr(kind, "bic")
        assert not hasattr(kind, "aic")


# ---- the same trajectory


@pytest.mark.parametrize("structure", mostly_slow(STRUCTURES, "full", "tied", "diag"))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", ["kmeans", "random"])
def test_trajectory_equals_scikit_learns(structure, family, init):
    x = overlapping()
    ours, theirs = both(
        x,
        n_components=5,
        covariance_type=structure,
        weight_concentration_prior_type=family,
        init_params=init,
        n_init=2,
        random_state=7,
        tol=1e-6,
        max_iter=2000,
    )
    assert ours.converged_
    assert_same_fit(ours, theirs, n_rows=len(x))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_given_priors_are_scikit_learns(structure, family):
    x = overlapping()
    ours, theirs = both(
        x,
        n_components=4,
        covariance_type=structure,
        weight_concentration_prior_type=family,
        random_state=1,
        tol=1e-5,
        max_iter=500,
        **given_priors(structure),
    )
    assert_same_fit(ours, theirs, n_rows=len(x))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_and_the_ridge(structure, scale):
    x = overlapping() * scale
    ours, theirs = both(
        x, n_components=3, covariance_type=structure, reg_covar=0.3 * scale**2, random_state=0, max_iter=500
    )
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-8, atol=1e-8 * scale)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-8, atol=1e-9 * scale**2)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", FAMILIES)
@ignore_convergence
def test_warm_starts_equal_scikit_learns(structure, family):
    x = overlapping()
    parameters = {"n_components": 3, "covariance_type": structure, "weight_concentration_prior_type": family}
    parameters |= {"warm_start": True, "max_iter": 3, "random_state": 0}
    ours, theirs = BayesianGaussianMixture(tol=1e-4, **parameters), Reference(tol=1e-4 * len(x), **parameters)
    for _ in range(4):
        assert_same_fit(ours.fit(x), theirs.fit(x), n_rows=len(x))
    assert ours.n_passes_ == 1 + ours.n_iter_


def test_a_warm_start_with_other_weights_is_refused():
    x = overlapping(60)
    model = BayesianGaussianMixture(n_components=3, warm_start=True, random_state=0, tol=1).fit(x)
    with pytest.raises(ValueError, match=r"weight_concentration_ has the shape \(2, 3\).*needs \(3,\)"):
        model.set_params(weight_concentration_prior_type="dirichlet_distribution").fit(x)
    with pytest.raises(ValueError, match=r"warm_start=True.*\(3, 4, 'full'\).*\(2, 4, 'full'\)"):
        model.set_params(n_components=2, weight_concentration_prior_type="dirichlet_process").fit(x)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("init", ["kmeans", "random"])
@ignore_convergence
def test_no_iterations_leave_the_start(structure, init):
    ours, theirs = both(
        overlapping(), n_components=3, covariance_type=structure, init_params=init, max_iter=0, random_state=2
    )
    assert (ours.n_iter_, ours.lower_bounds_, ours.lower_bound_) == (0, [], -np.inf)
    assert_same_fit(ours, theirs, n_rows=400)


@pytest.mark.parametrize("family", FAMILIES)
def test_structures_agree_about_the_start(family):
    """What scikit-learn's test_compare_covar_type looks at: scales of shared matrices are means of the others'."""
    x = overlapping()
    parameters = {"n_components": 4, "weight_concentration_prior_type": family, "max_iter": 0, "random_state": 0}
    start = {name: BayesianGaussianMixture(covariance_type=name, **parameters).fit(x) for name in STRUCTURES}
    scales = {
        name: model.covariances_.T * model.degrees_of_freedom_  # scale matrices are symmetric
        for name, model in start.items()
    }
    np.testing.assert_allclose(scales["tied"], scales["full"].mean(axis=-1), rtol=1e-12)
    np.testing.assert_allclose(scales["diag"], np.einsum("iik->ik", scales["full"]), rtol=1e-12)
    np.testing.assert_allclose(scales["spherical"], scales["diag"].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scales["tied-diag"], scales["diag"].mean(axis=-1), rtol=1e-12)
    np.testing.assert_allclose(scales["tied-spherical"], scales["spherical"].mean(keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_never_falls(structure, family):
    model = BayesianGaussianMixture(
        n_components=6,
        covariance_type=structure,
        weight_concentration_prior_type=family,
        init_params="random",
        reg_covar=0,
        tol=1e-7,
        max_iter=2000,
        random_state=0,
    ).fit(overlapping())
    assert (np.diff(model.lower_bounds_) > -1e-12).all()


@ignore_convergence
def test_the_tolerance_is_per_row():
    """Data repeated ten times stop at about the same iteration; scikit-learn goes on for longer."""
    x = overlapping(300)
    few, many = (
        BayesianGaussianMixture(n_components=4, random_state=0, tol=1e-3, init_params="k-means++").fit(rows)
        for rows in (x, np.tile(x, (10, 1)))
    )
    assert abs(few.lower_bound_) == pytest.approx(abs(many.lower_bound_), rel=0.5)
    theirs = Reference(n_components=4, random_state=0, tol=1e-3).fit(np.tile(x, (10, 1)))
    assert np.size(theirs.lower_bound_) == 1
    assert abs(float(np.squeeze(theirs.lower_bound_))) > 100 * abs(many.lower_bound_)


def test_components_that_the_data_do_not_need_end_empty():
    model = BayesianGaussianMixture(
        n_components=10,
        weight_concentration_prior=1e-3,
        max_iter=1000,
        tol=1e-6,
        random_state=0,
    ).fit(separate())
    used = model.weights_ > 0.01
    assert used.sum() == 3
    assert model.weights_[used].sum() > 0.99
    np.testing.assert_allclose(np.sort(model.weights_[used]), 1 / 3, atol=0.02)


# ---- attributes and methods


@pytest.fixture(scope="module", params=[(s, f) for s in STRUCTURES for f in FAMILIES], ids="-".join)
def fitted(request):
    structure, family = request.param
    return both(
        overlapping(),
        n_components=3,
        covariance_type=structure,
        weight_concentration_prior_type=family,
        random_state=0,
        max_iter=500,
    )


def test_attributes_have_scikit_learns_shapes_and_types(fitted):
    ours, theirs = fitted
    for name in vars(theirs):
        if not name.endswith("_") or name in ("lower_bound_", "lower_bounds_"):  # an array of one for tied there
            continue
        mine, expected = getattr(ours, name), getattr(theirs, name)
        assert np.shape(mine) == np.shape(expected), name
        assert isinstance(mine, tuple) == isinstance(expected, tuple), name
        assert np.result_type(np.asarray(mine)) in (np.result_type(np.asarray(expected)), np.float64), name
    assert isinstance(ours.lower_bound_, float)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score"])
def test_methods_equal_scikit_learns(fitted, method):
    ours, theirs = fitted
    new = overlapping(150, seed=8) * 1.5
    mine, expected = getattr(ours, method)(new), getattr(theirs, method)(new)
    np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-10)
    assert np.asarray(mine).dtype == np.asarray(expected).dtype


def test_attributes_set_by_hand_serve(fitted):
    ours, theirs = clone(fitted[0]).fit(overlapping()), fitted[1]
    for name in PARAMETERS:
        value = getattr(theirs, name)
        setattr(ours, name, value if isinstance(value, tuple) else np.copy(value) + (name == "means_"))
    new = overlapping(150, seed=8)
    np.testing.assert_allclose(ours.score_samples(new + 1), theirs.score_samples(new), rtol=1e-10)


def test_samples_are_grouped_and_repeatable(fitted):
    ours, theirs = fitted
    rows, labels = ours.sample(3000)
    np.testing.assert_array_equal(rows, ours.sample(3000)[0])
    np.testing.assert_array_equal(labels, theirs.sample(3000)[1])
    for k in range(3):
        np.testing.assert_allclose(rows[labels == k].mean(axis=0), theirs.means_[k], atol=0.3)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "sample"])
def test_methods_of_an_unfitted_model_say_so(method):
    with pytest.raises(NotFittedError, match="This BayesianGaussianMixture instance is not fitted yet"):
        getattr(BayesianGaussianMixture(), method)(3 if method == "sample" else overlapping(10))


def test_clones_and_pickles():
    x = overlapping()
    model = BayesianGaussianMixture(n_components=3, random_state=0, mean_prior=np.ones(4), callbacks=[print])
    copy = clone(model)
    assert copy.callbacks == [print]
    np.testing.assert_array_equal(copy.mean_prior, model.mean_prior)
    model.set_params(callbacks=()).fit(x)
    again = pickle.loads(pickle.dumps(model))
    for method in ("predict", "predict_proba", "score_samples", "score"):
        np.testing.assert_array_equal(getattr(again, method)(x), getattr(model, method)(x))


@ignore_convergence
def test_events_and_lines_tell_the_bound(capsys):
    x, events = overlapping(), []
    parameters = {"n_components": 3, "n_init": 2, "random_state": 0, "max_iter": 9, "init_params": "random"}
    model = BayesianGaussianMixture(**parameters, verbose=2, verbose_interval=3, callbacks=[events.append]).fit(x)
    Reference(**parameters, verbose=2, verbose_interval=3).fit(x)
    iterations = [event for event in events if isinstance(event, IterationFinished)]
    ends = [event for event in events if isinstance(event, StartFinished)]
    assert {event.measure for event in (*iterations, *ends)} == {"lower bound"}
    assert model.lower_bound_ in [event.lower_bound for event in iterations]
    ours, theirs = np.array_split(capsys.readouterr().out.splitlines(), 2)
    assert [line.split()[:2] for line in ours] == [line.split()[:2] for line in theirs]


def test_a_fit_that_does_not_converge_warns_where_it_was_called():
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge") as caught:
        BayesianGaussianMixture(n_components=3, max_iter=2, tol=1e-9, random_state=0).fit(overlapping())
    assert [w.filename for w in caught] == [__file__]


# ---- weights of samples


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", FAMILIES)
@ignore_convergence
def test_integer_weights_equal_repeated_rows(structure, family):
    x = overlapping(200)
    weights = np.random.RandomState(1).randint(0, 4, size=len(x))
    repeated = np.repeat(x, weights, axis=0)
    parameters = {"n_components": 3, "covariance_type": structure, "weight_concentration_prior_type": family}
    parameters |= {"random_state": 0, "max_iter": 500}
    weighted = BayesianGaussianMixture(**parameters).fit(x, sample_weight=weights)
    # k-means draws otherwise for repeated rows, so both go on from the same posterior.
    weighted.set_params(warm_start=True, max_iter=5, tol=0)
    rows = pickle.loads(pickle.dumps(weighted))
    weighted.fit(x, sample_weight=weights)
    rows.fit(repeated)
    np.testing.assert_allclose(weighted.lower_bounds_, rows.lower_bounds_, rtol=1e-12)
    for name in PARAMETERS:
        np.testing.assert_allclose(getattr(weighted, name), getattr(rows, name), rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_weights_count_rows(structure):
    x = overlapping(200)
    model = BayesianGaussianMixture(n_components=3, covariance_type=structure, random_state=4, max_iter=500)
    plain = clone(model).fit(x)
    ones = clone(model).fit(x, sample_weight=np.ones(len(x)))
    double = clone(model).fit(x, sample_weight=np.full(len(x), 2.0))
    for name in PARAMETERS:
        np.testing.assert_allclose(getattr(ones, name), getattr(plain, name), rtol=1e-9, atol=1e-9)
    assert double.mean_precision_.sum() == pytest.approx(2 * 200 + 3)
    assert plain.mean_precision_.sum() == pytest.approx(200 + 3)


def test_weights_that_are_no_row_have_no_default_prior():
    x = overlapping(50)
    model = BayesianGaussianMixture(n_components=2, random_state=0, tol=1)
    with pytest.raises(InvalidWeightsError, match=r"sum to 0\.5, which counts as no more than one row"):
        model.fit(x, sample_weight=np.full(50, 0.01))
    model.set_params(covariance_prior=np.eye(4)).fit(x, sample_weight=np.full(50, 0.01))
    assert np.isfinite(model.lower_bound_)


# ---- priors that are refused


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weight_concentration_prior_type": "uniform"}, "weight_concentration_prior_type"),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior"),
        ({"mean_precision_prior": -1.0}, "mean_precision_prior"),
        ({"mean_prior": [0.0, 1.0]}, r"The parameter 'means' should have the shape of \(4,\), but got \(2,\)"),
        ({"mean_prior": [0.0, 1.0, np.nan, 0]}, "means contains NaN"),
        ({"degrees_of_freedom_prior": 3.0}, "'degrees_of_freedom_prior' should be greater than 3, but got 3.000"),
        ({"covariance_prior": np.eye(3)}, r"'full covariance_prior' should have the shape of \(4, 4\)"),
        ({"covariance_prior": 1.0}, r"'full covariance_prior' should have the shape of \(4, 4\)"),
        ({"covariance_prior": -np.eye(4)}, "'full precision' should be symmetric, positive-definite"),
        ({"covariance_prior": -np.ones(4), "covariance_type": "diag"}, "'diag precision' should be positive"),
        ({"covariance_prior": 0.0, "covariance_type": "spherical"}, "covariance_prior"),
        ({"covariance_prior": np.ones(4), "covariance_type": "spherical"}, "'spherical covariance_prior'"),
    ],
    ids=str,
)
def test_bad_priors_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        BayesianGaussianMixture(**parameters).fit(overlapping(50))


def test_data_without_a_covariance_are_told():
    with pytest.raises(IllDefinedCovarianceError, match="increase reg_covar"):
        BayesianGaussianMixture(reg_covar=0).fit(np.full((10, 2), 0.5))


# ---- large data


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.covering
@pytest.mark.parametrize("structure", mostly_slow(STRUCTURES, "full"))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_input_kinds_and_chunks_give_the_same_bits(structure, dtype, tmp_path, tune):
    tune(shortest_leaf=16, longest_leaf=16, shortest_task=0.0)
    x = overlapping(333).astype(dtype)
    weights = np.random.RandomState(5).rand(len(x))
    array = zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(17, 3))
    model = BayesianGaussianMixture(n_components=3, covariance_type=structure, random_state=0, tol=0, max_iter=5)
    kinds = [da.from_array(x, chunks=(50, 4)), da.from_array(x, chunks=((1, 32, 200, 100), (1, 3)))]
    kinds += [array, str(tmp_path / "x.zarr"), pd.DataFrame(x)]
    for sample_weight in (None, weights):
        expected = clone(model).fit(x, sample_weight=sample_weight)
        for data in kinds:
            found = clone(model).fit(data, sample_weight=sample_weight)
            assert found.lower_bounds_ == expected.lower_bounds_
            for name in PARAMETERS:
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_lazy_data_give_lazy_results(tmp_path):
    x = overlapping()
    model = BayesianGaussianMixture(n_components=3, random_state=0, max_iter=500).fit(x)
    for data in (da.from_array(x, chunks=100), zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(100, 4))):
        for method in ("predict", "predict_proba", "score_samples"):
            found = getattr(model, method)(data)
            assert isinstance(found, da.Array)
            np.testing.assert_array_equal(found.compute(), getattr(model, method)(x))
        assert model.score(data) == model.score(x)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_gives_the_same_bits():
    x = da.from_array(overlapping(2000), chunks=(300, 4))
    model = BayesianGaussianMixture(n_components=3, random_state=0, tol=1e-3, max_iter=500)
    expected = clone(model).fit(x)
    with embedded_cluster(2, 1, "1GB") as client:
        found = clone(model).set_params(scheduler=client).fit(x)
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_a_start_from_a_sample_counts_as_all_rows():
    x = np.tile(separate(), (10, 1))
    model = BayesianGaussianMixture(n_components=3, init_size=600, max_iter=0, random_state=0).fit(x)
    assert model.mean_precision_.sum() == pytest.approx(6000 + 3)
    weights = np.random.RandomState(0).rand(6000)
    model.fit(x, sample_weight=weights)
    assert model.mean_precision_.sum() == pytest.approx(weights.sum() + 3)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("init", ["k-means++", "random_from_data"])
def test_starts_from_rows_are_usable(structure, init):
    x = overlapping()
    model = BayesianGaussianMixture(
        n_components=3, covariance_type=structure, init_params=init, max_iter=0, random_state=0
    ).fit(x)
    np.testing.assert_allclose(model.mean_precision_, 400 / 3 + 1)
    seeds = (model.means_ * model.mean_precision_[:, None] - x.mean(axis=0)) / (400 / 3)
    assert all(np.isclose(x, seed).all(axis=1).any() for seed in seeds)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_offsets_do_not_matter(structure, offset):
    x = np.round(separate() * 2**20) / 2**20
    x = (x + offset) - offset
    model = BayesianGaussianMixture(n_components=4, covariance_type=structure, random_state=0, tol=1e-5, max_iter=500)
    # With one covariance for all of them, two components share a cluster and come to be one, or nearly.
    alike = structure in ("tied", "tied-spherical")
    told = pytest.warns(CoincidingComponentsWarning, match="2, 3") if alike else nullcontext()
    with told:
        still, moved = (clone(model).fit(rows) for rows in (x, x + offset))
    assert moved.n_iter_ == still.n_iter_
    np.testing.assert_allclose(moved.means_ - offset, still.means_, atol=offset * 2e-15 + 1e-7)
    for name in ("covariances_", "covariance_prior_", "weights_"):
        np.testing.assert_allclose(getattr(moved, name), getattr(still, name), rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(moved.lower_bounds_, still.lower_bounds_, rtol=1e-7)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_second_moments_keep_their_digits_far_out(structure):
    x = np.round(np.random.RandomState(0).normal(size=(500, 3)) * 2**20) / 2**20
    expected = BayesianGaussianMixture(covariance_type=structure, tol=1).fit(x)
    found = BayesianGaussianMixture(covariance_type=structure, tol=1).fit(da.from_array(x + 2.0**30, chunks=123))
    np.testing.assert_allclose(found.covariance_prior_, expected.covariance_prior_, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(found.mean_prior_, x.mean(axis=0) + 2.0**30)


@ignore_convergence
def test_single_precision_follows_double_precision():
    x = overlapping().astype(np.float32)
    parameters = {"n_components": 3, "random_state": 0, "max_iter": 30, "tol": 0, "init_params": "random"}
    single = BayesianGaussianMixture(**parameters).fit(x)
    double = BayesianGaussianMixture(**parameters).fit(x.astype(np.float64))
    assert single.means_.dtype == Reference(**parameters).fit(x).means_.dtype == np.float64
    np.testing.assert_allclose(single.lower_bounds_, double.lower_bounds_, atol=1e-4)
    np.testing.assert_allclose(single.means_, double.means_, atol=1e-2)


def test_second_moments_are_taken_only_for_a_prior(monkeypatch):
    structures = []
    start = SurveyFold.start

    def watching(self):
        structures.append(self.structure)
        return start(self)

    monkeypatch.setattr(SurveyFold, "start", watching)
    x = overlapping(60)
    GaussianMixture(2, random_state=0, tol=1).fit(x)
    BayesianGaussianMixture(n_components=2, random_state=0, tol=1, covariance_prior=np.eye(4)).fit(x)
    assert set(structures) == {None}
    BayesianGaussianMixture(n_components=2, random_state=0, tol=1).fit(x)
    assert structures[-1] is ALL["full"]
