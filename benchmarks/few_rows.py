"""One row, ten, a thousand: what a fitted model takes to say something of few rows, beside scikit-learn.

Both models have the same parameters and are in one process; the two take turns, call by call, so that a slow moment of
the machine hits both. A figure is the median of the calls; the first call of each, where daskgmm prepares what depends
on the parameters alone, is told by itself. On a machine that others use, ``--clock processor`` counts the time that
calls compute, not the time that they wait for a processor; set ``OPENBLAS_NUM_THREADS=1``, because idle threads of BLAS
compute, too.

    python benchmarks/few_rows.py
    python benchmarks/few_rows.py --cases 2x2 39x64 --structures full --rows 1 --calls 201 --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from machine import describe_machine, print_machine
from sklearn.mixture import GaussianMixture as Reference

from daskgmm import GaussianMixture
from daskgmm.names import COVARIANCE_TYPES

Array = np.ndarray[Any, np.dtype[Any]]
STRUCTURES = COVARIANCE_TYPES[:4]  # those that scikit-learn has, too
METHODS = ("predict", "predict_proba", "score_samples", "score")
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"elapsed": time.perf_counter, "processor": time.process_time}
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_cholesky_")


@dataclass(frozen=True)
class Measurement:
    """One method on so many rows; times in milliseconds a call."""

    n_features: int
    n_components: int
    structure: str
    dtype: str
    n_rows: int
    method: str
    first: float
    """Our first call."""
    daskgmm: float
    scikit_learn: float
    difference: float
    """Largest, of the two results; relative where they are larger than one."""

    @property
    def ratio(self) -> float:
        """Our time over theirs."""
        return self.daskgmm / self.scikit_learn


def make_models(n_features: int, n_components: int, structure: str) -> tuple[Array, Reference, dict[str, Array]]:
    """Rows, scikit-learn's model of them, and its attributes."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(max(1000, 4 * n_components), n_features)) + 3 * rng.integers(2, size=n_features)
    theirs = Reference(
        n_components,
        covariance_type=structure,
        reg_covar=0.1,
        max_iter=2,
        tol=1e9,
        init_params="random",
        random_state=0,
    ).fit(rows)
    return rows, theirs, {name: getattr(theirs, name) for name in ATTRIBUTES}


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """All measurements, as they are made."""
    for case in options.cases:
        d, k = map(int, case.split("x"))
        for structure in options.structures:
            rows, theirs, attributes = make_models(d, k, structure)
            for dtype in options.dtypes:
                for n_rows in options.rows:
                    x = rows[:n_rows].astype(dtype)
                    for method in METHODS:
                        model = GaussianMixture(k, covariance_type=structure)
                        vars(model).update({name: value.copy() for name, value in attributes.items()})
                        calls = getattr(model, method), getattr(theirs, method)
                        times, difference = take_turns(*calls, x, options.calls, CLOCKS[options.clock])
                        yield Measurement(d, k, structure, dtype, n_rows, method, *times, difference)


def take_turns(
    ours: Callable[[Array], Any], theirs: Callable[[Array], Any], x: Array, n_calls: int, clock: Clock
) -> tuple[tuple[float, float, float], float]:
    """Milliseconds of our first call, and medians of the calls after it; and how far the results differ."""
    first = timed(ours, x, clock)
    theirs(x)
    pairs = [(timed(ours, x, clock), timed(theirs, x, clock)) for _ in range(n_calls)]
    mine, expected = np.asarray(ours(x), np.float64), np.asarray(theirs(x), np.float64)
    difference = float(np.max(np.abs(mine - expected) / np.maximum(1, np.abs(expected))))
    return (first, median(a for a, _ in pairs), median(b for _, b in pairs)), difference


def timed(call: Callable[[Array], Any], x: Array, clock: Clock) -> float:
    """Milliseconds of a call."""
    begin = clock()
    call(x)
    return 1e3 * (clock() - begin)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["2x2", "39x64", "128x16"], metavar="DxK")
    parser.add_argument("--structures", nargs="+", default=STRUCTURES, choices=STRUCTURES)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 10, 1000])
    parser.add_argument("--calls", type=int, default=41, help="of each library, for a figure")
    parser.add_argument("--clock", choices=CLOCKS, default="elapsed", help="time to measure (default elapsed)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    results = list(measure(options))
    if options.json:
        told = [asdict(result) | {"ratio": result.ratio} for result in results]
        print(json.dumps({"machine": describe_machine(), "results": told}, indent=2))
        return
    print_machine(describe_machine())
    print(f"{'D, K':>8} {'structure':>10} {'rows':>5} {'dtype':>8}  our ms / theirs of " + ", ".join(METHODS))
    for group in zip(*[iter(results)] * len(METHODS), strict=True):
        one = group[0]
        cells = " ".join(f"{m.daskgmm:6.2f}/{m.scikit_learn:6.2f} ={m.ratio:4.1f}" for m in group)
        print(f"{one.n_features:>4},{one.n_components:>3} {one.structure:>10} {one.n_rows:>5} {one.dtype:>8}  {cells}")
    print(
        f"largest ratio {max(m.ratio for m in results):.2f}, largest first call {max(m.first for m in results):.0f} ms"
    )


if __name__ == "__main__":
    main()
