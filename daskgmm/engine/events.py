"""Events of a running pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Waiting:
    """A preparation begins that takes seconds, before a pass can go on."""

    what: str
    """Name of the preparation, such as ``"starting 2 worker processes"`` or ``"loading compiled loops"``."""


@dataclass(frozen=True)
class PassStarted:
    """A pass over the data begins."""

    label: str
    """``"weights"`` (a pass over the weights alone), ``"survey"``, ``"estep"``, ``"score"``, ``"threshold"`` or
    ``"predict"``."""

    n_rows: int
    """Rows that the pass will read."""

    n_batches: int
    """Tasks of the pass."""


@dataclass(frozen=True)
class BatchFinished:
    """One task of the running pass has read its rows."""

    label: str

    n_rows: int
    """Rows of the task."""


@dataclass(frozen=True)
class PassFinished:
    """A pass has ended."""

    label: str

    n_rows: int

    seconds: float
    """Wall time."""

    bytes_read: int = 0
    """Bytes of the rows that were read."""

    bytes_cached: int = 0
    """Bytes of the rows that were kept in memory since an earlier pass."""


@dataclass(frozen=True)
class EngineClosed:
    """The last event: the fit or score is over, or has failed."""

    failed: bool


Listener = Callable[[Any], None]
"""Called in the driver with every event, one at a time for each fit."""
