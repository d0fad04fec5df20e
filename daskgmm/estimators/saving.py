"""Storage of a fitted estimator in a model file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..data.locations import Address, Location
from ..errors import InvalidAttributesError
from ..fitting.origin import Origin
from ..persistence.layout import FACTS, ModelKind, StoredModel
from ..persistence.writing import write_model
from .model import MixtureModel
from .model_kinds import kind_of

Array = np.ndarray[Any, np.dtype[Any]]


def save(
    model: MixtureModel[Any],
    path: Address,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted model to a file, whole or not at all.

    The file omits parameters that belong to the process: after `load`, ``scheduler`` and ``callbacks`` have their
    defaults. A ``random_state`` is stored if it is an int or None; a RandomState becomes None.

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
        Fitted estimator.
    path : str, path or store
        Local path, URL that fsspec can write, or place in an open store.
    overwrite : bool, default=False
        Replace an existing model, once the new file is complete. Anything but a model is never replaced.
    storage_options : mapping, optional
        Options of the URL's file system.

    Raises
    ------
    OutputExistsError
        If ``path`` exists and may not be replaced.
    NotFittedError
        If the model is not fitted.
    TypeError, ValueError
        If a parameter cannot be stored, or the fitted attributes do not define a mixture.

    Warns
    -----
    UserWarning
        If ``random_state`` is a RandomState.
    """
    location = Location.of(path, storage_options)
    kind = kind_of(model)
    check_is_fitted(model)
    stored = StoredModel(
        estimator=kind.name,
        parameters=_plain_parameters(model, kind),
        given={name: np.asarray(value) for name in kind.given if (value := getattr(model, name)) is not None},
        state_arrays=model._state_arrays,
        state=model._state(),
        dtype=np.dtype(np.float32 if np.asarray(model.means_).dtype == np.float32 else np.float64),
        facts={name: getattr(model, f"{name}_") for name in FACTS if hasattr(model, f"{name}_")},
        feature_names=_feature_names(model),
        environment=getattr(model, "environment_", {}),
        origin=_origin(model),
        feature_dims=_feature_dims(model),
        feature_axis=getattr(model, "feature_axis_", None),
    )
    write_model(location, stored, overwrite=overwrite)


def _plain_parameters(model: MixtureModel[Any], kind: ModelKind) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        warnings.warn(
            "random_state is a RandomState, which a model file cannot hold: the loaded model will have "
            "random_state=None. Use an int to keep it.",
            UserWarning,
            stacklevel=5,
        )
        parameters["random_state"] = None
    return {name: value for name, value in parameters.items() if name in kind.parameters}


def _feature_names(model: MixtureModel[Any]) -> tuple[str, ...] | None:
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return None
    n_features = model._parameters().n_features
    if len(names) != n_features:
        raise InvalidAttributesError("feature_names_in_", f"holds {len(names)} names for {n_features} features")
    return tuple(str(name) for name in names)


def _feature_dims(model: MixtureModel[Any]) -> tuple[str, ...] | None:
    dims = getattr(model, "feature_dims_", None)
    return None if dims is None else tuple(str(dim) for dim in dims)


def _origin(model: MixtureModel[Any]) -> Origin | None:
    origin = getattr(model, "origin_", None)
    if origin is None and not hasattr(model, "origin_"):
        return None
    if not isinstance(origin, Origin):
        raise InvalidAttributesError("origin_", f"is {origin!r:.40}; expected the Origin that a fit sets")
    return origin
