"""Choice of a kernel for the E-step of a block of rows: log-densities, responsibilities, sufficient statistics.

Two kernels compute the E-step of complete rows:

`QuadraticKernel`
    the fast one. Features Φ = T(z) of a block, z = (x − c) / s, as rows; log-joint Θ Φ; log-sum-exp by column in
    place; statistics R Φᵀ. Two matrix products and no array of rows × components × features.
`ResidualKernel`
    the precise twin. Whitened residuals Uᵀ(x − μ_k) of one component at a time, and moments about the current means.

The terms of θ · T(z) cancel when a component is tight compared with its distance from c. The loss of digits is
predictable from the parameters alone (`CovarianceStructure.amplification`). `choose_kernel` goes through the
`CANDIDATES`, the cheapest first, and takes the first one whose rounding bound is small enough. Rows of another kind
need another name in `KernelRequest.rows` and one more candidate.

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
from .kernel import BlockPlan, Kernel
from .mixture import MixtureParameters
from .quadratic import QuadraticKernel, rounding_bounds
from .residual import ResidualKernel
from .statistics import Frame
from .structure import CovarianceStructure

__all__ = [
    "ARITHMETICS",
    "CANDIDATES",
    "COMPLETE",
    "Kernel",
    "KernelCandidate",
    "KernelRequest",
    "MixtureShape",
    "QuadraticKernel",
    "ResidualKernel",
    "choose_backend",
    "choose_kernel",
    "finer",
    "is_exact",
    "plan_blocks",
    "rounding_bounds",
]

ARITHMETICS = ("float32", "float64", ResidualKernel.arithmetic)
"""Arithmetics that a kernel may compute in, the coarsest and cheapest first."""

COMPLETE = "complete"
"""Kind of rows that hold one number for each feature, and nothing else."""

# Below this many log-joints in a pass, loading compiled code takes more time than the code saves.
_WORTH_LOADING = 5_000_000

# Above this many bytes of features in a row, whitening the row for each component, without features, takes less time.
_MOST_FEATURE_BYTES = 24_000


@dataclass(frozen=True)
class KernelRequest:
    """E-step that needs a kernel."""

    parameters: MixtureParameters
    frame: Frame
    """Position and units of the data."""
    dtype: np.dtype[Any]
    """Dtype of the data."""
    backend: ElementwiseBackend = PLAIN
    """Element-wise loops beside matrix products."""
    common_known: Container[str] = ()
    """Arithmetics in which second moments of all rows are known (`QuadraticKernel.complete`)."""
    coarsest: str = ARITHMETICS[0]
    """Coarsest of the `ARITHMETICS` that may be chosen."""
    rows: str = COMPLETE
    """Kind of the rows."""
    rounds: bool = False
    """Rows of any dtype may be rounded to the arithmetic's precision, after they have been centered and scaled."""

    @cached_property
    def bounds(self) -> dict[str, float]:
        """`rounding_bounds` of the parameters, computed once for all candidates."""
        return rounding_bounds(self.parameters, self.frame)


@dataclass(frozen=True)
class MixtureShape:
    """Shape of a mixture, known before its parameters."""

    structure: CovarianceStructure
    n_components: int
    n_features: int


class KernelCandidate(ABC):
    """Kernel that may be chosen: its kind of rows, its rounding bound, and its constructor."""

    arithmetic: str
    """One of `ARITHMETICS`."""
    rows: str = COMPLETE
    """Kind of the rows that the kernel computes with."""
    tolerance: float = 0.0
    """Largest admissible error of one log-density, in nats."""

    @abstractmethod
    def rounding(self, request: KernelRequest) -> float:
        """Bound on the rounding error of one log-density, in nats; infinity if the kernel cannot serve the request."""

    @abstractmethod
    def make(self, request: KernelRequest) -> Kernel:
        """Make the kernel."""

    @abstractmethod
    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan | None:
        """Plan the kernel's blocks for mixtures of that shape and rows of that dtype; None if it never serves them."""

    def serves(self, request: KernelRequest) -> bool:
        """Test whether kind of rows, arithmetic and rounding bound satisfy the request."""
        fine = ARITHMETICS.index(self.arithmetic) >= ARITHMETICS.index(request.coarsest)
        return fine and request.rows == self.rows and self.rounding(request) <= self.tolerance


class _Products(KernelCandidate):
    """`QuadraticKernel` in one precision."""

    def __init__(self, dtype: type, tolerance: float) -> None:
        self.dtype, self.tolerance = np.dtype(dtype), tolerance
        self.arithmetic = self.dtype.name

    def rounding(self, request: KernelRequest) -> float:
        p = request.parameters
        exact = request.rounds or is_exact(self.arithmetic, request.dtype)
        return request.bounds[self.arithmetic] if exact and self._may_serve(p.structure, p.n_features) else math.inf

    def _may_serve(self, structure: CovarianceStructure, n_features: int) -> bool:
        return structure.n_quadratic(n_features) * self.dtype.itemsize <= _MOST_FEATURE_BYTES

    def make(self, request: KernelRequest) -> QuadraticKernel:
        p = request.parameters
        known = p.structure.shared and self.arithmetic in request.common_known
        return QuadraticKernel(p, request.frame, self.dtype.type, request.backend, common_known=known)

    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan | None:
        if not self._may_serve(shape.structure, shape.n_features):
            return None
        return QuadraticKernel.plan_block(shape.structure, shape.n_components, shape.n_features, self.dtype, backend)


class _Residuals(KernelCandidate):
    """`ResidualKernel`, precise for any parameters."""

    arithmetic = ResidualKernel.arithmetic

    def rounding(self, request: KernelRequest) -> float:
        return 0.0

    def make(self, request: KernelRequest) -> ResidualKernel:
        return ResidualKernel(request.parameters, request.frame, request.backend)

    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan:
        return ResidualKernel.plan_block(shape.structure, shape.n_components, shape.n_features, backend)


CANDIDATES: list[KernelCandidate] = [_Products(np.float32, 1e-3), _Products(np.float64, 1e-9), _Residuals()]
"""Every kernel, the cheapest first. The last kernel for each kind of rows must serve any parameters."""


def choose_kernel(
    parameters: MixtureParameters,
    frame: Frame,
    dtype: np.dtype[Any],
    backend: ElementwiseBackend = PLAIN,
    common_known: Container[str] = (),
    coarsest: str = ARITHMETICS[0],
    rows: str = COMPLETE,
    rounds: bool = False,
) -> Kernel:
    """Make the kernel with the cheapest arithmetic whose rounding is small enough for these parameters.

    Parameters
    ----------
    parameters, frame, dtype, backend, common_known, coarsest, rows, rounds
        Fields of a `KernelRequest`.
    """
    request = KernelRequest(parameters, frame, dtype, backend, common_known, coarsest, rows, rounds)
    if (chosen := next((candidate for candidate in CANDIDATES if candidate.serves(request)), None)) is None:
        raise _unknown(rows)
    return chosen.make(request)


def plan_blocks(
    shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend = PLAIN, rows: str = COMPLETE
) -> list[BlockPlan]:
    """Plan the blocks of every kernel that may be chosen for some parameters.

    Parameters
    ----------
    shape : MixtureShape
    dtype, backend, rows
        Fields of a `KernelRequest`.
    """
    plans = [candidate.plan_block(shape, dtype, backend) for candidate in CANDIDATES if candidate.rows == rows]
    if not plans:
        raise _unknown(rows)
    return [plan for plan in plans if plan is not None]


def _unknown(rows: str) -> ValueError:
    kinds = sorted({candidate.rows for candidate in CANDIDATES})
    return ValueError(f"rows={rows!r}: no kernel serves these rows; expected one of {kinds}")


def is_exact(arithmetic: str, dtype: np.dtype[Any]) -> bool:
    """Test whether an arithmetic is as precise as rows of that dtype; single precision is for single precision only."""
    return arithmetic != "float32" or (dtype.kind == "f" and dtype.itemsize == 4)


def finer(arithmetic: str) -> str:
    """Return the arithmetic that follows in `ARITHMETICS`; the last arithmetic follows itself."""
    return ARITHMETICS[min(ARITHMETICS.index(arithmetic) + 1, len(ARITHMETICS) - 1)]


def choose_backend(n_log_joints: float, *, compiled: bool = True) -> ElementwiseBackend:
    """Return the compiled loops if they are allowed, numba is installed, and a pass has enough work for them.

    Parameters
    ----------
    n_log_joints : float
        Rows times components.
    compiled : bool
        False: always return NumPy's loops.
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
