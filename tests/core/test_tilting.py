"""Acceleration by a tilted sample: which mixtures it proposes, and what it learns from their likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from daskgmm.core.acceleration import BFGSState, EMStep, LimitedMemoryBFGS, SampleWork
from daskgmm.core.coordinates import displaced, displacement
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import choose_kernel
from daskgmm.core.maximum_likelihood import complete_log_likelihood, maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.tilting import Climb, TiltedBFGS, TiltedState

FULL = STRUCTURES["full"]


def e_step(library, mixture, rows):
    kernel = choose_kernel(mixture, library.frame_of(rows), rows.dtype)
    return kernel.statistics(rows, None, kernel.workspace()), kernel.responsibilities(rows)


def test_the_complete_log_likelihood_is_that_of_rows_with_their_responsibilities(structure, library):
    mixture, other = (library.make_mixture(structure, 3, 2, seed=seed) for seed in (1, 2))
    rows = library.draw(mixture, 300, seed=3)
    statistics, responsibilities = e_step(library, mixture, rows)
    densities = np.empty((300, 3))
    for k in range(3):
        one = MixtureParameters.from_covariances(
            structure, np.ones(1), other.means[k : k + 1], structure.take(other.covariances, np.array([k]))
        )
        densities[:, k] = choose_kernel(one, library.frame_of(rows), rows.dtype).log_density(rows)
    expected = (responsibilities * (densities + np.log(other.weights))).sum()
    assert complete_log_likelihood(other, statistics) == pytest.approx(expected, rel=1e-9)


def test_the_m_step_maximises_the_complete_log_likelihood(structure, library):
    mixture = library.make_mixture(structure, 3, 2, seed=1)
    statistics, _ = e_step(library, mixture, library.draw(mixture, 300, seed=3))
    best = maximize(structure, statistics, 0.0)
    highest = complete_log_likelihood(best, statistics)
    random, n = np.random.default_rng(0), len(displacement(best, best))
    for _ in range(20):
        assert complete_log_likelihood(displaced(best, 1e-3 * random.normal(size=n)), statistics) < highest


# ---- proposals


@dataclass
class Climbs:
    """A likelihood whose climbs end where they are told."""

    ends: list
    gain: float = 1.0
    converged: bool = False
    most_iterations: int = 100
    dampings: list = field(default_factory=list)
    allowed: list = field(default_factory=list)

    def climb(self, step, damping, learnt, most):
        self.dampings.append(damping)
        self.allowed.append(most)
        return Climb(self.ends[-1], self.gain, 0.0, self.converged, learnt, SampleWork(10, 50, 0.1, "float64"))


@pytest.fixture
def mixtures(library):
    origin = library.make_mixture(FULL, 2, 2, seed=0)
    n = len(displacement(origin, origin))
    return [displaced(origin, length * np.ones(n) / np.sqrt(n)) for length in (0.0, 0.05, 0.2)]


def step_of(mixtures, library, change=1.0, tol=1e-6):
    current, updated, _ = mixtures
    statistics, _ = e_step(library, current, library.draw(current, 50, seed=1))
    return EMStep(current, updated, statistics, -1.0, change, tol)


def test_without_a_sample_it_is_the_quasi_newton_method(mixtures, library):
    bfgs = LimitedMemoryBFGS(1e-6)
    state, expected = TiltedBFGS(bfgs).initial(), bfgs.initial()
    for change in (np.inf, 0.5, 0.2):
        step = step_of(mixtures, library, change)
        proposed, known = TiltedBFGS(bfgs).propose(state, step), bfgs.propose(expected, step)
        state, expected = proposed.state, known.state
        assert (proposed.mixture is None) == (known.mixture is None)
        np.testing.assert_array_equal(state.bfgs.em_step, expected.em_step)
        assert TiltedBFGS(bfgs).settled(state, change, 1.0) == bfgs.settled(expected, change, 1.0)


def test_the_end_of_a_climb_is_proposed_and_its_step_learnt(mixtures, library):
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), Climbs([mixtures[2]]))
    proposed = accelerator.propose(accelerator.initial(), step_of(mixtures, library, np.inf))
    assert proposed.mixture is mixtures[2]
    assert proposed.work == SampleWork(10, 50, 0.1, "float64")
    current, updated, end = mixtures
    further = step_of([end, displaced(end, 0.1 * displacement(current, updated)), end], library)
    state = accelerator.propose(proposed.state, further).state
    np.testing.assert_allclose(state.bfgs.steps, displacement(current, end)[None])


def test_a_rejected_climb_makes_way_for_the_quasi_newton_method_and_damps_the_next(mixtures, library):
    likelihood = Climbs([mixtures[2]])
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood)
    quasi_newton = replace(accelerator, likelihood=None)
    state = accelerator.initial()
    state = replace(state, bfgs=replace(state.bfgs, steps=np.ones((1, 12)), falls=np.ones((1, 12)) * 0.5))
    step = step_of(mixtures, library)
    expected = quasi_newton.propose(state, step).mixture
    state, proposal = accelerator.reject(accelerator.propose(state, step).state, step.updated)
    np.testing.assert_allclose(proposal.means, expected.means)
    np.testing.assert_allclose(proposal.covariances, expected.covariances)
    # The quasi-Newton method learns of the rejection of its own proposal only.
    assert state.bfgs.rejected == 0
    assert accelerator.reject(state, step.updated)[0].bfgs.rejected == 1
    accelerator.propose(state, step)
    assert likelihood.dampings[1] > likelihood.dampings[0]


def test_rejections_in_a_row_are_followed_by_longer_and_longer_pauses(mixtures, library):
    likelihood = Climbs([mixtures[2]], most_iterations=10**6)
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood)
    state, pauses, pause = accelerator.initial(), [], 0
    for _ in range(15):
        proposed = accelerator.propose(state, step_of(mixtures, library))
        state = proposed.state
        if proposed.work is None:
            pause += 1
        else:
            state, pause = accelerator.reject(state, mixtures[1])[0], pauses.append(pause) or 0
    assert pauses[:4] == [0, 0, 1, 3]


def test_climbs_that_predict_well_are_damped_less(mixtures, library):
    likelihood = Climbs([mixtures[2]])
    accelerator, state = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood), TiltedBFGS(LimitedMemoryBFGS(1e-6)).initial()
    for change in (1.0, 0.9, 0.9, 0.1):
        state = accelerator.propose(state, step_of(mixtures, library, change)).state
    first, second, third, last = likelihood.dampings
    assert first > second > third
    assert last > third


def test_the_sample_takes_no_more_than_it_may(mixtures, library):
    likelihood = Climbs([mixtures[2]], most_iterations=22)
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood)
    state = accelerator.initial()
    for _ in range(5):
        state = accelerator.propose(state, step_of(mixtures, library)).state
    assert likelihood.allowed == [22, 12]


def test_a_first_step_that_promises_little_is_not_worth_a_climb(mixtures, library):
    likelihood = Climbs([mixtures[2]])
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood)
    assert accelerator.propose(accelerator.initial(), step_of(mixtures, library, np.inf, tol=1e-3)).work is None
    assert accelerator.propose(accelerator.initial(), step_of(mixtures, library, np.inf, tol=5e-5)).work is not None


def test_a_mixture_with_an_empty_component_does_not_climb(mixtures, library):
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), Climbs([mixtures[2]]))
    step = step_of(mixtures, library)
    empty = replace(step.current, weights=np.array([0.0, 1.0]))
    assert accelerator.propose(accelerator.initial(), replace(step, current=empty)).work is None


def test_a_converged_climb_tells_what_is_left(mixtures, library):
    likelihood = Climbs([mixtures[2]], gain=1e-3, converged=True)
    accelerator = TiltedBFGS(LimitedMemoryBFGS(1e-6), likelihood)
    state = accelerator.propose(accelerator.initial(), step_of(mixtures, library)).state
    assert state.gain_left == 1e-3
    assert accelerator.settled(state, 1.0, 1e-2)
    assert not accelerator.settled(state, 0.0, 1e-3)  # the change alone does not count


@pytest.mark.parametrize(
    "given",
    [
        {"climbed": np.ones(3)},
        {"other": np.ones((2, 2))},
        {"bfgs": BFGSState(em_step=np.ones(2), planned=np.ones(2)), "climbed": np.array([1, np.nan])},
        {"damping": -1.0},
        {"damping": np.inf},
        {"predicted": np.nan},
        {"left": np.nan},
        {"rejected": -1},
        {"pause": -1},
        {"n_iter": -1},
    ],
)
def test_a_state_checks_its_fields(given):
    with pytest.raises(ValueError, match=list(given)[-1]):
        TiltedState(**given)
