"""Folds: the value that a pass computes, and its costs."""

from __future__ import annotations

from typing import Any, Protocol

from ..data.row_block import RowBlock


class Evaluator(Protocol):
    """Evaluator of the leaves of one task; scratch memory may be kept between calls."""

    def __call__(self, start: int, block: RowBlock) -> Any:
        """Return the value of the leaf that begins at row ``start``. Values add with ``+``, which returns a new one."""


class Fold(Protocol):
    """Computation of a pass: a value for every leaf, and the sum of the values."""

    @property
    def leaf_rows(self) -> int:
        """Rows of a leaf."""

    def start(self) -> Evaluator:
        """Start the evaluator of one task."""


class Costs(Protocol):
    """Costs of a fold, known before the pass."""

    @property
    def leaf_rows(self) -> int:
        """Rows of a leaf."""

    @property
    def row_seconds(self) -> float:
        """Estimated time to evaluate one row."""

    @property
    def work_bytes(self) -> int:
        """Scratch arrays of a task, and arrays that are allocated to evaluate one leaf."""

    @property
    def value_bytes(self) -> int:
        """Size of the value of a leaf, or of a sum of leaves."""

    @property
    def process_bytes(self) -> int:
        """Size of the code that the fold loads, once in a process."""


class CostedFold(Fold, Costs, Protocol):
    """A fold with known costs."""
