"""The E-step on whitened residuals, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled_loops import exponentiate, jit, standardise
from .whitening import NEGLIGIBLE

Array = np.ndarray[Any, np.dtype[Any]]

# With up to so many features, panels of a scatter matrix have half as many rows.
_FEW_FEATURES = 16

# Triangles are cut into panels of this many rows, and panels of a scatter matrix into tiles of this many columns: BLAS
# has faster kernels for such small products than for whole triangular ones.
_PANEL, _TILE = 16, 64


@jit
def pack_panels(factors: Array) -> Array:
    """Transpose upper triangular factors, (K, D, D), and pack the panels of the results, without most of the zeros."""
    n_components, d = len(factors), factors.shape[1]
    size = 0
    for top in range(0, d, _PANEL):
        bottom = min(d, top + _PANEL)
        size += (bottom - top) * bottom
    panels = np.empty((n_components, size), factors.dtype)
    for k in range(n_components):
        upper, packed, start = factors[k], panels[k], 0
        for top in range(0, d, _PANEL):
            bottom = min(d, top + _PANEL)
            for i in range(top, bottom):
                for j in range(bottom):
                    packed[start + j] = upper[j, i]
                start += bottom
    return panels


@jit
def _whiten(panels: Array, residual: Array, out: Array) -> None:
    """Compute Uᵀ x for every column x, (D, B), from the packed panels of Uᵀ."""
    d, start = len(residual), 0
    for top in range(0, d, _PANEL):
        bottom = min(d, top + _PANEL)
        size = (bottom - top) * bottom
        panel = panels[start : start + size].reshape(bottom - top, bottom)
        np.dot(panel, residual[:bottom], out[top:bottom])
        start += size


@jit
def log_joints(
    rows: Array,
    inverse_scale: Array,
    lowest: Array,
    highest: Array,
    centers: Array,
    remainders: Array,
    panels: Array,
    constants: Array,
    z: Array,
    residual: Array,
    whitened: Array,
    joint: Array,
) -> None:
    """Compute the log-joints of one block, (K, B), and leave the rows in their units in ``z``, (D, B)."""
    standardise(rows, np.zeros(rows.shape[1]), inverse_scale, lowest, highest, z)
    d, n = z.shape
    half = joint.dtype.type(0.5)
    for k in range(len(joint)):
        for i in range(d):
            x, r, high, low = z[i], residual[i], centers[k, i], remainders[k, i]
            for j in range(n):
                r[j] = (x[j] - high) - low
        _whiten(panels[k], residual, whitened)
        q = joint[k]
        for j in range(n):
            q[j] = 0.0
        paired = d - d % 4
        for i in range(0, paired, 4):  # four at a time, so that q is read and written less often
            r0, r1, r2, r3 = whitened[i], whitened[i + 1], whitened[i + 2], whitened[i + 3]
            for j in range(n):
                q[j] += (r0[j] * r0[j] + r1[j] * r1[j]) + (r2[j] * r2[j] + r3[j] * r3[j])
        for i in range(paired, d):
            r = whitened[i]
            for j in range(n):
                q[j] += r[j] * r[j]
        c = constants[k]
        for j in range(n):
            q[j] = c - half * q[j]


@jit
def expectation(
    rows: Array,
    weights: Array,
    step: int,
    inverse_scale: Array,
    lowest: Array,
    highest: Array,
    centers: Array,
    remainders: Array,
    factors: Array,
    constants: Array,
    z: Array,
    residual: Array,
    whitened: Array,
    joint: Array,
    kept: Array,
    scatter: Array,
    peaks: Array,
    totals: Array,
    deficits: Array,
    counts: Array,
    first: Array,
    second: Array,
) -> None:
    """Run the E-step of any number of rows; ``deficits`` are Σ_k r (log-joint − its largest), for the entropies."""
    n_components, d = centers.shape
    panels = pack_panels(factors)
    flat_z, flat_residual, flat_whitened = z.reshape(-1), residual.reshape(-1), whitened.reshape(-1)
    flat_joint, flat_kept = joint.reshape(-1), kept.reshape(-1)
    peak, total, root = np.empty(step, joint.dtype), np.empty(step, joint.dtype), np.empty(step, joint.dtype)
    sums, members = np.empty(d, joint.dtype), np.empty(step, np.int64)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        n = stop - start
        x = flat_z[: d * n].reshape(d, n)
        r = flat_joint[: n_components * n].reshape(n_components, n)
        log_r = flat_kept[: n_components * n].reshape(n_components, n)
        log_joints(
            rows[start:stop],
            inverse_scale,
            lowest,
            highest,
            centers,
            remainders,
            panels,
            constants,
            x,
            flat_residual[: d * n].reshape(d, n),
            flat_whitened[: d * n].reshape(d, n),
            r,
        )
        for k in range(n_components):
            for j in range(n):
                log_r[k, j] = r[k, j]
        exponentiate(r, peak[:n], total[:n])
        finish(r, log_r, weights[start:stop], peak[:n], total[:n], deficits[start:stop])
        for j in range(n):
            peaks[start + j], totals[start + j] = peak[j], total[j]
        for k in range(n_components):
            n_members = _select(r[k], members, root)
            if n_members == 0:
                continue
            y = flat_residual[: d * n_members].reshape(d, n_members)
            for i in range(d):
                a, b, high, low = x[i], y[i], centers[k, i], remainders[k, i]
                if n_members == n:
                    for j in range(n):
                        b[j] = ((a[j] - high) - low) * root[j]
                else:
                    for j in range(n_members):
                        b[j] = ((a[members[j]] - high) - low) * root[j]
            roots = root[:n_members]
            counts[k] += np.dot(roots, roots)
            np.dot(y, roots, sums)
            for i in range(d):
                first[k, i] += sums[i]
            _add_scatter(y, scatter, second[k])


@jit
def _select(responsibilities: Array, members: Array, root: Array) -> int:
    """Write the roots of positive responsibilities; return their number, or that of all if these are half or more."""
    n, n_members = len(responsibilities), 0
    for j in range(n):
        members[n_members] = j
        n_members += not responsibilities[j] <= 0.0  # this comparison keeps NaN
    if 2 * n_members >= n:
        for j in range(n):
            root[j] = np.sqrt(responsibilities[j])
        return n
    for j in range(n_members):
        root[j] = np.sqrt(responsibilities[members[j]])
    return n_members


@jit
def finish(joint: Array, logs: Array, weights: Array, peak: Array, total: Array, deficits: Array) -> None:
    """Divide exponentials by their totals and multiply the weights, with zero for what is negligible; sum r log r."""
    n = len(total)
    factor = np.empty_like(total)
    for j in range(n):
        factor[j] = 1.0 / total[j]
        deficits[j] = 0.0
    least = joint.dtype.type(NEGLIGIBLE)
    zero = joint.dtype.type(0.0)
    for k in range(len(joint)):
        r, log_r = joint[k], logs[k]
        for j in range(n):
            share = r[j] * factor[j]
            r[j] = zero if share <= least else share  # this comparison keeps NaN
            deficits[j] += r[j] * (log_r[j] - peak[j])
    if len(weights):
        for k in range(len(joint)):
            r = joint[k]
            for j in range(n):
                r[j] *= weights[j]


@jit
def _add_scatter(columns: Array, scratch: Array, packed: Array) -> None:
    """Add the upper triangle of X Xᵀ of columns X, (D, B), row by row, to packed sums."""
    d, flat = len(columns), scratch.reshape(-1)
    height = _PANEL if d > _FEW_FEATURES else _PANEL // 2
    for top in range(0, d, height):
        bottom = min(d, top + height)
        for left in range(top, d, _TILE):
            right = min(d, left + _TILE)
            tile = flat[: (bottom - top) * (right - left)].reshape(bottom - top, right - left)
            np.dot(columns[top:bottom], columns[left:right].T, tile)
            for i in range(top, bottom):
                start = i * d - i * (i + 1) // 2  # where column 0 of row i would be
                first = max(left, i)
                source, target = tile[i - top, first - left :], packed[start + first : start + right]
                for j in range(len(source)):
                    target[j] += source[j]
