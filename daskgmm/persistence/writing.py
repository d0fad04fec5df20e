"""A record of a fitted model -> a file."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ..data.locations import Address, Location
from ..data.write import new_store, record
from .layout import FACTS, KIND, StoredModel, checksum, digest, encode, environment_problem

Array = np.ndarray[Any, np.dtype[Any]]

_LIBRARIES = ("dask", "numpy", "scikit-learn", "scipy", "zarr")


def write_model(path: Address | Location, model: StoredModel, *, overwrite: bool = False) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    path : str, path, store or Location
    model : StoredModel
    overwrite : bool, default=False
        Replace an existing model, which stays until the new one is complete. Only a model is ever replaced.

    Raises
    ------
    OutputExistsError
        If there is something at ``path`` that is not to be replaced.
    TypeError, ValueError
        If a parameter cannot be stored, or the state is not valid.
    """
    fitted = model.state_arrays.arrays(model.state)
    if problem := model.state_arrays.problem(model.state.structure, fitted):
        raise ValueError(f"{model.estimator} cannot be saved: its {problem[0]}_ {problem[1]}")
    arrays = fitted | _in_stored_dtype(model.given)
    attributes = record(
        KIND,
        library_versions={library: importlib.metadata.version(library) for library in _LIBRARIES}
        | {"python": platform.python_version()},
        environment=_environment(model),
        **({} if model.origin is None else {"origin": model.origin.as_record()}),
        estimator=model.estimator,
        parameters={key: encode(key, value) for key, value in model.parameters.items()},
        fitted=_fitted_values(model),
    )
    attributes["checksums"] = {key: checksum(array) for key, array in arrays.items()} | {
        "attributes": digest(attributes)
    }
    dimensions = model.state_arrays.dimensions(model.state.structure)
    with new_store(path, attributes, overwrite=overwrite) as group:
        for key, array in arrays.items():
            stored = group.create_array(
                key,
                shape=array.shape,
                chunks=tuple(max(1, n) for n in array.shape),
                dtype=array.dtype,
                compressors=None,
                filters=None,
                dimension_names=dimensions.get(key, [f"{key}_{axis}" for axis in range(array.ndim)]),
                config={"write_empty_chunks": True},  # zeros, too: a missing chunk is always damage
            )
            stored[...] = array


def _environment(model: StoredModel) -> dict[str, str]:
    if problem := environment_problem(model.environment):
        raise ValueError(f"{model.estimator} cannot be saved: its environment_ {problem}")
    return dict(model.environment)


def _in_stored_dtype(given: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a if a.dtype == np.float32 else a.astype(np.float64) for name, a in given.items()}


def _fitted_values(model: StoredModel) -> dict[str, Any]:
    """Fitted values other than arrays, without unknown ones."""
    n_components, n_features = model.state.means.shape
    return {
        "covariance_type": model.state.structure.name,
        "n_components": n_components,
        "n_features_in": n_features,
        "feature_names_in": None if model.feature_names is None else list(model.feature_names),
        **({} if model.feature_dims is None else {"feature_dims": list(model.feature_dims)}),
        **({} if model.feature_axis is None else {"feature_axis": model.feature_axis}),
        "dtype": model.dtype.name,
        **{name: _ENCODERS[name](model.facts[name]) for name in FACTS if name in model.facts},
    }


_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "converged": bool,
    "n_iter": int,
    "n_passes": int,
    "lower_bound": partial(encode, "lower_bound_"),
    "lower_bounds": lambda bounds: [encode("lower_bounds_", bound) for bound in bounds],
    "history": lambda history: [{key: encode(key, value) for key, value in asdict(one).items()} for one in history],
}
"""Encoders of `FACTS`."""
