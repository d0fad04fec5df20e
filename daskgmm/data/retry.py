"""Repetition of reads that failed: errors that may pass, and waits between attempts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import DaskGMMError
from .addresses import hide_urls

T = TypeVar("T")
_log = logging.getLogger("daskgmm")

# Seconds. Waits grow and are random, so that a thousand tasks do not ask an overloaded server at the same time.
FIRST_WAIT, GROWTH, LONGEST_WAIT, LONGEST_TIME = 0.2, 4.0, 10.0, 60.0

# Errors of the operating system that another attempt would meet again.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# Packages for storage over a network. Most of their errors have classes of their own that are not an OSError.
_NETWORK = {
    "aiohttp", "obstore", "botocore", "aiobotocore", "urllib3", "requests", "gcsfs", "s3fs", "azure", "fsspec",
    "icechunk",
}  # fmt: skip
_LASTING_NAMES = {
    "NotFoundError", "PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "NotSupportedError",
    "UnknownConfigurationKeyError", "NoCredentialsError", "InvalidURL",
}  # fmt: skip
_PASSING_STATUS = {408, 425, 429}  # of HTTP, below 500


def is_of_storage(error: BaseException) -> bool:
    """Return True for errors of the operating system and of packages for storage over a network."""
    return isinstance(error, OSError) or bool(_packages(error) & _NETWORK)


def _packages(error: BaseException) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def may_pass(error: BaseException) -> bool:
    """Return True if a later attempt may work: for errors of networks and disks, not for errors of a decoder."""
    if isinstance(error, (DaskGMMError, *_LASTING)) or _is_of_decoder(error):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    if not is_of_storage(error) or names & _LASTING_NAMES:
        return False
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status >= 500 or status in _PASSING_STATUS or status < 400


def _is_of_decoder(error: BaseException) -> bool:
    """Return True if a codec raised the error: gzip and bz2 raise an OSError for damaged bytes."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("numcodecs", "gzip", "bz2", "lzma"):
            return True
        trace = trace.tb_next
    return False


def retried(
    read: Callable[[], T],
    last: Callable[[int], T],
    retries: int,
    what: str,
    hide: Callable[[str], str] = hide_urls,
) -> T:
    """Call ``read`` until it succeeds, with growing waits, and return its value.

    No attempt begins later than `LONGEST_TIME` after the first failure.

    Parameters
    ----------
    read : callable
    last : callable
        Called with the number of failed attempts when ``read`` is not called again: after ``retries`` repetitions, or
        at once for a lasting error, such as damaged bytes. Its value is returned.
    retries : int
        Attempts after the first one, at most.
    what : str
        Name of the data that are read, for the log.
    hide : callable
        Removes secrets from the text of an error, for the log.
    """
    failed, deadline = 0, 0.0
    while True:
        try:
            return read()
        except DaskGMMError:
            raise
        except Exception as error:
            failed += 1
            deadline = deadline or time.monotonic() + LONGEST_TIME
            wait = min(LONGEST_WAIT, FIRST_WAIT * GROWTH ** (failed - 1)) * random.uniform(0.5, 1)
            if failed > retries or not may_pass(error) or time.monotonic() + wait > deadline:
                break
            _log.warning(
                "%s: attempt %d of %d failed (%s); the next one follows in %.1f s",
                what, failed, retries + 1, hide(describe_error(error)), wait,
            )  # fmt: skip
        time.sleep(wait)
    return last(failed)


def describe_error(error: BaseException) -> str:
    """Class and message of an error, without credentials."""
    return hide_urls(f"{type(error).__name__}: {error}".strip(": "))
