"""Kinds of input: how rows come of what a user has, and how results for these rows go back to the user.

A kind is one module with one class, and `register` makes the kind known. CONTRIBUTING.md has a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .output import RowOutput


class InputKind(ABC):
    """A kind of input, both ways. Stateless."""

    @abstractmethod
    def recognises(self, data: Any, name: str) -> bool:
        """Tell inputs of this kind from all others.

        Parameters
        ----------
        data : object
        name : str
            Of the parameter that the data are for, in errors: ``"X"`` or ``"sample_weight"``, for example.
        """

    @abstractmethod
    def rows(self, data: Any, name: str) -> Any:
        """Rows of the input, (n, D), or weights, (n,); nothing is loaded.

        Parameters
        ----------
        data : object
            Input that this kind recognises.
        name : str
            Of the parameter.

        Returns
        -------
        dask.array.Array, Source or object
            Or an input of another kind, which is looked up in turn.
        """

    def feature_names(self, data: Any) -> tuple[str, ...] | None:
        """Names of the features; None where the input has none."""
        return None

    def wrap(self, data: Any, result: Any, output: RowOutput) -> Any:
        """Give results for the rows the form of the input.

        Parameters
        ----------
        data : object
            Input that the rows came of.
        result : numpy.ndarray or dask.array.Array
            One entry for each row, (n,) or (n, K); lazy where the rows were lazy.
        output : RowOutput
            ``labels``, ``responsibilities`` or ``log_density``.
        """
        return result


@dataclass(frozen=True)
class Input:
    """Rows, and what is known of the input that they came of."""

    rows: Any
    feature_names: tuple[str, ...] | None = None
    steps: tuple[tuple[InputKind, Any], ...] = ()
    """Kinds that led from the input to the rows, each with the input that it recognised."""

    def wrap(self, result: Any, output: RowOutput) -> Any:
        """Give results for the rows the form of the input; see `InputKind.wrap`."""
        for kind, data in reversed(self.steps):
            result = kind.wrap(data, result, output)
        return result


_kinds: list[InputKind] = []


def register(kind: InputKind, *, last: bool = False) -> None:
    """Make a kind of input known to every estimator of this process.

    Parameters
    ----------
    kind : InputKind
    last : bool
        Ask this kind after all others. Otherwise it comes before them.
    """
    _kinds.insert(len(_kinds) if last else 0, kind)


def unregister(kind: InputKind) -> None:
    """Undo `register`."""
    _kinds.remove(kind)


def unwrap(data: Any, name: str) -> Input:
    """Follow the kinds of an input to its rows; what no kind recognises are rows.

    Parameters
    ----------
    data : object
    name : str
        Of the parameter that the data are for.
    """
    steps: list[tuple[InputKind, Any]] = []
    kinds, names = list(_kinds), None
    while (kind := next((kind for kind in kinds if kind.recognises(data, name)), None)) is not None:
        kinds.remove(kind)  # so that it ends
        steps.append((kind, data))
        names = names or kind.feature_names(data)
        data = kind.rows(data, name)
    return Input(data, names, tuple(steps))
