"""Strategies, and what one fit of one of them comes to."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from daskgmm.errors import IllDefinedCovarianceError, InitializationWarning
from daskgmm.events import IterationFinished, PassFinished
from strategy.datasets import DataSet

Array = np.ndarray[Any, np.dtype[Any]]
Record = dict[str, Any]

SAMPLE = "a tenth of the rows"  # stands for `DataSet.init_size`
SEVERAL = 5

STRATEGIES: dict[str, dict[str, Any]] = {
    "plain": {"init_size": None, "acceleration": None, "n_init": 1},
    "accelerated": {"init_size": None, "acceleration": "lbfgs", "n_init": 1},
    "sample": {"init_size": SAMPLE, "acceleration": None, "n_init": 1},
    "sample-several": {"init_size": SAMPLE, "acceleration": None, "n_init": SEVERAL},
    "both": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": 1},
    "both-several": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": SEVERAL},
    "both-auto": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": "auto"},
}
"""What each gives the constructor of `GaussianMixture`."""

REFERENCE = "plain"
"""What the others are compared with: EM from scikit-learn's start, k-means on all rows.

Nothing in it depends on tol, so that one fit to the smallest tells where it would have ended at the larger ones."""


@dataclass(frozen=True)
class Work:
    """Fits of one strategy from one seed: one for each tolerance."""

    data: DataSet
    strategy: str
    seed: int
    tols: tuple[float, ...]
    max_iter: int

    def estimator(self, tol: float, **more: Any) -> GaussianMixture:
        """One thread: what is measured is work, not how well it is shared."""
        given = STRATEGIES[self.strategy]
        arguments = {name: self.data.init_size if value == SAMPLE else value for name, value in given.items()}
        return GaussianMixture(
            self.data.n_components,
            covariance_type=self.data.covariance_type,
            reg_covar=self.data.reg_covar,
            tol=tol,
            max_iter=self.max_iter,
            random_state=self.seed,
            scheduler="synchronous",
            **arguments,
            **more,
        )

    def key(self, tol: float) -> Record:
        """What tells its record from others."""
        return {"kind": "fit", "data": self.data.name, "strategy": self.strategy, "seed": self.seed, "tol": tol}

    def run(self) -> Iterator[Record]:
        """A record for each tolerance."""
        rows = warm_rows(self.data)
        with quiet():
            if self.strategy == REFERENCE:
                yield from self._replayed(rows)
            else:
                for tol in self.tols:
                    yield self.key(tol) | self._fitted(rows, tol)

    def _fitted(self, rows: Array, tol: float) -> Record:
        clock = Clock()
        try:
            model = self.estimator(tol).fit(rows)
        except IllDefinedCovarianceError as error:
            return {"error": f"{type(error).__name__}: {error}"}
        taken = clock.read()
        return {
            "passes": model.n_passes_,
            "n_iter": model.n_iter_,
            "converged": bool(model.converged_),
            "log_likelihood": float(model.score(rows)),
            **taken,
        }

    def _replayed(self, rows: Array) -> Iterator[Record]:
        trace = Trace()
        try:
            model = self.estimator(min(self.tols), callbacks=[trace]).fit(rows)
        except IllDefinedCovarianceError as error:
            for tol in self.tols:
                yield self.key(tol) | {"error": f"{type(error).__name__}: {error}"}
            return
        if trace.passes != model.n_passes_:
            raise RuntimeError(f"a fit told of {trace.passes} passes and says that it took {model.n_passes_}")
        final = float(model.score(rows))
        for tol in self.tols:
            yield self.key(tol) | trace.at(tol, final)


class Clock:
    """Processor and wall time since it was made."""

    def __init__(self) -> None:
        self.begin = time.process_time(), time.perf_counter()

    def read(self) -> Record:
        processor, wall = self.begin
        return {"processor_seconds": time.process_time() - processor, "seconds": time.perf_counter() - wall}


class Trace:
    """Callback that keeps what a larger tolerance would have ended with."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.passes = 0
        self.iterations: list[tuple[float, Record]] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, PassFinished):
            self.passes += 1
        elif isinstance(event, IterationFinished):
            so_far = {"passes": self.passes, "n_iter": event.iteration, **self.clock.read()}
            self.iterations.append((event.lower_bound, so_far))

    def at(self, tol: float, final: float) -> Record:
        """Where scikit-learn's rule stops: the bound changes by less than ``tol``.

        ``final`` is the mean log-likelihood after the last iteration. After any other one it is the next one's bound,
        which is that of the parameters before its M-step.
        """
        bounds = [bound for bound, _ in self.iterations]
        small = np.flatnonzero(np.abs(np.diff(bounds)) < tol)
        last = int(small[0]) + 1 if len(small) else len(bounds) - 1
        reached = [*bounds[1:], final][last]
        return self.iterations[last][1] | {"converged": bool(len(small)), "log_likelihood": reached}


@lru_cache(maxsize=1)
def warm_rows(data: DataSet) -> Array:
    """Rows of a data set; whatever the first fit in a process loads and compiles is there after it."""
    rows = data.load()
    with quiet():
        Work(data, REFERENCE, 0, (1e-3,), max_iter=2).estimator(1e-3).fit(rows)
    return rows


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of fits that did not converge, or dropped a start: records say it."""
    with warnings.catch_warnings():
        for kind in (ConvergenceWarning, InitializationWarning):
            warnings.simplefilter("ignore", kind)
        yield
