"""Pictures: passes and final likelihoods of strategies beside plain EM's."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contest.plots import COLOURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from strategy.fits import REFERENCE, STRATEGIES
from strategy.judgement import CHANCE, LEAST_SHARE, MOST_PASSES, Comparison
from strategy.report import Evidence

BLUE, SKY, BLACK, GREY, VERMILION, GREEN, PURPLE, ORANGE = COLOURS
STYLES = dict(
    zip(
        (*STRATEGIES, CHANCE),
        zip((BLACK, BLUE, ORANGE, VERMILION, SKY, GREEN, PURPLE, GREY), "|osDPX^v", strict=True),
        strict=True,
    )
)
"""Colour and marker of a strategy."""
TOL_STYLES = ((SKY, "o"), (ORANGE, "s"), (BLUE, "D"))
"""Of the tolerances, largest first."""


def plain_numbers(axis: Any) -> None:
    """Ticks of a logarithmic axis as people write them."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.log10(high / low) < 2.5 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def tidy(axes: Axes) -> None:
    axes.grid(which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_passes(evidence: Evidence) -> Figure:
    """A panel for each strategy, a point for each run."""
    names = [name for name in evidence.strategies if name != CHANCE]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.2 * lines + 0.8), dpi=160, layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    everything = [p for c in evidence.comparisons for p in (c.passes, c.reference_passes) if np.isfinite(p)]
    ends = np.array([min(everything) / 1.3, max(everything) * 1.3])
    for name, axes in zip(names, panels, strict=False):
        for (colour, marker), tol in zip(TOL_STYLES, evidence.tols, strict=False):
            _scatter(axes, evidence, name, tol, colour, marker)
        axes.plot(ends, ends, color="0.5", linewidth=1)
        axes.plot(ends, ends * MOST_PASSES, color="0.5", linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set_title(name, fontsize="medium")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        tidy(axes)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("passes of plain EM", fontsize="medium")
    figure.supylabel("passes of the strategy", fontsize="medium")
    points = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"tol {tol:g}")
        for (colour, marker), tol in zip(TOL_STYLES, evidence.tols, strict=False)
    ]
    points += [
        Line2D([], [], color=BLACK, marker="x", linestyle="", label="ended lower"),
        Line2D([], [], color="0.5", label="as many"),
        Line2D([], [], color="0.5", linestyle="--", label="a third"),
    ]
    figure.legend(handles=points, loc="outside upper center", ncols=len(points), frameon=False)
    return figure


def _scatter(axes: Axes, evidence: Evidence, name: str, tol: float, colour: str, marker: str) -> None:
    for good in (True, False):
        found = [c for c in evidence.of(strategy=name, tol=tol) if c.as_good == good and np.isfinite(c.passes)]
        style: dict[str, Any] = {"marker": marker, "alpha": 0.6} if good else {"marker": "x", "linewidth": 1.2}
        x, y = [c.reference_passes for c in found], [c.passes for c in found]
        axes.scatter(x, y, color=colour, s=16, edgecolor="none" if good else None, **style)


def draw_data_sets(evidence: Evidence) -> Figure:
    """Medians over seeds: a line for each data set, a panel for each tolerance."""
    names = [name for name in evidence.strategies if name != CHANCE]
    ordered = sorted(evidence.data_sets, key=lambda data: median(evidence.plain(data, evidence.tols[-1]) or [0]))
    figure = Figure(figsize=(10.5, 0.27 * len(ordered) + 1.6), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(evidence.tols), sharey=True, squeeze=False)[0]
    for tol, axes in zip(evidence.tols, panels, strict=True):
        for height, data in enumerate(ordered):
            medians = {name: [c.passes for c in evidence.of(strategy=name, data=data, tol=tol)] for name in names}
            medians[REFERENCE] = evidence.plain(data, tol)
            points = {name: median(found) for name, found in medians.items() if found}
            if points:
                axes.plot(
                    [min(points.values()), max(points.values())], [height] * 2, color="0.8", linewidth=2, zorder=1
                )
            for name, passes in points.items():
                colour, marker = STYLES[name]
                size = 90 if name == REFERENCE else 26
                axes.scatter(passes, height, color=colour, marker=marker, s=size, zorder=2, linewidth=1.5)
        axes.set(xscale="log", xlabel="passes", ylim=(-0.8, len(ordered) - 0.2))
        axes.set_title(f"tol {tol:g}", fontsize="medium")
        axes.set_yticks(range(len(ordered)), ordered)
        plain_numbers(axes.xaxis)
        tidy(axes)
    _strategy_legend(figure, [REFERENCE, *names])
    return figure


def _strategy_legend(figure: Figure, names: list[str]) -> None:
    handles = [
        Line2D([], [], color=STYLES[name][0], marker=STYLES[name][1], linestyle="", label=name) for name in names
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, handletextpad=0.2)


FARTHEST = 1e7  # of what is drawn: differences in tol, and ratios


def draw_likelihoods(evidence: Evidence) -> Figure:
    """Final log-likelihoods less plain EM's, in tol: a panel for each tolerance, a point for each run."""
    names = evidence.strategies[::-1]
    figure = Figure(figsize=(10.5, 0.5 * len(names) + 1.5), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(evidence.tols), sharey=True, squeeze=False)[0]
    for tol, axes in zip(evidence.tols, panels, strict=True):
        for height, name in enumerate(names):
            _draw_differences(axes, height, evidence.of(strategy=name, tol=tol))
        for edge in (-1, 1):
            axes.axvline(edge, color="0.5", linewidth=0.8, linestyle="--")
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.set_yticks(range(len(names)), names)
        ticks = _symmetric_ticks(axes)
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"tol {tol:g}", fontsize="medium")
        tidy(axes)
    figure.supxlabel(
        "final log-likelihood less plain EM's, in tol; at the right the share of runs that ended as high",
        fontsize="medium",
    )
    return figure


def _draw_differences(axes: Axes, height: int, found: list[Comparison]) -> None:
    differences = np.clip([c.difference / c.tol for c in found], -FARTHEST, FARTHEST)
    colours = np.where(differences < -1, VERMILION, np.where(differences > 1, BLUE, GREY))
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(found))
    axes.scatter(differences, height + jitter, color=colours, s=9, alpha=0.6, edgecolor="none")
    if found:
        share = f"{100 * np.mean([c.as_good for c in found]):.0f} %"
        axes.annotate(share, (1.02, height), xycoords=("axes fraction", "data"), va="center", fontsize="small")


def _symmetric_ticks(axes: Axes) -> list[float]:
    low, high = axes.get_xlim()
    step = 100.0 if max(-low, high) < 1e5 else 1000.0
    powers = [step, step**2]
    return [*(-p for p in reversed(powers) if -p >= low), -1, 1, *(p for p in powers if p <= high)]


def _short(value: float) -> str:
    return f"{value:g}" if abs(value) < 1000 else f"{value:.0e}".replace("e+0", "e")


def draw_profile(evidence: Evidence) -> Figure:
    """Share of all runs that ended as high as plain EM with at most so much of its passes."""
    figure = Figure(figsize=(8, 4.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    for name in evidence.strategies:
        found = evidence.of(strategy=name)
        ratios = sorted(c.ratio if c.as_good else np.inf for c in found)
        shares = np.arange(1, len(ratios) + 1) / len(ratios)
        there = np.isfinite(ratios)
        colour, marker = STYLES[name]
        x, y = [*np.array(ratios)[there], FARTHEST], [*shares[there], shares[there].max(initial=0)]
        style: dict[str, Any] = {"linestyle": ":"} if name == CHANCE else {"marker": marker, "markevery": 0.1}
        axes.step(x, y, where="post", color=colour, linewidth=1.8, markersize=6, label=name, **style)
    axes.axvline(MOST_PASSES, color="0.5", linewidth=0.8, linestyle="--")
    axes.axhline(LEAST_SHARE, color="0.5", linewidth=0.8, linestyle="--")
    ends = [c.ratio for c in evidence.comparisons if np.isfinite(c.ratio)]
    axes.set(xscale="log", xlim=(min(ends) / 1.2, max(ends) * 1.2))
    axes.set(ylim=(0, 1), xlabel="passes over those of plain EM", ylabel="share of runs as good")
    plain_numbers(axes.xaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    tidy(axes)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def draw_all(evidence: Evidence, stem: Path) -> dict[str, str]:
    """File names by title, of the pictures for which there are numbers."""
    if not any(name != CHANCE for name in evidence.strategies):
        return {}
    drawings = {
        "Passes of each run beside plain EM's": ("passes", draw_passes),
        "Passes by data set": ("data-sets", draw_data_sets),
        "Final log-likelihoods beside plain EM's": ("likelihoods", draw_likelihoods),
        "Share of runs as good with at most so many passes": ("profile", draw_profile),
    }
    pictures = {}
    for title, (name, draw) in drawings.items():
        path = stem.with_name(f"{stem.name}-{name}.png")
        draw(evidence).savefig(path)
        pictures[title] = path.name
    return pictures
