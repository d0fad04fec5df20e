"""`BayesianGaussianMixture`: variational inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from ..core.concentration import WEIGHT_DISTRIBUTIONS, WeightDistribution
from ..core.mixture import MixtureParameters
from ..core.state_arrays import PosteriorArrays
from ..core.validity import WEIGHT_TOLERANCE
from ..core.variational import Posterior, Priors, Variational
from ..errors import InvalidAttributesError
from ..fitting.survey import Survey
from ..names import Defaults
from .attributes import as_array, check_covariances, check_means, check_positive, checked
from .base import Array, BaseMixture
from .model import Preparation
from .model_kinds import storable
from .validation import check_priors

_PRIORS = (
    "weight_concentration_prior_",
    "mean_precision_prior_",
    "mean_prior_",
    "degrees_of_freedom_prior_",
    "covariance_prior_",
)


@storable("mean_prior", "covariance_prior")
class BayesianGaussianMixture(BaseMixture[Posterior]):
    """Gaussian mixture fitted by variational inference to data of any size.

    The interface is that of `sklearn.mixture.BayesianGaussianMixture`. Weights, means and covariances have prior
    distributions, and the fit finds the closest approximation of their posterior in which they are independent of the
    rows' components (Bishop, *Pattern Recognition and Machine Learning*, 2006, section 10.2; with a Dirichlet process
    Blei & Jordan, Bayesian Analysis 1(1), 2006). Components that the data do not need end with weights near zero, so
    that ``n_components`` is only the largest number of them.

    Data, passes and reproducibility are those of `GaussianMixture`: the same E-steps on the same statistics, and an
    M-step with priors. ``sample_weight`` counts rows here: doubling all weights is seeing all rows twice, and makes the
    priors weigh half as much.

    Parameters
    ----------
    n_components : int, default=1
        Largest number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'}, default='full'
        Form of the covariance matrices: general ('full'), diagonal ('diag') or one variance for all features
        ('spherical'), each component with its own; or one matrix of that form for all components ('tied', 'tied-diag',
        'tied-spherical').
    tol : float, default=1e-3
        The fit stops when the lower bound, in nats per row, changes by less. scikit-learn's bound is the sum over the
        rows, so that the same ``tol`` is stricter there the more rows there are: its ``tol`` is this one times n.
        Components empty slowly: where their number matters, 1e-5 or less is a good choice.
    reg_covar : float, default=1e-6
        Added to every empirical variance at each M-step, in squared units of the data.
    max_iter : int, default=100
        Largest number of iterations over all data.
    n_init : int or 'auto', default=1
        Number of starts; the one that ends with the largest bound is kept. Starts share every reading of the data.
        'auto' is 1, or 4 where they run on a sample (``init_size``). A start that ends in a collapsed component is
        dropped with a warning, and the fit fails only when all do.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How a start is made. 'k-means++' and 'random_from_data' take rows as means, with equal counts and one common
        covariance.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}, default='dirichlet_process'
        Distribution of the weights: stick-breaking, truncated at ``n_components`` pieces, or a symmetric Dirichlet
        distribution.
    weight_concentration_prior : float, default=None
        Its concentration: the smaller, the fewer components are used. None: 1 / n_components.
    mean_precision_prior : float, default=None
        How many rows the prior mean is worth. None: 1.
    mean_prior : array-like of shape (n_features,), default=None
        Prior mean of every component. None: the weighted mean of the data.
    degrees_of_freedom_prior : float, default=None
        How many rows the prior covariance is worth, greater than n_features − 1. None: n_features.
    covariance_prior : float or array-like, default=None
        Prior scale matrix of every covariance; a covariance under the prior alone is this over the degrees of freedom.
        Shape (n_features, n_features) for 'full' and 'tied', (n_features,) for 'diag' and 'tied-diag', a float for
        'spherical' and 'tied-spherical'. None: the weighted covariance of the data, their variances, or the mean of
        these.
    random_state : int, RandomState instance or None, default=None
        Determines the starts, and the rows they are made from.
    warm_start : bool, default=False
        Go on from the fitted attributes, if there are any (the last fit's, or set by hand), instead of making starts.
    verbose : int, default=0
        1 prints the iterations, 2 their change and time as well.
    verbose_interval : int, default=10
        Iterations between two lines.
    init_size : int, default=None
        Rows of a sample to start from, as in `GaussianMixture`; it counts as if it were all rows.
    scheduler : None, str or distributed.Client, default=None
        Where passes run: ``"synchronous"``, ``"threads"``, the address of a Dask scheduler, or a client. None: the
        client in scope, or threads of this process.
    callbacks : iterable of callable, default=()
        Called with every event of a fit, see `daskgmm.events`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mean weights under the posterior.
    means_ : ndarray of shape (n_components, n_features)
        Mean means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Mean precisions P, their inverses, and upper triangular U with P = U Uᵀ::

            (n_components, n_features, n_features) for 'full'
            (n_features, n_features)               for 'tied'
            (n_components, n_features)             for 'diag'
            (n_components,)                        for 'spherical'
            (n_features,)                          for 'tied-diag'
            (1,)                                   for 'tied-spherical'

    weight_concentration_ : ndarray of shape (n_components,), or tuple of two of them
        Parameters of the weights' posterior: of the Dirichlet distribution, or of the Beta distributions of the
        process.
    mean_precision_ : ndarray of shape (n_components,)
        How many rows speak for each mean.
    degrees_of_freedom_ : ndarray of shape (n_components,), or float where all components share one covariance
        How many rows speak for each covariance.
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
    mean_prior_ : ndarray of shape (n_features,)
    covariance_prior_ : ndarray, or float for 'spherical' and 'tied-spherical'
        The priors that were used.
    converged_ : bool
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        Lower bound of the log-evidence after the last M-step, in nats per row (per unit of weight), without the terms
        that depend on the priors alone: scikit-learn's over n.
    lower_bounds_ : list of float
        The same after every iteration of the best start.
    n_passes_ : int
        How often the last fit read the data, see `GaussianMixture`.
    environment_ : dict of str to str
        What the last bits depend on besides, see `GaussianMixture`.
    origin_ : Origin
        Data and date of the fit, see `GaussianMixture`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only for data frames whose column names are all strings.

    See Also
    --------
    GaussianMixture : Maximum likelihood.
    sklearn.mixture.BayesianGaussianMixture : The same for arrays in memory.

    Notes
    -----
    `score_samples` and `score` are scikit-learn's: the logarithm of Σ_k exp E log(w_k N(x; μ_k, Σ_k)), with
    expectations under the posterior. That is a lower bound of the log-density of new rows, and near it where the
    posterior is narrow.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskgmm import BayesianGaussianMixture
    >>> x = da.concatenate([da.random.default_rng(0).normal(size=(10_000, 2)) + shift for shift in (0, 8)])
    >>> model = BayesianGaussianMixture(n_components=2, random_state=0).fit(x)
    >>> model.mean_precision_.round().tolist()  # 10 000 rows each, and one that the prior is worth
    [10001.0, 10001.0]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMixture._parameter_constraints,
        "weight_concentration_prior_type": [StrOptions(set(WEIGHT_DISTRIBUTIONS))],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
    }

    _followed = ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_")

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = Defaults.covariance_type,
        tol: float = Defaults.tol,
        reg_covar: float = Defaults.reg_covar,
        max_iter: int = Defaults.max_iter,
        n_init: int | str = Defaults.n_init,
        init_params: str = Defaults.init_params,
        weight_concentration_prior_type: str = Defaults.weight_concentration_prior_type,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = Defaults.warm_start,
        verbose: int = Defaults.verbose,
        verbose_interval: int = Defaults.verbose_interval,
        init_size: int | None = None,
        scheduler: Any = None,
        callbacks: Any = (),
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.init_size = init_size
        self.scheduler = scheduler
        self.callbacks = callbacks

    # ---- the M-step and its state

    @property
    def _weight_distribution(self) -> WeightDistribution:
        return WEIGHT_DISTRIBUTIONS[self.weight_concentration_prior_type]

    def _prepare(self, n_features: int) -> Preparation[Posterior]:
        structure, weights, ridge = self._structure, self._weight_distribution, float(self.reg_covar)
        n_components = int(self.n_components)
        given = check_priors(
            structure,
            n_features,
            weight_concentration=self.weight_concentration_prior,
            mean_precision=self.mean_precision_prior,
            mean=self.mean_prior,
            degrees_of_freedom=self.degrees_of_freedom_prior,
            covariance=self.covariance_prior,
        )

        def estimation(survey: Survey) -> Variational:
            second_moments = None if survey.scatter is None else survey.scatter.second_moments
            priors = given.complete(structure, n_components, survey.mean, second_moments, survey.weight_sum)
            return Variational(structure, weights, priors, ridge)

        return Preparation(estimation, scatter=given.covariance is None)

    @property
    def _state_arrays(self) -> PosteriorArrays:
        return PosteriorArrays(self._weight_distribution)

    def _store_state(self, state: Posterior, dtype: Any) -> None:
        # In double precision whatever the data are, as in scikit-learn: counts of rows take more than seven digits.
        structure, priors, mixture = state.structure, state.priors, state.parameters()
        if priors is not None:
            self.weight_concentration_prior_ = priors.weight_concentration
            self.mean_precision_prior_ = priors.mean_precision
            self.mean_prior_ = priors.mean
            self.degrees_of_freedom_prior_ = priors.degrees_of_freedom
            self.covariance_prior_ = _plain(priors.covariance)
        self.weight_concentration_ = _unstacked(state.weight_concentration)
        self.mean_precision_ = state.mean_precision
        self.means_ = state.means
        counts = structure.counts_attribute_shape(mixture.n_components)
        self.degrees_of_freedom_ = _plain(state.degrees_of_freedom.reshape(counts))
        self.covariances_ = structure.to_attribute(state.covariances)
        self.precisions_cholesky_ = structure.to_attribute(state.precisions_cholesky)
        self.weights_ = mixture.weights
        self.precisions_ = structure.to_attribute(structure.precisions(state.precisions_cholesky))
        self._remember()

    def _read(self, attributes: Mapping[str, Array]) -> tuple[Posterior, MixtureParameters]:
        structure, weights = self._structure, self._weight_distribution
        name, matrices = list(attributes.items())[-1]
        means = check_means(attributes["means_"])
        k, d = means.shape
        concentration = attributes["weight_concentration_"]
        if concentration.shape != weights.shape(k):
            raise InvalidAttributesError(
                "weight_concentration_",
                f"has the shape {concentration.shape}; weight_concentration_prior_type="
                f"{self.weight_concentration_prior_type!r} needs {weights.shape(k)}. Fit the model again without "
                "warm_start.",
            )
        covariances, factors = check_covariances(structure, name, matrices, means)
        counts = structure.counts_attribute_shape(k)
        posterior = Posterior(
            structure,
            weights,
            None,
            check_positive("weight_concentration_", concentration, concentration.shape),
            check_positive("mean_precision_", attributes["mean_precision_"], (k,)),
            means,
            check_positive("degrees_of_freedom_", attributes["degrees_of_freedom_"], counts, d - 1).reshape(-1),
            covariances,
            factors,
        )
        return posterior, posterior.parameters()

    def _attribute_settings(self) -> tuple[str, ...]:
        return self.covariance_type, self.weight_concentration_prior_type

    def _state(self) -> Posterior:
        return replace(self._prepared().state, covariances=self._agreed_covariances(), priors=self._priors())

    def _agreed_covariances(self) -> Array:
        weights = self._parameters().weights
        if hasattr(self, "weights_"):
            found = checked("weights_", as_array("weights_", self.weights_), weights.shape)
            if not np.allclose(found, weights, rtol=0, atol=WEIGHT_TOLERANCE):
                raise InvalidAttributesError("weights_", "are not those that weight_concentration_ means")
        return super()._agreed_covariances()

    def _priors(self) -> Priors | None:
        """Priors that were used; None where the attributes were set by hand without them."""
        if not any(hasattr(self, name) for name in _PRIORS):
            return None
        for name in _PRIORS:
            if not hasattr(self, name):
                raise InvalidAttributesError(name, "is missing beside the other priors")
        found = {name: as_array(name, getattr(self, name)) for name in _PRIORS}
        d = self._parameters().n_features
        return Priors(
            float(check_positive(_PRIORS[0], found[_PRIORS[0]], ())),
            float(check_positive(_PRIORS[1], found[_PRIORS[1]], ())),
            checked(_PRIORS[2], found[_PRIORS[2]], (d,)),
            float(check_positive(_PRIORS[3], found[_PRIORS[3]], (), d - 1)),
            checked(_PRIORS[4], found[_PRIORS[4]], self._structure.prior_shape(d)),
        )

    def _fit_facts(self) -> dict[str, Any]:
        names = "weight_concentration_prior_", "mean_precision_prior_", "degrees_of_freedom_prior_"
        return {
            "lower_bound": getattr(self, "lower_bound_", None),
            "weight_concentration_prior_type": self.weight_concentration_prior_type,
            **{name[:-1]: float(getattr(self, name)) for name in names if hasattr(self, name)},
        }


def _plain(values: Array) -> Any:
    return values if values.ndim else np.float64(values)


def _unstacked(values: Array) -> Any:
    return values if values.ndim == 1 else tuple(values)
