"""What users may set with ``dask.config.set``, under the name ``daskgmm``."""

from __future__ import annotations

import math
import re
from typing import Any

import dask
from dask.utils import parse_timedelta

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def patience(default: str) -> float:
    """``daskgmm.timeout``: seconds to wait for a scheduler's answer, or for workers.

    Raises
    ------
    ValueError
        If it is no length of time.
    """
    value: Any = dask.config.get("daskgmm.timeout", None)
    value = default if value is None else value
    seconds = _seconds(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"daskgmm.timeout is {value!r:.80}; expected a length of time that ends, such as 30, '30s' or '10min'"
        )
    return seconds


def _seconds(value: Any) -> float:
    """NaN for what is no length of time."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        if isinstance(value, int | float):
            return float(value)
        return float(parse_timedelta(re.sub(r"min\s*$", "minutes", value)))  # Dask knows no such unit
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return math.nan  # that function has no errors of its own


def compiled() -> bool:
    """``daskgmm.compiled``: whether passes may use compiled loops; they take memory in every worker process.

    Raises
    ------
    ValueError
        If it is neither true nor false, as far as a configuration file or an environment variable can say it.
    """
    value: Any = dask.config.get("daskgmm.compiled", True)
    found = _WORDS.get(str(value).lower()) if isinstance(value, str | int) else None
    if found is None:
        raise ValueError(f"daskgmm.compiled is {value!r:.80}; expected True or False")
    return found
