"""Zarr's codec pipelines and stores: whichever reads a store, the bits are the same, and workers use the driver's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from daskgmm import GaussianMixture
from daskgmm.data.inputs import as_dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Said of every store that zarrs opens again in another form.
    pytest.mark.filterwarnings("ignore:Successfully reconstructed a store:RuntimeWarning"),
]

DEFAULT, ZARRS = "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"


@pytest.fixture(params=[{}, {"shards": (3000, 3)}, {"compressors": None}], ids=["zstd", "sharded", "uncompressed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(c, 1.0, (5000, 3)) for c in (-4.0, 4.0)])
    array = zarr.create_array(tmp_path / "a.zarr", shape=rows.shape, chunks=(300, 3), dtype=rows.dtype, **request.param)
    array[:] = rows
    return tmp_path / "a.zarr"


def fitted(data: Any) -> Any:
    return GaussianMixture(2, random_state=0, max_iter=4, tol=0, scheduler="threads").fit(data)


def test_zarrs_reads_the_same(path: Path) -> None:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        array = zarr.open_array(path, mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        fast = fitted(str(path))
    plain = fitted(str(path))
    np.testing.assert_array_equal(fast.means_, plain.means_)
    np.testing.assert_array_equal(fast.covariances_, plain.covariances_)


def test_workers_read_with_the_pipeline_of_the_driver(path: Path) -> None:
    """The configuration of a process stays with it; the handle of the data goes to the workers."""
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        dataset, _ = as_dataset(zarr.open_array(path, mode="r"))
        sent = pickle.dumps(dataset.reader(1).handles)
    assert zarr.config.get("codec_pipeline.path") == DEFAULT
    handle = pickle.loads(sent)[0]
    assert type(handle.array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
    np.testing.assert_array_equal(handle[100:700], zarr.open_array(path, mode="r")[100:700])


def test_obstore_reads_the_same(path: Path) -> None:
    obstore = pytest.importorskip("obstore.store")
    array = zarr.open_array(zarr.storage.ObjectStore(obstore.LocalStore(str(path))), mode="r")
    plain = zarr.open_array(LocalStore(path), mode="r")
    np.testing.assert_array_equal(fitted(array).means_, fitted(plain).means_)
