"""Gaussian mixture models for data that do not fit in memory.

A fit is a short pipeline, and each step has one place in the code:

    data source          anything with rows -> ranges of rows                        daskgmm.data
    chunk E-step         rows -> partial sufficient statistics                       daskgmm.core.kernel_choice
    tree reduction       partial statistics -> their sum, the same bits every time   daskgmm.engine
    M-step               statistics -> parameters, or a posterior                    daskgmm.core.maximum_likelihood,
                                                                                     daskgmm.core.variational
    convergence          on the global log-likelihood                                daskgmm.fitting
    model                scikit-learn's interface, saved as Zarr                     daskgmm.estimators,
                                                                                     daskgmm.persistence

The packages and modules, in reading order:

core         the mathematics on NumPy arrays
data         rows from files, arrays and tables, and arrays written for them
engine       passes over the data: plans, tasks, clusters, checks
fitting      the loops of EM over passes: starts, iterations, convergence
persistence  model files and checkpoints
estimators   the estimators, `select` and `load`
diagnostics  progress, summaries and plots
results      predictions and drawn rows as Zarr stores
inspection   contents of an address as a record
jobs         the terminal's commands as functions
options      the options of the terminal's commands
messages     errors and warnings in the terminal
cli          the terminal's commands
demo         the demonstration on two photographs
names        names that parameters take as values, and defaults
criteria     the criteria of `select`
config       settings in Dask's configuration
tuning       sizes and times by which engines divide a pass
errors       the exceptions and warnings
events       the events that callbacks receive
version      the version of the package
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import errors as errors
    from . import events as events
    from .data.store import open_zarr as open_zarr
    from .diagnostics.progress import ProgressBar as ProgressBar
    from .estimators.bayesian_mixture import BayesianGaussianMixture as BayesianGaussianMixture
    from .estimators.gaussian_mixture import GaussianMixture as GaussianMixture
    from .estimators.loading import load as load
    from .estimators.selection import Selection as Selection
    from .estimators.selection import select as select
    from .results import write_predictions as write_predictions

__all__ = [
    "BayesianGaussianMixture",
    "GaussianMixture",
    "ProgressBar",
    "Selection",
    "errors",
    "events",
    "load",
    "open_zarr",
    "select",
    "write_predictions",
]

_MODULES = {
    "BayesianGaussianMixture": ".estimators.bayesian_mixture",
    "GaussianMixture": ".estimators.gaussian_mixture",
    "ProgressBar": ".diagnostics.progress",
    "Selection": ".estimators.selection",
    "load": ".estimators.loading",
    "open_zarr": ".data.store",
    "select": ".estimators.selection",
    "write_predictions": ".results",
}
"""Module that defines each public name; public modules are not listed."""


if "dask" in sys.modules:  # otherwise the first use of a public name imports both
    import_module(".config", __name__)  # so that `dask.config.get("daskgmm")` shows all settings


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): `daskgmm --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _MODULES:
        return import_module(f".{name}", __name__)
    value = globals()[name] = getattr(import_module(_MODULES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
