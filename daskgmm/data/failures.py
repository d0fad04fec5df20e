"""Errors of this library as users see them: the message says what is wrong, and where; frames of ours do not."""

from __future__ import annotations

import logging
from functools import cache

from .. import errors

_NAMES = frozenset(
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.DaskGMMError)
)

_log = logging.getLogger("daskgmm")


def shorten(error: BaseException | None, handled: BaseException | None) -> None:
    """Drop the frames that an error of ours, and what caused it, have passed so far; others keep theirs.

    At level DEBUG the logger ``daskgmm`` tells them.

    Parameters
    ----------
    error : BaseException or None
    handled : BaseException or None
        What the caller was handling before: its frames are not ours.
    """
    if not isinstance(error, errors.DaskGMMError):
        return
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
