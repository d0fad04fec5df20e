"""The pass before the first E-step, for one mixture or several."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from ..config import compiled
from ..core.elementwise import ElementwiseBackend
from ..core.kernel_choice import choose_backend
from ..data.dataset import Dataset
from ..data.row_checks import check_weight_sum
from ..data.row_sample import RowSample, draw_rows, draw_seed
from ..engine.interface import Engine
from .fit_spec import FitSpec
from .survey import Survey, check_range, survey_fold
from .weight_survey import WeightSurvey, WeightSurveyFold

Array = np.ndarray[Any, np.dtype[Any]]


def take_surveys(engine: Engine, dataset: Dataset, specs: Sequence[FitSpec[Any]]) -> list[Survey]:
    """One pass: count, moments, extremes, finiteness, and a sample of rows for each spec.

    Where rows are to be drawn by weight, a pass over the weights comes before it.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError
        With the first row concerned that was met.
    DataRangeError
    """
    drawn = _draw(engine, dataset, specs)
    backend = backend_for(dataset, max(spec.settings.initialization.n_components for spec in specs))
    keys = [(drawing, spec.settings.scattered) for (drawing, _), spec in zip(drawn, specs, strict=True)]
    folds = {key: survey_fold(dataset, sample, backend, key[1]) for key, (_, sample) in zip(keys, drawn, strict=True)}
    found = dict(zip(folds, engine.run_together(dataset, list(folds.values()), "survey"), strict=True))
    surveys: list[Survey] = [found[key] for key in keys]
    check_weight_sum(surveys[0].weight_sum)
    check_range(surveys[0])
    return surveys


def n_weight_passes(dataset: Dataset, size: int) -> int:
    """Passes over the weights that drawing ``size`` rows takes; weights in memory are looked at without one."""
    return int(_draws_by_weight(dataset, size) and dataset.weights is not None and not dataset.weights.in_process)


def _draws_by_weight(dataset: Dataset, size: int) -> bool:
    return dataset.weights is not None and dataset.n_rows > size


_Drawing = tuple[int, int]
"""Size and seed of a sample."""


def _draw(engine: Engine, dataset: Dataset, specs: Sequence[FitSpec[Any]]) -> list[tuple[_Drawing, RowSample]]:
    """For each spec the rows of its sample, and what these follow from."""
    drawings = [_drawing(dataset, spec) for spec in specs]
    by_weight = {drawing: WeightSurveyFold(*drawing) for drawing in drawings if _draws_by_weight(dataset, drawing[0])}
    weighed: dict[_Drawing, WeightSurvey] = dict(
        zip(by_weight, _weigh(engine, dataset, list(by_weight.values())), strict=True)
    )
    for drawing, spec in zip(drawings, specs, strict=True):
        # Drawn from only where it is needed, so that small data leave the stream to the starts, as in scikit-learn.
        if dataset.n_rows > drawing[0] and not (drawing in weighed and weighed[drawing].is_complete):
            draw_seed(spec.random_state)
    samples: dict[_Drawing, RowSample] = {
        drawing: weighed[drawing].sample(drawing[1]) if drawing in weighed else draw_rows(dataset.n_rows, *drawing)
        for drawing in drawings
    }
    return [(drawing, samples[drawing]) for drawing in drawings]


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


def backend_for(dataset: Dataset, n_components: int) -> ElementwiseBackend:
    """Loops that passes over the data use for so many components."""
    return choose_backend(dataset.n_rows * n_components, compiled=compiled())
