"""Interface of E-step kernels, and their results for each row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .elementwise import PLAIN, ElementwiseBackend, row_entropies
from .mixture import MixtureParameters
from .row_blocks import blocks
from .statistics import Frame, SufficientStatistics

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class BlockPlan:
    """Block length and memory of a kernel, known before there are parameters."""

    rows: int
    """Rows of the longest block."""

    n_bytes: int
    """Size of the scratch arrays."""


@dataclass(frozen=True)
class RowResults:
    """Arrays for a kernel's results for each of n rows; None for results that are not requested."""

    labels: Array | None = None
    """Most probable component, (n,), int64."""

    responsibilities: Array | None = None
    """Posterior probability of every component, (n, K), floating."""

    log_density: Array | None = None
    """Log p(x) in nats, (n,), floating."""

    entropy: Array | None = None
    """Entropy of the responsibilities in nats, (n,), float64."""

    @property
    def are_normalised(self) -> bool:
        """Test whether a requested result needs the log-sum-exp; labels alone do not."""
        return any(array is not None for array in (self.responsibilities, self.log_density, self.entropy))


class Kernel(ABC):
    """The E-step for given parameters, prepared once and applied to many blocks.

    A kernel is immutable and may be shared between threads; each task writes to a workspace of its own.
    """

    arithmetic: str
    """``"float32"``, ``"float64"`` or ``"precise"``."""

    reference: Array
    """Point that the statistics' moments are about, (D,), or one point for each component, (K, D)."""

    plan: BlockPlan

    has_common_moments: bool = False
    """The second moments do not depend on the parameters: one pass computes them for all E-steps in this arithmetic."""

    common_known: bool = False
    """The common second moments are known: `statistics` leaves them out, and `complete` adds them."""

    def __init__(self, parameters: MixtureParameters, frame: Frame, backend: ElementwiseBackend = PLAIN) -> None:
        self.parameters = parameters
        self.frame = Frame(frame.center, parameters.structure.frame_scale(frame.scale))
        self.inverse_scale = 1.0 / self.frame.scale  # exact: scales are powers of two
        self.backend = backend

    def resolves(self, parameters: MixtureParameters) -> bool:
        """Test whether moments in this arithmetic are accurate enough for an M-step that ended in ``parameters``.

        An M-step can end in components much tighter than the components that the kernel was chosen for: then the new
        covariances are rounding errors.
        """
        return True

    @abstractmethod
    def rounding(self, moments: MixtureParameters) -> float:
        """Estimate, from above, the rounding error of the mean log-density compared with a finer arithmetic.

        Parameters
        ----------
        moments : MixtureParameters
            Mixture that an M-step made of this kernel's statistics: its moments say where each component's rows lie.

        Returns
        -------
        float
            Error in nats per unit of weight; zero if no arithmetic is finer.
        """

    @abstractmethod
    def workspace(self) -> Any:
        """Scratch arrays for one task."""

    @abstractmethod
    def log_joint(self, rows: Array, work: Any) -> Array:
        """Compute log w_k N(x_b; μ_k, Σ_k) − `row_offset` of one block, (K, B), contiguous, in the workspace."""

    @abstractmethod
    def row_offset(self, work: Any, n_rows: int) -> Array | None:
        """Term common to all components that `log_joint` left out of the last block, shape (B,); None for no term."""

    @abstractmethod
    def statistics(self, rows: Array, weights: Array | None, work: Any) -> SufficientStatistics:
        """Compute the sufficient statistics of some rows.

        Parameters
        ----------
        rows : array of shape (n, D), any real dtype
        weights : array of shape (n,), float64, or None
            Sample weights.
        work : workspace
        """

    def complete(self, statistics: SufficientStatistics, common: Array) -> SufficientStatistics:
        """Add the ``common`` second moments, which `common_known` left out, to statistics of all rows of a data set."""
        return statistics

    def zero(self) -> SufficientStatistics:
        """Statistics of no rows."""
        p = self.parameters
        return SufficientStatistics.zero(p.structure, self.reference, self.frame.scale, p.n_components)

    def blocks(self, n_rows: int) -> Iterator[slice]:
        """Slices of at most ``plan.rows`` rows."""
        return blocks(n_rows, self.plan.rows)

    # ---- results for each row

    def fill(self, results: RowResults, rows: Array, work: Any = None) -> None:
        """Fill every array of ``results``; the log-joint of each block is computed once for all of them.

        Parameters
        ----------
        results : RowResults
        rows : array of shape (n, D)
        work : workspace, optional
        """
        work = work or self.workspace()
        for block in self.blocks(len(rows)):
            joint = self.log_joint(rows[block], work)
            if results.labels is not None:
                results.labels[block] = joint.argmax(axis=0)
            if not results.are_normalised:
                continue
            density = self.backend.normalise(joint, None)
            if results.log_density is not None:
                offset = self.row_offset(work, joint.shape[1])
                results.log_density[block] = density if offset is None else density + offset
            if results.responsibilities is not None:
                results.responsibilities[block] = joint.T
            if results.entropy is not None:
                results.entropy[block] = row_entropies(joint)

    def log_density(self, rows: Array, work: Any = None) -> Array:
        """Log p(x) of every row, in nats, shape (n,)."""
        log_density = np.empty(len(rows))
        self.fill(RowResults(log_density=log_density), rows, work)
        return log_density

    def responsibilities(self, rows: Array, work: Any = None) -> Array:
        """Posterior probability of every component, shape (n, K)."""
        responsibilities = np.empty((len(rows), self.parameters.n_components))
        self.fill(RowResults(responsibilities=responsibilities), rows, work)
        return responsibilities

    def labels(self, rows: Array, work: Any = None) -> Array:
        """Most probable component of every row, shape (n,)."""
        labels = np.empty(len(rows), np.int64)
        self.fill(RowResults(labels=labels), rows, work)
        return labels


def total_weight(weights: Array | None, n_rows: int) -> float:
    """Sum Σ w; without weights, the number of rows."""
    return float(n_rows) if weights is None else float(weights.sum())


def clip_limit(dtype: Any) -> float:
    """Distance from the center, in units of the frame, to which rows are clipped: squares stay finite."""
    return float(np.finfo(dtype).max) ** 0.25


def largest_constant(parameters: MixtureParameters) -> float:
    """Largest term of the log-joints that does not depend on the row.

    Single precision rounds constants by their size, which the unit of the data decides. Kernels in single precision
    leave this one out, so that only differences are rounded.
    """
    return float(parameters.log_constants.max())
