"""Differences between mixtures: there and back, their lengths, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from daskgmm.core.coordinates import displaced, displacement, n_coordinates, shortened
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import ResidualKernel
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters

names = st.sampled_from(sorted(STRUCTURES))
seeds = st.integers(0, 2**32 - 2)
shapes = {"n_components": st.integers(1, 5), "n_features": st.integers(1, 4)}


def vector_at(origin, seed, length):
    """A displacement that weights can follow: as they sum to one, they have K - 1 directions."""
    vector = np.random.default_rng(seed).normal(size=len(displacement(origin, origin)))
    k = origin.n_components
    roots = np.sqrt(origin.weights)
    vector[:k] -= roots * (roots @ vector[:k])
    return length * vector / np.linalg.norm(vector)


def assert_same(found, expected, rtol=1e-8):
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol, atol=rtol, err_msg=name)


def matrices(library, mixture):
    return library.dense(mixture.structure, mixture.covariances, mixture.n_components, mixture.n_features)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("n_components", [1, 3])
def test_number_of_coordinates(name, n_components):
    structure = STRUCTURES[name]
    covariances = np.ones(structure.covariance_shape(n_components, 2))
    if structure.has_matrices:
        covariances = covariances + np.eye(2)
    weights, means = np.full(n_components, 1 / n_components), np.zeros((n_components, 2))
    origin = MixtureParameters.from_covariances(structure, weights, means, covariances)
    assert len(displacement(origin, origin)) == n_coordinates(structure, n_components, 2)


# ---- there and back


@settings(deadline=None)
@given(name=names, seed=seeds, **shapes)
def test_the_displacement_of_a_mixture_leads_to_it(library, name, seed, n_components, n_features):
    origin = library.make_mixture(STRUCTURES[name], n_components, n_features, seed=seed)
    target = library.make_mixture(STRUCTURES[name], n_components, n_features, seed=seed + 1, deviation=0.5)
    assert_same(displaced(origin, displacement(origin, target)), target)


@settings(deadline=None)
@given(name=names, seed=seeds, length=st.floats(-6, 1).map(lambda e: 10.0**e), **shapes)
def test_every_displacement_leads_to_a_valid_mixture_and_back(library, name, seed, length, n_components, n_features):
    origin = library.make_mixture(STRUCTURES[name], n_components, n_features, seed=seed)
    vector = shortened(origin, vector_at(origin, seed + 1, length), 3.0)
    mixture = displaced(origin, vector)
    assert mixture.weights.min() > 0
    assert mixture.weights.sum() == pytest.approx(1, rel=1e-12)
    for matrix in matrices(library, mixture):
        assert np.linalg.eigvalsh(matrix).min() > 0
    assert mixture.covariances.shape == mixture.structure.covariance_shape(n_components, n_features)
    back = displacement(origin, mixture)
    k = n_components
    np.testing.assert_allclose(back[k:], vector[k:], rtol=1e-7, atol=1e-12)
    # A common factor of all weights means nothing, and what was shortened may hold one.
    roots = np.sqrt(origin.weights)
    np.testing.assert_allclose(back[:k], vector[:k] - roots * (roots @ vector[:k]), rtol=1e-7, atol=1e-12)


def test_a_mixture_lies_at_zero_from_itself(structure, library):
    mixture = library.make_mixture(structure, 3, 2)
    still = displacement(mixture, mixture)
    assert np.abs(still).max() < 1e-14
    assert_same(displaced(mixture, np.zeros_like(still)), mixture, rtol=1e-13)


# ---- lengths


def divergence(library, origin, target):
    """Kullback-Leibler divergence of a row and its component together: closed form, from covariances."""
    total = float(origin.weights @ np.log(origin.weights / target.weights))
    for w, m0, m1, c0, c1 in zip(
        origin.weights, origin.means, target.means, matrices(library, origin), matrices(library, target), strict=True
    ):
        precision = np.linalg.inv(c1)
        volume = np.linalg.slogdet(c1)[1] - np.linalg.slogdet(c0)[1]
        total += w / 2 * (np.trace(precision @ c0) - len(m0) + (m1 - m0) @ precision @ (m1 - m0) + volume)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_half_the_squared_length_is_the_divergence(structure, library, seed):
    origin = library.make_mixture(structure, 3, 3, seed=seed)
    vector = vector_at(origin, seed, 1e-3)
    assert divergence(library, origin, displaced(origin, vector)) == pytest.approx(0.5e-6, rel=1e-2)


def test_the_em_step_is_the_gradient_near_a_maximum(structure, library):
    truth = library.make_mixture(structure, 2, 2, seed=3, spread=3.0)
    rows = library.draw(truth, 2000)
    frame = library.frame_of(rows)

    def e_step(mixture):
        kernel = ResidualKernel(mixture, frame)
        return kernel.statistics(rows, None, kernel.workspace())

    mixture = truth
    for _ in range(30):
        mixture = maximize(structure, e_step(mixture), 0.0)
    mixture = displaced(mixture, vector_at(mixture, 0, 1e-3))
    gradient = displacement(mixture, maximize(structure, e_step(mixture), 0.0))
    for seed in range(1, 6):
        vector = vector_at(mixture, seed, 1e-4)
        ahead, behind = (e_step(displaced(mixture, sign * vector)).mean_log_likelihood for sign in (1, -1))
        assert (ahead - behind) / 2 == pytest.approx(gradient @ vector, abs=2e-2 * 1e-4 * np.linalg.norm(gradient))


def test_shortened_parts_are_as_long_as_allowed_and_point_the_same_way(structure, library):
    origin = library.make_mixture(structure, 4, 3)
    vector = vector_at(origin, 5, 5.0)
    short = shortened(origin, vector, 0.5)
    mixture = displaced(origin, short)
    residual = np.einsum("kij,kj->ki", np.linalg.inv(matrices(library, origin)), mixture.means - origin.means)
    distance = np.sqrt(np.einsum("ki,ki->k", residual, mixture.means - origin.means))
    assert distance.max() == pytest.approx(0.5)
    assert (short * vector >= 0).all()
    assert (np.abs(short) <= np.abs(vector) * (1 + 1e-12)).all()
    np.testing.assert_allclose(shortened(origin, short, 0.5), short, rtol=1e-12)


def test_a_short_displacement_stays_as_it_is(structure, library):
    origin = library.make_mixture(structure, 4, 3)
    vector = vector_at(origin, 5, 1e-2)
    np.testing.assert_allclose(shortened(origin, vector, 3.0), vector, rtol=1e-12)


# ---- what it does not depend on


def mapped(mixture, scale, shift):
    """The mixture of x · scale + shift."""
    structure = mixture.structure
    covariances = structure.unscale_covariances(mixture.covariances, scale)
    return MixtureParameters.from_covariances(structure, mixture.weights, mixture.means * scale + shift, covariances)


def test_units_and_zero_do_not_matter(structure, library):
    origin = library.make_mixture(structure, 3, 4, seed=1)
    target = library.make_mixture(structure, 3, 4, seed=2)
    scale = structure.frame_scale(np.array([1e-6, 1.0, 7.0, 1e4]))
    shift = 3 * scale
    expected = displacement(origin, target)
    found = displacement(mapped(origin, scale, shift), mapped(target, scale, shift))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    vector = vector_at(origin, 3, 1.0)
    assert_same(displaced(mapped(origin, scale, shift), vector), mapped(displaced(origin, vector), scale, shift))


@pytest.mark.parametrize("name", ["full", "tied"])
def test_triangular_maps_of_the_data_do_not_matter(library, name):
    lower = np.tril(np.random.default_rng(0).normal(size=(3, 3)), -1) + np.diag([0.1, 2.0, 30.0])

    def moved(mixture):
        covariances = lower @ mixture.covariances @ lower.T
        return MixtureParameters.from_covariances(
            mixture.structure, mixture.weights, mixture.means @ lower.T, covariances
        )

    origin, target = (library.make_mixture(STRUCTURES[name], 3, 3, seed=seed) for seed in (1, 2))
    np.testing.assert_allclose(
        displacement(moved(origin), moved(target)), displacement(origin, target), rtol=1e-8, atol=1e-9
    )


def test_structures_agree_where_they_describe_the_same(library):
    """A spherical mixture is a diagonal one, that a full one: the same way, the same length."""
    lengths = []
    for name in ("spherical", "diag", "full"):
        structure = STRUCTURES[name]

        def of(variances, structure=structure):
            covariances = library.restrict(structure, variances[:, None, None] * np.eye(3), np.array([0.3, 0.7]))
            means = np.add.outer(variances, np.arange(3.0))
            weights = variances / variances.sum()
            return MixtureParameters.from_covariances(structure, weights, means, covariances)

        lengths.append(np.linalg.norm(displacement(of(np.array([0.5, 2.0])), of(np.array([0.7, 1.5])))))
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-12)


def test_whitened_vectors_have_the_mahalanobis_length(structure, library):
    mixture = library.make_mixture(structure, 3, 4)
    vectors = np.random.default_rng(0).normal(size=(3, 4))
    whitened = structure.whiten(mixture.precisions_cholesky, vectors)
    for vector, w, matrix in zip(vectors, whitened, matrices(library, mixture), strict=True):
        exponent = multivariate_normal(np.zeros(4), matrix).logpdf(np.stack([np.zeros(4), vector]))
        assert w @ w == pytest.approx(2 * (exponent[0] - exponent[1]))
    np.testing.assert_allclose(structure.unwhiten(mixture.precisions_cholesky, whitened), vectors, rtol=1e-10)


# ---- components without weight


def test_a_component_without_weight_stays_where_it_is(structure, library):
    some = library.make_mixture(structure, 3, 2, seed=1)
    weights = np.array([0.0, 0.4, 0.6])
    origin = MixtureParameters.from_covariances(structure, weights, some.means, some.covariances)
    target = library.make_mixture(structure, 3, 2, seed=2)
    vector = displacement(origin, target)
    assert np.isfinite(vector).all()
    for moved in (vector, np.ones_like(vector)):
        mixture = displaced(origin, moved)
        assert mixture.weights[0] == 0
        assert mixture.weights.sum() == pytest.approx(1)
        np.testing.assert_array_equal(mixture.means[0], origin.means[0])
        assert np.isfinite(mixture.covariances).all()
    assert np.isfinite(shortened(origin, vector, 1.0)).all()


def test_a_weight_may_vanish(structure, library):
    origin = library.make_mixture(structure, 3, 2, seed=1)
    weights = np.array([0.0, 0.5, 0.5])
    target = MixtureParameters.from_covariances(structure, weights, origin.means, origin.covariances)
    found = displaced(origin, displacement(origin, target))
    np.testing.assert_allclose(found.weights, weights, atol=1e-100)
