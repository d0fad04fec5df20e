"""New Zarr stores, whole or not at all.

A store grows under a hidden name beside its own, and one rename gives the store its name when nothing can fail any
more. An object store has no rename: there the attributes that say what the store is are written last, and every reader
refuses a store without these attributes. Either way there is one writer: see `output_locks`. In an object store the
writer is the first process to write the group's document.
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

# Errors of a disk that takes no more: full, over quota, over the size of a file, over the limit of this process.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What Zarr writes for an empty group.
_EMPTY_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'

#: The attribute of a group that says what daskgmm wrote there.
ATTRIBUTE = "daskgmm"


def record(kind: str, **more: Any) -> dict[str, Any]:
    """Attributes of a store that daskgmm writes.

    Parameters
    ----------
    kind : str
        What it is: ``"model"``, ``"results"``, …
    **more
        Anything that JSON can say.
    """
    return {"format": kind, "format_version": 1, "daskgmm_version": __version__, **more}


def read_record(node: zarr.Array[Any] | zarr.Group) -> Mapping[str, Any]:
    """The attributes that `record` made; empty for a store that is not one of ours."""
    attributes: Any = node.metadata.attributes  # whatever the document says, also where Zarr expects a mapping
    found = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    return found if isinstance(found, dict) else {}


def check_target(address: Address, kind: str, *, overwrite: bool = False) -> None:
    """Raise unless a store may be written there; cheap, to be called before any work.

    Parameters
    ----------
    address : str or path
    kind : str
        What is to be written. Only a store of the same kind that daskgmm itself wrote is ever replaced.
    overwrite : bool

    Raises
    ------
    OutputExistsError
        If there is something and it is not to be replaced.
    OutputError
        If the directory is not there.
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
    """Raise unless the disk may hold a store of that size; what is free behind a URL is not known.

    Parameters
    ----------
    address : str or path
    n_bytes : int
        Least size of the store.

    Raises
    ------
    OutputError
        If less is free.
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
    """A group to write into; it appears under its name when the ``with`` block ends, and never when the block fails.

    Parameters
    ----------
    address : str or path
        A path, or a URL that fsspec can write.
    attributes : mapping
        From `record`. Entries that are known only at the end may be added inside the block.
    overwrite : bool
        Replace a store of the same kind; the old one stays until the new one is complete.
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
    """Make an `OutputError` of whatever the storage raises in the ``with`` block, which does nothing but write there.

    Parameters
    ----------
    name : str
        Of the output, for the message.
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
    """The same where other files may be read besides: of all that can fail, a full disk is the output's."""
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
        check_target(path, kind, overwrite=overwrite)  # now that nobody else writes there
        yield growing
        remove_unnamed(growing)
        _give_name(growing, path, overwrite)


def _give_name(growing: str, path: str, overwrite: bool) -> None:
    if not overwrite or not os.path.lexists(path):
        try:
            os.rename(growing, path)
        except OSError as error:
            if os.path.lexists(path):
                raise OutputExistsError(_exists(path)) from error  # somebody else was faster
            raise
        return
    # A directory that is not empty cannot be renamed over.
    old = hidden(path, "replaced")
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(locked(path))  # so that nobody takes it for that of a dead writer
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
    """Make the group's document, which only one of several writers can."""
    try:
        files.pipe_file(f"{path}/zarr.json", _EMPTY_GROUP, mode="create")
    except FileExistsError as error:
        raise OutputExistsError(_exists_remotely(url)) from error
    except (TypeError, NotImplementedError):
        return  # a file system that has no such thing
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
        found = files.exists(path)
    except Exception as error:
        raise _unwritable(url, error) from Secrets(url).cause(error)
    if found:
        raise OutputExistsError(_exists_remotely(url))


def _unwritable(url: str, error: Exception) -> OutputError:
    told = Secrets(url).hide(f"{type(error).__name__}: {error}")
    return OutputError(
        f"{without_secrets(url)} cannot be written ({told}). Check that it can be reached and that you may write there."
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
    """The directory, or the nearest one above it that is there."""
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
