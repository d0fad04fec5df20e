"""What all mixtures have in common: scikit-learn's interface, for data larger than memory."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, Self

import dask.array as da
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ..core.acceleration import Accelerator
from ..core.covariance import STRUCTURES
from ..core.estimation import Estimation, State
from ..core.kernels import Kernel
from ..core.loops import Loops, choose_loops
from ..core.mixture import MixtureParameters
from ..core.structure import CovarianceStructure
from ..data.accept import as_dataset, check_dtype, check_layout, feature_names, is_lazy, resolve
from ..data.failures import short_errors
from ..data.output import apply_rows, as_blocks, map_rows
from ..data.row_checks import check_weight_sum
from ..data.source import Dataset
from ..diagnostics.verbose import VerboseListener
from ..engine.blas import one_blas_thread
from ..engine.config import compiled
from ..engine.events import Listener
from ..engine.plain import is_short, run_here
from ..engine.run import DaskEngine
from ..errors import InterruptedWarning, OutputError, SchedulerError, StoreError
from ..fitting.candidate import Candidate, Continuation, Failed, Run, Settings
from ..fitting.fit import MixtureFits
from ..fitting.folds import Score, ScoreFold
from ..fitting.history import PassRecord
from ..fitting.initialization import METHODS, Initialization
from ..fitting.origin import Origin
from ..fitting.plan import FitPlan, check_parameters, plan_fit
from ..fitting.survey import Survey, sample_dtype
from .attributes import COVARIANCES, Memory, Prepared, agreed_covariances, as_array, check_usable, fingerprint
from .checkpointing import Checkpointing, check_checkpoint
from .rows import Densities, Labels, Probabilities, RowResult
from .validation import check_callbacks, check_init_size

Array = np.ndarray[Any, np.dtype[Any]]

_FEATURES = ("n_features_in_", "feature_names_in_")


@dataclass(frozen=True)
class Preparation(Generic[State]):
    """What a kind of mixture asks of a fit."""

    estimation: Callable[[Survey], Estimation[State]]
    """The M-step, for data of which a survey is known."""
    scatter: bool = False
    """Whether that takes all second moments of the data."""
    accelerator: Callable[[], Accelerator] | None = None
    """What makes its iterations longer, one for each start."""


class BaseMixture(DensityMixin, BaseEstimator, ABC, Generic[State]):  # type: ignore[misc]
    """A Gaussian mixture without its M-step.

    Subclasses say how parameters follow from statistics (`_prepare`), and how what a fit ends with, its state, becomes
    attributes and comes back from them. Parameters and attributes are documented there.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "init_params": [StrOptions(set(METHODS))],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "init_size": [Interval(Integral, 2, None, closed="left"), None],
        "scheduler": "no_validation",
        "callbacks": "no_validation",
    }

    _information: ClassVar[tuple[str, ...]] = ()
    """Names of the information criteria that `_criteria` tells."""

    _followed: ClassVar[tuple[str, ...]]
    """Attributes that E-steps follow from, beside one of `COVARIANCES`."""

    # Subclasses assign these in their constructors.
    n_components: int
    covariance_type: str
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int | str
    init_params: str
    random_state: Any
    warm_start: bool
    verbose: int
    verbose_interval: int
    init_size: int | None
    scheduler: Any
    callbacks: Any

    # And every fit these.
    weights_: Array
    means_: Array
    n_features_in_: int
    lower_bound_: float
    history_: list[PassRecord]
    environment_: dict[str, str]
    origin_: Origin

    # ---- what tells one kind of mixture from another

    @abstractmethod
    def _prepare(self, n_features: int) -> Preparation[State]:
        """Check the parameters that belong to the M-step.

        Raises
        ------
        ValueError
            Naming the parameter, what came and what was expected.
        """

    @abstractmethod
    def _store_state(self, state: State, dtype: Any) -> None:
        """Set the attributes that say what was found, and `_remember` them; ``dtype`` is float32 for data that are."""

    @abstractmethod
    def _read(self, attributes: Mapping[str, Array]) -> tuple[State, MixtureParameters]:
        """State, as far as E-steps follow from it, and parameters of the E-steps that attributes mean.

        Parameters
        ----------
        attributes : mapping
            Those in `_followed` and, last, one of `COVARIANCES`; in any shape and dtype.

        Raises
        ------
        InvalidAttributesError
            If they are not those of a mixture.
        """

    @abstractmethod
    def _state(self) -> State:
        """State that the attributes mean, whole."""

    @abstractmethod
    def _told(self) -> dict[str, Any]:
        """What a summary says of the fit, as far as it depends on the kind of mixture; what JSON can say."""

    def _criteria(self, score: Score) -> Mapping[str, float]:
        """Information criteria by their names, where the kind of mixture has any."""
        return {}

    # ---- fitting

    def _check_settings(self) -> None:
        """Raise `ValueError` or `TypeError` for parameters that no fit can have, whatever the data are."""
        self._validate_params()
        check_init_size(self.init_size, self.n_components)

    @short_errors
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Rows are samples. See the class for what it may be.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional
            How much each row counts; a row of weight 2 counts as two equal rows.
        checkpoint : str or path, optional
            Where to keep, after every pass over the data, what it takes to go on: a directory on a local or mounted
            file system.
        resume : bool, default=False
            Go on from what is in ``checkpoint``, and begin where there is nothing yet. The result has the bits of a fit
            that was never interrupted. Data and settings have to be those of the fit that began.

        Returns
        -------
        self

        Raises
        ------
        OutputExistsError
            If there is a checkpoint already and ``resume`` is false, or another run is at work with it.
        CheckpointError
            If the checkpoint is damaged, or of other data or settings: the message names what differs.
        ValueError
            For data of the wrong shape or not finite (`NonFiniteDataError` names the row), for parameters out of range,
            and where components collapse (`IllDefinedCovarianceError`).
        TypeError
            For data that are not real numbers.
        SchedulerError
            If the scheduler does not answer, or goes away for good.

        Warns
        -----
        InterruptedWarning
            When Ctrl-C, a scheduler that went away, or storage that fails or is full ends a fit: the estimator has the
            best parameters so far, if there are any, as after a fit that did not converge. The exception goes on.
        """
        self._check_settings()
        with check_checkpoint(checkpoint, resume) as keeping, self._whole_or_not_at_all():
            return self._fit(X, sample_weight, keeping)

    def _fit(self, X: Any, sample_weight: Any, keeping: Checkpointing | None) -> Self:
        data = self._accept(X, reset=True)
        if data.shape[0] < 2:  # false for the unknown length of a dask array, which is counted first
            raise ValueError(
                f"Found array with {data.shape[0]} sample(s) (shape={tuple(data.shape)}) while a minimum of 2 is "
                f"required by {type(self).__name__}."
            )
        printing: list[Listener] = [VerboseListener(self.verbose, self.verbose_interval)] if self.verbose else []
        listeners = [*printing, *check_callbacks(self.callbacks)]
        with DaskEngine(self.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
            dataset, n_passes = as_dataset(data, sample_weight, engine.compute)
            if dataset.n_rows < self.n_components:
                raise ValueError(
                    f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                    f"n_samples = {dataset.n_rows}"
                )
            check_parameters(dataset, self._structure, int(self.n_components))
            keeper = None if keeping is None else keeping.keeper(dataset, [self])
            fits = MixtureFits(engine, dataset, [self._candidate(dataset.n_features)], keeper)
            try:
                fits.run()
            except (KeyboardInterrupt, SchedulerError, StoreError, OutputError) as error:
                self._keep_best(fits, dataset, n_passes + engine.n_passes, error)
                raise
            (run,) = fits.outcomes()
            for note in run.notes:
                warnings.warn(note, stacklevel=4)
            if isinstance(run, Failed):
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
        """Leave what a fit had found when it was stopped."""
        run = next(iter(fits.outcomes()), None)
        if not isinstance(run, Run) or run.n_iter == 0:
            return
        self._store(run, dataset, n_passes)
        told = (
            f"the fit was stopped ({type(error).__name__}) after {run.n_iter} iterations, before it had converged. The "
            "estimator has the best parameters so far; with warm_start=True a fit goes on from them."
        )
        with suppress(InterruptedWarning):  # where warnings are errors, what ended the fit is the one to raise
            warnings.warn(told, InterruptedWarning, stacklevel=5)

    @contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """Leave the estimator as it was where a fit finds no parameters: what it says of features belongs to them."""
        attributes, before = self.__dict__, self.__dict__.copy()
        try:
            yield
        except BaseException:
            if attributes.get("means_") is before.get("means_"):
                for name in _FEATURES:
                    attributes.pop(name, None)
                    if name in before:
                        attributes[name] = before[name]
            raise

    @short_errors
    def plan(self, X: Any, sample_weight: Any = None) -> FitPlan:
        """What `fit` would do with these data and how much memory it would take; the rows are not read.

        Parameters
        ----------
        X : array-like of shape (n, D)
            A dask array of unknown length is counted, which does read it.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        FitPlan
            ``print`` it, or ask it for ``as_record()``. Sizes are in bytes.

        Raises
        ------
        WorkerMemoryError
            If the fit would not fit into the memory of the cluster's workers.
        SchedulerError
            If the scheduler does not answer.
        """
        self._check_settings()
        data = clone(self)._accept(X, reset=True)  # a plan leaves no trace on the estimator
        with DaskEngine(self.scheduler, in_process=not is_lazy(data)) as engine:
            dataset, _ = as_dataset(data, sample_weight, engine.compute)
            check_parameters(dataset, self._structure, int(self.n_components))
            return plan_fit(engine, dataset, self._settings(self._prepare(dataset.n_features)))

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

    @short_errors
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

    @short_errors
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
        return self._for_each_row(X, Probabilities, by_component=True)

    @short_errors
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
        return self._for_each_row(X, Densities)

    @short_errors
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, in nats; one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional
        """
        return self._score(X, sample_weight).mean_log_likelihood

    @short_errors
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
        return self._sampled(n_samples).sample(int(n_samples), check_random_state(self.random_state))

    def _sample_blocks(self, n_samples: int) -> Iterator[tuple[Array, int]]:
        """Draw the rows of `sample` in blocks, with the component of each block."""
        return self._sampled(n_samples).sample_blocks(int(n_samples), check_random_state(self.random_state))

    def _sampled(self, n_samples: int) -> MixtureParameters:
        """The mixture, with covariances that agree with what predictions follow."""
        mixture = replace(self._parameters(), covariances=self._agreed_covariances())
        if not isinstance(n_samples, int | np.integer) or n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample, as an int."
            )
        return mixture

    @short_errors
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

    def __sklearn_is_fitted__(self) -> bool:
        """Test for parameters, from a fit or set by hand."""
        return all(hasattr(self, name) for name in self._followed) and any(hasattr(self, name) for name in COVARIANCES)

    def __sklearn_clone__(self) -> Self:
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
        state.pop("_memory", None)
        return state

    # ---- inside

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

    def _accept(self, X: Any, *, reset: bool) -> Any:
        """Resolve the data, check what can be told without reading them, and keep the names of their features."""
        data = resolve(X)
        if (names := feature_names(X, data)) is not None:
            check_layout(data)
            self._accept_names(names, reset)
            return data
        if is_lazy(data):
            check_layout(data)
            named = getattr(X, "_meta", data) if hasattr(X, "to_dask_array") else data
            validate_data(self, named, reset=reset, skip_check_array=True)
            return data
        if not hasattr(data, "dtype") or hasattr(data, "__array__"):
            dtype = getattr(data, "dtype", None)
            if isinstance(dtype, np.dtype) and dtype.kind in "cmMSUV":
                check_dtype("X", dtype)
            if getattr(data, "ndim", 2) > 2:
                check_layout(data)
        return validate_data(
            self, data, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2 if reset else 1
        )

    def _accept_names(self, names: tuple[str, ...], reset: bool) -> None:
        """Keep the names of features that are fields of records, or hold them against those of the fit."""
        if reset:
            self.n_features_in_, self.feature_names_in_ = len(names), np.array(names, object)
        elif (known := tuple(getattr(self, "feature_names_in_", names))) != names:
            raise ValueError(
                f"X has the fields {list(names)!s:.200}, but {type(self).__name__} was fitted with the features "
                f"{list(known)!s:.200}. Choose those, in that order: X[{list(known)!s:.200}]."
            )

    def _settings(self, how: Preparation[State]) -> Settings:
        return Settings(
            Initialization(self._structure, int(self.n_components), self.init_params),
            tol=self.tol,
            max_iter=self.max_iter,
            n_init=None if self.n_init == "auto" else int(self.n_init),
            init_size=self.init_size,
            accelerator=how.accelerator,
            scatter=how.scatter,
        )

    def _candidate(self, n_features: int, label: str = "") -> Candidate[State]:
        how = self._prepare(n_features)
        random_state = check_random_state(self.random_state)
        return Candidate(self._settings(how), how.estimation, random_state, self._continuation(), label)

    def _continuation(self) -> Continuation[State] | None:
        if not (self.warm_start and self.__sklearn_is_fitted__()):
            return None
        parameters = self._parameters()
        expected = self.n_components, self.n_features_in_, self._structure
        found = parameters.n_components, parameters.n_features, parameters.structure
        if found != expected:
            raise ValueError(
                f"warm_start=True: the last fit had (n_components, n_features, covariance) = {_names(found)}, and this "
                f"one asks for {_names(expected)}. Set warm_start=False, or use a new estimator."
            )
        return Continuation(self._state(), getattr(self, "lower_bound_", -np.inf))

    def _store(self, run: Run[State], dataset: Dataset, n_passes: int) -> None:
        self._store_state(run.state, sample_dtype(dataset))
        self._memory = Memory[State]()  # now, because no method but `fit` adds attributes
        self.n_passes_ = n_passes
        self.converged_ = run.converged
        self.n_iter_ = run.n_iter
        self.lower_bound_ = run.lower_bound
        self.lower_bounds_ = run.lower_bounds
        self.history_ = run.history
        self.environment_ = dict(run.environment)
        self.origin_ = Origin.of(dataset)

    # ---- parameters, and what depends on them alone

    def _prepared(self) -> Prepared[State]:
        """Mixture that the attributes mean.

        Raises
        ------
        NotFittedError
            If there are none.
        InvalidAttributesError
            If they are not those of a mixture.
        """
        check_is_fitted(self)
        names = *self._followed, self._covariances_attribute
        attributes = [as_array(name, getattr(self, name)) for name in names]
        settings = names[-1], *self._attribute_settings()
        memory: Memory[State] = self.__dict__.setdefault("_memory", Memory())
        prepared = memory.prepared  # one that another thread may be replacing
        if prepared is None or not prepared.follows_from(settings, attributes):
            copies = [array.copy() for array in attributes]
            with one_blas_thread():
                state, parameters = self._read(dict(zip(names, copies, strict=True)))
            if names[-1] != "covariances_" and not self._is_as_left(names[-1]):
                check_usable(names[-1], parameters)
            prepared = memory.prepared = Prepared.of(settings, copies, state, parameters)
        return prepared

    def _attribute_settings(self) -> tuple[str, ...]:
        """Parameters of the constructor that say what attributes mean."""
        return (self.covariance_type,)

    @property
    def _covariances_attribute(self) -> str:
        return next(name for name in COVARIANCES if hasattr(self, name))

    def _parameters(self) -> MixtureParameters:
        """Parameters of E-steps under the attributes, in double precision."""
        return self._prepared().parameters

    def _agreed_covariances(self) -> Array:
        """Covariances, which E-steps do not follow from where there are factors.

        Raises
        ------
        InvalidAttributesError
            If they were set, and the factors were not.
        """
        parameters = self._parameters()
        if not hasattr(self, "covariances_"):
            return parameters.covariances
        array = as_array("covariances_", self.covariances_)
        changed_alone = self._is_as_left("precisions_cholesky_") and not self._is_as_left("covariances_")
        return agreed_covariances(parameters, array, changed_alone=changed_alone)

    def _remember(self) -> None:
        """Take note of the matrices that a fit, or `daskgmm.load`, leaves, for `_is_as_left`."""
        self._fingerprints = {
            name: fingerprint(getattr(self, name)) for name in ("covariances_", "precisions_cholesky_")
        }

    def _is_as_left(self, name: str) -> bool:
        """Test for an attribute that nobody has changed since."""
        left = getattr(self, "_fingerprints", {}).get(name)
        return left is not None and hasattr(self, name) and fingerprint(as_array(name, getattr(self, name))) == left

    def _kernel(self, data: Any) -> Kernel:
        """Kernel for one pass over data that lie where the mixture does."""
        prepared = self._prepared()
        return prepared.new_kernel(np.dtype(data.dtype), _loops(prepared, data))

    @staticmethod
    def _kept_kernel(prepared: Prepared[State], data: Any) -> Kernel:
        """Kernel for data that lie where the mixture does, kept for the next call."""
        return prepared.kernel(np.dtype(data.dtype), _loops(prepared, data))

    def _accept_new(self, X: Any) -> tuple[Any, Prepared[State]]:
        """Resolved data of which a fitted model is to say something, and the model."""
        prepared = self._prepared()
        data = self._accept(X, reset=False)
        expected = prepared.parameters.n_features
        if data.shape[1] != expected:
            raise ValueError(
                f"X has {data.shape[1]} features, but {type(self).__name__} is expecting {expected} features as input."
            )
        return data, prepared

    def _score(self, X: Any, sample_weight: Any = None, *, entropy: bool = False) -> Score:
        data, prepared = self._accept_new(X)
        weights = None if sample_weight is None else resolve(sample_weight, "sample_weight")
        score = self._score_here(data, prepared, weights, entropy=entropy)
        if score is None:
            listeners = check_callbacks(self.callbacks)
            with DaskEngine(self.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
                dataset, _ = as_dataset(data, weights, engine.compute)
                score = engine.run(dataset, ScoreFold(self._kept_kernel(prepared, dataset.rows), entropy), "score")
        check_weight_sum(score.weight_sum)
        return score

    def _score_here(self, data: Any, prepared: Prepared[State], weights: Any, *, entropy: bool) -> Score | None:
        """The score of few rows in memory; None where it takes an engine."""
        if self.scheduler is not None or self.callbacks or is_lazy(data) or is_lazy(weights):
            return None
        dataset, _ = as_dataset(data, weights)
        fold = ScoreFold(self._kept_kernel(prepared, dataset.rows), entropy)
        return run_here(dataset, fold) if is_short(dataset, fold) else None

    def _for_each_row(self, X: Any, kind: type[RowResult], dtype: Any = None, *, by_component: bool = False) -> Any:
        data, prepared = self._accept_new(X)
        if dtype is None:
            dtype = np.float32 if as_array("means_", self.means_).dtype == np.float32 else np.float64
        n_columns = prepared.parameters.n_components if by_component else None
        function = kind(self._kept_kernel(prepared, data))
        if isinstance(data, np.ndarray):
            with one_blas_thread():
                return apply_rows(data, function, dtype, n_columns, os.cpu_count() or 1)
        blocks = as_blocks(data, np.dtype(dtype).itemsize * (n_columns or 1))
        result: da.Array = map_rows(blocks, function, dtype, n_columns)
        return result


def _loops(prepared: Prepared[Any], data: Any) -> Loops:
    n_rows = data.shape[0] if data.shape[0] == data.shape[0] else np.inf  # unknown lengths of dask arrays are NaN
    return choose_loops(n_rows * prepared.parameters.n_components, compiled=compiled())


def _names(key: tuple[int, int, CovarianceStructure]) -> tuple[int, int, str]:
    return key[0], key[1], key[2].name
