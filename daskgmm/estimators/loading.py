"""A file -> a fitted estimator, or an error that says what is wrong with the file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..data.failures import short_errors
from ..errors import ModelFormatError
from ..persistence.layout import StoredModel
from ..persistence.reading import read_model
from ..persistence.stored_group import damage_errors
from .base import BaseMixture
from .bayesian_mixture import BayesianGaussianMixture
from .gaussian_mixture import GaussianMixture
from .model_kinds import STORABLE, new_model

_CLASSES: dict[str, type[BaseMixture[Any]]] = {
    kind.__name__: kind for kind in (GaussianMixture, BayesianGaussianMixture)
}


@short_errors
def load(path: str | os.PathLike[str]) -> BaseMixture[Any]:
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
    with damage_errors(os.fspath(path), ModelFormatError):
        return _model(read_model(path, [STORABLE[name].kind for name in _CLASSES]))


def _model(stored: StoredModel) -> BaseMixture[Any]:
    """Make the estimator, and set the fitted attributes."""
    model = new_model(_CLASSES[stored.estimator], {**stored.parameters, **stored.given})
    model._store_state(stored.state, stored.dtype)
    told = {f"{name}_": value for name, value in stored.facts.items()}
    vars(model).update(told, environment_=dict(stored.environment), n_features_in_=stored.state.means.shape[1])
    if stored.origin is not None:
        model.origin_ = stored.origin
    if stored.feature_names is not None:
        model.feature_names_in_ = np.asarray(stored.feature_names, dtype=object)
    return model
