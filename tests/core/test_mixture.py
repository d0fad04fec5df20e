"""The parameters of a mixture: constants, counts, and samples."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal
from sklearn.mixture import GaussianMixture

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.mixture import MixtureParameters


@pytest.fixture(params=[1, 3])
def mixture(request, structure, library):
    return library.make_mixture(structure, 4, request.param)


def test_constants_are_the_log_densities_at_the_means(mixture, library):
    covariances = library.dense(mixture.structure, mixture.covariances, 4, mixture.n_features)
    at_mean = [multivariate_normal(m, c).logpdf(m) for m, c in zip(mixture.means, covariances, strict=True)]
    np.testing.assert_allclose(mixture.log_constants, np.log(mixture.weights) + at_mean, rtol=1e-10)


def test_component_of_weight_zero_has_no_density(mixture):
    none = MixtureParameters.from_covariances(
        mixture.structure, np.array([0, 0.5, 0.5, 0]), mixture.means, mixture.covariances
    )
    assert np.isneginf(none.log_constants).tolist() == [True, False, False, True]


def test_factors_and_covariances_determine_each_other(mixture):
    again = MixtureParameters.from_precisions_cholesky(
        mixture.structure, mixture.weights, mixture.means, mixture.precisions_cholesky
    )
    np.testing.assert_allclose(again.covariances, mixture.covariances, rtol=1e-10, atol=1e-12)


def test_free_parameters_are_those_of_scikit_learn(mixture):
    name = mixture.structure.name
    # scikit-learn counts 4 diagonal matrices or variances where one is shared.
    model = GaussianMixture(4, covariance_type=name.removeprefix("tied-"))
    model.means_ = mixture.means
    matrix = {"tied-diag": mixture.n_features, "tied-spherical": 1}.get(name, 0)
    assert mixture.n_free == model._n_parameters() - 3 * matrix
    assert (mixture.n_components, mixture.n_features) == mixture.means.shape


def test_parameters_are_frozen_and_travel(mixture):
    with pytest.raises(FrozenInstanceError):
        mixture.weights = np.ones(4)
    again = pickle.loads(pickle.dumps(mixture))
    assert again.structure.name == mixture.structure.name
    assert np.array_equal(again.precisions_cholesky, mixture.precisions_cholesky)


# ---- samples


def test_sample_is_grouped_by_component(mixture):
    rows, labels = mixture.sample(100, np.random.RandomState(0))
    assert rows.shape == (100, mixture.n_features)
    assert labels.shape == (100,)
    assert np.all(np.diff(labels) >= 0)
    counts = np.random.RandomState(0).multinomial(100, mixture.weights)
    assert np.bincount(labels, minlength=4).tolist() == counts.tolist()


def test_sample_repeats_with_its_seed(mixture):
    one, other, third = (mixture.sample(50, np.random.RandomState(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_rows_are_drawn_in_blocks_from_one_stream():
    means, variances = np.array([[0.0, 10.0], [5.0, -5.0]]), np.array([4.0, 0.25])
    mixture = MixtureParameters.from_covariances(STRUCTURES["spherical"], np.array([0.25, 0.75]), means, variances)
    n_samples = 600_000
    blocks = list(mixture.sample_blocks(n_samples, np.random.RandomState(0)))
    assert [component for _, component in blocks] == [0, 1, 1]
    random_state = np.random.RandomState(0)
    counts = random_state.multinomial(n_samples, mixture.weights)
    whole = [means[k] + np.sqrt(variances[k]) * random_state.standard_normal((counts[k], 2)) for k in (0, 1)]
    assert np.array_equal(np.concatenate([rows for rows, _ in blocks]), np.concatenate(whole))


@pytest.mark.parametrize("n_samples", [0, 1])
def test_few_samples(mixture, n_samples):
    rows, labels = mixture.sample(n_samples, np.random.RandomState(0))
    assert (rows.shape, labels.shape) == ((n_samples, mixture.n_features), (n_samples,))


def test_component_of_weight_zero_is_not_drawn(mixture):
    none = MixtureParameters.from_covariances(
        mixture.structure, np.array([0, 0.5, 0.5, 0]), mixture.means, mixture.covariances
    )
    assert set(none.sample(200, np.random.RandomState(0))[1]) == {1, 2}


def test_sample_has_the_moments_of_its_components(mixture, library):
    n = 40_000
    rows, labels = mixture.sample(n, np.random.RandomState(1))
    covariances = library.dense(mixture.structure, mixture.covariances, 4, mixture.n_features)
    assert np.bincount(labels) / n == pytest.approx(mixture.weights, abs=5 * np.sqrt(0.25 / n))
    for k in range(4):
        residual = rows[labels == k] - mixture.means[k]
        whitened = np.linalg.solve(np.linalg.cholesky(covariances[k]), residual.T)
        limit = 5 / np.sqrt(len(residual))
        assert np.abs(whitened.mean(axis=1)).max() < limit
        assert np.abs(np.cov(whitened) - np.eye(mixture.n_features)).max() < 2 * limit
        # The shape of the distribution, not its moments alone.
        inside = np.mean((whitened**2).sum(axis=0) < chi2(mixture.n_features).median())
        assert inside == pytest.approx(0.5, abs=limit)
