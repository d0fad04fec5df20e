"""Tables in memory: data frames of pandas and polars, Arrow tables, tables of astropy; and columns that hold weights.

The columns are the features. Their types are checked by name here; scikit-learn's own validation makes an array of the
table and compares the names with those of the fit. Tables are recognised by their classes, so that no library is
imported for them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InvalidWeightsError, StoreNotFoundError, UnsupportedDataError
from .addresses import local_path, printable, split_address, without_secrets
from .files import file_kind, open_file
from .input_kinds import InputKind

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_NAMES = 20  # columns that a message lists

_NUMBERS = re.compile(r"(u?int\d+|half_?float|float\d*|double|bool(ean)?|decimal\d*|null)\b", re.IGNORECASE)
"""Names of the types of numbers in polars and Arrow; a column of type null has no values at all."""

_UNREAD = ("Dataset", "Scanner", "ParquetFile", "ParquetDataset", "RecordBatchReader")
"""Classes of Arrow for rows that are not in memory."""

_OBJECTS = {"floating", "integer", "mixed-integer-float", "decimal", "boolean", "empty"}
"""Kinds of objects that pandas' ``infer_dtype`` finds in a column of numbers."""


def check_columns(
    bad: Mapping[Any, Any], names: Iterable[Any], name: str, *, choice: str = "{name}[{columns}]"
) -> None:
    """Raise `UnsupportedDataError` if some columns do not hold real numbers, or have the same name.

    Parameters
    ----------
    bad : mapping
        Types of the columns that are no numbers, by the column's name.
    names : iterable
        Names of all columns.
    name : str
        Name of the parameter in errors.
    choice : str
        Code that chooses columns of such a table.
    """
    names = list(names)
    if repeated := [column for i, column in enumerate(names) if column in names[:i]]:
        raise UnsupportedDataError(
            f"{name} has several columns with the name {printable(repr(repeated[0]), 80)}; expected different names."
        )
    if not bad:
        return
    column, kind = next(iter(bad.items()))
    numbers = [other for other in names if other not in bad]
    shown = f"[{', '.join(map(repr, numbers[:_MOST_NAMES]))}{', …' * (len(numbers) > _MOST_NAMES)}]"
    advice = f" Choose such columns, for example {choice.format(name=name, columns=shown)}." if numbers else ""
    raise UnsupportedDataError(
        f"{name}: the column {printable(repr(column), 80)} is of dtype {kind!s:.80}, and "
        f"{'features' if name == 'X' else 'weights'} have to be boolean, integer or floating.{advice} Categories and "
        "times have to be encoded as numbers first."
    )


def is_number(dtype: Any) -> bool:
    """Test a dtype of pandas or NumPy for real numbers, nullable and Arrow's ones included."""
    return getattr(dtype, "kind", "O") in "biuf" or is_decimal(dtype)


def is_decimal(dtype: Any) -> bool:
    """Test a dtype of pandas for Arrow's decimals."""
    return not isinstance(dtype, np.dtype) and str(dtype).startswith("decimal")


def is_object(dtype: Any) -> bool:
    """Test a dtype of pandas for NumPy's object, which may be anything."""
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def _is(data: Any, package: str, *names: str) -> bool:
    """Test for an object of one of a package's classes, or of a subclass, without importing the package."""
    return package in sys.modules and any(
        kind.__name__ in names and kind.__module__.partition(".")[0] == package for kind in type(data).__mro__
    )


class PandasFrame(InputKind):
    """A data frame of pandas."""

    def recognises(self, data: Any, name: str) -> bool:
        return name == "X" and _is(data, "pandas", "DataFrame")

    def rows(self, data: Any, name: str) -> Any:
        dtypes = list(data.dtypes)
        objects = {
            i
            for i, kind in enumerate(dtypes)
            if is_decimal(kind) or (is_object(kind) and _holds_numbers(data.iloc[:, i]))
        }
        bad = {
            column: kind
            for i, (column, kind) in enumerate(zip(data.columns, dtypes, strict=True))
            if not is_number(kind) and i not in objects
        }
        check_columns(bad, data.columns, name)
        if not dtypes:
            return np.empty(data.shape)  # scikit-learn has no words for a frame without columns
        if not objects:
            return data
        columns = [as_floats(data.iloc[:, i]) if i in objects else data.iloc[:, i] for i in range(len(dtypes))]
        numbers = type(data)(dict(enumerate(columns)), index=data.index)
        numbers.columns = data.columns
        return numbers


def _holds_numbers(column: Any) -> bool:
    kind = sys.modules["pandas"].api.types.infer_dtype(column, skipna=True)
    return kind in _OBJECTS


def as_floats(column: Any) -> Array:
    """Values of a pandas Series or frame in double precision, NaN where they are missing."""
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


class PandasSeries(InputKind):
    """A column of pandas whose numbers may be missing: nullable, or of Arrow."""

    def recognises(self, data: Any, name: str) -> bool:
        return _is(data, "pandas", "Series") and not isinstance(data.dtype, np.dtype) and is_number(data.dtype)

    def rows(self, data: Any, name: str) -> Any:
        return as_floats(data)


class PolarsFrame(InputKind):
    """A data frame of polars; a lazy one is refused, because polars decides itself how to read it."""

    def recognises(self, data: Any, name: str) -> bool:
        return _is(data, "polars", "DataFrame", "LazyFrame")

    def rows(self, data: Any, name: str) -> Any:
        if _is(data, "polars", "LazyFrame"):
            raise UnsupportedDataError(
                f"{name} is a LazyFrame of polars, whose rows are not known yet. Collect it, {name}.collect(), if the "
                "rows fit in memory; otherwise write them with sink_parquet(path), and pass the path."
            )
        kinds = dict(data.schema)
        bad = {column: kind for column, kind in kinds.items() if not _NUMBERS.match(str(kind))}
        check_columns(bad, kinds, name)
        return data


class ArrowTable(InputKind):
    """A table or record batch of Arrow; its data sets and files, which are not read yet, are refused."""

    def recognises(self, data: Any, name: str) -> bool:
        return _is(data, "pyarrow", "Table", "RecordBatch", *_UNREAD)

    def rows(self, data: Any, name: str) -> Any:
        if _is(data, "pyarrow", *_UNREAD):
            raise UnsupportedDataError(
                f"{name} is a {type(data).__name__} of Arrow, whose rows are not read yet. Pass the path of the files, "
                "which are then read piece by piece, or a table, if the rows fit in memory."
            )
        kinds = {field.name: field.type for field in data.schema}
        bad = {column: kind for column, kind in kinds.items() if not _NUMBERS.match(str(kind))}
        check_columns(bad, data.schema.names, name, choice="{name}.select({columns})")
        if _is(data, "pyarrow", "RecordBatch"):
            data = sys.modules["pyarrow"].Table.from_batches([data])  # scikit-learn sees no names of a batch
        for i, column in enumerate(data.columns):
            values = column.to_numpy()
            if values.dtype.kind == "O":  # decimals, and booleans with nulls
                data = data.set_column(i, data.column_names[i], [values.astype(np.float64)])
        return data


class AstropyTable(InputKind):
    """A table of astropy, whose columns may be masked."""

    def recognises(self, data: Any, name: str) -> bool:
        return _is(data, "astropy", "Table")

    def rows(self, data: Any, name: str) -> Any:
        columns = {column: np.ma.asarray(data[column]) for column in data.colnames}
        bad = {
            column: values.dtype if values.ndim == 1 else f"{values.dtype} and has {values.ndim} dimensions"
            for column, values in columns.items()
            if values.dtype.kind not in "biuf" or values.ndim != 1
        }
        check_columns(bad, columns, name)
        if not columns:
            return np.empty((len(data), 0))
        joined = np.ma.stack(list(columns.values()), axis=1)
        return joined if joined.mask.any() else joined.data

    def feature_names(self, data: Any) -> tuple[str, ...] | None:
        return tuple(map(str, data.colnames))


def _is_dict(data: Any) -> bool:
    return isinstance(data, dict) and not hasattr(type(data), "shape")  # some sparse matrices of SciPy are dicts, too


class Records(InputKind):
    """Python's own records, which are refused with the line that makes a table of them."""

    def recognises(self, data: Any, name: str) -> bool:
        return name == "X" and (_is_dict(data) or (isinstance(data, list | tuple) and bool(data) and _is_dict(data[0])))

    def rows(self, data: Any, name: str) -> Any:
        several = type(data).__name__ if _is_dict(data) else f"{type(data).__name__} of records"
        raise UnsupportedDataError(
            f"{name} is a {several}; expected a 2D array, or a table with the features as columns: "
            f"pandas.DataFrame({name})."
        )


TABLES: tuple[InputKind, ...] = (PandasFrame(), PandasSeries(), PolarsFrame(), ArrowTable(), AstropyTable(), Records())
"""Kinds of tables in memory."""


# ---- weights in a column


def column_names(data: Any) -> list[Any] | None:
    """Names of the columns of a table or dask frame, or of the fields of records; None for other data."""
    if _is(data, "pyarrow", "Table", "RecordBatch"):
        return list(data.column_names)
    if _is(data, "astropy", "Table"):
        return list(data.colnames)
    if _is(data, "pandas", "DataFrame") or _is(data, "polars", "DataFrame"):
        return list(data.columns)
    if hasattr(type(data), "to_dask_array"):
        return list(data.columns) if data.ndim == 2 else None
    names = getattr(getattr(data, "dtype", None), "names", None) if isinstance(data, np.ndarray) else None
    return None if names is None else list(names)


def split_weights(X: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Take the weights out of a table, if they are the name of one of its columns.

    Parameters
    ----------
    X : object
        Data of any kind.
    sample_weight : str or object
        Name of a column of a table or data frame, or a path of weights; other objects are weights themselves.

    Returns
    -------
    X : object
        The table without the column.
    sample_weight : object
        The column, or the weights as they were.

    Raises
    ------
    InvalidWeightsError
        If a table has no such column, and there is nothing at such a path.
    StoreNotFoundError
        If the data are no table, and there is nothing at such a path.
    """
    if not isinstance(sample_weight, str) or _is(X, "xarray", "DataArray", "Dataset"):
        return X, sample_weight  # weights of labelled samples are found by their grid
    if _is(X, "polars", "LazyFrame") or _is(X, "pyarrow", *_UNREAD):
        return X, sample_weight  # such data are refused, with what to pass instead
    if (kind := file_kind(X)) is not None and kind.is_table:
        X = open_file(X)
    names = column_names(X)
    if names is not None and sample_weight in names:
        if names.count(sample_weight) > 1:
            raise InvalidWeightsError(f"sample_weight={sample_weight!r}: X has several columns of that name.")
        return _without(X, sample_weight, names), _column(X, sample_weight)
    if _is_path(sample_weight):
        return X, sample_weight
    shown = repr(printable(without_secrets(sample_weight)))
    if names is not None:
        columns = ", ".join(printable(repr(name), 80) for name in names[:_MOST_NAMES])
        raise InvalidWeightsError(
            f"sample_weight={shown}: X has no such column, and there is nothing at such a path. The columns of X are "
            f"{columns or 'none'}{', …' * (len(names) > _MOST_NAMES)}."
        )
    raise StoreNotFoundError(
        f"sample_weight: There is nothing at {shown[1:-1]}. A text is the path of weights, relative to {os.getcwd()}; "
        f"it names a column only if X is a table or data frame, and X is {_with_article(type(X).__name__)}."
    )


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in tuple('aeio') or noun == 'ndarray' else 'a'} {noun}"


def _is_path(text: str) -> bool:
    path = local_path(split_address(text)[0])
    return path is None or os.path.exists(path)


def _column(X: Any, name: str) -> Any:
    if _is(X, "astropy", "Table"):
        return np.ma.asarray(X[name])  # NumPy drops the mask of a quantity
    return X[name]


def _without(X: Any, column: str, names: list[Any]) -> Any:
    """Return a table without one column."""
    others = [name for name in names if name != column]
    return X.select(others) if _is(X, "pyarrow", "Table", "RecordBatch") else X[others]
