"""The terminal: the exact calls, then the real thing; standard output and standard error apart."""

import contextlib
import json
import os
import re
import signal
import time

import numpy as np
import psutil
import pytest
import zarr
from programs import read_until, terminal

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture, jobs
from daskgmm.cli import _cli, main
from daskgmm.messages import Messages, option_names

COMMANDS = sorted(_cli.commands)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(c, 1.0, (4000, 3)) for c in (-4.0, 0.0, 5.0)])
    rng.shuffle(rows)
    return rows


@pytest.fixture
def here(tmp_path, monkeypatch, rows):
    """A directory with data.zarr."""
    monkeypatch.chdir(tmp_path)
    zarr.create_array("data.zarr", data=rows, chunks=(1000, 3))
    return tmp_path


@pytest.fixture
def fitted(here, rows):
    """The same with model.zarr."""
    GaussianMixture(3, random_state=0).fit("data.zarr").save("model.zarr")
    return here


@pytest.fixture
def run(capfd):
    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def calls(monkeypatch):
    """What the commands call, in place of the real thing."""
    seen = []

    def record(name):
        def call(*args, callbacks=None, **kwargs):
            shown = {} if callbacks is None else {"shown by": [type(callback).__name__ for callback in callbacks]}
            seen.append((name, args, kwargs | shown))
            return {"kind": name}

        return call

    for name in ("fit", "select", "predict", "score", "sample"):
        monkeypatch.setattr(jobs, name, record(name))
    return seen


# ---- the exact calls


def test_fit_passes_on_what_was_given_and_nothing_else(run, calls):
    assert run("fit", "data.zarr", "-k", 16, "--model", "m.zarr")[0] == 0
    assert calls == [
        (
            "fit",
            (jobs.Rows("data.zarr"), "m.zarr", {"n_components": 16}),
            {
                "checkpoint_options": jobs.CheckpointOptions(),
                "compute": jobs.Compute(),
                "bayesian": False,
                "warm_start": None,
                "overwrite": False,
                "shown by": ["ProgressBar"],
            },
        )
    ]


def test_every_parameter_of_the_estimator_has_an_option(run, calls):
    given = {
        "n_components": 4,
        "covariance_type": "diag",
        "tol": 0.5,
        "reg_covar": 0.25,
        "max_iter": 7,
        "n_init": 2,
        "init_params": "k-means++",
        "weights_init": "w.npy",
        "means_init": "m.npy",
        "precisions_init": "p.zarr",
        "random_state": 3,
        "verbose": 2,
        "verbose_interval": 5,
        "init_size": 99,
        "acceleration": "lbfgs",
        "cache": "2GiB",
        "missing": "drop",
    }
    assert given.keys() | {"warm_start", "scheduler", "callbacks"} == GaussianMixture().get_params().keys()
    more = ["--array", "x", "--sample-weight", "s.npy", "--warm-start", "old.zarr", "--overwrite", "--quiet"]
    more += ["--checkpoint", "run.checkpoint", "--resume"]
    assert run("fit", "data.zarr", "--model", "m.zarr", *as_options(given), *more)[0] == 0
    ((_, args, kwargs),) = calls
    assert args == (jobs.Rows("data.zarr", "x", "s.npy"), "m.zarr", given)
    expected = {"bayesian": False, "warm_start": "old.zarr", "overwrite": True, "shown by": []}
    options = jobs.CheckpointOptions("run.checkpoint", True)
    assert kwargs == {"checkpoint_options": options, "compute": jobs.Compute(), **expected}


def as_options(given):
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.mark.parametrize(
    ("given", "expected"), [("auto", "auto"), ("none", 0), ("0", 0), ("1000", 1000), ("2 GiB", "2 GiB")]
)
def test_the_cache_is_a_size_or_a_word(run, calls, given, expected):
    assert run("fit", "data.zarr", "--model", "m.zarr", "-k", 2, "--cache", given)[0] == 0
    ((_, args, _),) = calls
    assert args[2] == {"n_components": 2, "cache": expected}
    status, _, err = run("fit", "data.zarr", "--model", "m.zarr", "-k", 2, "--cache", "much")
    assert status == 2
    assert "'much' is not a size" in err


def test_priors_have_options(run, calls):
    given = {
        "n_components": 4,
        "weight_concentration_prior_type": "dirichlet_distribution",
        "weight_concentration_prior": 0.5,
        "mean_precision_prior": 2.0,
        "degrees_of_freedom_prior": 4.5,
    }
    assert run("fit", "data.zarr", "--bayesian", "--model", "m.zarr", *as_options(given))[0] == 0
    ((_, args, kwargs),) = calls
    assert args == (jobs.Rows("data.zarr"), "m.zarr", given)
    assert kwargs["bayesian"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean-precision-prior", 1], "--mean-precision-prior: allowed only with --bayesian"),
        (["--bayesian", "--weights-init", "w.npy"], "--weights-init: allowed only without --bayesian"),
        (["--bayesian", "--weight-concentration-prior", 0], "0.0 is not in the range x>0"),
    ],
    ids=str,
)
def test_options_of_the_other_kind_of_mixture_are_refused(run, options, message):
    """Before anything is looked at: there are no such data."""
    status, _, err = run("fit", "none.zarr", "-k", 2, "--model", "m.zarr", *options)
    assert status == 2
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("", ["--mean-precision-prior", 1], "--mean-precision-prior: the model of --warm-start is a GaussianMixture"),
        ("", ["--bayesian"], "--bayesian: the model of --warm-start is a GaussianMixture"),
        ("--bayesian", ["--weights-init", "w.npy"], "--weights-init: the model of --warm-start is a Bayesian"),
    ],
    ids=str,
)
@pytest.mark.parametrize("goal", [["--model", "n.zarr"], ["--plan"]], ids=str)
def test_and_so_are_those_of_another_kind_than_the_model_to_go_on_from(here, run, kind, options, message, goal):
    assert run("fit", "data.zarr", "-k", 2, "--max-iter", 2, "--model", "m.zarr", "--quiet", *kind.split())[0] == 0
    status, out, err = run("fit", "data.zarr", "--warm-start", "m.zarr", "--quiet", *goal, *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_where_it_runs(run, calls):
    base = ["score", "data.zarr", "--model", "m.zarr"]
    run(*base, "--workers", 2, "--threads", 3, "--memory-limit", "1.5GB")
    run(*base, "--scheduler", "tcp://host:8786")
    assert [kwargs["compute"] for _, _, kwargs in calls] == [
        jobs.Compute(None, 2, 3, "1.5GB"),
        jobs.Compute("tcp://host:8786"),
    ]


def test_the_other_commands(run, calls):
    where = ["--model", "m.zarr"]
    run("predict", "d.zarr::x", *where, "--output", "o.zarr", "--probabilities", "--log-density", "--overwrite")
    run("score", "d.zarr", *where, "--sample-weight", "w.npy", "--missing", "drop", "--quiet")
    run("sample", "m.zarr", "-n", 10, "--output", "o.zarr", "--random-state", 1)
    assert calls == [
        (
            "predict",
            (jobs.Rows("d.zarr::x"), "m.zarr", "o.zarr"),
            {
                "probabilities": True,
                "log_density": True,
                "outliers": None,
                "overwrite": True,
                "missing": None,
                "shown by": ["ProgressBar"],
                "compute": jobs.Compute(),
            },
        ),
        (
            "score",
            (jobs.Rows("d.zarr", None, "w.npy"), "m.zarr"),
            {"missing": "drop", "compute": jobs.Compute(), "shown by": []},
        ),
        ("sample", ("m.zarr", 10, "o.zarr"), {"random_state": 1, "overwrite": False, "storage_options": None}),
    ]


# ---- help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(run, command, calls, monkeypatch):
    for name in ("demo.run_demo", "inspection.store_record"):
        monkeypatch.setattr(f"daskgmm.{name}", lambda *args, **kwargs: {"kind": "called"})
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    (example,) = [line.split() for line in out.partition("Example:")[2].splitlines() if "daskgmm" in line]
    assert example[:2] == ["daskgmm", command]
    assert run(*example[1:])[0] == 0


def test_the_command_list(run):
    assert COMMANDS == ["demo", "fit", "inspect", "predict", "sample", "score", "select"]
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"  {command} " in out for command in COMMANDS)
    assert run("--version")[1] == f"daskgmm, version {daskgmm.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nonsense", "No such command"),
        ("fit", "Missing argument"),
        ("fit d.zarr -k 2", "Missing option '--model'"),
        ("fit d.zarr --model m.zarr", "Missing option '-k'"),
        ("fit d.zarr -k 0 --model m.zarr", "0 is not in the range"),
        ("fit d.zarr -k two --model m.zarr", "not a valid integer"),
        ("fit d.zarr -k 1:10 --model m.zarr", "`daskgmm select DATA -k 1:10` compares several"),
        ("fit d.zarr -k 2,4 --model m.zarr", "`daskgmm select DATA -k 2,4` compares several"),
        ("fit d.zarr -k 5 --model m.zarr --init-size 3", "--init-size 3 is less than --n-components 5"),
        ("fit d.zarr -k 5 --model m.zarr --resume", "--resume needs --checkpoint"),
        ("fit d.zarr -k 5 --model m.zarr::x", "an output is a store of its own"),
        ("score d.zarr --model m.zarr --scheduler nonsense", "--scheduler 'nonsense'; expected 'synchronous'"),
        ("select d.zarr -k 0:3", "--n-components holds 0"),
        ("select d.zarr -k 2,9 --init-size 5", "--init-size 5 is less than --n-components 9"),
        ("select d.zarr --held-out 2", "--held-out 2.0; expected a share of the rows"),
        ("select d.zarr --patience 3 --criterion icl", "Leave patience out"),
        ("fit d.zarr -k 2 --model m.zarr --covariance-type round", "'round' is not one of"),
        ("fit d.zarr -k 2 --model m.zarr --memory-limit lots", "not a size such as 500MB"),
        ("fit d.zarr -k 2 --model m.zarr --scheduler tcp://h:1 --workers 2", "--scheduler excludes"),
        ("fit d.zarr -k 2 --model m.zarr --random-state -1", "not in the range"),
        ("predict d.zarr --model m.zarr", "Missing option '-o' / '--output'"),
        ("sample m.zarr --output o.zarr", "Missing option '-n'"),
        ("score d.zarr --model m.zarr --surprise", "No such option"),
    ],
)
def test_usage_errors(run, arguments, message):
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    first, *more = err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    command = arguments.split()[0]
    assert more == [f"help: daskgmm{f' {command}' * (command in COMMANDS)} --help"]


def test_no_command_shows_the_help(run):
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("Usage: daskgmm [OPTIONS] COMMAND")
    assert "Commands:" in err


@pytest.mark.parametrize("limit", ["4", "4MB", "4096", "1"])
def test_a_memory_limit_without_its_unit(run, limit):
    """Nothing is started, and nothing is looked for: there are no such data."""
    arguments = ["none.zarr", "--model", "m.zarr", "--quiet", "--workers", 2, "--memory-limit", limit]
    for command in (["fit", *arguments, "-k", 2], ["score", *arguments], ["fit", *arguments, "-k", 2, "--plan"]):
        status, out, err = run(*command)
        assert (status, out) == (2, "")
        assert re.match(
            rf"error: --memory-limit {limit}: .* Did you mean \dGi?B\? Give each worker 252.63 MiB or more", err
        )


def test_a_memory_limit_that_python_itself_exceeds(run):
    status, _, err = run("fit", "none.zarr", "-k", 2, "--model", "m.zarr", "--quiet", "--memory-limit", "100MB")
    assert status == 2
    assert err.startswith("error: --memory-limit 100MB: worker processes of 95.37 MiB cannot run")
    assert "Give each worker 252.63 MiB or more" in err
    assert "Did you mean" not in err


def test_a_fit_that_has_no_room_is_refused_before_workers_start(here, run, monkeypatch):
    forbid_clusters(monkeypatch)
    zarr.create_array("huge.zarr", shape=(1 << 24, 8), chunks=(1 << 22, 8), dtype="f8")
    where = ["huge.zarr", "--model", "m.zarr", "--quiet", "--workers", 2, "--memory-limit", "500MB"]
    for command in (["fit", *where, "-k", 2], ["select", *where, "-k", "1:3"]):
        status, out, err = run(*command)
        assert (status, out) == (1, "")
        assert "store the data in chunks of fewer rows" in err
    GaussianMixture(2, random_state=0, tol=1).fit(np.random.default_rng(0).normal(size=(100, 8))).save("m.zarr")
    for command in (["predict", *where, "-o", "o.zarr"], ["score", *where]):
        status, out, err = run(*command)
        assert (status, out) == (1, "")
        assert "store the data in chunks of fewer rows" in err
    assert sorted(os.listdir()) == ["data.zarr", "huge.zarr", "m.zarr"]


def test_a_plan_starts_no_workers(here, run, monkeypatch):
    forbid_clusters(monkeypatch)
    asked = ["--workers", 64, "--threads", 2, "--memory-limit", "1GB"]
    status, out, err = run("fit", "data.zarr", "-k", 3, "--plan", "--json", *asked)
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert len(plan["workers"]) == 64
    assert plan["n_threads"] == 128
    assert {(worker["n_threads"], worker["limit"]) for worker in plan["workers"]} == {(2, 10**9)}


def forbid_clusters(monkeypatch):
    monkeypatch.setattr("distributed.LocalCluster", lambda *args, **kwargs: pytest.fail("workers were started"))


def test_short_and_other_names_of_options(run, calls):
    assert run("sample", "m.zarr", "-n", 10, "-o", "o.zarr", "--seed", 1)[0] == 0
    assert run("predict", "d.zarr", "--model", "m.zarr", "-o", "o.zarr")[0] == 0
    assert run("fit", "d.zarr", "-k", 2, "--model", "m.zarr", "--seed", 3)[0] == 0
    assert calls[0] == (
        "sample",
        ("m.zarr", 10, "o.zarr"),
        {"random_state": 1, "overwrite": False, "storage_options": None},
    )
    assert calls[1][1] == (jobs.Rows("d.zarr"), "m.zarr", "o.zarr")
    assert calls[2][1][2] == {"n_components": 2, "random_state": 3}


# ---- messages speak of options


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Choose another name, or replace it with overwrite=True.",
            "Choose another name, or replace it with --overwrite.",
        ),
        ("X has 2 features, but 3 are expected", "DATA has 2 features, but 3 are expected"),
        ("Input X contains NaN in row 3", "Input DATA contains NaN in row 3"),
        ("sample_weight has 5 values", "--sample-weight has 5 values"),
        ("Increase max_iter, or tol.", "Increase --max-iter, or --tol."),
        ("init_size=3 is too small", "--init-size 3 is too small"),
        ("dask.config.set({'daskgmm.missing-chunks': 'fill'}).", "--missing-chunks fill."),
        ("wait with dask.config.set({'daskgmm.timeout': '10min'})", "wait with DASK_DASKGMM__TIMEOUT=10min"),
        # Names that are English, too, and such as only look like parameters.
        ("the model was fitted with reg_covar.zarr", "the model was fitted with reg_covar.zarr"),
        ("nothing at data/max_iter", "nothing at data/max_iter"),
        ("nothing at n_init", "nothing at n_init"),
        ("call X.compute_chunk_sizes()", "call X.compute_chunk_sizes()"),
        (
            "numpy.moveaxis(X, axis, -1).reshape(-1, n_init), or X",
            "numpy.moveaxis(X, axis, -1).reshape(-1, n_init), or DATA",
        ),
        ("pass X.T, or max_iter (tol, n_init)", "pass X.T, or --max-iter (--tol, n_init)"),
        ("1 sample(s) of X", "1 sample(s) of DATA"),
        ("expected 'bic' or 'held_out'", "expected 'bic' or 'held_out'"),
        ("two\nlines", "two lines"),
        ("\x1b[31mred", "?[31mred"),
    ],
)
def test_a_message_in_the_words_of_a_terminal(said, shown):
    messages = Messages(["fit", "n_init"], option_names(_cli.commands["fit"]))
    assert messages.clean(said) == shown


def test_the_words_of_a_terminal_for_real(fitted, rows, run):
    narrow = zarr.create_array("narrow.zarr", data=rows[:, :2].copy())
    status, _, err = run("fit", "data.zarr", "-k", 2, "--model", "model.zarr")
    assert status == 1
    assert err == "error: model.zarr exists already. Choose another name, or replace it with --overwrite.\n"
    status, _, err = run("score", "narrow.zarr", "--model", "model.zarr", "--quiet")
    assert err.startswith(f"error: DATA has {narrow.shape[1]} features, but GaussianMixture is expecting 3")
    status, _, err = run("fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--max-iter", 1, "--quiet")
    assert "increase --max-iter, --tol" in err


# ---- the real thing


def test_fit_predict_score_sample_inspect(here, rows, run):
    status, out, err = run("fit", "data.zarr", "-k", 3, "--model", "mixture.zarr", "--random-state", 0)
    assert status == 0, err
    assert "GaussianMixture, 3 components, 3 features, full covariance" in out
    assert "converged" in out
    assert "survey: 12,000 rows" in err
    model = daskgmm.load("mixture.zarr")
    expected = GaussianMixture(3, random_state=0).fit("data.zarr")
    np.testing.assert_array_equal(model.means_, expected.means_)

    arguments = ["predict", "data.zarr", "--model", "mixture.zarr", "--output", "classes.zarr"]
    status, out, err = run(*arguments, "--probabilities", "--log-density")
    assert status == 0, err
    assert "labels 12,000, probabilities 12,000 × 3, log_density 12,000" in " ".join(out.split())
    assert "predict: 12,000 rows" in err
    classes = zarr.open_group("classes.zarr", mode="r")
    np.testing.assert_array_equal(classes["labels"][:], expected.predict(rows))
    np.testing.assert_allclose(classes["probabilities"][:], expected.predict_proba(rows), rtol=1e-12)
    np.testing.assert_allclose(classes["log_density"][:], expected.score_samples(rows), rtol=1e-12)

    status, out, _ = run("score", "data.zarr", "--model", "mixture.zarr", "--json", "--quiet")
    score = json.loads(out)
    assert status == 0
    assert score["log_likelihood"] == expected.score("data.zarr")
    assert score["bic"] == pytest.approx(expected.bic("data.zarr"))
    assert score["aic"] == pytest.approx(expected.aic("data.zarr"))

    status, out, _ = run("sample", "mixture.zarr", "-n", 100, "--output", "drawn.zarr")
    assert status == 0
    np.testing.assert_array_equal(zarr.open_group("drawn.zarr", mode="r")["rows"][:], expected.sample(100)[0])

    for path, words in [
        ("mixture.zarr", "3 components"),
        ("classes.zarr", "probabilities"),
        ("drawn.zarr", "samples"),
        ("data.zarr", "12,000 × 3"),
        ("classes.zarr::labels", "int64"),
    ]:
        status, out, err = run("inspect", path)
        assert (status, err) == (0, "")
        assert words in out
        assert json.loads(run("inspect", path, "--json")[1])["path"] == path
    assert sorted(os.listdir()) == ["classes.zarr", "data.zarr", "drawn.zarr", "mixture.zarr"]


def test_json_is_all_that_standard_output_gets(here, run):
    arguments = ["fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--random-state", 0, "--json"]
    status, out, err = run(*arguments, "--verbose", 2, "--verbose-interval", 1)
    record = json.loads(out)
    assert status == 0
    assert record["converged"] is True
    assert record["model"] == "m.zarr"
    assert record["n_rows"] == 12_000
    assert np.shape(record["means"]) == np.shape(record["standard_deviations"]) == (3, 3)
    assert sum(record["weights"]) == pytest.approx(1)
    assert "Initialization converged." in err


def test_json_knows_no_infinities(here, run):
    status, out, _ = run("fit", "data.zarr", "-k", 2, "--model", "m.zarr", "--max-iter", 0, "--json", "--quiet")
    assert status == 0
    assert json.loads(out, parse_constant=pytest.fail)["log_likelihood"] is None


def test_quiet_is_quiet(here, run):
    status, _, err = run("fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--random-state", 0, "--quiet")
    assert (status, err) == (0, "")


def test_warnings_are_one_line(here, run):
    status, _, err = run("fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--max-iter", 1, "--quiet")
    assert status == 0
    assert err.startswith("warning: Best performing initialization did not converge.")
    assert err.count("\n") == 1


def test_a_bayesian_mixture_from_fit_to_sample(here, rows, run):
    fit = "fit data.zarr -k 5 --bayesian --model b.zarr --random-state 0 --max-iter 500 --degrees-of-freedom-prior 4.5"
    status, out, err = run(*fit.split(), "--quiet", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    expected = BayesianGaussianMixture(n_components=5, random_state=0, max_iter=500, degrees_of_freedom_prior=4.5)
    expected.fit(rows)
    assert told["estimator"] == "BayesianGaussianMixture"
    assert told["lower_bound"] == expected.lower_bound_
    assert told["degrees_of_freedom_prior"] == 4.5
    assert told["weight_concentration_prior"] == 0.2
    assert "log_likelihood" not in told

    status, out, _ = run("inspect", "b.zarr")
    assert status == 0
    assert "BayesianGaussianMixture, 5 components" in out
    assert "lower-bound" in out
    assert "dirichlet_process" in out
    assert run("predict", "data.zarr", "--model", "b.zarr", "--output", "c.zarr", "--quiet")[0] == 0
    np.testing.assert_array_equal(zarr.open_group("c.zarr")["labels"][:], expected.predict(rows))
    status, out, _ = run("score", "data.zarr", "--model", "b.zarr", "--quiet", "--json")
    assert json.loads(out) == {"kind": "score", "log_likelihood": expected.score(rows), "n_rows": len(rows)}
    assert run("sample", "b.zarr", "-n", 10, "--output", "s.zarr")[0] == 0
    np.testing.assert_array_equal(zarr.open_group("s.zarr")["rows"][:], expected.sample(10)[0])
    more = "fit data.zarr --warm-start b.zarr --model b2.zarr --quiet --json"
    assert json.loads(run(*more.split())[1])["estimator"] == "BayesianGaussianMixture"


def test_given_parameters_and_weights(here, rows, run):
    rng = np.random.default_rng(1)
    weights = rng.uniform(size=len(rows))
    means = np.array([[-4.0] * 3, [0.0] * 3, [5.0] * 3])
    np.save("weights.npy", weights)
    np.save("means.npy", means)
    zarr.create_group("given.zarr")
    zarr.create_array("given.zarr/precisions", data=np.stack([np.eye(3)] * 3))
    np.save("shares.npy", np.full(3, 1 / 3))
    status, _, err = run(
        *["fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--sample-weight", "weights.npy", "--quiet"],
        *["--means-init", "means.npy", "--precisions-init", "given.zarr::precisions", "--weights-init", "shares.npy"],
    )
    assert (status, err) == (0, "")
    expected = GaussianMixture(
        3, means_init=means, precisions_init=np.stack([np.eye(3)] * 3), weights_init=np.full(3, 1 / 3)
    ).fit(rows, sample_weight=weights)
    np.testing.assert_array_equal(daskgmm.load("m.zarr").means_, expected.means_)
    _, out, _ = run("score", "data.zarr", "--model", "m.zarr", "--sample-weight", "weights.npy", "--json", "--quiet")
    assert json.loads(out)["log_likelihood"] == expected.score(rows, sample_weight=weights)
    assert json.loads(out)["icl"] == expected.criteria(rows, sample_weight=weights)["icl"]


@pytest.mark.parametrize("n_init", [2, "auto"])
def test_several_starts(n_init, here, rows, run):
    options = ["--n-init", n_init, "--init-size", 2000, "--max-iter", 3, "--random-state", 0]
    assert run("fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--quiet", *options)[0] == 0
    model = GaussianMixture(3, n_init=n_init, init_size=2000, max_iter=3, random_state=0)
    assert daskgmm.load("m.zarr").n_init == n_init
    np.testing.assert_array_equal(daskgmm.load("m.zarr").means_, model.fit(rows).means_)


def test_warm_start_goes_on_from_a_model(here, run):
    base = ["fit", "data.zarr", "--quiet", "--tol", 0]
    assert run(*base, "-k", 3, "--model", "three.zarr", "--max-iter", 3, "--random-state", 0)[0] == 0
    assert run(*base, "--model", "five.zarr", "--max-iter", 2, "--warm-start", "three.zarr")[0] == 0
    assert run(*base, "-k", 3, "--model", "whole.zarr", "--max-iter", 5, "--random-state", 0)[0] == 0
    five, whole = daskgmm.load("five.zarr"), daskgmm.load("whole.zarr")
    np.testing.assert_array_equal(five.means_, whole.means_)
    assert five.warm_start is False


def test_arrays_inside_groups(here, rows, run):
    zarr.create_group("group.zarr")
    zarr.create_array("group.zarr/a", data=rows)
    zarr.create_array("group.zarr/b", data=rows)
    base = ["-k", 2, "--quiet", "--random-state", 0]
    assert run("fit", "group.zarr", "--array", "a", "--model", "1.zarr", *base)[0] == 0
    assert run("fit", "group.zarr::a", "--model", "2.zarr", *base)[0] == 0
    status, _, err = run("fit", "group.zarr", "--model", "3.zarr", *base)
    assert status == 1
    assert "group with 2 arrays (a, b)" in err


def test_threads(here, run, monkeypatch):
    import dask

    seen = []
    fit = GaussianMixture.fit

    def watching(self, *args, **kwargs):
        seen.append((dask.config.get("num_workers", None), self.scheduler))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(GaussianMixture, "fit", watching)
    assert run("fit", "data.zarr", "-k", 2, "--model", "m.zarr", "--threads", 3, "--quiet")[0] == 0
    assert seen == [(3, None)]
    assert dask.config.get("num_workers", None) is None


# ---- failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit none.zarr -k 2 --model m.zarr", "nothing at none.zarr"),
        ("fit text -k 2 --model m.zarr", "text is not a Zarr array or group"),
        ("fit data.zarr -k 20000 --model m.zarr", "n_samples = 12000"),
        ("fit data.zarr -k 2 --model m.zarr --means-init none.npy", "nothing at none.npy"),
        ("fit data.zarr -k 2 --model m.zarr --means-init text.npy", "text.npy is not a .npy file of numbers"),
        ("fit data.zarr -k 2 --model m.zarr --sample-weight short.npy", "one weight for each row"),
        ("fit data.zarr -k 2 --model m.zarr --means-init short.npy", "'means' should have the shape"),
        ("fit data.zarr -k 2 --model text/m.zarr", "text is a file"),
        ("fit data.zarr --model m.zarr --warm-start data.zarr", "no model that daskgmm wrote"),
        ("predict data.zarr --model none.zarr --output o.zarr", "nothing at none.zarr"),
        ("predict data.zarr --model data.zarr --output o.zarr", "no model that daskgmm wrote"),
        ("predict narrow.zarr --model model.zarr --output o.zarr", "DATA has 2 features, but GaussianMixture"),
        ("predict bad.zarr --model model.zarr --output o.zarr", "NaN in row 1234"),
        ("score bad.zarr --model model.zarr", "NaN in row 1234"),
        ("inspect none.zarr", "nothing at none.zarr"),
        ("inspect data.zarr::x", "has no 'x' inside it"),
    ],
)
def test_errors_are_one_clean_line(fitted, rows, run, arguments, message):
    with open("text", "w") as file:
        file.write("text")
    with open("text.npy", "w") as file:
        file.write("text")
    np.save("short.npy", np.ones(5))
    bad = rows.copy()
    bad[1234, 1] = np.nan
    zarr.create_array("bad.zarr", data=bad)
    zarr.create_array("narrow.zarr", data=rows[:, :2].copy())
    before = sorted(os.listdir())
    status, out, err = run(*arguments.split(), *([] if arguments.startswith("inspect") else ["--quiet"]))
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "fit none.zarr -k 2 --model {}",
        "predict none.zarr --model none.zarr --output {}",
        "sample none.zarr -n 5 --output {}",
    ],
)
def test_an_existing_output_is_refused_before_any_work(fitted, run, arguments):
    """The inputs do not even exist."""
    status, _, err = run(*arguments.format("model.zarr").split())
    assert status == 1
    assert "model.zarr exists already" in err


def test_overwriting(fitted, run):
    base = ["data.zarr", "--model", "model.zarr", "--quiet"]
    assert run("fit", *base, "-k", 2)[0] == 1
    assert len(daskgmm.load("model.zarr").weights_) == 3
    assert run("fit", *base, "-k", 2, "--overwrite")[0] == 0
    assert len(daskgmm.load("model.zarr").weights_) == 2
    for _ in range(2):
        assert run("predict", *base, "--output", "o.zarr", "--overwrite")[0] == 0
    for target, message in [
        ("data.zarr", "not a results store that daskgmm wrote"),
        ("model.zarr", "not a results store"),
    ]:
        status, _, err = run("predict", *base, "--output", target, "--overwrite")
        assert status == 1
        assert message in err
    assert sorted(os.listdir()) == ["data.zarr", "model.zarr", "o.zarr"]


def test_an_input_is_never_replaced(fitted, run):
    assert (
        run("predict", "data.zarr", "--model", "model.zarr", "--output", "o.zarr", "--probabilities", "--quiet")[0] == 0
    )
    arguments = ["o.zarr::probabilities", "--model", "model.zarr", "--output", "./o.zarr", "--overwrite"]
    status, _, err = run("predict", *arguments)
    assert status == 2
    assert "./o.zarr is also an input" in err


def test_a_failure_while_writing_leaves_the_old_output(fitted, rows, run, monkeypatch):
    base = ["predict", "data.zarr", "--model", "model.zarr", "--output", "o.zarr", "--quiet"]
    assert run(*base)[0] == 0
    create = zarr.Group.create_array

    def failing(self, name, **kwargs):
        if name == "probabilities":
            raise OSError(28, "No space left on device")
        return create(self, name, **kwargs)

    monkeypatch.setattr(zarr.Group, "create_array", failing)
    status, out, err = run(*base, "--probabilities", "--overwrite")
    assert (status, out) == (1, "")
    assert err.startswith("error: o.zarr cannot be written (OSError: [Errno 28] No space left on device)")
    monkeypatch.undo()
    assert sorted(os.listdir(fitted)) == ["data.zarr", "model.zarr", "o.zarr"]
    labels = zarr.open_group(fitted / "o.zarr", mode="r")["labels"][:]
    np.testing.assert_array_equal(labels, daskgmm.load(fitted / "model.zarr").predict(rows))


def test_ctrl_c(here, run, monkeypatch):
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(GaussianMixture, "fit", interrupted)
    status, out, err = run("fit", "data.zarr", "-k", 2, "--model", "m.zarr")
    assert (status, out) == (130, "")
    assert err.strip() == "interrupted"
    assert os.listdir() == ["data.zarr"]


def test_names_in_files_cannot_drive_the_terminal(fitted, run):
    group = zarr.create_group("evil.zarr", attributes={"daskgmm": {"format": "results", "model": "\x1b]0;x\x07[red]"}})
    group.create_array("a", data=np.ones(3))
    status, out, _ = run("inspect", "evil.zarr")
    assert status == 0
    assert "\x1b" not in out
    assert "[red]" in out


# ---- processes


@pytest.mark.slow
@pytest.mark.cluster
def test_worker_processes_of_its_own(here, run):
    base = ["--workers", 2, "--memory-limit", "1GB"]
    status, _, err = run("fit", "data.zarr", "-k", 3, "--model", "m.zarr", "--random-state", 0, *base)
    assert status == 0, err
    assert err.splitlines()[:2] == ["loading packages …", "starting 2 worker processes …"]
    assert err.splitlines()[2].startswith("survey: 12,000 rows in ")
    expected = GaussianMixture(3, random_state=0).fit("data.zarr")
    np.testing.assert_array_equal(daskgmm.load("m.zarr").means_, expected.means_)


@pytest.mark.slow
@pytest.mark.cluster
def test_as_a_program_and_interrupted(here, rows):
    """``python -m daskgmm``, on two worker processes, until Ctrl-C; the terminal sends it to all of them."""
    asked = ["fit", "data.zarr", "-k", "3", "--model", "m.zarr", "--workers", "1"]
    endless = ["--tol", "0", "--max-iter", "1000000000", "--random-state", "0"]
    with terminal(here, *asked, *endless, start_new_session=True) as process:
        read_until(process.stderr, "iteration")
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.rstrip().endswith("interrupted")
    assert os.listdir() == ["data.zarr"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("words", ["loading packages", "starting 2 worker processes"])
def test_interrupted_while_workers_start(here, words):
    """One line, and no process is left; the terminal sends Ctrl-C to all of them."""
    asked = ["fit", "data.zarr", "-k", "3", "--model", "m.zarr", "--workers", "2"]
    with terminal(here, *asked, start_new_session=True) as process:
        read_until(process.stderr, words)
        if words.startswith("starting"):
            wait_for(lambda: len(others_of(process)) >= 2)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        left = others_of(process)
    assert process.returncode in (130, -signal.SIGINT)  # the latter where Python was importing, and means the same
    assert (out, err.split()) == ("", ["interrupted"])
    assert left == []
    assert os.listdir() == ["data.zarr"]


def others_of(process):
    """Worker processes of a program that leads its session."""
    found = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(other.pid) == process.pid != other.pid and other.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(other.cmdline()))
    return [command for command in found if "spawn_main" in command]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_missing_file_of_weights_is_told_by_its_option(run, here):
    status, _, error = run("fit", "data.zarr", "-k", "2", "--model", "m.zarr", "--sample-weight", "heavy")
    assert status == 1
    assert error.startswith("error: --sample-weight: There is nothing at heavy.")
