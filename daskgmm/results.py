"""Predictions of a model, and rows drawn from it, as Zarr stores; each store appears complete or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import zarr

from .data.dataset import Dataset
from .data.dimensions import Layout, given_layout
from .data.failures import short_errors
from .data.files import file_address, naming_files
from .data.grid_arrays import check_coordinates, create_grid_arrays, in_blocks, n_chunks, numbered, write_blocks
from .data.input_kinds import Grid
from .data.locations import Address, Location
from .data.reading import Reading
from .data.row_arrays import RowWriter, create_arrays
from .data.store import describe, local_path, without_secrets
from .data.write import check_room, check_target, new_store, record, writing
from .engine.events import Listener
from .engine.memory import PassPlan
from .engine.run import DaskEngine
from .estimators.base import BaseMixture
from .fitting.predictions import PredictionFold

Array = np.ndarray[Any, np.dtype[Any]]

RESULTS, SAMPLES = "results", "samples"
"""Kinds of stores, as `daskgmm.data.write.record` names them."""

_FILL_VALUES = {"labels": -1, "responsibilities": np.nan, "log_density": np.nan, "outliers": False}
"""Values of lost chunks by the names of a model's outputs; none of them is a result, except for flags."""

_FILL_VALUES_WITH_GAPS = _FILL_VALUES | {"labels": -2, "responsibilities": np.inf, "log_density": np.inf}
"""The same where −1 and NaN are the results of incomplete rows."""

_GridRows = tuple[Any, Grid]
"""Rows, in memory or as a dask array, and the grid on which they lie."""

_CHUNK_BYTES = 16 << 20

_LEAST_SAMPLE_SHARE = 0.5
"""Compressed size of a sample as a share of its size in memory: random digits do not shrink."""


@short_errors
def write_predictions(
    model: BaseMixture[Any],
    X: Any,
    output: Address,
    *,
    dim: str | Sequence[str] | None = None,
    feature_axis: int | None = None,
    probabilities: bool = False,
    log_density: bool = False,
    outliers: float | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    model_name: str | None = None,
    callbacks: Iterable[Listener] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Write labels and, on request, probabilities and log-densities of all rows, in one pass over the data.

    The store is complete when it appears under its name. If the pass fails, nothing of the store is left.

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
        Fitted model, whose ``scheduler`` runs the pass.
    X : array-like of shape (n, D)
        Anything that `fit` takes.
    output : str, path or store
        A new Zarr group with the arrays ``labels`` (n,), ``probabilities`` (n, K), ``log_density`` (n,) and
        ``outliers`` (n,). Their chunks follow from the shape and the chunks of the data. For samples on a grid, the
        arrays have the grid's shape, the names of its dimensions, and, for xarray objects, the coordinates;
        ``xarray.open_zarr`` opens them. A path, a URL, or a place in an open store: a zarr Store, StorePath or empty
        Group, or a mapper of fsspec.
    dim : str or sequence of str, optional
        Sample dimensions, as for the model's `predict`.
    feature_axis : int, optional
        Axis of the features, as for the model's `predict`.
    probabilities, log_density : bool, default=False
        Also write these arrays.
    outliers : float, optional
        Also write which rows have a log-density below this threshold, see the model's `threshold`. Incomplete rows that
        are left out are none.
    overwrite : bool, default=False
        Replace existing results.
    storage_options : mapping, optional
        Options of the file system of ``output``, if that is a URL.
    model_name : str, optional
        Name of the model in the store's attributes, which hold the address of the data, too.
    callbacks : iterable of callable, optional
        Called with the events of the pass, which is named ``"predict"``. None: the model's own callbacks.

    Returns
    -------
    dict of str to tuple of int
        Shape of every array.

    Raises
    ------
    NotFittedError
        If the model has no parameters.
    OutputExistsError
        If ``output`` exists and may not be replaced, or another run is writing there.
    OutputError
        If the storage is full or fails; the message names array and rows.
    ValueError, TypeError
        If the data do not have the model's features, are not finite (`NonFiniteDataError` names the row), or are not
        numbers.
    WorkerMemoryError
        If the pass would not fit into the memory of the cluster's workers; raised before any row is read.
    DataChangedError, ChunkError, StoreNotFoundError
        If the data change, are damaged, or are gone.
    SchedulerError
        If the scheduler does not answer, or goes away for good.
    """
    target = Location.of(output, storage_options, "output")
    check_target(target, RESULTS, overwrite=overwrite)
    names = _names(probabilities=probabilities, log_density=log_density, outliers=_checked(outliers))
    layout = given_layout(dim, feature_axis)
    with _prepared(model, X, names, layout, callbacks) as (engine, dataset, fold, gridded):
        address = file_address(X) or (None if gridded is None else gridded[1].address)
        attributes = record(RESULTS, data=address or _source(dataset), model=_full(model_name))
        if outliers is not None:
            fold = replace(fold, outputs=fold.outputs.with_threshold(float(outliers)))
        if gridded is not None:
            check_coordinates(gridded[1], fold.outputs.outputs)
            engine.plan(dataset, fold)
        with new_store(target, attributes, overwrite=overwrite) as group:
            if gridded is None:
                writer = _write_rows(engine, dataset, fold, group)
            else:
                writer = _write_grid(engine, dataset, fold, group, *gridded)
            writer.check_complete()
    return {target.basename: target.shape for target in writer.targets}


def _write_rows(engine: DaskEngine, dataset: Dataset, fold: PredictionFold, group: zarr.Group) -> RowWriter:
    """Write the results of every row, chunk by chunk, in a pass over the rows."""
    writer = create_arrays(group, fold.outputs.outputs, _fill_values(dataset), (dataset.n_rows,), (fold.chunk_rows,))
    if engine.is_remote:
        writer.check_travels()
    engine.run(dataset, replace(fold, writer=writer), "predict")
    return writer


def _write_grid(
    engine: DaskEngine, dataset: Dataset, fold: PredictionFold, group: zarr.Group, rows: Any, grid: Grid
) -> RowWriter:
    """Write the results of samples on a grid, block by block."""
    own = grid.raveling
    blocks, grid = in_blocks(rows, grid, sum(output.row_bytes for output in fold.outputs.outputs))
    writer = create_grid_arrays(group, grid, fold.outputs.outputs, _fill_values(dataset))
    if engine.is_remote:
        writer.check_travels()
    with numbered(grid.raveling, own), engine.announced("predict", dataset.n_rows, n_chunks(grid.raveling)) as running:
        engine.compute(write_blocks(blocks, grid, fold.outputs, writer, running.on_rows))
        running.reading = Reading(dataset.n_rows * dataset.rows.row_bytes)
    return writer


def _fill_values(dataset: Dataset) -> Mapping[str, float]:
    return _FILL_VALUES_WITH_GAPS if dataset.row_kind.leaves_out else _FILL_VALUES


def plan_predictions(
    model: BaseMixture[Any],
    X: Any,
    *,
    dim: str | Sequence[str] | None = None,
    feature_axis: int | None = None,
    probabilities: bool = False,
    log_density: bool = False,
    outliers: float | None = None,
) -> PassPlan:
    """Plan the pass of `write_predictions`; the rows are not read.

    Raises
    ------
    WorkerMemoryError
        If the pass would not fit into the workers.
    """
    names = _names(probabilities=probabilities, log_density=log_density, outliers=outliers)
    with _prepared(model, X, names, given_layout(dim, feature_axis), ()) as (engine, dataset, fold, _):
        return engine.plan(dataset, fold)


def _names(*, probabilities: bool, log_density: bool, outliers: float | None) -> list[str]:
    chosen = {"responsibilities": probabilities, "log_density": log_density, "outliers": outliers is not None}
    return ["labels", *(name for name, is_chosen in chosen.items() if is_chosen)]


def _checked(threshold: Any) -> float | None:
    """Validate the threshold of outliers: not the flag or the share that a caller may have meant."""
    if threshold is None:
        return None
    expected = "expected a log-density, such as model.threshold(X, contamination=0.01)"
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"outliers={threshold!r:.80}; {expected}")
    try:
        value = float(threshold)
    except OverflowError:
        raise ValueError(f"outliers is an integer beyond the range of double precision; {expected}") from None
    if math.isnan(value):
        raise TypeError(f"outliers={threshold!r:.80}; {expected}")
    return value


@contextmanager
def _prepared(
    model: BaseMixture[Any], X: Any, names: Sequence[str], layout: Layout, callbacks: Iterable[Listener] | None
) -> Iterator[tuple[DaskEngine, Dataset, PredictionFold, _GridRows | None]]:
    accepted, prepared = model._accept_new(X, layout)
    with naming_files(X), model._pass_over(accepted, callbacks=callbacks) as (engine, dataset):
        outputs = model._outputs(accepted.with_rows(dataset.rows), prepared, *names)
        grid = accepted.grid
        gridded: _GridRows | None = None
        if grid is not None and (grid.dims is not None or len(grid.raveling.shape) > 1):
            gridded = accepted.rows, grid
        yield engine, dataset, PredictionFold.over(dataset, outputs), gridded


def _source(dataset: Dataset) -> str:
    """Name of the data for the store's attributes."""
    rows = dataset.rows
    return f"{'an' if rows.kind[0] == 'a' else 'a'} {rows.kind}" if rows.address is None else str(rows)


@short_errors
def write_samples(
    model: BaseMixture[Any],
    n_samples: int,
    output: Address,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    model_name: str | None = None,
) -> dict[str, tuple[int, ...]]:
    """Draw the rows of ``model.sample(n_samples)``, and write them with their components, chunk by chunk.

    Parameters
    ----------
    model : GaussianMixture or BayesianGaussianMixture
    n_samples : int
    output : str, path or store
        A new Zarr group with the arrays ``rows`` (n, D) and ``labels`` (n,), grouped by component.
    overwrite : bool
        Replace existing samples.
    storage_options : mapping, optional
        Options of the file system of ``output``, if that is a URL.
    model_name : str, optional
        Name of the model in the store's attributes.

    Returns
    -------
    dict of str to tuple of int
        Shape of every array.
    """
    blocks, n_features = model._sample_blocks(n_samples), model._parameters().n_features
    chunk = max(1, min(n_samples, _CHUNK_BYTES // (8 * n_features)))
    shapes: dict[str, tuple[int, ...]] = {"rows": (n_samples, n_features), "labels": (n_samples,)}
    target = Location.of(output, storage_options, "output")
    check_target(target, SAMPLES, overwrite=overwrite)
    check_room(target, int(_LEAST_SAMPLE_SHARE * 8 * n_samples * n_features))
    with new_store(target, record(SAMPLES, model=_full(model_name)), overwrite=overwrite) as group:
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
            with writing(f"Rows {start} to {start + len(drawn)} of {describe(rows)}", rows):
                rows[start : start + len(drawn)] = drawn
                labels[start : start + len(drawn)] = components
    return shapes


def _chunks(blocks: Iterable[tuple[Array, int]], length: int, n_features: int) -> Iterator[tuple[int, Array, Array]]:
    """Cut blocks of one component each into chunks of equal length; yield first row, rows, and components."""
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
