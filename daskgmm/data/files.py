"""Files that are not Zarr stores: Parquet, CSV, netCDF, HDF5 and NumPy files, each opened by the library made for them.

The end of a name decides the kind of file. What a library opens (a dask data frame, an xarray DataArray, a dataset of
h5py, a memory map) is an input of another kind, which says how rows are read and what results are. The libraries are
imported when a file of theirs is opened.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import glob, has_magic
from typing import Any

from ..errors import DaskGMMError, StoreError, StoreNotFoundError, UnsupportedDataError
from .addresses import local_path, printable, split_address, without_secrets
from .file_arrays import HDF5, NETCDF, NPY, NPZ
from .file_kinds import FileAddress, FileKind
from .file_tables import CSV, PARQUET
from .retry import describe_error
from .source import LONGEST_ADDRESS
from .store import open_zarr

KINDS = (PARQUET, CSV, NETCDF, HDF5, NPY, NPZ)
"""Kinds of files."""

_ZARR = ("zarr.json", ".zarray", ".zgroup")
_READERS = {"pyarrow", "pandas", "fsspec", "xarray", "netCDF4", "h5netcdf", "h5py", "s3fs", "aiohttp"}


def file_kind(data: Any) -> FileKind | None:
    """Kind of the file at an address, or of the parts of a table in a list of addresses; None for everything else.

    Parameters
    ----------
    data : object
        A path or URL, a list or tuple of them, or anything else.
    """
    if isinstance(data, list | tuple):
        kinds = {file_kind(part) for part in data} if data and all(map(_is_address, data)) else {None}
        kind = kinds.pop()
        return kind if not kinds and kind is not None and kind.is_table else None
    if not _is_address(data):
        return None
    if not isinstance(text := os.fspath(data), str):
        return None  # a path of bytes
    path = split_address(text)[0]
    local = local_path(path)
    if local is not None and os.path.isdir(local):
        return _kind_of_folder(local)
    return next((kind for kind in KINDS if kind.fits(path)), None)


def _is_address(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)


def _kind_of_folder(path: str) -> FileKind | None:
    """Kind of the tables in a folder of parts; None for a Zarr store, and for other folders."""
    if any(os.path.exists(os.path.join(path, name)) for name in _ZARR):
        return None  # before the folder is listed: an array may have a million chunks in it
    try:
        names = os.listdir(path)
    except OSError:
        return None  # refused with the reason where the folder is opened
    if any(map(PARQUET.fits, (path, *names))) or any("=" in name for name in names):  # a=1/part.0.parquet
        return PARQUET
    return CSV if any(map(CSV.fits, names)) else None


def open_file(
    data: Any,
    name: str = "X",
    inside: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Open a file, or several parts of a table, with the library that is made for such files; no rows are read.

    Parameters
    ----------
    data : str, path, or sequence of them
        Address, of a kind that `file_kind` knows.
    name : str
        Name of the parameter in errors.
    inside : str, optional
        Name of an array or variable, or of columns, instead of ``::``.
    storage_options : mapping, optional
        Options of the file system of URLs.

    Returns
    -------
    dask.dataframe.DataFrame, xarray.DataArray, h5py.Dataset or numpy.ndarray

    Raises
    ------
    StoreNotFoundError
        If there is nothing at the address.
    StoreError
        If the file is damaged, holds several arrays of which none is named, or cannot be read from a URL.
    MissingDependencyError
        If the library is not installed.
    """
    if (kind := file_kind(data)) is None:
        raise StoreError(f"{name} is not a file of a known kind: {', '.join(e for k in KINDS for e in k.ends)}.")
    address = locate(data, inside, storage_options)
    check_there(address, kind)
    return kind.open(address, name)


def locate(data: Any, inside: str | None = None, storage_options: Mapping[str, Any] | None = None) -> FileAddress:
    """Make the address of a file, or of the parts of a table; see `open_file`."""
    texts = [os.fspath(part) for part in data] if isinstance(data, list | tuple) else [os.fspath(data)]
    split = [split_address(text) for text in texts]
    if inside is not None and any(name not in (None, inside) for _, name in split):
        raise StoreError(f"address names {split[0][1]!r} and array={inside!r} names another; give only one of them")
    if len({name for _, name in split}) > 1:
        raise StoreError(
            f"{printable(without_secrets(texts[0]))} and the other parts of the table choose different columns; choose "
            "the same columns of all parts, in the same order."
        )
    paths = [local_path(path) or path for path, _ in split]
    options = dict(storage_options or {}) if "://" in paths[0] else {}
    shown = printable(without_secrets(split[0][0])) + f" and {len(paths) - 1} others" * (len(paths) > 1)
    return FileAddress(paths[0], split[0][1] if inside is None else inside, tuple(paths[1:]), shown, options)


def check_there(address: FileAddress, kind: FileKind) -> None:
    """Raise `StoreNotFoundError` if there is nothing at an address, and `StoreError` for a URL that cannot be read."""
    for path in (address.path, *address.others):
        if "://" in path and not kind.is_table:
            raise StoreError(
                f"{address.shown} ({kind.name}) is at a URL, where such files cannot be read piece by piece. Download "
                "the file, or convert it to Zarr."
            )
        if "://" not in path and not os.path.exists(path) and not (kind.is_table and glob(path)):
            which = "no file has such a name" if has_magic(path) else f"relative paths begin at {os.getcwd()}"
            raise StoreNotFoundError(f"There is nothing at {address.shown}. Check the path; {which}.")


def open_address(
    data: Any, name: str = "X", inside: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Any:
    """Open the file or the Zarr array at an address; see `open_file` and `daskgmm.data.store.open_zarr`."""
    if file_kind(data) is None:
        return open_zarr(data, inside, storage_options=storage_options)
    return open_file(data, name, inside, storage_options)


def file_address(data: Any) -> str | None:
    """Absolute path or URL of a file, without secrets, for records; None for anything but a file."""
    if file_kind(data) is None:
        return None
    address = locate(data)
    inside = "" if address.inside is None else f"::{address.inside}"
    others = f" and {len(address.others)} others" if address.others else ""
    return printable(f"{without_secrets(address.path)}{inside}{others}", LONGEST_ADDRESS - 1)


# ---- errors while rows are read


@contextmanager
def naming_files(data: Any) -> Iterator[None]:
    """Turn errors of another library in the ``with`` block, which reads rows, into errors of the file.

    Parameters
    ----------
    data : object
        Input of any kind; for anything but a file, errors stay as they are.
    """
    try:
        yield
    except UnsupportedDataError as error:
        if _is_table(data):
            error.add_note(f"An address may choose columns of a table, for example {locate(data).shown}::a,b")
        raise
    except (DaskGMMError, MemoryError, Warning):
        raise
    except Exception as error:
        if file_kind(data) is None or not _is_of_reader(error):
            raise
        address = locate(data)
        secrets = address.secrets
        raise StoreError(
            f"{address.shown} cannot be read ({printable(secrets.hide(describe_error(error)), 400)}). A part of it is "
            "damaged, has other columns or types than the first rows, or cannot be reached."
        ) from secrets.cause(error)


@contextmanager
def suggesting_columns(data: Any, names: Iterable[str]) -> Iterator[None]:
    """Add a note to a `ValueError` in the ``with`` block: the address of some columns of a table.

    Parameters
    ----------
    data : object
        Input of any kind; for anything but the address of a table, nothing is added.
    names : iterable of str
        Names of the columns.
    """
    try:
        yield
    except ValueError as error:
        if _is_table(data):
            error.add_note(f"An address may choose columns of the table: {locate(data).shown}::{','.join(names)}")
        raise


def _is_table(data: Any) -> bool:
    """Test for one address of a table."""
    return _is_address(data) and (kind := file_kind(data)) is not None and kind.is_table


def _is_of_reader(error: Exception) -> bool:
    """Test for an error that was raised in a library that reads files."""
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(place.partition(".")[0] in _READERS or place.startswith("dask.dataframe") for place in places)
