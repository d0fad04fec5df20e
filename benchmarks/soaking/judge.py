"""What has leaked or differed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from soaking.watch import Counts, Sample

#: Share of the run in which caches fill and pools start.
WARM_UP = 1 / 2

MIB = 1 << 20


@dataclass(frozen=True)
class Run:
    """One job that was run."""

    job: str
    seconds: float
    problem: str | None
    """What was wrong with it."""


@dataclass(frozen=True)
class Growth:
    """A resident set over time, after the warm-up."""

    start: float
    """MiB on the fitted line, at the end of the warm-up."""
    stop: float
    slope: float
    """MiB an hour: the median of the slopes between all pairs of samples (Theil and Sen), which no peak moves."""


def growth(samples: Sequence[Sample], of: str) -> Growth:
    """Fit a line to a resident set; `of` is the name of a field of the samples."""
    end = samples[-1].seconds
    late = [sample for sample in samples if sample.seconds >= WARM_UP * end and getattr(sample, of)]
    hours = np.array([sample.seconds for sample in late]) / 3600
    slope, intercept, *_ = theilslopes([getattr(sample, of) / MIB for sample in late], hours)
    return Growth(intercept + slope * hours[0], intercept + slope * hours[-1], slope)


def low_water(censuses: Sequence[Counts]) -> dict[str, tuple[int, int]]:
    """Smallest counts of the first half of the rounds after the warm-up, and of the second half.

    Smallest, because a worker that is being started again has threads and descriptors in the driver for a moment.
    """
    late = censuses[int(WARM_UP * len(censuses)) :]
    middle = max(1, len(late) // 2)
    return {
        name: (min(c[name] for c in late[:middle]), min(c[name] for c in late[middle:] or late)) for name in censuses[0]
    }


def judge(result: dict[str, Any], samples: Sequence[Sample], censuses: Sequence[Counts], limit: float) -> list[str]:
    """Everything that is wrong; nothing if all is well.

    Parameters
    ----------
    result : dict
        Of the run: ``runs``, and what it left behind.
    samples, censuses
        Of `watch`.
    limit : float
        MiB an hour by which a resident set may grow.
    """
    found = [f"{run.job}: {run.problem}" for run in result["runs"] if run.problem]
    found += [f"{name}: {len(left)} left, such as {left[0]}" for name, left in result["left"].items() if left]
    for name, (before, after) in low_water(censuses).items():
        if after > before or (after and name in ("scheduler: tasks", "driver: futures")):
            found.append(f"{name}: {after}, and {before} before")
    for of in ("driver", "spared"):
        if (grown := growth(samples, of)).slope > limit:
            found.append(f"resident set of {of}: grows by {grown.slope:.0f} MiB an hour; {limit:g} are allowed")
    if not samples[-1].deaths:
        found.append("no worker died: nothing was disturbed")
    return found
