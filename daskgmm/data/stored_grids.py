"""Zarr arrays and HDF5 datasets as grids of samples, read region by region with every check.

Stored values that mean "missing" are read as NaN.
"""

from __future__ import annotations

from typing import Any

import zarr

from ..errors import DimensionError
from .dimensions import FEATURE_DIMENSIONS, Layout, checked_axis, split_dimensions, unnamed
from .grids import ArrayGrid, GridKind
from .hdf5 import DatasetSource, is_dataset
from .input_kinds import Grid
from .ome import image_axes
from .raveling import Raveling, one_feature_axis
from .regions import lazy_regions
from .source import Source
from .stored_rows import StoreSource

_DIMENSIONS = "_ARRAY_DIMENSIONS"  # xarray's attribute in Zarr format 2


class ZarrArrays(GridKind):
    """Zarr arrays; rows and features of two dimensions unless the caller or the fit names dimensions or an axis."""

    def recognises(self, data: Any, name: str) -> bool:
        return isinstance(data, zarr.Array) and bool(data.ndim)  # an array without axes is refused elsewhere

    def arranged(self, data: Any, name: str, layout: Layout) -> Any:
        if name != "X" or not (_concerns(data, layout) or _is_transposed(_own_dimensions(data))):
            return None
        return _stored_grid(StoreSource(data, name), _zarr_dimensions(data), layout, name)

    def rows(self, data: Any, name: str) -> Any:
        return super().rows(data, name) if isinstance(data, ArrayGrid) else StoreSource(data, name)


class HDF5Datasets(GridKind):
    """Datasets of HDF5 files, as `ZarrArrays`; labels or scales of the dimensions are their names."""

    def recognises(self, data: Any, name: str) -> bool:
        return is_dataset(data, name)

    def arranged(self, data: Any, name: str, layout: Layout) -> Any:
        if name != "X" or not (_concerns(data, layout) or _is_transposed(_names_of_matrix(data))):
            return None
        return _stored_grid(DatasetSource(data, name), _hdf5_dimensions(data), layout, name)

    def rows(self, data: Any, name: str) -> Any:
        return super().rows(data, name) if isinstance(data, ArrayGrid) else DatasetSource(data, name)


def _concerns(data: Any, layout: Layout) -> bool:
    """Test whether a layout says which of an array's dimensions are the features."""
    recorded = layout.axis_of_fit is not None or bool(layout.feature_dims)
    return layout.is_given or (recorded and len(data.shape or ()) > 2)


def _is_transposed(names: tuple[str, ...] | None) -> bool:
    """Test for the names of a matrix whose features come first, as the names say."""
    return names is not None and len(names) == 2 and [name in FEATURE_DIMENSIONS for name in names] == [True, False]


def _stored_grid(source: Source, names: tuple[str, ...] | None, layout: Layout, name: str) -> ArrayGrid:
    n_dims = source.ndim
    if n_dims < 2:
        raise DimensionError(f"{name} has {n_dims} dimension(s); expected one of features, and one or more of samples")
    axis = layout.axis_of_fit if layout.feature_axis is None and layout.dim is None else layout.feature_axis
    if axis is not None:
        dims = list(range(n_dims))
        features = [checked_axis(axis, n_dims, name)]
        samples = [one for one in dims if one not in features]
        grid_names: dict[str, Any] = {"feature_axis": axis}
    else:
        if names is None:
            raise unnamed(layout, name, f"a {source.kind}", n_dims)
        sample_dims, feature_dims = split_dimensions(dict(zip(names, source.shape, strict=True)), layout, name)
        samples, features = ([names.index(dim) for dim in some] for some in (sample_dims, feature_dims))
        grid_names = {"dims": sample_dims, "feature_dims": feature_dims}
    values = one_feature_axis(
        lazy_regions(source.with_missing(), features).transpose(*samples, *features), len(samples)
    )
    return ArrayGrid(values, Grid(Raveling.of(values), address=source.address, **grid_names))


def _zarr_dimensions(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Names of the dimensions of a Zarr array, by its own metadata or those of an OME-Zarr image that it belongs to."""
    return _own_dimensions(array) or _valid(image_axes(array), array.ndim)


def _own_dimensions(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Names of the dimensions of a Zarr array, by its own metadata."""
    if array.metadata.zarr_format == 3:
        names: Any = array.metadata.dimension_names
    else:
        attributes: Any = array.metadata.attributes  # any JSON value
        names = attributes.get(_DIMENSIONS) if isinstance(attributes, dict) else None
    return _valid(names, array.ndim)


def _names_of_matrix(dataset: Any) -> tuple[str, ...] | None:
    """Names of the dimensions of an open dataset, if there are two."""
    is_matrix = bool(dataset) and len(dataset.shape or ()) == 2  # false for a dataset of a closed file
    return _hdf5_dimensions(dataset) if is_matrix else None


def _hdf5_dimensions(dataset: Any) -> tuple[str, ...] | None:
    """Labels of the dimensions of a dataset, or the names of their scales, as netCDF writes them."""
    names = [dim.label or (dim[0].name.rpartition("/")[2] if len(dim) else "") for dim in dataset.dims]
    return _valid(names, len(dataset.shape))


def _valid(names: Any, n_dims: int) -> tuple[str, ...] | None:
    """Names, if there is one for each dimension and they differ."""
    if not isinstance(names, list | tuple) or len(names) != n_dims or not all(names):
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) and len({*names}) == n_dims else None
