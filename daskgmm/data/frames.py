"""Data frames of dask: partitions of numbers as blocks of rows, and results as frames with the same partitions."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np

from ..errors import UnsupportedDataError
from .input_kinds import InputKind
from .output import RowFunction, RowOutput, block_results
from .tables import check_columns, is_number

Array = np.ndarray[Any, np.dtype[Any]]


class DaskFrame(InputKind):
    """A data frame or series of dask."""

    def recognises(self, data: Any, name: str) -> bool:
        return hasattr(type(data), "to_dask_array")  # the type, because a Delayed object has every attribute

    def rows(self, data: Any, name: str) -> da.Array:
        meta = data._meta
        if name == "X" and data.ndim != 2:
            raise UnsupportedDataError(
                f"X is a dask {type(data).__name__}; expected a 2D array or a data frame. One column is a frame with "
                "X.to_frame(), or frame[['name']]."
            )
        dtype = _common_dtype(meta, name)
        if all(kind == dtype for kind in _dtypes(meta)):
            return data.to_dask_array()
        return data.map_partitions(_numbers, dtype, meta=_numbers(meta, dtype)).to_dask_array()

    def frame(self, data: Any) -> Any:
        return data._meta if data.ndim == 2 else None

    def map_rows(self, data: Any, function: RowFunction, rows: da.Array) -> Any:
        """Compute the results partition by partition, so that they fit beside the columns of the same frame.

        Dask gives a frame a new column only if both are made of the same partitions of one frame, or if the divisions
        are known. An array of results has neither.
        """
        (output,) = function.outputs
        # A node of its own in the graph, with a new key: a worker gets the parameters once, and no old results.
        shared = dask.delayed(function, pure=False, traverse=False)
        dtype = np.dtype(rows.dtype)
        meta = _labelled(output.empty(0), data._meta.index[:0], output)
        return data.map_partitions(_results, shared, dtype, output, meta=meta)


def _dtypes(meta: Any) -> list[Any]:
    return list(meta.dtypes) if meta.ndim == 2 else [meta.dtype]


def _may_miss(dtype: Any) -> bool:
    """Test for a nullable dtype, or one of Arrow."""
    return not isinstance(dtype, np.dtype)


def _common_dtype(meta: Any, name: str) -> np.dtype[Any]:
    """Dtype of all columns together, as scikit-learn chooses it for a frame in memory; every column is checked."""
    names = list(meta.columns) if meta.ndim == 2 else [meta.name]
    dtypes = _dtypes(meta)
    bad = {column: dtype for column, dtype in zip(names, dtypes, strict=True) if not is_number(dtype)}
    check_columns(bad, names if meta.ndim == 2 else (), name)
    if not dtypes or any(map(_may_miss, dtypes)):
        return np.dtype(np.float64)
    return np.result_type(*dtypes)


def _values(frame: Any, dtype: np.dtype[Any]) -> Array:
    """Rows of a partition, NaN where they are missing."""
    if any(map(_may_miss, _dtypes(frame))):
        return np.asarray(frame.to_numpy(dtype=dtype, na_value=np.nan))
    return np.asarray(frame.to_numpy(dtype=dtype))


def _numbers(frame: Any, dtype: np.dtype[Any]) -> Any:
    """Return a partition with all its columns in one dtype of NumPy."""
    import pandas as pd

    values = _values(frame, dtype)
    if frame.ndim == 1:
        return pd.Series(values, frame.index, name=frame.name, copy=False)
    return pd.DataFrame(values, frame.index, frame.columns, copy=False)


def _results(frame: Any, function: RowFunction, dtype: np.dtype[Any], output: RowOutput) -> Any:
    return _labelled(block_results(_values(frame, dtype), function), frame.index, output)


def _labelled(values: Array, index: Any, output: RowOutput) -> Any:
    """Make a series of results (n,), or a frame of results (n, K), with the index of the rows."""
    import pandas as pd

    if output.n_columns is None:
        return pd.Series(values, index, name=output.title or output.name, copy=False)
    columns = list(output.columns) or [f"{output.column_dim}_{k}" for k in range(output.n_columns)]
    return pd.DataFrame(values, index, columns, copy=False)
