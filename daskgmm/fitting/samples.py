"""Samples in memory: smaller samples of a sample, and E-steps over a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.kernel_choice import MixtureShape
from ..data.inputs import as_dataset
from ..data.row_sample import draw_by_weight, draw_seed
from ..engine.interface import Engine
from .estep_pass import EStepPass
from .initialization import Sample

Array = np.ndarray[Any, np.dtype[Any]]


class SampleParts:
    """Parts of a sample, one after the other, and rows that are held out of all parts.

    Rows of equal weight are drawn without replacement as long as there are enough. If weights differ, each part is a
    priority sample of its own, as the sample itself is.

    Parameters
    ----------
    sample : Sample
    held_out : int
        Number of rows to hold out.
    random_state : numpy.random.RandomState
    """

    def __init__(self, sample: Sample, held_out: int, random_state: np.random.RandomState) -> None:
        self._sample, self._random_state = sample, random_state
        self._is_equal = sample.weights is None or np.ptp(sample.weights) == 0
        order = random_state.permutation(len(sample.rows))
        self._rest, self._used = order[held_out:], 0
        self.held_out = part(sample, np.sort(order[:held_out]))
        """Rows that are in no part."""

    def next(self, n_rows: int) -> Sample:
        """Draw the next part of about ``n_rows`` rows."""
        if not self._is_equal:
            assert self._sample.weights is not None
            seed = draw_seed(self._random_state)
            chosen, weights = draw_by_weight(self._sample.weights[self._rest], n_rows, seed)
            positions = self._rest[chosen]
            order = np.argsort(positions)
            return part(self._sample, positions[order], weights[order])
        if self._used + n_rows > len(self._rest):
            self._rest, self._used = self._random_state.permutation(self._rest), 0
        begin, self._used = self._used, self._used + n_rows
        return part(self._sample, np.sort(self._rest[begin : self._used]))


def part(sample: Sample, chosen: Array, weights: Array | None = None) -> Sample:
    """Make the sample of the chosen rows of a sample, with other ``weights`` if they are given."""
    if weights is None and sample.weights is not None:
        weights = sample.weights[chosen]
    weight_sum = sample.weight_sum
    if weight_sum is None:
        weight_sum = float(len(sample.rows) if sample.weights is None else sample.weights.sum())
    return replace(sample, rows=sample.rows[chosen], weights=weights, weight_sum=weight_sum)


def sample_pass(local: Engine, sample: Sample, backend: Callable[[MixtureShape], ElementwiseBackend]) -> EStepPass:
    """Make the E-steps over a sample, scaled to the weight of all data, because counts matter beside a prior."""
    weights = np.ones(len(sample.rows)) if sample.weights is None else sample.weights.astype(np.float64)
    if sample.weight_sum is not None:
        weights *= sample.weight_sum / weights.sum()
    dataset = replace(as_dataset(sample.rows, weights)[0], row_kind=sample.row_kind)
    return EStepPass(local, dataset, sample.frame, backend, float(weights.sum()))
