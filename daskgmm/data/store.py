"""Zarr arrays, and the paths and URLs where they are.

Consolidated metadata are a group's copy of what its arrays say, as of some day. They serve to list a group; how an
array is read is what the array itself says.
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

from ..errors import StoreError, StoreNotFoundError
from .addresses import Secrets, hide_urls, local_path, printable, split_address, without_secrets
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
_MOST_NAMES = 20  # of a group, in a message
_MOST_GROUPS = 20  # that are looked into for a message

#: What brings the file system of a URL.
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

#: What opens files of other kinds, by the ends of their names.
_OTHER_FILES = {
    (".npy",): "numpy.load({path!r}, mmap_mode='r')",
    (".npz",): "numpy.load({path!r})['name']",
    (".csv", ".tsv", ".txt"): "dask.dataframe.read_csv({path!r})",
    (".parquet", ".parq", ".pq"): "dask.dataframe.read_parquet({path!r})",
    (".h5", ".hdf5", ".hdf", ".he5", ".h5ad"): "h5py.File({path!r})['name']",
    (".nc", ".nc4", ".cdf"): "xarray.open_dataset({path!r}, chunks={{}})['name']",
}


def address_of(node: zarr.Array[Any] | zarr.Group, most: int) -> str:
    """Absolute path or URL of an array or group, without credentials, in at most so many characters."""
    place = describe(node, most - 1)
    return local_path(place) or place


def describe(node: zarr.Array[Any] | zarr.Group, most: int = 200) -> str:
    """Name of an array or group for messages, without credentials."""
    store = node.store
    files, path = getattr(store, "fs", None), str(getattr(store, "path", ""))
    if isinstance(store, zarr.storage.ZipStore):  # an archive is opened by its path, and an array in it by its name
        return printable(f"{path}::{node.path}" if node.path else path, most)
    if files is None:
        local = isinstance(getattr(store, "root", None), Path)
        place = f"{store}/{node.path}".rstrip("/")
        return printable(place if local else hide_urls(place), most)
    protocols = getattr(files, "protocol", "")
    scheme = protocols if isinstance(protocols, str) else protocols[0]
    place = path if "://" in path else f"{scheme}://{path}"
    return printable(f"{without_secrets(place)}/{node.path}".rstrip("/"), most)


def place_of(store: Any) -> tuple[str, ...] | None:
    """Place that a store reads from, which no other store has; None where that is not known.

    A store in memory travels with what it holds, an archive stays open when another takes its place, and a class of
    somebody else may do either.
    """
    if type(store) is zarr.storage.LocalStore:
        return ("files", str(store.root.absolute()))
    if type(store) is zarr.storage.FsspecStore:
        files = getattr(store.fs, "sync_fs", store.fs)  # of a wrapper
        return (type(files).__name__, str(files._fs_token), str(store.path))
    return None


def open_zarr(
    address: str | os.PathLike[str],
    array: str | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Open an array of rows in a Zarr store, for reading.

    Parameters
    ----------
    address : str or path
        A path or URL of an array or group, Zarr format 2 or 3: ``data.zarr``, ``~/data.zarr.zip``,
        ``file:///data.zarr``, ``s3://bucket/data.zarr``, or with the array inside the group, ``data.zarr::temperature``
        or ``data.zarr::group/temperature``.
    array : str, optional
        The array inside the group, in place of ``::``.
    storage_options : mapping, optional
        Passed on to the file system of a URL.

    Returns
    -------
    zarr.Array
        Indexing it gives the numbers that are stored. What daskgmm makes of it are the values that its attributes
        declare (``scale_factor``, ``_FillValue``, …).

    Raises
    ------
    StoreNotFoundError
        If there is nothing at that address.
    StoreError
        If what is there is not Zarr, is damaged, or is a group and it is not clear which of its arrays is meant.
    """
    path, inside = split_address(os.fspath(address))
    if inside is not None and array is not None and inside != array:
        raise StoreError(f"address names the array {inside!r} and array={array!r} names another; give only one of them")
    return pick_array(open_node(path, storage_options), inside if array is None else array)


def open_node(path: str, storage_options: Mapping[str, Any] | None = None) -> zarr.Array[Any] | zarr.Group:
    """Open the array or group at a path or URL, for reading.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreError
        If what is there is not Zarr, or is damaged.
    """
    if not path:
        raise StoreNotFoundError("The address is empty; expected a path or URL, such as data.zarr.")
    location, secrets = local_path(path) or path, Secrets(path, storage_options)
    shown = printable(without_secrets(path))
    if "://" not in location:
        _check_there(location, shown, is_relative=not path.startswith(("/", "~", "file:")))
    try:
        if "://" not in location:
            check_documents(location)
            return zarr.open(zarr.storage.ZipStore(location) if _is_archive(location) else location, mode="r")
        with warnings.catch_warnings(record=True) as told:
            node = zarr.open(location, mode="r", storage_options=dict(storage_options) if storage_options else None)
        for warning in told:  # of Zarr and of the file system, which name the whole URL
            warnings.warn(secrets.hide(str(warning.message)), warning.category, stacklevel=3)
        return node
    except StoreError:
        raise
    except FileNotFoundError as error:
        advice = _otherwise(location, shown)
        if "://" in location:
            raise StoreNotFoundError(f"There is no Zarr array or group at {shown}.{advice}") from secrets.cause(error)
        raise StoreError(
            f"{shown} is not a Zarr array or group (no zarr.json, .zarray or .zgroup in it)."
            + (advice or " Write the data with zarr.create_array, dask's to_zarr or xarray's to_zarr.")
        ) from error
    except ImportError as error:
        raise StoreError(
            f"{shown} cannot be opened: {secrets.hide(str(error))}. {to_install(location)}."
        ) from secrets.cause(error)
    except Exception as error:
        raise _unreadable(shown, error, secrets) from secrets.cause(error)


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
    """Advice for an address where there is no store, by the kind of file there; empty for other kinds."""
    for ends, line in _OTHER_FILES.items():
        if location.lower().endswith(ends):
            return f" Open it with the library that reads such files, and pass what comes: {line.format(path=shown)}"
    if _is_archive(location):
        with zipfile.ZipFile(location) as archive:
            folders = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
        if len(folders) == 1:
            folder = printable(folders.pop())
            return f" This archive has everything in a folder {folder}: archive what is in that folder."
    elif location.lower().endswith(".zip") and os.path.isfile(location):
        return " It is no zip archive, or not the whole of one: copy it anew."
    return ""


def _unreadable(shown: str, error: Exception, secrets: Secrets) -> StoreError:
    """An error for metadata that are there and cannot be used.

    Those that do not parse end in KeyError, TypeError, JSONDecodeError and others, depending on where they break.
    """
    told = printable(f"{type(error).__name__}: {secrets.hide(str(error))}", 400)
    advice = (
        "Check that it can be reached and that you may read it."
        if isinstance(error, OSError)
        else "Its metadata are damaged, or written by something other than Zarr 2 or 3."
    )
    return StoreError(f"{shown} cannot be opened as Zarr ({told}). {advice}")


def pick_array(node: zarr.Array[Any] | zarr.Group, name: str | None = None) -> zarr.Array[Any]:
    """The array that is meant: the node itself, the named one, or the only one of a group.

    Raises
    ------
    StoreError
        If there is no such array, or no name and several arrays.
    """
    if isinstance(node, zarr.Array):
        if name:
            raise StoreError(f"{describe(node)} is an array, not a group: there is no {name!r:.80} inside it")
        return node
    if name:
        found = member(node, name)
        if isinstance(found, zarr.Array):
            return found
        raise StoreError(_no_array(node, name, found))
    arrays = _of_rows(arrays_of(node))
    if len(arrays) == 1:
        return arrays[0][1]
    names = _names_below(node, dict(arrays))
    nested = "" if arrays or not names else " right below it, but in its groups"
    raise StoreError(
        f"{describe(node)} is a group with {len(arrays)} arrays{nested} ({_shown(names)}). Say which one is meant, "
        f"for example as {'path::' + printable(names[0]) if names else 'path::array'}."
    )


def _of_rows(arrays: list[tuple[str, zarr.Array[Any]]]) -> list[tuple[str, zarr.Array[Any]]]:
    """Leave out single numbers, as coordinates and remarks may be."""
    return [(name, array) for name, array in arrays if array.ndim]


def _no_array(group: zarr.Group, name: str, found: zarr.Group | None) -> str:
    if found is None:
        return f"{describe(group)} has no array {name!r:.80}; its arrays are: {_shown(_names_below(group))}"
    told = f"{describe(group)} has no array {name!r:.80}: that is a group"
    kind = found.attrs.get("encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):  # of AnnData
        return (
            f"{told}, a sparse matrix ({kind}), and Gaussian mixtures need dense rows. Take a dense array such as "
            "obsm/X_pca, or anndata.read_zarr(path).X.toarray()."
        )
    return f"{told}; its arrays are: {_shown([f'{name}/{inner}' for inner in _names_below(found)])}"


def _shown(names: list[str]) -> str:
    return ", ".join(map(printable, names[:_MOST_NAMES])) + ", …" * (len(names) > _MOST_NAMES) or "none"


def _names_below(group: zarr.Group, arrays: Mapping[str, zarr.Array[Any]] | None = None) -> list[str]:
    """Names of the arrays in a group and in groups in it: those of two dimensions first, then the nearest."""
    found = dict(_of_rows(arrays_of(group)) if arrays is None else arrays)
    waiting = [("", group)]
    for _ in range(_MOST_GROUPS):
        if not waiting or len(found) > _MOST_NAMES:
            break
        path, inside = waiting.pop(0)
        try:
            groups = sorted(inside.groups())
            if path:
                found |= {f"{path}{name}": array for name, array in _of_rows(arrays_of(inside))}
        except Exception:
            continue  # of what is damaged, too, the error that is being told of comes first
        waiting += [(f"{path}{name}/", below) for name, below in groups]
    return sorted(found, key=lambda name: (found[name].ndim != 2, name.count("/"), name))


def member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """The array or group of a name in a group, by its own metadata; None where there is none.

    Raises
    ------
    StoreError
        If the name leads out of the group, or what is there is damaged.
    """
    parts = _parts(name)
    try:
        if (folder := _folder(group)) is not None:
            check_documents(os.path.join(folder, *parts))  # of the groups on the way there Zarr reads nothing
        return zarr.Group(_without_copies(group)).get(name)
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
            f"{name!r:.80} is no name of an array; expected one of {_LONGEST_NAME} characters at most, without '.' and "
            "'..', such as 'a' or 'a/b'"
        )
    return parts


def arrays_of(group: zarr.Group) -> list[tuple[str, zarr.Array[Any]]]:
    """Names and arrays right below a group, sorted by name.

    Raises
    ------
    StoreError
        If something there is damaged, or the storage does not list what it holds.
    """
    try:
        if (folder := _folder(group)) is not None:
            check_members(folder)
        arrays = sorted(group.arrays(), key=lambda found: found[0])
        if group.metadata.consolidated_metadata is None:
            return arrays
        return _by_themselves(group, [name for name, _ in arrays])
    except StoreError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or hasattr(error, "status"):  # of a server
            raise StoreError(
                f"{describe(group)} is a group, and its storage does not list what is in it "
                f"({hide_urls(f'{type(error).__name__}: {error}')}). Name the array: path::array."
            ) from None
        raise _unreadable(f"Something in {describe(group)}", error, Secrets("")) from None


def _by_themselves(group: zarr.Group, names: list[str]) -> list[tuple[str, zarr.Array[Any]]]:
    """Arrays that consolidated metadata name, as they say themselves."""
    for name in names:
        _parts(name)
    found = zip(names, sync(_members(_without_copies(group), names)), strict=True)
    arrays = [(name, zarr.Array(array)) for name, array in found if isinstance(array, zarr.AsyncArray)]
    if len(arrays) < len(names):
        missing = next(name for name in names if name not in dict(arrays))
        raise StoreError(
            f"The consolidated metadata of {describe(group)} name an array {missing!r:.80}, which is missing. "
            "Consolidate them anew, for example with zarr.consolidate_metadata."
        )
    return arrays


async def _members(group: zarr.AsyncGroup, names: list[str]) -> list[Any]:
    return await asyncio.gather(*(group.get(name) for name in names))


def _without_copies(group: zarr.Group) -> zarr.AsyncGroup:
    """The group without its consolidated metadata."""
    metadata = dataclasses.replace(group.metadata, consolidated_metadata=None)
    return zarr.AsyncGroup(metadata=metadata, store_path=group.store_path)


def _folder(group: zarr.Group) -> str | None:
    """Directory of this machine where a group is."""
    root = getattr(group.store, "root", None)
    return os.path.join(root, group.path) if isinstance(root, Path) else None
