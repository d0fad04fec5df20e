"""Names that parameters take as values, and defaults: defined once, for the estimators and the terminal.

This module imports nothing: `daskgmm --help` and completions must not wait for NumPy and Dask.
"""

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical", "tied-diag", "tied-spherical")
FULL, TIED, DIAG, SPHERICAL, TIED_DIAG, TIED_SPHERICAL = COVARIANCE_TYPES

INIT_METHODS = ("kmeans", "k-means++", "random", "random_from_data")
"""Values of ``init_params``."""

ACCELERATIONS = ("lbfgs",)

AUTO = "auto"
"""Value of parameters that are then chosen for the data."""

NONE = "none"
"""The value None of a parameter, in the terminal."""

WEIGHT_PRIORS = ("dirichlet_process", "dirichlet_distribution")
"""Values of ``weight_concentration_prior_type``."""
DIRICHLET_PROCESS, DIRICHLET_DISTRIBUTION = WEIGHT_PRIORS

MISSING_CHUNKS = ("raise", "fill")
"""Values of ``daskgmm.missing-chunks``; the first is the default."""

MISSING = RAISE, DROP = ("raise", "drop")
"""Values of ``missing``: what becomes of incomplete rows."""


class Defaults:
    """Defaults of the estimators' parameters that are not None."""

    covariance_type = FULL
    tol = 1e-3
    reg_covar = 1e-6
    max_iter = 100
    n_init = AUTO
    init_size = AUTO
    acceleration = AUTO
    warm_start = False
    init_params = INIT_METHODS[0]
    weight_concentration_prior_type = DIRICHLET_PROCESS
    verbose = 0
    verbose_interval = 10
    cache = AUTO
