"""The table and the picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from soaking.judge import MIB, WARM_UP, growth, low_water
from soaking.watch import Counts, Sample

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe & Ito's


def print_table(result: dict[str, Any], samples: Sequence[Sample], censuses: Sequence[Counts], limit: float) -> None:
    minutes = samples[-1].seconds / 60
    print(f"{minutes:.1f} minutes, {len(censuses)} rounds, {samples[-1].deaths} workers died")
    print(f"\n{'job':34}{'runs':>6}{'equal':>7}{'median s':>10}")
    for job in dict.fromkeys(run.job for run in result["runs"]):
        runs = [run for run in result["runs"] if run.job == job]
        equal = sum(run.problem is None for run in runs)
        print(f"{job:34}{len(runs):6}{equal:7}{median(run.seconds for run in runs):10.2f}")
    print(f"\n{'resident set':34}{'MiB':>6}{'at end':>8}{'MiB an hour':>13}   {limit:g} allowed")
    for of, name in (("driver", "driver with scheduler, nannies"), ("spared", "worker that is spared")):
        grown = growth(samples, of)
        print(f"{name:34}{grown.start:6.0f}{grown.stop:8.0f}{grown.slope:+13.1f}")
    print(f"\n{'smallest count of half the rounds':34}{'first':>6}{'second':>8}")
    for name, (before, after) in low_water(censuses).items():
        print(f"{name:34}{before:6}{after:8}")
    for name, left in result["left"].items():
        print(f"{name:34}{len(left):14}")


def draw(samples: Sequence[Sample]) -> Figure:
    """Resident sets over time, with the fitted lines, and when workers died."""
    figure = Figure(figsize=(8, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    minutes = [sample.seconds / 60 for sample in samples]
    others = [(sample.seconds / 60, rss / MIB) for sample in samples for rss in sample.others if rss]
    axes.plot(*zip(*others, strict=True), ".", color=GREY, markersize=1.5, label="workers that die, each sample")
    styles = (("driver", BLUE, "driver, with scheduler and nannies"), ("spared", VERMILION, "worker that is spared"))
    for of, colour, name in styles:
        grown = growth(samples, of)
        axes.plot(minutes, [getattr(s, of) / MIB for s in samples], color=colour, linewidth=1, label=name)
        axes.plot(
            [WARM_UP * minutes[-1], minutes[-1]],
            [grown.start, grown.stop],
            color="black",
            linewidth=1,
            linestyle="--",
            label=f"its line: {grown.slope:+.0f} MiB an hour",
        )
    deaths = [b.seconds / 60 for a, b in itertools.pairwise(samples) if b.deaths > a.deaths]
    axes.plot(deaths, [0] * len(deaths), "|", color="black", markersize=9, label="a worker died")
    axes.set(xlabel="minutes", ylabel="resident set (MiB)", ylim=0)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def save_plot(samples: Sequence[Sample], path: Path) -> None:
    draw(samples).savefig(path)
