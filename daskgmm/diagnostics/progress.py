"""A progress display on standard error: a bar for each pass, and the bound of the last iteration."""

from __future__ import annotations

import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

from dask.utils import format_bytes
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from ..engine.events import BatchFinished, EngineClosed, PassFinished, PassStarted, Waiting
from ..fitting.events import FitResumed, IterationFinished, SampleFitted, SampleStepped, StartBegun, StartFinished


class ProgressBar:
    """Progress display of a fit, to be passed in ``callbacks``.

    On a terminal, one line is redrawn: the iteration, a bar of the rows read in the pass, the mean log-likelihood (or
    the bound of a Bayesian fit) and its change, and rows per second. For several mixtures fitted at once, the line
    shows the number of running mixtures, and the largest change of any of them. If standard error is no terminal, plain
    lines are written instead. Nothing is written to standard output.

    Parameters
    ----------
    interval : float, default=1.0
        Minimum time between two plain lines about iterations, in seconds.

    Examples
    --------
    >>> from daskgmm import GaussianMixture, ProgressBar
    >>> model = GaussianMixture(16, callbacks=[ProgressBar()])
    """

    def __init__(self, *, interval: float = 1.0) -> None:
        self.interval = interval
        self._reset()

    def __call__(self, event: Any) -> None:
        """Process an event; events may come from several threads."""
        with self._lock:
            if isinstance(event, EngineClosed):
                self._close()
            else:
                self._show(event)

    def __getstate__(self) -> dict[str, Any]:
        return {"interval": self.interval}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.interval = state["interval"]
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._display: _Display | None = None
        self._forget()

    def _forget(self) -> None:
        """Reset the state for the next fit."""
        self._n_starts: dict[str, int] = {}
        self._n_running: Counter[str] = Counter()
        self._changes: dict[str, float] = {}
        self._iteration = 1
        self._has_iterated = False
        self._waiting = ""

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None
        self._forget()

    def _show(self, event: Any) -> None:
        display = self._display = self._display or _display(self.interval)
        match event:
            case Waiting():
                self._waiting = event.what
                display.wait(f"{event.what} …")
            case StartBegun():
                # Iterations of an earlier run count; iterations on samples, and their bounds, do not.
                self._iteration = event.n_iter + 1 if not self._n_starts else max(self._iteration, event.n_iter + 1)
                self._n_starts[event.label] = event.n_starts
                self._n_running[event.label] += 1
                self._has_iterated = False
                if event.label:
                    display.iterated(event.label, "start")
            case FitResumed():
                display.line(f"goes on after {event.n_passes} passes over the data")
            case PassStarted():
                self._begin(display, event)
            case BatchFinished():
                display.advance(event.n_rows)
            case PassFinished():
                self._waiting = ""
                display.rate = _per_second(event.n_rows, event.seconds) + _read(event)
                if event.label != "estep":
                    display.line(f"{event.label}: {event.n_rows:,} rows in {event.seconds:.1f} s, {display.rate}")
            case SampleStepped():
                display.iterated(
                    f"{_start(event, event.n_starts)}{_sample(event)}, iteration {event.iteration}", _achievement(event)
                )
            case SampleFitted():
                what = f"{_start(event, event.n_starts)}{_sample(event)}"
                if event.label:  # several mixtures: too many lines to keep
                    display.iterated(what, _outcome(event))
                else:
                    display.line(f"{what}: {_outcome(event)}")
            case IterationFinished() if len(self._n_starts) > 1:
                self._has_iterated = True
                self._iteration = max(self._iteration, event.iteration + 1)
                self._changes[event.label] = event.change
            case IterationFinished():
                self._has_iterated = True
                self._iteration = event.iteration + 1
                display.iterated(
                    f"{self._of(event)}iteration {event.iteration}", f"{_achievement(event)}, {display.rate}"
                )
            case StartFinished():
                self._n_running[event.label] -= 1
                display.line(self._of(event) + _outcome(event))

    def _begin(self, display: _Display, event: PassStarted) -> None:
        if event.label != "estep":
            display.begin(event.label, event.n_rows, "")
            return
        if self._changes:
            display.iterated(self._iteration_text(self._iteration - 1), self._achievements())
        waiting = f": {self._waiting} …" if self._waiting else ""
        status = None if self._has_iterated else ""
        display.begin(self._iteration_text(self._iteration) + waiting, event.n_rows, status)

    def _running(self) -> list[str]:
        return [label for label, n_running in self._n_running.items() if n_running > 0]

    def _iteration_text(self, iteration: int) -> str:
        among = f", {len(self._running())} of {len(self._n_starts)} running" if len(self._n_starts) > 1 else ""
        return f"iteration {iteration}{among}"

    def _achievements(self) -> str:
        """Largest last change among the running mixtures, and the rate."""
        changes = {label: abs(self._changes[label]) for label in self._running() if label in self._changes}
        label = max(changes, key=lambda label: changes[label], default="")
        assert self._display is not None
        if not (label and math.isfinite(changes[label])):
            return self._display.rate
        return f"change {changes[label]:.1e} ({label}), {self._display.rate}"

    def _of(self, event: IterationFinished | StartFinished) -> str:
        return _start(event, self._n_starts.get(event.label, 1))


class _Display(ABC):
    """Display with one line that changes, and lines that stay."""

    rate = ""
    """Rows per second of the last pass."""

    @abstractmethod
    def wait(self, text: str) -> None:
        """Show the reason of a wait before the next pass."""

    @abstractmethod
    def begin(self, text: str, n_rows: int, status: str | None = None) -> None:
        """Begin the bar of a pass over ``n_rows`` rows; a ``status`` of None leaves the last one."""

    @abstractmethod
    def advance(self, n_rows: int) -> None:
        """Advance the bar by ``n_rows`` rows."""

    @abstractmethod
    def iterated(self, text: str, achievement: str) -> None:
        """Show the result of an iteration."""

    @abstractmethod
    def line(self, text: str) -> None:
        """Write a line that stays."""

    @abstractmethod
    def close(self) -> None:
        """Close the display."""


class _Bar(_Display):
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(min_width=8, ratio=1)),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("", total=None, status="")
        self._progress.start()

    def wait(self, text: str) -> None:
        self._progress.reset(self._task, total=None, description=text)
        self._progress.update(self._task, status="")

    def begin(self, text: str, n_rows: int, status: str | None = None) -> None:
        self._progress.reset(self._task, total=n_rows, description=text)
        if status is not None:
            self._progress.update(self._task, status=status)

    def advance(self, n_rows: int) -> None:
        self._progress.advance(self._task, n_rows)

    def iterated(self, text: str, achievement: str) -> None:
        self._progress.update(self._task, description=text, status=achievement)

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


class _Lines(_Display):
    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last = -math.inf

    def wait(self, text: str) -> None:
        self.line(text)

    def begin(self, text: str, n_rows: int, status: str | None = None) -> None:
        pass

    def advance(self, n_rows: int) -> None:
        pass

    def iterated(self, text: str, achievement: str) -> None:
        if (now := time.monotonic()) - self._last >= self._interval:
            self._last = now
            self.line(f"{text}: {achievement}")

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _display(interval: float) -> _Display:
    console = Console(stderr=True)
    return _Bar(console) if console.is_terminal and not console.is_dumb_terminal else _Lines(interval)


_OfStart = IterationFinished | StartFinished | SampleStepped | SampleFitted


def _start(event: _OfStart, n_starts: int) -> str:
    label = f"{event.label}: " if event.label else ""
    return f"{label}start {event.start + 1} of {n_starts}, " if n_starts > 1 else label


def _sample(event: SampleStepped | SampleFitted) -> str:
    return f"sample of {event.n_rows:,} rows"


def _achievement(event: IterationFinished | SampleStepped) -> str:
    change = f", {event.change:+.1e}" if math.isfinite(event.change) else ""
    return f"{event.measure} {event.lower_bound:.5f}{change}"


def _outcome(event: StartFinished | SampleFitted) -> str:
    how = "converged" if event.converged else "stopped without convergence"
    if isinstance(event, StartFinished) and event.stopped:
        how = "given up"
    return f"{how} after {event.n_iter} iterations, {event.measure} {event.lower_bound:.6f}"


def _read(event: PassFinished) -> str:
    """Bytes that a pass has read, if other rows were in memory."""
    return f", {format_bytes(event.bytes_read)} read" if event.bytes_cached else ""


def _per_second(n_rows: int, seconds: float) -> str:
    return rows_per_second(n_rows / max(seconds, 1e-9))


def rows_per_second(rate: float) -> str:
    """Format a rate with three digits and a unit."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= unit:
            return f"{rate / unit:.3g} {name} rows/s"
    return f"{rate:.0f} rows/s"
