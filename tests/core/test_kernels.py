"""Both kernels against the definition in long double, and against each other."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from daskgmm.core import residual
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import PLAIN
from daskgmm.core.kernel import BlockPlan, RowResults
from daskgmm.core.kernel_choice import (
    ARITHMETICS,
    CANDIDATES,
    MixtureShape,
    QuadraticKernel,
    ResidualKernel,
    choose_backend,
    choose_kernel,
    finer,
    rounding_bounds,
)
from daskgmm.core.matrices import Diagonal, General, Scalar
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.row_blocks import columns
from daskgmm.core.statistics import Frame

pytestmark = pytest.mark.covering

EPS = float(np.finfo(np.float64).eps)

long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= EPS, reason="here long double is no more precise than double"
)

KERNELS = {
    "float64": QuadraticKernel,
    "float32": lambda parameters, frame: QuadraticKernel(parameters, frame, np.float32),
    "precise": ResidualKernel,
}
TOLERANCE = {"float64": 1e-11, "float32": 1e-3, "precise": 1e-11}

BACKENDS = [PLAIN, choose_backend(MixtureShape(STRUCTURES["full"], 4, 16), 1e12)]


@pytest.fixture(params=list(KERNELS))
def arithmetic(request):
    return request.param


def assert_same_statistics(one, other, rtol):
    """Equal up to rounding, each array measured by its largest entry."""
    for name in ("soft_counts", "first", "second_moments"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(), np.abs(other.soft_counts).max()))
    for name in ("log_likelihood", "entropy", "weight_sum"):
        a, b = getattr(one, name), getattr(other, name)
        assert a == pytest.approx(b, rel=rtol, abs=rtol * max(1, other.weight_sum)), name


# ---- accuracy


@long_double
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_features", [1, 2, 16])
@pytest.mark.parametrize("deviation", [1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_log_densities_are_as_accurate_as_promised(structure, library, deviation, n_features, dtype):
    mixture = library.make_mixture(structure, 3, n_features, deviation=deviation, spread=1)
    rows = library.draw(mixture, 200).astype(dtype)
    frame, exact = library.frame_of(rows), library.Reference(mixture).log_density(rows)
    size = np.maximum(1, np.abs(exact))
    bounds = rounding_bounds(mixture, frame)

    def error(kernel):
        return np.abs(kernel.log_density(rows) - exact)

    # The bound speaks of rows within three standard deviations; those farther out err with their own size.
    for name in ("float32", "float64"):
        allowed = 3 * bounds[name] + 4 * np.finfo(name).eps * size
        assert np.all(error(KERNELS[name](mixture, frame)) <= allowed), name
    assert np.all(error(ResidualKernel(mixture, frame)) <= 1e-14 * size)

    chosen = choose_kernel(mixture, frame, np.dtype(dtype))
    allowed = {"float32": 1e-3, "float64": 1e-9, "precise": 1e-14}
    assert np.all(error(chosen) <= allowed[chosen.arithmetic] * size)


@long_double
@pytest.mark.parametrize("deviation", [1, 1e-4, 1e-7])
def test_no_row_errs_more_than_the_screen_allows(structure, library, deviation):
    """The bound for each row holds for every component, near or far, and for rows far from all of them."""
    mixture = library.make_mixture(structure, 4, 5, deviation=deviation, spread=1)
    rows = library.draw(mixture, 100)
    rows[::5] *= np.logspace(0, 6, 20)[:, None]
    kernel = QuadraticKernel(mixture, library.frame_of(rows[1:]))
    work = kernel.workspace()
    joint = kernel.log_joint(rows, work).T.copy()
    offset = kernel.row_offset(work, len(rows))
    joint += 0 if offset is None else offset[:, None]
    error = np.abs(joint - library.Reference(mixture).log_joint(rows)).max(axis=1)
    assert np.all(error <= kernel.row_errors(work, len(rows)))


@long_double
@pytest.mark.parametrize("spread", [1, 20])
@pytest.mark.parametrize("n_features", [1, 3, 12])
def test_the_mean_log_density_errs_less_than_its_rounding(structure, library, n_features, spread):
    """Also with rows far from all components, where the mean is what counts."""
    mixture = library.make_mixture(structure, 4, n_features, deviation=0.5, spread=spread)
    rows = library.draw(mixture, 2000).astype(np.float32)
    rows[::50] += 100 * rows[::50]
    frame = library.frame_of(rows)
    exact = float(library.Reference(mixture).log_density(rows.astype(np.float64)).mean())
    found = {}
    for name, make in KERNELS.items():
        kernel = make(mixture, frame)
        statistics = kernel.statistics(rows, None, kernel.workspace())
        found[name] = kernel.rounding(maximize(structure, statistics, 1e-6))
        if name != "precise":
            assert abs(statistics.mean_log_likelihood - exact) <= found[name]
    assert found["float64"] == pytest.approx(found["float32"] * 2.0**-29, rel=1e-3)
    assert found["precise"] == 0


def test_no_arithmetic_is_coarser_than_asked_for(library):
    mixture = library.make_mixture(STRUCTURES["full"])
    frame = library.frame_of(library.draw(mixture, 100))
    chosen = [choose_kernel(mixture, frame, np.dtype(np.float32), coarsest=c).arithmetic for c in ARITHMETICS]
    assert chosen == list(ARITHMETICS) == ["float32", "float64", "precise"]
    assert [finer(arithmetic) for arithmetic in ARITHMETICS] == ["float64", "precise", "precise"]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i4", "u1", ">f8"])
def test_single_precision_serves_rows_of_any_dtype_that_may_be_rounded(structure, library, dtype):
    mixture = library.make_mixture(structure)
    frame = library.frame_of(library.draw(mixture, 100))
    chosen = [choose_kernel(mixture, frame, np.dtype(dtype), rounds=rounds).arithmetic for rounds in (False, True)]
    assert chosen == ["float32" if dtype == "f4" else "float64", "float32"]
    narrow = library.make_mixture(structure, deviation=1e-2)
    frame = library.frame_of(library.draw(narrow, 100))
    assert choose_kernel(narrow, frame, np.dtype(dtype), rounds=True).arithmetic == "float64"


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_single_precision_does_not_round_the_log_likelihood_with_the_parameters(structure, library, backend):
    """The errors of the rows cancel each other; the rounding of Θ, the same for all rows, does not."""
    mixture = library.make_mixture(structure, 4, 6)
    rows = library.draw(mixture, 20_000)
    frame = library.frame_of(rows)
    single, double = (QuadraticKernel(mixture, frame, dtype, backend) for dtype in (np.float32, np.float64))
    one, other = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (single, double))
    allowed = 0.01 * single.rounding(maximize(structure, other, 1e-6))
    assert abs(one.mean_log_likelihood - other.mean_log_likelihood) < allowed


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_sums_of_equal_rows_keep_their_digits_in_single_precision(structure, backend):
    """A long sum in single precision rounds each of its equal terms in the same direction."""
    rows = np.random.default_rng(0).integers(2, size=(40_000, 2)) * [0.7, 1.3]
    frame = Frame.of(rows.mean(axis=0), rows.std(axis=0))
    weights, means = np.array([0.3, 0.7]), np.array([[0.2, 0.3], [0.5, 0.9]])
    shape = structure.covariance_shape(2, 2)
    covariances = np.broadcast_to(0.1 * np.eye(2), shape) if len(shape) == 3 else np.full(shape, 0.1)
    mixture = MixtureParameters.from_covariances(structure, weights, means, covariances)
    single, double = (QuadraticKernel(mixture, frame, dtype, backend) for dtype in (np.float32, np.float64))
    one, other = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (single, double))
    allowed = single.rounding(maximize(structure, other, 0.01)) * len(rows)
    assert abs(one.log_likelihood - other.log_likelihood) < allowed
    assert abs(one.entropy - other.entropy) < allowed
    largest = np.abs(other.second_moments).max()
    np.testing.assert_allclose(one.second_moments, other.second_moments, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_no_subnormal_number_slows_single_precision(structure, library, backend):
    """Responsibilities of far components are zero, or large enough for their products with features to be normal."""
    mixture = library.make_mixture(structure, 8, 4, spread=8)
    rows = library.draw(mixture, 200)
    kernel = QuadraticKernel(mixture, library.frame_of(rows), np.float32, backend)
    work = kernel.workspace()
    kernel.statistics(rows, None, work)
    responsibilities = columns(work.joint, len(rows))
    assert responsibilities.min() < 1e-29
    assert responsibilities[responsibilities > 0].min() > 1e-31


def test_arithmetic_follows_from_tightness(structure, library):
    chosen = []
    for deviation in (1, 1e-3, 1e-6):
        mixture = library.make_mixture(structure, 3, 2, spread=1)
        round_ = library.restrict(structure, np.stack([deviation**2 * np.eye(2)] * 3), mixture.weights)
        mixture = MixtureParameters.from_covariances(structure, mixture.weights, mixture.means, round_)
        frame = library.frame_of(library.draw(mixture, 100))
        chosen.append([choose_kernel(mixture, frame, np.dtype(t)).arithmetic for t in ("f4", "f8", "i4")])
    assert chosen == [["float32", "float64", "float64"], ["float64"] * 3, ["precise"] * 3]


@pytest.mark.slow
def test_wide_rows_are_whitened(library):
    """Quadratic features grow with the square of the features: from some width on they are not built."""
    chosen = []
    for n_features, n_components in [(2, 2), (16, 16), (70, 2), (70, 200), (150, 200), (150, 1)]:
        mixture = MixtureParameters.from_covariances(
            STRUCTURES["full"],
            np.full(n_components, 1 / n_components),
            np.zeros((n_components, n_features)),
            np.stack([np.eye(n_features)] * n_components),
        )
        frame = Frame(np.zeros(n_features), np.ones(n_features))
        kernels = [choose_kernel(mixture, frame, np.dtype(dtype)) for dtype in ("f4", "f8")]
        chosen.append([(isinstance(kernel, QuadraticKernel), kernel.arithmetic) for kernel in kernels])
    products, whitened = [(True, "float32"), (True, "float64")], [(False, "float32"), (False, "precise")]
    assert chosen == [products, products, whitened, products, whitened, products]


def test_the_cheapest_kernel_that_is_accurate_enough_is_chosen(library):
    """By the parameters for its rounding, and by the shape for its cost."""
    mixture = library.make_mixture(STRUCTURES["full"], 4, 16, spread=1)
    tight = library.make_mixture(STRUCTURES["full"], 4, 16, deviation=1e-7, spread=1)
    for backend in (PLAIN, choose_backend(MixtureShape(STRUCTURES["full"], 4, 16), 1e12)):
        costs = {
            candidate.arithmetic: candidate.cost(MixtureShape.of(mixture), np.dtype(float), backend)
            for candidate in CANDIDATES
            if candidate.is_exact(MixtureShape.of(mixture), np.dtype(float)) or candidate.arithmetic == "float64"
        }
        frame = library.frame_of(library.draw(mixture, 200))
        cheapest = min(costs, key=costs.get)
        assert choose_kernel(mixture, frame, np.dtype(float), backend).arithmetic == cheapest
        frame = library.frame_of(library.draw(tight, 200))
        assert choose_kernel(tight, frame, np.dtype(float), backend).arithmetic == "precise"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_few_components_with_diagonal_covariances_are_whitened(library, dtype):
    """Compiled, rows are read where they lie; features pay with many components."""
    for name in ("diag", "spherical"):
        chosen = []
        for n_components, n_features in [(1, 2), (1, 64), (2, 64), (3, 128), (16, 16), (64, 64)]:
            mixture = library.make_mixture(STRUCTURES[name], n_components, n_features, spread=0.1)
            frame = Frame(np.zeros(n_features), np.ones(n_features))
            chosen.append(type(choose_kernel(mixture, frame, np.dtype(dtype), BACKENDS[-1])).__name__)
        assert chosen == 4 * ["WhitenedKernel"] + 2 * ["QuadraticKernel"]


def test_one_component_shares_its_matrix(library):
    """Of one component every structure is a shared one: its second moments are those of all rows, whatever it is."""
    for name in ("full", "diag", "spherical"):
        mixture = library.make_mixture(STRUCTURES[name], 1, 4)
        rows = library.draw(mixture, 300)
        frame, weights = library.frame_of(rows), np.random.default_rng(0).random(300)
        first = choose_kernel(mixture, frame, np.dtype(float))
        whole = first.statistics(rows, weights, first.workspace())
        assert_same_statistics(whole, exact_statistics(mixture, frame, rows, weights), 1e-12)
        again = choose_kernel(mixture, frame, np.dtype(float), common_known={first.arithmetic})
        assert again.common_known
        part = again.complete(again.statistics(rows, weights, again.workspace()), whole.second_moments)
        assert_same_statistics(part, whole, 1e-14)


def exact_statistics(mixture, frame, rows, weights):
    """Statistics of rows of a single component about the frame's center."""
    z = (rows - frame.center) / mixture.structure.frame_scale(frame.scale)
    kernel = ResidualKernel(mixture, frame)
    precise = kernel.statistics(rows, weights, kernel.workspace())
    second = mixture.structure.moments(z[None], weights[None])
    return replace(precise, reference=frame.center, first=(weights @ z)[None], second_moments=second)


def test_kernel_knows_what_its_moments_resolve(structure, library):
    wide, tight = (library.make_mixture(structure, 3, 2, deviation=d, spread=1) for d in (1, 1e-6))
    frame = library.frame_of(library.draw(wide, 100))
    for name, kernel in KERNELS.items():
        assert kernel(wide, frame).resolves(wide)
        assert kernel(wide, frame).resolves(tight) == (name == "precise")


# ---- results for each row


@pytest.fixture
def problem(structure, library):
    """Overlapping components, rows, and their frame."""
    mixture = library.make_mixture(structure, 5, 3, spread=1.5)
    rows = library.draw(mixture, 300)
    return mixture, rows, library.frame_of(rows)


@long_double
def test_results_for_each_row(problem, arithmetic, library):
    mixture, rows, frame = problem
    kernel, reference = KERNELS[arithmetic](mixture, frame), library.Reference(mixture)
    tolerance, work = TOLERANCE[arithmetic], kernel.workspace()
    np.testing.assert_allclose(
        kernel.log_density(rows, work), reference.log_density(rows).astype(float), atol=tolerance
    )
    responsibilities = kernel.responsibilities(rows, work)
    np.testing.assert_allclose(responsibilities, reference.responsibilities(rows).astype(float), atol=tolerance)
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1, atol=1e-6 if arithmetic == "float32" else 1e-15)
    assert np.array_equal(kernel.labels(rows, work), responsibilities.argmax(axis=1))
    assert kernel.labels(rows).dtype == np.int64


def test_all_results_come_of_one_log_joint(problem, arithmetic, monkeypatch):
    """To the last bit what each gives alone."""
    mixture, rows, frame = problem
    kernel = KERNELS[arithmetic](mixture, frame)
    expected = kernel.labels(rows), kernel.responsibilities(rows), kernel.log_density(rows)
    log_joint, n_rows = type(kernel).log_joint, []
    monkeypatch.setattr(
        type(kernel), "log_joint", lambda self, rows, work: (n_rows.append(len(rows)), log_joint(self, rows, work))[1]
    )
    n = len(rows)
    results = RowResults(np.empty(n, np.int64), np.empty((n, 5)), np.empty(n), np.empty(n))
    kernel.fill(results, rows)
    assert sum(n_rows) == n
    for found, alone in zip((results.labels, results.responsibilities, results.log_density), expected, strict=True):
        np.testing.assert_array_equal(found, alone)
    entropy = -(expected[1] * np.log(np.maximum(expected[1], 1e-300))).sum(axis=1)
    np.testing.assert_allclose(results.entropy, entropy, atol=1e-5)


def test_labels_alone_take_no_log_sum_exp(problem, arithmetic, monkeypatch):
    mixture, rows, frame = problem
    kernel = KERNELS[arithmetic](mixture, frame)
    monkeypatch.setattr(type(kernel.backend), "normalise", lambda *arguments: pytest.fail("normalised"))
    assert kernel.labels(rows).shape == (len(rows),)


def test_no_rows(problem, arithmetic):
    mixture, rows, frame = problem
    kernel = KERNELS[arithmetic](mixture, frame)
    assert kernel.log_density(rows[:0]).shape == (0,)
    assert kernel.responsibilities(rows[:0]).shape == (0, 5)
    assert kernel.labels(rows[:0]).shape == (0,)
    assert_same_statistics(kernel.statistics(rows[:0], None, kernel.workspace()), kernel.zero(), 0)


@pytest.mark.parametrize("block_rows", [1, 7, 100, 4096])
def test_results_do_not_depend_on_the_blocks(problem, arithmetic, block_rows):
    mixture, rows, frame = problem
    one, many = KERNELS[arithmetic](mixture, frame), KERNELS[arithmetic](mixture, frame)
    many.plan = BlockPlan(block_rows, 0)
    lengths = [s.stop - s.start for s in many.blocks(300)]
    assert max(lengths) <= block_rows
    assert len(lengths) == -(-300 // block_rows)
    assert sum(lengths) == 300
    rtol = 1e-5 if arithmetic == "float32" else 1e-13
    np.testing.assert_allclose(many.log_density(rows), one.log_density(rows), rtol=rtol)
    np.testing.assert_allclose(
        many.responsibilities(rows), one.responsibilities(rows), rtol=1e-11 + 10 * rtol, atol=rtol
    )
    a, b = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (many, one))
    assert a.n_rows == b.n_rows == 300
    assert_same_statistics(a, b, rtol)


def test_workspace_carries_nothing_over(problem, arithmetic):
    mixture, rows, frame = problem
    kernel = KERNELS[arithmetic](mixture, frame)
    used = kernel.workspace()
    with warnings.catch_warnings(action="ignore"):
        kernel.statistics(np.full((50, 3), np.nan), None, used)
    again, fresh = (kernel.statistics(rows, None, work) for work in (used, kernel.workspace()))
    assert_same_statistics(again, fresh, 0)
    assert np.array_equal(kernel.log_density(rows, used), kernel.log_density(rows))


# ---- statistics


@long_double
def test_statistics_follow_their_definition(problem, arithmetic, library):
    mixture, rows, frame = problem
    weights = np.random.default_rng(2).random(len(rows))
    kernel, reference = KERNELS[arithmetic](mixture, frame), library.Reference(mixture)
    statistics = kernel.statistics(rows, weights, kernel.workspace())
    r = (weights[:, None] * reference.responsibilities(rows)).astype(float)
    z = (rows[:, None] - np.broadcast_to(statistics.reference, mixture.means.shape)) / statistics.scale
    rtol = TOLERANCE[arithmetic]
    np.testing.assert_allclose(statistics.soft_counts, r.sum(axis=0), rtol=rtol)
    np.testing.assert_allclose(statistics.first, np.einsum("nk,nkd->kd", r, z), rtol=rtol, atol=rtol * 100)
    moments = np.einsum("nk,nki,nkj->kij", r, z, z)
    i, j = np.triu_indices(3)
    packed = moments[:, i, j]
    diagonal = np.einsum("kii->ki", moments)
    second = {General: packed, Diagonal: diagonal, Scalar: diagonal.sum(axis=1, keepdims=True)}[type(mixture.structure)]
    second = second.sum(axis=0, keepdims=True) if mixture.structure.shared else second
    np.testing.assert_allclose(statistics.second_moments, second, rtol=rtol, atol=rtol * 100)
    log_likelihood = float((weights * reference.log_density(rows)).sum())
    assert statistics.log_likelihood == pytest.approx(log_likelihood, rel=rtol)
    assert statistics.mean_log_likelihood == pytest.approx(log_likelihood / weights.sum(), rel=rtol)
    assert statistics.entropy == pytest.approx(reference.entropy(rows, weights), rel=rtol)
    assert statistics.weight_sum == pytest.approx(weights.sum(), rel=1e-14)
    assert statistics.n_rows == len(rows)


@pytest.mark.parametrize("deviation", [1, 1e-2])
def test_both_kernels_lead_to_the_same_parameters(structure, library, deviation):
    mixture = library.make_mixture(structure, 5, 3, deviation=deviation)
    rows = library.draw(mixture, 500)
    frame = library.frame_of(rows)
    # Other parameters than those of the data, so that every moment matters.
    start = MixtureParameters.from_covariances(
        structure, np.full(5, 0.2), mixture.means + 0.3 * deviation, mixture.covariances * 1.5
    )
    kernels_ = [kind(start, frame) for kind in (QuadraticKernel, ResidualKernel)]
    fast, precise = (maximize(structure, k.statistics(rows, None, k.workspace()), 0) for k in kernels_)
    np.testing.assert_allclose(fast.weights, precise.weights, rtol=1e-9)
    np.testing.assert_allclose(fast.means, precise.means, rtol=1e-9, atol=1e-9 * deviation)
    np.testing.assert_allclose(fast.covariances, precise.covariances, rtol=1e-8, atol=1e-8 * deviation**2)


@pytest.mark.parametrize("deviation", [1, 1e-4, 1e-7])
def test_screening_and_gathering_change_nothing(structure, library, deviation):
    """Also for components that overlap, where the screen alone would be wrong by far."""
    mixture = library.make_mixture(structure, 30, 4, deviation=deviation, spread=1)
    means = mixture.means.copy()
    means[15:] = means[:15] + deviation
    mixture = MixtureParameters.from_covariances(structure, mixture.weights, means, mixture.covariances)
    rows = library.draw(mixture, 500)
    frame = library.frame_of(rows)
    screened, plain = ResidualKernel(mixture, frame), ResidualKernel(mixture, frame)
    assert screened.screen is not None
    plain.screen = None
    np.testing.assert_allclose(screened.log_density(rows), plain.log_density(rows), rtol=1e-14)
    np.testing.assert_allclose(screened.responsibilities(rows), plain.responsibilities(rows), rtol=1e-12, atol=1e-26)
    a, b = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (screened, plain))
    assert_same_statistics(a, b, 1e-13)
    # And the log-joints of components that were screened off are about right.
    work, other = screened.workspace(), plain.workspace()
    np.testing.assert_allclose(screened.log_joint(rows, work), plain.log_joint(rows, other), rtol=1e-6)


@long_double
def test_negligible_responsibilities_do_not_matter(structure, library, monkeypatch):
    mixture = library.make_mixture(structure, 6, 2, deviation=0.2)
    rows = library.draw(mixture, 400)
    kernel = ResidualKernel(mixture, library.frame_of(rows))
    cut = kernel.statistics(rows, None, kernel.workspace())
    monkeypatch.setattr(residual, "NEGLIGIBLE", 0)
    whole = kernel.statistics(rows, None, kernel.workspace())
    r = library.Reference(mixture).responsibilities(rows)
    assert np.any((r > 0) & (r < 1e-26))
    assert_same_statistics(cut, whole, 1e-15)


# ---- sample weights


def test_integer_weights_repeat_rows(problem, arithmetic):
    mixture, rows, frame = problem
    times = np.random.default_rng(3).integers(0, 4, len(rows))
    kernel = KERNELS[arithmetic](mixture, frame)
    work = kernel.workspace()
    weighted = kernel.statistics(rows, times.astype(np.float64), work)
    repeated = kernel.statistics(np.repeat(rows, times, axis=0), None, work)
    assert_same_statistics(weighted, repeated, 1e-5 if arithmetic == "float32" else 1e-12)


@pytest.mark.parametrize("far", [0, 1e3, 1e9, 1e200])
def test_rows_of_weight_zero_say_nothing(problem, arithmetic, far):
    """Not even where their density underflows or their squares overflow."""
    mixture, rows, frame = problem
    weights = np.random.default_rng(4).random(len(rows)) * (np.arange(len(rows)) % 3 > 0)
    kernel = KERNELS[arithmetic](mixture, frame)
    work = kernel.workspace()
    moved = rows + np.where(weights == 0, far, 0)[:, None]
    one = kernel.statistics(moved, weights, work)
    other = kernel.statistics(rows[weights > 0], weights[weights > 0], work)
    assert_same_statistics(one, other, 1e-5 if arithmetic == "float32" else 1e-12)
    assert one.n_rows == len(rows)


def test_weights_of_one_are_no_weights(problem, arithmetic):
    mixture, rows, frame = problem
    kernel = KERNELS[arithmetic](mixture, frame)
    one = kernel.statistics(rows, np.ones(len(rows)), kernel.workspace())
    assert_same_statistics(
        one, kernel.statistics(rows, None, kernel.workspace()), 1e-5 if arithmetic == "float32" else 1e-14
    )


# ---- extreme data


def test_huge_offset_costs_nothing(structure, library):
    """Rows on a grid, so that moving them by 2^27, more than 1e8, is exact."""
    mixture = library.make_mixture(structure, 3, 2)
    rows = np.round(library.draw(mixture, 400) * 1024) / 1024
    near = MixtureParameters.from_covariances(
        structure, mixture.weights, np.round(mixture.means * 1024) / 1024, mixture.covariances
    )
    far = MixtureParameters.from_covariances(structure, near.weights, near.means + 2.0**27, near.covariances)
    results = []
    for parameters, offset in ((near, 0.0), (far, 2.0**27)):
        kernel = choose_kernel(parameters, library.frame_of(rows + offset), np.dtype(np.float64))
        statistics = kernel.statistics(rows + offset, None, kernel.workspace())
        results.append((kernel.arithmetic, statistics.log_likelihood, maximize(structure, statistics, 0)))
    (name, log_likelihood, here), (same, moved, there) = results
    assert (name, same) == ("float64", "float64")
    assert moved == pytest.approx(log_likelihood, rel=1e-12)
    np.testing.assert_allclose(there.covariances, here.covariances, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(there.means - 2.0**27, here.means, atol=1e-7)


def test_units_of_the_features_do_not_matter(structure, library):
    """Features a trillion times smaller and larger, without a ridge."""
    units = 2.0 ** np.array([-40, 40, 0]) if not isinstance(structure, Scalar) else np.full(3, 2.0**-40)
    mixture = library.make_mixture(structure, 3, 3)
    rows = library.draw(mixture, 300)
    scaled = MixtureParameters.from_covariances(
        structure,
        mixture.weights,
        mixture.means * units,
        structure.unscale_covariances(mixture.covariances, units),
    )
    for kind in (QuadraticKernel, ResidualKernel):
        kernel, other = kind(mixture, library.frame_of(rows)), kind(scaled, library.frame_of(rows * units))
        one = maximize(structure, kernel.statistics(rows, None, kernel.workspace()), 0)
        two = maximize(structure, other.statistics(rows * units, None, other.workspace()), 0)
        np.testing.assert_allclose(two.means / units, one.means, rtol=1e-12)
        expected = structure.unscale_covariances(one.covariances, units)
        np.testing.assert_allclose(two.covariances, expected, rtol=1e-11)
        np.testing.assert_allclose(other.labels(rows * units), kernel.labels(rows))


def test_constant_feature(structure, library):
    mixture = library.make_mixture(structure, 3, 3)
    rows = library.draw(mixture, 300)
    rows[:, 1] = 1e6 + 0.1
    for ridge in (1e-6, 1e-3):
        means = mixture.means.copy()
        means[:, 1] = rows[0, 1]
        start = MixtureParameters.from_covariances(structure, mixture.weights, means, mixture.covariances)
        kernel = choose_kernel(start, library.frame_of(rows), np.dtype(np.float64))
        found = maximize(structure, kernel.statistics(rows, None, kernel.workspace()), ridge)
        variances = np.broadcast_to(structure.marginal_variances(found.covariances, 3, 3), (3, 3))
        if not isinstance(structure, Scalar):
            np.testing.assert_allclose(variances[:, 1], ridge, rtol=1e-8)
        np.testing.assert_allclose(found.means[:, 1], rows[0, 1], rtol=1e-15)
        # The next iteration is accurate too, whatever arithmetic it takes.
        again = choose_kernel(found, library.frame_of(rows), np.dtype(np.float64))
        exact = library.Reference(found).log_density(rows)
        assert np.abs(again.log_density(rows) - exact).max() < 1e-8


def test_duplicated_rows(structure, library):
    """A few distinct rows, each a hundred times: the covariances are those of the distinct rows with their counts."""
    mixture = library.make_mixture(structure, 2, 2)
    distinct = library.draw(mixture, 7)
    rows = np.tile(distinct, (100, 1))
    for kind in KERNELS.values():
        kernel = kind(mixture, library.frame_of(rows))
        one = kernel.statistics(rows, None, kernel.workspace())
        other = kernel.statistics(distinct, np.full(7, 100.0), kernel.workspace())
        assert_same_statistics(one, other, 1e-5 if kernel.arithmetic == "float32" else 1e-12)


def test_many_features(structure, library):
    mixture = library.make_mixture(structure, 2, 300, spread=0.3)
    rows = library.draw(mixture, 40)
    kernel = choose_kernel(mixture, library.frame_of(rows), np.dtype(np.float64))
    assert kernel.arithmetic == ("precise" if structure.name == "full" else "float64")
    exact = library.Reference(mixture).log_density(rows[:5]).astype(float)
    for one in (kernel, ResidualKernel(mixture, library.frame_of(rows))):
        np.testing.assert_allclose(one.log_density(rows[:5]), exact, rtol=1e-11)
        weights, means, covariances = one_m_step(one, rows)
        r = kernel.responsibilities(rows)
        np.testing.assert_allclose(weights, r.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(means, r.T @ rows / r.sum(axis=0)[:, None], rtol=1e-8, atol=1e-10)
        expected = np.stack([np.cov(rows.T, aweights=w, ddof=0) for w in r.T])
        np.testing.assert_allclose(covariances, library.restrict(structure, expected, weights), rtol=1e-8, atol=1e-10)


def one_m_step(kernel, rows):
    structure = kernel.parameters.structure
    found = maximize(structure, kernel.statistics(rows, None, kernel.workspace()), 1e-3)
    return found.weights, found.means, structure.add_ridge(found.covariances, -1e-3)


def test_component_of_weight_zero(problem, arithmetic):
    mixture, rows, frame = problem
    weights = mixture.weights.copy()
    weights[3] = 0
    weights /= weights.sum()
    s = mixture.structure
    with_zero = MixtureParameters.from_covariances(s, weights, mixture.means, mixture.covariances)
    keep = [0, 1, 2, 4]
    covariances = mixture.covariances if s.shared else mixture.covariances[keep]
    without = MixtureParameters.from_covariances(s, weights[keep], mixture.means[keep], covariances)
    one, other = KERNELS[arithmetic](with_zero, frame), KERNELS[arithmetic](without, frame)
    rtol = 1e-5 if arithmetic == "float32" else 1e-12
    np.testing.assert_allclose(one.log_density(rows), other.log_density(rows), rtol=rtol)
    a, b = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (one, other))
    assert a.soft_counts[3] == 0
    assert not a.first[3].any()
    np.testing.assert_allclose(a.soft_counts[keep], b.soft_counts, rtol=rtol)
    np.testing.assert_allclose(a.first[keep], b.first, rtol=rtol, atol=rtol * 100)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=rtol)
    assert a.entropy == pytest.approx(b.entropy, rel=10 * rtol)
    assert np.array_equal(one.labels(rows) == 3, np.zeros(len(rows)))


@pytest.mark.parametrize("far", [1e2, 1e4, 1e8, 1e15, 1e30, 1e200])
def test_rows_far_from_everything(problem, arithmetic, far):
    """Their densities underflow, or even their squares overflow; results stay finite and sensible."""
    mixture, rows, frame = problem
    rows = rows.copy()
    rows[0] = [far, 0, -far]
    kernel = KERNELS[arithmetic](mixture, frame)
    log_density, responsibilities = kernel.log_density(rows), kernel.responsibilities(rows)
    assert np.isfinite(log_density).all()
    assert log_density[0] < -100
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1, rtol=1e-6)
    assert 0 <= kernel.labels(rows)[0] < 5
    statistics = kernel.statistics(rows, None, kernel.workspace())
    assert statistics.soft_counts.sum() == pytest.approx(len(rows), rel=1e-6)
    assert np.isfinite(statistics.second_moments).all()
    assert np.isfinite([statistics.log_likelihood, statistics.entropy]).all()


@long_double
@pytest.mark.parametrize("deviation", [0.05, 1e-3])
def test_underflowing_responsibilities(structure, library, deviation):
    """Components so far apart that most responsibilities are below the smallest number."""
    mixture = library.make_mixture(structure, 4, 2, deviation=deviation, spread=3)
    rows = library.draw(mixture, 200)
    frame, exact = library.frame_of(rows), library.Reference(mixture).responsibilities(rows)
    assert np.mean(exact.astype(float) == 0) > 0.3
    for kind in (QuadraticKernel, ResidualKernel):
        kernel = kind(mixture, frame)
        np.testing.assert_allclose(kernel.responsibilities(rows), exact.astype(float), atol=1e-8)
        statistics = kernel.statistics(rows, None, kernel.workspace())
        np.testing.assert_allclose(statistics.soft_counts, exact.astype(float).sum(axis=0), atol=1e-6)


# ---- dtypes and layouts

LAYOUTS = {
    "bool": lambda x: x > 0,
    "int8": lambda x: (10 * x).astype(np.int8),
    "uint16": lambda x: (100 + 10 * x).astype(np.uint16),
    "int64": lambda x: (10 * x).astype(np.int64),
    "uint64": lambda x: (100 + 10 * x).astype(np.uint64),
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x,
    "big-endian double": lambda x: x.astype(">f8"),
    "big-endian single": lambda x: x.astype(">f4"),
    "big-endian integer": lambda x: (10 * x).astype(">i4"),
    "Fortran order": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"0" + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])
def test_every_dtype_and_layout_equals_its_double_copy(problem, layout, kind):
    mixture, rows, _ = problem
    rows = LAYOUTS[layout](rows)
    copied = np.ascontiguousarray(rows, dtype=np.float64)
    kernel = kind(mixture, Frame.of(copied.mean(axis=0), copied.std(axis=0)))
    work = kernel.workspace()
    assert np.array_equal(kernel.log_density(rows, work), kernel.log_density(copied, work))
    assert np.array_equal(kernel.labels(rows, work), kernel.labels(copied, work))
    assert_same_statistics(kernel.statistics(rows, None, work), kernel.statistics(copied, None, work), 0)


def test_double_rows_keep_their_digits_in_single_products(problem):
    """The offset is taken off in double precision before anything is rounded."""
    mixture, rows, frame = problem
    kernel = QuadraticKernel(mixture, frame, np.float32)
    moved = MixtureParameters.from_covariances(
        mixture.structure, mixture.weights, mixture.means + 2.0**30, mixture.covariances
    )
    far = QuadraticKernel(moved, Frame(frame.center + 2.0**30, frame.scale), np.float32)
    np.testing.assert_allclose(far.log_density(rows + 2.0**30), kernel.log_density(rows), rtol=1e-5, atol=1e-5)


def test_rows_are_not_written_to(problem, arithmetic):
    mixture, rows, frame = problem
    kernel, before, weights = KERNELS[arithmetic](mixture, frame), rows.copy(), np.ones(len(rows))
    kernel.statistics(rows, weights, kernel.workspace())
    kernel.log_density(rows)
    kernel.responsibilities(rows)
    assert np.array_equal(rows, before)
    assert np.all(weights == 1)


@pytest.mark.parametrize("arithmetic", ["float32", "float64", "precise"])
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 5), (40, 6)])
def test_the_plan_is_what_the_workspace_takes(structure, arithmetic, n_components, n_features, library):
    parameters = library.make_mixture(structure, n_components, n_features)
    kernel = KERNELS[arithmetic](parameters, library.frame_of(library.draw(parameters, 50)))
    work = kernel.workspace()
    taken = held_bytes(work)
    assert taken <= kernel.plan.n_bytes
    # Beside its workspace the precise kernel takes the logarithms of the responsibilities, as much as the log-joints.
    spare = 8 * kernel.plan.rows * n_components if arithmetic == "precise" else 0
    assert kernel.plan.n_bytes == taken + spare


def held_bytes(work):
    """Size of all arrays in a workspace and those inside it."""
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else held_bytes(value)
        for value in vars(work).values()
        if value is not None
    )


@pytest.mark.parametrize("name", ["diag", "tied"])
@pytest.mark.parametrize("unit", [1.0, 1e-15, 1e15])
def test_the_unit_of_the_data_costs_single_precision_no_digits(library, name, unit):
    structure, n_features = STRUCTURES[name], 500
    rows = np.random.default_rng(0).normal(0, unit, (500, n_features)).astype(np.float32)
    means = np.stack([np.zeros(n_features), np.full(n_features, 0.1 * unit)])
    covariances = {"diag": np.full((2, n_features), unit**2), "tied": unit**2 * np.eye(n_features)[None]}[name]
    mixture = MixtureParameters.from_covariances(structure, np.array([0.5, 0.5]), means, covariances)
    frame = library.frame_of(rows)
    single, double = (QuadraticKernel(mixture, frame, dtype) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(single.log_density(rows), double.log_density(rows), rtol=0, atol=1e-3)
    np.testing.assert_allclose(single.responsibilities(rows), double.responsibilities(rows), rtol=0, atol=3e-4)
    one, other = (kernel.statistics(rows, None, kernel.workspace()) for kernel in (single, double))
    assert one.mean_log_likelihood == pytest.approx(other.mean_log_likelihood, abs=1e-4)
    assert one.entropy == pytest.approx(other.entropy, rel=1e-3, abs=1e-3)
