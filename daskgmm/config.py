"""Settings in Dask's configuration, under the name ``daskgmm``; ``daskgmm.yaml`` lists and explains all of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import dask
import yaml
from dask.utils import parse_timedelta

from .names import MISSING_CHUNKS

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_DEFAULTS: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("daskgmm.yaml").read_text("utf-8"))
dask.config.update_defaults(_DEFAULTS)


def _setting(name: str) -> Any:
    """Return a setting's value, or its default if the user's configuration has replaced all defaults."""
    return dask.config.get(f"daskgmm.{name}", _DEFAULTS["daskgmm"][name])


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings for reading stores. They travel with the data: workers do not see the driver's configuration."""

    fill_missing: bool
    """Missing chunks are read as fill values; otherwise a missing chunk is an error."""

    retries: int
    """Number of further attempts at a read that failed and may work later."""

    @classmethod
    def configured(cls) -> Reading:
        """Read the current settings ``daskgmm.missing-chunks`` and ``daskgmm.read-retries``.

        Raises
        ------
        ValueError
            If a setting has another value than allowed.
        """
        missing: Any = _setting("missing-chunks")
        retries: Any = _setting("read-retries")
        if missing not in MISSING_CHUNKS:
            raise ValueError(f"daskgmm.missing-chunks is {missing!r}; expected 'raise' or 'fill'")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"daskgmm.read-retries is {retries!r}; expected a number of attempts, 0 or more")
        return cls(missing == "fill", retries)


def timeout_seconds(default: str) -> float:
    """Read the seconds to wait for a scheduler's answer or for workers: ``daskgmm.timeout``, or the default for None.

    Raises
    ------
    ValueError
        If the setting is not a finite length of time.
    """
    value: Any = _setting("timeout")
    value = default if value is None else value
    seconds = _seconds(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"daskgmm.timeout is {value!r:.80}; expected a length of time that ends, such as 30, '30s' or '10min'"
        )
    return seconds


def _seconds(value: Any) -> float:
    """Convert a length of time to seconds; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        if isinstance(value, int | float):
            return float(value)
        return float(parse_timedelta(re.sub(r"min\s*$", "minutes", value)))  # Dask has no unit "min"
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return math.nan  # Dask's function has no exception class of its own


def compiled() -> bool:
    """Read ``daskgmm.compiled``, the permission to use compiled loops, which take memory in every worker process.

    Raises
    ------
    ValueError
        If the setting is neither true nor false, nor a word for one of them.
    """
    value: Any = _setting("compiled")
    permission = _WORDS.get(str(value).lower()) if isinstance(value, str | int) else None
    if permission is None:
        raise ValueError(f"daskgmm.compiled is {value!r:.80}; expected True or False")
    return permission
