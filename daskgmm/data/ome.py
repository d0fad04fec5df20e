"""OME-Zarr images (versions 0.4 and 0.5): the array of the highest resolution, and names of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zarr

_OME = "ome"  # attribute that holds the metadata from version 0.5 on


def _image(group: zarr.Group) -> Mapping[str, Any] | None:
    """Metadata of the first image of a group; None for a group that is no image."""
    attributes: Any = group.metadata.attributes  # any JSON value: Zarr does not check that it is a mapping
    if isinstance(attributes, dict) and isinstance(attributes.get(_OME), dict):
        attributes = attributes[_OME]
    images = attributes.get("multiscales") if isinstance(attributes, dict) else None
    return images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else None


def highest_resolution(group: zarr.Group) -> str | None:
    """Path of the array with the highest resolution inside the group of an image; None for other groups."""
    image = _image(group)
    levels = None if image is None else image.get("datasets")
    first = levels[0] if isinstance(levels, list) and levels else None
    path = first.get("path") if isinstance(first, dict) else None
    return path if isinstance(path, str) and path else None


def image_axes(array: zarr.Array[Any]) -> tuple[Any, ...] | None:
    """Names of the axes of an array, if the group right above it is an image."""
    if not array.path:
        return None
    above = array.path.rpartition("/")[0]
    try:
        group = zarr.open_group(array.store, path=above, mode="r", zarr_format=array.metadata.zarr_format)
    except Exception:
        return None  # no group, or a damaged one, has no names
    image = _image(group)
    axes = None if image is None else image.get("axes")
    if not isinstance(axes, list):
        return None
    return tuple(axis.get("name") if isinstance(axis, dict) else axis for axis in axes)
