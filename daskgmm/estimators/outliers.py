"""Base class with the log-density below which rows are outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.estimation import State
from ..data.dimensions import given_layout
from ..data.failures import short_errors
from ..data.files import naming_files
from ..fitting.density_quantile import density_quantile, first_fold
from .base import BaseMixture
from .validation import check_share


class OutlierThreshold(BaseMixture[State]):
    """Base class of both mixtures: the quantile of the log-densities of data of any size."""

    @short_errors
    def threshold(
        self,
        X: Any,
        contamination: float,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> float:
        """Compute the log-density below which a share of the rows lies: ``score_samples(X) < threshold`` are outliers.

        The threshold is the exact quantile ``numpy.quantile(score_samples(X), contamination, method="higher")``, which
        marks the same rows as the thresholds of scikit-learn's outlier detectors. Passes over the data count
        log-densities; one pass suffices for 131 072 rows, and mostly three for a billion. No array holds all rows.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`. Incomplete rows that are left out do not count.
        contamination : float
            Share of the rows that are outliers, between 0 and 1.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        float
            Log-density of one of the rows, in nats. Rows of lower density are outliers.

        Raises
        ------
        ValueError, TypeError
            If ``contamination`` is no share, or the data are not those of the model.
        """
        share = check_share("contamination", contamination)
        accepted, prepared = self._accept_new(X, given_layout(dim, feature_axis))
        with naming_files(X), self._pass_over(accepted) as (engine, dataset):
            outputs = self._outputs(accepted.with_rows(dataset.rows), prepared, "log_density")
            return density_quantile(engine, dataset, first_fold(dataset, outputs), share)
