"""The passes before the first E-step, for one mixture or several."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from ..config import compiled
from ..core.elementwise import ElementwiseBackend
from ..core.kernel_choice import MixtureShape, choose_backend
from ..data.dataset import Dataset
from ..data.row_checks import check_complete, check_weight_sum
from ..data.row_sample import ReservedRows, RowSample, draw_rows, draw_seed
from ..engine.interface import Engine
from .fit_spec import FitSpec
from .survey import Survey, SurveyFold, check_range, survey_fold
from .weight_survey import WeightSurvey, WeightSurveyFold

Array = np.ndarray[Any, np.dtype[Any]]


def take_surveys(engine: Engine, dataset: Dataset, specs: Sequence[FitSpec[Any]]) -> list[Survey]:
    """Survey the data in one pass: count, moments, extremes, finiteness, and a sample of rows for each spec.

    If rows are drawn by weight, a pass over the weights comes first.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError
        The error names the first invalid row that the pass met.
    IncompleteDataError
        If no row counts because each is incomplete.
    DataRangeError
    """
    drawn = _draw(engine, dataset, specs)
    largest = max((spec.settings.initialization for spec in specs), key=lambda how: how.n_components)
    backend = backend_for(dataset, MixtureShape(largest.structure, largest.n_components, dataset.n_features))
    keys = [(drawing, spec.settings.scattered) for (drawing, _), spec in zip(drawn, specs, strict=True)]
    rounds = any(spec.settings.resolved(dataset.n_rows).single for spec in specs)
    folds = {
        key: survey_fold(dataset, sample, backend, key[1], rounds=rounds)
        for key, (_, sample) in zip(keys, drawn, strict=True)
    }
    by_key = dict(zip(folds, engine.run_together(dataset, list(folds.values()), "survey"), strict=True))
    first = next(iter(by_key.values()))
    check_complete(first.n_rows, first.n_incomplete)
    thin = {key: _deepened(fold, by_key[key]) for key, fold in folds.items()}
    again = {key: fold for key, fold in thin.items() if fold is not None}
    if again:
        by_key |= dict(zip(again, engine.run_together(dataset, list(again.values()), "survey"), strict=True))
    taken = folds | again
    surveys: list[Survey] = [by_key[key].settled(taken[key].sampled) for key in keys]
    check_weight_sum(surveys[0].weight_sum)
    check_range(surveys[0])
    return surveys


def _deepened(fold: SurveyFold, survey: Survey) -> SurveyFold | None:
    """Return the fold that samples again, if so few rows count that the sample has half its size at most; else None."""
    sampled, n_drawn = fold.sampled, len(survey.sample)
    if not isinstance(sampled, ReservedRows) or 2 * n_drawn > min(sampled.sample.n_rows, survey.n_weighted):
        return None
    return replace(fold, sampled=sampled.deepened(survey.n_weighted, survey.weight_sum))


def n_weight_passes(dataset: Dataset, size: int) -> int:
    """Count the passes over the weights for a sample of ``size`` rows; weights in memory need no pass."""
    return int(_draws_by_weight(dataset, size) and dataset.weights is not None and not dataset.weights.in_process)


def n_survey_passes(dataset: Dataset, size: int) -> int:
    """Count the surveys, at most: a second one where few rows count samples these."""
    return 2 if dataset.row_kind.leaves_out and dataset.n_rows > size else 1


def _draws_by_weight(dataset: Dataset, size: int) -> bool:
    return dataset.weights is not None and dataset.n_rows > size


_Drawing = tuple[int, int]
"""Size and seed of a sample."""


def _draw(engine: Engine, dataset: Dataset, specs: Sequence[FitSpec[Any]]) -> list[tuple[_Drawing, RowSample]]:
    """Draw the sample of each spec; return its size and seed, and its rows."""
    drawings = [_drawing(dataset, spec) for spec in specs]
    by_weight = {
        drawing: WeightSurveyFold(*drawing, dataset.row_kind)
        for drawing in drawings
        if _draws_by_weight(dataset, drawing[0])
    }
    weighed: dict[_Drawing, WeightSurvey] = dict(
        zip(by_weight, _weigh(engine, dataset, list(by_weight.values())), strict=True)
    )
    for drawing, spec in zip(drawings, specs, strict=True):
        # Small data draw no seed, so that the starts get the same random numbers as in scikit-learn.
        if dataset.n_rows > drawing[0] and not (drawing in weighed and weighed[drawing].is_complete):
            draw_seed(spec.random_state)
    samples = {drawing: _sample(dataset, drawing, weighed.get(drawing)) for drawing in drawings}
    return [(drawing, samples[drawing]) for drawing in drawings]


def _sample(dataset: Dataset, drawing: _Drawing, weighed: WeightSurvey | None) -> RowSample:
    (size, seed), n_rows = drawing, dataset.n_rows
    sample = draw_rows(n_rows, size, seed) if weighed is None else weighed.sample(seed)
    if n_rows <= size or not dataset.row_kind.leaves_out:
        return sample
    if weighed is None:
        return ReservedRows.of(sample, seed, n_rows)
    return ReservedRows.of(sample, seed, weighed.n_weighted, weighed.lowest)


def _drawing(dataset: Dataset, spec: FitSpec[Any]) -> _Drawing:
    size = spec.settings.sample_size
    return size, draw_seed(deepcopy(spec.random_state)) if dataset.n_rows > size else 0


def _weigh(engine: Engine, dataset: Dataset, folds: Sequence[WeightSurveyFold]) -> list[WeightSurvey]:
    if not folds:
        return []
    weights = dataset.weights_alone
    if not weights.in_process:
        return engine.run_together(weights, folds, "weights")
    with engine.in_memory() as local:
        return local.run_together(weights, folds, "weights")


def backend_for(dataset: Dataset, shape: MixtureShape) -> ElementwiseBackend:
    """Choose the `ElementwiseBackend` of a fit of mixtures of that shape to the data."""
    return choose_backend(shape, dataset.n_rows, compiled=compiled())
