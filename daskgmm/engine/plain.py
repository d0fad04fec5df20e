"""The specification of a pass, without Dask: read the rows, evaluate the leaves, add them up in the canonical tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data.checksum import Checksum
from ..data.dataset import Batch, Dataset, Reader, covering_batch
from ..data.reading import Holder, Reading
from ..data.row_cache import NOT_KEPT, CacheAccess
from ..data.task_graphs import evaluate
from ..tuning import Tuning, current
from .blas import one_blas_thread
from .environment import environment
from .events import BatchFinished
from .fold import CostedFold, Costs, Fold
from .interface import Engine, RowCounter
from .tree import Accumulator


@dataclass(frozen=True)
class PassResult:
    """Value of a pass, and facts of all rows."""

    value: Any
    checksum: Checksum
    reading: Reading


def fold_batch(
    fold: Fold, n_rows: int, reader: Reader, batch: Batch, inputs: Mapping[Any, Any], worker: str = ""
) -> tuple[Accumulator, Checksum, Reading]:
    """Accumulate one batch of a data set of ``n_rows`` rows.

    Parameters
    ----------
    fold : Fold
    n_rows : int
    reader : Reader
    batch : Batch
    inputs : mapping
        Value of every key in the dependencies of the batch.
    worker : str
        Address of the worker in whose process this is done; empty where there is none.
    """
    accumulator, checksum, reading, is_kept = Accumulator(fold, n_rows), Checksum(), Reading(), False
    for slab in reader.stream(batch, inputs):
        checksum += slab.checksum
        reading += slab.reading
        is_kept |= slab.is_kept
        accumulator.add_rows(slab.start, slab.block)
        del slab  # before the next one is read
    if is_kept and worker:
        reading = replace(reading, holders=(Holder(batch.start, batch.stop, worker),))
    return accumulator, checksum, reading


def fold_rows(
    dataset: Dataset, fold: Fold, tuning: Tuning, on_rows: RowCounter | None, access: CacheAccess = NOT_KEPT
) -> PassResult:
    """Return the result of a pass over all rows."""
    batch, reader = dataset.batch(0, dataset.n_rows), dataset.reader(tuning.slab_bytes, access)
    accumulator, checksum, reading = fold_batch(fold, dataset.n_rows, reader, batch, _inputs(dataset, batch))
    if on_rows is not None:
        on_rows(0, dataset.n_rows)
    return PassResult(accumulator.total(), checksum, reading)


def _inputs(dataset: Dataset, batch: Batch) -> dict[Any, Any]:
    return dict(zip(batch.dependencies, evaluate(dataset.shared_tasks(), batch.dependencies, {}), strict=True))


def is_short(dataset: Dataset, costs: Costs) -> bool:
    """Test for rows in memory that take less time to fold than threads and their tasks take to set up."""
    return dataset.n_rows * costs.row_seconds < current().shortest_pass and all(s.in_process for s in dataset.sources)


def run_here(dataset: Dataset, fold: Fold) -> Any:
    """Return the value of a fold over rows in memory, from a single pass: no other pass compares its checksum."""
    accumulator = Accumulator(fold, dataset.n_rows)
    with one_blas_thread():
        accumulator.add_rows(0, dataset.block())
        return accumulator.total()


class PlainEngine(Engine):
    """Runs passes in the calling thread, the rows one slab after the other."""

    def run(self, dataset: Dataset, fold: CostedFold, label: str) -> Any:
        with self.announced(label, dataset.n_rows, 1) as running:
            result = fold_rows(dataset, fold, self.tuning, running.on_rows, self.access(dataset))
            running.reading = result.reading
        dataset.check_unchanged(result.checksum)
        return result.value

    def _row_counter(self, label: str) -> RowCounter:
        return lambda start, n_rows: self.emit(BatchFinished(label, n_rows))

    def groups(self, dataset: Dataset, costs: Sequence[Costs]) -> list[int]:
        return [len(costs)]

    def checksums(self, dataset: Dataset, ranges: Sequence[tuple[int, int]]) -> tuple[Checksum, ...]:
        batches = [covering_batch(dataset, *rows) for rows in ranges]
        reader = dataset.reader(self.tuning.slab_bytes)
        return tuple(
            reader.checksum(batch, *rows, _inputs(dataset, batch)) for rows, batch in zip(ranges, batches, strict=True)
        )

    def in_memory(self) -> PlainEngine:
        return PlainEngine(tuning=self.tuning)

    def environment(self) -> dict[str, str]:
        return environment()
