"""Zarr arrays and groups at paths and URLs.

Consolidated metadata are a group's copy of its arrays' metadata, which may be outdated. They are used to list a group;
an array is read by its own metadata.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.core.sync import sync
from zarr.storage import StorePath

from ..errors import StoreError, StoreNotFoundError
from .addresses import Secrets, hide_urls, local_path, printable, split_address, without_secrets
from .locations import Address, Location, address_of, describe, is_open_store
from .ome import highest_resolution
from .retry import is_of_storage
from .store_checks import check_documents, check_members

__all__ = [
    "address_of",
    "arrays_of",
    "describe",
    "local_path",
    "member",
    "open_node",
    "open_zarr",
    "pick_array",
    "split_address",
    "without_secrets",
]

_LONGEST_NAME = 1000
_MOST_NAMES = 20  # names that a message lists
_MOST_GROUPS = 20  # groups that are listed for a message

#: Packages with the file systems of URLs.
_INSTALL = {
    "http": "'daskgmm[remote]'",
    "https": "'daskgmm[remote]'",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
}

#: Code that opens files of other kinds, by the ends of their names.
_OTHER_FILES = {
    (".npy",): "numpy.load({path!r}, mmap_mode='r')",
    (".npz",): "numpy.load({path!r})['name']",
    (".csv", ".tsv", ".txt"): "dask.dataframe.read_csv({path!r})",
    (".parquet", ".parq", ".pq"): "dask.dataframe.read_parquet({path!r})",
    (".h5", ".hdf5", ".hdf", ".he5", ".h5ad"): "h5py.File({path!r})['name']",
    (".feather", ".arrow", ".ipc"): "pandas.read_feather({path!r})",
    (".fits", ".fit", ".fits.gz", ".vot", ".ecsv"): "astropy.table.Table.read({path!r})",
    (".xlsx", ".xls", ".ods"): "pandas.read_excel({path!r})",
    (".nc", ".nc4", ".cdf"): "xarray.open_dataset({path!r}, chunks={{}})['name']",
}


def open_zarr(
    address: Address,
    array: str | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Open an array of rows in a Zarr store, for reading.

    Parameters
    ----------
    address : str, path or store
        A path or URL of an array or group, Zarr format 2 or 3: ``data.zarr``, ``~/data.zarr.zip``,
        ``file:///data.zarr``, ``s3://bucket/data.zarr``, or with the array inside the group, ``data.zarr::temperature``
        or ``data.zarr::group/temperature``. Or an open store: a zarr Store, StorePath or Group, or a mapper of fsspec.
    array : str, optional
        Name of the array inside the group, instead of ``::``.
    storage_options : mapping, optional
        Options of the URL's file system, such as ``{"anon": True}``; without effect for a local path. Worker processes
        open the store with the same options.

    Returns
    -------
    zarr.Array
        Indexing the array gives the stored numbers. Estimators decode these by the array's attributes
        (``scale_factor``, ``_FillValue``, …).

    Raises
    ------
    StoreNotFoundError
        If there is nothing at the address.
    StoreError
        If there is something other than Zarr, a damaged array, or a group with several arrays and no name is given.
    TypeError, ValueError
        If the address or the options are of another kind, or if there are options for an open store.
    """
    if is_open_store(address):
        return pick_array(open_node(address, storage_options), array)
    location = Location.of(address, storage_options, "address")
    path, inside = split_address(location.address)
    if inside is not None and array is not None and inside != array:
        raise StoreError(f"address names the array {inside!r} and array={array!r} names another; give only one of them")
    return pick_array(open_node(path, location.options), inside if array is None else array)


def open_node(address: Any, storage_options: Mapping[str, Any] | None = None) -> zarr.Array[Any] | zarr.Group:
    """Open the array or group at an address, for reading.

    Parameters
    ----------
    address : str, path, store or Location
    storage_options : mapping, optional
        Options of a URL's file system.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at the address.
    StoreError
        If there is something other than Zarr, or something damaged.
    """
    location = Location.of(address, storage_options, "address")
    if not location.address and location.store is None:
        raise StoreNotFoundError("The address is empty; expected a path or URL, such as data.zarr.")
    secrets, shown = location.secrets, printable(location.name)
    try:
        return _open_local(location, shown) if location.path else _open_elsewhere(location, secrets)
    except (StoreError, StoreNotFoundError):
        raise
    except FileNotFoundError as error:
        advice = _otherwise(location.path or location.address, shown)
        if location.path is None:
            raise StoreNotFoundError(f"There is no Zarr array or group at {shown}.{advice}") from secrets.cause(error)
        raise StoreError(
            f"{shown} is not a Zarr array or group (no zarr.json, .zarray or .zgroup in it)."
            + (advice or " Write the data with zarr.create_array, dask's to_zarr or xarray's to_zarr.")
        ) from error
    except ImportError as error:
        raise StoreError(
            f"{shown} cannot be opened: {secrets.hide(str(error))}. {to_install(location.address)}."
        ) from secrets.cause(error)
    except Exception as error:
        raise _unreadable(shown, error, secrets) from secrets.cause(error)


def _open_local(location: Location, shown: str) -> zarr.Array[Any] | zarr.Group:
    """Open a directory or an archive on this machine."""
    path, address = str(location.path), location.address
    _check_there(path, shown, is_relative=not address.startswith(("/", "~", "file:")))
    check_documents(path)
    return zarr.open(zarr.storage.ZipStore(path) if _is_archive(path) else path, mode="r")


def _open_elsewhere(location: Location, secrets: Secrets) -> zarr.Array[Any] | zarr.Group:
    """Open a URL, or a place in an open store."""
    if location.store is not None:
        return _open_in(location.store)
    with warnings.catch_warnings(record=True) as caught:
        node = zarr.open(location.address, mode="r", storage_options=dict(location.options) or None)
    for warning in caught:  # Zarr and the file system name the whole URL
        warnings.warn(secrets.hide(str(warning.message)), warning.category, stacklevel=4)
    return node


def _open_in(place: StorePath) -> zarr.Array[Any] | zarr.Group:
    store = place.store
    if not store.read_only:
        try:
            store = store.with_read_only(True)
        except NotImplementedError:  # a class without read-only copies
            return zarr.open(place, mode="r+")
    return zarr.open(StorePath(store, place.path), mode="r")


def _check_there(location: str, shown: str, *, is_relative: bool) -> None:
    if not os.path.exists(location):
        several = " For several stores, join their arrays with dask.array.concatenate." if "*" in location else ""
        where = f"; it is relative to {os.getcwd()}" if is_relative else ""
        raise StoreNotFoundError(f"There is nothing at {shown}. Check the path{where}.{several}")
    if not os.path.isdir(location) and not os.path.isfile(location):
        check_documents(location)
        raise StoreError(f"{shown} is neither a directory nor a file: there is no Zarr array or group in it.")


def _is_archive(location: str) -> bool:
    return os.path.isfile(location) and zipfile.is_zipfile(location)


def to_install(url: str) -> str:
    """Advice for a URL whose file system is not installed."""
    package = _INSTALL.get(url.rpartition("::")[2].partition("://")[0].lower())
    return f"Try pip install {package}" if package else "Install the file system of that URL"


def _otherwise(location: str, shown: str) -> str:
    """Advice for an address of a file that is not a store, by the kind of file; empty for unknown kinds."""
    for ends, line in _OTHER_FILES.items():
        if location.lower().endswith(ends):
            return f" Open it with the library that reads such files, and pass the result: {line.format(path=shown)}"
    if _is_archive(location):
        with zipfile.ZipFile(location) as archive:
            folders = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
        if len(folders) == 1:
            folder = printable(folders.pop())
            return f" All files of this archive are below a folder {folder}: archive the contents of that folder."
    elif location.lower().endswith(".zip") and os.path.isfile(location):
        return " It is not a zip archive, or an incomplete one: copy it again."
    return ""


def _unreadable(shown: str, error: Exception, secrets: Secrets) -> StoreError:
    """Make an error for metadata that exist and cannot be used.

    Zarr raises KeyError, TypeError, JSONDecodeError and others for damaged metadata, depending on the damage.
    """
    reason = printable(f"{type(error).__name__}: {secrets.hide(str(error))}", 400)
    advice = (
        "Check that it can be reached and that you may read it."
        if is_of_storage(error)
        else "Its metadata are damaged, or written by something other than Zarr 2 or 3."
    )
    return StoreError(f"{shown} cannot be opened as Zarr ({reason}). {advice}")


def pick_array(node: zarr.Array[Any] | zarr.Group, name: str | None = None) -> zarr.Array[Any]:
    """Choose the array of a node: the node itself, the array of that name, or the only array of a group.

    Of an OME-Zarr image, which has an array for each resolution, it is the array of the highest resolution.

    Raises
    ------
    StoreError
        If there is no such array, or no name is given and the group does not have exactly one array.
    """
    if isinstance(node, zarr.Array):
        if name:
            raise StoreError(f"{describe(node)} is an array, not a group: there is no {name!r:.80} inside it")
        return node
    if name is None and (image := highest_resolution(node)) is not None:
        name = image
    if name:
        named = member(node, name)
        if isinstance(named, zarr.Array):
            return named
        raise StoreError(_no_array(node, name, named))
    arrays = _with_axes(arrays_of(node))
    if len(arrays) == 1:
        return arrays[0][1]
    names = _names_below(node, dict(arrays))
    nested = "" if arrays or not names else " right below it, but in its groups"
    grids = [name for name, array in arrays if array.ndim > 2]
    several = f" Or make variables the features: xarray.open_zarr(path)[{_quoted(grids)}]." if len(grids) > 1 else ""
    raise StoreError(
        f"{describe(node)} is a group with {len(arrays)} arrays{nested} ({_shown(names)}). Say which one is meant, "
        f"for example as {'path::' + printable(names[0]) if names else 'path::array'}, or for an open store with "
        f"open_zarr(store, {printable(names[0]) if names else 'array'!r}).{several}"
    )


def _quoted(names: list[str]) -> str:
    return f"[{', '.join(repr(printable(name)) for name in names[:_MOST_NAMES])}{', …' * (len(names) > _MOST_NAMES)}]"


def _with_axes(arrays: list[tuple[str, zarr.Array[Any]]]) -> list[tuple[str, zarr.Array[Any]]]:
    """Remove arrays without axes, such as scalar coordinates."""
    return [(name, array) for name, array in arrays if array.ndim]


def _no_array(group: zarr.Group, name: str, inside: zarr.Group | None) -> str:
    if inside is None:
        return f"{describe(group)} has no array {name!r:.80}; its arrays are: {_shown(_names_below(group))}"
    message = f"{describe(group)} has no array {name!r:.80}: that is a group"
    kind = inside.attrs.get("encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):  # AnnData's attribute
        return (
            f"{message}, a sparse matrix ({kind}), and Gaussian mixtures need dense rows. Take a dense array such as "
            "obsm/X_pca, or anndata.read_zarr(path).X.toarray()."
        )
    return f"{message}; its arrays are: {_shown([f'{name}/{inner}' for inner in _names_below(inside)])}"


def _shown(names: list[str]) -> str:
    return ", ".join(map(printable, names[:_MOST_NAMES])) + ", …" * (len(names) > _MOST_NAMES) or "none"


def _names_below(group: zarr.Group, arrays: Mapping[str, zarr.Array[Any]] | None = None) -> list[str]:
    """Names of all arrays below a group, sorted: arrays with two dimensions first, then by depth and name."""
    below_group = dict(_with_axes(arrays_of(group)) if arrays is None else arrays)
    waiting = [("", group)]
    for _ in range(_MOST_GROUPS):
        if not waiting or len(below_group) > _MOST_NAMES:
            break
        path, inside = waiting.pop(0)
        try:
            groups = sorted(inside.groups())
            if path:
                below_group |= {f"{path}{name}": array for name, array in _with_axes(arrays_of(inside))}
        except Exception:
            continue  # the names are for an error's message; damage elsewhere must not replace that error
        waiting += [(f"{path}{name}/", below) for name, below in groups]
    return sorted(below_group, key=lambda name: (below_group[name].ndim != 2, name.count("/"), name))


def member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """Open the array or group of a name in a group, by its own metadata; None if there is none.

    Raises
    ------
    StoreError
        If the name leads out of the group, or the array or group is damaged.
    """
    parts = _parts(name)
    try:
        if (folder := _folder(group)) is not None:
            check_documents(os.path.join(folder, *parts))  # Zarr reads no metadata of the groups between
        return zarr.Group(_without_consolidated(group)).get(name)
    except StoreError:
        raise
    except Exception as error:
        if isinstance(error, UnicodeError | OSError):
            raise StoreError(f"{describe(group)} has no {name!r:.80} inside it ({type(error).__name__})") from error
        raise _unreadable(f"{name!r:.80} in {describe(group)}", error, Secrets("")) from None


def _parts(name: str) -> list[str]:
    """Split a name at its slashes; raise `StoreError` if it leads out of its group."""
    parts = name.replace("\\", "/").split("/")
    if "." in parts or ".." in parts or "\0" in name or len(name) > _LONGEST_NAME:
        raise StoreError(
            f"{name!r:.80} is not a name of an array; expected a name of {_LONGEST_NAME} characters at most, without "
            "'.' and '..', such as 'a' or 'a/b'"
        )
    return parts


def arrays_of(group: zarr.Group) -> list[tuple[str, zarr.Array[Any]]]:
    """Names and arrays right below a group, sorted by name.

    Raises
    ------
    StoreError
        If an array or group is damaged, or the storage cannot list its contents.
    """
    try:
        if (folder := _folder(group)) is not None:
            check_members(folder)
        arrays = sorted(group.arrays(), key=lambda item: item[0])
        if group.metadata.consolidated_metadata is None:
            return arrays
        return _by_own_metadata(group, [name for name, _ in arrays])
    except StoreError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or hasattr(error, "status"):  # an error of a server
            raise StoreError(
                f"{describe(group)} is a group, and its storage does not list its contents "
                f"({hide_urls(f'{type(error).__name__}: {error}')}). Name the array: path::array."
            ) from None
        raise _unreadable(f"Something in {describe(group)}", error, Secrets("")) from None


def _by_own_metadata(group: zarr.Group, names: list[str]) -> list[tuple[str, zarr.Array[Any]]]:
    """Open arrays that consolidated metadata name, by the arrays' own metadata."""
    for name in names:
        _parts(name)
    members = zip(names, sync(_members(_without_consolidated(group), names)), strict=True)
    arrays = [(name, zarr.Array(node)) for name, node in members if isinstance(node, zarr.AsyncArray)]
    if len(arrays) < len(names):
        missing = next(name for name in names if name not in dict(arrays))
        raise StoreError(
            f"The consolidated metadata of {describe(group)} name an array {missing!r:.80}, which is missing. "
            "Consolidate the metadata again, for example with zarr.consolidate_metadata."
        )
    return arrays


async def _members(group: zarr.AsyncGroup, names: list[str]) -> list[Any]:
    return await asyncio.gather(*(group.get(name) for name in names))


def _without_consolidated(group: zarr.Group) -> zarr.AsyncGroup:
    """Copy a group without its consolidated metadata."""
    metadata = dataclasses.replace(group.metadata, consolidated_metadata=None)
    return zarr.AsyncGroup(metadata=metadata, store_path=group.store_path)


def _folder(group: zarr.Group) -> str | None:
    """Directory of a group on this machine; None for other stores."""
    root = getattr(group.store, "root", None)
    return os.path.join(root, group.path) if isinstance(root, Path) else None
