"""`GaussianMixture`, with scikit-learn's interface, for data larger than memory."""

from __future__ import annotations

import math
import os
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ..core.covariance import STRUCTURES
from ..core.kernels import Kernel, choose_kernel
from ..core.loops import choose_loops
from ..core.mixture import MixtureParameters
from ..core.statistics import Frame
from ..core.structure import CovarianceStructure
from ..data.accept import as_dataset, check_dtype, check_layout, is_lazy, resolve
from ..data.output import apply_rows, as_blocks, map_rows
from ..data.survey import check_weight_sum
from ..diagnostics.verbose import VerboseListener
from ..engine.blas import one_blas_thread
from ..engine.config import compiled
from ..engine.events import Listener
from ..engine.run import Engine
from ..fitting.em import Run
from ..fitting.fit import Continuation, Settings, fit_mixture
from ..fitting.folds import Score, ScoreFold
from ..fitting.initialization import METHODS, Initialization
from .rows import Densities, Labels, Probabilities, RowResult
from .validation import check_callbacks, check_given

Array = np.ndarray[Any, np.dtype[Any]]


class GaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian mixture fitted by expectation-maximisation to data of any size.

    The interface is that of `sklearn.mixture.GaussianMixture`. Data may be a NumPy array or memmap, a dask array or
    data frame, a Zarr array or group, or the path or URL of one (``"data.zarr"``,
    ``"s3://bucket/data.zarr::temperature"``). dask and Zarr data are read chunk by chunk, once for each iteration, and
    are never in memory as a whole. Each chunk computes its E-step and sufficient statistics, a tree adds them, and the
    M-step needs only their sum (Dempster, Laird & Rubin, J. R. Stat. Soc. B 39, 1977).

    Passes run on the `dask.distributed.Client` in scope, or, where there is none, on threads of this process; data that
    are in this process's memory are always worked on here. The result is the same to the last bit for every chunking,
    scheduler and number of workers (on the same software and kind of processor).

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What a covariance matrix may look like: general, general and shared by all components, diagonal, or one
        variance.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood, in nats per row, changes by less.
    reg_covar : float, default=1e-6
        Added to every variance at each M-step, in squared units of the data.
    max_iter : int, default=100
        Largest number of EM iterations of a start.
    n_init : int, default=1
        Number of starts; the one that ends with the largest likelihood is kept. A start that ends in a collapsed
        component is dropped with a warning, and the fit fails only when all do (scikit-learn gives up at the first).
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How a start is made, from at most ``init_size`` rows. 'k-means++' and 'random_from_data' take rows as means,
        with equal weights and one common covariance, where scikit-learn's covariances would be ``reg_covar`` alone.
    weights_init : array-like of shape (n_components,), default=None
        Initial weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means.
    precisions_init : array-like, default=None
        Initial inverses of the covariances, in the shape of ``precisions_``.
    random_state : int, RandomState instance or None, default=None
        Determines the starts, and the rows they are made from.
    warm_start : bool, default=False
        Go on from the last fit, if there was one, instead of making starts.
    verbose : int, default=0
        1 prints the iterations, 2 their change and time as well.
    verbose_interval : int, default=10
        Iterations between two lines.
    init_size : int, default=100_000
        Rows that starts are made from: all where there are no more than that, else a uniform sample that depends on
        ``random_state`` alone. They are held in memory.
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

    converged_ : bool
    n_iter_ : int
        EM iterations of the best start.
    lower_bound_ : float
        Mean log-likelihood of the parameters before the last M-step, as in scikit-learn.
    lower_bounds_ : list of float
        The same after every iteration of the best start.
    n_passes_ : int
        How often the last fit read the data: once for the survey and once for each iteration of each start, plus the
        few E-steps that had to be repeated in finer arithmetic, plus one where a dask array's chunk lengths were
        unknown.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only for data frames whose column names are all strings.

    See Also
    --------
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
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(METHODS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "init_size": [Interval(Integral, 2, None, closed="left")],
        "scheduler": "no_validation",
        "callbacks": "no_validation",
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        init_size: int = 100_000,
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
        self.scheduler = scheduler
        self.callbacks = callbacks

    # ---- fitting

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Rows are samples. See the class for what it may be.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional
            How much each row counts; a row of weight 2 counts as two equal rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For data of the wrong shape or not finite (`NonFiniteDataError` names the row), for parameters out of range,
            and where components collapse (`IllDefinedCovarianceError`).
        TypeError
            For data that are not real numbers.
        SchedulerError
            If the scheduler does not answer.
        """
        self._validate_params()
        data = self._accept(X, reset=True)
        if data.shape[0] < 2:  # false for the unknown length of a dask array, which is counted first
            raise ValueError(
                f"Found array with {data.shape[0]} sample(s) (shape={tuple(data.shape)}) while a minimum of 2 is "
                f"required "
                f"by {type(self).__name__}."
            )
        printing: list[Listener] = [VerboseListener(self.verbose, self.verbose_interval)] if self.verbose else []
        listeners = [*printing, *check_callbacks(self.callbacks)]
        with Engine(self.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
            dataset, n_passes = as_dataset(data, sample_weight, engine.compute)
            if dataset.n_rows < self.n_components:
                raise ValueError(
                    f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                    f"n_samples = {dataset.n_rows}"
                )
            settings = self._settings(dataset.n_features)
            continuation = self._continuation()
            run = fit_mixture(engine, dataset, settings, check_random_state(self.random_state), continuation)
            self.n_passes_ = n_passes + engine.n_passes
        if not run.converged and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase "
                "max_iter, "
                "tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._store(run, np.float32 if dataset.dtype.newbyteorder("=") == np.float32 else np.float64)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, then label the same data: equal to ``fit(X).predict(X)``.

        Parameters
        ----------
        X : array-like of shape (n, D)
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        labels : array of shape (n,)
        """
        return self.fit(X, y, sample_weight).predict(X)

    # ---- what a fitted model says of rows

    def predict(self, X: Any) -> Any:
        """Most probable component of every row.

        Parameters
        ----------
        X : array-like of shape (n, D)

        Returns
        -------
        labels : array of shape (n,), int64
            A lazy dask array for dask and Zarr data, else a NumPy array.
        """
        return self._for_each_row(X, Labels, np.int64)

    def predict_proba(self, X: Any) -> Any:
        """Posterior probability of every component for every row.

        Parameters
        ----------
        X : array-like of shape (n, D)

        Returns
        -------
        probabilities : array of shape (n, n_components)
            A lazy dask array for dask and Zarr data, else a NumPy array.
        """
        check_is_fitted(self)
        return self._for_each_row(X, Probabilities, self.means_.dtype, len(self.means_))

    def score_samples(self, X: Any) -> Any:
        """Log-density of every row, in nats.

        Parameters
        ----------
        X : array-like of shape (n, D)

        Returns
        -------
        log_density : array of shape (n,)
            A lazy dask array for dask and Zarr data, else a NumPy array.
        """
        check_is_fitted(self)
        return self._for_each_row(X, Densities, self.means_.dtype)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, in nats; one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional
        """
        score = self._score(X, sample_weight)
        return score.log_likelihood / score.weight_sum

    def bic(self, X: Any) -> float:
        """Bayesian information criterion (Schwarz 1978): lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
        """
        score = self._score(X)
        return -2 * score.log_likelihood + self._n_parameters() * math.log(score.n_rows)

    def aic(self, X: Any) -> float:
        """Akaike's information criterion (Akaike 1974): lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
        """
        return -2 * self._score(X).log_likelihood + 2 * self._n_parameters()

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draw rows from the mixture.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : ndarray of shape (n_samples, D)
            Grouped by component.
        y : ndarray of shape (n_samples,)
            The component of each row.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, int | np.integer) or n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample, as an int."
            )
        return self._parameters().sample(int(n_samples), check_random_state(self.random_state))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model as a Zarr group, whole or not at all; `daskgmm.load` reads it.

        Parameters
        ----------
        path : str or path
        overwrite : bool, default=False

        Raises
        ------
        OutputExistsError
            If there is something at ``path`` and ``overwrite`` is false.
        """
        from ..persistence import save

        save(self, path, overwrite=overwrite)

    # ---- scikit-learn's protocol

    def __sklearn_clone__(self) -> GaussianMixture:
        # A distributed.Client cannot be copied, and a copy of it would not be the same cluster's.
        parameters = self.get_params(deep=False)
        kept = {name: parameters.pop(name) for name in ("scheduler", "callbacks")}
        copied = type(self)(**{name: clone(value, safe=False) for name, value in parameters.items()}, **kept)
        if hasattr(self, "_metadata_request"):
            copied._metadata_request = self._metadata_request
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        address = getattr(getattr(state.get("scheduler"), "scheduler", None), "address", None)
        if address is not None:
            state["scheduler"] = address  # a client is a connection of this process
        return state

    def _n_parameters(self) -> int:
        return self._parameters().n_free

    # ---- inside

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

    def _accept(self, X: Any, *, reset: bool) -> Any:
        """Resolve the data, check what can be told without reading them, and keep the names of their features."""
        data = resolve(X)
        if is_lazy(data):
            check_layout(data)
            named = getattr(X, "_meta", data) if hasattr(X, "to_dask_array") else data
            validate_data(self, named, reset=reset, skip_check_array=True)
            return data
        if not hasattr(data, "dtype") or hasattr(data, "__array__"):
            dtype = getattr(data, "dtype", None)
            if isinstance(dtype, np.dtype) and dtype.kind in "cmMSUV":
                check_dtype("X", dtype)
        return validate_data(
            self, data, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2 if reset else 1
        )

    def _settings(self, n_features: int) -> Settings:
        given = check_given(
            self._structure, self.n_components, n_features, self.weights_init, self.means_init, self.precisions_init
        )
        initialization = Initialization(
            self._structure, int(self.n_components), self.init_params, float(self.reg_covar), given
        )
        return Settings(initialization, self.tol, self.max_iter, self.n_init, self.init_size)

    def _continuation(self) -> Continuation | None:
        if not (self.warm_start and hasattr(self, "converged_")):
            return None
        parameters = self._parameters()
        expected = self.n_components, self.n_features_in_, self._structure
        found = parameters.n_components, parameters.n_features, parameters.structure
        if found != expected:
            raise ValueError(
                f"warm_start=True: the last fit had (n_components, n_features, covariance) = {_names(found)}, and "
                f"this "
                f"one asks for {_names(expected)}. Set warm_start=False, or use a new estimator."
            )
        return Continuation(parameters, self.lower_bound_)

    def _store(self, run: Run, dtype: Any) -> None:
        p = run.parameters
        self.weights_ = p.weights.astype(dtype)
        self.means_ = p.means.astype(dtype)
        self.covariances_ = p.covariances.astype(dtype)
        self.precisions_cholesky_ = p.precisions_cholesky.astype(dtype)
        self.precisions_ = p.structure.precisions(p.precisions_cholesky).astype(dtype)
        self.converged_ = run.converged
        self.n_iter_ = len(run.lower_bounds)
        self.lower_bound_ = run.lower_bound
        self.lower_bounds_ = run.lower_bounds
        self._exact = p

    def _parameters(self) -> MixtureParameters:
        """Parameters behind the fitted attributes, in double precision.

        Attributes of single-precision fits are rounded, and anybody may set them by hand: what the fit found serves as
        long as they are what it left, rounded to their own precision.
        """
        attributes = self.weights_, self.means_, self.precisions_cholesky_
        exact: MixtureParameters | None = getattr(self, "_exact", None)
        if exact is not None:
            found = exact.weights, exact.means, exact.precisions_cholesky
            if all(np.array_equal(a, b.astype(np.asarray(a).dtype)) for a, b in zip(attributes, found, strict=True)):
                return exact
        weights, means, cholesky = (np.asarray(a, np.float64) for a in attributes)
        return MixtureParameters.from_precisions_cholesky(self._structure, weights, means, cholesky)

    def _kernel(self, data: Any) -> Kernel:
        """Kernel for data that lie where the mixture does."""
        p = self._parameters()
        n_rows = data.shape[0] if data.shape[0] == data.shape[0] else np.inf  # unknown lengths of dask arrays are NaN
        mean = p.weights @ p.means
        variances = p.structure.marginal_variances(p.covariances, p.n_components, p.n_features)
        deviation = np.sqrt(p.weights @ (variances + (p.means - mean) ** 2))
        loops = choose_loops(n_rows * p.n_components, compiled=compiled())
        return choose_kernel(p, Frame.of(mean, deviation), np.dtype(data.dtype), loops)

    def _score(self, X: Any, sample_weight: Any = None) -> Score:
        check_is_fitted(self)
        data = self._accept(X, reset=False)
        with Engine(self.scheduler, in_process=not is_lazy(data), listeners=check_callbacks(self.callbacks)) as engine:
            dataset, _ = as_dataset(data, sample_weight, engine.compute)
            score: Score = engine.run(dataset, ScoreFold(self._kernel(dataset.rows)), "score")
        check_weight_sum(score.weight_sum)
        return score

    def _for_each_row(self, X: Any, kind: type[RowResult], dtype: Any, n_columns: int | None = None) -> Any:
        check_is_fitted(self)
        data = self._accept(X, reset=False)
        function = kind(self._kernel(data))
        if isinstance(data, np.ndarray):
            with one_blas_thread():
                return apply_rows(data, function, dtype, n_columns, os.cpu_count() or 1)
        blocks = as_blocks(data, 8 * (n_columns or 1))
        result: da.Array = map_rows(blocks, function, dtype, n_columns)
        return result


def _names(key: tuple[int, int, CovarianceStructure]) -> tuple[int, int, str]:
    return key[0], key[1], key[2].name
