"""Stored arrays of any number of dimensions as lazy blocks, read with every check."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from ..tuning import current
from .output import shared
from .raveling import block_lengths
from .source import Source

Array = np.ndarray[Any, np.dtype[Any]]


class _Regions:
    """A stored array with the interface that dask's from_array needs."""

    def __init__(self, source: Source, block_rows: tuple[int, ...]) -> None:
        self._handle, self.identity, self.block_rows = source.handle, source.identity(), block_rows
        self.name = f"gmm-regions-{uuid.uuid4().hex}"
        self.shape, self.dtype, self.ndim = source.shape, source.dtype, source.ndim

    def __getitem__(self, region: tuple[slice, ...]) -> Array:
        return np.asarray(self._handle[region])


def lazy_regions(source: Source, features: Sequence[int] = ()) -> da.Array:
    """Lazy array in blocks of whole chunks, of about a slab, not cut along the axes of the features.

    Parameters
    ----------
    source : Source
        Stored array, whose handle reads regions and knows the shape of its chunks (``files``).
    features : sequence of int
    """
    lengths = block_lengths(source.shape, source.handle.files, features, source.dtype.itemsize, current().slab_bytes)
    regions = shared(_Regions(source, lengths))
    meta = np.empty((0,) * source.ndim, source.dtype)
    return da.from_array(regions, chunks=lengths, name=regions.name, asarray=False, inline_array=False, meta=meta)
