"""Wait between the call of the first fit in a process and its first E-step: survey, k-means, compiled loops.

    python benchmarks/first_fit.py
    python benchmarks/first_fit.py --cases 100000x8x8 100000x8x64 --rounds 9 --json

Each round is a fresh Python process on rows in memory. A first process, which does not count, compiles the loops,
because numba keeps them on disk; later processes load them. Times are the least of the rounds: processor seconds of all
threads, and elapsed seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from machine import describe_machine, print_machine

Times = dict[str, float]
"""Seconds after the call of fit, by stage."""

STAGES = ("survey", "start", "first E-step")


@dataclass(frozen=True)
class Measurement:
    """Seconds from the call of fit until the survey begins, the start begins, and the first E-step begins."""

    n_rows: int
    n_features: int
    n_components: int
    loops: str
    """Origin of the element-wise loops: ``"numpy"``, or numba and a processor."""
    processor: Times
    elapsed: Times


def child(n_rows: int, n_features: int, n_components: int) -> dict[str, Any]:
    """Fit in this process; return the seconds until each stage begins."""
    from daskgmm import GaussianMixture
    from daskgmm.events import PassStarted, StartBegun

    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(n_components, n_features))
    rows = rng.normal(size=(n_rows, n_features)) + means[rng.integers(n_components, size=n_rows)]
    times: dict[str, Times] = {"processor": {}, "elapsed": {}}

    def listen(event: Any) -> None:
        stage = None
        if isinstance(event, PassStarted):
            stage = {"survey": "survey", "estep": "first E-step"}.get(event.label)
        elif isinstance(event, StartBegun):
            stage = "start"
        if stage is not None:
            times["processor"].setdefault(stage, time.process_time() - processor)
            times["elapsed"].setdefault(stage, time.perf_counter() - elapsed)

    model = GaussianMixture(n_components, random_state=0, tol=1e9, max_iter=2, callbacks=[listen])
    processor, elapsed = time.process_time(), time.perf_counter()
    model.fit(rows)
    return {"loops": model.environment_["loops"], **times}


def run_child(shape: list[int]) -> dict[str, Any]:
    """Run `child` in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(shape)]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return report


def measure(case: str, n_rounds: int) -> Measurement:
    """Measure one case, such as ``"100000x8x8"``: rows, features, components."""
    shape = [int(number) for number in case.split("x")]
    run_child(shape)  # compiles
    reports = [run_child(shape) for _ in range(n_rounds)]
    processor, elapsed = (
        {stage: min(report[clock][stage] for report in reports) for stage in STAGES}
        for clock in ("processor", "elapsed")
    )
    return Measurement(shape[0], shape[1], shape[2], reports[0]["loops"], processor, elapsed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", default=["100000x8x8", "100000x8x64"], metavar="ROWSxDxK")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each case (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*json.loads(options.child))))
        return
    results = [measure(case, options.rounds) for case in options.cases]
    if options.json:
        print(json.dumps({"machine": describe_machine(), "results": [asdict(result) for result in results]}, indent=1))
        return
    print_machine(describe_machine())
    print(f"{'rows, D, K':>16} {'loops':>7}  processor (elapsed) seconds until " + ", ".join(STAGES))
    for m in results:
        cells = "  ".join(f"{m.processor[stage]:.2f} ({m.elapsed[stage]:.2f})" for stage in STAGES)
        shape = f"{m.n_rows}, {m.n_features}, {m.n_components}"
        print(f"{shape:>16} {m.loops.partition(' ')[0]:>7}  {cells}")


if __name__ == "__main__":
    main()
