"""Validation of the arguments of `select`: the candidates, and the criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..core.covariance import STRUCTURES
from ..criteria import HELD_OUT, running_criteria, selection_criteria
from ..data.dataset import Dataset
from ..data.held_out import HeldOut
from ..names import FULL
from .base import BaseMixture
from .gaussian_mixture import GaussianMixture
from .validation import check_parameter_names

Key = tuple[int, str]
"""Number of components and covariance type."""

ONLY_FULL = (FULL,)
"""Default of ``covariance_types``, told from the same value by its identity."""

_SHARE = 0.1
"""Default share of held-out rows."""

_COUNTED = 100_000
"""Largest number of rows for which the held-out rows are counted before any row is read."""


def label(key: Key) -> str:
    """Name of a candidate in events and messages."""
    return f"{key[0]} {key[1]}"


def check_types(covariance_types: Any, parameters: dict[str, Any]) -> Any:
    """Take ``covariance_type``, another name of ``covariance_types``, out of the keywords; return the types.

    Raises
    ------
    TypeError
        If there are both.
    """
    if "covariance_type" not in parameters:
        return covariance_types
    if covariance_types is not ONLY_FULL:
        raise TypeError(
            f"covariance_types={covariance_types!r:.80} and covariance_type={parameters['covariance_type']!r:.80} mean "
            "the same: leave one out"
        )
    return parameters.pop("covariance_type")


def check_estimator(estimator: Any, parameters: Mapping[str, Any], function: Callable[..., Any]) -> BaseMixture[Any]:
    """Validate the estimator; None stands for a `GaussianMixture` with the ``parameters``, keywords of ``function``."""
    check_parameter_names(GaussianMixture, parameters, function)
    if estimator is None:
        return GaussianMixture(**parameters)
    if not isinstance(estimator, BaseMixture):
        what = f"the class {estimator.__name__}" if isinstance(estimator, type) else f"a {type(estimator).__name__}"
        raise TypeError(
            f"estimator is {what}; expected a GaussianMixture or BayesianGaussianMixture of daskgmm, such as "
            "GaussianMixture(tol=1e-4)"
        )
    if parameters:
        given = ", ".join(f"{name}={value!r:.40}" for name, value in parameters.items())
        raise TypeError(f"{given} beside an estimator: give it to the estimator, {type(estimator).__name__}({given})")
    return estimator


def check_keys(n_components: Any, covariance_types: Any) -> list[Key]:
    """Validate the grid; return all combinations of numbers of components and covariance types."""
    numbers = _listed("n_components", n_components, Integral, "positive integers, such as range(1, 21) or [2, 4, 8]")
    types = _listed("covariance_types", covariance_types, str, f"names out of {', '.join(STRUCTURES)}")
    for number in numbers:
        if number < 1:
            raise ValueError(f"n_components holds {number}; a mixture has at least one component")
    for name in types:
        if name not in STRUCTURES:
            raise ValueError(f"covariance_types holds {name!r}; expected {', '.join(STRUCTURES)}")
    return [(int(number), name) for name in types for number in numbers]


def _listed(name: str, values: Any, kind: type, expected: str) -> list[Any]:
    listed = [values] if isinstance(values, kind) else list(values) if isinstance(values, Iterable) else [None]
    if not listed:
        raise ValueError(f"{name} is empty; expected {expected}")
    for value in listed:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {values!r:.80}; expected {expected}")
    twice = [value for i, value in enumerate(listed) if value in listed[:i]]
    if twice:
        raise ValueError(f"{name} holds {twice[0]!r} twice; each candidate is fitted once")
    return listed


def check_criterion(base: BaseMixture[Any], criterion: str, held_out: Any, patience: Any) -> float | None:
    """Validate criterion, held_out and patience; return the share of the rows to hold out, None for no rows."""
    allowed = selection_criteria() if base._has_criteria else (HELD_OUT,)
    if criterion not in allowed:
        why = "" if base._has_criteria else f" for a {type(base).__name__}, which has no number of free parameters"
        raise ValueError(f"criterion={criterion!r}; expected {' or '.join(map(repr, allowed))}{why}")
    if patience is not None:
        if isinstance(patience, bool) or not isinstance(patience, Integral) or patience < 1:
            raise ValueError(f"patience={patience!r}; expected a number of iterations, at least 1, or None")
        if criterion not in running_criteria():
            raise ValueError(
                f"patience={patience} with criterion={criterion!r}: only {' and '.join(map(repr, running_criteria()))} "
                "can be computed for a fit that is still running. Leave patience out."
            )
    if held_out is None:
        return _SHARE if criterion == HELD_OUT else None
    if isinstance(held_out, bool) or not isinstance(held_out, Real) or not 0 < float(held_out) < 1:
        raise ValueError(f"held_out={held_out!r}; expected a share of the rows between 0 and 1, or None")
    return float(held_out)


def check_rows(dataset: Dataset, keys: Sequence[Key], rule: HeldOut | None) -> None:
    """Raise an error if there are too few rows for the largest candidate, or no held-out row."""
    n_rows, most = dataset.n_rows, max(number for number, _ in keys)
    if n_rows < max(2, most):
        raise ValueError(f"Expected n_samples >= n_components but got n_components = {most}, n_samples = {n_rows}")
    if rule is None or n_rows > _COUNTED:
        return
    n_out = int(np.count_nonzero(rule(0, n_rows)))
    if n_out == 0 or n_rows - n_out < max(2, most):
        raise ValueError(
            f"held_out={rule.share:g} holds out {n_out} of {n_rows} rows; at least one row must be held out, and as "
            f"many rows as components ({most}) have to be left for the fit"
        )
