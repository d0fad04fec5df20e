"""What users may set with ``dask.config.set``, under the name ``daskgmm``."""

from __future__ import annotations

import dask
from dask.utils import parse_timedelta


def patience(default: str) -> float:
    """``daskgmm.timeout``: seconds to wait for a scheduler's answer, or for workers."""
    return float(parse_timedelta(dask.config.get("daskgmm.timeout", default)))


def compiled() -> bool:
    """``daskgmm.compiled``: whether passes may use compiled loops; they take memory in every worker process."""
    return bool(dask.config.get("daskgmm.compiled", True))
