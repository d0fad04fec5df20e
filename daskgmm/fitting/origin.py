"""Data and date of a fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from ..data.dataset import Dataset
from ..data.source import KINDS, LONGEST_ADDRESS, Source

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", re.ASCII)
_DTYPE = re.compile(r"[<>=|]?[a-z][a-z0-9]{0,15}", re.ASCII)
_LARGEST = 1 << 53  # of an extent


@dataclass(frozen=True)
class ArrayOrigin:
    """Description of an array that a fit has read."""

    kind: str
    """Kind of the array: one of `daskgmm.data.source.KINDS`, such as ``"Zarr array"``."""

    address: str | None
    """Absolute path or URL of a stored array, without passwords and tokens; None for other arrays."""

    shape: tuple[int, ...]

    dtype: str

    def __post_init__(self) -> None:
        _check(self.kind in KINDS, "kind", self.kind, f"one of {KINDS}")
        _check(self.address is None or _is_address(self.address), "address", self.address, "a text or null")
        whole = isinstance(self.shape, tuple) and all(type(n) is int and 0 < n < _LARGEST for n in self.shape)
        _check(whole and len(self.shape) in (1, 2), "shape", self.shape, "one or two positive integers")
        _check(_matches(_DTYPE, self.dtype), "dtype", self.dtype, "the name of a dtype")

    @classmethod
    def of(cls, source: Source) -> Self:
        """Describe the array of rows or weights."""
        return cls(source.kind, source.address, tuple(map(int, source.shape)), str(source.dtype))

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Make the description from a dict of `dataclasses.asdict`, with all checks.

        Raises
        ------
        TypeError, ValueError
        """
        _check(isinstance(record, Mapping) and isinstance(record.get("shape"), list), "array", record, "a description")
        return cls(**{**record, "shape": tuple(record["shape"])})


@dataclass(frozen=True)
class Origin:
    """Data and date of a fit. Its settings are the estimator's parameters."""

    date: str
    """End of the fit in UTC, in the format of ISO 8601: ``"2026-01-31T12:00:00+00:00"``."""

    data: ArrayOrigin

    sample_weight: ArrayOrigin | None
    """Sample weights; None for a fit without them."""

    n_incomplete: int = 0
    """Rows of the data that took no part because they contain NaN (``missing='drop'``)."""

    def __post_init__(self) -> None:
        _check(_matches(_DATE, self.date), "date", self.date, "a time in UTC")
        datetime.fromisoformat(self.date)
        _check(len(self.data.shape) == 2, "shape", self.data.shape, "rows and features")
        n_rows, count = self.data.shape[0], self.n_incomplete
        _check(type(count) is int and 0 <= count < n_rows, "n_incomplete", count, f"0 to {n_rows - 1}")
        if self.sample_weight is not None:
            expected = self.data.shape[:1]
            _check(self.sample_weight.shape == expected, "shape", self.sample_weight.shape, f"{expected} for weights")

    @classmethod
    def of(cls, dataset: Dataset, n_incomplete: int = 0) -> Self:
        """Make the origin of a fit that ends now, and that has left out incomplete rows."""
        weights = None if dataset.weights is None else ArrayOrigin.of(dataset.weights)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(now, ArrayOrigin.of(dataset.rows), weights, n_incomplete)

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Make the origin from a dict of `as_record`, with all checks.

        Raises
        ------
        TypeError, ValueError
        """
        _check(isinstance(record, Mapping), "origin", record, "date, data and sample_weight")
        arrays = {name: ArrayOrigin.from_record(value) for name, value in record.items() if isinstance(value, Mapping)}
        return cls(**{**record, **arrays})

    def as_record(self) -> dict[str, Any]:
        """Return the origin as a dict of JSON values."""
        return asdict(self)


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= LONGEST_ADDRESS and text.isprintable()


def _matches(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _check(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value!a:.40}; expected {expected}")
