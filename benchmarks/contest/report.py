"""What was measured, as tables: DIR/peers.json → DIR/peers.md, with the pictures of `contest.plots`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from contest.contestants import CONTESTANTS
from contest.problem import JUDGED_ROWS, REG_COVAR, Problem

REFERENCE = "daskgmm"
TARGET = "scikit-learn"
BELOW_TARGET = 1e-4  # nats a row
AXES = {"n_rows": "rows N", "n_features": "features D", "n_components": "components K", "threads": "threads"}

Record = dict[str, Any]
Value = Callable[[Record], float | None]


def fit_seconds(record: Record) -> float:
    return record["fits"][-1]["seconds"]


def iteration_seconds(record: Record) -> float | None:
    """Of one EM iteration: what the longer fit takes more than the shorter one; None if that is lost in noise."""
    seconds = _of_iteration(record, "seconds")
    return seconds if seconds > 0 else None


def iteration_bytes(record: Record) -> float | None:
    return None if record["fits"][-1]["bytes_read"] is None else _of_iteration(record, "bytes_read")


def peak_bytes(record: Record) -> float:
    return record["peak_bytes"]


def _of_iteration(record: Record, quantity: str) -> float:
    short, long = record["fits"]
    return (long[quantity] - short[quantity]) / (long["max_iter"] - short["max_iter"])


def describe(record: Record) -> str:
    """One line while measurements run."""
    if "error" in record:
        text = record["error"]
    elif record["tol"]:
        text = f"{seconds(fit_seconds(record))} s a whole fit"
    else:
        text = f"{seconds(iteration_seconds(record))} s an iteration"
    return f"{record['contestant']:14} {text}"


def seconds(value: float | None) -> str:
    return "noise" if value is None else f"{value:#.3g}".rstrip(".")


def megabytes(value: float | None) -> str:
    return "-" if value is None else f"{round(value / 1e6):,}"


class Results:
    """Records of one run, by contestant and problem; ``tol`` selects those of fits to their end."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.settings = data["settings"]
        self.names: list[str] = list(data["versions"])
        self.base = Problem(**self.settings["base"])
        self.headline = Problem(**self.settings["headline"])

    def records(self, name: str, problem: Problem, tol: float | None = None) -> list[Record]:
        """One for each round."""
        wanted = (name, problem, tol)
        return [r for r in self.data["measurements"] if (r["contestant"], Problem(**r["problem"]), r["tol"]) == wanted]

    def error(self, name: str, problem: Problem, tol: float | None = None) -> str | None:
        """Why there is no number."""
        if name in self.data["missing"]:
            return self.data["missing"][name]
        records = self.records(name, problem, tol)
        return next((record["error"] for record in records if "error" in record), None if records else "not measured")

    def value(self, of: Value, name: str, problem: Problem, tol: float | None = None) -> float | None:
        """Median over the rounds."""
        values = [value for record in self.records(name, problem, tol) if (value := of(record)) is not None]
        return median(values) if values else None

    def ratio(self, of: Value, name: str, problem: Problem, tol: float | None = None) -> str:
        """To the reference in the same round: the median over the rounds."""
        if REFERENCE not in self.names or self.error(REFERENCE, problem, tol):
            return "-"
        pairs = zip(self.records(name, problem, tol), self.records(REFERENCE, problem, tol), strict=True)
        values = [(of(record), of(reference)) for record, reference in pairs]
        ratios = [mine / theirs for mine, theirs in values if mine and theirs]
        return f"{median(ratios):.3g}" if ratios else "-"

    def axis(self, axis: str) -> dict[int, Problem]:
        """By size."""
        return {size: replace(self.base, **{axis: size}) for size in self.settings["axes"].get(axis, ())}

    def series(self, of: Value, name: str, axis: str) -> list[tuple[int, float]]:
        """The points of a curve that have a value."""
        there = {size: problem for size, problem in self.axis(axis).items() if not self.error(name, problem)}
        return [(size, value) for size, problem in there.items() if (value := self.value(of, name, problem))]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def contestants_table(
    results: Results, problem: Problem, tol: float | None, columns: dict[str, Callable[[str], str]]
) -> str:
    """A line for each contestant, and a column for each function of its name."""
    rows = []
    for name in results.names:
        error = results.error(name, problem, tol)
        cells = [error] + [""] * (len(columns) - 1) if error else [column(name) for column in columns.values()]
        rows.append([name, *cells])
    return table(["", *columns], rows)


def iteration_table(results: Results) -> str:
    at = results.headline
    columns = {
        "s an iteration": lambda name: seconds(results.value(iteration_seconds, name, at)),
        "of daskgmm's": lambda name: results.ratio(iteration_seconds, name, at),
        "peak, MB": lambda name: megabytes(results.value(peak_bytes, name, at)),
        "before the rows, MB": lambda name: megabytes(results.value(lambda r: r["idle_bytes"], name, at)),
        "read an iteration, MB": lambda name: megabytes(results.value(iteration_bytes, name, at)),
        "log-likelihood after": lambda name: f"{results.value(lambda r: r['log_likelihood'], name, at):.8f}",
    }
    return contestants_table(results, at, None, columns)


def whole_fit_table(results: Results) -> str:
    at = (results.base, results.settings["tol"])

    def reached(name: str) -> float | None:
        there = name in results.names and not results.error(name, *at)
        return results.value(lambda r: r["log_likelihood"], name, *at) if there else None

    def verdict(name: str) -> str:
        return "-" if (target := reached(TARGET)) is None else "yes" if reached(name) >= target - BELOW_TARGET else "no"

    columns = {
        "s": lambda name: seconds(results.value(fit_seconds, name, *at)),
        "of daskgmm's": lambda name: results.ratio(fit_seconds, name, *at),
        "iterations": lambda name: str(results.records(name, *at)[0]["fits"][0]["n_iter"] or "-"),
        "log-likelihood": lambda name: f"{reached(name):.6f}",
        "target reached": verdict,
    }
    return contestants_table(results, *at, columns)


def growth_table(results: Results, axis: str, of: Value, text: Callable[[float | None], str]) -> str:
    problems = results.axis(axis)

    def cell(name: str, problem: Problem) -> str:
        error = results.error(name, problem)
        return error.partition(":")[0] if error else text(results.value(of, name, problem))

    rows = [[name, *(cell(name, problem) for problem in problems.values())] for name in results.names]
    return table([AXES[axis], *(f"{size:,}" for size in problems)], rows)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def sections(results: Results, pictures: dict[str, str]) -> Iterator[str]:
    """Markdown; ``pictures`` are file names by title."""
    data, settings = results.data, results.settings
    machine = data["machine"]
    versions = {"python": machine["python"], **machine["versions"]}
    for packages in data["versions"].values():
        versions |= packages
    rounds = f"medians of {settings['rounds']} rounds" if settings["rounds"] > 1 else "one round"
    yield "# Gaussian mixtures by EM: daskgmm and its peers"
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {', '.join(machine['blas'])};"
        f" {', '.join(f'{name} {number}' for name, number in versions.items())}."
    )
    yield (
        f"Full covariances, float64 rows, reg_covar = {REG_COVAR:g}, and the same start for all: equal weights, rows as"
        " means, the covariance of all rows. To know of them:"
    )
    yield bullets(f"{name}: {note}" for name in results.names if (note := CONTESTANTS[name].note))
    yield f"## One iteration\n\n{results.headline}; {rounds}."
    yield iteration_table(results)
    yield f"## A whole fit\n\n{results.base}; {rounds}; it includes what a first fit in a process has to compile."
    yield (
        f"A fit stops when the mean log-likelihood changes by less than tol = {settings['tol']:g} nats a row. The"
        f" target is {TARGET}'s log-likelihood less {BELOW_TARGET:g}. Other rules:"
    )
    yield bullets(f"{name}: {rule}" for name in results.names if (rule := CONTESTANTS[name].stopping))
    yield whole_fit_table(results)
    yield f"Log-likelihoods are a row, of the first {JUDGED_ROWS:,} rows, computed in float64 for all alike."
    yield f"## Growth\n\nSeconds an iteration; what does not vary is as in {results.base}."
    yield from (growth_table(results, axis, iteration_seconds, seconds) for axis in AXES if results.axis(axis))
    yield f"Peak memory in MB.\n\n{growth_table(results, 'n_rows', peak_bytes, megabytes)}"
    yield from (f"![{title}]({file})" for title, file in pictures.items())
    failed = (record for record in data["measurements"] if "error" in record)
    gaps = [f"{name}: {message}" for name, message in data["missing"].items()]
    gaps += [f"{record['contestant']} at {Problem(**record['problem'])}: {record['error']}" for record in failed]
    if gaps:
        yield f"## What could not be measured\n\n{bullets(gaps)}"


def write_report(directory: Path) -> None:
    """Tables and pictures of the measurements in a directory."""
    from contest.plots import draw_growth

    results = Results(json.loads((directory / "peers.json").read_text()))
    text = "\n\n".join(section for section in sections(results, draw_growth(results, directory)) if section)
    (directory / "peers.md").write_text(text + "\n")
