"""Components that begin anew."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import QuadraticKernel, ResidualKernel
from daskgmm.core.matrices import Diagonal, Scalar
from daskgmm.core.maximum_likelihood import MaximumLikelihood, estimate
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.reseeding import empty_components, reseed
from daskgmm.core.statistics import statistics_of_responsibilities
from daskgmm.errors import IllDefinedCovarianceError

pytestmark = pytest.mark.covering


def statistics_of(library, structure, kind, rows, mixture, weights=None):
    kernel = kind(mixture, library.frame_of(rows))
    return kernel.statistics(rows, weights, kernel.workspace())


def moments(library, parameters):
    """Mean and covariance of a whole mixture."""
    k, d = parameters.means.shape
    covariances = library.dense(parameters.structure, parameters.covariances, k, d)
    mean = parameters.weights @ parameters.means
    offsets = parameters.means - mean
    between = np.einsum("k,ki,kj->ij", parameters.weights, offsets, offsets)
    return mean, np.einsum("k,kij->ij", parameters.weights, covariances) + between


@pytest.fixture(params=[QuadraticKernel, ResidualKernel])
def found(request, structure, library):
    """Statistics of a mixture whose component 2 is empty, and the M-step of the others."""
    mixture = library.make_mixture(structure, 4, 3, spread=4.0)
    rows = library.draw(mixture, 2000)
    weights = np.array([0.5, 0.3, 0.0, 0.2])
    return statistics_of(library, structure, request.param, rows, replace(mixture, weights=weights))


@pytest.mark.parametrize("lost", [(2,), (2, 0), (3, 2, 1)])
def test_the_mixture_keeps_its_mean_and_covariance(structure, library, found, lost):
    # What is lost has no rows: all that the others say is kept, as far as a structure can hold it.
    empty = np.isin(np.arange(4), lost)
    counts = np.where(empty, 0, found.soft_counts)
    first, second = np.where(empty[:, None], 0, found.first), found.second_moments
    if not structure.shared:
        second = np.where(empty.reshape(-1, *[1] * (second.ndim - 1)), 0, second)
    statistics = replace(found, soft_counts=counts, first=first, second_moments=second)
    result = reseed(structure, statistics, 0.0, lost)
    weights, means, covariances = estimate(structure, statistics, 0.0)
    kept = np.flatnonzero(~empty)
    before = moments(
        library,
        replace(result, weights=weights[kept], means=means[kept], covariances=structure.take(covariances, kept)),
    )
    after = moments(library, result)
    assert result.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(after[0], before[0], atol=1e-12)
    if structure.has_matrices:
        np.testing.assert_allclose(after[1], before[1], rtol=1e-10, atol=1e-10)
    elif isinstance(structure, Diagonal):
        np.testing.assert_allclose(np.diag(after[1]), np.diag(before[1]), rtol=1e-10)
    else:
        assert np.trace(after[1]) == pytest.approx(np.trace(before[1]), rel=1e-10)


def test_what_is_not_concerned_is_the_m_step_to_the_last_bit(structure, found):
    result = reseed(structure, found, 1e-6, (2,))
    weights, means, covariances = estimate(structure, found, 1e-6)
    untouched = np.flatnonzero(np.isclose(result.weights, weights, rtol=1e-12))
    assert len(untouched) == 2
    np.testing.assert_array_equal(result.means[untouched], means[untouched])
    if not structure.shared:
        np.testing.assert_array_equal(result.covariances[untouched], covariances[untouched])
    donor = ({0, 1, 3} - set(untouched.tolist())).pop()
    assert result.weights[donor] == result.weights[2] == pytest.approx(weights[donor] / 2, rel=1e-12)


def test_halves_are_those_of_a_gaussian_cut_at_its_mean(library):
    # Beside numerical integration: the rows of N(μ, Σ) on one side of the line that the halves' means define.
    full = STRUCTURES["full"]
    turn = stats.ortho_group.rvs(2, random_state=3)
    covariance = turn @ np.diag([9.0, 0.25]) @ turn.T
    weights = np.array([1.0, 0.0])
    mixture = MixtureParameters.from_covariances(full, weights, np.ones((2, 2)), np.stack([covariance] * 2))
    statistics = statistics_of(library, full, ResidualKernel, library.draw(mixture, 5000), mixture)
    found = reseed(full, statistics, 0.0, (1,))
    _, means, covariances = estimate(full, statistics, 0.0)
    covariance = covariances[0]
    shift = found.means[1] - means[0]
    np.testing.assert_allclose(found.means[0], means[0] - shift, rtol=1e-12)
    # The cut that would put the mean there is across Σ⁻¹ times the shift.
    across = np.linalg.solve(covariance, shift)
    deviation = math.sqrt(across @ covariance @ across)
    half = stats.halfnorm(scale=deviation)
    assert across @ shift == pytest.approx(half.mean(), rel=1e-9)
    for part in found.covariances:
        assert across @ part @ across == pytest.approx(half.var(), rel=1e-9)
        sideways = np.array([-shift[1], shift[0]])  # what is independent of the cut is as it was
        independent = sideways - across * (across @ covariance @ sideways) / deviation**2
        assert independent @ part @ independent == pytest.approx(independent @ covariance @ independent, rel=1e-9)
    longest = np.linalg.eigh(covariance)[1][:, -1]
    assert abs(longest @ shift) > 0.9 * np.linalg.norm(shift)


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
def test_units_and_offsets_do_not_matter(structure, library, units):
    scale = np.full(3, units) if isinstance(structure, Scalar) else np.array([1.0, units, 1.0])
    scale = np.ldexp(1.0, np.frexp(scale)[1])  # exact
    mixture = library.make_mixture(structure, 3, 3, spread=4.0)
    rows = library.draw(mixture, 2000)
    kernel = ResidualKernel(replace(mixture, weights=np.array([0.7, 0.3, 0.0])), library.frame_of(rows))
    statistics = kernel.statistics(rows, None, kernel.workspace())
    other = replace(statistics, reference=statistics.reference * scale, scale=statistics.scale * scale)
    one, another = (reseed(structure, s, 0.0, (2,)) for s in (statistics, other))
    np.testing.assert_allclose(another.means, one.means * scale, rtol=1e-12)
    np.testing.assert_array_equal(another.weights, one.weights)


def test_halves_are_no_mirror_images(library, structure):
    # Two clusters on the first axis, on the last, and across both. Seen from a component that is as wide in all
    # directions, none of them is longer: halves on either side of the clusters' own axis would never part.
    rng = np.random.default_rng(0)
    for direction in np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]):
        rows = rng.normal(size=(400, 2)) + np.repeat([-6, 6], 200)[:, None] * direction
        mixture = replace(library.make_mixture(structure, 2, 2), weights=np.array([1.0, 0.0]))
        state = reseed(structure, statistics_of(library, structure, QuadraticKernel, rows, mixture), 1e-6, (1,))
        apart = (state.means[0] - state.means[1]) / rows.std(axis=0)
        assert abs(apart @ direction) > 0.1 * np.linalg.norm(apart) * np.linalg.norm(direction)


def test_halves_part(library):
    structure = STRUCTURES["spherical"]
    rows = np.random.default_rng(0).normal(size=(400, 2)) + np.repeat([-6, 6], 200)[:, None] * np.array([1.0, -1.0])
    mixture = replace(library.make_mixture(structure, 2, 2), weights=np.array([1.0, 0.0]))
    estimation = MaximumLikelihood(structure, 1e-6)
    state = estimation.reseed(statistics_of(library, structure, QuadraticKernel, rows, mixture), (1,))
    for _ in range(30):
        state = estimation.update(statistics_of(library, structure, QuadraticKernel, rows, state))
    np.testing.assert_allclose(np.abs(state.means), 6, atol=0.3)


@pytest.mark.parametrize("weight", [1.0, 1e-9, 1e9])
def test_only_what_no_row_belongs_to_is_empty(structure, library, weight):
    mixture = library.make_mixture(structure, 3, 2)
    rows = library.draw(mixture, 500)
    weights = np.full(len(rows), weight)
    for share, empty in [(0.0, (1,)), (1e-25, (1,)), (1e-6, ()), (0.1, ())]:
        given = replace(mixture, weights=np.array([0.5, share, 0.5 - share]))
        statistics = statistics_of(library, structure, QuadraticKernel, rows, given, weights)
        assert empty_components(statistics) == empty


def test_widest_counts_rows_and_spread(structure, library):
    # One component is wide, another heavy; the second of the two lost ones then takes from the other.
    mixture = library.make_mixture(structure, 4, 1)
    wide = np.array([4.0, 1.0, 1.0, 1.0])
    if structure.shared:
        pytest.skip("all are equally wide")
    covariances = wide if isinstance(structure, Scalar) else wide.reshape(-1, *[1] * (mixture.covariances.ndim - 1))
    means = np.array([[0.0], [100.0], [0.0], [0.0]])
    mixture = type(mixture).from_covariances(structure, np.array([0.5, 0.5, 0.0, 0.0]), means, covariances)
    rows = library.draw(mixture, 2000)
    found = reseed(structure, statistics_of(library, structure, ResidualKernel, rows, mixture), 0.0, (3, 2))
    assert found.means[3, 0] < 50
    assert found.means[2, 0] > 50  # halves of the wide one have a quarter of the rows and a variance of 1.5
    assert found.weights[[0, 3]].sum() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("n_rows", [1, 3, 4, 5])
def test_nothing_is_split_that_has_rows_for_one_only(structure, library, n_rows):
    mixture = library.make_mixture(structure, 2, 1)
    rows = np.arange(n_rows, dtype=float)[:, None]
    statistics = statistics_of(library, structure, ResidualKernel, rows, replace(mixture, weights=np.array([1.0, 0.0])))
    assert (reseed(structure, statistics, 1e-6, (1,)) is None) == (n_rows < 4)


@pytest.mark.parametrize("moment", ["soft_counts", "first", "second_moments"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_lost_may_be_anything(structure, library, found, moment, value):
    broken = getattr(found, moment).copy()
    if moment == "second_moments" and structure.shared:
        pytest.skip("there is one for all")
    broken[2] = value
    result = reseed(structure, replace(found, **{moment: broken}), 1e-6, (2,))
    if moment == "soft_counts" or structure.shared:
        return  # weights or the common covariance are nothing: an error or None, and no wrong answer
    expected = reseed(structure, found, 1e-6, (2,))
    np.testing.assert_array_equal(result.means, expected.means)
    np.testing.assert_array_equal(result.covariances, expected.covariances)


def test_nothing_helps_where_all_is_lost(structure, found):
    assert reseed(structure, found, 1e-6, (0, 1, 2, 3)) is None


def test_a_start_on_single_rows_is_usable(library, structure):
    # A cluster of one row has no covariance of its own, and no ridge helps.
    if structure.shared:
        pytest.skip("it has the others' covariance")
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(50, 2)), [[40.0, 40.0]]])
    labels = np.repeat([0, 1], [50, 1])
    draw = lambda: statistics_of_responsibilities(structure, rows, np.eye(2)[labels], library.frame_of(rows))  # noqa: E731
    estimation = MaximumLikelihood(structure, 0.0)
    with pytest.raises(IllDefinedCovarianceError):
        estimation.update(draw())
    state = estimation.begin(draw)
    np.testing.assert_allclose(state.weights, 0.5, atol=0.02)
    assert (np.abs(state.means) < 2).all()
