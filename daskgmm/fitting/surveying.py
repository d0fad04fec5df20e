"""The pass before the first E-step, for one mixture or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.loops import Loops, choose_loops
from ..core.structure import CovarianceStructure
from ..data.source import Dataset
from ..data.survey import Survey, SurveyFold, check_weight_sum, draw_rows, scatter_bytes
from ..engine.config import compiled
from ..engine.run import Engine
from ..engine.tree import leaf_rows
from .candidate import Candidate

Array = np.ndarray[Any, np.dtype[Any]]


def take_surveys(engine: Engine, dataset: Dataset, candidates: Sequence[Candidate[Any]]) -> list[Survey]:
    """One pass: count, moments, extremes, finiteness, and a uniform sample of rows for each candidate.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError
        With the first row concerned that was met.
    """
    keys = [_key(dataset, candidate) for candidate in candidates]
    loops = loops_for(dataset, max(candidate.settings.initialization.n_components for candidate in candidates))
    folds = {
        (size, seed, structure): survey_fold(dataset, draw_rows(dataset.n_rows, size, seed), loops, structure)
        for size, seed, structure in keys
    }
    found = dict(zip(folds, engine.run_together(dataset, list(folds.values()), "survey"), strict=True))
    surveys: list[Survey] = [found[key] for key in keys]
    check_weight_sum(surveys[0].weight_sum)
    return surveys


def _key(dataset: Dataset, candidate: Candidate[Any]) -> tuple[int, int, CovarianceStructure | None]:
    size = candidate.settings.sample_size
    # Drawn from only where it is needed, so that small data leave the stream to the starts, as in scikit-learn.
    seed = candidate.random_state.randint(np.iinfo(np.int32).max) if dataset.n_rows > size else 0
    return size, seed, candidate.settings.scattered


def survey_fold(
    dataset: Dataset, sampled: Array | range, loops: Loops, structure: CovarianceStructure | None = None
) -> SurveyFold:
    """What the survey pass computes.

    Parameters
    ----------
    dataset : Dataset
    sampled : array or range
        Numbers of the rows that it is to sample.
    loops : Loops
    structure : CovarianceStructure, optional
        Take all second moments of the data that it needs, too.
    """
    d = dataset.n_features
    rows = leaf_rows(d, 0 if structure is None else scatter_bytes(structure, d))
    return SurveyFold(rows, d, sampled, sample_dtype(dataset), loops, structure)


def sample_dtype(dataset: Dataset) -> np.dtype[Any]:
    """Dtype in which sampled rows are kept: single precision where the data are, else double."""
    return np.dtype(np.float32 if dataset.dtype.newbyteorder("=") == np.float32 else np.float64)


def loops_for(dataset: Dataset, n_components: int) -> Loops:
    """Loops that passes over the data use for so many components."""
    return choose_loops(dataset.n_rows * n_components, compiled=compiled())
