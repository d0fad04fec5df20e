"""Arrays of records, whose fields are the features: recarrays, and tables in FITS files."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from ..errors import UnsupportedDataError
from .arrays import mapped_source
from .source import DerivedSource, Source

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_FIELDS = 20  # fields that a message lists


def field_names(data: Any) -> tuple[str, ...] | None:
    """Names of the fields of an array of records; None for other data."""
    names = getattr(getattr(data, "dtype", None), "names", None)
    return tuple(names) if isinstance(names, tuple) else None


def as_columns(data: Any, name: str) -> Any:
    """Convert records to an array of rows × fields, of the common dtype of all fields; return other data unchanged.

    Parameters
    ----------
    data : numpy.ndarray, numpy.memmap, dask.array.Array, Source or object
    name : str
        Name of the parameter in errors.

    Raises
    ------
    UnsupportedDataError
        If a field does not contain real numbers.
    """
    if (names := field_names(data)) is None:
        return data
    if not isinstance(data, da.Array | Source | np.ndarray):
        data = np.asarray(data)  # a table in memory
    if len(data.shape) != 1:
        return data  # refused elsewhere, for its dtype
    dtype = _common_dtype(data.dtype, name)
    if isinstance(data, da.Array):
        chunks = (data.chunks[0], (len(names),))
        return data.map_blocks(_columns, dtype, new_axis=1, chunks=chunks, dtype=dtype, meta=np.empty((0, 0), dtype))
    source = data if isinstance(data, Source) else mapped_source(data)
    return _columns(data, dtype) if source is None else RecordSource(source, names, dtype)


def masked_columns(data: np.ma.MaskedArray[Any, Any], name: str) -> np.ma.MaskedArray[Any, Any]:
    """Convert masked records to a masked array of rows × fields; return other masked arrays unchanged.

    Raises
    ------
    UnsupportedDataError
        If a field does not contain real numbers.
    """
    if field_names(data) is None or data.ndim != 1:
        return data
    masks: Any = np.ma.getmaskarray(data)
    return np.ma.array(_columns(data.data, _common_dtype(data.dtype, name)), mask=structured_to_unstructured(masks))


def _columns(records: Array, dtype: np.dtype[Any]) -> Array:
    return np.asarray(structured_to_unstructured(np.asarray(records), dtype))


def _common_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    kinds = {field: dtype[field] for field in dtype.names or ()}
    numbers = [field for field, kind in kinds.items() if kind.kind in "biuf"]
    for field, kind in kinds.items():
        if field not in numbers:
            shown = ", ".join(map(repr, numbers[:_MOST_FIELDS])) + ", …" * (len(numbers) > _MOST_FIELDS)
            raise UnsupportedDataError(
                f"{name} has dtype {dtype!s:.200}: its field {field!r:.80} is of dtype {kind!s:.80}, and features have "
                f"to be boolean, integer or floating. Choose such fields, for example {name}[[{shown or '…'}]]."
            )
    return np.result_type(*kinds.values())


class RecordRows:
    """Handle of records that reads them as rows of numbers."""

    def __init__(self, handle: Any, dtype: np.dtype[Any]) -> None:
        self._handle, self._dtype = handle, dtype

    def __getitem__(self, rows: slice) -> Array:
        return _columns(self._handle[rows], self._dtype)


class RecordSource(DerivedSource):
    """Records that are read piece by piece.

    Parameters
    ----------
    records : Source
        Source of records, in one dimension, all of whose parts are read by its handle.
    names : tuple of str
        Names of the fields.
    dtype : numpy.dtype
        Common dtype of all fields.
    """

    def __init__(self, records: Source, names: tuple[str, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(records, (records.shape[0], len(names)), dtype)
        self.handle, self.feature_names = RecordRows(records.handle, dtype), names

    def made_of(self, source: Source) -> Source:
        return RecordSource(source, self.feature_names or (), self.dtype)

    def identity(self) -> Any:
        records = self.source.identity()
        return records and ("records", records, str(self.dtype), self.feature_names)

    def reading_bytes(self, n_rows: int) -> int:
        return super().reading_bytes(n_rows) + n_rows * self.row_bytes
