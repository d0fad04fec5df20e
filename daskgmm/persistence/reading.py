"""A file -> a fitted model, or an error that says what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..core.covariance import STRUCTURES
from ..core.structure import CovarianceStructure
from ..data.addresses import Secrets, printable, without_secrets
from ..data.failures import short_errors
from ..data.write import Address
from ..errors import DaskGMMError, ModelFormatError
from ..estimators.base import BaseMixture
from ..fitting.history import PassRecord
from ..fitting.origin import Origin
from .layout import KIND, LAYOUTS, NOT_STORED, Layout, decode, environment_problem, is_text
from .stored import StoredGroup

Array = np.ndarray[Any, np.dtype[Any]]


@short_errors
def load(path: Address) -> BaseMixture[Any]:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    GaussianMixture or BayesianGaussianMixture
        Predicts the same bits as the one that was saved; can be cloned, fitted again, and go on with ``warm_start``.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at ``path``.
    ModelFormatError
        If what is there is no model, is damaged, or was written in a newer format. The message names file and field.
    """
    name = os.fspath(path)
    try:
        reader = _Reader.open(name)
        model = reader.construct()
        reader.fill(model)
    except DaskGMMError:
        raise
    except Exception as error:
        # No field of a file is believed; should one get through, it ends here, and not as somebody's KeyError.
        told = printable(Secrets(name).hide(f"{type(error).__name__}: {error}"), 400)
        raise ModelFormatError(f"{printable(without_secrets(name))} is damaged ({told})") from None
    return model


class _Reader(StoredGroup):
    """A group that claims to be a model."""

    kind = KIND
    origin = "save() or `daskgmm fit`"

    @property
    def layout(self) -> Layout:
        """Of the kind of model that the file names."""
        name = self.attributes.get("estimator")
        if not isinstance(name, str) or name not in LAYOUTS:
            raise self.error("estimator", f"is {name!r:.40}; expected one of {', '.join(LAYOUTS)}")
        return LAYOUTS[name]

    def construct(self) -> BaseMixture[Any]:
        """The estimator, not fitted."""
        layout, kind = self.layout, self.layout.estimator
        parameters = {key: decode(value) for key, value in self.mapping("parameters").items()}
        known = set(kind._get_param_names()) - {*layout.given, *NOT_STORED}
        if unknown := parameters.keys() - known:
            raise self.error("parameters", f"hold {sorted(unknown)!a:.200}, which {kind.__name__} does not have")
        given = {
            key: self.array(key, None, (np.float64, np.float32))
            for key in layout.given
            if key in self.mapping("checksums")
        }
        model = kind(**parameters, **{key: value if value.ndim else float(value) for key, value in given.items()})
        try:
            model._validate_params()
        except ValueError as error:
            raise self.error("parameters", f"are not valid: {error}") from error
        return model

    def fill(self, model: BaseMixture[Any]) -> None:
        """Set the fitted attributes."""
        fitted = self.mapping("fitted")
        structure = STRUCTURES.get(str(fitted.get("covariance_type")))
        if structure is None:
            raise self.error("covariance_type", f"is {fitted.get('covariance_type')!r:.40}")
        n_features = self.count(fitted, "n_features_in", 1)
        state = self._state(model, structure, self.count(fitted, "n_components", 1), n_features)
        dtype = {"float32": np.float32, "float64": np.float64}.get(str(fitted.get("dtype")))
        if dtype is None:
            raise self.error("dtype", f"is {fitted.get('dtype')!r:.40}; expected 'float32' or 'float64'")
        readers: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
            "converged": self.flag,
            "n_iter": self.count,
            "n_passes": self.count,
            "lower_bound": self._bound,
            "lower_bounds": self._bounds,
            "history": self._history,
        }
        told = {f"{name}_": read(fitted, name) for name, read in readers.items() if name in fitted}
        model._store_state(state, dtype)
        vars(model).update(told, environment_=dict(self._environment()), n_features_in_=n_features)
        if "origin" in self.attributes:
            model.origin_ = self._origin(n_features)
        if fitted.get("feature_names_in") is not None:
            model.feature_names_in_ = self._feature_names(fitted["feature_names_in"], n_features)

    def _state(
        self, model: BaseMixture[Any], structure: CovarianceStructure, n_components: int, n_features: int
    ) -> Any:
        """What the fit had found."""
        kind = model._state_arrays
        shapes = kind.known(kind.shapes(structure, n_components, n_features), self.mapping("checksums"))
        arrays = {name: self.array(name, shape, (np.float64,)) for name, shape in shapes.items()}
        if found := kind.problem(structure, arrays):
            raise self.error(*found)
        return kind.state(structure, arrays)

    def _bound(self, fitted: Mapping[str, Any], name: str) -> float:
        """The lower bound of the fit."""
        value = decode(fitted[name])
        if not (isinstance(value, float) and value < math.inf):  # and no NaN
            raise self.error(name, "has to be a number, less than infinity")
        return value

    def _bounds(self, fitted: Mapping[str, Any], name: str) -> list[float]:
        """The lower bounds of all iterations."""
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
            raise self.error(name, f"is not one of passes ({error!s:.200})") from error

    def _environment(self) -> Mapping[str, str]:
        value = self.attributes.get("environment", {})  # the first files did not have it
        if problem := environment_problem(value):
            raise self.error("environment", problem)
        return value

    def _origin(self, n_features: int) -> Origin:
        try:
            origin = Origin.from_record(self.attributes["origin"])
        except (TypeError, ValueError, AttributeError) as error:
            raise self.error("origin", f"is not that of a fit ({error!s:.200})") from error
        if origin.data.shape[1] != n_features:
            raise self.error("origin", f"has data of the shape {origin.data.shape}; expected {n_features} features")
        return origin

    def _feature_names(self, names: Any, n_features: int) -> Array:
        if not isinstance(names, list) or len(names) != n_features or not all(map(is_text, names)):
            raise self.error("feature_names_in", f"has to hold {n_features} names")
        return np.asarray(names, dtype=object)
