"""Fitted attributes -> parameters: checked, and everything that depends on them alone computed once.

Anybody may set the attributes of an estimator, and change their arrays in place. So they are compared with what they
were, value by value, before anything that was computed from them serves again: that takes one reading of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import State
from ..core.kernel_choice import Kernel, choose_kernel
from ..core.mixture import MixtureParameters
from ..core.statistics import Frame
from ..core.structure import CovarianceStructure
from ..core.validity import Problem, covariances_problem, matrices_problem
from ..engine.blas import one_blas_thread
from ..errors import InvalidAttributesError

Array = np.ndarray[Any, np.dtype[Any]]

COVARIANCES = ("precisions_cholesky_", "covariances_", "precisions_")
"""Attributes that say what the covariances are: the first that is there serves, and scikit-learn predicts by it."""


@dataclass(frozen=True)
class Prepared(Generic[State]):
    """A mixture, the attributes that it follows from, and the kernels that were made for it."""

    settings: tuple[str, ...]
    attributes: tuple[Array, ...]
    """Nobody else has these arrays."""
    state: State
    parameters: MixtureParameters
    kernels: dict[tuple[bool, str], Kernel] = field(default_factory=dict)

    @classmethod
    def of(
        cls, settings: tuple[str, ...], attributes: Sequence[Array], state: State, parameters: MixtureParameters
    ) -> Prepared[State]:
        """Prepare attributes, which no one else has; arrays that are equal are kept once."""
        p = parameters
        known = [array for array in (p.weights, p.means, p.precisions_cholesky) if array.base is None]
        kept = (next((k for k in known if _equal(k, array)), array) for array in attributes)
        return cls(settings, tuple(kept), state, parameters)

    def follows_from(self, settings: tuple[str, ...], attributes: Sequence[Array]) -> bool:
        """Test for the same attributes, to the last bit."""
        return settings == self.settings and all(map(_equal, self.attributes, attributes))

    def kernel(self, dtype: np.dtype[Any], backend: ElementwiseBackend) -> Kernel:
        """Kernel for rows of that dtype that lie where the mixture does; made once."""
        key = dtype.newbyteorder("=") == np.float32, backend.name
        found = self.kernels.get(key)
        return self.kernels.setdefault(key, self.new_kernel(dtype, backend)) if found is None else found

    def new_kernel(self, dtype: np.dtype[Any], backend: ElementwiseBackend) -> Kernel:
        """Kernel as `kernel` makes it, not kept: a kernel may be larger than the mixture."""
        with one_blas_thread():
            return choose_kernel(self.parameters, _frame(self.parameters), dtype, backend)


def _equal(ours: Array, theirs: Array) -> bool:
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def _frame(p: MixtureParameters) -> Frame:
    mean = p.weights @ p.means
    variances = p.structure.marginal_variances(p.covariances, p.n_components, p.n_features)
    return Frame.of(mean, np.sqrt(p.weights @ (variances + (p.means - mean) ** 2)))


class Memory(Generic[State]):
    """Place for the last `Prepared` of an estimator; copies and pickles of the estimator leave it out."""

    def __init__(self) -> None:
        self.prepared: Prepared[State] | None = None


# ---- attributes as arrays


def as_array(name: str, value: Any) -> Array:
    """An attribute as an array of real numbers.

    Raises
    ------
    InvalidAttributesError
        If it is none.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidAttributesError(name, f"is no array of real numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidAttributesError(name, f"has dtype {array.dtype}; expected real numbers")
    return array


def checked(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """The array in double precision, if it has that shape and is finite.

    Raises
    ------
    InvalidAttributesError
    """
    if array.shape != shape:
        raise InvalidAttributesError(name, f"has the shape {array.shape}; expected {shape}")
    if not np.isfinite(array).all():
        raise InvalidAttributesError(name, "holds NaN or infinity")
    return np.asarray(array, np.float64)


def check_positive(name: str, array: Array, shape: tuple[int, ...], least: float = 0.0) -> Array:
    """The same, if all numbers are greater than ``least``."""
    values = checked(name, array, shape)
    if not (values > least).all():
        raise InvalidAttributesError(name, f"has to be greater than {least:g}: the least is {values.min():.8g}")
    return values


def check_means(array: Array) -> Array:
    """Means, (K, D), in double precision.

    Raises
    ------
    InvalidAttributesError
    """
    if array.ndim != 2 or not array.size:
        raise InvalidAttributesError("means_", f"has the shape {array.shape}; expected (n_components, n_features)")
    return checked("means_", array, array.shape)


def check_problem(problem: Problem | None) -> None:
    """Raise `InvalidAttributesError` if there is one."""
    if problem is not None:
        raise InvalidAttributesError(f"{problem[0]}_", problem[1])


def check_covariances(structure: CovarianceStructure, name: str, array: Array, means: Array) -> tuple[Array, Array]:
    """Covariances, and factors of their inverses, that one of `COVARIANCES` says.

    A factor may be any square root R of a precision R Rᵀ, such as ``np.linalg.cholesky`` gives.

    Raises
    ------
    InvalidAttributesError
    """
    values = checked(name, array, structure.attribute_shape(*means.shape))
    values = structure.from_attribute(values, *means.shape)
    if name == "covariances_":
        check_problem(covariances_problem(structure, values, rounding(array)))
        return values, structure.precisions_cholesky(values)
    if name == "precisions_cholesky_" and structure.is_factor(values):
        return _invert(structure, name, values), values
    precisions = values if name == "precisions_" else structure.precisions(values)
    try:
        structure.check_precisions(precisions)
        factors = structure.factor_precisions(precisions)
    except ValueError:  # a LinAlgError is one, too
        wrong = "are not symmetric and positive definite"
        if precisions is not values:
            wrong = "are no square roots of positive definite matrices"
        raise InvalidAttributesError(name, wrong) from None
    return _invert(structure, name, factors), factors


def _invert(structure: CovarianceStructure, name: str, factors: Array) -> Array:
    with np.errstate(all="ignore"):
        covariances = structure.covariances(factors)
    if not np.isfinite(covariances).all():
        raise InvalidAttributesError(name, "belong to covariances beyond the largest number")
    return covariances


def check_usable(name: str, parameters: MixtureParameters) -> None:
    """Raise `InvalidAttributesError` where factors are those of covariances that no fit could have, nor a file hold.

    Parameters
    ----------
    name : str
        The attribute that the factors came from.
    parameters : MixtureParameters
    """
    if problem := covariances_problem(parameters.structure, parameters.covariances):
        raise InvalidAttributesError(name, f"belong to covariances that {problem[1]}, as far as double precision tells")


def agreed_covariances(parameters: MixtureParameters, array: Array, *, changed_alone: bool) -> Array:
    """Covariances in double precision: ``covariances_``, if they belong to what the mixture follows from.

    Where they do not, somebody has set one of the attributes and not the other. Predictions follow the factors, as in
    scikit-learn: so what was set is either what all methods follow, or an error.

    Parameters
    ----------
    parameters : MixtureParameters
    array : array
        The attribute.
    changed_alone : bool
        The factors are those that a fit has left, and the attribute is not.

    Raises
    ------
    InvalidAttributesError
        If the covariances are what was set.
    """
    p = parameters
    if np.array_equal(array, p.structure.to_attribute(p.covariances).astype(array.dtype)):
        return p.covariances
    values = np.asarray(array, np.float64)
    if array.shape == p.structure.attribute_shape(*p.means.shape) and np.isfinite(values).all():
        values = p.structure.from_attribute(values, *p.means.shape)
        problem = matrices_problem(p.structure, values, p.precisions_cholesky, p.means, rounding(array))
        if problem is None:
            return values
    if changed_alone:
        raise InvalidAttributesError(
            "covariances_",
            "were changed, and precisions_cholesky_, which predictions follow, was not. Set it, too, or delete it.",
        )
    return p.covariances


def fingerprint(array: Array) -> bytes:
    """Digest of an array: its values, shape and dtype."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def rounding(array: Array) -> float:
    """Unit of rounding of an array's dtype."""
    return float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
