"""Records of a model, and the encoding of values and checksums that reading and writing a model file share."""

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

_MOST_FIELDS, _LONGEST_TEXT = 64, 4096  # limits of the record of a fit's environment


def encode(name: str, value: Any) -> Any:
    """Convert a value to one for JSON; infinities and NaN become their names."""
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
    """Describe what is wrong with the record of a fit's environment; None for a valid record."""
    if not isinstance(value, Mapping) or len(value) > _MOST_FIELDS:
        return f"has to be a mapping of at most {_MOST_FIELDS} names to texts"
    for text in (*value, *value.values()):
        if not is_text(text) or len(text) > _LONGEST_TEXT:
            return f"holds {text!a:.40}; expected a text of at most {_LONGEST_TEXT} characters"
    return None


def is_text(value: Any) -> bool:
    """Return True for a text that UTF-8 can encode, so without single surrogates."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def checksum(array: Array) -> str:
    """SHA-256 of an array's values, in C order and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of all attributes but the checksums."""
    rest = {key: value for key, value in attributes.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ModelKind:
    """Kind of model that a file may hold, described without the estimator's class."""

    name: str
    """Name of the class."""
    parameters: frozenset[str]
    """Names of the constructor's parameters that are not arrays."""
    given: tuple[str, ...]
    """Names of the constructor's parameters that may be arrays."""
    state_arrays: Callable[[Mapping[str, Any]], StateArrays[Any]]
    """Function from parameters of the constructor to the arrays of a fit; raises ValueError for invalid parameters."""


@dataclass(frozen=True)
class StoredModel:
    """A fitted model as values and arrays, without an estimator's class."""

    estimator: str
    """Name of the estimator's class."""
    parameters: Mapping[str, Any]
    """Parameters of the constructor that are not arrays."""
    given: Mapping[str, Array]
    """Parameters of the constructor that are arrays."""
    state_arrays: StateArrays[Any]
    state: MixtureParameters | Posterior
    """Result of the fit."""
    dtype: np.dtype[Any]
    """Dtype of the estimator's attributes: float32 or float64."""
    facts: Mapping[str, Any]
    """Known values of `FACTS`."""
    feature_names: tuple[str, ...] | None
    environment: Mapping[str, str]
    """Software and kind of processor of the fit; empty if unknown."""
    origin: Origin | None
    feature_dims: tuple[str, ...] | None = None
    """Names of the feature dimensions, for a fit to labelled data."""
    feature_axis: int | None = None
    """Axis of the features, for a fit to an array of more than two dimensions."""


FACTS = ("converged", "n_iter", "n_passes", "lower_bound", "lower_bounds", "history")
"""Names of an estimator's attributes, without the underscore at the end."""
