"""What users may set about reading with ``dask.config.set``, under the name ``daskgmm``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask

from ..names import MISSING_CHUNKS


@dataclass(frozen=True, slots=True)
class Reading:
    """How stores are read. It travels with the data: configuration of the driver is not that of the workers."""

    fill_missing: bool
    """A chunk that is not in its store holds the fill value; otherwise it is an error."""

    retries: int
    """Further attempts at a read that failed and may work later."""

    @classmethod
    def configured(cls) -> Reading:
        """As ``daskgmm.missing-chunks`` and ``daskgmm.read-retries`` say here and now.

        Raises
        ------
        ValueError
            If one of them has no meaning.
        """
        missing: Any = dask.config.get("daskgmm.missing-chunks", "raise")
        retries: Any = dask.config.get("daskgmm.read-retries", 4)
        if missing not in MISSING_CHUNKS:
            raise ValueError(f"daskgmm.missing-chunks is {missing!r}; expected 'raise' or 'fill'")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"daskgmm.read-retries is {retries!r}; expected a number of attempts, 0 or more")
        return cls(missing == "fill", retries)
