"""Zarr arrays, and the paths and URLs where they are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from ..errors import StoreError, StoreNotFoundError
from .addresses import Secrets, hide_urls, local_path, printable, split_address, without_secrets
from .guards import check_documents, check_members

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


def address_of(node: zarr.Array[Any] | zarr.Group, most: int) -> str:
    """Absolute path or URL of an array or group, without credentials, in at most so many characters."""
    place = describe(node, most - 1)
    return local_path(place) or place


def describe(node: zarr.Array[Any] | zarr.Group, most: int = 200) -> str:
    """Name of an array or group for messages, without credentials."""
    store = node.store
    files, path = getattr(store, "fs", None), str(getattr(store, "path", ""))
    if files is None:
        local = isinstance(getattr(store, "root", None), Path)
        place = f"{store}/{node.path}".rstrip("/")
        return printable(place if local else hide_urls(place), most)
    protocols = getattr(files, "protocol", "")
    scheme = protocols if isinstance(protocols, str) else protocols[0]
    place = path if "://" in path else f"{scheme}://{path}"
    return printable(f"{without_secrets(place)}/{node.path}".rstrip("/"), most)


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
        A path or URL of an array or group, Zarr format 2 or 3: ``data.zarr``, ``file:///data.zarr``,
        ``s3://bucket/data.zarr``, or with the array inside the group, ``data.zarr::temperature``.
    array : str, optional
        The array inside the group, in place of ``::``.
    storage_options : mapping, optional
        Passed on to the file system of a URL.

    Returns
    -------
    zarr.Array

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
        if not os.path.exists(location):
            raise StoreNotFoundError(f"There is nothing at {shown}. Check the path; it is relative to {os.getcwd()}.")
        check_documents(location)
        if not os.path.isdir(location) and not os.path.isfile(location):
            raise StoreError(f"{shown} is neither a directory nor a file: there is no Zarr array or group in it.")
    try:
        if "://" not in location:
            return zarr.open(location, mode="r")
        with warnings.catch_warnings(record=True) as told:
            node = zarr.open(location, mode="r", storage_options=dict(storage_options) if storage_options else None)
        for warning in told:  # of Zarr and of the file system, which name the whole URL
            warnings.warn(secrets.hide(str(warning.message)), warning.category, stacklevel=3)
        return node
    except FileNotFoundError as error:
        if "://" in location:
            raise StoreNotFoundError(f"There is no Zarr array or group at {shown}.") from secrets.cause(error)
        raise StoreError(
            f"{shown} is not a Zarr array or group (no zarr.json, .zarray or .zgroup in it). Write the data with "
            "zarr.create_array, dask's to_zarr or xarray's to_zarr."
        ) from error
    except ImportError as error:
        raise StoreError(
            f"{shown} cannot be opened: {secrets.hide(str(error))}. Install the file system of that URL, for example "
            "pip install s3fs."
        ) from secrets.cause(error)
    except Exception as error:
        raise _unreadable(shown, error, secrets) from secrets.cause(error)


def _unreadable(shown: str, error: Exception, secrets: Secrets) -> StoreError:
    """What to say where metadata are there and cannot be used.

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
    if name and isinstance(found := member(node, name), zarr.Array):
        return found
    names = [key for key, _ in arrays_of(node)]
    if not name and len(names) == 1:
        return pick_array(node, names[0])
    shown = ", ".join(map(printable, names[:_MOST_NAMES])) + ", …" * (len(names) > _MOST_NAMES)
    if name:
        raise StoreError(f"{describe(node)} has no array {name!r:.80}; its arrays are: {shown or 'none'}")
    raise StoreError(
        f"{describe(node)} is a group with {len(names)} arrays ({shown or 'none'}). Say which one is meant, "
        f"for example as {'path::' + printable(names[0]) if names else 'path::array'}."
    )


def member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """What a group holds under a name; None for nothing.

    Raises
    ------
    StoreError
        If the name leads out of the group, or what is there is damaged.
    """
    parts = name.replace("\\", "/").split("/")
    if "." in parts or ".." in parts or "\0" in name or len(name) > _LONGEST_NAME:
        raise StoreError(
            f"{name!r:.80} is no name of an array; expected one of {_LONGEST_NAME} characters at most, without '.' and "
            "'..', such as 'a' or 'a/b'"
        )
    try:
        if (folder := _folder(group)) is not None:
            check_documents(os.path.join(folder, *parts))  # of the groups on the way there Zarr reads nothing
        return group.get(name)
    except StoreError:
        raise
    except Exception as error:
        if isinstance(error, UnicodeError | OSError):
            raise StoreError(f"{describe(group)} has no {name!r:.80} inside it ({type(error).__name__})") from error
        raise _unreadable(f"{name!r:.80} in {describe(group)}", error, Secrets("")) from None


def arrays_of(group: zarr.Group) -> list[tuple[str, zarr.Array[Any]]]:
    """Names and arrays right below a group, sorted by name.

    Raises
    ------
    StoreError
        If something there is damaged.
    """
    try:
        if (folder := _folder(group)) is not None:
            check_members(folder)
        return sorted(group.arrays(), key=lambda found: found[0])
    except StoreError:
        raise
    except Exception as error:
        raise _unreadable(f"Something in {describe(group)}", error, Secrets("")) from None


def _folder(group: zarr.Group) -> str | None:
    """Directory of this machine where a group is."""
    root = getattr(group.store, "root", None)
    return os.path.join(root, group.path) if isinstance(root, Path) else None
