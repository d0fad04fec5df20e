"""Validation of fitted attributes, and a cache of the parameters and kernels that are computed from them.

Users may set the attributes of an estimator, and change their arrays in place. Before a cached value is used again, the
attributes are therefore compared with copies from the time of the computation, value by value.
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
"""Attributes that define the covariances. The first one that is set is used, as in scikit-learn's predictions."""


@dataclass(frozen=True)
class Prepared(Generic[State]):
    """Mixture parameters, the attributes from which they were computed, and the kernels for them."""

    settings: tuple[str, ...]
    attributes: tuple[Array, ...]
    """Private copies of the attributes."""
    state: State
    parameters: MixtureParameters
    kernels: dict[tuple[bool, str], Kernel] = field(default_factory=dict)

    @classmethod
    def of(
        cls, settings: tuple[str, ...], attributes: Sequence[Array], state: State, parameters: MixtureParameters
    ) -> Prepared[State]:
        """Prepare private copies of attributes; equal arrays are stored once."""
        p = parameters
        known = [array for array in (p.weights, p.means, p.precisions_cholesky) if array.base is None]
        shared = (next((k for k in known if _equal(k, array)), array) for array in attributes)
        return cls(settings, tuple(shared), state, parameters)

    def follows_from(self, settings: tuple[str, ...], attributes: Sequence[Array]) -> bool:
        """Test whether settings and attributes are the same, to the last bit."""
        return settings == self.settings and all(map(_equal, self.attributes, attributes))

    def kernel(self, dtype: np.dtype[Any], backend: ElementwiseBackend) -> Kernel:
        """Return the kernel for rows of a dtype in the range of the mixture; the kernel is cached."""
        key = dtype.newbyteorder("=") == np.float32, backend.name
        kernel = self.kernels.get(key)
        return self.kernels.setdefault(key, self.new_kernel(dtype, backend)) if kernel is None else kernel

    def new_kernel(self, dtype: np.dtype[Any], backend: ElementwiseBackend) -> Kernel:
        """Make the kernel of `kernel` without caching it: a kernel may be larger than the mixture."""
        with one_blas_thread():
            return choose_kernel(self.parameters, _frame(self.parameters), dtype, backend)


def _equal(ours: Array, theirs: Array) -> bool:
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def _frame(p: MixtureParameters) -> Frame:
    mean = p.weights @ p.means
    variances = p.structure.marginal_variances(p.covariances, p.n_components, p.n_features)
    return Frame.of(mean, np.sqrt(p.weights @ (variances + (p.means - mean) ** 2)))


class Memory(Generic[State]):
    """Cache of the last `Prepared` of an estimator; copies and pickles of the estimator omit the cache."""

    def __init__(self) -> None:
        self.prepared: Prepared[State] | None = None


# ---- attributes as arrays


def as_array(name: str, value: Any) -> Array:
    """Convert an attribute to an array of real numbers.

    Raises
    ------
    InvalidAttributesError
        If the attribute is no array of real numbers, or is masked in places.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):  # NumPy would use the numbers under the mask
        raise InvalidAttributesError(name, "is masked in places; expected a number for every entry")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidAttributesError(name, f"is no array of real numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidAttributesError(name, f"has dtype {array.dtype}; expected real numbers")
    return array


def checked(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Check shape and finiteness of an array; return the array in double precision.

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
    """Check shape and finiteness, and that all values are greater than ``least``; return double precision.

    Raises
    ------
    InvalidAttributesError
    """
    values = checked(name, array, shape)
    if not (values > least).all():
        raise InvalidAttributesError(name, f"has to be greater than {least:g}: the least is {values.min():.8g}")
    return values


def check_means(array: Array) -> Array:
    """Check the means, (K, D); return them in double precision.

    Raises
    ------
    InvalidAttributesError
    """
    if array.ndim != 2 or not array.size:
        raise InvalidAttributesError("means_", f"has the shape {array.shape}; expected (n_components, n_features)")
    return checked("means_", array, array.shape)


def check_problem(problem: Problem | None) -> None:
    """Raise a problem, if there is one, as an `InvalidAttributesError`."""
    if problem is not None:
        raise InvalidAttributesError(f"{problem[0]}_", problem[1])


def check_covariances(structure: CovarianceStructure, name: str, array: Array, means: Array) -> tuple[Array, Array]:
    """Compute covariances, and factors of their inverses, from one of `COVARIANCES`.

    A factor may be any square root R of a precision R Rᵀ, such as the result of ``np.linalg.cholesky``.

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
        problem = "are not symmetric and positive definite"
        if precisions is not values:
            problem = "are no square roots of positive definite matrices"
        raise InvalidAttributesError(name, problem) from None
    return _invert(structure, name, factors), factors


def _invert(structure: CovarianceStructure, name: str, factors: Array) -> Array:
    with np.errstate(all="ignore"):
        covariances = structure.covariances(factors)
    if not np.isfinite(covariances).all():
        raise InvalidAttributesError(name, "belong to covariances beyond the largest number")
    return covariances


def check_usable(name: str, parameters: MixtureParameters) -> None:
    """Raise `InvalidAttributesError` for factors whose covariances are invalid for a fit and for a file.

    Parameters
    ----------
    name : str
        Attribute from which the factors were computed.
    parameters : MixtureParameters
    """
    if problem := covariances_problem(parameters.structure, parameters.covariances):
        raise InvalidAttributesError(name, f"belong to covariances that {problem[1]}, as far as double precision tells")


def agreed_covariances(parameters: MixtureParameters, array: Array, *, changed_alone: bool) -> Array:
    """Return ``covariances_`` in double precision if they agree with the factors, else the covariances of the factors.

    If the two disagree, the user has set one of the attributes and not the other. Predictions use the factors, as in
    scikit-learn. If the user has set the factors, all methods use them; covariances set alone are an error.

    Parameters
    ----------
    parameters : MixtureParameters
    array : array
        The attribute ``covariances_``.
    changed_alone : bool
        True if the factors are those of the last fit, and the covariances are not.

    Raises
    ------
    InvalidAttributesError
        If the user has set the covariances alone.
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
    """Digest of the values, shape and dtype of an array."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def rounding(array: Array) -> float:
    """Rounding unit of the array's dtype; 0 for integers."""
    return float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
