"""A fitted estimator as a record of JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import BaseMixture
from .model_kinds import NOT_STORED

Record = dict[str, Any]


def model_record(model: BaseMixture[Any]) -> Record:
    """Make the record of a fitted model: facts of the fit, settings, and all mixture parameters."""
    p = model._parameters()
    deviations = np.sqrt(p.structure.marginal_variances(p.covariances, p.n_components, p.n_features))
    names = getattr(model, "feature_names_in_", [f"x{i}" for i in range(p.n_features)])
    return {
        "kind": "model",
        "estimator": type(model).__name__,
        "covariance_type": p.structure.name,
        "n_components": p.n_components,
        "n_features": p.n_features,
        "feature_names": [str(name) for name in names],
        "converged": getattr(model, "converged_", None),
        "n_iter": getattr(model, "n_iter_", None),
        **model._fit_facts(),
        "n_passes": getattr(model, "n_passes_", None),
        "history": [passed.as_record() for passed in getattr(model, "history_", ())],
        "environment": dict(getattr(model, "environment_", {})),
        "origin": model.origin_.as_record() if hasattr(model, "origin_") else None,
        "settings": _settings(model),
        "weights": p.weights.tolist(),
        "means": p.means.tolist(),
        "standard_deviations": deviations.tolist(),
        "covariances": p.structure.to_attribute(p.covariances).tolist(),
    }


def _settings(model: BaseMixture[Any]) -> Record:
    """Constructor parameters, without those that belong to the process."""
    parameters = {k: v for k, v in model.get_params(deep=False).items() if k not in NOT_STORED}
    return {name: _plain(value) for name, value in parameters.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.random.RandomState):
        return "a RandomState"
    return value if value is None or isinstance(value, str | bool | int | float) else np.asarray(value).tolist()
