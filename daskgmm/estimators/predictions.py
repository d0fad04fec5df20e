"""Predictions and scores of a fitted mixture for data of any kind and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import DensityMixin

from ..config import compiled
from ..core.elementwise import ElementwiseBackend
from ..core.estimation import State
from ..core.kernel_choice import Kernel, MixtureShape, choose_backend
from ..data.dataset import Dataset
from ..data.dimensions import PLAIN, Layout, given_layout
from ..data.failures import short_errors
from ..data.files import naming_files
from ..data.input_kinds import Input
from ..data.inputs import as_dataset, is_lazy, resolve
from ..data.output import RowFunction, apply_rows, as_blocks, map_rows
from ..data.row_checks import check_complete, check_weight_sum, row_kind
from ..data.tables import split_weights
from ..engine.blas import one_blas_thread
from ..engine.memory import PassPlan
from ..engine.plain import is_short, run_here
from ..engine.run import DaskEngine
from ..fitting.folds import Score, ScoreFold
from ..fitting.predictions import KernelOutputs
from .accepted_data import accept_data
from .attributes import Prepared, as_array
from .conversion import SklearnConversion
from .validation import check_callbacks


class MixturePredictions(DensityMixin, SklearnConversion[State]):  # type: ignore[misc]
    """Predictions and scores of a mixture from its fitted attributes."""

    @short_errors
    def predict(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Predict the most probable component of every row.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        labels : array of shape (n,), int64
            Lazy for dask and Zarr data: a dask array, or a dask series for a dask data frame; else a NumPy array.
            Incomplete rows that are left out have −1. For samples on a grid, an array of the grid's shape; for xarray
            objects, a DataArray with the dimensions, coordinates and blocks of the samples.
        """
        return self._for_each_row(X, "labels", given_layout(dim, feature_axis))

    @short_errors
    def predict_proba(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Compute the posterior probability of every component for every row.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        probabilities : array of shape (n, n_components)
            Lazy for dask and Zarr data: a dask array, or a dask data frame with the columns ``component_0``, … for
            another; else a NumPy array. Incomplete rows that are left out have NaN. In a DataArray, the last
            dimension is named ``component``.
        """
        return self._for_each_row(X, "responsibilities", given_layout(dim, feature_axis))

    @short_errors
    def score_samples(self, X: Any, *, dim: str | Sequence[str] | None = None, feature_axis: int | None = None) -> Any:
        """Compute the log-density of every row, in nats.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        log_density : array of shape (n,)
            Lazy for dask and Zarr data: a dask array, or a dask series for a dask data frame; else a NumPy array.
            Incomplete rows that are left out have NaN.
        """
        return self._for_each_row(X, "log_density", given_layout(dim, feature_axis))

    @short_errors
    def score(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> float:
        """Compute the mean log-density of the rows, in nats, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n, D)
            Data, as for `fit`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,) or str, optional
            Weights of the rows in the mean.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        float
        """
        return self._score(X, sample_weight, given_layout(dim, feature_axis)).mean_log_likelihood

    # ---- internal methods

    def _kernel(self, data: Any) -> Kernel:
        """Make the kernel for one pass over data in the range of the mixture."""
        prepared = self._prepared()
        return prepared.new_kernel(np.dtype(data.dtype), _backend(prepared, data))

    @staticmethod
    def _kept_kernel(prepared: Prepared[State], data: Any) -> Kernel:
        """Return the kernel for data in the range of the mixture, cached for the next call."""
        return prepared.kernel(np.dtype(data.dtype), _backend(prepared, data))

    def _accept_new(self, X: Any, layout: Layout = PLAIN) -> tuple[Input, Prepared[State]]:
        """Accept new data for a fitted model; return the data and the prepared model."""
        prepared = self._prepared()
        accepted = accept_data(self, X, reset=False, layout=layout)
        n_features, expected = accepted.rows.shape[1], prepared.parameters.n_features
        if n_features != expected:
            raise ValueError(
                f"X has {n_features} features, but {type(self).__name__} is expecting {expected} features as input."
            )
        return accepted, prepared

    @contextmanager
    def _pass_over(
        self, accepted: Input, weights: Any = None, callbacks: Any = None
    ) -> Iterator[tuple[DaskEngine, Dataset]]:
        """Open an engine for one pass over accepted data; ``callbacks`` replace the estimator's own."""
        data = accepted.rows
        listeners = check_callbacks(self.callbacks if callbacks is None else callbacks)
        in_process = not is_lazy(data)
        with (
            accepted.naming_samples(),
            DaskEngine(self.scheduler, in_process=in_process, listeners=listeners) as engine,
        ):
            dataset, _ = as_dataset(data, weights, engine.compute, accepted.missing)
            yield engine, dataset

    def _score(self, X: Any, sample_weight: Any = None, layout: Layout = PLAIN, *, entropy: bool = False) -> Score:
        address = X
        X, sample_weight = split_weights(X, sample_weight)
        accepted, prepared = self._accept_new(X, layout)
        weights = accepted.align(sample_weight, "sample_weight")
        weights = None if weights is None else resolve(weights, "sample_weight", accepted.missing)
        score = self._score_here(accepted, prepared, weights, entropy=entropy)
        if score is None:
            with naming_files(address), self._pass_over(accepted, weights) as (engine, dataset):
                score = engine.run(dataset, self._score_fold(dataset, prepared, entropy=entropy), "score")
        check_complete(score.n_rows, score.n_incomplete)
        check_weight_sum(score.weight_sum)
        return score

    def _plan_score(
        self, X: Any, sample_weight: Any = None, layout: Layout = PLAIN, *, entropy: bool = False
    ) -> PassPlan:
        """Plan the pass of `score`; raise `WorkerMemoryError` if the pass does not fit into the workers."""
        address = X
        X, sample_weight = split_weights(X, sample_weight)
        accepted, prepared = self._accept_new(X, layout)
        weights = accepted.align(sample_weight, "sample_weight")
        with naming_files(address), self._pass_over(accepted, weights) as (engine, dataset):
            return engine.plan(dataset, self._score_fold(dataset, prepared, entropy=entropy))

    def _score_here(self, accepted: Input, prepared: Prepared[State], weights: Any, *, entropy: bool) -> Score | None:
        """Compute the score of few rows in memory; None if the data need an engine."""
        data = accepted.rows
        if self.scheduler is not None or self.callbacks or is_lazy(data) or is_lazy(weights):
            return None
        dataset, _ = as_dataset(data, weights, missing=accepted.missing)
        fold = self._score_fold(dataset, prepared, entropy=entropy)
        with accepted.naming_samples():
            return run_here(dataset, fold) if is_short(dataset, fold) else None

    def _score_fold(self, dataset: Dataset, prepared: Prepared[State], *, entropy: bool) -> ScoreFold:
        return ScoreFold(self._kept_kernel(prepared, dataset.rows), entropy, row_kind=dataset.row_kind)

    def _outputs(self, accepted: Input, prepared: Prepared[State], *names: str) -> KernelOutputs:
        """Outputs of the model for each row; ``names`` are fields of `RowResults`."""
        dtype = np.float32 if as_array("means_", self.means_).dtype == np.float32 else np.float64
        return KernelOutputs.named(self._kept_kernel(prepared, accepted.rows), names, dtype, row_kind(accepted.missing))

    def _for_each_row(self, X: Any, name: str, layout: Layout) -> Any:
        accepted, prepared = self._accept_new(X, layout)
        shared_bytes = 0
        if not isinstance(accepted.rows, np.ndarray):
            shared_bytes = self._outputs(accepted, prepared, "labels", "responsibilities", "log_density").row_bytes
        return for_each_row(accepted, self._outputs(accepted, prepared, name), shared_bytes)


def for_each_row(accepted: Input, function: RowFunction, shared_bytes: int = 0) -> Any:
    """Results of a function with one output for all rows, in the form of the input: lazy for lazy rows.

    Parameters
    ----------
    accepted : Input
    function : RowFunction
    shared_bytes : int
        Size of all results of a row that may share the blocks of rows; see `as_blocks`.
    """
    (output,), data = function.outputs, accepted.rows

    def compute() -> Any:
        if isinstance(data, np.ndarray):
            with accepted.naming_samples(), one_blas_thread():
                return apply_rows(data, function, n_threads=None)[0]
        return map_rows(as_blocks(data, output.row_bytes, max(shared_bytes, output.row_bytes)), function)

    return accepted.map_rows(function, compute)


def _backend(prepared: Prepared[Any], data: Any) -> ElementwiseBackend:
    n_rows = data.shape[0] if data.shape[0] == data.shape[0] else np.inf  # unknown lengths of dask arrays are NaN
    return choose_backend(MixtureShape.of(prepared.parameters), n_rows, n_passes=1, compiled=compiled())
