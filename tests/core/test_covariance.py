"""One contract for every covariance structure, checked against full matrices."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

from daskgmm import errors
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.matrices import Diagonal
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.core.structure import CovarianceStructure
from daskgmm.core.triangle import pack, unpack

K = 3


@pytest.fixture(params=[1, 2, 5])
def mixture(request, structure, library):
    return library.make_mixture(structure, K, request.param, seed=request.param)


@pytest.fixture
def matrices(mixture, library):
    """Function: covariances, precisions or factors as (K, D, D)."""
    return lambda values: library.dense(mixture.structure, values, K, mixture.n_features)


# ---- shapes, factors, round trips


def test_registry_names_each_structure():
    names = ("full", "tied", "diag", "spherical", "tied-diag", "tied-spherical")
    assert [(name, s.name) for name, s in STRUCTURES.items()] == [(name, name) for name in names]


def test_incomplete_structure_cannot_be_made():
    class Incomplete(CovarianceStructure):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete("incomplete")


def test_shapes(mixture):
    s, d = mixture.structure, mixture.n_features
    shape = s.covariance_shape(K, d)
    assert mixture.covariances.shape == shape
    assert mixture.precisions_cholesky.shape == shape
    assert s.precisions(mixture.precisions_cholesky).shape == shape
    triangle = d * (d + 1) // 2
    expected = {
        "full": ((K, d, d), (K, d, d), (K, triangle)),
        "tied": ((1, d, d), (d, d), (1, triangle)),
        "diag": ((K, d), (K, d), (K, d)),
        "spherical": ((K,), (K,), (K, 1)),
        "tied-diag": ((1, d), (d,), (1, d)),
        "tied-spherical": ((1,), (1,), (1, 1)),
    }
    assert (shape, s.attribute_shape(K, d), s.moments_shape(K, d)) == expected[s.name]
    # A structure has as many free parameters as second moments.
    assert s.n_covariance_parameters(K, d) == np.prod(s.moments_shape(K, d))


def test_attributes_and_matrices_are_each_others_inverse(mixture):
    s, shape = mixture.structure, (K, mixture.n_features)
    for matrices in (mixture.covariances, mixture.precisions_cholesky):
        attribute = s.to_attribute(matrices)
        assert attribute.shape == s.attribute_shape(*shape)
        np.testing.assert_array_equal(s.from_attribute(attribute, *shape), matrices)


def test_a_copy_of_a_structure_is_the_same_structure(structure):
    for copied in (copy.deepcopy(structure), pickle.loads(pickle.dumps(structure))):
        assert copied == structure
        assert hash(copied) == hash(structure)
    assert [structure == other for other in STRUCTURES.values()].count(True) == 1


def test_factors_are_those_of_the_inverse(mixture, matrices):
    covariances, factors = matrices(mixture.covariances), matrices(mixture.precisions_cholesky)
    assert np.array_equal(factors, np.triu(factors))
    np.testing.assert_allclose(factors @ factors.transpose(0, 2, 1), np.linalg.inv(covariances), rtol=1e-10, atol=1e-12)


def test_factors_equal_those_of_scikit_learn(mixture):
    s = mixture.structure
    # scikit-learn has no structure whose diagonal matrix is shared: a mixture of one component is none.
    theirs = {"tied-diag": "diag", "tied-spherical": "spherical"}.get(s.name, s.name)
    covariances = s.to_attribute(mixture.covariances) if theirs == s.name else mixture.covariances
    expected = s.from_attribute(_compute_precision_cholesky(covariances, theirs), K, mixture.n_features)
    np.testing.assert_allclose(mixture.precisions_cholesky, expected, rtol=1e-10, atol=1e-12)


def test_round_trips(mixture):
    s, factors = mixture.structure, mixture.precisions_cholesky
    np.testing.assert_allclose(s.covariances(factors), mixture.covariances, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(s.factor_precisions(s.precisions(factors)), factors, rtol=1e-10, atol=1e-12)


def test_precisions_are_inverse_covariances(mixture, matrices):
    precisions = matrices(mixture.structure.precisions(mixture.precisions_cholesky))
    np.testing.assert_allclose(precisions @ matrices(mixture.covariances), [np.eye(mixture.n_features)] * K, atol=1e-10)


def test_log_determinant(mixture, matrices):
    log_det = mixture.structure.log_det_cholesky(mixture.precisions_cholesky, mixture.n_features)
    expected = -0.5 * np.linalg.slogdet(matrices(mixture.covariances))[1]
    np.testing.assert_allclose(np.broadcast_to(log_det, K), expected, rtol=1e-10, atol=1e-12)


def test_color_gives_the_covariance(mixture, matrices):
    for k in range(K):
        root = mixture.structure.correlate(mixture.covariances, k, np.eye(mixture.n_features))
        np.testing.assert_allclose(root.T @ root, matrices(mixture.covariances)[k], rtol=1e-10, atol=1e-12)


def test_marginal_variances_are_the_diagonals(mixture, matrices):
    variances = mixture.structure.marginal_variances(mixture.covariances, K, mixture.n_features)
    expected = np.einsum("kii->ki", matrices(mixture.covariances))
    np.testing.assert_array_equal(np.broadcast_to(variances, expected.shape), expected)


@pytest.mark.parametrize("features", [[0], [2, 0], [1, 2, 0]], ids=str)
def test_some_features_have_their_rows_and_columns(structure, features, library):
    p = library.make_mixture(structure, K, 3)
    chosen = structure.select_features(p.covariances, np.array(features))
    assert chosen.shape == structure.covariance_shape(K, len(features))
    expected = library.dense(structure, p.covariances, K, 3)[:, features][:, :, features]
    np.testing.assert_array_equal(library.dense(structure, chosen, K, len(features)), expected)


@pytest.mark.parametrize("q", [1, 3])
def test_conditions_are_schur_complements(structure, q, library):
    p, d = library.make_mixture(structure, K, 4), 4
    found = structure.condition(p.precisions_cholesky, q, d)
    whole = library.dense(structure, p.covariances, K, d)
    given, across, rest = whole[:, :q, :q], whole[:, q:, :q], whole[:, q:, q:]
    slopes = across @ np.linalg.inv(given)
    np.testing.assert_allclose(np.broadcast_to(found.coefficients, slopes.shape), slopes, rtol=1e-10, atol=1e-12)
    for factors, expected in ((found.given_factors, given), (found.factors, rest - slopes @ across.transpose(0, 2, 1))):
        covariances = library.dense(structure, structure.covariances(factors), K, expected.shape[-1])
        np.testing.assert_allclose(covariances, expected, rtol=1e-10, atol=1e-12)


def test_ridge_adds_to_variances_in_place(mixture, matrices):
    covariances = mixture.covariances.copy()
    ridged = mixture.structure.add_ridge(covariances, 0.5)
    assert np.shares_memory(ridged, covariances)
    expected = matrices(mixture.covariances) + 0.5 * np.eye(mixture.n_features)
    np.testing.assert_allclose(matrices(ridged), expected, rtol=1e-15)


# ---- what priors need


def test_divided_moments_are_those_of_equal_components(structure):
    rows = np.random.default_rng(0).normal(size=(3, 20))  # features × rows
    second = np.zeros(structure.moments_shape(1, 3))
    structure.add_scatter(second, 0, rows, np.ones(20), np.empty_like(rows))
    one = structure.central_covariances(second, np.array([20.0]), np.zeros((1, 3)))
    divided = structure.divide_moments(second, 4)
    assert divided.shape == structure.moments_shape(4, 3)
    several = structure.central_covariances(divided, np.full(4, 5.0), np.zeros((4, 3)))
    np.testing.assert_allclose(several, np.broadcast_to(one, structure.covariance_shape(4, 3)), rtol=1e-14)


def test_a_prior_serves_all_components(mixture):
    s, d = mixture.structure, mixture.n_features
    prior = np.ones(s.prior_shape(d))
    assert (prior + mixture.covariances).shape == mixture.covariances.shape
    assert prior.size == np.prod(s.covariance_shape(1, d))


def test_outer_products_and_factors(mixture, matrices, library):
    s, k, d = mixture.structure, K, mixture.n_features
    vectors, weights = np.random.default_rng(0).normal(size=(k, d)), np.arange(1.0, k + 1)
    full = weights[:, None, None] * vectors[:, :, None] * vectors[:, None, :]
    expected = library.restrict(s, full, np.full(k, 1 / k))
    np.testing.assert_allclose(s.outer_products(vectors, weights), expected, rtol=1e-13, atol=1e-15)
    counts = s.matrix_counts(weights)
    scaled = matrices(s.multiply(mixture.covariances, counts))
    factors = np.broadcast_to(counts, k)
    np.testing.assert_allclose(scaled, factors[:, None, None] * matrices(mixture.covariances), rtol=1e-14)
    assert factors.sum() == pytest.approx(weights.sum())


# ---- change of units


def test_units_scale_and_unscale(mixture, matrices):
    s, d = mixture.structure, mixture.n_features
    scale = s.frame_scale(2.0 ** np.arange(-1, d - 1))
    scaled = s.scale_cholesky(mixture.precisions_cholesky, scale)
    # The factors of z = x / scale are those of the covariances of z.
    expected = matrices(mixture.covariances) / scale / scale[:, None]
    np.testing.assert_allclose(matrices(s.covariances(scaled)), expected, rtol=1e-10, atol=1e-12)
    back = s.unscale_covariances(s.covariances(scaled), scale)
    np.testing.assert_allclose(back, mixture.covariances, rtol=1e-10, atol=1e-12)


def test_units_stay_powers_of_two(structure):
    scale = structure.frame_scale(np.array([0.25, 1.0, 8.0]))
    assert np.all(np.frexp(scale)[0] == 0.5)
    assert scale.max() == 8.0


# ---- the E-step on quadratic features


def features(structure, z):
    out = np.full((structure.n_quadratic(len(z)), z.shape[1]), np.nan)
    structure.fill_quadratic(z, out)
    return out


def test_features_and_common_part_make_the_quadratic_form(mixture, matrices):
    s, factors = mixture.structure, mixture.precisions_cholesky
    z = np.random.default_rng(3).normal(size=(mixture.n_features, 7))
    expected = -0.5 * np.einsum("ib,kij,jb->kb", z, matrices(s.precisions(factors)), z)
    common = s.common_row_quadratic(factors, z)
    quadratic = s.quadratic_coefficients(factors) @ features(s, z) + (0 if common is None else common)
    np.testing.assert_allclose(np.broadcast_to(quadratic, expected.shape), expected, rtol=1e-10, atol=1e-12)


def test_precision_times(mixture, matrices):
    s, factors = mixture.structure, mixture.precisions_cholesky
    vectors = np.random.default_rng(4).normal(size=(K, mixture.n_features))
    expected = np.einsum("kij,kj->ki", matrices(s.precisions(factors)), vectors)
    np.testing.assert_allclose(s.precision_times(factors, vectors), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_common_quadratic_is_the_sum_over_rows(mixture, weighted):
    s, factors = mixture.structure, mixture.precisions_cholesky
    random = np.random.default_rng(5)
    z = random.normal(size=(mixture.n_features, 9))
    weights = random.random(9) if weighted else None
    rows, second = s.common_row_quadratic(factors, z), s.block_moments(z, weights)
    assert s.shared == (rows is not None) == (s.n_quadratic(mixture.n_features) == 0)
    if rows is None:
        assert s.common_quadratic(factors, np.zeros(s.moments_shape(K, mixture.n_features))) == 0
    else:
        total = np.sum(rows if weights is None else rows * weights)
        np.testing.assert_allclose(s.common_quadratic(factors, second), total, rtol=1e-12)


# ---- the E-step on residuals


@pytest.mark.parametrize("n_features", [1, 2, 32, 33, 70])
def test_mahalanobis(structure, library, n_features):
    mixture = library.make_mixture(structure, 2, n_features)
    random = np.random.default_rng(6)
    residual = random.normal(size=(n_features, 5))
    factors = library.dense(structure, mixture.precisions_cholesky, 2, n_features)
    for k in range(2):
        work = np.full_like(residual, np.nan)
        distance = structure.mahalanobis(mixture.precisions_cholesky, k, residual.copy(), work)
        np.testing.assert_allclose(distance, ((factors[k].T @ residual) ** 2).sum(axis=0), rtol=1e-10)


def test_scatters_give_weighted_covariances(structure, library):
    """Scatters about any points, with the offsets of the means from them, are covariances about the means."""
    d, n = 4, 30
    random = np.random.default_rng(7)
    reference = random.normal(size=(K, d, 1))
    rows, weights = random.normal(size=(d, n)), random.random((K, n))
    second = np.zeros(structure.moments_shape(K, d))
    for k in range(K):
        residual = rows - reference[k]
        for part in (slice(0, 11), slice(11, n)):
            block = np.ascontiguousarray(residual[:, part])
            structure.add_scatter(second, k, block, weights[k, part], np.full_like(block, np.nan))
    counts = weights.sum(axis=1)
    means = weights @ rows.T / counts[:, None]
    expected = np.stack([np.cov(rows, aweights=w, ddof=0) for w in weights])
    covariances = structure.central_covariances(second, counts, means - reference[:, :, 0])
    np.testing.assert_allclose(covariances, library.restrict(structure, expected, counts / counts.sum()), rtol=1e-10)


# ---- the bound on rounding


def test_amplification_grows_with_distance_and_tightness(mixture):
    s, factors, means = mixture.structure, mixture.precisions_cholesky, mixture.means
    base = s.amplification(means, factors)
    assert base >= 9 * (1 - 1e-12)  # three standard deviations at least
    assert s.amplification(10 * means, factors) > base
    assert s.amplification(means, 10 * factors) > base
    assert s.amplification(np.zeros_like(means), 10 * factors) == pytest.approx(s.amplification(0 * means, factors))


# ---- what is refused


def collapsed(structure, library, value):
    """Covariances of which the second component's (or the shared one's) first variance is ``value``."""
    covariances = library.make_mixture(structure, K, 3).covariances.copy()
    target = covariances if structure.shared else covariances[1:2]
    if structure.has_matrices:
        target[..., 0, :] = target[..., :, 0] = 0
        target[..., 0, 0] = value
    elif isinstance(structure, Diagonal):
        target[..., 0] = value
    else:
        target[...] = value
    return covariances


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf, 5e-324, 1e-310], ids=str)
def test_collapsed_components_are_named(structure, library, value):
    with pytest.raises(errors.IllDefinedCovarianceError, match="ill-defined empirical covariance") as caught:
        structure.precisions_cholesky(collapsed(structure, library, value))
    assert caught.value.components == (() if structure.shared else (1,))


def test_all_collapsed_components_are_named(library):
    covariances = np.zeros((12, 2, 2))
    covariances[5] = np.eye(2)
    with pytest.raises(errors.IllDefinedCovarianceError, match=r"0, 1, 2, 3, 4, 6, 7, 8, …") as caught:
        STRUCTURES["full"].precisions_cholesky(covariances)
    assert caught.value.components == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)


def test_small_and_large_variances_are_not_refused(structure, library):
    for variance in (1e-200, 1e200):
        mixture = library.make_mixture(structure, K, 3)
        again = MixtureParameters.from_covariances(
            structure, mixture.weights, mixture.means, mixture.covariances * variance
        )
        np.testing.assert_allclose(
            again.precisions_cholesky * np.sqrt(variance), mixture.precisions_cholesky, rtol=1e-10
        )


def test_a_bad_covariance_among_others_is_named_alone_and_changes_no_other_factor():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(6, 3, 5))
    good = roots @ roots.transpose(0, 2, 1)
    bad = good.copy()
    bad[1] *= -1
    bad[2] = np.nan
    bad[4, 0], bad[4, :, 0] = bad[4, 1], bad[4, :, 1]  # a feature twice
    structure = STRUCTURES["full"]
    with pytest.raises(errors.IllDefinedCovarianceError) as caught:
        structure.precisions_cholesky(bad)
    assert caught.value.components == (1, 2, 4)
    factors, usable = structure.invert(bad)
    np.testing.assert_array_equal(usable, [True, False, False, True, False, True])
    np.testing.assert_array_equal(factors[usable], structure.precisions_cholesky(good)[usable])
    np.testing.assert_allclose(factors[0] @ factors[0].T @ good[0], np.eye(3), atol=1e-12)


def test_good_precisions_are_accepted(mixture):
    precisions = mixture.structure.precisions(mixture.precisions_cholesky)
    mixture.structure.check_precisions(precisions)
    with pytest.raises(ValueError, match="positive"):  # the same call does look at them
        mixture.structure.check_precisions(-precisions)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf], ids=str)
def test_bad_precisions_are_refused(structure, library, value):
    with pytest.raises(ValueError, match=f"'{structure.name} precision' should be .*positive") as caught:
        structure.check_precisions(collapsed(structure, library, value))
    assert not isinstance(caught.value, np.linalg.LinAlgError)


@pytest.mark.parametrize("name", ["full", "tied"])
def test_asymmetric_precisions_are_refused(name, library):
    precisions = library.make_mixture(STRUCTURES[name], K, 3).covariances.copy()
    precisions[..., 0, 1] += 0.01
    with pytest.raises(ValueError, match="symmetric"):
        STRUCTURES[name].check_precisions(precisions)


# ---- triangles


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_packing_is_invertible(n_features):
    matrix = np.random.default_rng(8).normal(size=(2, n_features, n_features))
    matrix += matrix.transpose(0, 2, 1)
    packed = pack(matrix)
    assert packed.shape == (2, n_features * (n_features + 1) // 2)
    assert np.array_equal(unpack(packed, n_features), matrix)


def test_packing_has_the_order_of_the_features():
    z = np.random.default_rng(9).normal(size=(4, 1))
    assert np.array_equal(features(STRUCTURES["full"], z)[:, 0], pack(z @ z.T))


# ---- errors and units travel


EXAMPLES = [
    errors.IllDefinedCovarianceError((1, 2)),
    errors.IllDefinedCovarianceError(()),
    errors.NonFiniteDataError(7, is_nan=True),
    errors.MissingDependencyError("obstore", "remote", "Reading from a bucket"),
    errors.InvalidWeightsError("negative"),
    errors.UnsupportedDataError("complex"),
    errors.DataChangedError("a row more"),
    errors.StoreNotFoundError("no such store"),
    errors.OutputExistsError("there already"),
    errors.ModelFormatError("newer"),
    errors.SchedulerError("went away"),
    errors.InitializationWarning("dropped"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_errors_survive_the_way_from_a_worker(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_frame_survives_the_way_to_a_worker():
    frame = Frame.of(np.array([1.0, 2.0]), np.array([0.3, 5.0]))
    again = pickle.loads(pickle.dumps(frame))
    assert np.array_equal(again.center, frame.center)
    assert np.array_equal(again.scale, frame.scale)
