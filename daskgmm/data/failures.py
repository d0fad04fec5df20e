"""Errors of this library as users see them: the message says what is wrong, and where; frames of ours do not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from .. import errors

_NAMES = frozenset(
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.DaskGMMError)
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger("daskgmm")


def short_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let errors of ours leave a public function without the frames that they have passed in it."""

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
    """Drop the frames that an error of ours, and what caused it, have passed so far; others keep theirs.

    At level DEBUG the logger ``daskgmm`` tells them.

    Parameters
    ----------
    error : DaskGMMError
    handled : BaseException or None
        What the caller was handling before: its frames are not ours.
    """
    _log.debug("%s", error, exc_info=error)
    link: BaseException | None = error
    while link is not None and link is not handled:
        link.__traceback__ = None
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


@cache
def tell_briefly() -> None:
    """Have a worker of this process log errors of ours in a line, at level INFO; they are on their way to the driver.

    Dask logs what a task raises as an error, with the task and a traceback. All else that it may raise stays like that.
    """
    logging.getLogger("distributed.worker").addFilter(_brief)


def _brief(record: logging.LogRecord) -> bool:
    """Let Dask log a record as it is, unless it tells an error of ours: that gets a line of its own."""
    if not str(record.msg).startswith("Compute Failed") or not isinstance(record.args, tuple):
        return True
    told = [text for text in record.args if isinstance(text, str) and text.partition("(")[0] in _NAMES]
    if told:
        logging.getLogger(record.name).info("Task %r: %s", record.args[0], told[0])
    return not told
