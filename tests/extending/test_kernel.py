"""A kernel for another kind of rows, as CONTRIBUTING.md tells: one candidate, driven through the pass of an E-step.

The rows have holes, NaN, and the covariances are diagonal: a row's density is that of the features that are there, and
the moments of the others are those that the component expects.
"""

import numpy as np
import pytest
from scipy.stats import norm

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel import BlockPlan, Kernel, total_weight, weighted_sum
from daskgmm.core.kernel_choice import CANDIDATES, KernelCandidate, choose_kernel
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame, SufficientStatistics
from daskgmm.data.inputs import as_dataset
from daskgmm.engine.run import DaskEngine
from daskgmm.fitting.estep_pass import EStepPass, EStepRequest


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
    dataset, _ = as_dataset(rows)
    with DaskEngine("synchronous") as engine:
        sweep = EStepPass(engine, dataset, frame_of(rows), rows="holes")
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
