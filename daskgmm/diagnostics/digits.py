"""Digits of log-likelihoods and information criteria in tables.

Mixtures are compared by the log-likelihood of all rows, and by criteria made of it, in which a difference below one is
no evidence (Kass & Raftery, J. Am. Stat. Assoc. 90, 1995). So totals are shown to a tenth, and means of n rows to a
tenth of 1/n: fewer digits would hide differences that count, and more would show what nobody can tell from nothing.
"""

from __future__ import annotations

import math

_FEWEST, _MOST = 3, 12  # of means: for a handful of rows, and as far as double precision reaches


def decimals(n_rows: int | None) -> int:
    """Decimals of a mean over so many rows; None for a number that nobody knows."""
    return 6 if not n_rows else min(max(_FEWEST, 1 + math.ceil(math.log10(n_rows))), _MOST)


def mean_text(value: float, n_rows: int | None) -> str:
    """A mean over so many rows, in nats per row."""
    return f"{value:.{decimals(n_rows)}f}"


def total_text(value: float) -> str:
    """A sum over all rows, such as BIC."""
    return f"{value:,.1f}"
