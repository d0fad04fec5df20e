"""Pictures of growth: time against each size that varies, and memory against rows."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from contest.contestants import CONTESTANTS
from contest.report import AXES, Results, Value, iteration_seconds, peak_bytes

# Okabe & Ito's colours, which stay apart for colour-blind readers; markers do so in print.
COLOURS = ("#0072B2", "#56B4E9", "#000000", "#777777", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
STYLES = dict(zip(CONTESTANTS, zip(COLOURS, "osD^vPX*", strict=True), strict=True))
APART = 0.055  # of the axes' height, between two names


def spread(heights: list[float]) -> list[float]:
    """Ascending heights, moved so that names of lines stand apart and none is above the axes."""
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + APART)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - APART
    return heights


def label_lines(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names to the right of the axes, each tied to where its line ends."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = {name: float(to_axes.transform(end)[1]) for name, end in ends.items()}
    names = sorted(heights, key=heights.__getitem__)
    for name, height in zip(names, spread([heights[name] for name in names]), strict=True):
        colour = STYLES[name][0]
        tie = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.5, "shrinkA": 0}
        place = {"xytext": (1.04, height), "textcoords": "axes fraction", "va": "center"}
        axes.annotate(name, ends[name], color=colour, arrowprops=tie, **place)


def draw(results: Results, axis: str, of: Value, unit: str, scale: float = 1.0) -> Figure | None:
    """Lines of all contestants that have numbers, on logarithmic axes."""
    lines = {
        name: [(size, value / scale) for size, value in points]
        for name in results.names
        if (points := results.series(of, name, axis))
    }
    if not lines:
        return None
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        colour, marker = STYLES[name]
        axes.loglog(*zip(*points, strict=True), color=colour, marker=marker, linewidth=1.8)
    sizes = list(results.axis(axis))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=AXES[axis], ylabel=unit)
    constant = [part for part in str(results.base).split(", ") if part[0] != AXES[axis][-1]]
    axes.set_title(", ".join(constant), fontsize="medium")
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # after this the axes have their limits
    label_lines(axes, {name: points[-1] for name, points in lines.items()})
    return figure


def draw_growth(results: Results, directory: Path) -> dict[str, str]:
    """File names by title, of the pictures for which there are numbers."""
    time = (iteration_seconds, "seconds an EM iteration")
    wanted = {f"Time against {AXES[axis]}": (axis, *time) for axis in ("n_rows", "n_features", "n_components")}
    wanted["Memory against rows N"] = ("n_rows", peak_bytes, "peak resident memory in MB", 1e6)
    pictures = {}
    for title, arguments in wanted.items():
        if figure := draw(results, *arguments):
            pictures[title] = f"{title.lower().replace(' ', '-')}.png"
            figure.savefig(directory / pictures[title])
    return pictures
