"""Choices of features by position or name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_EXPECTED = "positions or names of features, such as [0, 2] or ['depth', 'salinity']"


def feature_positions(name: str, features: Any, n_features: int, names: Sequence[str] | None) -> Array:
    """Positions of features, (d,), in the order of the choice.

    Parameters
    ----------
    name : str
        Name of the parameter in errors.
    features : int, str, or iterable of them
        Positions, counted from the end if negative, or names. A set has no order and is refused.
    n_features : int
    names : sequence of str, optional
        Names of all features, if they have names.

    Raises
    ------
    TypeError
        If an entry is neither a position nor a name, or the entries have no order.
    ValueError
        If there is no such feature, no feature at all, or the same feature twice.
    """
    chosen = [features] if isinstance(features, Integral | str) else features
    if not isinstance(chosen, Iterable) or getattr(chosen, "ndim", 1) != 1:
        raise TypeError(f"{name} is {features!r:.80}; expected {_EXPECTED}")
    if isinstance(chosen, set | frozenset):
        raise TypeError(f"{name} is the set {chosen!r:.80}, which has no order; expected {_EXPECTED}")
    positions: list[int] = []
    for feature in chosen:
        position = _position(name, feature, n_features, names)
        if position in positions:
            raise ValueError(
                f"{name} holds feature {position} twice, the second time as {feature!r:.80}; expected distinct features"
            )
        positions.append(position)
    if not positions:
        raise ValueError(f"{name} is empty; expected {_EXPECTED}")
    return np.array(positions, np.intp)


def _position(name: str, feature: Any, n_features: int, names: Sequence[str] | None) -> int:
    if isinstance(feature, str):
        if names is None:
            raise ValueError(
                f"{name} holds {feature!r:.80}, but the features of this model have no names; expected positions from "
                f"0 to {n_features - 1}"
            )
        if feature not in names:
            raise ValueError(f"{name} holds {feature!r:.80}; the features are {list(names)!s:.400}")
        return list(names).index(feature)
    if isinstance(feature, bool | np.bool_) or not isinstance(feature, Integral):
        hint = "; numpy.flatnonzero turns a mask into positions" if isinstance(feature, bool | np.bool_) else ""
        raise TypeError(f"{name} holds {feature!r:.80}; expected {_EXPECTED}{hint}")
    if not -n_features <= int(feature) < n_features:
        raise ValueError(f"{name} holds {feature}; expected positions from 0 to {n_features - 1}")
    return int(feature) % n_features


def given_values(given: Any) -> Array:
    """Values of a condition, (q,), in the order of the mapping.

    Raises
    ------
    TypeError
        If ``given`` is not a mapping from features to numbers.
    ValueError
        If a value is not finite.
    """
    if not isinstance(given, Mapping):
        hint = "; to_dict() makes a mapping of a pandas Series" if hasattr(given, "to_dict") else ""
        raise TypeError(
            f"given is {given!r:.80}; expected the values of some features, such as {{0: 1.5}} or {{'depth': 10.0}}"
            f"{hint}"
        )
    return np.array([_given_value(f"given[{feature!r:.80}]", value) for feature, value in given.items()])


def _given_value(name: str, value: Any) -> float:
    """Validate the value of one feature."""
    array = np.asarray(value)
    if array.ndim:
        raise TypeError(f"{name} has the shape {array.shape}; expected one number. conditional_mean takes many rows.")
    if array.dtype.kind not in "biuf" and not isinstance(value, Real):  # NumPy makes objects of large integers
        raise TypeError(f"{name} is {value!r:.80}; expected a number")
    try:
        number = math.nan if np.ma.is_masked(value) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!s:.80}; expected a finite number. Leave unknown features out.")
    return number


def other_features(name: str, given: Array, n_features: int) -> Array:
    """Positions of the features that are not given, in the order of the model.

    Raises
    ------
    ValueError
        If there are none.
    """
    others = np.setdiff1d(np.arange(n_features), given)
    if not others.size:
        raise ValueError(f"{name} holds all {n_features} features of the model; leave at least one out")
    return others


def check_feature_names(names: Iterable[str], n_features: int) -> tuple[str, ...]:
    """Validate names for all features.

    Raises
    ------
    TypeError
        If a name is not a string.
    ValueError
        If there is not one name for each feature, or a name occurs twice.
    """
    listed = tuple(names) if isinstance(names, Iterable) and not isinstance(names, str) else (None,)
    if not all(isinstance(name, str) for name in listed):
        raise TypeError(f"feature_names is {names!r:.80}; expected a string for each feature")
    if len(listed) != n_features or len(set(listed)) != n_features:
        raise ValueError(f"feature_names is {names!r:.200}; expected {n_features} different names")
    return tuple(str(name) for name in listed)
