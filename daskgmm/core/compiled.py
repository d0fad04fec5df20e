"""The element-wise loops of an E-step, compiled by numba."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target

from . import compiled_diagonal, compiled_whitening
from .compiled_loops import jit, normalise, standardise
from .covariance import STRUCTURES
from .elementwise import ElementwiseBackend, FeatureMap, Scratch, weighted_sum
from .row_blocks import block_step, columns
from .whitening import NEGLIGIBLE, Whitening, WhiteningScratch, WhiteningSums

Array = np.ndarray[Any, np.dtype[Any]]

# Rows of a block: its arrays stay in a core's own cache. No block costs a call of the interpreter, so it may be short.
_BLOCK_ROWS, _LONGEST_BLOCK = 504, 1016

# Up to this size of a block's features and log-joints, it has more rows: each block costs two calls of BLAS.
_BLOCK_BYTES = 96 << 10

# Size of a component's residuals in a block.
_RESIDUAL_BYTES = 64 << 10

# Size of a block's rows that are read twice for each component under diagonal covariances.
_ROW_BYTES = 64 << 10


class CompiledBackend(ElementwiseBackend):
    """Compiled loops: one pass over memory for each loop, and one call for any number of blocks."""

    name = "compiled"
    block_bytes = 512 << 10  # half of a core's own cache
    process_bytes = 170 << 20  # numba and LLVM, while they compile; 110 << 20 if the code is cached

    @property
    def made_by(self) -> str:
        _, processor, _ = cpu_target.target_context.codegen().magic_tuple()  # the key of numba's cache
        return f"numba {numba.__version__} for {processor}"

    @property
    def is_loaded(self) -> bool:
        diagonal = compiled_diagonal.expectation, compiled_diagonal.expectation_of_one
        return all(loop.signatures for loop in (_expectation, compiled_whitening.expectation, *diagonal))

    def warm_up(self, dtype: np.dtype[Any], *, rounds: bool = False) -> None:
        _warm_up_once(np.dtype(dtype).name, rounds)

    def fill(self, features: FeatureMap, rows: Array, out: Array) -> None:
        terms = features.structure.quadratic_terms(rows.shape[1])
        _fill(_plain(rows, out.dtype), features.center, features.inverse_scale, *features.limits, *terms, out)

    def normalise(self, joint: Array, weights: Array | None) -> Array:
        peak, total = np.empty((2, joint.shape[1]), joint.dtype)
        normalise(joint, _EVEN if weights is None else weights, peak, total, 0.0)
        return peak + np.log(total.astype(np.float64, copy=False))

    def expectation(
        self, features: FeatureMap, rows: Array, weights: Array | None, scratch: Scratch, sums: Array
    ) -> Array:
        terms = features.structure.quadratic_terms(rows.shape[1])
        peak, total = np.empty((2, len(rows)), sums.dtype)
        _expectation(
            _plain(rows, scratch.features.dtype),
            _EVEN if weights is None else weights,
            block_step(len(rows), min(_block_rows(scratch), scratch.features.shape[1])),
            features.center,
            features.inverse_scale,
            *features.limits,
            *terms,
            scratch.natural,
            scratch.features,
            scratch.joint,
            scratch.products,
            peak,
            total,
            sums,
        )
        return peak if len(scratch.joint) == 1 else np.add(peak, np.log(total, out=total), out=total)

    def whitened_log_joints(self, whitening: Whitening, rows: Array, scratch: WhiteningScratch) -> Array:
        n = len(rows)
        joint = columns(scratch.joint, n)
        if whitening.is_diagonal:
            _diagonal_log_joints(whitening, rows, joint)
            return joint
        compiled_whitening.log_joints(
            _plain(rows, whitening.dtype),
            *whitening.bounds,
            *whitening.means,
            compiled_whitening.pack_panels(whitening.factors),
            whitening.constants,
            columns(scratch.z, n),
            columns(scratch.residual, n),
            columns(scratch.whitened, n),
            joint,
        )
        return joint

    def whitened_expectation(
        self,
        whitening: Whitening,
        rows: Array,
        weights: Array | None,
        scratch: WhiteningScratch,
        sums: WhiteningSums,
    ) -> tuple[float, float]:
        if not whitening.is_diagonal:
            return _expectation_of_general(whitening, rows, weights, scratch, sums)
        if len(whitening.centers) == 1:
            return _expectation_of_one_diagonal(whitening, rows, weights, scratch, sums)
        return _expectation_of_diagonal(whitening, rows, weights, scratch, sums)


def _expectation_of_general(
    whitening: Whitening, rows: Array, weights: Array | None, scratch: WhiteningScratch, sums: WhiteningSums
) -> tuple[float, float]:
    peak, total, deficits = np.empty((3, len(rows)), whitening.dtype)
    compiled_whitening.expectation(
        _plain(rows, whitening.dtype),
        _EVEN if weights is None else weights,
        block_step(len(rows), min(_whitened_rows(whitening), scratch.z.shape[1])),
        *whitening.bounds,
        *whitening.means,
        whitening.factors,
        whitening.constants,
        scratch.z,
        scratch.residual,
        scratch.whitened,
        scratch.joint,
        scratch.logs,
        scratch.scatter,
        peak,
        total,
        deficits,
        sums.counts,
        sums.first,
        sums.second,
    )
    logs = np.log(total, out=total)
    log_density, entropy = np.add(peak, logs, out=peak), np.subtract(logs, deficits, out=deficits)
    return weighted_sum(log_density, weights), weighted_sum(entropy, weights)


def _expectation_of_diagonal(
    whitening: Whitening, rows: Array, weights: Array | None, scratch: WhiteningScratch, sums: WhiteningSums
) -> tuple[float, float]:
    total, partial = np.empty(len(rows), whitening.dtype), np.zeros(2)
    step = block_step(len(rows), min(_diagonal_rows(whitening), scratch.z.shape[1]))

    def loop(rows: Array, farthest: float) -> bool:
        given = rows, _EVEN if weights is None else weights, step, *_residual_terms(whitening), whitening.remainders
        results = total, partial, sums.counts, sums.first, sums.second
        return bool(compiled_diagonal.expectation(*given, farthest, scratch.joint, scratch.logs, *results))

    _run_on_near_rows(whitening, rows, loop)
    logs = weighted_sum(np.log(total, out=total), weights)
    return float(partial[0]) + logs, logs - float(partial[1])


def _expectation_of_one_diagonal(
    whitening: Whitening, rows: Array, weights: Array | None, scratch: WhiteningScratch, sums: WhiteningSums
) -> tuple[float, float]:
    log_likelihood = np.zeros(1)
    step = block_step(len(rows), min(_diagonal_rows(whitening), scratch.z.shape[1]))
    inverse_scale, center, _, factor, constant = _residual_terms(whitening)

    def loop(rows: Array, farthest: float) -> bool:
        given = rows, _EVEN if weights is None else weights, step, inverse_scale, center, factor, constant
        results = log_likelihood, sums.counts, sums.first, sums.second
        return bool(compiled_diagonal.expectation_of_one(*given, whitening.remainders, farthest, *results))

    _run_on_near_rows(whitening, rows, loop)
    return float(log_likelihood[0]), 0.0


def _diagonal_log_joints(whitening: Whitening, rows: Array, joint: Array) -> None:
    def loop(rows: Array, farthest: float) -> bool:
        return bool(compiled_diagonal.log_joints(rows, *_residual_terms(whitening), farthest, joint))

    _run_on_near_rows(whitening, rows, loop)


def _run_on_near_rows(whitening: Whitening, rows: Array, loop: Callable[[Array, float], bool]) -> None:
    """Run a loop over rows, and again over clipped rows if the loop tells of rows so far that squares may overflow."""
    number = whitening.dtype.type
    if loop(_plain(rows, whitening.dtype), number(whitening.farthest)):
        loop(_plain(whitening.clipped(rows), whitening.dtype), number(math.inf))


def _residual_terms(whitening: Whitening) -> tuple[Array, ...]:
    """Parameters of whitened residuals (x / s − center) factor − shift, (K, D) each, and the constants."""
    return (
        whitening.inverse_scale.astype(whitening.dtype),
        whitening.centers,
        whitening.remainders * whitening.factors,
        whitening.factors,
        whitening.constants,
    )


def _block_rows(scratch: Scratch) -> int:
    """Rows of a block of features."""
    n_columns = len(scratch.features) + len(scratch.joint)
    rows = _BLOCK_BYTES // (scratch.features.itemsize * n_columns)
    return min(max(rows // 8 * 8, _BLOCK_ROWS), _LONGEST_BLOCK)


def _whitened_rows(whitening: Whitening) -> int:
    """Rows of a block of whitened residuals: few enough for BLAS's kernels for small products."""
    rows = _RESIDUAL_BYTES // (whitening.dtype.itemsize * whitening.centers.shape[1])
    return min(max(rows, 192), 1024) // 8 * 8 - 8


def _diagonal_rows(whitening: Whitening) -> int:
    """Rows of a block that stays in the inner caches."""
    rows = _ROW_BYTES // (whitening.dtype.itemsize * whitening.centers.shape[1])
    return min(max(rows, 32), _BLOCK_ROWS) // 8 * 8


# Placeholder for weights that are all one.
_EVEN = np.empty(0)


def _plain(rows: Array, products: np.dtype[Any]) -> Array:
    """Convert rows to one of the few forms that the loops are compiled for: each form takes seconds to compile."""
    if rows.dtype not in (products, np.float64) or not rows.dtype.isnative:
        rows = rows.astype(np.float64)
    rows = np.ascontiguousarray(rows).view()
    rows.flags.writeable = False
    return rows


@cache
def _warm_up_once(dtype: str, rounds: bool) -> None:
    threading.Thread(target=_call, args=[dtype, rounds], name="gmm-warm-up", daemon=True).start()


def _call(dtype: str, rounds: bool) -> None:
    features = FeatureMap(next(iter(STRUCTURES.values())), np.zeros(1), np.ones(1), 1.0)
    forms = [(dtype, "float32")] if rounds else []
    forms += [(dtype, dtype), ("float64", "float64")]  # single precision may turn out not to suffice
    for rows, products in dict.fromkeys(forms):
        scratch = Scratch(*(np.zeros(shape, products) for shape in ((1, 3), (3, 8), (1, 8), (1, 3))))
        CompiledBackend().expectation(features, np.zeros((8, 1), rows), None, scratch, np.zeros((1, 3)))
    for products in dict.fromkeys((dtype, "float64")):
        for shape in (1, 1, 1), (1, 1), (2, 1):  # general matrices, one diagonal, several
            _whiten_nothing(np.ones(shape, products))


def _whiten_nothing(factors: Array) -> None:
    k, products = len(factors), factors.dtype
    one, ones = np.ones(1), np.ones((k, 1))
    whitening = Whitening.of(ones, factors, np.ones(k), one, one, 1.0, products)
    sums = WhiteningSums(np.zeros(k), np.zeros((k, 1)), np.zeros((k, 1)))
    z, residual, whitened = np.zeros((3, 1, 8), products)
    joint, logs = np.zeros((2, k, 8), products)
    work = WhiteningScratch(z, residual, whitened, joint, logs, factors[0])
    CompiledBackend().whitened_expectation(whitening, np.zeros((8, 1), products), None, work, sums)


@jit
def _expectation(
    rows: Array,
    weights: Array,
    step: int,
    center: Array,
    inverse_scale: Array,
    lowest: Array,
    highest: Array,
    left: Array,
    right: Array,
    feature: Array,
    natural: Array,
    features: Array,
    joint: Array,
    products: Array,
    peaks: Array,
    totals: Array,
    sums: Array,
) -> None:
    n_components, n_features = natural.shape
    # In single precision, products of features with tiny responsibilities would be subnormal, which takes long.
    least = NEGLIGIBLE if joint.itemsize == 4 else 0.0
    flat_features, flat_joint = features.reshape(-1), joint.reshape(-1)
    peak, total = np.empty(step, joint.dtype), np.empty(step, joint.dtype)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        n = stop - start
        phi = flat_features[: n_features * n].reshape(n_features, n)
        r = flat_joint[: n_components * n].reshape(n_components, n)
        _fill(rows[start:stop], center, inverse_scale, lowest, highest, left, right, feature, phi)
        np.dot(natural, phi, r)
        normalise(r, weights[start:stop], peak[:n], total[:n], least)
        for j in range(n):
            peaks[start + j], totals[start + j] = peak[j], total[j]
        np.dot(r, phi.T, products)
        for k in range(n_components):
            for p in range(n_features):
                sums[k, p] += products[k, p]


@jit
def _fill(
    rows: Array,
    center: Array,
    inverse_scale: Array,
    lowest: Array,
    highest: Array,
    left: Array,
    right: Array,
    feature: Array,
    out: Array,
) -> None:
    n, d = rows.shape
    n_quadratic = len(out) - d - 1
    z = out[n_quadratic:-1]
    standardise(rows, center, inverse_scale, lowest, highest, z)
    last = -1
    for t in range(len(left)):
        a, b, product = z[left[t]], z[right[t]], out[feature[t]]
        if feature[t] != last:
            for j in range(n):
                product[j] = a[j] * b[j]
        else:
            for j in range(n):
                product[j] += a[j] * b[j]
        last = feature[t]
    for j in range(n):
        out[-1, j] = 1.0
