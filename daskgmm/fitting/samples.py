"""Samples in memory: smaller samples of a sample, and E-steps over a sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.kernel_choice import MixtureShape, choose_kernel
from ..core.mixture import MixtureParameters
from ..data.inputs import as_dataset
from ..data.row_sample import draw_by_weight, draw_seed
from ..engine.few_rows import FewRowsEngine
from ..engine.interface import Engine
from .estep_pass import EStepPass
from .folds import ScoreFold
from .initialization import Sample

Array = np.ndarray[Any, np.dtype[Any]]


class SampleParts:
    """Parts of a sample, one after the other, and rows that are held out of all parts.

    Rows of equal weight are drawn without replacement as long as there are enough. If weights differ, each part is a
    priority sample of its own, as the sample itself is. Then few rows may have most of the weight: held out, they would
    be in no part and decide every comparison. So the rows that a priority sample of √n rows takes for certain are in
    every part, and beside the rows that are held out, with their share of the weight.

    Parameters
    ----------
    sample : Sample
    held_out : int
        Number of rows to hold out.
    random_state : numpy.random.RandomState
    """

    def __init__(self, sample: Sample, held_out: int, random_state: np.random.RandomState) -> None:
        self._sample, self._random_state = sample, random_state
        weights, n_rows = sample.weights, len(sample.rows)
        self._is_equal = weights is None or np.ptp(weights) == 0
        order = random_state.permutation(n_rows)
        heavy = np.zeros(n_rows, bool)
        if weights is not None and not self._is_equal and held_out:
            heavy = certain(weights, math.isqrt(n_rows))
            order = np.concatenate([order[~heavy[order]], np.flatnonzero(heavy)])
        self._rest, self._used = order[held_out:], 0
        self._weights = self._representing(self._rest, heavy)
        chosen = np.sort(np.append(order[:held_out], np.flatnonzero(heavy)))
        self.held_out = part(sample, chosen, self._representing(chosen, heavy))
        """Rows that are in no part, and rows that are in every part because of their weight."""

    def _representing(self, chosen: Array, heavy: Array) -> Array | None:
        """Weights of chosen rows: those that are not ``heavy`` have the weight of all such rows of the sample."""
        weights = self._sample.weights
        if weights is None or not heavy.any():
            return None if weights is None else weights[chosen]
        found, light = weights[chosen].astype(np.float64), ~heavy[chosen]
        found[light] *= weights[~heavy].sum() / found[light].sum()
        return found

    def next(self, n_rows: int) -> Sample:
        """Draw the next part of about ``n_rows`` rows."""
        if not self._is_equal:
            assert self._weights is not None
            seed = draw_seed(self._random_state)
            chosen, weights = draw_by_weight(self._weights, n_rows, seed)
            positions = self._rest[chosen]
            order = np.argsort(positions)
            return part(self._sample, positions[order], weights[order])
        if self._used + n_rows > len(self._rest):
            self._rest, self._used = self._random_state.permutation(self._rest), 0
        begin, self._used = self._used, self._used + n_rows
        return part(self._sample, np.sort(self._rest[begin : self._used]))


def certain(weights: Array, size: int) -> Array:
    """Mask of the rows that are in a priority sample of ``size`` rows for certain, (n,).

    These are the rows whose weight is at least the mean weight of the rows of such a sample beside the heavier ones.
    """
    order = np.argsort(-weights, kind="stable")
    falling = weights[order].astype(np.float64)
    light = np.flatnonzero(falling[:size] * np.arange(size, 0, -1) < np.cumsum(falling[::-1])[::-1][:size])
    mask = np.zeros(len(weights), bool)
    mask[order[: light[0] if len(light) else size]] = True
    return mask


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
    engine = FewRowsEngine(local.n_threads, local.tuning)
    return EStepPass(engine, dataset, sample.frame, backend, float(weights.sum()))


def mean_log_likelihood(
    local: Engine,
    sample: Sample,
    parameters: MixtureParameters,
    backend: Callable[[MixtureShape], ElementwiseBackend],
) -> float:
    """Compute the mean log-likelihood of a sample, in nats per unit of weight."""
    rows, kind = sample.rows, sample.row_kind
    dataset = replace(as_dataset(rows, sample.weights)[0], row_kind=kind)
    kernel = choose_kernel(parameters, sample.frame, rows.dtype, backend(MixtureShape.of(parameters)), rows=kind.name)
    engine = FewRowsEngine(local.n_threads, local.tuning)
    return float(engine.run(dataset, ScoreFold(kernel, row_kind=kind), "score").mean_log_likelihood)
