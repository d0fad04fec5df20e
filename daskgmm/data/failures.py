"""Errors of this library without the library's own frames, in tracebacks and in the logs of workers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from .. import errors

_NAMES = frozenset(
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.DaskGMMError)
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger("daskgmm")


def short_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Remove the library's frames from the tracebacks of its errors: a decorator for public functions."""

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        handled = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except errors.DaskGMMError as error:
            _shorten(error, handled)
            raise

    return called


def _shorten(error: errors.DaskGMMError, handled: BaseException | None) -> None:
    """Drop the frames of an error and of its causes; the logger ``daskgmm`` logs them first, at level DEBUG.

    Parameters
    ----------
    error : DaskGMMError
    handled : BaseException or None
        Exception that the caller was handling before. It keeps its frames, which are not the library's.
    """
    _log.debug("%s", error, exc_info=error)
    seen: set[int] = set()  # chains of errors that crossed processes may be circles
    link: BaseException | None = error
    while link is not None and link is not handled and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


@cache
def tell_briefly() -> None:
    """Have a worker in this process log the library's errors in one line at level INFO: the driver raises them.

    Dask logs any error of a task at level ERROR, with the task and a traceback. Errors of other kinds are still logged
    like this.
    """
    logging.getLogger("distributed.worker").addFilter(_brief)


def _brief(record: logging.LogRecord) -> bool:
    """Return True for a record that Dask is to log; log a record of one of the library's errors in one line instead."""
    if not str(record.msg).startswith("Compute Failed") or not isinstance(record.args, tuple):
        return True
    ours = [text for text in record.args if isinstance(text, str) and text.partition("(")[0] in _NAMES]
    if ours:
        logging.getLogger(record.name).info("Task %r: %s", record.args[0], ours[0])
    return not ours
