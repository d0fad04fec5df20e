"""What a fit will do and take, told before it reads any data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from dask.utils import format_bytes

from ..core.elementwise import ElementwiseBackend
from ..core.quadratic import QuadraticKernel
from ..core.residual import ResidualKernel
from ..core.structure import CovarianceStructure
from ..data.dataset import Dataset
from ..data.row_sample import NumberedRows
from ..engine.combined_fold import SharedCosts
from ..engine.memory import PassPlan, Worker, machine_bytes
from ..engine.run import DaskEngine
from ..errors import WorkerMemoryError
from .first_pass import backend_for, n_weight_passes
from .fit_spec import Settings
from .folds import Cost
from .low_density_rows import low_density_cost, n_kept
from .relocation import strata_bytes
from .survey import sample_dtype, survey_fold

# k-means holds the sample, its own copy of it, and distances and labels for each row.
_COPIES_OF_SAMPLE = 4

# Covariances and their factors, old and new, second moments of each task and of their sums: 8.8 were measured at least.
_COPIES_OF_PARAMETERS = 8
_LITTLE = 1 << 30  # bytes that every machine has


@dataclass(frozen=True)
class FitPlan:
    """What a fit will do and take. Sizes are in bytes; ``print`` it for people.

    Memory is the most that can be needed at a time. It depends on the layout of the data, on K and D and on the number
    of threads, not on the number of rows.
    """

    n_rows: int
    n_features: int
    dtype: str
    n_components: int
    covariance_type: str

    data_bytes: int
    """Rows in memory, all of them: every pass reads as much, or less where the store is compressed."""

    most_passes: int
    """The survey, all iterations, which starts share, and a pass over the weights where rows are drawn by them."""

    survey: PassPlan
    estep: PassPlan
    """In the arithmetic that takes the most memory: which one runs depends on the parameters."""

    n_threads: int
    """Of all workers together."""

    workers: tuple[Worker, ...]
    """Processes of the cluster; none where the fit runs on threads of this process."""

    driver_bytes: int
    """What this process takes for the sample that starts are made from."""

    @property
    def worker_bytes(self) -> int:
        """The most that one worker process takes, or the threads of this process."""
        threads = max((worker.n_threads for worker in self.workers), default=self.n_threads)
        return max(plan.process_bytes + threads * plan.task.total for plan in (self.survey, self.estep))

    def as_record(self) -> dict[str, Any]:
        """The plan as what JSON can say."""
        record = asdict(self)
        for name in ("survey", "estep"):
            record[name]["task"]["total"] = getattr(self, name).task.total
        return {"kind": "plan", **record, "worker_bytes": self.worker_bytes}

    def as_text(self) -> dict[str, str]:
        """The plan in words, by subject."""
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
            f"{format_bytes(step.process_bytes)} of it Python and packages{limit}",
            "driver": f"{format_bytes(self.driver_bytes)} for the sample that starts are made from",
        }

    def __str__(self) -> str:
        lines = self.as_text()
        width = max(map(len, lines))
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def check_parameters(dataset: Dataset, structure: CovarianceStructure, n_components: int) -> None:
    """Raise unless the mixture itself has room in the memory of this machine; nothing is allocated.

    Rows and columns that are exchanged make a million features, whose covariances no machine holds.

    Parameters
    ----------
    dataset : Dataset
    structure : CovarianceStructure
    n_components : int

    Raises
    ------
    WorkerMemoryError
    """
    n_bytes = 8 * math.prod(structure.covariance_shape(n_components, dataset.n_features))
    if _COPIES_OF_PARAMETERS * n_bytes < _LITTLE or _COPIES_OF_PARAMETERS * n_bytes <= (memory := machine_bytes()):
        return
    exchanged = "Rows are samples and columns features: if these are exchanged, pass X.T. Otherwise use"
    raise WorkerMemoryError(
        f"X has {dataset.n_rows} rows and {dataset.n_features} features. The covariances ({structure.name}) of "
        f"{n_components} components take {format_bytes(n_bytes)}, a fit takes {_COPIES_OF_PARAMETERS} times that at "
        f"least, and this machine has {format_bytes(memory)}. "
        f"{exchanged if dataset.n_rows < dataset.n_features else 'Use'} fewer "
        "components, or a covariance_type with fewer parameters, such as 'diag'."
    )


def plan_fit(engine: DaskEngine, dataset: Dataset, settings: Settings) -> FitPlan:
    """Plan of a fit.

    Parameters
    ----------
    engine : DaskEngine
    dataset : Dataset
    settings : Settings

    Raises
    ------
    WorkerMemoryError
        If it would not fit into the workers.
    """
    how = settings.initialization
    backend = backend_for(dataset, how.n_components)
    n_sample = min(dataset.n_rows, settings.sample_size)
    survey = survey_fold(dataset, NumberedRows(range(n_sample)), backend, settings.scattered)
    kept = n_kept(dataset.n_rows, dataset.n_features, n_sample) if settings.samples(dataset.n_rows) else 0
    groups = [_groups(engine, dataset, settings, kept, cost) for cost in _costs(dataset, settings, backend)]
    esteps = [engine.plan(dataset, group[0]) for group in groups]
    row_bytes = dataset.n_features * sample_dtype(dataset).itemsize
    return FitPlan(
        n_rows=dataset.n_rows,
        n_features=dataset.n_features,
        dtype=str(dataset.dtype),
        n_components=how.n_components,
        covariance_type=how.structure.name,
        data_bytes=dataset.n_rows * dataset.rows.row_bytes,
        most_passes=n_weight_passes(dataset, settings.sample_size) + 1 + max(map(len, groups)) * settings.max_iter,
        survey=engine.plan(dataset, survey),
        estep=max(esteps, key=lambda plan: plan.task.total),
        n_threads=engine.scheduler.n_threads,
        workers=tuple(engine.scheduler.workers()),
        driver_bytes=n_sample * (_COPIES_OF_SAMPLE * row_bytes + 8 * how.n_components)
        + strata_bytes(kept, dataset.n_features, how.n_components),
    )


def _groups(engine: DaskEngine, dataset: Dataset, settings: Settings, kept: int, cost: Cost) -> list[SharedCosts]:
    """What the passes of the first iteration cost: that of one start from a sample also keeps rows."""
    costs = (
        [cost, low_density_cost(cost, dataset.n_features, kept)] if kept else [cost] * settings.n_starts(dataset.n_rows)
    )
    lengths = engine.groups(dataset, costs)
    ends = np.cumsum(lengths)
    return [SharedCosts(tuple(costs[end - length : end])) for end, length in zip(ends, lengths, strict=True)]


def _costs(dataset: Dataset, settings: Settings, backend: ElementwiseBackend) -> list[Cost]:
    """Cost of an E-step in each arithmetic that may come to be chosen."""
    shape = settings.initialization.structure, settings.initialization.n_components, dataset.n_features
    products = {np.dtype(np.float64), sample_dtype(dataset)}
    blocks = [QuadraticKernel.plan_block(*shape, dtype, backend) for dtype in products]
    return [Cost.of(*shape, block, backend) for block in (*blocks, ResidualKernel.plan_block(*shape, backend))]
