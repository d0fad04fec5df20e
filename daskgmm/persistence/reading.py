"""A file -> a record of a fitted model, or an error that names the damaged field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..core.covariance import STRUCTURES
from ..core.mixture import MixtureParameters
from ..core.state_arrays import StateArrays
from ..core.variational import Posterior
from ..data.locations import Address, Location
from ..errors import ModelFormatError
from ..fitting.history import PassRecord
from ..fitting.origin import Origin
from .layout import FACTS, KIND, ModelKind, StoredModel, decode, environment_problem, is_text
from .stored_group import StoredGroup, damage_errors

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_DIMS = 64  # dimensions of features


def read_model(path: Address | Location, kinds: Iterable[ModelKind]) -> StoredModel:
    """Read a model that `write_model` wrote.

    Parameters
    ----------
    path : str, path, store or Location
    kinds : iterable of ModelKind
        All kinds of model that a file may contain.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at ``path``.
    ModelFormatError
        If there is something other than a model, or the model is damaged or has a newer format. The message names file
        and field.
    """
    location = Location.of(path)
    with damage_errors(location, ModelFormatError):
        return _Reader.open(location).model({kind.name: kind for kind in kinds})


class _Reader(StoredGroup):
    """A group whose attributes declare a model."""

    kind = KIND
    origin = "save() or `daskgmm fit`"

    def model(self, kinds: Mapping[str, ModelKind]) -> StoredModel:
        """Read the whole model."""
        name = self.attributes.get("estimator")
        if not isinstance(name, str) or name not in kinds:
            raise self.error("estimator", f"is {name!r:.40}; expected one of {', '.join(sorted(kinds, reverse=True))}")
        kind = kinds[name]
        parameters, given = self._parameters(kind), self._given(kind)
        try:
            state_arrays = kind.state_arrays({**parameters, **given})
        except ValueError as error:
            raise self.error("parameters", f"are not valid: {error}") from error
        fitted = self.mapping("fitted")
        state = self._state(state_arrays, fitted)
        n_features = state.means.shape[1]
        return StoredModel(
            estimator=name,
            parameters=parameters,
            given=given,
            state_arrays=state_arrays,
            state=state,
            dtype=self._dtype(fitted),
            facts=self._facts(fitted),
            environment=self._environment(),
            origin=self._origin(n_features) if "origin" in self.attributes else None,
            feature_names=self._feature_names(fitted.get("feature_names_in"), n_features),
            feature_dims=self._feature_dims(fitted.get("feature_dims")),
            feature_axis=self._feature_axis(fitted.get("feature_axis")),
        )

    def _parameters(self, kind: ModelKind) -> dict[str, Any]:
        parameters = {key: decode(value) for key, value in self.mapping("parameters").items()}
        if unknown := parameters.keys() - kind.parameters:
            raise self.error("parameters", f"hold {sorted(unknown)!a:.200}, which {kind.name} does not have")
        return parameters

    def _given(self, kind: ModelKind) -> dict[str, Array]:
        names = [name for name in kind.given if name in self.mapping("checksums")]
        return {name: self.array(name, None, (np.float64, np.float32)) for name in names}

    def _state(self, kind: StateArrays[Any], fitted: Mapping[str, Any]) -> MixtureParameters | Posterior:
        """Read the result of the fit."""
        structure = STRUCTURES.get(str(fitted.get("covariance_type")))
        if structure is None:
            raise self.error("covariance_type", f"is {fitted.get('covariance_type')!r:.40}")
        n_features, n_components = self.count(fitted, "n_features_in", 1), self.count(fitted, "n_components", 1)
        shapes = kind.known(kind.shapes(structure, n_components, n_features), self.mapping("checksums"))
        arrays = {name: self.array(name, shape, (np.float64,)) for name, shape in shapes.items()}
        if problem := kind.problem(structure, arrays):
            raise self.error(*problem)
        state: MixtureParameters | Posterior = kind.state(structure, arrays)
        return state

    def _dtype(self, fitted: Mapping[str, Any]) -> np.dtype[Any]:
        if fitted.get("dtype") not in ("float32", "float64"):
            raise self.error("dtype", f"is {fitted.get('dtype')!r:.40}; expected 'float32' or 'float64'")
        return np.dtype(fitted["dtype"])

    def _facts(self, fitted: Mapping[str, Any]) -> dict[str, Any]:
        readers: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
            "converged": self.flag,
            "n_iter": self.count,
            "n_passes": self.count,
            "lower_bound": self._bound,
            "lower_bounds": self._bounds,
            "history": self._history,
        }
        return {name: readers[name](fitted, name) for name in FACTS if name in fitted}

    def _bound(self, fitted: Mapping[str, Any], name: str) -> float:
        """Lower bound of the fit."""
        value = decode(fitted[name])
        if not (isinstance(value, float) and value < math.inf):  # False for NaN
            raise self.error(name, "has to be a number, less than infinity")
        return value

    def _bounds(self, fitted: Mapping[str, Any], name: str) -> list[float]:
        """Lower bounds of all iterations."""
        if not isinstance(fitted[name], list):
            raise self.error(name, "has to be a list of numbers")
        return [self._bound({name: value}, name) for value in fitted[name]]

    def _history(self, fitted: Mapping[str, Any], name: str) -> list[PassRecord]:
        records = fitted[name]
        if not isinstance(records, list):
            raise self.error(name, "is damaged")
        try:
            return [PassRecord(**{key: decode(value) for key, value in record.items()}) for record in records]
        except (TypeError, ValueError, AttributeError) as error:
            raise self.error(name, f"is not a list of records of passes ({error!s:.200})") from error

    def _environment(self) -> Mapping[str, str]:
        value = self.attributes.get("environment", {})  # optional
        if problem := environment_problem(value):
            raise self.error("environment", problem)
        return value

    def _origin(self, n_features: int) -> Origin:
        try:
            origin = Origin.from_record(self.attributes["origin"])
        except (TypeError, ValueError, AttributeError) as error:
            raise self.error("origin", f"is not the origin of a fit ({error!s:.200})") from error
        if origin.data.shape[1] != n_features:
            raise self.error("origin", f"has data of the shape {origin.data.shape}; expected {n_features} features")
        return origin

    def _feature_names(self, names: Any, n_features: int) -> tuple[str, ...] | None:
        if names is None:
            return None
        if not isinstance(names, list) or len(names) != n_features or not all(map(is_text, names)):
            raise self.error("feature_names_in", f"has to hold {n_features} names")
        return tuple(names)

    def _feature_dims(self, names: Any) -> tuple[str, ...] | None:
        if names is None:
            return None
        if not isinstance(names, list) or len(names) > _MOST_DIMS or not all(map(is_text, names)):
            raise self.error("feature_dims", f"has to be a list of at most {_MOST_DIMS} names")
        return tuple(names)

    def _feature_axis(self, axis: Any) -> int | None:
        if axis is not None and (type(axis) is not int or abs(axis) > _MOST_DIMS):
            raise self.error("feature_axis", f"is {axis!r:.40}; expected a whole number, {_MOST_DIMS} at most")
        return axis
