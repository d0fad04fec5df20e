"""Arrays of more than two dimensions without names: one axis has the features, the others are a grid of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dask.array as da
import numpy as np

from ..errors import DimensionError
from ..tuning import current
from .dimensions import Layout, checked_axis, unnamed
from .grid_weights import align_weights
from .input_kinds import Grid, InputKind
from .output import RowOutput
from .raveling import Raveling, one_feature_axis


@dataclass(frozen=True)
class ArrayGrid:
    """Samples on a grid: an array with one axis of features."""

    values: Any
    """NumPy or dask array of the features, (…, D)."""
    grid: Grid


class GridKind(InputKind):
    """Inputs that may be grids of samples: their `arranged` returns an `ArrayGrid`, or None for plain rows."""

    def grid(self, data: Any) -> Grid | None:
        return data.grid if isinstance(data, ArrayGrid) else None

    def rows(self, data: Any, name: str) -> Any:
        return data.grid.raveling.rows(data.values)

    def aligned(self, data: Any, values: Any, name: str) -> Any:
        return align_weights(data.grid, None, values, name) if isinstance(data, ArrayGrid) else values

    def wrap(self, data: Any, result: Any, output: RowOutput) -> Any:
        return data.grid.raveling.grid(result) if isinstance(data, ArrayGrid) else result


class Arrays(GridKind):
    """NumPy and dask arrays; rows and features of two dimensions unless an axis is named."""

    only_grids: ClassVar[bool] = True

    def recognises(self, data: Any, name: str) -> bool:
        return name == "X" and isinstance(data, np.ndarray | da.Array) and not data.dtype.names

    def arranged(self, data: Any, name: str, layout: Layout) -> Any:
        if layout.dim is not None:
            kind = "a NumPy array" if isinstance(data, np.ndarray) else "a dask array"
            raise unnamed(layout, name, kind, data.ndim)
        axis = layout.feature_axis
        if axis is None:
            if data.ndim <= 2 or layout.axis_of_fit is None:
                return None
            axis = layout.axis_of_fit
        return _array_grid(data, axis, name)


def _in_blocks(mapped: np.memmap[Any, Any], axis: int) -> da.Array:
    """Lazy blocks of a file, cut along the first axis of samples, of about a slab."""
    first = 1 if axis == 0 else 0
    n_bytes = mapped.nbytes // max(1, mapped.shape[first])
    chunks = dict(enumerate(mapped.shape)) | {first: max(1, current().slab_bytes // max(1, n_bytes))}
    return da.from_array(mapped, chunks=tuple(chunks.values()))


def _array_grid(data: Any, axis: int, name: str) -> ArrayGrid:
    if data.ndim < 2:
        raise DimensionError(
            f"feature_axis={axis}, and {name} has {data.ndim} dimension(s); expected an axis of features and one or "
            "more axes of samples"
        )
    if any(n != n for n in data.shape):
        raise DimensionError(
            f"{name} is a dask array of the shape {data.shape!s:.200}, whose lengths are not all known, so its samples "
            f"have no grid. Call {name}.compute_chunk_sizes() first."
        )
    place = checked_axis(axis, data.ndim, name)
    if isinstance(data, np.memmap) and place < data.ndim - 1:
        data = _in_blocks(data, place)  # reshape would load the file
    moved = (np if isinstance(data, np.ndarray) else da).moveaxis(data, place, -1)
    values = one_feature_axis(moved, data.ndim - 1)
    return ArrayGrid(values, Grid(Raveling.of(values), feature_axis=axis))
