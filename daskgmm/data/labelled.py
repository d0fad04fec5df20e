"""xarray's DataArrays and Datasets as inputs, and results as DataArrays. The package xarray itself is optional.

An object of xarray is recognised only if xarray has been imported.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dask
import dask.array as da
import numpy as np

from ..errors import DimensionError, UnsupportedDataError
from ..names import DROP
from ..tuning import current
from .dimensions import Layout, check_known, shown, split_dimensions
from .grid_weights import align_weights
from .input_kinds import Grid, InputKind
from .output import RowOutput
from .raveling import Raveling, block_lengths, joined, one_feature_axis

Array = np.ndarray[Any, np.dtype[Any]]

_ENCODING = {"scale_factor": 1, "add_offset": 0, "_FillValue": np.nan, "missing_value": np.nan}
"""Attributes that define an encoding, and the value with which they change nothing."""

_MOST_NAMES = 1_000_000  # features that get names of their own


@dataclass(frozen=True)
class LabelledGrid:
    """Samples on a grid with names: a division of a DataArray or a Dataset."""

    origin: Any
    """The DataArray or Dataset of the caller, with all variables and coordinates."""
    values: Any
    """NumPy or dask array of the features, (…, D)."""
    grid: Grid
    feature_names: tuple[str, ...] | None = None


class LabelledArrays(InputKind):
    """DataArrays and Datasets of xarray; for a Dataset, the variables are the features."""

    missing: ClassVar[str] = DROP

    def recognises(self, data: Any, name: str) -> bool:
        xarray = sys.modules.get("xarray")
        kinds = ("DataArray", "Dataset") if name == "X" else ("DataArray",)
        return xarray is not None and isinstance(data, tuple(getattr(xarray, kind) for kind in kinds))

    def arranged(self, data: Any, name: str, layout: Layout) -> Any:
        if name != "X":
            return None  # weights of plain rows
        return _divided_dataset(data, layout) if hasattr(data, "data_vars") else _divided_array(data, layout)

    def grid(self, data: Any) -> Grid | None:
        return data.grid if isinstance(data, LabelledGrid) else None

    def rows(self, data: Any, name: str) -> Any:
        if not isinstance(data, LabelledGrid):
            return _lazy([data])[0].data
        return data.grid.raveling.rows(data.values)

    def feature_names(self, data: Any) -> tuple[str, ...] | None:
        return data.feature_names if isinstance(data, LabelledGrid) else None

    def aligned(self, data: Any, values: Any, name: str) -> Any:
        return align_weights(data.grid, data.origin, values, name)

    def wrap(self, data: Any, result: Any, output: RowOutput) -> Any:
        values, dims, labels = data.grid.raveling.grid(result), data.grid.dims, data.grid.coords
        if output.n_columns is not None:
            dim = output.column_dim
            if dim in (*dims, *labels.coords):
                raise DimensionError(
                    f"X has a dimension or coordinate {dim!r}, and {output.title} have a dimension of that name. "
                    f"Rename yours: X.rename({dim}='…')."
                )
            dims, labels = (
                (*dims, dim),
                labels.assign_coords({dim: list(output.columns) or np.arange(output.n_columns)}),
            )
        attributes = {key: np.array(value) if isinstance(value, list) else value for key, value in output.attributes}
        return sys.modules["xarray"].DataArray(
            values, coords=labels.coords, dims=dims, name=output.title, attrs=attributes
        )


# ---- DataArrays


def _divided_array(x: Any, layout: Layout) -> LabelledGrid:
    _check_variable(x.name, x, ())
    samples, features = split_dimensions(dict(x.sizes), layout)
    names = _labels(x, features)
    chosen = _of_fit(x, features, names, layout)
    if chosen is not x:
        x, names = chosen, layout.feature_names
    (lazy,) = _lazy([x], features)
    values = one_feature_axis(lazy.transpose(*samples, *features).data, len(samples))
    return LabelledGrid(x, values, _grid(x, values, samples, features), names)


def _labels(x: Any, features: Sequence[Any]) -> tuple[str, ...] | None:
    """Names of the features: labels along the feature dimension, with names of the dimensions if there are several."""
    if not any(dim in x.indexes for dim in features) or math.prod(x.sizes[dim] for dim in features) > _MOST_NAMES:
        return None
    return tuple(_places(x, features) if len(features) > 1 else map(str, x.indexes[features[0]]))


def _of_fit(x: Any, features: Sequence[Any], names: tuple[str, ...] | None, layout: Layout) -> Any:
    """Choose the features of the fit by their names, where there are any."""
    known = layout.feature_names
    if known is None or names is None or names == known or len(set(names)) < len(names):
        return x
    _check_names(known, names, f"labels along {shown(features)}", "Select those, or remove the labels with drop_vars.")
    if len(features) > 1:
        raise DimensionError(
            f"X has other labels along {shown(features)} than the data of the fit, or the same ones in another order. "
            "Select those of the fit: X.sel(…)."
        )
    places = {one: i for i, one in enumerate(names)}
    return x.isel({features[0]: [places[one] for one in known]})


def _check_names(known: Sequence[str], names: Sequence[str], kind: str, advice: str = "") -> None:
    present = set(names)
    if missing := [one for one in known if one not in present]:
        raise DimensionError(
            f"X has no {shown(missing)} among its {kind} ({shown(list(names))}), and the mixture was fitted with the "
            f"features {list(known)!s:.200}. {advice}".rstrip()
        )


# ---- Datasets


def _divided_dataset(x: Any, layout: Layout) -> LabelledGrid:
    variables = _chosen(x, layout)
    dims = tuple(dict.fromkeys(itertools.chain.from_iterable(one.dims for one in variables.values())))
    features = layout.in_order_of_fit(_dataset_features(dims, layout))
    samples = tuple(one for one in dims if one not in features)
    if not samples:
        raise DimensionError(f"X has the dimensions {shown(dims)}; expected one or more dimensions of samples.")
    names = {key: _variable_names(key, one, features) for key, one in variables.items()}
    if layout.feature_names is not None:
        names = _names_of_fit(names, layout.feature_names, layout.feature_dims or ())
        variables = {key: variables[key] for key in names}
    parts = []
    for one in _lazy([variables[key] for key in names], features):
        present = [dim for dim in samples if dim in one.dims]
        values = one.transpose(*present, *(dim for dim in features if dim in one.dims)).data
        place = tuple(slice(None) if dim in present else None for dim in samples)
        parts.append(one_feature_axis(values[place], len(samples)))
    values = _of_all_samples(joined(parts, len(samples)), [x.sizes[dim] for dim in samples])
    grid = _grid(x, values, samples, features)
    return LabelledGrid(x, values, grid, tuple(itertools.chain.from_iterable(names.values())))


def _of_all_samples(values: Any, shape: Sequence[int]) -> Any:
    """Broadcast to dimensions that only variables outside the fit's features have."""
    shape = (*shape, values.shape[-1])
    if tuple(values.shape) == shape:
        return values
    return (da if isinstance(values, da.Array) else np).broadcast_to(values, shape)


def _chosen(x: Any, layout: Layout) -> dict[Any, Any]:
    """Variables of a Dataset that are features, each checked."""
    variables = {key: x[key] for key in x.data_vars if key not in layout.beside}
    if layout.feature_names is not None:
        known = set(layout.feature_names)
        chosen = {key: one for key, one in variables.items() if str(key) in known or _has_features(key, known)}
        variables = chosen or variables
    if not variables:
        raise UnsupportedDataError("X is an xarray Dataset without variables; expected variables as features")
    others = [str(key) for key, one in variables.items() if one.dims and one.dtype.kind in "biuf"]
    for key, one in variables.items():
        _check_variable(key, one, others)
        if not one.dims:
            advice = f"Choose others: X[{others!s:.300}]." if others else "Keep one, as X.isel(time=[0]) does."
            raise UnsupportedDataError(
                f"The variable {key!r:.80} of X has no dimensions, and would be the same for all samples. {advice}"
            )
    return variables


def _has_features(key: Any, known: set[str]) -> bool:
    return any(name.startswith(f"{key}[") for name in known)


def _dataset_features(dims: tuple[Any, ...], layout: Layout) -> tuple[Any, ...]:
    if layout.feature_axis is not None:
        raise DimensionError(
            f"feature_axis={layout.feature_axis}, but X is an xarray Dataset, whose variables are the features. Name "
            f"the sample dimensions, for example dim={dims!s:.200}."
        )
    if layout.dim is not None:
        check_known(layout.dim, dims)
        return tuple(one for one in dims if one not in layout.dim)
    known = layout.feature_dims or ()
    if known and layout.feature_names is None and not set(known) <= set(dims):
        raise DimensionError(
            f"X has the dimensions {shown(dims)}, and the mixture was fitted with features along {shown(known)}. Pass "
            "one variable with these, such as X['name']."
        )
    return tuple(one for one in dims if one in known)


def _variable_names(key: Any, variable: Any, features: Sequence[Any]) -> tuple[str, ...]:
    """Names of the features of one variable: the variable's own, or with the labels along the feature dimensions."""
    own = [dim for dim in features if dim in variable.dims]
    if not own:
        return (str(key),)
    if math.prod(variable.sizes[dim] for dim in own) > _MOST_NAMES:
        raise DimensionError(
            f"The variable {key!r} of X has {math.prod(variable.sizes[dim] for dim in own)} features along "
            f"{shown(own)}; expected {_MOST_NAMES} at most. Name all sample dimensions with dim."
        )
    return tuple(f"{key}[{place}]" for place in _places(variable, own))


def _places(variable: Any, dims: Sequence[Any]) -> list[str]:
    """Label of every place along dimensions, such as "depth=0.5", with numbers where there is no index."""
    labels = [
        [
            f"{dim}={label}"
            for label in (variable.indexes[dim] if dim in variable.indexes else range(variable.sizes[dim]))
        ]
        for dim in dims
    ]
    return [", ".join(place) for place in itertools.product(*labels)]


def _names_of_fit(
    names: dict[Any, tuple[str, ...]], known: tuple[str, ...], dims: tuple[str, ...]
) -> dict[Any, tuple[str, ...]]:
    """Put variables in the order of the fit's features, some of which may lie along the dimensions ``dims``."""
    found = {name: key for key, own in names.items() for name in own}
    advice = f"If these are labels along {shown(dims)}, pass one variable: X['name']." if dims else ""
    _check_names(known, list(found), "variables", advice)
    return {key: names[key] for key in dict.fromkeys(found[name] for name in known)}


# ---- both


def _check_variable(key: Any, variable: Any, others: Sequence[str]) -> None:
    """Raise `UnsupportedDataError` for a variable that is not made of real numbers, or is not decoded."""
    dtype, who = variable.dtype, "X" if key is None else f"The variable {key!r:.80} of X"
    if dtype.kind not in "biuf":
        advice = (
            "Pass real and imaginary parts as features."
            if dtype.kind == "c"
            else f"Choose variables of numbers: X[{list(others)!s:.300}]."
            if others
            else "Convert it to numbers."
        )
        raise UnsupportedDataError(f"{who} has dtype {dtype}; expected a boolean, integer or floating dtype. {advice}")
    for attribute, nothing in _ENCODING.items():
        value = variable.attrs.get(attribute, nothing)
        if not _is_equal(value, nothing):
            raise UnsupportedDataError(
                f"{who} holds stored numbers: its attribute {attribute} = {value!r:.40} is not "
                "applied to them. Decode the numbers with xarray.decode_cf(dataset), or open the file with "
                "mask_and_scale=True; if they are decoded, remove the attribute from attrs."
            )


def _is_equal(value: Any, nothing: float) -> bool:
    try:
        return bool(np.all((value == nothing) | (np.isnan(value) & np.isnan(nothing))))
    except TypeError:
        return False  # a text, for instance


def _grid(x: Any, values: Any, samples: tuple[Any, ...], features: tuple[Any, ...]) -> Grid:
    """Grid of the samples, with their coordinates alone."""
    coords = x.coords.to_dataset()
    others = [key for key, one in coords.variables.items() if not set(one.dims) <= set(samples)]
    return Grid(Raveling.of(values), samples, features, coords=coords.drop_vars(others))


def _lazy(variables: Sequence[Any], features: Sequence[Any] = ()) -> list[Any]:
    """Return the variables with dask arrays, if one of them is not in memory."""
    if all(_in_memory(one) for one in variables):
        return list(variables)
    return [
        one if dask.is_dask_collection(one) else one.chunk(_stored_chunks(one, features, len(variables)))
        for one in variables
    ]


def _in_memory(x: Any) -> bool:
    return bool(getattr(x.variable, "_in_memory", True)) and not dask.is_dask_collection(x)


def _stored_chunks(x: Any, features: Sequence[Any], n_variables: int) -> dict[Any, int]:
    """Lengths of blocks for a variable without blocks, by dimension: see `block_lengths`."""
    stored = x.encoding.get("preferred_chunks") or {}
    lengths = [_length(stored.get(dim, 1)) for dim in x.dims]
    axes = [axis for axis, dim in enumerate(x.dims) if dim in features]
    blocks = block_lengths(x.shape, lengths, axes, x.dtype.itemsize * n_variables, current().slab_bytes)
    return dict(zip(x.dims, blocks, strict=True))


def _length(stored: Any) -> int:
    """Length of most chunks of a file along a dimension."""
    return int(stored[0] if isinstance(stored, tuple) else stored)
