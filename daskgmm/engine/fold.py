"""Folds: what a pass computes of the rows, and what that takes."""

from __future__ import annotations

from typing import Any, Protocol

from ..data.row_block import RowBlock


class Evaluator(Protocol):
    """Evaluates the leaves of one task; it may keep scratch memory between calls."""

    def __call__(self, start: int, block: RowBlock) -> Any:
        """Return the value of the leaf that begins at row ``start``. Values add with ``+``, which returns a new one."""


class Fold(Protocol):
    """What a pass computes: a value for every leaf, and their sum."""

    @property
    def leaf_rows(self) -> int:
        """L, the rows of a leaf."""

    def start(self) -> Evaluator:
        """Evaluator for one task."""


class Costs(Protocol):
    """What is known of a fold before the pass."""

    @property
    def leaf_rows(self) -> int:
        """Rows of a leaf."""

    @property
    def row_seconds(self) -> float:
        """Estimated time to evaluate one row."""

    @property
    def work_bytes(self) -> int:
        """Scratch arrays of a task, and what evaluating one leaf allocates."""

    @property
    def value_bytes(self) -> int:
        """The value of a leaf, or of a sum of them."""

    @property
    def process_bytes(self) -> int:
        """Code that it loads, once in a process."""


class CostedFold(Fold, Costs, Protocol):
    """A fold that can tell what it takes."""
