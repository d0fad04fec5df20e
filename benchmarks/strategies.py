"""Which strategy of a fit takes the fewest passes over the data and still ends as high as plain EM.

    python benchmarks/strategies.py --output strategies.jsonl --processes 2
    python benchmarks/strategies.py --output strategies.jsonl --data 'full:*' 'flights:*' --strategies plain both
    python benchmarks/strategies.py --output strategies.jsonl --strategies --against-sklearn both
    python benchmarks/strategies.py --report strategies.jsonl

Fits of every strategy to every data set from several seeds, at several tolerances. Each is added to the file as soon as
it is known, and the same command goes on where it was interrupted. Needs ``pip install 'daskgmm[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from machine import describe_machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from strategy.against import Duel
from strategy.datasets import DATA_SETS, DataSet
from strategy.fits import REFERENCE, STRATEGIES, Work
from strategy.judgement import MOST_PASSES
from strategy.records import Record, RecordFile, key
from strategy.report import Evidence, against_table, verdict_table, write_report
from threadpoolctl import threadpool_limits

Task = Work | Duel


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """By data set, so that processes keep the rows; the reference first."""
    for data in options.data:
        for seed in range(options.seeds):
            for strategy in options.strategies:
                yield Work(data, strategy, seed, tuple(options.tols), options.max_iter)
        if options.against_sklearn:
            for seed in range(options.against_seeds):
                yield Duel(data, options.against_sklearn, seed, options.max_iter)


def remaining(task: Task, known: set[tuple[object, ...]]) -> Task | None:
    """What of a task is not in the file yet."""
    if isinstance(task, Duel):
        return None if key(task.key()) in known else task
    tols = tuple(tol for tol in task.tols if key(task.key(tol)) not in known)
    return replace(task, tols=tols) if tols else None


def one_thread() -> None:
    """For all of this process: k-means and BLAS."""
    threadpool_limits(1)


def run_task(task: Task) -> list[Record]:
    return list(task.run())


def results(todo: list[Task], processes: int) -> Iterator[tuple[Task, list[Record]]]:
    """Records of each task, as soon as it has ended; they run in processes of their own, which have one thread each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=one_thread) as pool:
        try:
            submitted = {pool.submit(run_task, task): task for task in todo}
            for done in as_completed(submitted):
                yield submitted[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def commit() -> str:
    """Of this working tree, or that there is none."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run(options: argparse.Namespace, file: RecordFile) -> None:
    """Measure what is missing."""
    console = Console(stderr=True)
    for data in options.data:
        if message := data.missing():
            console.print(f"{data.name} is left out: {message}", highlight=False)
    options.data = [data for data in options.data if not data.missing()]
    file.begin()
    for data in options.data:
        file.declare("data", data.name, {**data.settings(), "max_iter": options.max_iter})
    for strategy in {*options.strategies, options.against_sklearn} - {None}:
        file.declare("strategy", strategy, STRATEGIES[strategy])
    known = file.known()
    todo = [task for planned in tasks(options) if (task := remaining(planned, known))]
    if not todo:
        return
    file.add({"kind": "session", "machine": describe_machine(), "commit": commit(), "processes": options.processes})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(todo))
        for task, records in results(todo, options.processes):
            for record in records:
                file.add(record)
            progress.update(bar, advance=1, description=f"{task.data.name} {task.strategy}")


def matching(pattern: str) -> list[DataSet]:
    found = [data for name, data in DATA_SETS.items() if fnmatchcase(name, pattern)]
    if not found:
        raise argparse.ArgumentTypeError(f"no data set is called {pattern!r}; there are {', '.join(DATA_SETS)}")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="FILE.jsonl", help="measure what is not in it yet, and report")
    target.add_argument(
        "--report", type=Path, metavar="FILE.jsonl", help="only tables and pictures, from what is there"
    )
    parser.add_argument(
        "--data", nargs="+", type=matching, metavar="NAME", default=[list(DATA_SETS.values())],
        help="data sets, by patterns such as 'full:*' (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES), metavar="NAME",
        help=f"of {', '.join(STRATEGIES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="fits of each kind (default 5)")
    parser.add_argument("--tols", nargs="+", type=float, default=[1e-3, 1e-5, 1e-7], metavar="TOL")
    parser.add_argument("--max-iter", type=int, default=5000, help="of every fit (default 5000)")
    parser.add_argument("--rows", type=int, help="at most so many of every data set, to try things")
    parser.add_argument("--drawn-rows", type=int, help="so many of those that are drawn (default: as in the list)")
    parser.add_argument("--processes", type=int, default=1, help="fits at the same time, one thread each (default 1)")
    parser.add_argument(
        "--against-sklearn",
        metavar="NAME",
        choices=list(STRATEGIES),
        help="also time this strategy beside scikit-learn",
    )
    parser.add_argument("--against-seeds", type=int, default=2, help="how many times (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    options.data = list(
        dict.fromkeys(
            data.drawn_with(options.drawn_rows).at_most(options.rows) for found in options.data for data in found
        )
    )
    file = RecordFile(options.output or options.report, must_exist=options.report is not None)
    if options.output:
        run(options, file)
    evidence = Evidence(file)
    report = write_report(evidence)
    if options.json:
        print(json.dumps(evidence.as_record(), indent=1))
        return
    if evidence.comparisons:
        print(
            f"beside {REFERENCE} EM; a default has passes of at most {MOST_PASSES:.3g}\n\n{verdict_table(evidence)}\n"
        )
    if evidence.outcomes:
        print(f"beside scikit-learn\n\n{against_table(evidence)}\n")
    print(f"tables and pictures: {report}")


if __name__ == "__main__":
    main()
