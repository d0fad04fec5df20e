"""The element-wise loops of an E-step, compiled by numba.

The exponential is the usual one: x = n log 2 + r, a polynomial for exp(r), and n added to the exponent's bits. Separate
loops over short columns compute it, because compilers vectorise such loops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target
from numba.extending import overload

from .covariance import STRUCTURES
from .elementwise import ElementwiseBackend, FeatureMap, Scratch
from .row_blocks import block_step

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT switches numba's compiler off, which this module needs; NumPy's loops serve")

Array = np.ndarray[Any, np.dtype[Any]]

# Rows of a block: its arrays stay in a core's own cache. No block costs a call of the interpreter, so it may be short.
_BLOCK_ROWS = 248

# Loops are written out below: an array expression may fail with a message about shapes, and compiling the message takes
# longer than compiling everything else.

# Columns that are processed together: a few rows of them stay in the innermost cache.
_TILE = 256

# Without "reassoc", which would cancel the rounding constant: the constant is added and subtracted again.
_FLAGS = {"contract", "nsz", "arcp"}

# log 2 in two parts, the first with trailing zeros, so that n times it is exact.
_DOUBLE_LOG2 = (6.93145751953125e-1, 1.42860682030941723212e-6)
_SINGLE_LOG2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))


def _jit(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(nogil=True, error_model="numpy", fastmath=_FLAGS, cache=True)(function)
    except RuntimeError:  # no directory for the compiled code can be written
        return numba.njit(nogil=True, error_model="numpy", fastmath=_FLAGS)(function)


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
        return bool(_expectation.signatures)

    def warm_up(self, dtype: np.dtype[Any], *, rounds: bool = False) -> None:
        _warm_up_once(np.dtype(dtype).name, rounds)

    def fill(self, features: FeatureMap, rows: Array, out: Array) -> None:
        terms = features.structure.quadratic_terms(rows.shape[1])
        _fill(_plain(rows, out.dtype), features.center, features.inverse_scale, features.clip_limit, *terms, out)

    def normalise(self, joint: Array, weights: Array | None) -> Array:
        peak, total = np.empty((2, joint.shape[1]), joint.dtype)
        _normalise(joint, _EVEN if weights is None else weights, peak, total)
        return peak + np.log(total.astype(np.float64, copy=False))

    def expectation(
        self, features: FeatureMap, rows: Array, weights: Array | None, scratch: Scratch, sums: Array
    ) -> Array:
        terms = features.structure.quadratic_terms(rows.shape[1])
        peak, total = np.empty((2, len(rows)), sums.dtype)
        _expectation(
            _plain(rows, scratch.features.dtype),
            _EVEN if weights is None else weights,
            block_step(len(rows), min(_BLOCK_ROWS, scratch.features.shape[1])),
            features.center,
            features.inverse_scale,
            features.clip_limit,
            *terms,
            scratch.natural,
            scratch.features,
            scratch.joint,
            scratch.products,
            peak,
            total,
            sums,
        )
        return np.add(peak, np.log(total, out=total), out=total)


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


@_jit
def _expectation(
    rows: Array,
    weights: Array,
    step: int,
    center: Array,
    inverse_scale: Array,
    clip_limit: float,
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
    flat_features, flat_joint = features.reshape(-1), joint.reshape(-1)
    peak, total = np.empty(step, joint.dtype), np.empty(step, joint.dtype)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        n = stop - start
        phi = flat_features[: n_features * n].reshape(n_features, n)
        r = flat_joint[: n_components * n].reshape(n_components, n)
        _fill(rows[start:stop], center, inverse_scale, clip_limit, left, right, feature, phi)
        np.dot(natural, phi, r)
        _normalise(r, weights[start:stop], peak[:n], total[:n])
        for j in range(n):
            peaks[start + j], totals[start + j] = peak[j], total[j]
        np.dot(r, phi.T, products)
        for k in range(n_components):
            for p in range(n_features):
                sums[k, p] += products[k, p]


@_jit
def _fill(
    rows: Array,
    center: Array,
    inverse_scale: Array,
    clip_limit: float,
    left: Array,
    right: Array,
    feature: Array,
    out: Array,
) -> None:
    n, d = rows.shape
    n_quadratic = len(out) - d - 1
    z = out[n_quadratic:-1]
    _standardise(rows, center, inverse_scale, clip_limit, z)
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


@_jit
def _standardise(rows: Array, center: Array, inverse_scale: Array, clip_limit: float, out: Array) -> None:
    n, d = rows.shape
    exact = rows.itemsize <= out.itemsize
    for start in range(0, n, 8):  # a few rows at a time: they are read along their length, and written across it
        stop = min(n, start + 8)
        for i in range(d):
            for j in range(start, stop):
                # If the copy would round, the offset is subtracted first.
                out[i, j] = rows[j, i] if exact else np.float64(rows[j, i]) - center[i]
    for i in range(d):
        z, c, factor = out[i], (center[i] if exact else 0.0), inverse_scale[i]
        for j in range(n):
            x = (np.float64(z[j]) - c) * factor
            # These comparisons keep NaN.
            z[j] = clip_limit if x > clip_limit else (-clip_limit if x < -clip_limit else x)


@_jit
def _normalise(joint: Array, weights: Array, peak: Array, total: Array) -> None:
    _exponentiate(joint, peak, total)
    factor = np.empty_like(total)
    for j in range(len(total)):
        factor[j] = 1.0 / total[j]
    for j in range(len(weights)):
        factor[j] *= weights[j]
    for i in range(joint.shape[0]):
        row = joint[i]
        for j in range(len(factor)):
            row[j] *= factor[j]


def _exponentiate(joint: Array, peaks: Array, totals: Array) -> None:
    """Subtract the largest entry of every column and take the exponential; implemented below for each dtype."""
    raise NotImplementedError("only compiled code calls this")


@overload(_exponentiate, jit_options={"fastmath": _FLAGS, "error_model": "numpy"})  # type: ignore[untyped-decorator]
def _exponentiate_by_dtype(joint: Array, peaks: Array, totals: Array) -> Callable[..., None]:
    # The arguments are numba's types; numba requires equal annotations of all three functions.
    return _exponentiate_double if joint.dtype == numba.float64 else _exponentiate_single


def _exponentiate_double(joint: Array, peaks: Array, totals: Array) -> None:
    scratch = np.empty(_TILE)
    bits = scratch.view(np.int64)
    high, low = _DOUBLE_LOG2
    for start in range(0, joint.shape[1], _TILE):
        stop = min(joint.shape[1], start + _TILE)
        peak, total, n = peaks[start:stop], totals[start:stop], stop - start
        for j in range(n):
            peak[j], total[j] = joint[0, start + j], 0.0
        for i in range(1, joint.shape[0]):
            row = joint[i, start:stop]
            for j in range(n):
                peak[j] = row[j] if row[j] > peak[j] else peak[j]
        for i in range(joint.shape[0]):
            row = joint[i, start:stop]
            for j in range(n):
                x = max(row[j] - peak[j], -694.0)
                rounded = x * 1.4426950408889634 + 6755399441055744.0  # 1.5 · 2^52: the integer is in the low bits
                scratch[j] = rounded
                whole = rounded - 6755399441055744.0
                r = (x - whole * high) - whole * low
                p = 2.08767569878681e-09  # 1 / 12!
                p = p * r + 2.505210838544172e-08
                p = p * r + 2.755731922398589e-07
                p = p * r + 2.7557319223985893e-06
                p = p * r + 2.48015873015873e-05
                p = p * r + 1.984126984126984e-04
                p = p * r + 1.388888888888889e-03
                p = p * r + 8.333333333333333e-03
                p = p * r + 4.1666666666666664e-02
                p = p * r + 1.6666666666666666e-01
                p = p * r + 0.5
                p = p * r + 1.0
                row[j] = p * r + 1.0
            row_bits = row.view(np.int64)
            for j in range(n):
                row_bits[j] += bits[j] << 52
            for j in range(n):
                total[j] += row[j]


def _exponentiate_single(joint: Array, peaks: Array, totals: Array) -> None:
    scratch = np.empty(_TILE, np.float32)
    bits = scratch.view(np.int32)
    high, low = _SINGLE_LOG2
    # The lowest exponent is that of `elementwise`, written out: numba's cache does not see other modules change.
    one, shift, lowest = np.float32(1.0), np.float32(12582912.0), np.float32(-69.0)
    for start in range(0, joint.shape[1], _TILE):
        stop = min(joint.shape[1], start + _TILE)
        peak, total, n = peaks[start:stop], totals[start:stop], stop - start
        for j in range(n):
            peak[j], total[j] = joint[0, start + j], 0.0
        for i in range(1, joint.shape[0]):
            row = joint[i, start:stop]
            for j in range(n):
                peak[j] = row[j] if row[j] > peak[j] else peak[j]
        for i in range(joint.shape[0]):
            row = joint[i, start:stop]
            for j in range(n):
                x = max(row[j] - peak[j], lowest)
                rounded = x * np.float32(1.44269504) + shift  # 1.5 · 2^23
                scratch[j] = rounded
                whole = rounded - shift
                r = (x - whole * high) - whole * low
                p = np.float32(1.9841270e-4)  # 1 / 7!
                p = p * r + np.float32(1.3888889e-3)
                p = p * r + np.float32(8.3333333e-3)
                p = p * r + np.float32(4.1666668e-2)
                p = p * r + np.float32(1.6666667e-1)
                p = p * r + np.float32(0.5)
                p = p * r + one
                row[j] = p * r + one
            row_bits = row.view(np.int32)
            for j in range(n):
                row_bits[j] += bits[j] << np.int32(23)
            for j in range(n):
                total[j] += row[j]
