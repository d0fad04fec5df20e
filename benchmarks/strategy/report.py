"""What was measured, as tables: FILE.jsonl → FILE.md, with the pictures of `strategy.plots` beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from contest.report import bullets, table

from strategy.fits import REFERENCE, STRATEGIES
from strategy.judgement import (
    CHANCE,
    LEAST_SHARE,
    Comparison,
    Outcome,
    Verdict,
    compare,
    judge,
    outcomes,
    verdicts,
)
from strategy.records import Record, RecordFile


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def ratio(value: float) -> str:
    return f"{value:.3g}"


class Evidence:
    """Everything that a file has, compared."""

    def __init__(self, file: RecordFile) -> None:
        self.file = file
        self.data_sets = file.settings("data")
        self.comparisons = compare(file.records)
        self.verdicts = verdicts(self.comparisons)
        self.outcomes = outcomes(file.records)
        self.tols = sorted({record["tol"] for record in file.of("fit")}, reverse=True)

    @property
    def strategies(self) -> list[str]:
        """Those that are compared, in the order of `STRATEGIES`, and chance last."""
        there = {c.strategy for c in self.comparisons}
        return [name for name in (*STRATEGIES, CHANCE) if name in there]

    def of(self, **wanted: Any) -> list[Comparison]:
        """Comparisons with these values."""
        return [c for c in self.comparisons if all(getattr(c, name) == value for name, value in wanted.items())]

    def plain(
        self, data: str, tol: float, of: Callable[[Record], float] = lambda record: record["passes"]
    ) -> list[float]:
        """A number for each seed of plain EM."""
        return [
            of(record)
            for record in self.file.of("fit")
            if (record["strategy"], record["data"], record["tol"]) == (REFERENCE, data, tol) and "error" not in record
        ]

    def as_record(self) -> Record:
        """What JSON can say."""
        by_data_set = [
            {"data": data, **judge(name, tol, there).as_record()}
            for data in self.data_sets
            for name in self.strategies
            for tol in self.tols
            if (there := self.of(data=data, strategy=name, tol=tol))
        ]
        return {
            "sessions": self.file.of("session"),
            "data_sets": self.data_sets,
            "strategies": self.file.settings("strategy"),
            "verdicts": [verdict.as_record() for verdict in self.verdicts],
            "by_data_set": by_data_set,
            "against_scikit_learn": [vars(outcome) for outcome in self.outcomes],
        }


def verdict_table(evidence: Evidence) -> str:
    head = [
        "strategy",
        "tol",
        "runs",
        "as good",
        "better",
        "passes",
        "their mean",
        "processor time",
        "fit to be a default",
    ]
    ordered = sorted(evidence.verdicts, key=lambda v: evidence.strategies.index(v.strategy))
    return table(head, [_verdict_row(verdict) for verdict in ordered])


def _verdict_row(v: Verdict) -> list[str]:
    default = "" if v.strategy == CHANCE else "yes" if v.qualifies else "no"
    figures = ratio(v.median_passes), ratio(v.mean_passes), ratio(v.median_processor)
    tol = "all" if v.tol is None else f"{v.tol:g}"
    return [v.strategy, tol, str(v.n_runs), percent(v.as_good), percent(v.better), *figures, default]


def data_table(evidence: Evidence) -> str:
    head = ["data set", "covariance", "N", "D", "K", "sample", *(f"passes at {tol:g}" for tol in evidence.tols)]
    head += ["processor s"]
    return table(head, [_data_row(evidence, name, settings) for name, settings in evidence.data_sets.items()])


def _data_row(evidence: Evidence, name: str, settings: Record) -> list[str]:
    sizes = (f"{settings[size]:,}" for size in ("n_rows", "n_features", "n_components", "init_size"))
    passes = [evidence.plain(name, tol) for tol in evidence.tols]
    seconds = evidence.plain(name, evidence.tols[-1], lambda record: record["processor_seconds"]) if passes else []
    cells = [f"{median(found):g}" if found else "-" for found in passes]
    return [name, settings["covariance_type"], *sizes, *cells, f"{median(seconds):.3g}" if seconds else "-"]


def detail_table(evidence: Evidence, tol: float) -> str:
    """By data set: how many runs ended as high, and the median of passes."""
    rows = [
        [data, *(_detail(evidence.of(data=data, strategy=name, tol=tol)) for name in evidence.strategies)]
        for data in evidence.data_sets
    ]
    return table(["data set", *evidence.strategies], rows)


def _detail(comparisons: list[Comparison]) -> str:
    if not comparisons:
        return "-"
    good = sum(c.as_good for c in comparisons)
    return f"{good}/{len(comparisons)} · {ratio(median(c.ratio for c in comparisons))}"


SPEEDS: dict[str, Callable[[Outcome], float]] = {
    "processor time": lambda outcome: outcome.speed,
    "wall time": lambda outcome: outcome.clock,
}


def against_table(evidence: Evidence) -> str:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in evidence.outcomes:
        groups.setdefault((outcome.data, outcome.strategy), []).append(outcome)
    rows = []
    for (data, strategy), found in groups.items():
        reached = [outcome for outcome in found if outcome.reached]
        ratios = [median(of(outcome) for outcome in reached) if reached else None for of in SPEEDS.values()]
        cells = ("-" if value is None else ratio(value) for value in ratios)
        rows.append([data, strategy, f"{len(reached)}/{len(found)}", *cells])
    return table(["data set", "strategy", "as good", *SPEEDS], rows)


def sessions(evidence: Evidence) -> Iterator[str]:
    """Machines and versions; a line for each that differs from the one before."""
    for record in evidence.file.of("session"):
        machine = record["machine"]
        versions = {"python": machine["python"], **machine["versions"]}
        yield (
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {', '.join(machine['blas'])};"
            f" {', '.join(f'{name} {number}' for name, number in versions.items())}; commit {record['commit']}"
        )


def failures(evidence: Evidence) -> Iterator[str]:
    for record in evidence.file.of("fit"):
        name = f"{record['strategy']} on {record['data']}, seed {record['seed']}, tol {record['tol']:g}"
        if "error" in record:
            yield f"{name}: {record['error']}"
        elif not record["converged"]:
            yield f"{name}: stopped by max_iter after {record['n_iter']} iterations"


def sections(evidence: Evidence, pictures: dict[str, str]) -> Iterator[str]:
    """Markdown; ``pictures`` are file names by title."""
    yield "# Strategies of a fit beside plain EM"
    yield bullets(dict.fromkeys(sessions(evidence)))
    yield (
        f"*Plain* is EM from scikit-learn's start, k-means on all rows. *As good* is the share of runs whose final mean"
        f" log-likelihood, of all rows, is not below plain EM's by more than tol, from the same seed; *better* that"
        f" above it by more than tol. *Passes* over all rows are those of plain EM's, the median, and their geometric"
        f" mean. A strategy is fit to be a default if {percent(LEAST_SHARE)} are as good and the median is at most"
        f" a third. *{CHANCE}* is plain EM beside itself, begun from another seed."
    )
    yield bullets(f"{name}: {_told(given)}" for name, given in evidence.file.settings("strategy").items())
    if evidence.comparisons:
        yield f"## Judgement\n\n{verdict_table(evidence)}"
    yield f"## Data sets, and plain EM on them\n\nMedians over seeds.\n\n{data_table(evidence)}"
    yield bullets(f"{name}: {settings['about']}" for name, settings in evidence.data_sets.items())
    if evidence.comparisons:
        yield "## By data set\n\nRuns that ended as good, and the median of passes over plain EM's."
        yield from (f"tol = {tol:g}\n\n{detail_table(evidence, tol)}" for tol in evidence.tols)
    if evidence.outcomes:
        yield (
            "## Beside scikit-learn\n\nTime of scikit-learn's whole fit at tol = 1e-5 over that of daskgmm's, one"
            f" thread each, where daskgmm's log-likelihood is not below by more than tol.\n\n{against_table(evidence)}"
        )
    yield from (f"![{title}]({file})" for title, file in pictures.items())
    if failed := list(failures(evidence)):
        yield f"## Fits that failed or did not converge\n\n{bullets(failed)}"


def _told(arguments: Record) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def write_report(evidence: Evidence) -> Path:
    """Tables and pictures, beside the records."""
    from strategy.plots import draw_all

    target = evidence.file.path.with_suffix(".md")
    parts: Iterable[str] = sections(evidence, draw_all(evidence, target.with_suffix("")))
    target.write_text("\n\n".join(part for part in parts if part) + "\n")
    return target
