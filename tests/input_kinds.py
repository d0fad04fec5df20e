"""The kinds of input that tests/test_input_kinds.py holds to one contract: a new kind is one more line of `KINDS`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr

COLUMNS = ["a", "b", "c", "d"]
PART = 17  # rows of a chunk or partition


def dataframes():
    return pytest.importorskip("dask.dataframe")


def pandas(values, index=None):
    if values.ndim == 1:
        return pd.Series(values, index=index, name="w")
    return pd.DataFrame(values, columns=COLUMNS[: values.shape[1]], index=index)


def dask_frame(values, folder):
    return dataframes().from_pandas(pandas(values), chunksize=PART)


def dask_parts(values, folder):
    """Parts whose lengths and divisions are not known."""
    return dask_frame(values, folder).clear_divisions()


def dask_nullable(values, folder):
    return dataframes().from_pandas(pandas(values).convert_dtypes(), chunksize=PART)


def dask_arrow(values, folder):
    pytest.importorskip("pyarrow")
    return dataframes().from_pandas(pandas(values).astype("double[pyarrow]"), chunksize=PART)


def polars(values, folder):
    module = pytest.importorskip("polars")
    if values.ndim == 1:
        return module.Series("w", values, nan_to_null=True)
    return module.DataFrame(values, schema=COLUMNS[: values.shape[1]], nan_to_null=True)


def arrow(values, folder):
    module = pytest.importorskip("pyarrow")
    if values.ndim == 1:
        return module.chunked_array([values])
    return module.Table.from_pandas(pandas(values))


def astropy(values, folder):
    module = pytest.importorskip("astropy.table")
    masked = np.ma.masked_invalid(values)
    if values.ndim == 1:
        return module.Column(values)
    return module.Table(masked if masked.mask.any() else values, names=COLUMNS[: values.shape[1]])


def records(values, folder):
    if values.ndim == 1:
        return values
    return np.rec.fromarrays(values.T, names=COLUMNS[: values.shape[1]])


def chunks(values):
    return tuple(min(most, max(n, 1)) for most, n in zip((PART, 2, 2), values.shape, strict=False))


def stored(values, folder):
    return zarr.create_array(folder / "x.zarr", data=values, chunks=chunks(values))


def stored_path(values, folder):
    stored(values, folder)
    return folder / "x.zarr"


def hdf5(values, folder):
    file = pytest.importorskip("h5py").File(folder / "x.h5", "w")
    return file.create_dataset("x", data=values, chunks=chunks(values) if values.size else None)


def npy(values, folder):
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


def hdf5_file(values, folder):
    hdf5(values, folder).file.close()
    return folder / "x.h5"


def labelled(values, folder):
    dims = ("more", "row", "feature")[-values.ndim :] if values.ndim > 1 else ("row",)
    return pytest.importorskip("xarray").DataArray(values, dims=dims, name="x")


def labelled_blocks(values, folder):
    return labelled(values, folder).chunk(dict(zip(labelled(values, folder).dims, chunks(values), strict=True)))


def variables(values, folder):
    if values.ndim != 2:
        return labelled(values, folder)
    columns = {name: ("row", column) for name, column in zip(COLUMNS, values.T, strict=False)}
    return pytest.importorskip("xarray").Dataset(columns)


def netcdf_file(values, folder):
    pytest.importorskip("h5netcdf")
    labelled(values, folder).to_netcdf(folder / "x.nc", engine="h5netcdf")
    return str(folder / "x.nc")


def parquet(values, folder):
    """A folder of parts, or for weights the column of a file."""
    pytest.importorskip("pyarrow")
    dataframes()
    if values.ndim == 1:
        pandas(values).to_frame().to_parquet(folder / "x.parquet")
        return f"{folder}/x.parquet::w"
    for start in range(0, max(len(values), 1), PART):
        pandas(values[start : start + PART]).to_parquet(folder / f"part.{start:03}.parquet")
    return folder


def csv(values, folder):
    dataframes()
    frame = pandas(values)
    frame.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv" if values.ndim == 2 else f"{folder}/x.csv::w"


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    make: Callable[[Any, Path], Any]
    """Makes data of the kind of an array and an empty folder: weights (n,), rows (n, D)."""
    results: str = "ndarray"
    """Class of results (n,)."""
    table: bool = False
    """Columns have names and types."""
    variant: bool = False
    """Like another kind in most respects."""

    @property
    def grid(self) -> bool:
        """Samples may lie on a grid, and those that are incomplete are left out by default."""
        return self.results == "DataArray"


KINDS = {
    "numpy": Kind(lambda values, folder: values),
    "dask": Kind(lambda values, folder: da.from_array(values, chunks=chunks(values)), "Array"),
    "zarr": Kind(stored, "Array"),
    "path": Kind(stored_path, "Array"),
    "hdf5": Kind(hdf5, "Array"),
    "memmap": Kind(lambda values, folder: np.load(npy(values, folder), mmap_mode="r"), variant=True),
    "npy file": Kind(npy),
    "hdf5 file": Kind(hdf5_file, "Array"),
    "netcdf file": Kind(netcdf_file, "DataArray"),
    "DataArray": Kind(labelled, "DataArray"),
    "DataArray of blocks": Kind(labelled_blocks, "DataArray", variant=True),
    "Dataset": Kind(variables, "DataArray", table=True),
    "parquet": Kind(parquet, "Series", table=True),
    "csv": Kind(csv, "Series", table=True, variant=True),
    "pandas": Kind(lambda values, folder: pandas(values), table=True),
    "nullable": Kind(lambda values, folder: pandas(values).convert_dtypes(), table=True, variant=True),
    "dask frame": Kind(dask_frame, "Series", table=True),
    "dask parts": Kind(dask_parts, "Series", table=True, variant=True),
    "dask nullable": Kind(dask_nullable, "Series", table=True, variant=True),
    "dask arrow": Kind(dask_arrow, "Series", table=True, variant=True),
    "polars": Kind(polars, table=True),
    "arrow": Kind(arrow, table=True),
    "astropy": Kind(astropy, table=True),
    "records": Kind(records, table=True),
}
