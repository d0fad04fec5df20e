"""The process of `grid.py` that has oneDAL: reads problems as lines of JSON, and prints seconds of fits.

Each problem is fitted twice, with one iteration and with a few, from given weights, means and covariances, on one
thread. The difference is the time of iterations.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """One cell of the grid."""

    structure: str
    n_features: int
    n_components: int
    dtype: str
    n_rows: int


@lru_cache(maxsize=1)
def draw(problem: Problem) -> tuple[Any, Any]:
    """Standard normal rows, and means so near each other that EM moves slowly and every component has all rows."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(problem.n_rows, problem.n_features)).astype(problem.dtype)
    return rows, 0.3 / np.sqrt(problem.n_features) * rng.normal(size=(problem.n_components, problem.n_features))


def seconds(problem: Problem, iterations: int, em: Any) -> dict[int, float]:
    """Seconds of two fits by their numbers of iterations; none if oneDAL gives up."""
    rows, means = draw(problem)
    k, d = means.shape
    full = problem.structure == "full"
    start = np.full((1, k), 1 / k), means, [np.eye(d) if full else np.ones((1, d))] * k
    taken = {}
    for most in (1, 1 + iterations):
        algorithm = em(
            k,
            fptype="double" if problem.dtype == "float64" else "float",
            maxIterations=most,
            accuracyThreshold=0.0,
            covarianceStorage="full" if full else "diagonal",
        )
        begin = time.process_time()
        try:
            result = algorithm.compute(rows, *start)
        except RuntimeError:
            return {}
        taken[int(result.nIterations[0, 0])] = time.process_time() - begin
    return taken


def main() -> None:
    import daal4py

    daal4py.daalinit(1)
    for line in sys.stdin:
        request = json.loads(line)
        iterations = request.pop("iterations")
        print(json.dumps(seconds(Problem(**request), iterations, daal4py.em_gmm)), flush=True)


if __name__ == "__main__":
    main()
