"""Accelerated fits take their first E-steps in single precision, and report what double precision finds."""

from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.core.acceleration import LimitedMemoryBFGS
from daskgmm.core.concentration import WEIGHT_DISTRIBUTIONS
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.maximum_likelihood import MaximumLikelihood
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame, statistics_of_responsibilities
from daskgmm.core.variational import Priors, Variational
from daskgmm.data.inputs import as_dataset
from daskgmm.engine.plain import PlainEngine
from daskgmm.errors import ReseedingWarning
from daskgmm.fitting.em import EMRun, EMSettings, run_em
from daskgmm.fitting.estep_pass import EStepPass

MEANS = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 1], [2, 3, 4]])


def rows_of(n=8000, seed=0, width=1.0):
    rng = np.random.default_rng(seed)
    return MEANS[rng.integers(len(MEANS), size=n)] + width * rng.normal(size=(n, 3)) * [1, 0.8, 1.2]


def model(tol=1e-6, **more):
    settings = {"acceleration": "lbfgs", "random_state": 0, "scheduler": "synchronous", "max_iter": 300}
    return GaussianMixture(4, tol=tol, **settings | more)


def arithmetics(fitted):
    return [record.arithmetic for record in fitted.history_ if record.kind not in ("survey", "sample")]


def plainly(x, **more):
    """Plain EM, to its end."""
    return model(acceleration=None, max_iter=3000, tol=1e-10, **more).fit(x)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_an_accelerated_fit_begins_in_single_precision_and_ends_in_double(covariance_type):
    x = rows_of()
    found = model(covariance_type=covariance_type).fit(x)
    used = arithmetics(found)
    assert found.converged_
    assert used[0] == "float32"
    assert used[-2:] == ["float64"] * 2
    assert used == sorted(used)  # no way back
    best = plainly(x, covariance_type=covariance_type)
    assert found.score(x) == pytest.approx(best.score(x), abs=1e-5)


def test_plain_em_stays_in_the_precision_of_the_rows():
    assert set(arithmetics(model(acceleration=None, max_iter=20, tol=1e-3).fit(rows_of()))) == {"float64"}
    variational = BayesianGaussianMixture(n_components=4, random_state=0, tol=1e-2)
    assert set(arithmetics(variational.fit(rows_of()))) == {"float64"}


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5])
def test_the_last_e_steps_of_a_fit_that_is_cut_off_are_in_double(max_iter):
    with pytest.warns(UserWarning, match="did not converge"):
        used = arithmetics(model(max_iter=max_iter, tol=1e-12).fit(rows_of()))
    assert used == ["float32"] * (max_iter - 2) + ["float64"] * min(max_iter, 2)


def test_a_fit_that_continues_another_one_rounds_rows_only_after_a_reseeding():
    x = rows_of()
    found = model(warm_start=True).fit(x)
    assert "float32" not in arithmetics(found.fit(x))  # it may be at its end
    found.means_ = np.concatenate([found.means_[:3], [[1000.0] * 3]])  # no row is there
    with pytest.warns(ReseedingWarning, match="left without rows"):
        found.fit(x)
    used, kinds = arithmetics(found), [record.kind for record in found.history_[1:]]
    assert kinds[0] == "reseeded"
    assert used[1] == "float32"
    assert used[1:] == sorted(used[1:])
    assert used[-2:] == ["float64"] * 2
    assert found.converged_
    assert found.score(x) == pytest.approx(plainly(x).score(x), abs=1e-5)


def test_narrow_clusters_are_never_rounded():
    """Cast to single precision, their rows would lose the digits that tell them apart."""
    x = rows_of(width=3e-4)
    found = model(means_init=MEANS).fit(x)
    assert "float32" not in arithmetics(found)


def test_a_far_offset_costs_nothing():
    """It is subtracted before the rows are rounded."""
    x = np.round(rows_of() * 2**10) / 2**10  # the offset itself rounds nothing
    near, far = model().fit(x), model().fit(x + 2.0**30)
    assert arithmetics(far)[0] == "float32"
    assert far.lower_bound_ == pytest.approx(near.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(far.means_ - 2.0**30, near.means_, atol=1e-4)


def test_rows_in_single_precision_are_exact_in_it():
    """Their fits end in single precision if its rounding is small beside tol, as without acceleration."""
    assert set(arithmetics(model(tol=1e-3).fit(rows_of().astype(np.float32)))) == {"float32"}


@pytest.mark.parametrize("dtype", [np.int16, ">f8"])
def test_rows_of_any_dtype_may_be_rounded(dtype):
    found = model(tol=1e-4).fit((100 * rows_of()).astype(dtype))
    used = arithmetics(found)
    assert (used[0], used[-1]) == ("float32", "float64")


def test_weights_of_no_ordinary_size_are_left_in_double():
    x = rows_of()
    assert set(arithmetics(model(tol=1e-3).fit(x, sample_weight=np.full(len(x), 1e-20)))) == {"float64"}


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bits_do_not_depend_on_chunks(covariance_type, weighted):
    x, rng = rows_of(), np.random.default_rng(1)
    weights = rng.exponential(size=len(x)) if weighted else None
    fits = [model(covariance_type=covariance_type).fit(x, sample_weight=weights)]
    for chunk in (777, 3000):
        chunked = model(covariance_type=covariance_type, scheduler="threads")
        fits.append(chunked.fit(da.from_array(x, (chunk, 3)), sample_weight=weights))
    assert arithmetics(fits[0])[0] == "float32"
    for one, other in pairwise(fits):
        assert one.lower_bounds_ == other.lower_bounds_
        np.testing.assert_array_equal(one.covariances_, other.covariances_)


def test_starts_on_a_sample_begin_in_single_precision_too():
    x = rows_of()
    found = model(tol=1e-5, init_size=4000, n_init=2).fit(x)
    assert found.score(x) == pytest.approx(plainly(x).score(x), abs=1e-4)


# ---- the loop alone, whose E-steps can be seen


def frame_of(x):
    return Frame.of(x.mean(axis=0), x.std(axis=0))


def runs_of(x, estimation, state, settings):
    """Starts before each step, and steps, of one start."""
    estep_pass = EStepPass(PlainEngine(), as_dataset(x, None)[0], frame_of(x))
    starts, steps = [settings.begin(state)], []

    def on_step(_, start, step):
        starts.append(start)
        steps.append(step)
        return start

    (end,) = run_em(estep_pass, [EMRun(estimation, settings, starts[0])], on_step)
    return end, starts, steps


@pytest.mark.parametrize("name", ["full", "tied"])
def test_what_is_reported_is_what_double_precision_finds(name):
    x, structure = rows_of(3000), STRUCTURES[name]
    matrices = np.array([np.eye(3)] * structure.n_matrices(4))
    state = MixtureParameters.from_covariances(structure, np.full(4, 0.25), MEANS + 0.5, matrices)
    estimation = MaximumLikelihood(structure, 1e-6)
    settings = EMSettings(1e-5, 100, LimitedMemoryBFGS(1e-6), single=True)
    end, starts, steps = runs_of(x, estimation, state, settings)
    assert end.converged
    assert (steps[0].arithmetic, steps[-1].arithmetic) == ("float32", "float64")
    at = starts[-2].next_state
    covariances = np.broadcast_to(at.covariances, (4, 3, 3))
    joint = [
        np.log(w) + multivariate_normal(mean, covariance).logpdf(x)
        for w, mean, covariance in zip(at.weights, at.means, covariances, strict=True)
    ]
    assert end.lower_bound == pytest.approx(float(logsumexp(joint, axis=0).mean()), rel=1e-12)
    # The parameters are those of an M-step on the double-precision statistics.
    alone, _, _ = runs_of(x, estimation, at, EMSettings(0, 1))
    np.testing.assert_allclose(end.state.covariances, alone.state.covariances, rtol=1e-12)
    np.testing.assert_allclose(end.state.means, alone.state.means, rtol=1e-12)


def test_variational_inference_ends_where_it_ends_in_double():
    x, structure = rows_of(), STRUCTURES["full"]
    priors = Priors(1.0, 1.0, x.mean(axis=0), 3.0, np.cov(x.T))
    estimation = Variational(structure, next(iter(WEIGHT_DISTRIBUTIONS.values())), priors, 1e-6)
    nearest = ((x[:, None] - MEANS) ** 2).sum(axis=2).argmin(axis=1)
    state = estimation.update(statistics_of_responsibilities(structure, x, np.eye(4)[nearest], frame_of(x)))
    single, _, steps = runs_of(x, estimation, state, EMSettings(1e-6, 1000, single=True))
    double, _, _ = runs_of(x, estimation, state, EMSettings(1e-6, 1000))
    assert (steps[0].arithmetic, steps[-1].arithmetic) == ("float32", "float64")
    assert single.converged
    assert single.lower_bound == pytest.approx(double.lower_bound, abs=1e-7)
    assert single.n_iter == double.n_iter
