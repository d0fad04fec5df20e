"""Results for each row: the evaluator that arrays in memory, lazy results and stores share, and a pass that writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.kernel import RowResults
from ..core.kernel_choice import Kernel
from ..data.dataset import Dataset
from ..data.output import RowOutput
from ..data.row_arrays import RowWriter, result_rows
from ..data.row_block import RowBlock
from ..data.row_checks import check_finite
from .folds import KernelFold

Array = np.ndarray[Any, np.dtype[Any]]

_WRITING_SPEED = 2e8  # bytes of results a second, compressed


@dataclass(frozen=True)
class KernelOutputs:
    """Outputs of a kernel as a `RowFunction`; all of them come of one log-joint."""

    kernel: Kernel
    outputs: tuple[RowOutput, ...]

    @classmethod
    def named(cls, kernel: Kernel, names: Sequence[str], dtype: Any) -> KernelOutputs:
        """Outputs by the names of the fields of `RowResults`.

        Parameters
        ----------
        kernel : Kernel
        names : sequence of str
        dtype : dtype
            Of responsibilities and densities.
        """
        floating, integer = np.dtype(dtype), np.dtype(np.int64)
        known = (
            RowOutput("labels", integer),
            RowOutput("responsibilities", floating, kernel.parameters.n_components),
            RowOutput("log_density", floating),
        )
        return cls(kernel, tuple(output for output in known if output.name in names))

    @property
    def row_bytes(self) -> int:
        """Size of all results of one row."""
        return sum(output.row_bytes for output in self.outputs)

    def __call__(self, rows: Array, start: int, results: Sequence[Array], work: Any = None) -> None:
        """See `RowFunction`; ``work`` is the kernel's workspace."""
        check_finite(rows, start)
        arrays = {output.name: array for output, array in zip(self.outputs, results, strict=True)}
        self.kernel.fill(RowResults(**arrays), rows, work)


@dataclass(frozen=True)
class PredictionFold(KernelFold):
    """Write the outputs of every row; the value of a leaf is the number of rows that were written.

    A leaf is a chunk of the results, so that no two tasks ever write one chunk, however the rows are divided.
    """

    outputs: KernelOutputs
    chunk_rows: int
    """Rows of a chunk of the results."""
    row_bytes: int
    """Size of a row as it is read."""
    writer: RowWriter | None = None
    """None in a fold that is only planned."""

    @classmethod
    def over(cls, dataset: Dataset, outputs: KernelOutputs) -> PredictionFold:
        """Fold for one pass over a data set, without its writer."""
        rows = dataset.rows
        return cls(outputs.kernel, outputs, result_rows(rows, outputs.row_bytes), rows.row_bytes)

    @property
    def leaf_rows(self) -> int:
        """Rows of a chunk of the results."""
        return self.chunk_rows

    @property
    def row_seconds(self) -> float:
        """Rough time to compute the outputs of one row and to write them."""
        return self.cost.row_seconds + self.outputs.row_bytes / _WRITING_SPEED

    @property
    def work_bytes(self) -> int:
        """Scratch arrays, the results of a leaf, one array as it is encoded, and rows that are put together."""
        encoded = max(output.row_bytes for output in self.outputs.outputs)
        return self.kernel.plan.n_bytes + self.chunk_rows * (self.outputs.row_bytes + 2 * encoded + 2 * self.row_bytes)

    @property
    def value_bytes(self) -> int:
        """A number of rows."""
        return 32

    def start(self) -> _Predictor:
        """Evaluator for the leaves of one task."""
        if self.writer is None:
            raise ValueError("this fold is only planned; it has no store to write to")
        return _Predictor(self.outputs, self.writer)


class _Predictor:
    def __init__(self, outputs: KernelOutputs, writer: RowWriter) -> None:
        self._outputs, self._writer, self._work = outputs, writer, outputs.kernel.workspace()

    def __call__(self, start: int, block: RowBlock) -> int:
        results = [output.empty(len(block)) for output in self._outputs.outputs]
        self._outputs(block.rows, start, results, self._work)
        self._writer.write(start, results)
        return len(block)
