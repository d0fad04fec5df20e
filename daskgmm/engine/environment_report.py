"""Reports of worker processes whose software or processor is not their driver's."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import distributed

from ..errors import ReproducibilityWarning
from .blas import this_process
from .environment import differences, environment

#: Topic of the reports. All fits share one topic, because a scheduler keeps every topic for ever.
TOPIC = "daskgmm-workers"

Differences = Mapping[str, Mapping[str, str]]
"""Address of a worker -> entries of its environment that differ from the driver's."""


@dataclass(frozen=True)
class EnvironmentReport:
    """Report of a worker process: the entries in which its environment differs from the driver's.

    The first task of every process sends the report. So workers that join later report, too, and the driver never has
    to wait for answers.
    """

    receiver: str
    """Name of the engine that receives the reports."""
    driver: str = field(default_factory=this_process)
    expected: Mapping[str, str] = field(default_factory=environment)
    """The driver's environment."""

    def send(self) -> None:
        """Send the report of this process, once, unless this process is the driver."""
        if self.driver != this_process():
            _send_once(self.receiver, tuple(self.expected.items()))


@lru_cache(maxsize=64)
def _send_once(receiver: str, expected: tuple[tuple[str, str], ...]) -> None:
    with suppress(ValueError):  # no worker: a process of a scheduler on the driver's machine
        worker = distributed.get_worker()
        differs = {name: theirs for name, (_, theirs) in differences(dict(expected), environment()).items()}
        worker.log_event(TOPIC, {"receiver": receiver, "worker": worker.address, "differs": differs})


def by_worker(events: Iterable[Mapping[str, Any]]) -> Differences:
    """Return the last report of each worker."""
    return {event["worker"]: event["differs"] for event in events}


def summary(kinds: Differences) -> str:
    """Describe in a line how workers differ from their driver; empty where no worker differs."""
    counts = Counter(_text(differs) for differs in kinds.values() if differs)
    return "; ".join(f"{n} of {len(kinds)} with {text}" for text, n in sorted(counts.items()))


def warn_of_different(kinds: Differences, stacklevel: int = 1) -> None:
    """Warn if workers differ from each other: the last bits then depend on which worker does which task."""
    if len({_text(differs) for differs in kinds.values()}) > 1:
        warnings.warn(
            f"Workers compute with different software or kinds of processors ({summary(kinds)}; the others as this "
            "process). Their results differ in the last bits, and so may those of the same call another time, when "
            "other workers do the work. Where it matters, use workers of one kind.",
            ReproducibilityWarning,
            stacklevel=stacklevel + 1,
        )


def _text(differs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value or 'unknown'}" for name, value in differs.items())
