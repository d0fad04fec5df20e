"""What the contestants are given: rows in three formats and a start; and the log-likelihood that judges them all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_BYTES = 4 << 20
REG_COVAR = 1e-6
JUDGED_ROWS = 200_000  # the first ones, so that judging a fit takes no longer than the fit


@dataclass(frozen=True)
class Problem:
    """Size of a fit, and the threads or worker processes that it may use."""

    n_rows: int
    n_features: int
    n_components: int
    threads: int

    def __str__(self) -> str:
        return f"N = {self.n_rows:,}, D = {self.n_features}, K = {self.n_components}, threads = {self.threads}"

    @property
    def work(self) -> int:
        """Of an iteration, roughly; in no unit."""
        return self.n_rows * self.n_components * (self.n_features + 8)

    @property
    def iterations(self) -> int:
        """EM iterations to time: more where one is short, so that they stand out from what a fit does besides."""
        return min(max(round(1e8 / self.work), 5), 20)


@dataclass(frozen=True)
class Mixture:
    """Weights (K), means (K × D) and full covariances (K × D × D)."""

    weights: Array
    means: Array
    covariances: Array

    def mean_log_likelihood(self, rows: Array) -> float:
        """In nats a row, in double precision whatever the parameters were computed in."""
        roots = np.linalg.cholesky(self.covariances.astype(np.float64))
        log_scales = np.log(self.weights) - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        total = 0.0
        for begin in range(0, len(rows), 10_000):
            centered = (rows[begin : begin + 10_000] - mean for mean in self.means)
            pairs = zip(roots, centered, strict=True)
            squares = [(solve_triangular(root, c.T, lower=True) ** 2).sum(axis=0) for root, c in pairs]
            total += logsumexp(log_scales[:, None] - np.stack(squares) / 2, axis=0).sum()
        return total / len(rows) - rows.shape[1] / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Task:
    """A problem and where its data lie."""

    problem: Problem
    directory: Path

    @property
    def rows(self) -> Path:
        return self.directory / "rows.npy"

    @property
    def store(self) -> Path:
        return self.directory / "rows.zarr"

    @property
    def parquet(self) -> Path:
        return self.directory / "rows.parquet"

    @cached_property
    def start(self) -> Mixture:
        with np.load(self.directory / "start.npz") as arrays:
            return Mixture(**arrays)

    @cached_property
    def level(self) -> float:
        """Mean log-likelihood of the start: what a relative tolerance refers to."""
        return self.start.mean_log_likelihood(self.judged_rows)

    @property
    def judged_rows(self) -> Array:
        return np.load(self.rows, mmap_mode="r")[:JUDGED_ROWS]

    def write(self, rows: Array) -> None:
        """Write the rows, as .npy, Zarr and, where pyarrow is installed, Parquet, and a start."""
        np.save(self.rows, rows)
        chunk = min(CHUNK_BYTES // (8 * self.problem.n_features), -(-self.problem.n_rows // 4))
        store = zarr.create_array(self.store, shape=rows.shape, chunks=(chunk, rows.shape[1]), dtype=rows.dtype)
        store[:] = rows
        np.savez(self.directory / "start.npz", **vars(choose_start(rows, self.problem.n_components)))
        try:
            from pyarrow import LargeListArray, parquet, table
        except ImportError:
            return  # Spark, which alone reads Parquet, is missing, too
        ends = np.arange(0, rows.size + 1, rows.shape[1])
        lists = LargeListArray.from_arrays(ends, rows.ravel())
        parquet.write_table(table({"row": lists}), self.parquet, row_group_size=1 << 16)


def draw(problem: Problem) -> Array:
    """Rows of a mixture whose components overlap moderately, by about the same amount for every D."""
    rng, d, k = np.random.default_rng(0), problem.n_features, problem.n_components
    factors = rng.normal(size=(k, d, d)) / math.sqrt(d)
    roots = np.linalg.cholesky(factors @ factors.transpose(0, 2, 1) / 2 + np.eye(d) / 2)
    means = rng.normal(size=(k, d)) * math.sqrt(8 / d)
    labels = rng.integers(k, size=problem.n_rows)
    rows = rng.normal(size=(problem.n_rows, d))
    for i in range(k):
        rows[labels == i] = rows[labels == i] @ roots[i].T + means[i]
    return rows


def choose_start(rows: Array, n_components: int) -> Mixture:
    """Equal weights, rows as means, and the covariance of all rows for each component."""
    means = rows[np.random.default_rng(1).choice(len(rows), n_components, replace=False)]
    return Mixture(np.full(n_components, 1 / n_components), means, np.stack([np.cov(rows.T)] * n_components))
