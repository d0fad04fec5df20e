"""Many arrays as one: a Zarr group with a single array of bytes, which takes three files for any number of arrays.

::

    attributes["daskgmm"]   format, format_version, daskgmm_version, written, values (all but arrays),
                            arrays ([name, dtype, shape, axes] of each, in the order of their bytes),
                            checksums (SHA-256 of the bytes, and of the other attributes)
    packed                  uint8, one uncompressed chunk

Products are rounded differently if the memory layout differs. So an array's order of axes in memory is stored and
restored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.locations import Address
from ..data.store_checks import product
from ..data.write import new_store, record
from .layout import checksum, digest
from .stored_group import StoredGroup

Array = np.ndarray[Any, np.dtype[Any]]

PACKED = "packed"
_DTYPES = ("float64", "float32", "int64", "uint32", "bool")
_LARGEST = 1 << 48  # a larger extent of an array is not plausible


def write_packed(path: Address, kind: str, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write values and arrays into a new packed group, whole or not at all.

    Parameters
    ----------
    path : str or path
        Path at which there is nothing yet.
    kind : str
        Kind of group.
    values : mapping
        Values for JSON.
    arrays : mapping of str to numpy.ndarray
        Arrays of the dtypes float64, float32, int64, uint32 and bool.
    """
    headers, pieces = [], []
    for name, array in arrays.items():
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        headers.append([name, array.dtype.name, list(array.shape), axes])
        pieces.append(np.ascontiguousarray(array.transpose(axes)).reshape(-1).view(np.uint8))
    packed = np.concatenate([np.empty(0, np.uint8), *pieces])
    attributes = record(kind, written=time.time(), values=dict(values), arrays=headers)
    attributes["checksums"] = {PACKED: checksum(packed), "attributes": digest(attributes)}
    with new_store(path, attributes) as group:
        stored = group.create_array(
            PACKED,
            shape=packed.shape,
            chunks=(max(1, packed.size),),
            dtype=packed.dtype,
            compressors=None,
            filters=None,
            config={"write_empty_chunks": True},
        )
        stored[...] = packed


class PackedGroup(StoredGroup):
    """A packed group, to be read."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Values beside the arrays."""
        return self.mapping("values")

    @property
    def age(self) -> float:
        """Seconds since the group was written."""
        written = self.attributes.get("written")
        if isinstance(written, bool) or not isinstance(written, int | float):
            raise self.error("written", f"is {written!r:.40}; expected a time in seconds")
        return max(0.0, time.time() - written)

    def arrays(self) -> dict[str, Array]:
        """All arrays, by their names."""
        headers = self._headers()
        packed = self.array(PACKED, (sum(n_bytes for *_, n_bytes in headers),), (np.uint8,))
        arrays, offset = {}, 0
        for name, dtype, shape, axes, n_bytes in headers:
            piece = packed[offset : offset + n_bytes].view(dtype)
            # A copy has the alignment of every new array, which a view at this offset may not have.
            arrays[name] = piece.reshape([shape[axis] for axis in axes]).copy().transpose(np.argsort(axes).astype(int))
            offset += n_bytes
        return arrays

    def _headers(self) -> list[tuple[str, np.dtype[Any], list[int], list[int], int]]:
        """Name, dtype, shape, axes and size in bytes of every array."""
        headers = self.attributes.get("arrays")
        if not isinstance(headers, list):
            raise self.error("arrays", "is missing or damaged")
        return [self._checked(entry) for entry in headers]

    def _checked(self, entry: Any) -> tuple[str, np.dtype[Any], list[int], list[int], int]:
        if not (isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], str) and entry[1] in _DTYPES):
            raise self.error("arrays", f"hold {entry!r:.80}; expected name, dtype, shape and axes")
        name, dtype, shape, axes = entry
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < _LARGEST for n in shape):
            raise self.error("arrays", f"{name!r:.40} has the shape {shape!r:.40}")
        if not isinstance(axes, list) or sorted(map(str, axes)) != sorted(map(str, range(len(shape)))):
            raise self.error("arrays", f"{name!r:.40} has the axes {axes!r:.40}")
        return name, np.dtype(dtype), shape, [int(axis) for axis in axes], product(shape) * np.dtype(dtype).itemsize
