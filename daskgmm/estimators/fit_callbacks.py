"""scikit-learn's own callbacks (``set_callbacks``, from version 1.9 on): a task for a fit, and for each iteration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..engine.events import Listener, PassStarted
from ..fitting.events import IterationFinished

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
    from sklearn.callback import with_callbacks
except ImportError:  # an earlier version of scikit-learn

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Base class without ``set_callbacks``."""

    def with_callbacks(method: Any) -> Any:
        """Return the method."""
        return method


@with_callbacks  # type: ignore[untyped-decorator]
def _tear_down(estimator: Any) -> None:
    """Do nothing; the decorator then tears the callbacks of a fit down."""


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[tuple[Listener, ...]]:
    """Tell scikit-learn's callbacks about a fit in the ``with`` block; yield the listeners that this needs.

    Parameters
    ----------
    estimator : BaseMixture
    X, y, sample_weight : object
        Data of the fit, which callbacks may ask for.
    """
    if not getattr(estimator, "_skl_callbacks", ()):
        yield ()
        return
    data = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
    try:
        context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        context.call_on_fit_task_begin(estimator=estimator, **data)
        yield (_Iterations(estimator, context, data),)
        # The estimator is fitted: a callback that asks for the result gets a copy.
        context.call_on_fit_task_end(estimator=estimator, **data, reconstruction_attributes={})
    finally:
        _tear_down(estimator)


class _Iterations:
    """Listener that makes a task of every iteration, from the first pass for it until its M-step."""

    def __init__(self, estimator: Any, context: Any, data: dict[str, Any]) -> None:
        self._estimator, self._context, self._data = estimator, context, data
        self._task: Any = None
        self._n_tasks = self._n_finished = 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, PassStarted) and event.label == "estep":
            self._begin()
        elif isinstance(event, IterationFinished) and event.iteration > self._n_finished:  # of the longest start
            self._n_finished = event.iteration
            self._begin()
            self._end()

    def _begin(self) -> None:
        if self._task is None and self._n_tasks < self._estimator.max_iter:
            self._n_tasks += 1
            self._task = self._context.subcontext(task_name="iteration")
            self._task.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None and task.call_on_fit_task_end(estimator=self._estimator, **self._data):
            warnings.warn(
                f"a callback of {type(self._estimator).__name__} asks to stop the fit, which goes on: set max_iter or "
                "tol instead",
                UserWarning,
                stacklevel=2,
            )
