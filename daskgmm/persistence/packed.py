"""Many arrays in one: a Zarr group with a single array of bytes, which costs three files however many there are.

::

    attributes["daskgmm"]   format, format_version, daskgmm_version, written, values (what is no array),
                            arrays ([name, dtype, shape, axes] of each, in the order in which they lie),
                            checksums (SHA-256 of the bytes, and of the rest of these attributes)
    packed                  uint8, one uncompressed chunk

Products round differently where memory is laid out differently. So arrays are kept with the order of their axes in
memory, and come back in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.store_checks import product
from ..data.write import Address, new_store, record
from .layout import checksum, digest
from .stored_group import StoredGroup

Array = np.ndarray[Any, np.dtype[Any]]

PACKED = "packed"
_DTYPES = ("float64", "float32", "int64", "uint32", "bool")
_LARGEST = 1 << 48  # of an extent; more would not be a number of anything


def write_packed(path: Address, kind: str, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write arrays and what JSON can say, whole or not at all.

    Parameters
    ----------
    path : str or path
        Where nothing is yet.
    kind : str
    values : mapping
        What JSON can say.
    arrays : mapping of str to numpy.ndarray
        Of the dtypes float64, float32, int64, uint32 and bool.
    """
    told, pieces = [], []
    for name, array in arrays.items():
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        told.append([name, array.dtype.name, list(array.shape), axes])
        pieces.append(np.ascontiguousarray(array.transpose(axes)).reshape(-1).view(np.uint8))
    packed = np.concatenate([np.empty(0, np.uint8), *pieces])
    attributes = record(kind, written=time.time(), values=dict(values), arrays=told)
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
    """Such a group, to be read."""

    @property
    def values(self) -> Mapping[str, Any]:
        """What is no array."""
        return self.mapping("values")

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        written = self.attributes.get("written")
        if isinstance(written, bool) or not isinstance(written, int | float):
            raise self.error("written", f"is {written!r:.40}; expected a time in seconds")
        return max(0.0, time.time() - written)

    def arrays(self) -> dict[str, Array]:
        """All arrays, by their names."""
        told = self._headers()
        packed = self.array(PACKED, (sum(n_bytes for *_, n_bytes in told),), (np.uint8,))
        found, offset = {}, 0
        for name, dtype, shape, axes, n_bytes in told:
            piece = packed[offset : offset + n_bytes].view(dtype)
            # A copy of its own lies as every new array does, whatever lies before it here.
            found[name] = piece.reshape([shape[axis] for axis in axes]).copy().transpose(np.argsort(axes).astype(int))
            offset += n_bytes
        return found

    def _headers(self) -> list[tuple[str, np.dtype[Any], list[int], list[int], int]]:
        """Name, dtype, shape, axes and size in bytes of every array."""
        told = self.attributes.get("arrays")
        if not isinstance(told, list):
            raise self.error("arrays", "is missing or damaged")
        return [self._checked(entry) for entry in told]

    def _checked(self, entry: Any) -> tuple[str, np.dtype[Any], list[int], list[int], int]:
        if not (isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], str) and entry[1] in _DTYPES):
            raise self.error("arrays", f"hold {entry!r:.80}; expected name, dtype, shape and axes")
        name, dtype, shape, axes = entry
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < _LARGEST for n in shape):
            raise self.error("arrays", f"{name!r:.40} has the shape {shape!r:.40}")
        if not isinstance(axes, list) or sorted(map(str, axes)) != sorted(map(str, range(len(shape)))):
            raise self.error("arrays", f"{name!r:.40} has the axes {axes!r:.40}")
        return name, np.dtype(dtype), shape, [int(axis) for axis in axes], product(shape) * np.dtype(dtype).itemsize
