"""Starts on nested samples in memory, where starts are cheap; the best start goes on to all data, near its end.

Each sample is part of the next sample, which has ten times as many rows. All starts run to their ends on the smallest
sample, and the best start goes on to the larger ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.estimation import State
from ..data.row_sample import draw_by_weight, draw_seed
from ..errors import IllDefinedCovarianceError
from .fit_spec import Settings
from .history import PassRecord
from .initialization import Sample
from .sample_starts import SampleFit, SampleStart, SampleStarts, StartContext, best_of, run, run_to_end
from .samples import part, sample_pass

_GROWTH = 10
_FEWEST_ROWS = 1000
_ROWS_PER_PARAMETER = 50
"""Smallest sample size: the best mixture of a smaller sample is too far from the best mixture of the data."""

_MOST_ITERATIONS = 1000


def sample_sizes(n_rows: int, n_parameters: int) -> list[int]:
    """Sizes of nested samples, ascending; the last is ``n_rows``."""
    fewest = max(_FEWEST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
    sizes = [n_rows]
    while sizes[0] // _GROWTH >= fewest:
        sizes.insert(0, sizes[0] // _GROWTH)
    return sizes


def fit_on_samples(context: StartContext[State]) -> SampleFit[State]:
    """Run starts on nested samples.

    Parameters
    ----------
    context : StartContext

    Returns
    -------
    SampleFit
    """
    samples = nested_samples(context.settings, context.sample, context.random_state)
    starts, records = _begin(context, samples[0]), list[PassRecord]()
    most = max(_MOST_ITERATIONS, context.settings.max_iter)
    with context.engine.in_memory() as local:
        for each in samples:
            estep_pass = sample_pass(local, each, context.backend)
            if each is not samples[0]:
                # The starts have not seen most of these rows, so the choice does not reward overfitting.
                starts, new_records = run(context, estep_pass, starts, max_iter=1)
                starts, records = best_of(starts), [*records, *new_records]
            starts, new_records = run_to_end(context, estep_pass, starts, most)
            records += new_records
    return SampleFit(next(iter(best_of(starts).values()), None), tuple(records))


def _begin(context: StartContext[State], smallest: Sample) -> SampleStarts[State]:
    starts, how = {}, context.settings.initialization
    for number in range(context.n_starts):
        try:
            state = context.estimation.begin(lambda: how(smallest, context.random_state))
        except IllDefinedCovarianceError as error:
            context.dropped(number, error)
        else:
            starts[number] = SampleStart(state)
    return starts


def nested_samples(settings: Settings, sample: Sample, random_state: np.random.RandomState) -> list[Sample]:
    """Draw nested samples from a sample, each part of the next; the last is the sample itself."""
    how, (n_rows, n_features) = settings.initialization, sample.rows.shape
    n_parameters = how.structure.n_covariance_parameters(how.n_components, n_features) + how.n_components * n_features
    sizes = sample_sizes(n_rows, n_parameters)
    if len(sizes) == 1:
        return [sample]
    return [*_nested(sample, sizes[:-1], random_state), sample]


def _nested(sample: Sample, sizes: Sequence[int], random_state: np.random.RandomState) -> Iterator[Sample]:
    """Draw smaller samples from a sample, each part of the next.

    The samples are drawn by weight, as the sample itself is: uniform sampling would lose the few rows that carry nearly
    all weight. Equal weights draw the same rows as no weights.
    """
    weights = sample.weights
    if weights is None or np.ptp(weights) == 0:
        order = random_state.permutation(len(sample.rows))
        for size in sizes:
            yield part(sample, np.sort(order[:size]))
    else:
        seed = draw_seed(random_state)
        for size in sizes:
            yield part(sample, *draw_by_weight(weights, size, seed))
