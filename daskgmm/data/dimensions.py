"""Dimensions of an input: those of the samples, which become the rows, and those of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..errors import DimensionError

FEATURE_DIMENSIONS = ("feature", "variable", "band", "channel", "c")
"""Names by which a dimension of features is known, if no sample dimensions are given."""

_FEWEST_EXCHANGED = 256  # features that are taken for samples, where there are fewer samples


@dataclass(frozen=True)
class Layout:
    """Division of an input's dimensions, as far as the caller and an earlier fit determine it."""

    dim: tuple[str, ...] | None = None
    """Names of the sample dimensions, given by the caller."""
    feature_axis: int | None = None
    """Axis of the features, given by the caller; negative numbers count from the end."""
    feature_dims: tuple[str, ...] | None = None
    """Feature dimensions of the fit; empty where variables are the features."""
    axis_of_fit: int | None = None
    """Axis of the features in the fit, for arrays of more than two dimensions."""
    feature_names: tuple[str, ...] | None = None
    """Names of the features of the fit."""
    beside: tuple[str, ...] = ()
    """Names of variables that are no features, because they are sample weights."""
    is_fit: bool = False
    """The caller fits a mixture to the input."""

    @property
    def is_given(self) -> bool:
        """Test whether the caller has said anything about the dimensions."""
        return self.dim is not None or self.feature_axis is not None

    def in_order_of_fit(self, features: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return feature dimensions in the order of the fit if they are those of the fit, else unchanged."""
        known = self.feature_dims or ()
        return known if {*known} == {*features} else features


PLAIN = Layout()
"""Layout about which nobody has said anything."""


def given_layout(dim: Any = None, feature_axis: Any = None, **more: Any) -> Layout:
    """Validate the parameters ``dim`` and ``feature_axis``; ``more`` are other fields of the layout.

    Raises
    ------
    TypeError
        If ``dim`` is no text or sequence of texts, or ``feature_axis`` is no integer.
    DimensionError
        If both are given, or if ``dim`` names no dimension, or one twice.
    """
    if dim is not None and feature_axis is not None:
        raise DimensionError(
            f"dim={dim!r:.80} and feature_axis={feature_axis!r:.20} are both given; give dim for an input with names "
            "of dimensions, and feature_axis for an array without names"
        )
    if feature_axis is not None:
        if isinstance(feature_axis, bool) or not isinstance(feature_axis, Integral):
            raise TypeError(f"feature_axis={feature_axis!r:.80}; expected an integer, such as 0 or -1")
        return Layout(feature_axis=int(feature_axis), **more)
    return Layout(dim=None if dim is None else _names(dim), **more)


def _names(dim: Any) -> tuple[str, ...]:
    names = (dim,) if isinstance(dim, str) else tuple(dim) if isinstance(dim, Sequence | set | frozenset) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"dim={dim!r:.80}; expected the name of a sample dimension or several names, such as 'time' or "
            "('time', 'lat', 'lon')"
        )
    if not names:
        raise DimensionError(
            "dim is empty; expected the names of the sample dimensions, such as ('time', 'lat', 'lon')"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DimensionError(f"dim={dim!r:.80} names {shown(twice)} twice; expected every sample dimension once")
    return names


def shown(names: Sequence[Any]) -> str:
    """Return names for a message."""
    return ", ".join(f"{name!r:.80}" for name in names[:10]) + ", …" * (len(names) > 10) or "none"


def check_known(dim: Sequence[str], known: Sequence[Any], name: str = "X") -> None:
    """Raise `DimensionError` for a sample dimension that the input does not have."""
    if unknown := [one for one in dim if one not in known]:
        raise DimensionError(
            f"{name} has no dimension {shown(unknown)}, which dim names as sample dimension; its dimensions are "
            f"{shown(list(known))}."
        )


def split_dimensions(
    sizes: Mapping[Any, int], layout: Layout, name: str = "X"
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Divide the dimensions of one array into sample dimensions and feature dimensions.

    Both are in the array's order, except for feature dimensions of the fit, which are in the order of the fit.

    Parameters
    ----------
    sizes : mapping
        Length of every dimension by its name, in the order of the axes.
    layout : Layout
    name : str
        Name of the parameter in errors.

    Raises
    ------
    DimensionError
        If the layout does not fit these dimensions, or leaves no dimension for samples or none for features.
    """
    dims = tuple(sizes)
    features = layout.in_order_of_fit(_feature_dims(sizes, layout, name))
    samples = tuple(one for one in dims if one not in features)
    if not features:
        raise DimensionError(
            f"dim={layout.dim!r:.200} names all dimensions of {name}, so that none is left for the features. For one "
            f"feature, add a dimension: {name}.expand_dims('feature')."
        )
    if not samples:
        raise DimensionError(
            f"{name} has the dimension {shown(dims)} alone; expected one or more dimensions of samples and one of "
            f"features. For one feature, add a dimension: {name}.expand_dims('feature', axis=-1)."
        )
    return samples, features


def _feature_dims(sizes: Mapping[Any, int], layout: Layout, name: str) -> tuple[Any, ...]:
    dims = tuple(sizes)
    if layout.dim is not None:
        check_known(layout.dim, dims, name)
        return tuple(one for one in dims if one not in layout.dim)
    if layout.feature_axis is not None:
        return (dims[checked_axis(layout.feature_axis, len(dims), name)],)
    if layout.feature_dims:
        return _features_of_fit(dims, layout.feature_dims, name)
    if named := [one for one in dims if one in FEATURE_DIMENSIONS]:
        if len(named) > 1:
            raise DimensionError(
                f"{name} has the dimensions {shown(named)}, and each of them is a name for features. Name the sample "
                f"dimensions, for example dim={_others(dims, named[0])}."
            )
        return (named[0],)
    if layout.is_fit:
        _check_not_exchanged(sizes, name)
    return dims[-1:]


def _features_of_fit(dims: tuple[Any, ...], features: tuple[str, ...], name: str) -> tuple[Any, ...]:
    if missing := [one for one in features if one not in dims]:
        raise DimensionError(
            f"{name} has no dimension {shown(missing)}, which was a dimension of features in the fit; its dimensions "
            f"are {shown(dims)}. Rename one, or name the sample dimensions with dim."
        )
    return tuple(one for one in dims if one in features)


def _check_not_exchanged(sizes: Mapping[Any, int], name: str) -> None:
    """Raise for a matrix without known names that has far more features than samples, if its last axis is features."""
    if len(sizes) != 2:
        return
    (first, n_samples), (last, n_features) = sizes.items()
    if n_features > max(n_samples, _FEWEST_EXCHANGED):
        raise DimensionError(
            f"{name} has the dimensions {first!r} ({n_samples}) and {last!r} ({n_features}). The last one is taken for "
            f"the features, which would be {n_features} features of {n_samples} samples. If {last!r} are the samples, "
            f"pass dim={last!r} or {name}.transpose({last!r}, {first!r}); if they are the features, pass "
            f"dim={first!r}."
        )


def _others(dims: Sequence[Any], feature: Any) -> tuple[Any, ...]:
    return tuple(one for one in dims if one != feature)


def checked_axis(axis: int, n_dims: int, name: str = "X") -> int:
    """Return an axis counted from the front.

    Raises
    ------
    DimensionError
        If there is no such axis.
    """
    if not -n_dims <= axis < n_dims:
        raise DimensionError(
            f"feature_axis={axis}, and {name} has {n_dims} dimension(s); expected an axis from {-n_dims} to "
            f"{n_dims - 1}"
        )
    return axis % n_dims


def unnamed(layout: Layout, name: str, kind: str, n_dims: int | None = None) -> DimensionError:
    """Make the error for dimensions or an axis of an input that has neither."""
    if layout.dim is None:
        return DimensionError(
            f"feature_axis={layout.feature_axis}, but {name} is {kind}; expected an array. Convert it, for example "
            f"with numpy.asarray({name})."
        )
    advice = (
        f"Say which axis has the features with feature_axis=, or name the dimensions: "
        f"xarray.DataArray({name}, dims=(…))."
        if n_dims is None or n_dims > 1
        else f"Name the dimensions: xarray.DataArray({name}, dims=(…))."
    )
    return DimensionError(f"dim={layout.dim!r:.200}, but {name} is {kind} without names of dimensions. {advice}")
