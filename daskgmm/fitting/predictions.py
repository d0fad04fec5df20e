"""Labels, responsibilities and log-densities of rows: one evaluator for all outputs, and the fold that writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ..core.kernel import RowResults
from ..core.kernel_choice import Kernel
from ..data.dataset import Dataset
from ..data.output import RowOutput
from ..data.row_arrays import RowWriter, result_rows
from ..data.row_block import RowBlock
from ..data.row_checks import COMPLETE_ROWS, RowKind
from .folds import KernelFold

Array = np.ndarray[Any, np.dtype[Any]]

_WRITING_SPEED = 2e8  # bytes of results a second, compressed


@cache
def _outputs(n_components: int, dtype: np.dtype[Any]) -> tuple[RowOutput, ...]:
    """Every output of a kernel."""
    components = range(n_components)
    flags = {"flag_values": list(components), "flag_meanings": " ".join(f"component_{i}" for i in components)}
    labels = {"long_name": "most probable component", **flags}
    probabilities = {"long_name": "posterior probability of each component", "units": "1"}
    log_density = {"long_name": "logarithm of the mixture's density", "units": "nat"}
    outliers = {"long_name": "log-density is below the threshold"}
    return (
        RowOutput("labels", np.dtype(np.int64), title="labels", attributes=tuple(labels.items())),
        RowOutput(
            "responsibilities", dtype, n_components, title="probabilities", attributes=tuple(probabilities.items())
        ),
        RowOutput("log_density", dtype, title="log_density", attributes=tuple(log_density.items())),
        RowOutput("outliers", np.dtype(np.bool_), title="outliers", attributes=tuple(outliers.items())),
    )


_DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True)
class KernelOutputs:
    """`RowFunction` for the outputs of a kernel, all computed from one log-joint."""

    kernel: Kernel
    outputs: tuple[RowOutput, ...]
    row_kind: RowKind = COMPLETE_ROWS
    dtype: np.dtype[Any] = _DOUBLE
    """Dtype of responsibilities and densities."""
    threshold: float = -math.inf
    """Log-density below which a row is an outlier."""

    @classmethod
    def named(
        cls, kernel: Kernel, names: Sequence[str], dtype: Any, row_kind: RowKind = COMPLETE_ROWS
    ) -> KernelOutputs:
        """Make the outputs with the given names: fields of `RowResults`, or ``"outliers"``.

        Parameters
        ----------
        kernel : Kernel
        names : sequence of str
        dtype : dtype
            Dtype of responsibilities and densities.
        row_kind : RowKind
        """
        known = _outputs(kernel.parameters.n_components, np.dtype(dtype))
        return cls(kernel, tuple(output for output in known if output.name in names), row_kind, np.dtype(dtype))

    def with_threshold(self, threshold: float) -> KernelOutputs:
        """Return the outputs with a log-density below which a row is an outlier."""
        added = (("threshold", threshold),) if math.isfinite(threshold) else ()
        outputs = (
            replace(output, attributes=output.attributes + added) if output.name == "outliers" else output
            for output in self.outputs
        )
        return replace(self, outputs=tuple(outputs), threshold=threshold)

    @property
    def row_bytes(self) -> int:
        """Size of all results of one row."""
        return sum(output.row_bytes for output in self.outputs)

    def __call__(self, rows: Array, start: int, results: Sequence[Array], work: Any = None) -> None:
        """Fill the results of some rows, see `RowFunction`; ``work`` is the kernel's workspace."""
        block, left_out = self.row_kind.usable(RowBlock(rows))
        self.row_kind.check(block.rows, start)
        arrays = {output.name: array for output, array in zip(self.outputs, results, strict=True)}
        outliers = arrays.pop("outliers", None)
        if outliers is not None:
            arrays.setdefault("log_density", np.empty(len(rows), self.dtype))
        self.kernel.fill(RowResults(**arrays), block.rows, work)
        if outliers is not None:
            np.less(arrays["log_density"], self.threshold, out=outliers)
        if left_out is not None:
            for output, array in zip(self.outputs, results, strict=True):
                array[left_out] = output.missing


@dataclass(frozen=True)
class PredictionFold(KernelFold):
    """Fold that writes the outputs of every row; its value is the number of rows written.

    A leaf is a chunk of the results, so that no two tasks write the same chunk, for any division of the rows.
    """

    outputs: KernelOutputs
    chunk_rows: int
    """Rows of a chunk of the results."""
    row_bytes: int
    """Size of an input row."""
    writer: RowWriter | None = None
    """Writer of the results; None in a fold that is only planned."""

    @classmethod
    def over(cls, dataset: Dataset, outputs: KernelOutputs) -> PredictionFold:
        """Make the fold for one pass over a data set, without a writer."""
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
        """Size of the scratch arrays, densities and results of a leaf, one encoded array, and concatenated rows."""
        encoded = max(output.row_bytes for output in self.outputs.outputs)
        usable = self.outputs.row_kind.usable_bytes(self.row_bytes)
        row_bytes = 8 + self.outputs.row_bytes + 2 * encoded + 2 * self.row_bytes + usable
        return self.kernel.plan.n_bytes + self.chunk_rows * row_bytes

    @property
    def value_bytes(self) -> int:
        """Size of a number of rows."""
        return 32

    def start(self) -> _Predictor:
        """Return the evaluator for the leaves of one task."""
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
