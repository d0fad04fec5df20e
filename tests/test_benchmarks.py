"""The benchmarks run, and measure what they say. Their numbers are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daskgmm.names import COVARIANCE_TYPES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *options: str) -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


KERNELS = ("kernels.py", "--cases", "2x3", "--rows", "600", "--rounds", "1")


@pytest.mark.slow
def test_kernels_agree_with_scikit_learn() -> None:
    report = json.loads(run(*KERNELS, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    arithmetics = {(r["structure"], r["dtype"], r["arithmetic"]) for r in report["results"]}
    for structure in COVARIANCE_TYPES:
        assert {
            (structure, "float64", "float64"),
            (structure, "float64", "precise"),
            (structure, "float32", "float32"),
        } <= arithmetics
    for result in report["results"]:
        assert result["difference"] < (1e-5 if result["dtype"] == "float32" else 1e-12), result
        assert result["ratio"] > 0
        assert len(result["scikit_learn"]) == len(result["daskgmm"]) == 1


@pytest.mark.slow
def test_kernels_table() -> None:
    lines = run(*KERNELS, "--structures", "diag").splitlines()
    header = next(i for i, line in enumerate(lines) if "scikit-learn" in line and "ratio" in line)
    assert [line.split()[2] for line in lines[header + 1 : -1]] == ["diag"] * 3


@pytest.mark.slow
def test_single_precision_is_compared_with_double() -> None:
    sizes = ("--rows", "3000", "--pass-rows", "500", "--seeds", "1", "--tols", "1e-4", "--rounds", "1")
    report = json.loads(run("single_precision.py", "--passes", "full:2x3", "--fits", "diag:2x3:5", *sizes, "--json"))
    assert [result["case"] for result in report["passes"]] == ["full:2x3"]
    assert {result["start"] for result in report["fits"]} == {"all rows", "samples"}
    for result in report["fits"]:
        assert 0 < result["n_single"] < result["passes"][1]
        assert abs(result["gained"]) < 1e-4


@pytest.mark.slow
def test_climbs_are_compared_with_the_steps_of_lbfgs() -> None:
    report = json.loads(
        run("tilted.py", "--data", "full:3x4:20", "--rows", "100001", "--tols", "1e-6", "--seeds", "1", "--json")
    )
    (result,) = report["fits"]
    assert result["passes"][1] < result["passes"][0]
    assert 0 < result["work"] <= 3
    assert abs(result["gained"]) < 1e-5


ONEDAL = """
class em_gmm:
    def __init__(self, k, **settings):
        self.settings = settings

    def compute(self, rows, weights, means, covariances):
        if self.settings["covarianceStorage"] == "diagonal" and len(means) == 2:
            raise RuntimeError("singular")
        assert rows.dtype == {"double": "float64", "float": "float32"}[self.settings["fptype"]]
        assert weights.shape == (1, len(means)) == (1, len(covariances))
        return self

    @property
    def nIterations(self):
        import numpy
        return numpy.array([[self.settings["maxIterations"]]])

def daalinit(threads):
    assert threads == 1
"""


@pytest.mark.slow
def test_grid(tmp_path: Path) -> None:
    """With a stand-in for oneDAL, which gives up on some problems."""
    (tmp_path / "daal4py.py").write_text(ONEDAL)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    few = ("--features", "2", "3", "--components", "1", "2", "--seconds", "1e-6", "--rounds", "1")
    text = run("grid.py", *few, "--structures", "full", "diag", "tied", "--onedal", str(python), "--json")
    cells = json.loads(text)["cells"]
    assert len(cells) == 3 * 2 * 2 * 2
    for cell in cells:
        structure, k = cell["problem"]["structure"], cell["problem"]["n_components"]
        assert (cell["onedal"] is not None) == (structure == "full" or (structure == "diag" and k == 1))
        assert (cell["triangles"] is not None) == (structure == "full")
        assert min(cell["daskgmm"], cell["products"]) > 0
    (tmp_path / "grid.json").write_text(text)
    tables = run("grid.py", "--report", str(tmp_path / "grid.json"))
    assert "| full, float64 | K = 1 | K = 2 |" in tables
    assert tables.count("| D = 3 |") == 6


FEW_ROWS = ("few_rows.py", "--cases", "3x2", "--rows", "1", "20", "--calls", "3")


@pytest.mark.slow
def test_few_rows_agree_with_scikit_learn() -> None:
    report = json.loads(run(*FEW_ROWS, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    assert len(report["results"]) == 4 * 2 * 2 * 4  # structures, dtypes, numbers of rows, methods
    for result in report["results"]:
        assert result["difference"] < (1e-4 if result["dtype"] == "float32" else 1e-10), result
        assert result["ratio"] > 0
        assert result["first"] > 0


@pytest.mark.slow
def test_imports_are_timed_after_the_packages() -> None:
    report = json.loads(run("imports.py", "--rounds", "1", "--slowest", "3", "--json"))
    assert report["result"]["ratio"] > 1
    assert len(report["slowest"]) == 3


@pytest.mark.slow
def test_few_rows_table() -> None:
    lines = run(*FEW_ROWS, "--structures", "tied", "--dtypes", "float64").splitlines()
    assert [line.split()[2:4] for line in lines if "tied" in line] == [["tied", "1"], ["tied", "20"]]
    assert lines[-1].startswith("largest ratio")


@pytest.mark.slow
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
    assert result["planned_bytes"] > 200 << 20
    assert all(peak >= result["idle_bytes"].get(name, 1 << 20) for name, peak in result["peak_bytes"].items())

    made = (store / "zarr.json").stat().st_mtime_ns
    text = run(*command, "--passes", "1", "--workers", "1")
    assert (store / "zarr.json").stat().st_mtime_ns == made
    assert "GB/s" in text
    assert "worker 0" in text
    assert "worker 1" not in text


ENGINE_KINDS = ["zarr", "random", "chain", "rechunk", "delayed"]
ENGINE = ("engine.py", "--units", "50", "--batches", "2", "--work", "1", "--rounds", "1")


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [["zarr"], ENGINE_KINDS], ids=len)
def test_engine_plans_every_kind(kinds: list[str]) -> None:
    report = json.loads(run(*ENGINE, "--schedulers", "threads", "--kinds", *kinds, "--json"))
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    assert [(p["kind"], p["units"], p["graphs"]) for p in report["planning"]] == [(kind, 50, 1) for kind in kinds]
    assert all(p["batches"] >= 50 for p in report["planning"])
    (overhead,) = report["overhead"]
    assert (overhead["scheduler"], overhead["batches"]) == ("threads", 2)
    assert len(overhead["passes"]) == len(overhead["plain_loops"]) == 1


@pytest.mark.slow
@pytest.mark.cluster
def test_engine_table() -> None:
    lines = run(*ENGINE, "--kinds", "zarr").splitlines()
    assert lines[-3].split()[:2] == ["zarr", "50"]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["threads", "processes"]


@pytest.mark.slow
def test_fits_of_both_libraries() -> None:
    command = ("fits.py", "--cases", "full:2x3", "tied:3x2", "--rows", "5000", "--rounds", "1")
    report = json.loads(run(*command, "--json"))
    assert [(r["structure"], r["n_features"], r["n_components"]) for r in report["results"]] == [
        ("full", 2, 3),
        ("tied", 3, 2),
    ]
    for result in report["results"]:
        assert result["arithmetic"] == "float64"
        assert len(result["scikit_learn"]) == len(result["daskgmm"]) == len(result["float32"]) == 1


@pytest.mark.slow
def test_stages_of_a_first_fit() -> None:
    command = ("first_fit.py", "--cases", "300x2x3", "--rounds", "1")
    (result,) = json.loads(run(*command, "--json"))["results"]
    assert (result["n_rows"], result["n_features"], result["n_components"], result["loops"]) == (300, 2, 3, "numpy")
    for clock in ("processor", "elapsed"):
        times = [result[clock][stage] for stage in ("survey", "start", "first E-step")]
        assert 0 < times[0] < times[1] < times[2]
    assert "300, 2, 3   numpy" in run(*command)


@pytest.mark.slow
def test_fits_table() -> None:
    assert "ratio" in run("fits.py", "--cases", "full:2x3", "--rows", "5000", "--rounds", "1")


@pytest.mark.slow
@pytest.mark.cluster
def test_stream(tmp_path: Path) -> None:
    command = ("stream.py", "--store", str(tmp_path), "--gb", "0.002", "--rounds", "1", "--passes", "2", "--cores", "1")
    layout = "zstd, 1 MiB chunks"
    report = json.loads(run(*command, "--layouts", layout, "--pipelines", "default", "--stores", "local", "--json"))
    (result,) = report["results"]
    assert (result["layout"], result["pipeline"], result["store"]) == (layout, "default", "local")
    assert result["read"] > 0
    assert result["compute"] > 0
    assert result["ratio"].keys() == {"1 threads", "1 processes"}
    report = json.loads(run(*command, "--layouts", layout, "--pipelines", "default", "--results", "--alone", "--json"))
    names = ("labels", "labels and probabilities", "labels and log-densities")
    assert {result["layout"] for result in report["results"]} == {*names, *(f"{name}, uneven dask" for name in names)}
    for result in report["results"]:
        assert min(result["read"], result["compute"], result["write"]) > 0
        assert result["ratio"].keys() == {"1 threads", "1 processes"}
    assert len(list(tmp_path.iterdir())) == 1  # what was written is gone


@pytest.mark.slow
def test_regression_compares_two_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # to know its tree from those of others
    here = BENCHMARKS.parent
    if not (here / ".git").exists():
        pytest.skip("the other version comes from Git, and this is no checkout")
    command = ("regression.py", "--against", "HEAD", "--rounds", "1", "--size", "0.01", "--cases", "full 2,10")
    report = json.loads(run(*command, "--json"))
    assert report["against"] == "HEAD"
    (result,) = report["results"]
    assert result["case"] == "full 2,10"
    assert result["ratio"] == result["here"][0] / result["there"][0]
    left = subprocess.run(["git", "worktree", "list"], cwd=here, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_regression_can_fail() -> None:
    if not (BENCHMARKS.parent / ".git").exists():
        pytest.skip("the other version comes from Git, and this is no checkout")
    command = ("regression.py", "--rounds", "1", "--size", "0.01", "--cases", "full 2,10", "--fail-above", "0")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / command[0]), *command[1:]], capture_output=True, timeout=240
    )
    assert done.returncode == 1


@pytest.mark.slow
def test_rare_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    command = ("rare.py", "--output", str(tmp_path / "rare.jsonl"), "--rows", "20000", "--sizes", "400", "--seeds", "1")
    run(*command, "--methods", "moves")
    first = (tmp_path / "rare.jsonl").read_text()
    table = run(*command, "--methods", "moves,sample").splitlines()
    records = [json.loads(line) for line in (tmp_path / "rare.jsonl").read_text().splitlines()]
    assert (tmp_path / "rare.jsonl").read_text().startswith(first)
    assert len(records) == len({tuple(record["key"]) for record in records}) == 6
    found = [record for record in records if record["key"][4] == "moves"]
    assert table[-1].endswith(
        f"| {sum(r['found'] for r in found)} of 3 ({sum(r['n_passes'] for r in found) / 3:.1f} passes) |"
    )
