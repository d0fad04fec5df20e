"""Costs of kernels in processor time, from the shape of the problem alone.

The coefficients are nanoseconds on one machine. Their ratios decide, which differ little between machines: the choice
of a kernel must not depend on the machine, because kernels round differently. They were fitted to measurements of one
E-step (float64 and float32 rows, D from 1 to 256, K from 1 to 64), and agree with nine of ten to a seventh.
"""

from __future__ import annotations

from dataclasses import dataclass

from .mixture import MixtureParameters
from .structure import CovarianceStructure

# Rows of a usual block.
_BLOCK_ROWS = 248

# Features of a block beyond this size leave a core's own cache.
_CACHE_BYTES = 1_200_000

# With more coefficients than this, BLAS packs the features before it multiplies them.
_PACKED_COEFFICIENTS = 1150


@dataclass(frozen=True)
class MixtureShape:
    """Shape of a mixture, known before its parameters."""

    structure: CovarianceStructure
    n_components: int
    n_features: int

    @classmethod
    def of(cls, parameters: MixtureParameters) -> MixtureShape:
        """Shape of the mixture with these parameters."""
        return cls(parameters.structure, parameters.n_components, parameters.n_features)


@dataclass(frozen=True)
class _ProductCosts:
    """Nanoseconds a row of the products on features."""

    row: float
    value: float
    """For each of the D values, which move into their frame."""
    feature: float
    """For each quadratic feature."""
    far_feature: float
    """More for each quadratic feature if a block's features leave a core's own cache."""
    packed_feature: float
    """More for each of the P features if BLAS packs them."""
    pair: float
    """For each component: the exponential."""
    coefficient: float
    """For each of the K P coefficients, in both products."""


@dataclass(frozen=True)
class _ResidualCosts:
    """Nanoseconds a row of whitened residuals."""

    row: float
    value: float
    pair: float
    pair_value: float
    """For each component and value: the loops over residuals."""
    pair_product: float
    """For each component and each of the D² entries of its matrix."""


_PRODUCTS = {
    ("compiled", 8): _ProductCosts(2.0, 1.65, 0.51, 0.73, 0.53, 1.84, 0.084),
    ("compiled", 4): _ProductCosts(3.6, 0.96, 0.36, 0.53, 0.41, 0.74, 0.038),
    ("numpy", 8): _ProductCosts(1.9, 3.5, 1.48, 0.0, 0.72, 3.27, 0.079),
    ("numpy", 4): _ProductCosts(1.9, 3.5, 1.0, 0.0, 0.50, 2.2, 0.040),
}
# Features of diagonal covariances; for the other forms of the loops, `_PRODUCTS` are near enough.
_DIAGONAL_PRODUCTS = {
    ("compiled", 8): _ProductCosts(3.6, 1.8, 0.53, 0.0, 0.60, 1.9, 0.066),
    ("compiled", 4): _ProductCosts(3.2, 1.1, 0.37, 0.0, 0.41, 0.82, 0.032),
}
_WHITENED = {
    ("compiled", 8): _ResidualCosts(8.6, 1.3, 4.6, 1.29, 0.050),
    ("compiled", 4): _ResidualCosts(6.9, 1.1, 2.1, 0.68, 0.026),
    ("numpy", 8): _ResidualCosts(4.6, 4.1, 14.0, 4.5, 0.080),
    ("numpy", 4): _ResidualCosts(4.6, 4.1, 10.0, 3.0, 0.040),
}
# The same residuals under diagonal covariances.
_DIAGONAL = {
    ("compiled", 8): _ResidualCosts(4.9, 0.89, 4.7, 0.31, 0.0),
    ("compiled", 4): _ResidualCosts(5.6, 0.55, 4.0, 0.15, 0.0),
    ("numpy", 8): _ResidualCosts(8.9, 2.7, 7.6, 5.0, 0.0),
    ("numpy", 4): _ResidualCosts(8.0, 4.1, 15.2, 2.0, 0.0),
}
# A single component needs no responsibilities, and its log-likelihood follows from its moments.
_ONE_DIAGONAL = {
    ("compiled", 8): _ResidualCosts(2.0, 0.95, 0.0, 0.0, 0.0),
    ("compiled", 4): _ResidualCosts(2.0, 0.55, 0.0, 0.0, 0.0),
}
_RESIDUALS = _ResidualCosts(0.6, 3.4, 14.0, 4.5, 0.064)


def products_cost(shape: MixtureShape, itemsize: int, backend: str) -> float:
    """Estimate the time of a row in `QuadraticKernel`, in nanoseconds."""
    k, d = shape.n_components, shape.n_features
    c = _PRODUCTS[backend, itemsize]
    if not shape.structure.has_matrices:
        c = _DIAGONAL_PRODUCTS.get((backend, itemsize), c)
    quadratic = shape.structure.for_components(k).n_quadratic(d)
    p = quadratic + d + 1
    far = c.far_feature * quadratic if _BLOCK_ROWS * itemsize * quadratic > _CACHE_BYTES else 0.0
    packed = c.packed_feature * p if k * p > _PACKED_COEFFICIENTS else 0.0
    return c.row + c.value * d + c.feature * quadratic + far + packed + k * (c.pair + c.coefficient * p)


def whitened_cost(shape: MixtureShape, itemsize: int, backend: str) -> float:
    """Estimate the time of a row in `WhitenedKernel`, in nanoseconds."""
    form = backend, itemsize
    if shape.structure.has_matrices:
        return _residual_cost(_WHITENED[form], shape)
    single = _ONE_DIAGONAL.get(form) if shape.n_components == 1 else None
    return _residual_cost(single or _DIAGONAL[form], shape)


def residual_cost(shape: MixtureShape) -> float:
    """Estimate the time of a row in `ResidualKernel` that has to compute all pairs, in nanoseconds."""
    return _residual_cost(_RESIDUALS, shape)


def _residual_cost(c: _ResidualCosts, shape: MixtureShape) -> float:
    k, d = shape.n_components, shape.n_features
    products = d * d * c.pair_product if shape.structure.has_matrices else 0.0
    return c.row + c.value * d + k * (c.pair + c.pair_value * d + products)
