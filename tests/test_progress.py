"""The progress display: on standard error, never on standard output, and gone when the fit is over."""

import copy
import pickle
import re

import dask.array as da
import distributed
import numpy as np
import pytest
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning
from tracing import load_compiled_loops

from daskgmm import GaussianMixture, ProgressBar
from daskgmm.diagnostics import progress
from daskgmm.errors import InterruptedWarning, NonFiniteDataError
from daskgmm.events import (
    BatchFinished,
    EngineClosed,
    FitResumed,
    IterationFinished,
    PassFinished,
    PassStarted,
    SampleFitted,
    SampleStepped,
    StartBegun,
    StartFinished,
    Waiting,
)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(c, 1.0, (500, 2)) for c in (0.0, 6.0)])


def whole_fit(n_starts=1):
    """The events of a small fit."""
    yield PassStarted("survey", 1000, 2)
    yield BatchFinished("survey", 500)
    yield PassFinished("survey", 1000, 0.5)
    for start in range(n_starts):
        yield StartBegun(start, n_starts)
        for number, (bound, change) in enumerate([(-3.5, np.inf), (-3.25, 0.25)], start=1):
            yield PassStarted("estep", 1000, 2)
            yield BatchFinished("estep", 500)
            yield BatchFinished("estep", 500)
            yield PassFinished("estep", 1000, 0.25)
            yield IterationFinished(start, number, bound, change, 0.3, "float64")
        yield StartFinished(start, 2, -3.25, True)
    yield EngineClosed(failed=False)


def test_a_mixture_that_was_given_up_is_not_said_to_have_stopped_by_itself(capfd):
    bar = ProgressBar(interval=0)
    for event in (StartBegun(0, 1, "3 full"), StartFinished(0, 7, -3.5, False, label="3 full", stopped=True)):
        bar(event)
    bar(EngineClosed(failed=False))
    assert "3 full: given up after 7 iterations" in capfd.readouterr().err


def test_plain_lines_where_there_is_no_terminal(capfd):
    bar = ProgressBar(interval=0)
    for event in whole_fit():
        bar(event)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "survey: 1,000 rows in 0.5 s, 2 k rows/s",
        "iteration 1: log-likelihood -3.50000, 4 k rows/s",
        "iteration 2: log-likelihood -3.25000, +2.5e-01, 4 k rows/s",
        "converged after 2 iterations, log-likelihood -3.250000",
    ]


def test_several_starts_are_told_apart(capfd):
    bar = ProgressBar(interval=0)
    for event in whole_fit(n_starts=2):
        bar(event)
    lines = capfd.readouterr().err.splitlines()
    assert lines[1].startswith("start 1 of 2, iteration 1:")
    assert lines[4].startswith("start 2 of 2, iteration 1:")
    assert lines[6].startswith("start 2 of 2, converged after 2 iterations")


def test_plain_lines_are_not_too_many(capfd):
    bar = ProgressBar(interval=3600)
    for event in whole_fit(n_starts=2):
        bar(event)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0].removesuffix(", log-likelihood -3.250000") for line in lines] == [
        "survey",
        "start 1 of 2, iteration 1",
        "start 1 of 2, converged after 2 iterations",
        "start 2 of 2, converged after 2 iterations",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of eighty columns that remembers what was written on it."""
    import io

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    monkeypatch.setenv("TERM", "xterm")
    return written


def test_a_bar_on_a_terminal(terminal, capfd):
    bar = ProgressBar()
    for event in whole_fit():
        bar(event)
        if bar._display is not None:
            bar._display._progress.refresh()
    text = terminal.getvalue()
    assert "iteration 2" in text
    assert "50%" in text
    assert "100%" in text
    assert "log-likelihood -3.50000, 4 k rows/s" in text
    assert "converged after 2 iterations" in text
    assert text.rstrip("\n").endswith(("\x1b[2K", "\x1b[?25h")), "the bar was not taken away"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor was not given back"
    assert max(len(line) for line in text.replace("\r", "\n").splitlines() if "\x1b" not in line) <= 80
    assert capfd.readouterr() == ("", "")


def test_a_bar_goes_when_the_fit_fails(terminal, rows):
    rows[700, 1] = np.nan
    bar = ProgressBar()
    with pytest.raises(NonFiniteDataError):
        GaussianMixture(2, callbacks=[bar]).fit(rows)
    assert bar._display is None
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


def test_what_is_waited_for_is_said_at_once(capfd):
    bar = ProgressBar(interval=3600)
    bar(Waiting("starting 2 worker processes"))
    assert capfd.readouterr().err == "starting 2 worker processes …\n"
    for event in whole_fit():
        bar(event)
    assert capfd.readouterr().err.startswith("survey: 1,000 rows")


def test_what_a_bar_waits_for_stays_until_the_pass_is_over(terminal):
    bar = ProgressBar()
    shown = []

    def show(*events):
        for event in events:
            bar(event)
        shown.append(last_screen(bar, terminal))

    show(Waiting("starting 2 worker processes"))
    show(PassStarted("survey", 1000, 2), BatchFinished("survey", 500))
    show(PassFinished("survey", 1000, 0.5), StartBegun(0, 1), Waiting("loading compiled loops"))
    show(PassStarted("estep", 1000, 2))
    show(PassFinished("estep", 1000, 0.5), IterationFinished(0, 1, -3.5, np.inf, 0.3, "float64"))
    show(PassStarted("estep", 1000, 2))
    bar(EngineClosed(failed=False))
    words = ["starting 2 worker processes …", "survey", "loading compiled loops …"]
    words += ["iteration 1: loading compiled loops …", "iteration 1", "iteration 2"]
    assert [text.strip() for text in shown] == words


def last_screen(bar, terminal):
    """The description at the left of a bar, as it was last drawn."""
    terminal.truncate(0)
    terminal.seek(0)
    bar._display._progress.refresh()
    line = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.getvalue()).strip("\r\n")
    return re.split(r" [━╸╺ ]", line)[0]


def test_the_first_iteration_does_not_show_what_a_sample_achieved(terminal):
    bar = ProgressBar()
    bar(SampleStepped(3, 4, 1000, 17, -9.125, 0.5))
    bar(SampleFitted(3, 4, 1000, 18, -9.125, True, 0.1))
    terminal.truncate(0)
    bar(StartBegun(0, 1))
    bar(PassStarted("estep", 5000, 2))
    last_screen(bar, terminal)
    assert "iteration 1" in terminal.getvalue()
    assert "9.125" not in terminal.getvalue()
    bar(IterationFinished(0, 1, -4.25, np.inf, 0.3, "float64"))
    bar(PassStarted("estep", 5000, 2))
    last_screen(bar, terminal)
    assert "iteration 2" in terminal.getvalue()
    assert "-4.25" in terminal.getvalue()
    bar(EngineClosed(failed=False))


@pytest.mark.parametrize("n_init", [1, 2])
def test_iterations_of_an_earlier_run_count(rows, tmp_path, capsys, n_init):
    """In the bar, whose first pass is the one after them, and in what ``verbose`` prints."""

    def stop(event):
        if isinstance(event, IterationFinished) and event.iteration == 3:
            raise KeyboardInterrupt

    started = []
    model = GaussianMixture(3, random_state=0, tol=0, max_iter=5, n_init=n_init, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt), pytest.warns(InterruptedWarning):
        model.fit(rows, checkpoint=tmp_path / "c")
    model.set_params(verbose=1, verbose_interval=1, callbacks=[started.append])
    with pytest.warns(ConvergenceWarning):
        model.fit(rows, checkpoint=tmp_path / "c", resume=True)
    done = [event.n_iter for event in started if isinstance(event, StartBegun)]
    assert done == [2] * n_init
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Initialization 0 goes on after 2 iterations"
    assert printed[1:4] == ["  Iteration 3", "  Iteration 4", "  Iteration 5"]


def test_the_bar_goes_on_counting(terminal):
    bar = ProgressBar()
    for event in (StartBegun(0, 2, n_iter=7), StartBegun(1, 2, n_iter=4), FitResumed(8)):
        bar(event)
    bar(PassStarted("estep", 1000, 2))
    assert last_screen(bar, terminal).strip() == "iteration 8"
    bar(EngineClosed(failed=False))


def test_late_events_do_no_harm(capfd):
    bar = ProgressBar()
    for event in (BatchFinished("estep", 10), EngineClosed(failed=True), EngineClosed(failed=True)):
        bar(event)
    assert capfd.readouterr() == ("", "")


def test_in_a_fit(rows, capfd):
    model = GaussianMixture(2, random_state=0, callbacks=[ProgressBar(interval=0)])
    model.fit(da.from_array(rows, chunks=(100, 2)))
    model.score(rows)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("survey: 1,000 rows in ")
    assert f"converged after {model.n_iter_} iterations, log-likelihood {model.lower_bound_:.6f}\n" in err
    assert "\nscore: 1,000 rows in " in err


def test_a_fit_tells_of_compiled_loops_where_it_may_wait_for_them(rows, monkeypatch):
    pytest.importorskip("numba")
    seen = []
    model = GaussianMixture(2, random_state=0, max_iter=2, tol=1e3, callbacks=[seen.append])
    model.fit(rows)
    assert not any(isinstance(event, Waiting) for event in seen)  # small data do without them
    monkeypatch.setattr("daskgmm.core.kernel_choice._LOADING_SECONDS", 0)
    model.fit(rows)
    load_compiled_loops()  # so this process need not wait any more, but workers may have to
    seen.clear()
    model.fit(rows)
    assert not any(isinstance(event, Waiting) for event in seen)
    seen.clear()
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        model.set_params(scheduler=client).fit(rows)
    kinds = [event.what if isinstance(event, Waiting) else getattr(event, "label", "") for event in seen]
    assert kinds.count("loading compiled loops") == 1
    assert kinds.index("survey") < kinds.index("loading compiled loops") < kinds.index("estep")


def test_a_model_with_a_bar_can_be_copied_while_it_shows(rows, capfd):
    copies = []

    def copying(event):
        copies.append(copy.deepcopy(bar))

    bar = ProgressBar(interval=0.5)
    GaussianMixture(2, random_state=0, callbacks=[bar, copying]).fit(rows)
    assert {each.interval for each in (*copies, pickle.loads(pickle.dumps(bar)))} == {0.5}


@pytest.mark.parametrize(
    ("rows", "seconds", "text"),
    [(10, 1, "10 rows/s"), (5e3, 2, "2.5 k rows/s"), (3e7, 2, "15 M rows/s"), (4e9, 1, "4 G rows/s")],
)
def test_rates(rows, seconds, text):
    assert progress._per_second(rows, seconds) == text
