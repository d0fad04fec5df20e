"""A comparison of several mixtures, as a table and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..errors import MissingDependencyError

Record = Mapping[str, Any]

_WIDTH = 120  # of the table as text
_NAMES = {
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "held_out": "mean log-likelihood of the rows held out",
}
# What is in each column of the table: a field of the record, and its decimals.
_COLUMNS = {
    "log-likelihood": ("log_likelihood", 5),
    "bic": ("bic", 1),
    "aic": ("aic", 1),
    "icl": ("icl", 1),
    "held out": ("held_out", 5),
    "params": ("n_parameters", 0),
    "iter.": ("n_iter", 0),
}


def selection_table(record: Record) -> Table:
    """The record of a `daskgmm.Selection` as a table of its candidates; columns that say nothing are left out."""
    rows = record["candidates"]
    shown = [column for column in _COLUMNS.values() if any(row[column[0]] is not None for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("K", justify="right", no_wrap=True)
    table.add_column("covariance", no_wrap=True)
    for name, column in _COLUMNS.items():
        if column in shown:
            table.add_column(name, justify="right", overflow="fold")
    table.add_column("")
    for row in rows:
        numbers = [_number(row[field], digits) for field, digits in shown]
        style = "bold" if _is_best(record, row) else None
        table.add_row(str(row["n_components"]), row["covariance_type"], *numbers, _note(record, row), style=style)
    return table


def selection_summary(record: Record) -> str:
    """The best one, in a sentence."""
    best = record["best"]
    plural = "s" * (best["n_components"] != 1)
    return (
        f"best by {record['criterion'].replace('_', ' ')}: {best['n_components']} component{plural}, "
        f"{best['covariance_type']} covariance; {record['n_rows']:,} rows read {record['n_passes']} times for "
        f"{len(record['candidates'])} candidates"
    )


def selection_text(record: Record) -> str:
    """Table and sentence as plain text."""
    written = io.StringIO()
    console = Console(file=written, width=_WIDTH, color_system=None, markup=False, emoji=False, legacy_windows=False)
    console.print(selection_table(record), selection_summary(record), highlight=False)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _is_best(record: Record, row: Record) -> bool:
    return all(row[name] == value for name, value in record["best"].items())


def _note(record: Record, row: Record) -> str:
    if row["failed"] is not None:
        return "failed"
    if _is_best(record, row):
        return "best" if row["converged"] else "best, not converged"
    if row["dropped"]:
        return "dropped"
    return "" if row["converged"] else "not converged"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


# ---- the picture


def draw_criterion(record: Record, ax: Any = None) -> Any:
    """Draw the criterion of each candidate; see `daskgmm.Selection.plot`."""
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "A plot of the criterion") from error
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    name = record["criterion"]
    scored = [row for row in record["candidates"] if row[name] is not None]
    for covariance_type in dict.fromkeys(row["covariance_type"] for row in scored):
        points = sorted(_points(scored, name, covariance_type=covariance_type))
        ax.plot(*zip(*points, strict=True), marker="o", markersize=4, label=covariance_type)
    _mark(ax, [point for row in scored if row["dropped"] for point in _points([row], name)], "x", "dropped")
    _mark(ax, [point for row in scored if _is_best(record, row) for point in _points([row], name)], "o", "best")
    ax.set_xlabel("number of components")
    ax.set_ylabel(_NAMES[name] + (", nats" if name == "held_out" else ""))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def _points(rows: Any, name: str, **only: Any) -> list[tuple[int, float]]:
    return [(row["n_components"], row[name]) for row in rows if all(row[key] == value for key, value in only.items())]


def _mark(ax: Any, points: list[tuple[int, float]], marker: str, label: str) -> None:
    if points:
        x, y = zip(*points, strict=True)
        face = "none" if marker == "o" else "black"
        ax.scatter(x, y, s=110, marker=marker, facecolors=face, edgecolors="black", zorder=3, label=label)


def save_criterion(record: Record, path: str) -> None:
    """Draw it into a file, of the format that its name ends in."""
    ax = draw_criterion(record)
    ax.figure.savefig(path, dpi=150)
