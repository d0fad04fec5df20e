"""The contestants: how each peer fits full covariances to a problem, as its own documentation says.

Each is a generator. What it imports and starts comes before its first ``yield``; then it reads the rows, and the
second one hands out the function that fits them: from the common start, for ``max_iter`` iterations, or fewer where
``tol``, in nats a row, stops it. None means that nothing does. It returns the mixture and how many iterations
there were, if that is told.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from contest.problem import REG_COVAR, Mixture, Task

Fit = Callable[[int, float | None], tuple[Mixture, int | None]]
Steps = Iterator[Fit | None]


@dataclass(frozen=True)
class Contestant:
    """A peer and what a reader of its numbers has to know."""

    steps: Callable[[Task], Steps]
    distributions: tuple[str, ...]
    """What pip calls it, and what computes for it."""
    modules: tuple[str, ...]
    """What has to be there to import."""
    note: str = ""
    stopping: str = ""
    """How its rule differs from scikit-learn's: the mean log-likelihood changes by less than tol."""
    blas_threads: int | None = None
    """None: as many as the problem allows."""
    compiles: bool = False
    """Whether the first fit of so many iterations has something to compile that others do not need."""

    def missing(self) -> str | None:
        """What to do where it is not installed."""
        there = all(importlib.util.find_spec(module) for module in self.modules)
        return None if there else "missing: pip install 'daskgmm[bench]'"

    def versions(self) -> dict[str, str]:
        return {} if self.missing() else {name: version(name) for name in self.distributions}


def fit_as_scikit_learn(estimator: type, rows: Any, task: Task, **options: Any) -> Fit:
    """Scikit-learn's interface, which is daskgmm's, too."""

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        model = estimator(
            task.problem.n_components,
            tol=tol or 0.0,
            reg_covar=REG_COVAR,
            max_iter=max_iter,
            weights_init=task.start.weights,
            means_init=task.start.means,
            precisions_init=np.linalg.inv(task.start.covariances),
            **options,
        ).fit(rows)
        return Mixture(model.weights_, model.means_, model.covariances_), model.n_iter_

    return fit


def scikit_learn(task: Task) -> Steps:
    from sklearn.mixture import GaussianMixture

    yield None
    yield fit_as_scikit_learn(GaussianMixture, np.load(task.rows), task)


def daskgmm(task: Task) -> Steps:
    from daskgmm import GaussianMixture

    yield None
    yield fit_as_scikit_learn(GaussianMixture, np.load(task.rows), task, scheduler="threads")


def daskgmm_zarr(task: Task) -> Steps:
    from distributed import Client, LocalCluster

    from daskgmm import GaussianMixture

    with (
        LocalCluster(n_workers=task.problem.threads, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield None
        yield fit_as_scikit_learn(GaussianMixture, str(task.store), task, scheduler=client)


def plain_dask(task: Task) -> Steps:
    import dask.array as da

    from contest.plain_dask import fit_mixture

    yield None
    rows = da.from_zarr(str(task.store)).persist()

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        *fitted, n_iter = fit_mixture(rows, *vars(task.start).values(), REG_COVAR, max_iter, tol or 0.0)
        return Mixture(*fitted), n_iter

    yield fit


def spark(task: Task) -> Steps:
    from pyspark.ml.clustering import GaussianMixture
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import SparkSession

    options = {
        "spark.driver.memory": "6g",  # 1 GB by default, less than the others may use
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(task.directory),
    }
    session = SparkSession.builder.master(f"local[{task.problem.threads}]").config(map=options).getOrCreate()
    yield None
    table = session.read.parquet(str(task.parquet)).select(array_to_vector("row").alias("features"))
    rows = table.repartition(2 * task.problem.threads).cache()
    rows.count()

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        total = (tol or 0.0) * task.problem.n_rows
        model = GaussianMixture(k=task.problem.n_components, maxIter=max_iter, tol=total, seed=0).fit(rows)
        means, covariances = zip(*((part.mean.toArray(), part.cov.toArray()) for part in model.gaussians), strict=True)
        return Mixture(np.array(model.weights), np.array(means), np.array(covariances)), model.summary.numIter

    yield fit


def tgmm(task: Task) -> Steps:
    import torch
    from tgmm import GaussianMixture

    torch.set_num_threads(task.problem.threads)
    yield None
    rows, level = torch.from_numpy(np.load(task.rows)), abs(task.level)

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        model = GaussianMixture(
            n_components=task.problem.n_components,
            n_features=task.problem.n_features,
            tol=tol / level if tol else 1e-300,  # it has to be positive
            reg_covar=REG_COVAR,
            max_iter=max_iter,
            init_weights=torch.tensor(task.start.weights),
            init_means=torch.tensor(task.start.means),
            init_covariances=torch.tensor(task.start.covariances),
            device="cpu",
        ).fit(rows)
        mixture = Mixture(model.weights_.numpy(), model.means_.numpy(), model.covariances_.numpy())
        return mixture, model.n_iter_ + 1  # it tells the index of the last one

    yield fit


def pomegranate(task: Task) -> Steps:
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    torch.set_num_threads(task.problem.threads)
    yield None
    rows, start = torch.from_numpy(np.load(task.rows)), task.start

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        parts = [Normal(torch.tensor(m), torch.tensor(c)) for m, c in zip(start.means, start.covariances, strict=True)]
        model = GeneralMixtureModel(
            parts,
            priors=torch.tensor(start.weights),
            max_iter=max_iter,
            tol=tol * task.problem.n_rows if tol else -math.inf,
        )
        model.double().fit(rows)  # in float32 otherwise, whatever the type of the start
        means, covariances = zip(*((part.means.numpy(), part.covs.numpy()) for part in parts), strict=True)
        return Mixture(model.priors.numpy(), np.array(means), np.array(covariances)), None if tol else max_iter

    yield fit


def gmmx(task: Task) -> Steps:
    import jax
    from gmmx import EMFitter, GaussianMixtureModelJax

    def single(values: Any) -> Any:
        return jax.numpy.asarray(values, dtype="float32")

    yield None
    rows = single(np.load(task.rows))
    start = (single(task.start.means), single(task.start.covariances), single(task.start.weights))

    def fit(max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        fitter = EMFitter(max_iter=max_iter, tol=tol or 0.0, reg_covar=REG_COVAR)
        result = jax.block_until_ready(fitter.fit(rows, GaussianMixtureModelJax.from_squeezed(*start, "full")))
        fitted = result.gmm
        mixture = Mixture(fitted.weights_numpy, fitted.means_numpy, fitted.covariances.values_numpy)
        return mixture, int(result.n_iter)

    yield fit


TOTAL = "the total log-likelihood changes by less than N × tol"
CONTESTANTS = {
    "daskgmm": Contestant(daskgmm, ("daskgmm",), ("daskgmm",), "an array in memory, threads"),
    "daskgmm-zarr": Contestant(
        daskgmm_zarr, ("daskgmm",), ("daskgmm",), "worker processes; reads the store in every iteration"
    ),
    "scikit-learn": Contestant(scikit_learn, ("scikit-learn",), ("sklearn",)),
    "plain-dask": Contestant(
        plain_dask, ("dask",), ("dask.array",), "rows persisted; one BLAS thread beside Dask's threads", blas_threads=1
    ),
    "spark": Contestant(
        spark,
        ("pyspark",),
        ("pyspark", "pyarrow"),
        "starts on its own, since its interface takes no start; no reg_covar; rows cached in the JVM; adds 2e-16 to"
        " each density, and stands still where densities are smaller than that, as in many dimensions",
        TOTAL,
    ),
    "tgmm": Contestant(
        tgmm, ("tgmm", "torch"), ("tgmm", "torch"), stopping="relative change below tol / |log-likelihood of the start|"
    ),
    "pomegranate": Contestant(
        pomegranate,
        ("pomegranate", "torch"),
        ("pomegranate", "torch"),
        "no reg_covar; does not tell its iterations",
        TOTAL,
    ),
    "gmmx": Contestant(
        gmmx, ("gmmx", "jax"), ("gmmx", "jax"), "float32 only; compiles anew for each max_iter", compiles=True
    ),
}
