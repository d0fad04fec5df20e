"""What a store declares, held against what is there, before anything is read or allocated.

Whoever can write a store can make it name a pipe that never ends, a device, a file of a terabyte of nothing, or more
rows than anybody has. A reader that believes it hangs, or takes all memory.
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

#: Of one document of metadata, in bytes: a group of ten thousand arrays, consolidated, takes about ten million.
MOST_METADATA = 64 << 20

#: Rows of an array. Whoever reads a billion in a second is at it for three hours, in every pass.
MOST_ROWS = 10**13

_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")

# What is not compressed at all takes as much as its chunk, and filters may turn bytes into a few more.
_LARGEST_CHUNK, _BESIDE_CHUNK = 4, 1 << 20

# Of the chunks that are declared one in a million is there, of any number up to a thousand.
_ONE_IN, _ENOUGH = 10**6, 1000


def check_documents(path: str) -> None:
    """Check the metadata of the array or group in a directory, or in a zip file, of this machine.

    Raises
    ------
    StoreError
        If one of them is anything but a file, or is larger than metadata are.
    """
    if os.path.isdir(path):
        for name in _DOCUMENTS:
            check_file(os.path.join(path, name), MOST_METADATA, "metadata")
    elif os.path.isfile(path) and zipfile.is_zipfile(path):  # looking into a pipe would wait for its other end
        _check_archive(path)


def check_members(path: str) -> None:
    """The same for everything right below a group."""
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
    """Raise `StoreError` if there is something at ``path`` that is no file, or a file of more bytes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return  # whoever needs it will say so
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(
            f"{path} is a {_kind(found.st_mode)}; {what} of a store have to be files. Somebody has tampered with this "
            "store, or it is none: restore it, or write it again."
        )
    if found.st_size > most_bytes:
        raise StoreError(_too_large(path, found.st_size, most_bytes, what))


def _kind(mode: int) -> str:
    tests = {stat.S_ISDIR: "directory", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in tests.items() if test(mode)), "device")


def _too_large(path: str, n_bytes: int, most_bytes: int, what: str) -> str:
    return (
        f"{path} has {n_bytes} bytes, and {what} of this store take {most_bytes} at most. It is damaged, or somebody "
        "has tampered with it: restore it, or write it again."
    )


def check_chunks(array: zarr.Array[Any], start: int, stop: int) -> None:
    """Check the files that hold some rows of an array in a directory of this machine.

    Raises
    ------
    StoreError
        If one of them is anything but a file, or is larger than its chunk (or shard) can be.
    """
    root = getattr(array.store, "root", None)
    if not isinstance(root, Path):
        return
    grid, most = _grid(array), _most_bytes(array)
    folder = os.path.join(root, array.path)
    rows = range(start // grid[0], -(-stop // grid[0]))
    others = (range(-(-n // size)) for n, size in zip(array.shape[1:], grid[1:], strict=True))
    for coordinates in itertools.product(rows, *others):
        check_file(os.path.join(folder, array.metadata.encode_chunk_key(coordinates)), most, "chunks")


def check_archive(array: zarr.Array[Any]) -> None:
    """The same for all chunks of an array in a zip archive, of which a few bytes may become any number."""
    if not isinstance(array.store, zarr.storage.ZipStore) or not array.store.read_only:
        return
    path, most, below = array.store.path, _most_bytes(array), f"{array.path}/".lstrip("/")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            is_chunk = entry.filename.startswith(below) and entry.filename.rpartition("/")[2] not in _DOCUMENTS
            if is_chunk and entry.file_size > most:
                raise StoreError(_too_large(f"{path}/{entry.filename}", entry.file_size, most, "chunks"))


def _most_bytes(array: zarr.Array[Any]) -> int:
    """Of a file that holds a chunk, or a shard."""
    return _LARGEST_CHUNK * product(_grid(array)) * array.dtype.itemsize + _BESIDE_CHUNK


def _grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Shape of what is stored under one key."""
    return tuple(max(1, n) for n in (array.shards or array.chunks))


def product(numbers: Iterable[int]) -> int:
    """Of Python's integers, which do not overflow."""
    result = 1
    for number in numbers:
        result *= int(number)
    return result


def check_extent(array: zarr.Array[Any], name: str) -> None:
    """Raise unless enough of an array is stored for its size to be believed, in chunks that hold something.

    A missing chunk means the fill value to Zarr, so any size can be declared for nothing. Only the declaration of more
    than a million chunks is doubted: then one in a million has to be there, or a thousand.

    Parameters
    ----------
    array : zarr.Array
    name : str
        For the message.
    """
    shape, grid = array.shape, _grid(array)
    for sizes in (array.chunks, array.shards or ()):
        if any(size < 1 <= n for n, size in zip(shape, sizes, strict=False)):
            raise StoreError(
                f"{name} declares chunks of {' × '.join(str(int(size)) for size in sizes)} numbers, which hold "
                "nothing. Its metadata are damaged: restore them, or write the array again."
            )
    n_chunks = product(-(-n // size) for n, size in zip(shape, grid, strict=True))
    wanted = min(n_chunks // _ONE_IN, _ENOUGH)
    if not wanted:
        return
    found = sync(_count_keys(array, wanted + len(_DOCUMENTS)))
    if found < wanted:
        raise StoreError(
            f"{name} declares {' × '.join(map(str, shape))} numbers in {n_chunks} chunks, of which {found} at most are "
            "there: all others would be read as the fill value. Its metadata are damaged, or it was never written."
        )


async def _count_keys(array: zarr.Array[Any], most: int) -> int:
    found = 0
    async for _ in array.store.list_prefix(f"{array.path}/" if array.path else ""):
        found += 1
        if found >= most:
            break
    return found
