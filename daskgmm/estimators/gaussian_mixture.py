"""`GaussianMixture`: maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import StrOptions

from ..core.acceleration import ACCELERATIONS
from ..core.maximum_likelihood import MaximumLikelihood
from ..core.mixture import MixtureParameters
from ..core.state_arrays import MixtureArrays
from ..core.validity import weights_problem
from ..data.failures import short_errors
from ..fitting.folds import Score
from ..fitting.pruning import information_criteria
from ..names import Defaults
from .attributes import check_covariances, check_means, check_problem, checked
from .base import Array, BaseMixture
from .model import Preparation
from .model_kinds import storable
from .validation import check_given


@storable("weights_init", "means_init", "precisions_init")
class GaussianMixture(BaseMixture[MixtureParameters]):
    """Gaussian mixture fitted by expectation-maximisation to data of any size.

    The interface is that of `sklearn.mixture.GaussianMixture`. Data may be a NumPy array or memmap, a dask array or
    data frame, a Zarr array or group, or the path or URL of one (``"data.zarr"``,
    ``"s3://bucket/data.zarr::temperature"``), or a dataset that h5py opened. dask, Zarr and HDF5 data are read chunk by
    chunk, once for each iteration, and are never in memory as a whole. Each chunk computes its E-step and sufficient
    statistics, a tree adds them, and the M-step needs only their sum (Dempster, Laird & Rubin, J. R. Stat. Soc. B 39,
    1977).

    Passes run on the `dask.distributed.Client` in scope, or, where there is none, on threads of this process; data that
    are in this process's memory are always worked on here. The result is the same to the last bit for every chunking,
    scheduler and number of workers (on the same software and kind of processor).

    A component that collapses (its covariance has no Cholesky factor), or that no row belongs to any more, begins anew
    with half of the widest component, at most three times in a start (`daskgmm.fitting.em.RESEEDINGS`), and a
    `ReseedingWarning` tells of it. After that, or where it does not help, a collapse is the end of the start, and what
    is empty stays empty. The likelihood may fall there, and nowhere else. A cluster that k-means finds for the start,
    and that has too few rows for a covariance, is replaced in the same way.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'}, default='full'
        Form of the covariance matrices: general ('full'), diagonal ('diag') or one variance for all features
        ('spherical'), each component with its own; or one matrix of that form for all components ('tied', 'tied-diag',
        'tied-spherical').
    tol : float, default=1e-3
        EM stops when the mean log-likelihood, in nats per row, changes by less.
    reg_covar : float, default=1e-6
        Added to every variance at each M-step, in squared units of the data.
    max_iter : int, default=100
        Largest number of EM iterations over all data.
    n_init : int or 'auto', default=1
        Number of starts; the one that ends with the largest likelihood is kept. Starts share every reading of the data.
        'auto' is 1, or 4 where they run on a sample (``init_size``). A start that ends in a collapsed component is
        dropped with a warning, and the fit fails only when all do (scikit-learn gives up at the first).
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How a start is made. 'k-means++' and 'random_from_data' take rows as means, with equal weights and one common
        covariance, where scikit-learn's covariances would be ``reg_covar`` alone.
    weights_init : array-like of shape (n_components,), default=None
        Initial weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means.
    precisions_init : array-like, default=None
        Initial inverses of the covariances, in the shape of ``precisions_``.
    random_state : int, RandomState instance or None, default=None
        Determines the starts, and the rows they are made from.
    warm_start : bool, default=False
        Go on from the fitted attributes, if there are any (the last fit's, or set by hand), instead of making starts.
    verbose : int, default=0
        1 prints the iterations, 2 their change and time as well.
    verbose_interval : int, default=10
        Iterations between two lines.
    init_size : int, default=None
        Rows of a sample to start from. Where there are more rows than that, starts run EM to their ends on samples in
        memory, tenfold larger ones after smaller ones, and the best goes on to all data: fewer passes over them. None:
        EM sees all data from the first iteration, as in scikit-learn, and starts are made from at most 100 000 rows.
        Samples follow ``sample_weight`` and depend on ``random_state`` besides, not on chunks or workers.
    acceleration : {'lbfgs'}, default=None
        Take larger steps than EM's, from the course of the last ones, where the likelihood says that they lead up; see
        `daskgmm.core.acceleration`. None: plain EM.
    scheduler : None, str or distributed.Client, default=None
        Where passes run: ``"synchronous"``, ``"threads"``, the address of a Dask scheduler, or a client. None: as
        described above.
    callbacks : iterable of callable, default=()
        Called with every event of a fit, see `daskgmm.events`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Covariances, their inverses P, and upper triangular U with P = U Uᵀ::

            (n_components, n_features, n_features) for 'full'
            (n_features, n_features)               for 'tied'
            (n_components, n_features)             for 'diag'
            (n_components,)                        for 'spherical'
            (n_features,)                          for 'tied-diag'
            (1,)                                   for 'tied-spherical'

        These attributes are in single precision where the rows are, unless their values are out of its range.
    converged_ : bool
    n_iter_ : int
        EM iterations of the best start over all data, rejected steps included.
    lower_bound_ : float
        Mean log-likelihood of the parameters before the last M-step, as in scikit-learn.
    lower_bounds_ : list of float
        The same after every iteration of the best start that was not rejected.
    n_passes_ : int
        How often the last fit read the data: once for the survey and once for each iteration of the longest start, plus
        the few E-steps that had to be repeated in finer arithmetic, plus one where a dask array's chunk lengths were
        unknown, plus one over the weights alone where these are lazy and rows were drawn by them.
    history_ : list of PassRecord
        What each pass was for, what it found and what it took: ``kind``, ``start``, ``n_iter``, ``lower_bound``,
        ``n_rows``, ``bytes_read``, ``seconds``, ``rows_per_second``, ``arithmetic``; and the same of samples. Starts
        that share a pass have a record each.
    environment_ : dict of str to str
        What the last bits depend on besides data, parameters and seed: versions, BLAS, kind of processor, compiled
        loops, and workers that differ from this process. Loaded models keep it.
    origin_ : Origin
        Where the data were and what they were like, the same of the weights, and when the fit ended: ``date``,
        ``data`` and ``sample_weight``, these with ``kind``, ``address`` (without passwords), ``shape`` and ``dtype``.
        Loaded models keep it.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only for data frames whose column names are all strings.

    See Also
    --------
    BayesianGaussianMixture : With priors, and a number of components that the data settle.
    sklearn.mixture.GaussianMixture : The same for arrays in memory.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskgmm import GaussianMixture
    >>> x = da.concatenate([da.random.default_rng(0).normal(size=(10_000, 2)) + shift for shift in (0, 8)])
    >>> model = GaussianMixture(2, random_state=0).fit(x)
    >>> sorted(model.means_[:, 0].round().tolist())
    [0.0, 8.0]
    >>> model.predict(x)
    dask.array<gmm-rows, shape=(20000,), dtype=int64, chunksize=(10000,), chunktype=numpy.ndarray>
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMixture._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "acceleration": [StrOptions(set(ACCELERATIONS)), None],
    }

    _has_criteria = True
    _followed = ("weights_", "means_")

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = Defaults.covariance_type,
        tol: float = Defaults.tol,
        reg_covar: float = Defaults.reg_covar,
        max_iter: int = Defaults.max_iter,
        n_init: int | str = Defaults.n_init,
        init_params: str = Defaults.init_params,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = Defaults.warm_start,
        verbose: int = Defaults.verbose,
        verbose_interval: int = Defaults.verbose_interval,
        init_size: int | None = None,
        acceleration: str | None = None,
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
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.init_size = init_size
        self.acceleration = acceleration
        self.scheduler = scheduler
        self.callbacks = callbacks

    # ---- information criteria

    @short_errors
    def bic(self, X: Any) -> float:
        """Bayesian information criterion (Schwarz 1978): lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
        """
        return self._criteria(self._score(X))["bic"]

    @short_errors
    def aic(self, X: Any) -> float:
        """Akaike's information criterion (Akaike 1974): lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
        """
        return self._criteria(self._score(X))["aic"]

    @short_errors
    def criteria(self, X: Any, sample_weight: Any = None) -> dict[str, float]:
        """All information criteria, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
        sample_weight : array-like of shape (n,), optional
            A row of weight 2 counts as two equal rows.

        Returns
        -------
        dict
            ``"log_likelihood"``, the mean log-density of the rows in nats, and ``"bic"`` (Schwarz 1978), ``"aic"``
            (Akaike 1974) and ``"icl"`` (integrated completed likelihood: Biernacki, Celeux & Govaert 2000), of which
            lower is better.
        """
        score = self._score(X, sample_weight, entropy=True)
        return {"log_likelihood": score.mean_log_likelihood, **self._criteria(score)}

    def _criteria(self, score: Score) -> Mapping[str, float]:
        return information_criteria(score, self._n_parameters())

    def _n_parameters(self) -> int:
        return self._parameters().n_free

    # ---- the M-step and its state

    def _prepare(self, n_features: int) -> Preparation[MixtureParameters]:
        given = check_given(
            self._structure, self.n_components, n_features, self.weights_init, self.means_init, self.precisions_init
        )
        estimation = MaximumLikelihood(self._structure, float(self.reg_covar), given)
        kind = ACCELERATIONS.get(self.acceleration or "")
        return Preparation(lambda survey: estimation, accelerator=None if kind is None else kind(float(self.reg_covar)))

    @property
    def _state_arrays(self) -> MixtureArrays:
        return MixtureArrays()

    def _store_state(self, state: MixtureParameters, dtype: Any) -> None:
        dtype = dtype if state.fits(dtype) else np.float64
        self.weights_ = state.weights.astype(dtype)
        self.means_ = state.means.astype(dtype)
        attribute = state.structure.to_attribute
        self.covariances_ = attribute(state.covariances).astype(dtype)
        self.precisions_cholesky_ = attribute(state.precisions_cholesky).astype(dtype)
        self.precisions_ = attribute(state.structure.precisions(state.precisions_cholesky)).astype(dtype)
        self._exact = state
        self._remember()

    def _read(self, attributes: Mapping[str, Array]) -> tuple[MixtureParameters, MixtureParameters]:
        """Parameters behind the fitted attributes, in double precision.

        Attributes of single-precision fits are rounded: what the fit found serves as long as they are what it left,
        rounded to their own precision.
        """
        exact: MixtureParameters | None = getattr(self, "_exact", None)
        if exact is not None and _is_rounded(exact, attributes):
            return exact, exact
        weights, means, (name, matrices) = attributes["weights_"], attributes["means_"], list(attributes.items())[-1]
        means = check_means(means)
        weights = checked("weights_", weights, (len(means),))
        check_problem(weights_problem(weights))
        covariances, factors = check_covariances(self._structure, name, matrices, means)
        parameters = MixtureParameters(self._structure, weights, means, covariances, factors)
        return parameters, parameters

    def _state(self) -> MixtureParameters:
        return replace(self._parameters(), covariances=self._agreed_covariances())

    def _fit_facts(self) -> dict[str, Any]:
        return {"log_likelihood": getattr(self, "lower_bound_", None)}


def _is_rounded(exact: MixtureParameters, attributes: Mapping[str, Array]) -> bool:
    """Compare attributes with parameters that are rounded to the attributes' own precision."""
    found: dict[str, Array | None] = {name: getattr(exact, name.removesuffix("_"), None) for name in attributes}
    name, matrices = list(found.items())[-1]  # one of `COVARIANCES`
    if matrices is not None:
        found[name] = exact.structure.to_attribute(matrices)
    return all(
        ours is not None and np.array_equal(ours.astype(attributes[name].dtype), attributes[name])
        for name, ours in found.items()
    )
