"""Blocks of rows: their lengths, and views of scratch arrays for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_SHORTEST_BLOCK, _LONGEST_BLOCK = 256, 8192


def block_rows(block_bytes: int, row_bytes: int) -> int:
    """Number of rows of ``row_bytes`` in a block of ``block_bytes``, within limits; never a multiple of 64.

    Features lie a block's length apart. At distances of large powers of two, they would share few lines of the cache.
    """
    rows = min(max(block_bytes // row_bytes, _SHORTEST_BLOCK), _LONGEST_BLOCK) // 8 * 8
    return rows - 8 if rows % 64 == 0 else rows


def blocks(n_rows: int, longest: int) -> Iterator[slice]:
    """Slices of at most ``longest`` rows, of equal lengths as far as possible."""
    step = block_step(n_rows, longest)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def block_step(n_rows: int, longest: int) -> int:
    """Length of each of the `blocks` but the last."""
    count = max(1, -(-n_rows // longest))
    return max(1, min(longest, -(-n_rows // (8 * count)) * 8))  # whole cache lines


def columns(flat: Array, n_columns: int) -> Array:
    """Contiguous view, (rows, ``n_columns``), of scratch made for the longest block, (rows, longest)."""
    return flat.reshape(-1)[: len(flat) * n_columns].reshape(len(flat), n_columns)
