"""Conversion of every input to rows that a pass can read.

`accept` converts addresses and wrappers to one of three forms (a NumPy array, a dask array, a `Source` of stored rows)
and loads nothing; `as_dataset` makes a `Dataset` of rows and weights. Each address or wrapper is a kind of input (see
`input_kinds`), and a program may register more kinds.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr

from ..errors import DaskGMMError, UnsupportedDataError
from ..names import RAISE
from .arrays import ArraySource, check_unmasked, mapped_source, unmasked
from .dask_blocks import BlockSource, with_known_chunks
from .dataset import Dataset
from .dimensions import PLAIN, Layout
from .files import file_kind, open_address
from .frames import DaskFrame
from .grids import Arrays
from .input_kinds import Input, InputKind, register, unwrap
from .labelled import LabelledArrays
from .locations import is_open_store
from .row_block import SAMPLE_WEIGHT, AlignedInput
from .row_checks import row_kind
from .source import Source
from .store import open_zarr, pick_array
from .store_checks import MOST_ROWS, product
from .stored_grids import HDF5Datasets, ZarrArrays
from .stored_rows import StoreSource
from .structured import as_columns, field_names, masked_columns
from .tables import TABLES

Array = np.ndarray[Any, np.dtype[Any]]

_KINDS = "an array (NumPy, dask, Zarr, h5py, xarray), a data frame or table, or a path or URL of one"

_LAZY = (np.memmap, da.Array, Source, zarr.Array)


def accept(data: Any, name: str = "X", missing: str | None = None, layout: Layout = PLAIN) -> Input:
    """Open addresses and unwrap data frames, labelled arrays and other wrappers; nothing is loaded.

    Parameters
    ----------
    data : object
        An array of any kind, a data frame or table, an xarray DataArray or Dataset, a Zarr array or group, a path or
        URL, a dataset of an HDF5 file, or an object of a registered kind. Fields of records become columns.
    name : str
        Name of the parameter in errors.
    missing : str, optional
        Treatment of incomplete rows, one of `daskgmm.names.MISSING`. None: the default of the kind of input.
    layout : Layout
        Dimensions of the samples and the features, for inputs of more than two dimensions.

    Returns
    -------
    Input
        Its rows are a dask.array.Array, a Source, a numpy.memmap, or an object that scikit-learn's own validation
        converts to a NumPy array.
    """
    with naming(name):
        unwrapped = unwrap(data, name, layout)
        missing = missing or unwrapped.missing
        found = _with_missing(unwrapped.rows, name) if row_kind(missing).leaves_out else unwrapped.rows
        _check_one_array(found, name)
        check_unmasked(found)
        rows = as_columns(found, name)
        names = rows.feature_names if isinstance(rows, Source) else field_names(unwrapped.rows)
        return replace(unwrapped, rows=rows, feature_names=unwrapped.feature_names or names, missing=missing)


def _with_missing(rows: Any, name: str) -> Any:
    """Return the rows with NaN for values that are masked, or are stored as missing values."""
    if isinstance(rows, Source):
        return rows.with_missing()
    if isinstance(rows, da.Array) and isinstance(rows._meta, np.ma.MaskedArray):
        return rows.map_blocks(unmasked, dtype=unmasked(rows._meta).dtype, meta=unmasked(rows._meta))
    return unmasked(masked_columns(rows, name) if isinstance(rows, np.ma.MaskedArray) else rows)


def resolve(data: Any, name: str = "X", missing: str | None = None) -> Any:
    """Rows of an input, without its other properties; see `accept`."""
    return accept(data, name, missing).rows


class _Address(InputKind):
    """A path or URL, or a list of those of the parts of one table."""

    def recognises(self, data: Any, name: str) -> bool:
        if isinstance(data, (list, tuple)):  # a union would be made anew in each call
            return bool(data) and isinstance(data[0], (str, os.PathLike)) and file_kind(data) is not None
        return isinstance(data, (str, os.PathLike))

    def rows(self, data: Any, name: str) -> Any:
        return open_address(data, name)


class _Store(InputKind):
    """A Zarr store or group, or a mapper of fsspec."""

    def recognises(self, data: Any, name: str) -> bool:
        return is_open_store(data)

    def rows(self, data: Any, name: str) -> Any:
        return pick_array(data) if isinstance(data, zarr.Group) else open_zarr(data)


for _kind in (_Address(), _Store(), ZarrArrays(), HDF5Datasets(), DaskFrame(), LabelledArrays(), *TABLES, Arrays()):
    register(_kind, last=True)


def _check_one_array(data: Any, name: str) -> None:
    """Raise `UnsupportedDataError` for an object that contains several arrays, or is lazy and not an array."""
    if hasattr(type(data), "data_vars"):
        raise UnsupportedDataError(
            f"{name} is an xarray {type(data).__name__}; expected a DataArray"
            + (" or a Dataset, such as tree['name'].to_dataset()." if name == "X" else ", such as ds['name'].")
        )
    if name == "X" and isinstance(data, list | tuple) and data and isinstance(data[0], str | os.PathLike):
        raise UnsupportedDataError(
            f"{name} is a {type(data).__name__} of {len(data)} texts or paths; expected one array, or one path. Where "
            "these are parts of the data, join them: "
            "dask.array.concatenate([dask.array.from_zarr(path) for path in paths]), or with "
            "xarray.open_zarr(path)['name'].data if there are attributes such as scale_factor or _FillValue, which "
            "from_zarr ignores."
        )
    if dask.is_dask_collection(data) and not isinstance(data, da.Array):
        raise UnsupportedDataError(
            f"{name} is a dask {type(data).__name__}; expected {_KINDS}. Convert a bag with to_dataframe(), a delayed "
            "object with dask.array.from_delayed()."
        )


def in_memory(name: str, data: Any, most: int) -> Array:
    """Load a small lazy array.

    Parameters
    ----------
    name : str
        Name of the parameter in errors.
    data : zarr.Array, Source, numpy.memmap or array-like
    most : int
        Largest size of the array.

    Raises
    ------
    ValueError
        If the array is larger.
    StoreError
        If the array cannot be read.
    """
    if (size := product(data.shape)) > most:
        raise ValueError(f"{name} declares {size} numbers; expected {most} at most. Check where its shape comes from.")
    if isinstance(data, zarr.Array) and data.ndim:
        data = StoreSource(data, name)
    return np.array(data.handle[:] if isinstance(data, Source) else data[...])


def is_lazy(data: Any) -> bool:
    """Tell data that are read piece by piece from data for scikit-learn's own validation."""
    return isinstance(data, _LAZY)


def as_dataset(
    data: Any,
    sample_weight: Any = None,
    compute: Callable[[Any], Any] = operator.methodcaller("compute"),
    missing: str = RAISE,
) -> tuple[Dataset, int]:
    """Make a data set of resolved rows and of weights.

    Parameters
    ----------
    data : numpy.ndarray, numpy.memmap, dask.array.Array, Source or zarr.Array
        Rows, (n, D), of an integer, boolean or floating dtype.
    sample_weight : array-like of shape (n,), number or None
        Weights in any form that `accept` knows.
    compute : callable
        Computes a dask collection, if chunk lengths have to be counted.
    missing : str
        Treatment of incomplete rows, one of `daskgmm.names.MISSING`.

    Returns
    -------
    dataset : Dataset
    n_passes : int
        Passes over the data: 1 if chunk lengths had to be counted, else 0.

    Raises
    ------
    UnsupportedDataError
        If the dtype is not one of real numbers.
    ValueError
        If there are not two dimensions, or no rows or features.
    InvalidWeightsError
        If there is not one weight for each row.
    """
    data = StoreSource(data) if isinstance(data, zarr.Array) and data.ndim else data
    check_layout(data)
    counted = False
    if isinstance(data, da.Array):
        data, counted = with_known_chunks(data, compute)
        check_layout(data)  # the number of rows is known only now
    dataset = Dataset(_source(data), row_kind=row_kind(missing))
    if sample_weight is not None:
        dataset = with_input(dataset, SAMPLE_WEIGHT, sample_weight, compute)
    return dataset, int(counted)


def with_input(
    dataset: Dataset,
    kind: AlignedInput,
    values: Any,
    compute: Callable[[Any], Any] = operator.methodcaller("compute"),
) -> Dataset:
    """Return a data set with one more aligned input.

    Parameters
    ----------
    dataset : Dataset
    kind : AlignedInput
    values : array-like or number
        One entry for each row, in any form that rows may have; a number stands for every entry.
    compute : callable
        See `as_dataset`.

    Raises
    ------
    UnsupportedDataError
        For a dtype that is not a real number.
    ValueError
        If the shape is wrong; for sample weights InvalidWeightsError.
    """
    expected = kind.shape(dataset.n_rows, dataset.n_features)
    values = resolve(values, kind.name, dataset.row_kind.missing)
    if not is_lazy(values):
        values = np.asarray(values)
        if values.ndim == 0:
            values = np.broadcast_to(values, expected)
    check_dtype(kind.name, values.dtype)
    kind.check_dimensions(tuple(values.shape))
    if isinstance(values, da.Array):
        values, _ = with_known_chunks(values, compute)
    kind.check_shape(tuple(values.shape), expected)
    if isinstance(values, da.Array) and dataset.cuts is not None:
        values = values.rechunk((tuple(np.diff(dataset.cuts).tolist()), *((width,) for width in expected[1:])))
    return dataset.with_input(kind, _source(values))


def check_layout(data: Any) -> None:
    """Raise unless the array is two-dimensional, has rows and features, and holds real numbers."""
    if data.ndim != 2:
        advice = (
            "reshape your data with X.reshape(-1, 1) if they have one feature, or X.reshape(1, -1) for one sample."
            if data.ndim < 2
            else "say which axis has the features with feature_axis=, or name the sample dimensions of an xarray "
            "object with dim=; or make rows of the samples: numpy.moveaxis(X, axis, -1).reshape(-1, n_features)."
        )
        raise ValueError(
            f"X: expected 2D array, got {data.ndim}D array of shape {tuple(data.shape)!s:.100} instead. Rows are "
            f"samples and columns features: {advice}"
        )
    for count, name in zip(data.shape, ("sample(s)", "feature(s)"), strict=True):
        if count == 0:
            raise ValueError(f"Found array with 0 {name} (shape={tuple(data.shape)}) while a minimum of 1 is required.")
    if np.isnan(data.shape[1]):
        raise ValueError(
            f"X: the number of features is not known (shape={tuple(data.shape)}). Call X.compute_chunk_sizes() on this "
            "dask array first."
        )
    check_dtype("X", data.dtype)
    _check_extent("X", data)


def _check_extent(name: str, data: Any) -> None:
    """Raise unless the declared size of lazy data is plausible."""
    n_rows = data.shape[0]
    if n_rows > MOST_ROWS:
        raise UnsupportedDataError(
            f"{name} declares {n_rows} rows; expected {MOST_ROWS:.0e} at most, because no fit of more would end. Check "
            "where its shape comes from."
        )
    if isinstance(data, Source):
        data.check_extent()


def check_dtype(name: str, dtype: Any) -> None:
    """Raise `UnsupportedDataError` unless the dtype is boolean, integer or floating."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        raise UnsupportedDataError(
            f"Complex data not supported: {name} has dtype {dtype}. Pass real and imaginary parts as features."
        )
    if dtype.names:
        raise UnsupportedDataError(
            f"{name} has dtype {dtype!s:.200}; expected records in one dimension, because their fields are the "
            f"features. Choose one column, for example {name}[:, 0]."
        )
    if dtype.kind not in "biuf":
        raise UnsupportedDataError(
            f"{name} has dtype {dtype}; expected a boolean, integer or floating dtype. Convert it, for example with "
            f"{name}.astype('float64')."
        )


def _source(data: Any) -> Source:
    if isinstance(data, da.Array):
        return BlockSource(data)
    if isinstance(data, Source):
        return data
    return mapped_source(data) or ArraySource(np.asarray(data))


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of the parameter before the message of an error in the ``with`` block; X needs no name."""
    try:
        yield
    except DaskGMMError as error:
        if name != "X" and name not in str(error):
            error.args = (f"{name}: {error}",)
        raise
