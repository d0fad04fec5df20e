"""Weights of samples on a grid, in the order of the rows."""

from __future__ import annotations

import math
import os
import sys
from numbers import Real
from typing import Any

import dask.array as da
import numpy as np
import zarr

from ..errors import InvalidWeightsError
from .dimensions import shown
from .files import file_kind, open_file
from .input_kinds import Grid
from .raveling import Raveling
from .regions import lazy_regions
from .store import open_zarr
from .stored_rows import StoreSource

_SHOWN = 200


def align_weights(grid: Grid, origin: Any, values: Any, name: str) -> Any:
    """Bring weights of samples into the order of the rows, lazily.

    Parameters
    ----------
    grid : Grid
        Grid of the samples.
    origin : xarray.DataArray, xarray.Dataset or None
        Input whose coordinates and variables may be the weights, by their names.
    values : object
        A DataArray whose dimensions are some of the samples' dimensions, the name of a coordinate or variable, an array
        of the samples' shape, or anything that has one entry for each row.
    name : str
        Name of the parameter in errors.

    Raises
    ------
    InvalidWeightsError
        If dimensions, sizes or coordinates are not those of the samples.
    """
    if isinstance(values, str) and origin is not None:
        values = _named(origin, values, name)
    if file_kind(values) is not None:
        values = open_file(values, name)
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(values, xarray.DataArray):
        values = values.data if grid.dims is None else _on_grid(grid, values, name)
    elif isinstance(values, np.ndarray | da.Array | list | tuple):
        values = values if isinstance(values, da.Array) else np.asarray(values)
    else:
        values = _stored(values, name)
    if not isinstance(values, np.ndarray | da.Array):
        return _unordered(grid, values, name)
    if values.ndim == 0:
        return values
    return _as_rows(grid.raveling, values, name)


def _named(origin: Any, key: str, name: str) -> Any:
    """Coordinate or variable of the input with that name; another text is an address."""
    if key in origin.coords or key in getattr(origin, "data_vars", ()):
        return origin[key]
    if os.path.exists(key) or os.sep in key or "::" in key or "://" in key:
        return key
    known = [*origin.coords, *getattr(origin, "data_vars", ())]
    raise InvalidWeightsError(
        f"{name}={key!r:.80}: X has no coordinate or variable of that name, and there is no file of that name. X has "
        f"{shown(known)}."
    )


def _on_grid(grid: Grid, weights: Any, name: str) -> Any:
    """Values of a DataArray with the dimensions of the samples in their order, of length one where it has none."""
    dims = grid.dims or ()
    sizes = dict(zip(dims, grid.raveling.shape, strict=True))
    if foreign := [dim for dim in weights.dims if dim not in sizes]:
        raise InvalidWeightsError(
            f"{name} has the dimension {shown(foreign)}, and the samples have the dimensions {shown(dims)}. Weights "
            "may have some or all of these."
        )
    for dim, size in weights.sizes.items():
        if size != sizes[dim]:
            raise InvalidWeightsError(f"{name} has the size {size} along {dim!r}, and X has the size {sizes[dim]}.")
        known = {} if grid.coords is None else grid.coords.indexes
        if dim in weights.indexes and dim in known and not weights.indexes[dim].equals(known[dim]):
            raise InvalidWeightsError(
                f"{name} has other coordinates along {dim!r} than X. Select the same ones, for example with "
                f"{name}.reindex_like(X, method='nearest'), or remove them with {name}.drop_vars({dim!r})."
            )
    if not getattr(weights.variable, "_in_memory", True) and not isinstance(weights.data, da.Array):
        weights = weights.chunk()
    values = weights.transpose(*(dim for dim in dims if dim in weights.dims)).data
    return values[tuple(slice(None) if dim in weights.dims else None for dim in dims)]


def _stored(values: Any, name: str) -> Any:
    """Lazy array of stored weights of several dimensions; other weights unchanged."""
    array = open_zarr(values) if isinstance(values, str | os.PathLike) else values
    if isinstance(array, zarr.Array) and array.ndim > 1:
        return lazy_regions(StoreSource(array, name))
    return values


def _as_rows(raveling: Raveling, values: Any, name: str) -> Any:
    """Rows of values, whose shape is that of the samples, or has the length one in places."""
    shape = tuple(values.shape)
    if shape == (raveling.n_rows,) and len(raveling.shape) > 1:
        if isinstance(values, da.Array) and not raveling.in_c_order:
            raise InvalidWeightsError(_in_blocks(raveling, name))
        if isinstance(values, da.Array):
            return values
        values = values.reshape(raveling.shape)
    elif len(shape) != len(raveling.shape) or any(map(_differs, shape, raveling.shape)):
        raise InvalidWeightsError(
            f"{name}.shape == {shape!s:.{_SHOWN}}, expected {raveling.shape!s:.{_SHOWN}}: one weight for each sample"
        )
    if raveling.chunks is None and not isinstance(values, da.Array):
        return np.broadcast_to(values, raveling.shape).reshape(-1)
    return raveling.rows(_in_the_same_blocks(values, raveling))


def _differs(length: int, size: int) -> bool:
    return length not in (1, size)


def _in_the_same_blocks(values: Any, raveling: Raveling) -> da.Array:
    """Lazy values in the blocks of the grid; for samples in memory, in blocks along the first dimension."""
    if raveling.chunks is None:
        most = values.rechunk(dict.fromkeys(range(1, values.ndim), -1)).chunks[0]
        first = most if sum(most) == raveling.shape[0] else (raveling.shape[0],)
        chunks = (first, *((size,) for size in raveling.shape[1:]))
    else:
        chunks = raveling.chunks
    own = tuple((1,) if n == 1 else lengths for n, lengths in zip(values.shape, chunks, strict=True))
    values = values.rechunk(own) if isinstance(values, da.Array) else da.from_array(values, chunks=own)
    return da.broadcast_to(values, raveling.shape, chunks=chunks)


def _unordered(grid: Grid, values: Any, name: str) -> Any:
    """Return values whose order is that of a file or a frame, if this is the order of the rows."""
    if isinstance(values, Real) or grid.raveling.in_c_order:
        return values
    raise InvalidWeightsError(_in_blocks(grid.raveling, name))


def _in_blocks(raveling: Raveling, name: str) -> str:
    blocks = math.prod(map(len, raveling.chunks or ()))
    return (
        f"{name} is a list of rows, and the rows of X come from {blocks} blocks, one block after the other. Pass "
        "weights with the dimensions of the samples, such as a DataArray or an array of the shape "
        f"{raveling.shape!s:.{_SHOWN}}."
    )
