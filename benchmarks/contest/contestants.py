"""The contestants: how each peer fits full covariances to a problem, as its own documentation says.

Each is a generator. What it imports and starts comes before its first ``yield``; then it reads the rows, and the
second one hands out a `Peer`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from settings import PLAIN

from contest.problem import REG_COVAR, Mixture, Task

Fit = Callable[[Mixture, int, float | None], tuple[Mixture, int | None]]
"""From a start, for ``max_iter`` iterations, or fewer where ``tol``, in nats a row, stops it; None means that nothing
does. Returns the mixture and how many iterations there were, if that is told."""

STAGE = 5  # iterations between two looks at a peer that tells nothing while it fits


@dataclass(frozen=True)
class Attempt:
    """A whole fit from a start of the peer's own."""

    seed: int
    tol: float
    max_iter: int
    settings: dict[str, Any] = field(default_factory=dict)
    """What else daskgmm's constructor gets."""
    tell: Callable[[int, Mixture | float], float] = lambda _, level: math.nan
    """Called with the iterations so far and the mean log-likelihood, or the mixture that has it; returns the former."""


Solution = tuple[Mixture, int, int]  # with the iterations and the passes over the rows
Solve = Callable[[Attempt], Solution]


@dataclass(frozen=True)
class Peer:
    """What a contestant can do with the rows."""

    fit: Fit
    solve: Solve | None = None
    """None: the common start alone."""


Steps = Iterator[Peer | None]


def by_stages(begin: Callable[[int], Mixture], fit: Fit) -> Solve:
    """A whole fit of a peer that tells nothing before its end, with scikit-learn's rule to stop at each stage."""

    def solve(attempt: Attempt) -> Solution:
        mixture, n_iter, change = begin(attempt.seed), 0, math.inf
        level = attempt.tell(0, mixture)
        while n_iter < attempt.max_iter and change >= STAGE * attempt.tol:
            mixture, _ = fit(mixture, STAGE, None)
            n_iter += STAGE
            previous, level = level, attempt.tell(n_iter, mixture)
            change = abs(level - previous)
        return mixture, n_iter, n_iter

    return solve


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
        return {} if self.missing() else {name: version_of(name) for name in self.distributions}


def version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not known"  # put on the path without its metadata, as some system packages are


def fit_as_scikit_learn(estimator: type, rows: Any, **options: Any) -> Fit:
    """Scikit-learn's interface, which is daskgmm's, too."""

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        model = estimator(
            len(start.weights),
            tol=tol or 0.0,
            reg_covar=REG_COVAR,
            max_iter=max_iter,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=np.linalg.inv(start.covariances),
            **options,
        ).fit(rows)
        return Mixture(model.weights_, model.means_, model.covariances_), model.n_iter_

    return fit


def scikit_learn(task: Task) -> Steps:
    from sklearn.mixture import GaussianMixture

    yield None
    rows = np.load(task.rows)

    def solve(attempt: Attempt) -> Solution:
        class Told(GaussianMixture):
            """Tells the result of every E-step."""

            steps = 0

            def _e_step(self, *args: Any, **options: Any) -> Any:
                result = super()._e_step(*args, **options)
                self.steps += 1
                attempt.tell(self.steps, float(result[0]))
                return result

        options = {"tol": attempt.tol, "max_iter": attempt.max_iter, "random_state": attempt.seed}
        model = Told(task.problem.n_components, reg_covar=REG_COVAR, **options).fit(rows)
        return Mixture(model.weights_, model.means_, model.covariances_), model.n_iter_, model.steps

    yield Peer(fit_as_scikit_learn(GaussianMixture, rows), solve)


def daskgmm_peer(rows: Any, task: Task, scheduler: Any) -> Peer:
    """Fits of `daskgmm.GaussianMixture`: plain EM from a given start, defaults and ``settings`` otherwise."""
    from daskgmm import GaussianMixture
    from daskgmm.events import IterationFinished

    def solve(attempt: Attempt) -> Solution:
        def listen(event: Any) -> None:
            if isinstance(event, IterationFinished):
                attempt.tell(event.iteration, event.lower_bound)

        options = {"tol": attempt.tol, "max_iter": attempt.max_iter, "random_state": attempt.seed}
        options |= {"reg_covar": REG_COVAR, "scheduler": scheduler, "callbacks": [listen]} | attempt.settings
        model = GaussianMixture(task.problem.n_components, **options).fit(rows)
        return Mixture(model.weights_, model.means_, model.covariances_), model.n_iter_, model.n_passes_

    return Peer(fit_as_scikit_learn(GaussianMixture, rows, scheduler=scheduler, **PLAIN), solve)


def daskgmm(task: Task) -> Steps:
    import daskgmm  # noqa: F401  # before the rows

    yield None
    yield daskgmm_peer(np.load(task.rows), task, "synchronous" if task.problem.threads == 1 else "threads")


def daskgmm_zarr(task: Task) -> Steps:
    from distributed import Client, LocalCluster

    import daskgmm  # noqa: F401  # before the rows

    with (
        LocalCluster(n_workers=task.problem.threads, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield None
        yield daskgmm_peer(str(task.store), task, client)


def plain_dask(task: Task) -> Steps:
    import dask.array as da

    from contest.plain_dask import fit_mixture

    yield None
    rows = da.from_zarr(str(task.store)).persist()

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        *fitted, n_iter = fit_mixture(rows, *vars(start).values(), REG_COVAR, max_iter, tol or 0.0)
        return Mixture(*fitted), n_iter

    yield Peer(fit)


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

    def fit_from(seed: int, max_iter: int, tol: float | None) -> tuple[Mixture, int]:
        total = (tol or 0.0) * task.problem.n_rows
        model = GaussianMixture(k=task.problem.n_components, maxIter=max_iter, tol=total, seed=seed).fit(rows)
        means, covariances = zip(*((part.mean.toArray(), part.cov.toArray()) for part in model.gaussians), strict=True)
        return Mixture(np.array(model.weights), np.array(means), np.array(covariances)), model.summary.numIter

    def solve(attempt: Attempt) -> Solution:
        mixture, n_iter = fit_from(attempt.seed, attempt.max_iter, attempt.tol)
        return mixture, n_iter, n_iter

    yield Peer(lambda _, max_iter, tol: fit_from(0, max_iter, tol), solve)


def tgmm(task: Task) -> Steps:
    import torch
    from tgmm import GaussianMixture

    torch.set_num_threads(task.problem.threads)
    yield None
    rows = torch.from_numpy(np.load(task.rows))

    def fit_model(max_iter: int, tol: float | None, **options: Any) -> tuple[Mixture, int | None]:
        model = GaussianMixture(
            n_components=task.problem.n_components,
            n_features=task.problem.n_features,
            tol=tol / abs(task.level) if tol else 1e-300,  # it has to be positive
            reg_covar=REG_COVAR,
            max_iter=max_iter,
            device="cpu",
            **options,
        ).fit(rows)
        mixture = Mixture(model.weights_.numpy(), model.means_.numpy(), model.covariances_.numpy())
        return mixture, model.n_iter_ + 1  # it tells the index of the last one

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        options = {f"init_{name}": torch.tensor(values) for name, values in vars(start).items()}
        return fit_model(max_iter, tol, **options)

    def begin(seed: int) -> Mixture:
        return fit_model(1, None, random_state=seed)[0]

    yield Peer(fit, by_stages(begin, fit))


def pomegranate(task: Task) -> Steps:
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    torch.set_num_threads(task.problem.threads)
    yield None
    rows = torch.from_numpy(np.load(task.rows))

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
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

    yield Peer(fit)


def gmmx(task: Task) -> Steps:
    import jax
    from gmmx import EMFitter, GaussianMixtureModelJax

    def single(values: Any) -> Any:
        return jax.numpy.asarray(values, dtype="float32")

    yield None
    rows = single(np.load(task.rows))

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        parameters = (single(start.means), single(start.covariances), single(start.weights))
        fitter = EMFitter(max_iter=max_iter, tol=tol or 0.0, reg_covar=REG_COVAR)
        result = jax.block_until_ready(fitter.fit(rows, GaussianMixtureModelJax.from_squeezed(*parameters, "full")))
        return mixture_of(result.gmm), int(result.n_iter)

    def mixture_of(model: Any) -> Mixture:
        return Mixture(model.weights_numpy, model.means_numpy, model.covariances.values_numpy)

    def begin(seed: int) -> Mixture:
        options = {"reg_covar": REG_COVAR, "random_state": seed}
        return mixture_of(GaussianMixtureModelJax.from_k_means(rows, task.problem.n_components, **options))

    yield Peer(fit, by_stages(begin, fit))


def onedal(task: Task) -> Steps:
    import daal4py

    daal4py.daalinit(task.problem.threads)
    yield None
    rows, n_components = np.load(task.rows), task.problem.n_components

    def fit(start: Mixture, max_iter: int, tol: float | None) -> tuple[Mixture, int | None]:
        total = (tol or 0.0) * task.problem.n_rows
        em = daal4py.em_gmm(nComponents=n_components, maxIterations=max_iter, accuracyThreshold=total)
        result = em.compute(rows, start.weights[None], start.means, list(start.covariances))
        return mixture_of(result), int(np.ravel(result.nIterations)[0])

    def mixture_of(result: Any) -> Mixture:
        return Mixture(result.weights[0], result.means, np.stack(result.covariances))

    def begin(seed: int) -> Mixture:
        engine = daal4py.engines_mt19937(seed=seed)
        return mixture_of(daal4py.em_gmm_init(nComponents=n_components, engine=engine).compute(rows))

    yield Peer(fit, by_stages(begin, fit))


TOTAL = "the total log-likelihood changes by less than N × tol"
CONTESTANTS = {
    "daskgmm": Contestant(daskgmm, ("daskgmm",), ("daskgmm",), "an array in memory, threads"),
    "daskgmm-zarr": Contestant(
        daskgmm_zarr, ("daskgmm",), ("daskgmm",), "worker processes; reads the store in every iteration"
    ),
    "scikit-learn": Contestant(scikit_learn, ("scikit-learn",), ("sklearn",)),
    "onedal": Contestant(
        onedal,
        ("scikit-learn-intelex", "daal"),
        ("daal4py",),
        "reg_covar only where a covariance is not positive definite",
        TOTAL,
    ),
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
