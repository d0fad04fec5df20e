"""Plan of a fit: its passes and its memory, computed before any row is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from dask.utils import format_bytes

from ..core.kernel_choice import MixtureShape, plan_blocks
from ..data.dataset import Dataset
from ..data.row_sample import NumberedRows, ReservedRows, RowSample
from ..engine.combined_fold import SharedCosts
from ..engine.fold import Costs
from ..engine.memory import PassPlan, Worker, machine_bytes
from ..engine.run import DaskEngine
from ..errors import WorkerMemoryError
from .first_pass import backend_for, n_survey_passes, n_weight_passes
from .fit_spec import Settings
from .folds import Cost
from .low_density_rows import low_density_cost, n_kept
from .relocation import strata_bytes
from .start_search import search_bytes
from .survey import SurveyFold, sample_dtype, survey_fold

# k-means holds the sample, a copy of the sample, and distances and labels for each row.
_COPIES_OF_SAMPLE = 4

# Covariances and their factors, old and new, second moments of tasks and of their sums; at least 8.8 were measured.
_COPIES_OF_PARAMETERS = 8
# Covariances and their factors of a mixture that waits for its next E-step.
_COPIES_OF_STATE = 2
_LITTLE = 1 << 30  # memory of the smallest machine, in bytes


@dataclass(frozen=True)
class FitPlan:
    """Plan of a fit: passes and memory. Sizes are in bytes; ``print`` the plan for a readable text.

    Memory means peak memory, an upper bound. It depends on the layout of the data, the numbers of components and
    features, and the number of threads, not on the number of rows.
    """

    n_rows: int
    n_features: int
    dtype: str
    n_components: int
    covariance_type: str

    data_bytes: int
    """Size of all rows in memory. Every pass reads this many bytes, or fewer from a compressed store."""

    most_passes: int
    """Largest number of passes: a survey, all iterations, and a pass over the weights if rows are drawn by weight.

    If most rows of large data are incomplete and left out, a second survey samples the others.
    """

    survey: PassPlan
    estep: PassPlan
    """E-step in the arithmetic that takes the most memory; the parameters decide which arithmetic runs."""

    n_threads: int
    """Threads of all workers together."""

    workers: tuple[Worker, ...]
    """Worker processes of the cluster; empty if the fit runs on threads of this process."""

    driver_bytes: int
    """Memory of this process for the sample from which starts are made, and for searches on the sample."""

    cache_bytes: int = 0
    """Rows that one worker process, or this process, keeps between passes, at most."""

    @property
    def worker_bytes(self) -> int:
        """Peak memory of one worker process, or of the threads of this process: all parts together."""
        threads = max((worker.n_threads for worker in self.workers), default=self.n_threads)
        passes = max(plan.process_bytes + threads * plan.task.total for plan in (self.survey, self.estep))
        return passes + self.cache_bytes + self.reused_bytes

    @property
    def reused_bytes(self) -> int:
        """Freed memory that a process keeps for the next rows it reads."""
        threads = max((worker.n_threads for worker in self.workers), default=self.n_threads)
        return threads * max(plan.reused_bytes for plan in (self.survey, self.estep))

    def as_record(self) -> dict[str, Any]:
        """Return the plan as a dict of JSON values."""
        record = asdict(self)
        for name in ("survey", "estep"):
            record[name]["task"]["total"] = getattr(self, name).task.total
        return {"kind": "plan", **record, "worker_bytes": self.worker_bytes}

    def as_text(self) -> dict[str, str]:
        """Return the plan in words, by subject."""
        step, task = self.estep, self.estep.task
        place = f"{len(self.workers)} worker processes" if self.workers else "this process"
        limits = sorted({worker.limit for worker in self.workers if worker.limit})
        limit = f", whose limit is {format_bytes(limits[0])}" if limits else ""
        return {
            "rows": f"{self.n_rows} × {self.n_features} {self.dtype}, {format_bytes(self.data_bytes)}",
            "mixture": f"{self.n_components} components, {self.covariance_type} covariance",
            "passes": f"at most {self.most_passes}: a survey, then iterations",
            "a pass": f"{step.n_batches} tasks of up to {step.batch_rows} rows, read {step.slab_rows} rows at a time, "
            f"on {self.n_threads} threads of {place}",
            "a task": f"{format_bytes(task.total)} at most: {format_bytes(task.slabs)} rows as they are read, "
            f"{format_bytes(task.work)} work arrays, {format_bytes(task.values)} sums, "
            f"{format_bytes(task.leaves)} rows at the ends of tasks",
            "a worker" if self.workers else "memory": f"{format_bytes(self.worker_bytes)} at most, "
            f"{format_bytes(step.process_bytes)} of it Python and packages, {format_bytes(self.cache_bytes)} rows that "
            f"are kept between passes, {format_bytes(self.reused_bytes)} freed memory to be used again{limit}",
            "driver": f"{format_bytes(self.driver_bytes)} for the sample and the search for a start",
        }

    def __str__(self) -> str:
        lines = self.as_text()
        width = max(map(len, lines))
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def check_parameters(dataset: Dataset, fits: Sequence[Settings]) -> None:
    """Raise an error if mixtures do not fit into the memory of this machine; nothing is allocated.

    The usual cause is a transposed array, whose million features have covariances that no machine holds.

    Parameters
    ----------
    dataset : Dataset
    fits : sequence of Settings
        Settings of the fits of one call: while one of the mixtures is fitted, the others are kept.

    Raises
    ------
    WorkerMemoryError
    """
    largest = max(fits, key=lambda settings: _parameter_bytes(dataset, settings))
    n_bytes, n_all = _parameter_bytes(dataset, largest), sum(_parameter_bytes(dataset, each) for each in fits)
    n_search = max(_search_bytes(dataset, settings) for settings in fits)
    needed = max(_COPIES_OF_PARAMETERS * n_bytes, n_search) + _COPIES_OF_STATE * (n_all - n_bytes)
    if needed < _LITTLE or needed <= (memory := machine_bytes()):
        return
    how, searches = largest.initialization, n_search > _COPIES_OF_PARAMETERS * n_bytes
    what = "a fit and the search for its start take" if searches else "a fit takes"
    remedies = ["fewer components", "a covariance_type with fewer parameters, such as 'diag'"]
    if searches:
        remedies.insert(0, "init_size=None, which begins without a search")
    transposed = "Rows are samples and columns features: if these are exchanged, pass X.T. Otherwise use"
    raise WorkerMemoryError(
        f"X has {dataset.n_rows} rows and {dataset.n_features} features. The covariances ({how.structure.name}) of "
        f"{how.n_components} components take {format_bytes(n_bytes)}"
        f"{f', those of all {len(fits)} mixtures {format_bytes(n_all)}' if len(fits) > 1 else ''}; {what} "
        f"{format_bytes(needed)} at least, and this machine has {format_bytes(memory)}. "
        f"{transposed if dataset.n_rows < dataset.n_features else 'Use'} {', or '.join(remedies)}."
    )


def _parameter_bytes(dataset: Dataset, settings: Settings) -> int:
    """Size of the covariances of a mixture."""
    how = settings.initialization
    return 8 * math.prod(how.structure.covariance_shape(how.n_components, dataset.n_features))


def plan_fit(engine: DaskEngine, dataset: Dataset, settings: Settings, cache: int | None = 0) -> FitPlan:
    """Plan a fit.

    Parameters
    ----------
    engine : DaskEngine
    dataset : Dataset
    settings : Settings
    cache : int, optional
        Bytes of rows that each process may keep between passes; None for as many as there is room for.

    Returns
    -------
    FitPlan

    Raises
    ------
    WorkerMemoryError
        If a pass would not fit into the memory of the workers.
    """
    how = settings.initialization
    n_sample = min(dataset.n_rows, settings.sample_size)
    groups = [_groups(engine, dataset, costs) for costs in _iterations(dataset, settings)]
    esteps = [engine.plan(dataset, group[0]) for group in groups]
    row_bytes = dataset.n_features * sample_dtype(dataset).itemsize
    return FitPlan(
        n_rows=dataset.n_rows,
        n_features=dataset.n_features,
        dtype=str(dataset.dtype),
        n_components=how.n_components,
        covariance_type=how.structure.name,
        data_bytes=dataset.n_rows * dataset.rows.row_bytes,
        most_passes=n_weight_passes(dataset, settings.sample_size)
        + n_survey_passes(dataset, settings.sample_size)
        + max(map(len, groups)) * settings.max_iter,
        survey=engine.plan(dataset, _survey(dataset, settings)),
        estep=max(esteps, key=lambda plan: plan.task.total),
        n_threads=engine.scheduler.n_threads,
        workers=tuple(engine.scheduler.workers()),
        driver_bytes=n_sample * (_COPIES_OF_SAMPLE * row_bytes + 8 * how.n_components)
        + max(
            _search_bytes(dataset, settings),
            strata_bytes(_n_kept(dataset, settings), dataset.n_features, how.n_components),
        ),
        cache_bytes=cache_bytes(engine, dataset, [settings], cache),
    )


def cache_bytes(engine: DaskEngine, dataset: Dataset, fits: Sequence[Settings], cache: int | None) -> int:
    """Bytes of rows that each process keeps between the passes of some fits, at most.

    Parameters
    ----------
    engine : DaskEngine
    dataset : Dataset
    fits : sequence of Settings
        Settings of the fits, which share passes.
    cache : int or None
        Bytes that are allowed; None for as many as there is room for.
    """
    if cache == 0 or not dataset.cacheable_bytes:
        return 0
    surveys: dict[Any, Costs] = {(each.sample_size, each.scattered): _survey(dataset, each) for each in fits}
    # Of the arithmetics of a mixture the one that takes the most memory.
    iterations = [max(_iterations(dataset, settings), key=_first_work) for settings in fits]
    groups = _groups(engine, dataset, [cost for costs in iterations for cost in costs])
    spare = engine.spare_bytes(dataset, [SharedCosts(tuple(surveys.values())), *groups])
    return min(dataset.cacheable_bytes, spare if cache is None else min(cache, spare))


def _first_work(costs: Sequence[Costs]) -> int:
    return costs[0].work_bytes


def _survey(dataset: Dataset, settings: Settings) -> SurveyFold:
    n_sample = min(dataset.n_rows, settings.sample_size)
    backend = backend_for(dataset, _shape(dataset, settings))
    sample = NumberedRows(range(n_sample))
    sampled: RowSample = sample
    if dataset.row_kind.leaves_out and n_sample < dataset.n_rows:
        sampled = ReservedRows.of(sample, 0, dataset.n_rows)
    return survey_fold(dataset, sampled, backend, settings.scattered)


def _n_kept(dataset: Dataset, settings: Settings) -> int:
    """Rows of low density that the first iteration keeps; 0 where starts see all data from the beginning."""
    n_sample = min(dataset.n_rows, settings.sample_size)
    samples = settings.resolved(dataset.n_rows).samples(dataset.n_rows)
    return n_kept(dataset.n_rows, dataset.n_features, n_sample) if samples else 0


def _search_bytes(dataset: Dataset, settings: Settings) -> int:
    """Memory of the search for a start; 0 where no fit of that many rows searches."""
    resolved, how = settings.resolved(dataset.n_rows), settings.initialization
    if not (resolved.searches and resolved.samples(dataset.n_rows)):
        return 0
    return search_bytes(how.structure, how.n_components, dataset.n_features, settings.sample_size)


def _iterations(dataset: Dataset, settings: Settings) -> list[list[Cost]]:
    """Costs of the first iteration, in each arithmetic that the kernels may use."""
    kept = _n_kept(dataset, settings)
    # Only the survey tells how many rows have a positive weight; the settings depend on that number.
    all_count = dataset.weights is None and not dataset.row_kind.leaves_out
    counts = (dataset.n_rows,) if all_count else (dataset.n_rows, 0)
    possible = [settings.resolved(count) for count in counts]
    return [
        [cost, low_density_cost(cost, dataset.n_features, kept)]
        if kept and each.samples(dataset.n_rows)
        else [cost] * each.n_starts(dataset.n_rows)
        for each in possible
        for cost in _costs(dataset, settings)
    ]


def _groups(engine: DaskEngine, dataset: Dataset, costs: Sequence[Cost]) -> list[SharedCosts]:
    """Costs of the passes that compute folds with the given costs."""
    lengths = engine.groups(dataset, costs)
    ends = np.cumsum(lengths)
    return [SharedCosts(tuple(costs[end - length : end])) for end, length in zip(ends, lengths, strict=True)]


def _costs(dataset: Dataset, settings: Settings) -> list[Cost]:
    """Cost of an E-step in each arithmetic that the kernels may use."""
    shape = _shape(dataset, settings)
    backend = backend_for(dataset, shape)
    blocks = plan_blocks(shape, dataset.dtype, backend, dataset.row_kind.name)
    kind = dataset.row_kind
    return [Cost.of(shape.structure, shape.n_components, shape.n_features, block, backend, kind) for block in blocks]


def _shape(dataset: Dataset, settings: Settings) -> MixtureShape:
    how = settings.initialization
    return MixtureShape(how.structure, how.n_components, dataset.n_features)
