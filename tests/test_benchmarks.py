"""The benchmarks run, and measure what they say. Their numbers are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *options: str) -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


KERNELS = ("kernels.py", "--cases", "2x3", "--rows", "600", "--rounds", "1")


def test_kernels_agree_with_scikit_learn() -> None:
    report = json.loads(run(*KERNELS, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    arithmetics = {(r["structure"], r["dtype"], r["arithmetic"]) for r in report["results"]}
    for structure in ("full", "tied", "diag", "spherical"):
        assert {
            (structure, "float64", "float64"),
            (structure, "float64", "precise"),
            (structure, "float32", "float32"),
        } <= arithmetics
    for result in report["results"]:
        assert result["difference"] < (1e-5 if result["dtype"] == "float32" else 1e-12), result
        assert result["ratio"] > 0
        assert len(result["scikit_learn"]) == len(result["daskgmm"]) == 1


def test_kernels_table() -> None:
    lines = run(*KERNELS, "--structures", "diag").splitlines()
    header = next(i for i, line in enumerate(lines) if "scikit-learn" in line and "ratio" in line)
    assert [line.split()[2] for line in lines[header + 1 : -1]] == ["diag"] * 3


@pytest.mark.cluster
def test_out_of_core_makes_a_store_and_uses_it_again(tmp_path: Path) -> None:
    store = tmp_path / "rows.zarr"
    command = ("out_of_core.py", "--store", str(store), "--gb", "0.001", "--features", "3", "--components", "2")
    report = json.loads(run(*command, "--passes", "2", "--memory-limit", "1GiB", "--json"))
    result = report["result"]
    assert result["rows"] == round(1e6 / 24)
    assert result["data_bytes"] == result["rows"] * 24
    assert len(result["estep_seconds"]) == 2
    assert result["workers_survived"]
    assert result["peak_bytes"].keys() == {"worker 0", "worker 1", "driver"}
    assert all(peak >= result["idle_bytes"].get(name, 1 << 20) for name, peak in result["peak_bytes"].items())

    made = (store / "zarr.json").stat().st_mtime_ns
    text = run(*command, "--passes", "1", "--workers", "1")
    assert (store / "zarr.json").stat().st_mtime_ns == made
    assert "GB/s" in text
    assert "worker 0" in text
    assert "worker 1" not in text


ENGINE_KINDS = ["zarr", "random", "chain", "rechunk", "delayed"]
ENGINE = ("engine.py", "--units", "50", "--batches", "2", "--work", "1", "--rounds", "1")


def test_engine_plans_every_kind() -> None:
    report = json.loads(run(*ENGINE, "--schedulers", "threads", "--kinds", *ENGINE_KINDS, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    assert [(p["kind"], p["units"], p["graphs"]) for p in report["planning"]] == [
        (kind, 50, 1) for kind in ENGINE_KINDS
    ]
    assert all(p["batches"] >= 50 for p in report["planning"])
    (overhead,) = report["overhead"]
    assert (overhead["scheduler"], overhead["batches"]) == ("threads", 2)
    assert len(overhead["passes"]) == len(overhead["plain_loops"]) == 1


@pytest.mark.cluster
def test_engine_table() -> None:
    lines = run(*ENGINE, "--kinds", "zarr").splitlines()
    assert lines[-3].split()[:2] == ["zarr", "50"]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["threads", "processes"]
