"""What reading and writing a model file have in common."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..estimators.base import BaseMixture
from ..estimators.bayesian_mixture import BayesianGaussianMixture
from ..estimators.gaussian_mixture import GaussianMixture

Array = np.ndarray[Any, np.dtype[Any]]

KIND = "model"
FORMAT_VERSION = 1

NOT_STORED = ("scheduler", "callbacks")
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
class Layout:
    """Kind of model that a file may name, and the parameters of its constructor that may be arrays."""

    estimator: type[BaseMixture[Any]]
    given: tuple[str, ...]


LAYOUTS: dict[str, Layout] = {
    layout.estimator.__name__: layout
    for layout in (
        Layout(GaussianMixture, ("weights_init", "means_init", "precisions_init")),
        Layout(BayesianGaussianMixture, ("mean_prior", "covariance_prior")),
    )
}
"""Everything that a file may name, by the name of its class."""


def layout_of(model: BaseMixture[Any]) -> Layout:
    """How a model lies in a file.

    Raises
    ------
    TypeError
        For other classes, whose state a file could not bring back.
    """
    name = type(model).__name__
    layout = LAYOUTS.get(name)
    if layout is None or layout.estimator is not type(model):
        raise TypeError(f"model is a {name}; expected one of {', '.join(LAYOUTS)}")
    return layout
