"""What the engine costs beside the work: planning a pass over very many chunks or blocks, and running one.

    python benchmarks/engine.py
    python benchmarks/engine.py --units 100000 1000000 --kinds zarr --json

Planning takes place in a fresh process for each case. The overhead of a pass is measured on a fold of matrix products
over rows that cost nothing to read, in batches of 64 MiB: beside it, the same threads or processes evaluate the same
leaves in plain loops, and the two take turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import dask
import dask.array as da
import numpy as np
from machine import describe_machine, print_machine

from daskgmm.data.dataset import Dataset
from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_block import RowBlock
from daskgmm.data.source import Source
from daskgmm.engine.cluster import embedded_cluster
from daskgmm.engine.graph import Context, build_graph, plan_batches, plan_waves
from daskgmm.engine.run import DaskEngine
from daskgmm.tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]
N_FEATURES = 8
BATCH_ROWS = (64 << 20) // (8 * N_FEATURES)
SLAB_ROWS = Tuning.slab_bytes // (8 * N_FEATURES)
LEAF_ROWS = 65_536


@dataclass(frozen=True)
class Planning:
    """Planning a pass, and building all of its graphs; seconds of processor time, all in one thread."""

    kind: str
    units: int
    """Chunks or blocks."""
    seconds_to_accept: float
    """Once for a fit: nearly all of it is Dask's own making and optimising of the graph."""
    seconds: float
    """In every pass."""
    batches: int
    graphs: int
    peak_bytes: int
    """By how much the largest resident set grew, the array that came included."""


@dataclass(frozen=True)
class Overhead:
    """Passes beside plain loops; seconds."""

    scheduler: str
    batches: int
    passes: list[float]
    plain_loops: list[float]

    @property
    def overhead(self) -> float:
        """What a pass took more, as a share of the plain loops: the median over the rounds."""
        return median(ours / plain - 1 for ours, plain in zip(self.passes, self.plain_loops, strict=True))


class FreeRows:
    """Rows that cost nothing to read: the same ones again and again, drawn where they are needed."""

    def __init__(self) -> None:
        self._rows: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_rows": None}

    def __getitem__(self, rows: slice) -> Array:
        if self._rows is None:
            self._rows = np.random.default_rng(0).normal(size=(SLAB_ROWS, N_FEATURES))
        return self._rows[: rows.stop - rows.start]


class FreeSource(Source):
    """So many chunks of them."""

    def __init__(self, n_chunks: int, handle: Any = None) -> None:
        self.shape, self.dtype, self.handle = (n_chunks * BATCH_ROWS, N_FEATURES), np.dtype(np.float64), handle
        self.chunk_rows = LEAF_ROWS
        self.batch_rows = BATCH_ROWS


@dataclass(frozen=True)
class Products:
    """A fold: ``work`` products of matrices for each leaf."""

    work: int = 1
    leaf_rows: int = LEAF_ROWS
    row_seconds: float = 1.0  # so that every task reads as little as the layout allows
    work_bytes: int = 0
    value_bytes: int = 8
    process_bytes: int = 0

    def start(self) -> Callable[[int, Array, Array | None], float]:
        return lambda start, block: sum(float((block.rows.T @ block.rows)[0, 0]) for _ in range(self.work))


# ---- planning

BLOCK_ROWS = 1000
ARRAYS: dict[str, Callable[[int], da.Array]] = {
    "random": lambda n: da.random.default_rng(0).normal(size=(n * BLOCK_ROWS, N_FEATURES), chunks=(BLOCK_ROWS, -1)),
    "chain": lambda n: (da.ones((n * BLOCK_ROWS, N_FEATURES), chunks=(BLOCK_ROWS, -1)) + 1).map_blocks(np.sqrt),
    "rechunk": lambda n: da.ones((n * BLOCK_ROWS, N_FEATURES), chunks=(BLOCK_ROWS, -1)).rechunk((BLOCK_ROWS - 1, -1)),
    "delayed": lambda n: da.concatenate([_delayed_block() for _ in range(n)]),
}
KINDS = ("zarr", *ARRAYS)


def _delayed_block() -> da.Array:
    shape = (BLOCK_ROWS, N_FEATURES)
    return da.from_delayed(dask.delayed(np.ones, traverse=False)(shape), shape, np.float64)


def plan(kind: str, units: int) -> Planning:
    """One case, in this process."""
    data = FreeSource(units) if kind == "zarr" else ARRAYS[kind](units)
    at_first = _peak_bytes()
    begin = time.process_time()
    dataset = Dataset(data) if isinstance(data, Source) else as_dataset(data)[0]
    accepted = time.process_time()
    fold = Products(leaf_rows=1024)
    edges = plan_batches(dataset, fold, 1)
    waves = plan_waves(dataset, edges, Tuning.wave_tasks)
    context = Context(fold, dataset.reader(Tuning.slab_bytes), dataset.n_rows, None)
    for wave in waves:
        build_graph(context, dataset, wave, "estep", whole=len(waves) == 1, arity=Tuning.arity)
    done = time.process_time()
    return Planning(
        kind, units, accepted - begin, done - accepted, len(edges) - 1, len(waves), _peak_bytes() - at_first
    )


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plan_all(kinds: Iterable[str], units: Iterable[int]) -> Iterator[Planning]:
    """Each in a process of its own, whose memory holds nothing else."""
    for n in units:
        for kind in kinds:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                yield process.submit(plan, kind, n).result()


# ---- running


def evaluate_plainly(fold: Products, rows: FreeRows, starts: list[int]) -> float:
    """Some batches without an engine, read in the same slabs."""
    evaluate = fold.start()
    total = 0.0
    for start in starts:
        for slab in range(start, start + BATCH_ROWS, SLAB_ROWS):
            read = rows[slab : slab + SLAB_ROWS]
            total += sum(evaluate(slab, RowBlock(read[i : i + LEAF_ROWS])) for i in range(0, SLAB_ROWS, LEAF_ROWS))
    return total


def measure_overhead(scheduler: str, n_batches: int, work: int, rounds: int) -> Overhead:
    """Passes and plain loops by turns, on two threads or on two processes."""
    fold, rows = Products(work), FreeRows()
    dataset = Dataset(FreeSource(n_batches, rows))
    starts = list(range(0, dataset.n_rows, BATCH_ROWS))
    shares = [starts[::2], starts[1::2]]
    passes, plain_loops = list[float](), list[float]()
    with ExitStack() as stack:
        if scheduler == "processes":
            client = stack.enter_context(embedded_cluster(2, 1, None))
            workers = list(client.scheduler_info()["workers"])
            engine = stack.enter_context(DaskEngine(client))
            tasks = list(zip(shares, workers, strict=True))

            def share_out() -> Any:
                submit = partial(client.submit, evaluate_plainly, fold, rows, pure=False)
                return client.gather([submit(s, workers=[w]) for s, w in tasks])
        else:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            stack.enter_context(dask.config.set(num_workers=2))
            engine = stack.enter_context(DaskEngine("threads"))

            def share_out() -> Any:
                return list(pool.map(partial(evaluate_plainly, fold, rows), shares))

        for i in range(rounds + 1):
            begin = time.perf_counter()
            engine.run(dataset, fold, "estep")
            middle = time.perf_counter()
            share_out()
            if i:  # the first round loads what has to be loaded
                passes.append(middle - begin)
                plain_loops.append(time.perf_counter() - middle)
    return Overhead(scheduler, n_batches, passes, plain_loops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, nargs="*", default=[100_000], help="chunks or blocks (default 100 000)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS[:-1]), choices=KINDS)
    parser.add_argument("--schedulers", nargs="*", default=["threads", "processes"], choices=["threads", "processes"])
    parser.add_argument("--batches", type=int, default=32, help="of a measured pass (default 32)")
    parser.add_argument("--work", type=int, default=12, help="products for each leaf (default 12)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of passes and plain loops (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    machine = describe_machine()
    if not options.json:
        print_machine(machine)
        print(f"{'kind':10} {'units':>8} {'accept s':>9} {'plan s':>7} {'batches':>8} {'graphs':>6} {'peak MB':>8}")
    plans = []
    for p in plan_all(options.kinds, options.units):
        plans.append(p)
        if not options.json:
            print(
                f"{p.kind:10} {p.units:8} {p.seconds_to_accept:9.2f} {p.seconds:7.2f} {p.batches:8} {p.graphs:6}"
                f" {p.peak_bytes / 1e6:8.0f}",
                flush=True,
            )
    overheads = []
    for scheduler in options.schedulers:
        o = measure_overhead(scheduler, options.batches, options.work, options.rounds)
        overheads.append(o)
        if not options.json:
            print(
                f"{scheduler}: a pass of {o.batches} batches {median(o.passes):.3f} s, plain loops"
                f" {median(o.plain_loops):.3f} s, overhead {o.overhead:+.1%}"
            )
    if options.json:
        runs = [asdict(o) | {"overhead": o.overhead} for o in overheads]
        print(json.dumps({"machine": machine, "planning": [asdict(p) for p in plans], "overhead": runs}, indent=1))


if __name__ == "__main__":
    main()
