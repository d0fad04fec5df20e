"""Everything that daskgmm does, again and again on one cluster whose workers die at random: what leaks, what differs.

    python benchmarks/soak.py --minutes 20 --plot soak.png

Every result has to equal, to the last bit, that of the same job on the same cluster before anybody died. Memory,
tasks, topics, threads, file descriptors, processes and files must not pile up. The exit status is 1 if one of these
does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster
from machine import describe_machine, print_machine
from soaking.chaos import SomeDie
from soaking.judge import Run, judge
from soaking.report import print_table, save_plot
from soaking.watch import Counts, Sample, Watch, files_below, processes_below
from soaking.work import JOBS, OUTPUTS, Ground, digest, prepare

SPARED = 0

#: What Dask remembers of the past, and of a worker for an hour after its death: full at once instead of after a hundred
#: passes, of which each may hold its graph. It has a bound, so it is no leak, but it looks like one while it fills.
SHORT_HISTORIES = {
    "distributed.scheduler.events-cleanup-delay": "10s",
    "distributed.diagnostics.computations.max-history": 5,
    "distributed.diagnostics.erred-tasks.max-history": 5,
    "distributed.admin.low-level-log-length": 100,
}
PATIENCE = 600  # seconds for one job; longer is a hang, which ends the run with the stacks of all threads


@contextlib.contextmanager
def temporary(keep: Path | None) -> Iterator[Path]:
    """A folder for everything, this process's and the workers' temporary files included."""
    folder = Path(tempfile.mkdtemp(prefix="daskgmm-soak-", dir=keep))
    (folder / "tmp").mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder / "tmp")
    os.environ["TMPDIR"] = str(folder / "tmp")
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        del os.environ["TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


def attempt(name: str, ground: Ground, expected: str) -> Run:
    """Run a job and compare."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    begin = time.perf_counter()
    try:
        problem = None if digest(name, ground) == expected else "differs from the undisturbed run"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Run(name, time.perf_counter() - begin, problem)


def soak(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Sample], list[Counts]]:
    """The run: jobs and what was wrong with them, and what was counted."""
    runs: list[Run] = []
    censuses: list[Counts] = []
    with (
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            memory_limit=options.memory_limit,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # of workers that die
        ) as cluster,
        Client(cluster) as client,
    ):
        ground = prepare(folder / "data", cluster.scheduler_address, options.rows)
        expected = {name: digest(name, ground) for name in JOBS}
        watch = Watch(cluster, client, SPARED, options.workers)
        client.register_plugin(SomeDie(options.life, SPARED))
        with watch.sampling():
            while watch.elapsed() < 60 * options.minutes or len(censuses) < 2:
                runs += [attempt(name, ground, expected[name]) for name in JOBS]
                watch.settle()
                watch.forget()
                censuses.append(watch.census())
    left = {
        "outputs": [name for name in files_below(folder / "data" / "out") if name not in OUTPUTS],
        "temporary files": files_below(folder / "tmp"),
        "processes": processes_below(),
    }
    return {"runs": runs, "left": left}, watch.samples, censuses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="at least two rounds are run (default 20)")
    parser.add_argument("--workers", type=int, default=3, help="processes, one of which is spared (default 3)")
    parser.add_argument("--life", default="15s", help="mean life of the others (default 15s)")
    parser.add_argument("--rows", type=int, default=60_000, help="of the data (default 60000)")
    parser.add_argument("--memory-limit", default="1GB", help="of each worker (default 1GB)")
    parser.add_argument("--limit", type=float, default=60, help="MiB an hour that memory may grow by (default 60)")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's folder)")
    parser.add_argument("--plot", type=Path, help="draw memory over time")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    machine = describe_machine()
    with (
        temporary(options.folder) as folder,
        dask.config.set(SHORT_HISTORIES, temporary_directory=str(folder / "scratch")),
    ):
        result, samples, censuses = soak(options, folder)
    found = judge(result, samples, censuses, options.limit)
    if options.plot:
        save_plot(samples, options.plot)
    if options.json:
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        told = {"runs": [asdict(run) for run in result["runs"]], "left": result["left"], "censuses": censuses}
        told |= {"samples": [asdict(sample) for sample in samples], "found": found}
        print(json.dumps({"machine": machine, "options": asked, "result": told}, indent=1))
    else:
        print_machine(machine)
        print_table(result, samples, censuses, options.limit)
        print("\n" + ("\n".join(f"FOUND {line}" for line in found) or "Nothing leaked, and nothing differed."))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
