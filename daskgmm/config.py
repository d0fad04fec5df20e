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
    """Value in force: the default also where somebody replaced all settings by some of them."""
    return dask.config.get(f"daskgmm.{name}", _DEFAULTS["daskgmm"][name])


@dataclass(frozen=True, slots=True)
class Reading:
    """How stores are read. It travels with the data: configuration of the driver is not that of the workers."""

    fill_missing: bool
    """A chunk that is not in its store holds the fill value; otherwise it is an error."""

    retries: int
    """Further attempts at a read that failed and may work later."""

    @classmethod
    def configured(cls) -> Reading:
        """Settings ``daskgmm.missing-chunks`` and ``daskgmm.read-retries`` as they are now.

        Raises
        ------
        ValueError
            If one of them has no meaning.
        """
        missing: Any = _setting("missing-chunks")
        retries: Any = _setting("read-retries")
        if missing not in MISSING_CHUNKS:
            raise ValueError(f"daskgmm.missing-chunks is {missing!r}; expected 'raise' or 'fill'")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"daskgmm.read-retries is {retries!r}; expected a number of attempts, 0 or more")
        return cls(missing == "fill", retries)


def timeout_seconds(default: str) -> float:
    """Seconds to wait for a scheduler's answer, or for workers: ``daskgmm.timeout``, or the default where that is None.

    Raises
    ------
    ValueError
        If the setting is no length of time.
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
    """Seconds of a length of time; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        if isinstance(value, int | float):
            return float(value)
        return float(parse_timedelta(re.sub(r"min\s*$", "minutes", value)))  # Dask knows no such unit
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return math.nan  # that function has no errors of its own


def compiled() -> bool:
    """Permission for passes to use compiled loops, which take memory in every worker process: ``daskgmm.compiled``.

    Raises
    ------
    ValueError
        If the setting is neither true nor false, as far as a configuration file or an environment variable can say so.
    """
    value: Any = _setting("compiled")
    found = _WORDS.get(str(value).lower()) if isinstance(value, str | int) else None
    if found is None:
        raise ValueError(f"daskgmm.compiled is {value!r:.80}; expected True or False")
    return found
