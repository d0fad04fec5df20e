"""One EM iteration on one thread: daskgmm's kernels beside scikit-learn's own functions, in the same process.

An iteration is an E-step over all rows and the M-step after it, from the same parameters on the same rows: theirs by
``GaussianMixture._e_step`` and ``_m_step``, ours by a kernel's ``statistics`` and ``maximize``. The contestants take
turns, so that a slow moment of the machine hits all of them, and medians of the thread's processor time are compared.
How far the two log-likelihoods differ stands beside the times. Our loops are compiled, as in every fit of some size;
``--plain`` takes those in NumPy.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --cases 8x16 --structures full diag --rounds 9 --json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from machine import describe_machine, print_machine
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import PLAIN, ElementwiseBackend
from daskgmm.core.kernel_choice import (
    Kernel,
    MixtureShape,
    QuadraticKernel,
    ResidualKernel,
    choose_backend,
    choose_kernel,
    rounding_bounds,
)
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame, SufficientStatistics, statistics_of_responsibilities

Array = np.ndarray[Any, np.dtype[Any]]
REG_COVAR = 1e-6

NEAREST = {"tied-diag": "diag", "tied-spherical": "spherical"}
"""Structures that scikit-learn does not have, and the one that computes the same E-step there."""


@dataclass(frozen=True)
class Measurement:
    """One kernel on one data set beside scikit-learn; times in nanoseconds a row and iteration."""

    n_features: int
    n_components: int
    structure: str
    dtype: str
    """Of the rows, for both."""
    arithmetic: str
    """What daskgmm computed in."""
    chosen: bool
    """Whether that is what it chooses by itself."""
    bound: float
    """Predicted error of one log-density in that arithmetic, in nats; 0 for the precise kernel."""
    difference: float
    """Relative, of the two log-likelihoods."""
    scikit_learn: list[float]
    daskgmm: list[float]
    products: list[float] | None
    """The two bare matrix products of the same shapes; None for the precise kernel, which has others."""

    @property
    def beside_products(self) -> float | None:
        """Time over that of the bare products: the median over the rounds."""
        if self.products is None:
            return None
        return median(ours / bare for ours, bare in zip(self.daskgmm, self.products, strict=True))

    @property
    def ratio(self) -> float:
        """How many times faster daskgmm was: the median over the rounds."""
        return median(theirs / ours for theirs, ours in zip(self.scikit_learn, self.daskgmm, strict=True))


def draw(n_rows: int, n_features: int, n_components: int, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Rows, and the weights, means and full covariances of the overlapping mixture that they are drawn from."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_components, n_features, n_features)) / math.sqrt(n_features)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(n_features)
    means = 2 * rng.normal(size=(n_components, n_features))
    rows = rng.normal(size=(n_rows, n_features))
    labels = rng.integers(n_components, size=n_rows)
    for k, root in enumerate(np.linalg.cholesky(covariances)):
        rows[labels == k] = rows[labels == k] @ root.T + means[k]
    return rows, np.full(n_components, 1 / n_components), means, covariances


def estimate_parameters(structure: str, rows: Array, weights: Array, means: Array, full: Array) -> MixtureParameters:
    """The mixture's parameters, its covariances reduced to a structure: one soft M-step from the full model."""
    start = MixtureParameters.from_covariances(STRUCTURES["full"], weights, means, full)
    frame = Frame.of(rows.mean(axis=0), rows.std(axis=0))
    responsibilities = ResidualKernel(start, frame).responsibilities(rows)
    statistics = statistics_of_responsibilities(STRUCTURES[structure], rows, responsibilities, frame)
    return maximize(STRUCTURES[structure], statistics, REG_COVAR)


def theirs(rows: Array, p: MixtureParameters) -> Callable[[], float]:
    """Their iteration; returns the log-likelihood."""
    name = NEAREST.get(p.structure.name, p.structure.name)
    model = GaussianMixture(p.n_components, covariance_type=name, reg_covar=REG_COVAR)
    matrices = [
        p.structure.to_attribute(m) if name == p.structure.name else np.repeat(m, p.n_components, axis=0)
        for m in (p.covariances, p.precisions_cholesky)
    ]
    given = tuple(a.astype(rows.dtype) for a in (p.weights, p.means, *matrices))

    def iteration() -> float:
        model._set_parameters(given)
        mean_log_likelihood, log_responsibilities = model._e_step(rows)
        model._m_step(rows, log_responsibilities)
        return float(mean_log_likelihood)

    return iteration


def ours(rows: Array, kernel: Kernel) -> Callable[[], float]:
    """Our iteration; returns the log-likelihood."""
    work = kernel.workspace()
    common = None
    if isinstance(kernel, QuadraticKernel) and kernel.common_known:  # as in every pass of a fit but the first
        whole = QuadraticKernel(kernel.parameters, kernel.frame, kernel.dtype.type, kernel.backend)
        common = whole.statistics(rows, None, whole.workspace()).second_moments

    def iteration() -> float:
        statistics: SufficientStatistics = kernel.statistics(rows, None, work)
        if common is not None:
            statistics = kernel.complete(statistics, common)
        maximize(kernel.parameters.structure, statistics, REG_COVAR)
        return statistics.mean_log_likelihood

    return iteration


def bare_products(n_rows: int, kernel: QuadraticKernel) -> Callable[[], float]:
    """The matrix products of an iteration and nothing else, in blocks for which they are fast."""
    n = min(n_rows, 248)
    phi, joint = np.ones((kernel.natural.shape[1], n), kernel.dtype), np.ones((len(kernel.natural), n), kernel.dtype)
    natural, sums = kernel.natural.astype(kernel.dtype), np.empty(kernel.natural.shape, kernel.dtype)

    def iteration() -> float:
        for _ in range(n_rows // n):
            np.matmul(natural, phi, out=joint)
            np.matmul(joint, phi.T, out=sums)
        return 0.0

    return iteration


def alternate(contestants: list[Callable[[], float]], rounds: int) -> tuple[list[float], list[list[float]]]:
    """Value of each contestant, and its seconds in every round; the first round is not counted."""
    values = [contestant() for contestant in contestants]
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for taken, contestant in zip(seconds, contestants, strict=True):
            begin = time.thread_time()
            contestant()
            taken.append(time.thread_time() - begin)
    return values, seconds


def measure(
    n_rows: int, d: int, k: int, structure: str, rounds: int, backend: ElementwiseBackend
) -> Iterator[Measurement]:
    """The kernel that is chosen for float64 and for float32 rows, and the precise one."""
    double, *parameters = draw(n_rows, d, k)
    p = estimate_parameters(structure, double, *parameters)
    frame = Frame.of(double.mean(axis=0), double.std(axis=0))
    bounds = rounding_bounds(p, frame)
    for dtype in (np.float64, np.float32):
        rows = double.astype(dtype)
        chosen = choose_kernel(p, frame, rows.dtype, backend, ("float32", "float64"))
        kernels = [chosen]
        if dtype == np.float64 and chosen.arithmetic != ResidualKernel.arithmetic:
            kernels.append(ResidualKernel(p, frame, backend))
        quadratic = chosen if isinstance(chosen, QuadraticKernel) else None
        bare = [] if quadratic is None else [bare_products(n_rows, quadratic)]
        values, seconds = alternate([theirs(rows, p), *(ours(rows, kernel) for kernel in kernels), *bare], rounds)
        nanoseconds = [[1e9 * s / n_rows for s in taken] for taken in seconds]
        for kernel, value, taken in zip(kernels, values[1:], nanoseconds[1:], strict=False):
            yield Measurement(
                d,
                k,
                structure,
                np.dtype(dtype).name,
                kernel.arithmetic,
                kernel is chosen,
                bounds.get(kernel.arithmetic, 0.0),
                abs(value / values[0] - 1),
                nanoseconds[0],
                taken,
                nanoseconds[-1] if kernel is quadratic else None,
            )


def rows_for(d: int, k: int) -> int:
    """Few enough that scikit-learn's arrays of rows × components stay small: with large ones it waits for memory."""
    return min(max(5_000_000 // (d * k), 10_000), 200_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", default=["2x10", "8x16", "16x32", "32x32", "64x64"], metavar="DxK")
    parser.add_argument("--structures", nargs="+", default=list(STRUCTURES), choices=list(STRUCTURES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default 5)")
    parser.add_argument(
        "--rows", type=int, help="rows of every case (default: 10 000 to 200 000, fewer for larger ones)"
    )
    parser.add_argument("--plain", action="store_true", help="NumPy loops instead of compiled ones")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    results: list[Measurement] = []
    backend = PLAIN if options.plain else choose_backend(MixtureShape(STRUCTURES["full"], 8, 8), math.inf)
    with threadpool_limits(1):
        machine = describe_machine()
        if not options.json:
            print_machine(machine)
            print(HEADER)
        for d, k in (map(int, case.split("x")) for case in options.cases):
            for structure in options.structures:
                for result in measure(options.rows or rows_for(d, k), d, k, structure, options.rounds, backend):
                    results.append(result)
                    if not options.json:
                        print(line(result), flush=True)
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine,
                    "results": [asdict(r) | {"ratio": r.ratio, "beside_products": r.beside_products} for r in results],
                },
                indent=1,
            )
        )
    else:
        print("* chosen by the rounding bound (nats); times are medians, in nanoseconds a row and iteration")


HEADER = (
    f"{'D':>4} {'K':>4}  {'structure':14} {'rows':8} {'computed in':12} {'scikit-learn':>12} {'daskgmm':>8}"
    f" {'ratio':>6} {'× products':>10} {'bound':>8} {'difference':>10}"
)


def line(m: Measurement) -> str:
    """One row of the table."""
    beside = "" if m.beside_products is None else f"{m.beside_products:.2f}"
    return (
        f"{m.n_features:4} {m.n_components:4}  {m.structure:14} {m.dtype:8} {m.arithmetic + '*' * m.chosen:12}"
        f" {median(m.scikit_learn):12.0f} {median(m.daskgmm):8.0f} {m.ratio:6.1f} {beside:>10}"
        f" {m.bound:8.0e} {m.difference:10.0e}"
    )


if __name__ == "__main__":
    main()
