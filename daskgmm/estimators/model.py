"""Base class without data: constructor parameters and fitted attributes of a mixture, and sampling from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..core.acceleration import Accelerator
from ..core.covariance import STRUCTURES
from ..core.estimation import Estimation, State
from ..core.mixture import MixtureParameters
from ..core.state_arrays import StateArrays
from ..core.structure import CovarianceStructure
from ..data.failures import short_errors
from ..engine.blas import one_blas_thread
from ..fitting.fit_spec import Continuation
from ..fitting.history import PassRecord
from ..fitting.initialization import METHODS
from ..fitting.lazy_samples import lazy_samples
from ..fitting.origin import Origin
from ..fitting.survey import Survey
from ..names import DROP, MISSING
from .attributes import COVARIANCES, Memory, Prepared, agreed_covariances, as_array, check_usable, fingerprint
from .labelled_parameters import labelled_parameters

Array = np.ndarray[Any, np.dtype[Any]]

_NAMES = "feature_names_in_"


@dataclass(frozen=True)
class Preparation(Generic[State]):
    """M-step and requirements of a kind of mixture, for a fit."""

    estimation: Callable[[Survey], Estimation[State]]
    """Survey of the data -> estimation (the M-step)."""
    scatter: bool = False
    """Require all second moments of the data from the survey."""
    accelerator: Accelerator[Any] | None = None
    """Proposer of longer steps; None for plain EM."""
    accelerates_few: bool = True
    """Accelerate fits of few rows, too."""
    is_free: bool = True
    """The user has given no first parameters."""


class MixtureModel(BaseEstimator, ABC, Generic[State]):  # type: ignore[misc]
    """Constructor parameters and fitted attributes of a mixture, and all methods that read no data.

    Subclasses define the M-step (`_prepare`), and the conversion between fitted attributes and the state of a fit
    (`_store_state`, `_read`, `_state`). Their docstrings describe parameters and attributes.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(STRUCTURES.keys())],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "init_params": [StrOptions(set(METHODS))],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "init_size": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"}), None],
        "cache": "no_validation",  # `check_cache`
        "missing": [StrOptions(set(MISSING)), None],
        "scheduler": "no_validation",
        "callbacks": "no_validation",
    }

    _followed: ClassVar[tuple[str, ...]]
    """Attributes that determine E-steps, beside one of `COVARIANCES`."""

    # Constructor parameters, assigned by subclasses.
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
    init_size: int | str | None
    cache: int | str | None
    missing: str | None
    scheduler: Any
    callbacks: Any

    # Attributes, assigned by every fit.
    weights_: Array
    means_: Array
    n_features_in_: int
    feature_dims_: tuple[str, ...]
    feature_axis_: int
    lower_bound_: float
    history_: list[PassRecord]
    environment_: dict[str, str]
    origin_: Origin

    # ---- differences between the kinds of mixtures

    @abstractmethod
    def _prepare(self, n_features: int) -> Preparation[State]:
        """Validate the parameters of the M-step, and make the preparation.

        Raises
        ------
        ValueError
            If a parameter is invalid; the message names the parameter, its value and the allowed values.
        """

    @property
    @abstractmethod
    def _state_arrays(self) -> StateArrays[State]:
        """Names, shapes and checks of the arrays of a state."""

    @abstractmethod
    def _store_state(self, state: State, dtype: Any) -> None:
        """Set the fitted attributes, and `_remember` them; ``dtype`` is float32 for float32 data."""

    @abstractmethod
    def _read(self, attributes: Mapping[str, Array]) -> tuple[State, MixtureParameters]:
        """Validate attributes; return the state, as far as E-steps depend on it, and the parameters of E-steps.

        Parameters
        ----------
        attributes : mapping
            Attributes in `_followed` and, last, one of `COVARIANCES`; in any shape and dtype.

        Raises
        ------
        InvalidAttributesError
            If the attributes do not define a mixture.
        """

    @abstractmethod
    def _state(self) -> State:
        """Return the complete state that the attributes define."""

    # ---- parameters with labels

    @short_errors
    def to_xarray(self) -> Any:
        """Return the parameters of the mixture with labels.

        Returns
        -------
        xarray.Dataset
            ``weights`` (component), ``means`` (component, feature), and ``covariances``, whose dimensions are
            (component, feature, ``feature_``) for 'full', and as in ``covariances_`` for other structures. The
            coordinates of the features are their names, if the fit has recorded names.

        Raises
        ------
        MissingDependencyError
            If xarray is not installed.
        """
        return labelled_parameters(self._parameters(), self._agreed_covariances(), getattr(self, _NAMES, None))

    # ---- rows from the mixture

    @short_errors
    def sample(self, n_samples: int = 1, *, chunks: Any = None) -> tuple[Any, Any]:
        """Draw rows from the mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        chunks : int, str or tuple, optional
            Blocks of lazy results, as many rows as needed: the rows of a block, the size of a block such as
            ``"64 MiB"``, ``"auto"``, or the chunks of a dask array. None: all rows in memory.

        Returns
        -------
        X : array of shape (n_samples, D)
            Rows. A NumPy array, grouped by component; with ``chunks`` a lazy dask array of rows in random order. A lazy
            row depends on ``random_state`` and its number, not on ``chunks`` and ``n_samples``. It is drawn again each
            time it is computed, with the same values.
        y : array of shape (n_samples,)
            Component of each row, int64, in the same form.

        Raises
        ------
        ValueError
            If ``n_samples`` is no positive int, or ``chunks`` do not divide such rows.
        """
        mixture = self._sampled(n_samples)
        if chunks is not None:
            return lazy_samples(mixture, int(n_samples), chunks, self.random_state)
        with one_blas_thread():
            return mixture.sample(int(n_samples), check_random_state(self.random_state))

    def _sample_blocks(self, n_samples: int) -> Iterator[tuple[Array, int]]:
        """Draw the rows of `sample` in blocks, with the component of each block."""
        mixture = self._sampled(n_samples)
        return _on_one_blas_thread(mixture.sample_blocks(int(n_samples), check_random_state(self.random_state)))

    def _sampled(self, n_samples: int) -> MixtureParameters:
        """Validate ``n_samples``; return the mixture to sample from, see `_agreed_covariances`."""
        mixture = replace(self._parameters(), covariances=self._agreed_covariances())
        if not isinstance(n_samples, int | np.integer) or n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample, as an int."
            )
        return mixture

    # ---- scikit-learn's protocol

    def __sklearn_is_fitted__(self) -> bool:
        """Test whether the attributes of a mixture are set, by a fit or by hand."""
        return all(hasattr(self, name) for name in self._followed) and any(hasattr(self, name) for name in COVARIANCES)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == DROP
        return tags

    def __sklearn_clone__(self) -> Self:
        # A distributed.Client cannot be copied, so clones share the scheduler and the callbacks.
        parameters = self.get_params(deep=False)
        kept = {name: parameters.pop(name) for name in ("scheduler", "callbacks")}
        copied = type(self)(**{name: clone(value, safe=False) for name, value in parameters.items()}, **kept)
        if hasattr(self, "_metadata_request"):
            copied._metadata_request = self._metadata_request
        if hasattr(self, "_skl_callbacks"):
            copied._skl_callbacks = self._skl_callbacks  # of scikit-learn, whose clones share them, too
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        address = getattr(getattr(state.get("scheduler"), "scheduler", None), "address", None)
        if address is not None:
            state["scheduler"] = address  # a client belongs to this process; its address can be pickled
        state.pop("_memory", None)
        return state

    # ---- mixture parameters from attributes

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

    def _continuation(self) -> Continuation[State] | None:
        if not (self.warm_start and self.__sklearn_is_fitted__()):
            return None
        parameters = self._parameters()
        expected = self.n_components, self.n_features_in_, self._structure
        last = parameters.n_components, parameters.n_features, parameters.structure
        if last != expected:
            raise ValueError(
                f"warm_start=True: the last fit had (n_components, n_features, covariance) = {_names(last)}, and this "
                f"one asks for {_names(expected)}. Set warm_start=False, or use a new estimator."
            )
        return Continuation(self._state(), getattr(self, "lower_bound_", -np.inf))

    def _prepared(self) -> Prepared[State]:
        """Return the mixture that the attributes define, from the cache if the attributes are unchanged.

        Raises
        ------
        NotFittedError
            If the attributes are not set.
        InvalidAttributesError
            If the attributes do not define a mixture.
        """
        check_is_fitted(self)
        names = *self._followed, self._covariances_attribute
        attributes = [as_array(name, getattr(self, name)) for name in names]
        settings = names[-1], *self._attribute_settings()
        memory: Memory[State] = self.__dict__.setdefault("_memory", Memory())
        prepared = memory.prepared  # read once: another thread may replace it
        if prepared is None or not prepared.follows_from(settings, attributes):
            copies = [array.copy() for array in attributes]
            with one_blas_thread():
                state, parameters = self._read(dict(zip(names, copies, strict=True)))
            if names[-1] != "covariances_" and not self._is_as_left(names[-1]):
                check_usable(names[-1], parameters)
            prepared = memory.prepared = Prepared.of(settings, copies, state, parameters)
        return prepared

    def _attribute_settings(self) -> tuple[str, ...]:
        """Constructor parameters on which the meaning of the attributes depends."""
        return (self.covariance_type,)

    @property
    def _covariances_attribute(self) -> str:
        return next(name for name in COVARIANCES if hasattr(self, name))

    def _parameters(self) -> MixtureParameters:
        """Mixture parameters of E-steps, from the attributes, in double precision."""
        return self._prepared().parameters

    def _agreed_covariances(self) -> Array:
        """Covariances that agree with the factors, see `agreed_covariances`; E-steps use the factors, if they are set.

        Raises
        ------
        InvalidAttributesError
            If the user has set the covariances and not the factors.
        """
        parameters = self._parameters()
        if not hasattr(self, "covariances_"):
            return parameters.covariances
        array = as_array("covariances_", self.covariances_)
        changed_alone = self._is_as_left("precisions_cholesky_") and not self._is_as_left("covariances_")
        return agreed_covariances(parameters, array, changed_alone=changed_alone)

    def _remember(self) -> None:
        """Record fingerprints of the matrices that a fit or `daskgmm.load` sets, for `_is_as_left`."""
        self._fingerprints = {
            name: fingerprint(getattr(self, name)) for name in ("covariances_", "precisions_cholesky_")
        }

    def _is_as_left(self, name: str) -> bool:
        """Test whether an attribute is unchanged since `_remember`."""
        left = getattr(self, "_fingerprints", {}).get(name)
        return left is not None and hasattr(self, name) and fingerprint(as_array(name, getattr(self, name))) == left


def _names(key: tuple[int, int, CovarianceStructure]) -> tuple[int, int, str]:
    return key[0], key[1], key[2].name


def _on_one_blas_thread(blocks: Iterator[Any]) -> Iterator[Any]:
    """Yield blocks whose bits must not depend on the number of threads."""
    with one_blas_thread():
        yield from blocks
