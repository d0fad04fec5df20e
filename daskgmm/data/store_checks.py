"""Checks of a store's declarations against its files, before anything is read or allocated.

A damaged or hostile store may contain a pipe that never ends, a device, a sparse file of a terabyte, or declare more
rows than are stored. Without these checks, a reader hangs or takes all memory.
"""

from __future__ import annotations

import itertools
import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zarr
from zarr.core.sync import sync

from ..errors import StoreError

#: Largest document of metadata, in bytes: the consolidated metadata of ten thousand arrays take about ten million.
MOST_METADATA = 64 << 20

#: Largest number of rows of an array. At a billion rows per second, one pass takes three hours.
MOST_ROWS = 10**13

_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")

# Largest size of a stored chunk: a multiple of its size in memory, because filters may enlarge it, and a constant.
_LARGEST_CHUNK, _BESIDE_CHUNK = 4, 1 << 20

# Require one stored chunk per million declared, at most 1000.
_ONE_IN, _ENOUGH = 10**6, 1000


def check_documents(path: str) -> None:
    """Check the metadata of the array or group in a directory or zip file on this machine.

    Raises
    ------
    StoreError
        If a document is not a file, or is larger than `MOST_METADATA`.
    """
    if os.path.isdir(path):
        for name in _DOCUMENTS:
            check_file(os.path.join(path, name), MOST_METADATA, "metadata")
    elif os.path.isfile(path) and zipfile.is_zipfile(path):  # opening a pipe would wait for its writer
        _check_archive(path)


def check_members(path: str) -> None:
    """Check the metadata of everything right below a group; see `check_documents`."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    check_documents(entry.path)


def _check_archive(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.rpartition("/")[2] in _DOCUMENTS and entry.file_size > MOST_METADATA:
                raise StoreError(_too_large(f"{path}/{entry.filename}", entry.file_size, MOST_METADATA, "metadata"))


def check_file(path: str, most_bytes: int, what: str) -> None:
    """Raise `StoreError` if there is something other than a file at ``path``, or a file of more than ``most_bytes``."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return  # a missing file is an error where it is needed
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(
            f"{path} is a {_kind(status.st_mode)}; {what} of a store have to be files. Somebody has tampered with this "
            "store, or it is not a store: restore it, or write it again."
        )
    if status.st_size > most_bytes:
        raise StoreError(_too_large(path, status.st_size, most_bytes, what))


def _kind(mode: int) -> str:
    tests = {stat.S_ISDIR: "directory", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in tests.items() if test(mode)), "device")


def _too_large(path: str, n_bytes: int, most_bytes: int, what: str) -> str:
    return (
        f"{path} has {n_bytes} bytes, and {what} of this store take {most_bytes} at most. It is damaged, or somebody "
        "has tampered with it: restore it, or write it again."
    )


def check_chunks(array: zarr.Array[Any], region: Iterable[slice]) -> None:
    """Check the files with a region of an array in a directory on this machine.

    Parameters
    ----------
    array : zarr.Array
    region : iterable of slice
        Range along each axis.

    Raises
    ------
    StoreError
        If one of them is not a file, or is larger than a chunk (or shard) can be.
    """
    root = getattr(array.store, "root", None)
    if not isinstance(root, Path):
        return
    grid, most = _grid(array), _most_bytes(array)
    folder = os.path.join(root, array.path)
    chunks = (range(own.start // n, -(-own.stop // n)) for own, n in zip(region, grid, strict=True))
    for coordinates in itertools.product(*chunks):
        check_file(os.path.join(folder, array.metadata.encode_chunk_key(coordinates)), most, "chunks")


def check_archive(array: zarr.Array[Any]) -> None:
    """Check the sizes of all chunks of an array in a zip archive, in which few bytes may expand to any size."""
    if not isinstance(array.store, zarr.storage.ZipStore) or not array.store.read_only:
        return
    path, most, below = array.store.path, _most_bytes(array), f"{array.path}/".lstrip("/")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            is_chunk = entry.filename.startswith(below) and entry.filename.rpartition("/")[2] not in _DOCUMENTS
            if is_chunk and entry.file_size > most:
                raise StoreError(_too_large(f"{path}/{entry.filename}", entry.file_size, most, "chunks"))


def _most_bytes(array: zarr.Array[Any]) -> int:
    """Largest size of a file with a chunk, or a shard, in bytes."""
    return _LARGEST_CHUNK * product(_grid(array)) * array.dtype.itemsize + _BESIDE_CHUNK


def _grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Shape of the part of the array that is stored under one key: of a shard, or else a chunk."""
    return tuple(max(1, n) for n in (array.shards or array.chunks))


def product(numbers: Iterable[int]) -> int:
    """Product of integers as a Python integer, which does not overflow."""
    result = 1
    for number in numbers:
        result *= int(number)
    return result


def check_extent(array: zarr.Array[Any], name: str) -> None:
    """Raise unless the declared chunks have a size, and enough chunks are stored for the declared number.

    Zarr reads a missing chunk as the fill value, so an array can declare any size without storing anything. If an array
    declares more than a million chunks, one in a million has to be stored, or 1000.

    Parameters
    ----------
    array : zarr.Array
    name : str
        Name of the array in errors.
    """
    shape, grid = array.shape, _grid(array)
    for sizes in (array.chunks, array.shards or ()):
        if any(size < 1 <= n for n, size in zip(shape, sizes, strict=False)):
            raise StoreError(
                f"{name} declares chunks of {' × '.join(str(int(size)) for size in sizes)} numbers, which are "
                "empty. Its metadata are damaged: restore them, or write the array again."
            )
    n_chunks = product(-(-n // size) for n, size in zip(shape, grid, strict=True))
    needed = min(n_chunks // _ONE_IN, _ENOUGH)
    if not needed:
        return
    n_keys = sync(_count_keys(array, needed + len(_DOCUMENTS)))
    if n_keys < needed:
        raise StoreError(
            f"{name} declares {' × '.join(map(str, shape))} numbers in {n_chunks} chunks, of which {n_keys} at most "
            "are there: all others would be read as the fill value. Its metadata are damaged, or it was never written."
        )


async def _count_keys(array: zarr.Array[Any], most: int) -> int:
    n_keys = 0
    async for _ in array.store.list_prefix(f"{array.path}/" if array.path else ""):
        n_keys += 1
        if n_keys >= most:
            break
    return n_keys
