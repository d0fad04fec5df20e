"""Models of given parameters, made without data."""

import dask.array as da
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn_shared import GaussianMixture as Reference

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import InvalidAttributesError
from daskgmm.names import COVARIANCE_TYPES

K, D = 3, 2
RNG = np.random.default_rng(0)
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = RNG.normal(size=(K, D)) * 3
ROOTS = RNG.normal(size=(K, D, D))
FULL = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.1 * np.eye(D)
X = RNG.normal(size=(50, D)) * 3
COVARIANCES = {
    "full": FULL,
    "tied": FULL[0],
    "diag": FULL[:, 0],
    "spherical": FULL[:, 0, 0],
    "tied-diag": FULL[0, 0],
    "tied-spherical": FULL[0, 0, :1],
}
COVARIANCES["diag"], COVARIANCES["tied-diag"] = np.abs(COVARIANCES["diag"]), np.abs(COVARIANCES["tied-diag"])


def dense(covariance_type):
    values = COVARIANCES[covariance_type]
    if covariance_type in ("full", "tied"):
        return np.broadcast_to(values, (K, D, D))
    variances = values[:, None] if covariance_type == "spherical" else values
    return np.broadcast_to(variances, (K, D))[:, :, None] * np.eye(D)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_density_is_that_of_the_parameters(covariance_type):
    model = GaussianMixture.from_parameters(
        WEIGHTS, MEANS, COVARIANCES[covariance_type], covariance_type=covariance_type
    )
    parts = zip(WEIGHTS, MEANS, dense(covariance_type), strict=True)
    expected = np.log(sum(w * multivariate_normal(m, c).pdf(X) for w, m, c in parts))
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.covariances_, COVARIANCES[covariance_type])
    assert (model.n_components, model.n_features_in_) == (K, D)


def test_a_model_of_the_attributes_of_another_has_the_same_bits():
    fitted = GaussianMixture(K, random_state=0).fit(X)
    made = GaussianMixture.from_parameters(fitted.weights_, fitted.means_, fitted.covariances_)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(made, name), getattr(fitted, name))
    np.testing.assert_array_equal(made.predict_proba(X), fitted.predict_proba(X))


def test_everything_that_needs_no_fit_works(tmp_path):
    model = GaussianMixture.from_parameters(WEIGHTS, MEANS, FULL, random_state=0, max_iter=7)
    assert (model.max_iter, model.random_state) == (7, 0)
    assert not hasattr(model, "converged_")
    rows, labels = model.sample(20)
    assert rows.shape == (20, D)
    assert labels.shape == (20,)
    assert isinstance(model.predict(da.from_array(X, chunks=(20, D))), da.Array)
    model.save(tmp_path / "model.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "model.zarr").score_samples(X), model.score_samples(X))
    continued = clone(model).set_params(warm_start=True, tol=0.1)
    for name in ("weights_", "means_", "covariances_"):
        setattr(continued, name, getattr(model, name))
    np.testing.assert_array_equal(model.set_params(warm_start=True, tol=0.1).fit(X).means_, continued.fit(X).means_)


def test_names_of_features():
    model = GaussianMixture.from_parameters(WEIGHTS, MEANS, FULL, feature_names=["u", "v"])
    assert model.feature_names_in_.tolist() == ["u", "v"]
    pandas = pytest.importorskip("pandas")
    model.predict(pandas.DataFrame(X, columns=["u", "v"]))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pandas.DataFrame(X, columns=["v", "u"]))


def test_single_precision_is_kept_if_all_arrays_have_it():
    arrays = [array.astype(np.float32) for array in (WEIGHTS, MEANS, FULL)]
    model = GaussianMixture.from_parameters(*arrays)
    assert {array.dtype for array in (model.weights_, model.means_, model.covariances_)} == {np.dtype(np.float32)}
    assert GaussianMixture.from_parameters(WEIGHTS, *arrays[1:]).means_.dtype == np.float64


def test_the_model_has_arrays_of_its_own():
    means = MEANS.copy()
    model = GaussianMixture.from_parameters(WEIGHTS, means, FULL)
    before = model.score_samples(X)
    means += 100
    np.testing.assert_array_equal(model.score_samples(X), before)


def test_a_posterior_gives_the_mixture_of_its_means():
    posterior = BayesianGaussianMixture(n_components=2, random_state=0, tol=0.1).fit(X)
    made = GaussianMixture.from_parameters(posterior.weights_, posterior.means_, posterior.covariances_)
    theirs = Reference(2)
    theirs.weights_, theirs.means_ = posterior.weights_, posterior.means_
    theirs.precisions_cholesky_ = posterior.precisions_cholesky_
    np.testing.assert_allclose(made.score_samples(X), theirs.score_samples(X), rtol=1e-10)
    assert not hasattr(BayesianGaussianMixture, "from_parameters")


# ---- refused

NOT_DEFINITE = FULL.copy()
NOT_DEFINITE[1] = [[1, 2], [2, 1]]
SKEW = FULL.copy()
SKEW[0, 0, 1] += 1


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("weights", WEIGHTS[:2], r"weights has the shape \(2,\); expected \(3,\)"),
        ("weights", [0.5, 0.3, 0.1], "weights have to sum to one, and none may be negative: the sum is 0.9"),
        ("weights", [1.2, 0.3, -0.5], "the least -0.5"),
        ("weights", [np.nan, 0.5, 0.5], "weights holds NaN or infinity"),
        ("weights", ["a", "b", "c"], "weights has dtype <U1"),
        ("means", MEANS[0], r"means has the shape \(2,\); expected \(n_components, n_features\)"),
        ("means", MEANS * np.inf, "means holds NaN"),
        ("means", np.empty((0, 2)), "means has the shape"),
        ("covariances", FULL[0], r"covariances has the shape \(2, 2\); expected \(3, 2, 2\)"),
        ("covariances", NOT_DEFINITE, r"covariances are not positive definite \(components \(1,\)\)"),
        ("covariances", SKEW, "covariances are not symmetric"),
        ("weights", np.ma.array(WEIGHTS, mask=[True, False, False]), "weights is masked in places"),
        ("means", np.ma.array(MEANS, mask=np.eye(3, 2)), "means is masked in places"),
        ("covariances", FULL + 1j, "covariances has dtype complex128"),
    ],
)
def test_an_array_of_no_mixture_is_named(argument, value, message):
    arrays = {"weights": WEIGHTS, "means": MEANS, "covariances": FULL, argument: value}
    with pytest.raises(InvalidAttributesError, match=message) as caught:
        GaussianMixture.from_parameters(**arrays)
    assert caught.value.attribute == argument


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"covariance_type": "fulll"}, ValueError, "'covariance_type' parameter"),
        ({"n_components": 4}, ValueError, "n_components=4, but means has 3 rows"),
        (
            {"random_sate": 0},
            TypeError,
            "'random_sate', which is no parameter of GaussianMixture; near it: random_state",
        ),
        ({"feature_names": ["a"]}, ValueError, "expected 2 different names"),
        ({"feature_names": ["a", "a"]}, ValueError, "expected 2 different names"),
        ({"feature_names": "ab"}, TypeError, "expected a string for each feature"),
        ({"feature_names": [0, 1]}, TypeError, "expected a string for each feature"),
        ({"max_iter": -1}, ValueError, "'max_iter' parameter"),
    ],
)
def test_other_parameters_are_checked(parameters, error, message):
    with pytest.raises(error, match=message):
        GaussianMixture.from_parameters(WEIGHTS, MEANS, FULL, **parameters)
