"""E-steps over a data set: as many as are asked for, in one reading of the rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.elementwise import PLAIN, ElementwiseBackend
from ..core.kernel_choice import ARITHMETICS, COMPLETE, Kernel, QuadraticKernel, choose_kernel
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

# Of the sum of the weights, which is added up in another order than the survey did.
_WEIGHT_TOLERANCE = 1e-9

_LARGEST_SINGLE_WEIGHT = 1e12


@dataclass(frozen=True)
class EStepRequest:
    """An E-step that a start waits for."""

    parameters: MixtureParameters
    coarsest: str = ARITHMETICS[0]
    """Arithmetic that must not be undercut, whatever the parameters say; one of `ARITHMETICS`."""
    threshold: DensityThreshold | None = None
    """Keep rows with the lowest log-densities, too."""


@dataclass(frozen=True)
class EStepResult:
    """The E-step that was requested."""

    statistics: SufficientStatistics
    kernel: Kernel
    """What it was computed with."""
    seconds: float
    """Wall time of the pass, which others may have shared."""
    low_density_rows: LowDensityRows | None = None
    """Where they were asked for."""

    @property
    def finest(self) -> bool:
        """Whether no arithmetic would have been finer."""
        return self.kernel.arithmetic == ARITHMETICS[-1]


class EStepPass:
    """E-steps over one data set: a call answers all requests in one reading of the rows.

    Second moments that do not depend on the parameters are computed by the first pass and remembered in ``common``:
    they are a function of the data.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    frame : Frame
        Where the data lie.
    loops : callable
        Number of components -> what kernels use beside matrix products.
    weight_sum : float, optional
        What the weights of all rows are known to add up to.
    rows : str
        Kind of the rows, which kernels are chosen by.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        frame: Frame,
        backend: Callable[[int], ElementwiseBackend] = lambda _: PLAIN,
        weight_sum: float | None = None,
        rows: str = COMPLETE,
    ) -> None:
        self._rows = rows
        self.engine, self.dataset, self.frame, self.backend = engine, dataset, frame, backend
        self._weight_sum = weight_sum
        mean_weight = 1.0 if weight_sum is None else weight_sum / dataset.n_rows
        # Single precision holds products of rows with weights only if the weights are numbers of ordinary size.
        ordinary = 1 / _LARGEST_SINGLE_WEIGHT < mean_weight < _LARGEST_SINGLE_WEIGHT
        self._dtype = dataset.dtype if ordinary else np.dtype(np.float64)
        self.common: dict[tuple[str, str], Array] = {}
        """Second moments that do not depend on the parameters, by structure and arithmetic."""

    def __call__(self, requests: Sequence[EStepRequest]) -> list[EStepResult]:
        """One pass for all of them.

        Raises
        ------
        DataChangedError
            If it saw other rows than the survey did.
        """
        begin = time.perf_counter()
        kernels = [self._kernel(request) for request in requests]
        thresholds = {
            number: request.threshold for number, request in enumerate(requests) if request.threshold is not None
        }
        folds: list[CostedFold] = [ExpectationFold(kernel) for kernel in kernels]
        dtype = sample_dtype(self.dataset)
        folds += [LowDensityRowsFold(kernels[number], threshold, dtype) for number, threshold in thresholds.items()]
        values = self.engine.run_together(self.dataset, folds, "estep")
        found, low_density_rows = values[: len(kernels)], dict(zip(thresholds, values[len(kernels) :], strict=True))
        for statistics in found:
            self._check(statistics)
        seconds = time.perf_counter() - begin
        return [
            EStepResult(self._complete(kernel, statistics), kernel, seconds, low_density_rows.get(number))
            for number, (kernel, statistics) in enumerate(zip(kernels, found, strict=True))
        ]

    def _kernel(self, request: EStepRequest) -> Kernel:
        backend = self.backend(request.parameters.n_components)
        structure = request.parameters.structure.name
        known = {arithmetic for name, arithmetic in self.common if name == structure}
        return choose_kernel(request.parameters, self.frame, self._dtype, backend, known, request.coarsest, self._rows)

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
        """Add what does not depend on the parameters, which only the first pass computes."""
        if not (isinstance(kernel, QuadraticKernel) and kernel.has_common_second):
            return statistics
        key = kernel.parameters.structure.name, kernel.arithmetic
        if kernel.common_known:
            return kernel.complete(statistics, self.common[key])
        self.common.setdefault(key, statistics.second_moments)
        return statistics
