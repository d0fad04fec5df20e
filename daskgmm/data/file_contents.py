"""Contents of files that are not Zarr stores, as records for JSON: columns of tables, arrays of other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import StoreError
from .addresses import printable
from .file_arrays import HDF5, NETCDF, NPY, NPZ, array_headers, check_engines
from .file_kinds import FileAddress, FileKind
from .file_tables import CSV, PARQUET
from .files import check_there, file_kind, locate
from .store_checks import product

Record = dict[str, Any]


def file_record(data: Any, storage_options: Mapping[str, Any] | None = None) -> Record:
    """Describe the contents of a file of a kind that `daskgmm.data.files.file_kind` knows; no rows are read.

    Raises
    ------
    StoreNotFoundError, StoreError, MissingDependencyError
        If nothing is there, the contents are damaged, or the library for such files is not installed.
    """
    kind, address = file_kind(data), locate(data, storage_options=storage_options)
    if kind is None:
        raise StoreError(f"{address.shown} is not a file of a known kind.")
    check_there(address, kind)
    shown = address.shown if address.inside is None else f"{address.shown}::{printable(address.inside)}"
    return {"kind": kind.name, "path": shown, **_CONTENTS[kind.name](address)}


def _parquet(address: FileAddress) -> Record:
    rows: Record = {}
    frame = PARQUET.open(address, "X")
    with address.opening("pyarrow", "frames"):
        import pyarrow.parquet

        if "://" not in address.path:
            rows = {"n_rows": sum(pyarrow.parquet.read_metadata(path).num_rows for path in address.parts(PARQUET.ends))}
    return rows | _table(frame, address, PARQUET)


def _csv(address: FileAddress) -> Record:
    return _table(CSV.open(address, "X"), address, CSV)


def _table(frame: Any, address: FileAddress, kind: FileKind) -> Record:
    columns = {printable(str(column)): str(kind) for column, kind in zip(frame.columns, frame.dtypes, strict=True)}
    return {"n_files": len(address.parts(kind.ends)), "columns": columns}


def _netcdf(address: FileAddress) -> Record:
    with address.opening("xarray", "netcdf"):
        import xarray

        check_engines(address)
        with xarray.open_dataset(address.path, chunks=None) as dataset:
            found = {
                str(name): _record(variable.shape, variable.dtype, dims=list(map(str, variable.dims)))
                for name, variable in dataset.variables.items()
            }
            return _arrays(address, found)


def _hdf5(address: FileAddress) -> Record:
    with address.opening("h5py", "hdf5"):
        import h5py

        found: Record = {}

        def note(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                chunks = list(node.chunks) if node.chunks else None
                found[name] = _record(node.shape or (), node.dtype, chunks=chunks)

        with h5py.File(address.path, "r") as file:
            if address.inside is None:
                file.visititems(note)
            else:  # links, which are not visited, have names, too
                note(address.inside, file.get(address.inside))
        return _arrays(address, found)


def _npy(address: FileAddress) -> Record:
    array = NPY.open(address, "X")
    return _record(array.shape, array.dtype)


def _npz(address: FileAddress) -> Record:
    with address.opening("numpy", ""), np.load(address.path, allow_pickle=False) as archive:
        headers = array_headers(archive)
    return _arrays(address, {name: _record(*header) for name, header in headers.items()})


def _record(shape: tuple[int, ...], dtype: Any, **more: Any) -> Record:
    return {"shape": list(shape), "dtype": str(dtype), **more, "bytes": product(shape) * dtype.itemsize}


def _arrays(address: FileAddress, found: Record) -> Record:
    if address.inside is None:
        return {"arrays": {printable(name): array for name, array in found.items()}}
    several = [name.strip() for name in address.inside.split(",")]
    if address.inside not in found and len(several) > 1 and set(several) <= found.keys():
        return {"arrays": {printable(name): found[name] for name in several}}
    if address.inside not in found:
        raise StoreError(f"{address.shown} has no {printable(address.inside)!r} inside it.")
    return dict(found[address.inside])


_CONTENTS: dict[str, Callable[[FileAddress], Record]] = {
    PARQUET.name: _parquet,
    CSV.name: _csv,
    NETCDF.name: _netcdf,
    HDF5.name: _hdf5,
    NPY.name: _npy,
    NPZ.name: _npz,
}
