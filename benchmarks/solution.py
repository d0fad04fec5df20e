"""Time to solution on real data: when each implementation first reaches what plain EM finds, from its own starts.

    python benchmarks/solution.py --output solution.jsonl --rows 200000 --seeds 2
    python benchmarks/solution.py --output solution.jsonl --contestants daskgmm scikit-learn --plot solution.png

Every fit runs in a process of its own, and the contestants take turns. ``daskgmm:plain`` is daskgmm with the settings
of that strategy (see settings.py), ``daskgmm`` alone has default parameters. Each fit is a line of the file as soon as
it is known, and the same command goes on where it was interrupted. Needs ``pip install 'daskgmm[bench]'`` and, for
Spark, Java.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
from contest.contestants import CONTESTANTS
from contest.parent import run_child
from contest.problem import Problem, Task
from data_sets import REAL, DataSet
from machine import describe_machine, print_machine
from settings import STRATEGIES, settings
from trials import Trial, available, choosing, complete, print_missing, print_table, read

Record = dict[str, Any]

DEFAULT, REFERENCE, PLAIN = "daskgmm", "scikit-learn", "daskgmm:plain"
ALL = (DEFAULT, "daskgmm-zarr", PLAIN, REFERENCE, "onedal", "gmmx", "tgmm", "spark")
LARGE = 200_000  # rows from which a data set counts in the means
CLOCKS = {"processor": 2, "wall": 1}  # places in a line of a trajectory


# ---- fits


def implementation(name: str) -> str:
    """Name of a contestant without that of its strategy."""
    return name.partition(":")[0]


def known(name: str) -> str:
    """Name of a contestant, with a strategy if it is daskgmm."""
    peer, _, strategy = name.partition(":")
    if peer not in CONTESTANTS or (strategy and (strategy not in STRATEGIES or not peer.startswith("daskgmm"))):
        raise argparse.ArgumentTypeError(f"no contestant is called {name!r}; there are {', '.join(CONTESTANTS)}")
    return name


class Solver:
    """Fits in processes of their own, to rows that are written once for each data set."""

    def __init__(self, directory: Path, threads: int, time_limit: float) -> None:
        self.directory = directory
        self.threads = threads
        self.time_limit = time_limit
        self._written: dict[str, Task] = {}

    def task(self, data: DataSet) -> Task:
        if data.name not in self._written:
            problem = Problem(data.n_rows, data.n_features, data.n_components, self.threads)
            task = Task(problem, self.directory / data.name)
            task.directory.mkdir()
            task.write(data.load())
            self._written[data.name] = task
        return self._written[data.name]

    def __call__(self, trial: Trial) -> Record:
        """The trajectory of one fit, and what it ended with; or why it did not end."""
        name, task = implementation(trial.strategy), self.task(trial.data)
        missing = CONTESTANTS[name].missing()
        if missing:
            return {"error": missing, "trajectory": []}
        trajectory = task.directory / "trajectory.jsonl"
        trajectory.unlink(missing_ok=True)
        config = {"contestant": name, "problem": asdict(task.problem), "directory": str(task.directory)}
        config |= {"mixture": str(task.directory / "fitted.npz"), "trajectory": str(trajectory)}
        config |= {"seed": trial.seed, "tol": trial.tol, "max_iter": trial.max_iter}
        config |= {"settings": settings(trial.strategy.partition(":")[2] or "default", trial.data.init_size)}
        result = run_child(config, self.time_limit)
        return {"threads": self.threads} | result | {"trajectory": read(trajectory)}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    for data in options.data:
        for seed in range(options.seeds):
            for name in options.contestants:
                yield Trial(data, name, seed, options.tol, options.max_iter)


# ---- judgement


def final_level(record: Record) -> float:
    """Mean log-likelihood at the end, as far as the fit came."""
    return record["trajectory"][-1][-1] if record["trajectory"] else -math.inf


def seconds_until(record: Record, target: float, clock: str) -> float:
    """Seconds until a fit first had the log-likelihood; infinite where it never did."""
    place = CLOCKS[clock]
    return next((line[place] for line in record["trajectory"] if line[-1] >= target), math.inf)


def expected_seconds(records: list[Record], target: float, clock: str) -> float:
    """Expected time to the target with restarts: all seconds that were spent, over the fits that reached it."""
    taken = [seconds_until(record, target, clock) for record in records]
    reached = [seconds for seconds in taken if seconds < math.inf]
    missed = (record for record, seconds in zip(records, taken, strict=True) if seconds == math.inf)
    lost = sum(record["trajectory"][-1][CLOCKS[clock]] for record in missed if record["trajectory"])
    return (sum(reached) + lost) / len(reached) if reached else math.inf


def judge(records: list[Record], target: float) -> Record:
    """Figures of a contestant on a data set."""
    ended = [record for record in records if "error" not in record]
    return {
        "fits": len(records),
        "reached": sum(seconds_until(record, target, "wall") < math.inf for record in records),
        **{clock: expected_seconds(records, target, clock) for clock in CLOCKS},
        **{name: median(record[name] for record in ended) if ended else None for name in ("n_iter", "passes")},
        "log_likelihood": max(map(final_level, records)),
        "error": next((record["error"] for record in records if "error" in record), None),
    }


def verdicts(records: Iterable[Record]) -> dict[str, Record]:
    """By data set, with its target: the best that plain EM found, of daskgmm or scikit-learn, less tol."""
    by_data: dict[str, list[Record]] = {}
    for record in records:
        by_data.setdefault(record["data"], []).append(record)
    found = {}
    for data, fits in by_data.items():
        by_name: dict[str, list[Record]] = {}
        for record in fits:
            by_name.setdefault(record["strategy"], []).append(record)
        plain = [record for name in (REFERENCE, PLAIN) for record in by_name.get(name, [])] or fits
        target = max(final_level(record) - record["tol"] for record in plain)
        n_rows = max(record["key"][1] for record in fits)
        judged = {name: judge(of_it, target) for name, of_it in by_name.items()}
        found[data] = {"rows": n_rows, "target": target, "contestants": judged}
    return found


def paired(records: Iterable[Record], name: str, reference: str) -> Iterator[tuple[Record, Record]]:
    """A contestant's fits, each with the reference's of the same rows and seed."""
    fits = {json.dumps([record["data"], record["seed"], record["strategy"]]): record for record in records}
    for record in fits.values():
        other = fits.get(json.dumps([record["data"], record["seed"], reference]))
        if record["strategy"] == name and other is not None:
            yield record, other


def summary(records: list[Record]) -> Record:
    """The aims, over data sets of `LARGE` rows and more: defaults beside scikit-learn, and passes beside plain EM's.

    Of a fit of scikit-learn's that ran into the time limit, what it had by then counts.
    """
    large = [record for record in records if record["key"][1] >= LARGE]
    result: Record = {}
    for clock, place in CLOCKS.items():
        speeds = [
            theirs["trajectory"][-1][place] / seconds_until(ours, final_level(theirs) - theirs["tol"], clock)
            for ours, theirs in paired(large, DEFAULT, REFERENCE)
            if theirs["trajectory"]
        ]
        reached = [speed for speed in speeds if speed > 0]
        result[f"{clock}_speed"] = geometric_mean(reached) if reached else None
        result["pairs"], result["reached"] = len(speeds), len(reached)
    plain = PLAIN if any(record["strategy"] == PLAIN for record in large) else REFERENCE  # the same trajectory
    ended = (pair for pair in paired(large, "daskgmm-zarr", plain) if all("passes" in record for record in pair))
    passes = [ours["passes"] / theirs["passes"] for ours, theirs in ended]
    result["passes"] = geometric_mean(passes) if passes else None
    return result


# ---- table and picture


def rows_of_table(data: str, verdict: Record) -> Iterator[list[str]]:
    for name, found in verdict["contestants"].items():
        times = [f"{found[clock]:.3g}" if found[clock] < math.inf else "never" for clock in CLOCKS]
        counts = ["-" if found[of] is None else f"{found[of]:g}" for of in ("n_iter", "passes")]
        level = f"{found['log_likelihood'] - verdict['target']:+.4f}"
        note = "" if found["error"] is None else f" ({found['error'].replace('|', '/')})"
        yield [data, name + note, f"{found['reached']} of {found['fits']}", *times, *counts, level]


def plot(records: list[Record], path: Path) -> None:
    """What each fit has still to gain against processor seconds, a panel for each data set."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(record["strategy"] for record in records))
    data_sets = list(dict.fromkeys(record["data"] for record in records))
    n_columns = min(len(data_sets), 3)
    n_lines = -(-len(data_sets) // n_columns)
    figure, axes = plt.subplots(
        n_lines, n_columns, figsize=(4 * n_columns, 3.2 * n_lines + 0.6), squeeze=False, layout="constrained"
    )
    for panel, data in zip(axes.flat, data_sets, strict=False):
        fits = [record for record in records if record["data"] == data and record["trajectory"]]
        best = max(map(final_level, fits), default=0.0)
        for record in fits:
            curve = np.array([line[2:] for line in record["trajectory"]])
            gaps = np.maximum(best - np.maximum.accumulate(curve[:, 1]), 1e-6)
            color = f"C{names.index(record['strategy'])}"
            panel.step(curve[:, 0], gaps, where="post", color=color, linewidth=1)
            panel.plot(curve[-1, 0], gaps[-1], "o", color=color, markersize=4)
        panel.set(xscale="log", yscale="log", title=data)
        panel.xaxis.set_minor_formatter("")
    for panel in list(axes.flat)[len(data_sets) :]:
        panel.set_visible(False)
    figure.supxlabel("processor seconds")
    figure.supylabel("nats a row below the best fit")
    lines = [plt.Line2D([], [], color=f"C{i}", marker="o", markersize=4) for i in range(len(names))]
    figure.legend(lines, names, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", required=True)
    parser.add_argument(
        "--data", nargs="+", type=choosing(REAL), metavar="NAME", default=[list(REAL.values())],
        help=f"of {', '.join(REAL)}, by patterns",
    )  # fmt: skip
    parser.add_argument(
        "--contestants", nargs="+", type=known, metavar="NAME", default=ALL, help="default: %(default)s"
    )
    parser.add_argument("--rows", type=int, help="at most so many of each data set")
    parser.add_argument("--seeds", type=int, default=2, help="fits of each kind (default 2)")
    parser.add_argument("--tol", type=float, default=1e-5, help="of every fit (default 1e-5)")
    parser.add_argument("--max-iter", type=int, default=1000, help="of every fit (default 1000)")
    parser.add_argument("--threads", type=int, default=1, help="of every fit (default 1)")
    parser.add_argument("--time-limit", type=float, default=900, help="of a fit, in seconds (default 900)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="picture of all trajectories")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.data, missing = available(options.data, options.rows)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        solver = Solver(Path(directory).resolve(), options.threads, options.time_limit)
        records = complete(options.output, trials(options), solver)
    if options.plot:
        plot(records, options.plot)
    machine = describe_machine()
    for name in options.contestants:
        machine["versions"] |= CONTESTANTS[implementation(name)].versions()
    found, aims = verdicts(records), summary(records)
    if options.json:
        print(json.dumps({"machine": machine, "missing": missing, "verdicts": found, "summary": aims}))
        return
    print_machine(machine)
    print_missing(missing)
    header = ["data", "", "reached", *(f"{clock} s" for clock in CLOCKS), "iterations", "passes", "end less target"]
    print_table(header, (cells for data, verdict in found.items() for cells in rows_of_table(data, verdict)))
    print(f"\ntargets: {', '.join('{} {:.6f}'.format(data, verdict['target']) for data, verdict in found.items())}")
    if aims["pairs"]:
        print(f"defaults reach scikit-learn's end in {aims['reached']} of {aims['pairs']} fits of the same seed")
    if aims["reached"]:
        speeds = ", ".join(f"{aims[f'{clock}_speed']:.3g} × in {clock} time" for clock in CLOCKS)
        print(f"speed there, geometric mean: {speeds}")
    if aims["passes"]:
        print(f"passes over the store beside plain EM's, geometric mean: {aims['passes']:.3g}")


if __name__ == "__main__":
    main()
