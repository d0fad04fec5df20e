"""Data several times larger than the workers' memory: the whole way, and what it costs in memory."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture, load, write_predictions

GIB = 1 << 30
LIMIT = 700_000_000  # five hundred would do without numba
N_FEATURES = 16

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def centers() -> np.ndarray:
    return 4 * np.random.default_rng(1).normal(size=(5, N_FEATURES))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, centers: np.ndarray) -> Path:
    """Four GiB of rows from five components, in chunks of about 6 MB."""
    path = tmp_path_factory.mktemp("large") / "rows.zarr"
    chunk, n_chunks = 50_000, 4 * GIB // (50_000 * N_FEATURES * 8)
    array = zarr.create_array(
        path, shape=(chunk * n_chunks, N_FEATURES), chunks=(chunk, N_FEATURES), dtype="f8", compressors=None
    )
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(chunk, N_FEATURES))
    for i in range(n_chunks):
        array[i * chunk : (i + 1) * chunk] = np.roll(noise, i, axis=1) + centers[rng.integers(5, size=chunk)]
    return path


@contextmanager
def peak_memory(client: Client) -> Iterator[dict[int, int]]:
    """Largest resident size of every worker process while the block runs, in bytes."""
    workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    peaks: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for worker in workers:
                peaks[worker.pid] = max(peaks.get(worker.pid, 0), worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def test_fit_and_predict_stay_below_the_limit(store: Path, centers: np.ndarray, tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        peak_memory(client) as peaks,
    ):
        pids = set(client.run(os.getpid).values())
        model = GaussianMixture(5, random_state=0, init_size=20_000).fit(store)
        model.predict(store).to_zarr(tmp_path / "labels.zarr")
        assert set(client.run(os.getpid).values()) == pids, "a worker died and was replaced"
    assert model.converged_
    nearest = np.linalg.norm(model.means_[:, None] - centers, axis=2).min(axis=0)
    np.testing.assert_allclose(nearest, 0, atol=0.01)
    assert max(peaks.values()) < LIMIT
    labels = da.from_zarr(tmp_path / "labels.zarr")
    np.testing.assert_allclose(np.bincount(labels.compute()) / len(labels), model.weights_, atol=1e-3)


@pytest.fixture(scope="module")
def ocean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three GiB of temperatures and salinities of five water masses, in chunks of 10 MB; a third is land."""
    xr = pytest.importorskip("xarray")
    path = tmp_path_factory.mktemp("ocean") / "ocean.zarr"
    length, lat, lon, n_blocks = 10, 360, 720, 145
    rng = np.random.default_rng(0)
    masses = rng.integers(5, size=(lat, lon))
    land = rng.random((lat, lon)) < 1 / 3
    centers = {"temperature": np.array([2, 8, 14, 20, 26]), "salinity": np.array([34, 35, 33, 36, 38])}
    noise = 0.3 * rng.normal(size=(length, lat, lon))
    for i in range(n_blocks):
        values = {
            name: (("time", "lat", "lon"), np.where(land, np.nan, of[masses] + np.roll(noise, i, axis=2)).astype("f4"))
            for name, of in centers.items()
        }
        coords = {"time": np.arange(i * length, (i + 1) * length), "lat": np.linspace(-89.75, 89.75, lat)}
        block = xr.Dataset(values, coords).chunk()
        if i == 0:
            block.to_zarr(path, consolidated=False)
        else:
            block.to_zarr(path, append_dim="time", consolidated=False)
    return path


def test_a_labelled_grid_stays_below_the_limit(ocean: Path, tmp_path: Path) -> None:
    import xarray as xr

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        peak_memory(client) as peaks,
    ):
        pids = set(client.run(os.getpid).values())
        ds = xr.open_zarr(ocean, consolidated=False)
        model = GaussianMixture(5, random_state=0)
        model.fit(ds, dim=("time", "lat", "lon"), sample_weight=np.cos(np.deg2rad(ds.lat)))
        ds["pcm_label"] = model.predict(ds)
        ds[["pcm_label"]].to_zarr(tmp_path / "labels.zarr", consolidated=False)
        write_predictions(model, ds, tmp_path / "written.zarr")
        assert set(client.run(os.getpid).values()) == pids, "a worker died and was replaced"
    assert model.converged_
    assert max(peaks.values()) < LIMIT
    found = model.to_xarray().sortby(model.to_xarray().means.sel(feature="temperature"))
    np.testing.assert_allclose(found.means.sel(feature="temperature"), [2, 8, 14, 20, 26], atol=0.02)
    np.testing.assert_allclose(found.means.sel(feature="salinity"), [34, 35, 33, 36, 38], atol=0.02)
    labels = xr.open_zarr(tmp_path / "labels.zarr", consolidated=False).pcm_label
    assert (labels.dtype, labels.chunks) == (np.dtype("i8"), ds.temperature.chunks)
    first = labels.isel(time=0).load()
    np.testing.assert_array_equal(first == -1, np.isnan(ds.temperature.isel(time=0)))
    written = xr.open_zarr(tmp_path / "written.zarr", consolidated=False).labels.isel(time=[0, -1])
    np.testing.assert_array_equal(written, labels.isel(time=[0, -1]))


def test_terminal(store: Path, tmp_path: Path) -> None:
    def daskgmm(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "daskgmm", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    limited = ["--workers", "2", "--memory-limit", "700MB"]
    daskgmm(
        "fit", str(store), "-k", "5", "--model", "model.zarr", "--random-state", "0", "--init-size", "20000", *limited
    )
    daskgmm("predict", str(store), "--model", "model.zarr", "--output", "classes.zarr", *limited)
    daskgmm("inspect", "model.zarr")
    model = load(tmp_path / "model.zarr")
    labels = zarr.open_group(tmp_path / "classes.zarr", mode="r")["labels"]
    chunk = slice(0, 50_000)
    np.testing.assert_array_equal(labels[chunk], model.predict(zarr.open_array(store, mode="r")[chunk]))
