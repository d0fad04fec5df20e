"""A fit of a Zarr store on worker processes with a memory limit: time of a pass, throughput, peak memory.

    python benchmarks/out_of_core.py --store /scratch/rows.zarr --gb 4 --workers 2 --memory-limit 1GiB

The store is made at the first run, chunk by chunk, and used again by later ones. Memory is the resident set of each
process, sampled every 20 ms during the fit.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr
from dask.utils import format_bytes
from distributed import Client, LocalCluster
from machine import describe_machine, print_machine
from memory import Process, peak_memory
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from daskgmm.events import PassFinished

CHUNK_BYTES = 16 << 20


def make_store(path: Path, n_bytes: float, n_features: int, n_components: int) -> zarr.Array[Any]:
    """Float64 rows drawn from overlapping components, in chunks of 16 MiB; a store that is there already is kept."""
    n_rows = max(1, round(n_bytes / (8 * n_features)))
    if path.exists():
        store = zarr.open_array(path, mode="r")
        if store.shape != (n_rows, n_features):
            raise SystemExit(
                f"{path} has shape {store.shape}, not {(n_rows, n_features)}: remove it, or ask for its size"
            )
        return store
    chunk_rows = min(n_rows, max(1, CHUNK_BYTES // (8 * n_features)))
    partial = path.with_name(f"{path.name}.partial")
    store = zarr.create_array(
        partial, shape=(n_rows, n_features), chunks=(chunk_rows, n_features), dtype="float64", overwrite=True
    )
    centers = 2 * np.random.default_rng(0).normal(size=(n_components, n_features))
    for start in range(0, n_rows, chunk_rows):
        rng = np.random.default_rng([1, start])
        size = min(chunk_rows, n_rows - start)
        store[start : start + size] = centers[rng.integers(n_components, size=size)] + rng.normal(
            size=(size, n_features)
        )
    partial.rename(path)
    return zarr.open_array(path, mode="r")


def fit(store: zarr.Array[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fit the store on a cluster of its own and report what that took."""
    passes: list[PassFinished] = []

    def listen(event: Any) -> None:
        if isinstance(event, PassFinished):
            passes.append(event)

    model = GaussianMixture(
        options.components,
        covariance_type=options.covariance_type,
        tol=0,
        max_iter=options.passes,
        random_state=0,
        callbacks=[listen],
    )
    with (
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=options.threads,
            memory_limit=options.memory_limit,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = {f"worker {i}": Process(pid) for i, pid in enumerate(client.run(os.getpid).values())}
        idle = {name: worker.resident() for name, worker in workers.items()}
        plan = model.plan(store)
        begin = time.perf_counter()
        with peak_memory(workers | {"driver": Process(os.getpid())}) as peaks, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
            model.fit(store)
        seconds = time.perf_counter() - begin
        alive = set(client.run(os.getpid).values()) == {worker.pid for worker in workers.values()}
    estep = median(p.seconds for p in passes if p.label == "estep")
    return {
        "rows": store.shape[0],
        "data_bytes": store.nbytes,
        "stored_bytes": store.nbytes_stored(),
        "fit_seconds": seconds,
        "survey_seconds": next(p.seconds for p in passes if p.label == "survey"),
        "estep_seconds": [p.seconds for p in passes if p.label == "estep"],
        "estep_bytes_per_second": store.nbytes / estep,
        "peak_bytes": peaks,
        "idle_bytes": idle,
        "planned_bytes": plan.worker_bytes,
        "workers_survived": alive,
    }


def print_result(result: dict[str, Any], options: argparse.Namespace) -> None:
    size, stored = format_bytes(result["data_bytes"]), format_bytes(result["stored_bytes"])
    estep = median(result["estep_seconds"])
    speed = result["estep_bytes_per_second"]
    print(f"{result['rows']} rows × {options.features}, {size} ({stored} stored), K = {options.components}")
    print(f"{options.workers} workers of {options.threads} threads and {options.memory_limit} each")
    print(f"survey      {result['survey_seconds']:8.2f} s")
    print(f"EM pass     {estep:8.2f} s (median of {len(result['estep_seconds'])}), {speed / 1e9:.2f} GB/s")
    print(f"whole fit   {result['fit_seconds']:8.2f} s, starts included")
    for name, peak in result["peak_bytes"].items():
        idle = (
            f", {format_bytes(result['idle_bytes'][name])} of it before the fit" if name in result["idle_bytes"] else ""
        )
        print(f"{name:11} {format_bytes(peak):>10} at most{idle}")
    print(f"plan        {format_bytes(result['planned_bytes']):>10} a worker")
    if not result["workers_survived"]:
        print("A worker was killed and replaced during the fit: its peak is not the whole story.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path, default=Path("benchmark.zarr"), help="made if it is not there")
    parser.add_argument("--gb", type=float, default=4, help="size of the rows in memory, in GB (default 4)")
    parser.add_argument("--features", type=int, default=16, help="D (default 16)")
    parser.add_argument("--components", type=int, default=8, help="K (default 8)")
    parser.add_argument("--covariance-type", default="full")
    parser.add_argument("--passes", type=int, default=5, help="EM iterations (default 5)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="of each worker (default 1)")
    parser.add_argument("--memory-limit", default="1GB", help="of each worker (default 1GiB)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args()
    machine = describe_machine()
    store = make_store(options.store, options.gb * 1e9, options.features, options.components)
    result = fit(store, options)
    if options.json:
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        print(json.dumps({"machine": machine, "options": asked, "result": result}, indent=1))
    else:
        print_machine(machine)
        print_result(result, options)


if __name__ == "__main__":
    main()
