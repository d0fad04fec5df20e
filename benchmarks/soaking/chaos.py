"""Workers that die at random; their nannies start others."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.chaos import KillWorker

#: Seconds in which nobody dies: a worker that dies while it starts takes its nanny with it.
CHILDHOOD = 5.0


class SomeDie(KillWorker):  # type: ignore[misc]
    """Each worker but one lives for a random time, whose mean is given, and crashes in the midst of what it does.

    One is spared, because a leak in workers shows only in one that lives as long as the run. After the gentler deaths
    that Dask has, the process of a busy worker stays, or its nanny goes with it.
    """

    name = "daskgmm-soak"

    def __init__(self, life: str | float, spared: Any) -> None:
        super().__init__(life, mode="segfault")
        self.spared = spared

    async def setup(self, worker: Any) -> None:
        if worker.name != self.spared:
            worker.loop.asyncio_loop.call_later(CHILDHOOD, self._grow_up, worker)

    def _grow_up(self, worker: Any) -> None:
        self.fate = asyncio.ensure_future(super().setup(worker))
