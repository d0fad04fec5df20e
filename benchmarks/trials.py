"""Fits of named strategies to data sets from several seeds, each a line of a file as soon as it is known."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.mixture
from data_sets import DataSet, apart
from settings import SCIKIT_LEARN, settings
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.errors import CoincidingComponentsWarning, InitializationWarning, ReseedingWarning
from daskgmm.events import IterationFinished

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A fit of a strategy to a data set."""

    data: DataSet
    strategy: str
    seed: int
    tol: float | None = None
    """None: the estimator's default."""
    max_iter: int | None = None
    """None: the estimator's default."""

    @property
    def key(self) -> list[Any]:
        """Identity in a file."""
        return [self.data.name, self.data.n_rows, self.max_iter, self.strategy, self.seed, self.tol]

    def estimator(self) -> Any:
        data, options = self.data, settings(self.strategy, self.data.init_size)
        options |= {"covariance_type": data.covariance_type, "reg_covar": data.reg_covar, "random_state": self.seed}
        given = {"tol": self.tol, "max_iter": self.max_iter}
        options |= {name: value for name, value in given.items() if value is not None}
        if self.strategy == SCIKIT_LEARN:
            return sklearn.mixture.GaussianMixture(data.n_components, **options)
        return GaussianMixture(data.n_components, scheduler="synchronous", **options)

    def fit(self) -> Record:
        """What the fit took and reached, on one thread; or why there is none."""
        if self.data.n_rows > warm_up_data().n_rows:
            warm_up(self.strategy)
        rows, model = warm_rows(self.data), self.estimator()
        with quiet(), threadpool_limits(1):
            clock = LeadClock()
            if self.strategy != SCIKIT_LEARN:
                model.set_params(callbacks=[clock])
            try:
                model.fit(rows)
            except ValueError as error:  # a component collapsed: daskgmm's own class derives from it
                return {"error": f"{type(error).__name__}: {error}"}
            seconds = time.process_time() - clock.begin
            return {
                "processor_seconds": seconds,
                "passes": getattr(model, "n_passes_", model.n_iter_),
                "lead": clock.lead(),
                "n_iter": model.n_iter_,
                "converged": bool(model.converged_),
                "log_likelihood": float(model.score(rows)),
            }


class LeadClock:
    """Callback that notes the processor time at the end of each iteration over all rows, of the start that is first."""

    def __init__(self) -> None:
        self.begin = time.process_time()
        self.start: int | None = None
        self.ends: list[float] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, IterationFinished):
            self.start = event.start if self.start is None else self.start
            if event.start == self.start:
                self.ends.append(time.process_time())

    def lead(self) -> float | None:
        """Processor time of survey, starts and samples, in iterations over all rows; None if there was only one."""
        if len(self.ends) < 2:
            return None
        return (self.ends[0] - self.begin) / float(np.median(np.diff(self.ends))) - 1


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of fits that did not converge, or found a worse optimum than another: records say it."""
    with warnings.catch_warnings():
        for kind in (ConvergenceWarning, InitializationWarning, CoincidingComponentsWarning, ReseedingWarning):
            warnings.simplefilter("ignore", kind)
        yield


def warm_up_data() -> DataSet:
    """A few more rows than those that default parameters treat as scikit-learn does."""
    return apart(2, 2, 120_000)


@lru_cache
def warm_up(strategy: str) -> None:
    """Load and compile what fits of a strategy to many rows need."""
    with quiet():
        Trial(warm_up_data(), strategy, 0).estimator().fit(warm_up_data().load())


@lru_cache(maxsize=1)
def warm_rows(data: DataSet) -> np.ndarray[Any, Any]:
    """Rows of a data set; whatever the first fit in a process loads and compiles is there after it."""
    rows = data.load()
    with quiet():
        Trial(data, "plain", 0, max_iter=2).estimator().fit(rows)
    return rows


# ---- the file


def read(path: Path) -> list[Record]:
    """Records of a file; a last line without an end, which an interrupted run left, is cut off."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def complete(path: Path, trials: Iterable[Trial], measure: Callable[[Trial], Record] = Trial.fit) -> list[Record]:
    """All records of the file, after measuring the trials that it lacks."""
    records = read(path)
    known = {json.dumps(record["key"]) for record in records}
    with path.open("a") as file:
        for trial in trials:
            if json.dumps(trial.key) not in known:
                about = {"key": trial.key, "data": trial.data.name, "strategy": trial.strategy, "seed": trial.seed}
                records.append(about | {"tol": trial.tol} | measure(trial))
                print(json.dumps(records[-1]), file=file, flush=True)
    return records


# ---- the command line


def choosing(data_sets: dict[str, DataSet]) -> Callable[[str], list[DataSet]]:
    """Parser of patterns of names of these data sets."""

    def matching(pattern: str) -> list[DataSet]:
        found = [data for name, data in data_sets.items() if fnmatchcase(name, pattern)]
        if not found:
            raise argparse.ArgumentTypeError(f"no data set is called {pattern!r}; there are {', '.join(data_sets)}")
        return found

    return matching


def available(chosen: Iterable[list[DataSet]], n_rows: int | None) -> tuple[list[DataSet], list[str]]:
    """Data sets once each, with at most so many rows, and the names of those whose package is not installed."""
    each = dict.fromkeys(data.with_rows(n_rows) for found in chosen for data in found)
    return [data for data in each if not data.missing()], [data.name for data in each if data.missing()]


def print_missing(missing: list[str]) -> None:
    if missing:
        print(f"left out, pip install 'daskgmm[bench]': {', '.join(missing)}\n")


def number(value: float | None) -> str:
    """Text of a figure in a table."""
    return "-" if value is None else f"{value:.3g}"


def print_table(header: list[str], lines: Iterable[list[str]]) -> None:
    """Print a table in Markdown whose first column is text."""
    for cells in (header, ["---", *["---:"] * (len(header) - 1)], *lines):
        print(f"| {' | '.join(cells)} |")
