"""Decoding of stored numbers by attributes: the CF conventions, as xarray applies them.

Data centres store measurements as small integers: a value is ``stored × scale_factor + add_offset``, and ``_FillValue``
or ``missing_value`` marks a missing value. The rules for dtypes are xarray's (``mask_and_scale``), so that values equal
those of ``xarray.open_zarr`` bit for bit.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from ..errors import InvalidWeightsError, NonFiniteDataError, StoreError, UnsupportedDataError
from .row_checks import check_finite

Array = np.ndarray[Any, np.dtype[Any]]

_MISSING = ("_FillValue", "missing_value")
_TIME = ("units", "dtype")

#: Names of the attributes that change the meaning of an array's numbers.
ATTRIBUTES = ("scale_factor", "add_offset", *_MISSING, "_Unsigned", *_TIME)

#: The attribute by which xarray recognises its own arrays of Zarr format 2.
_DIMENSIONS = "_ARRAY_DIMENSIONS"

_MOST_MISSING = 100  # numbers that mean "missing"
_DATES = re.compile(r"\s*\w+\s+since\s+\d")
_DURATIONS = ("datetime64", "timedelta64")


@dataclass(frozen=True)
class Encoding:
    """Rules that convert stored numbers to values."""

    dtype: np.dtype[Any]
    """Dtype of the values."""

    integers: np.dtype[Any] | None = None
    """Dtype as which stored integers are interpreted: unsigned if their dtype is signed, or the reverse."""

    missing: tuple[Any, ...] = ()
    """Stored numbers that mean "missing"."""

    scale: Any = None
    offset: Any = None

    def decode(self, stored: Array) -> tuple[Array, Array | None]:
        """Return the values, NaN if missing; and the mask of missing values, or None if no value is missing."""
        if self.integers is not None:
            stored = stored.astype(self.integers, copy=False)
        values = stored.astype(self.dtype)
        missing = self._missing(stored)
        if missing is not None:
            values[missing] = np.nan
        with np.errstate(over="ignore", invalid="ignore"):
            if self.scale is not None:
                values *= self.scale
            if self.offset is not None:
                values += self.offset
        return values, missing

    def _missing(self, stored: Array) -> Array | None:
        mask = np.zeros(stored.shape, bool)
        for value in self.missing:
            if stored.dtype.kind == "f":  # the attribute in JSON has double precision, the stored number may have less
                with np.errstate(over="ignore"):
                    value = value.astype(stored.dtype)
            mask |= stored == value
        return mask if mask.any() else None

    def as_record(self) -> dict[str, Any]:
        """Convert the encoding to a mapping for JSON."""
        entries = {"scale_factor": self.scale, "add_offset": self.offset, "missing": self.missing or None}
        numbers = {name: np.asarray(value).tolist() for name, value in entries.items() if value is not None}
        return {"dtype": str(self.dtype), **numbers}


def decoding_bytes(encoding: Encoding | None, n_values: int) -> int:
    """Bytes for decoding beside the stored numbers: decoded values and three masks of missing values."""
    return 0 if encoding is None else n_values * (encoding.dtype.itemsize + 3)


def decoded(encoding: Encoding, stored: Array, start: int, name: str, place: str, *, may_miss: bool = False) -> Array:
    """Decode some rows.

    Parameters
    ----------
    encoding : Encoding
    stored : numpy.ndarray
        Stored numbers, (n,) or (n, D).
    start : int
        Number of the first row.
    name : str
        Name of the parameter that the values are for.
    place : str
        Name of the array in errors.
    may_miss : bool
        Missing values become NaN.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError, UnsupportedDataError
        If a value is missing and may not be; the message names the first such row.
    """
    values, missing = encoding.decode(stored)
    if missing is None or may_miss:
        return values
    first = np.unravel_index(int(np.argmax(missing)), missing.shape)
    row, value = int(first[0]), stored[first]
    reason = f'{place} stores {value}, which its attributes declare to mean "missing" ({" or ".join(_MISSING)})'
    if name == "X":
        check_finite(values[:row], start)  # the error names the first of several bad rows
        raise NonFiniteDataError(start + row, is_nan=True, missing=reason)
    kind = InvalidWeightsError if name == "sample_weight" else UnsupportedDataError
    raise kind(f"{name} contains a missing value in row {start + row}: {reason}. Replace it, for example by 0.")


def zarr_encoding(array: zarr.Array[Any], place: str) -> Encoding | None:
    """Encoding of a Zarr array; None if the stored numbers are the values.

    Parameters
    ----------
    array : zarr.Array
    place : str
        Name of the array in errors.

    Raises
    ------
    StoreError
        If an attribute has no meaning.
    UnsupportedDataError
        If the numbers are dates or durations.
    """
    document: Any = array.metadata.attributes  # any JSON value: Zarr does not check that it is a mapping
    attributes = {name: document[name] for name in ATTRIBUTES if name in document} if isinstance(document, dict) else {}
    if array.metadata.zarr_format == 2:
        # In this format xarray stores `_FillValue` as the fill value of the array.
        if isinstance(document, dict) and _DIMENSIONS in document and array.fill_value is not None:
            attributes["_FillValue"] = array.fill_value
    elif isinstance(attributes.get("_FillValue"), str) and array.dtype.kind == "f":
        attributes["_FillValue"] = _from_base64(attributes["_FillValue"], place)
    return encoding_of(array.dtype, attributes, place)


def _from_base64(text: str, place: str) -> float:
    """Decode a number that xarray's FillValueCoder encoded."""
    try:
        return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
    except (ValueError, struct.error):
        raise _meaningless(place, "_FillValue", text, "a number, or xarray's base64 form of one") from None


def encoding_of(stored: np.dtype[Any], attributes: Mapping[str, Any], place: str) -> Encoding | None:
    """Encoding of numbers with a dtype and attributes; None if the stored numbers are the values.

    Parameters
    ----------
    stored : numpy.dtype
    attributes : mapping
        Names other than `ATTRIBUTES` are ignored.
    place : str
        Name of the array in errors.
    """
    if stored.kind not in "biuf":
        return None  # records, or a dtype that is refused elsewhere
    _check_no_times(stored, attributes, place)
    integers = _integers(stored, attributes.get("_Unsigned"), place)
    scale = _number(attributes, "scale_factor", place)
    offset = _number(attributes, "add_offset", place)
    if scale is not None and scale == 0:
        raise _meaningless(place, "scale_factor", attributes["scale_factor"], "a number other than 0")
    declared = list(_missing_values(attributes, place))
    missing = tuple(value for value in declared if not np.isnan(value))
    if integers is not None and integers.kind == "u":
        missing = tuple(value.astype(stored).astype(integers) if value < 0 else value for value in missing)
    dtype = _decoded_dtype(integers or stored, bool(declared), bool(missing), scale, offset)
    if (integers, missing, scale, offset) == (None, (), None, None):
        return None
    return Encoding(dtype, integers, missing, scale, offset)


def _decoded_dtype(stored: np.dtype[Any], declared: bool, masked: bool, scale: Any, offset: Any) -> np.dtype[Any]:
    """Dtype of the values in xarray: single precision if exact for every stored number, or the attributes' dtype."""
    packed = scale is not None or offset is not None
    if packed and (masked or not (declared and stored.kind == "f")):
        return _packed_dtype(stored, scale, offset)
    if masked and stored.kind != "f":
        return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)
    return stored.newbyteorder("=")


def _packed_dtype(stored: np.dtype[Any], scale: Any, offset: Any) -> np.dtype[Any]:
    kinds = [np.asarray(number).dtype for number in (scale, offset) if number is not None]
    if any(kind.kind != "f" for kind in kinds):
        return np.dtype(np.float64)
    if len(kinds) == 1:
        return kinds[0] if offset is None else np.dtype(np.float64)
    small = stored.itemsize != 4 or stored.kind == "f"
    return kinds[0] if kinds[0] == kinds[1] and small else np.dtype(np.float64)


def _check_no_times(stored: np.dtype[Any], attributes: Mapping[str, Any], place: str) -> None:
    units, dtype = _text(attributes.get("units")), _text(attributes.get("dtype"))
    if stored.kind not in "iu":
        return
    for name, value, is_time in (("units", units, _DATES.match(units)), ("dtype", dtype, dtype.startswith(_DURATIONS))):
        if is_time:
            raise UnsupportedDataError(
                f"{place} holds times: its attribute {name} is {value!r:.80}. A Gaussian mixture needs real numbers: "
                "open the data with xarray, and pass for example (x - x.min()) / numpy.timedelta64(1, 's')."
            )


def _integers(stored: np.dtype[Any], unsigned: Any, place: str) -> np.dtype[Any] | None:
    if unsigned is None or stored.kind not in "iu":
        return None
    text = _text(unsigned)
    if text not in ("true", "false"):
        raise _meaningless(place, "_Unsigned", unsigned, "'true' or 'false'")
    kind = "u" if text == "true" else "i"
    return None if kind == stored.kind else np.dtype(f"{kind}{stored.itemsize}")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _number(attributes: Mapping[str, Any], name: str, place: str) -> Any:
    """Finite number in an attribute, in NumPy's precision; None if there is no such attribute."""
    value = attributes.get(name)
    if value is None:
        return None
    numbers = _numbers(value)
    if numbers is None or numbers.size != 1 or not math.isfinite(numbers[0]):
        raise _meaningless(place, name, value, "one finite number")
    return numbers[0]


def _missing_values(attributes: Mapping[str, Any], place: str) -> Iterator[Any]:
    for name in _MISSING:
        value = attributes.get(name)
        if value is None:
            continue
        numbers = _numbers(value)
        if numbers is None or not 1 <= numbers.size <= _MOST_MISSING:
            raise _meaningless(place, name, value, f"1 to {_MOST_MISSING} numbers")
        yield from numbers


def _numbers(value: Any) -> Array | None:
    """Numbers in an attribute, as a one-dimensional array; None if they are not real numbers."""
    try:
        array = np.ravel(value)
    except ValueError:  # lists of several lengths
        return None
    return array if array.dtype.kind in "iuf" or (isinstance(value, np.bool_) and array.dtype.kind == "b") else None


def _meaningless(place: str, name: str, value: Any, expected: str) -> StoreError:
    return StoreError(
        f"{place} declares encoded numbers, but its attribute {name} is {value!r:.80}; expected {expected}. Correct "
        "the attribute, or decode the numbers yourself, for example with xarray, and pass the decoded array."
    )
