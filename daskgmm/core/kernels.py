"""The E-step of a block of rows: log-densities, responsibilities, sufficient statistics.

Two kernels compute the same thing:

`QuadraticKernel`
    the fast one. Features Φ = T(z) of a block, z = (x − c) / s, as rows; log-joint Θ Φ; log-sum-exp by column in
    place; statistics R Φᵀ. Two matrix products and no array of rows × components × features.
`ResidualKernel`
    the precise twin. Whitened residuals Uᵀ(x − μ_k) of one component at a time, and moments about the current means.

θ · T(z) cancels when a component is tight compared with its distance from c. The loss is predictable from the
parameters alone (`CovarianceStructure.amplification`), so `choose_kernel` takes the cheapest arithmetic whose bound is
small enough.

Both read rows of any real dtype and accumulate in double precision.
"""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from typing import Any

import numpy as np

from .kernel import Kernel
from .loops import PLAIN, Loops
from .mixture import MixtureParameters
from .quadratic import QuadraticKernel, rounding_bounds
from .residual import ResidualKernel
from .statistics import Frame

__all__ = [
    "ARITHMETICS",
    "Kernel",
    "QuadraticKernel",
    "ResidualKernel",
    "choose_kernel",
    "choose_loops",
    "finer",
    "rounding_bounds",
]

ARITHMETICS = ("float32", "float64", ResidualKernel.arithmetic)
"""Arithmetics that a kernel may compute in, the coarsest and cheapest first."""

# Largest admissible error of one log-density, in nats, by the precision of the products.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}

# Below this many log-joints in a pass the time to load compiled code is longer than the time it saves.
_WORTH_LOADING = 5_000_000

# A row with more bytes of features than this takes longer than whitening it, which needs none, for each component.
_MOST_FEATURE_BYTES = 24_000


def choose_kernel(
    parameters: MixtureParameters,
    frame: Frame,
    dtype: np.dtype[Any],
    loops: Loops = PLAIN,
    common_known: Container[str] = (),
    coarsest: str = ARITHMETICS[0],
) -> Kernel:
    """Kernel in the cheapest arithmetic whose rounding is small enough for these parameters.

    Single-precision products serve data that are single precision themselves; everything else is computed in double.

    Parameters
    ----------
    parameters : MixtureParameters
    frame : Frame
        Where the data lie.
    dtype : numpy.dtype
        Of the data.
    loops : Loops
        What the kernel uses beside matrix products.
    common_known : container of str
        Arithmetics in which moments that do not depend on the parameters are known (`QuadraticKernel.complete`).
    coarsest : str
        One of `ARITHMETICS`: none that is coarser is chosen.
    """
    if coarsest == ResidualKernel.arithmetic:
        return ResidualKernel(parameters, frame, loops)
    error = rounding_bounds(parameters, frame)
    n_quadratic = parameters.structure.n_quadratic(parameters.n_features)
    single = coarsest == "float32" and dtype.kind == "f" and dtype.itemsize == 4
    for products in (np.dtype(np.float32), np.dtype(np.float64))[0 if single else 1 :]:
        narrow = n_quadratic * products.itemsize <= _MOST_FEATURE_BYTES
        if narrow and error[products.name] <= _TOLERANCE[products.name]:
            known = n_quadratic == 0 and products.name in common_known
            return QuadraticKernel(parameters, frame, products.type, loops, common_known=known)
    return ResidualKernel(parameters, frame, loops)


def finer(arithmetic: str) -> str:
    """The arithmetic that follows in `ARITHMETICS`; the last one itself."""
    return ARITHMETICS[min(ARITHMETICS.index(arithmetic) + 1, len(ARITHMETICS) - 1)]


def choose_loops(n_log_joints: float, *, compiled: bool = True) -> Loops:
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
def _compiled() -> Loops | None:
    try:
        from .compiled import CompiledLoops
    except ImportError:  # numba is missing, switched off, or does not know this version of Python or NumPy yet
        return None
    return CompiledLoops()
