"""Parameters and attributes of a mixture, and everything that follows from them without data."""

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
from ..fitting.origin import Origin
from ..fitting.survey import Survey
from .attributes import COVARIANCES, Memory, Prepared, agreed_covariances, as_array, check_usable, fingerprint

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Preparation(Generic[State]):
    """What a kind of mixture asks of a fit."""

    estimation: Callable[[Survey], Estimation[State]]
    """The M-step, for data of which a survey is known."""
    scatter: bool = False
    """Whether that takes all second moments of the data."""
    accelerator: Accelerator[Any] | None = None
    """What makes its iterations longer, one for each start."""


class MixtureModel(BaseEstimator, ABC, Generic[State]):  # type: ignore[misc]
    """Parameters of a mixture's constructor, and the attributes that a fit leaves, without anything that reads data.

    Subclasses say how parameters follow from statistics (`_prepare`), and how what a fit ends with, its state, becomes
    attributes and comes back from them. Parameters and attributes are documented there.
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
        "init_size": [Interval(Integral, 2, None, closed="left"), None],
        "scheduler": "no_validation",
        "callbacks": "no_validation",
    }

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

    @property
    @abstractmethod
    def _state_arrays(self) -> StateArrays[State]:
        """Names, shapes and checks of the arrays of a state."""

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

    # ---- rows from the mixture

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

    # ---- parameters, and what depends on them alone

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

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


def _names(key: tuple[int, int, CovarianceStructure]) -> tuple[int, int, str]:
    return key[0], key[1], key[2].name
