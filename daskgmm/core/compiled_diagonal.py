"""The E-step on residuals from means under diagonal covariances, compiled by numba.

Rows are read where they lie, along their features, and a block of them stays in a core's own cache: nothing is
transposed, and no residual is written to memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled_loops import FLAGS, exponentiate, jit, jit_with
from .compiled_whitening import finish

Array = np.ndarray[Any, np.dtype[Any]]

# Sums over the features of a row in any fixed order: compilers vectorise no other.
_jit_sums = jit_with(FLAGS | {"reassoc"})

_CACHE_LINE = 64


@jit
def _square(x: float, inverse_scale: float, center: float, factor: float, shift: float) -> float:
    """Square of a whitened residual; a function of its own, so that no sum of the caller changes the residual."""
    whitened = (x * inverse_scale - center) * factor - shift
    return whitened * whitened


@_jit_sums
def log_joints(
    rows: Array,
    inverse_scale: Array,
    centers: Array,
    shifts: Array,
    factors: Array,
    constants: Array,
    farthest: float,
    joint: Array,
) -> bool:
    """Compute the log-joints of rows, (K, n), and tell whether a squared distance exceeds ``farthest``.

    Four rows at a time share what the loop loads of the parameters; in the last four, the last row may repeat.
    """
    n, d = rows.shape
    half, zero = joint.dtype.type(0.5), joint.dtype.type(0.0)
    is_far = False
    for group in range((n + 3) // 4):
        j0 = 4 * group
        j1, j2, j3 = min(j0 + 1, n - 1), min(j0 + 2, n - 1), min(j0 + 3, n - 1)
        x0, x1, x2, x3 = rows[j0], rows[j1], rows[j2], rows[j3]
        for k in range(len(joint)):
            center, shift, factor, c, out = centers[k], shifts[k], factors[k], constants[k], joint[k]
            q0, q1, q2, q3 = zero, zero, zero, zero
            for i in range(d):
                q0 += _square(x0[i], inverse_scale[i], center[i], factor[i], shift[i])
                q1 += _square(x1[i], inverse_scale[i], center[i], factor[i], shift[i])
                q2 += _square(x2[i], inverse_scale[i], center[i], factor[i], shift[i])
                q3 += _square(x3[i], inverse_scale[i], center[i], factor[i], shift[i])
            is_far |= q0 > farthest or q1 > farthest or q2 > farthest or q3 > farthest
            out[j0], out[j1], out[j2], out[j3] = c - half * q0, c - half * q1, c - half * q2, c - half * q3
    return is_far


@jit
def expectation(
    rows: Array,
    weights: Array,
    step: int,
    inverse_scale: Array,
    centers: Array,
    shifts: Array,
    factors: Array,
    constants: Array,
    remainders: Array,
    farthest: float,
    joint: Array,
    kept: Array,
    totals: Array,
    partial: Array,
    counts: Array,
    first: Array,
    second: Array,
) -> bool:
    """Run the E-step of any number of rows; tell whether a squared distance exceeds ``farthest``, and add nothing then.

    ``totals`` are the sums of exponentials of each row. Added to ``partial`` are Σ w times the largest log-joint, and
    Σ w Σ_k r (log-joint − its largest), for the entropies.
    """
    n_components, d = centers.shape
    flat_joint, flat_kept = joint.reshape(-1), kept.reshape(-1)
    peak, deficit, touched = np.empty(step, joint.dtype), np.empty(step, joint.dtype), np.zeros(1, rows.dtype)
    new_counts, new_first, new_second = np.zeros(n_components), np.zeros((n_components, d)), np.zeros((n_components, d))
    block_first, block_second = np.zeros(d, joint.dtype), np.zeros(d, joint.dtype)
    total_peak = total_deficit = 0.0
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        n = stop - start
        block = rows[start:stop]
        r = flat_joint[: n_components * n].reshape(n_components, n)
        log_r = flat_kept[: n_components * n].reshape(n_components, n)
        _touch(block.reshape(-1), touched)
        if log_joints(block, inverse_scale, centers, shifts, factors, constants, farthest, r):
            return True
        for k in range(n_components):
            for j in range(n):
                log_r[k, j] = r[k, j]
        total, w = totals[start:stop], weights[start:stop]
        exponentiate(r, peak[:n], total)
        finish(r, log_r, w, peak[:n], total, deficit[:n])
        total_peak += _sum(peak[:n], w)
        total_deficit += _sum(deficit[:n], w)
        for k in range(n_components):
            new_counts[k] += _add_moments(block, inverse_scale, centers[k], r[k], block_first, block_second)
            _move(block_first, new_first[k])
            _move(block_second, new_second[k])
    _about_means(remainders, new_counts, new_first, new_second)
    partial[0] += total_peak
    partial[1] += total_deficit
    for k in range(n_components):
        counts[k] += new_counts[k]
        for i in range(d):
            first[k, i] += new_first[k, i]
            second[k, i] += new_second[k, i]
    return False


@jit
def expectation_of_one(
    rows: Array,
    weights: Array,
    step: int,
    inverse_scale: Array,
    center: Array,
    factor: Array,
    constant: Array,
    remainder: Array,
    farthest: float,
    log_likelihood: Array,
    counts: Array,
    first: Array,
    second: Array,
) -> bool:
    """Run the E-step of a single component as `expectation` does: the log-likelihood follows from the moments."""
    d = rows.shape[1]
    ones = np.ones(step, factor.dtype)
    new_counts, new_first, new_second = np.zeros(1), np.zeros((1, d)), np.zeros((1, d))
    block_first, block_second = np.zeros(d), np.zeros(d)  # in double precision: the log-likelihood follows from these
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        r = ones[: stop - start]
        w = weights[start:stop]
        for j in range(len(w)):
            r[j] = w[j]
        new_counts[0] += _add_moments(rows[start:stop], inverse_scale, center[0], r, block_first, block_second)
        _move(block_first, new_first[0])
        _move(block_second, new_second[0])
    _about_means(remainder, new_counts, new_first, new_second)
    squares = 0.0
    for i in range(d):
        squares += np.float64(factor[0, i]) * np.float64(factor[0, i]) * new_second[0, i]
    if not squares <= farthest and farthest < np.inf:  # NaN may come of an infinite residual of weight zero
        return True
    log_likelihood[0] += constant[0] * new_counts[0] - 0.5 * squares
    counts[0] += new_counts[0]
    for i in range(d):
        first[0, i] += new_first[0, i]
        second[0, i] += new_second[0, i]
    return False


@_jit_sums
def _touch(values: Array, out: Array) -> None:
    """Read a value of every cache line, in order: processors fetch lines ahead when these follow each other."""
    line = _CACHE_LINE // values.itemsize
    total = out[0]
    for i in range(len(values) // line):
        total += values[line * i]
    out[0] = total


@jit
def _sum(values: Array, weights: Array) -> float:
    total = 0.0
    for j in range(len(weights)):
        total += weights[j] * values[j]
    if len(weights) == 0:
        for j in range(len(values)):
            total += values[j]
    return total


@jit
def _move(source: Array, target: Array) -> None:
    """Add the sums of a block to those of all blocks: long sums would lose more digits."""
    for i in range(len(source)):
        target[i] += source[i]
        source[i] = 0.0


@jit
def _about_means(remainders: Array, counts: Array, first: Array, second: Array) -> None:
    """Shift moments about rounded means to the means themselves."""
    for k in range(len(counts)):
        for i in range(first.shape[1]):
            shift = np.float64(remainders[k, i])
            second[k, i] -= shift * (2.0 * first[k, i] - shift * counts[k])
            first[k, i] -= shift * counts[k]


@jit
def _add_moments(
    rows: Array, inverse_scale: Array, center: Array, responsibilities: Array, first: Array, second: Array
) -> float:
    """Add Σ r y and Σ r y² of the residuals y from a rounded mean, (D,) each; return Σ r.

    Eight rows at a time, so that sums are read and written less often; in the last eight, the last row may repeat, with
    zero for its responsibility.
    """
    n, d = rows.shape
    zero, count = responsibilities.dtype.type(0.0), 0.0
    for group in range((n + 7) // 8):
        j0 = 8 * group
        j1, j2, j3, j4 = min(j0 + 1, n - 1), min(j0 + 2, n - 1), min(j0 + 3, n - 1), min(j0 + 4, n - 1)
        j5, j6, j7 = min(j0 + 5, n - 1), min(j0 + 6, n - 1), min(j0 + 7, n - 1)
        r0 = responsibilities[j0]
        r1 = responsibilities[j1] if j1 == j0 + 1 else zero
        r2 = responsibilities[j2] if j2 == j0 + 2 else zero
        r3 = responsibilities[j3] if j3 == j0 + 3 else zero
        r4 = responsibilities[j4] if j4 == j0 + 4 else zero
        r5 = responsibilities[j5] if j5 == j0 + 5 else zero
        r6 = responsibilities[j6] if j6 == j0 + 6 else zero
        r7 = responsibilities[j7] if j7 == j0 + 7 else zero
        weight = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
        if weight == zero:
            continue
        count += weight
        x0, x1, x2, x3 = rows[j0], rows[j1], rows[j2], rows[j3]
        x4, x5, x6, x7 = rows[j4], rows[j5], rows[j6], rows[j7]
        for i in range(d):
            s, c = inverse_scale[i], center[i]
            y0, y1, y2, y3 = x0[i] * s - c, x1[i] * s - c, x2[i] * s - c, x3[i] * s - c
            y4, y5, y6, y7 = x4[i] * s - c, x5[i] * s - c, x6[i] * s - c, x7[i] * s - c
            t0, t1, t2, t3, t4, t5, t6, t7 = r0 * y0, r1 * y1, r2 * y2, r3 * y3, r4 * y4, r5 * y5, r6 * y6, r7 * y7
            first[i] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
            second[i] += ((t0 * y0 + t1 * y1) + (t2 * y2 + t3 * y3)) + ((t4 * y4 + t5 * y5) + (t6 * y6 + t7 * y7))
    return count
