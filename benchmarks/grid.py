"""One EM iteration over a grid of features and components: daskgmm, oneDAL's EM, and the arithmetic alone.

Processor time of one thread for a row and iteration (E-step and M-step), rows in memory. The components overlap wholly,
so that no pair of a row and a component can be left out. The contestants take turns; the minimum of the rounds counts.

*Products* are the two matrix products on quadratic features, *triangles* the triangular product and the symmetric
rank-k update of every component: BLAS calls and nothing else. The fit can take either way, so the cheaper one is the
floor. oneDAL has full and diagonal covariances. It runs in a process of its own, with any Python that has it:

    python -m venv onedal && onedal/bin/pip install scikit-learn-intelex 'scikit-learn<1.9'
    python benchmarks/grid.py --onedal onedal/bin/python --json > grid.json
    python benchmarks/grid.py --report grid.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, print_machine
from onedal_em import Problem, draw
from scipy.linalg import blas
from threadpoolctl import threadpool_limits

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import MixtureShape, choose_backend, choose_kernel
from daskgmm.core.kernel_costs import products_cost, whitened_cost
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.fitting.folds import ExpectationFold

Array = np.ndarray[Any, np.dtype[Any]]

FEATURES = (1, 2, 3, 8, 16, 32, 64, 128, 256)
COMPONENTS = (1, 2, 4, 8, 16, 64)
GRID_STRUCTURES = ("full", "tied", "diag", "spherical")
FLOOR_ROWS = 248
ITERATIONS = 3
HEAVY_ROUNDS, HEAVY_NANOSECONDS = 2, 4e8
LOADED = 1e15  # so many rows repay loading compiled code


@dataclass(frozen=True)
class Cell:
    """Nanoseconds a row and iteration."""

    problem: Problem
    kernel: str
    """Class of the chosen kernel and its arithmetic."""
    daskgmm: float
    onedal: float | None
    products: float | None
    triangles: float | None

    @property
    def floor(self) -> float:
        """Time of the arithmetic alone, the cheaper way."""
        return min(t for t in (self.products, self.triangles) if t is not None)


class OneDAL:
    """A process that has oneDAL."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("onedal_em.py")
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, problem: Problem) -> dict[int, float]:
        """Seconds of fits by their numbers of iterations; no entries if oneDAL cannot fit the problem."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(problem) | {"iterations": ITERATIONS}), file=self._process.stdin, flush=True)
        return {int(n): seconds for n, seconds in json.loads(self._process.stdout.readline()).items()}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def ours(problem: Problem) -> tuple[str, Callable[[], float]]:
    """The chosen kernel, and a function that returns the seconds of an iteration."""
    structure, k, d = STRUCTURES[problem.structure], problem.n_components, problem.n_features
    rows, means = draw(problem)
    covariances = {(d, d): np.eye(d), (d,): np.ones(d), (): np.ones(())}[structure.matrix_shape(d)]
    covariances = np.broadcast_to(covariances, structure.covariance_shape(k, d)).copy()
    p = MixtureParameters.from_covariances(structure, np.full(k, 1 / k), means, covariances)
    backend = choose_backend(MixtureShape.of(p), LOADED)
    frame = Frame(np.zeros(d), np.ones(d))
    kernel = choose_kernel(p, frame, rows.dtype, backend, ("float32", "float64"))
    work = kernel.workspace()
    common = None
    if kernel.common_known:  # as in every pass of a fit but the first
        whole = choose_kernel(p, frame, rows.dtype, backend)
        common = whole.statistics(rows, None, whole.workspace()).second_moments

    leaf = ExpectationFold(kernel).leaf_rows  # as a pass does it

    def iteration() -> float:
        begin = time.thread_time()
        statistics = kernel.statistics(rows[:leaf], None, work)
        for start in range(leaf, len(rows), leaf):
            statistics = statistics + kernel.statistics(rows[start : start + leaf], None, work)
        maximize(structure, statistics if common is None else kernel.complete(statistics, common), 1e-6)
        return time.thread_time() - begin

    iteration()
    return f"{type(kernel).__name__.removesuffix('Kernel').lower()} {kernel.arithmetic}", iteration


def products(problem: Problem) -> Callable[[], float]:
    """The two products on features, in blocks for which they are fast."""
    d, k, n = problem.n_features, problem.n_components, FLOOR_ROWS
    p = STRUCTURES[problem.structure].n_quadratic(d) + d + 1
    phi, joint, natural, sums = (np.ones(shape, problem.dtype) for shape in ((p, n), (k, n), (k, p), (k, p)))

    def run() -> float:
        begin = time.thread_time()
        for _ in range(max(1, problem.n_rows // n)):
            np.matmul(natural, phi, out=joint)
            np.matmul(joint, phi.T, out=sums)
        return (time.thread_time() - begin) * problem.n_rows / (max(1, problem.n_rows // n) * n)

    return run


def triangles(problem: Problem) -> Callable[[], float]:
    """The triangular product and the rank-k update of every component."""
    d, k, n = problem.n_features, problem.n_components, FLOOR_ROWS
    kind = "d" if problem.dtype == "float64" else "s"
    multiply, update = getattr(blas, f"{kind}trmm"), getattr(blas, f"{kind}syrk")
    rows, factor, sums = (np.ones(shape, problem.dtype, order="F") for shape in ((n, d), (d, d), (d, d)))
    factor[...] = np.eye(d)

    def run() -> float:
        begin = time.thread_time()
        for _ in range(max(1, problem.n_rows // n)):
            for _ in range(k):
                multiply(1.0, factor, rows, side=1, overwrite_b=1)
                update(1.0, rows, c=sums, trans=1, overwrite_c=1)
        return (time.thread_time() - begin) * problem.n_rows / (max(1, problem.n_rows // n) * n)

    return run


def measure(problem: Problem, onedal: OneDAL | None, rounds: int) -> Cell:
    """All contestants on one problem, in turns."""
    kernel, iteration = ours(problem)
    contestants = {"daskgmm": iteration, "products": products(problem)}
    if problem.structure == "full":
        contestants["triangles"] = triangles(problem)
    times: dict[str, float] = {}
    fits: dict[int, float] = {}
    for turn in range(rounds):
        if turn >= HEAVY_ROUNDS and times["daskgmm"] * problem.n_rows > HEAVY_NANOSECONDS:
            break
        for name, contestant in contestants.items():
            times[name] = min(times.get(name, np.inf), 1e9 * contestant() / problem.n_rows)
        if onedal is not None and problem.structure in ("full", "diag"):
            for iterations, seconds in onedal(problem).items():
                fits[iterations] = min(fits.get(iterations, np.inf), 1e9 * seconds / problem.n_rows)
    theirs = (fits[max(fits)] - fits[min(fits)]) / (max(fits) - min(fits)) if len(fits) > 1 else None
    return Cell(problem, kernel, times["daskgmm"], theirs, times["products"], times.get("triangles"))


def rows_for(structure: str, d: int, k: int, seconds: float) -> int:
    """As many as take about that time, and so many that covariances are regular and the M-step is short."""
    shape = MixtureShape(STRUCTURES[structure], k, d)
    cost = products_cost(shape, 8, "compiled")
    if structure != "tied":
        cost = min(cost, whitened_cost(shape, 8, "compiled"))
    return int(max(1e9 * seconds / cost, 128 * d, 1000))


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    for structure, d, k in product(options.structures, options.features, options.components):
        for dtype in ("float64", "float32"):
            yield Problem(structure, d, k, dtype, rows_for(structure, d, k, options.seconds))


# ---- reports


def table(cells: list[Cell], structure: str, dtype: str) -> str:
    """Ratios of one structure and dtype: daskgmm / oneDAL, and daskgmm / floor."""
    grid = {
        (c.problem.n_features, c.problem.n_components): c
        for c in cells
        if (c.problem.structure, c.problem.dtype) == (structure, dtype)
    }
    features, components = (sorted({key[axis] for key in grid}) for axis in (0, 1))
    lines = [f"| {structure}, {dtype} | {' | '.join(f'K = {k}' for k in components)} |"]
    lines.append("|---" * (len(components) + 1) + "|")
    for d in features:
        entries = [_entry(grid[d, k]) if (d, k) in grid else "" for k in components]
        lines.append(f"| D = {d} | {' | '.join(entries)} |")
    return "\n".join(lines)


def _entry(cell: Cell) -> str:
    beside = "" if cell.onedal is None else f"{cell.daskgmm / cell.onedal:.2f}, "
    return f"{beside}{cell.daskgmm / cell.floor:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", nargs="+", type=int, default=list(FEATURES))
    parser.add_argument("--components", nargs="+", type=int, default=list(COMPONENTS))
    parser.add_argument("--structures", nargs="+", default=list(GRID_STRUCTURES), choices=list(STRUCTURES))
    parser.add_argument("--seconds", type=float, default=0.03, help="time of an iteration (default 0.03)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--onedal", help="a Python that has daal4py; by default, oneDAL is left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--report", type=Path, help="print the tables of an earlier --json instead of measuring")
    options = parser.parse_args()
    if options.report:
        stored = json.loads(options.report.read_text())["cells"]
        cells = [Cell(**{**cell, "problem": Problem(**cell["problem"])}) for cell in stored]
        for structure, dtype in dict.fromkeys((c.problem.structure, c.problem.dtype) for c in cells):
            print(table(cells, structure, dtype), end="\n\n")
        return
    cells = []
    onedal = OneDAL(options.onedal) if options.onedal else None
    with threadpool_limits(1):
        machine = describe_machine()
        if not options.json:
            print_machine(machine)
        for problem in problems(options):
            cells.append(cell := measure(problem, onedal, options.rounds))
            if not options.json:
                print(line(cell), flush=True)
    if onedal is not None:
        onedal.close()
    if options.json:
        print(json.dumps({"machine": machine, "cells": [asdict(cell) for cell in cells]}, indent=1))


def line(cell: Cell) -> str:
    """One row of the table."""
    p = cell.problem
    beside = "" if cell.onedal is None else f"oneDAL {cell.onedal:9.1f} ({cell.daskgmm / cell.onedal:.2f})"
    return (
        f"{p.structure:9} {p.dtype} D={p.n_features:<3} K={p.n_components:<2} n={p.n_rows:<7} {cell.kernel:18}"
        f" {cell.daskgmm:9.1f} ns a row, floor {cell.floor:9.1f} ({cell.daskgmm / cell.floor:.2f}) {beside}"
    )


if __name__ == "__main__":
    main()
