"""Precise kernel: whitened residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .elementwise import FEW_PAIRS, PLAIN, ElementwiseBackend, Scratch, row_entropies, weighted_sum
from .kernel import BlockPlan, Kernel, clip_limit, total_weight
from .mixture import MixtureParameters
from .quadratic import QuadraticKernel
from .row_blocks import block_rows, columns
from .statistics import Frame, SufficientStatistics
from .structure import CovarianceStructure
from .whitening import NEGLIGIBLE

Array = np.ndarray[Any, np.dtype[Any]]

# This kernel makes more and smaller calls to NumPy than the quadratic one, so its blocks are for the shared cache.
_BLOCK_BYTES = 8 << 20


class ResidualKernel(Kernel):
    """Whitened residuals, component by component: exact to a few units of rounding for any parameters.

    Most components have negligible responsibilities for most rows. With many components, a `QuadraticKernel` screens
    the pairs of row and component: only pairs that matter, or that its rounding leaves in doubt, are computed again.
    """

    arithmetic = "precise"

    def __init__(self, parameters: MixtureParameters, frame: Frame, backend: ElementwiseBackend = PLAIN) -> None:
        super().__init__(parameters, frame, backend)
        structure = parameters.structure
        self.reference = parameters.means
        self.centers = parameters.means[:, :, None] / self.frame.scale[:, None]  # exact: scales are powers of two
        center = self.frame.center[:, None] / self.frame.scale[:, None]
        self.lowest, self.highest = center - clip_limit(np.float64), center + clip_limit(np.float64)
        self.cholesky = structure.scale_cholesky(parameters.precisions_cholesky, self.frame.scale)
        self.constants = parameters.log_constants
        shape = structure, parameters.n_components, parameters.n_features
        screened = _is_screened(*shape)
        self.screen = QuadraticKernel(parameters, frame, backend=backend) if screened else None
        """Kernel that finds the components a row may belong to; None if it would cost more than it saves."""
        self.plan = self.plan_block(*shape, backend)

    @staticmethod
    def plan_block(
        structure: CovarianceStructure, n_components: int, n_features: int, backend: ElementwiseBackend
    ) -> BlockPlan:
        """Plan the kernel's blocks for mixtures of that shape."""
        rows = block_rows(_BLOCK_BYTES, 8 * (3 * n_features + n_components))
        n_bytes = 8 * rows * (3 * n_features + 2 * n_components)  # the entropy needs a second array of log-joints
        if _is_screened(structure, n_components, n_features):
            n_bytes += QuadraticKernel.plan_block(
                structure, n_components, n_features, np.dtype(np.float64), backend
            ).n_bytes
        return BlockPlan(rows, n_bytes)

    def rounding(self, moments: MixtureParameters) -> float:
        return 0.0

    def workspace(self) -> _ResidualWorkspace:
        d, n = self.parameters.n_features, self.plan.rows
        screen = None if self.screen is None else self.screen.workspace()
        joint = np.empty((self.parameters.n_components, n))
        return _ResidualWorkspace(screen, joint, np.empty(d * n), np.empty(d * n), np.empty(d * n))

    def log_joint(self, rows: Array, work: _ResidualWorkspace) -> Array:
        z = self._part(work.z, len(rows))
        np.multiply(rows.T, self.inverse_scale[:, None], out=z)
        np.clip(z, self.lowest, self.highest, out=z)
        joint = columns(work.joint, len(rows))
        if joint.size <= min(FEW_PAIRS, self.plan.rows):
            return self._log_joint_of_few(z, joint, work)
        near = None if self.screen is None else self._near(self.screen, rows, joint, work.screen)
        for k, constant in enumerate(self.constants):
            members = slice(None) if near is None else _members(near[k])
            residual, scratch = self._residual(z, k, members, work)
            distance = self.parameters.structure.mahalanobis(self.cholesky, k, residual, scratch)
            distance *= -0.5
            distance += constant
            joint[k, members] = distance
        return joint

    def _log_joint_of_few(self, z: Array, joint: Array, work: _ResidualWorkspace) -> Array:
        """Compute the log-joints of all components at once: for few rows, calls to NumPy take most of the time."""
        residuals = work.residual[: joint.size * len(z)].reshape(*joint.shape, len(z))
        np.subtract(z.T, self.centers.transpose(0, 2, 1), out=residuals)
        whitened = self.parameters.structure.whiten_rows(self.cholesky, residuals)
        np.einsum("kbd,kbd->kb", whitened, whitened, out=joint)
        joint *= -0.5
        joint += self.constants[:, None]
        return joint

    def _near(self, screen: QuadraticKernel, rows: Array, joint: Array, work: Any) -> Array:
        """Find pairs whose responsibility may not be negligible, (K, B); write approximate log-joints to ``joint``."""
        doubt = np.empty(len(rows))
        for block in screen.blocks(len(rows)):
            joint[:, block] = screen.log_joint(rows[block], work)
            n_rows = joint[:, block].shape[1]
            doubt[block] = 2 * screen.row_errors(work, n_rows)
            offset = screen.row_offset(work, n_rows)
            if offset is not None:
                joint[:, block] += offset
        return np.greater_equal(joint, joint.max(axis=0) + (math.log(NEGLIGIBLE) - doubt))

    def _residual(
        self, z: Array, component: int, members: Array | slice, work: _ResidualWorkspace
    ) -> tuple[Array, Array]:
        """Residuals z − μ_k of some rows, (D, members), and scratch of the same shape."""
        n_rows = z.shape[1] if isinstance(members, slice) else len(members)
        residual, scratch = self._part(work.residual, n_rows), self._part(work.scratch, n_rows)
        if isinstance(members, slice):
            np.subtract(z, self.centers[component], out=residual)
        else:
            np.take(z, members, axis=1, out=residual, mode="clip")  # "raise" would buffer the output
            residual -= self.centers[component]
        return residual, scratch

    def _part(self, flat: Array, n_rows: int) -> Array:
        n_features = self.parameters.n_features
        return flat[: n_features * n_rows].reshape(n_features, n_rows)

    def row_offset(self, work: _ResidualWorkspace, n_rows: int) -> Array | None:
        return None

    def statistics(self, rows: Array, weights: Array | None, work: _ResidualWorkspace) -> SufficientStatistics:
        total = self.zero()
        log_likelihood = entropy = 0.0
        for block in self.blocks(len(rows)):
            block_weights = None if weights is None else weights[block]
            joint = self.log_joint(rows[block], work)
            log_likelihood += weighted_sum(self.backend.normalise(joint, None), block_weights)
            joint *= joint > NEGLIGIBLE
            entropy += weighted_sum(row_entropies(joint), block_weights)
            if block_weights is not None:
                joint *= block_weights
            total.soft_counts[...] += joint.sum(axis=1)
            self._add_moments(joint, total, work)
        return SufficientStatistics(
            self.reference,
            self.frame.scale,
            total.soft_counts,
            total.first,
            total.second_moments,
            log_likelihood,
            entropy,
            n_rows=len(rows),
            weight_sum=total_weight(weights, len(rows)),
        )

    def _add_moments(self, responsibilities: Array, total: SufficientStatistics, work: _ResidualWorkspace) -> None:
        z = self._part(work.z, responsibilities.shape[1])
        for k, row in enumerate(responsibilities):
            members = _members(row > 0)
            r = row[members]
            if len(r):
                residual, scratch = self._residual(z, k, members, work)
                total.first[k] += residual @ r
                self.parameters.structure.add_scatter(total.second_moments, k, residual, r, scratch)


@dataclass
class _ResidualWorkspace:
    screen: Scratch | None  # None without a screen
    joint: Array  # (K, B)
    # (D B,) each, flat, so that a part of the rows is contiguous too: gathering from other layouts copies first.
    z: Array  # x / s
    residual: Array
    scratch: Array


def _is_screened(structure: CovarianceStructure, n_components: int, n_features: int) -> bool:
    # Features are built once for a row, residuals once for each component: with eight components both cost the same.
    return structure.n_quadratic(n_features) < (n_components - 8) * n_features


def _members(mask: Array) -> Array | slice:
    """Indices where ``mask`` (B,) is true; a slice of all if gathering would cost more than it saves."""
    members = np.flatnonzero(mask)
    return members if 2 * len(members) < len(mask) else slice(None)
