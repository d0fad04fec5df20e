"""New groups in storage that cannot rename: object stores, memory, open stores of any class.

The group's document is created first, by one writer, and completed last, with the attributes that every reader asks
for. If the work fails, everything below the group is removed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, StorePath

from ..errors import OutputError, OutputExistsError, StoreError
from .locations import Location
from .store import to_install

_DOCUMENT = "zarr.json"
_WRITER = "daskgmm_writer"
"""Attribute of a group that is being written: a random text by which its writer knows it."""

_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"}
"""Protocols of fsspec whose paths begin with a bucket, which the removal of a path could remove, too."""


class StoreOutput:
    """A place for one new group.

    Parameters
    ----------
    location : Location
        A URL, or a place in an open store.

    Raises
    ------
    OutputError
        If the store cannot write and remove.
    StoreError
        If the file system of the URL is not installed.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self.place = _opened(location) if location.store is None else location.store
        store = self._store
        reason = (
            "it was opened for reading only"
            if store.read_only
            else f"a {type(store).__name__} cannot write"
            if not store.supports_writes
            else f"a {type(store).__name__} cannot remove what a failed run has written. Write to a directory, and "
            "copy the directory when it is complete"
            if not (store.supports_deletes and store.supports_listing)
            else None
        )
        if reason is not None:
            raise OutputError(f"{location.name} cannot be written: {reason}.")

    @property
    def _store(self) -> Store:
        return self.place.store

    @property
    def _key(self) -> str:
        return f"{self.place.path}/{_DOCUMENT}".lstrip("/")

    def check_free(self) -> None:
        """Raise `OutputExistsError` unless there is nothing here, or an empty group of an open store."""
        with self._naming_errors():
            occupied = self._occupied()
        if occupied:
            raise OutputExistsError(f"{self._location.name} {occupied}")

    def _occupied(self) -> str | None:
        """Describe what is here; None if the place is free."""
        if isinstance(self._store, FsspecStore):
            getattr(self._store.fs, "sync_fs", self._store.fs).invalidate_cache()
            if self._location.store is None:
                exists = sync(self._store.fs._exists(self._store.path))
                return _EXISTS if exists else None
        document = self._document()
        return _NOT_EMPTY if sync(_holds_more(self.place)) else self._taken(document)

    def _taken(self, document: Buffer | None) -> str | None:
        """Describe why a new group must not replace a document; None if there is none, or one of a free group."""
        if document is None:
            return None
        attributes = _attributes(document)
        if attributes is None:
            return _NOT_EMPTY
        if _WRITER in attributes:
            return _BEING_WRITTEN
        return _EXISTS if "daskgmm" in attributes or self._location.store is None else None

    def _document(self) -> Buffer | None:
        """Zarr's document of what is here; None if there is none."""
        return sync(self._store.get(self._key, default_buffer_prototype()))

    @contextmanager
    def claimed(self) -> Iterator[Mapping[str, Any]]:
        """Create the group, and yield the attributes that it had; remove everything again if the block fails.

        Call `check_free` first.

        Raises
        ------
        OutputExistsError
            If another writer was first.
        """
        with self._naming_errors():
            before = self._document()
            if taken := self._taken(before):  # since it was free
                raise OutputExistsError(f"{self._location.name} {taken}")
            kept = (_attributes(before) if before is not None else None) or {}
            self._claim(kept, is_new=before is None)
        try:
            yield kept
        except BaseException as error:
            with suppress(Exception):
                self._remove()
                if before is not None:
                    sync(self._store.set(self._key, before))
            if isinstance(error, Exception) and self._location.secrets.cause(error) is None:
                raise self._unwritable(error) from None
            raise

    def _claim(self, kept: Mapping[str, Any], *, is_new: bool) -> None:
        document = _new_document({**kept, _WRITER: secrets.token_hex(8)})
        if is_new:
            self._create(document)
        else:
            sync(self._store.set(self._key, document))
        found = self._document()
        if found is None or found.to_bytes() != document.to_bytes():
            raise OutputExistsError(f"{self._location.name} {_BEING_WRITTEN}")

    def _create(self, document: Buffer) -> None:
        """Create the group's document, in one step if the storage can, unless there is one."""
        if isinstance(self._store, FsspecStore):
            with suppress(TypeError, NotImplementedError):  # a file system without exclusive creation
                path = f"{self._store.path.rstrip('/')}/{self._key}"
                with suppress(FileExistsError):
                    sync(self._store.fs._pipe_file(path, document.to_bytes(), mode="create"))
                return
        sync(self._store.set_if_not_exists(self._key, document))

    def _remove(self) -> None:
        store = self._store
        if self.place.path or not (isinstance(store, FsspecStore) and _is_bucket(store)):
            sync(store.delete_dir(self.place.path))
        else:
            sync(_delete_keys(store))

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OutputExistsError:
            raise
        except Exception as error:
            raise self._unwritable(error) from self._location.secrets.cause(error)

    def _unwritable(self, error: Exception) -> OutputError:
        return _unwritable(self._location, error)


_EXISTS = "exists already, and only local stores can be replaced in one step. Remove it first, or choose another name."
_NOT_EMPTY = (
    "is not empty, and nothing in it is overwritten. Choose an empty group, such as group.create_group('model'), or "
    "another place."
)
_BEING_WRITTEN = (
    "exists already: another run is writing it, or a run that was killed has left it. Choose another name, or remove "
    "it."
)


def _opened(location: Location) -> StorePath:
    secrets = location.secrets
    try:
        return StorePath(FsspecStore.from_url(location.address, storage_options=dict(location.options)))
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"{location.name} cannot be written: {secrets.hide(str(error))}. {to_install(location.address)}, or write "
            "to a local path."
        ) from secrets.cause(error)
    except Exception as error:
        raise _unwritable(location, error) from secrets.cause(error)


def _unwritable(location: Location, error: Exception) -> OutputError:
    reason = location.secrets.hide(f"{type(error).__name__}: {error}")
    return OutputError(
        f"{location.name} cannot be written ({reason}). Check that it can be reached and that you may write there."
    )


def _new_document(attributes: Mapping[str, Any]) -> Buffer:
    """Zarr's document of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    return cpu.Buffer.from_bytes(json.dumps(document).encode())


def _attributes(document: Buffer) -> dict[str, Any] | None:
    """Attributes of the group of Zarr format 3 that a document describes; None for anything else."""
    try:
        described = json.loads(document.to_bytes())
    except ValueError:
        return None
    is_group = isinstance(described, dict) and described.get("node_type") == "group"
    attributes = described.get("attributes", {}) if is_group else None
    return attributes if isinstance(attributes, dict) else None


async def _holds_more(place: StorePath) -> bool:
    """Tell whether there is anything below a place but the document of a group."""
    if isinstance(place.store, FsspecStore):  # which would list everything below before the first name
        return any([name not in ("", _DOCUMENT) async for name in place.store.list_dir(place.path)])
    below = f"{place.path}/".lstrip("/")  # not by names right below: some stores keep empty directories
    async for key in place.store.list_prefix(below):
        if key.removeprefix(below) != _DOCUMENT:
            return True
    return False


async def _delete_keys(store: Store) -> None:
    async for key in store.list_prefix(""):
        await store.delete(key)


def _is_bucket(store: FsspecStore) -> bool:
    protocol = store.fs.protocol
    protocols = {protocol} if isinstance(protocol, str) else set(protocol)
    return not _BUCKETS.isdisjoint(protocols) and "/" not in store.path.strip("/")
