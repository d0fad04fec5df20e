"""Checks of the arrays of a mixture: ranges, and covariances and factors that belong together."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import IllDefinedCovarianceError
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

Problem = tuple[str, str]
"""Name of an array, and the reason why it is invalid."""

_ASYMMETRY = 1e-8  # relative, for double precision
_DIFFERENCE = 1e-6
WEIGHT_TOLERANCE = 1e-5
"""Largest error of a sum of weights: thousands of weights in single precision stay within it."""


def weights_problem(weights: Array) -> Problem | None:
    """Reason why finite numbers are not the weights of components; None for weights."""
    total, least = weights.sum(), weights.min()
    if least < 0 or abs(total - 1) > WEIGHT_TOLERANCE:
        return "weights", f"have to sum to one, and none may be negative: the sum is {total:.8g}, the least {least:.4g}"
    return None


def matrices_problem(
    structure: CovarianceStructure, covariances: Array, precisions_cholesky: Array, means: Array, eps: float = 0.0
) -> Problem | None:
    """Reason why finite covariances and factors of their inverses are not those of a mixture; None for a mixture.

    Parameters
    ----------
    structure : CovarianceStructure
    covariances, precisions_cholesky, means : arrays of float64
    eps : float
        Unit of rounding of the arrays, if larger than the unit of double precision.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if not np.isfinite(structure.log_det_cholesky(precisions_cholesky, means.shape[1])).all():
            return "precisions_cholesky", "are no Cholesky factors: a diagonal entry is not positive"
    if problem := covariances_problem(structure, covariances, eps):
        return problem
    factors = structure.precisions_cholesky(covariances)
    if not _agree(structure, covariances, factors, precisions_cholesky, means.shape, eps):
        return "precisions_cholesky", "do not belong to the covariances"
    return None


def covariances_problem(structure: CovarianceStructure, covariances: Array, eps: float = 0.0) -> Problem | None:
    """Reason why finite covariances alone are invalid; see `matrices_problem`."""
    if structure.has_matrices and not _is_symmetric(covariances, max(_ASYMMETRY, 4 * eps)):
        return "covariances", "are not symmetric"
    try:
        structure.precisions_cholesky(covariances)
    except IllDefinedCovarianceError as error:
        return "covariances", f"are not positive definite (components {error.components or 'all'})"
    return None


def _is_symmetric(matrices: Array, tolerance: float) -> bool:
    return bool((np.abs(matrices - matrices.swapaxes(-1, -2)) <= tolerance * np.abs(matrices).max()).all())


@np.errstate(over="ignore", invalid="ignore")
def _agree(
    structure: CovarianceStructure,
    covariances: Array,
    expected: Array,
    actual: Array,
    shape: tuple[int, ...],
    eps: float,
) -> bool:
    """Test whether factors are equal up to rounding; ``shape`` is the shape of the means, (K, D).

    Rounding moves factors by eps · κ(Σ), relative to the largest entry; with variances of about one, κ ≤ K D ‖U‖².
    """
    scale = np.sqrt(structure.marginal_variances(covariances, *shape).mean(axis=0))
    ours, theirs = (structure.scale_cholesky(u, scale).reshape(len(covariances), -1) for u in (expected, actual))
    rounding = 100 * max(np.finfo(np.float64).eps, eps) * shape[0] * shape[1] * (ours**2).sum(axis=1)
    most = np.minimum(1, _DIFFERENCE + rounding) * np.abs(ours).max(axis=1)
    return bool((np.abs(ours - theirs).max(axis=1) <= most).all())
