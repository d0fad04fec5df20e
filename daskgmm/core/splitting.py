"""Splitting of components into two, for searches that merge other components afterwards.

Halves of a Gaussian lie on the two sides of its mean. Cut across a direction of its own distribution, the halves of
N(μ, Σ) have the means μ ± δ and the covariance Σ − δδᵀ, with δᵀ Σ⁻¹ δ = 2/π. A core and a halo have the same mean, and
covariances of κ Σ and (2 − κ) Σ: clusters with heavy tails need them. Both keep mean and covariance of the component.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

#: Distance of a half's mean from the mean of the whole, in standard deviations: the mean of a half-normal variable.
HALF = math.sqrt(2 / math.pi)

# Variance of a core, relative to that of its component.
_CORE = 0.4

# Distance of a twin's mean from the mean of the whole, in standard deviations: the likelihood hardly changes.
_CLOSE = 0.02

# Share of components that are split into core and halo.
_CORES = 0.2


def split(parameters: MixtureParameters, random_state: np.random.RandomState) -> MixtureParameters:
    """Split every component into two of equal weight: halves in a random direction, or a core and a halo.

    Parameters
    ----------
    parameters : MixtureParameters
    random_state : numpy.random.RandomState

    Returns
    -------
    MixtureParameters
        Mixture of 2 K components with the mean and, in the form of the structure, the covariance of the given mixture.

    Raises
    ------
    IllDefinedCovarianceError
        If rounding left no positive definite covariance.
    """
    structure, (k, d) = parameters.structure, parameters.means.shape
    noise = random_state.standard_normal((k, d))
    noise *= HALF / np.linalg.norm(noise, axis=1, keepdims=True)
    cores = random_state.uniform(size=k) < (0 if structure.shared else _CORES)
    shifts = (
        np.concatenate([structure.correlate(parameters.covariances, i, noise[i : i + 1]) for i in range(k)])
        * ~cores[:, None]
    )
    each = np.tile(np.arange(k), 2)
    weights, shifts = parameters.weights[each] / 2, np.concatenate([shifts, -shifts])
    covariances = structure.take(parameters.covariances, each)
    covariances = covariances - between(structure, shifts, weights)
    if not structure.shared:
        factors = np.ones(2 * k)
        factors[:k][cores], factors[k:][cores] = _CORE, 2 - _CORE
        covariances = structure.multiply(covariances, factors)
    return MixtureParameters.from_covariances(structure, weights, parameters.means[each] + shifts, covariances)


def twins(parameters: MixtureParameters, n_components: int, random_state: np.random.RandomState) -> MixtureParameters:
    """Split the heaviest components into close halves until there are enough: nearly the same density, to be refined.

    Raises
    ------
    IllDefinedCovarianceError
        If rounding left no positive definite covariance.
    """
    structure = parameters.structure
    while parameters.n_components < n_components:
        heaviest = int(parameters.weights.argmax())
        noise = random_state.standard_normal((1, parameters.n_features))
        noise *= _CLOSE / np.linalg.norm(noise)
        shift = structure.correlate(parameters.covariances, heaviest, noise)[0]
        each = np.append(np.arange(parameters.n_components), heaviest)
        weights, means = parameters.weights[each], parameters.means[each]
        weights[[heaviest, -1]] /= 2
        means[heaviest] += shift
        means[-1] -= shift
        covariances = structure.take(parameters.covariances, each)
        parameters = MixtureParameters.from_covariances(structure, weights, means, covariances)
    return parameters


def between(structure: CovarianceStructure, shifts: Array, soft_counts: Array) -> Array:
    """Covariances, in the form of the structure, that shifts (K, D) of the components' means cause."""
    return structure.multiply(structure.outer_products(shifts, soft_counts), 1 / structure.matrix_counts(soft_counts))
