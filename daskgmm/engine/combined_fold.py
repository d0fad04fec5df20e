"""Several folds in one reading of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.row_block import RowBlock
from .fold import CostedFold, Costs, Evaluator
from .tree import Accumulator


class Values(tuple[Any, ...]):
    """One value of each fold. ``+`` adds them fold by fold."""

    __slots__ = ()

    def __add__(self, other: Any) -> Values:
        return Values(one + another for one, another in zip(self, other, strict=True))


@dataclass(frozen=True)
class SharedCosts:
    """What folds cost together."""

    members: tuple[Costs, ...]

    @property
    def leaf_rows(self) -> int:
        """That of the member with the longest leaves: a leaf of each other member divides it."""
        return max(member.leaf_rows for member in self.members)

    @property
    def row_seconds(self) -> float:
        """All of them."""
        return sum(member.row_seconds for member in self.members)

    @property
    def work_bytes(self) -> int:
        """Scratch arrays of all, and the sums of each one's own leaves inside a long one."""
        return sum(member.work_bytes + _levels(self.leaf_rows, member) * member.value_bytes for member in self.members)

    @property
    def value_bytes(self) -> int:
        """All of them."""
        return sum(member.value_bytes for member in self.members)

    @property
    def process_bytes(self) -> int:
        """They load the same code."""
        return max(member.process_bytes for member in self.members)


def _levels(leaf_rows: int, member: Costs) -> int:
    return (leaf_rows // member.leaf_rows).bit_length() - 1


@dataclass(frozen=True)
class CombinedFold(SharedCosts):
    """Folds that see the rows while they are in memory: `Values`, each to the last bit what a pass of its own gives."""

    members: tuple[CostedFold, ...]

    def start(self) -> _Evaluators:
        """Evaluators for one task."""
        return _Evaluators(self.members)


class _Evaluators:
    def __init__(self, folds: Sequence[CostedFold]) -> None:
        self._members = [(fold, fold.start()) for fold in folds]

    def __call__(self, start: int, block: RowBlock) -> Values:
        return Values(_evaluate(fold, evaluator, start, block) for fold, evaluator in self._members)


def _evaluate(fold: CostedFold, evaluator: Evaluator, start: int, block: RowBlock) -> Any:
    """Sum of a fold's own leaves inside a longer one, in the order of the tree: lengths of leaves are powers of two."""
    if len(block) <= fold.leaf_rows:
        return evaluator(start, block)
    leaves = Accumulator(fold, start + len(block), evaluator)
    leaves.add_rows(start, block)
    return leaves.sum()
