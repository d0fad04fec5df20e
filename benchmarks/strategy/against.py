"""A whole fit beside scikit-learn's: seconds until each has stopped, one thread, the same rows, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sklearn.mixture import GaussianMixture

from strategy.datasets import DataSet
from strategy.fits import Clock, Record, Work, quiet, warm_rows

TOL = 1e-5


@dataclass(frozen=True)
class Duel:
    """Both fit the same rows; who begins changes from seed to seed."""

    data: DataSet
    strategy: str
    seed: int
    max_iter: int

    def key(self) -> Record:
        """What tells its record from others."""
        return {"kind": "against", "data": self.data.name, "strategy": self.strategy, "seed": self.seed, "tol": TOL}

    def run(self) -> Iterator[Record]:
        rows = warm_rows(self.data)
        ours = Work(self.data, self.strategy, self.seed, (TOL,), self.max_iter).estimator(TOL)
        theirs = GaussianMixture(
            self.data.n_components,
            covariance_type=self.data.covariance_type,
            reg_covar=self.data.reg_covar,
            tol=TOL,
            max_iter=self.max_iter,
            random_state=self.seed,
        )
        fits: dict[str, Callable[[], Record]] = {
            "daskgmm": lambda: timed(ours, rows),
            "scikit-learn": lambda: timed(theirs, rows),
        }
        turn = list(fits) if self.seed % 2 else list(reversed(fits))
        with quiet():
            yield self.key() | {name: fits[name]() for name in turn}


def timed(estimator: Any, rows: Any) -> Record:
    """One fit, and the mean log-likelihood of what it found; or why there is none."""
    clock = Clock()
    try:
        estimator.fit(rows)
    except ValueError as error:  # a component collapsed: daskgmm's own class derives from it
        return {"error": f"{type(error).__name__}: {error}"}
    taken = clock.read()
    found = {"n_iter": estimator.n_iter_, "converged": bool(estimator.converged_)}
    return found | {"log_likelihood": float(estimator.score(rows))} | taken
