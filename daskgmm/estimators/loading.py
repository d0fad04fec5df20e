"""Restoration of a fitted estimator from a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.failures import short_errors
from ..data.locations import Address, Location
from ..errors import ModelFormatError
from ..persistence.layout import StoredModel
from ..persistence.reading import read_model
from ..persistence.stored_group import damage_errors
from .base import BaseMixture
from .bayesian_mixture import BayesianGaussianMixture as _  # noqa: F401  # is declared as storable there
from .gaussian_mixture import GaussianMixture as __  # noqa: F401
from .model_kinds import STORABLE, new_model


@short_errors
def load(path: Address | Location, *, storage_options: Mapping[str, Any] | None = None) -> BaseMixture[Any]:
    """Read a model file that `save` wrote.

    Parameters
    ----------
    path : str, path or store
        Local path, URL that fsspec can read, or place in an open store: a zarr Store, StorePath or Group, or a mapper
        of fsspec.
    storage_options : mapping, optional
        Options of the URL's file system.

    Returns
    -------
    GaussianMixture or BayesianGaussianMixture
        Fitted estimator. Its predictions have the same bits as those of the saved one; it can be cloned, fitted again,
        and continued with ``warm_start``.

    Raises
    ------
    StoreNotFoundError
        If nothing exists at ``path``.
    ModelFormatError
        If the file is no model, is damaged, or was written in a newer format. The message names file and field.
    """
    location = Location.of(path, storage_options)
    with damage_errors(location, ModelFormatError):
        return _model(read_model(location, [known.kind for known in STORABLE.values()]))


def _model(stored: StoredModel) -> BaseMixture[Any]:
    """Make the estimator, and set its fitted attributes."""
    estimator: type[BaseMixture[Any]] = STORABLE[stored.estimator].estimator
    model = new_model(estimator, {**stored.parameters, **stored.given})
    model._store_state(stored.state, stored.dtype)
    facts = {f"{name}_": value for name, value in stored.facts.items()}
    vars(model).update(facts, environment_=dict(stored.environment), n_features_in_=stored.state.means.shape[1])
    if stored.origin is not None:
        model.origin_ = stored.origin
    if stored.feature_names is not None:
        model.feature_names_in_ = np.asarray(stored.feature_names, dtype=object)
    if stored.feature_dims is not None:
        model.feature_dims_ = stored.feature_dims
    if stored.feature_axis is not None:
        model.feature_axis_ = stored.feature_axis
    return model
