"""Tables in Parquet and CSV files, as data frames of dask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
from dask.utils import natural_sort_key

from ..errors import StoreError, UnsupportedDataError
from .addresses import printable, without_secrets
from .file_kinds import MOST_NAMES, FileAddress, FileKind, listed
from .retry import describe_error

_PARTITION = "32 MiB"
"""Size of a partition in memory: Dask's own 256 MiB, times the number of threads, are much for a pass."""


def _open_parquet(address: FileAddress, name: str) -> Any:
    with address.opening("dask.dataframe", "frames"):
        import dask.dataframe

        for path in address.parts(PARQUET.ends):
            _check_footer(path)
        frames = [
            dask.dataframe.read_parquet(paths, blocksize=_PARTITION, storage_options=dict(address.options))
            for paths in _as_given(address.path, *address.others)
        ]
        return _columns(frames[0] if len(frames) == 1 else dask.dataframe.concat(frames), address, name)


def _as_given(*paths: str) -> list[str | list[str]]:
    """Arguments of ``read_parquet`` that keep the order of the paths; Dask sorts a list of files by their names."""
    if list(paths) == sorted(paths, key=natural_sort_key) and all(map(_is_file, paths)):
        return [_one_or_all(*paths)]
    return list(paths)


def _is_file(path: str) -> bool:
    return "://" in path or os.path.isfile(path)


def _one_or_all(*paths: str) -> str | list[str]:
    return paths[0] if len(paths) == 1 else list(paths)


def _check_footer(path: str) -> None:
    """Raise `StoreError` if the metadata of a local Parquet file are damaged; Dask looks at the first file only."""
    if "://" in path:
        return
    import pyarrow.parquet

    try:
        pyarrow.parquet.read_metadata(path)
    except Exception as error:
        raise StoreError(
            f"{printable(path)} cannot be opened with pyarrow ({printable(describe_error(error))}). The file is "
            "damaged, incomplete or no Parquet file: copy it again."
        ) from error


def _open_csv(address: FileAddress, name: str) -> Any:
    paths = address.parts(CSV.ends)
    how: dict[str, Any] = {"storage_options": dict(address.options), "enforce": True}
    if not all(path.endswith(".csv") for path in paths):
        how["blocksize"] = None  # a compressed file is one piece
    with address.opening("dask.dataframe", "frames"):
        import dask.dataframe

        frame = dask.dataframe.read_csv(_one_or_all(*paths), **how)
        _check_header(frame, address)
        _check_parts(paths, list(frame.columns), address)
        # Types follow from the first rows, and later ones may have fractions, or nothing, where these have integers.
        # Nothing would become True in a column of truth values.
        types = {"i": np.float64, "u": np.float64, "b": "boolean"}
        kinds = {column: getattr(kind, "kind", "O") for column, kind in frame.dtypes.items()}
        if wider := {column: types[kind] for column, kind in kinds.items() if kind in types}:
            frame = dask.dataframe.read_csv(_one_or_all(*paths), dtype=wider, **how)
        return _columns(frame, address, name)


def _check_header(frame: Any, address: FileAddress) -> None:
    """Raise `UnsupportedDataError` for a file whose first line does not name all columns."""
    names = [str(column) for column in frame.columns]
    if names and all(map(_is_number, names)):
        raise UnsupportedDataError(
            f"{address.shown} begins with a line of numbers; expected the names of the columns. Open the file with "
            f"dask.dataframe.read_csv({address.shown!r}, header=None), and pass the result; without header=None if "
            "these numbers are the names."
        )
    if address.inside is None and any(column.startswith("Unnamed: ") for column in names):
        raise UnsupportedDataError(
            f"{address.shown} has a column without a name, such as the row numbers that pandas writes. Choose the "
            f"columns that are features: path::{','.join(n for n in names[:MOST_NAMES] if 'Unnamed: ' not in n)}"
        )


def _check_parts(paths: Sequence[str], columns: list[Any], address: FileAddress) -> None:
    """Raise `UnsupportedDataError` unless the first line of every part names all columns, in the order of the table."""
    import pandas as pd

    n_rows = 0
    for part in (part for path in paths for part in fsspec.open_files(path, "rb", "infer", **address.options)):
        try:
            with part as file:
                first = pd.read_csv(file, nrows=1)
        except pd.errors.EmptyDataError:
            continue  # a part without rows
        shown = printable(without_secrets(part.path))
        if list(first.columns) != columns:
            raise UnsupportedDataError(
                f"{shown} has the columns {listed(first.columns)}; expected those of the first part of the table, in "
                f"the same order: {listed(columns)}."
            )
        if len(first) and not isinstance(first.index, pd.RangeIndex):  # pandas takes surplus entries for labels of rows
            raise UnsupportedDataError(
                f"The rows of {shown} have more entries than its first line has names. Name every column there, or "
                "open the file with dask.dataframe.read_csv and its options, and pass the result."
            )
        n_rows += len(first)
    if not n_rows:
        raise UnsupportedDataError(f"{address.shown} has no rows; expected a line of names, and a line for each row.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(frame: Any, address: FileAddress, name: str) -> Any:
    """Choose the columns that the address names; one column of weights is a series."""
    if address.inside is None:
        return frame
    names = {str(column).strip(): column for column in frame.columns} | {column: column for column in frame.columns}
    given = [column.strip() for column in address.inside.split(",")]
    chosen = [names.get(column, column) for column in given]
    if missing := [column for column in chosen if column not in frame.columns]:
        raise StoreError(
            f"{address.shown} has no column {printable(missing[0])!r}; its columns are {listed(frame.columns)}."
        )
    return frame[chosen] if name == "X" or len(chosen) > 1 else frame[chosen[0]]


PARQUET = FileKind("Parquet table", (".parquet", ".parq", ".pq"), _open_parquet, is_table=True)
CSV = FileKind("CSV table", (".csv", ".csv.gz", ".csv.bz2", ".csv.xz"), _open_csv, is_table=True)
