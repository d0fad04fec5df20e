"""Comparisons with peers run, and say what was measured and what was not. No time is judged here."""

import importlib.util
import json
import math
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from solution import expected_seconds, known, seconds_until, summary, verdicts  # noqa: E402

HERE = ["daskgmm", "daskgmm-zarr", "scikit-learn", "plain-dask"]  # what daskgmm itself depends on
MODULES = {"onedal": "daal4py", "spark": "pyspark", "tgmm": "tgmm", "pomegranate": "pomegranate", "gmmx": "gmmx"}
MISSING = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
SMALL = ("--rows", "2000", "--features", "3", "--components", "3", "--rounds", "1")

pytestmark = pytest.mark.timeout(600)  # a dozen processes, each of which imports its packages


def run(*options: str, script: str = "peers.py") -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("tol", [(), ("--tol", "1e-5", "--max-iter", "20")], ids=["an iteration", "a whole fit"])
def test_every_contestant_is_measured_or_missing(tol: tuple[str, ...]) -> None:
    """From the same start the same number of iterations ends alike."""
    result: dict[str, Any] = json.loads(run(*SMALL, "--only", *HERE, *MISSING, *tol, "--json"))
    assert {"processor", "cores", "versions"} <= result["machine"].keys()
    by_name = {record["contestant"]: record for record in result["measurements"]}
    for name in MISSING:
        assert "pip install 'daskgmm[bench]'" in by_name[name]["error"]
    for name in HERE:
        assert "error" not in by_name[name], by_name[name]
        assert by_name[name]["peak_bytes"] >= by_name[name]["idle_bytes"] > 1 << 20
        assert [fit["max_iter"] for fit in by_name[name]["fits"]] == ([20] if tol else [1, 21])
    levels = [by_name[name]["log_likelihood"] for name in HERE]
    assert max(levels) - min(levels) < 1e-8


@pytest.mark.slow
def test_table_and_what_takes_too_long() -> None:
    lines = run(*SMALL, "--only", "scikit-learn", "--time-limit", "0.1").splitlines()
    assert "| scikit-learn | time limit of 0.1 s | | | | | | | |" in lines


@pytest.mark.slow
def test_table() -> None:
    (line,) = [line for line in run(*SMALL, "--only", "daskgmm").splitlines() if line.startswith("| daskgmm |")]
    cells = line.split(" | ")
    assert (cells[2], cells[4], cells[5]) == ("1", "1", "21")


@pytest.mark.slow
@pytest.mark.skipif("onedal" in MISSING, reason="scikit-learn-intelex is not installed")
@pytest.mark.parametrize("tol", [(), ("--tol", "1e-5", "--max-iter", "60")], ids=["an iteration", "a whole fit"])
def test_onedal_ends_where_scikit_learn_does(tol: tuple[str, ...]) -> None:
    """From the same start, with the same rule to stop, for all that it leaves out ``reg_covar``."""
    result = json.loads(run(*SMALL, "--only", "scikit-learn", "onedal", *tol, "--json"))
    theirs, onedal = result["measurements"]
    assert onedal["log_likelihood"] == pytest.approx(theirs["log_likelihood"], abs=1e-5)
    assert [fit["n_iter"] for fit in onedal["fits"]] == [fit["n_iter"] for fit in theirs["fits"]]


# ---- time to solution


def solution(name: str, seed: int, *trajectory: tuple[int, float, float, float], **others: Any) -> dict[str, Any]:
    about = {"key": ["a", 200_000, 9, name, seed, 0.1], "data": "a", "strategy": name, "seed": seed, "tol": 0.1}
    return about | {"trajectory": list(map(list, trajectory)), "n_iter": 2, "passes": 2 + seed} | others


def test_time_until_a_target_counts_fits_that_missed_it() -> None:
    first = solution("daskgmm", 0, (1, 2.0, 1.0, -3.0), (2, 4.0, 2.0, -2.0), (3, 9.0, 5.0, -1.0))
    second = solution("daskgmm", 1, (1, 2.0, 1.0, -3.0), (2, 20.0, 10.0, -2.9))
    assert seconds_until(first, -2.5, "wall") == 4
    assert seconds_until(first, -2.0, "processor") == 2
    assert seconds_until(second, -2.5, "wall") == math.inf
    assert expected_seconds([first, second], -2.5, "processor") == 12
    assert expected_seconds([first, second], 0.0, "processor") == math.inf
    assert expected_seconds([first, solution("daskgmm", 2, error="missing")], -2.5, "wall") == 4


def test_target_is_the_best_that_plain_fits_found() -> None:
    records = [
        solution("daskgmm", 0, (1, 1.0, 1.0, -1.95)),
        solution("scikit-learn", 0, (1, 8.0, 8.0, -2.5)),
        solution("scikit-learn", 1, (1, 8.0, 16.0, -2.0)),
        solution("gmmx", 0, (1, 1.0, 1.0, -1.0), error="time limit of 9 s"),
    ]
    found = verdicts(records)["a"]
    assert found["target"] == pytest.approx(-2.1)
    reached = {name: (judged["reached"], judged["fits"]) for name, judged in found["contestants"].items()}
    assert reached == {"daskgmm": (1, 1), "scikit-learn": (1, 2), "gmmx": (1, 1)}
    assert found["contestants"]["scikit-learn"]["processor"] == 24
    assert found["contestants"]["gmmx"]["error"] == "time limit of 9 s"


def test_aims_compare_fits_of_the_same_seed() -> None:
    records = [
        solution("daskgmm", 0, (1, 1.0, 2.0, -2.05), (2, 4.0, 4.0, -1.0)),
        solution("scikit-learn", 0, (1, 8.0, 8.0, -2.0)),
        solution("daskgmm", 1, (1, 1.0, 2.0, -3.0)),
        solution("scikit-learn", 1, (1, 8.0, 8.0, -2.0)),
        solution("daskgmm-zarr", 1, (1, 1.0, 2.0, -3.0)),
        solution("daskgmm:plain", 1, (1, 1.0, 2.0, -3.0), passes=12),
    ]
    found = summary(records)
    assert (found["pairs"], found["reached"]) == (2, 1)
    assert (found["wall_speed"], found["processor_speed"]) == (pytest.approx(8), pytest.approx(4))
    assert found["passes"] == pytest.approx(1 / 4)
    records.append(solution("scikit-learn", 2, (1, 3.0, 3.0, -4.0), error="time limit of 3 s"))
    records.append(solution("daskgmm", 2, (1, 3.0, 3.0, -3.0)))
    assert (summary(records)["pairs"], summary(records)["reached"]) == (3, 2)
    few = [record | {"key": ["a", 100_000, 9, "x", 0, 0.1]} for record in records]
    assert summary(few)["pairs"] == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")
def test_the_command_measures_time_to_solution(tmp_path: Path) -> None:
    path, picture = tmp_path / "here.jsonl", tmp_path / "here.png"
    small = ("--rows", "2000", "--data", "photographs", "--seeds", "1", "--max-iter", "10", "--output", str(path))
    names = ("daskgmm", "daskgmm:plain", "scikit-learn", "plain-dask")
    plot = ("--plot", str(picture)) if importlib.util.find_spec("matplotlib") else ()
    report = json.loads(run(*small, "--contestants", *names, "--json", *plot, script="solution.py"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    records = {record["strategy"]: record for record in map(json.loads, path.read_text().splitlines())}
    assert records["plain-dask"]["error"] == "RuntimeError: has no start of its own"
    for name in ("daskgmm", "daskgmm:plain", "scikit-learn"):
        assert "error" not in records[name], records[name]
    ours, theirs = (np.array(records[name]["trajectory"]) for name in ("daskgmm:plain", "scikit-learn"))
    np.testing.assert_allclose(ours[:10, [0, 3]], theirs[:10, [0, 3]], rtol=1e-9)  # the same trajectory
    assert ours[-1, 3] == pytest.approx(theirs[-1, 3], rel=1e-9)
    assert (np.diff(theirs[:, 1:3], axis=0) >= 0).all()  # clocks go on
    assert report["verdicts"]["photographs"]["contestants"]["daskgmm:plain"]["reached"] == 1
    assert picture.exists() == bool(plot)
    measured = path.read_text()
    assert "| photographs | scikit-learn |" in run(*small, "--contestants", *names, script="solution.py")
    assert path.read_text() == measured


@pytest.mark.parametrize("name", ["nobody", "scikit-learn:plain", "daskgmm:nothing"])
def test_a_name_that_is_no_contestant(name: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"no contestant is called '{name}'"):
        known(name)
