"""The choice of a kernel for the E-step of a block of rows: log-densities, responsibilities, sufficient statistics.

Two kernels compute the E-step of complete rows:

`QuadraticKernel`
    the fast one. Features Φ = T(z) of a block, z = (x − c) / s, as rows; log-joint Θ Φ; log-sum-exp by column in
    place; statistics R Φᵀ. Two matrix products and no array of rows × components × features.
`ResidualKernel`
    the precise twin. Whitened residuals Uᵀ(x − μ_k) of one component at a time, and moments about the current means.

θ · T(z) cancels when a component is tight compared with its distance from c. The loss is predictable from the
parameters alone (`CovarianceStructure.amplification`), so `choose_kernel` takes the first of the `CANDIDATES`, the
cheapest first, that can serve with a bound that is small enough. Rows of another kind are another name in
`KernelRequest.rows` and one more candidate.

The kernels read rows of any real dtype and accumulate in double precision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from .elementwise import PLAIN, ElementwiseBackend
from .kernel import Kernel
from .mixture import MixtureParameters
from .quadratic import QuadraticKernel, rounding_bounds
from .residual import ResidualKernel
from .statistics import Frame

__all__ = [
    "ARITHMETICS",
    "CANDIDATES",
    "COMPLETE",
    "Kernel",
    "KernelCandidate",
    "KernelRequest",
    "QuadraticKernel",
    "ResidualKernel",
    "choose_backend",
    "choose_kernel",
    "finer",
    "rounding_bounds",
]

ARITHMETICS = ("float32", "float64", ResidualKernel.arithmetic)
"""Arithmetics that a kernel may compute in, the coarsest and cheapest first."""

COMPLETE = "complete"
"""The kind of rows that hold one number for each feature, and nothing else."""

# Below this many log-joints in a pass the time to load compiled code is longer than the time it saves.
_WORTH_LOADING = 5_000_000

# A row with more bytes of features than this takes longer than whitening it, which needs none, for each component.
_MOST_FEATURE_BYTES = 24_000


@dataclass(frozen=True)
class KernelRequest:
    """An E-step that needs a kernel."""

    parameters: MixtureParameters
    frame: Frame
    """Where the data lie."""
    dtype: np.dtype[Any]
    """Of the data."""
    backend: ElementwiseBackend = PLAIN
    """Element-wise loops beside matrix products."""
    common_known: Container[str] = ()
    """Arithmetics in which moments that do not depend on the parameters are known (`QuadraticKernel.complete`)."""
    coarsest: str = ARITHMETICS[0]
    """One of `ARITHMETICS`: none that is coarser is chosen."""
    rows: str = COMPLETE
    """Kind of the rows."""

    @cached_property
    def bounds(self) -> dict[str, float]:
        """`rounding_bounds` of the parameters, computed once for all candidates."""
        return rounding_bounds(self.parameters, self.frame)


class KernelCandidate(ABC):
    """A kernel that may be chosen: which rows it is for, its rounding, and how it is made."""

    arithmetic: str
    """One of `ARITHMETICS`."""
    rows: str = COMPLETE
    """Kind of the rows that the kernel computes with."""
    tolerance: float = 0.0
    """Largest admissible error of one log-density, in nats."""

    @abstractmethod
    def rounding(self, request: KernelRequest) -> float:
        """Bound on the rounding error of one log-density, in nats; infinity where the kernel cannot serve."""

    @abstractmethod
    def make(self, request: KernelRequest) -> Kernel:
        """Make the kernel."""

    def serves(self, request: KernelRequest) -> bool:
        """Test for rows of its kind, an arithmetic that is fine enough, and rounding that is small enough."""
        fine = ARITHMETICS.index(self.arithmetic) >= ARITHMETICS.index(request.coarsest)
        return fine and request.rows == self.rows and self.rounding(request) <= self.tolerance


class _Products(KernelCandidate):
    """`QuadraticKernel` in one precision."""

    def __init__(self, dtype: type, tolerance: float) -> None:
        self.dtype, self.tolerance = np.dtype(dtype), tolerance
        self.arithmetic = self.dtype.name

    def rounding(self, request: KernelRequest) -> float:
        p, data = request.parameters, request.dtype
        # Single-precision products serve data that are single precision themselves.
        exact = self.dtype == np.float64 or (data.kind == "f" and data.itemsize == self.dtype.itemsize)
        narrow = p.structure.n_quadratic(p.n_features) * self.dtype.itemsize <= _MOST_FEATURE_BYTES
        return request.bounds[self.arithmetic] if exact and narrow else math.inf

    def make(self, request: KernelRequest) -> QuadraticKernel:
        p = request.parameters
        known = p.structure.shared and self.arithmetic in request.common_known
        return QuadraticKernel(p, request.frame, self.dtype.type, request.backend, common_known=known)


class _Residuals(KernelCandidate):
    """`ResidualKernel`, exact for any parameters."""

    arithmetic = ResidualKernel.arithmetic

    def rounding(self, request: KernelRequest) -> float:
        return 0.0

    def make(self, request: KernelRequest) -> ResidualKernel:
        return ResidualKernel(request.parameters, request.frame, request.backend)


CANDIDATES: list[KernelCandidate] = [_Products(np.float32, 1e-3), _Products(np.float64, 1e-9), _Residuals()]
"""Every kernel, the cheapest first. The last one for each kind of rows has to serve any parameters."""


def choose_kernel(
    parameters: MixtureParameters,
    frame: Frame,
    dtype: np.dtype[Any],
    backend: ElementwiseBackend = PLAIN,
    common_known: Container[str] = (),
    coarsest: str = ARITHMETICS[0],
    rows: str = COMPLETE,
) -> Kernel:
    """Kernel in the cheapest arithmetic whose rounding is small enough for these parameters.

    Parameters
    ----------
    parameters, frame, dtype, loops, common_known, coarsest, rows
        The fields of a `KernelRequest`.
    """
    request = KernelRequest(parameters, frame, dtype, backend, common_known, coarsest, rows)
    return next(candidate for candidate in CANDIDATES if candidate.serves(request)).make(request)


def finer(arithmetic: str) -> str:
    """The arithmetic that follows in `ARITHMETICS`; the last one itself."""
    return ARITHMETICS[min(ARITHMETICS.index(arithmetic) + 1, len(ARITHMETICS) - 1)]


def choose_backend(n_log_joints: float, *, compiled: bool = True) -> ElementwiseBackend:
    """The compiled loops where they are allowed, a pass has enough work for them and numba is installed.

    Parameters
    ----------
    n_log_joints : float
        Rows times components.
    compiled : bool
        False: always the plain ones.
    """
    if not compiled or n_log_joints < _WORTH_LOADING:
        return PLAIN
    return _compiled() or PLAIN


@cache
def _compiled() -> ElementwiseBackend | None:
    try:
        from .compiled import CompiledBackend
    except ImportError:  # numba is missing, switched off, or does not know this version of Python or NumPy yet
        return None
    return CompiledBackend()
