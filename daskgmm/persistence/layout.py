"""What reading and writing a model file have in common."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..core.mixture import MixtureParameters
from ..core.state_arrays import StateArrays
from ..core.variational import Posterior
from ..fitting.origin import Origin

Array = np.ndarray[Any, np.dtype[Any]]

KIND = "model"
FORMAT_VERSION = 1

_MOST_FIELDS, _LONGEST_TEXT = 64, 4096  # of what a fit was computed with


def encode(name: str, value: Any) -> Any:
    """A value as JSON can say it; infinities and NaN as their names."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    raise TypeError(f"{name}={value!r} cannot be stored in a model file; expected a number, a string or None")


def decode(value: Any) -> Any:
    """Inverse of `encode`."""
    return float(value) if value in ("inf", "-inf", "nan") else value


def environment_problem(value: Any) -> str | None:
    """Why it is no record of what a fit was computed with; None if it is one."""
    if not isinstance(value, Mapping) or len(value) > _MOST_FIELDS:
        return f"has to be at most {_MOST_FIELDS} texts by name"
    for text in (*value, *value.values()):
        if not is_text(text) or len(text) > _LONGEST_TEXT:
            return f"holds {text!a:.40}; expected a text of at most {_LONGEST_TEXT} characters"
    return None


def is_text(value: Any) -> bool:
    """Whether it is a text that can be written, which half a surrogate pair is not."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def checksum(array: Array) -> str:
    """SHA-256 of the values, in C order and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of all attributes but the checksums."""
    rest = {key: value for key, value in attributes.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ModelKind:
    """Kind of model that a file may hold: what reading has to know of an estimator's class."""

    name: str
    """Name of the class."""
    parameters: frozenset[str]
    """Parameters of the constructor that are no arrays."""
    given: tuple[str, ...]
    """Parameters of the constructor that may be arrays."""
    state_arrays: Callable[[Mapping[str, Any]], StateArrays[Any]]
    """Arrays of a fit with these parameters of the constructor; ValueError for parameters that are not valid."""


@dataclass(frozen=True)
class StoredModel:
    """A fitted model as values and arrays, with no class of an estimator in it."""

    estimator: str
    """Name of the estimator's class."""
    parameters: Mapping[str, Any]
    """Parameters of the constructor that are no arrays."""
    given: Mapping[str, Array]
    """Parameters of the constructor that are arrays."""
    state_arrays: StateArrays[Any]
    state: MixtureParameters | Posterior
    """What the fit found."""
    dtype: np.dtype[Any]
    """Dtype of the estimator's attributes: float32 or float64."""
    facts: Mapping[str, Any]
    """What a fit leaves beside its state, as far as it is known: see `FACTS`."""
    feature_names: tuple[str, ...] | None
    environment: Mapping[str, str] | None
    origin: Origin | None


FACTS = ("converged", "n_iter", "n_passes", "lower_bound", "lower_bounds", "history")
"""Attributes of an estimator, without the underscore at the end."""
