"""Checkpoints: a fit that was stopped at any moment goes on with the same bits; anything else is told."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from clusters import Processes
from programs import read_until, small_files, terminal

from daskgmm import BayesianGaussianMixture, GaussianMixture, load, select
from daskgmm.cli import main
from daskgmm.errors import (
    CheckpointError,
    CheckpointWarning,
    DataChangedError,
    IllDefinedCovarianceError,
    InterruptedWarning,
    OutputError,
    OutputExistsError,
    SchedulerError,
)
from daskgmm.events import FitResumed, PassFinished, PassStarted, StartBegun
from daskgmm.fitting import fit as fitting
from daskgmm.persistence.layout import digest
from daskgmm.persistence.packed import PackedGroup, write_packed

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::daskgmm.errors.InterruptedWarning"
)

N, D = 3000, 3


def blobs(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n // 3, D)) + shift for shift in (0, 2, 4)])[rng.permutation(n // 3 * 3)]


X = blobs()
WEIGHTS = np.random.default_rng(1).random(N)


class Stop(KeyboardInterrupt):
    """Ctrl-C, from a callback."""


class StopAfter:
    """Ends a fit after so many passes with a label."""

    def __init__(self, n_passes, label="estep", what=Stop):
        self.left, self.label, self.what = n_passes, label, what

    def __call__(self, event):
        if isinstance(event, PassFinished) and event.label == self.label:
            self.left -= 1
            if self.left == 0:
                raise self.what


class Passes:
    """Counts passes by their labels."""

    def __init__(self):
        self.labels = []
        self.resumed = None

    def __call__(self, event):
        if isinstance(event, PassStarted):
            self.labels.append(event.label)
        elif isinstance(event, FitResumed):
            self.resumed = event.n_passes


def same_fit(one, other):
    """Whether two estimators have all attributes in common, to the last bit, and the same history."""
    names, theirs = ({n for n in vars(m) if n.endswith("_") and n not in ("history_", "origin_")} for m in (one, other))
    assert names == theirs
    assert one.origin_.data.shape == other.origin_.data.shape
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for ours, theirs in zip(one.history_, other.history_, strict=True):
        for name in ("kind", "start", "n_iter", "lower_bound", "n_rows", "arithmetic"):
            assert getattr(ours, name) == getattr(theirs, name)


MIXTURES = {
    "full": (GaussianMixture, {}),
    "diag": (GaussianMixture, {"covariance_type": "diag"}),
    # Second moments that only the first pass computes have to be kept, too.
    "tied": (GaussianMixture, {"covariance_type": "tied"}),
    "spherical": (GaussianMixture, {"covariance_type": "spherical"}),
    "tied-diag": (GaussianMixture, {"covariance_type": "tied-diag"}),
    "starts": (GaussianMixture, {"n_init": 3}),
    "accelerated": (GaussianMixture, {"acceleration": "lbfgs", "tol": 1e-6}),
    # Its first passes are in single precision, with second moments of their own.
    "accelerated tied": (GaussianMixture, {"acceleration": "lbfgs", "covariance_type": "tied", "tol": 1e-6}),
    "accelerated starts": (GaussianMixture, {"acceleration": "lbfgs", "tol": 1e-5, "n_init": 2}),
    "sample": (GaussianMixture, {"init_size": 1500, "n_init": "auto", "acceleration": "lbfgs", "tol": 1e-6}),
    "re-seeded": (GaussianMixture, {"means_init": [[0.0] * 3, [2.0] * 3, [4.0] * 3, [900.0] * 3]}),
    "bayesian": (BayesianGaussianMixture, {}),
    "bayesian starts": (BayesianGaussianMixture, {"covariance_type": "diag", "n_init": 2}),
    "a random state": (GaussianMixture, {"random_state": "RandomState", "n_init": 2}),
    "no random state": (GaussianMixture, {"random_state": None, "init_params": "random_from_data"}),
}


def mixture(name, **more):
    kind, parameters = MIXTURES[name]
    parameters = {"n_components": 4, "max_iter": 25, "random_state": 0, **parameters, **more}
    if parameters["random_state"] == "RandomState":
        parameters["random_state"] = np.random.RandomState(5)
    return kind(**parameters)


@pytest.mark.filterwarnings("ignore::daskgmm.errors.ReseedingWarning")
@pytest.mark.covering
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(("number", "label"), [(1, "survey"), (1, "estep"), (3, "estep"), ("last", "estep")])
def test_a_fit_that_was_stopped_after_any_pass_goes_on_with_the_same_bits(name, number, label, tmp_path):
    np.random.seed(7)  # noqa: NPY002  # for the one without a random state of its own
    whole = mixture(name).fit(X, sample_weight=WEIGHTS)
    passes = ["survey", *["estep"] * (whole.n_passes_ - 1)]
    number = len(passes) - 1 if number == "last" else min(number, len(passes) - 1)
    np.random.seed(7)  # noqa: NPY002
    with pytest.raises(Stop):
        mixture(name, callbacks=[StopAfter(number, label)]).fit(X, sample_weight=WEIGHTS, checkpoint=tmp_path / "c")
    seen = Passes()
    resumed = mixture(name, callbacks=[seen]).fit(X, sample_weight=WEIGHTS, checkpoint=tmp_path / "c", resume=True)
    same_fit(resumed, whole)
    # What was stopped in a callback was not kept: only that pass is made again.
    assert seen.labels == passes[0 if label == "survey" else number :]


def test_a_fit_that_is_stopped_again_and_again(tmp_path):
    whole = mixture("accelerated").fit(X)
    for _ in range(60):
        part = mixture("accelerated", callbacks=[StopAfter(2)])
        try:
            part.fit(X, checkpoint=tmp_path / "c", resume=True)
        except Stop:
            continue
        break
    same_fit(part, whole)


def test_a_finished_fit_is_told_without_a_pass(tmp_path):
    whole = mixture("starts").fit(X, checkpoint=tmp_path / "c")
    seen = Passes()
    again = mixture("starts", callbacks=[seen]).fit(X, checkpoint=tmp_path / "c", resume=True)
    same_fit(again, whole)
    assert seen.labels == []
    assert seen.resumed == whole.n_passes_


def test_resume_begins_where_there_is_nothing_yet(tmp_path):
    same_fit(mixture("full").fit(X, checkpoint=tmp_path / "c", resume=True), mixture("full").fit(X))
    assert (tmp_path / "c").is_dir()


def test_another_scheduler_and_other_chunks_go_on(tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=X, chunks=(700, D))
    whole = mixture("full").fit(X)
    with pytest.raises(Stop):
        mixture("full", callbacks=[StopAfter(2)], scheduler="synchronous").fit(path, checkpoint=tmp_path / "c")
    chunked = da.from_array(X, chunks=(450, D))
    same_fit(mixture("full", scheduler="threads").fit(chunked, checkpoint=tmp_path / "c", resume=True), whole)


def test_memory_layout_comes_back(tmp_path):
    """Products round differently where memory is laid out differently."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 4, 5))
    arrays = {
        "C": base,
        "Fortran": np.asfortranarray(base),
        "turned": base.transpose(1, 0, 2),
        "part": base[:, ::2],
        "single": base.astype("f4"),
        "empty": np.empty((0, 3)),
        "scalar": np.array(3.5),
        "flag": np.array(True),
        "count": np.array([1, 2]),
    }
    write_packed(tmp_path / "p", "some", {"text": "é"}, arrays)

    class Some(PackedGroup):
        kind, origin = "some", "this test"

    found = Some.open(str(tmp_path / "p"))
    assert found.values == {"text": "é"}
    for name, array in found.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype
        assert array.flags.aligned  # whatever lies before it
        order = [sorted(range(a.ndim), key=lambda axis: -a.strides[axis]) for a in (array, arrays[name])]
        assert order[0] == order[1]


# ---- killed


# Children are forked before the parent has started a thread. Each dies, by SIGKILL, at another of the calls by which a
# fit makes, names and removes files in its checkpoint.
KILLED_EVERYWHERE = """
import os, signal, sys
import numpy as np
import warnings; warnings.simplefilter("ignore")
from daskgmm import GaussianMixture
import daskgmm.persistence.checkpoint

x = np.load("x.npy")

def fit(resume):
    model = GaussianMixture(4, max_iter=4, n_init=2, acceleration="lbfgs", random_state=0, scheduler="synchronous")
    return model.fit(x, checkpoint="c", resume=resume)

def die_at(moment):
    left = [moment]
    def hook(name, arguments):
        if name in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and "/c" in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

moment, finished = int(sys.argv[1]), False
while not finished:
    child = os.fork()
    if not child:
        die_at(moment)
        fit(False)
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if not child:
        np.save("means.npy", fit(True).means_)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, moment
    print(moment, np.load("means.npy").tobytes().hex(), flush=True)
    os.system("rm -rf c means.npy")
    moment += int(sys.argv[2])
"""


def killed_everywhere(folder, first, step):
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", X[:900])
    (folder / "script.py").write_text(KILLED_EVERYWHERE)
    run = subprocess.run(
        [sys.executable, "script.py", str(first), str(step)], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = [line.split() for line in run.stdout.splitlines()]
    assert len(found) > 3
    assert len({means for _, means in found}) == 1
    whole = GaussianMixture(4, max_iter=4, n_init=2, acceleration="lbfgs", random_state=0, scheduler="synchronous")
    assert found[0][1] == whole.fit(X[:900]).means_.tobytes().hex()


@pytest.mark.slow
def test_a_fit_that_is_killed_while_it_writes_goes_on(tmp_path):
    killed_everywhere(tmp_path / "a", 3, 37)


@pytest.mark.slow
def test_a_fit_that_is_killed_at_any_call_of_the_file_system_goes_on(tmp_path):
    killed_everywhere(tmp_path / "a", 1, 3)


KILLED_IN_A_PASS = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from daskgmm import GaussianMixture
from daskgmm.events import BatchFinished, PassStarted

passes = []

def kill(event):
    if isinstance(event, PassStarted):
        passes.append(event.label)
    if isinstance(event, BatchFinished) and len(passes) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

GaussianMixture(4, max_iter=9, random_state=0, callbacks=[kill]).fit("x.zarr", checkpoint="c")
"""


def test_a_process_that_is_killed_in_a_pass_goes_on_with_that_pass(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    run = subprocess.run([sys.executable, "-c", KILLED_IN_A_PASS], cwd=tmp_path, timeout=100)
    assert run.returncode == -signal.SIGKILL
    seen = Passes()
    model = GaussianMixture(4, max_iter=9, random_state=0, callbacks=[seen])
    model.fit(tmp_path / "x.zarr", checkpoint=tmp_path / "c", resume=True)
    same_fit(model, GaussianMixture(4, max_iter=9, random_state=0).fit(X))
    assert seen.resumed == 3
    assert len(seen.labels) == model.n_passes_ - 3


@pytest.mark.slow
@pytest.mark.cluster
def test_a_fit_whose_scheduler_is_gone_for_good_goes_on_elsewhere(tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=X, chunks=(500, D))
    cluster = Processes(tmp_path).start(1)
    begun = []

    def strike(event):
        if isinstance(event, PassStarted):
            begun.append(event.label)
            if len(begun) == 4:
                cluster.kill_scheduler()

    try:
        cluster.connect(1).close()
        model = GaussianMixture(4, max_iter=9, random_state=0, scheduler=cluster.address, callbacks=[strike])
        with dask.config.set({"daskgmm.timeout": "2s"}), pytest.raises(SchedulerError) as caught:
            model.fit(path, checkpoint=tmp_path / "c")
    finally:
        cluster.end()
    assert "continues the fit" in caught.value.__notes__[-1]
    assert model.n_iter_ == 2  # the best so far
    model = GaussianMixture(4, max_iter=9, random_state=0)
    same_fit(
        model.fit(path, checkpoint=tmp_path / "c", resume=True), GaussianMixture(4, max_iter=9, random_state=0).fit(X)
    )


# ---- Ctrl-C


def test_ctrl_c_leaves_the_best_parameters_so_far():
    model = mixture("full", callbacks=[StopAfter(4)])
    with pytest.warns(InterruptedWarning, match="after 3 iterations"), pytest.raises(Stop):
        model.fit(X)
    stopped = mixture("full", max_iter=3, tol=0).fit(X)
    np.testing.assert_array_equal(model.means_, stopped.means_)
    assert model.lower_bounds_ == stopped.lower_bounds_
    assert not model.converged_
    assert len(model.predict(X)) == N
    whole = mixture("full").fit(X)
    model.set_params(warm_start=True, callbacks=()).fit(X)
    assert abs(model.lower_bound_ - whole.lower_bound_) < 1e-3


def test_of_several_starts_the_best_so_far_is_left():
    model = mixture("starts", callbacks=[StopAfter(4)])
    with pytest.warns(InterruptedWarning), pytest.raises(Stop):
        model.fit(X)
    stopped = mixture("starts", max_iter=3, tol=0).fit(X)
    np.testing.assert_array_equal(model.means_, stopped.means_)


@pytest.mark.parametrize("label", ["survey", "estep"])
def test_before_the_first_iteration_nothing_is_left(label):
    model = mixture("full", callbacks=[StopAfter(1, label)])
    with pytest.raises(Stop):
        model.fit(X)
    assert not hasattr(model, "means_")


def test_what_went_wrong_leaves_the_parameters_that_were_found(monkeypatch):
    model = mixture("full", callbacks=[StopAfter(3, what=SchedulerError("gone"))])
    with pytest.warns(InterruptedWarning, match="SchedulerError"), pytest.raises(SchedulerError):
        model.fit(X)
    assert model.n_iter_ == 2


def test_an_interrupted_fit_says_where_it_goes_on_from(tmp_path):
    with pytest.raises(Stop) as caught:
        mixture("full", callbacks=[StopAfter(1)]).fit(X, checkpoint=tmp_path / "c")
    assert re.search(r"c has the state of the last pass: resume=True continues the fit", caught.value.__notes__[0])
    with pytest.raises(Stop) as caught:
        mixture("full", callbacks=[StopAfter(1, "survey")]).fit(X, checkpoint=tmp_path / "d")
    assert not hasattr(caught.value, "__notes__")  # there is nothing yet


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_in_a_terminal(how, tmp_path, capsys):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    options = ["-k", "4", "--tol", "0", "--max-iter", "100000", "--random-state", "0", "--checkpoint", "c"]
    with terminal(tmp_path, "fit", "x.zarr", "--model", "m.zarr", *options, "--verbose", "1") as process:
        read_until(process.stderr, "Iteration 10")
        process.send_signal(how)
        _, err = process.communicate(timeout=100)
    assert not (tmp_path / "m.zarr").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted" in err
        assert "c has the state of the last pass" in err
        assert "warm_start" not in err
    assert main(["inspect", str(tmp_path / "c"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "checkpoint"
    assert told["n_passes"] > 5
    assert not told["finished"]
    assert 0 <= told["age_seconds"] < 1000


def test_a_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x.zarr", data=X, chunks=(500, D))
    asked = ["fit", "x.zarr", "-k", "4", "--random-state", "0", "--quiet"]
    assert main([*asked, "--model", "whole.zarr"]) == 0
    with pytest.raises(Stop):
        GaussianMixture(4, random_state=0, callbacks=[StopAfter(2)]).fit("x.zarr", checkpoint="c")
    assert main([*asked, "--model", "m.zarr", "--checkpoint", "c", "--resume"]) == 0
    np.testing.assert_array_equal(load("m.zarr").means_, load("whole.zarr").means_)
    assert load("m.zarr").n_passes_ == load("whole.zarr").n_passes_
    capsys.readouterr()
    assert main([*asked, "--model", "m2.zarr", "--checkpoint", "c"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*asked, "--model", "m2.zarr", "--resume"]) == 2
    assert "--resume needs --checkpoint" in capsys.readouterr().err
    assert main(["inspect", "c"]) == 0
    shown = capsys.readouterr().out
    assert "checkpoint" in shown
    assert "finished" in shown
    assert main([*asked, "--model", "c", "--checkpoint", "c"]) == 1  # one name for two things


# ---- select


@pytest.mark.parametrize(
    "asked",
    [
        {"patience": 2},
        {"estimator": BayesianGaussianMixture(random_state=3), "criterion": "held_out"},
        *(
            pytest.param(slower, marks=pytest.mark.slow)
            for slower in (
                {},
                {"criterion": "held_out"},
                {"estimator": GaussianMixture(acceleration="lbfgs", n_init=2, random_state=3)},
            )
        ),
    ],
    ids=str,
)
def test_a_selection_goes_on(asked, tmp_path):
    asked = {"estimator": GaussianMixture(random_state=0), **asked}
    asked = {"n_components": range(1, 5), "covariance_types": ("full", "tied"), **asked}
    whole = select(X, **asked)
    for number in (1, 3):
        with pytest.raises(Stop):
            select(X, **asked, callbacks=[StopAfter(number)], checkpoint=tmp_path / f"c{number}")
        resumed = select(X, **asked, checkpoint=tmp_path / f"c{number}", resume=True)
        assert resumed.table == whole.table
        assert resumed.best == whole.best
        assert resumed.n_passes == whole.n_passes
        for key, model in whole.models.items():
            same_fit(resumed.models[key], model)


@pytest.mark.slow
def test_a_selection_goes_on_among_later_starts_and_smaller_tolerances(tmp_path):
    """Stopped after any pass, also after all fits had ended once."""
    rng = np.random.default_rng(5)
    x = rng.normal(scale=3, size=(4, 2))[rng.integers(4, size=1000)] + rng.normal(size=(1000, 2))
    estimator, begun = GaussianMixture(random_state=0, init_params="random_from_data"), []
    whole = select(x, [2, 3, 4, 5], estimator=estimator, callbacks=[begun.append])
    again = [event for event in begun if isinstance(event, StartBegun) and (event.start or event.n_iter)]
    assert any(event.start for event in again)
    assert any(event.n_iter for event in again)
    for number in (2, whole.n_passes // 2, whole.n_passes - 4):
        path = tmp_path / f"c{number}"
        with pytest.raises(Stop):
            select(x, [2, 3, 4, 5], estimator=estimator, callbacks=[StopAfter(number)], checkpoint=path)
        resumed = select(x, [2, 3, 4, 5], estimator=estimator, checkpoint=path, resume=True)
        assert resumed.table == whole.table
        assert resumed.n_passes == whole.n_passes
        for key, model in whole.models.items():
            same_fit(resumed.models[key], model)


def test_a_selection_without_a_random_state_goes_on_with_the_one_it_drew(tmp_path):
    with pytest.raises(Stop):
        select(X, range(1, 4), callbacks=[StopAfter(2)], checkpoint=tmp_path / "c")
    drawn = json.loads((tmp_path / "c" / "zarr.json").read_text())["attributes"]["daskgmm"]["values"]["settings"]
    resumed = select(X, range(1, 4), checkpoint=tmp_path / "c", resume=True)
    whole = select(X, range(1, 4), estimator=GaussianMixture(random_state=drawn["random_state"]))
    assert resumed.table == whole.table


def test_another_selection_is_told(tmp_path):
    usual = {
        "n_components": range(1, 3), "covariance_types": ("full", "tied"), "estimator": GaussianMixture(random_state=0)
    }  # fmt: skip
    select(X, **usual, checkpoint=tmp_path / "c")
    for asked, named in (
        ({"n_components": range(1, 4)}, "n_components"),
        ({"covariance_types": ("full", "diag")}, "covariance_type"),
        ({"criterion": "aic"}, "criterion"),
        ({"held_out": 0.2}, "sample_weight|held_out"),
        ({"patience": 3}, "patience"),
    ):
        with pytest.raises(CheckpointError, match=rf"was made with \w*({named})"):
            select(X, **usual | asked, checkpoint=tmp_path / "c", resume=True)
    with pytest.raises(CheckpointError, match="function"):
        GaussianMixture(2, random_state=0).fit(X, checkpoint=tmp_path / "c", resume=True)


class Own(GaussianMixture):
    """A user's own class, which a file could not bring back."""


def test_classes_that_a_file_cannot_bring_back_are_refused(tmp_path):
    seen = Passes()
    with pytest.raises(TypeError, match="model is a Own; expected one of GaussianMixture"):
        Own(2, random_state=0, callbacks=[seen]).fit(X, checkpoint=tmp_path / "c")
    assert seen.labels == []


# ---- other settings, other data


@pytest.fixture
def stopped(tmp_path):
    """A checkpoint of a fit that was stopped."""
    path = tmp_path / "c"
    with pytest.raises(Stop):
        mixture("full", callbacks=[StopAfter(3)]).fit(X, checkpoint=path)
    return path


def go_on(path, x=X, weights=None, **parameters):
    return mixture("full", **parameters).fit(x, sample_weight=weights, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 3),
        ("covariance_type", "diag"),
        ("tol", 1e-4),
        ("reg_covar", 1e-5),
        ("max_iter", 24),
        ("n_init", 2),
        ("init_params", "random"),
        ("means_init", X[:4]),
        ("weights_init", [0.25] * 4),
        ("random_state", 1),
        ("random_state", None),
        ("init_size", 1000),
        ("acceleration", "lbfgs"),
    ],
)
def test_another_setting_is_named(name, value, stopped):
    with pytest.raises(CheckpointError, match=rf"was made with {name}=.*this fit has {name}=") as caught:
        go_on(stopped, **{name: value})
    assert isinstance(caught.value, ValueError)


def test_another_kind_of_mixture_is_named(stopped):
    with pytest.raises(CheckpointError, match="was made with estimator='GaussianMixture'"):
        mixture("bayesian").fit(X, checkpoint=stopped, resume=True)


def test_what_a_fit_does_not_depend_on_may_change(stopped, capsys):
    same_fit(go_on(stopped, verbose=1, scheduler="synchronous", callbacks=[Passes()]), mixture("full").fit(X))


def test_a_model_to_go_on_from_is_a_setting(tmp_path):
    first, other = (mixture("full", max_iter=1, random_state=seed, warm_start=True).fit(X) for seed in (0, 1))
    first.set_params(max_iter=5).fit(X, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="warm_start"):
        other.set_params(max_iter=5, random_state=0).fit(X, checkpoint=tmp_path / "c", resume=True)


def changed(row, value=99.0):
    other = X.copy()
    other[row] = value
    return other


@pytest.mark.parametrize(
    ("data", "error", "named"),
    [
        (X[:-1], CheckpointError, "n_rows"),
        (X[:, :2], CheckpointError, "n_features"),
        (X.astype("f4"), CheckpointError, "dtype"),
        (changed(0), CheckpointError, "other data"),
        (changed(N - 1), CheckpointError, "other data"),
        (X[::-1], CheckpointError, "other data"),
        (changed(100), DataChangedError, "X"),  # where nobody looked: the first pass tells
    ],
    ids=str,
)
def test_other_data_are_told(data, error, named, stopped):
    with pytest.raises(error, match=named):
        go_on(stopped, data)
    same_fit(go_on(stopped), mixture("full").fit(X))  # and the checkpoint is as it was


def test_other_weights_are_told(stopped, tmp_path):
    with pytest.raises(CheckpointError, match="sample_weight"):
        go_on(stopped, weights=np.ones(N))
    path = tmp_path / "weighted"
    with pytest.raises(Stop):
        mixture("full", callbacks=[StopAfter(1)]).fit(X, sample_weight=WEIGHTS, checkpoint=path)
    with pytest.raises(CheckpointError, match="other data"):
        go_on(path, weights=np.ones(N))


def test_other_software_is_told(stopped):
    rewrite(stopped, set_in("values", "environment", "numpy", value="1.0"))
    with pytest.warns(CheckpointWarning, match=r"other software .*numpy: 1\.0, now ") as caught:
        same_fit(go_on(stopped), mixture("full").fit(X))
    assert [warning.filename for warning in caught] == [__file__]
    rewrite(stopped, set_in("values", "environment", value=["numpy"]))
    with pytest.raises(CheckpointError, match="environment"):
        go_on(stopped)


# ---- damaged


def pass_folders(path):
    return sorted(entry.name for entry in Path(path).iterdir() if entry.name.startswith("pass-"))


def damage(folder, how):
    packed = next((folder / "packed" / "c").iterdir())
    if how == "cut":
        packed.write_bytes(packed.read_bytes()[:-1])
    elif how == "turned":
        content = bytearray(packed.read_bytes())
        content[len(content) // 2] ^= 1
        packed.write_bytes(content)
    elif how == "missing":
        packed.unlink()
    elif how == "no attributes":
        (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    elif how == "attributes cut":
        (folder / "zarr.json").write_text((folder / "zarr.json").read_text()[:-30])
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()


DAMAGE = ["cut", "turned", "missing", "no attributes", "attributes cut", "empty"]


def test_the_last_two_passes_are_kept(tmp_path):
    model = mixture("full").fit(X, checkpoint=tmp_path / "c")
    last = model.n_passes_
    assert pass_folders(tmp_path / "c") == [f"pass-{last - 1:08d}", f"pass-{last:08d}"]
    assert not [entry for entry in (tmp_path / "c").iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("how", DAMAGE)
def test_where_the_last_pass_is_damaged_the_one_before_serves(how, stopped):
    damage(stopped / pass_folders(stopped)[-1], how)
    with pytest.warns(CheckpointWarning, match="the pass before is used instead"):
        same_fit(go_on(stopped), mixture("full").fit(X))
    assert len(pass_folders(stopped)) == 2


@pytest.mark.parametrize("how", DAMAGE)
def test_where_both_are_damaged_it_is_told(how, stopped):
    for folder in pass_folders(stopped):
        damage(stopped / folder, how)
    with pytest.raises(CheckpointError):
        go_on(stopped)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_told(how, stopped):
    damage(stopped, how)
    with pytest.raises(CheckpointError, match="c"):
        go_on(stopped)


def rewrite(folder, change):
    """Edit the attributes of a packed group, with checksums that fit."""
    document = json.loads((folder / "zarr.json").read_text())
    attributes = document["attributes"]["daskgmm"]
    change(attributes)
    attributes["checksums"]["attributes"] = digest(attributes)
    (folder / "zarr.json").write_text(json.dumps(document))


def set_in(*keys, value):
    def change(attributes):
        for key in keys[:-1]:
            attributes = attributes[key]
        attributes[keys[-1]] = value

    return change


START = ("values", "fits", 0, "starts", 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        set_in("values", "fits", value=[]),
        set_in("values", "fits", 0, "n_starts", value=-1),
        set_in("values", "fits", 0, "history", value=[{"kind": 3}]),
        set_in("values", "fits", 0, "notes", value=[["SystemExit", "gone"]]),
        set_in("values", "n_passes", value=1.5),
        set_in("values", value=7),
        set_in(*START, "n_iter", value=True),
        set_in(*START, "converged", value="yes"),
        set_in(*START, "proposal", value="__import__"),
        set_in(*START, "accelerator", value={}),
        set_in(*START, "compared_bound", value="high"),
        set_in("arrays", value=[]),
        set_in("arrays", 0, 0, value="other"),
        set_in("arrays", 0, 1, value="object"),
        set_in("arrays", 0, 2, value=[1 << 60]),
        set_in("arrays", 0, 2, value=[-4]),
        set_in("arrays", 0, 3, value=[5]),
        set_in("format_version", value=99),
    ],
    ids=lambda change: str(change.__closure__[0].cell_contents),
)
def test_an_edited_checkpoint_is_told(change, stopped):
    for folder in pass_folders(stopped):
        rewrite(stopped / folder, change)
    with pytest.raises(CheckpointError):
        go_on(stopped)


class Told(PackedGroup):
    kind, origin = "checkpoint pass", "a fit"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", np.nan),
        ("weights", -1.0),
        ("covariances", -1.0),
        ("covariances", np.inf),
        ("precisions_cholesky", 0.0),
        ("lower_bounds", np.inf),
    ],
)
def test_numbers_that_are_no_mixture_are_told(name, value, stopped):
    for folder in pass_folders(stopped):
        found = Told.open(str(stopped / folder))
        arrays = found.arrays()
        for key, array in arrays.items():
            if key.endswith(f"/{name}"):
                array.flat[0] = value
        shutil.rmtree(stopped / folder)
        write_packed(stopped / folder, "checkpoint pass", found.values, arrays)
    with pytest.raises(CheckpointError, match="damaged"):
        go_on(stopped)


def test_what_an_acceleration_learnt_is_checked(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(Stop):
        mixture("accelerated", callbacks=[StopAfter(6)]).fit(X, checkpoint=path)
    for folder in pass_folders(path):
        found = Told.open(str(path / folder))
        arrays = {key: array[:, :-1] if key.endswith("/steps") else array for key, array in found.arrays().items()}
        shutil.rmtree(path / folder)
        write_packed(path / folder, "checkpoint pass", found.values, arrays)
    with pytest.raises(CheckpointError, match="damaged"):
        mixture("accelerated").fit(X, checkpoint=path, resume=True)


def test_a_covariance_that_collapsed_for_all_components_is_told_again(tmp_path):
    flat = np.column_stack([X[:100, 0], X[:100, 0]])
    model = GaussianMixture(2, covariance_type="tied", reg_covar=0, random_state=0)
    for resume in (False, True):
        with pytest.raises(IllDefinedCovarianceError, match="the covariance that all components share"):
            model.fit(flat, checkpoint=tmp_path / "c", resume=resume)


def test_random_states_that_a_checkpoint_does_not_hold_are_told(tmp_path):
    model = mixture("full", random_state=np.random.RandomState(np.random.PCG64(0)))
    with pytest.raises(TypeError, match="random_state draws from PCG64"):
        model.fit(X, checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    model.fit(X)


@pytest.mark.parametrize("what", ["model", "array", "folder", "file"])
def test_what_is_no_checkpoint_is_told(what, tmp_path):
    path = tmp_path / "c"
    if what == "model":
        mixture("full", max_iter=1).fit(X).save(path)
    elif what == "array":
        zarr.create_array(path, data=X)
    elif what == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for resume in (True, False):
        with pytest.raises((CheckpointError, OutputExistsError), match="c"):
            mixture("full").fit(X, checkpoint=path, resume=resume)
    assert sorted(tmp_path.rglob("*")) == before


# ---- parameters, places, others


@pytest.mark.parametrize(
    ("parameters", "error", "named"),
    [
        ({"checkpoint": 3}, TypeError, "checkpoint=3"),
        ({"checkpoint": "s3://bucket/c"}, ValueError, "local or mounted"),
        ({"checkpoint": "c::inside"}, ValueError, "local or mounted"),
        ({"checkpoint": "c", "resume": "yes"}, TypeError, "resume='yes'"),
        ({"resume": True}, ValueError, "checkpoint=PATH"),
        ({"checkpoint": "x.npy/c"}, OSError, "x.npy is a file"),
        ({"checkpoint": ""}, ValueError, "checkpoint=''"),
    ],
)
def test_bad_parameters_are_named_before_any_work(parameters, error, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    seen = Passes()
    with pytest.raises(error, match=named):
        mixture("full", callbacks=[seen]).fit(X, **parameters)
    assert seen.labels == []


def test_what_is_there_is_not_begun_anew(stopped):
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    with pytest.raises(OutputExistsError, match=r"exists already.*resume=True"):
        mixture("full").fit(X, checkpoint=stopped)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


@pytest.mark.parametrize("begun", [True, False])
def test_two_fits_do_not_share_a_checkpoint(begun, stopped, tmp_path):
    """Neither the first of them that goes on from it nor the one that makes it."""
    path = stopped if begun else tmp_path / "new"
    at_work, go = threading.Event(), threading.Event()

    def wait(event):
        if isinstance(event, PassFinished) and event.label == "estep":
            at_work.set()
            assert go.wait(60)

    thread = threading.Thread(target=lambda: go_on(path, callbacks=[wait]))
    thread.start()
    try:
        assert at_work.wait(60)
        with pytest.raises(OutputExistsError, match="another run is using"):
            go_on(path)
    finally:
        go.set()
        thread.join()
    same_fit(go_on(path), mixture("full").fit(X))


def test_a_full_disk_is_told_and_the_last_pass_is_still_there(stopped):
    before = pass_folders(stopped)
    with small_files(100), pytest.raises(OutputError, match=r"pass-\d+ cannot be written") as caught:
        go_on(stopped)
    assert "continues the fit" in caught.value.__notes__[0]
    assert pass_folders(stopped) == before
    same_fit(go_on(stopped), mixture("full").fit(X))


def test_a_full_disk_at_the_beginning_leaves_nothing(tmp_path):
    with small_files(100), pytest.raises(OutputError, match="c cannot be written"):
        mixture("full").fit(X, checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_it_executes_nothing(stopped):
    """There is nothing in it but Zarr metadata and plain bytes."""
    names = {path.name for path in stopped.rglob("*") if path.is_file()}
    assert names == {"zarr.json", "0"}


def test_a_checkpoint_says_how_old_it_is(stopped, capsys, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert main(["inspect", str(stopped)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"written +60 min ago", shown), shown
    assert re.search(r"iterations +2", shown), shown


def test_grid_searches_and_clones_know_nothing_of_it(tmp_path):
    from sklearn.base import clone

    fitted = mixture("full").fit(X, checkpoint=tmp_path / "c")
    clone(fitted).fit(X)
    fitted.fit(X)
    assert "checkpoint" not in fitted.get_params()


# ---- every pass sees the same data


class Replace:
    """Writes other values where a fit reads, after so many passes."""

    def __init__(self, array, row, value, n_passes=2):
        self.array, self.row, self.value, self.left = array, row, value, n_passes

    def __call__(self, event):
        if isinstance(event, PassFinished):
            self.left -= 1
            if self.left == 0:
                self.array[self.row] = self.value


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("row", [0, 1234, N - 1])
def test_values_that_are_replaced_during_a_fit_are_told(row, scheduler, tmp_path, tune):
    tune(slab_bytes=500 * X[0].nbytes)  # what is seen of several parts is added up
    stored = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    # By their neighbours in floating point: no sum of squares would show it.
    replace = Replace(stored, row, np.nextafter(X[row], np.inf))
    with pytest.raises(DataChangedError, match="X: a pass saw other values than the passes before it"):
        mixture("full", cache=None, scheduler=scheduler, callbacks=[replace]).fit(tmp_path / "x.zarr")


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "f2"])
def test_any_dtype_is_held_to_it(dtype, tmp_path):
    rows = np.clip(X * 5 + 100, 0, 200).astype(dtype)
    stored = zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(500, D))
    other = rows[1234] + np.array([0, 1, 0], dtype)
    with pytest.raises(DataChangedError, match="X"):
        mixture("full", tol=0, cache=None, callbacks=[Replace(stored, 1234, other)]).fit(tmp_path / "x.zarr")


def test_weights_are_held_to_it(tmp_path, tune):
    tune(slab_bytes=500 * X[0].nbytes)
    rows = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    stored = zarr.create_array(tmp_path / "w.zarr", data=WEIGHTS, chunks=(500,))
    replace = Replace(stored, 7, np.nextafter(WEIGHTS[7], 2))
    with pytest.raises(DataChangedError, match="sample_weight"):
        mixture("full", cache=None, callbacks=[replace]).fit(rows, sample_weight=stored)


def test_graphs_that_give_other_values_each_time_are_told():
    def draw(block):
        return block + np.random.default_rng().normal(size=block.shape)

    noisy = da.from_array(X, chunks=(1000, D)).map_blocks(draw)
    with pytest.raises(DataChangedError, match="does not give the same values"):
        mixture("full").fit(noisy)


def test_nothing_is_kept_where_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "probe", None)  # would fail
    with dask.config.set(scheduler="synchronous"):
        mixture("full").fit(X)
    assert list(tmp_path.iterdir()) == []
