"""What is run again and again. Each job ends in the same bits, whatever happens to the workers meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from sklearn.exceptions import ConvergenceWarning

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture, jobs, select
from daskgmm.errors import NonFiniteDataError

Arrays = Mapping[str, Any]

_N_FEATURES, _N_CLUSTERS, _CHUNKS = 4, 4, 20


@dataclass(frozen=True)
class Ground:
    """Where jobs find their data, leave their outputs, and have their passes run."""

    folder: Path
    address: str
    """Of the scheduler."""
    rows: str
    spoiled: str
    """The same rows with a NaN."""
    weights: str

    def output(self, name: str) -> str:
        return str(self.folder / "out" / name)


def prepare(folder: Path, address: str, n_rows: int) -> Ground:
    """Write the data: overlapping clusters, in chunks of a twentieth of the rows."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(_N_CLUSTERS, _N_FEATURES))
    rows = centers[rng.integers(_N_CLUSTERS, size=n_rows)] + rng.normal(size=(n_rows, _N_FEATURES))
    spoiled = rows.copy()
    spoiled[n_rows // 2, 1] = np.nan
    chunk = -(-n_rows // _CHUNKS)
    (folder / "out").mkdir(parents=True)
    names = {name: str(folder / f"{name}.zarr") for name in ("rows", "spoiled", "weights")}
    zarr.create_array(names["rows"], data=rows, chunks=(chunk, _N_FEATURES))
    zarr.create_array(names["spoiled"], data=spoiled, chunks=(chunk, _N_FEATURES))
    zarr.create_array(names["weights"], data=rng.uniform(0.5, 2, size=n_rows), chunks=(chunk,))
    return Ground(folder, address, **names)


# ---- jobs


def full_several_starts(ground: Ground) -> Arrays:
    return _found(GaussianMixture(4, n_init=3, max_iter=5, random_state=0).fit(ground.rows))


def tied_from_a_sample_with_weights(ground: Ground) -> Arrays:
    model = GaussianMixture(4, covariance_type="tied", init_size=2000, n_init=2, random_state=1)
    return _found(model.fit(ground.rows, sample_weight=zarr.open_array(ground.weights, mode="r")))


def diag_accelerated(ground: Ground) -> Arrays:
    model = GaussianMixture(5, covariance_type="diag", acceleration="lbfgs", max_iter=8, random_state=2)
    return _found(model.fit(ground.rows))


def spherical_with_callbacks(ground: Ground) -> Arrays:
    seen: list[Any] = []
    model = GaussianMixture(4, covariance_type="spherical", init_params="random", max_iter=6, random_state=3)
    return _found(model.set_params(callbacks=[seen.append]).fit(ground.rows))


def dask_array(ground: Ground) -> Arrays:
    rows = da.from_zarr(ground.rows) * 2.0
    model = GaussianMixture(3, max_iter=4, random_state=4).fit(rows)
    return {**_found(model), "labels": model.predict(rows).compute()}


def selection(ground: Ground) -> Arrays:
    found = select(
        ground.rows, (2, 4), ("full", "diag"), estimator=GaussianMixture(random_state=5, max_iter=6, init_size=2000)
    )
    return {**_found(found.model), "table": np.array(repr(found.as_record()["candidates"]))}


def bayesian(ground: Ground) -> Arrays:
    return _found(BayesianGaussianMixture(n_components=6, max_iter=6, random_state=6).fit(ground.rows))


def terminal(ground: Ground) -> Arrays:
    """Fit, go on from the saved model, and predict, each with a client of its own and a progress display."""
    rows, first, second = jobs.Rows(ground.rows), ground.output("first.zarr"), ground.output("second.zarr")
    there = {"compute": jobs.Compute(scheduler=ground.address), "overwrite": True}
    jobs.fit(rows, first, {"n_components": 4, "max_iter": 3, "random_state": 7}, **there)
    jobs.fit(rows, second, {"max_iter": 2}, warm_start=first, **there)
    jobs.predict(rows, second, ground.output("results.zarr"), probabilities=True, log_density=True, **there)
    results = zarr.open_group(ground.output("results.zarr"), mode="r")
    return {**_found(daskgmm.load(second)), **{name: array[...] for name, array in results.arrays()}}


def refused(ground: Ground) -> Arrays:
    """A fit that fails in its tasks."""
    try:
        GaussianMixture(3, random_state=8).fit(ground.spoiled)
    except NonFiniteDataError as error:
        return {"error": np.array(str(error))}
    raise AssertionError("a NaN was fitted")


JOBS: Mapping[str, Callable[[Ground], Arrays]] = {
    job.__name__.replace("_", " "): job
    for job in (
        full_several_starts,
        tied_from_a_sample_with_weights,
        diag_accelerated,
        spherical_with_callbacks,
        dask_array,
        selection,
        bayesian,
        terminal,
        refused,
    )
}

#: What the jobs leave in the folder of outputs.
OUTPUTS = {"first.zarr", "second.zarr", "results.zarr"}


def digest(name: str, ground: Ground) -> str:
    """Run a job, and tell all bits of what it found."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # which progress displays write to
        warnings.simplefilter("ignore", ConvergenceWarning)  # they are stopped on purpose
        found = JOBS[name](ground)
    told = hashlib.sha256()
    for key in sorted(found):
        values = np.ascontiguousarray(found[key])
        told.update(f"{key} {values.dtype} {values.shape} ".encode() + values.tobytes())
    return told.hexdigest()


def _found(model: Any) -> Arrays:
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_", "n_passes_", "n_iter_")
    return {name: np.asarray(getattr(model, name)) for name in names}
