"""The rules of `advance`, one by one: a start and the result of an E-step become another start and a step."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from daskgmm.core.acceleration import Accelerator, AcceleratorState, Proposed, SampleWork
from daskgmm.core.estimation import Estimation
from daskgmm.criteria import CRITERIA, Criterion
from daskgmm.errors import IllDefinedCovarianceError
from daskgmm.fitting.em import RESEEDINGS, EMRun, EMSettings, Relocated, advance, request, run_em
from daskgmm.fitting.em_start import EMStart, Proposal, Reseeding
from daskgmm.fitting.estep_pass import EStepResult
from daskgmm.fitting.fit_state import FitState, Snapshot
from daskgmm.fitting.folds import Score
from daskgmm.fitting.history import PassRecord
from daskgmm.fitting.pruning import information_criteria


@dataclass(frozen=True)
class Found:
    """Statistics of an E-step at x: all that the estimation below reads."""

    at: float
    collapsed: tuple[int, ...] | None = None
    empty: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """Arithmetic of an E-step."""

    arithmetic: str = "float64"
    noise: float = 0.0
    sees: bool = True

    def resolves(self, parameters):
        return self.sees

    def rounding(self, moments):
        return self.noise


class Halving(Estimation):
    """A state is a number x, the M-step halves it, and the bound is −x²."""

    measure = "bound"
    reg_covar = 0.0
    helps = True

    def update(self, statistics):
        if statistics.collapsed is not None:
            raise IllDefinedCovarianceError(statistics.collapsed)
        return statistics.at / 2

    def empty(self, statistics):
        return statistics.empty

    def reseed(self, statistics, lost):
        return 10.0 if self.helps else None

    def counts(self, state, weight_sum):
        return np.array([weight_sum])

    def parameters(self, state):
        return state

    def bound(self, statistics, updated):
        return -(statistics.at**2) if updated != 10.0 else -100.0


@dataclass(frozen=True)
class Learnt(AcceleratorState):
    proposed: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Quarter(Accelerator):
    """Proposes half of where the M-step led, and has converged when it says so."""

    done: bool = False

    state_type = Learnt

    def initial(self):
        return Learnt()

    def propose(self, state, step):
        return Proposed(replace(state, proposed=state.proposed + 1), step.updated / 2)

    def reject(self, state, updated):
        return replace(state, rejected=state.rejected + 1), None

    def settled(self, state, change, tol):
        return self.done


class Elsewhere:
    """Watches nothing, and proposes a place."""

    def __init__(self, state):
        self.state, self.records = state, (PassRecord("sample", 0, 3, None, 5, 0, 0.1, "float64"),)

    def threshold(self, parameters):
        return ("watched", parameters)

    def __call__(self, result, updated):
        return Relocated(self.state, self.records)


PLAIN = EMSettings(tol=1e-3, max_iter=100)


def result_at(x, kernel=Kernel(), **found):
    return EStepResult(Found(x, **found), kernel, 0.5)


def moved(start, settings=PLAIN, x=None, kernel=Kernel(), estimation=None, **found):
    at = start.next_state if x is None else x
    return advance(estimation or Halving(), settings, start, result_at(at, kernel, **found))


def test_a_plain_step_is_accepted():
    start, step = moved(EMStart(4.0))
    assert start == EMStart(2.0, lower_bounds=(-16.0,), compared_bound=-16.0, n_iter=1)
    assert (step.kind, step.lower_bound, step.change, step.seconds) == ("em", -16.0, np.inf, 0.5)
    again, step = moved(start)
    assert again.lower_bounds == (-16.0, -4.0)
    assert step.change == 12.0
    assert start.n_iter == 1  # a start is a value


def test_a_small_change_is_convergence():
    start = EMStart(0.01, lower_bounds=(-2e-4,), compared_bound=-2e-4, n_iter=1)
    assert moved(start)[0].converged
    assert not moved(start, replace(PLAIN, tol=1e-5))[0].converged


def test_a_change_that_may_be_rounding_is_none_and_asks_for_finer_arithmetic():
    start = EMStart(0.01, lower_bounds=(-2e-4,), compared_bound=-2e-4, n_iter=1)
    after, _ = moved(start, kernel=Kernel("float32", noise=1e-2))
    assert not after.converged
    assert (after.coarsest, after.rounding) == ("float64", 1e-2)
    # The bound before was uncertain, too.
    after, _ = moved(replace(start, rounding=1e-2))
    assert not after.converged
    assert after.coarsest == "float32"


def test_an_arithmetic_that_cannot_see_the_result_is_refined():
    start = EMStart(4.0)
    after, step = moved(start, kernel=Kernel("float32", sees=False))
    assert after == replace(start, precise=True)  # it has not counted
    assert step.kind == "refined"
    assert np.isnan(step.lower_bound)
    assert request(Halving(), PLAIN, after).coarsest == "precise"
    after, step = moved(after, kernel=Kernel("precise", sees=False))
    assert (after.n_iter, after.precise, step.kind) == (1, False, "em")


SINGLE = replace(PLAIN, single=True)
FLOAT32 = Kernel("float32", noise=1e-4)


def rounded(start, settings=SINGLE, x=None, kernel=FLOAT32, **found):
    """The step of an E-step that rounded the rows to single precision."""
    result = replace(result_at(start.next_state if x is None else x, kernel, **found), rounded=True)
    return advance(Halving(), settings, start, result)


def test_rows_are_rounded_at_first_where_the_settings_permit_it():
    for settings, permitted in ((PLAIN, False), (SINGLE, True)):
        assert request(Halving(), settings, settings.begin(4.0)).rounds == permitted
    # An earlier fit may have been at its end.
    assert not request(Halving(), SINGLE, SINGLE.begin(4.0, lower_bound=-3.0)).rounds


def test_rows_are_rounded_while_the_rounding_is_a_hundredth_of_the_gain():
    start = replace(SINGLE.begin(4.0), compared_bound=-16.1)  # gains 0.1
    for noise, still in ((0.9e-3, True), (1.1e-3, False)):
        after, _ = rounded(start, kernel=Kernel("float32", noise))
        assert (after.single, after.coarsest, after.precise) == (still, "float32", False)
        assert request(Halving(), SINGLE, after).rounds == still
    # The first bound is compared with none.
    assert rounded(SINGLE.begin(4.0), kernel=Kernel("float32", 1.0))[0].single
    # What has become exact stays so.
    after, _ = moved(replace(start, single=False), SINGLE)
    assert not after.single


def test_rounded_rows_never_converge_and_are_left_before_the_end():
    near = replace(SINGLE.begin(0.1), compared_bound=-0.019)  # gains nine times tol
    after, step = rounded(near, kernel=Kernel("float32"))
    assert (step.change, after.single) == (pytest.approx(0.009), False)
    end = replace(SINGLE.begin(0.01), compared_bound=-2e-4)
    after, _ = rounded(end, kernel=Kernel("float32"))
    assert not after.converged
    after, _ = moved(replace(end, single=False), SINGLE)
    assert after.converged


def test_an_accelerator_predicts_the_first_gain():
    for done in (False, True):
        settings = replace(SINGLE, accelerator=Quarter(done))
        assert rounded(settings.begin(4.0), settings)[0].single == (not done)


def test_the_last_two_e_steps_are_exact():
    """The last one may be rejected; then the one before is what is reported."""
    settings = replace(SINGLE, max_iter=5)
    for n_iter, permitted in ((0, True), (2, True), (3, False), (4, False)):
        assert request(Halving(), settings, replace(settings.begin(4.0), n_iter=n_iter)).rounds == permitted


@pytest.mark.parametrize("found", [{"kernel": Kernel("float32", sees=False)}, {"collapsed": (1,)}], ids=str)
def test_rounded_rows_that_cannot_see_the_result_are_taken_as_they_are(found):
    start = SINGLE.begin(4.0)
    after, step = rounded(start, **found)
    assert after == replace(start, single=False)  # and not the finest arithmetic, which takes longer
    assert step.kind == "refined"
    assert request(Halving(), SINGLE, after).coarsest == "float32"


def test_a_start_that_was_reseeded_begins_anew_in_single_precision():
    after, step = moved(replace(SINGLE.begin(4.0), single=False), SINGLE, empty=(2,))
    assert (step.kind, after.single) == ("reseeded", True)


def test_a_collapse_in_coarse_arithmetic_is_refined_first():
    after, step = moved(EMStart(4.0), kernel=Kernel("float64"), collapsed=(1,))
    assert (after.precise, after.collapsed, step.kind) == (True, None, "refined")


@pytest.mark.parametrize("kind", ["accelerated", "moved"])
def test_a_collapse_at_a_proposal_leads_back(kind):
    start = EMStart(4.0, Proposal(3.0, kind), compared_bound=-50.0, accelerator=Learnt())
    after, step = moved(start, replace(PLAIN, accelerator=Quarter()), kernel=Kernel("precise"), collapsed=(1,))
    assert (after.proposal, after.collapsed, after.n_iter) == (None, None, 1)
    assert (step.kind, step.lower_bound) == ("rejected", -np.inf)
    assert after.accelerator.rejected == (kind == "accelerated")


def test_a_component_that_collapses_begins_anew():
    before = EMStart(4.0, lower_bounds=(-20.0,), compared_bound=-20.0, n_iter=3, rounding=0.1, accelerator=Learnt(7))
    after, step = moved(before, replace(PLAIN, accelerator=Quarter()), kernel=Kernel("precise"), collapsed=(1, 2))
    assert (after.state, after.proposal, after.n_iter) == (10.0, None, 4)
    assert after.reseedings == (Reseeding(4, (1, 2), collapsed=True),)
    # What comes next is not compared with what was.
    assert (after.compared_bound, after.rounding, after.accelerator) == (-np.inf, 0.0, Learnt())
    assert after.lower_bounds == (-20.0, -100.0)
    assert (step.kind, step.lower_bound, step.change) == ("reseeded", -100.0, -80.0)


@pytest.mark.parametrize("why", ["too often", "no help", "all share one"])
def test_a_collapse_that_nothing_helps_is_the_end(why):
    estimation, components = Halving(), () if why == "all share one" else (1,)
    estimation.helps = why != "no help"
    times = RESEEDINGS if why == "too often" else 0
    before = EMStart(4.0, reseedings=(Reseeding(1, (1,), collapsed=True),) * times)
    after, step = moved(before, estimation=estimation, kernel=Kernel("precise"), collapsed=components)
    assert after.collapsed == components
    assert after.is_finished(100)
    assert after.failure.components == components
    assert (step.kind, after.n_iter) == ("em", 1)


def test_an_empty_component_begins_anew_while_that_helps():
    after, step = moved(EMStart(4.0), empty=(2,))
    assert after.reseedings == (Reseeding(1, (2,), collapsed=False),)
    assert step.kind == "reseeded"
    worn_out = EMStart(4.0, reseedings=after.reseedings * RESEEDINGS)
    after, step = moved(worn_out, empty=(2,))
    assert (after.state, step.kind) == (2.0, "em")


def test_an_acceleration_proposes_and_its_place_counts_where_the_bound_is_higher():
    settings = replace(PLAIN, accelerator=Quarter())
    start, step = moved(settings.begin(4.0), settings)
    assert (start.state, start.proposal, step.kind) == (2.0, Proposal(1.0, "accelerated"), "em")
    assert request(Halving(), settings, start).parameters == 1.0
    after, step = moved(start, settings)
    assert (after.state, step.kind, after.accelerator.proposed) == (0.5, "accelerated", 2)


def test_a_proposal_where_the_bound_is_lower_is_rejected():
    settings = replace(PLAIN, accelerator=Quarter())
    start, _ = moved(settings.begin(4.0), settings)
    after, step = moved(replace(start, proposal=Proposal(9.0, "accelerated")), settings)
    assert (after.state, after.next_state, after.accelerator.rejected) == (2.0, 2.0, 1)
    assert (after.lower_bounds, after.n_iter) == ((-16.0,), 2)
    assert (step.kind, step.lower_bound, step.change) == ("rejected", -81.0, -65.0)
    # Within rounding it is not lower.
    near = replace(start, proposal=Proposal(4.0000001, "accelerated"))
    assert moved(near, settings, kernel=Kernel(noise=1e-5))[1].kind == "accelerated"


def test_an_accelerated_start_has_converged_when_its_acceleration_says_so():
    for done in (False, True):
        settings = replace(PLAIN, accelerator=Quarter(done))
        start = replace(settings.begin(0.01), compared_bound=-1e-4)
        assert moved(start, settings)[0].converged == done


def test_the_relocator_is_asked_once_after_the_first_plain_step():
    settings = replace(PLAIN, relocator=Elsewhere(1.5), accelerator=Quarter())
    start = settings.begin(4.0)
    assert request(Halving(), settings, start).threshold == ("watched", 4.0)
    after, step = moved(start, settings)
    assert after.proposal == Proposal(1.5, "moved")
    assert step.records == settings.relocator.records
    assert request(Halving(), settings, after).threshold is None
    after, step = moved(after, settings)
    assert (step.kind, step.records, after.proposal.kind) == ("moved", (), "accelerated")
    assert after.accelerator == Learnt(proposed=1)  # which has forgotten the step before the move


def test_a_move_that_is_rejected_gives_way_to_the_proposal_of_the_accelerator():
    settings = replace(PLAIN, relocator=Elsewhere(5.0), accelerator=Quarter())
    after, _ = moved(settings.begin(4.0), settings)
    assert (after.proposal, after.deferred) == (Proposal(5.0, "moved"), Proposal(1.0, "accelerated"))
    after, step = moved(after, settings)
    assert (step.kind, after.proposal, after.deferred) == ("rejected", Proposal(1.0, "accelerated"), None)
    assert after.accelerator == Learnt(proposed=1)  # no proposal of the accelerator was rejected


def test_an_accelerator_may_have_another_proposal_for_a_rejected_one():
    @dataclass(frozen=True)
    class Second(Quarter):
        def reject(self, state, updated):
            return super().reject(state, updated)[0], updated * 0.75

    settings = replace(PLAIN, accelerator=Second())
    start = replace(settings.begin(4.0), proposal=Proposal(7.0, "accelerated"), compared_bound=-20.0)
    after, step = moved(start, settings)
    assert (step.kind, after.state, after.proposal) == ("rejected", 4.0, Proposal(3.0, "accelerated"))


def test_work_on_a_sample_is_recorded_with_its_step():
    @dataclass(frozen=True)
    class Sampling(Quarter):
        def propose(self, state, step):
            return replace(super().propose(state, step), work=SampleWork(3, 50, 0.25, "float64"))

    settings = replace(PLAIN, accelerator=Sampling())
    _, step = moved(settings.begin(4.0), settings)
    assert step.records == (PassRecord("sample", 0, 3, None, 50, 0, 0.25, "float64"),)


def test_a_relocator_that_knows_no_better_place_changes_nothing():
    settings = replace(PLAIN, relocator=Elsewhere(None))
    after, step = moved(settings.begin(4.0), settings)
    assert after == moved(EMStart(4.0))[0]
    assert step.records == settings.relocator.records


def test_a_start_that_is_finished_is_not_relocated():
    settings = replace(PLAIN, relocator=Elsewhere(1.5), max_iter=1)
    after, step = moved(settings.begin(4.0), settings)
    assert (after.proposal, after.relocates, step.records) == (None, False, ())


def test_relocation_waits_for_a_step_that_counts():
    settings = replace(PLAIN, relocator=Elsewhere(1.5))
    after, _ = moved(settings.begin(4.0), settings, kernel=Kernel("float32", sees=False))
    assert after.relocates
    after, _ = moved(settings.begin(4.0), settings, empty=(1,))
    assert after.relocates


def test_the_loop_takes_starts_to_their_ends_together():
    asked, passes = [], []

    def estep_pass(requests):
        asked.append([each.parameters for each in requests])
        return [result_at(each.parameters) for each in requests]

    def stop_the_second(number, start, step):
        return replace(start, stopped=True) if number == 1 and start.n_iter == 2 else start

    runs = [EMRun(Halving(), replace(PLAIN, max_iter=most), EMStart(x)) for x, most in ((8.0, 3), (6.0, 9), (4.0, 1))]
    ends = run_em(estep_pass, runs, stop_the_second, lambda: passes.append(len(asked)))
    assert asked == [[8.0, 6.0, 4.0], [4.0, 3.0], [2.0]]
    assert passes == [1, 2, 3]
    assert [end.n_iter for end in ends] == [3, 2, 1]
    assert [run.start.n_iter for run in runs] == [0, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"lower_bounds": (1.0, np.nan)},
        {"lower_bounds": (np.inf,)},
        {"rounding": -1e-9},
        {"n_iter": -1},
        {"collapsed": (0, -1)},
        {"coarsest": "float16"},
    ],
    ids=str,
)
def test_starts_that_cannot_be(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        EMStart(4.0, **changes)


def test_a_start_that_collapsed_at_once_has_no_bound_in_its_record():
    assert PassRecord.of_sample(0, 1, -np.inf, 5, 0.1, "float64").lower_bound is None


def test_records_that_cannot_be():
    with pytest.raises(ValueError, match="proposal is 'other'"):
        Proposal(1.0, "other")
    for n_iter, components in ((-1, (0,)), (1, ()), (1, (-1,))):
        with pytest.raises(ValueError, match="reseeding of the components"):
            Reseeding(n_iter, components, collapsed=False)


def test_a_fit_that_cannot_go_on_says_which_components_collapsed():
    lost = replace(EMSettings(1e-3, 10).begin(4.0), collapsed=(0,))
    Snapshot(1, {}, (FitState(1, {0: lost}, collapsed=(0,)),))
    with pytest.raises(ValueError, match="neither a start that can go on nor a collapse"):
        Snapshot(1, {}, (FitState(1, {0: lost}),))


def test_a_snapshot_holds_bounds_that_are_numbers():
    start = replace(EMSettings(1e-3, 10).begin(4.0), lower_bounds=(-3.0, np.nan, -2.0))
    with pytest.raises(ValueError, match="lower_bounds contains NaN"):
        Snapshot(1, {}, (FitState(1, {0: start}),))


@pytest.mark.parametrize("rounding", [-1.0, np.inf, np.nan])
def test_a_rounding_error_is_a_finite_number(rounding):
    with pytest.raises(ValueError, match="rounding is"):
        replace(EMSettings(1e-3, 10).begin(4.0), rounding=rounding)


def test_criteria_that_need_the_entropy_are_left_out_without_it(monkeypatch):
    clipped = Criterion("clipped", lambda log_likelihood, n_free, n_rows, entropy: max(0.0, entropy), uses_entropy=True)
    monkeypatch.setitem(CRITERIA, "clipped", clipped)
    assert set(information_criteria(Score(-5.0, 10.0, 10), 3)) == {"bic", "aic"}
    assert information_criteria(Score(-5.0, 10.0, 10, 2.0), 3)["clipped"] == 2.0
