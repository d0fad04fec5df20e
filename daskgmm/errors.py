"""Exceptions and warnings of daskgmm.

::

    DaskGMMError
    ├── IllDefinedCovarianceError   (ValueError)         a component collapsed: no Cholesky factor exists
    ├── NonFiniteDataError          (ValueError)         NaN or infinity, with the row where it was found
    ├── IncompleteDataError         (ValueError)         too few rows without NaN, where the others are left out
    ├── DataRangeError              (ValueError)         values whose squares double precision does not hold
    ├── InvalidAttributesError      (ValueError)         fitted attributes, set by hand, that no mixture has
    ├── InvalidWeightsError         (ValueError)         sample weights that are negative, not finite or all zero
    ├── UnsupportedDataError        (TypeError, ValueError)  a kind of data or a dtype that a mixture cannot describe
    ├── DimensionError              (ValueError)         dimensions that the input does not have, or cannot be divided
    ├── DataChangedError            (ValueError)         a pass saw other rows than the passes before it
    ├── StoreError                  (ValueError)         a Zarr store that is damaged, ambiguous or not Zarr
    │   └── ChunkError                               one chunk of it is damaged, or its storage does not answer
    │       └── MissingChunkError                    one chunk of it is not there
    ├── StoreNotFoundError          (FileNotFoundError)  nothing at that path or URL
    ├── OutputExistsError           (FileExistsError)    the output exists and may not be replaced
    ├── OutputError                 (OSError)            the output cannot be written: a full disk, for instance
    ├── ModelFormatError            (ValueError)         a model file that is damaged, foreign or too new
    ├── CheckpointError             (ValueError)         a checkpoint that is damaged, or of another fit
    ├── SchedulerError              (ConnectionError, ValueError)  a Dask scheduler that does not answer or went away
    ├── WorkerMemoryError           (MemoryError, ValueError)  a pass does not fit into the workers' memory
    └── MissingDependencyError      (ImportError)        an extra is not installed; the message says which

    InitializationWarning           (UserWarning)        a start was dropped, or is made from too few rows
    CoincidingComponentsWarning     (UserWarning)        components are nearly equal; fewer would suffice
    FallingLikelihoodWarning        (UserWarning)        a mixture with more components describes the data worse
    SelectionWarning                (UserWarning)        candidates are too close to tell which of them is the best
    ReseedingWarning                (UserWarning)        a component collapsed or was empty, and began anew elsewhere
    CheckpointWarning               (UserWarning)        a fit resumes from an older checkpoint, or in another place
    InterruptedWarning              (UserWarning)        a fit was stopped; the estimator has the best parameters so far
    ReproducibilityWarning          (UserWarning)        workers differ: the last bits depend on the division of work

Each class also derives from the built-in types in brackets, so code written for scikit-learn (``except ValueError``)
goes on working.
"""

from __future__ import annotations

from typing import Any


class DaskGMMError(Exception):
    """Base class of daskgmm's errors."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the finished message: subclasses take other arguments than Exception stores.

        Errors cross process boundaries (worker to driver), where the default would call the constructor with the
        message.
        """
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[DaskGMMError], args: tuple[Any, ...], state: dict[str, Any]) -> DaskGMMError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class IllDefinedCovarianceError(DaskGMMError, ValueError):
    """A component's covariance has no Cholesky factor: it collapsed on too few distinct rows.

    Attributes
    ----------
    components : tuple of int
        The components concerned; empty if all components share the covariance.
    """

    def __init__(self, components: tuple[int, ...]) -> None:
        self.components = components
        named = ", ".join(map(str, components[:8])) + (", …" if len(components) > 8 else "")
        which = f"component(s) {named}" if components else "the covariance that all components share"
        super().__init__(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance "
            "(for instance caused by singleton or collapsed samples). Try to decrease the "
            "number of components, increase reg_covar, or scale the input data. Leave out features that are linear "
            "combinations of others. "
            f"Ill-defined: {which}."
        )


class NonFiniteDataError(DaskGMMError, ValueError):
    """NaN or infinity in the data.

    Attributes
    ----------
    row : int
        Index of the first such row, counted over the whole data set; within its chunk, if the lengths of the chunks
        before it are not known.
    is_nan : bool
        True for NaN, False for infinity.
    """

    def __init__(self, row: int, *, is_nan: bool, within_chunk: bool = False, missing: str = "") -> None:
        self.row, self.is_nan = row, is_nan
        what = "NaN" if is_nan else "infinity"
        where = f"row {row}" + " of a chunk (the lengths of the chunks before it are not known)" * within_chunk
        why = missing and f": {missing}"
        advice = (
            "leave such rows out with missing='drop', or decode the values, for example with xarray (x = "
            "xarray.open_zarr(path)[name].data), which makes NaN of such numbers, and impute them"
            if missing
            else "leave such rows out with missing='drop', or impute them"
            if is_nan
            else "drop such rows first (for a dask array for instance with x[da.isfinite(x).all(axis=1)])"
        )
        super().__init__(f"Input X contains {what} in {where}{why}. A Gaussian mixture needs finite values: {advice}.")


class IncompleteDataError(DaskGMMError, ValueError):
    """Too few complete rows: rows with NaN are left out with ``missing='drop'``.

    Attributes
    ----------
    n_rows : int
        Number of all rows.
    n_incomplete : int
        Number of rows that contain NaN.
    """

    def __init__(self, n_rows: int, n_incomplete: int, needed: int = 1) -> None:
        self.n_rows, self.n_incomplete = n_rows, n_incomplete
        n_complete = n_rows - n_incomplete
        rows = "row" if n_complete == 1 else "rows"
        found = f"{n_complete} complete {rows}, and {needed} are needed" if n_complete else "no complete row"
        super().__init__(
            f"Input X has {found}: {n_incomplete} of {n_rows} rows contain NaN, and missing='drop' leaves such rows "
            "out. Choose features that are known in the same rows, or impute missing values."
        )


class DataRangeError(DaskGMMError, ValueError):
    """Values so far apart that sums of their squares leave the range of double precision.

    Attributes
    ----------
    feature : int
        Index of the first such feature.
    """

    def __init__(self, feature: int, spread: float) -> None:
        self.feature = feature
        super().__init__(
            f"Input X has values up to {spread:g} apart in feature {feature}, and sums of the squares of such values "
            "(times sample_weight, if there is any) are beyond the largest double. Scale the feature, for example "
            "divide X by its largest absolute value, or remove rows that hold a fill value."
        )


class InvalidAttributesError(DaskGMMError, ValueError):
    """Fitted attributes that no mixture has, because they were set by hand, or arguments of `from_parameters`.

    Attributes
    ----------
    attribute : str
        Name of the invalid attribute, such as ``"weights_"``, or of the argument, such as ``"weights"``.
    """

    def __init__(self, attribute: str, problem: str) -> None:
        self.attribute = attribute
        super().__init__(f"{attribute} {problem}")


class InvalidWeightsError(DaskGMMError, ValueError):
    """Sample weights that are negative, not finite, all zero or not one for each row."""


class UnsupportedDataError(DaskGMMError, TypeError, ValueError):
    """A kind of data, or a dtype, that a Gaussian mixture cannot describe."""


class DimensionError(DaskGMMError, ValueError):
    """Dimensions that the input does not have, or that cannot be divided into samples and features."""


class DataChangedError(DaskGMMError, ValueError):
    """A pass saw other rows than the passes before it: the data changed during the work."""


class StoreError(DaskGMMError, ValueError):
    """A Zarr store that is damaged, ambiguous, or not Zarr at all."""


class ChunkError(StoreError):
    """A chunk of a Zarr array cannot be read: it is damaged, or the storage behind it fails again and again.

    Attributes
    ----------
    store : str
        Address of the array, without credentials.
    chunk : tuple of int
        Coordinates in the grid of chunks, or in the grid of shards for an error of a whole shard.
    rows : tuple of int
        First row of the chunk, and the row after its last.
    """

    def __init__(self, message: str, *, store: str, chunk: tuple[int, ...], rows: tuple[int, int]) -> None:
        self.store, self.chunk, self.rows = store, chunk, rows
        super().__init__(message)


class MissingChunkError(ChunkError):
    """A chunk of a Zarr array is not in its store; Zarr alone would read fill values."""


class StoreNotFoundError(DaskGMMError, FileNotFoundError):
    """Nothing at that path or URL."""


class OutputExistsError(DaskGMMError, FileExistsError):
    """The output exists and may not be overwritten, or another run is writing it."""


class OutputError(DaskGMMError, OSError):
    """An output cannot be written: the disk is full, a quota or a limit is reached, or the device fails."""


class ModelFormatError(DaskGMMError, ValueError):
    """A model file that is damaged, foreign, or written by a newer version."""


class CheckpointError(DaskGMMError, ValueError):
    """A checkpoint that is damaged, or was written by another fit or a fit of other data."""


class SchedulerError(DaskGMMError, ConnectionError, ValueError):
    """A Dask scheduler that does not answer, has no workers, or went away."""


class WorkerMemoryError(DaskGMMError, MemoryError, ValueError):
    """A pass needs more memory than the workers may use, or a mixture more than the machine has; raised beforehand."""


class MissingDependencyError(DaskGMMError, ImportError):
    """A feature needs a package that is not installed.

    Parameters
    ----------
    package : str
        The package's import name.
    extra : str
        The extra of daskgmm that brings it.
    purpose : str
        Feature that needs the package.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'daskgmm[{extra}]'")


class InitializationWarning(UserWarning):
    """One of several starts failed and was dropped, or starts are made from too few rows for the mixture."""


class CoincidingComponentsWarning(UserWarning):
    """Components of a fitted mixture are nearly equal: fewer components describe the same mixture."""


class FallingLikelihoodWarning(UserWarning):
    """A mixture with more components describes the data worse than another with fewer: its fit found a poor maximum."""


class SelectionWarning(UserWarning):
    """Candidates of a selection are so close that their order depends on what their fits have left to gain."""


class ReseedingWarning(UserWarning):
    """Components collapsed or emptied in the start that was kept, and began anew elsewhere."""


class CheckpointWarning(UserWarning):
    """A fit resumes from a checkpoint, but not from the last one, or in another place."""


class InterruptedWarning(UserWarning):
    """A fit was stopped before its end, and the estimator has the best parameters so far."""


class ReproducibilityWarning(UserWarning):
    """The workers of a cluster compute with different software or kinds of processors."""
