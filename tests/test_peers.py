"""The comparison with peers runs, and its report says what was measured and what was not. No time is judged here."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peers.py"
HERE = ["daskgmm", "daskgmm-zarr", "scikit-learn", "plain-dask"]  # what daskgmm itself depends on
MODULES = {"spark": "pyspark", "tgmm": "tgmm", "pomegranate": "pomegranate", "gmmx": "gmmx"}
MISSING = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]

pytestmark = pytest.mark.timeout(600)  # a dozen processes, each of which imports its packages


def run(*options: str) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr


def read(directory: Path) -> tuple[dict[str, Any], str]:
    return json.loads((directory / "peers.json").read_text()), (directory / "peers.md").read_text()


def line(report: str, name: str) -> str:
    """Of the first table in which the contestant stands."""
    return next(line for line in report.splitlines() if line.startswith(f"| {name} |"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("peers")
    run("--output", str(directory), "--quick", "--only", *HERE, *MISSING)
    return directory


@pytest.mark.cluster
@pytest.mark.slow
def test_every_contestant_is_measured_or_missing(quick: Path) -> None:
    result, report = read(quick)
    assert {"processor", "cores", "versions"} <= result["machine"].keys()
    assert list(result["missing"]) == MISSING
    for name in MISSING:
        assert "pip install 'daskgmm[bench]'" in line(report, name)
    for record in result["measurements"]:
        assert "error" not in record, record
        assert record["peak_bytes"] >= record["idle_bytes"] > 1 << 20
        assert [fit["max_iter"] for fit in record["fits"]] == ([20] if record["tol"] else [1, 21])
    counts = {name: sum(r["contestant"] == name for r in result["measurements"]) for name in HERE}
    assert set(counts.values()) == {3}  # a whole fit, and iterations for two numbers of rows
    assert sorted(path.name for path in quick.iterdir()) == [
        "memory-against-rows-n.png",
        "peers.json",
        "peers.md",
        "time-against-rows-n.png",
    ]


@pytest.mark.cluster
@pytest.mark.slow
def test_same_iterations_from_the_same_start_end_alike(quick: Path) -> None:
    result, _ = read(quick)
    by_problem: dict[str, list[float]] = {}
    for record in result["measurements"]:
        by_problem.setdefault(str((record["problem"], record["tol"])), []).append(record["log_likelihood"])
    assert len(by_problem) == 3
    for values in by_problem.values():
        assert len(values) == len(HERE)
        assert max(values) - min(values) < 1e-8
    assert len({values[0] for values in by_problem.values()}) == 3  # of different fits


@pytest.mark.cluster
@pytest.mark.slow
def test_bytes_read_are_those_of_the_store(quick: Path) -> None:
    result, _ = read(quick)
    record = next(r for r in result["measurements"] if r["contestant"] == "daskgmm-zarr" and r["tol"] is None)
    short, long = (fit["bytes_read"] for fit in record["fits"])
    if short is not None:  # where the system counts them
        in_memory = record["problem"]["n_rows"] * record["problem"]["n_features"] * 8
        assert long - short > 20 * in_memory / 2  # random rows are hardly compressed


@pytest.mark.cluster
@pytest.mark.slow
def test_report_is_made_again_and_names_errors(quick: Path, tmp_path: Path) -> None:
    result, report = read(quick)
    for record in result["measurements"]:
        if record["contestant"] == "scikit-learn" and record["tol"] is None:
            record["error"] = "MemoryError: Unable to allocate 7 | 8 TiB"
    (tmp_path / "peers.json").write_text(json.dumps(result))
    run("--report", str(tmp_path))
    _, again = read(tmp_path)
    assert (
        line(again, "scikit-learn") == r"| scikit-learn | MemoryError: Unable to allocate 7 \| 8 TiB |  |  |  |  |  |"
    )
    assert line(again, "daskgmm") == line(report, "daskgmm")
    assert "* scikit-learn at N = 6,000, D = 3, K = 3, threads = " in again
    assert re.search(r"^\| scikit-learn \| MemoryError \| MemoryError \|$", again, re.MULTILINE)


def test_what_takes_too_long_is_ended_and_larger_is_not_tried(tmp_path: Path) -> None:
    run("--output", str(tmp_path), "--quick", "--only", "scikit-learn", "--time-limit", "0.1")
    result, report = read(tmp_path)
    whole, small, large = (record["error"] for record in result["measurements"])
    assert whole == small == "time limit of 0.1 s"
    assert large.startswith("not tried: time limit of 0.1 s at N = 2,000")
    assert line(report, "scikit-learn").startswith("| scikit-learn | time limit of 0.1 s |")
    assert not list(tmp_path.glob("*.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json", "peers.md"}  # the data are gone


def test_more_memory_than_allowed_ends_a_contestant(tmp_path: Path) -> None:
    run("--output", str(tmp_path), "--quick", "--only", "scikit-learn", "--memory-limit", "1 kB")
    result, _ = read(tmp_path)
    assert result["measurements"][0]["error"] == "memory limit of 0.98 kiB"
