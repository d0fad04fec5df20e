"""The arrays of a model file name their axes, so that xarray opens it."""

import numpy as np
import pytest

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.names import COVARIANCE_TYPES, WEIGHT_PRIORS

xarray = pytest.importorskip("xarray")

K, D = 2, 3
X = np.random.default_rng(0).normal(size=(60, D)) + np.repeat([[0.0], [5.0]], 30, axis=0)
MATRICES = {
    "full": ("component", "feature", "feature_"),
    "tied": ("shared", "feature", "feature_"),
    "diag": ("component", "feature"),
    "spherical": ("component",),
    "tied-diag": ("shared", "feature"),
    "tied-spherical": ("shared",),
}


def opened(model, path):
    model.save(path)
    return xarray.open_zarr(path, consolidated=False)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_mixture(covariance_type, tmp_path):
    model = GaussianMixture(K, covariance_type=covariance_type, means_init=X[[0, 40]], tol=0.1).fit(X)
    dataset = opened(model, tmp_path / "model.zarr")
    assert {name: dataset[name].dims for name in ("weights", "means", "covariances")} == {
        "weights": ("component",),
        "means": ("component", "feature"),
        "covariances": MATRICES[covariance_type],
    }
    assert {"component": K, "feature": D}.items() <= dict(dataset.sizes).items()
    np.testing.assert_array_equal(dataset["means"].sel(component=1), model.means_[1])
    np.testing.assert_array_equal(dataset["covariances"].values.ravel(), model.covariances_.ravel())
    np.testing.assert_array_equal(dataset["means_init"], X[[0, 40]])


@pytest.mark.parametrize("prior", WEIGHT_PRIORS)
@pytest.mark.parametrize("covariance_type", ["full", "tied-diag", "spherical"])
def test_a_posterior(covariance_type, prior, tmp_path):
    kind = {"covariance_type": covariance_type, "weight_concentration_prior_type": prior, "mean_prior": np.zeros(D)}
    model = BayesianGaussianMixture(n_components=K, random_state=0, tol=0.1, **kind).fit(X)
    dataset = opened(model, tmp_path / "model.zarr")
    matrices = MATRICES[covariance_type]
    assert dataset["degrees_of_freedom"].dims == matrices[:1]
    assert dataset["prior_covariance"].dims == matrices[1:]
    assert dataset["prior_mean"].dims == ("feature",)
    assert dataset["weight_concentration"].dims[-1] == "component"
    np.testing.assert_array_equal(dataset["weight_concentration"], model.weight_concentration_)
    np.testing.assert_array_equal(dataset["mean_prior"], model.mean_prior)


def test_given_parameters_of_another_size_than_the_fit(tmp_path):
    model = GaussianMixture(K, random_state=0, tol=0.1).fit(X).set_params(n_components=3, means_init=X[:3])
    assert opened(model, tmp_path / "model.zarr")["means_init"].shape == (3, D)
