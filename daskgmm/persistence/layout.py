"""What reading and writing a model file have in common."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from ..core.concentration import WEIGHT_DISTRIBUTIONS
from ..core.mixture import MixtureParameters
from ..core.structure import CovarianceStructure
from ..core.validity import matrices_problem, weights_problem
from ..core.variational import Posterior, Priors
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


class Layout(ABC):
    """How one kind of model lies in a file: its constructor's arrays, and the arrays that a fit leaves."""

    estimator: ClassVar[type[BaseMixture[Any]]]
    given: ClassVar[tuple[str, ...]]
    """Parameters of the constructor that may be arrays."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Fitted arrays that are there together, or not at all where nobody knows them."""

    @abstractmethod
    def shapes(
        self, structure: CovarianceStructure, n_components: int, n_features: int, parameters: Mapping[str, Any]
    ) -> dict[str, tuple[int, ...]]:
        """Shape of every fitted array by its name; ``parameters`` are the constructor's."""

    def known(self, shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shapes without those of `optional` arrays, if none of them is among ``names``."""
        left_out = self.optional if set(names).isdisjoint(self.optional) else ()
        return {name: shape for name, shape in shapes.items() if name not in left_out}

    @abstractmethod
    def arrays(self, state: Any) -> dict[str, Array]:
        """Fitted arrays by their names."""

    @abstractmethod
    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array], parameters: Mapping[str, Any]) -> Any:
        """Inverse of `arrays`."""

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> tuple[str, str] | None:
        """The array that is not part of a mixture, and why; None if all are."""
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                return name, "contain NaN or infinity"
        return matrices_problem(structure, arrays["covariances"], arrays["precisions_cholesky"], arrays["means"])


class _Likelihood(Layout):
    estimator = GaussianMixture
    given = ("weights_init", "means_init", "precisions_init")

    def shapes(
        self, structure: CovarianceStructure, n_components: int, n_features: int, parameters: Mapping[str, Any]
    ) -> dict[str, tuple[int, ...]]:
        matrices = structure.covariance_shape(n_components, n_features)
        return {
            "weights": (n_components,),
            "means": (n_components, n_features),
            "covariances": matrices,
            "precisions_cholesky": matrices,
        }

    def arrays(self, state: MixtureParameters) -> dict[str, Array]:
        return {name: getattr(state, name) for name in ("weights", "means", "covariances", "precisions_cholesky")}

    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array], parameters: Mapping[str, Any]) -> Any:
        return MixtureParameters(structure, **arrays)

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> tuple[str, str] | None:
        return super().problem(structure, arrays) or weights_problem(arrays["weights"])


class _Posterior(Layout):
    estimator = BayesianGaussianMixture
    given = ("mean_prior", "covariance_prior")
    optional = tuple(f"prior_{field.name}" for field in fields(Priors))

    _POSITIVE = (
        "weight_concentration",
        "mean_precision",
        "degrees_of_freedom",
        "prior_weight_concentration",
        "prior_mean_precision",
        "prior_degrees_of_freedom",
    )

    def shapes(
        self, structure: CovarianceStructure, n_components: int, n_features: int, parameters: Mapping[str, Any]
    ) -> dict[str, tuple[int, ...]]:
        matrices = structure.covariance_shape(n_components, n_features)
        weights = WEIGHT_DISTRIBUTIONS[parameters["weight_concentration_prior_type"]]
        return {
            "weight_concentration": weights.shape(n_components),
            "mean_precision": (n_components,),
            "means": (n_components, n_features),
            "degrees_of_freedom": (structure.n_matrices(n_components),),
            "covariances": matrices,
            "precisions_cholesky": matrices,
            "prior_weight_concentration": (),
            "prior_mean_precision": (),
            "prior_mean": (n_features,),
            "prior_degrees_of_freedom": (),
            "prior_covariance": structure.prior_shape(n_features),
        }

    def arrays(self, state: Posterior) -> dict[str, Array]:
        names = "weight_concentration", "mean_precision", "means", "degrees_of_freedom"
        found = {name: getattr(state, name) for name in (*names, "covariances", "precisions_cholesky")}
        priors = {} if state.priors is None else vars(state.priors)
        return found | {f"prior_{name}": np.asarray(value, np.float64) for name, value in priors.items()}

    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array], parameters: Mapping[str, Any]) -> Any:
        priors = {name.removeprefix("prior_"): value for name, value in arrays.items() if name.startswith("prior_")}
        rest = {name: value for name, value in arrays.items() if not name.startswith("prior_")}
        scalars = {name: float(value) for name, value in priors.items() if name not in ("mean", "covariance")}
        weights = WEIGHT_DISTRIBUTIONS[parameters["weight_concentration_prior_type"]]
        known = Priors(**{**priors, **scalars}) if priors else None  # type: ignore[arg-type]
        return Posterior(structure, weights, known, **rest)

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> tuple[str, str] | None:
        for name in arrays.keys() & set(self._POSITIVE):
            if (arrays[name] <= 0).any():
                return name, f"has to be positive: the least is {arrays[name].min():.4g}"
        n_features = arrays["means"].shape[1]
        for name in arrays.keys() & {"degrees_of_freedom", "prior_degrees_of_freedom"}:
            if (arrays[name] <= n_features - 1).any():
                return name, f"has to be greater than {n_features - 1}: the least is {arrays[name].min():.8g}"
        return super().problem(structure, arrays)


LAYOUTS: dict[str, Layout] = {layout.estimator.__name__: layout for layout in (_Likelihood(), _Posterior())}
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
