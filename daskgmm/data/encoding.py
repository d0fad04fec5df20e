"""Attributes that say how stored numbers are to be read: the CF conventions, as xarray applies them.

Data centres store measurements as small integers: a value is ``stored × scale_factor + add_offset``, and ``_FillValue``
or ``missing_value`` stands where there is none. The rules for dtypes are those of xarray's ``mask_and_scale``, so that
values have the bits that ``xarray.open_zarr`` gives.
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

#: Names of the attributes that change what the numbers of an array mean.
ATTRIBUTES = ("scale_factor", "add_offset", *_MISSING, "_Unsigned", *_TIME)

#: The attribute by which xarray knows its arrays of Zarr format 2.
_DIMENSIONS = "_ARRAY_DIMENSIONS"

_MOST_MISSING = 100  # values that mean "missing"
_DATES = re.compile(r"\s*\w+\s+since\s+\d")
_DURATIONS = ("datetime64", "timedelta64")


@dataclass(frozen=True)
class Encoding:
    """Rules that make values of stored numbers."""

    dtype: np.dtype[Any]
    """Of the values."""

    integers: np.dtype[Any] | None = None
    """Dtype that stored integers are taken as: unsigned where they are declared signed, or the reverse."""

    missing: tuple[Any, ...] = ()
    """Stored numbers that stand where there is no value."""

    scale: Any = None
    offset: Any = None

    def decode(self, stored: Array) -> tuple[Array, Array | None]:
        """Values, NaN where they are missing; and where that is, or None for nowhere."""
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
        found = np.zeros(stored.shape, bool)
        for value in self.missing:
            if stored.dtype.kind == "f":  # an attribute in JSON has double precision, and its number was stored in less
                with np.errstate(over="ignore"):
                    value = value.astype(stored.dtype)
            found |= stored == value
        return found if found.any() else None

    def as_record(self) -> dict[str, Any]:
        """Make a mapping of the encoding that JSON can hold."""
        told = {"scale_factor": self.scale, "add_offset": self.offset, "missing": self.missing or None}
        numbers = {name: np.asarray(value).tolist() for name, value in told.items() if value is not None}
        return {"dtype": str(self.dtype), **numbers}


def decoding_bytes(encoding: Encoding | None, n_values: int) -> int:
    """Bytes of decoded values beside the stored numbers, and of three masks that mark what is missing."""
    return 0 if encoding is None else n_values * (encoding.dtype.itemsize + 3)


def decoded(encoding: Encoding, stored: Array, start: int, name: str, place: str) -> Array:
    """Values of some rows, none of which may be missing.

    Parameters
    ----------
    encoding : Encoding
    stored : numpy.ndarray
        Of shape (n,) or (n, D).
    start : int
        Number of the first row.
    name : str
        Of the parameter that the values are for.
    place : str
        What an error calls the array.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError, UnsupportedDataError
        With the first row in which a value is missing.
    """
    values, missing = encoding.decode(stored)
    if missing is None:
        return values
    first = np.unravel_index(int(np.argmax(missing)), missing.shape)
    row, value = int(first[0]), stored[first]
    told = f'{place} stores {value}, which its attributes declare to mean "missing" ({" or ".join(_MISSING)})'
    if name == "X":
        check_finite(values[:row], start)  # of several rows the first is told
        raise NonFiniteDataError(start + row, is_nan=True, missing=told)
    kind = InvalidWeightsError if name == "sample_weight" else UnsupportedDataError
    raise kind(f"{name} contains a missing value in row {start + row}: {told}. Replace it, for example by 0.")


def zarr_encoding(array: zarr.Array[Any], place: str) -> Encoding | None:
    """Encoding of a Zarr array; None for numbers that are what they are.

    Parameters
    ----------
    array : zarr.Array
    place : str
        What an error calls the array.

    Raises
    ------
    StoreError
        If an attribute has no meaning.
    UnsupportedDataError
        If the numbers are dates or durations.
    """
    found: Any = array.metadata.attributes  # whatever the document says, also where Zarr expects a mapping
    attributes = {name: found[name] for name in ATTRIBUTES if name in found} if isinstance(found, dict) else {}
    if array.metadata.zarr_format == 2:
        # There xarray keeps `_FillValue` as the fill value of the array.
        if isinstance(found, dict) and _DIMENSIONS in found and array.fill_value is not None:
            attributes["_FillValue"] = array.fill_value
    elif isinstance(attributes.get("_FillValue"), str) and array.dtype.kind == "f":
        attributes["_FillValue"] = _from_base64(attributes["_FillValue"], place)
    return encoding_of(array.dtype, attributes, place)


def _from_base64(text: str, place: str) -> float:
    """Read a number as xarray's FillValueCoder writes it."""
    try:
        return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
    except (ValueError, struct.error):
        raise _meaningless(place, "_FillValue", text, "a number, or xarray's base64 form of one") from None


def encoding_of(stored: np.dtype[Any], attributes: Mapping[str, Any], place: str) -> Encoding | None:
    """Encoding of numbers of a dtype with such attributes; None for numbers that are what they are.

    Parameters
    ----------
    stored : numpy.dtype
    attributes : mapping
        Only those of `ATTRIBUTES` count.
    place : str
        What an error calls the array.
    """
    if stored.kind not in "biuf":
        return None  # refused for their dtype, or records
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
    """The dtype that xarray gives: single precision where it holds every stored number, or where attributes have it."""
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
    """One finite number: Python's, or NumPy's with its precision; None where there is no such attribute."""
    value = attributes.get(name)
    if value is None:
        return None
    found = _numbers(value)
    if found is None or found.size != 1 or not math.isfinite(found[0]):
        raise _meaningless(place, name, value, "one finite number")
    return found[0]


def _missing_values(attributes: Mapping[str, Any], place: str) -> Iterator[Any]:
    for name in _MISSING:
        value = attributes.get(name)
        if value is None:
            continue
        found = _numbers(value)
        if found is None or not 1 <= found.size <= _MOST_MISSING:
            raise _meaningless(place, name, value, f"a number, or {_MOST_MISSING} at most")
        yield from found


def _numbers(value: Any) -> Array | None:
    """Numbers that an attribute holds, in one dimension; None where they are not real."""
    try:
        array = np.ravel(value)
    except ValueError:  # lists of several lengths
        return None
    return array if array.dtype.kind in "iuf" or (isinstance(value, np.bool_) and array.dtype.kind == "b") else None


def _meaningless(place: str, name: str, value: Any, expected: str) -> StoreError:
    return StoreError(
        f"{place} says that its numbers are encoded, but its attribute {name} is {value!r:.80}; expected {expected}. "
        "Correct the attribute, or decode the numbers yourself, for example with xarray, and pass the array that "
        "you get."
    )
