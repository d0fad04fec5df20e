"""Seconds of an EM iteration in whole fits beside scikit-learn's: start-up cancels, everything else counts.

    python benchmarks/fits.py --threads 1

An iteration is the difference between a long and a short fit of the same rows from the same start, divided by the
number of iterations that they differ in. Rows are many enough that neither library's arrays stay in a cache, as they
are where people wait for fits; benchmarks/kernels.py has the other case. The two take turns; a ratio is the median of
those of the rounds.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import dask
import numpy as np
from kernels import REG_COVAR, draw
from machine import describe_machine, print_machine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as TheirMixture
from threadpoolctl import threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.events import IterationFinished

Array = np.ndarray[Any, np.dtype[Any]]

CASES = (
    *(("full", d, k) for d, k in ((2, 10), (8, 16), (16, 32), (32, 32), (64, 64), (128, 32), (256, 8))),
    *(("diag", d, k) for d, k in ((3, 8), (16, 32), (64, 64))),
    *(("tied", d, k) for d, k in ((16, 32), (64, 64))),
    ("spherical", 16, 32),
)
SHORT, LONG = 2, 5  # iterations


@dataclass(frozen=True)
class Measurement:
    """One case; times in nanoseconds a row and iteration, one for each round."""

    structure: str
    n_features: int
    n_components: int
    n_rows: int
    arithmetic: str
    """What daskgmm computed in."""
    scikit_learn: list[float]
    daskgmm: list[float]
    float32: list[float]
    """Daskgmm on the same rows in single precision."""
    arithmetic_of_float32: str

    @property
    def ratio(self) -> float:
        """How many times faster daskgmm was: the median over the rounds."""
        return median(theirs / ours for theirs, ours in zip(self.scikit_learn, self.daskgmm, strict=True))

    @property
    def gain(self) -> float:
        """How many times faster single precision was."""
        return median(double / single for double, single in zip(self.daskgmm, self.float32, strict=True))


def seconds_of_iteration(estimator: type, rows: Array, options: dict[str, Any]) -> float:
    """Difference of a long and a short fit."""
    taken = []
    for n_iterations in (SHORT, LONG):
        begin = time.perf_counter()
        estimator(tol=0, max_iter=n_iterations, **options).fit(rows)
        taken.append(time.perf_counter() - begin)
    return (taken[1] - taken[0]) / (LONG - SHORT)


def rows_for(structure: str, d: int, k: int) -> int:
    """About a second for an iteration of scikit-learn, and at most a million."""
    products = d * d if structure in ("full", "tied") else 2 * d
    return int(np.clip(4e9 / (k * (products + 40)), 20_000, 1_000_000))


def measure(structure: str, d: int, k: int, options: argparse.Namespace) -> Measurement:
    n_rows = options.rows or rows_for(structure, d, k)
    rows, weights, means, covariances = draw(n_rows, d, k)
    full = np.linalg.inv(covariances)
    precisions = {
        "full": full,
        "tied": np.linalg.inv(covariances.mean(axis=0)),
        "diag": 1 / np.einsum("kii->ki", covariances),
        "spherical": 1 / np.einsum("kii->ki", covariances).mean(axis=1),
    }[structure]
    asked = {
        "n_components": k,
        "covariance_type": structure,
        "reg_covar": REG_COVAR,
        "weights_init": weights,
        "means_init": means,
        "precisions_init": precisions,
    }
    arithmetics: list[str] = []

    def listen(event: Any) -> None:
        if isinstance(event, IterationFinished):
            arithmetics.append(event.arithmetic)

    ours = asked | {
        "scheduler": "synchronous" if options.threads == 1 else "threads",
        "init_params": "random_from_data",
        "callbacks": [listen],
    }
    single = rows.astype(np.float32)
    seconds_of_iteration(GaussianMixture, rows, ours)  # loads code
    double_arithmetic = arithmetics[-1]
    seconds_of_iteration(GaussianMixture, single, ours)
    times: list[list[float]] = [[], [], []]
    for _ in range(options.rounds):
        with threadpool_limits(options.threads):
            times[0].append(seconds_of_iteration(TheirMixture, rows, asked))
        times[1].append(seconds_of_iteration(GaussianMixture, rows, ours))
        times[2].append(seconds_of_iteration(GaussianMixture, single, ours))
    nanoseconds = ([1e9 * t / n_rows for t in taken] for taken in times)
    theirs, double, float32 = nanoseconds
    return Measurement(structure, d, k, n_rows, double_arithmetic, theirs, double, float32, arithmetics[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", metavar="STRUCTURE:DxK", help="for example full:16x32")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of either library (default 1)")
    parser.add_argument("--rows", type=int, help="rows of every case (default: as many as take seconds)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    cases = CASES
    if options.cases:
        split = [case.replace("x", ":").split(":") for case in options.cases]
        cases = tuple((structure, int(d), int(k)) for structure, d, k in split)
    machine = describe_machine()
    results = []
    if not options.json:
        print_machine(machine)
        header = f"{'case':22} {'rows':>8} {'computed in':12} {'scikit-learn':>12} {'daskgmm':>8} {'ratio':>6}"
        print(f"{header}   float32 rows")
    with warnings.catch_warnings(), dask.config.set(num_workers=options.threads):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fits are stopped on purpose
        for structure, d, k in cases:
            m = measure(structure, d, k, options)
            results.append(asdict(m) | {"ratio": m.ratio, "gain": m.gain})
            if not options.json:
                print(
                    f"{f'{structure} {d}, {k}':22} {m.n_rows:8} {m.arithmetic:12} {median(m.scikit_learn):9.0f} ns"
                    f" {median(m.daskgmm):5.0f} ns {m.ratio:6.1f}   {m.gain:.1f} × in {m.arithmetic_of_float32}",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"machine": machine, "threads": options.threads, "results": results}, indent=1))


if __name__ == "__main__":
    main()
