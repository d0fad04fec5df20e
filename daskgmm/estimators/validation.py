"""Validation of initial parameters, priors, callbacks and ``init_size``, with scikit-learn's messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
from dask.utils import parse_bytes
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from ..core.maximum_likelihood import GivenParameters
from ..core.structure import CovarianceStructure
from ..core.variational import GivenPriors
from ..data.inputs import in_memory, is_lazy
from ..engine.events import Listener
from ..names import AUTO

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_CALLBACKS = 1000
_SIZES = "'auto', None, a number of bytes, or a size such as '500 MB' or '2 GiB'"


def check_given(
    structure: CovarianceStructure,
    n_components: int,
    n_features: int,
    weights: Any = None,
    means: Any = None,
    precisions: Any = None,
) -> GivenParameters:
    """Validate shapes and ranges of initial parameters; return them in double precision.

    Raises
    ------
    ValueError
        If a parameter is invalid; the message names the parameter, its value and the allowed values.
    """
    return GivenParameters(
        None if weights is None else _check_weights(weights, n_components),
        None if means is None else _check_array("means", means, (n_components, n_features)),
        None if precisions is None else _check_precisions(structure, precisions, n_components, n_features),
    )


def check_priors(
    structure: CovarianceStructure,
    n_features: int,
    *,
    weight_concentration: Any = None,
    mean_precision: Any = None,
    mean: Any = None,
    degrees_of_freedom: Any = None,
    covariance: Any = None,
) -> GivenPriors:
    """Validate shapes and ranges of priors; return them in double precision.

    Raises
    ------
    ValueError
        If a prior is invalid; the message names the prior, its value and the allowed values.
    """
    _check_numbers(
        weight_concentration_prior=weight_concentration,
        mean_precision_prior=mean_precision,
        degrees_of_freedom_prior=degrees_of_freedom,
    )
    if degrees_of_freedom is not None and not degrees_of_freedom > n_features - 1:
        raise ValueError(
            f"The parameter 'degrees_of_freedom_prior' should be greater than {n_features - 1}, but got "
            f"{degrees_of_freedom:.3f}."
        )
    return GivenPriors(
        None if weight_concentration is None else float(weight_concentration),
        None if mean_precision is None else float(mean_precision),
        None if mean is None else _check_array("means", mean, (n_features,)),
        None if degrees_of_freedom is None else float(degrees_of_freedom),
        None if covariance is None else _check_covariance_prior(structure, covariance, n_features),
    )


def check_parameter_names(kind: type[BaseEstimator], names: Iterable[str], function: Callable[..., Any]) -> None:
    """Raise `TypeError` for keywords that are no constructor parameters of an estimator, with the nearest names.

    Parameters
    ----------
    kind : type
    names : iterable of str
        Keywords of a call that are no arguments of the function's own.
    function : callable
        Function that was called, whose own arguments may have been meant.
    """
    known = kind._get_param_names()
    for name in names:
        if name not in known:
            near = get_close_matches(name, sorted({*known, *signature(function).parameters}), 3)
            hint = f"; near it: {', '.join(near)}" if near else f". Parameters: {', '.join(known)}"
            raise TypeError(
                f"{function.__name__} got the keyword {name!r}, which is no parameter of {kind.__name__}{hint}"
            )


def check_callbacks(callbacks: Any) -> tuple[Listener, ...]:
    """Validate callbacks; return them as a tuple.

    Raises
    ------
    TypeError
        If ``callbacks`` is not an iterable of callables.
    """
    listeners: list[Listener] = []
    # The loop counts, because an iterable may be infinite.
    for listener in callbacks if isinstance(callbacks, Iterable) else (None,):
        if isinstance(listener, type):
            raise TypeError(
                f"callbacks holds the class {listener.__name__}; expected objects that are called with events, such as "
                f"{listener.__name__}()"
            )
        if not callable(listener) or len(listeners) == _MOST_CALLBACKS:
            raise TypeError(
                f"callbacks={callbacks!r:.200}; expected an iterable of callables, such as [print], and at most "
                f"{_MOST_CALLBACKS} of them"
            )
        listeners.append(listener)
    return tuple(listeners)


def check_cache(cache: Any) -> int | None:
    """Validate ``cache``; return the number of bytes, or None for ``"auto"``.

    Raises
    ------
    TypeError, ValueError
        If it is no size.
    """
    if cache is None:
        return 0
    if isinstance(cache, bool) or not isinstance(cache, Integral | str):
        raise TypeError(f"cache={cache!r:.80}; expected {_SIZES}")
    if cache == AUTO:
        return None
    try:
        n_bytes = int(parse_bytes(cache)) if isinstance(cache, str) else int(cache)
    except (ValueError, OverflowError):
        n_bytes = -1
    if n_bytes < 0:
        raise ValueError(f"cache={cache!r:.80}; expected {_SIZES}")
    return n_bytes


def check_share(name: str, share: Any) -> float:
    """Validate a share of the rows, which is neither none nor all of them.

    Raises
    ------
    TypeError
        If the share is no number.
    ValueError
        If the share is not between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"{name}={share!r:.80}; expected a share of the rows, such as 0.01")
    if not 0 < float(share) < 1:
        raise ValueError(f"{name}={share!r:.80}; expected a share of the rows between 0 and 1")
    return float(share)


def check_init_size(init_size: int | str | None, n_components: int) -> None:
    """Raise `ValueError` if the sample has fewer rows than the mixture has components."""
    if not (init_size is None or isinstance(init_size, str)) and init_size < n_components:
        raise ValueError(
            f"init_size={init_size} is less than n_components={n_components}: starts are made from a sample of "
            f"init_size rows, and need at least one row for each component. Increase init_size, to 50 rows or more for "
            f"each parameter of the mixture, or leave it out."
        )


def _check_numbers(**parameters: Any) -> None:
    """Raise `ValueError` for a number beyond double precision, such as 10**400."""
    for name, value in parameters.items():
        try:
            finite = value is None or math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise ValueError(f"The parameter '{name}' should be a finite number in double precision, but is too large.")


def _check_array(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    declared = getattr(value, "shape", None)
    if isinstance(declared, tuple) and declared != shape:  # checked before a lazy or a broadcast array fills memory
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {declared}")
    if is_lazy(value):  # not by NumPy: Zarr itself would read a missing chunk as zeros
        value = in_memory(name, value, math.prod(shape))
    try:
        array = check_array(value, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True, input_name=name)
    except (TypeError, ValueError, OverflowError) as error:
        if name in str(error):
            raise
        raise ValueError(f"The parameter '{name}' should be an array of real numbers: {error}") from error
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    return np.asarray(array, np.float64)


def _check_weights(value: Any, n_components: int) -> Array:
    precision = getattr(value, "dtype", np.dtype(np.float64))
    weights = _check_array("weights", value, (n_components,))
    if (weights < 0).any() or (weights > 1).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.max():.5f}, min value {weights.min():.5f}"
        )
    total = float(weights.sum())
    if abs(1 - total) > (1e-6 if precision == np.float32 else 1e-8):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {total:.5f}")
    return weights


def _check_precisions(structure: CovarianceStructure, value: Any, n_components: int, n_features: int) -> Array:
    shape = structure.attribute_shape(n_components, n_features)
    values = _check_array(f"{structure.name} precision", value, shape)
    precisions = structure.from_attribute(values, n_components, n_features)
    structure.check_precisions(precisions)
    try:
        return structure.factor_precisions(precisions)
    except np.linalg.LinAlgError:
        # An eigenvalue is smaller than its rounding error.
        raise ValueError(f"'{structure.name} precision' should be symmetric, positive-definite") from None


def _check_covariance_prior(structure: CovarianceStructure, value: Any, n_features: int) -> Array:
    shape = structure.prior_shape(n_features)
    array = [value] if isinstance(value, Real) else value  # a number, if the prior is one variance
    prior = _check_array(f"{structure.name} covariance_prior", array, shape or (1,))
    structure.check_precisions(prior.reshape(structure.covariance_shape(1, n_features)))
    return prior.reshape(shape)
