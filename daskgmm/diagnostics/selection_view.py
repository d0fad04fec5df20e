"""A comparison of several mixtures, as a table and as a picture."""

from __future__ import annotations

import html
import importlib.util
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table

from ..criteria import CRITERIA, HELD_OUT, selection_criteria
from ..data.output_locks import hidden
from ..data.write import writing
from ..errors import MissingDependencyError, OutputExistsError
from .digits import decimals

Record = Mapping[str, Any]

_FORMATS = ("png", "pdf", "svg")
_WIDTH = 120  # of the table as text
_MOST = 1000  # width of a table without a limit
_HELD_OUT_TITLE = "log-likelihood of rows held out: nats per row below the best"
_HELD_OUT_NEGLIGIBLE = 1e-3  # nats per row


def _columns() -> dict[str, tuple[str, int | None]]:
    """Columns of the table by title: field of the record, and number of decimals, None for that of `decimals`."""
    return {
        "log-likelihood": ("log_likelihood", None),
        **{name: (name, 1) for name in CRITERIA},
        "held out": (HELD_OUT, None),
        "params": ("n_parameters", 0),
        "iter.": ("n_iter", 0),
    }


class SelectionTable:
    """Table of the candidates in the record of a `daskgmm.Selection`.

    Empty columns are left out; if the table is too wide, so are the criteria that did not decide.

    Parameters
    ----------
    record : mapping
        Record of `daskgmm.Selection.as_record`.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = _columns()
        whole = self._table(columns)
        if console.measure(whole, options=options.update(max_width=_MOST)).maximum <= options.max_width:
            yield whole
            return
        hidden_ones = set(selection_criteria()) - {self._record["criterion"]}
        yield self._table({name: column for name, column in columns.items() if column[0] not in hidden_ones})

    def _table(self, columns: Mapping[str, tuple[str, int | None]]) -> Table:
        rows = self._record["candidates"]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        shown = _shown(rows, columns)
        table.add_column("K", justify="right", no_wrap=True)
        table.add_column("covariance", no_wrap=True)
        for name in shown:
            table.add_column(name, justify="right", overflow="fold")
        table.add_column("")
        for row in rows:
            table.add_row(*_cells(self._record, row, shown), style="bold" if _is_best(self._record, row) else None)
        return table


def _shown(rows: Sequence[Record], columns: Mapping[str, tuple[str, int | None]]) -> dict[str, tuple[str, int | None]]:
    """Columns with at least one value."""
    return {name: of for name, of in columns.items() if any(row[of[0]] is not None for row in rows)}


def _cells(record: Record, row: Record, columns: Mapping[str, tuple[str, int | None]]) -> list[str]:
    means = decimals(record["n_rows"])
    numbers = [_number(row[field], means if digits is None else digits) for field, digits in columns.values()]
    return [str(row["n_components"]), row["covariance_type"], *numbers, _note(record, row)]


def selection_summary(record: Record) -> str:
    """Describe the best mixture in a sentence."""
    best = record["best"]
    plural = "s" * (best["n_components"] != 1)
    numbers = {row["n_components"] for row in record["candidates"]}
    at_the_end = ", the most that were tried" if best["n_components"] == max(numbers) > min(numbers) else ""
    return (
        f"best by {record['criterion'].replace('_', ' ')}: {best['n_components']} component{plural}{at_the_end}, "
        f"{best['covariance_type']} covariance; {record['n_rows']:,} rows{_left_out(record)} read "
        f"{record['n_passes']} times for {len(record['candidates'])} candidates{_doubt(record)}"
    )


def _left_out(record: Record) -> str:
    n_incomplete = record["n_incomplete"]
    return f" ({n_incomplete:,} of them incomplete and left out)" if n_incomplete else ""


def _doubt(record: Record) -> str:
    n_undecided = sum(row["undecided"] for row in record["candidates"])
    return f"; {n_undecided} of them may be better, by what is left to gain: decrease tol" if n_undecided else ""


def selection_text(record: Record) -> str:
    """Format table and sentence as plain text."""
    text = io.StringIO()
    console = Console(
        file=text,
        width=_WIDTH,
        color_system=None,
        markup=False,
        emoji=False,
        legacy_windows=False,
        force_jupyter=False,  # otherwise rich shows the table in a notebook, and writes nothing
    )
    console.print(SelectionTable(record), selection_summary(record), highlight=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def selection_html(record: Record) -> str:
    """Format table and sentence as HTML, for a notebook."""
    rows = record["candidates"]
    shown = _shown(rows, _columns())
    lines = [_html_row("th", ["K", "covariance", *shown, ""])]
    for row in rows:
        cells = map(html.escape, _cells(record, row, shown))
        lines.append(_html_row("td", [f"<b>{cell}</b>" for cell in cells] if _is_best(record, row) else cells))
    return f"<table>{''.join(lines)}</table><p>{html.escape(selection_summary(record))}</p>"


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _is_best(record: Record, row: Record) -> bool:
    return all(row[name] == value for name, value in record["best"].items())


def _note(record: Record, row: Record) -> str:
    if row["failed"] is not None:
        return "failed"
    if _is_best(record, row):
        return "best" if row["converged"] else "best, not converged"
    if row["dropped"]:
        return "dropped"
    if row["undecided"]:
        return "may be the best"
    if not row["converged"]:
        return "not converged"
    return "components coincide" if row["coincides"] else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


# ---- the picture


def new_axes() -> Any:
    """Make the axes of a new pyplot figure, which a notebook shows."""
    _check_matplotlib()
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def draw_criterion(record: Record, ax: Any) -> Any:
    """Draw the criterion of each candidate; see `daskgmm.Selection.plot`."""
    _check_matplotlib()
    from matplotlib.ticker import MaxNLocator

    scored = [row for row in record["candidates"] if row[record["criterion"]] is not None]
    for covariance_type in dict.fromkeys(row["covariance_type"] for row in scored):
        points = sorted(_points(record, [row for row in scored if row["covariance_type"] == covariance_type]))
        ax.plot(*zip(*points, strict=True), marker="o", markersize=4, label=covariance_type)
    dropped = _points(record, [row for row in scored if row["dropped"]])
    _mark(ax, dropped, marker="x", color="gray", label="dropped")
    late = _points(record, [row for row in scored if not (row["converged"] or row["dropped"])])
    _mark(ax, late, marker="s", facecolors="none", edgecolors="gray", label="not converged")
    best = _points(record, [row for row in scored if _is_best(record, row)])
    _mark(ax, best, marker="o", facecolors="none", edgecolors="black", label="best")
    ax.set_xlabel("number of components")
    title, negligible = _axis(record["criterion"])
    ax.set_ylabel(title)
    # The differences span orders of magnitude: far too few components are much worse than slightly too many.
    ax.set_yscale("symlog", linthresh=negligible)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def _axis(criterion: str) -> tuple[str, float]:
    """Axis label of a criterion, and its largest negligible difference."""
    if criterion == HELD_OUT:
        return _HELD_OUT_TITLE, _HELD_OUT_NEGLIGIBLE
    return f"{CRITERIA[criterion].title} above the best", CRITERIA[criterion].negligible


def _points(record: Record, rows: Sequence[Record]) -> list[tuple[int, float]]:
    """Pairs of number of components and difference of the criterion from the best."""
    name = record["criterion"]
    (best,) = (row[name] for row in record["candidates"] if _is_best(record, row))
    return [(row["n_components"], abs(row[name] - best)) for row in rows]


def _mark(ax: Any, points: Sequence[tuple[int, float]], **how: Any) -> None:
    if points:
        x, y = zip(*points, strict=True)
        ax.scatter(x, y, s=70, zorder=3, **how)


def _check_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "plot", "A plot of the criterion")


def check_picture(path: str, *, overwrite: bool = False) -> None:
    """Check that a picture can be written to a path; cheap, to be called before any work.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    OutputExistsError
        If the path exists and may not be replaced.
    ValueError, OSError
        If the format is unknown, or the directory does not exist or is not writable.
    """
    _check_matplotlib()
    if _format(path) not in _FORMATS:
        raise ValueError(f"{path!r}: the name of a picture ends in {', '.join('.' + name for name in _FORMATS)}")
    if os.path.lexists(path) and not (overwrite and os.path.isfile(path)):
        raise OutputExistsError(f"{path} is there already. Choose another name, or replace it with overwrite=True.")
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"There is no directory {directory}.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {directory}")


def save_picture(record: Record, path: str, *, overwrite: bool = False) -> None:
    """Draw the criterion into a file, whole or not at all; the suffix of the name sets the format."""
    check_picture(path, overwrite=overwrite)
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    draw_criterion(record, figure.subplots())
    growing = hidden(os.path.abspath(path), "partial")
    try:
        with writing(path):
            figure.savefig(growing, dpi=150, format=_format(path))
            os.replace(growing, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(growing)


def _format(path: str) -> str:
    return os.path.splitext(path)[1].lower().removeprefix(".")
