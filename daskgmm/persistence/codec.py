"""Conversion of frozen records to values for JSON and named arrays, and back, with validation of all that is read.

A codec is made of a type, field by field. Each codec writes to a path, which names its arrays:

=======================  ===========================================================================================
type                     written as
=======================  ===========================================================================================
bool, int, float, str    itself; infinities and NaN by their names, integers that JSON may not hold in hexadecimal
``T | None``             null, or as T
array                    ``"array"``, and the array under its path
record                   an object with a value for every field
``tuple[float, ...]``    ``"array"``, and an array
``tuple[T, ...]``        a list
``Mapping[K, T]``        a list of pairs of key and value
=======================  ===========================================================================================

For other types, and for type variables, the caller passes a codec, such as `Columns` for tuples of thousands of
records, for which JSON would be slow.

Reading requires every field, of its declared type, and no other fields. A record checks its values in its own
``__post_init__``. Both raise ValueError or TypeError for input that is not such a record.
"""

from __future__ import annotations

import math
import re
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar, Union

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
T = TypeVar("T")

_ARRAY = "array"
_NAMED = {str(value): value for value in (math.inf, -math.inf, math.nan)}
_LARGEST = 1 << 53
"""Bound below which every reader of JSON distinguishes all integers."""
_HEXADECIMAL = re.compile("-?0x[0-9a-f]+")


class Codec(ABC, Generic[T]):
    """Conversion of values of one type, in both directions."""

    @abstractmethod
    def write(self, value: T, path: str, arrays: Arrays) -> Any:
        """Put the arrays of a value into ``arrays``, under names that begin with ``path``; return a value for JSON."""

    @abstractmethod
    def read(self, written: Any, path: str, arrays: Arrays) -> T:
        """Take the arrays of a value out of ``arrays``, and return the value.

        Raises
        ------
        ValueError, TypeError
            If ``written`` or an array does not describe such a value.
        """


def codec(kind: Any, known: Mapping[Any, Codec[Any]] | None = None) -> Codec[Any]:
    """Make the codec of a type.

    Parameters
    ----------
    kind : type or type hint
    known : mapping of type to Codec, optional
        Codecs of types other than records, by type, hint or type variable.
    """
    return _codec(kind, known or {})


def dump(made: Codec[T], value: T) -> tuple[Any, Arrays]:
    """Convert a value to a value for JSON and named arrays."""
    arrays: Arrays = {}
    return made.write(value, "", arrays), arrays


def restore(made: Codec[T], written: Any, arrays: Mapping[str, Array]) -> T:
    """Read a value; inverse of `dump`.

    Raises
    ------
    ValueError, TypeError
        If ``written`` or an array does not describe such a value, or if an array is left over.
    """
    remaining = dict(arrays)
    value = made.read(written, "", remaining)
    if remaining:
        raise ValueError(f"the arrays {sorted(remaining)!s:.80} belong to no field")
    return value


def join(path: str, name: object) -> str:
    """Path of a part of a value."""
    return f"{path}/{name}" if path else str(name)


def take(path: str, arrays: Arrays) -> Array:
    """Take an array out of ``arrays``; raise ValueError if there is no such array."""
    if path not in arrays:
        raise ValueError(f"there is no array {path!r:.80}")
    return arrays.pop(path)


def below(path: str, arrays: Arrays) -> Arrays:
    """Take all arrays below a path out of ``arrays``, and remove the path from their names."""
    prefix = f"{path}/"
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def expect(kind: type | tuple[type, ...], written: Any, path: str) -> Any:
    """Require an exact type: a bool is not accepted as a number."""
    allowed = kind if isinstance(kind, tuple) else (kind,)
    if type(written) not in allowed:
        names = " or ".join(each.__name__ for each in allowed)
        raise TypeError(f"{path} is {written!r:.40}; expected {names}")
    return written


# ---- single values


class _Exact(Codec[Any]):
    """Codec of texts and truth values."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def write(self, value: Any, path: str, arrays: Arrays) -> Any:
        return self._kind(value)

    def read(self, written: Any, path: str, arrays: Arrays) -> Any:
        return expect(self._kind, written, path)


class _Integer(Codec[int]):
    def write(self, value: int, path: str, arrays: Arrays) -> int | str:
        return int(value) if abs(value) < _LARGEST else hex(value)

    def read(self, written: Any, path: str, arrays: Arrays) -> int:
        if isinstance(written, str) and _HEXADECIMAL.fullmatch(written):
            return int(written, 16)
        return int(expect(int, written, path))


class _Real(Codec[float]):
    def write(self, value: float, path: str, arrays: Arrays) -> float | str:
        return float(value) if math.isfinite(value) else str(float(value))

    def read(self, written: Any, path: str, arrays: Arrays) -> float:
        if isinstance(written, str) and written in _NAMED:
            return _NAMED[written]
        return float(expect((float, int), written, path))


class _ArrayCodec(Codec[Array]):
    def write(self, value: Array, path: str, arrays: Arrays) -> str:
        arrays[path] = value
        return _ARRAY

    def read(self, written: Any, path: str, arrays: Arrays) -> Array:
        if written != _ARRAY:
            raise ValueError(f"{path} is {written!r:.40}; expected {_ARRAY!r}")
        return take(path, arrays)


class _Reals(Codec[tuple[float, ...]]):
    """Codec of a tuple of floats, as an array because there may be many."""

    def write(self, value: tuple[float, ...], path: str, arrays: Arrays) -> str:
        return _ArrayCodec().write(np.array(value, np.float64), path, arrays)

    def read(self, written: Any, path: str, arrays: Arrays) -> tuple[float, ...]:
        values = _typed(_ArrayCodec().read(written, path, arrays), np.dtype(np.float64), 1, path)
        return tuple(values.tolist())


def _typed(array: Array, dtype: np.dtype[Any], n_axes: int, path: str) -> Array:
    if array.dtype != dtype:
        raise ValueError(f"{path} contains {array.dtype} numbers; expected {dtype}")
    if array.ndim != n_axes:
        raise ValueError(f"{path} has shape {array.shape}; expected {n_axes} axes")
    return array


# ---- composed values


@dataclass(frozen=True)
class _Optional(Codec[Any]):
    inner: Codec[Any]

    def write(self, value: Any, path: str, arrays: Arrays) -> Any:
        return None if value is None else self.inner.write(value, path, arrays)

    def read(self, written: Any, path: str, arrays: Arrays) -> Any:
        return None if written is None else self.inner.read(written, path, arrays)


@dataclass(frozen=True)
class _Record(Codec[Any]):
    kind: Callable[..., Any]
    parts: Mapping[str, Codec[Any]]

    def write(self, value: Any, path: str, arrays: Arrays) -> dict[str, Any]:
        return {name: part.write(getattr(value, name), join(path, name), arrays) for name, part in self.parts.items()}

    def read(self, written: Any, path: str, arrays: Arrays) -> Any:
        expect(dict, written, path)
        if written.keys() != self.parts.keys():
            raise ValueError(f"{path} has the fields {sorted(written)!s:.200}; expected {sorted(self.parts)}")
        values = {name: part.read(written[name], join(path, name), arrays) for name, part in self.parts.items()}
        try:
            return self.kind(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path else str(error)) from None


@dataclass(frozen=True)
class Each(Codec[tuple[Any, ...]]):
    """Codec of a tuple with a codec for each item."""

    items: Sequence[Codec[Any]]

    def write(self, value: tuple[Any, ...], path: str, arrays: Arrays) -> list[Any]:
        return [
            item.write(one, join(path, i), arrays) for i, (item, one) in enumerate(zip(self.items, value, strict=True))
        ]

    def read(self, written: Any, path: str, arrays: Arrays) -> tuple[Any, ...]:
        if len(expect(list, written, path)) != len(self.items):
            raise ValueError(f"{path} has {len(written)} items; expected {len(self.items)}")
        return tuple(
            item.read(one, join(path, i), arrays) for i, (item, one) in enumerate(zip(self.items, written, strict=True))
        )


@dataclass(frozen=True)
class _Tuple(Codec[tuple[Any, ...]]):
    item: Codec[Any]

    def write(self, value: tuple[Any, ...], path: str, arrays: Arrays) -> list[Any]:
        return [self.item.write(one, join(path, i), arrays) for i, one in enumerate(value)]

    def read(self, written: Any, path: str, arrays: Arrays) -> tuple[Any, ...]:
        listed = enumerate(expect(list, written, path))
        return tuple(self.item.read(one, join(path, i), arrays) for i, one in listed)


@dataclass(frozen=True)
class _Mapping(Codec[Mapping[Any, Any]]):
    key: Codec[Any]
    item: Codec[Any]

    def write(self, value: Mapping[Any, Any], path: str, arrays: Arrays) -> list[Any]:
        return [
            [self.key.write(key, path, arrays), self.item.write(one, join(path, i), arrays)]
            for i, (key, one) in enumerate(value.items())
        ]

    def read(self, written: Any, path: str, arrays: Arrays) -> dict[Any, Any]:
        items: dict[Any, Any] = {}
        for i, pair in enumerate(expect(list, written, path)):
            if len(expect(list, pair, path)) != 2:
                raise ValueError(f"{path} holds {pair!r:.40}; expected pairs of key and value")
            key = self.key.read(pair[0], path, arrays)
            if key in items:
                raise ValueError(f"{path} holds {key!r:.40} twice")
            items[key] = self.item.read(pair[1], join(path, i), arrays)
        return items


# ---- many flat records

_COUNTED, _TEXT, _MEASURED, _UNKNOWN = "bool or int", "str", "float", "float | None"
_FLAT = {bool: _COUNTED, int: _COUNTED, str: _TEXT, float: _MEASURED, float | None: _UNKNOWN}


class Columns(Codec[tuple[Any, ...]]):
    """Codec of a tuple of flat records: a list of all texts, and two arrays, ``counts`` and ``reals``.

    Columns of ``counts`` are integers, truth values, and texts as their positions in the list. Columns of ``reals`` are
    floats; NaN stands for None in fields of the type ``float | None``.

    Parameters
    ----------
    kind : type
        Record with fields of the types bool, int (of 64 bits), str, float and ``float | None``.
    """

    def __init__(self, kind: type) -> None:
        self._kind: Callable[..., Any] = kind
        self._hints = hints = _hints(kind)
        self._counts = [name for name, hint in hints.items() if _FLAT[hint] == _COUNTED]
        self._texts = [name for name, hint in hints.items() if _FLAT[hint] == _TEXT]
        self._reals = [name for name, hint in hints.items() if _FLAT[hint] in (_MEASURED, _UNKNOWN)]

    def write(self, value: tuple[Any, ...], path: str, arrays: Arrays) -> list[str]:
        words = sorted({word for name in self._texts for word in map(attrgetter(name), value)})
        code = {word: number for number, word in enumerate(words)}
        counts = np.empty((len(value), len(self._counts) + len(self._texts)), np.int64)
        reals = np.empty((len(value), len(self._reals)), np.float64)
        for i, name in enumerate(self._counts):
            counts[:, i] = list(map(attrgetter(name), value))
        for i, name in enumerate(self._texts, len(self._counts)):
            counts[:, i] = [code[word] for word in map(attrgetter(name), value)]
        for i, name in enumerate(self._reals):
            reals[:, i] = np.array(list(map(attrgetter(name), value)), np.float64)  # None becomes NaN
        arrays[join(path, "counts")], arrays[join(path, "reals")] = counts, reals
        return words

    def read(self, written: Any, path: str, arrays: Arrays) -> tuple[Any, ...]:
        words = [expect(str, word, path) for word in expect(list, written, path)]
        counts = self._table(path, "counts", np.int64, len(self._counts) + len(self._texts), arrays)
        reals = self._table(path, "reals", np.float64, len(self._reals), arrays)
        if len(counts) != len(reals):
            raise ValueError(f"{path}/counts has {len(counts)} rows, and {path}/reals {len(reals)}")
        columns: dict[str, list[Any]] = {}
        for name, column in zip(self._counts, counts.T, strict=False):
            columns[name] = self._counted(name, column, path)
        for name, column in zip(self._texts, counts.T[len(self._counts) :], strict=True):
            if len(column) and not 0 <= column.min() <= column.max() < len(words):
                raise ValueError(f"{path}/counts contains positions beyond the list of {len(words)} texts")
            columns[name] = [words[number] for number in column]
        for name, column in zip(self._reals, reals.T, strict=True):
            columns[name] = column.tolist()
            if _FLAT[self._hints[name]] == _UNKNOWN:
                columns[name] = [None if math.isnan(number) else number for number in columns[name]]
        rows = zip(*(columns[name] for name in self._hints), strict=True)
        return tuple(self._kind(**dict(zip(self._hints, row, strict=True))) for row in rows)

    def _counted(self, name: str, column: Array, path: str) -> list[Any]:
        if self._hints[name] is int:
            return column.tolist()
        if len(column) and not 0 <= column.min() <= column.max() <= 1:
            raise ValueError(f"{path}/counts contains truth values other than 0 and 1")
        return column.astype(bool).tolist()

    @staticmethod
    def _table(path: str, name: str, dtype: Any, width: int, arrays: Arrays) -> Array:
        table = _typed(take(join(path, name), arrays), np.dtype(dtype), 2, join(path, name))
        if table.shape[1] != width:
            raise ValueError(f"{path}/{name} has shape {table.shape}; expected {width} columns")
        return table


# ---- types


def _codec(kind: Any, known: Mapping[Any, Codec[Any]]) -> Codec[Any]:
    if kind in known:
        return known[kind]
    if kind in _SINGLE:
        return _SINGLE[kind]()
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in known:
        return known[origin]
    if origin is np.ndarray:
        return _ArrayCodec()
    if origin in (Union, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _Optional(_codec(arguments[0], known))
    if origin is tuple:
        return _tuple(arguments, known)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _Mapping(*(_codec(argument, known) for argument in arguments))
    record = origin if isinstance(origin, type) else kind
    if isinstance(record, type) and is_dataclass(record):
        return _Record(record, {name: _codec(hint, known) for name, hint in _hints(record).items()})
    raise TypeError(f"{kind} is not a type that can be written; pass a codec for it")


def _tuple(arguments: tuple[Any, ...], known: Mapping[Any, Codec[Any]]) -> Codec[Any]:
    if len(arguments) != 2 or arguments[1] is not ...:
        return Each([_codec(argument, known) for argument in arguments])
    return _Reals() if arguments[0] is float else _Tuple(_codec(arguments[0], known))


def _hints(record: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record)}


_SINGLE: dict[Any, Callable[[], Codec[Any]]] = {
    bool: lambda: _Exact(bool),
    str: lambda: _Exact(str),
    int: _Integer,
    float: _Real,
}
