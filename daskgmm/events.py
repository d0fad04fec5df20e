"""Everything that a fit tells its callbacks while it runs."""

from .engine.events import BatchFinished, Listener, PassFinished, PassStarted
from .fitting.events import IterationFinished, StartBegun, StartFinished

__all__ = [
    "BatchFinished",
    "IterationFinished",
    "Listener",
    "PassFinished",
    "PassStarted",
    "StartBegun",
    "StartFinished",
]
