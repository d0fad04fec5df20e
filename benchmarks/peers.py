"""daskgmm beside other ways to fit a Gaussian mixture: time, memory and growth, from the same rows and the same start.

    python benchmarks/peers.py --output peers
    python benchmarks/peers.py --output peers --quick --only daskgmm scikit-learn
    python benchmarks/peers.py --report peers

Every measurement runs in a process of its own, the contestants take turns, and what is missing, fails or takes too
much stands in the tables, too. Needs ``pip install 'daskgmm[bench]'`` and, for Spark, Java.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from contest.contestants import CONTESTANTS
from contest.measure import Contest
from contest.problem import Problem
from contest.report import describe, write_report
from dask.utils import format_bytes, parse_bytes
from machine import describe_machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class Plan:
    """What is measured. Along an axis one size changes, and the others are those of ``base``."""

    base: Problem
    headline: Problem
    """Measured in several rounds, as is the whole fit of ``base``."""
    axes: dict[str, tuple[int, ...]]
    """By field of `Problem`."""
    rounds: int
    tol: float = 1e-5
    max_iter: int = 500

    def schedule(self) -> Iterator[tuple[Problem, int, float | None]]:
        """Problem, rounds, and the tolerance of a whole fit; small ones first, so that larger ones can be left out."""
        yield self.base, self.rounds, self.tol
        along_axes = {replace(self.base, **{axis: size}) for axis, sizes in self.axes.items() for size in sizes}
        for problem in sorted(along_axes | {self.headline}, key=lambda p: (p.work, -p.threads)):
            yield problem, self.rounds if problem == self.headline else 1, None


def make_plan(quick: bool, cores: int) -> Plan:
    if quick:
        base = Problem(2_000, 3, 3, cores)
        return Plan(base, base, {"n_rows": (2_000, 6_000)}, rounds=1, max_iter=20)
    base = Problem(100_000, 8, 8, cores)
    sizes = (2, 8, 32)
    axes = {
        "n_rows": (10_000, 100_000, 1_000_000),
        "n_features": sizes,
        "n_components": sizes,
        "threads": tuple(sorted({2**i for i in range(cores.bit_length())} | {cores})),
    }
    return Plan(base, replace(base, n_rows=1_000_000), axes, rounds=3)


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The whole result, again after each measurement, so that what was measured survives an interruption."""
    machine = describe_machine()
    plan = make_plan(options.quick, machine["cores"])
    missing = {name: message for name in options.only if (message := CONTESTANTS[name].missing())}
    present = [name for name in options.only if name not in missing]
    records: list[dict[str, Any]] = []
    result = {
        "machine": machine,
        "versions": {name: CONTESTANTS[name].versions() for name in options.only},
        "settings": asdict(plan) | {"time_limit": options.time_limit, "memory_limit": options.memory_limit},
        "missing": missing,
        "measurements": records,
    }
    contest = Contest(present, options.time_limit, parse_bytes(options.memory_limit), options.output)
    schedule = list(plan.schedule())
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(present) * sum(rounds for _, rounds, _ in schedule))
        yield result
        for problem, rounds, tol in schedule:
            progress.update(task, description=str(problem))
            for record in contest.measure(problem, rounds, tol, plan.max_iter):
                records.append(record)
                console.print(describe(record), highlight=False)
                progress.advance(task)
                yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="DIR", help="where peers.json, peers.md and pictures go")
    target.add_argument("--report", type=Path, metavar="DIR", help="only tables and pictures, from DIR/peers.json")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--time-limit", type=float, default=120, help="of a measurement, in seconds (default 120)")
    memory = format_bytes(psutil.virtual_memory().available * 3 // 4)
    parser.add_argument(
        "--memory-limit", default=memory, help="of a contestant (default: 3/4 of what is free, now %(default)s)"
    )
    options = parser.parse_args()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        for result in run(options):
            (options.output / "peers.json").write_text(json.dumps(result, indent=1))
    write_report(options.output or options.report)


if __name__ == "__main__":
    main()
