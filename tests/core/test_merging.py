"""Merging and splitting of components: the moments that they keep, and the merges that cost least."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.merging import cheapest_merges, merge
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.splitting import split


@pytest.fixture
def mixture(structure):
    return drawn(structure)


def drawn(structure, k=6, d=3, seed=1):
    """Mixture whose covariances, in the form of the structure, are those of random rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(k, 40, d)) * rng.uniform(0.5, 2, size=(k, 1, d))
    vectors = rows.reshape(-1, d)
    moments = [structure.outer_products(vectors[40 * i : 40 * (i + 1)], np.ones(40)) for i in range(k)]
    if structure.shared:
        covariances = np.mean(moments, axis=0)
    else:
        covariances = np.stack([np.mean(each, axis=0) for each in moments])
    weights = rng.uniform(0.5, 2, size=k)
    return MixtureParameters.from_covariances(
        structure, weights / weights.sum(), 3 * rng.normal(size=(k, d)), covariances
    )


def whole(library, parameters):
    """Mean of a whole mixture, and its covariance in the form of the structure."""
    k, d = parameters.means.shape
    covariances = library.dense(parameters.structure, parameters.covariances, k, d)
    mean = parameters.weights @ parameters.means
    offsets = parameters.means - mean
    total = np.einsum("k,kij->ij", parameters.weights, covariances + offsets[:, :, None] * offsets[:, None, :])
    kind = parameters.structure.name.split("-")[-1]
    if kind == "diag":
        total = np.diag(total)
    return mean, np.trace(total) if kind == "spherical" else total


def by_formula(library, parameters, one, other):
    """½ [(w_i + w_j) log det Σ_ij − w_i log det Σ_i − w_j log det Σ_j] of full covariances."""
    w, means = parameters.weights, parameters.means
    covariances = library.dense(parameters.structure, parameters.covariances, *means.shape)
    both = w[one] + w[other]
    apart = means[one] - means[other]
    joint = (w[one] * covariances[one] + w[other] * covariances[other]) / both
    joint = joint + w[one] * w[other] / both**2 * np.outer(apart, apart)
    log_det = [np.linalg.slogdet(each)[1] for each in (joint, covariances[one], covariances[other])]
    return 0.5 * (both * log_det[0] - w[one] * log_det[1] - w[other] * log_det[2])


def formed(kind, matrix):
    """Dense matrix in the form of a kind of covariance."""
    if kind == "diag":
        return np.diag(np.diag(matrix))
    return np.eye(len(matrix)) * np.trace(matrix) / len(matrix) if kind == "spherical" else matrix


def merged_one_by_one(library, parameters, n_components, neighbours=12):
    """Plain form of merging: the cheapest pair, again and again; a pair has to be near when one of them is new."""
    (k, d), shared = parameters.means.shape, parameters.structure.shared
    kind = parameters.structure.name.split("-")[-1]
    weights, means = parameters.weights.copy(), parameters.means.copy()
    matrices = library.dense(parameters.structure, parameters.covariances, k, d).copy()
    alive, costs = list(range(k)), {}

    def joint(i, j):
        both, apart = weights[i] + weights[j], means[i] - means[j]
        if shared:
            return matrices[i] + formed(kind, weights[i] * weights[j] / both * np.outer(apart, apart))
        within = (weights[i] * matrices[i] + weights[j] * matrices[j]) / both
        return within + formed(kind, weights[i] * weights[j] / both**2 * np.outer(apart, apart))

    def log_det(matrix):
        return np.linalg.slogdet(matrix)[1]

    def cost(i, j):
        if shared:
            return 0.5 * (log_det(joint(i, j)) - log_det(matrices[i]))
        parts = weights[i] * log_det(matrices[i]) + weights[j] * log_det(matrices[j])
        return 0.5 * ((weights[i] + weights[j]) * log_det(joint(i, j)) - parts)

    def add(i):
        def distance(j):
            return ((means[i] - means[j]) ** 2 / (np.diag(matrices[i]) + np.diag(matrices[j]))).sum()

        for j in sorted((each for each in alive if each != i), key=distance)[:neighbours]:
            costs[min(i, j), max(i, j)] = cost(i, j)

    for i in alive:
        add(i)
    while len(alive) > n_components:
        i, j = min(costs, key=costs.get)
        matrix = joint(i, j)
        means[i] = (weights[i] * means[i] + weights[j] * means[j]) / (weights[i] + weights[j])
        weights[i] += weights[j]
        matrices[slice(None) if shared else i] = matrix
        alive.remove(j)
        costs = {pair: value for pair, value in costs.items() if not {i, j} & set(pair)}
        add(i)
    return weights[alive], means[alive], matrices[alive]


@pytest.mark.parametrize(("k", "n_components"), [(9, 1), (50, 20)])
def test_pairs_are_merged_together_as_they_would_be_one_by_one(structure, library, k, n_components):
    mixture = drawn(structure, k, 2)
    merged = merge(mixture, n_components)
    weights, means, matrices = merged_one_by_one(library, mixture, n_components)
    np.testing.assert_allclose(merged.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(merged.means, means, rtol=1e-9, atol=1e-12)
    found = library.dense(structure, merged.covariances, n_components, 2)
    np.testing.assert_allclose(found, matrices, rtol=1e-8, atol=1e-12)


def test_merging_keeps_mean_and_covariance(mixture, library):
    for n_components in (5, 3, 1):
        merged = merge(mixture, n_components)
        assert merged.n_components == n_components
        assert merged.weights.sum() == pytest.approx(1)
        for found, expected in zip(whole(library, merged), whole(library, mixture), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_no_merge_keeps_the_mixture(mixture):
    same = merge(mixture, 6)
    np.testing.assert_array_equal(same.means, mixture.means)
    np.testing.assert_array_equal(same.covariances, mixture.covariances)


def test_the_first_merge_is_the_cheapest_of_all_pairs(library):
    mixture = drawn(STRUCTURES["full"])
    costs = {pair: by_formula(library, mixture, *pair) for pair in combinations(range(6), 2)}
    one, other = cheapest_merges(mixture)[0]
    assert (one, other) == min(costs, key=costs.get)
    (fused,) = [mean for mean in merge(mixture, 5).means.tolist() if mean not in mixture.means.tolist()]
    w = mixture.weights
    expected = (w[one] * mixture.means[one] + w[other] * mixture.means[other]) / (w[one] + w[other])
    np.testing.assert_allclose(fused, expected, rtol=1e-12)


def test_pairs_come_in_order_and_no_component_twice(library):
    mixture = drawn(STRUCTURES["full"])
    pairs = cheapest_merges(mixture)
    assert len(pairs) == 3
    assert sorted(component for pair in pairs for component in pair) == list(range(6))
    costs = [by_formula(library, mixture, *pair) for pair in pairs]
    assert costs == sorted(costs)


def test_halves_of_a_component_are_merged_again(structure, library):
    """Twelve far-apart components, each split: the merges undo the splits."""
    rng = np.random.default_rng(0)
    far = drawn(structure, 12)
    mixture = MixtureParameters.from_covariances(
        structure, far.weights, 100 * rng.normal(size=far.means.shape), far.covariances
    )
    merged = merge(split(mixture, np.random.RandomState(0)), 12)
    order, expected = np.lexsort(merged.means.T), np.lexsort(mixture.means.T)
    np.testing.assert_allclose(merged.means[order], mixture.means[expected], rtol=1e-9)
    np.testing.assert_allclose(merged.weights[order], mixture.weights[expected], rtol=1e-12)


def test_splitting_keeps_mean_and_covariance_of_every_component(mixture, library):
    found = split(mixture, np.random.RandomState(3))
    assert found.n_components == 12
    for actual, expected in zip(whole(library, found), whole(library, mixture), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    for component in range(6):
        pair = [component, component + 6]
        np.testing.assert_allclose(found.means[pair].mean(axis=0), mixture.means[component], rtol=1e-12)
        np.testing.assert_allclose(found.weights[pair], mixture.weights[component] / 2)


def test_some_components_become_core_and_halo():
    mixture = drawn(STRUCTURES["diag"], 40)
    found = split(mixture, np.random.RandomState(0))
    same = (found.means[:40] == mixture.means).all(axis=1)
    assert 0 < same.sum() < 20
    np.testing.assert_allclose(found.covariances[:40][same], 0.4 * mixture.covariances[same])
    np.testing.assert_allclose(found.covariances[40:][same], 1.6 * mixture.covariances[same])


def test_components_without_weight_are_merged_first():
    mixture = drawn(STRUCTURES["full"])
    weights = np.where(np.arange(6) < 2, 0.0, mixture.weights)
    empty = MixtureParameters.from_covariances(
        mixture.structure, weights / weights.sum(), mixture.means, mixture.covariances
    )
    merged = merge(empty, 4)
    assert (merged.weights > 0).sum() == 4
    np.testing.assert_allclose(np.sort(merged.weights), np.sort(empty.weights[2:]), rtol=1e-12)
