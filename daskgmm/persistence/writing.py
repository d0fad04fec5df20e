"""A fitted model -> a file."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..core.mixture import MixtureParameters
from ..data.write import Address, new_store, record
from ..errors import InvalidAttributesError
from ..estimators.base import BaseMixture
from ..fitting.origin import Origin
from .layout import KIND, NOT_STORED, Layout, checksum, digest, encode, environment_problem, layout_of

Array = np.ndarray[Any, np.dtype[Any]]

_LIBRARIES = ("dask", "numpy", "scikit-learn", "scipy", "zarr")


def save(model: BaseMixture[Any], path: Address, *, overwrite: bool = False) -> None:
    """Write a fitted model, whole or not at all.

    What belongs to a process and not to a model is left out: ``scheduler`` and ``callbacks`` are at their defaults
    after `load`, and so is a ``random_state`` that is a RandomState (an int is kept).

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
        Fitted.
    path : str or path
        A local path, or a URL that fsspec can write.
    overwrite : bool, default=False
        Replace a model that is there; it stays until the new one is complete. Anything but a model is never replaced.

    Raises
    ------
    OutputExistsError
        If there is something at ``path`` that is not to be replaced.
    NotFittedError
        If the model is not fitted.
    TypeError, ValueError
        If a parameter cannot be stored, or the fitted attributes are not those of a mixture.

    Warns
    -----
    UserWarning
        If ``random_state`` is a RandomState.
    """
    name, layout = type(model).__name__, layout_of(model)
    check_is_fitted(model)
    kind = model._state_arrays
    fitted, parameters = kind.arrays(model._state()), model._parameters()
    if found := kind.problem(parameters.structure, fitted):
        raise ValueError(f"{name} cannot be saved: its {found[0]}_ {found[1]}")
    arrays = fitted | _given_arrays(model, layout)
    attributes = record(
        KIND,
        library_versions={library: importlib.metadata.version(library) for library in _LIBRARIES}
        | {"python": platform.python_version()},
        **_environment(model),
        **_origin(model),
        estimator=name,
        parameters={key: encode(key, value) for key, value in _plain_parameters(model, layout).items()},
        fitted=_fitted_values(model, parameters),
    )
    attributes["checksums"] = {key: checksum(array) for key, array in arrays.items()} | {
        "attributes": digest(attributes)
    }
    with new_store(path, attributes, overwrite=overwrite) as group:
        for key, array in arrays.items():
            stored = group.create_array(
                key,
                shape=array.shape,
                chunks=tuple(max(1, n) for n in array.shape),
                dtype=array.dtype,
                compressors=None,
                filters=None,
                config={"write_empty_chunks": True},  # zeros, too: what is not there is missing
            )
            stored[...] = array


def _environment(model: BaseMixture[Any]) -> dict[str, Any]:
    if not hasattr(model, "environment_"):
        return {}
    if problem := environment_problem(model.environment_):
        raise ValueError(f"{type(model).__name__} cannot be saved: its environment_ {problem}")
    return {"environment": dict(model.environment_)}


def _origin(model: BaseMixture[Any]) -> dict[str, Any]:
    if not hasattr(model, "origin_"):
        return {}
    if not isinstance(model.origin_, Origin):
        raise InvalidAttributesError("origin_", f"is {model.origin_!r:.40}; expected what a fit left there")
    return {"origin": model.origin_.as_record()}


def _plain_parameters(model: BaseMixture[Any], layout: Layout) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        warnings.warn(
            "random_state is a RandomState, which a model file cannot hold: the loaded model will have "
            "random_state=None. Use an int to keep it.",
            UserWarning,
            stacklevel=5,
        )
        parameters["random_state"] = None
    return {key: value for key, value in parameters.items() if key not in (*layout.given, *NOT_STORED)}


def _given_arrays(model: BaseMixture[Any], layout: Layout) -> dict[str, Array]:
    given = {name: getattr(model, name) for name in layout.given}
    arrays = {name: np.asarray(value) for name, value in given.items() if value is not None}
    return {name: a if a.dtype == np.float32 else a.astype(np.float64) for name, a in arrays.items()}


def _fitted_values(model: BaseMixture[Any], parameters: MixtureParameters) -> dict[str, Any]:
    """Fitted values that are no arrays; those that nobody knows are left out."""
    names = getattr(model, "feature_names_in_", None)
    if names is not None and len(names) != parameters.n_features:
        raise InvalidAttributesError(
            "feature_names_in_", f"holds {len(names)} names for {parameters.n_features} features"
        )
    told = {name: tell(getattr(model, f"{name}_")) for name, tell in _TOLD.items() if hasattr(model, f"{name}_")}
    return {
        "covariance_type": parameters.structure.name,
        "n_components": parameters.n_components,
        "n_features_in": parameters.n_features,
        "feature_names_in": None if names is None else [str(name) for name in names],
        "dtype": "float32" if np.asarray(model.means_).dtype == np.float32 else "float64",
        **told,
    }


_TOLD: dict[str, Callable[[Any], Any]] = {
    "converged": bool,
    "n_iter": int,
    "n_passes": int,
    "lower_bound": partial(encode, "lower_bound_"),
    "lower_bounds": lambda bounds: [encode("lower_bounds_", bound) for bound in bounds],
    "history": lambda history: [{key: encode(key, value) for key, value in asdict(one).items()} for one in history],
}
"""Encoders of the attributes that a fit leaves beside its parameters, by name."""
