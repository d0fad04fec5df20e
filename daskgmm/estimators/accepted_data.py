"""Data that an estimator is given: inputs with checked layout and dtype, and features recorded or checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from ..data.dimensions import PLAIN, Layout
from ..data.files import suggesting_columns
from ..data.input_kinds import Input
from ..data.inputs import accept, check_dtype, check_layout, is_lazy
from .layouts import record_grid, recorded_layout
from .model import MixtureModel


def accept_data(model: MixtureModel[Any], X: Any, *, reset: bool, layout: Layout = PLAIN) -> Input:
    """Resolve the data of an estimator, check layout and dtype without reading rows, and record or check the features.

    Parameters
    ----------
    model : MixtureModel
        Estimator; its attributes about features are set or compared.
    X : object
        Data of any kind.
    reset : bool
        Record the features, for a fit; else compare them with those of the fit.
    layout : Layout
    """
    accepted = accept(X, missing=model.missing, layout=layout if reset else recorded_layout(model, layout))
    if reset:
        record_grid(model, accepted.grid)
    return _checked_input(model, X, accepted, reset)


def _checked_input(model: MixtureModel[Any], X: Any, accepted: Input, reset: bool) -> Input:
    """Check layout, dtype and features of a resolved input."""
    data = accepted.rows
    if accepted.feature_names is not None:
        data = data if is_lazy(data) else np.asarray(data)
        check_layout(data)
        _accept_names(model, accepted.feature_names, reset)
        return accepted.with_rows(data)
    if is_lazy(data):
        check_layout(data)
        named = accepted.frame
        with suggesting_columns(X, getattr(model, "feature_names_in_", ())):
            validate_data(model, data if named is None else named, reset=reset, skip_check_array=True)
        return accepted
    if not hasattr(data, "dtype") or hasattr(data, "__array__"):
        dtype = getattr(data, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind in "cmMSUV":
            check_dtype("X", dtype)
        if getattr(data, "ndim", 2) > 2:
            check_layout(data)
    validated = validate_data(
        model, data, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2 if reset else 1
    )
    return accepted.with_rows(validated)


def _accept_names(model: MixtureModel[Any], names: tuple[str, ...], reset: bool) -> None:
    """Record the feature names of labelled data and structured rows, or compare them with the names of the fit."""
    if reset:
        model.n_features_in_, model.feature_names_in_ = len(names), np.array(names, object)
    elif (known := tuple(getattr(model, "feature_names_in_", names))) != names:
        raise ValueError(
            f"X has the features {list(names)!s:.200}, but {type(model).__name__} was fitted with the features "
            f"{list(known)!s:.200}. Choose those, in that order: X[{list(known)!s:.200}]."
        )
