"""Rows drawn from a mixture as lazy arrays, block by block."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import dask
import dask.array as da
import numpy as np
from sklearn.utils import check_random_state

from ..core.drawing import RowSequence
from ..core.mixture import MixtureParameters
from ..engine.blas import one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]


def lazy_samples(
    mixture: MixtureParameters, n_samples: int, chunks: Any, random_state: Any
) -> tuple[da.Array, da.Array]:
    """Draw rows from a mixture lazily; values depend on ``random_state`` and the row number, not on ``chunks``.

    Parameters
    ----------
    mixture : MixtureParameters
    n_samples : int
    chunks : int, str or tuple
        Rows of a block, the size of a block, ``"auto"``, or the chunks of a dask array (rows, features).
    random_state : int, RandomState or None

    Returns
    -------
    rows : dask.array.Array of shape (n_samples, D)
    labels : dask.array.Array of shape (n_samples,), int64

    Raises
    ------
    ValueError
        If the chunks are none, or divide the features.
    """
    lengths = row_chunks(chunks, n_samples, mixture.n_features)
    # One node of the graph: a worker gets the mixture once, and not with every block.
    sequence = dask.delayed(RowSequence(mixture, seed_of(random_state)), pure=False, traverse=False)
    shared = {"sequence": sequence, "token": "gmm-samples"}
    rows = da.map_blocks(
        _rows, chunks=(lengths, (mixture.n_features,)), dtype=np.float64, meta=np.empty((0, 0)), **shared
    )
    labels = da.map_blocks(_labels, chunks=(lengths,), dtype=np.int64, meta=np.empty(0, np.int64), **shared)
    return rows, labels


def _rows(sequence: RowSequence, block_info: Any) -> Array:
    with one_blas_thread():  # several threads round products of large matrices differently
        return sequence.rows(*_range(block_info))


def _labels(sequence: RowSequence, block_info: Any) -> Array:
    return sequence.labels(*_range(block_info))


def _range(block_info: Any) -> tuple[int, int]:
    start, stop = block_info[None]["array-location"][0]
    return int(start), int(stop)


def row_chunks(chunks: Any, n_rows: int, n_features: int) -> tuple[int, ...]:
    """Lengths of the blocks of an array of rows, whose features stay together.

    Raises
    ------
    ValueError
        If the chunks are none, or divide the features.
    """
    if isinstance(chunks, tuple | list) and len(chunks) == 1:  # those of an array of weights or labels
        chunks = (*chunks, -1)
    both = chunks if isinstance(chunks, tuple | list) and len(chunks) == 2 else (chunks, -1)
    try:
        if isinstance(chunks, bool | np.bool_):
            raise TypeError("a flag is no number of rows")
        rows, features = da.core.normalize_chunks(both, (n_rows, n_features), dtype=np.float64)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(
            f"chunks={chunks!r:.80}; expected the rows of a block, a size such as '64 MiB', 'auto', or the chunks of a "
            f"dask array of the shape {(n_rows, n_features)} ({error})"
        ) from None
    if len(features) > 1:
        raise ValueError(
            f"chunks={chunks!r:.80} divide the {n_features} features; a block has all of them: ({rows[0]}, -1)"
        )
    return tuple(map(int, rows))


def seed_of(random_state: Any) -> int | list[int]:
    """Entropy of a random state: an int itself, numbers drawn from a RandomState, or new entropy for None."""
    if random_state is None:
        return [int(word) for word in np.random.SeedSequence().generate_state(4)]
    generator = check_random_state(random_state)
    if isinstance(random_state, Integral):
        return int(random_state)
    return [int(word) for word in generator.randint(1 << 32, size=4, dtype=np.uint32)]
