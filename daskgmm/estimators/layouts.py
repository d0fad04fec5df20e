"""Dimensions of the features: those that a caller names, and those that a fitted estimator has recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..data.dimensions import Layout, given_layout
from ..data.input_kinds import Grid

FEATURES = ("n_features_in_", "feature_names_in_", "feature_dims_", "feature_axis_")
"""Attributes about features, which are set before a fit begins."""


def fit_layout(dim: Any, feature_axis: Any, sample_weight: Any) -> Layout:
    """Return the layout of the data of a fit; see `given_layout`."""
    beside = (sample_weight,) if isinstance(sample_weight, str) else ()
    return given_layout(dim, feature_axis, beside=beside, is_fit=True)


def record_grid(model: Any, grid: Grid | None) -> None:
    """Set the attributes about the feature dimensions of a fit, or remove those of an earlier fit."""
    found = {} if grid is None else {"feature_dims_": grid.feature_dims, "feature_axis_": grid.feature_axis}
    for name in ("feature_dims_", "feature_axis_"):
        vars(model).pop(name, None)
        if found.get(name) is not None:
            setattr(model, name, found[name])


def copy_features(model: Any, others: Iterable[Any]) -> None:
    """Copy the attributes about features, which an accepted input has set, to other estimators."""
    features = {name: value for name, value in vars(model).items() if name in FEATURES}
    for other in others:
        vars(other).update(features)


def recorded_layout(model: Any, layout: Layout) -> Layout:
    """Complete the layout of new data by what the fit has recorded."""
    names = getattr(model, "feature_names_in_", None)
    return replace(
        layout,
        feature_dims=getattr(model, "feature_dims_", None),
        axis_of_fit=getattr(model, "feature_axis_", None),
        feature_names=None if names is None else tuple(names),
    )
