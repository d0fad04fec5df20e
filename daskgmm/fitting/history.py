"""What a fit did, pass by pass."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PassRecord:
    """What one pass over the data was for, or all iterations of a start on a sample."""

    kind: str
    """What it did:

    ``"survey"``
        looked at all rows before the first E-step;
    ``"sample"``
        iterations on a sample in memory, which read no data;
    ``"em"``
        a plain step of EM;
    ``"accelerated"``
        an E-step where the acceleration proposed;
    ``"rejected"``
        the same, and the bound was lower there: the fit went back;
    ``"refined"``
        an E-step whose arithmetic turned out to be too coarse, and that was repeated;
    ``"reseeded"``
        an E-step after which a component had collapsed or was empty, and began anew elsewhere;
    ``"moved"``
        an E-step with a component in another place: at a cluster that the sample had too little of.
    """

    start: int
    """Which of the fit's starts, counted from 0."""

    n_iter: int
    """Iterations that it stands for: 1, or those on a sample."""

    lower_bound: float | None
    """What the E-step found, in nats per unit of weight; None where there was none that counts."""

    n_rows: int
    """Rows that were read."""

    bytes_read: int
    """Their size in memory; 0 for a sample. A compressed store holds fewer bytes."""

    seconds: float
    """Wall time, which starts that share a pass share."""

    arithmetic: str
    """``"float32"``, ``"float64"`` or ``"precise"``; empty for a survey."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{name} is {value!r:.40}; expected {kind}")
        for name in ("start", "n_iter", "n_rows", "bytes_read", "seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected no negative number, and a finite one")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r:.40}; expected one of {words}")

    @property
    def rows_per_second(self) -> float:
        """Rows times iterations, by the second."""
        return self.n_rows * self.n_iter / max(self.seconds, 1e-9)

    def as_record(self) -> dict[str, Any]:
        """The record as what JSON can say."""
        return {**asdict(self), "rows_per_second": self.rows_per_second}


_KINDS = {
    "kind": str,
    "start": int,
    "n_iter": int,
    "lower_bound": float | None,
    "n_rows": int,
    "bytes_read": int,
    "seconds": float,
    "arithmetic": str,
}
_WORDS = {
    "kind": ("survey", "sample", "em", "accelerated", "rejected", "refined", "reseeded", "moved"),
    "arithmetic": ("", "float32", "float64", "precise"),
}
