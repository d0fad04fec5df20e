"""Regression with a mixture: the mean of some features of every row, given the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.conditioning import Conditional
from ..core.kernel import RowResults
from ..core.kernel_choice import Kernel
from ..data.output import RowOutput
from ..data.row_block import RowBlock
from ..data.row_checks import COMPLETE_ROWS, RowKind

Array = np.ndarray[Any, np.dtype[Any]]

CONDITIONAL_MEAN = "conditional_mean"
"""Name of the output."""


@dataclass(frozen=True)
class ConditionalMean:
    """`RowFunction` from the given features of a row to the mean of the other features."""

    conditional: Conditional
    kernel: Kernel
    """Kernel of the mixture of the given features, `Conditional.given`."""
    dtype: np.dtype[Any]
    row_kind: RowKind = COMPLETE_ROWS
    names: tuple[str, ...] = ()
    """Names of the other features; empty if they have none."""

    @property
    def outputs(self) -> tuple[RowOutput, ...]:
        """Output: one column for each of the other features."""
        n_features = self.conditional.means.shape[1]
        return (
            RowOutput(
                CONDITIONAL_MEAN,
                self.dtype,
                n_features,
                column_dim="feature",
                columns=self.names,
                title=CONDITIONAL_MEAN,
            ),
        )

    def __call__(self, rows: Array, start: int, results: Sequence[Array]) -> None:
        """Fill the means of some rows, see `RowFunction`; no array has more rows × components than a kernel's block."""
        usable, left_out = self.row_kind.usable(RowBlock(rows))
        self.row_kind.check(usable.rows, start)
        work, (means,) = self.kernel.workspace(), results
        for block in self.kernel.blocks(len(rows)):
            piece = usable.rows[block]
            responsibilities = np.empty((len(piece), self.kernel.parameters.n_components))
            self.kernel.fill(RowResults(responsibilities=responsibilities), piece, work)
            self.conditional.expectation(piece, responsibilities, means[block])
        if left_out is not None:
            means[left_out] = np.nan
