"""Detection of truncated Blosc chunks.

Blosc's decoder uses the length in the chunk's header, not the number of bytes that it gets: behind the end of a
truncated chunk it decodes other memory, most often without an error. So this module compares the two lengths.
"""

from __future__ import annotations

from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

# Length of Blosc's header, and the position in the header of the chunk's length (header included).
_HEADER, _LENGTH = 16, slice(12, 16)
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array with a check of each chunk's length, if Blosc is the first codec that decodes the chunks."""
    compressors = array.compressors
    if array.shards or not compressors or type(compressors[-1]).__name__ not in ("Blosc", "BloscCodec"):
        return array
    if "zarrs" in zarr.config.get("codec_pipeline.path"):
        return array  # zarrs reads files itself, and its decoder checks lengths
    path = StorePath(WholeChunks(array.store), array.path)
    return zarr.Array(sync(zarr.AsyncArray.open(path, zarr_format=array.metadata.zarr_format)))


class WholeChunks(WrapperStore[Any]):
    """A store that raises for truncated Blosc chunks."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        chunk = await self._store.get(key, prototype, byte_range)
        if chunk is not None and byte_range is None and not key.endswith(_DOCUMENTS):
            _check_length(chunk)
        return chunk


def _check_length(chunk: Buffer) -> None:
    declared = int.from_bytes(chunk[_LENGTH].to_bytes(), "little")
    if len(chunk) < _HEADER or declared != len(chunk):
        raise ValueError(f"a Blosc chunk of {len(chunk)} bytes declares a length of {declared} in its header")
