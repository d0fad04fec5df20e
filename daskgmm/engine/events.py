"""What a pass tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Waiting:
    """Something begins that takes seconds before a pass can go on."""

    what: str
    """Such as ``"starting 2 worker processes"`` or ``"loading compiled loops"``."""


@dataclass(frozen=True)
class PassStarted:
    """A pass over the data begins."""

    label: str
    """``"weights"`` (which reads nothing else), ``"survey"``, ``"estep"``, ``"score"`` or ``"predict"``."""

    n_rows: int
    """Rows that it will read."""

    n_batches: int
    """Tasks that it is divided into."""


@dataclass(frozen=True)
class BatchFinished:
    """One task of the running pass has read its rows."""

    label: str

    n_rows: int
    """Rows of that task."""


@dataclass(frozen=True)
class PassFinished:
    """A pass has ended."""

    label: str

    n_rows: int

    seconds: float
    """Wall time."""


@dataclass(frozen=True)
class EngineClosed:
    """Nothing more will come: the fit or score is over, or it failed."""

    failed: bool


Listener = Callable[[Any], None]
"""Called in the driver with every event, one at a time for each fit."""
