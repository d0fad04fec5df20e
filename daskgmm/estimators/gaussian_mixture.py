"""`GaussianMixture`: maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn import mixture
from sklearn.utils._param_validation import StrOptions

from ..core.acceleration import ACCELERATIONS, Accelerator, LimitedMemoryBFGS
from ..core.maximum_likelihood import MaximumLikelihood
from ..core.mixture import MixtureParameters
from ..core.state_arrays import MixtureArrays
from ..core.tilting import TiltedBFGS
from ..core.validity import weights_problem
from ..data.dimensions import given_layout
from ..data.failures import short_errors
from ..fitting.folds import Score
from ..fitting.pruning import information_criteria
from ..names import AUTO, Defaults
from .attributes import COVARIANCES, check_covariances, check_means, check_problem, checked
from .explicit import ExplicitMixture
from .model import Array, Preparation
from .model_kinds import storable
from .validation import check_given


@storable("weights_init", "means_init", "precisions_init")
class GaussianMixture(ExplicitMixture):
    """Gaussian mixture fitted by expectation-maximisation to data of any size.

    The class has the interface of `sklearn.mixture.GaussianMixture`. Data may be a NumPy array or memmap, a dask array
    or data frame, a table (pandas, polars, Arrow, astropy), a DataArray or Dataset of xarray, a Zarr array, group or
    store, the path or URL of one (``"data.zarr"``, ``"s3://bucket/data.zarr::temperature"``), a dataset that h5py
    opened, or the path of a Parquet, CSV, netCDF, HDF5 or NumPy file. dask, Zarr and HDF5 data are read chunk by chunk,
    once in each iteration, and never as a whole. Of labelled data and of arrays of more than two dimensions, all
    dimensions but those of the features are a grid of samples, and results have the grid's shape. The E-step computes
    sufficient statistics of each chunk, a tree adds the statistics, and the M-step needs only their sum (Dempster,
    Laird & Rubin, J. R. Stat. Soc. B 39, 1977).

    Passes over the data run on the `dask.distributed.Client` in scope, or on threads of this process without a client;
    data in the memory of this process are always processed here. The result has the same bits for every chunking,
    scheduler and number of workers, on the same software and kind of processor.

    A component that collapses (its covariance has no Cholesky factor), or that loses all its rows, is reseeded with
    half of the widest component, at most three times in a start (`daskgmm.fitting.em.RESEEDINGS`), with a
    `ReseedingWarning`. After that, or where no reseeding is possible, a collapse ends the start, and an empty component
    stays empty. The likelihood may fall at a reseeding, and nowhere else. An initial cluster of k-means with too few
    rows for a covariance is replaced in the same way.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'}, default='full'
        Form of the covariance matrices: general ('full'), diagonal ('diag') or one variance for all features
        ('spherical'), each component with its own; or one matrix of that form for all components ('tied', 'tied-diag',
        'tied-spherical').
    tol : float, default=1e-3
        Convergence threshold: EM stops when the mean log-likelihood changes by less, in nats per row.
    reg_covar : float, default=1e-6
        Added to every variance at each M-step, in squared units of the data.
    max_iter : int, default=100
        Largest number of EM iterations over all data.
    n_init : int or 'auto', default='auto'
        Number of starts; the fit keeps the start with the largest final likelihood. Starts share every reading of the
        data. With a search (``init_size``), the number of searches, of which the best makes the only start. 'auto'
        means 1, or 4 if starts run on a sample of ``init_size`` rows. A start that ends in a collapsed component is
        dropped with a warning, and the fit fails only if all starts do (scikit-learn fails at the first).
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        Initialization method of a start. 'k-means++' and 'random_from_data' take rows as means, with equal weights and
        one common covariance (scikit-learn's initial covariances are ``reg_covar`` alone).
    weights_init : array-like of shape (n_components,), default=None
        Initial weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means.
    precisions_init : array-like, default=None
        Initial inverses of the covariances, in the shape of ``precisions_``.
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
    acceleration : {'auto', 'lbfgs'} or None, default='auto'
        Method that extrapolates the last EM steps to a longer step, kept only if the likelihood does not fall; see
        `daskgmm.core.acceleration`. 'auto', for more than 100 000 rows with positive weight: 'lbfgs', and longer steps
        that a sample in memory predicts, see `daskgmm.core.tilting`. None: plain EM.
    cache : int, str or None, default='auto'
        Memory of each process that works on the fit for rows that it has read, so that the following passes need not
        read and decode them again: a number of bytes, or a size such as ``"2 GiB"``. 'auto': what is left below 60 % of
        a worker's memory limit, or half of what this machine has left; a size is an upper limit within that. The rows
        go when the fit ends, and the result has the same bits. Rows that are in memory anyway are not kept. None: every
        pass reads all rows.
    missing : {'raise', 'drop'} or None, default=None
        What becomes of incomplete rows, which have NaN in a feature, a masked value, or a stored value that means
        "missing" (``_FillValue``). 'raise': an error names the first one. 'drop': they take no part in a fit, as if
        they had the weight zero, nor in scores and criteria; `predict` gives them the label −1, `predict_proba` and
        `score_samples` give NaN. Their weights may be any numbers. Infinity is always an error. None: the default of
        the kind of input, which is 'drop' for DataArrays and Datasets, because xarray's own reductions skip NaN (land
        in data of the ocean), and 'raise' for all others as in scikit-learn, unless a registered kind says otherwise.
    scheduler : None, str or distributed.Client, default=None
        Scheduler of the passes: ``"synchronous"``, ``"threads"``, the address of a Dask scheduler, or a client. None:
        the client in scope, or threads of this process.
    callbacks : iterable of callable, default=()
        Functions that are called with every event of a fit, see `daskgmm.events`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Weights of the components, which sum to 1.
    means_ : ndarray of shape (n_components, n_features)
        Means of the components.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Covariances, their inverses P, and upper triangular U with P = U Uᵀ::

            (n_components, n_features, n_features) for 'full'
            (n_features, n_features)               for 'tied'
            (n_components, n_features)             for 'diag'
            (n_components,)                        for 'spherical'
            (n_features,)                          for 'tied-diag'
            (1,)                                   for 'tied-spherical'

        Attributes of a fit to float32 rows are float32 too, unless a value is out of range.
    converged_ : bool
        True if the best start converged.
    n_iter_ : int
        Number of EM iterations of the best start over all data, rejected steps included.
    lower_bound_ : float
        Mean log-likelihood, in nats per row, of the parameters before the last M-step, as in scikit-learn.
    lower_bounds_ : list of float
        Mean log-likelihood in every iteration of the best start that was not rejected.
    n_passes_ : int
        Number of passes of the last fit over the data: one survey, one for each iteration of the longest start, and the
        few E-steps repeated in finer arithmetic; one more to count the rows of a dask array with unknown chunk lengths,
        and one over lazy weights if rows are drawn by weight.
    history_ : list of PassRecord
        Record of each pass, and of iterations on samples: ``kind``, ``start``, ``n_iter``, ``lower_bound``, ``n_rows``,
        ``bytes_read``, ``bytes_cached``, ``seconds``, ``rows_per_second``, ``arithmetic``. Starts that share a pass
        have one record each.
    environment_ : dict of str to str
        Conditions, beside data, parameters and seed, on which the last bits depend: versions, BLAS, kind of processor,
        compiled loops, and workers that differ from this process. Loaded models keep them.
    origin_ : Origin
        Data and date of the fit: ``date`` (the end of the fit), ``data`` and ``sample_weight``, the latter two with
        ``kind``, ``address`` (without passwords), ``shape`` and ``dtype``; and ``n_incomplete``, the number of rows
        that were left out because they are incomplete. Loaded models keep the origin.
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
    BayesianGaussianMixture : A mixture with priors, whose number of components follows from the data.
    sklearn.mixture.GaussianMixture : The same model for arrays in memory.

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
        **ExplicitMixture._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "acceleration": [StrOptions({*ACCELERATIONS, AUTO}), None],
    }

    _has_criteria = True
    _followed = ("weights_", "means_")
    _sklearn_class = mixture.GaussianMixture
    _state_attributes = ("weights_", "means_", *COVARIANCES)

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
        init_size: int | str | None = Defaults.init_size,
        acceleration: str | None = Defaults.acceleration,
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
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.init_size = init_size
        self.acceleration = acceleration
        self.cache = cache
        self.missing = missing
        self.scheduler = scheduler
        self.callbacks = callbacks

    # ---- information criteria

    @short_errors
    def bic(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> float:
        """Compute the Bayesian information criterion (Schwarz 1978) in one pass; lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        float
        """
        return self._criteria(self._score(X, layout=given_layout(dim, feature_axis)))["bic"]

    @short_errors
    def aic(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> float:
        """Compute Akaike's information criterion (Akaike 1974) in one pass; lower is better.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        float
        """
        return self._criteria(self._score(X, layout=given_layout(dim, feature_axis)))["aic"]

    @short_errors
    def criteria(
        self,
        X: Any,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> dict[str, float]:
        """Compute all information criteria in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows; a row of weight 2 counts as two equal rows.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        dict
            ``"log_likelihood"``, the mean log-density of the rows in nats; ``"bic"`` (Schwarz 1978), ``"aic"`` (Akaike
            1974) and ``"icl"`` (integrated completed likelihood: Biernacki, Celeux & Govaert 2000), for which lower is
            better.
        """
        score = self._score(X, sample_weight, given_layout(dim, feature_axis), entropy=True)
        return {"log_likelihood": score.mean_log_likelihood, **self._criteria(score)}

    def _criteria(self, score: Score) -> Mapping[str, float]:
        return information_criteria(score, self._n_parameters())

    def _n_parameters(self) -> int:
        return self._parameters().n_free

    # ---- the M-step and its state

    def _prepare(self, n_features: int) -> Preparation[MixtureParameters]:
        initial = check_given(
            self._structure, self.n_components, n_features, self.weights_init, self.means_init, self.precisions_init
        )
        estimation = MaximumLikelihood(self._structure, float(self.reg_covar), initial)
        return Preparation(
            lambda survey: estimation,
            accelerator=self._accelerator(),
            accelerates_few=self.acceleration != AUTO,
            is_free=initial.is_empty,
        )

    def _accelerator(self) -> Accelerator[Any] | None:
        if self.acceleration is None:
            return None
        if self.acceleration == AUTO:
            return TiltedBFGS(LimitedMemoryBFGS(float(self.reg_covar)))
        return ACCELERATIONS[self.acceleration](float(self.reg_covar))

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
        """Read the parameters from the fitted attributes, in double precision.

        Attributes of single-precision fits are rounded. While the attributes are unchanged, the exact parameters of the
        fit are used.
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
    """Test whether the attributes are equal to the exact parameters, rounded to the attributes' precision."""
    exact_arrays: dict[str, Array | None] = {name: getattr(exact, name.removesuffix("_"), None) for name in attributes}
    name, matrices = list(exact_arrays.items())[-1]  # one of `COVARIANCES`
    if matrices is not None:
        exact_arrays[name] = exact.structure.to_attribute(matrices)
    return all(
        ours is not None and np.array_equal(ours.astype(attributes[name].dtype), attributes[name])
        for name, ours in exact_arrays.items()
    )
