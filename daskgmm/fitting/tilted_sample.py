"""The tilted likelihood of a sample in memory, which `TiltedBFGS` climbs between two passes; see `core.tilting`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..core.acceleration import BFGSState, EMStep, LimitedMemoryBFGS, SampleWork
from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation
from ..core.kernel_choice import MixtureShape
from ..core.maximum_likelihood import complete_log_likelihood
from ..core.mixture import MixtureParameters
from ..core.statistics import SufficientStatistics
from ..core.tilting import Climb
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .em import EMRun, EMSettings, Step, run_em
from .em_start import EMStart
from .estep_pass import EStepPass, EStepRequest, EStepResult
from .initialization import Sample
from .samples import SampleParts, sample_pass

Array = np.ndarray[Any, np.dtype[Any]]

# Rows of the sample, as a share of all rows: the smaller the sample, the worse it predicts; the larger, the fewer steps
# are as cheap as a pass.
_SHARE = 8

# Arithmetic of all climbs of a start, in passes over all data.
_PASSES = 3

# A climb ends where the predicted gain is less than this share of the gain so far, or less than this share of tol: the
# tilted likelihood predicts no more.
_ENOUGH = 0.03
_SHARE_OF_TOL = 0.1

# Longest climb, in passes over all data, and in EM steps.
_LONGEST = 1.5
_MOST_ITERATIONS = 100

# Smallest sample: with fewer rows for each free parameter its likelihood has another shape.
_ROWS_PER_PARAMETER = 10

_SEED = 0x74696C74  # any seed: the rows are a random sample already


@dataclass(frozen=True)
class TiltedSample:
    """Tilted likelihood of some rows of a sample in memory."""

    engine: Engine
    """Engine of the whole fit. Threads of this process work on the sample."""
    estimation: Estimation[Any]
    """M-step of maximum likelihood."""
    sample: Sample
    n_rows: int
    """Rows of all data with positive weight."""
    backend: Callable[[MixtureShape], ElementwiseBackend]
    """Shape of a mixture -> `ElementwiseBackend` of the kernels."""
    bfgs: LimitedMemoryBFGS
    """Acceleration on the sample."""

    @property
    def size(self) -> int:
        """Number of rows of the sample that climbs use."""
        return min(len(self.sample.rows), max(1, self.n_rows // _SHARE))

    def serves(self, n_free: int) -> bool:
        """Test whether the sample is large enough for a mixture with that many free parameters."""
        return self.size >= _ROWS_PER_PARAMETER * n_free

    @property
    def most_iterations(self) -> int:
        """EM steps on the sample that a start may take in all."""
        return _PASSES * self.n_rows // self.size

    def part(self) -> Sample:
        """Draw the rows that climbs use, always the same: drawn for each climb, they take no memory during passes."""
        if self.size == len(self.sample.rows):
            return self.sample
        return SampleParts(self.sample, 0, np.random.RandomState(_SEED)).next(self.size)

    def climb(self, step: EMStep, damping: float, learnt: BFGSState, most: int) -> Climb:
        """Climb the tilted likelihood from the mixture of an E-step over all data; see `TiltedLikelihood`."""
        begin, part = time.perf_counter(), self.part()
        most = min(most, int(_LONGEST * self.n_rows / len(part.rows)), _MOST_ITERATIONS)
        with self.engine.in_memory() as local:
            tilted = _TiltedPass(sample_pass(local, part, self.backend), step, damping)
            ascent = _Ascent(tilted, step.tol)
            em: EMSettings[MixtureParameters] = EMSettings(0.0, most, self.bfgs)
            start = replace(em.begin(step.current), accelerator=learnt)
            (end,) = run_em(tilted, [EMRun(_TiltedEstimation(self.estimation), em, start)], ascent)
        curvature = end.accelerator
        assert isinstance(curvature, BFGSState)
        learnt = BFGSState(curvature.steps, curvature.falls)
        work = SampleWork(end.n_iter, len(part.rows), time.perf_counter() - begin, ascent.arithmetic)
        return Climb(end.state, ascent.gain, ascent.left, end.stopped, learnt, work)


class _TiltedEstimation(Estimation[MixtureParameters]):
    """M-step of maximum likelihood on tilted statistics, which begins no component anew."""

    def __init__(self, estimation: Estimation[MixtureParameters]) -> None:
        self._estimation, self.reg_covar = estimation, estimation.reg_covar

    measure: ClassVar[str] = "tilted log-likelihood"

    def update(self, statistics: SufficientStatistics) -> MixtureParameters:
        lost = tuple(np.flatnonzero(~(statistics.soft_counts > 0)).tolist())
        if lost or not np.isfinite(statistics.log_likelihood):
            raise IllDefinedCovarianceError(lost)
        return self._estimation.update(statistics)

    def counts(self, state: MixtureParameters, weight_sum: float) -> Array:
        return self._estimation.counts(state, weight_sum)

    def parameters(self, state: MixtureParameters) -> MixtureParameters:
        return state

    def bound(self, statistics: SufficientStatistics, updated: MixtureParameters) -> float:
        return self._estimation.bound(statistics, updated)


class _TiltedPass:
    """E-steps over a sample, with statistics that are tilted to have the slope of all data at a mixture.

    Parameters
    ----------
    sample : EStepPass
        E-steps over the sample, scaled to the weight of all data.
    step : EMStep
        E-step over all data.
    damping : float
        Factor of EM's lower bound of the likelihood of all data.
    """

    def __init__(self, sample: EStepPass, step: EMStep, damping: float) -> None:
        self._sample, self._step, self._damping = sample, step, damping
        self._structure, self._reference = step.current.structure, step.current.means
        self._all = step.statistics.about(self._structure, self._reference)
        self.gain = 0.0
        """Gain of the tilted likelihood without damping at the last E-step, in nats per unit of weight."""

    def __call__(self, requests: Sequence[EStepRequest]) -> list[EStepResult]:
        return [self._tilted(request) for request in requests]

    @cached_property
    def _first(self) -> EStepResult:
        """E-step over the sample at the mixture of the E-step over all data."""
        (result,) = self._sample([EStepRequest(self._step.current)])
        return result

    @cached_property
    def _tilt(self) -> SufficientStatistics:
        """Statistics of all data less those of the sample."""
        return self._all + self._first.statistics.about(self._structure, self._reference).times(-1)

    @cached_property
    def _origin(self) -> tuple[float, float]:
        """Tilted log-likelihood, and EM's lower bound up to a constant, at the mixture of the E-step over all data."""
        return self._values(self._step.current, self._first.statistics)

    def _values(self, parameters: MixtureParameters, statistics: SufficientStatistics) -> tuple[float, float]:
        tilted = statistics.log_likelihood + complete_log_likelihood(parameters, self._tilt)
        return tilted, complete_log_likelihood(parameters, self._all)

    def _tilted(self, request: EStepRequest) -> EStepResult:
        is_first = request.parameters is self._step.current and request.coarsest == EStepRequest.coarsest
        result = self._first if is_first else self._sample([request])[0]
        weight = self._all.weight_sum
        value, lower = (
            value - origin
            for value, origin in zip(self._values(request.parameters, result.statistics), self._origin, strict=True)
        )
        self.gain = value / weight
        moments = result.statistics.about(self._structure, self._reference) + self._tilt
        if self._damping:
            moments = moments + self._all.times(self._damping)
        statistics = replace(moments, log_likelihood=value + self._damping * lower, weight_sum=weight)
        return replace(result, statistics=statistics)


class _Ascent:
    """Follower of a climb, which stops it where the tilted likelihood predicts no more."""

    def __init__(self, tilted: _TiltedPass, tol: float) -> None:
        self._tilted, self._tol = tilted, tol
        self.gain = 0.0
        self.left = np.inf
        self.arithmetic = ""

    def __call__(self, number: int, start: EMStart[Any], step: Step) -> EMStart[Any]:
        self.arithmetic = step.arithmetic
        if step.kind not in ("em", "accelerated") or start.collapsed is not None:
            return start
        self.gain = self._tilted.gain
        assert isinstance(start.accelerator, BFGSState)
        self.left = max(start.accelerator.em_gain, start.accelerator.gain_left)
        enough = max(_ENOUGH * self.gain, _SHARE_OF_TOL * self._tol)
        return replace(start, stopped=True) if self.left < enough else start
