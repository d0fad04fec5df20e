"""Choice of a kernel for the E-step of a block of rows: log-densities, responsibilities, sufficient statistics.

Three kernels compute the E-step of complete rows:

`QuadraticKernel`
    products on features, which all components share. Features Φ = T(z) of a block, z = (x − c) / s, as rows; log-joint
    Θ Φ; log-sum-exp by column in place; statistics R Φᵀ. Two matrix products and no array of rows × components ×
    features.
`WhitenedKernel`
    residuals Uᵀ(x − μ_k) of general or diagonal matrices, one component at a time, and moments about the current
    means. With few components this takes less time than the features do.
`ResidualKernel`
    the same residuals for any structure, in NumPy; pairs of row and component that cannot matter are left out.

The terms of θ · T(z) cancel when a component is tight compared with its distance from c. The loss of digits is
predictable from the parameters alone (`CovarianceStructure.amplification`). `choose_kernel` takes the cheapest of the
`CANDIDATES` whose rounding bound is small enough; costs follow from the shape of the mixture (`kernel_costs`). Rows of
another kind need another name in `KernelRequest.rows` and one more candidate.

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
from .kernel_costs import MixtureShape, products_cost, residual_cost, whitened_cost
from .mixture import MixtureParameters
from .quadratic import QuadraticKernel, rounding_bounds
from .residual import ResidualKernel
from .statistics import Frame
from .whitened import WhitenedKernel, whitened_bound

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
    "WhitenedKernel",
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

# Processor time to load compiled code in a process, which numba keeps on disk.
_LOADING_SECONDS = 0.5

# Passes of a fit whose number is not known yet.
_PASSES = 30

# Features of a row above this size are not built: their blocks would take too much memory.
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

    @property
    def shape(self) -> MixtureShape:
        """Shape of the mixture."""
        return MixtureShape.of(self.parameters)


class KernelCandidate(ABC):
    """Kernel that may be chosen: its kind of rows, its rounding bound, its cost, and its constructor."""

    arithmetic: str
    """One of `ARITHMETICS`."""
    rows: str = COMPLETE
    """Kind of the rows that the kernel computes with."""
    tolerance: float = 0.0
    """Largest admissible error of one log-density, in nats."""

    @abstractmethod
    def rounding(self, request: KernelRequest) -> float:
        """Bound on the rounding error of one log-density, in nats; infinity if the kernel cannot serve the request."""

    def cost(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> float:
        """Estimate the time of a row, in nanoseconds; infinity: chosen only where no other candidate serves."""
        return math.inf

    @abstractmethod
    def make(self, request: KernelRequest) -> Kernel:
        """Make the kernel."""

    @abstractmethod
    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan | None:
        """Plan the kernel's blocks for mixtures of that shape and rows of that dtype; None if it never serves them."""

    def is_exact(self, shape: MixtureShape, dtype: np.dtype[Any]) -> bool:
        """Test whether the kernel serves any parameters of that shape, in the finest arithmetic."""
        return False

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
        exact = request.rounds or is_exact(self.arithmetic, request.dtype)
        return request.bounds[self.arithmetic] if exact and self._may_serve(request.shape) else math.inf

    def _may_serve(self, shape: MixtureShape) -> bool:
        n_quadratic = shape.structure.for_components(shape.n_components).n_quadratic(shape.n_features)
        return n_quadratic * self.dtype.itemsize <= _MOST_FEATURE_BYTES

    def cost(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> float:
        return products_cost(shape, self.dtype.itemsize, backend.name)

    def make(self, request: KernelRequest) -> QuadraticKernel:
        p = request.parameters
        known = p.structure.for_components(p.n_components).shared and self.arithmetic in request.common_known
        return QuadraticKernel(p, request.frame, self.dtype.type, request.backend, common_known=known)

    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan | None:
        if not self._may_serve(shape):
            return None
        return QuadraticKernel.plan_block(shape.structure, shape.n_components, shape.n_features, self.dtype, backend)


class _Whitening(KernelCandidate):
    """`WhitenedKernel` in one precision; in double precision it is exact for any parameters."""

    def __init__(self, dtype: type, tolerance: float) -> None:
        self.dtype, self.tolerance = np.dtype(dtype), tolerance
        self.arithmetic = "precise" if self.dtype == np.float64 else self.dtype.name

    def rounding(self, request: KernelRequest) -> float:
        if not self._may_serve(
            request.shape, request.dtype
        ):  # rows that are rounded before μ is subtracted lose digits
            return math.inf
        return 0.0 if self.dtype == np.float64 else whitened_bound(request.parameters, request.frame)

    def _may_serve(self, shape: MixtureShape, data: np.dtype[Any]) -> bool:
        return WhitenedKernel.serves(shape.structure) and is_exact(self.dtype.name, data)

    def is_exact(self, shape: MixtureShape, dtype: np.dtype[Any]) -> bool:
        return self.dtype == np.float64 and self._may_serve(shape, dtype)

    def cost(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> float:
        return whitened_cost(shape, self.dtype.itemsize, backend.name)

    def make(self, request: KernelRequest) -> WhitenedKernel:
        return WhitenedKernel(request.parameters, request.frame, self.dtype.type, request.backend)

    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan | None:
        if not self._may_serve(shape, dtype):
            return None
        return WhitenedKernel.plan_block(shape.structure, shape.n_components, shape.n_features, self.dtype, backend)


class _Residuals(KernelCandidate):
    """`ResidualKernel`, precise for any parameters."""

    arithmetic = ResidualKernel.arithmetic

    def rounding(self, request: KernelRequest) -> float:
        return 0.0

    def is_exact(self, shape: MixtureShape, dtype: np.dtype[Any]) -> bool:
        return True

    def cost(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> float:
        return residual_cost(shape)

    def make(self, request: KernelRequest) -> ResidualKernel:
        return ResidualKernel(request.parameters, request.frame, request.backend)

    def plan_block(self, shape: MixtureShape, dtype: np.dtype[Any], backend: ElementwiseBackend) -> BlockPlan:
        return ResidualKernel.plan_block(shape.structure, shape.n_components, shape.n_features, backend)


CANDIDATES: list[KernelCandidate] = [
    _Products(np.float32, 1e-3),
    _Whitening(np.float32, 1e-3),
    _Products(np.float64, 1e-9),
    _Whitening(np.float64, 0.0),
    _Residuals(),
]
"""Every kernel. For each kind of rows, at least one must serve any parameters."""


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
    """Make the cheapest kernel whose rounding is small enough for these parameters.

    Parameters
    ----------
    parameters, frame, dtype, backend, common_known, coarsest, rows, rounds
        Fields of a `KernelRequest`.
    """
    request = KernelRequest(parameters, frame, dtype, backend, common_known, coarsest, rows, rounds)
    ranked = sorted(CANDIDATES, key=lambda candidate: candidate.cost(request.shape, dtype, backend))
    if (chosen := next((candidate for candidate in ranked if candidate.serves(request)), None)) is None:
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
    candidates = [candidate for candidate in CANDIDATES if candidate.rows == rows]
    if not candidates:
        raise _unknown(rows)
    costs = [candidate.cost(shape, dtype, backend) for candidate in candidates]
    exact = [cost for candidate, cost in zip(candidates, costs, strict=True) if candidate.is_exact(shape, dtype)]
    most = min(exact, default=math.inf)  # a candidate that costs more is never chosen
    plans = [
        candidate.plan_block(shape, dtype, backend)
        for candidate, cost in zip(candidates, costs, strict=True)
        if cost <= most
    ]
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


def choose_backend(
    shape: MixtureShape, n_rows: float, n_passes: int = _PASSES, *, compiled: bool = True
) -> ElementwiseBackend:
    """Return the compiled loops if they are allowed, numba is installed, and they save more time than loading takes.

    Parameters
    ----------
    shape : MixtureShape
    n_rows : float
        Rows of a pass.
    n_passes : int
        Number of passes; by default, that of a usual fit.
    compiled : bool
        False: always return NumPy's loops.
    """
    if not compiled or n_rows * n_passes * _saved(shape) < _LOADING_SECONDS:
        return PLAIN
    return _compiled() or PLAIN


def _saved(shape: MixtureShape) -> float:
    """Estimate the seconds that compiled loops save for a row, each form with the kernel that is fastest in it."""
    plain, fast = (
        min(products_cost(shape, 8, name), whitened_cost(shape, 8, name))
        if WhitenedKernel.serves(shape.structure)
        else products_cost(shape, 8, name)
        for name in ("numpy", "compiled")
    )
    return 1e-9 * (plain - fast)


@cache
def _compiled() -> ElementwiseBackend | None:
    try:
        from .compiled import CompiledBackend
    except ImportError:  # numba is missing, switched off, or does not know this version of Python or NumPy yet
        return None
    return CompiledBackend()
