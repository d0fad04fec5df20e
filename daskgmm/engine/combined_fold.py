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
    """Costs of several folds together."""

    members: tuple[Costs, ...]

    @property
    def leaf_rows(self) -> int:
        """Rows of the longest leaf of a member; the length of every other member's leaf divides it."""
        return max(member.leaf_rows for member in self.members)

    @property
    def row_seconds(self) -> float:
        """Estimated time to evaluate one row in every fold."""
        return sum(member.row_seconds for member in self.members)

    @property
    def work_bytes(self) -> int:
        """Scratch arrays of all folds, and the sums of each fold's own leaves inside a long leaf."""
        return sum(member.work_bytes + _levels(self.leaf_rows, member) * member.value_bytes for member in self.members)

    @property
    def value_bytes(self) -> int:
        """Size of the values of all folds."""
        return sum(member.value_bytes for member in self.members)

    @property
    def process_bytes(self) -> int:
        """Code of the fold that loads most: all folds load the same code."""
        return max(member.process_bytes for member in self.members)


def _levels(leaf_rows: int, member: Costs) -> int:
    return (leaf_rows // member.leaf_rows).bit_length() - 1


@dataclass(frozen=True)
class CombinedFold(SharedCosts):
    """Several folds of the same rows in memory: `Values`, each equal to the last bit to a pass of its own."""

    members: tuple[CostedFold, ...]

    def start(self) -> _Evaluators:
        """Start the evaluators of one task."""
        return _Evaluators(self.members)


class _Evaluators:
    def __init__(self, folds: Sequence[CostedFold]) -> None:
        self._members = [(fold, fold.start()) for fold in folds]

    def __call__(self, start: int, block: RowBlock) -> Values:
        return Values(_evaluate(fold, evaluator, start, block) for fold, evaluator in self._members)


def _evaluate(fold: CostedFold, evaluator: Evaluator, start: int, block: RowBlock) -> Any:
    """Sum a fold's own leaves inside a longer leaf in the order of the tree: lengths of leaves are powers of two."""
    if len(block) <= fold.leaf_rows:
        return evaluator(start, block)
    leaves = Accumulator(fold, start + len(block), evaluator)
    leaves.add_rows(start, block)
    return leaves.sum()
