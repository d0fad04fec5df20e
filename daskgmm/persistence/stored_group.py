"""A Zarr group of daskgmm's: every field is validated before use."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from ..data.addresses import printable
from ..data.locations import Address, Location, store_secrets
from ..data.store import member, open_node
from ..data.store_checks import check_file, product
from ..data.write import read_record
from ..errors import DaskGMMError, ModelFormatError, StoreError
from .layout import FORMAT_VERSION, checksum, digest

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_BESIDE = 1 << 20  # bytes of metadata beside a chunk, in stores that report only the sum


@contextmanager
def damage_errors(path: Address | Location, failure: type[DaskGMMError]) -> Iterator[None]:
    """Convert any unforeseen exception in the ``with`` block to an error that names the file as damaged.

    Parameters
    ----------
    path : str, path, store or Location
    failure : type
        Class of the error.
    """
    try:
        yield
    except DaskGMMError:
        raise
    except Exception as error:
        location = Location.of(path)
        reason = printable(location.secrets.hide(f"{type(error).__name__}: {error}"), 400)
        raise failure(f"{printable(location.name)} is damaged ({reason})") from None


@dataclass(frozen=True)
class StoredGroup:
    """A Zarr group of daskgmm's, to be read; every method raises `failure` for invalid contents."""

    path: str
    """Name of the place, without credentials, for messages."""
    group: zarr.Group
    attributes: Mapping[str, Any]

    kind: ClassVar[str]
    """Required format in the attributes, and name of such groups in messages."""
    origin: ClassVar[str]
    """Functions and commands that write such groups, for messages."""
    failure: ClassVar[type[DaskGMMError]] = ModelFormatError
    """Class of errors."""

    @classmethod
    def open(cls, path: Address | Location) -> Self:
        """Open the group at an address, and check its format and the checksum of its attributes."""
        location = Location.of(path)
        shown = printable(location.name)
        try:
            node = open_node(location)
        except StoreError as error:
            raise cls.failure(f"{shown} is no {cls.kind}: {error}") from error.__cause__
        attributes = read_record(node)
        if isinstance(node, zarr.Group) and attributes.get("format") == cls.kind:
            stored = cls(shown, node, attributes)
            stored._check_format()
            return stored
        what = "array" if isinstance(node, zarr.Array) else "group"
        kind = f" ({attributes['format']!r:.40})" if "format" in attributes else ""
        raise cls.failure(
            f"{shown} is a Zarr {what}{kind}, and no {cls.kind} that daskgmm wrote. {cls.kind.capitalize()}s come from "
            f"{cls.origin}."
        )

    def error(self, field: str, text: str) -> DaskGMMError:
        """Make the error for a field."""
        return self.failure(f"{self.path}: {field} {text}")

    def _check_format(self) -> None:
        version = self.count(self.attributes, "format_version")
        if version > FORMAT_VERSION:
            writer = str(self.attributes.get("daskgmm_version"))
            wanted = f"daskgmm>={writer}" if re.fullmatch(r"[0-9][0-9A-Za-z.+]{0,31}", writer) else "--upgrade daskgmm"
            raise self.error(
                "format_version",
                f"is {version}, and this version of daskgmm reads up to {FORMAT_VERSION}: pip install '{wanted}'",
            )
        if self.expected_checksum("attributes") != digest(self.attributes):
            raise self.error("attributes", "do not match their checksum: the file is damaged, or was edited by hand")

    # ---- attributes

    def mapping(self, field: str) -> Mapping[str, Any]:
        """Attribute that is a mapping."""
        value = self.attributes.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "is missing or damaged")
        return value

    def expected_checksum(self, name: str) -> Any:
        """Stored checksum of an array, or of the attributes."""
        return self.mapping("checksums").get(name)

    def count(self, values: Mapping[str, Any], name: str, least: int = 0) -> int:
        """Entry that is an integer of at least ``least``."""
        value = values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(name, f"is {value!r:.40}; expected an integer of at least {least}")
        return value

    def flag(self, values: Mapping[str, Any], name: str) -> bool:
        """Entry that is true or false."""
        value = values.get(name)
        if not isinstance(value, bool):
            raise self.error(name, f"is {value!r:.40}; expected true or false")
        return value

    # ---- arrays

    def array(self, name: str, shape: tuple[int, ...] | None, dtypes: tuple[type, ...]) -> Array:
        """Read an array, of the given shape if that is known; allocate it only if the size of its file fits."""
        try:
            stored = member(self.group, name)
            if stored is None:
                raise self.error(name, "is missing")
            self._check_declared(name, stored, shape, dtypes)
            values = np.asarray(stored[...])  # type: ignore[index]  # not a group, that was checked
        except self.failure:
            raise
        except Exception as error:
            # Zarr and its codecs raise exceptions of many kinds for damaged metadata and chunks.
            reason = printable(store_secrets(self.group.store).hide(f"{type(error).__name__}: {error}"), 400)
            raise self.error(name, f"cannot be read ({reason})") from None
        if checksum(values) != self.expected_checksum(name):
            raise self.error(name, "does not match its checksum: the file is damaged")
        return values

    def _check_declared(self, name: str, stored: Any, shape: tuple[int, ...] | None, dtypes: tuple[type, ...]) -> None:
        if not isinstance(stored, zarr.Array):
            raise self.error(name, "is a group; expected an array")
        if shape is not None and stored.shape != shape:
            raise self.error(name, f"has shape {stored.shape}; expected {shape}")
        if stored.dtype not in dtypes:
            raise self.error(name, f"has dtype {stored.dtype}; expected {np.dtype(dtypes[0])}")
        plain = stored.metadata.zarr_format == 3 and not (stored.filters or stored.compressors or stored.shards)
        if not plain or stored.chunks != tuple(max(1, n) for n in stored.shape):
            raise self.error(name, "is not stored as one uncompressed chunk of Zarr format 3")
        self._check_stored(name, stored, product(stored.shape) * stored.dtype.itemsize)

    def _check_stored(self, name: str, stored: zarr.Array[Any], n_bytes: int) -> None:
        """Raise unless exactly ``n_bytes`` are stored and fit into memory."""
        root = getattr(stored.store, "root", None)
        if isinstance(root, Path):
            size = least = self._file_bytes(name, root, stored.metadata.encode_chunk_key((0,) * stored.ndim))
        else:
            size = stored.nbytes_stored()  # with metadata
            least = size - _MOST_BESIDE
        if size < n_bytes and (size or n_bytes > _MOST_BESIDE):  # a small chunk of zeros may have been left out
            raise self.error(name, f"declares {n_bytes} bytes, and fewer are stored: its chunk is missing or cut")
        if least > n_bytes:
            raise self.error(name, f"declares {n_bytes} bytes, and {size} are stored: it is damaged")
        if n_bytes > (memory := _memory()):
            raise self.error(
                name, f"declares {n_bytes} bytes, and this machine has {memory} bytes of memory: it is damaged"
            )

    def _file_bytes(self, name: str, root: Path, key: str) -> int:
        """Size of a chunk's file, which must be in the group itself: a link could lead anywhere."""
        folder = os.path.join(root, self.group.path, name)
        chunk, *folders = list(accumulate((folder, *key.split("/")), os.path.join))[::-1]
        for path in (chunk, *folders, os.path.join(folder, "zarr.json")):
            if os.path.islink(path):
                raise self.error(name, f"is a link ({printable(path)}); what is in a {self.kind} has to lie in it")
        check_file(chunk, sys.maxsize, "chunks")
        return os.path.getsize(chunk) if os.path.exists(chunk) else 0


def _memory() -> float:
    """Size of this machine's memory, in bytes; infinity if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
