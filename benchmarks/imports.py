"""Import of daskgmm after the packages on which it builds: processor time, and the modules that take most of it.

    python benchmarks/imports.py
    python benchmarks/imports.py --rounds 21 --slowest 20 --json

Each round is a fresh Python process, which imports the packages and then daskgmm's estimators, so that both times are
of one moment of the machine. The first process does not count: it may have to compile modules to byte code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from machine import describe_machine, print_machine

PACKAGES = "dask.array, distributed, zarr, sklearn.mixture"
OWN = "import daskgmm; daskgmm.GaussianMixture"
TIMED = f"""
from time import process_time
begin = process_time()
import {PACKAGES}
packages = process_time()
{OWN}
print(packages - begin, process_time() - packages)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python, which keeps the byte code of modules."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)


def measure(rounds: int) -> dict[str, float]:
    """Medians of processor seconds, and of the ratio of everything to the packages alone."""
    python("-c", TIMED)
    times = [tuple(map(float, python("-c", TIMED).stdout.split())) for _ in range(rounds)]
    return {
        "packages": median(packages for packages, _ in times),
        "daskgmm": median(own for _, own in times),
        "ratio": median((packages + own) / packages for packages, own in times),
    }


def slowest(most: int) -> list[tuple[str, float]]:
    """Modules that are imported after the packages, and their milliseconds, without those of modules they import."""
    lines = python("-X", "importtime", "-c", f"import {PACKAGES}; {OWN}").stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.count("|") == 2]
    names = [name.strip() for *_, name in rows]
    own = rows[names.index("sklearn.mixture") + 1 :]
    times = [(name.strip(), int(microseconds) / 1000) for microseconds, _, name in own]
    return sorted(times, key=lambda item: -item[1])[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slowest", type=int, default=10, help="number of modules to list")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "result": measure(options.rounds),
        "slowest": slowest(options.slowest),
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print_machine(report["machine"])
    result = report["result"]
    print(f"{PACKAGES}: {result['packages']:.3f} s; daskgmm: {result['daskgmm']:.3f} s; ratio {result['ratio']:.3f}")
    for name, milliseconds in report["slowest"]:
        print(f"{milliseconds:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
