"""Memory that a block of a test allocates."""

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import numpy as np

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import MixtureShape, choose_backend


@dataclass
class Peak:
    """Result of `traced`."""

    n_bytes: int = 0


def load_compiled_loops() -> None:
    """Load all compiled loops, so that no other thread loads them later."""
    backend = choose_backend(MixtureShape(STRUCTURES["full"], 2, 2), np.inf)
    for dtype, rounds in product(("float32", "float64"), (False, True)):
        backend.warm_up(np.dtype(dtype), rounds=rounds)
    wait_for_loading()


def wait_for_loading() -> None:
    """Wait for the threads that load compiled loops.

    A thread that compiles while tracing ends would count as memory of the test, and may end the process: tracemalloc of
    Python before 3.12.9 frees tables that other threads are using.
    """
    for thread in threading.enumerate():
        if thread.name == "gmm-warm-up":
            thread.join()


@contextmanager
def traced() -> Iterator[Peak]:
    """Trace the allocations of a ``with`` block; the peak is known after the block."""
    wait_for_loading()
    peak = Peak()
    tracemalloc.start()
    try:
        yield peak
        peak.n_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        wait_for_loading()
        tracemalloc.stop()
