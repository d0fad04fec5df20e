"""Blocks of rows in memory, and the inputs that are aligned with the rows: sample weights, and any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InvalidWeightsError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class AlignedInput:
    """A kind of input with one entry for each row."""

    name: str
    """Name of the parameter, for errors and as the key of `RowBlock.beside`."""
    dtype: np.dtype[Any]
    """Dtype in which passes compute; read values are converted."""
    per_feature: bool = False
    """An entry is a row of D numbers; otherwise one number."""

    def shape(self, n_rows: int, n_features: int) -> tuple[int, ...]:
        """Shape of the whole input: (n,), or (n, D)."""
        return (n_rows, n_features) if self.per_feature else (n_rows,)

    def row_bytes(self, n_features: int) -> int:
        """Bytes of one entry in a `RowBlock`."""
        return (n_features if self.per_feature else 1) * self.dtype.itemsize

    def converted(self, values: Array) -> Array:
        """Return read values in the dtype and memory order of a `RowBlock`."""
        return np.require(values, self.dtype, ["C_CONTIGUOUS", "ALIGNED"])

    def check_dimensions(self, shape: tuple[Any, ...]) -> None:
        """Raise ValueError for another number of dimensions; lengths may be unknown yet."""
        if len(shape) != (expected := len(self.shape(0, 0))):
            raise ValueError(f"{self.name}: expected {expected}D array, got {len(shape)}D array of shape {shape}")

    def check_shape(self, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Raise ValueError unless there is one entry for each row."""
        if shape != expected:
            raise ValueError(f"{self.name}.shape == {shape}, expected {expected}: one entry for each row of X")


class _SampleWeight(AlignedInput):
    def check_dimensions(self, shape: tuple[Any, ...]) -> None:
        if len(shape) != 1:
            raise InvalidWeightsError(
                f"sample_weight: expected one dimension, got shape {shape}. Sample weights must be 1D array or scalar."
            )

    def check_shape(self, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if shape != expected:
            raise InvalidWeightsError(
                f"sample_weight.shape == {shape}, expected {expected}: one weight for each row of X"
            )


SAMPLE_WEIGHT: AlignedInput = _SampleWeight("sample_weight", np.dtype(np.float64))


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows, and their entries of every aligned input."""

    rows: Array
    """Shape (n, D)."""
    beside: Mapping[str, Array] = field(default_factory=dict)
    """Entries of aligned inputs by the input's name, each of length n."""

    @property
    def weights(self) -> Array | None:
        """Sample weights, shape (n,); None where every row counts the same."""
        return self.beside.get(SAMPLE_WEIGHT.name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice) -> RowBlock:
        """View of some of the rows."""
        return RowBlock(self.rows[chosen], {name: values[chosen] for name, values in self.beside.items()})

    def take(self, positions: Array) -> RowBlock:
        """Copy the rows at some positions."""
        beside = {name: values.take(positions, axis=0) for name, values in self.beside.items()}
        return RowBlock(self.rows.take(positions, axis=0), beside)

    def copy(self) -> RowBlock:
        """Return a block with memory of its own."""
        return RowBlock(self.rows.copy(), {name: values.copy() for name, values in self.beside.items()})

    @classmethod
    def concatenate(cls, blocks: Sequence[RowBlock]) -> RowBlock:
        """Join blocks that follow each other."""
        beside = {name: np.concatenate([block.beside[name] for block in blocks]) for name in blocks[0].beside}
        return cls(np.concatenate([block.rows for block in blocks]), beside)
