"""Workers that die at random; their nannies start others."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from distributed.chaos import KillWorker

#: Seconds in which nobody dies: a worker that dies while it starts takes its nanny with it.
CHILDHOOD = 5.0

#: With the third, "sys.exit", the nanny ends as well, and the cluster would become smaller and smaller.
MODES = ("graceful", "segfault")


class SomeDie(KillWorker):  # type: ignore[misc]
    """Each worker but one lives for a random time, whose mean is given, and either leaves or crashes.

    One is spared, because a leak in workers shows only in one that lives as long as the run.
    """

    name = "daskgmm-soak"

    def __init__(self, life: str | float, spared: Any) -> None:
        super().__init__(life)
        self.spared = spared

    async def setup(self, worker: Any) -> None:
        if worker.name == self.spared:
            return
        self.mode = random.choice(MODES)  # every process has a seed of its own
        worker.loop.asyncio_loop.call_later(CHILDHOOD, self._grow_up, worker)

    def _grow_up(self, worker: Any) -> None:
        self.fate = asyncio.ensure_future(super().setup(worker))
