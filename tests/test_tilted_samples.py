"""Climbs on a tilted sample between passes: fewer passes to the same likelihood, with the same bits."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from daskgmm.core.acceleration import BFGSState, EMStep, LimitedMemoryBFGS
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.maximum_likelihood import MaximumLikelihood
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.data.inputs import as_dataset
from daskgmm.engine.plain import PlainEngine
from daskgmm.events import IterationFinished
from daskgmm.fitting.estep_pass import EStepPass, EStepRequest
from daskgmm.fitting.initialization import Sample
from daskgmm.fitting.tilted_sample import TiltedSample

MANY, K, D = 100_001, 4, 3
RIDGE = 1e-6


def overlapping(n_rows=MANY, seed=0):
    """Rows of clusters that overlap: plain EM is slow on them."""
    random = np.random.default_rng(seed)
    centers, roots = 1.6 * random.normal(size=(K, D)), 0.5 * random.normal(size=(K, D, D)) + np.eye(D)
    labels = random.integers(K, size=n_rows)
    return centers[labels] + np.einsum("nij,nj->ni", roots[labels], random.normal(size=(n_rows, D)))


@pytest.fixture(scope="module")
def rows():
    return overlapping()


def model(**how):
    return GaussianMixture(K, **{"random_state": 0, "tol": 1e-6, "max_iter": 200, "scheduler": "synchronous", **how})


def e_steps(fitted):
    return [record for record in fitted.history_ if record.kind not in ("survey", "sample")]


def climbs(fitted):
    """Records of steps on samples, other than those before the first E-step over all data."""
    first = fitted.history_.index(e_steps(fitted)[0])
    return [record for record in fitted.history_[first:] if record.kind == "sample"]


# ---- climbs


def pass_over(rows, structure, mixture, tol=1e-9):
    """E-step over all rows, and the frame of the data."""
    frame = Frame.of(rows.mean(axis=0), rows.std(axis=0))
    (result,) = EStepPass(PlainEngine(), as_dataset(rows)[0], frame)([EStepRequest(mixture)])
    estimation = MaximumLikelihood(structure, RIDGE)
    statistics = result.statistics
    bound, updated = statistics.mean_log_likelihood, estimation.update(statistics)
    return EMStep(mixture, updated, statistics, bound, 1.0, tol), frame


def tilted(rows, frame, structure, n_rows, weights=None):
    sample = Sample(rows, weights, frame, float(n_rows))
    backend = EStepPass(PlainEngine(), as_dataset(rows)[0], frame).backend
    estimation, bfgs = MaximumLikelihood(structure, RIDGE), LimitedMemoryBFGS(RIDGE)
    return TiltedSample(PlainEngine(), estimation, sample, n_rows, backend, bfgs)


def somewhere(rows, structure):
    """Mixture that is some way off the maximum."""
    first = model(covariance_type=structure.name, init_size=2000, tol=1e-2).fit(rows)
    shape = structure.covariance_shape(K, D)
    covariances = first.covariances_.reshape(shape)
    return MixtureParameters.from_covariances(structure, first.weights_, first.means_, covariances)


@pytest.mark.covering
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_climb_ends_higher_on_all_rows(rows, name, weighted):
    structure, some = STRUCTURES[name], rows[:40_000]
    step, frame = pass_over(some, structure, somewhere(some, structure))
    weights = np.full(5000, 2.0) if weighted else None  # only ratios matter
    likelihood = tilted(some[:5000], frame, structure, len(some), weights)
    climb = likelihood.climb(step, 0.1, BFGSState(), 100)
    end, _ = pass_over(some, structure, climb.mixture)
    em, _ = pass_over(some, structure, step.updated)
    assert end.bound - step.bound > 1.2 * (em.bound - step.bound) > 0
    assert end.bound - step.bound == pytest.approx(climb.gain, rel=0.3)
    assert climb.converged
    assert 1 < climb.work.n_iter <= 12
    assert climb.work.n_rows == 5000


def test_much_damping_leads_to_the_step_of_em(rows):
    structure, some = STRUCTURES["full"], rows[:40_000]
    step, frame = pass_over(some, structure, somewhere(some, structure))
    end = tilted(some[:5000], frame, structure, len(some)).climb(step, 1e6, BFGSState(), 100).mixture
    np.testing.assert_allclose(end.means, step.updated.means, atol=1e-4)
    np.testing.assert_allclose(end.covariances, step.updated.covariances, atol=1e-4)


def test_at_the_maximum_of_all_rows_no_climb_leads_away(rows):
    structure, some = STRUCTURES["full"], rows[:40_000]
    found = model(init_size=None, acceleration="lbfgs", tol=1e-11, max_iter=500).fit(some)
    best = MixtureParameters.from_covariances(structure, found.weights_, found.means_, found.covariances_)
    step, frame = pass_over(some, structure, best, tol=1e-8)
    climb = tilted(some[:5000], frame, structure, len(some)).climb(step, 0.0, BFGSState(), 100)
    assert climb.gain + climb.left < 1e-7
    np.testing.assert_allclose(climb.mixture.means, best.means, atol=1e-3)


def test_a_tilt_that_leaves_no_mixture_ends_a_climb(rows):
    """A sample from elsewhere: the difference of the statistics is larger than the sample's own."""
    structure, some = STRUCTURES["full"], rows[:40_000]
    step, frame = pass_over(some, structure, somewhere(some, structure))
    far = tilted(some[:500] * 3 + 5, frame, structure, len(some))
    climb = far.climb(step, 0.0, BFGSState(), 20)
    assert not climb.converged
    assert np.isfinite(climb.mixture.means).all()
    assert np.linalg.eigvalsh(climb.mixture.covariances).min() > 0


def test_the_rows_are_a_share_of_the_data(rows):
    structure, frame = STRUCTURES["full"], Frame.of(rows.mean(axis=0), rows.std(axis=0))
    likelihood = tilted(rows[:30_000], frame, structure, 80_000)
    part = likelihood.part()
    assert len(part.rows) == 10_000
    assert likelihood.most_iterations == 24
    assert likelihood.serves(1000)
    assert not likelihood.serves(1001)
    np.testing.assert_array_equal(likelihood.part().rows, part.rows)


# ---- fits


def test_fewer_passes_to_the_same_likelihood(rows):
    lbfgs, auto = (model(acceleration=acceleration).fit(rows) for acceleration in ("lbfgs", "auto"))
    assert len(e_steps(auto)) <= 2 / 3 * len(e_steps(lbfgs))
    assert auto.lower_bound_ > lbfgs.lower_bound_ - 1e-6
    assert auto.converged_
    assert not climbs(lbfgs)
    assert 0 < sum(record.n_iter * record.n_rows for record in climbs(auto)) <= 3 * MANY
    assert np.diff(auto.lower_bounds_).min() > -1e-12


def test_every_input_has_the_same_bits(rows, tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(7001, 3))
    forms = rows, stored, da.from_array(rows, chunks=(33_333, 2))
    first, *others = [
        model(scheduler=scheduler).fit(form)
        for form, scheduler in zip(forms, ["synchronous", "threads", "threads"], strict=True)
    ]
    assert climbs(first)
    for other in others:
        np.testing.assert_array_equal(other.means_, first.means_)
        np.testing.assert_array_equal(other.covariances_, first.covariances_)
        assert other.lower_bounds_ == first.lower_bounds_


def test_a_fit_that_was_stopped_after_any_pass_goes_on_with_the_same_bits(rows, tmp_path):
    whole = model().fit(rows)
    n_steps = len(e_steps(whole))
    assert n_steps > 3
    for stop in (1, 3):
        seen = []

        def interrupt(event, seen=seen, stop=stop):
            seen.extend([event] if isinstance(event, IterationFinished) else [])
            if len(seen) > stop:
                raise KeyboardInterrupt

        checkpoint = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            model(callbacks=[interrupt]).fit(rows, checkpoint=checkpoint)
        resumed = model().fit(rows, checkpoint=checkpoint, resume=True)
        np.testing.assert_array_equal(resumed.means_, whole.means_)
        np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)
        assert resumed.lower_bounds_ == whole.lower_bounds_
        kept = [replace(record, seconds=0.0) for record in whole.history_ if record.kind == "sample"]
        assert [replace(record, seconds=0.0) for record in resumed.history_ if record.kind == "sample"] == kept


def test_default_tolerance_takes_no_climbs_that_save_nothing(rows):
    assert len(e_steps(model(tol=1e-3).fit(rows))) <= len(e_steps(model(tol=1e-3, acceleration="lbfgs").fit(rows)))


@pytest.mark.parametrize("max_iter", [1, 2])
def test_no_climb_follows_the_last_pass(rows, max_iter):
    with pytest.warns(ConvergenceWarning):
        fitted = model(max_iter=max_iter).fit(rows)
    assert fitted.history_[-1] in e_steps(fitted)
    assert len(climbs(fitted)) == max_iter - 1
