"""`BayesianGaussianMixture`: variational inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn import mixture
from sklearn.utils._param_validation import Interval, StrOptions

from ..core.concentration import WEIGHT_DISTRIBUTIONS, WeightDistribution
from ..core.mixture import MixtureParameters
from ..core.state_arrays import PosteriorArrays
from ..core.validity import WEIGHT_TOLERANCE
from ..core.variational import Posterior, Priors, Variational
from ..errors import InvalidAttributesError
from ..fitting.survey import Survey
from ..names import Defaults
from .attributes import COVARIANCES, as_array, check_covariances, check_means, check_positive, checked
from .model import Array, Preparation
from .model_kinds import storable
from .outliers import OutlierThreshold
from .validation import check_priors

_PRIORS = (
    "weight_concentration_prior_",
    "mean_precision_prior_",
    "mean_prior_",
    "degrees_of_freedom_prior_",
    "covariance_prior_",
)

_ROUNDING = 1e-9
"""Largest relative error of a number of rows that was computed from a posterior."""


@storable("mean_prior", "covariance_prior")
class BayesianGaussianMixture(OutlierThreshold[Posterior]):
    """Gaussian mixture fitted by variational inference to data of any size.

    The class has the interface of `sklearn.mixture.BayesianGaussianMixture`. Weights, means and covariances have prior
    distributions. The fit finds the closest approximation of the posterior in which these parameters are independent of
    the rows' components (Bishop, *Pattern Recognition and Machine Learning*, 2006, section 10.2; with a Dirichlet
    process: Blei & Jordan, Bayesian Analysis 1(1), 2006). Components that the data do not need end with weights near
    zero, so ``n_components`` is only an upper limit.

    Data, passes and reproducibility are the same as for `GaussianMixture`: the same E-steps on the same statistics, but
    an M-step with priors. ``sample_weight`` counts rows: doubling all weights has the effect of seeing all rows twice,
    and halves the relative weight of the priors.

    Parameters
    ----------
    n_components : int, default=1
        Largest number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'}, default='full'
        Form of the covariance matrices: general ('full'), diagonal ('diag') or one variance for all features
        ('spherical'), each component with its own; or one matrix of that form for all components ('tied', 'tied-diag',
        'tied-spherical').
    tol : float, default=1e-3
        Convergence threshold: the fit stops when the lower bound changes by less, in nats per row. scikit-learn's bound
        is a sum over the rows; the equivalent ``tol`` there is this one times n. Superfluous components empty slowly:
        if their number matters, use 1e-5 or less.
    reg_covar : float, default=1e-6
        Added to every empirical variance at each M-step, in squared units of the data.
    max_iter : int, default=100
        Largest number of iterations over all data.
    n_init : int or 'auto', default='auto'
        Number of starts; the fit keeps the start with the largest final bound. Starts share every reading of the data.
        With a search (``init_size``), the number of searches, of which the best makes the only start. 'auto' means 1,
        or 4 if starts run on a sample of ``init_size`` rows. A start that ends in a collapsed component is dropped with
        a warning, and the fit fails only if all starts do.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        Initialization method of a start. 'k-means++' and 'random_from_data' take rows as means, with equal counts and
        one common covariance.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}, default='dirichlet_process'
        Prior distribution of the weights: a stick-breaking process, truncated at ``n_components`` pieces, or a
        symmetric Dirichlet distribution.
    weight_concentration_prior : float, default=None
        Concentration of the weights' prior; a smaller value favours fewer components. None: 1 / n_components.
    mean_precision_prior : float, default=None
        Strength of the prior mean, in rows. None: 1.
    mean_prior : array-like of shape (n_features,), default=None
        Prior mean of every component. None: the weighted mean of the data.
    degrees_of_freedom_prior : float, default=None
        Strength of the prior covariance, in rows; greater than n_features − 1. None: n_features.
    covariance_prior : float or array-like, default=None
        Prior scale matrix of every covariance, in squared units of the data: the prior's own covariance is this matrix
        over the degrees of freedom. Shape (n_features, n_features) for 'full' and 'tied', (n_features,) for 'diag' and
        'tied-diag', a float for 'spherical' and 'tied-spherical'. None: the weighted covariance of the data, the
        variances, or their mean.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts, and of the sample from which they are made.
    warm_start : bool, default=False
        Continue from the fitted attributes, if there are any (of the last fit, or set by hand), without new starts.
    verbose : int, default=0
        Level of printed output: 1 for iterations, 2 for their changes and times as well.
    verbose_interval : int, default=10
        Number of iterations between two printed lines.
    init_size : int, 'auto' or None, default='auto'
        Where starts are made. 'auto': of at most 100 000 rows with positive weight, on all data, as in scikit-learn; of
        more rows, by a search on small samples in memory (`daskgmm.fitting.start_search`), from which one start goes on
        to all data. Given first parameters, or another ``init_params`` than 'kmeans', are followed without a search. A
        number: starts run EM to convergence on nested samples, each ten times larger than the last, up to this many
        rows, and the best start goes on to all data. None: EM sees all data from the first iteration, as in
        scikit-learn, and starts are made from at most 100 000 rows. Samples depend on ``sample_weight`` and
        ``random_state``, not on chunks or workers.
    cache : int, str or None, default='auto'
        Memory of each process for rows that were read, as in `GaussianMixture`. None: every pass reads all rows.
    missing : {'raise', 'drop'} or None, default=None
        What becomes of incomplete rows, as in `GaussianMixture`. None: 'drop' for DataArrays and Datasets of
        xarray, 'raise' for all others, unless a registered kind of input says otherwise.
    scheduler : None, str or distributed.Client, default=None
        Scheduler of the passes: ``"synchronous"``, ``"threads"``, the address of a Dask scheduler, or a client. None:
        the client in scope, or threads of this process.
    callbacks : iterable of callable, default=()
        Functions that are called with every event of a fit, see `daskgmm.events`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Posterior mean of the weights.
    means_ : ndarray of shape (n_components, n_features)
        Posterior mean of the means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Inverses of the posterior mean precisions P, the precisions P, and upper triangular U with P = U Uᵀ::

            (n_components, n_features, n_features) for 'full'
            (n_features, n_features)               for 'tied'
            (n_components, n_features)             for 'diag'
            (n_components,)                        for 'spherical'
            (n_features,)                          for 'tied-diag'
            (1,)                                   for 'tied-spherical'

    weight_concentration_ : ndarray of shape (n_components,), or tuple of two of them
        Parameters of the weights' posterior: of the Dirichlet distribution, or of the Beta distributions of the
        stick-breaking process.
    mean_precision_ : ndarray of shape (n_components,)
        Strength of the posterior of each mean, in rows.
    degrees_of_freedom_ : ndarray of shape (n_components,), or float if all components share one covariance
        Strength of the posterior of each covariance, in rows.
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
    mean_prior_ : ndarray of shape (n_features,)
    covariance_prior_ : ndarray, or float for 'spherical' and 'tied-spherical'
        Priors of the fit.
    converged_ : bool
        True if the best start converged.
    n_iter_ : int
        Number of iterations of the best start over all data.
    lower_bound_ : float
        Lower bound of the log-evidence after the last M-step, in nats per row (per unit of weight), without the terms
        that depend on the priors alone; scikit-learn's bound divided by n.
    lower_bounds_ : list of float
        Lower bound after every iteration of the best start.
    n_passes_ : int
        Number of passes of the last fit over the data, see `GaussianMixture`.
    history_ : list of PassRecord
        Record of each pass, see `GaussianMixture`.
    environment_ : dict of str to str
        Conditions on which the last bits depend, see `GaussianMixture`.
    origin_ : Origin
        Data and date of the fit, see `GaussianMixture`.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only for tables whose column names are all strings, for structured rows, for Datasets,
        and for DataArrays whose feature dimensions have labels.
    feature_dims_ : tuple of str
        Names of the feature dimensions; only for DataArrays and Datasets.
    feature_axis_ : int
        Axis of the features; only for arrays of more than two dimensions.

    See Also
    --------
    GaussianMixture : The mixture fitted by maximum likelihood.
    sklearn.mixture.BayesianGaussianMixture : The same model for arrays in memory.

    Notes
    -----
    `score_samples` and `score` return scikit-learn's values: the logarithm of Σ_k exp E log(w_k N(x; μ_k, Σ_k)), with
    expectations under the posterior. This is a lower bound of the log-density of new rows, and close to it if the
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
        **OutlierThreshold._parameter_constraints,
        "weight_concentration_prior_type": [StrOptions(set(WEIGHT_DISTRIBUTIONS))],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
    }

    _followed = ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_")
    _sklearn_class = mixture.BayesianGaussianMixture
    _state_attributes = (*_followed, "weights_", *COVARIANCES, *_PRIORS)

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
        init_size: int | str | None = Defaults.init_size,
        cache: int | str | None = Defaults.cache,
        missing: str | None = None,
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
        self.cache = cache
        self.missing = missing
        self.scheduler = scheduler
        self.callbacks = callbacks

    # ---- the M-step and its state

    @property
    def _weight_distribution(self) -> WeightDistribution:
        return WEIGHT_DISTRIBUTIONS[self.weight_concentration_prior_type]

    def _prepare(self, n_features: int) -> Preparation[Posterior]:
        structure, weights, ridge = self._structure, self._weight_distribution, float(self.reg_covar)
        n_components = int(self.n_components)
        priors = check_priors(
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
            complete = priors.complete(structure, n_components, survey.mean, second_moments, survey.weight_sum)
            return Variational(structure, weights, complete, ridge)

        return Preparation(estimation, scatter=priors.covariance is None)

    @property
    def _state_arrays(self) -> PosteriorArrays:
        return PosteriorArrays(self._weight_distribution)

    def _store_state(self, state: Posterior, dtype: Any) -> None:
        # Always in double precision, as in scikit-learn: counts of rows need more than seven digits.
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
            attribute = checked("weights_", as_array("weights_", self.weights_), weights.shape)
            if not np.allclose(attribute, weights, rtol=0, atol=WEIGHT_TOLERANCE):
                raise InvalidAttributesError(
                    "weights_",
                    "do not agree with weight_concentration_, which predictions follow. Set both, or delete weights_.",
                )
        return super()._agreed_covariances()

    def _priors(self) -> Priors | None:
        """Priors of the fit; None if the attributes were set by hand without priors."""
        if not any(hasattr(self, name) for name in _PRIORS):
            return None
        for name in _PRIORS:
            if not hasattr(self, name):
                raise InvalidAttributesError(name, "is missing: set all five priors, or none of them")
        arrays = {name: as_array(name, getattr(self, name)) for name in _PRIORS}
        d = self._parameters().n_features
        return Priors(
            float(check_positive(_PRIORS[0], arrays[_PRIORS[0]], ())),
            float(check_positive(_PRIORS[1], arrays[_PRIORS[1]], ())),
            checked(_PRIORS[2], arrays[_PRIORS[2]], (d,)),
            float(check_positive(_PRIORS[3], arrays[_PRIORS[3]], (), d - 1)),
            checked(_PRIORS[4], arrays[_PRIORS[4]], self._structure.prior_shape(d)),
        )

    @staticmethod
    def _bound_unit(model: Any) -> float:
        """Sum of the weights of the rows, by which the strengths of the means have grown; 1 if it is unknown."""
        if not hasattr(model, "mean_precision_prior_"):
            return 1.0
        total = float((np.asarray(model.mean_precision_, np.float64) - model.mean_precision_prior_).sum())
        return round(total) if abs(total - round(total)) <= _ROUNDING * total else total

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
