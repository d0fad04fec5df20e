"""Climbs on a tilted sample between passes: whole default fits with them, beside fits that take L-BFGS's steps alone.

    python benchmarks/tilted.py
    python benchmarks/tilted.py --data photographs full:4x10:20 --rows 200000 --tols 1e-5 --seeds 1 --json

Both take turns in one process, on one thread, from the same starts; times are processor time, rows are in memory.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any

import numpy as np
from data_sets import APART, REAL, DataSet, drawn
from machine import describe_machine, print_machine
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.fitting.history import PassRecord

Array = np.ndarray[Any, np.dtype[Any]]
DATA = ("photographs", "patches", "textures", "flights", "births", "full:3x6:30", "full:4x10:20", "full:8x16:5")


@dataclass(frozen=True)
class Pair:
    """One fit with L-BFGS's steps alone, and with climbs on a tilted sample."""

    data: str
    tol: float
    seed: int
    passes: tuple[int, int]
    """E-steps over all rows."""
    work: float
    """Arithmetic of the climbs, in passes over all rows."""
    seconds: tuple[float, float]
    gained: float
    """Difference of the final mean log-likelihoods, in nats."""


def problem(name: str, n_rows: int) -> DataSet:
    """Real data, or drawn rows: structure:DxK:percent of Bayes error, or apart:DxK."""
    if known := {**REAL, **APART}.get(name):
        return known.with_rows(n_rows)
    structure, shape, percent = name.split(":")
    n_features, n_components = map(int, shape.split("x"))
    return drawn(structure, n_features, n_components, n_rows, float(percent))


def fitted(data: DataSet, rows: Array, acceleration: str, **more: Any) -> tuple[GaussianMixture, float]:
    """Fit with one thread; return the model and the processor time."""
    settings = {"covariance_type": data.covariance_type, "acceleration": acceleration, "scheduler": "synchronous"}
    model = GaussianMixture(data.n_components, reg_covar=data.reg_covar, **settings | more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begin = time.process_time()
        model.fit(rows)
        return model, time.process_time() - begin


def compare(name: str, n_rows: int, tols: list[float], seeds: int) -> list[Pair]:
    """Fit in both ways."""
    data = problem(name, n_rows)
    rows, pairs = data.load(), []
    fitted(data, rows, "auto", max_iter=2)  # loads code
    for tol in tols:
        for seed in range(seeds):
            settings: dict[str, Any] = {"tol": tol, "random_state": seed, "max_iter": 500}
            (alone, slow), (tilted, quick) = (fitted(data, rows, how, **settings) for how in ("lbfgs", "auto"))
            passes = _n_esteps(alone.history_), _n_esteps(tilted.history_)
            gained = tilted.lower_bound_ - alone.lower_bound_
            pairs.append(Pair(name, tol, seed, passes, _work(tilted.history_, len(rows)), (slow, quick), gained))
    return pairs


def _n_esteps(history: list[PassRecord]) -> int:
    return sum(record.kind not in ("survey", "sample") for record in history)


def _work(history: list[PassRecord], n_rows: int) -> float:
    """Arithmetic of the climbs: other iterations on samples have a bound."""
    climbs = [record for record in history if record.kind == "sample" and record.lower_bound is None]
    return sum(record.n_iter * record.n_rows for record in climbs) / n_rows


def print_pairs(pairs: list[Pair]) -> None:
    print(f"{'data':14} {'tol':>6} {'passes':>9} {'work':>5} {'seconds':>8} {'gained / tol':>16}")
    for data, tol in dict.fromkeys((p.data, p.tol) for p in pairs):
        group = [p for p in pairs if (p.data, p.tol) == (data, tol)]
        passes = " / ".join(f"{median(p.passes[i] for p in group):g}" for i in (0, 1))
        work, gained = median(p.work for p in group), [p.gained / tol for p in group]
        seconds = geometric_mean(p.seconds[1] / p.seconds[0] for p in group)
        print(f"{data:14} {tol:6g} {passes:>9} {work:5.2f} {seconds:8.2f} {min(gained):+8.1f} {max(gained):+7.1f}")
    for tol in dict.fromkeys(p.tol for p in pairs):
        group = [p for p in pairs if p.tol == tol]
        ratios = [p.passes[1] / p.passes[0] for p in group]
        seconds = geometric_mean(p.seconds[1] / p.seconds[0] for p in group)
        print(
            f"tol {tol:g}, {len(group)} pairs: passes {median(ratios):.2f} in the median, at most {max(ratios):.2f}; "
            f"processor time {seconds:.2f}; work at most {max(p.work for p in group):.2f} passes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", nargs="+", default=DATA, metavar="NAME", help="real, structure:DxK:percent, apart:DxK"
    )
    parser.add_argument("--rows", type=int, default=300_000, help="rows, at most, of real data (default 300 000)")
    parser.add_argument("--tols", type=float, nargs="+", default=[1e-3, 1e-5, 1e-7])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    with threadpool_limits(1):
        pairs = [pair for name in options.data for pair in compare(name, options.rows, options.tols, options.seeds)]
    if options.json:
        print(json.dumps({"machine": describe_machine(), "fits": [asdict(p) for p in pairs]}, indent=1))
        return
    print_machine(describe_machine())
    print_pairs(pairs)


if __name__ == "__main__":
    main()
