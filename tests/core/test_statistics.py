"""Sufficient statistics are a commutative monoid, and moments of rows whose responsibilities are given."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import QuadraticKernel, ResidualKernel
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.statistics import Frame, SufficientStatistics, statistics_of_responsibilities

K, D = 2, 3


def random_statistics(name, seed, size):
    """Statistics with arrays of about this size about the origin."""
    random = np.random.default_rng(seed)
    structure = STRUCTURES[name]
    zero = SufficientStatistics.zero(structure, np.zeros(D), np.ones(D), K)
    return replace(
        zero,
        soft_counts=size * random.random(K),
        first=size * random.normal(size=(K, D)),
        second_moments=size * random.random(structure.moments_shape(K, D)),
        log_likelihood=size * random.normal(),
        entropy=size * random.random(),
        n_rows=int(random.integers(1000)),
        weight_sum=size * random.random(),
    )


def assert_equal(one, other, rtol=0.0, atol=0.0):
    for field in fields(SufficientStatistics):
        a, b = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=field.name)


parts = st.builds(
    random_statistics,
    st.just("full"),
    st.integers(0, 1000),
    st.floats(-8, 8).map(lambda exponent: 10.0**exponent),
)


@settings(deadline=None)
@given(parts, parts, parts)
def test_addition_is_associative_and_commutative(a, b, c):
    assert_equal(a + b, b + a)
    size = max(np.abs(x.first).max() for x in (a, b, c))
    assert_equal((a + b) + c, a + (b + c), rtol=1e-14, atol=1e-13 * size)


@pytest.mark.parametrize("name", STRUCTURES)
def test_zero_is_neutral(name):
    structure = STRUCTURES[name]
    zero, a = SufficientStatistics.zero(structure, np.zeros(D), np.ones(D), K), random_statistics(name, 1, 1.0)
    assert zero.second_moments.shape == structure.moments_shape(K, D)
    assert_equal(zero + a, a)
    assert_equal(a + zero, a)
    assert_equal(zero + zero, zero)


def test_addition_leaves_its_terms_alone():
    a, b = (random_statistics("diag", seed, 1.0) for seed in (1, 2))
    before = replace(a, first=a.first.copy(), second_moments=a.second_moments.copy(), soft_counts=a.soft_counts.copy())
    total = a + b
    for array in (total.first, total.second_moments, total.soft_counts):
        array += 1
    assert_equal(a, before)


@pytest.mark.parametrize("change", [{"reference": np.full(D, 1e-300)}, {"scale": np.full(D, 2.0)}], ids=str)
def test_moments_about_other_points_do_not_add(change):
    a = random_statistics("full", 1, 1.0)
    with pytest.raises(ValueError, match="different reference points or in different units"):
        a + replace(a, **change)


def test_moments_of_other_kernels_do_not_add(structure, library):
    mixture = library.make_mixture(structure, K, D)
    frame = library.frame_of(library.draw(mixture, 50))
    with pytest.raises(ValueError, match="different reference points"):
        QuadraticKernel(mixture, frame).zero() + ResidualKernel(mixture, frame).zero()


@pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])
def test_statistics_of_parts_add_up(structure, library, kind):
    mixture = library.make_mixture(structure, K, D)
    rows = library.draw(mixture, 200)
    weights = np.random.default_rng(1).random(200)
    kernel = kind(mixture, library.frame_of(rows))
    work = kernel.workspace()
    total = kernel.zero()
    for part in np.array_split(np.random.default_rng(2).permutation(200), 7):
        total = total + kernel.statistics(rows[part], weights[part], work)
    assert_equal(total, kernel.statistics(rows, weights, work), rtol=1e-11, atol=1e-11)


def test_size_in_memory():
    full = SufficientStatistics.zero(STRUCTURES["full"], np.zeros(10), np.ones(10), 4)
    assert full.nbytes == 8 * (4 + 40 + 4 * 55)


# ---- given responsibilities


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_statistics_of_given_responsibilities(structure, library, offset):
    random = np.random.default_rng(3)
    rows = np.round(random.normal(size=(60, D)) * 1024) / 1024 + offset
    responsibilities = random.dirichlet(np.ones(K), 60) * random.random((60, 1))
    frame = library.frame_of(rows)
    statistics = statistics_of_responsibilities(structure, rows, responsibilities, frame)
    counts = responsibilities.sum(axis=0)
    np.testing.assert_allclose(statistics.soft_counts, counts, rtol=1e-13)
    assert statistics.weight_sum == pytest.approx(counts.sum(), rel=1e-13)
    assert statistics.n_rows == 60
    assert statistics.log_likelihood == statistics.entropy == 0
    found = maximize(structure, statistics, 0)
    np.testing.assert_allclose(found.means - offset, responsibilities.T @ (rows - offset) / counts[:, None], atol=1e-7)
    expected = np.stack([np.cov((rows - offset).T, aweights=r, ddof=0) for r in responsibilities.T])
    expected = library.restrict(structure, expected, counts / counts.sum())
    np.testing.assert_allclose(found.covariances, expected, rtol=1e-9, atol=1e-12)


def test_statistics_of_labels(structure, library):
    """One-hot responsibilities, one component empty."""
    rows = library.draw(library.make_mixture(structure, K, D), 50)
    labels = np.arange(50) % 2
    one_hot = np.eye(3)[labels]
    statistics = statistics_of_responsibilities(structure, rows, one_hot, library.frame_of(rows))
    assert statistics.soft_counts.tolist() == [25, 25, 0]
    found = maximize(structure, statistics, 1e-3)
    for k in range(2):
        np.testing.assert_allclose(found.means[k], rows[labels == k].mean(axis=0), rtol=1e-12, atol=1e-14)
    assert np.isfinite(found.means).all()


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_given_responsibilities_and_rows_of_any_dtype(structure, dtype):
    rows = np.random.default_rng(4).integers(0, 2, (40, D)).astype(dtype)
    responsibilities = np.eye(K)[np.arange(40) % K].astype(np.float32)
    frame = Frame(np.zeros(D), np.ones(D))
    one = statistics_of_responsibilities(structure, rows, responsibilities, frame)
    other = statistics_of_responsibilities(
        structure, rows.astype(np.float64), responsibilities.astype(np.float64), frame
    )
    assert_equal(one, other)
    assert one.second_moments.dtype == one.first.dtype == one.soft_counts.dtype == np.float64


# ---- the frame


def test_frame_has_units_of_powers_of_two():
    deviation = np.array([1e-12, 0.3, 1.0, 1.5, 1e12])
    frame = Frame.of(np.zeros(5), deviation)
    assert np.all(np.frexp(frame.scale)[0] == 0.5)
    ratio = frame.scale / deviation
    assert np.all((ratio > 1) & (ratio <= 2))


@pytest.mark.parametrize("deviation", [0.0, np.nan, np.inf, -1.0])
def test_features_that_do_not_vary_keep_a_unit(deviation):
    frame = Frame.of(np.zeros(2), np.array([deviation, 1.0]))
    assert frame.scale[0] == frame.scale[1] == 2.0


@pytest.mark.parametrize("deviation", [5e-324, 1e-300, 1e300])
def test_squares_of_units_are_finite(deviation):
    scale = Frame.of(np.zeros(1), np.array([deviation])).scale
    assert np.all(np.isfinite(scale**2) & (scale**2 > 0) & np.isfinite(1 / scale**2))


# ---- another reference point


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("precise", [False, True])
def test_moments_about_another_point_are_those_of_a_kernel_about_it(name, precise, library):
    structure = STRUCTURES[name]
    mixture = library.make_mixture(structure, K, D, seed=3)
    rows = library.draw(mixture, 200, seed=4)
    frame = library.frame_of(rows)
    kernels = [kind(mixture, frame) for kind in (QuadraticKernel, ResidualKernel)]  # about the center, and the means
    one, other = (kernel.statistics(rows, None, kernel.workspace()) for kernel in kernels[:: -1 if precise else 1])
    moved = one.about(structure, other.reference)
    np.testing.assert_allclose(moved.first, other.first, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(moved.second_moments, other.second_moments, rtol=1e-10, atol=1e-9)
    assert_equal(replace(moved, first=one.first, second_moments=one.second_moments, reference=one.reference), one)
