"""Acceleration, driven over rows in memory: fewer passes to the same likelihood, by valid steps alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from daskgmm.core.acceleration import (
    ACCELERATIONS,
    AcceleratorState,
    BFGSState,
    EMStep,
    LimitedMemoryBFGS,
    ascent_direction,
)
from daskgmm.core.coordinates import displaced, displacement
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import choose_kernel
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import SufficientStatistics
from daskgmm.errors import IllDefinedCovarianceError

pytestmark = pytest.mark.covering

RIDGE = 1e-6


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """As in a fit: threads for matrices of three rows cost a hundred times what they save."""
    with threadpool_limits(1):
        yield


@pytest.fixture(params=list(ACCELERATIONS))
def accelerate(request):
    return ACCELERATIONS[request.param]


def propose(accelerator, state, current, updated, bound):
    """State after an E-step at ``current``, and the proposal."""
    nothing = SufficientStatistics.zero(
        current.structure, current.means[0], np.ones(current.n_features), len(current.means)
    )
    proposed = accelerator.propose(state, EMStep(current, updated, nothing, bound, np.inf, 0.0))
    return proposed.state, proposed.mixture


def reject(accelerator, state):
    state, proposal = accelerator.reject(state, None)
    assert proposal is None
    return state


@dataclass
class Climb:
    """What came of a start."""

    bounds: list = field(default_factory=list)
    """Of the passes that counted."""
    kinds: list = field(default_factory=list)
    """Of all passes: "em", "accelerated" or "rejected"."""
    proposals: list = field(default_factory=list)
    end: MixtureParameters | None = None
    state: AcceleratorState | None = None
    converged: bool = False


class Rows:
    """E-steps and M-steps over rows in memory."""

    def __init__(self, library, rows, structure, ridge=RIDGE):
        self.rows, self.structure, self.ridge = rows, structure, ridge
        self.frame = library.frame_of(rows)

    def step(self, mixture):
        kernel = choose_kernel(mixture, self.frame, self.rows.dtype)
        statistics = kernel.statistics(self.rows, None, kernel.workspace())
        return statistics.mean_log_likelihood, maximize(self.structure, statistics, self.ridge)

    def plain(self, mixture, tol, limit=2000):
        climb, last = Climb(), -np.inf
        while len(climb.bounds) < limit and not climb.converged:
            bound, mixture = self.step(mixture)
            climb.bounds.append(bound)
            climb.converged, last = abs(bound - last) < tol, bound
        climb.end = mixture
        return climb

    def accelerated(self, mixture, accelerator, tol, limit=500, resume=lambda state: state):
        climb, last, fallback, state = Climb(), -np.inf, None, accelerator.initial()
        while len(climb.kinds) < limit and not climb.converged:
            state = resume(state)
            try:
                bound, updated = self.step(mixture)
            except IllDefinedCovarianceError:
                if fallback is None:
                    raise
                bound = -np.inf
            if fallback is not None and not bound >= last - 1e-12 * abs(last):
                state = reject(accelerator, state)
                climb.kinds.append("rejected")
                mixture, fallback = fallback, None
                continue
            climb.kinds.append("em" if fallback is None else "accelerated")
            climb.bounds.append(bound)
            state, proposal = propose(accelerator, state, mixture, updated, bound)
            climb.converged, last = accelerator.settled(state, bound - last, tol), bound
            climb.end, climb.state = updated, state
            if proposal is None:
                mixture, fallback = updated, None
            else:
                climb.proposals.append(proposal)
                mixture, fallback = proposal, updated
        return climb


def drawn(library, structure, seed, *, n_components=4, n_features=3, spread):
    """A mixture and rows of it."""
    truth = library.make_mixture(structure, n_components, n_features, seed=seed, spread=spread)
    return truth, library.draw(truth, 1000, seed=seed + 1)


def overlapping(library, structure, seed=0, n_components=4, n_features=3):
    """Rows of a mixture whose components overlap, and a mixture to begin with that is not close."""
    truth, rows = drawn(library, structure, seed, n_components=n_components, n_features=n_features, spread=1.3)
    means = rows[np.random.default_rng(seed).choice(len(rows), n_components, replace=False)]
    covariances = library.restrict(structure, np.tile(np.cov(rows.T), (n_components, 1, 1)), truth.weights)
    weights = np.full(n_components, 1 / n_components)
    return rows, MixtureParameters.from_covariances(structure, weights, means, covariances)


def assert_valid(library, mixture):
    assert np.isfinite(mixture.means).all()
    assert mixture.weights.min() >= 0
    assert mixture.weights.sum() == pytest.approx(1, rel=1e-12)
    for matrix in library.dense(mixture.structure, mixture.covariances, *mixture.means.shape):
        assert np.linalg.eigvalsh(matrix).min() > 0


# ---- passes and likelihood


@pytest.mark.covering
@pytest.mark.parametrize("tol", [1e-5, pytest.param(1e-7, marks=pytest.mark.slow)])
def test_far_fewer_passes_from_a_start_that_is_not_close(accelerate, structure, library, tol):
    plain, fast = 0, 0
    for seed in range(4):
        rows, begin = overlapping(library, structure, seed)
        data = Rows(library, rows, structure)
        climb = data.accelerated(begin, accelerate(RIDGE), tol)
        assert climb.converged
        plain += len(data.plain(begin, tol).bounds)
        fast += len(climb.kinds)
    assert fast < 0.5 * plain


@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7])
def test_at_least_the_likelihood_of_plain_em_on_the_same_hill(accelerate, structure, library, tol):
    for seed in range(4):
        truth, rows = drawn(library, structure, seed, spread=2.5)
        data = Rows(library, rows, structure)
        climb, slow = data.accelerated(truth, accelerate(RIDGE), tol), data.plain(truth, tol)
        assert climb.converged
        assert climb.bounds[-1] >= slow.bounds[-1] - tol


def test_it_ends_where_the_likelihood_is_largest(accelerate, structure, library):
    rows, begin = overlapping(library, structure)
    data = Rows(library, rows, structure, ridge=0.0)
    climb = data.accelerated(begin, accelerate(0.0), 1e-13)
    assert climb.converged
    onward = data.plain(climb.end, 1e-13, limit=50)
    assert onward.bounds[-1] - climb.bounds[-1] < 1e-11
    still = displacement(climb.end, onward.end)
    assert np.abs(still).max() < 1e-4


def test_bounds_never_fall_and_every_proposal_is_a_mixture(accelerate, structure, library):
    rows, begin = overlapping(library, structure, seed=7)
    climb = Rows(library, rows, structure).accelerated(begin, accelerate(RIDGE), 1e-9)
    assert np.diff(climb.bounds).min() >= -1e-12 * abs(climb.bounds[-1])
    assert "accelerated" in climb.kinds
    for proposal in climb.proposals:
        assert_valid(library, proposal)


@pytest.mark.slow
def test_few_passes_are_rejected(accelerate, structure, library):
    kinds = []
    for seed in range(4):
        rows, begin = overlapping(library, structure, seed)
        kinds += Rows(library, rows, structure).accelerated(begin, accelerate(RIDGE), 1e-8).kinds
    assert 0 < kinds.count("rejected") < 0.15 * len(kinds)


def test_units_and_zero_do_not_matter(accelerate, structure, library):
    rows, begin = overlapping(library, structure)
    scale = structure.frame_scale(np.array([2.0**-10, 1.0, 2.0**7]))
    shift = np.array([3.0, -1.0, 2.0]) * scale
    moved = MixtureParameters.from_covariances(
        structure,
        begin.weights,
        begin.means * scale + shift,
        structure.unscale_covariances(begin.covariances.copy(), scale),
    )
    one = Rows(library, rows, structure, 0.0).accelerated(begin, accelerate(0.0), 0.0, limit=20)
    other = Rows(library, rows * scale + shift, structure, 0.0).accelerated(moved, accelerate(0.0), 0.0, limit=20)
    assert one.kinds == other.kinds
    np.testing.assert_allclose(other.bounds + np.log(scale).sum(), one.bounds, atol=1e-7)
    np.testing.assert_allclose((other.end.means - shift) / scale, one.end.means, atol=1e-4)


# ---- checkpoints


def test_it_goes_on_with_the_same_bits_from_its_state(accelerate, structure, library):
    rows, begin = overlapping(library, structure, seed=3)
    data = Rows(library, rows, structure)

    def reborn(state):
        return type(state)(**{name: np.array(v) if np.ndim(v) else v for name, v in vars(state).items()})

    through = data.accelerated(begin, accelerate(RIDGE), 1e-9)
    resumed = data.accelerated(begin, accelerate(RIDGE), 1e-9, resume=reborn)
    assert resumed.kinds == through.kinds
    assert resumed.bounds == through.bounds
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(resumed.end, name), getattr(through.end, name))


def test_states_stay_what_they_were(accelerate, library):
    structure = STRUCTURES["full"]
    rows, mixture = overlapping(library, structure)
    data, accelerator = Rows(library, rows, structure), accelerate(RIDGE)
    state = accelerator.initial()
    for _ in range(4):
        bound, updated = data.step(mixture)
        state, _proposal = propose(accelerator, state, mixture, updated, bound)
        mixture = updated
    kept = state
    before = {name: np.array(value) for name, value in vars(kept).items()}
    for _ in range(15):
        bound, updated = data.step(mixture)
        state = reject(accelerator, propose(accelerator, state, mixture, updated, bound)[0])
        mixture = updated
    for name, value in vars(kept).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": np.ones((2, 5)), "falls": np.ones((2, 4))}, "steps has shape"),
        ({"steps": np.ones((2, 5)), "falls": np.ones((1, 5))}, "steps has shape"),
        ({"steps": np.ones((2, 4)), "falls": np.ones((2, 4))}, "steps has shape"),
        ({"em_step": np.ones(4)}, "em_step has shape"),
        ({"em_step": np.ones((1, 5)), "planned": np.ones((1, 5))}, "em_step has shape"),
        ({"em_step": np.full(5, np.nan)}, "em_step contains NaN"),
        ({"planned": np.full(5, np.inf)}, "planned contains NaN or infinity"),
        ({"planned": np.ones(5, np.int64)}, "planned contains .* not in double precision"),
        ({"trust_radius": 0.0}, "trust_radius is 0"),
        ({"trust_radius": np.nan}, "trust_radius is nan"),
        ({"rejected": -1}, "rejected is -1"),
        ({"pause": -1}, "pause is -1"),
    ],
)
def test_states_that_cannot_be(changes, message):
    given = {"em_step": np.ones(5), "planned": np.ones(5), **changes}
    with pytest.raises(ValueError, match=message):
        BFGSState(**given)


def test_a_step_without_a_number_teaches_nothing(library):
    structure = STRUCTURES["diag"]
    rows, mixture = overlapping(library, structure)
    data, accelerator = Rows(library, rows, structure), LimitedMemoryBFGS(RIDGE)
    state = accelerator.initial()
    for _ in range(3):
        bound, updated = data.step(mixture)
        state, _ = propose(accelerator, state, mixture, updated, bound)
        mixture = updated
    nowhere = replace(updated, means=np.full_like(updated.means, np.nan))
    after, proposal = propose(accelerator, state, mixture, nowhere, bound)
    assert proposal is None
    assert not accelerator.settled(after, 0.0, 1.0)
    np.testing.assert_array_equal(after.steps, state.steps)
    again, _ = propose(accelerator, after, mixture, data.step(mixture)[1], bound)
    np.testing.assert_array_equal(again.steps, state.steps)


# ---- rejections


def plan(library, accelerator, accepts, structure=STRUCTURES["diag"]):
    """Kinds of the passes when the bounds at proposals turn out as told, whatever the truth."""
    mixture, rows = drawn(library, structure, 0, spread=2.5)
    data, accepts, kinds = Rows(library, rows, structure), iter(accepts), []
    bound, updated = data.step(mixture)
    state, proposal = propose(accelerator, accelerator.initial(), mixture, updated, bound)
    while True:
        if proposal is None:
            mixture = updated
            kinds.append("em")
        else:
            try:
                accept = next(accepts)
            except StopIteration:
                return kinds
            mixture = proposal if accept else updated
            kinds.append("accelerated" if accept else "rejected")
            if not accept:
                state = reject(accelerator, state)
                kinds.append("em")
        bound, updated = data.step(mixture)
        state, proposal = propose(accelerator, state, mixture, updated, bound)


def runs(kinds):
    """Plain steps before each proposal."""
    return [
        len(word.split()) for word in " ".join(kinds).replace("accelerated", "|").replace("rejected", "|").split("|")
    ]


def test_what_does_not_work_is_tried_ever_less_often(accelerate, library):
    accelerator = accelerate(RIDGE)
    kinds = plan(library, accelerator, [False] * 9)
    pauses = runs(kinds)[1:]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64]  # the way back, and the pause


def test_an_accepted_proposal_makes_up_for_rejections(accelerate, library):
    assert runs(plan(library, accelerate(RIDGE), [False, False, True, False]))[1:] == [1, 2, 0, 1]


def test_a_second_rejection_in_a_row_makes_it_forget(library):
    known = []

    class Watched(LimitedMemoryBFGS):
        def reject(self, state, updated):
            state, proposal = super().reject(state, updated)
            known.append(len(state.steps))
            return state, proposal

    plan(library, Watched(RIDGE), [True, True, False, False])
    assert known[0] > 0
    assert known[1] == 0


def test_a_rejection_shortens_the_next_proposals(library):
    structure = STRUCTURES["full"]
    rows, mixture = overlapping(library, structure)
    data = Rows(library, rows, structure)
    lengths = {}
    for rejects in (False, True):
        accelerator, at = LimitedMemoryBFGS(RIDGE), mixture
        state = accelerator.initial()
        for _ in range(3):
            bound, updated = data.step(at)
            state, proposal = propose(accelerator, state, at, updated, bound)
            if rejects and proposal is not None:
                state = reject(accelerator, state)
            before, at = at, updated
        lengths[rejects] = np.linalg.norm(displacement(before, proposal)) / np.linalg.norm(
            displacement(before, updated)
        )
    assert lengths[True] <= 1 + 1e-9 < lengths[False]


# ---- stopping


def test_one_small_change_is_not_the_end(accelerate, structure, library):
    rows, begin = overlapping(library, structure)
    data = Rows(library, rows, structure)
    accelerator, mixture = accelerate(RIDGE), begin
    state = accelerator.initial()
    for _ in range(3):
        bound, updated = data.step(mixture)
        state, _proposal = propose(accelerator, state, mixture, updated, bound)
        gain = data.step(updated)[0] - bound
        assert gain > 1e-5
        assert not accelerator.settled(state, 0.0, 1e-5)
        mixture = updated


def test_a_step_that_promises_little_is_the_end(accelerate, structure, library):
    rows, begin = overlapping(library, structure)
    data = Rows(library, rows, structure)
    accelerator = accelerate(RIDGE)
    climb = data.accelerated(begin, accelerator, 1e-9)
    assert accelerator.settled(climb.state, 1e-10, 1e-9)
    assert not accelerator.settled(climb.state, 0.0, 0.0)
    assert data.step(climb.end)[0] - climb.bounds[-1] < 1e-9


def test_nothing_is_settled_before_anything_was_seen(accelerate):
    accelerator = accelerate(RIDGE)
    assert not accelerator.settled(accelerator.initial(), 0.0, 1.0)


# ---- degenerate input


def test_one_component(accelerate, structure, library):
    rows, begin = overlapping(library, structure, n_components=1)
    climb = Rows(library, rows, structure).accelerated(begin, accelerate(RIDGE), 1e-8)
    assert climb.converged
    assert len(climb.kinds) <= 4
    np.testing.assert_allclose(climb.end.means[0], rows.mean(axis=0), atol=1e-10)


def test_one_feature(accelerate, structure, library):
    rows, begin = overlapping(library, structure, n_components=3, n_features=2)
    line = MixtureParameters.from_covariances(
        structure,
        begin.weights,
        begin.means[:, :1],
        library.restrict(structure, np.ones((3, 1, 1)), begin.weights),
    )
    data = Rows(library, np.ascontiguousarray(rows[:, :1]), structure)
    assert data.accelerated(line, accelerate(RIDGE), 1e-8).converged


def test_components_that_are_the_same_stay_so(accelerate, structure, library):
    rows, begin = overlapping(library, structure, n_components=4)
    same = MixtureParameters.from_covariances(
        structure, begin.weights, np.tile(begin.means[:1], (4, 1)), begin.covariances
    )
    climb = Rows(library, rows, structure).accelerated(same, accelerate(RIDGE), 1e-8)
    assert climb.converged
    np.testing.assert_allclose(climb.end.means, np.tile(rows.mean(axis=0), (4, 1)), atol=1e-8)


def test_a_start_at_the_maximum(accelerate, structure, library):
    rows, begin = overlapping(library, structure)
    data = Rows(library, rows, structure)
    top = data.accelerated(begin, accelerate(RIDGE), 1e-12).end
    climb = data.accelerated(top, accelerate(RIDGE), 1e-8)
    assert climb.converged
    assert len(climb.kinds) <= 3


def test_a_component_without_weight(accelerate, structure, library):
    rows, begin = overlapping(library, structure, n_components=4)
    weights = np.array([0.0, 0.2, 0.3, 0.5])
    begin = MixtureParameters.from_covariances(structure, weights, begin.means, begin.covariances)
    climb = Rows(library, rows, structure).accelerated(begin, accelerate(RIDGE), 1e-8)
    assert climb.converged
    assert_valid(library, climb.end)
    for proposal in climb.proposals:
        assert_valid(library, proposal)
        assert proposal.weights[0] < 1e-12


def test_no_variance_falls_below_what_the_m_step_adds(accelerate, structure, library):
    ridge = 1e-4
    rows, begin = overlapping(library, structure, n_components=3)
    rows[:200] = rows[0]  # a component will settle on these
    begin.means[0] = rows[0] + 0.1
    data = Rows(library, rows, structure, ridge)
    climb = data.accelerated(begin, accelerate(ridge), 1e-8)
    assert climb.converged
    smallest = [
        np.linalg.eigvalsh(library.dense(structure, p.covariances, *p.means.shape)).min() for p in climb.proposals
    ]
    assert min(smallest, default=ridge) >= 0.9 * ridge * (1 - 1e-9)


def test_a_step_that_would_be_narrower_than_an_m_step_can_be_is_not_proposed(structure, library):
    wide = library.make_mixture(structure, 2, 2)

    def narrowed(factor):
        return MixtureParameters.from_covariances(structure, wide.weights, wide.means, wide.covariances * factor)

    def proposed(smallest):
        accelerator = LimitedMemoryBFGS(smallest)
        state, _ = propose(accelerator, accelerator.initial(), wide, narrowed(0.8), 0.0)
        return propose(accelerator, state, narrowed(0.8), narrowed(0.66), 0.0)[1]

    def narrowest(mixture):
        return np.linalg.eigvalsh(library.dense(structure, mixture.covariances, 2, 2)).min()

    free, allowed = proposed(0.0), narrowest(narrowed(0.66))
    assert narrowest(free) < 0.9 * allowed  # where it leads
    assert proposed(allowed) is None
    assert proposed(narrowest(free)) is not None


# ---- the recursion


def test_two_loops_are_the_matrix_of_bfgs():
    random = np.random.default_rng(0)
    n = 12
    root = random.normal(size=(n, n))
    curvature = root @ root.T / n + 0.1 * np.eye(n)
    steps = random.normal(size=(5, n))
    falls = steps @ curvature
    last_s, last_y = steps[-1], falls[-1]
    matrix = max(1.0, last_s @ last_y / (last_y @ last_y)) * np.eye(n)
    for s, y in zip(steps, falls, strict=True):  # Nocedal & Wright (2006), equation 6.17
        left = np.eye(n) - np.outer(s, y) / (s @ y)
        matrix = left @ matrix @ left.T + np.outer(s, s) / (s @ y)
    gradient = random.normal(size=n)
    np.testing.assert_allclose(ascent_direction(steps, falls, gradient), matrix @ gradient, rtol=1e-10)


def test_pairs_without_curvature_are_left_out(library):
    structure = STRUCTURES["spherical"]
    mixture = library.make_mixture(structure, 2, 2)
    step = displacement(mixture, library.make_mixture(structure, 2, 2, seed=1)) / 10
    accelerator = LimitedMemoryBFGS()
    state, _ = propose(accelerator, accelerator.initial(), mixture, displaced(mixture, step), 0.0)
    state, _ = propose(accelerator, state, mixture, displaced(mixture, 2 * step), 0.0)  # EM's step grew on its way
    assert len(state.steps) == 0
    state, _ = propose(accelerator, state, mixture, displaced(mixture, step), 0.0)
    assert len(state.steps) == 1
