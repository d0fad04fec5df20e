"""Kinds of input: conversion of an input to rows, and of results for these rows to the form of the input.

A kind of input is one class, which `register` adds to the known kinds. CONTRIBUTING.md has a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..names import RAISE
from .output import RowFunction, RowOutput


class InputKind(ABC):
    """Conversion of one kind of input to rows, and of results to this kind. Stateless."""

    missing: ClassVar[str] = RAISE
    """Treatment of incomplete rows by an estimator with ``missing=None``: one of `daskgmm.names.MISSING`."""

    @abstractmethod
    def recognises(self, data: Any, name: str) -> bool:
        """Tell inputs of this kind from all others.

        Parameters
        ----------
        data : object
        name : str
            Name of the parameter in errors: ``"X"`` or ``"sample_weight"``, for example.
        """

    @abstractmethod
    def rows(self, data: Any, name: str) -> Any:
        """Rows of the input, (n, D), or weights, (n,); no values are loaded.

        Parameters
        ----------
        data : object
            Input that this kind recognises.
        name : str
            Name of the parameter in errors.

        Returns
        -------
        dask.array.Array, Source or object
            Rows, or an input of another kind, which is converted in turn.
        """

    def feature_names(self, data: Any) -> tuple[str, ...] | None:
        """Names of the features; None if the input has none."""
        return None

    def frame(self, data: Any) -> Any:
        """Empty data frame with the columns of the input, for scikit-learn's checks; None if the input is no frame."""
        return None

    def map_rows(self, data: Any, function: RowFunction, rows: Any) -> Any:
        """Compute results for the rows in the form of the input, lazily; None to have `wrap` convert them.

        Parameters
        ----------
        data : object
            Input from which the rows were made.
        function : RowFunction
            Function with one output.
        rows : dask.array.Array or Source
            Rows of the input, which this kind made.
        """
        return None

    def wrap(self, data: Any, result: Any, output: RowOutput) -> Any:
        """Convert results for the rows to the form of the input.

        Parameters
        ----------
        data : object
            Input from which the rows were made.
        result : numpy.ndarray or dask.array.Array
            One entry for each row, (n,) or (n, K); lazy if the rows were lazy.
        output : RowOutput
            ``labels``, ``responsibilities`` or ``log_density``.
        """
        return result


@dataclass(frozen=True)
class Input:
    """Rows, and a record of the input from which they were made."""

    rows: Any
    feature_names: tuple[str, ...] | None = None
    steps: tuple[tuple[InputKind, Any], ...] = ()
    """Kinds that converted the input to the rows, in order, each with the input that it recognised."""
    missing: str = RAISE
    """Treatment of incomplete rows, one of `daskgmm.names.MISSING`."""

    def with_rows(self, rows: Any) -> Input:
        """Return the same input with the rows in another form."""
        return self if rows is self.rows else replace(self, rows=rows)

    @property
    def frame(self) -> Any:
        """Empty data frame with the columns of the input; None if no kind knows one."""
        frames = (kind.frame(data) for kind, data in self.steps)
        return next((frame for frame in frames if frame is not None), None)

    def map_rows(self, function: RowFunction, compute: Callable[[], Any]) -> Any:
        """Compute results for the rows in the form of the input.

        Parameters
        ----------
        function : RowFunction
            Function with one output.
        compute : callable
            Computes the results, (n,) or (n, K), if the kind that made the rows does not.
        """
        (output,) = function.outputs
        if self.steps:
            kind, data = self.steps[-1]
            result = kind.map_rows(data, function, self.rows)
            if result is not None:
                return Input(None, steps=self.steps[:-1]).wrap(result, output)
        return self.wrap(compute(), output)

    def wrap(self, result: Any, output: RowOutput) -> Any:
        """Convert results for the rows to the form of the input; see `InputKind.wrap`."""
        for kind, data in reversed(self.steps):
            result = kind.wrap(data, result, output)
        return result


_kinds: list[InputKind] = []


def register(kind: InputKind, *, last: bool = False) -> None:
    """Add a kind of input for all estimators of this process.

    Parameters
    ----------
    kind : InputKind
    last : bool
        Try this kind after all others. By default, a new kind is tried first.
    """
    _kinds.insert(len(_kinds) if last else 0, kind)


def unregister(kind: InputKind) -> None:
    """Undo `register`."""
    _kinds.remove(kind)


def unwrap(data: Any, name: str) -> Input:
    """Convert an input to rows, kind by kind; an object that no kind recognises is the rows.

    Incomplete rows are treated as the first of these kinds that leaves them out treats them, and else refused.

    Parameters
    ----------
    data : object
    name : str
        Name of the parameter in errors.
    """
    steps: list[tuple[InputKind, Any]] = []
    kinds, names = list(_kinds), None
    while (kind := _recognising(kinds, data, name)) is not None:
        kinds.remove(kind)  # so that the loop ends
        steps.append((kind, data))
        names = names or kind.feature_names(data)
        data = kind.rows(data, name)
    missing = next((kind.missing for kind, _ in steps if kind.missing != RAISE), RAISE)
    return Input(data, names, tuple(steps), missing)


def _recognising(kinds: list[InputKind], data: Any, name: str) -> InputKind | None:
    for kind in kinds:
        if kind.recognises(data, name):
            return kind
    return None
