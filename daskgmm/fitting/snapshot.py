"""What a fit has to keep in order to go on, to the last bit, after its process is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np

from ..core.estimation import State
from ..data.checksum import Checksum
from .em import AscentSnapshot
from .history import PassRecord
from .survey import Survey

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Beginning:
    """What the first pass over the data found. It does not change any more."""

    surveys: tuple[Survey, ...]
    """One for each candidate."""
    random_states: tuple[Mapping[str, Any], ...]
    """Of each candidate after that pass, as `numpy.random.RandomState.get_state` tells it with ``legacy=False``."""
    tally: Checksum
    """What it saw."""
    probes: tuple[Checksum, ...]
    """What `probe` saw of a few rows."""
    n_passes: int
    """So far."""
    seconds: float
    """Wall time of the pass."""


@dataclass(frozen=True)
class FitSnapshot(Generic[State]):
    """One mixture on its way, between two passes."""

    n_starts: int
    history: tuple[PassRecord, ...]
    notes: tuple[Warning, ...]
    failure: tuple[int, ...] | None
    """Components that collapsed in the start that was dropped last."""
    ascents: Mapping[int, AscentSnapshot[State]]
    """By the number of their start."""
    prospects: Mapping[str, Any] | None
    """What the judge of hopeless starts remembers; None where there is none."""


@dataclass(frozen=True)
class Snapshot:
    """A fit between two passes."""

    n_passes: int
    common: Mapping[tuple[str, str], Array]
    """As in `Sweep`."""
    fits: tuple[FitSnapshot[Any], ...]
    """One for each candidate."""


class Keeper(Protocol):
    """Where a fit keeps what it needs to go on."""

    def beginning(self) -> Beginning | None:
        """What an earlier run kept; None where this is the first."""

    def latest(self) -> Snapshot | None:
        """The last snapshot that an earlier run kept."""

    def keep_beginning(self, beginning: Beginning) -> None:
        """Keep what the first pass found."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keep where the fit is now."""

    def check_probes(self, kept: Sequence[Checksum], found: Sequence[Checksum]) -> None:
        """Raise if the data are not those of the earlier run."""
