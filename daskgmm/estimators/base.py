"""Base class of the mixtures: scikit-learn's interface for data larger than memory."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from ..core.estimation import State
from ..data.dataset import Dataset
from ..data.dimensions import Layout
from ..data.failures import short_errors
from ..data.files import file_address, naming_files
from ..data.inputs import as_dataset, is_lazy
from ..data.locations import Address
from ..data.tables import split_weights
from ..diagnostics.verbose import VerboseListener
from ..engine.events import Listener
from ..engine.run import DaskEngine
from ..errors import InterruptedWarning, OutputError, SchedulerError, StoreError
from ..fitting.fit import MixtureFits
from ..fitting.fit_spec import FailedFit, FitResult, FitSpec, Settings
from ..fitting.folds import Score
from ..fitting.initialization import Initialization
from ..fitting.origin import Origin
from ..fitting.plan import FitPlan, cache_bytes, check_parameters, plan_fit
from ..fitting.survey import sample_dtype
from ..names import AUTO, Defaults
from ..persistence.checkpoint import Checkpoint
from .accepted_data import accept_data
from .attributes import Memory
from .checkpointing import check_checkpoint, checkpointer_for
from .fit_callbacks import CallbackSupportMixin, fit_task
from .layouts import FEATURES, fit_layout
from .model import Preparation
from .predictions import MixturePredictions
from .saving import save
from .validation import check_cache, check_callbacks, check_init_size


class BaseMixture(CallbackSupportMixin, MixturePredictions[State]):  # type: ignore[misc]
    """Base class of the estimators: fit, plan and save. Subclasses add the M-step."""

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
        accepted = accept_data(self, X, reset=True, layout=layout)
        weights = accepted.align(sample_weight, "sample_weight")
        data = accepted.rows
        if data.shape[0] < 2:  # false for a dask array of unknown length (NaN), whose rows are counted later
            raise ValueError(
                f"Found array with {data.shape[0]} sample(s) (shape={tuple(data.shape)}) while a minimum of 2 is "
                f"required by {type(self).__name__}."
            )
        printing: list[Listener] = [VerboseListener(self.verbose, self.verbose_interval)] if self.verbose else []
        listeners = [*printing, *check_callbacks(self.callbacks), *more_listeners]
        in_process = not is_lazy(data)
        with (
            accepted.naming_samples(),
            DaskEngine(self.scheduler, in_process=in_process, listeners=listeners) as engine,
        ):
            dataset, n_passes = as_dataset(data, weights, engine.compute, accepted.missing)
            dataset = dataset.at(address or accepted.address)
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
        accepted = accept_data(clone(self), X, reset=True, layout=layout)  # a plan leaves no trace on the estimator
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

    # ---- storage

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
