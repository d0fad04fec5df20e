"""The M-step of maximum likelihood: sufficient statistics -> parameters."""

from __future__ import annotations

import numpy as np

from .covariance import CovarianceStructure
from .mixture import MixtureParameters
from .statistics import SufficientStatistics

# Added to every soft count, as scikit-learn does: an empty component then keeps a finite mean.
_COUNT_FLOOR = 10 * np.finfo(np.float64).eps


def maximize(
    structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float
) -> MixtureParameters:
    """Parameters that maximise the expected complete-data log-likelihood (Dempster, Laird & Rubin 1977, section 4.3).

    Parameters
    ----------
    structure : CovarianceStructure
    statistics : SufficientStatistics
    reg_covar : float
        Added to the variances, in squared units of the data.

    Raises
    ------
    IllDefinedCovarianceError
        If a component collapsed.
    """
    soft_counts = statistics.soft_counts + _COUNT_FLOOR
    offsets = statistics.first / soft_counts[:, None]
    means = statistics.reference + statistics.scale * offsets
    covariances = structure.unscale_covariances(
        structure.central_covariances(statistics.second, soft_counts, offsets), statistics.scale
    )
    return MixtureParameters.from_covariances(
        structure, soft_counts / soft_counts.sum(), means, structure.add_ridge(covariances, reg_covar)
    )
