"""Functions of rows for lazy results: what `predict` and its relatives compute in each block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.kernels import Kernel
from ..data.row_checks import check_finite

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RowResult(ABC):
    """Called with rows and the number of the first of them."""

    kernel: Kernel

    def __call__(self, rows: Array, start: int) -> Array:
        check_finite(rows, max(start, 0))
        return self.compute(rows)

    @abstractmethod
    def compute(self, rows: Array) -> Array:
        """One entry for each row, all of which are finite."""


class Labels(RowResult):
    """Most probable component."""

    def compute(self, rows: Array) -> Array:
        return self.kernel.labels(rows)


class Probabilities(RowResult):
    """Posterior probability of every component."""

    def compute(self, rows: Array) -> Array:
        return self.kernel.responsibilities(rows)


class Densities(RowResult):
    """Log-density."""

    def compute(self, rows: Array) -> Array:
        return self.kernel.log_density(rows)
