"""The variational M-step and the E-step under a posterior, beside Bishop's formulas written out once more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import digamma, gammaln

from daskgmm.core.concentration import WEIGHT_DISTRIBUTIONS
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import QuadraticKernel, ResidualKernel, choose_kernel
from daskgmm.core.matrices import Diagonal, General, Scalar
from daskgmm.core.statistics import Frame, statistics_of_responsibilities
from daskgmm.core.variational import GivenPriors, Priors, Variational
from daskgmm.errors import InvalidWeightsError

pytestmark = pytest.mark.covering

BOTH = pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])
FAMILIES = pytest.mark.parametrize("family", list(WEIGHT_DISTRIBUTIONS))
EULER = np.longdouble("0.57721566490153286060651209008240243")


def exact_digamma(twice):
    """ψ(twice / 2) in long double, from the harmonic numbers."""
    if twice % 2 == 0:
        return -EULER + sum(1 / np.longdouble(i) for i in range(1, twice // 2))
    return -EULER - 2 * np.log(np.longdouble(2)) + sum(2 / np.longdouble(2 * i - 1) for i in range(1, twice // 2 + 1))


def exact_log_gamma(twice):
    """log Γ(twice / 2) in long double, from factorials."""
    if twice % 2 == 0:
        return sum(np.log(np.longdouble(i)) for i in range(1, twice // 2))
    halves = sum(np.log(np.longdouble(2 * i - 1) / 2) for i in range(1, twice // 2 + 1))
    return halves + np.log(np.longdouble(4) * np.arctan(np.longdouble(1))) / 2


def priors_for(structure, rows, **changes):
    d = rows.shape[1]
    covariance = np.cov(rows.T, ddof=0).reshape(d, d) + 0.1 * np.eye(d)
    forms = {
        General: covariance,
        Diagonal: np.diag(covariance).copy(),
        Scalar: np.asarray(np.trace(covariance) / d),
    }
    values = {
        "weight_concentration": 2.0,
        "mean_precision": 3.0,
        "mean": rows.mean(axis=0) + 0.25,
        "degrees_of_freedom": float(d + 1),
        "covariance": forms[type(structure)],
    }
    return Priors(**(values | changes))


def one_hot(structure, rows, counts):
    """Statistics of rows of which the first so many are of component 0, the next of component 1, …"""
    labels = np.repeat(np.arange(len(counts)), counts)
    frame = Frame.of(rows.mean(axis=0), rows.std(axis=0))
    return statistics_of_responsibilities(structure, rows, np.eye(len(counts))[labels], frame)


def sweep(posterior, rows, kind=QuadraticKernel, weights=None):
    kernel = kind(posterior.parameters(), Frame.of(rows.mean(axis=0), rows.std(axis=0)))
    return kernel.statistics(rows, weights, kernel.workspace())


# ---- one step: closed forms


@pytest.fixture
def step(structure, library):
    counts = [7, 12, 20]
    rows = np.random.default_rng(0).normal(size=(39, 3)) + np.repeat([[0, 0, 0], [4, 1, 0], [0, 6, 1]], counts, axis=0)
    return structure, rows, counts, priors_for(structure, rows)


@FAMILIES
def test_posterior_is_bishops(step, library, family):
    """(10.58) to (10.63), matrix by matrix; what matrices share is averaged, as in scikit-learn."""
    structure, rows, counts, prior = step
    found = Variational(structure, WEIGHT_DISTRIBUTIONS[family], prior, 0.0).update(one_hot(structure, rows, counts))
    groups = np.split(rows.astype(np.longdouble), np.cumsum(counts)[:-1])
    n, d = np.array(counts, np.longdouble), 3
    beta = 3 + n
    np.testing.assert_allclose(found.mean_precision, beta.astype(float), rtol=1e-14)
    centers = np.stack([g.mean(axis=0) for g in groups])
    means = (3 * prior.mean + n[:, None] * centers) / beta[:, None]
    np.testing.assert_allclose(found.means, means.astype(float), rtol=1e-13)

    scatter = np.stack([(g - c).T @ (g - c) for g, c in zip(groups, centers, strict=True)])
    distance = centers - prior.mean
    scatter += (3 * n / beta)[:, None, None] * distance[:, :, None] * distance[:, None, :]
    if structure.shared:
        scatter, n = scatter.mean(axis=0, keepdims=True), n.mean(keepdims=True)
    prior_matrix = library.dense(structure, _as_covariances(structure, prior.covariance), 1, d)
    expected = (prior_matrix + scatter) / (d + 1 + n)[:, None, None]
    if not structure.has_matrices:
        expected = expected * np.eye(d)
    if isinstance(structure, Scalar):
        expected = np.einsum("kii->k", expected)[:, None, None] / d * np.eye(d)
    np.testing.assert_allclose(np.ravel(found.degrees_of_freedom), (d + 1 + n).astype(float), rtol=1e-14)
    covariances = library.dense(structure, found.covariances, 3, d)
    np.testing.assert_allclose(covariances, np.broadcast_to(expected, (3, d, d)).astype(float), rtol=1e-12, atol=1e-13)


def _as_covariances(structure, prior):
    return prior.reshape(structure.covariance_shape(1, 3))


@FAMILIES
def test_e_step_has_the_expected_natural_parameters(step, library, family):
    """(10.64) to (10.66) from harmonic numbers: counts are whole, so digamma has closed forms."""
    structure, rows, counts, prior = step
    found = Variational(structure, WEIGHT_DISTRIBUTIONS[family], prior, 0.0).update(one_hot(structure, rows, counts))
    if family == "dirichlet_distribution":
        expected = [exact_digamma(2 * (2 + n)) - exact_digamma(2 * (6 + sum(counts))) for n in counts]
    else:
        later = [sum(counts[k + 1 :]) for k in range(3)]
        both = [exact_digamma(2 * (3 + n + m)) for n, m in zip(counts, later, strict=True)]
        broken = [exact_digamma(2 * (1 + n)) - whole for n, whole in zip(counts, both, strict=True)]
        left = [exact_digamma(2 * (2 + m)) - whole for m, whole in zip(later, both, strict=True)]
        expected = [broken[k] + sum(left[:k]) for k in range(3)]
    nu = [4 + sum(counts) // 3] * 3 if structure.shared else [4 + n for n in counts]
    terms = [sum(exact_digamma(v - i) for i in range(3)) for v in nu]
    whitened = library.dense(structure, found.precisions_cholesky, 3, 3)
    log_det = 2 * np.log(np.einsum("kii->ki", whitened)).sum(axis=1)
    e_log_det = np.array(terms, float) + 3 * math.log(2) + log_det - 3 * np.log(nu)  # of W = P / ν
    constants = np.array(expected, float) + 0.5 * e_log_det - 1.5 / found.mean_precision - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found.parameters().log_constants, constants, rtol=1e-13)


def test_weights_are_means(structure):
    rows = np.random.default_rng(0).normal(size=(12, 2))
    statistics = one_hot(structure, rows, [2, 7, 3])
    prior = priors_for(structure, rows)
    dirichlet, process = (
        Variational(structure, WEIGHT_DISTRIBUTIONS[name], prior, 0.0).update(statistics).parameters().weights
        for name in ("dirichlet_distribution", "dirichlet_process")
    )
    np.testing.assert_allclose(dirichlet, np.array([4, 9, 5]) / 18)
    sticks = np.array([3 / 15, 12 / 15 * 8 / 13, 12 / 15 * 5 / 13 * 4 / 6])
    np.testing.assert_allclose(process, sticks / sticks.sum())


# ---- the bound


def evidence_bound(posterior, statistics):
    """Bishop (10.70) to (10.77), every term, for full covariances; with sticks in the place of Dirichlet weights."""
    prior, (k, d) = posterior.priors, posterior.means.shape
    n, offsets, s = statistics.central_moments(posterior.structure, 0.0)
    x = statistics.reference + offsets
    nu, beta, m = posterior.degrees_of_freedom, posterior.mean_precision, posterior.means
    u = posterior.precisions_cholesky
    w = u @ u.transpose(0, 2, 1) / nu[:, None, None]
    w0 = np.linalg.inv(prior.covariance)
    e_log_det = digamma((nu - np.arange(d)[:, None]) / 2).sum(axis=0) + d * np.log(2) + np.linalg.slogdet(w)[1]
    c = posterior.weight_concentration
    e_log_w = posterior.weight_distribution.expected_log_weights(c)

    def log_b(w, nu):  # (B.79)
        return -0.5 * nu * np.linalg.slogdet(w)[1] - (
            0.5 * nu * d * np.log(2)
            + 0.25 * d * (d - 1) * np.log(np.pi)
            + gammaln((np.asarray(nu) - np.arange(d).reshape(-1, *[1] * np.ndim(nu))) / 2).sum(axis=0)
        )

    def quadratic(v):
        return np.einsum("ki,kij,kj->k", v, w, v)

    trace = np.einsum("kij,kji->k", s, w)
    rows = 0.5 * (n * (e_log_det - d / beta - nu * trace - nu * quadratic(x - m) - d * np.log(2 * np.pi))).sum()
    assignments = (n * e_log_w).sum()
    matrices = (
        0.5 * (d * np.log(prior.mean_precision / (2 * np.pi)) + e_log_det - d * prior.mean_precision / beta).sum()
        - 0.5 * (prior.mean_precision * nu * quadratic(m - prior.mean)).sum()
        + k * log_b(w0, prior.degrees_of_freedom)
        + 0.5 * (prior.degrees_of_freedom - d - 1) * e_log_det.sum()
        - 0.5 * (nu * np.einsum("ij,kji->k", prior.covariance, w)).sum()
    )
    entropy = -log_b(w, nu) - 0.5 * (nu - d - 1) * e_log_det + 0.5 * nu * d  # (B.82)
    q_matrices = (0.5 * e_log_det + 0.5 * d * np.log(beta / (2 * np.pi)) - 0.5 * d - entropy).sum()
    a = prior.weight_concentration
    if c.ndim == 1:
        p_weights = gammaln(k * a) - k * gammaln(a) + (a - 1) * e_log_w.sum()
        q_weights = ((c - 1) * e_log_w).sum() + gammaln(c.sum()) - gammaln(c).sum()
    else:
        e_broken, e_left = digamma(c) - digamma(c.sum(axis=0))
        p_weights = (np.log(a) + (a - 1) * e_left).sum()
        q_weights = (
            (c[0] - 1) * e_broken + (c[1] - 1) * e_left + gammaln(c.sum(axis=0)) - gammaln(c).sum(axis=0)
        ).sum()
    return rows + assignments + p_weights + matrices + statistics.entropy - q_weights - q_matrices


@BOTH
@FAMILIES
def test_bound_is_bishops_but_for_a_constant(library, kind, family):
    full = STRUCTURES["full"]
    rows = library.draw(library.make_mixture(full, 3, 2), 200)
    estimation = Variational(full, WEIGHT_DISTRIBUTIONS[family], priors_for(full, rows), 0.0)
    posterior = estimation.update(one_hot(full, rows, [50, 50, 50, 50]))
    differences = []
    for _ in range(6):
        statistics = sweep(posterior, rows, kind)
        posterior = estimation.update(statistics)
        differences.append(evidence_bound(posterior, statistics) - estimation.bound(statistics, posterior) * len(rows))
    np.testing.assert_allclose(differences, differences[0], rtol=1e-11)


@BOTH
@FAMILIES
def test_bound_never_falls(structure, library, kind, family):
    rows = library.draw(library.make_mixture(structure, 4, 2, spread=1.5), 400)
    estimation = Variational(structure, WEIGHT_DISTRIBUTIONS[family], priors_for(structure, rows), 0.0)
    posterior = estimation.update(one_hot(structure, rows, [100, 50, 150, 60, 40]))
    bounds = []
    for _ in range(20):
        statistics = sweep(posterior, rows, kind)
        posterior = estimation.update(statistics)
        bounds.append(estimation.bound(statistics, posterior))
    assert np.all(np.diff(bounds) > -1e-12)
    assert bounds[-1] > bounds[0] + 1e-4


@FAMILIES
def test_the_volume_of_a_whole_posterior_has_closed_forms(family):
    full, counts = STRUCTURES["full"], [3, 6]
    rows = np.random.default_rng(3).normal(size=(9, 2))
    found = Variational(full, WEIGHT_DISTRIBUTIONS[family], priors_for(full, rows), 0.0).update(
        one_hot(full, rows, counts)
    )
    wishart = 0
    for k, n in enumerate(counts):
        nu = 3 + n
        w = found.precisions_cholesky[k] @ found.precisions_cholesky[k].T / nu
        wishart += 0.5 * nu * np.linalg.slogdet(w)[1] + nu * math.log(2) + sum(exact_log_gamma(nu - i) for i in (0, 1))
        wishart -= math.log(3 + n)
    if family == "dirichlet_distribution":
        weights = exact_log_gamma(10) + exact_log_gamma(16) - exact_log_gamma(26)
    else:
        weights = exact_log_gamma(8) + exact_log_gamma(16) - exact_log_gamma(24)  # 1 + 3 rows, 2 + 6 after it
        weights += exact_log_gamma(14) + exact_log_gamma(4) - exact_log_gamma(18)
    assert found.log_volume == pytest.approx(float(wishart + weights), rel=1e-12)


# ---- limits


def test_priors_worth_more_rows_than_the_data_are_the_posterior(structure, library):
    rows = library.draw(library.make_mixture(structure, 3, 2), 100)
    covariance = 1e12 * priors_for(structure, rows).covariance
    prior = priors_for(
        structure, rows, weight_concentration=1e12, mean_precision=1e12, degrees_of_freedom=1e12, covariance=covariance
    )
    family = WEIGHT_DISTRIBUTIONS["dirichlet_distribution"]
    found = Variational(structure, family, prior, 0.0).update(one_hot(structure, rows, [60, 40]))
    np.testing.assert_allclose(found.means, np.tile(prior.mean, (2, 1)), atol=1e-9)
    np.testing.assert_allclose(found.covariances - covariance / 1e12, 0, atol=1e-9)
    mixture = found.parameters()
    np.testing.assert_allclose(mixture.weights, 0.5, rtol=1e-9)
    # Nothing is uncertain then: the expected logarithms are those of the means.
    np.testing.assert_allclose(mixture.expected_log_weights, np.log(0.5), rtol=1e-9)


@FAMILIES
def test_a_million_rows_overrule_the_priors(structure, library, family):
    rows = library.draw(library.make_mixture(structure, 2, 2), 500)
    statistics = one_hot(structure, rows, [300, 200])
    prior = priors_for(structure, rows)
    found = Variational(structure, WEIGHT_DISTRIBUTIONS[family], prior, 0.0).update(statistics.times(1e9))
    _, offsets, covariances = statistics.central_moments(structure, 0.0)
    np.testing.assert_allclose(found.means, statistics.reference + offsets, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.covariances, covariances, rtol=1e-8, atol=1e-9)
    mixture = found.parameters()
    np.testing.assert_allclose(mixture.weights, [0.6, 0.4], rtol=1e-8)
    np.testing.assert_allclose(mixture.expected_log_weights, np.log([0.6, 0.4]), rtol=1e-8)


@FAMILIES
def test_an_empty_component_is_its_prior(structure, family):
    rows = np.random.default_rng(1).normal(size=(50, 2))
    prior = priors_for(structure, rows)
    found = Variational(structure, WEIGHT_DISTRIBUTIONS[family], prior, 1e-6).update(one_hot(structure, rows, [50, 0]))
    np.testing.assert_allclose(found.means[1], prior.mean, rtol=1e-12)
    assert found.mean_precision[1] == pytest.approx(prior.mean_precision, rel=1e-12)
    if not structure.shared:
        assert found.degrees_of_freedom[1] == pytest.approx(prior.degrees_of_freedom, rel=1e-12)
        np.testing.assert_allclose(found.covariances[1] * prior.degrees_of_freedom, prior.covariance, rtol=1e-12)


@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_offsets_do_not_matter(structure, library, offset):
    rows = np.round(library.draw(library.make_mixture(structure, 2, 2), 100) * 2**20) / 2**20  # exact after a shift
    posteriors = []
    for shift in (0.0, offset):
        moved = rows + shift
        moved -= moved % 2.0**-20
        prior = priors_for(structure, rows)
        prior = Priors(**{**vars(prior), "mean": prior.mean + shift})
        estimation = Variational(structure, WEIGHT_DISTRIBUTIONS["dirichlet_process"], prior, 1e-6)
        posterior = estimation.update(one_hot(structure, moved, [60, 40]))
        for _ in range(3):
            posterior = estimation.update(sweep(posterior, moved))
        posteriors.append(posterior)
    still, moved = posteriors
    np.testing.assert_allclose(moved.covariances, still.covariances, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(moved.means - offset, still.means, atol=offset * 1e-15 + 1e-7)
    assert moved.log_volume == pytest.approx(still.log_volume, rel=1e-7)


# ---- kernels


@pytest.fixture(params=["all used", "two empty"])
def posterior(request, structure, library):
    """A posterior of twelve components, with constants near those of a mixture or, for empty ones, of −1e9."""
    rows = library.draw(library.make_mixture(structure, 12, 2, spread=6), 300)
    changes = {
        "all used": {},
        "two empty": {"weight_concentration": 1e-9, "mean_precision": 1e-9, "degrees_of_freedom": 1 + 1e-9},
    }[request.param]
    counts = [25] * 12 if request.param == "all used" else [30] * 10 + [0, 0]
    family, prior = WEIGHT_DISTRIBUTIONS["dirichlet_distribution"], priors_for(structure, rows, **changes)
    return Variational(structure, family, prior, 1e-6).update(one_hot(structure, rows, counts)), rows


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        (QuadraticKernel, {}, 1e-11),
        (QuadraticKernel, {"dtype": np.float32}, 1e-3),
        (ResidualKernel, {}, 1e-12),  # with twelve components it screens
    ],
)
def test_kernels_take_the_expected_constants(posterior, library, kind, options, tolerance):
    found, rows = posterior
    mixture = found.parameters()
    reference = library.Reference(mixture)
    reference.log_weights = mixture.expected_log_weights.astype(np.longdouble)
    kernel = kind(mixture, library.frame_of(rows), **options)
    density = reference.log_density(rows).astype(float)
    np.testing.assert_allclose(kernel.log_density(rows), density, rtol=tolerance, atol=tolerance)
    expected = reference.responsibilities(rows).astype(float)
    np.testing.assert_allclose(kernel.responsibilities(rows), expected, atol=10 * tolerance)
    weights = np.random.default_rng(0).random(len(rows))
    statistics = kernel.statistics(rows, weights, kernel.workspace())
    assert statistics.entropy == pytest.approx(reference.entropy(rows, weights), abs=len(rows) * 10 * tolerance)
    np.testing.assert_allclose(statistics.soft_counts, (weights[:, None] * expected).sum(axis=0), atol=300 * tolerance)


def test_the_choice_of_arithmetic_follows_the_mean_precision(structure, library):
    rows = library.draw(library.make_mixture(structure, 2, 2), 100)
    prior = priors_for(structure, rows, covariance=1e-16 * _unit(structure), mean_precision=1e-30)
    estimation = Variational(structure, WEIGHT_DISTRIBUTIONS["dirichlet_process"], prior, 0.0)
    tight = np.repeat(rows[:2], 50, axis=0) + 1e-8 * rows
    mixture = estimation.update(one_hot(structure, tight, [50, 50])).parameters()
    frame = Frame.of(tight.mean(axis=0), tight.std(axis=0))
    kernel = choose_kernel(mixture, frame, np.dtype(np.float64))
    assert kernel.arithmetic == "precise"
    reference = library.Reference(mixture)
    reference.log_weights = mixture.expected_log_weights.astype(np.longdouble)
    np.testing.assert_allclose(kernel.log_density(tight), reference.log_density(tight).astype(float), rtol=1e-7)


def _unit(structure):
    return np.eye(2) if structure.has_matrices else np.ones(structure.prior_shape(2))


# ---- priors that follow from the data


def _second(structure, rows):
    residual = np.ascontiguousarray((rows - rows.mean(axis=0)).T)
    second = np.zeros(structure.moments_shape(1, rows.shape[1]))
    structure.add_scatter(second, 0, residual, np.ones(len(rows)), np.empty_like(residual))
    return second


def test_default_priors_are_scikit_learns(structure):
    rows = np.random.default_rng(1).normal(size=(50, 3)) @ np.diag([1, 10, 0.1]) + [5, 0, -3]
    found = GivenPriors().complete(structure, 4, rows.mean(axis=0), _second(structure, rows), 50.0)
    variances = rows.var(axis=0, ddof=1)
    expected = {General: np.cov(rows.T), Diagonal: variances, Scalar: variances.mean()}
    np.testing.assert_allclose(found.covariance, expected[type(structure)], rtol=1e-13, atol=1e-15)
    assert found.covariance.shape == structure.prior_shape(3)
    assert (found.weight_concentration, found.mean_precision, found.degrees_of_freedom) == (0.25, 1.0, 3.0)
    np.testing.assert_array_equal(found.mean, rows.mean(axis=0))


def test_given_priors_are_kept(structure):
    given = GivenPriors(0.5, 2.0, np.ones(2), 4.0, _unit(structure))
    found = given.complete(structure, 3, np.zeros(2), None, 0.5)
    assert vars(found) == vars(given)


def test_weights_of_one_row_have_no_covariance(structure):
    rows = np.random.default_rng(1).normal(size=(5, 2))
    with pytest.raises(InvalidWeightsError, match=r"sum to 1.*covariance_prior"):
        GivenPriors().complete(structure, 3, np.zeros(2), _second(structure, rows), 1.0)
