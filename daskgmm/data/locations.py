"""Locations of stores: paths, URLs with the options of their file systems, and stores that are open already.

Options may contain passwords, keys and tokens. A `Location` shows its name and nothing else, and `Location.secrets`
removes its secrets from the messages of other libraries.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import zarr
from dask.base import tokenize
from fsspec.implementations.local import LocalFileSystem
from fsspec.mapping import FSMap
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath, WrapperStore, ZipStore

from .addresses import Secrets, hide_urls, local_path, printable, without_secrets
from .source import LONGEST_ADDRESS

Address = str | os.PathLike[str] | Store | StorePath | zarr.Group
"""Address of a store; a mapper of fsspec and a store of obstore are addresses, too."""

# File systems of fsspec that look a file up by its name in every read.
_READ_BY_NAME = {"file", "local", "memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "http", "https"}

# Schemes of obstore's classes.
_SCHEMES = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}


@dataclass(frozen=True)
class Location:
    """A path, a URL with options, or a place in an open store."""

    name: str
    """Name for messages and records, without credentials."""
    address: str = field(default="", repr=False)
    """Path or URL as it was given; empty for a place in an open store that is not a local directory or archive."""
    path: str | None = field(default=None, repr=False)
    """Absolute path on this machine; None for other places."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of the URL's file system."""
    store: StorePath | None = field(default=None, repr=False)
    """Place in an open store; None for paths and URLs."""

    @classmethod
    def of(cls, address: Any, storage_options: Mapping[str, Any] | None = None, parameter: str = "path") -> Location:
        """Make the location of an address.

        Parameters
        ----------
        address : str, path, zarr Store, StorePath or Group, fsspec mapper, store of obstore, or Location
        storage_options : mapping, optional
            Options of a URL's file system; without effect for a local path.
        parameter : str
            Name of the parameter in errors.

        Raises
        ------
        TypeError
            If the address is of another kind, or the options are no mapping.
        ValueError
            If there are options for a store that is open already.
        """
        if isinstance(address, Location):
            return address
        options = _checked_options(storage_options)
        if isinstance(address, str | os.PathLike):
            text = os.fspath(address)
            if not isinstance(text, str):
                raise TypeError(f"{parameter} is a path of bytes; expected a str or a pathlib.Path")
            path = local_path(text)
            return cls(without_secrets(text), text, path, options if path is None else {})
        if not is_open_store(address):
            raise TypeError(
                f"{parameter} is of type {type(address).__name__}; expected a path, a URL, a zarr Store, StorePath or "
                "Group, a mapper of fsspec, or a store of obstore"
            )
        if options:
            raise ValueError(
                f"storage_options with {parameter}, which is an open store ({type(address).__name__}): it has its "
                "own options. Pass the URL with storage_options, or the store without."
            )
        return cls._of_store(_store_path(address))

    @classmethod
    def _of_store(cls, store: StorePath) -> Location:
        name, root = store_name(store.store, store.path), _local_root(store.store)
        if root is None:
            return cls(name, store=store)
        path = os.path.join(root, store.path) if store.path else root
        if isinstance(store.store, ZipStore) and store.path:
            return cls(name, store=store)
        return cls(path, path, path, store=store)

    @property
    def secrets(self) -> Secrets:
        """Secrets in the address, in its options, and in fsspec's configuration of its protocols."""
        opened = [] if self.store is None else options_of(self.store.store)
        return Secrets(self.address, [self.options, *_configured(self.address), *opened])


def is_open_store(data: Any) -> bool:
    """Tell stores that are open, groups included, from other objects."""
    known = isinstance(data, (Store, StorePath, zarr.Group, FSMap))  # a union would be made anew in each call
    return known or _is_of_obstore(data)


def _is_of_obstore(data: Any) -> bool:
    """Tell the stores of obstore, which Zarr wraps in an ObjectStore, without importing obstore."""
    module = sys.modules.get("obstore.store")
    return module is not None and type(data).__module__ == "obstore.store"


def _checked_options(options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        found = "a dict with keys that are no texts" if isinstance(options, Mapping) else f"a {type(options).__name__}"
        raise TypeError(  # without the value, which may be secret
            f"storage_options is {found}; expected a dict of options of the URL's file system, such as "
            "{'anon': True} for s3://"
        )
    return dict(options)


def _store_path(opened: Any) -> StorePath:
    if isinstance(opened, StorePath):
        return opened
    if isinstance(opened, zarr.Group):
        return opened.store_path
    if isinstance(opened, FSMap):
        return StorePath(FsspecStore.from_mapper(opened))
    return StorePath(ObjectStore(opened) if _is_of_obstore(opened) else opened)


def _local_root(store: Store) -> str | None:
    """Absolute path of the directory, or of the archive opened for reading, that a store reads; None for others."""
    root = _root(store)
    return None if root is None else os.path.abspath(root)


def _root(store: Any) -> str | os.PathLike[str] | None:
    if type(store) is LocalStore:
        return store.root
    if type(store) is ZipStore:
        return store.path if store.read_only else None
    if type(store) is FsspecStore:
        return store.path if isinstance(getattr(store.fs, "sync_fs", store.fs), LocalFileSystem) else None
    opened: Any = store.store if type(store) is ObjectStore else None
    return opened.prefix if type(opened).__name__ == "LocalStore" else None


def _configured(url: str) -> list[Any]:
    """Options that fsspec's configuration files and environment variables set for the protocols of a URL."""
    return [options for protocol, options in fsspec.config.conf.items() if f"{protocol}:" in url]


def options_of(store: Store) -> list[Any]:
    """Options, possibly secret, with which a store was opened."""
    store = innermost(store)
    files = getattr(store, "fs", None)
    if files is not None:
        return [getattr(getattr(files, "sync_fs", files), "storage_options", None)]
    inner = getattr(store, "store", None)  # obstore's
    return [getattr(inner, "config", None), getattr(inner, "client_options", None)]


def store_secrets(store: Store) -> Secrets:
    """Secrets in the options of an open store."""
    return Secrets(str(getattr(store, "path", "")), options_of(store))


def innermost(store: Store) -> Store:
    """Return the store inside of wrappers, such as a LoggingStore."""
    while isinstance(store, WrapperStore):
        store = store._store
    return store


def store_name(store: Store, inside: str = "", most: int = 200) -> str:
    """Name of a store, or of an array or group inside a store, for messages, without credentials.

    Parameters
    ----------
    store : zarr.abc.store.Store
    inside : str
        Name of the array or group.
    most : int
        Largest number of characters.
    """
    store = innermost(store)
    files, path = getattr(store, "fs", None), str(getattr(store, "path", ""))
    if isinstance(store, ZipStore):  # path of the archive and name of the array
        return printable(f"{path}::{inside}" if inside else path, most)
    if files is None:
        local = isinstance(getattr(store, "root", None), Path)
        place = f"{_place(store)}/{inside}".rstrip("/")
        return printable(place if local else hide_urls(place), most)
    protocols = getattr(files, "protocol", "")
    scheme = protocols if isinstance(protocols, str) else protocols[0]
    place = path if "://" in path else f"{scheme}://{path}"
    return printable(f"{without_secrets(place)}/{inside}".rstrip("/"), most)


def _place(store: Store) -> str:
    opened: Any = store.store if isinstance(store, ObjectStore) else store
    if (scheme := _SCHEMES.get(type(opened).__name__)) is not None:
        container = opened.config.get("bucket") or opened.config.get("container_name")
        return "/".join(filter(None, (f"{scheme}://{container}", opened.prefix)))
    text = str(opened)
    return type(opened).__name__ if " object at 0x" in text else text


def describe(node: zarr.Array[Any] | zarr.Group, most: int = 200) -> str:
    """Name of an array or group for messages, without credentials."""
    return store_name(node.store, node.path, most)


def address_of(node: zarr.Array[Any] | zarr.Group, most: int) -> str:
    """Absolute path or URL of an array or group, without credentials, cut after about ``most`` characters."""
    place = describe(node, most - 1)
    return local_path(place) or place


def place_of(store: Any) -> tuple[str, ...] | None:
    """Unique place from which a store reads; None if unknown.

    A store in memory is pickled with its contents, and an archive stays open when another file replaces it, also behind
    fsspec. A store class of another library, and any other file system, may do either.
    """
    if type(store) is LocalStore:
        return ("files", str(store.root.absolute()))
    if type(store) is FsspecStore:
        files = getattr(store.fs, "sync_fs", store.fs)  # behind an asynchronous wrapper
        protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
        if protocols.isdisjoint(_READ_BY_NAME):
            return None
        return (type(files).__name__, str(files._fs_token), str(store.path))
    if type(store) is ObjectStore and type(store.store).__name__ in _SCHEMES:
        options = (tokenize(sorted(map(str, part.items()))) for part in options_of(store) if part)
        return (type(store.store).__name__, store_name(store, most=LONGEST_ADDRESS), *options)
    return None
