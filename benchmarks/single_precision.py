"""Single precision while it is enough: passes over float64 rows in both arithmetics, and whole accelerated fits.

    python benchmarks/single_precision.py
    python benchmarks/single_precision.py --passes full:8x16 --fits full:8x16:5 --rows 400000 --seeds 3

Both take turns in one process, on one thread; times are processor time. The whole fits in double precision alone are
those that the settings would make if they did not permit rounding.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any
from unittest import mock

import numpy as np
from data_sets import DataSet, drawn
from machine import describe_machine, print_machine
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.core.kernel_choice import MixtureShape, choose_backend, choose_kernel
from daskgmm.core.statistics import Frame
from daskgmm.fitting.fit_spec import Settings

Array = np.ndarray[Any, np.dtype[Any]]
PASSES = ("full:8x16", "full:16x32", "full:32x32", "full:64x64", "diag:16x32", "tied:16x32", "spherical:16x32")
FITS = ("full:4x10:40", "full:8x16:5", "full:16x32:5", "diag:16x16:10")
STARTS: dict[str, dict[str, Any]] = {
    "all rows": {"init_size": None},
    "samples": {"init_size": 20_000, "n_init": "auto"},
}


@dataclass(frozen=True)
class PassTimes:
    """Nanoseconds of one row in an E-step."""

    case: str
    double: float
    rounded: float
    """Float64 rows in single precision."""
    single: float
    """Float32 rows."""


@dataclass(frozen=True)
class FitPair:
    """One fit in double precision alone, and with its first passes in single precision."""

    case: str
    start: str
    tol: float
    seed: int
    seconds: tuple[float, float]
    passes: tuple[int, int]
    n_single: int
    """Passes in single precision."""
    gained: float
    """Difference of the final mean log-likelihoods, in nats."""


def problem(case: str, n_rows: int) -> DataSet:
    """Drawn rows; ``case`` is structure:DxK:percent of Bayes error."""
    structure, shape, percent = case.split(":")
    n_features, n_components = map(int, shape.split("x"))
    return drawn(structure, n_features, n_components, n_rows, float(percent))


def fitted(data: DataSet, rows: Array, *, single: bool, **more: Any) -> tuple[GaussianMixture, float]:
    """Fit with one thread; return the model and the processor time."""
    settings = {"covariance_type": data.covariance_type, "acceleration": "lbfgs", "scheduler": "synchronous"}
    model = GaussianMixture(data.n_components, **settings | more)
    with mock.patch.object(Settings, "single", property(lambda self: single)), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begin = time.process_time()
        model.fit(rows)
        return model, time.process_time() - begin


def time_passes(case: str, n_rows: int, rounds: int) -> PassTimes:
    """Time the E-step alone, at a mixture that was fitted in a few steps."""
    data = problem(f"{case}:5", n_rows)
    rows = data.load()
    mixture = fitted(data, rows, single=False, max_iter=3)[0]._parameters()
    frame, backend = Frame.of(rows.mean(axis=0), rows.std(axis=0)), choose_backend(MixtureShape.of(mixture), 1e12)
    best: dict[str, float] = {}
    exact = np.dtype(np.float64)
    known = ("float32", "float64")  # second moments of all rows
    double = choose_kernel(mixture, frame, exact, backend, known)
    single = choose_kernel(mixture, frame, exact, backend, known, rounds=True)
    turns = (("double", double, rows), ("rounded", single, rows), ("single", single, rows.astype(np.float32)))
    for number in range(rounds + 1):
        for name, kernel, block in turns:
            work = kernel.workspace()
            begin = time.process_time()
            kernel.statistics(block, None, work)
            if number:  # the first round loads code
                best[name] = min(best.get(name, np.inf), 1e9 * (time.process_time() - begin) / len(rows))
    return PassTimes(case, **best)


def compare_fits(case: str, n_rows: int, tols: list[float], seeds: int) -> list[FitPair]:
    """Fit in both ways from every kind of start."""
    data = problem(case, n_rows)
    rows = data.load()
    for single in (False, True):
        fitted(data, rows, single=single, max_iter=3)  # loads code
    found = []
    for start, how in STARTS.items():
        for tol in tols:
            for seed in range(seeds):
                settings: dict[str, Any] = {"tol": tol, "random_state": seed, "max_iter": 500, **how}
                (double, slow), (single, quick) = (fitted(data, rows, single=s, **settings) for s in (False, True))
                n_single = _esteps(single).count("float32")
                passes = len(_esteps(double)), len(_esteps(single))
                gained = single.lower_bound_ - double.lower_bound_
                found.append(FitPair(case, start, tol, seed, (slow, quick), passes, n_single, gained))
    return found


def _esteps(model: GaussianMixture) -> list[str]:
    """Arithmetic of every pass over all rows, the repeated ones included."""
    return [record.arithmetic for record in model.history_ if record.kind not in ("survey", "sample")]


def print_passes(passes: list[PassTimes]) -> None:
    print(f"{'case':18} {'double':>9} {'rounded':>9} {'single':>9}   ns a row {'speed':>6} {'float32 rows':>13}")
    for p in passes:
        speeds = f"{p.double / p.rounded:6.2f} {p.double / p.single:13.2f}"
        print(f"{p.case:18} {p.double:9.0f} {p.rounded:9.0f} {p.single:9.0f}            {speeds}")


def print_fits(pairs: list[FitPair]) -> None:
    print(f"{'case':16} {'start':9} {'tol':>6} {'passes':>8} {'single':>7} {'speed':>6} {'gained':>18}")
    for case, start, tol in dict.fromkeys((p.case, p.start, p.tol) for p in pairs):
        group = [p for p in pairs if (p.case, p.start, p.tol) == (case, start, tol)]
        passes = " / ".join(f"{median(p.passes[i] for p in group):g}" for i in (0, 1))
        speed, gained = geometric_mean(p.seconds[0] / p.seconds[1] for p in group), [p.gained for p in group]
        shares = f"{median(p.n_single for p in group):7g} {speed:6.2f}"
        print(f"{case:16} {start:9} {tol:6g} {passes:>8} {shares} {min(gained):+9.1e} {max(gained):+8.1e}")
    lower, higher = (sum(sign * p.gained > p.tol / 10 for p in pairs) for sign in (-1, 1))
    speed = geometric_mean(p.seconds[0] / p.seconds[1] for p in pairs)
    print(f"{len(pairs)} pairs: speed {speed:.2f}; lower by more than tol / 10: {lower}, higher: {higher}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passes", nargs="*", default=PASSES, metavar="CASE", help="structure:DxK")
    parser.add_argument("--fits", nargs="*", default=FITS, metavar="CASE", help="structure:DxK:percent of Bayes error")
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the whole fits (default 300 000)")
    parser.add_argument("--pass-rows", type=int, default=20_000, help="rows of the E-steps alone (default 20 000)")
    parser.add_argument("--tols", type=float, nargs="+", default=[1e-3, 1e-5])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    with threadpool_limits(1):
        passes = [time_passes(case, options.pass_rows, options.rounds) for case in options.passes]
        pairs = [p for case in options.fits for p in compare_fits(case, options.rows, options.tols, options.seeds)]
    if options.json:
        results = {"passes": [asdict(p) for p in passes], "fits": [asdict(p) for p in pairs]}
        print(json.dumps({"machine": describe_machine(), **results}, indent=1))
        return
    print_machine(describe_machine())
    if passes:
        print_passes(passes)
    if pairs:
        print_fits(pairs)


if __name__ == "__main__":
    main()
