"""Warnings of a fit: few rows, starts that were dropped, components that began anew or that coincide."""

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
from .em import EMStart, Reseeding

NOTES = (CoincidingComponentsWarning, InitializationWarning, ReseedingWarning)
"""Warnings that a fit may have."""


def of_label(label: str) -> str:
    """Name a mixture in a message, where there are others."""
    return f" of {label}" if label else ""


def few_rows(init_size: int, enough: int, of: str) -> InitializationWarning:
    """Tell of a sample that is small for what is to be fitted to it."""
    return InitializationWarning(
        f"init_size={init_size} is few rows for the starts{of}: this mixture has so many "
        f"parameters that at least {enough} would be needed. Increase init_size, or leave it out."
    )


def dropped(start: int, n_starts: int, error: IllDefinedCovarianceError, of: str) -> InitializationWarning:
    """Tell of a start that ended in a collapse, beside others."""
    return InitializationWarning(f"start {start + 1} of {n_starts}{of} was dropped: {error}")


def began_anew(reseeding: Reseeding, of: str, n_sampled: int | None = None) -> ReseedingWarning:
    """Tell of components that began anew, on all data or on a sample of so many rows."""
    what = "collapsed" if reseeding.collapsed else "were left without rows"
    where = "" if n_sampled is None else f" on a sample of {n_sampled:,} rows"
    return ReseedingWarning(
        f"component(s) {_named(reseeding.components)}{of} {what} in iteration {reseeding.n_iter}{where} and "
        "began anew, each with half of the widest component. If the data do not have so many clusters, decrease the "
        "number of components; else try other init_params or a larger n_init"
        + (", increase reg_covar, or scale the input data." if reseeding.collapsed else ".")
    )


def coincidences(
    estimation: Estimation[State], start: EMStart[State], weight_sum: float, n_weighted: int, of: str
) -> Iterator[CoincidingComponentsWarning]:
    """Tell of components that a fit has ended with and that are one; those that hardly describe any row do not count.

    Parameters
    ----------
    estimation : Estimation
    start : EMStart
    weight_sum : float
        Of the data.
    n_weighted : int
        Rows whose weight is not zero.
    of : str
        As `of_label` makes it.
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
            "describe the data as well. Decrease n_components; if the data should have so many clusters, try other "
            "init_params, a larger n_init or init_size, or a smaller tol, so that components have time to part; "
            "where the data vary by less than the square root of reg_covar, scale them or decrease it."
        )


def _named(components: Sequence[int]) -> str:
    return ", ".join(map(str, components[:8])) + (", …" if len(components) > 8 else "")
