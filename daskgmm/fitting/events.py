"""Events of a running fit, beside the events of its passes (`daskgmm.engine.events`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitResumed:
    """A fit resumed from a checkpoint."""

    n_passes: int
    """Number of passes before the checkpoint."""


@dataclass(frozen=True)
class StartBegun:
    """A start of the fit begins."""

    start: int
    """Number of the start, counted from 0."""

    n_starts: int

    label: str = ""
    """Label of the mixture, if several are fitted at once."""

    n_iter: int = 0
    """Iterations of the start in an earlier run, if the fit resumed from a checkpoint."""


@dataclass(frozen=True)
class SampleStepped:
    """A start completed an EM iteration on a sample of the rows, in memory, or a round of a search on samples."""

    start: int
    n_starts: int

    n_rows: int
    """Rows of the sample, or of each round."""

    iteration: int
    """Number of the iteration, or of the round, counted from 1."""

    lower_bound: float
    """Bound of the iteration; of a search, the mean log-likelihood of held-out rows for the best mixture so far."""

    change: float
    measure: str = "log-likelihood"
    label: str = ""


@dataclass(frozen=True)
class SampleFitted:
    """A start ended on a sample of the rows, in memory."""

    start: int
    n_starts: int

    n_rows: int
    """Rows of the sample."""

    n_iter: int
    lower_bound: float
    converged: bool

    seconds: float
    """Wall time of all starts on the sample, which run together."""

    measure: str = "log-likelihood"
    label: str = ""


@dataclass(frozen=True)
class IterationFinished:
    """An EM iteration ended: an E-step and the M-step after it."""

    start: int

    iteration: int
    """Number of the iteration, counted from 1."""

    lower_bound: float
    """Mean log-likelihood of the parameters before the M-step, or the variational bound, in nats per unit of weight."""

    change: float
    """Difference of ``lower_bound`` from the previous iteration; infinite for the first."""

    seconds: float
    """Wall time of the iteration."""

    arithmetic: str
    """Arithmetic of the E-step: ``"float32"``, ``"float64"`` or ``"precise"``."""

    measure: str = "log-likelihood"
    """Quantity in ``lower_bound``: ``"log-likelihood"`` or ``"lower bound"``."""

    kind: str = "em"
    """``"em"``, ``"accelerated"``, ``"rejected"``, ``"reseeded"`` or ``"moved"``, as in the fit's ``history_``."""

    label: str = ""
    """Label of the mixture, if several are fitted at once."""


@dataclass(frozen=True)
class StartFinished:
    """A start ended: converged, out of iterations, or stopped."""

    start: int
    n_iter: int
    lower_bound: float
    converged: bool
    measure: str = "log-likelihood"
    """Quantity in ``lower_bound``, as in `IterationFinished`."""

    label: str = ""
    """Label of the mixture, if several are fitted at once."""

    stopped: bool = False
    """Stopped by `select`, because the mixture could no longer have the best criterion."""
