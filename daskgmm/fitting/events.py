"""What a fit tells while it runs, besides the events of its passes (`daskgmm.engine.events`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitResumed:
    """A fit goes on from a checkpoint."""

    n_passes: int
    """That it had made."""


@dataclass(frozen=True)
class StartBegun:
    """One of the fit's starts begins."""

    start: int
    """Counted from 0."""

    n_starts: int

    label: str = ""
    """Which mixture it is of, where several are fitted at once."""

    n_iter: int = 0
    """Iterations that an earlier run has made of it, where a fit goes on from a checkpoint."""


@dataclass(frozen=True)
class SampleStepped:
    """A start has taken an EM iteration on a sample of the rows, in memory."""

    start: int
    n_starts: int

    n_rows: int
    """Of the sample."""

    iteration: int
    lower_bound: float
    change: float
    measure: str = "log-likelihood"
    label: str = ""


@dataclass(frozen=True)
class SampleFitted:
    """A start has ended on a sample of the rows, in memory."""

    start: int
    n_starts: int

    n_rows: int
    """Of the sample."""

    n_iter: int
    lower_bound: float
    converged: bool

    seconds: float
    """Wall time of all starts, which run together."""

    measure: str = "log-likelihood"
    label: str = ""


@dataclass(frozen=True)
class IterationFinished:
    """One EM iteration, an E-step and the M-step after it, has ended."""

    start: int

    iteration: int
    """Counted from 1."""

    lower_bound: float
    """Mean log-likelihood of the parameters before the M-step, or a variational bound, in nats per unit of weight."""

    change: float
    """Its difference to the iteration before; infinite for the first."""

    seconds: float
    """Wall time of the iteration."""

    arithmetic: str
    """``"float32"``, ``"float64"`` or ``"precise"``: what the E-step was computed in."""

    measure: str = "log-likelihood"
    """What ``lower_bound`` is: ``"log-likelihood"`` or ``"lower bound"``."""

    kind: str = "em"
    """``"em"``, ``"accelerated"``, ``"rejected"``, ``"reseeded"`` or ``"moved"``, as in the fit's ``history_``."""

    label: str = ""
    """Which mixture it is of, where several are fitted at once."""


@dataclass(frozen=True)
class StartFinished:
    """A start has converged, or has used up its iterations."""

    start: int
    n_iter: int
    lower_bound: float
    converged: bool
    measure: str = "log-likelihood"
    """What ``lower_bound`` is, as in `IterationFinished`."""

    label: str = ""
    """Which mixture it is of, where several are fitted at once."""

    stopped: bool = False
    """It was given up, because its mixture could no longer win (`select`)."""
