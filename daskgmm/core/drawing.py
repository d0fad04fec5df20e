"""Rows of a mixture drawn by row number: any range of an endless sequence, without the rows before it.

The sequence is cut into leaves of equal length, each with a random stream of its own. A row depends on the seed and on
its number alone, and ranges that overlap agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]

_LEAF_ROWS = 1 << 12  # another length means other rows


@dataclass(frozen=True)
class RowSequence:
    """Endless sequence of independent rows of a mixture, with the component of each."""

    mixture: MixtureParameters
    seed: int | Sequence[int]
    """Entropy of `numpy.random.SeedSequence`."""

    def rows(self, start: int, stop: int) -> Array:
        """Rows from number ``start`` up to ``stop``, (stop − start, D)."""
        result = np.empty((stop - start, self.mixture.n_features))
        for leaf, here, there in _parts(start, stop):
            result[there] = self._leaf_rows(leaf)[here]
        return result

    def labels(self, start: int, stop: int) -> Array:
        """Components of the rows from number ``start`` up to ``stop``, (stop − start,)."""
        result = np.empty(stop - start, np.int64)
        for leaf, here, there in _parts(start, stop):
            result[there] = self._leaf_labels(self._stream(leaf))[here]
        return result

    def _stream(self, leaf: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(leaf,))))

    def _leaf_labels(self, stream: np.random.Generator) -> Array:
        limits = np.cumsum(self.mixture.weights)
        return np.searchsorted(limits / limits[-1], stream.random(_LEAF_ROWS), side="right")

    def _leaf_rows(self, leaf: int) -> Array:
        stream, mixture = self._stream(leaf), self.mixture
        labels = self._leaf_labels(stream)
        rows = stream.standard_normal((_LEAF_ROWS, mixture.n_features))
        order = np.argsort(labels, kind="stable")
        for k, members in enumerate(np.split(order, np.searchsorted(labels[order], np.arange(1, len(mixture.means))))):
            if len(members):
                colored = mixture.structure.correlate(mixture.covariances, k, rows[members])
                rows[members] = mixture.means[k] + colored
        return rows


def _parts(start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
    """Leaves of a range, each with the places of its rows in the leaf and in the range."""
    for leaf in range(start // _LEAF_ROWS, -(-stop // _LEAF_ROWS)):
        first = leaf * _LEAF_ROWS
        begin, end = max(start, first), min(stop, first + _LEAF_ROWS)
        yield leaf, slice(begin - first, end - first), slice(begin - start, end - start)
