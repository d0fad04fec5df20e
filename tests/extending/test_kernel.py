"""A kernel for another kind of rows, as CONTRIBUTING.md tells: one candidate, in a pass of E-steps and in whole fits.

The rows have holes, NaN, and the covariances are diagonal: a row's density is that of the features that are there, and
the moments of the others are those that the component expects.
"""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from scipy.stats import norm

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import weighted_sum
from daskgmm.core.kernel import BlockPlan, Kernel, total_weight
from daskgmm.core.kernel_choice import CANDIDATES, KernelCandidate, choose_kernel
from daskgmm.core.maximum_likelihood import MaximumLikelihood, maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.residual import ResidualKernel
from daskgmm.core.statistics import Frame, SufficientStatistics
from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_checks import RowKind
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import NonFiniteDataError
from daskgmm.fitting.estep_pass import EStepPass, EStepRequest
from daskgmm.fitting.fit import fit_mixtures
from daskgmm.fitting.fit_spec import FitSpec, Settings
from daskgmm.fitting.initialization import Initialization
from daskgmm.fitting.plan import plan_fit


class HolesKernel(Kernel):
    arithmetic = "precise"

    def __init__(self, parameters, frame, backend):
        super().__init__(parameters, frame, backend)
        self.reference = parameters.means
        self.plan = BlockPlan(1000, 8 * 1000 * 3 * parameters.means.size)

    def rounding(self, moments):
        return 0.0

    def workspace(self):
        return np.empty((self.parameters.n_components, self.plan.rows))

    def residuals(self, rows):
        """x − μ_k, (K, B, D), and zero in the holes."""
        return np.nan_to_num(rows - self.parameters.means[:, None])

    def log_joint(self, rows, work):
        p, seen = self.parameters, ~np.isnan(rows)
        squares = self.residuals(rows) ** 2 / p.covariances[:, None]
        constants = np.log(2 * np.pi * p.covariances)
        joint = np.log(p.weights)[:, None] - 0.5 * (squares.sum(axis=2) + constants @ seen.T)
        work.ravel()[: joint.size] = joint.ravel()
        return work.ravel()[: joint.size].reshape(joint.shape)

    def row_offset(self, work, n_rows):
        return None

    def statistics(self, rows, weights, work):
        total = self.zero()
        log_likelihood = 0.0
        for block in self.blocks(len(rows)):
            joint, part = self.log_joint(rows[block], work), None if weights is None else weights[block]
            log_likelihood += weighted_sum(self.backend.normalise(joint, part), part)
            residuals = self.residuals(rows[block]) / self.frame.scale
            hole = np.isnan(rows[block]) * self.parameters.covariances[:, None] / self.frame.scale**2
            total.soft_counts[...] += joint.sum(axis=1)
            total.first[...] += np.einsum("kb,kbd->kd", joint, residuals)
            total.second_moments[...] += np.einsum("kb,kbd->kd", joint, residuals**2 + hole)
        sums = total.soft_counts, total.first, total.second_moments
        weight = total_weight(weights, len(rows))
        return SufficientStatistics(
            self.reference, self.frame.scale, *sums, log_likelihood, 0.0, n_rows=len(rows), weight_sum=weight
        )


class Holes(KernelCandidate):
    arithmetic = "precise"
    rows = "holes"

    def rounding(self, request):
        return 0.0

    def make(self, request):
        return HolesKernel(request.parameters, request.frame, request.backend)

    def plan_block(self, shape, dtype, backend):
        return BlockPlan(1000, 8 * 1000 * 3 * shape.n_components * shape.n_features)


def any_values(rows, start):
    """NaN is a hole."""


@pytest.fixture(autouse=True)
def _candidate():
    holes = Holes()
    CANDIDATES.append(holes)
    yield
    CANDIDATES.remove(holes)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3)) * [1, 2, 3] + np.array([[0, 0, 0], [5, -5, 5]])[rng.integers(2, size=3000)]
    return np.where(rng.random(x.shape) < 0.3, np.nan, x)


def frame_of(rows):
    return Frame.of(np.nanmean(rows, axis=0), np.nanstd(rows, axis=0))


def passes(rows, parameters, n):
    """Parameters and mean log-likelihoods of n EM iterations."""
    bounds = []
    dataset = replace(as_dataset(rows)[0], row_kind=RowKind("holes", any_values))
    with DaskEngine("synchronous") as engine:
        sweep = EStepPass(engine, dataset, frame_of(rows))
        for _ in range(n):
            (evaluation,) = sweep([EStepRequest(parameters)])
            bounds.append(evaluation.statistics.mean_log_likelihood)
            parameters = maximize(parameters.structure, evaluation.statistics, 0.0)
    return parameters, bounds


def start(weights, means):
    means = np.asarray(means, float)
    return MixtureParameters.from_covariances(STRUCTURES["diag"], np.asarray(weights), means, np.ones_like(means))


def test_complete_rows_keep_their_kernels(rows):
    kernel = choose_kernel(start([1.0], [[0, 0, 0]]), frame_of(rows), np.dtype(np.float64))
    assert kernel.arithmetic == "float64"
    assert not isinstance(kernel, HolesKernel)


def test_the_pass_gives_the_density_of_what_is_there(rows):
    parameters = start([0.4, 0.6], [[0, 0, 1], [4, -5, 5]])
    _, (bound,) = passes(rows, parameters, 1)
    each = np.where(np.isnan(rows), 0, norm.logpdf(rows, parameters.means[:, None])).sum(axis=2)
    expected = np.log(np.einsum("k,kb->b", parameters.weights, np.exp(each))).mean()
    assert bound == pytest.approx(expected, rel=1e-12)


def test_one_component_ends_in_the_moments_of_what_is_there(rows):
    found, bounds = passes(rows, start([1.0], [[0, 0, 0]]), 60)
    np.testing.assert_allclose(found.means[0], np.nanmean(rows, axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.covariances[0], np.nanvar(rows, axis=0), rtol=1e-10)
    assert (np.diff(bounds) > -1e-12).all()


def test_two_components_are_found_through_the_holes(rows):
    found, bounds = passes(rows, start([0.5, 0.5], [[0, 0, 1], [4, -5, 5]]), 60)
    np.testing.assert_allclose(found.means, [[0, 0, 0], [5, -5, 5]], atol=0.4)
    np.testing.assert_allclose(np.sqrt(found.covariances), [[1, 2, 3]] * 2, atol=0.3)
    assert (np.diff(bounds) > -1e-12).all()


def test_rows_that_no_kernel_serves_are_named():
    mixture = MixtureParameters.from_covariances(STRUCTURES["diag"], np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"rows='noisy'.* expected one of \['complete'"):
        choose_kernel(mixture, Frame.of(np.zeros(2), np.ones(2)), np.dtype(float), rows="noisy")


# ---- a whole fit: the data set names the kind of its rows, and survey, plan, samples and passes follow


class MidCellKernel(Kernel):
    """The precise kernel at the middles of cells: a row holds the number of the cell of each feature."""

    arithmetic = "precise"

    def __init__(self, parameters, frame, backend):
        super().__init__(parameters, frame, backend)
        self.inner = ResidualKernel(parameters, frame, backend)
        self.reference, self.plan = self.inner.reference, self.inner.plan

    def rounding(self, moments):
        return 0.0

    def workspace(self):
        return self.inner.workspace()

    def log_joint(self, rows, work):
        return self.inner.log_joint(rows + 0.5, work)

    def row_offset(self, work, n_rows):
        return self.inner.row_offset(work, n_rows)

    def statistics(self, rows, weights, work):
        return self.inner.statistics(rows + 0.5, weights, work)


class MidCells(KernelCandidate):
    arithmetic = "precise"
    rows = "cells"

    def rounding(self, request):
        return 0.0

    def make(self, request):
        return MidCellKernel(request.parameters, request.frame, request.backend)

    def plan_block(self, shape, dtype, backend):
        return ResidualKernel.plan_block(shape.structure, shape.n_components, shape.n_features, backend)


def check_cells(rows, start):
    if (odd := np.flatnonzero((rows % 1 != 0).any(axis=1))).size:
        raise NonFiniteDataError(start + int(odd[0]), is_nan=False)


CELLS = RowKind("cells", check_cells)


@pytest.fixture
def cells():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6000, 2)) * [3, 5] + np.array([[0, 0], [30, -40]])[rng.integers(2, size=6000)]
    return np.floor(x)


def fitted(dataset, init_size):
    """Outcome and plan of a whole fit of two components, with a phase on samples if ``init_size`` is a number."""
    initialization = Initialization(STRUCTURES["full"], 2, "kmeans")
    settings = Settings(initialization, tol=1e-9, max_iter=200, n_init=2, init_size=init_size)
    estimation = MaximumLikelihood(STRUCTURES["full"], 1e-6)
    with DaskEngine("synchronous") as engine:
        plan = plan_fit(engine, dataset, settings)
        spec = FitSpec(settings, lambda survey: estimation, np.random.RandomState(0))
        (outcome,) = fit_mixtures(engine, dataset, [spec])
    return outcome, plan


@pytest.mark.parametrize("init_size", [None, 3000])
def test_a_whole_fit_uses_the_kernel_of_its_rows(cells, init_size):
    CANDIDATES.append(candidate := MidCells())
    try:
        found, plan = fitted(replace(as_dataset(da.from_array(cells, chunks=1000))[0], row_kind=CELLS), init_size)
    finally:
        CANDIDATES.remove(candidate)
    expected, _ = fitted(as_dataset(da.from_array(cells + 0.5, chunks=1000))[0], init_size)
    np.testing.assert_allclose(found.state.means, expected.state.means, rtol=1e-6)
    np.testing.assert_allclose(found.state.covariances, expected.state.covariances, rtol=1e-6)
    assert {record.arithmetic for record in found.history if record.kind != "survey"} == {"precise"}
    assert found.lower_bound == pytest.approx(expected.lower_bound, rel=1e-9)
    assert plan.estep.task.work > 0


def test_values_are_checked_as_their_kind_wants(cells):
    cells[4321, 1] += 0.25
    CANDIDATES.append(candidate := MidCells())
    try:
        with pytest.raises(NonFiniteDataError, match="row 4321"):
            fitted(replace(as_dataset(cells)[0], row_kind=CELLS), None)
    finally:
        CANDIDATES.remove(candidate)


def test_a_whole_fit_names_rows_that_no_kernel_serves(cells):
    with pytest.raises(ValueError, match=r"rows='cells'.* expected one of \['complete'"):
        fitted(replace(as_dataset(cells)[0], row_kind=CELLS), None)
