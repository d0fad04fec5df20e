"""Commands of the terminal as functions: each takes names of data, models and outputs, and returns a record.

``parameters`` are the parameters of the model's class, which explains them; ``weights_init``, ``means_init`` and
``precisions_init`` name files. Names of outputs are checked before anything else. ``callbacks`` are called with every
event. Arguments that make no sense raise `WrongArguments`.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any

import dask
from sklearn.base import clone

from .data.dimensions import given_layout
from .data.files import file_kind, locate, open_address, open_file
from .data.inputs import in_memory, naming
from .data.locations import Location
from .data.store import local_path, open_zarr, split_address, without_secrets
from .data.write import check_target
from .diagnostics.selection_view import check_picture, save_picture
from .engine.cluster import embedded_cluster, planned_cluster
from .engine.events import Listener
from .engine.scheduler import UncountedRowsError
from .engine.scheduler_choice import find_scheduler
from .errors import InterruptedWarning, StoreError
from .estimators.base import BaseMixture
from .estimators.bayesian_mixture import BayesianGaussianMixture
from .estimators.gaussian_mixture import GaussianMixture
from .estimators.grid import check_criterion, check_keys
from .estimators.loading import load
from .estimators.model_record import Record, model_record
from .estimators.selection import select as daskgmm_select
from .estimators.validation import check_share
from .fitting.plan import FitPlan
from .results import RESULTS, SAMPLES, plan_predictions, write_predictions, write_samples

_MOST_NUMBERS = 10**9

_FILES = ("weights_init", "means_init", "precisions_init")
"""Parameters whose values are names of files."""


class WrongArguments(ValueError):
    """Arguments that make no sense, alone or together, for any data."""


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    """Turn errors of arguments into `WrongArguments`; the block reads no data, whose errors are of other kinds."""
    try:
        yield
    except StoreError:
        raise
    except (ValueError, TypeError) as error:
        raise WrongArguments(str(error)) from error


@dataclass(frozen=True)
class Compute:
    """Resources that run passes: a scheduler, worker processes of this machine, or threads of this process."""

    scheduler: str | None = None
    """Address of a scheduler; excludes the other fields."""
    workers: int | None = None
    """Number of worker processes to start."""
    threads: int | None = None
    """Number of threads of each worker process, or of this process."""
    memory_limit: int | str | None = None
    """Memory of each worker process, in bytes or with a unit."""

    @property
    def _is_cluster(self) -> bool:
        """Test whether worker processes are to be started."""
        return bool(self.workers or self.memory_limit)

    @property
    def _cluster(self) -> tuple[int | None, int | None, int | str]:
        return self.workers, self.threads, self.memory_limit or "auto"

    def check(self) -> None:
        """Raise `WrongArguments` if no pass could run here; nothing is started."""
        with _checking(), self.describe() as scheduler:
            find_scheduler(scheduler)

    def check_memory(self, model: BaseMixture[Any], plan: Callable[[BaseMixture[Any]], Any]) -> None:
        """Raise `WorkerMemoryError` if the work of a model does not fit into the workers that are to be started.

        Parameters
        ----------
        model : GaussianMixture or BayesianGaussianMixture
        plan : callable
            Plans the work of a model on the model's scheduler; the rows are not read.
        """
        if not self._is_cluster:
            return
        with self.describe() as cluster:
            planned = copy(model)
            with contextlib.suppress(UncountedRowsError):  # the workers count the rows, and check before a pass
                plan(planned.set_params(scheduler=cluster))

    @contextlib.contextmanager
    def start(self, callbacks: Iterable[Listener] = ()) -> Iterator[Any]:
        """Start worker processes if they are requested, and yield the value of a model's ``scheduler``."""
        if self._is_cluster:
            with embedded_cluster(*self._cluster, callbacks=callbacks) as client:
                yield client
            return
        with self.describe() as scheduler:
            yield scheduler

    @contextlib.contextmanager
    def describe(self) -> Iterator[Any]:
        """Yield the ``scheduler`` of a model that only plans; no worker is started."""
        if self._is_cluster:
            yield planned_cluster(*self._cluster)
            return
        with dask.config.set({"num_workers": self.threads} if self.threads else {}):
            yield self.scheduler


@dataclass(frozen=True)
class CheckpointOptions:
    """Address of a fit's checkpoint, and the decision to resume from it."""

    checkpoint: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class Rows:
    """Names of the data: an array or table of rows and, optionally, weights."""

    address: str
    array: str | None = None
    weights: str | None = None
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    """Options of the file systems of URLs: of these arrays, and of models and outputs of the same command."""
    dim: Sequence[str] | None = None
    """Names of the sample dimensions."""
    feature_axis: int | None = None
    """Axis of the features."""

    @property
    def layout(self) -> Mapping[str, Any]:
        """Arguments of `fit` and `predict` about dimensions."""
        return {"dim": self.dim, "feature_axis": self.feature_axis}

    def open(self) -> Any:
        """Open the Zarr array of rows; return the address of a file of another kind, which the estimator opens."""
        if file_kind(self.address) is None:
            return open_zarr(self.address, self.array, storage_options=self.storage_options)
        if self.storage_options and local_path(self.address) is None:
            return open_file(self.address, inside=self.array, storage_options=self.storage_options)
        if self.array is None:
            return self.address
        locate(self.address, self.array)  # which refuses another name in the address
        return f"{split_address(self.address)[0]}::{self.array}"

    def open_weights(self) -> Any:
        """Open the array of weights without loading it; return None for no weights, and the name of a column."""
        kind = file_kind(self.address)
        if self.weights is None or (kind is not None and kind.is_table and "://" not in self.weights):
            return self.weights
        with naming("sample_weight"):
            return open_address(self.weights, "sample_weight", storage_options=self.storage_options)


def kind_of_model(*, bayesian: bool) -> type[BaseMixture[Any]]:
    """Return the class of the estimator."""
    return BayesianGaussianMixture if bayesian else GaussianMixture


def fit(
    rows: Rows,
    model: str,
    parameters: Mapping[str, Any],
    *,
    bayesian: bool = False,
    warm_start: str | None = None,
    overwrite: bool = False,
    checkpoint_options: CheckpointOptions = CheckpointOptions(),
    compute: Compute = Compute(),
    callbacks: Sequence[Listener] = (),
) -> Record:
    """Fit a mixture and save it.

    ``warm_start`` names a model to continue from; its parameters hold unless ``parameters`` has others.
    """
    compute.check()
    target = Location.of(model, rows.storage_options, "model")
    _check_output(target, "model", overwrite, rows.address, rows.weights, checkpoint_options.checkpoint)
    estimator = _unfitted(parameters, bayesian, warm_start, rows.storage_options).set_params(callbacks=callbacks)
    data, weights = rows.open(), rows.open_weights()
    compute.check_memory(estimator, lambda model: model.plan(data, weights, **rows.layout))
    begin = time.perf_counter()
    # `verbose` prints on standard output, which belongs to the result here.
    with compute.start(callbacks) as scheduler, contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        # The warning suggests warm_start, which needs the estimator; the estimator ends with this process.
        warnings.simplefilter("ignore", InterruptedWarning)
        estimator.set_params(scheduler=scheduler).fit(
            data, sample_weight=weights, **rows.layout, **vars(checkpoint_options)
        )
    seconds = round(time.perf_counter() - begin, 3)
    estimator.set_params(warm_start=False).save(model, overwrite=overwrite, storage_options=rows.storage_options)
    return {
        **model_record(estimator),
        "n_rows": estimator.origin_.data.shape[0],
        **_left_out(estimator.origin_.n_incomplete),
        "seconds": seconds,
        "model": without_secrets(model),
    }


def plan(
    rows: Rows,
    parameters: Mapping[str, Any],
    *,
    bayesian: bool = False,
    warm_start: str | None = None,
    compute: Compute = Compute(),
) -> FitPlan:
    """Plan the passes and the memory of `fit`; the rows are not read."""
    compute.check()
    estimator = _unfitted(parameters, bayesian, warm_start, rows.storage_options)
    data, weights = rows.open(), rows.open_weights()
    with compute.describe() as scheduler:
        return estimator.set_params(scheduler=scheduler).plan(data, weights, **rows.layout)


@dataclass(frozen=True)
class Candidates:
    """Mixtures to compare, and the rules of the comparison: parameters of `daskgmm.select`."""

    n_components: Sequence[int]
    covariance_types: Sequence[str]
    criterion: str
    held_out: float | None = None
    patience: int | None = None

    @classmethod
    def names(cls) -> list[str]:
        """Names of the fields."""
        return [field.name for field in fields(cls)]

    def largest(self, estimator: BaseMixture[Any]) -> list[BaseMixture[Any]]:
        """Make the candidate with the most components of each covariance type, from the given estimator."""
        with _checking():
            check_criterion(estimator, self.criterion, self.held_out, self.patience)
            numbers = {name: number for number, name in sorted(check_keys(self.n_components, self.covariance_types))}
            models = [clone(estimator).set_params(n_components=k, covariance_type=name) for name, k in numbers.items()]
            for model in models:
                model._check_settings()
        return models


def select(
    rows: Rows,
    candidates: Candidates,
    parameters: Mapping[str, Any],
    *,
    bayesian: bool = False,
    model: str | None = None,
    picture: str | None = None,
    overwrite: bool = False,
    checkpoint_options: CheckpointOptions = CheckpointOptions(),
    compute: Compute = Compute(),
    callbacks: Sequence[Listener] = (),
) -> Record:
    """Compare several mixtures, and on request save the best one and a plot of the criterion."""
    compute.check()
    estimator = _unfitted(parameters, bayesian, None, rows.storage_options)
    largest = candidates.largest(estimator)
    if model is not None:
        target = Location.of(model, rows.storage_options, "model")
        _check_output(target, "model", overwrite, rows.address, rows.weights, checkpoint_options.checkpoint)
    if picture is not None:
        with _checking():
            check_picture(picture, overwrite=overwrite)
    data, weights = rows.open(), rows.open_weights()
    for candidate in largest:
        compute.check_memory(candidate, lambda model: model.plan(data, weights, **rows.layout))
    begin = time.perf_counter()
    with compute.start(callbacks) as scheduler, contextlib.redirect_stdout(sys.stderr):
        selection = daskgmm_select(
            data,
            estimator=estimator,
            sample_weight=weights,
            scheduler=scheduler,
            callbacks=callbacks,
            **rows.layout,
            **vars(candidates),
            **vars(checkpoint_options),
        )
    record = {**selection.as_record(), "seconds": round(time.perf_counter() - begin, 3)}
    if model is not None:
        selection.model.save(model, overwrite=overwrite, storage_options=rows.storage_options)
        record["model"] = without_secrets(model)
    if picture is not None:
        save_picture(record, picture, overwrite=overwrite)
        record["plot"] = picture
    return record


def _unfitted(
    parameters: Mapping[str, Any], bayesian: bool, warm_start: str | None, storage_options: Mapping[str, Any] | None
) -> BaseMixture[Any]:
    """Make the estimator that a fit begins with."""
    estimator = (
        kind_of_model(bayesian=bayesian)() if warm_start is None else load(warm_start, storage_options=storage_options)
    )
    with _checking():
        _check_kind(estimator, parameters, bayesian, warm_start)
    estimator.set_params(**{name: _value(name, value, storage_options) for name, value in parameters.items()})
    estimator.set_params(warm_start=warm_start is not None)
    with _checking():
        estimator._check_settings()
    return estimator


def _check_kind(model: BaseMixture[Any], parameters: Mapping[str, Any], bayesian: bool, warm_start: str | None) -> None:
    """Raise for parameters of the other kind of mixture."""
    foreign = sorted(parameters.keys() - model.get_params().keys())
    if bayesian and not isinstance(model, BayesianGaussianMixture):
        foreign.append("bayesian=True")
    if not foreign:
        return
    if warm_start is not None:
        raise ValueError(f"{', '.join(foreign)}: the model of warm_start is a {type(model).__name__}.")
    raise ValueError(f"{', '.join(foreign)}: allowed only {'without' if bayesian else 'with'} bayesian=True.")


def predict(
    rows: Rows,
    model: str,
    output: str,
    *,
    probabilities: bool = False,
    log_density: bool = False,
    outliers: float | None = None,
    missing: str | None = None,
    overwrite: bool = False,
    compute: Compute = Compute(),
    callbacks: Sequence[Listener] = (),
) -> Record:
    """Write the labels of all rows, and on request probabilities, log-densities, and a share of outliers."""
    compute.check()
    if outliers is not None:
        check_share("outliers", outliers)
    target = Location.of(output, rows.storage_options, "output")
    _check_output(target, RESULTS, overwrite, rows.address, model)
    estimator, data = _fitted(model, missing, rows.storage_options), rows.open()
    outputs: dict[str, Any] = {"probabilities": probabilities, "log_density": log_density, "outliers": outliers}
    compute.check_memory(estimator, lambda model: plan_predictions(model, data, **outputs, **rows.layout))
    begin = time.perf_counter()
    with compute.start(callbacks) as scheduler:
        estimator.set_params(scheduler=scheduler, callbacks=callbacks)
        if outliers is not None:
            outputs["outliers"] = estimator.threshold(data, outliers, **rows.layout)
        shapes = write_predictions(
            estimator,
            data,
            output,
            **rows.layout,
            **outputs,
            overwrite=overwrite,
            storage_options=rows.storage_options,
            model_name=model,
            callbacks=callbacks,
        )
    found = {} if outliers is None else {"threshold": outputs["outliers"]}
    seconds = round(time.perf_counter() - begin, 3)
    return {**_written(RESULTS, output, math.prod(shapes["labels"]), shapes), **found, "seconds": seconds}


def score(
    rows: Rows,
    model: str,
    *,
    missing: str | None = None,
    compute: Compute = Compute(),
    callbacks: Sequence[Listener] = (),
) -> Record:
    """Compute the mean log-density of the rows and the model's information criteria, in one pass."""
    compute.check()
    estimator, data, weights = _fitted(model, missing, rows.storage_options), rows.open(), rows.open_weights()
    entropy, layout = estimator._has_criteria, given_layout(**rows.layout)
    compute.check_memory(estimator, lambda model: model._plan_score(data, weights, layout, entropy=entropy))
    with compute.start(callbacks) as scheduler:
        estimator.set_params(scheduler=scheduler, callbacks=callbacks)
        total = estimator._score(data, weights, layout, entropy=entropy)
    return {
        "kind": "score",
        "log_likelihood": total.mean_log_likelihood,
        "n_rows": total.n_rows,
        **_left_out(total.n_incomplete),
        **estimator._criteria(total),
    }


def _fitted(model: str, missing: str | None, storage_options: Mapping[str, Any] | None) -> BaseMixture[Any]:
    """Load a model; ``missing`` replaces the model's own treatment of incomplete rows."""
    estimator = load(model, storage_options=storage_options)
    return estimator if missing is None else estimator.set_params(missing=missing)


def _left_out(n_incomplete: int) -> Record:
    """Entry with the number of incomplete rows; nothing where there are none."""
    return {"n_incomplete": n_incomplete} if n_incomplete else {}


def sample(
    model: str,
    n_samples: int,
    output: str,
    *,
    random_state: int | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Record:
    """Draw rows from a model and write them; without ``random_state``, the model's own serves."""
    _check_output(Location.of(output, storage_options, "output"), SAMPLES, overwrite, model)
    estimator = load(model, storage_options=storage_options)
    if random_state is not None:
        estimator.set_params(random_state=random_state)
    shapes = write_samples(
        estimator, n_samples, output, overwrite=overwrite, storage_options=storage_options, model_name=model
    )
    return _written(SAMPLES, output, n_samples, shapes)


def _value(name: str, value: Any, storage_options: Mapping[str, Any] | None) -> Any:
    if name not in _FILES:
        return value
    array = open_file(value) if value.endswith(".npy") else open_zarr(value, storage_options=storage_options)
    return in_memory(f"{name}: {without_secrets(value)}", array, _MOST_NUMBERS)


def _check_output(output: Location, kind: str, overwrite: bool, *inputs: str | None) -> None:
    with _checking():
        check_target(output, kind, overwrite=overwrite)
    for name in inputs:
        path = local_path((name or "").partition("::")[0])
        if name and path and output.path and os.path.realpath(path) == os.path.realpath(output.path):
            raise WrongArguments(f"{output.name} is also an input; choose another name for the output")


def _written(kind: str, output: str, n_rows: int, shapes: Mapping[str, tuple[int, ...]]) -> Record:
    arrays = {name: list(shape) for name, shape in shapes.items()}
    return {"kind": kind, "output": without_secrets(output), "n_rows": n_rows, "arrays": arrays}
