"""Loops over a block that compiled kernels share, compiled by numba.

The exponential is the usual one: x = n log 2 + r, a polynomial for exp(r), and n added to the exponent's bits. Separate
loops over short columns compute it, because compilers vectorise such loops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from numba.extending import overload

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT switches numba's compiler off, which this module needs; NumPy's loops serve")

Array = np.ndarray[Any, np.dtype[Any]]

# Where time matters, an index is the variable of a loop from zero: for others, numba checks whether they are negative.
# Loops are written out below: an array expression may fail with a message about shapes, and compiling the message takes
# longer than compiling everything else.

# Columns that are processed together: a few rows of them stay in the innermost cache.
_TILE = 256

# Rows that are read along their length and written across it stay in the innermost cache meanwhile.
_STRIP_BYTES = 16 << 10

# Without "reassoc", which would cancel the rounding constant: the constant is added and subtracted again.
FLAGS = frozenset({"contract", "nsz", "arcp"})

# log 2 in two parts, the first with trailing zeros, so that n times it is exact.
_DOUBLE_LOG2 = (6.93145751953125e-1, 1.42860682030941723212e-6)
_SINGLE_LOG2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))


def jit(function: Callable[..., Any], flags: frozenset[str] = FLAGS) -> Any:
    """Compile a function, and keep the machine code on disk if a directory for it can be written."""
    try:
        return numba.njit(nogil=True, error_model="numpy", fastmath=set(flags), cache=True)(function)
    except RuntimeError:  # no directory for the compiled code can be written
        return numba.njit(nogil=True, error_model="numpy", fastmath=set(flags))(function)


def jit_with(flags: frozenset[str]) -> Callable[[Callable[..., Any]], Any]:
    """Make the decorator that compiles a function with other freedoms of arithmetic than `FLAGS`."""
    return partial(jit, flags=flags)


@jit
def standardise(rows: Array, center: Array, inverse_scale: Array, lowest: Array, highest: Array, out: Array) -> None:
    """Write (x − c) / s of rows, clipped, to ``out``, (D, B)."""
    n, d = rows.shape
    exact = rows.itemsize <= out.itemsize
    strip = max(8, _STRIP_BYTES // (d * rows.itemsize))
    for start in range(0, n, strip):
        part = rows[start : start + strip]
        for i in range(d):
            z = out[i, start : start + strip]
            if exact:
                for j in range(len(part)):
                    z[j] = part[j, i]
            else:  # the copy would round: the offset is subtracted first
                for j in range(len(part)):
                    z[j] = np.float64(part[j, i]) - center[i]
    for i in range(d):
        z, c, factor, low, high = out[i], (center[i] if exact else 0.0), inverse_scale[i], lowest[i], highest[i]
        for j in range(n):
            x = (np.float64(z[j]) - c) * factor
            # These comparisons keep NaN.
            z[j] = high if x > high else (low if x < low else x)


@jit
def normalise(joint: Array, weights: Array, peak: Array, total: Array, least: float) -> None:
    """Turn log-joints, (K, B), into responsibilities times weights; write each column's peak and total.

    Responsibilities up to ``least`` become zero.
    """
    if len(joint) == 1:  # no exponential is needed
        for j in range(len(peak)):
            peak[j], total[j] = joint[0, j], 1.0
            joint[0, j] = 1.0 + (joint[0, j] - joint[0, j])  # keeps NaN
        for j in range(len(weights)):
            joint[0, j] *= weights[j]
        return
    exponentiate(joint, peak, total)
    factor = np.empty_like(total)
    for j in range(len(total)):
        factor[j] = 1.0 / total[j]
    for j in range(len(weights)):
        factor[j] *= weights[j]
    limit, zero = joint.dtype.type(least), joint.dtype.type(0.0)
    for i in range(joint.shape[0]):
        row = joint[i]
        for j in range(len(factor)):
            row[j] = zero if row[j] <= limit else row[j] * factor[j]  # this comparison keeps NaN


def exponentiate(joint: Array, peaks: Array, totals: Array) -> None:
    """Subtract the largest entry of every column and take the exponential; implemented below for each dtype."""
    raise NotImplementedError("only compiled code calls this")


@overload(exponentiate, jit_options={"fastmath": set(FLAGS), "error_model": "numpy"})  # type: ignore[untyped-decorator]
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
