"""What reading and writing a model file have in common."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..core.mixture import MixtureParameters
from ..errors import IllDefinedCovarianceError
from ..estimators.gaussian_mixture import GaussianMixture

Array = np.ndarray[Any, np.dtype[Any]]

KIND = "model"
FORMAT_VERSION = 1

ESTIMATORS: dict[str, type[GaussianMixture]] = {"GaussianMixture": GaussianMixture}
"""Everything that a file may name."""

FITTED = ("weights", "means", "covariances", "precisions_cholesky")
GIVEN = ("weights_init", "means_init", "precisions_init")
NOT_STORED = ("scheduler", "callbacks")
_WEIGHT_TOLERANCE = 1e-5  # of their sum: single precision, and thousands of them


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


def checksum(array: Array) -> str:
    """SHA-256 of the values, in C order and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of all attributes but the checksums."""
    rest = {key: value for key, value in attributes.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def problem(parameters: MixtureParameters) -> tuple[str, str] | None:
    """The array that is not part of a mixture, and why; None if all are."""
    p = parameters
    for name in FITTED:
        if not np.isfinite(getattr(p, name)).all():
            return name, "contain NaN or infinity"
    if (p.weights < 0).any() or abs(p.weights.sum() - 1) > _WEIGHT_TOLERANCE:
        total, least = p.weights.sum(), p.weights.min()
        return "weights", f"have to be positive and sum to one: the sum is {total:.8g}, the least {least:.4g}"
    with np.errstate(invalid="ignore", divide="ignore"):
        if not np.isfinite(p.structure.log_det_cholesky(p.precisions_cholesky, p.n_features)).all():
            return "precisions_cholesky", "are no Cholesky factors: a diagonal entry is not positive"
    try:
        p.structure.precisions_cholesky(p.covariances)
    except IllDefinedCovarianceError as error:
        return "covariances", f"are not positive definite (components {error.components or 'all'})"
    return None
