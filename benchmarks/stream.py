"""One EM pass over a Zarr store, beside what its two halves cost alone: reading and decoding, and computing.

    python benchmarks/stream.py --store /scratch/stream --gb 1

A pass that streams perfectly takes (processor time to read + processor time to compute) / cores. Both are measured in
the same run: the store is read slab by slab without computing, and the same rows are computed on from memory. Passes
run on the threads of one process and on one-thread worker processes, for each layout of the store, and for each of
Zarr's codec pipelines and stores that are installed.

With --results it is the writing of labels, probabilities and log-densities instead, whose halves are reading,
computing and writing, from the store and from a dask array of uneven chunks. The processor time of one pass, divided by
the cores, stands beside the wall times, because other work on the machine hardly changes it; and the largest resident
set of a worker process beside the plan. With --cache it is the passes of a fit that keeps the rows in memory, beside
those of a fit that reads them in each pass, and those of a fit to the same rows in memory: processor and wall time of a
pass after the survey. With --alone passes run on one worker process and one thread, too: what a
second one brings.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
import zarr.core.codec_pipeline
from distributed import Client, LocalCluster
from machine import describe_machine, print_machine
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from zarr.storage import LocalStore

from daskgmm import GaussianMixture, write_predictions
from daskgmm.data.inputs import as_dataset
from daskgmm.events import PassFinished, PassStarted
from daskgmm.results import plan_predictions
from daskgmm.tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]

MEBIBYTE = 1 << 20

#: Name of a layout, and what `zarr.create_array` is told: rows of a chunk and of a shard in MiB, whether compressed.
LAYOUTS: dict[str, tuple[float, float | None, bool]] = {
    "zstd, 16 MiB chunks": (16, None, True),
    "zstd, 1 MiB chunks": (1, None, True),
    "uncompressed, 16 MiB chunks": (16, None, False),
    "zstd, 1 MiB chunks in 64 MiB shards": (1, 64, True),
}


@dataclass(frozen=True)
class Way:
    """How a store is opened."""

    pipeline: str
    store: str

    def open(self, path: Path) -> zarr.Array[Any]:
        """The array."""
        with zarr.config.set({"codec_pipeline.path": pipelines()[self.pipeline]}):
            return zarr.open_array(stores()[self.store](str(path)), mode="r")


def pipelines() -> dict[str, str]:
    """Codec pipelines of this installation."""
    found = {"default": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
    if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):  # from Zarr 3.4 on
        found["fused"] = "zarr.core.codec_pipeline.FusedCodecPipeline"
    try:
        import zarrs  # noqa: F401
    except ImportError:
        return found
    return found | {"zarrs": "zarrs.ZarrsCodecPipeline"}


def stores() -> dict[str, Callable[[str], Any]]:
    """Ways to reach the files."""
    found: dict[str, Callable[[str], Any]] = {"local": LocalStore}
    try:
        from obstore.store import LocalStore as ObstoreFiles
    except ImportError:
        return found
    from zarr.storage import ObjectStore

    return found | {"obstore": lambda path: ObjectStore(ObstoreFiles(path))}


def draw(n_rows: int, n_features: int, n_components: int) -> Array:
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(n_components, n_features))
    rows = rng.normal(size=(n_rows, n_features))
    rows += centers[rng.integers(n_components, size=n_rows)]
    return rows


def write(rows: Array, path: Path, layout: tuple[float, float | None, bool]) -> None:
    """Write the rows in a layout, unless they are there."""
    if path.exists():
        return
    chunk, shard, compressed = layout
    row_bytes = rows.shape[1] * rows.itemsize

    def extent(mebibytes: float) -> tuple[int, int]:
        return max(1, int(mebibytes * MEBIBYTE) // row_bytes), rows.shape[1]

    array = zarr.create_array(
        path.with_name(path.name + ".partial"),
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=extent(chunk),
        shards=None if shard is None else extent(shard),
        compressors="auto" if compressed else None,
        overwrite=True,
    )
    array[:] = rows
    path.with_name(path.name + ".partial").rename(path)


def pass_seconds(model: GaussianMixture, data: Any, client: Client | None = None) -> tuple[float, float]:
    """Wall time and processor time, of this process or of the workers, of an EM pass of a fit."""
    walls: list[float] = []
    clocks: list[float] = []

    def clock() -> float:
        return time.process_time() if client is None else sum(client.run(time.process_time).values())

    def listen(event: Any) -> None:
        if isinstance(event, PassStarted | PassFinished) and event.label == "estep":
            clocks.append(clock())
            walls.extend([event.seconds] if isinstance(event, PassFinished) else [])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
        model.set_params(callbacks=[listen]).fit(data)
    return min(walls), min(end - begin for begin, end in zip(clocks[::2], clocks[1::2], strict=True))


def read_seconds(array: zarr.Array[Any]) -> float:
    """Processor time to read and decode all rows, in the slabs in which a pass reads them."""
    dataset, _ = as_dataset(array)
    reader, batch = dataset.reader(Tuning.slab_bytes), dataset.batch(0, dataset.n_rows)
    begin = time.process_time()
    for start, stop in reader.slabs(batch):
        reader.read(batch, start, stop, {})
    return time.process_time() - begin


def estep_seconds(model: GaussianMixture, data: Any) -> float:
    """Wall time of an EM pass of a fit."""
    passes: list[float] = []

    def listen(event: Any) -> None:
        if isinstance(event, PassFinished) and event.label == "estep":
            passes.append(event.seconds)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
        model.set_params(callbacks=[listen]).fit(data)
    return median(passes)


#: What `write_predictions` is asked for besides labels.
RESULTS: dict[str, dict[str, bool]] = {
    "labels": {},
    "labels and probabilities": {"probabilities": True},
    "labels and log-densities": {"log_density": True},
}


def result_seconds(model: GaussianMixture, data: Any, folder: Path, asked: dict[str, bool]) -> tuple[float, float]:
    """Wall time of writing what the model says of all rows, and processor time of this process."""
    begin, processor = time.perf_counter(), time.process_time()
    write_predictions(model, data, folder / "results.zarr", overwrite=True, **asked)
    return time.perf_counter() - begin, time.process_time() - processor


def uneven(array: zarr.Array[Any]) -> da.Array:
    """The rows as a dask array whose chunks are one, three and two stored chunks in turn."""
    longest, lengths = array.chunks[0], list[int]()
    for chunks in cycle((1, 3, 2)):
        if (left := array.shape[0] - sum(lengths)) == 0:
            return da.from_array(array, chunks=(tuple(lengths), array.shape[1]))
        lengths.append(min(left, chunks * longest))
    raise AssertionError("a cycle has no end")


def peak_bytes() -> int:
    """Largest resident set of this process so far; getrusage would count that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def halves_of_results(model: GaussianMixture, rows: Array, folder: Path, asked: dict[str, bool]) -> tuple[float, float]:
    """Processor time of computing results from memory, and of writing them."""
    begin = time.process_time()
    results = [model.predict(rows)]
    results += [model.predict_proba(rows)] if asked.get("probabilities") else []
    results += [model.score_samples(rows)] if asked.get("log_density") else []
    computed = time.process_time()
    for number, values in enumerate(results):
        chunks = (max(1, (16 * MEBIBYTE) // (values.nbytes // len(values))), *values.shape[1:])
        zarr.create_array(folder / f"half-{number}.zarr", data=values, chunks=chunks, overwrite=True)
    return computed - begin, time.process_time() - computed


@contextmanager
def places(cores: int, *, alone: bool) -> Iterator[dict[str, Any]]:
    """Schedulers with one thread for each core; with ``alone`` such of one thread, too."""
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(num_workers=cores))
        found: dict[str, Any] = {f"{cores} threads": "threads"}
        for n_workers in {cores, *((1,) if alone else ())}:
            cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
            stack.enter_context(cluster)
            found[f"{n_workers} processes"] = stack.enter_context(Client(cluster, set_as_default=False))
        yield found | ({"1 threads": "synchronous"} if alone else {})


def measure(arrays: dict[tuple[str, Way], zarr.Array[Any]], rows: Array, options: argparse.Namespace) -> list[Any]:
    """Every way to read every layout, in turns."""
    model = GaussianMixture(
        options.components, tol=0, max_iter=options.passes, random_state=0, init_params="random_from_data", cache=None
    )
    seconds: dict[tuple[str, Way, str], list[float]] = {}
    compute: list[float] = []
    with places(options.cores, alone=options.alone) as schedulers:
        for _ in range(options.rounds):
            compute.append(estep_seconds(model.set_params(scheduler="synchronous"), rows))
            for (layout, way), array in arrays.items():
                with threadpool_limits(1):
                    seconds.setdefault((layout, way, "read"), []).append(read_seconds(array))
                for place, scheduler in schedulers.items():
                    taken = estep_seconds(model.set_params(scheduler=scheduler), array)
                    seconds.setdefault((layout, way, place), []).append(taken)
    needed = median(compute)
    return [
        record(layout, way, median(seconds[layout, way, "read"]), needed, 0.0, options.cores)
        | {"pass": {place: median(seconds[layout, way, place]) for place in schedulers}}
        for layout, way in arrays
    ]


def measure_results(
    arrays: dict[tuple[str, Way], zarr.Array[Any]], rows: Array, options: argparse.Namespace
) -> list[Any]:
    """The same for results, of the first layout and way."""
    (_, way), array = next(iter(arrays.items()))
    model = GaussianMixture(options.components, max_iter=3, tol=0, random_state=0, scheduler="synchronous")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows[:100_000])
    inputs = {"": array, ", uneven dask": uneven(array)}
    kinds = {name + kind: (asked, data) for kind, data in inputs.items() for name, asked in RESULTS.items()}
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in kinds}
    with places(options.cores, alone=options.alone) as schedulers, TemporaryDirectory(dir=options.store) as folder:
        for _ in range(options.rounds):
            for name, (asked, data) in kinds.items():
                with threadpool_limits(1):
                    found[name]["read"].append(read_seconds(array))
                    compute, write = halves_of_results(model, rows, Path(folder), asked)
                found[name]["compute"].append(compute)
                found[name]["write"].append(write)
                for place, scheduler in schedulers.items():
                    model.set_params(scheduler=scheduler)
                    wall, processor = result_seconds(model, data, Path(folder), asked)
                    found[name][place].append(wall)
                    if scheduler == "threads":
                        found[name]["processor / cores"].append(processor / options.cores)
        (client,) = (scheduler for place, scheduler in schedulers.items() if place == f"{options.cores} processes")
        model.set_params(scheduler=client)
        plans = [plan_predictions(model, data, **asked) for asked, data in kinds.values()]
        peak = max(client.run(peak_bytes).values())
    memory = {"peak": peak, "plan": max(plan.process_bytes + plan.task.total + plan.reused_bytes for plan in plans)}
    results = []
    for name, lists in found.items():
        medians = {key: median(values) for key, values in lists.items()}
        halves = (medians.pop(key) for key in ("read", "compute", "write"))
        results.append(record(name, way, *halves, options.cores) | {"pass": medians, "memory": memory})
    return results


#: Rows and ``cache`` of a fit: rows in memory, or those of the store, kept or read in every pass.
WAYS_TO_ROWS = ("memory", "kept", "read")


def measure_cache(
    arrays: dict[tuple[str, Way], zarr.Array[Any]], rows: Array, options: argparse.Namespace
) -> list[Any]:
    """The shortest passes of fits that keep the rows in memory, and of others, in turns."""
    model = GaussianMixture(
        options.components, tol=0, max_iter=options.passes, random_state=0, init_params="random_from_data"
    )
    found: dict[tuple[str, Way, str, str], list[tuple[float, float]]] = defaultdict(list)
    with places(options.cores, alone=options.alone) as schedulers:
        for _ in range(options.rounds):
            for place, scheduler in schedulers.items():
                client = scheduler if isinstance(scheduler, Client) else None
                for (layout, way), array in arrays.items():
                    for name in WAYS_TO_ROWS:
                        model.set_params(scheduler=scheduler, cache=None if name == "read" else "auto")
                        taken = pass_seconds(model, rows if name == "memory" else array, client)
                        found[layout, way, place, name].append(taken)
    results: dict[tuple[str, Way, str], dict[str, Any]] = {}
    for (layout, way, place, name), taken in found.items():
        result = results.setdefault((layout, way, place), {"layout": layout, **asdict(way), "place": place})
        result[name] = {"wall": min(wall for wall, _ in taken), "processor": min(seconds for _, seconds in taken)}
    return list(results.values())


def print_cache(results: list[Any]) -> None:
    print(f"{'':36} {'pipeline':8} {'place':12}", *(f"{name:>21}" for name in WAYS_TO_ROWS))
    for r in results:
        base = r["memory"]["processor"]
        cells = (
            f"{r[n]['processor']:5.2f} {r[n]['wall']:5.2f} {r[n]['processor'] / base:6.2f} ×" for n in WAYS_TO_ROWS
        )
        print(f"{r['layout']:36} {r['pipeline']:8} {r['place']:12}", *(f"{cell:>21}" for cell in cells))
    print("a pass after the survey: processor seconds, wall seconds, processor time as a multiple of rows in memory")


def record(layout: str, way: Way, read: float, compute: float, write: float, cores: int) -> dict[str, Any]:
    """The halves, in processor seconds, and the wall time that a perfect stream would take."""
    limit = (read + compute + write) / cores
    return {"layout": layout, **asdict(way), "read": read, "compute": compute, "write": write, "limit": limit}


def print_results(results: list[Any]) -> None:
    places = list(results[0]["pass"])
    print(f"{'':36} {'pipeline':8} {'store':8} {'read':>6} {'compute':>8} {'write':>6}", *(f"{p:>18}" for p in places))
    for r in results:
        passes = (f"{r['pass'][p]:9.2f} ({r['ratio'][p]:.2f} ×)" for p in places)
        halves = f"{r['read']:6.2f} {r['compute']:8.2f} {r['write']:6.2f}"
        print(f"{r['layout']:36} {r['pipeline']:8} {r['store']:8} {halves}", *passes)
    if "memory" in results[0]:
        peak, plan = (results[0]["memory"][key] / MEBIBYTE for key in ("peak", "plan"))
        print(f"largest resident set of a worker process: {peak:.0f} MiB; largest plan: {plan:.0f} MiB")
    print("read, compute, write: processor seconds; passes: wall seconds, and times the sum of these / cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path, default=Path("stream"), help="folder for the stores; made if not there")
    parser.add_argument("--gb", type=float, default=1, help="size of the rows, in memory too, in GB (default 1)")
    parser.add_argument("--features", type=int, default=16, help="D (default 16)")
    parser.add_argument("--components", type=int, default=8, help="K (default 8)")
    parser.add_argument("--passes", type=int, default=3, help="EM iterations of a fit (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads, and processes (default: all)")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--pipelines", nargs="+", default=list(pipelines()), choices=list(pipelines()))
    parser.add_argument("--stores", nargs="+", default=list(stores()), choices=list(stores()))
    parser.add_argument("--results", action="store_true", help="write labels and so on, of the first layout")
    parser.add_argument("--cache", action="store_true", help="passes of fits that keep the rows in memory")
    parser.add_argument("--alone", action="store_true", help="also on one thread, and on one worker process")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    rows = draw(max(1000, int(options.gb * 1e9 / 8 / options.features)), options.features, options.components)
    options.store.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for layout in options.layouts:
        path = options.store / f"{''.join(c if c.isalnum() else '-' for c in layout)}-{len(rows)}x{rows.shape[1]}.zarr"
        write(rows, path, LAYOUTS[layout])
        for pipeline in options.pipelines:
            for store in options.stores:
                way = Way(pipeline, store)
                arrays[layout, way] = way.open(path)
    machine = describe_machine()
    how = measure_results if options.results else measure_cache if options.cache else measure
    results = how(arrays, rows, options)
    for result in () if options.cache else results:
        result["ratio"] = {place: seconds / result["limit"] for place, seconds in result["pass"].items()}
    if options.json:
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        print(json.dumps({"machine": machine, "options": asked, "results": results}, indent=1))
    else:
        print_machine(machine)
        (print_cache if options.cache else print_results)(results)


if __name__ == "__main__":
    main()
