"""Contents of an address as a record for JSON: a model, a checkpoint, results or data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zarr

from .data.encoding import zarr_encoding
from .data.file_contents import file_record
from .data.files import file_kind
from .data.locations import Address, Location
from .data.store import arrays_of, describe, member, open_node, split_address
from .data.store_checks import product
from .data.write import read_record
from .errors import StoreError, UnsupportedDataError
from .estimators.loading import load
from .estimators.model_record import model_record
from .persistence import checkpoint, layout

Record = dict[str, Any]


def store_record(address: Address, storage_options: Mapping[str, Any] | None = None) -> Record:
    """Describe the contents of an address: a model, a checkpoint, results or samples that daskgmm wrote, or data.

    Parameters
    ----------
    address : str, path or store
    storage_options : mapping, optional
        Options of the URL's file system.

    Raises
    ------
    StoreNotFoundError, StoreError, ModelFormatError
        If nothing is there, or the contents are damaged.
    """
    if file_kind(address) is not None:
        return file_record(address, storage_options)
    whole = Location.of(address, storage_options, "address")
    path, inside = split_address(whole.address)
    location = whole if inside is None else Location.of(path, storage_options, "address")
    shown, node = whole.name, open_node(location)
    ours = read_record(node)
    if ours.get("format") == layout.KIND and inside is None:
        version = _shortened(ours.get("daskgmm_version"))
        return {**model_record(load(location)), "path": shown, "daskgmm_version": version}
    if ours.get("format") == checkpoint.KIND and inside is None:
        return checkpoint.checkpoint_record(location)
    if inside is not None:
        node = _member(node, inside)
    if isinstance(node, zarr.Array):
        return {"kind": "array", "path": shown, **_array_record(node)}
    arrays = {name: _array_record(array) for name, array in arrays_of(node)}
    record = {"kind": _shortened(ours.get("format", "group")), "path": shown, "arrays": arrays}
    # Attributes of a file must not make one kind of record look like another.
    hidden = {"format", "format_version", "means", *record}
    return {
        "kind": record["kind"],
        "path": shown,
        **{k: _shortened(v) for k, v in ours.items() if k not in hidden},
    } | record


def _shortened(value: Any, depth: int = 3) -> Any:
    """Shorten a value from a file for a summary: values nested deeper than ``depth`` become an ellipsis."""
    if isinstance(value, Mapping | list) and not depth:
        return "…"
    if isinstance(value, Mapping):
        return {key: _shortened(item, depth - 1) for key, item in value.items()}
    return [_shortened(item, depth - 1) for item in value] if isinstance(value, list) else value


def _member(node: Any, name: str) -> Any:
    inner = member(node, name) if isinstance(node, zarr.Group) else None
    if inner is None:
        raise StoreError(f"{describe(node)} has no {name!r:.80} inside it")
    return inner


def _array_record(array: zarr.Array[Any]) -> Record:
    shards = getattr(array, "shards", None)
    record: Record = {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "shards": list(shards) if shards else None,
        "bytes": product(array.shape) * array.dtype.itemsize,
        "zarr_format": array.metadata.zarr_format,
    }
    try:
        encoding = zarr_encoding(array, describe(array))
    except (StoreError, UnsupportedDataError) as error:
        record["values"] = str(error)
    else:
        if encoding is not None:
            record["values"] = encoding.as_record()
    if isinstance(array.store, zarr.storage.LocalStore | zarr.storage.ZipStore):
        record["bytes_stored"] = int(array.nbytes_stored())  # elsewhere it would take a request for every chunk
    return record
