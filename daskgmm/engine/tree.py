"""The canonical tree: sums that do not depend on how the rows were divided.

Rows are numbered through the whole data set. Leaf i is rows i·L to (i + 1)·L; node (l, j) of the tree is the sum of
nodes (l − 1, 2j) and (l − 1, 2j + 1). A task that has seen some consecutive rows holds a list of parts: nodes for
complete leaves, and at both ends fragments of leaves that the task shares with its neighbours. Lists of neighbouring
tasks are joined by putting one part after the other, which completes leaves and merges siblings. The sum does not
depend on the borders between tasks, and a task never holds more than two nodes of a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.row_block import RowBlock
from ..errors import DataChangedError
from ..tuning import current
from .fold import Evaluator, Fold


@dataclass
class Node:
    """Sum of 2^level leaves; the last of them may lie beyond the data."""

    level: int
    index: int
    value: Any


@dataclass
class Fragment:
    """Consecutive rows of one leaf whose other rows are elsewhere."""

    start: int
    stop: int
    blocks: list[RowBlock]


class Accumulator:
    """Sum of rows and parts, which are added in the order of their row numbers.

    Parameters
    ----------
    fold : Fold
    n_rows : int
        Rows of the whole data set.
    evaluator : Evaluator, optional
        None: the first leaf starts one, because joining nodes needs no scratch memory.
    """

    def __init__(self, fold: Fold, n_rows: int, evaluator: Evaluator | None = None) -> None:
        self._fold = fold
        self._evaluate = evaluator
        self._leaf_rows = fold.leaf_rows
        self._n_rows = n_rows
        self.parts: list[Node | Fragment] = []

    def add_rows(self, start: int, block: RowBlock) -> None:
        """Add rows ``start``, ``start`` + 1 and so on."""
        begin, stop = start, start + len(block)
        while begin < stop:
            end = min((begin // self._leaf_rows + 1) * self._leaf_rows, stop)
            piece = block if (begin, end) == (start, stop) else block[begin - start : end - start]
            if self._is_leaf(begin, end):
                self._add_leaf(begin, piece)
            else:
                # A copy, because a view of a few rows would keep the whole slab alive.
                self._add_fragment(Fragment(begin, end, [piece.copy()]))
            begin = end

    def add(self, part: Node | Fragment) -> None:
        """Add a part of another accumulator."""
        if isinstance(part, Node):
            self._add_node(part)
        else:  # the list is extended here, and belongs to another accumulator
            self._add_fragment(Fragment(part.start, part.stop, list(part.blocks)))

    def total(self) -> Any:
        """Return the sum of all leaves.

        Raises
        ------
        DataChangedError
            If rows are missing.
        """
        expected = 0
        for part in self.parts:
            if not isinstance(part, Node) or part.index << part.level != expected:
                break
            expected += 1 << part.level
        if expected * self._leaf_rows < self._n_rows:
            raise DataChangedError(
                f"{self._n_rows} rows were expected, and a pass saw fewer: the data changed while they were read"
            )
        return self.sum()

    def sum(self) -> Any:
        """Return the sum of the complete leaves."""
        nodes = [part.value for part in self.parts if isinstance(part, Node)]
        value = nodes.pop()
        while nodes:  # a node without a right sibling moves up unchanged
            value = nodes.pop() + value
        return value

    def _is_leaf(self, start: int, stop: int) -> bool:
        return start % self._leaf_rows == 0 and (stop - start == self._leaf_rows or stop == self._n_rows)

    def _add_leaf(self, start: int, block: RowBlock) -> None:
        if self._evaluate is None:
            self._evaluate = self._fold.start()
        self._add_node(Node(0, start // self._leaf_rows, self._evaluate(start, block)))

    def _add_node(self, node: Node) -> None:
        while self.parts and _are_siblings(self.parts[-1], node):
            left = self.parts.pop()
            node = Node(node.level + 1, node.index // 2, left.value + node.value)  # type: ignore[union-attr]
        self.parts.append(node)

    def _add_fragment(self, fragment: Fragment) -> None:
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Fragment) and last.stop == fragment.start and fragment.start % self._leaf_rows:
            self.parts.pop()
            last.stop = fragment.stop
            last.blocks.extend(fragment.blocks)
            fragment = last
        if self._is_leaf(fragment.start, fragment.stop):
            self._add_leaf(fragment.start, RowBlock.concatenate(fragment.blocks))
        else:
            self.parts.append(fragment)


def _are_siblings(left: Node | Fragment, right: Node) -> bool:
    return (
        isinstance(left, Node) and left.level == right.level and left.index + 1 == right.index and right.index % 2 == 1
    )


def leaf_rows(n_features: int, value_bytes: int = 0) -> int:
    """Rows of a leaf: a power of two that follows from the shape of the problem alone.

    Parameters
    ----------
    n_features : int
    value_bytes : int
        Size of a leaf's value: where a value is larger than the rows, longer leaves make fewer values.
    """
    tuning = current()
    rows = max(tuning.leaf_bytes, value_bytes) // (8 * n_features)
    return min(max(1 << (max(1, rows).bit_length() - 1), tuning.shortest_leaf), tuning.longest_leaf)
