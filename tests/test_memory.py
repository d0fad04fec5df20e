"""The plan of a pass's memory: what it counts, and that a pass which does not fit ends before it starts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import dask.array as da
import distributed
import numpy as np
import pytest
import zarr
from products import mostly_slow
from tracing import load_compiled_loops, traced

from daskgmm import BayesianGaussianMixture, GaussianMixture, select, write_predictions
from daskgmm.cli import main
from daskgmm.core.covariance import STRUCTURES
from daskgmm.data.inputs import as_dataset, resolve
from daskgmm.engine.cluster import planned_cluster
from daskgmm.engine.memory import PROCESS_BYTES, PassPlan, TaskMemory, Worker, check_memory, task_memory
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import WorkerMemoryError
from daskgmm.fitting.fit_spec import Settings
from daskgmm.fitting.initialization import Initialization
from daskgmm.fitting.plan import plan_fit
from daskgmm.results import plan_predictions
from daskgmm.tuning import Tuning

MIB = 1 << 20

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@dataclasses.dataclass(frozen=True)
class Costs:
    leaf_rows: int = 1024
    row_seconds: float = 0.0
    work_bytes: int = 0
    value_bytes: int = 0
    process_bytes: int = 0


def store(path: Path, n_rows: int, chunk_rows: int, **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(path, shape=(n_rows, 8), chunks=(chunk_rows, 8), dtype="float64", **options)
    array[:] = np.random.default_rng(0).normal(size=(n_rows, 8))
    return array


def slabs(data: Any, n_rows: int = 1 << 20) -> int:
    dataset, _ = as_dataset(resolve(data))
    return task_memory(dataset, Costs(), np.array([0, min(n_rows, dataset.n_rows)]), Tuning()).slabs


def test_rows_in_memory_take_nothing() -> None:
    assert slabs(np.zeros((1000, 8))) == 0


def test_rows_in_memory_that_are_sent_once_are_there_while_a_task_reads_them() -> None:
    rows = np.zeros((1 << 16, 8))
    for data in (rows, da.from_array(rows, chunks=(1 << 12, 8))):
        dataset, _ = as_dataset(data)
        held = dataclasses.replace(dataset, rows=dataset.rows.detached(Tuning())[0])
        assert dataset.held_bytes(1 << 14) == 0
        assert (1 << 14) * 64 <= held.held_bytes(1 << 14) < (1 << 15) * 64
        plans = [task_memory(found, Costs(), np.array([0, 1 << 14]), Tuning()).slabs for found in (dataset, held)]
        assert plans[1] - plans[0] >= (1 << 14) * 64


@pytest.mark.parametrize(("chunk", "compressors"), [(1 << 18, "auto"), (1 << 18, None), (1 << 20, "auto")])
def test_rows_of_a_store(tmp_path: Path, chunk: int, compressors: Any) -> None:
    """One slab that is computed on; of the next one the rows, and its chunks as they lie and as they are decoded."""
    n_rows = 2 * chunk
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(n_rows, 8), chunks=(chunk, 8), dtype="f8", compressors=compressors
    )
    slab = max(chunk * 64, 16 * MIB)
    assert slabs(array, n_rows) == slab + slab * (3 if compressors else 2)


def test_only_so_many_chunks_are_decoded_at_a_time(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(1 << 20, 8), chunks=(1 << 10, 8), dtype="f8")
    with zarr.config.set({"async.concurrency": 4}):
        assert slabs(array) == 2 * 16 * MIB + 2 * 4 * (1 << 16)


def test_what_reading_takes_is_what_the_plan_says(tmp_path: Path) -> None:
    array = store(tmp_path / "a.zarr", 1 << 18, 1 << 16)
    dataset, _ = as_dataset(array)
    rows = dataset.longest_slab(dataset.n_rows, Tuning.slab_bytes)
    planned = dataset.rows.reading_bytes(rows)
    reader, batch = dataset.reader(Tuning.slab_bytes), dataset.batch(0, dataset.n_rows)
    reader.read(batch, 0, rows, {})  # once before: what loading code takes is not meant
    with traced() as peak:
        reader.read(batch, 0, rows, {})
    assert 0.5 * planned < peak.n_bytes < 1.2 * planned


def test_blocks_of_a_dask_array_are_read_whole() -> None:
    x = da.zeros((1 << 20, 8), chunks=((1 << 19, 1 << 18, 1 << 18), 8))
    assert slabs(x) == 2 * (1 << 19) * 64


def test_sums_and_shared_leaves() -> None:
    dataset, _ = as_dataset(np.zeros((1 << 16, 8)))
    aligned = task_memory(dataset, Costs(value_bytes=100), np.arange(0, (1 << 16) + 1, 1 << 14), Tuning())
    assert aligned == TaskMemory(0, 0, 0, (Tuning.arity + 3 + 4) * 100)  # a merge: eight nodes, and one of each level
    ragged = task_memory(dataset, Costs(value_bytes=100), np.array([0, 1000, 1 << 16]), Tuning())
    assert ragged.leaves == (2 * Tuning.arity + 1) * 1024 * 64
    assert ragged.values > aligned.values


@pytest.mark.parametrize("structure", mostly_slow(STRUCTURES, "full", "tied-diag", "spherical"))
def test_a_pass_takes_no_more_than_planned(tmp_path: Path, structure: str) -> None:
    """Peak of what one task allocates, against the plan, with one thread."""
    array = store(tmp_path / "a.zarr", 1 << 18, 1 << 15)
    model = GaussianMixture(
        20, covariance_type=structure, max_iter=1, init_size=600, random_state=0, scheduler="synchronous"
    )
    model.fit(array[:1000])
    with DaskEngine("synchronous") as engine:
        dataset, _ = as_dataset(array)
        settings = Settings(Initialization(STRUCTURES[structure], 20, "kmeans"), 1e-3, 1, 1, 600)
        plan = plan_fit(engine, dataset, settings, None)
        assert plan.cache_bytes == dataset.n_rows * dataset.rows.row_bytes
        model._score(array)
        load_compiled_loops()
        with traced() as peak:
            model.set_params(warm_start=True).fit(array)
    passes = 1.2 * max(plan.survey.task.total, plan.estep.task.total)
    assert peak.n_bytes < passes + plan.driver_bytes + plan.cache_bytes + 2 * MIB


@pytest.mark.parametrize(
    "layout",
    [
        *mostly_slow(["stored", "stored in small chunks", "dask, long chunks", "dask, uneven"], "stored"),
    ],
)
def test_predictions_take_no_more_than_planned(tmp_path: Path, layout: str) -> None:
    """Results of twenty components are larger than the rows."""
    rows = np.random.default_rng(0).normal(size=(1 << 18, 8))
    data: Any = {
        "stored": lambda: store(tmp_path / "a.zarr", 1 << 18, 1 << 15),
        "stored in small chunks": lambda: store(tmp_path / "a.zarr", 1 << 18, 1000),
        "dask, uneven": lambda: da.from_array(rows, chunks=((50_000, 7, 100_000, 112_137), 8)),
        "dask, long chunks": lambda: da.from_array(rows, chunks=(1 << 17, 8)),
    }[layout]()
    model = GaussianMixture(20, max_iter=1, init_size=600, random_state=0, tol=1e9, scheduler="synchronous")
    model.fit(rows[:1000])
    asked = {"probabilities": True, "log_density": True}
    plan = plan_predictions(model, data, **asked)
    write_predictions(model, data, tmp_path / "once.zarr", **asked)  # what loading code takes is not meant
    with traced() as peak:
        write_predictions(model, data, tmp_path / "out.zarr", **asked)
    assert peak.n_bytes < plan.task.total + 2 * MIB


# ---- against the workers


def planned(total: int, process_bytes: int = PROCESS_BYTES) -> PassPlan:
    return PassPlan(1, 1, 1, 1, TaskMemory(total, 0, 0, 0), process_bytes)


def test_what_fits() -> None:
    check_memory([], planned(10**12))
    check_memory([Worker("tcp://a:1", 8, 0)], planned(10**12))  # no limit
    check_memory([Worker("tcp://a:1", 2, 1000 * MIB)], planned(300 * MIB))
    with pytest.raises(WorkerMemoryError):  # as two threads take that twice
        check_memory([Worker("tcp://a:1", 2, 1000 * MIB)], planned(500 * MIB))


def test_rows_that_workers_hold_count() -> None:
    workers = [Worker(f"tcp://{name}:1", 2, 1000 * MIB) for name in "ab"]
    check_memory(workers, planned(300 * MIB), 2 * 50 * MIB)
    with pytest.raises(WorkerMemoryError, match=r"200\.00 MiB for rows that were in memory"):
        check_memory(workers, planned(300 * MIB), 2 * 200 * MIB)


def test_what_does_not_fit_says_what_would() -> None:
    workers = [Worker("tcp://a:1", 1, 4000 * MIB), Worker("tcp://b:1", 4, 1000 * MIB)]
    with pytest.raises(WorkerMemoryError) as caught:
        check_memory(workers, planned(300 * MIB))
    for expected in (
        "tcp://b:1",
        "1.41 GiB",
        "0.98 GiB",
        "4 threads",
        "2 threads",
        "1.48 GiB",
        "chunks of fewer rows",
    ):
        assert expected in str(caught.value), expected
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, ValueError)


def test_work_arrays_that_do_not_fit_are_about_the_model() -> None:
    plan = PassPlan(1, 1, 1, 1, TaskMemory(0, 0, 2000 * MIB, 0), PROCESS_BYTES)
    with pytest.raises(WorkerMemoryError, match="fewer components"):
        check_memory([Worker("tcp://a:1", 1, 1000 * MIB)], plan)


@pytest.mark.cluster
def test_a_fit_that_does_not_fit_ends_before_it_reads(tmp_path: Path) -> None:
    """Chunks of 256 MiB and workers of 600 MB: without the plan, Dask would kill them one after the other."""
    huge = zarr.create_array(tmp_path / "a.zarr", shape=(1 << 24, 8), chunks=(1 << 22, 8), dtype="f8")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit="600MB", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        with pytest.raises(WorkerMemoryError, match="chunks of fewer rows"):
            GaussianMixture(2, scheduler=client).fit(huge)
        small = store(tmp_path / "b.zarr", 4096, 1024)
        fitted = GaussianMixture(2, scheduler=client, random_state=0, tol=1).fit(small)
        for use in (fitted.score, lambda data: write_predictions(fitted, data, tmp_path / "out.zarr")):
            with pytest.raises(WorkerMemoryError, match="chunks of fewer rows"):
                use(huge)
        assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]


def test_probabilities_of_many_components_count(tmp_path: Path) -> None:
    """Beside them the rows take nearly nothing."""
    model = GaussianMixture(2, random_state=0).fit(np.random.default_rng(0).normal(size=(100, 2)))
    many = GaussianMixture(1000)
    many.weights_, many.means_ = np.full(1000, 1e-3), np.tile(model.means_, (500, 1))
    many.precisions_cholesky_ = np.tile(model.precisions_cholesky_, (500, 1, 1))
    x = da.zeros((1 << 20, 2), chunks=(1 << 14, 2))
    alone, both = (plan_predictions(many, x, probabilities=asked) for asked in (False, True))
    assert 8 * 1000 * both.leaf_rows < both.task.work - alone.task.work
    many.set_params(scheduler=planned_cluster(2, 1, "300MB"))
    with pytest.raises(WorkerMemoryError):
        plan_predictions(many, x, probabilities=True)


# ---- of a fit


def settings(n_components: int = 4, **changes: Any) -> Settings:
    initialization = Initialization(STRUCTURES["full"], n_components, "kmeans")
    return dataclasses.replace(Settings(initialization, 1e-3, 100, 2, 50_000), **changes)


def test_a_plan_does_not_depend_on_the_number_of_rows(tmp_path: Path) -> None:
    tasks = []
    with DaskEngine("synchronous") as engine:
        for n_rows in (1 << 25, 1 << 30):
            array = zarr.create_array(tmp_path / f"{n_rows}.zarr", shape=(n_rows, 8), chunks=(1 << 16, 8), dtype="f8")
            dataset, _ = as_dataset(array)
            plan = plan_fit(engine, dataset, settings())
            assert plan.n_rows == n_rows
            tasks.append(plan.estep.task)
    assert tasks[0] == tasks[1]


def test_a_plan_can_be_read(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(1 << 20, 8), chunks=(1 << 16, 8), dtype="f4")
    with DaskEngine("synchronous") as engine:
        plan = plan_fit(engine, as_dataset(array)[0], settings())
    assert plan.most_passes == 101  # starts share them
    text = str(plan)
    for expected in ("1048576 × 8 float32", "32.00 MiB", "4 components, full", "this process", "sample"):
        assert expected in text, text
    record = plan.as_record()
    assert record["estep"]["task"]["total"] == plan.estep.task.total
    assert record["worker_bytes"] == plan.worker_bytes > PROCESS_BYTES


def test_more_components_need_more_memory(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(1 << 20, 8), chunks=(1 << 16, 8), dtype="f8")
    dataset, _ = as_dataset(array)
    with DaskEngine("synchronous") as engine:
        few, many = (plan_fit(engine, dataset, settings(k, init_size=None)).estep.task for k in (4, 400))
    assert many.work > few.work
    assert many.values > 50 * few.values


# ---- as users ask for it


def test_an_estimator_plans_without_reading(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(1 << 22, 8), chunks=(1 << 16, 8), dtype="f8")  # without any chunk
    model = GaussianMixture(4, n_init=3, max_iter=10, scheduler="synchronous")
    plan = model.plan(str(tmp_path / "a.zarr"))
    assert (plan.n_rows, plan.n_features, plan.n_components, plan.most_passes) == (1 << 22, 8, 4, 11)
    assert plan.workers == ()
    assert vars(model) == vars(GaussianMixture(4, n_init=3, max_iter=10, scheduler="synchronous"))
    bayesian = BayesianGaussianMixture(n_components=4, scheduler="synchronous").plan(str(tmp_path / "a.zarr"))
    assert bayesian.survey.task.values > plan.survey.task.values


@pytest.mark.parametrize("wrong", [{"n_components": 0}, {"covariance_type": "round"}])
def test_a_plan_of_a_fit_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussianMixture(**wrong).plan(np.zeros((10, 2)))


def test_the_terminal_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("a.zarr", shape=(1 << 20, 8), chunks=(1 << 16, 8), dtype="f8")
    assert main(["fit", "a.zarr", "-k", "4", "--plan"]) == 0
    out = capfd.readouterr().out
    assert "at most" in out
    assert "4 components, full covariance" in " ".join(out.split())
    assert main(["fit", "a.zarr", "-k", "4", "--plan", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["kind"] == "plan"
    assert record["worker_bytes"] > PROCESS_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert main(["fit", "a.zarr", "-k", "4"]) == 2
    assert "--model" in capfd.readouterr().err


@pytest.mark.parametrize("function", ["fit", "plan", "select"])
def test_a_search_that_does_not_fit_ends_before_it_begins(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The covariances take 80 MB, a fit 640 MB, and a search, which begins with 4000 components, 3.3 GB."""
    monkeypatch.setattr("daskgmm.fitting.plan.machine_bytes", lambda: 2 << 30)
    x = da.zeros((100_001, 100), chunks=(10_000, 100)).map_blocks(_no_rows, dtype=float, meta=np.empty((0, 0)))
    model = GaussianMixture(1000)
    functions = {"fit": model.fit, "plan": model.plan, "select": lambda x: select(x, [2, 1000])}
    with pytest.raises(WorkerMemoryError, match=r"the search for its start take 3\..* GiB .*Use init_size=None"):
        functions[function](x)
    for without in (GaussianMixture(1000, init_size=None), continued(1000, 100)):
        assert without.plan(x).n_components == 1000


def _no_rows(block: Any) -> Any:
    raise AssertionError("rows were read")


def continued(n_components: int, n_features: int) -> GaussianMixture:
    model = GaussianMixture(n_components, warm_start=True)
    model.weights_, model.means_ = np.full(n_components, 1 / n_components), np.zeros((n_components, n_features))
    model.covariances_ = np.broadcast_to(np.eye(n_features), (n_components, n_features, n_features))
    return model


def test_the_candidates_of_a_selection_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the 40 mixtures takes up to 1.6 GB while it is fitted, and 0.4 GB while others are."""
    monkeypatch.setattr("daskgmm.fitting.plan.machine_bytes", lambda: 4 << 30)
    x = da.zeros((1000, 500), chunks=(100, 500)).map_blocks(_no_rows, dtype=float, meta=np.empty((0, 0)))
    assert GaussianMixture(100).plan(x).n_components == 100
    with pytest.raises(WorkerMemoryError, match=r"those of all 40 mixtures .*; a fit takes .*Use fewer components"):
        select(x, range(61, 101))


def test_a_plan_names_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("a.zarr", shape=(1 << 20, 8), chunks=(1 << 16, 8), dtype="f8")
    assert main(["fit", "a.zarr", "-k", "4", "--plan", "--json", "--workers", "1", "--memory-limit", "1GB"]) == 0
    (worker,) = json.loads(capfd.readouterr().out)["workers"]
    assert worker["limit"] == 10**9
    assert main(["fit", "a.zarr", "-k", "4", "--plan", "--workers", "1", "--memory-limit", "400MB"]) == 1
    assert "limit is 381.47 MiB" in capfd.readouterr().err
