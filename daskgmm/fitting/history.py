"""Records of a fit, pass by pass."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class PassRecord:
    """Record of one pass over the data, or of successive iterations of a start on one sample."""

    kind: str
    """Kind of the pass:

    ``"survey"``
        the pass over all rows before the first E-step;
    ``"sample"``
        iterations on a sample in memory, without reading the data;
    ``"em"``
        a plain EM step;
    ``"accelerated"``
        an E-step at a state that the acceleration proposed;
    ``"rejected"``
        an E-step at a proposed state where the bound was lower: the start returned to the state of its last M-step;
    ``"refined"``
        an E-step in too coarse an arithmetic, which the next pass repeated;
    ``"reseeded"``
        an E-step after which components that had collapsed or were empty were reseeded;
    ``"moved"``
        an E-step after components were moved to clusters that are rare in the sample.
    """

    start: int
    """Number of the start, counted from 0."""

    n_iter: int
    """Number of iterations: 1 for a pass."""

    lower_bound: float | None
    """Bound that the E-step found, in nats per unit of weight; None for a pass without a valid bound.

    The bound of iterations on a sample is the last one. A search on small samples has the mean log-likelihood of rows
    that no iteration of the search has used.
    """

    n_rows: int
    """Rows of the data, or of the sample."""

    bytes_read: int
    """Size in memory of the rows that were read; 0 for a sample. A compressed store holds fewer bytes."""

    seconds: float
    """Wall time of the pass; starts that share a pass have the same."""

    arithmetic: str
    """``"float32"``, ``"float64"`` or ``"precise"``; empty for a survey. Of iterations on a sample, the last one's."""

    bytes_cached: int = 0
    """Size in memory of the rows that were kept since an earlier pass, and were not read."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{name} is {value!r:.40}; expected {kind}")
        for name in ("start", "n_iter", "n_rows", "bytes_read", "bytes_cached", "seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected no negative number, and a finite one")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r:.40}; expected one of {words}")

    @classmethod
    def of_sample(
        cls, start: int, n_iter: int, lower_bound: float | None, n_rows: int, seconds: float, arithmetic: str
    ) -> Self:
        """Make the record of iterations on a sample; an infinite bound is no valid one."""
        bound = None if lower_bound is None or not math.isfinite(lower_bound) else lower_bound
        return cls("sample", start, n_iter, bound, n_rows, 0, seconds, arithmetic)

    @property
    def rows_per_second(self) -> float:
        """Rows times iterations per second."""
        return self.n_rows * self.n_iter / max(self.seconds, 1e-9)

    def as_record(self) -> dict[str, Any]:
        """Return the record as a dict of JSON values."""
        return {**asdict(self), "rows_per_second": self.rows_per_second}


_KINDS = {
    "kind": str,
    "start": int,
    "n_iter": int,
    "lower_bound": float | None,
    "n_rows": int,
    "bytes_read": int,
    "bytes_cached": int,
    "seconds": float,
    "arithmetic": str,
}
_WORDS = {
    "kind": ("survey", "sample", "em", "accelerated", "rejected", "refined", "reseeded", "moved"),
    "arithmetic": ("", "float32", "float64", "precise"),
}
