"""E-steps over a data set, all requested ones in one reading of the rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.elementwise import PLAIN, ElementwiseBackend
from ..core.kernel_choice import ARITHMETICS, Kernel, MixtureShape, choose_kernel, is_exact
from ..core.mixture import MixtureParameters
from ..core.statistics import Frame, SufficientStatistics
from ..data.dataset import Dataset
from ..engine.fold import CostedFold
from ..engine.interface import Engine
from ..errors import DataChangedError
from .folds import ExpectationFold
from .low_density_rows import DensityThreshold, LowDensityRows, LowDensityRowsFold
from .survey import sample_dtype

Array = np.ndarray[Any, np.dtype[Any]]

# Relative tolerance of the weight sum: the survey and the E-steps add the weights in different orders.
_WEIGHT_TOLERANCE = 1e-9

_LARGEST_SINGLE_WEIGHT = 1e12


@dataclass(frozen=True)
class EStepRequest:
    """An E-step that a start waits for."""

    parameters: MixtureParameters
    coarsest: str = ARITHMETICS[0]
    """Coarsest arithmetic that the kernel may use, one of `ARITHMETICS`; the parameters may require a finer one."""
    threshold: DensityThreshold | None = None
    """Threshold for keeping the rows with the lowest log-densities; None to keep no rows."""
    rounds: bool = False
    """Rows of any dtype may be rounded to the arithmetic's precision."""


@dataclass(frozen=True)
class EStepResult:
    """Result of a requested E-step."""

    statistics: SufficientStatistics
    kernel: Kernel
    """Kernel that computed the statistics."""
    seconds: float
    """Wall time of the pass, which several E-steps may share."""
    low_density_rows: LowDensityRows | None = None
    """Rows with the lowest log-densities, if they were requested."""
    rounded: bool = False
    """The arithmetic is coarser than the rows."""

    @property
    def finest(self) -> bool:
        """Test whether the E-step was computed in the finest arithmetic."""
        return self.kernel.arithmetic == ARITHMETICS[-1]


class EStepPass:
    """E-steps over one data set; a call computes all requested E-steps in one reading of the rows.

    Some second moments depend on the data alone, not on the parameters: the first pass computes them, and ``common``
    keeps them.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    frame : Frame
        Center and scale of the data.
    backend : callable
        `MixtureShape` -> `ElementwiseBackend` of the kernels.
    weight_sum : float, optional
        Sum of the weights of all rows, as the survey found it.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        frame: Frame,
        backend: Callable[[MixtureShape], ElementwiseBackend] = lambda _: PLAIN,
        weight_sum: float | None = None,
    ) -> None:
        self.engine, self.dataset, self.frame, self.backend = engine, dataset, frame, backend
        self._weight_sum = weight_sum
        mean_weight = 1.0 if weight_sum is None else weight_sum / dataset.n_rows
        # Single precision holds products of rows and weights only if the weights are of ordinary size.
        ordinary = 1 / _LARGEST_SINGLE_WEIGHT < mean_weight < _LARGEST_SINGLE_WEIGHT
        self._dtype, self._may_round = dataset.dtype if ordinary else np.dtype(np.float64), ordinary
        self.common: dict[tuple[str, str], Array] = {}
        """Second moments that do not depend on the parameters, by structure and arithmetic."""

    def __call__(self, requests: Sequence[EStepRequest]) -> list[EStepResult]:
        """Compute all requested E-steps in one pass.

        Raises
        ------
        DataChangedError
            If the number of rows or the sum of the weights differs from the survey's.
        """
        begin = time.perf_counter()
        kernels = [self._kernel(request) for request in requests]
        thresholds = {
            number: request.threshold for number, request in enumerate(requests) if request.threshold is not None
        }
        kind, dtype = self.dataset.row_kind, sample_dtype(self.dataset)
        folds: list[CostedFold] = [ExpectationFold(kernel, row_kind=kind) for kernel in kernels]
        folds += [
            LowDensityRowsFold(kernels[number], threshold, dtype, row_kind=kind)
            for number, threshold in thresholds.items()
        ]
        values = self.engine.run_together(self.dataset, folds, "estep")
        all_statistics = values[: len(kernels)]
        low_density_rows = dict(zip(thresholds, values[len(kernels) :], strict=True))
        for statistics in all_statistics:
            self._check(statistics)
        seconds = time.perf_counter() - begin
        return [
            EStepResult(
                self._complete(kernel, statistics),
                kernel,
                seconds,
                low_density_rows.get(number),
                rounded=not is_exact(kernel.arithmetic, self._dtype),
            )
            for number, (kernel, statistics) in enumerate(zip(kernels, all_statistics, strict=True))
        ]

    def _kernel(self, request: EStepRequest) -> Kernel:
        backend = self.backend(MixtureShape.of(request.parameters))
        structure = request.parameters.structure.name
        known = {arithmetic for name, arithmetic in self.common if name == structure}
        return choose_kernel(
            request.parameters,
            self.frame,
            self._dtype,
            backend,
            known,
            request.coarsest,
            self.dataset.row_kind.name,
            rounds=request.rounds and self._may_round,
        )

    def _check(self, statistics: SufficientStatistics) -> None:
        if statistics.n_rows != self.dataset.n_rows:
            raise DataChangedError(
                f"a pass saw {statistics.n_rows} rows where {self.dataset.n_rows} were expected: "
                "the data changed during the fit"
            )
        expected = statistics.weight_sum if self._weight_sum is None else self._weight_sum
        if not math.isclose(statistics.weight_sum, expected, rel_tol=_WEIGHT_TOLERANCE):
            raise DataChangedError(
                f"sample_weight added up to {statistics.weight_sum:.12g} in a pass, and to {expected:.12g} in the "
                "first one: the weights changed during the fit"
            )

    def _complete(self, kernel: Kernel, statistics: SufficientStatistics) -> SufficientStatistics:
        """Add the second moments that do not depend on the parameters; only the first pass computes them."""
        if not kernel.has_common_moments:
            return statistics
        key = kernel.parameters.structure.name, kernel.arithmetic
        if kernel.common_known:
            return kernel.complete(statistics, self.common[key])
        self.common.setdefault(key, statistics.second_moments)
        return statistics
