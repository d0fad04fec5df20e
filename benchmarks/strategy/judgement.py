"""Strategies beside plain EM on the same data set, seed and tolerance, and which of them are fit to be a default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import permutations
from statistics import fmean, median
from typing import Any

from strategy.fits import REFERENCE
from strategy.records import Record

LEAST_SHARE = 0.95
MOST_PASSES = 1 / 3
CHANCE = "plain, other seed"
"""Plain EM beside itself from other starts: what no strategy with one start of its own can be expected to exceed."""


@dataclass(frozen=True)
class Comparison:
    """One fit beside plain EM's."""

    data: str
    strategy: str
    seed: int
    tol: float
    reference_passes: int
    passes: float
    """Over all rows; infinite for a fit that failed."""
    processor: float
    """Processor seconds over those of plain EM."""
    difference: float
    """Of the mean log-likelihoods in nats a row: negative where plain EM ended higher."""

    @property
    def ratio(self) -> float:
        """Passes over those of plain EM."""
        return self.passes / self.reference_passes

    @property
    def as_good(self) -> bool:
        return self.difference >= -self.tol

    @property
    def better(self) -> bool:
        return self.difference > self.tol


def compare(records: Iterable[Record]) -> list[Comparison]:
    """All fits whose reference is there, and that did not fail itself."""
    fits = [record for record in records if record["kind"] == "fit"]
    plain = {_case(record): record for record in fits if record["strategy"] == REFERENCE and "error" not in record}
    compared = [
        _compare(record, plain[_case(record)], record["strategy"])
        for record in fits
        if record["strategy"] != REFERENCE and _case(record) in plain
    ]
    return compared + list(_by_chance(plain.values()))


def _case(record: Record) -> tuple[Any, ...]:
    return record["data"], record["seed"], record["tol"]


def _by_chance(plain: Iterable[Record]) -> Iterator[Comparison]:
    groups: dict[tuple[str, float], list[Record]] = {}
    for record in plain:
        groups.setdefault((record["data"], record["tol"]), []).append(record)
    for records in groups.values():
        for record, other in permutations(records, 2):
            yield _compare(other, record, CHANCE)


def _compare(record: Record, plain: Record, strategy: str) -> Comparison:
    failed = "error" in record
    return Comparison(
        plain["data"],
        strategy,
        plain["seed"],
        plain["tol"],
        plain["passes"],
        math.inf if failed else record["passes"],
        math.inf if failed else record["processor_seconds"] / plain["processor_seconds"],
        -math.inf if failed else record["log_likelihood"] - plain["log_likelihood"],
    )


@dataclass(frozen=True)
class Verdict:
    """A strategy's comparisons in figures."""

    strategy: str
    tol: float | None
    """None: over all tolerances."""
    n_runs: int
    n_failed: int
    as_good: float
    """Share of runs that did not end below plain EM by more than tol."""
    better: float
    """Share that ended above it by more than tol."""
    median_passes: float
    """Over those of plain EM."""
    mean_passes: float
    """The geometric mean."""
    median_processor: float

    @property
    def qualifies(self) -> bool:
        """Whether the strategy is fit to be a default."""
        return self.as_good >= LEAST_SHARE and self.median_passes <= MOST_PASSES

    def as_record(self) -> Record:
        """What JSON can say: None for infinity."""
        record = {**asdict(self), "qualifies": self.qualifies and self.strategy != CHANCE}
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value for name, value in record.items()
        }


def judge(strategy: str, tol: float | None, comparisons: list[Comparison]) -> Verdict:
    """The comparisons of one strategy; there has to be one."""

    def share(holds: Callable[[Comparison], bool]) -> float:
        return fmean(map(holds, comparisons))

    return Verdict(
        strategy,
        tol,
        len(comparisons),
        sum(math.isinf(c.passes) for c in comparisons),
        share(lambda c: c.as_good),
        share(lambda c: c.better),
        median(c.ratio for c in comparisons),
        math.exp(fmean(math.log(c.ratio) for c in comparisons)),
        median(c.processor for c in comparisons),
    )


def verdicts(comparisons: list[Comparison]) -> list[Verdict]:
    """Of every strategy: over all tolerances, and at each."""
    found = []
    for strategy in dict.fromkeys(c.strategy for c in comparisons):
        of_it = [c for c in comparisons if c.strategy == strategy]
        found.append(judge(strategy, None, of_it))
        tols = sorted({c.tol for c in of_it}, reverse=True)
        found += [judge(strategy, tol, [c for c in of_it if c.tol == tol]) for tol in tols]
    return found


@dataclass(frozen=True)
class Outcome:
    """A fit of ours beside scikit-learn's."""

    data: str
    strategy: str
    seed: int
    speed: float
    """Processor seconds of scikit-learn's fit over those of ours, which a busy machine changes least."""
    clock: float
    """The same of wall time."""
    difference: float
    """Of the mean log-likelihoods in nats a row: negative where scikit-learn ended higher."""
    reached: bool
    """Whether ours is not below scikit-learn's by more than tol: else the speed says nothing."""


def outcomes(records: Iterable[Record]) -> list[Outcome]:
    """Of all fits beside scikit-learn's, unless one of the two failed."""
    found = []
    for record in records:
        if record["kind"] == "against":
            ours, theirs = record["daskgmm"], record["scikit-learn"]
            if "error" in ours or "error" in theirs:
                continue
            difference = ours["log_likelihood"] - theirs["log_likelihood"]
            speed, clock = (theirs[name] / ours[name] for name in ("processor_seconds", "seconds"))
            reached = difference >= -record["tol"]
            found.append(Outcome(record["data"], record["strategy"], record["seed"], speed, clock, difference, reached))
    return found
