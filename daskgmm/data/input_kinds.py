"""Kinds of input: conversion of an input to rows, and of results for these rows to the form of the input.

A kind of input is one class, which `register` adds to the known kinds. CONTRIBUTING.md has a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import NonFiniteDataError
from ..names import RAISE
from .dimensions import Layout, unnamed
from .output import RowFunction, RowOutput
from .raveling import Raveling


class InputKind(ABC):
    """Conversion of one kind of input to rows, and of results to this kind. Stateless."""

    missing: ClassVar[str] = RAISE
    """Treatment of incomplete rows by an estimator with ``missing=None``: one of `daskgmm.names.MISSING`."""

    only_grids: ClassVar[bool] = False
    """Inputs for which `arranged` returns None are rows already."""

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

    def arranged(self, data: Any, name: str, layout: Layout) -> Any:
        """Divide the dimensions of the input into samples and features; no values are loaded.

        A kind whose inputs have several sample dimensions, or variables to choose from, overrides this method. The
        other methods then get its result instead of the input. By default, the layout is for the input of another kind
        that `rows` returns.

        Parameters
        ----------
        data : object
        name : str
            Name of the parameter in errors.
        layout : Layout
            Dimensions that the caller and the fit have named.

        Returns
        -------
        object or None
            None if the layout does not concern this kind.
        """
        return None

    def grid(self, data: Any) -> Grid | None:
        """Grid of the samples; None for inputs whose samples have one dimension without a name.

        Parameters
        ----------
        data : object
            Result of `arranged`.
        """
        return None

    def aligned(self, data: Any, values: Any, name: str) -> Any:
        """Bring the values of an aligned input, such as sample weights, into the order of the rows.

        Parameters
        ----------
        data : object
            Input from which the rows were made, or the result of `arranged`.
        values : object
            Anything that the caller passed, such as an array of the samples' shape, or the name of a variable.
        name : str
            Name of the parameter in errors, for example ``"sample_weight"``.

        Returns
        -------
        object
            One entry for each row in any form that rows may have.
        """
        return values

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
class Grid:
    """Grid of the samples of an input, and the dimensions that are the features."""

    raveling: Raveling
    dims: tuple[str, ...] | None = None
    """Names of the sample dimensions; None where dimensions have no names."""
    feature_dims: tuple[str, ...] | None = None
    """Names of the feature dimensions; empty where variables are the features."""
    feature_axis: int | None = None
    """Axis of the features, where dimensions have no names."""
    address: str | None = None
    """Absolute path or URL of a stored array, without secrets."""
    coords: Any = None
    """Coordinates of the samples: an xarray Dataset without variables; None where there are none."""


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

    @property
    def grid(self) -> Grid | None:
        """Grid of the samples; None for plain rows."""
        return next((grid for kind, data in self.steps if (grid := kind.grid(data)) is not None), None)

    @property
    def address(self) -> str | None:
        """Address of a stored array of more than two dimensions; rows of other stores know theirs."""
        return None if self.grid is None else self.grid.address

    @contextmanager
    def naming_samples(self) -> Iterator[None]:
        """Add the position on the grid to an error in the ``with`` block that names a row."""
        try:
            yield
        except NonFiniteDataError as error:
            if (grid := self.grid) is not None and len(grid.raveling.shape) > 1:
                position = grid.raveling.position(error.row)
                names = grid.dims or [f"axis {axis}" for axis in range(len(position))]
                named = ", ".join(f"{name}={place}" for name, place in zip(names, position, strict=True))
                error.add_note(f"Row {error.row} is the sample at {named} of the grid {grid.raveling.shape!s:.200}.")
            raise

    def align(self, values: Any, name: str) -> Any:
        """Bring the values of an aligned input into the order of the rows; see `InputKind.aligned`."""
        for kind, data in self.steps:
            if values is not None:
                values = kind.aligned(data, values, name)
        return values

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


def unwrap(data: Any, name: str, layout: Layout) -> Input:
    """Convert an input to rows, kind by kind; an object that no kind recognises is the rows.

    Incomplete rows are treated as the first of these kinds that leaves them out treats them, and else refused.

    Parameters
    ----------
    data : object
    name : str
        Name of the parameter in errors.
    layout : Layout
        Dimensions of the samples and the features, for the first kind that has dimensions.

    Raises
    ------
    DimensionError
        If the layout names dimensions that the input does not have.
    """
    steps: list[tuple[InputKind, Any]] = []
    kinds, names, is_arranged = list(_kinds), None, False
    while (kind := _recognising(kinds, data, name)) is not None:
        kinds.remove(kind)  # so that the loop ends
        if not is_arranged and (arranged := kind.arranged(data, name, layout)) is not None:
            data, is_arranged = arranged, True
        elif kind.only_grids:
            continue
        steps.append((kind, data))
        names = names or kind.feature_names(data)
        data = kind.rows(data, name)
    if layout.is_given and not is_arranged:
        raise unnamed(layout, name, f"a {type(steps[0][1] if steps else data).__name__}")
    missing = next((kind.missing for kind, _ in steps if kind.missing != RAISE), RAISE)
    return Input(data, names, tuple(steps), missing)


def _recognising(kinds: list[InputKind], data: Any, name: str) -> InputKind | None:
    for kind in kinds:
        if kind.recognises(data, name):
            return kind
    return None
