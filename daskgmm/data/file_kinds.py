"""Addresses and kinds of files that are not Zarr stores."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape as glob_escape
from glob import glob
from typing import Any

from dask.utils import natural_sort_key

from ..errors import DaskGMMError, MissingDependencyError, StoreError, StoreNotFoundError
from .addresses import Secrets, printable
from .retry import describe_error
from .store import to_install

MOST_NAMES = 20  # names that a message lists


@dataclass(frozen=True)
class FileAddress:
    """Address of a file, or of several parts of a table."""

    path: str
    """Absolute path, or URL."""
    inside: str | None = None
    """Text after ``::``: the name of an array or variable, or of columns with commas between them."""
    others: tuple[str, ...] = ()
    """Paths or URLs of the other parts."""
    shown: str = ""
    """Address for messages, as it was given, without secrets."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of the file system of URLs."""

    @property
    def secrets(self) -> Secrets:
        """Secrets in the URLs and in the options."""
        return Secrets("::".join((self.path, *self.others)), self.options)

    def parts(self, ends: tuple[str, ...]) -> list[str]:
        """Files of a table: in folders those whose names have such ends; all that patterns fit; URLs as they are."""
        return [part for path in (self.path, *self.others) for part in _parts(path, ends)]

    @contextmanager
    def opening(self, library: str, extra: str) -> Iterator[None]:
        """Turn errors of another library in the ``with`` block into errors of the address.

        Parameters
        ----------
        library : str
            Module that the block imports and uses.
        extra : str
            The extra of daskgmm that brings the package.
        """
        secrets = self.secrets
        try:
            yield
        except DaskGMMError:
            raise
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"There is nothing at {self.shown}.") from secrets.cause(error)
        except ImportError as error:
            if library not in sys.modules:
                raise MissingDependencyError(library, extra, f"Reading {self.shown}") from error
            advice = f" {to_install(self.path)}." if "://" in self.path else ""
            raise StoreError(
                f"{self.shown} cannot be opened with {library}: {secrets.hide(str(error))}.{advice}"
            ) from secrets.cause(error)
        except Exception as error:
            raise StoreError(
                f"{self.shown} cannot be opened with {library} ({_reason(error, secrets)}). The file is damaged, of "
                "another kind than its name says, or cannot be reached."
            ) from secrets.cause(error)


def _reason(error: Exception, secrets: Secrets) -> str:
    text = describe_error(error)
    return printable(secrets.hide(text.partition("Original Message: ")[2] or text), 400)  # Dask's own line says nothing


@dataclass(frozen=True)
class FileKind:
    """Kind of files that one library opens."""

    name: str
    ends: tuple[str, ...]
    """Ends of the files' names."""
    open: Callable[[FileAddress, str], Any]
    """Open an address without reading its rows; the second argument is the name of the parameter."""
    is_table: bool = False
    """The files are tables, of which several may be parts of one, at paths or URLs."""

    def fits(self, path: str) -> bool:
        return name_of(path).endswith(self.ends)


def _parts(path: str, ends: tuple[str, ...]) -> list[str]:
    if "://" in path or os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        return sorted(glob(path), key=natural_sort_key)  # as Dask sorts them
    below = sorted(glob(f"{glob_escape(path)}/**", recursive=True), key=natural_sort_key)
    return [part for part in below if os.path.isfile(part) and name_of(part).endswith(ends)]


def name_of(path: str) -> str:
    """Part of a path or URL that shows the kind of a file."""
    link = path.rpartition("::")[2]
    return (re.split(r"[?#]", link)[0] if "://" in link else link).lower().rstrip("/")


def listed(names: Iterable[Any]) -> str:
    """List names in a message."""
    shown = [printable(str(name)) for name in names]
    return ", ".join(shown[:MOST_NAMES]) + ", …" * (len(shown) > MOST_NAMES) or "none"
