"""Starts made from a smaller mixture, for a mixture that ended below the smaller one."""

from __future__ import annotations

import numpy as np

from ..core.estimation import State
from ..core.maximum_likelihood import maximize
from ..core.merging import merge
from ..core.mixture import MixtureParameters
from ..core.splitting import split, twins
from ..errors import IllDefinedCovarianceError
from .history import PassRecord
from .sample_starts import StartContext
from .sample_steps import SampleSteps
from .samples import SampleParts, sample_pass

# Rows on which splits are compared, and number of splits.
_ROWS = 20_000
_SPLITS = 2

# EM steps with all components in two, and with the surplus merged.
_STEPS, _MORE_STEPS = 4, 8


def grow(
    context: StartContext[State], number: int, smaller: MixtureParameters, random_state: np.random.RandomState
) -> tuple[MixtureParameters, list[PassRecord]]:
    """Split the components of a mixture, and merge what is too much after some EM steps on a sample.

    Parameters
    ----------
    context : StartContext
        Context of the larger mixture.
    number : int
        Number of the start.
    smaller : MixtureParameters
    random_state : numpy.random.RandomState
        Random number stream in place of the context's.

    Returns
    -------
    parameters : MixtureParameters
        The best of some mixtures by the likelihood of the sample; the smaller mixture with twins in place of heavy
        components if all of them are ill-defined.
    records : list of PassRecord
        Record of the EM steps.
    """
    n_components, sample = context.settings.initialization.n_components, context.sample
    part = SampleParts(sample, 0, random_state).next(min(_ROWS, len(sample.rows)))
    best, highest = twins(smaller, n_components, random_state), -np.inf
    with context.engine.in_memory() as local:
        steps = SampleSteps(sample_pass(local, part, context.backend))
        for _ in range(_SPLITS):
            try:
                parameters, bound = _grown(steps, context.estimation.reg_covar, smaller, n_components, random_state)
            except IllDefinedCovarianceError:
                continue
            if bound > highest:
                best, highest = parameters, bound
    return best, steps.records(number, highest)


def _grown(
    steps: SampleSteps,
    reg_covar: float,
    parameters: MixtureParameters,
    n_components: int,
    random_state: np.random.RandomState,
) -> tuple[MixtureParameters, float]:
    while parameters.n_components <= n_components:
        parameters = split(parameters, random_state)
    parameters, _ = _em(steps, reg_covar, parameters, _STEPS)
    return _em(steps, reg_covar, merge(parameters, n_components), _MORE_STEPS)


def _em(
    steps: SampleSteps, reg_covar: float, parameters: MixtureParameters, n_iter: int
) -> tuple[MixtureParameters, float]:
    bound = -np.inf
    for _ in range(n_iter):
        statistics = steps(parameters)
        bound = statistics.mean_log_likelihood
        parameters = maximize(parameters.structure, statistics, reg_covar)
    return parameters, bound
