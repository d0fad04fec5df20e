"""Base class of the mixtures: scikit-learn's interface for data larger than memory."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import DensityMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ..config import compiled
from ..core.elementwise import ElementwiseBackend
from ..core.estimation import State
from ..core.kernel_choice import Kernel, MixtureShape, choose_backend
from ..data.dataset import Dataset
from ..data.dimensions import PLAIN, Layout, given_layout
from ..data.failures import short_errors
from ..data.files import file_address, naming_files, suggesting_columns
from ..data.input_kinds import Input
from ..data.inputs import accept, as_dataset, check_dtype, check_layout, is_lazy, resolve
from ..data.locations import Address
from ..data.output import RowFunction, apply_rows, as_blocks, map_rows
from ..data.row_checks import check_complete, check_weight_sum, row_kind
from ..data.tables import split_weights
from ..diagnostics.verbose import VerboseListener
from ..engine.blas import one_blas_thread
from ..engine.events import Listener
from ..engine.memory import PassPlan
from ..engine.plain import is_short, run_here
from ..engine.run import DaskEngine
from ..errors import InterruptedWarning, OutputError, SchedulerError, StoreError
from ..fitting.fit import MixtureFits
from ..fitting.fit_spec import FailedFit, FitResult, FitSpec, Settings
from ..fitting.folds import Score, ScoreFold
from ..fitting.initialization import Initialization
from ..fitting.origin import Origin
from ..fitting.plan import FitPlan, cache_bytes, check_parameters, plan_fit
from ..fitting.predictions import KernelOutputs
from ..fitting.survey import sample_dtype
from ..names import AUTO, Defaults
from ..persistence.checkpoint import Checkpoint
from .attributes import Memory, Prepared, as_array
from .checkpointing import check_checkpoint, checkpointer_for
from .conversion import SklearnConversion
from .fit_callbacks import CallbackSupportMixin, fit_task
from .layouts import FEATURES, fit_layout, record_grid, recorded_layout
from .model import Preparation
from .saving import save
from .validation import check_cache, check_callbacks, check_init_size

Array = np.ndarray[Any, np.dtype[Any]]


class BaseMixture(CallbackSupportMixin, DensityMixin, SklearnConversion[State]):  # type: ignore[misc]
    """Base class of the estimators: fit, plan, predict, score and save. Subclasses add the M-step."""

    _has_criteria: ClassVar[bool] = False
    """True for mixtures with a number of free parameters, and therefore with information criteria."""

    # ---- differences between the kinds of mixtures

    @abstractmethod
    def _fit_facts(self) -> dict[str, Any]:
        """Facts of the fit for a summary that depend on the kind of mixture, as JSON values."""

    def _criteria(self, score: Score) -> Mapping[str, float]:
        """Information criteria by name; empty for mixtures without them."""
        return {}

    # ---- fitting

    def _check_settings(self) -> None:
        """Raise `ValueError` or `TypeError` for parameters that are invalid for any data."""
        self._validate_params()
        check_init_size(self.init_size, self.n_components)
        check_cache(self.cache)

    @short_errors
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the mixture to data.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data; rows are samples. The class docstring lists the kinds of arrays and stores.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows, a path of them, or the name of a column of the table ``X``; a row of weight 2 counts as
            two equal rows. For labelled data also a DataArray with some of the sample dimensions, or the name of a
            coordinate or variable of ``X``; for samples on a grid also an array of the grid's shape.
        dim : str or sequence of str, optional
            Names of the sample dimensions, for xarray objects; the other dimensions are the features. None: for a
            Dataset, whose variables are the features, all dimensions; for a DataArray all but the one named
            ``feature``, ``variable``, ``band``, ``channel`` or ``c``, or else all but the last.
        feature_axis : int, optional
            Axis of the features, for arrays of more than two dimensions; the other axes are a grid of samples.
        checkpoint : str or path, optional
            Directory, on a local or mounted file system, in which the fit saves its state after every pass over the
            data.
        resume : bool, default=False
            Resume from ``checkpoint``; without a checkpoint there, begin a new fit. The result has the same bits as an
            uninterrupted fit. Data and settings must be those of the interrupted fit.

        Returns
        -------
        self

        Raises
        ------
        OutputExistsError
            If a checkpoint exists and ``resume`` is false, or another run is using the checkpoint.
        CheckpointError
            If the checkpoint is damaged, or belongs to other data or settings; the message names the difference.
        ValueError
            If the data have the wrong shape or dimensions (`DimensionError`) or are not finite (`NonFiniteDataError`
            names the row), if a parameter is out of range, if components collapse (`IllDefinedCovarianceError`), or if
            too few rows are complete where the others are left out (`IncompleteDataError`).
        TypeError
            If the data are not real numbers.
        SchedulerError
            If the scheduler does not answer, or is lost for good.

        Warns
        -----
        InterruptedWarning
            If Ctrl-C, a lost scheduler, or failing or full storage stops the fit. The estimator keeps the best
            parameters so far, if there are any, as after a fit that did not converge; the exception is raised.
        """
        self._check_settings()
        layout = fit_layout(dim, feature_axis, sample_weight)
        with (
            naming_files(X),
            check_checkpoint(checkpoint, resume) as stored_fit,
            self._features_restored_on_error(),
            fit_task(self, X, y, sample_weight) as listeners,
        ):
            return self._fit(X, sample_weight, layout, stored_fit, listeners)

    def _fit(
        self,
        X: Any,
        sample_weight: Any,
        layout: Layout,
        stored_fit: Checkpoint | None,
        more_listeners: Sequence[Listener],
    ) -> Self:
        address = file_address(X)
        X, sample_weight = split_weights(X, sample_weight)
        accepted = self._accept_input(X, reset=True, layout=layout)
        weights = accepted.align(sample_weight, "sample_weight")
        data = accepted.rows
        if data.shape[0] < 2:  # false for a dask array of unknown length (NaN), whose rows are counted later
            raise ValueError(
                f"Found array with {data.shape[0]} sample(s) (shape={tuple(data.shape)}) while a minimum of 2 is "
                f"required by {type(self).__name__}."
            )
        printing: list[Listener] = [VerboseListener(self.verbose, self.verbose_interval)] if self.verbose else []
        listeners = [*printing, *check_callbacks(self.callbacks), *more_listeners]
        with DaskEngine(self.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
            dataset, n_passes = as_dataset(data, weights, engine.compute, accepted.missing)
            dataset = dataset.at(address)
            if dataset.n_rows < self.n_components:
                raise ValueError(
                    f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                    f"n_samples = {dataset.n_rows}"
                )
            spec = self._spec(dataset.n_features)
            check_parameters(dataset, [spec.settings])
            checkpointer = None if stored_fit is None else checkpointer_for(stored_fit, dataset, [self])
            engine.keep_rows(cache_bytes(engine, dataset, [spec.settings], check_cache(self.cache)))
            fits = MixtureFits(engine, dataset, [spec], checkpointer)
            try:
                fits.run()
            except (KeyboardInterrupt, SchedulerError, StoreError, OutputError) as error:
                self._keep_best(fits, dataset, n_passes + engine.n_passes, error)
                raise
            (run,) = fits.outcomes()
            for note in run.notes:
                warnings.warn(note, stacklevel=4)
            if isinstance(run, FailedFit):
                raise run.error
            n_passes += engine.n_passes
        if not run.converged and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase "
                "max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self._store(run, dataset, n_passes)
        return self

    def _keep_best(self, fits: MixtureFits[State], dataset: Dataset, n_passes: int, error: BaseException) -> None:
        """Store the best parameters of a stopped fit, if there are any, and warn."""
        run = next(iter(fits.outcomes()), None)
        if not isinstance(run, FitResult) or run.n_iter == 0:
            return
        self._store(run, dataset, n_passes)
        message = (
            f"the fit was stopped ({type(error).__name__}) after {run.n_iter} iterations, before it had converged. The "
            "estimator has the best parameters so far; with warm_start=True a fit goes on from them."
        )
        with suppress(InterruptedWarning):  # if warnings are errors, the error that stopped the fit is raised instead
            warnings.warn(message, InterruptedWarning, stacklevel=5)

    @contextmanager
    def _features_restored_on_error(self) -> Iterator[None]:
        """Restore the attributes about features if a fit fails without new parameters."""
        attributes, before = self.__dict__, self.__dict__.copy()
        try:
            yield
        except BaseException:
            if attributes.get("means_") is before.get("means_"):
                for name in FEATURES:
                    attributes.pop(name, None)
                    if name in before:
                        attributes[name] = before[name]
            raise

    @short_errors
    def plan(
        self,
        X: Any,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> FitPlan:
        """Plan the passes and the memory of a `fit` to these data, without reading the rows.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data. Only a dask array of unknown length is read, to count its rows.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`.
        feature_axis : int, optional
            Axis of the features, as for `fit`.

        Returns
        -------
        FitPlan
            Plan, with sizes in bytes. ``print`` it for a readable text; ``as_record()`` returns a dict.

        Raises
        ------
        WorkerMemoryError
            If the fit would not fit into the memory of the cluster's workers.
        SchedulerError
            If the scheduler does not answer.
        """
        self._check_settings()
        layout = fit_layout(dim, feature_axis, sample_weight)
        with naming_files(X):
            return self._plan(X, sample_weight, layout)

    def _plan(self, X: Any, sample_weight: Any, layout: Layout) -> FitPlan:
        X, sample_weight = split_weights(X, sample_weight)
        accepted = clone(self)._accept_input(X, reset=True, layout=layout)  # a plan leaves no trace on the estimator
        weights = accepted.align(sample_weight, "sample_weight")
        with DaskEngine(self.scheduler, in_process=not is_lazy(accepted.rows)) as engine:
            dataset, _ = as_dataset(accepted.rows, weights, engine.compute, accepted.missing)
            settings = self._settings(self._prepare(dataset.n_features))
            check_parameters(dataset, [settings])
            return plan_fit(engine, dataset, settings, check_cache(self.cache))

    def fit_predict(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> Any:
        """Fit the mixture, then predict the labels of the same data: ``fit(X).predict(X)``.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows in the fit.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`.
        feature_axis : int, optional
            Axis of the features, as for `fit`.

        Returns
        -------
        labels : array of shape (n,), int64
            Most probable component of every row, as from `predict`.
        """
        X, sample_weight = split_weights(X, sample_weight)  # a column of weights is no feature
        fitted = self.fit(X, y, sample_weight, dim=dim, feature_axis=feature_axis)
        return fitted.predict(X, dim=dim, feature_axis=feature_axis)

    # ---- predictions

    @short_errors
    def predict(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Predict the most probable component of every row.

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
        labels : array of shape (n,), int64
            Lazy for dask and Zarr data: a dask array, or a dask series for a dask data frame; else a NumPy array.
            Incomplete rows that are left out have −1. For samples on a grid, an array of the grid's shape; for xarray
            objects, a DataArray with the dimensions, coordinates and blocks of the samples.
        """
        return self._for_each_row(X, "labels", given_layout(dim, feature_axis))

    @short_errors
    def predict_proba(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Compute the posterior probability of every component for every row.

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
        probabilities : array of shape (n, n_components)
            Lazy for dask and Zarr data: a dask array, or a dask data frame with the columns ``component_0``, … for
            another; else a NumPy array. Incomplete rows that are left out have NaN. In a DataArray, the last
            dimension is named ``component``.
        """
        return self._for_each_row(X, "responsibilities", given_layout(dim, feature_axis))

    @short_errors
    def score_samples(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Compute the log-density of every row, in nats.

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
        log_density : array of shape (n,)
            Lazy for dask and Zarr data: a dask array, or a dask series for a dask data frame; else a NumPy array.
            Incomplete rows that are left out have NaN.
        """
        return self._for_each_row(X, "log_density", given_layout(dim, feature_axis))

    @short_errors
    def score(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> float:
        """Compute the mean log-density of the rows, in nats, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows in the mean.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        float
        """
        return self._score(X, sample_weight, given_layout(dim, feature_axis)).mean_log_likelihood

    @short_errors
    def save(self, path: Address, *, overwrite: bool = False, storage_options: Mapping[str, Any] | None = None) -> None:
        """Write the model as a Zarr group, whole or not at all; `daskgmm.load` reads it.

        Parameters
        ----------
        path : str, path or store
            Local path, URL that fsspec can write, or place in an open store: a zarr Store, StorePath or empty Group, or
            a mapper of fsspec.
        overwrite : bool, default=False
            Replace an existing model; only for local paths.
        storage_options : mapping, optional
            Options of the URL's file system.

        Raises
        ------
        OutputExistsError
            If ``path`` exists and ``overwrite`` is false, or if ``path`` is no model.
        """
        save(self, path, overwrite=overwrite, storage_options=storage_options)

    # ---- internal methods

    def _accept_input(self, X: Any, *, reset: bool, layout: Layout = PLAIN) -> Input:
        """Resolve the data, check layout and dtype without reading rows, and record or check the features."""
        accepted = accept(X, missing=self.missing, layout=layout if reset else recorded_layout(self, layout))
        if reset:
            record_grid(self, accepted.grid)
        return self._checked_input(X, accepted, reset)

    def _checked_input(self, X: Any, accepted: Input, reset: bool) -> Input:
        """Check layout, dtype and features of a resolved input."""
        data = accepted.rows
        if accepted.feature_names is not None:
            data = data if is_lazy(data) else np.asarray(data)
            check_layout(data)
            self._accept_names(accepted.feature_names, reset)
            return accepted.with_rows(data)
        if is_lazy(data):
            check_layout(data)
            named = accepted.frame
            with suggesting_columns(X, getattr(self, "feature_names_in_", ())):
                validate_data(self, data if named is None else named, reset=reset, skip_check_array=True)
            return accepted
        if not hasattr(data, "dtype") or hasattr(data, "__array__"):
            dtype = getattr(data, "dtype", None)
            if isinstance(dtype, np.dtype) and dtype.kind in "cmMSUV":
                check_dtype("X", dtype)
            if getattr(data, "ndim", 2) > 2:
                check_layout(data)
        validated = validate_data(
            self, data, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2 if reset else 1
        )
        return accepted.with_rows(validated)

    def _accept_names(self, names: tuple[str, ...], reset: bool) -> None:
        """Record the feature names of labelled data and structured rows, or compare them with the names of the fit."""
        if reset:
            self.n_features_in_, self.feature_names_in_ = len(names), np.array(names, object)
        elif (known := tuple(getattr(self, "feature_names_in_", names))) != names:
            raise ValueError(
                f"X has the features {list(names)!s:.200}, but {type(self).__name__} was fitted with the features "
                f"{list(known)!s:.200}. Choose those, in that order: X[{list(known)!s:.200}]."
            )

    def _settings(self, how: Preparation[State]) -> Settings:
        auto = self.init_size == AUTO
        usual = self.init_params == Defaults.init_params and self.n_components > 1
        continues = self.warm_start and self.__sklearn_is_fitted__()
        return Settings(
            Initialization(self._structure, int(self.n_components), self.init_params),
            tol=self.tol,
            max_iter=self.max_iter,
            n_init=None if self.n_init == AUTO else int(self.n_init),
            init_size=None if auto or self.init_size is None else int(self.init_size),
            searches=auto and usual and how.is_free and not continues,
            accelerator=how.accelerator,
            accelerates_few=how.accelerates_few,
            scatter=how.scatter,
        )

    def _spec(self, n_features: int, label: str = "") -> FitSpec[State]:
        how = self._prepare(n_features)
        random_state = check_random_state(self.random_state)
        return FitSpec(self._settings(how), how.estimation, random_state, self._continuation(), label)

    def _store(self, run: FitResult[State], dataset: Dataset, n_passes: int) -> None:
        self._store_state(run.state, sample_dtype(dataset))
        self._memory = Memory[State]()  # created here, because only `fit` may add attributes
        self.n_passes_ = n_passes
        self.converged_ = run.converged
        self.n_iter_ = run.n_iter
        self.lower_bound_ = run.lower_bound
        self.lower_bounds_ = run.lower_bounds
        self.history_ = run.history
        self.environment_ = dict(run.environment)
        self.origin_ = Origin.of(dataset, run.n_incomplete)

    def _kernel(self, data: Any) -> Kernel:
        """Make the kernel for one pass over data in the range of the mixture."""
        prepared = self._prepared()
        return prepared.new_kernel(np.dtype(data.dtype), _backend(prepared, data))

    @staticmethod
    def _kept_kernel(prepared: Prepared[State], data: Any) -> Kernel:
        """Return the kernel for data in the range of the mixture, cached for the next call."""
        return prepared.kernel(np.dtype(data.dtype), _backend(prepared, data))

    def _accept_new(self, X: Any, layout: Layout = PLAIN) -> tuple[Input, Prepared[State]]:
        """Accept new data for a fitted model; return the data and the prepared model."""
        prepared = self._prepared()
        accepted = self._accept_input(X, reset=False, layout=layout)
        n_features, expected = accepted.rows.shape[1], prepared.parameters.n_features
        if n_features != expected:
            raise ValueError(
                f"X has {n_features} features, but {type(self).__name__} is expecting {expected} features as input."
            )
        return accepted, prepared

    @contextmanager
    def _pass_over(
        self, accepted: Input, weights: Any = None, callbacks: Any = None
    ) -> Iterator[tuple[DaskEngine, Dataset]]:
        """Open an engine for one pass over accepted data; ``callbacks`` replace the estimator's own."""
        data = accepted.rows
        listeners = check_callbacks(self.callbacks if callbacks is None else callbacks)
        with DaskEngine(self.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
            dataset, _ = as_dataset(data, weights, engine.compute, accepted.missing)
            yield engine, dataset

    def _score(self, X: Any, sample_weight: Any = None, layout: Layout = PLAIN, *, entropy: bool = False) -> Score:
        address = X
        X, sample_weight = split_weights(X, sample_weight)
        accepted, prepared = self._accept_new(X, layout)
        weights = accepted.align(sample_weight, "sample_weight")
        weights = None if weights is None else resolve(weights, "sample_weight", accepted.missing)
        score = self._score_here(accepted, prepared, weights, entropy=entropy)
        if score is None:
            with naming_files(address), self._pass_over(accepted, weights) as (engine, dataset):
                score = engine.run(dataset, self._score_fold(dataset, prepared, entropy=entropy), "score")
        check_complete(score.n_rows, score.n_incomplete)
        check_weight_sum(score.weight_sum)
        return score

    def _plan_score(
        self, X: Any, sample_weight: Any = None, layout: Layout = PLAIN, *, entropy: bool = False
    ) -> PassPlan:
        """Plan the pass of `score`; raise `WorkerMemoryError` if the pass does not fit into the workers."""
        address = X
        X, sample_weight = split_weights(X, sample_weight)
        accepted, prepared = self._accept_new(X, layout)
        weights = accepted.align(sample_weight, "sample_weight")
        with naming_files(address), self._pass_over(accepted, weights) as (engine, dataset):
            return engine.plan(dataset, self._score_fold(dataset, prepared, entropy=entropy))

    def _score_here(self, accepted: Input, prepared: Prepared[State], weights: Any, *, entropy: bool) -> Score | None:
        """Compute the score of few rows in memory; None if the data need an engine."""
        data = accepted.rows
        if self.scheduler is not None or self.callbacks or is_lazy(data) or is_lazy(weights):
            return None
        dataset, _ = as_dataset(data, weights, missing=accepted.missing)
        fold = self._score_fold(dataset, prepared, entropy=entropy)
        return run_here(dataset, fold) if is_short(dataset, fold) else None

    def _score_fold(self, dataset: Dataset, prepared: Prepared[State], *, entropy: bool) -> ScoreFold:
        return ScoreFold(self._kept_kernel(prepared, dataset.rows), entropy, row_kind=dataset.row_kind)

    def _outputs(self, accepted: Input, prepared: Prepared[State], *names: str) -> KernelOutputs:
        """Outputs of the model for each row; ``names`` are fields of `RowResults`."""
        dtype = np.float32 if as_array("means_", self.means_).dtype == np.float32 else np.float64
        return KernelOutputs.named(self._kept_kernel(prepared, accepted.rows), names, dtype, row_kind(accepted.missing))

    def _for_each_row(self, X: Any, name: str, layout: Layout) -> Any:
        accepted, prepared = self._accept_new(X, layout)
        shared_bytes = 0
        if not isinstance(accepted.rows, np.ndarray):
            shared_bytes = self._outputs(accepted, prepared, "labels", "responsibilities", "log_density").row_bytes
        return for_each_row(accepted, self._outputs(accepted, prepared, name), shared_bytes)


def for_each_row(accepted: Input, function: RowFunction, shared_bytes: int = 0) -> Any:
    """Results of a function with one output for all rows, in the form of the input: lazy for lazy rows.

    Parameters
    ----------
    accepted : Input
    function : RowFunction
    shared_bytes : int
        Size of all results of a row that may share the blocks of rows; see `as_blocks`.
    """
    (output,), data = function.outputs, accepted.rows

    def compute() -> Any:
        if isinstance(data, np.ndarray):
            with one_blas_thread():
                return apply_rows(data, function, n_threads=None)[0]
        return map_rows(as_blocks(data, output.row_bytes, max(shared_bytes, output.row_bytes)), function)

    return accepted.map_rows(function, compute)


def _backend(prepared: Prepared[Any], data: Any) -> ElementwiseBackend:
    n_rows = data.shape[0] if data.shape[0] == data.shape[0] else np.inf  # unknown lengths of dask arrays are NaN
    return choose_backend(MixtureShape.of(prepared.parameters), n_rows, n_passes=1, compiled=compiled())
