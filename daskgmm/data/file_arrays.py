"""Arrays in netCDF, HDF5 and NumPy files."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, StoreError
from .addresses import printable
from .file_kinds import FileAddress, FileKind, listed
from .store_checks import check_file


def _open_netcdf(address: FileAddress, name: str) -> Any:
    with address.opening("xarray", "netcdf"):
        import xarray

        check_engines(address)
        # Without blocks of Dask: the kind of input that takes the variables chooses blocks for them all.
        dataset = xarray.open_dataset(address.path, chunks=None)
        known = {str(key): (variable.ndim, variable.dtype) for key, variable in dataset.variables.items()}
        several = [key.strip() for key in (address.inside or "").split(",")]
        if address.inside not in known and len(several) > 1 and set(several) <= known.keys():
            return dataset[several]
        if address.inside is None and name == "X" and _are_features(dataset):
            return dataset
        return dataset[
            _choose(address, known, {str(key): known[str(key)] for key in dataset.data_vars}, "variable", name)
        ]


def _are_features(dataset: Any) -> bool:
    """Test for several variables of numbers on one grid, which are the features as they are of a Dataset.

    Variables of two dimensions may as well be arrays of rows.
    """
    variables = list(dataset.data_vars.values())
    on_one_grid = len({variable.dims for variable in variables}) == 1 and variables[0].ndim not in (0, 2)
    return len(variables) > 1 and on_one_grid and all(variable.dtype.kind in "biuf" for variable in variables)


def check_engines(address: FileAddress) -> None:
    """Raise `MissingDependencyError` if xarray has no engine for files of netCDF 4."""
    import xarray

    if {"netcdf4", "h5netcdf"}.isdisjoint(xarray.backends.list_engines()):
        raise MissingDependencyError("h5netcdf", "netcdf", f"Reading {address.shown}")


def _open_hdf5(address: FileAddress, name: str) -> Any:
    with address.opening("h5py", "hdf5"):
        import h5py

        check_file(address.path, sys.maxsize, "arrays")
        file = h5py.File(address.path, "r")
        try:
            if address.inside is not None and isinstance(node := file.get(address.inside), h5py.Dataset):
                return node
            found: dict[str, Any] = {}
            file.visititems(lambda path, node: found.update({path: node}) if isinstance(node, h5py.Dataset) else None)
            headers = {path: (node.ndim, node.dtype) for path, node in found.items()}
            return file[_choose(address, headers, headers, "dataset", name)]
        except Exception:
            file.close()
            raise


def _open_npy(address: FileAddress, name: str) -> Any:
    with address.opening("numpy", ""):
        check_file(address.path, sys.maxsize, "arrays")
        if address.inside is not None:
            raise StoreError(
                f"{address.shown} is one array, which has no {printable(address.inside)!r} inside it. Pass the path "
                "without ::, or choose fields of the loaded array: numpy.load(path, mmap_mode='r')[['name']]."
            )
        try:
            return np.load(address.path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:  # NumPy takes anything else for pickled objects, and advises to load these
            raise StoreError(f"{address.shown} is not a .npy file of numbers, or it is damaged.") from error


def _open_npz(address: FileAddress, name: str) -> Any:
    with address.opening("numpy", ""):
        check_file(address.path, sys.maxsize, "arrays")
        if not zipfile.is_zipfile(address.path):
            raise StoreError(f"{address.shown} is not a .npz archive, or it is damaged.")
        with np.load(address.path, allow_pickle=False) as archive:
            headers = array_headers(archive)
            found = {key: (len(shape), dtype) for key, (shape, dtype) in headers.items()}
            return archive[_choose(address, found, found, "array", name)]


def array_headers(archive: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and dtypes of the arrays in an archive of NumPy, which are not loaded; other members are left out."""
    members = set(archive.zip.namelist())
    return {key: _array_header(archive, key) for key in archive.files if f"{key}.npy" in members}


def _array_header(archive: Any, key: str) -> tuple[tuple[int, ...], Any]:
    with archive.zip.open(f"{key}.npy") as member:
        version, _ = np.lib.format.read_magic(member)
        if version > 2:  # names of fields in other alphabets, for which NumPy has no public function
            array = archive[key]
            return array.shape, array.dtype
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version](member)
    return tuple(shape), dtype


def _choose(
    address: FileAddress,
    known: Mapping[str, tuple[int, Any]],
    offered: Mapping[str, tuple[int, Any]],
    what: str,
    name: str,
) -> str:
    """Name of the array that an address means: the named one, or the only one that fits.

    Parameters
    ----------
    address : FileAddress
    known : mapping
        Number of dimensions and dtype of everything that the address may name.
    offered : mapping
        The same of everything that may be meant without a name.
    what : str
        Word for an array in this kind of file.
    name : str
        Name of the parameter: rows have two dimensions, and weights have one.
    """
    if address.inside is not None:
        if address.inside in known:
            return address.inside
        raise StoreError(
            f"{address.shown} has no {what} {printable(address.inside)!r}; its {what}s are {listed(known)}."
        )
    n_dimensions = 2 if name == "X" else 1
    fitting = [key for key, (ndim, dtype) in offered.items() if ndim == n_dimensions and dtype.kind in "biuf"]
    if len(fitting) == 1 or len(offered) == 1:  # another number of dimensions is refused for what it is
        return next(iter(fitting or offered))
    if not offered:
        groups = " A group is opened with xarray.open_dataset(path, group='name')." * (what == "variable")
        raise StoreError(f"{address.shown} has no {what} of data; its {what}s are {listed(known)}.{groups}")
    example = printable((fitting or list(offered))[0])
    several = f", or several as features: path::{','.join(list(offered)[:2])}" * (what == "variable" and name == "X")
    raise StoreError(
        f"{address.shown} has {len(fitting)} {what}s of numbers with {n_dimensions} dimension(s); its {what}s are "
        f"{listed(known)}. Say which one is meant, for example as path::{example}{printable(several)}."
    )


NETCDF = FileKind("netCDF file", (".nc", ".nc4", ".netcdf"), _open_netcdf)
HDF5 = FileKind("HDF5 file", (".h5", ".hdf5", ".hdf", ".he5", ".h5ad"), _open_hdf5)
NPY = FileKind("NumPy file", (".npy",), _open_npy)
NPZ = FileKind("archive of NumPy files", (".npz",), _open_npz)
