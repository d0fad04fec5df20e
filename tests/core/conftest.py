"""Mixtures to test on, and the E-step written again from its definition in long double."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.core.structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(params=list(STRUCTURES))
def structure(request: pytest.FixtureRequest) -> CovarianceStructure:
    return STRUCTURES[request.param]


def dense(structure: CovarianceStructure, values: Array, n_components: int, n_features: int) -> Array:
    """Covariances, precisions or factors of any structure as full matrices, (K, D, D)."""
    eye = np.eye(n_features)
    kinds = {2: lambda: values, 1: lambda: values[:, :, None] * eye, 0: lambda: values[:, None, None] * eye}
    matrices = kinds[len(structure.matrix_shape(n_features))]()
    return np.asarray(np.broadcast_to(matrices, (n_components, n_features, n_features)))


def restrict(structure: CovarianceStructure, matrices: Array, weights: Array) -> Array:
    """The structure's own form of full covariances (K, D, D): what it would estimate where they are true."""
    diagonal = np.einsum("kii->ki", matrices)
    forms = {
        "full": lambda: matrices,
        "tied": lambda: np.einsum("k,kij->ij", weights, matrices)[None],
        "diag": lambda: diagonal,
        "spherical": lambda: diagonal.mean(axis=1),
        "tied-diag": lambda: (weights @ diagonal)[None],
        "tied-spherical": lambda: (weights @ diagonal).mean(keepdims=True),
    }
    return np.array(forms[structure.name]())


def make_mixture(
    structure: CovarianceStructure,
    n_components: int = 3,
    n_features: int = 2,
    *,
    seed: int = 0,
    deviation: float = 1.0,
    spread: float = 2.0,
) -> MixtureParameters:
    """Random mixture: means of size ``spread`` about zero, standard deviations of size ``deviation``."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(n_components, 5.0))
    means = spread * random.normal(size=(n_components, n_features))
    root = random.normal(size=(n_components, n_features, n_features)) / np.sqrt(n_features)
    matrices = deviation**2 * (root @ root.transpose(0, 2, 1) + 0.3 * np.eye(n_features))
    return MixtureParameters.from_covariances(structure, weights, means, restrict(structure, matrices, weights))


def draw(parameters: MixtureParameters, n_rows: int, seed: int = 1) -> Array:
    """Rows of the mixture in random order."""
    random = np.random.RandomState(seed)
    return np.asarray(random.permutation(parameters.sample(n_rows, random)[0]))


def frame_of(rows: Array) -> Frame:
    return Frame.of(rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64))


class Reference:
    """The E-step in long double, straight from the definition of the densities."""

    def __init__(self, parameters: MixtureParameters) -> None:
        k, d = parameters.means.shape
        self.means = parameters.means.astype(np.longdouble)
        self.factors = dense(parameters.structure, parameters.precisions_cholesky, k, d).astype(np.longdouble)
        with np.errstate(divide="ignore"):
            self.log_weights = np.log(parameters.weights.astype(np.longdouble))

    def log_joint(self, rows: Array) -> Array:
        """Shape (n, K)."""
        residual = rows.astype(np.longdouble)[:, None] - self.means
        whitened = np.einsum("nki,kij->nkj", residual, self.factors)
        log_det = np.log(np.einsum("kii->ki", self.factors)).sum(axis=1)
        constant = log_det - 0.5 * self.means.shape[1] * np.log(2 * np.arctan(np.longdouble(1)) * 4)
        return np.asarray(self.log_weights + constant - 0.5 * (whitened**2).sum(axis=2))

    def log_density(self, rows: Array) -> Array:
        joint = self.log_joint(rows)
        peak = joint.max(axis=1)
        return np.asarray(peak + np.log(np.exp(joint - peak[:, None]).sum(axis=1)))

    def responsibilities(self, rows: Array) -> Array:
        return np.exp(self.log_joint(rows) - self.log_density(rows)[:, None])

    def entropy(self, rows: Array, weights: Array) -> float:
        r = self.responsibilities(rows)
        logs = np.log(np.where(r > 0, r, 1))
        return float(-(weights[:, None] * r * logs).sum())


@pytest.fixture(scope="session")
def library() -> Any:
    """The helpers of this file, without making the folder a package."""

    class Library:
        dense: Callable[..., Array] = staticmethod(dense)
        restrict: Callable[..., Array] = staticmethod(restrict)
        make_mixture: Callable[..., MixtureParameters] = staticmethod(make_mixture)
        draw: Callable[..., Array] = staticmethod(draw)
        frame_of: Callable[..., Frame] = staticmethod(frame_of)
        Reference = Reference

    return Library
