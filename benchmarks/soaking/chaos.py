"""Workers that die at random; their nannies start others."""

from __future__ import annotations

from typing import Any

from distributed.chaos import KillWorker


class SomeDie(KillWorker):  # type: ignore[misc]
    """Each worker but one lives for a random time, whose mean is given, and crashes in the midst of what it does.

    One is spared, because a leak in workers shows only in one that lives as long as the run. The gentler ways to die
    that Dask has end a worker's nanny as well, and the cluster would become smaller and smaller.
    """

    name = "daskgmm-soak"

    def __init__(self, life: str | float, spared: Any) -> None:
        super().__init__(life, mode="segfault")
        self.spared = spared

    async def setup(self, worker: Any) -> None:
        if worker.name != self.spared:
            await super().setup(worker)
