"""The M-step, beside scikit-learn's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.mixture._gaussian_mixture import (
    _compute_precision_cholesky,
    _estimate_gaussian_parameters,
    _estimate_log_gaussian_prob,
)

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import QuadraticKernel, ResidualKernel, choose_kernel
from daskgmm.core.maximum_likelihood import estimate, maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame, SufficientStatistics, statistics_of_responsibilities
from daskgmm.errors import IllDefinedCovarianceError

pytestmark = pytest.mark.covering

BOTH = pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])


def m_step(kind, parameters, rows, reg_covar, weights=None):
    deviation = rows.std(axis=0, dtype=np.float64)
    kernel = kind(parameters, Frame.of(rows.mean(axis=0, dtype=np.float64), deviation))
    statistics = kernel.statistics(rows, weights, kernel.workspace())
    return maximize(parameters.structure, statistics, reg_covar), statistics


@BOTH
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (1, 3), (4, 1), (4, 2), (6, 8)])
def test_one_iteration_is_that_of_scikit_learn(structure, library, kind, n_components, n_features):
    mixture = library.make_mixture(structure, n_components, n_features)
    rows = library.draw(mixture, 300)
    name = structure.name.removeprefix("tied-")
    every = lambda values: values[0] if name == "tied" else np.repeat(values, n_components // len(values), axis=0)  # noqa: E731
    factors = _compute_precision_cholesky(every(mixture.covariances), name)
    joint = _estimate_log_gaussian_prob(rows, mixture.means, factors, name) + np.log(mixture.weights)
    density = logsumexp(joint, axis=1)
    counts, means, covariances = _estimate_gaussian_parameters(rows, np.exp(joint - density[:, None]), 1e-6, name)
    if name != structure.name:  # a diagonal matrix that is shared, which scikit-learn has not: the components' mean
        covariances = np.tensordot(counts / counts.sum(), covariances, 1)
    covariances = covariances.reshape(structure.covariance_shape(n_components, n_features))

    found, statistics = m_step(kind, mixture, rows, 1e-6)
    assert statistics.log_likelihood == pytest.approx(density.sum(), rel=1e-12)
    assert statistics.mean_log_likelihood == pytest.approx(density.mean(), rel=1e-12)
    np.testing.assert_allclose(found.weights, counts / counts.sum(), rtol=1e-10)
    np.testing.assert_allclose(found.means, means, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.covariances, covariances, rtol=1e-10, atol=1e-12)
    expected = _compute_precision_cholesky(every(covariances), name)
    np.testing.assert_allclose(every(found.precisions_cholesky), expected, rtol=1e-9, atol=1e-11)


@BOTH
def test_likelihood_never_falls(structure, library, kind):
    true = library.make_mixture(structure, 4, 2, spread=1.5)
    rows = library.draw(true, 400)
    parameters = library.make_mixture(structure, 4, 2, seed=5)
    likelihoods = []
    for _ in range(15):
        parameters, statistics = m_step(kind, parameters, rows, 0)
        likelihoods.append(statistics.mean_log_likelihood)
    assert np.all(np.diff(likelihoods) > -1e-12)
    assert likelihoods[-1] > likelihoods[0] + 0.01


def test_one_component_is_the_sample_itself(structure, library):
    rows = library.draw(library.make_mixture(structure, 1, 3), 100)
    start = library.make_mixture(structure, 1, 3, seed=7)
    for kind in (QuadraticKernel, ResidualKernel):
        found, _ = m_step(kind, start, rows, 0)
        assert found.weights.tolist() == [1]
        np.testing.assert_allclose(found.means[0], rows.mean(axis=0), rtol=1e-12)
        sample = np.cov(rows.T, ddof=0)[None]
        np.testing.assert_allclose(found.covariances, library.restrict(structure, sample, np.ones(1)), rtol=1e-11)


def test_weights_of_rows_scale_out(structure, library):
    mixture = library.make_mixture(structure, 3, 2)
    rows = library.draw(mixture, 200)
    weights = np.random.default_rng(1).random(200)
    for factor in (1e-6, 1e6):
        one, _ = m_step(QuadraticKernel, mixture, rows, 1e-6, weights)
        other, _ = m_step(QuadraticKernel, mixture, rows, 1e-6, factor * weights)
        np.testing.assert_allclose(other.weights, one.weights, rtol=1e-8)
        np.testing.assert_allclose(other.means, one.means, rtol=1e-7)
        np.testing.assert_allclose(other.covariances, one.covariances, rtol=1e-7)


def test_empty_component_stays_finite(structure):
    zero = SufficientStatistics.zero(structure, np.array([3.0, 4.0]), np.ones(2), 2)
    weights, means, covariances = estimate(structure, zero, 0.25)
    assert weights.tolist() == [0.5, 0.5]
    assert means.tolist() == [[3, 4], [3, 4]]
    variances = structure.marginal_variances(covariances, 2, 2)
    np.testing.assert_allclose(np.broadcast_to(variances, (2, 2)), 0.25)


def test_ridge_is_in_units_of_the_data(structure, library):
    rows = library.draw(library.make_mixture(structure, 2, 2), 100) * 1000
    mixture = library.make_mixture(structure, 2, 2, deviation=1000, spread=2000)
    bare, ridged = (m_step(QuadraticKernel, mixture, rows, ridge)[0] for ridge in (0, 5e5))
    expected = structure.add_ridge(bare.covariances.copy(), 5e5)
    np.testing.assert_allclose(ridged.covariances, expected, rtol=1e-12)


# ---- collapse


@pytest.mark.parametrize("name", ["full", "diag", "spherical"])
def test_component_on_one_row_collapses(name):
    """Without a ridge an exact covariance of zero is an error that names the component; with one it is the ridge."""
    rows = np.random.default_rng(2).normal(size=(30, 2))
    labels = np.zeros(30, int)
    labels[7] = 1
    statistics = statistics_of_responsibilities(
        STRUCTURES[name], rows, np.eye(2)[labels], Frame.of(rows.mean(axis=0), rows.std(axis=0))
    )
    with pytest.raises(
        IllDefinedCovarianceError, match=r"component\(s\) 1: |component\(s\) 1\.|component\(s\) 1"
    ) as caught:
        maximize(STRUCTURES[name], statistics, 0)
    assert caught.value.components == (1,)
    found = maximize(STRUCTURES[name], statistics, 1e-6)
    variances = STRUCTURES[name].marginal_variances(found.covariances, 2, 2)
    np.testing.assert_allclose(np.broadcast_to(variances, (2, 2))[1], 1e-6, rtol=1e-6)


def test_equal_rows_collapse(structure):
    rows = np.tile([0.1, 1e6 + 0.1], (20, 1))
    start = MixtureParameters.from_covariances(
        structure, np.ones(1), rows[:1], structure.add_ridge(np.zeros(structure.covariance_shape(1, 2)), 1.0)
    )
    frame = Frame.of(rows.mean(axis=0), rows.std(axis=0))
    for kind in (QuadraticKernel, ResidualKernel):
        kernel = kind(start, frame)
        statistics = kernel.statistics(rows, None, kernel.workspace())
        found = maximize(structure, statistics, 1e-3)
        variances = structure.marginal_variances(found.covariances, 1, 2)
        np.testing.assert_allclose(np.broadcast_to(variances, (1, 2)), 1e-3, rtol=1e-6)
    kernel = ResidualKernel(start, frame)
    with pytest.raises(IllDefinedCovarianceError):
        maximize(structure, kernel.statistics(rows, None, kernel.workspace()), 0)


@pytest.mark.parametrize("moment", [np.nan, np.inf, -np.inf, -1.0, 0.0], ids=str)
def test_broken_moments_are_a_collapse_and_nothing_else(structure, moment):
    """Never numpy's LinAlgError, which says nothing about mixtures."""
    zero = SufficientStatistics.zero(structure, np.zeros(2), np.ones(2), 2)
    statistics = SufficientStatistics(
        zero.reference, zero.scale, np.ones(2), zero.first, zero.second_moments + moment, 0.0, 0.0, 2, 2.0
    )
    with np.errstate(invalid="ignore"), pytest.raises(IllDefinedCovarianceError):
        maximize(structure, statistics, 0)


def test_more_features_than_rows_collapse_without_a_ridge(library):
    full = STRUCTURES["full"]
    mixture = library.make_mixture(full, 1, 10)
    rows = library.draw(mixture, 5)
    with pytest.raises(IllDefinedCovarianceError):
        m_step(ResidualKernel, mixture, rows, -1e-12)
    found, _ = m_step(ResidualKernel, mixture, rows, 1e-6)
    frame = library.frame_of(rows)
    kernel = choose_kernel(found, frame, np.dtype(np.float64))
    exact = library.Reference(found).log_density(rows).astype(float)
    np.testing.assert_allclose(kernel.log_density(rows), exact, rtol=1e-9)
