"""The element-wise loops of an E-step, compiled by numba.

The exponential is the usual one: x = n log 2 + r, a polynomial for exp(r), and n added to the exponent's bits. It is
written in separate loops over short columns because that is what compilers vectorise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from .loops import Loops

Array = np.ndarray[Any, np.dtype[Any]]

# Columns that are worked on together: a few rows of them stay in the innermost cache.
_TILE = 256

# Without "reassoc": it would cancel the rounding constant, which is added and taken off again.
_FLAGS = {"contract", "nsz", "arcp"}

# log 2 in two parts, the first with trailing zeros, so that n times it is exact.
_DOUBLE_LOG2 = (6.93145751953125e-1, 1.42860682030941723212e-6)
_SINGLE_LOG2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))


def _jit(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(nogil=True, error_model="numpy", fastmath=_FLAGS, cache=True)(function)
    except RuntimeError:  # no directory for the compiled code can be written
        return numba.njit(nogil=True, error_model="numpy", fastmath=_FLAGS)(function)


class CompiledLoops(Loops):
    """One pass over memory for each loop."""

    name = "compiled"
    block_bytes = 512 << 10  # half of a core's own cache

    def warm_up(self) -> None:
        _warm_up_once()

    def standardise(self, rows: Array, center: Array, inverse_scale: Array, reach: float, out: Array) -> None:
        if rows.dtype not in (np.float32, np.float64) or not rows.dtype.isnative:
            rows = rows.astype(np.float64)
        _standardise(np.ascontiguousarray(rows), center, inverse_scale, reach, out)

    def products(self, z: Array, out: Array) -> None:
        _products(z, out)

    def normalise(self, joint: Array, weights: Array | None) -> Array:
        peak, total = np.empty((2, joint.shape[1]), joint.dtype)
        if joint.dtype == np.float64:
            _exponentiate_double(joint, peak, total)
        else:
            _exponentiate_single(joint, peak, total)
        factor = 1 / total if weights is None else weights / total
        _scale(joint, factor.astype(joint.dtype, copy=False))
        return peak + np.log(total.astype(np.float64, copy=False))


@cache
def _warm_up_once() -> None:
    threading.Thread(target=_call_each, name="gmm-warm-up", daemon=True).start()


def _call_each() -> None:
    loops = CompiledLoops()
    for dtype in (np.float64, np.float32):
        out = np.zeros((2, 8), dtype)
        loops.standardise(np.zeros((8, 2), dtype), np.zeros(2), np.ones(2), 1.0, out)
        loops.products(out, np.empty((3, 8), dtype))
        loops.normalise(out, None)


@_jit
def _standardise(rows: Array, center: Array, inverse_scale: Array, reach: float, out: Array) -> None:
    n, d = rows.shape
    for start in range(0, n, 8):  # a few rows at a time: they are read along their length, and written across it
        stop = min(n, start + 8)
        for i in range(d):
            for j in range(start, stop):
                z = (np.float64(rows[j, i]) - center[i]) * inverse_scale[i]
                # Written so that NaN stays.
                out[i, j] = reach if z > reach else (-reach if z < -reach else z)


@_jit
def _products(z: Array, out: Array) -> None:
    d, n = z.shape
    p = 0
    for i in range(d):
        left = z[i]
        for k in range(i, d):
            right, product = z[k], out[p]
            for j in range(n):
                product[j] = left[j] * right[j]
            p += 1


@_jit
def _exponentiate_double(joint: Array, peaks: Array, totals: Array) -> None:
    scratch = np.empty(_TILE)
    bits = scratch.view(np.int64)
    high, low = _DOUBLE_LOG2
    for start in range(0, joint.shape[1], _TILE):
        stop = min(joint.shape[1], start + _TILE)
        peak, total, n = peaks[start:stop], totals[start:stop], stop - start
        peak[:] = joint[0, start:stop]
        total[:] = 0.0
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


@_jit
def _exponentiate_single(joint: Array, peaks: Array, totals: Array) -> None:
    scratch = np.empty(_TILE, np.float32)
    bits = scratch.view(np.int32)
    high, low = _SINGLE_LOG2
    one, shift, lowest = np.float32(1.0), np.float32(12582912.0), np.float32(-85.0)
    for start in range(0, joint.shape[1], _TILE):
        stop = min(joint.shape[1], start + _TILE)
        peak, total, n = peaks[start:stop], totals[start:stop], stop - start
        peak[:] = joint[0, start:stop]
        total[:] = np.float32(0.0)
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


@_jit
def _scale(joint: Array, factor: Array) -> None:
    for i in range(joint.shape[0]):
        row = joint[i]
        for j in range(len(factor)):
            row[j] *= factor[j]
