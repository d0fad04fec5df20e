"""daskgmm beside other ways to fit a Gaussian mixture: time, memory and result, from the same rows and the same start.

    python benchmarks/peers.py
    python benchmarks/peers.py --rows 100000 --tol 1e-5 --only daskgmm scikit-learn --json

Every measurement runs in a process of its own, and the contestants take turns. Without --tol it is the time of an
iteration, with it that of a whole fit. Needs ``pip install 'daskgmm[bench]'`` and, for Spark, Java.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contest.contestants import CONTESTANTS
from contest.parent import run_child
from contest.problem import Mixture, Problem, Task, draw
from machine import describe_machine, print_machine

Record = dict[str, Any]

LEAD = 1  # iterations of the shorter fit: what is special about the first is in both
REFERENCE = "daskgmm"
CLOCKS = ("seconds", "processor_seconds")


def measure(options: argparse.Namespace, problem: Problem) -> Iterator[Record]:
    """A record for each round and contestant."""
    # The difference of two fits is the time of the iterations that one has more: starts and surveys cancel.
    iterations = [options.max_iter] if options.tol else [LEAD, LEAD + problem.iterations]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        task = Task(problem, Path(directory).resolve())
        task.write(draw(problem))
        for turn in range(options.rounds):
            for name in options.only:
                config = {"contestant": name, "problem": asdict(problem), "directory": str(task.directory)}
                config |= {"iterations": iterations, "tol": options.tol, "mixture": str(task.directory / "fitted.npz")}
                missing = CONTESTANTS[name].missing()
                result = {"error": missing} if missing else run_child(config, options.time_limit)
                yield {"contestant": name, "round": turn} | judged(result, task)


def judged(result: Record, task: Task) -> Record:
    """With the log-likelihood of what was fitted, and the seconds of a whole fit or of an iteration."""
    if "error" in result:
        return result
    with np.load(task.directory / "fitted.npz") as arrays:
        level = Mixture(**arrays).mean_log_likelihood(task.judged_rows)
    *short, long = result["fits"]
    times = {clock: long[clock] for clock in CLOCKS}
    if short:
        n_iter = long["max_iter"] - short[0]["max_iter"]
        times = {clock: (seconds - short[0][clock]) / n_iter for clock, seconds in times.items()}
    return result | times | {"log_likelihood": float(level)}


def table(records: list[Record], names: list[str]) -> Iterator[str]:
    """Markdown: medians over the rounds; ratios are to daskgmm's time in the same round."""
    yield "| | s | of daskgmm's | processor s | of its | iterations | peak, MB | before the rows, MB | log-likelihood |"
    yield f"|---|{'---:|' * 8}"
    reference = {record["round"]: record for record in records if record["contestant"] == REFERENCE}
    for name in names:
        found = [record for record in records if record["contestant"] == name]
        failed = next((record["error"] for record in found if "error" in record), None)
        if failed is not None:
            yield f"| {name} | {failed.replace('|', '/')} |{' |' * 7}"
            continue
        numbers = []
        for clock in CLOCKS:
            ratios = [r[clock] / ours[clock] for r in found if clock in (ours := reference.get(r["round"], {}))]
            numbers += [f"{median(r[clock] for r in found):.3g}", f"{median(ratios):.3g}" if ratios else "-"]
        numbers += [str(found[0]["fits"][-1]["n_iter"] or "-")]
        numbers += [f"{median(r[of] for r in found) / 1e6:,.0f}" for of in ("peak_bytes", "idle_bytes")]
        yield f"| {name} | {' | '.join(numbers)} | {found[0]['log_likelihood']:.8f} |"


def main() -> None:
    machine = describe_machine()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="default: a million")
    parser.add_argument("--features", type=int, default=8, metavar="D", help="default: 8")
    parser.add_argument("--components", type=int, default=8, metavar="K", help="default: 8")
    parser.add_argument("--threads", type=int, default=machine["cores"], help="default: all cores, %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--tol", type=float, help="time a whole fit that stops when the bound changes by less, a row")
    parser.add_argument("--max-iter", type=int, default=500, help="of a whole fit (default 500)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--time-limit", type=float, default=120, help="of a measurement, in seconds (default 120)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    for name in options.only:
        machine["versions"] |= CONTESTANTS[name].versions()
    problem = Problem(options.rows, options.features, options.components, options.threads)
    records = list(measure(options, problem))
    if options.json:
        print(json.dumps({"machine": machine, "problem": asdict(problem), "tol": options.tol, "measurements": records}))
        return
    print_machine(machine)
    print(f"{problem}, {f'whole fits to tol = {options.tol:g}' if options.tol else 'one iteration'}\n")
    print("\n".join(table(records, options.only)))
    for name in options.only:
        notes = [note for note in (CONTESTANTS[name].note, CONTESTANTS[name].stopping) if note]
        print(f"* {name}: {'; '.join(notes)}" if notes else "", end="\n" if notes else "")


if __name__ == "__main__":
    main()
