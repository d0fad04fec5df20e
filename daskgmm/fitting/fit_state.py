"""The state of a fit between two passes, complete: a new process continues from the state with the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np

from ..core.estimation import State
from ..data.checksum import Checksum
from .comparison import MOST_GROWN, MOST_TIGHTENED
from .em_start import EMStart
from .history import PassRecord
from .pruning import PrunerState
from .survey import Survey

Array = np.ndarray[Any, np.dtype[Any]]

_GENERATOR, _WORDS = "MT19937", 624


@dataclass(frozen=True)
class RandomStateRecord:
    """State of a `numpy.random.RandomState`."""

    key: Array
    """State vector of the Mersenne twister, shape (624,), uint32."""
    pos: int
    has_gauss: int
    gauss: float

    def __post_init__(self) -> None:
        if self.key.dtype != np.uint32 or self.key.shape != (_WORDS,):
            raise ValueError(f"key has shape {self.key.shape} and dtype {self.key.dtype}; expected ({_WORDS},), uint32")
        if not 0 <= self.pos <= _WORDS or self.has_gauss not in (0, 1):
            raise ValueError(f"pos is {self.pos} and has_gauss {self.has_gauss}; expected up to {_WORDS}, and 0 or 1")

    @classmethod
    def of(cls, random_state: np.random.RandomState) -> RandomStateRecord:
        """Record the current state of a random state.

        Raises
        ------
        TypeError
            If the bit generator is not the Mersenne twister.
        """
        state = random_state.get_state(legacy=False)
        if state["bit_generator"] != _GENERATOR:
            raise TypeError(
                f"random_state draws from {state['bit_generator']}, whose state a checkpoint does not hold; expected "
                f"an int, or a RandomState of {_GENERATOR}"
            )
        return cls(state["state"]["key"], int(state["state"]["pos"]), int(state["has_gauss"]), float(state["gauss"]))

    def restore(self) -> np.random.RandomState:
        """Make a random state that draws the same numbers."""
        random_state = np.random.RandomState()
        random_state.set_state(
            {
                "bit_generator": _GENERATOR,
                "state": {"key": self.key, "pos": self.pos},
                "has_gauss": self.has_gauss,
                "gauss": self.gauss,
            }
        )
        return random_state


@dataclass(frozen=True)
class Beginning:
    """Results of the survey pass, which the rest of the fit does not change."""

    surveys: tuple[Survey, ...]
    """Distinct surveys; mixtures may share one."""
    survey_numbers: tuple[int, ...]
    """Index into ``surveys`` for each mixture."""
    random_states: tuple[RandomStateRecord, ...]
    """Random state of each mixture after the survey pass."""
    checksum: Checksum
    """Checksum of the data."""
    probes: tuple[Checksum, ...]
    """Checksums of a few rows, see `probe`."""
    n_passes: int
    """Number of passes so far."""
    seconds: float
    """Wall time of the survey pass."""

    def __post_init__(self) -> None:
        if not self.survey_numbers or len(self.survey_numbers) != len(self.random_states):
            raise ValueError(f"{len(self.survey_numbers)} surveys for {len(self.random_states)} random states")
        if set(self.survey_numbers) != set(range(len(self.surveys))):
            raise ValueError(f"survey_numbers is {self.survey_numbers!r:.40} for {len(self.surveys)} surveys")
        if self.n_passes < 0:
            raise ValueError(f"n_passes is {self.n_passes}; expected no negative number")

    @classmethod
    def of(
        cls,
        surveys: Sequence[Survey],
        random_states: Sequence[np.random.RandomState],
        checksum: Checksum,
        probes: Sequence[Checksum],
        n_passes: int,
        seconds: float,
    ) -> Beginning:
        """Make the record from one survey and one random state per mixture."""
        distinct = {id(survey): survey for survey in surveys}
        numbers = {key: number for number, key in enumerate(distinct)}
        return cls(
            tuple(distinct.values()),
            tuple(numbers[id(survey)] for survey in surveys),
            tuple(map(RandomStateRecord.of, random_states)),
            checksum,
            tuple(probes),
            n_passes,
            seconds,
        )

    def survey(self, mixture: int) -> Survey:
        """Survey of a mixture."""
        return self.surveys[self.survey_numbers[mixture]]


@dataclass(frozen=True)
class FitState(Generic[State]):
    """State of the fit of one mixture."""

    n_starts: int
    starts: Mapping[int, EMStart[State]]
    """Starts by number, without those that were dropped before the first E-step."""
    history: tuple[PassRecord, ...] = ()
    notes: tuple[Warning, ...] = ()
    """Warnings for the user."""
    collapsed: tuple[int, ...] | None = None
    """Collapsed components of the last dropped start; None if no start was dropped."""
    n_grown: int = 0
    """Number of starts from smaller mixtures; their numbers follow those of the ``n_starts`` own starts."""
    n_tightened: int = 0
    """Number of times that the tolerance was tightened."""

    def __post_init__(self) -> None:
        if self.n_starts < 1:
            raise ValueError(f"n_starts is {self.n_starts}; expected a positive number")
        if not (0 <= self.n_grown <= MOST_GROWN and 0 <= self.n_tightened <= MOST_TIGHTENED):
            raise ValueError(f"{self.n_grown} starts from smaller mixtures, tightened {self.n_tightened} times")
        if self.collapsed and min(self.collapsed) < 0:
            raise ValueError(f"collapsed is {self.collapsed!r:.40}; expected numbers of components")
        if any(number < 0 for number in self.starts):
            raise ValueError(f"starts have the numbers {sorted(self.starts)!r:.40}")


@dataclass(frozen=True)
class Snapshot:
    """State of all fits that share passes."""

    n_passes: int
    common: Mapping[tuple[str, str], Array]
    """Second moments that do not depend on the parameters, as in `EStepPass`."""
    fits: tuple[FitState[Any], ...]
    """State of the fit of each mixture."""
    pruner_state: PrunerState | None = None
    """State of the `EarlyStop`; None without one."""

    def __post_init__(self) -> None:
        if self.n_passes < 0:
            raise ValueError(f"n_passes is {self.n_passes}; expected no negative number")
        for fit in self.fits:
            if fit.collapsed is None and all(start.collapsed is not None for start in fit.starts.values()):
                raise ValueError("a fit with neither a start that can go on nor a collapse")
            if not all(sum(start.lower_bounds) < np.inf for start in fit.starts.values()):
                raise ValueError("lower_bounds contains NaN or infinity")


class EarlyStop(Protocol):
    """Rule that stops starts which are not worth more passes."""

    def initial(self) -> PrunerState:
        """State before the first pass."""

    def __call__(
        self, state: PrunerState, start: tuple[int, int], bounds: Sequence[float], weight_sum: float, n_free: int
    ) -> tuple[PrunerState, bool]:
        """Decide whether to stop a start, after a step.

        Parameters
        ----------
        state : PrunerState
        start : tuple of (int, int)
            Number of the mixture, and of its start.
        bounds : sequence of float
            Bounds of the start so far, at least one.
        weight_sum : float
            Sum of the weights of the data.
        n_free : int
            Free parameters of the mixture.

        Returns
        -------
        state : PrunerState
        stop : bool
        """


class Checkpointer(Protocol):
    """Storage of the state from which an interrupted fit resumes."""

    def beginning(self) -> Beginning | None:
        """Read the results of the survey pass of an earlier run; None without an earlier run."""

    def latest(self) -> Snapshot | None:
        """Read the last snapshot of an earlier run; None without one."""

    def keep_beginning(self, beginning: Beginning) -> None:
        """Write the results of the survey pass."""

    def keep(self, snapshot: Snapshot) -> None:
        """Write the current state."""

    def check_probes(self, kept: Sequence[Checksum], found: Sequence[Checksum]) -> None:
        """Raise an error if the probes differ: the data are not those of the earlier run."""
