"""Chunks that Blosc compressed, and that were cut off.

Blosc's decoder goes by the length that the chunk says it has, and not by that of the bytes it is given: of a chunk that
was cut off it decodes whatever lies behind it in memory, most often without an error. So the two are compared here.
"""

from __future__ import annotations

from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

# Of a header: how long it is, and where it says the length of the chunk, header included.
_HEADER, _LENGTH = 16, slice(12, 16)
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, with chunks that are checked to be whole where it is Blosc that reads them first."""
    compressors = array.compressors
    if array.shards or not compressors or type(compressors[-1]).__name__ not in ("Blosc", "BloscCodec"):
        return array
    if "zarrs" in zarr.config.get("codec_pipeline.path"):
        return array  # it reads files itself, and with a decoder that checks
    path = StorePath(WholeChunks(array.store), array.path)
    return zarr.Array(sync(zarr.AsyncArray.open(path, zarr_format=array.metadata.zarr_format)))


class WholeChunks(WrapperStore[Any]):
    """A store that hands out Blosc's chunks only whole."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await self._store.get(key, prototype, byte_range)
        if found is not None and byte_range is None and not key.endswith(_DOCUMENTS):
            _check_length(found)
        return found


def _check_length(chunk: Buffer) -> None:
    said = int.from_bytes(chunk[_LENGTH].to_bytes(), "little")
    if len(chunk) < _HEADER or said != len(chunk):
        raise ValueError(f"a Blosc chunk of {len(chunk)} bytes says that it has {said}")
