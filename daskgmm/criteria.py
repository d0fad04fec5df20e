"""Criteria by which `select` compares mixtures; this module alone describes them.

=========  ==========================  =================================================================================
bic        −2 log L + p log n          Schwarz, Ann. Stat. 6(2), 1978
aic        −2 log L + 2 p              Akaike, IEEE Trans. Autom. Control 19(6), 1974
icl        BIC + 2 entropy             Biernacki, Celeux & Govaert, IEEE Trans. PAMI 22(7), 2000: the entropy is that of
                                       the responsibilities, which is large where components overlap
held_out   mean log-likelihood of rows that no fit has seen
=========  ==========================  =================================================================================

L is the likelihood of the rows, p the number of free parameters, n the number of rows, or the sum of their weights: a
row of weight 2 counts as two equal rows. Lower values of the information criteria are better.

This module imports no package: `daskgmm --help` and completions must not wait for NumPy and Dask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """Information criterion: the cost of a mixture's misfit and of its parameters. Lower is better."""

    title: str
    """Name on the axis of a plot."""

    formula: Callable[[float, int, float, float], float]
    """Criterion from log L in nats, p, n, and the entropy of the responsibilities in nats."""

    uses_entropy: bool = False
    """The formula needs the entropy; otherwise the criterion is known during a fit too, and ``patience`` can use it."""

    negligible: float = 10.0
    """Negligible difference, up to which the axis of a plot is linear. A difference of ten in BIC is very strong
    evidence (Kass & Raftery, J. Am. Stat. Assoc. 90, 1995)."""


def _bic(log_likelihood: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return -2 * log_likelihood + n_parameters * math.log(n_rows)


def _aic(log_likelihood: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return -2 * log_likelihood + 2 * n_parameters


def _icl(log_likelihood: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return _bic(log_likelihood, n_parameters, n_rows, entropy) + 2 * entropy


CRITERIA: dict[str, Criterion] = {
    "bic": Criterion("BIC", _bic),
    "aic": Criterion("AIC", _aic),
    "icl": Criterion("ICL", _icl, uses_entropy=True),
}
"""Every information criterion by the name that ``criterion`` takes; the first is the default."""

HELD_OUT = "held_out"
"""Name of the criterion on rows that no fit has seen."""


def selection_criteria() -> tuple[str, ...]:
    """Values of the parameter ``criterion``; the first is the default."""
    return (*CRITERIA, HELD_OUT)


def running_criteria() -> tuple[str, ...]:
    """Values of ``criterion`` that ``patience`` can be used with."""
    return tuple(name for name, criterion in CRITERIA.items() if not criterion.uses_entropy)
