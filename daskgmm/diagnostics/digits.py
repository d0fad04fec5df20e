"""Numbers of digits for log-likelihoods and information criteria in tables.

Mixtures are compared by the log-likelihood of all rows, and by criteria computed from it. A difference below one in
these is no evidence (Kass & Raftery, J. Am. Stat. Assoc. 90, 1995). Totals are therefore shown to a tenth, and means
over n rows to a tenth of 1/n: fewer digits would hide significant differences, more digits would show noise.
"""

from __future__ import annotations

import math

_FEWEST, _MOST = 3, 12  # decimals of means: for a handful of rows, and the limit of double precision


def decimals(n_rows: int | None) -> int:
    """Number of decimals of a mean over ``n_rows`` rows; None for an unknown number of rows."""
    return 6 if not n_rows else min(max(_FEWEST, 1 + math.ceil(math.log10(n_rows))), _MOST)


def mean_text(value: float, n_rows: int | None) -> str:
    """Format a mean over ``n_rows`` rows, in nats per row."""
    return f"{value:.{decimals(n_rows)}f}"


def total_text(value: float) -> str:
    """Format a sum over all rows, such as BIC."""
    return f"{value:,.1f}"
