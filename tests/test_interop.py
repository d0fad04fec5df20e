"""Models as scikit-learn's own, and back; tools that know scikit-learn's classes."""

import ast
import importlib.util
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import mixture
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.matrices import Diagonal
from daskgmm.errors import InvalidAttributesError
from daskgmm.names import COVARIANCE_TYPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DOCUMENT = Path(__file__).parents[1] / "docs" / "scikit-learn.md"
THEIR_TYPES = ["full", "tied", "diag", "spherical"]
KINDS = [(GaussianMixture, mixture.GaussianMixture), (BayesianGaussianMixture, mixture.BayesianGaussianMixture)]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) @ (np.eye(3) + np.tri(3, k=-1) * 0.7) + np.repeat([[0.0], [4.0]], 150, axis=0)
METHODS = ["predict", "predict_proba", "score_samples", "score"]

both = pytest.mark.parametrize(("ours", "theirs"), KINDS, ids=["ml", "bayesian"])


def attributes(model):
    """Public fitted attributes."""
    return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}


def assert_same_predictions(ours, theirs, x=X):
    for method in METHODS:
        np.testing.assert_allclose(getattr(ours, method)(x), getattr(theirs, method)(x), rtol=1e-12, atol=1e-12)


# ---- to scikit-learn


@both
@pytest.mark.covering
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_converted_model_predicts_the_same(ours, theirs, covariance_type):
    model = ours(n_components=2, covariance_type=covariance_type, random_state=0, max_iter=20).fit(X)
    converted = model.to_sklearn()
    assert type(converted) is theirs
    assert converted.covariance_type == covariance_type.removeprefix("tied-")
    assert_same_predictions(model, converted)
    pickle.dumps(converted)
    # Whatever a fit of scikit-learn sets.
    fitted = clone(converted).fit(X)
    assert attributes(fitted).keys() == attributes(converted).keys()
    for name, value in attributes(fitted).items():
        assert np.shape(getattr(converted, name)) == np.shape(value) or name.startswith("lower_bound"), name
    rows, labels = converted.sample(10)
    assert rows.shape == (10, 3)
    assert labels.shape == (10,)


@both
def test_parameters_go_along(ours, theirs):
    model = ours(n_components=2, tol=1e-4, reg_covar=1e-5, max_iter=7, random_state=5, init_params="random", verbose=0)
    converted = model.fit(X).to_sklearn()
    assert (converted.n_init, converted.max_iter, converted.random_state) == (1, 7, 5)
    assert (converted.reg_covar, converted.init_params) == (1e-5, "random")
    assert converted.tol == pytest.approx(1e-4 if ours is GaussianMixture else 1e-4 * len(X))
    assert ours(n_components=2, n_init=3, random_state=0).fit(X).to_sklearn().n_init == 3
    converted.fit(X)  # its parameters are valid there


def test_bounds_of_a_posterior_are_sums_there():
    start = {"n_components": 2, "max_iter": 9, "random_state": 0}
    model = BayesianGaussianMixture(**start, tol=0).fit(X).to_sklearn()
    fitted = mixture.BayesianGaussianMixture(**start, tol=0).fit(X)
    # The two bounds differ by terms that depend on the priors alone.
    np.testing.assert_allclose(np.diff(model.lower_bounds_), np.diff(fitted.lower_bounds_), rtol=1e-6, atol=1e-7)
    assert model.lower_bound_ == model.lower_bounds_[-1]


@pytest.mark.parametrize(("covariance_type", "shape"), [("tied-diag", (3,)), ("tied-spherical", (1,))])
def test_a_shared_covariance_is_repeated(covariance_type, shape):
    precisions = np.full(shape, 0.5)
    model = GaussianMixture(2, covariance_type=covariance_type, precisions_init=precisions, random_state=0).fit(X)
    converted = model.to_sklearn()
    assert converted.covariances_.shape == (2, *shape)[: 2 if shape == (3,) else 1]
    assert (converted.covariances_ == model.covariances_).all()
    assert (converted.precisions_init == 0.5).all()
    converted.fit(X)


def test_a_continued_fit_there_starts_from_the_model():
    model = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=500, warm_start=True).fit(X)
    converted = model.to_sklearn().set_params(max_iter=1, tol=1e-3)
    np.testing.assert_allclose(converted.fit(X).means_, model.means_, atol=1e-4)


def test_attributes_are_copies():
    model = GaussianMixture(2, random_state=0).fit(X)
    converted = model.to_sklearn()
    before = model.score(X)
    converted.means_ += 1
    assert model.score(X) == before


def test_attributes_that_were_set_by_hand_are_agreed():
    model = GaussianMixture(2, covariance_type="diag")
    model.weights_, model.means_, model.covariances_ = [0.5, 0.5], X[:2], np.ones((2, 3))
    converted = model.to_sklearn()
    assert_same_predictions(model, converted)
    np.testing.assert_allclose(converted.precisions_cholesky_, 1)
    fitted = GaussianMixture(2, random_state=0).fit(X)
    fitted.precisions_cholesky_ = fitted.precisions_cholesky_ * 2
    converted = fitted.to_sklearn()  # the covariances and precisions of the fit are stale
    assert_same_predictions(fitted, converted)
    np.testing.assert_allclose(converted.covariances_ @ converted.precisions_, [np.eye(3)] * 2, atol=1e-10)


def test_a_structure_of_another_package():
    STRUCTURES.register(toy := Diagonal("toy", shared=True))
    try:
        model = GaussianMixture(2, covariance_type="toy", random_state=0).fit(X)
        converted = model.to_sklearn()
        assert converted.covariance_type == "diag"
        assert_same_predictions(model, converted)
    finally:
        STRUCTURES.unregister(toy)


# ---- from scikit-learn


@both
@pytest.mark.covering
@pytest.mark.parametrize("covariance_type", THEIR_TYPES)
def test_a_round_trip_keeps_all_bits(ours, theirs, covariance_type, tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = theirs(n_components=2, covariance_type=covariance_type, random_state=0, max_iter=20, n_init=2).fit(frame)
    made = ours.from_sklearn(model)
    assert_same_predictions(made, model, frame)
    again = made.to_sklearn()
    assert attributes(again).keys() == attributes(model).keys()
    for name, value in attributes(model).items():
        if name.startswith("lower_bound"):
            np.testing.assert_allclose(getattr(again, name), np.squeeze(value), rtol=1e-15)
        else:
            assert type(getattr(again, name)) is type(value)
            np.testing.assert_array_equal(getattr(again, name), value)
            assert np.asarray(getattr(again, name)).dtype == np.asarray(value).dtype
    theirs_parameters = model.get_params() | {"tol": pytest.approx(model.tol, rel=1e-15)}
    assert again.get_params() == theirs_parameters
    made.save(tmp_path / "model.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "model.zarr").score_samples(frame), made.score_samples(frame))


@both
def test_a_round_trip_of_ours_keeps_all_bits(ours, theirs):
    model = ours(n_components=2, random_state=0).fit(X.astype(np.float32))
    again = ours.from_sklearn(model.to_sklearn())
    for name in type(model)._state_attributes:
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    for method in METHODS:  # in maximum likelihood, the model predicts with the parameters before they were rounded
        expected = getattr(model, method)(X)
        np.testing.assert_allclose(getattr(again, method)(X), expected, rtol=1e-5, atol=1e-5)


@both
def test_a_made_model_is_fitted_on(ours, theirs):
    model = theirs(n_components=2, random_state=0, max_iter=3).fit(X)
    made = ours.from_sklearn(model).set_params(warm_start=True, max_iter=200)
    assert made.fit(X).score(X) > model.score(X)


def test_a_subclass_is_taken():
    class Mine(mixture.GaussianMixture):
        pass

    model = Mine(2, random_state=0).fit(X)
    assert_same_predictions(GaussianMixture.from_sklearn(model), model)


def test_dirichlet_distribution():
    prior = {"weight_concentration_prior_type": "dirichlet_distribution", "covariance_prior": np.eye(3)}
    model = mixture.BayesianGaussianMixture(n_components=2, random_state=0, max_iter=20, **prior).fit(X)
    made = BayesianGaussianMixture.from_sklearn(model)
    assert_same_predictions(made, model)
    np.testing.assert_array_equal(made.covariance_prior, np.eye(3))
    assert made.covariance_prior is not model.covariance_prior


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        (GaussianMixture, KMeans(), "model is a KMeans of sklearn; expected a fitted sklearn.mixture.GaussianMixture"),
        (
            GaussianMixture,
            mixture.BayesianGaussianMixture(),
            "expected a fitted sklearn.mixture.GaussianMixture. Use BayesianGaussianMixture.from_sklearn",
        ),
        (BayesianGaussianMixture, mixture.GaussianMixture(), "Use GaussianMixture.from_sklearn"),
        (GaussianMixture, GaussianMixture(), "model is a GaussianMixture of daskgmm"),
        (GaussianMixture, mixture.GaussianMixture, "model is the class GaussianMixture; expected a fitted"),
        (GaussianMixture, None, "model is a NoneType; expected"),
    ],
)
def test_a_model_of_another_class_is_refused(kind, model, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        kind.from_sklearn(model)


@both
def test_models_that_are_not_fitted_are_refused(ours, theirs):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ours.from_sklearn(theirs())
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ours().to_sklearn()


def test_attributes_of_no_mixture_are_refused():
    model = mixture.GaussianMixture(2, random_state=0).fit(X)
    model.weights_ = np.array([0.5, 0.2])
    with pytest.raises(InvalidAttributesError, match="weights_"):
        GaussianMixture.from_sklearn(model)


# ---- other tools


def snippets():
    return re.findall(r"^```py\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def modules(code):
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}


def title(code):
    return "-".join(sorted(modules(code) - {"numpy", "daskgmm"}))


def is_there(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package
        return False


def test_the_document_shows_the_tools():
    assert {"onnxruntime", "skl2onnx", "skops"} <= set().union(
        *(name.split(".") for code in snippets() for name in modules(code))
    )


@pytest.mark.parametrize("code", snippets(), ids=title)
def test_the_document_s_snippets_run(code, tmp_path):
    """Each in a process of its own: some of these packages bring thread pools and settings of their own."""
    for module in modules(code):
        if not is_there(module):
            pytest.skip(f"needs {module}")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
