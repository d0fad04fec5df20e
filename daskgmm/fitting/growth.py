"""Starts made from a smaller mixture, for a mixture that ended below the smaller one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation, State
from ..core.kernel_choice import MixtureShape
from ..core.maximum_likelihood import maximize
from ..core.merging import merge
from ..core.mixture import MixtureParameters
from ..core.splitting import split, twins
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .estep_pass import EStepPass, EStepRequest
from .initialization import Sample
from .samples import SampleParts, sample_pass

# Rows on which splits are compared, and number of splits.
_ROWS = 20_000
_SPLITS = 2

# EM steps with all components in two, and with the surplus merged.
_STEPS, _MORE_STEPS = 4, 8


def grow(
    engine: Engine,
    estimation: Estimation[State],
    smaller: MixtureParameters,
    n_components: int,
    sample: Sample,
    random_state: np.random.RandomState,
    backend: Callable[[MixtureShape], ElementwiseBackend],
) -> MixtureParameters:
    """Split the components of a mixture, and merge what is too much after some EM steps on a sample.

    Parameters
    ----------
    engine : Engine
    estimation : Estimation
    smaller : MixtureParameters
    n_components : int
        Number of components of the result.
    sample : Sample
    random_state : numpy.random.RandomState
    backend : callable
        Shape of a mixture -> `ElementwiseBackend` of the kernels.

    Returns
    -------
    MixtureParameters
        The best of some mixtures by the likelihood of the sample; the smaller mixture with twins in place of heavy
        components if all of them are ill-defined.
    """
    part = SampleParts(sample, 0, random_state).next(min(_ROWS, len(sample.rows)))
    best, highest = twins(smaller, n_components, random_state), -np.inf
    with engine.in_memory() as local:
        estep_pass = sample_pass(local, part, backend)
        for _ in range(_SPLITS):
            try:
                parameters, bound = _grown(estep_pass, estimation.reg_covar, smaller, n_components, random_state)
            except IllDefinedCovarianceError:
                continue
            if bound > highest:
                best, highest = parameters, bound
    return best


def _grown(
    estep_pass: EStepPass,
    reg_covar: float,
    parameters: MixtureParameters,
    n_components: int,
    random_state: np.random.RandomState,
) -> tuple[MixtureParameters, float]:
    while parameters.n_components <= n_components:
        parameters = split(parameters, random_state)
    parameters, _ = _steps(estep_pass, reg_covar, parameters, _STEPS)
    return _steps(estep_pass, reg_covar, merge(parameters, n_components), _MORE_STEPS)


def _steps(
    estep_pass: EStepPass, reg_covar: float, parameters: MixtureParameters, n_iter: int
) -> tuple[MixtureParameters, float]:
    bound = -np.inf
    for _ in range(n_iter):
        (result,) = estep_pass([EStepRequest(parameters)])
        bound = result.statistics.mean_log_likelihood
        parameters = maximize(parameters.structure, result.statistics, reg_covar)
    return parameters, bound
