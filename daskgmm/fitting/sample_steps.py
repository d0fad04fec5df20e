"""E-steps over a sample outside a run of starts, and the record of these E-steps."""

from __future__ import annotations

import time

from ..core.mixture import MixtureParameters
from ..core.statistics import SufficientStatistics
from .estep_pass import EStepPass, EStepRequest
from .history import PassRecord


class SampleSteps:
    """E-steps over a sample, which are counted and timed from the making of this object on.

    Parameters
    ----------
    estep_pass : EStepPass
    """

    def __init__(self, estep_pass: EStepPass) -> None:
        self._estep_pass, self._begin = estep_pass, time.perf_counter()
        self._n_iter, self._arithmetic = 0, ""

    def __call__(self, parameters: MixtureParameters) -> SufficientStatistics:
        """Compute the E-step at some parameters."""
        (result,) = self._estep_pass([EStepRequest(parameters)])
        self._n_iter, self._arithmetic = self._n_iter + 1, result.kernel.arithmetic
        return result.statistics

    def records(self, start: int, lower_bound: float | None) -> list[PassRecord]:
        """Make the record of all E-steps so far; the list is empty without E-steps."""
        if not self._n_iter:
            return []
        n_rows, seconds = self._estep_pass.dataset.n_rows, time.perf_counter() - self._begin
        return [PassRecord.of_sample(start, self._n_iter, lower_bound, n_rows, seconds, self._arithmetic)]
