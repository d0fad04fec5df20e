"""Warnings of a fit: few rows, dropped starts, and components that were reseeded or that coincide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.coincidence import coinciding
from ..core.estimation import Estimation, State
from ..errors import (
    CoincidingComponentsWarning,
    IllDefinedCovarianceError,
    InitializationWarning,
    ReseedingWarning,
)
from .em_start import EMStart, Reseeding

NOTES = (CoincidingComponentsWarning, InitializationWarning, ReseedingWarning)
"""Classes of the warnings of a fit."""


def of_label(label: str) -> str:
    """Return the words that name a mixture in a message; none without a label."""
    return f" of {label}" if label else ""


def few_rows(init_size: int, enough: int, of: str) -> InitializationWarning:
    """Warning of a sample that is too small for the number of parameters."""
    return InitializationWarning(
        f"init_size={init_size} rows are too few for the starts{of}: the parameters of this mixture need at least "
        f"{enough} rows. Increase init_size, or leave it out."
    )


def dropped(start: int, n_starts: int, error: IllDefinedCovarianceError, of: str) -> InitializationWarning:
    """Warning of a dropped start, which ended in a collapse."""
    return InitializationWarning(f"start {start + 1} of {n_starts}{of} was dropped: {error}")


def began_anew(reseeding: Reseeding, of: str, n_sampled: int | None = None) -> ReseedingWarning:
    """Warning of reseeded components, on all data or on a sample of ``n_sampled`` rows."""
    what = "collapsed" if reseeding.collapsed else "were left without rows"
    where = "" if n_sampled is None else f" on a sample of {n_sampled:,} rows"
    return ReseedingWarning(
        f"component(s) {_named(reseeding.components)}{of} {what} in iteration {reseeding.n_iter}{where} and "
        "began anew, each with half of the widest component. If the data have fewer clusters, decrease the number of "
        "components; else try other init_params or a larger n_init"
        + (", increase reg_covar, or scale the input data." if reseeding.collapsed else ".")
    )


def coincidences(
    estimation: Estimation[State], start: EMStart[State], weight_sum: float, n_weighted: int, of: str
) -> Iterator[CoincidingComponentsWarning]:
    """Warn of coinciding components at the end of a start; components with hardly any rows do not count.

    Parameters
    ----------
    estimation : Estimation
    start : EMStart
    weight_sum : float
        Sum of the weights of the data.
    n_weighted : int
        Rows whose weight is not zero.
    of : str
        Name of the mixture, see `of_label`.
    """
    if not start.converged:
        return
    parameters = estimation.parameters(start.state)
    needed = (parameters.n_features + 1) * weight_sum / n_weighted
    candidates = np.flatnonzero(estimation.counts(start.state, weight_sum) >= needed)
    groups = coinciding(parameters, candidates)
    if groups:
        named = "; ".join(_named(group) for group in groups[:4]) + ("; …" if len(groups) > 4 else "")
        yield CoincidingComponentsWarning(
            f"components {named}{of} coincide: they describe the same rows, and fewer components would "
            "describe the data as well. Decrease n_components; daskgmm.select compares several numbers in the same "
            "passes. If you expect more clusters, try another random_state, other init_params, or a smaller tol, so "
            "that components have time to separate. If the data vary by less than the square root of reg_covar, scale "
            "the data or decrease reg_covar."
        )


def _named(components: Sequence[int]) -> str:
    return ", ".join(map(str, components[:8])) + (", …" if len(components) > 8 else "")
