"""New Zarr stores, written whole or not at all.

A store is written under a hidden name beside its final name, and renamed in one step when it is complete. An object
store has no rename: there the attributes with the store's format are written last, and every reader refuses a store
without these attributes. In both cases there is one writer: see `output_locks`. In an object store the writer is the
first process to write the group's document.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import fsspec
import zarr
from dask.utils import format_bytes

from ..errors import DaskGMMError, OutputError, OutputExistsError, StoreError
from ..version import __version__
from .addresses import Secrets
from .output_locks import claimed, hidden, locked, remove, remove_unnamed
from .retry import describe_error
from .store import local_path, open_node, to_install, without_secrets

Address = str | os.PathLike[str]

# Errors of a full disk: no space, quota exceeded, largest size of a file (of the disk or of this process) exceeded.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Zarr's document for an empty group.
_EMPTY_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'

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


def check_target(address: Address, kind: str, *, overwrite: bool = False) -> None:
    """Raise unless a store may be written at an address; cheap, to be called before any work.

    Parameters
    ----------
    address : str or path
    kind : str
        Kind of store to be written. Only a store of the same kind that daskgmm wrote is ever replaced.
    overwrite : bool

    Raises
    ------
    OutputExistsError
        If there is something at the address that is not to be replaced.
    OutputError
        If the directory does not exist.
    OSError
        If the directory cannot be written.
    """
    name, path = os.fspath(address), local_path(address)
    if "::" in name.rpartition("://")[2]:
        raise ValueError(f"{without_secrets(name)!r} names an array inside a store; an output is a store of its own")
    if path is None:
        _check_remote(name)
        return
    if os.path.lexists(path) and not _replaceable(path, kind):
        raise OutputExistsError(
            f"{name} exists already, and it is never overwritten because it is not a {kind} store that daskgmm wrote. "
            "Choose another name, or remove it yourself."
        )
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(_exists(name))
    _check_directory(os.path.dirname(path))


def check_room(address: Address, n_bytes: int) -> None:
    """Raise if the disk has no room for a store of ``n_bytes``; URLs are not checked.

    Parameters
    ----------
    address : str or path
    n_bytes : int
        Least size of the store, in bytes.

    Raises
    ------
    OutputError
        If less space is free.
    """
    path = local_path(address)
    if path is None:
        return
    free = shutil.disk_usage(_nearest_directory(os.path.dirname(path))).free
    if n_bytes > free:
        raise OutputError(
            f"{without_secrets(os.fspath(address))} cannot be written: it takes {format_bytes(n_bytes)} or more, and "
            f"{format_bytes(free)} are free there. Make room, choose another place, or write fewer rows."
        )


@contextmanager
def new_store(address: Address, attributes: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[zarr.Group]:
    """Make a group to write into, which gets its name when the ``with`` block ends, and is removed when it fails.

    Parameters
    ----------
    address : str or path
        A path, or a URL that fsspec can write.
    attributes : mapping
        Result of `record`. Entries may be added inside the block.
    overwrite : bool
        Replace a store of the same kind; the old store stays until the new one is complete.
    """
    kind, name, path = attributes["format"], os.fspath(address), local_path(address)
    check_target(address, kind, overwrite=overwrite)
    place = _remote(name) if path is None else _local(os.path.realpath(path), kind, overwrite)
    with place as location:
        with writing(name):
            group = zarr.open_group(location, mode="a", zarr_format=3)
        with _name_full_disk(name):
            yield group
        with writing(name):
            group.attrs.update({ATTRIBUTE: dict(attributes)})


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Convert an `OSError` in the ``with`` block to an `OutputError`, for blocks that only write the output.

    Parameters
    ----------
    name : str
        Name of the output, for the message.
    """
    try:
        yield
    except DaskGMMError:
        raise
    except OSError as error:
        advice = "Make room, or choose another place" if error.errno in _FULL else "Choose another place"
        raise OutputError(
            f"{without_secrets(name)} cannot be written ({describe_error(error)}). {advice}; "
            "nothing of it has been kept."
        ) from Secrets(name).cause(error)


@contextmanager
def _name_full_disk(name: str) -> Iterator[None]:
    """Convert only the errors of a full disk, for blocks that also read other files; see `writing`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with writing(name):
            raise


@contextmanager
def _local(path: str, kind: str, overwrite: bool) -> Iterator[str]:
    with ExitStack() as stack:
        with writing(path):
            growing = stack.enter_context(claimed(path))
        check_target(path, kind, overwrite=overwrite)  # again, because there is no other writer now
        yield growing
        remove_unnamed(growing)
        _give_name(growing, path, overwrite)


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


@contextmanager
def _remote(url: str) -> Iterator[str]:
    files, path = _file_system(url)
    with writing(url):
        _claim(files, path, url)
    try:
        yield url
    except BaseException as error:
        with suppress(Exception):
            files.rm(path, recursive=True)
        if isinstance(error, Exception) and Secrets(url).cause(error) is None:
            raise _unwritable(url, error) from None
        raise


def _claim(files: Any, path: str, url: str) -> None:
    """Create the group's document; raise `OutputExistsError` if another writer has created it."""
    try:
        files.pipe_file(f"{path}/zarr.json", _EMPTY_GROUP, mode="create")
    except FileExistsError as error:
        raise OutputExistsError(_exists_remotely(url)) from error
    except (TypeError, NotImplementedError):
        return  # a file system without exclusive creation
    except OSError:
        raise
    except Exception as error:
        raise _unwritable(url, error) from Secrets(url).cause(error)


def _file_system(url: str) -> tuple[Any, str]:
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        secrets = Secrets(url)
        raise StoreError(
            f"{without_secrets(url)} cannot be written: {secrets.hide(str(error))}. {to_install(url)}, or write to a "
            "local path."
        ) from secrets.cause(error)
    except Exception as error:
        raise _unwritable(url, error) from Secrets(url).cause(error)
    return files, path


def _check_remote(url: str) -> None:
    files, path = _file_system(url)
    try:
        exists = files.exists(path)
    except Exception as error:
        raise _unwritable(url, error) from Secrets(url).cause(error)
    if exists:
        raise OutputExistsError(_exists_remotely(url))


def _unwritable(url: str, error: Exception) -> OutputError:
    reason = Secrets(url).hide(f"{type(error).__name__}: {error}")
    return OutputError(
        f"{without_secrets(url)} cannot be written ({reason}). Check that it can be reached and that you may write "
        "there."
    )


def _exists(name: str) -> str:
    return f"{without_secrets(name)} exists already. Choose another name, or replace it with overwrite=True."


def _exists_remotely(url: str) -> str:
    return (
        f"{without_secrets(url)} exists already, and only local stores can be replaced in one step. Remove it first, "
        "or choose another name."
    )


def _replaceable(path: str, kind: str) -> bool:
    if os.path.isdir(path) and not os.listdir(path):
        return True
    try:
        return read_record(open_node(path)).get("format") == kind
    except (StoreError, OSError):
        return False


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
