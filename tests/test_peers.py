"""The comparison with peers runs, and says what was measured and what was not. No time is judged here."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peers.py"
HERE = ["daskgmm", "daskgmm-zarr", "scikit-learn", "plain-dask"]  # what daskgmm itself depends on
MODULES = {"spark": "pyspark", "tgmm": "tgmm", "pomegranate": "pomegranate", "gmmx": "gmmx"}
MISSING = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
SMALL = ("--rows", "2000", "--features", "3", "--components", "3", "--rounds", "1")

pytestmark = pytest.mark.timeout(600)  # a dozen processes, each of which imports its packages


def run(*options: str) -> str:
    command = [sys.executable, "-W", "error", str(SCRIPT), *SMALL, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("tol", [(), ("--tol", "1e-5", "--max-iter", "20")], ids=["an iteration", "a whole fit"])
def test_every_contestant_is_measured_or_missing(tol: tuple[str, ...]) -> None:
    """From the same start the same number of iterations ends alike."""
    result: dict[str, Any] = json.loads(run("--only", *HERE, *MISSING, *tol, "--json"))
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


def test_table_and_what_takes_too_long() -> None:
    lines = run("--only", "scikit-learn", "--time-limit", "0.1").splitlines()
    assert "| scikit-learn | time limit of 0.1 s | | | | | |" in lines


@pytest.mark.slow
def test_table() -> None:
    (line,) = [line for line in run("--only", "daskgmm").splitlines() if line.startswith("| daskgmm |")]
    assert line.split(" | ")[2:4] == ["1", "21"]
