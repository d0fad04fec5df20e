"""Held-out rows, determined by row number and seed, so that a pass needs no mask of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dataset import Dataset
from .row_block import SAMPLE_WEIGHT
from .row_sample import random_words
from .source import DerivedSource, Part, Source

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class HeldOut:
    """A random subset of the rows, in which each row is independently of all others."""

    share: float
    """Probability that a row is held out, between 0 and 1."""
    seed: int

    def __call__(self, start: int, stop: int) -> Array:
        """Mask of the held-out rows among rows ``start`` to ``stop``, (stop − start,), boolean."""
        return np.asarray(random_words(self.seed, start, stop) < np.uint64(int(self.share * 2.0**64)))

    def training(self, dataset: Dataset) -> Dataset:
        """Make a data set of all rows in which held-out rows have weight zero."""
        return dataset.with_input(SAMPLE_WEIGHT, _TrainingWeights(self, dataset.weights or _Ones(dataset.n_rows)))


class _Ones(Source):
    """A weight of one for each row."""

    dtype = np.dtype(np.float64)
    in_process = True

    def __init__(self, n_rows: int) -> None:
        self.shape = (n_rows,)

    def part(self, start: int, stop: int) -> Part:
        return _ONES

    def reading_bytes(self, n_rows: int) -> int:
        return 0  # a broadcast view of one number


class _OnesPart(Part):
    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        return np.broadcast_to(np.float64(1.0), (stop - start,))


_ONES = _OnesPart()


class _TrainingWeights(DerivedSource):
    """Sample weights, zero for held-out rows."""

    def __init__(self, held_out: HeldOut, weights: Source) -> None:
        super().__init__(weights, weights.shape, np.dtype(np.float64))
        self._held_out = held_out

    def made_of(self, source: Source) -> Source:
        return _TrainingWeights(self._held_out, source)

    def part(self, start: int, stop: int) -> Part:
        return _TrainingPart(self._held_out, self.source.part(start, stop))

    def reading_bytes(self, n_rows: int) -> int:
        return super().reading_bytes(n_rows) + 3 * n_rows * self.row_bytes


class _TrainingPart(Part):
    def __init__(self, held_out: HeldOut, weights: Part) -> None:
        self._held_out, self._weights = held_out, weights
        self.dependencies, self.cuts = weights.dependencies, weights.cuts

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        kept = ~self._held_out(start, stop)
        weights = self._weights.read(handle, inputs, start, stop)
        # A wrong number of weights is an error where rows and weights meet.
        return np.where(kept, weights, 0.0) if len(weights) == len(kept) else weights
