"""Zarr arrays, and the paths and URLs where they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import zarr

from ..errors import StoreError, StoreNotFoundError


def describe(node: zarr.Array[Any] | zarr.Group) -> str:
    """Name of an array or group for messages, without credentials."""
    return without_secrets(f"{node.store}/{node.path}".rstrip("/"))


def without_secrets(address: str) -> str:
    """An address without what may be a password, a token or a signature."""
    address = re.sub(r"(//)[^/@\s]*@", r"\1", address)
    return re.sub(r"\?[^\s'\"<>]*", "?…", address)


def split_address(address: str) -> tuple[str, str | None]:
    """``path::array`` -> (path, array). Chained fsspec URLs, such as ``simplecache::s3://…``, stay whole."""
    head, separator, tail = address.rpartition("::")
    if separator and "://" not in tail and head:
        return head, tail
    return address, None


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


def local_path(address: str | os.PathLike[str]) -> str | None:
    """Absolute path on this machine that an address means; None for the URL of anything but a local file."""
    path = os.fspath(address).removeprefix("file://")
    return None if "://" in path else os.path.abspath(path)


def open_node(path: str, storage_options: Mapping[str, Any] | None = None) -> zarr.Array[Any] | zarr.Group:
    """Open the array or group at a path or URL, for reading.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreError
        If what is there is not Zarr, or is damaged.
    """
    location = local_path(path) or path
    shown = without_secrets(path)
    if "://" not in location and not os.path.exists(location):
        raise StoreNotFoundError(f"There is nothing at {shown}. Check the path; it is relative to {os.getcwd()}.")
    try:
        return zarr.open(
            location, mode="r", storage_options=dict(storage_options) if storage_options and "://" in location else None
        )
    except FileNotFoundError as error:
        if "://" in location:
            raise StoreNotFoundError(f"There is no Zarr array or group at {shown}.") from error
        raise StoreError(
            f"{shown} is not a Zarr array or group (no zarr.json, .zarray or .zgroup in it). Write the data with "
            "zarr.create_array, dask's to_zarr or xarray's to_zarr."
        ) from error
    except ImportError as error:
        raise StoreError(
            f"{shown} cannot be opened: {error}. Install the file system of that URL, for example pip install s3fs."
        ) from error
    except Exception as error:
        # Metadata that do not parse end in KeyError, TypeError, JSONDecodeError and others, depending on where they
        # break.
        raise StoreError(
            f"{shown} cannot be opened as Zarr ({type(error).__name__}: {without_secrets(str(error))}). Its metadata "
            f"are "
            "damaged, or written by something other than Zarr 2 or 3."
        ) from error


def pick_array(node: zarr.Array[Any] | zarr.Group, name: str | None = None) -> zarr.Array[Any]:
    """The array that is meant: the node itself, the named one, or the only one of a group.

    Raises
    ------
    StoreError
        If there is no such array, or no name and several arrays.
    """
    if isinstance(node, zarr.Array):
        if name:
            raise StoreError(f"{describe(node)} is an array, not a group: there is no {name!r} inside it")
        return node
    names = sorted(key for key, _ in node.arrays())
    if name:
        member = node.get(name)
        if isinstance(member, zarr.Array):
            return member
        raise StoreError(f"{describe(node)} has no array {name!r}; its arrays are: {', '.join(names) or 'none'}")
    if len(names) == 1:
        return pick_array(node, names[0])
    raise StoreError(
        f"{describe(node)} is a group with {len(names)} arrays ({', '.join(names) or 'none'}). Say which one is "
        f"meant, "
        f"for example as {'path::' + names[0] if names else 'path::array'}."
    )
