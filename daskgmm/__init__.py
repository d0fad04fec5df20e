"""Gaussian mixture models for data that do not fit in memory.

A fit is a short pipeline, and each step is one place in the code:

    data source          anything with rows -> ranges of rows                        daskgmm.data
    chunk E-step         rows -> partial sufficient statistics                       daskgmm.core.kernels
    tree reduction       partial statistics -> their sum, the same bits every time   daskgmm.engine
    M-step               statistics -> parameters, or a posterior                    daskgmm.core.maximum_likelihood,
                                                                                     daskgmm.core.variational
    convergence          on the global log-likelihood                                daskgmm.fitting
    a model              scikit-learn's interface, saved as Zarr                     daskgmm.estimators,
    daskgmm.persistence
"""

from . import errors, events
from .data.store import open_zarr
from .diagnostics.progress import ProgressBar
from .estimators.bayesian_mixture import BayesianGaussianMixture
from .estimators.gaussian_mixture import GaussianMixture
from .estimators.selection import Selection, select
from .persistence import load

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
]

__version__ = "0.1.0"
