"""New Zarr stores, written whole or not at all.

A store is written under a hidden name beside its final name, and renamed in one step when it is complete. An object
store has no rename, nor has an open store: there the attributes with the store's format are written last, and every
reader refuses a store without these attributes. In both cases there is one writer: see `output_locks` and
`store_outputs`.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import zarr
from dask.utils import format_bytes
from zarr.storage import StorePath

from ..errors import DaskGMMError, OutputError, OutputExistsError, StoreError
from ..version import __version__
from .addresses import Secrets
from .locations import Address, Location, store_secrets
from .output_locks import claimed, hidden, locked, remove, remove_unnamed
from .retry import describe_error, is_of_storage
from .store import open_node, without_secrets
from .store_outputs import StoreOutput

# Errors of a full disk: no space, quota exceeded, largest size of a file (of the disk or of this process) exceeded.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: The attribute with the record of a store that daskgmm wrote.
ATTRIBUTE = "daskgmm"


def record(kind: str, **more: Any) -> dict[str, Any]:
    """Make the record of a store, which becomes one of its attributes.

    Parameters
    ----------
    kind : str
        Kind of store: ``"model"``, ``"results"``, …
    **more
        Further entries, values for JSON.
    """
    return {"format": kind, "format_version": 1, "daskgmm_version": __version__, **more}


def read_record(node: zarr.Array[Any] | zarr.Group) -> Mapping[str, Any]:
    """Record of a store, as `record` made it; empty for a store that daskgmm did not write."""
    attributes: Any = node.metadata.attributes  # any JSON value: Zarr does not check that it is a mapping
    entry = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    return entry if isinstance(entry, dict) else {}


def check_target(address: Address | Location, kind: str, *, overwrite: bool = False) -> None:
    """Raise unless a store may be written at an address; cheap, to be called before any work.

    Parameters
    ----------
    address : str, path, store or Location
    kind : str
        Kind of store to be written. Only a store of the same kind that daskgmm wrote is ever replaced.
    overwrite : bool

    Raises
    ------
    OutputExistsError
        If there is something at the address that is not to be replaced.
    OutputError
        If the directory does not exist, or the store cannot write and remove.
    OSError
        If the directory cannot be written.
    """
    location = Location.of(address)
    name, path = location.name, location.path
    if "::" in location.address.rpartition("://")[2]:
        raise ValueError(f"{name!r} names an array inside a store; an output is a store of its own")
    if path is None:
        StoreOutput(location).check_free()
        return
    if location.store is not None and location.store.read_only:
        raise OutputError(f"{name} cannot be written: it was opened for reading only.")
    if os.path.lexists(path) and not _replaceable(location, kind):
        raise OutputExistsError(
            f"{name} exists already, and it is never overwritten because it is not a {kind} store that daskgmm wrote. "
            "Choose another name, or remove it yourself."
        )
    if os.path.lexists(path) and not overwrite and not _is_vacant(location):
        raise OutputExistsError(_exists(name))
    _check_directory(os.path.dirname(path))


def check_room(address: Address | Location, n_bytes: int) -> None:
    """Raise if the disk has no room for a store of ``n_bytes``; only local paths are checked.

    Parameters
    ----------
    address : str, path, store or Location
    n_bytes : int
        Least size of the store, in bytes.

    Raises
    ------
    OutputError
        If less space is free.
    """
    location = Location.of(address)
    if location.path is None:
        return
    free = shutil.disk_usage(_nearest_directory(os.path.dirname(location.path))).free
    if n_bytes > free:
        raise OutputError(
            f"{location.name} cannot be written: it takes {format_bytes(n_bytes)} or more, and "
            f"{format_bytes(free)} are free there. Make room, choose another place, or write fewer rows."
        )


@contextmanager
def new_store(
    address: Address | Location, attributes: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[zarr.Group]:
    """Make a group to write into, which is complete when the ``with`` block ends, and is removed when it fails.

    Parameters
    ----------
    address : str, path, store or Location
        A path, a URL that fsspec can write, or a place in an open store.
    attributes : mapping
        Result of `record`. Entries may be added inside the block.
    overwrite : bool
        Replace a store of the same kind; the old store stays until the new one is complete. Only for local paths.
    """
    location, kind = Location.of(address), attributes["format"]
    check_target(location, kind, overwrite=overwrite)
    place = _elsewhere(location) if location.path is None else _local(location, kind, overwrite)
    with place as (target, kept):
        with writing(location.name):
            group = zarr.open_group(target, mode="a", zarr_format=3)
        with _name_full_disk(location.name):
            yield group
        with writing(location.name, group):
            group.attrs.put({**kept, ATTRIBUTE: dict(attributes)})


@contextmanager
def writing(name: str, node: zarr.Array[Any] | zarr.Group | None = None) -> Iterator[None]:
    """Convert an error of storage in the ``with`` block to an `OutputError`, for blocks that only write the output.

    Parameters
    ----------
    name : str
        Name of the output, for the message.
    node : zarr.Array or zarr.Group, optional
        The array or group that is written, whose store may have secret options.
    """
    try:
        yield
    except DaskGMMError:
        raise
    except Exception as error:
        if not is_of_storage(error):
            raise
        secrets = Secrets(name) if node is None else store_secrets(node.store)
        advice = "Make room, or choose another place" if _is_full(error) else "Choose another place"
        raise OutputError(
            f"{without_secrets(name)} cannot be written ({secrets.hide(describe_error(error))}). {advice}; "
            "nothing of it has been kept."
        ) from secrets.cause(error)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def _name_full_disk(name: str) -> Iterator[None]:
    """Convert only the errors of a full disk, for blocks that also read other files; see `writing`."""
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        with writing(name):
            raise


Place = tuple[str | StorePath, Mapping[str, Any]]
"""Place of a group that is being written, and attributes that the group keeps."""


@contextmanager
def _elsewhere(location: Location) -> Iterator[Place]:
    output = StoreOutput(location)
    with output.claimed() as kept:
        yield output.place, kept


@contextmanager
def _local(location: Location, kind: str, overwrite: bool) -> Iterator[Place]:
    path = os.path.realpath(str(location.path))
    with ExitStack() as stack:
        with writing(path):
            growing = stack.enter_context(claimed(path))
        check_target(location, kind, overwrite=overwrite)  # again, because there is no other writer now
        kept = _attributes_of_empty(path) if location.store is not None else None
        yield growing, kept or {}
        remove_unnamed(growing)
        _give_name(growing, path, overwrite or kept is not None)


def _give_name(growing: str, path: str, overwrite: bool) -> None:
    if not overwrite or not os.path.lexists(path):
        try:
            os.rename(growing, path)
        except OSError as error:
            if os.path.lexists(path):
                raise OutputExistsError(_exists(path)) from error  # another writer was faster
            raise
        return
    # A rename cannot replace a directory that is not empty.
    old = hidden(path, "replaced")
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(locked(path))  # so that no other writer takes the old store for a dead writer's
        os.rename(path, old)
        try:
            os.rename(growing, path)
        except BaseException:
            os.rename(old, path)
            raise
        remove(old, path)


def _exists(name: str) -> str:
    return f"{without_secrets(name)} exists already. Choose another name, or replace it with overwrite=True."


def _replaceable(location: Location, kind: str) -> bool:
    path = str(location.path)
    if (os.path.isdir(path) and not os.listdir(path)) or _is_vacant(location):
        return True
    try:
        return read_record(open_node(path)).get("format") == kind
    except (StoreError, OSError):
        return False


def _is_vacant(location: Location) -> bool:
    """Tell an empty directory or an empty group of an open store, which may be written into, from everything else."""
    return location.store is not None and _attributes_of_empty(str(location.path)) is not None


def _attributes_of_empty(path: str) -> dict[str, Any] | None:
    """Attributes of an empty group, none of an empty directory; None for anything else."""
    names = os.listdir(path) if os.path.isdir(path) else ["no directory"]
    if names != ["zarr.json"]:
        return None if names else {}
    try:
        node = open_node(path)
    except (StoreError, OSError):
        return None
    return dict(node.attrs) if isinstance(node, zarr.Group) and not read_record(node) else None


def _nearest_directory(directory: str) -> str:
    """Find the directory, or the nearest one above it that exists."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return directory


def _check_directory(directory: str) -> None:
    above = _nearest_directory(directory)
    if above != directory and os.path.isdir(above):
        raise OutputError(
            f"There is no directory {directory} to write into. Make it first (mkdir -p {shlex.quote(directory)}), or "
            "check the path."
        )
    directory = above
    if not os.path.isdir(directory):
        raise NotADirectoryError(f"{directory} is a file: nothing can be written below it")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {directory}")
