"""Datasets of HDF5 files, opened with h5py, as sources of rows.

This process reads the dataset itself, as long as its file is open. Another process gets the names of file and dataset,
and opens the dataset for reading. h5py is needed only if there is such a dataset.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import DataChangedError, MissingDependencyError, StoreError, StoreNotFoundError, UnsupportedDataError
from .addresses import printable
from .encoding import ATTRIBUTES, decoded, decoding_bytes, encoding_of
from .retry import describe_error
from .source import LONGEST_ADDRESS, Source
from .store_checks import product

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_NAMES = 20
_FILES = ("sec2", "stdio", "direct", "windows", "log")  # drivers of HDF5 that open a file on this machine by its name


def is_dataset(data: Any, name: str = "X") -> bool:
    """Tell a dataset that h5py opened from other objects.

    Parameters
    ----------
    data : object
    name : str
        Name of the parameter in errors.

    Raises
    ------
    UnsupportedDataError
        If the object is an HDF5 file or group.
    """
    kinds = {kind.__name__ for kind in type(data).__mro__ if kind.__module__.partition(".")[0] == "h5py"}
    if "Group" in kinds:
        names = list(data)[:_MOST_NAMES] if data else []
        shown = ", ".join(printable(str(name)) for name in names)
        raise UnsupportedDataError(
            f"{name} is an HDF5 {type(data).__name__.lower()} ({shown or 'closed, or empty'}); expected one dataset "
            "of it, such as file['name']."
        )
    return "Dataset" in kinds


class DatasetRows:
    """A dataset, read in ranges of rows.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        Name of the parameter in errors.
    may_miss : bool
        Values that mean "missing" are NaN, and not an error.
    """

    def __init__(self, dataset: Any, name: str, *, may_miss: bool = False) -> None:
        if not dataset:
            raise StoreError(
                f"{name} is a dataset of an HDF5 file that was closed. Open the file again, and keep it open until "
                "everything has been computed."
            )
        self._dataset, self._may_miss = dataset, may_miss
        self.name, self.file, self.path, self._driver = name, dataset.file.filename, dataset.name, dataset.file.driver
        self.file_number = dataset.file.id.id
        self.shape, self.stored = tuple(dataset.shape or ()), np.dtype(dataset.dtype)
        self.files = tuple(dataset.chunks or (1,) * len(self.shape))
        _check_sources(dataset)
        attributes = {key: dataset.attrs[key] for key in ATTRIBUTES if key in dataset.attrs}
        self.encoding = encoding_of(self.stored, attributes, str(self))

    def __str__(self) -> str:
        return printable(f"{self.file}::{str(self.path).lstrip('/')}")

    def __getstate__(self) -> dict[str, Any]:
        if self._driver not in _FILES or self.path is None:
            raise StoreError(
                f"{self} cannot be read by other processes: the HDF5 file is in the memory of this process, or not on "
                f"this machine's file systems (driver {self._driver}). Write it to a file that the workers see, or use "
                "scheduler='threads'."
            )
        return self.__dict__ | {"file": os.path.abspath(self.file), "_dataset": None}

    def __getitem__(self, rows: slice | tuple[slice, ...]) -> Array:
        """Read a range of rows, or a region: a range along each axis.

        Raises
        ------
        StoreError
            If the file is closed, or cannot be read.
        NonFiniteDataError, InvalidWeightsError
            If a value is missing.
        """
        if self._dataset is None:
            self._dataset = self._open()
        self.check_open()
        start, stop, _ = (rows if isinstance(rows, slice) else rows[0]).indices(self.shape[0])
        try:
            stored = np.asarray(self._dataset[rows if isinstance(rows, tuple) else slice(start, stop)])
        except Exception as error:
            raise StoreError(
                f"Rows {start} to {stop} of {self} cannot be read ({describe_error(error)}). The file is damaged, "
                "or its storage fails."
            ) from error
        if self.encoding is None:
            return stored
        return decoded(self.encoding, stored, start, self.name, str(self), may_miss=self._may_miss)

    def with_missing(self) -> DatasetRows:
        """Return the same rows, in which values that mean "missing" are NaN."""
        return DatasetRows(self._dataset, self.name, may_miss=True)

    def check_open(self) -> None:
        """Raise unless the file is open and the dataset has its old shape."""
        if not self._dataset:
            raise StoreError(
                f"The HDF5 file of {self} was closed. Keep it open until everything has been computed, lazy results "
                "included."
            )
        if tuple(self._dataset.shape) != self.shape:
            raise DataChangedError(
                f"{self} was changed while it was read: its shape was {self.shape}, and is {self._dataset.shape}. Use "
                "data that do not change, or a copy of them."
            )

    def _open(self) -> Any:
        try:
            import h5py
        except ImportError:
            raise MissingDependencyError("h5py", "hdf5", f"Reading {self} in a worker process") from None
        try:
            return h5py.File(self.file, "r")[self.path]
        except FileNotFoundError as error:
            raise StoreNotFoundError(
                f"{self.file} is not visible to this worker. An HDF5 file has to lie on a file system that the workers "
                "share."
            ) from error
        except (OSError, KeyError) as error:
            raise StoreError(
                f"{self} cannot be opened in a worker process ({describe_error(error)}). If the file is open for "
                "writing, open it with mode 'r'."
            ) from error


def _check_sources(dataset: Any) -> None:
    """Raise `StoreNotFoundError` if a file of a virtual dataset is missing: HDF5 would read fill values instead."""
    if not getattr(dataset, "is_virtual", False):
        return
    here = os.path.dirname(os.path.abspath(dataset.file.filename))
    folders = [here, os.getcwd(), *filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":"))]
    for name in {source.file_name for source in dataset.virtual_sources()} - {"."}:
        prefixed = [os.path.join(folder.replace("${ORIGIN}", here), name) for folder in folders]
        if "%" not in name and not any(map(os.path.exists, prefixed)):  # % stands for the number of a file
            raise StoreNotFoundError(
                f"{printable(str(dataset.name))} of {printable(dataset.file.filename)} is a virtual dataset, and its "
                f"source {printable(name)} is missing. Bring the file back beside it, or set HDF5_VDS_PREFIX."
            )


class DatasetSource(Source):
    """A dataset of an HDF5 file, read in whole chunks.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        Name of the parameter in errors.
    """

    kind = "HDF5 dataset"
    reads_ahead = True
    cacheable = True

    def __init__(self, dataset: Any, name: str = "X") -> None:
        self.handle = DatasetRows(dataset, name)
        file, inside = os.path.abspath(self.handle.file), str(self.handle.path).lstrip("/")
        self.address = printable(f"{file}::{inside}", LONGEST_ADDRESS - 1)
        self.shape = self.handle.shape
        encoding = self.handle.encoding
        self.dtype = self.handle.stored if encoding is None else encoding.dtype
        self.chunk_rows = self.batch_rows = int(dataset.chunks[0]) if dataset.chunks else 1

    def __str__(self) -> str:
        return str(self.handle)

    def with_missing(self) -> Source:
        return self.with_handle(self.handle.with_missing())

    def place(self, start: int, stop: int) -> str:
        return f"rows {start} to {stop} of {self}"

    def check_unchanged(self) -> None:
        self.handle.check_open()

    def reading_bytes(self, n_rows: int) -> int:
        # HDF5 holds each chunk twice: compressed and decompressed.
        width = product(self.shape[1:])
        stored = (n_rows + 2 * min(n_rows, self.chunk_rows)) * width * self.handle.stored.itemsize
        return stored + decoding_bytes(self.handle.encoding, n_rows * width)
