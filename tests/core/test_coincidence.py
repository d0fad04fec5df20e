"""Components that are nearly equal are found, whatever their weights, units and covariance structure."""

import numpy as np
import pytest

from daskgmm.core.coincidence import DIVERGENCE, coinciding
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.mixture import MixtureParameters

D = 6


def mixture(structure, means, scales=None):
    """Components with these means, in standard deviations, and scales of their covariances, in very different units."""
    units = np.ones(D) if "spherical" in structure else 10.0 ** np.arange(-6, D - 6)
    k = len(means)
    scales = np.ones(k) if scales is None else np.asarray(scales)
    root = np.tril(np.random.default_rng(0).normal(size=(D, D)), -1) + 2 * np.eye(D)
    root *= units[:, None]
    full = scales[:, None, None] * (root @ root.T)
    covariances = {
        "full": full,
        "tied": full[:1],
        "diag": scales[:, None] * units**2,
        "spherical": scales * 1.0,
        "tied-diag": units[None] ** 2,
        "tied-spherical": np.ones(1),
    }[structure]
    whitener = root.T if structure in ("full", "tied") else np.diag(units)
    means = np.asarray(means) @ whitener
    weights = np.arange(1.0, k + 1)
    return MixtureParameters.from_covariances(STRUCTURES[structure], weights / weights.sum(), means, covariances)


def apart(*distances):
    """Means at these distances along the diagonal."""
    return np.outer(distances, np.ones(D) / np.sqrt(D))


@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_means_that_are_a_small_part_of_a_deviation_apart(structure):
    limit = np.sqrt(2 * DIVERGENCE)
    near, far = 0.9 * limit, 1.1 * limit
    every = np.arange(5)
    assert coinciding(mixture(structure, apart(0, 3, near, 3 + far, 3.0)), every) == [(0, 2), (1, 4)]
    assert coinciding(mixture(structure, apart(0, 3, 6, 9, 12)), every) == []
    assert coinciding(mixture(structure, apart(0, 0, 0, 0, 0)), every) == [(0, 1, 2, 3, 4)]
    assert coinciding(mixture(structure, apart(0, 0, 0, 0, 0)), np.array([1, 3])) == [(1, 3)]


@pytest.mark.parametrize("structure", ["full", "diag", "spherical"])
def test_other_covariances_tell_components_apart(structure):
    scales = np.exp(np.array([0, 2.2, 1.8]) * np.sqrt(DIVERGENCE / D))  # ¼ D (log scale)² is the divergence
    assert coinciding(mixture(structure, apart(0, 0), scales[:2]), np.arange(2)) == []
    assert coinciding(mixture(structure, apart(0, 0), scales[[0, 2]]), np.arange(2)) == [(0, 1)]


def test_other_correlations_tell_components_apart():
    correlated = np.full((D, D), 0.5) + 0.5 * np.eye(D)
    covariances = np.stack([np.eye(D), correlated, correlated])
    parameters = MixtureParameters.from_covariances(
        STRUCTURES["full"], np.full(3, 1 / 3), np.zeros((3, D)), covariances
    )
    assert coinciding(parameters, np.arange(3)) == [(1, 2)]
