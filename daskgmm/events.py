"""Events that a fit sends to its callbacks while it runs."""

from .engine.events import BatchFinished, EngineClosed, Listener, PassFinished, PassStarted, Waiting
from .fitting.events import FitResumed, IterationFinished, SampleFitted, SampleStepped, StartBegun, StartFinished

__all__ = [
    "BatchFinished",
    "EngineClosed",
    "FitResumed",
    "IterationFinished",
    "Listener",
    "PassFinished",
    "PassStarted",
    "SampleFitted",
    "SampleStepped",
    "StartBegun",
    "StartFinished",
    "Waiting",
]
