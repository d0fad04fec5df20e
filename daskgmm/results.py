"""What a model says of rows, and rows drawn from it, as Zarr stores: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import zarr

from .data.accept import resolve
from .data.failures import short_errors
from .data.output import as_blocks
from .data.row_arrays import RowArray, write_rows
from .data.source import Source
from .data.store import describe, local_path, without_secrets
from .data.write import Address, check_room, check_target, new_store, record, writing
from .engine.events import Listener
from .engine.run import DaskEngine
from .errors import UnsupportedDataError
from .estimators.base import BaseMixture

Array = np.ndarray[Any, np.dtype[Any]]

RESULTS, SAMPLES = "results", "samples"
"""Kinds of stores, as `daskgmm.data.write.record` names them."""

_CHUNK_BYTES = 16 << 20

_LEAST_SAMPLE_SHARE = 0.5
"""Share of its size in memory that a sample takes on disk, compressed: random digits do not shrink."""


@short_errors
def write_predictions(
    model: BaseMixture[Any],
    data: Any,
    output: Address,
    *,
    probabilities: bool = False,
    log_density: bool = False,
    overwrite: bool = False,
    model_name: str | None = None,
    callbacks: Iterable[Listener] = (),
) -> dict[str, tuple[int, ...]]:
    """Write labels and, on request, probabilities and log-densities of all rows, in one pass over the data.

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
        Fitted; its ``scheduler`` says where the pass runs.
    data : path, URL, zarr.Array, h5py.Dataset or dask.array.Array
    output : str or path
        A new Zarr group with the arrays ``labels`` (n,), ``probabilities`` (n, K) and ``log_density`` (n,).
    probabilities, log_density : bool
        Whether to write these, too.
    overwrite : bool
        Replace results that are there.
    model_name : str, optional
        Said in the store's attributes, as the address of the data is.
    callbacks : iterable of callable
        Called with the events of the pass, which is named ``"predict"``.

    Returns
    -------
    dict of str to tuple of int
        Shape of every array.
    """
    data = resolve(data)
    if not isinstance(data, da.Array | Source):
        raise UnsupportedDataError(
            f"data are a {type(data).__name__}; expected a path or URL, a Zarr array, an h5py.Dataset or a dask array"
        )
    source = str(data) if isinstance(data, Source) else "a dask array"
    model._accept_new(data)
    blocks = as_blocks(data, 8 * (1 + len(model.weights_) * probabilities + log_density))
    arrays = _row_arrays(model, blocks, probabilities, log_density)
    with (
        new_store(output, record(RESULTS, data=source, model=_full(model_name)), overwrite=overwrite) as group,
        DaskEngine(model.scheduler, listeners=callbacks) as engine,
        engine.announced("predict", blocks.shape[0], blocks.numblocks[0]) as on_rows,
    ):
        write_rows(group, arrays, partial(engine.compute, place=partial(_place, group, source)), on_rows)
        if isinstance(data, Source):
            data.check_unchanged()
    return {name: array.values.shape for name, array in arrays.items()}


def _place(group: zarr.Group, source: str, block: int) -> str:
    """What an error calls a block of rows; each is a chunk of the results."""
    rows = group["labels"]
    start = block * rows.chunks[0]  # type: ignore[union-attr]
    return f"rows {start} to {min(start + rows.chunks[0], rows.shape[0])} of {source}"  # type: ignore[union-attr]


def _row_arrays(
    model: BaseMixture[Any], blocks: da.Array, probabilities: bool, log_density: bool
) -> dict[str, RowArray]:
    arrays = {"labels": RowArray(model.predict(blocks), -1, {"long_name": "most probable component"})}
    if probabilities:
        arrays["probabilities"] = RowArray(
            model.predict_proba(blocks), np.nan, {"long_name": "posterior probability of each component"}
        )
    if log_density:
        arrays["log_density"] = RowArray(
            model.score_samples(blocks), np.nan, {"long_name": "logarithm of the mixture's density", "units": "nat"}
        )
    return arrays


@short_errors
def write_samples(
    model: BaseMixture[Any], n_samples: int, output: Address, *, overwrite: bool = False, model_name: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Draw rows and write them, with the component of each: those of ``model.sample(n_samples)``, chunk by chunk.

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
    n_samples : int
    output : str or path
        A new Zarr group with the arrays ``rows`` (n, D) and ``labels`` (n,), grouped by component.
    overwrite : bool
        Replace samples that are there.
    model_name : str, optional
        Said in the store's attributes.

    Returns
    -------
    dict of str to tuple of int
        Shape of every array.
    """
    blocks, n_features = model._sample_blocks(n_samples), model._parameters().n_features
    chunk = max(1, min(n_samples, _CHUNK_BYTES // (8 * n_features)))
    shapes: dict[str, tuple[int, ...]] = {"rows": (n_samples, n_features), "labels": (n_samples,)}
    check_target(output, SAMPLES, overwrite=overwrite)
    check_room(output, int(_LEAST_SAMPLE_SHARE * 8 * n_samples * n_features))
    with new_store(output, record(SAMPLES, model=_full(model_name)), overwrite=overwrite) as group:
        rows = group.create_array(
            "rows",
            shape=shapes["rows"],
            chunks=(chunk, n_features),
            dtype=np.float64,
            fill_value=np.nan,
            dimension_names=("row", "feature"),
        )
        labels = group.create_array(
            "labels", shape=shapes["labels"], chunks=(chunk,), dtype=np.int64, fill_value=-1, dimension_names=("row",)
        )
        for start, drawn, components in _chunks(blocks, chunk, n_features):
            with writing(f"Rows {start} to {start + len(drawn)} of {describe(rows)}"):
                rows[start : start + len(drawn)] = drawn
                labels[start : start + len(drawn)] = components
    return shapes


def _chunks(blocks: Iterable[tuple[Array, int]], length: int, n_features: int) -> Iterator[tuple[int, Array, Array]]:
    """Blocks of one component each, as chunks of equal length: first row, rows, components."""
    rows, components = np.empty((length, n_features)), np.empty(length, np.int64)
    start = filled = 0
    for block, component in blocks:
        while len(block):
            taken = min(len(block), length - filled)
            rows[filled : filled + taken], components[filled : filled + taken] = block[:taken], component
            block, filled = block[taken:], filled + taken
            if filled == length:
                yield start, rows, components
                start, filled = start + length, 0
    if filled:
        yield start, rows[:filled], components[:filled]


def _full(name: str | None) -> str | None:
    return name and (local_path(name) or without_secrets(name))
