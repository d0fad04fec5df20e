"""The E-step on residuals from means under diagonal covariances, compiled by numba.

Rows are read where they lie, along their features, and a block of them stays in the innermost cache: nothing is
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
    peaks: Array,
    totals: Array,
    deficits: Array,
    counts: Array,
    first: Array,
    second: Array,
) -> bool:
    """Run the E-step of any number of rows; tell whether a squared distance exceeds ``farthest``, and add nothing then.

    ``deficits`` are Σ_k r (log-joint − its largest), for the entropies.
    """
    n_components, d = centers.shape
    flat_joint, flat_kept = joint.reshape(-1), kept.reshape(-1)
    peak, total = np.empty(step, joint.dtype), np.empty(step, joint.dtype)
    total_counts, total_first, total_second = np.zeros(n_components), np.zeros((n_components, d)), np.zeros((n_components, d))
    block_first, block_second = np.empty(d, joint.dtype), np.empty(d, joint.dtype)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        n = stop - start
        block = rows[start:stop]
        r = flat_joint[: n_components * n].reshape(n_components, n)
        log_r = flat_kept[: n_components * n].reshape(n_components, n)
        if log_joints(block, inverse_scale, centers, shifts, factors, constants, farthest, r):
            return True
        for k in range(n_components):
            for j in range(n):
                log_r[k, j] = r[k, j]
        exponentiate(r, peak[:n], total[:n])
        finish(r, log_r, weights[start:stop], peak[:n], total[:n], deficits[start:stop])
        for j in range(n):
            peaks[start + j], totals[start + j] = peak[j], total[j]
        for k in range(n_components):
            for i in range(d):
                block_first[i], block_second[i] = 0.0, 0.0
            total_counts[k] += _add_moments(
                block, inverse_scale, centers[k], remainders[k], r[k], block_first, block_second
            )
            for i in range(d):
                total_first[k, i] += block_first[i]
                total_second[k, i] += block_second[i]
    for k in range(n_components):
        counts[k] += total_counts[k]
        for i in range(d):
            first[k, i] += total_first[k, i]
            second[k, i] += total_second[k, i]
    return False


@jit
def _add_moments(
    rows: Array,
    inverse_scale: Array,
    center: Array,
    remainder: Array,
    responsibilities: Array,
    first: Array,
    second: Array,
) -> float:
    """Add Σ r y and Σ r y² of the residuals y from a mean, (D,) each; return Σ r.

    Eight rows at a time, so that sums are read and written less often; in the last eight, the last row may repeat, with
    zero for its responsibility.
    """
    n, d = rows.shape
    zero, count = first.dtype.type(0.0), 0.0
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
            s, high, low = inverse_scale[i], center[i], remainder[i]
            y0, y1 = (x0[i] * s - high) - low, (x1[i] * s - high) - low
            y2, y3 = (x2[i] * s - high) - low, (x3[i] * s - high) - low
            y4, y5 = (x4[i] * s - high) - low, (x5[i] * s - high) - low
            y6, y7 = (x6[i] * s - high) - low, (x7[i] * s - high) - low
            t0, t1, t2, t3, t4, t5, t6, t7 = r0 * y0, r1 * y1, r2 * y2, r3 * y3, r4 * y4, r5 * y5, r6 * y6, r7 * y7
            first[i] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
            second[i] += ((t0 * y0 + t1 * y1) + (t2 * y2 + t3 * y3)) + ((t4 * y4 + t5 * y5) + (t6 * y6 + t7 * y7))
    return count
