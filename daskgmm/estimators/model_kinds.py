"""Registry of the estimator classes that model files and checkpoints can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..core.state_arrays import StateArrays
from ..persistence.layout import ModelKind
from .model import MixtureModel

NOT_STORED = ("cache", "scheduler", "callbacks")
"""Parameters of every estimator that belong to the process, not to the model."""

Class = TypeVar("Class", bound=type[MixtureModel[Any]])
Model = TypeVar("Model", bound=MixtureModel[Any])


@dataclass(frozen=True)
class StorableClass:
    """Estimator class, and its description for files."""

    estimator: type[MixtureModel[Any]]
    kind: ModelKind


STORABLE: dict[str, StorableClass] = {}
"""Classes declared as `storable`, by name."""


def storable(*given: str) -> Callable[[Class], Class]:
    """Declare a class whose fitted estimators can be stored.

    Parameters
    ----------
    *given : str
        Constructor parameters that may be arrays.
    """

    def declare(estimator: Class) -> Class:
        parameters = frozenset(estimator._get_param_names()) - {*given, *NOT_STORED}
        kind = ModelKind(estimator.__name__, parameters, given, partial(_state_arrays, estimator))
        STORABLE[kind.name] = StorableClass(estimator, kind)
        return estimator

    return declare


def _state_arrays(estimator: type[MixtureModel[Any]], parameters: Mapping[str, Any]) -> StateArrays[Any]:
    model = new_model(estimator, parameters)
    model._validate_params()
    return model._state_arrays


def new_model(estimator: type[Model], parameters: Mapping[str, Any]) -> Model:
    """Make an estimator from stored parameters; arrays without axes become numbers."""
    numbers = {name: float(v) for name, v in parameters.items() if isinstance(v, np.ndarray) and not v.ndim}
    return estimator(**{**parameters, **numbers})


def kind_of(model: MixtureModel[Any]) -> ModelKind:
    """Return the description of an estimator's class for files.

    Raises
    ------
    TypeError
        If the class is not declared as `storable`, so that a file could not restore it.
    """
    name = type(model).__name__
    known = STORABLE.get(name)
    if known is None or known.estimator is not type(model):
        expected = ", ".join(sorted(STORABLE, reverse=True))
        raise TypeError(
            f"model is a {name}; expected one of {expected}: a file could not bring back a class of your own"
        )
    return known.kind
