"""Rows that are held out: which ones follows from their number and a seed, so that no pass has to carry a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .row_sample import random_words
from .source import Dataset, Part, Source
from .tally import Ledger

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class HeldOut:
    """A random part of the rows, each of which is in it or not whatever the others are."""

    share: float
    """Probability of a row to be held out, between 0 and 1."""
    seed: int

    def __call__(self, start: int, stop: int) -> Array:
        """Whether rows ``start`` to ``stop`` are held out, (stop − start,), boolean."""
        return np.asarray(random_words(self.seed, start, stop) < np.uint64(int(self.share * 2.0**64)))

    def training(self, dataset: Dataset) -> Dataset:
        """The same rows, with weight zero for those that are held out."""
        weights = _TrainingWeights(self, dataset.n_rows, dataset.weights)
        return replace(dataset, weights=weights, ledger=Ledger())


class _TrainingWeights(Source):
    """Sample weights, or ones, with zeros for rows that are held out; made where they are read."""

    dtype = np.dtype(np.float64)
    in_process = True

    def __init__(self, held_out: HeldOut, n_rows: int, weights: Source | None) -> None:
        self.shape = (n_rows,)
        self._held_out, self._weights = held_out, weights
        if weights is not None:
            self.cuts, self.chunk_rows, self.batch_rows = weights.cuts, weights.chunk_rows, weights.batch_rows
            self.in_process, self.reads_ahead, self.handle = weights.in_process, weights.reads_ahead, weights.handle

    def part(self, start: int, stop: int) -> Part:
        return _TrainingPart(self._held_out, None if self._weights is None else self._weights.part(start, stop))

    def shared_tasks(self) -> dict[Any, Any]:
        return {} if self._weights is None else self._weights.shared_tasks()

    def carried_bytes(self) -> int:
        return 0 if self._weights is None else self._weights.carried_bytes()

    def detached(self) -> tuple[Source, dict[Any, Any]]:
        if self._weights is None:
            return self, {}
        weights, tasks = self._weights.detached()
        return _TrainingWeights(self._held_out, self.shape[0], weights), tasks

    def held_bytes(self, n_rows: int) -> int:
        return 0 if self._weights is None else self._weights.held_bytes(n_rows)

    def check_unchanged(self) -> None:
        if self._weights is not None:
            self._weights.check_unchanged()

    def reading_bytes(self, n_rows: int) -> int:
        made = n_rows * self.row_bytes
        return 3 * made if self._weights is None else 3 * made + self._weights.reading_bytes(n_rows)


class _TrainingPart(Part):
    def __init__(self, held_out: HeldOut, weights: Part | None) -> None:
        self._held_out, self._weights = held_out, weights
        if weights is not None:
            self.dependencies, self.cuts = weights.dependencies, weights.cuts

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        kept = ~self._held_out(start, stop)
        if self._weights is None:
            return kept.astype(np.float64)
        weights = self._weights.read(handle, inputs, start, stop)
        # Where they are not what was promised, whoever reads both tells it.
        return np.where(kept, weights, 0.0) if len(weights) == len(kept) else weights
