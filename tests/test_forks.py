"""Children that were forked from a process that has fitted, as web servers and loaders of data make them."""

import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import zarr

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"),
    pytest.mark.timeout(120),
]

PROGRAM = """
import json, multiprocessing, sys, warnings
import dask, dask.array as da, distributed, numpy as np, zarr
from daskgmm import GaussianMixture

warnings.simplefilter("ignore")
context = multiprocessing.get_context("fork")
path, *settings = sys.argv[1:]
if "zarrs" in settings:
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
x = zarr.open_array(path, mode="r")[:]
lazy = da.from_array(x, chunks=(20_000, 2))
model = GaussianMixture(2, random_state=0, max_iter=2).fit(path)
lazy.sum().compute()  # Dask's own threads, too
jobs = {
    "fit": lambda: GaussianMixture(2, random_state=0, max_iter=2).fit(x).lower_bound_,
    "predict": lambda: int(model.predict(x).sum()),
    "score": lambda: model.score(x),
    "score dask": lambda: model.score(lazy),
    "score path": lambda: model.score(path),
}

def answer(name):
    try:
        return jobs[name]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def in_child(name):
    found = context.SimpleQueue()
    child = context.Process(target=lambda: found.put(answer(name)))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
        return "waits for ever"
    return found.get()

def answers(*names):
    return {name: [in_child(name), answer(name)] for name in names}

if settings:
    print(json.dumps(answers("score", "score path")))
else:
    alone = answers(*jobs)
    dask.config.set({"daskgmm.timeout": "500ms"})
    client = distributed.Client(n_workers=1, processes=False, dashboard_address="127.0.0.1:0")
    print(json.dumps([alone, answers("score", "score path")]))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rows = np.random.default_rng(0).normal(size=(100_000, 2))
    rows[::2] += 6
    path = tmp_path_factory.mktemp("rows") / "x.zarr"
    zarr.create_array(path, data=rows, chunks=(10_000, 2))
    return path


def answers(path, *settings):
    """Of a forked child and of its parent, by what they were asked."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), *settings], capture_output=True, text=True, check=True, timeout=100
    )
    return json.loads(run.stdout)


def test_forked_children_compute_the_same_unless_they_have_their_parents_client(path):
    alone, with_client = answers(path)
    for name, (child, parent) in alone.items():
        assert child == parent, name
    child, parent = with_client["score path"]
    assert child.startswith("SchedulerError: The event loop of the distributed.Client in use does not run")
    assert with_client["score"] == [parent, parent]  # rows in memory need none


@pytest.mark.slow
def test_zarrs_in_the_parent_is_told(path):
    pytest.importorskip("zarrs")
    found = answers(path, "zarrs")
    child, parent = found["score path"]
    assert child.startswith("StoreError: This process is a fork of one that has used zarrs")
    assert found["score"] == [parent, parent]
