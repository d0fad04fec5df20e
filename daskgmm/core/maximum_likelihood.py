"""The M-step of maximum likelihood: sufficient statistics -> parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .statistics import SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Added to every soft count, as scikit-learn does, so that an empty component keeps a finite mean; in units of a row's
# mean weight, so that only the ratios of sample weights matter.
_COUNT_FLOOR = 10 * np.finfo(np.float64).eps


def estimate(
    structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float
) -> tuple[Array, Array, Array]:
    """Weights, means and covariances that maximise the expected complete-data log-likelihood.

    Dempster, Laird & Rubin (1977), section 4.3.

    Parameters
    ----------
    structure : CovarianceStructure
    statistics : SufficientStatistics
    reg_covar : float
        Added to the variances, in squared units of the data.

    Returns
    -------
    weights : array of shape (K,)
    means : array of shape (K, D)
    covariances : array
        In the shape of the structure's `covariance_shape`. Not checked: a collapsed component shows when they are
        factored.
    """
    mean_weight = statistics.weight_sum / statistics.n_rows if statistics.weight_sum > 0 else 1.0
    soft_counts = statistics.soft_counts + _COUNT_FLOOR * mean_weight
    offsets = statistics.first / soft_counts[:, None]
    means = statistics.reference + statistics.scale * offsets
    covariances = structure.unscale_covariances(
        structure.central_covariances(statistics.second, soft_counts, offsets), statistics.scale
    )
    return soft_counts / soft_counts.sum(), means, structure.add_ridge(covariances, reg_covar)


def maximize(structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float) -> MixtureParameters:
    """The M-step: `estimate`, with the covariances factored.

    Raises
    ------
    IllDefinedCovarianceError
        If a component collapsed.
    """
    return MixtureParameters.from_covariances(structure, *estimate(structure, statistics, reg_covar))
