"""The kernel for few components: against the definition in long double, its precise twin, and its two forms."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from products import mostly_slow
from tracing import traced

from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import PLAIN
from daskgmm.core.kernel import RowResults
from daskgmm.core.kernel_choice import MixtureShape, ResidualKernel, WhitenedKernel, choose_backend
from daskgmm.core.maximum_likelihood import maximize
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.whitened import whitened_bound

pytestmark = pytest.mark.covering(2)

FULL = STRUCTURES["full"]
COMPILED = choose_backend(MixtureShape(FULL, 8, 8), 1e12)
BACKENDS = list({backend.name: backend for backend in (PLAIN, COMPILED)}.values())
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
each_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=lambda dtype: dtype.__name__)
SUMS = ("soft_counts", "first", "second_moments", "log_likelihood", "entropy", "weight_sum")

long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= np.finfo(float).eps, reason="here long double is no more precise than double"
)


@pytest.fixture(params=["full", "diag", "spherical", "tied-diag", "tied-spherical"])
def structure(request):
    """Every structure that the kernel serves."""
    return STRUCTURES[request.param]


def statistics(kernel, rows, weights=None):
    with np.errstate(over="ignore", invalid="ignore"):
        return kernel.statistics(rows, weights, kernel.workspace())


def assert_close(one, other, rtol):
    for name in SUMS:
        a, b = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(), other.weight_sum), err_msg=name)


def tolerance(dtype):
    return 1e-12 if dtype == np.float64 else 2e-5


# ---- accuracy


@long_double
@each_backend
@each_dtype
@pytest.mark.parametrize("n_features", [1, 2, 16])
@pytest.mark.parametrize("deviation", [1, 1e-2, 1e-3, 1e-7])
def test_log_densities_are_as_accurate_as_promised(library, structure, backend, dtype, n_features, deviation):
    mixture = library.make_mixture(structure, 3, n_features, deviation=deviation, spread=1)
    rows = library.draw(mixture, 300).astype(dtype)
    exact = library.Reference(mixture).log_density(rows)
    kernel = WhitenedKernel(mixture, frame := library.frame_of(rows), dtype, backend)
    error = np.abs(kernel.log_density(rows) - exact) / np.maximum(1, np.abs(exact))
    bound = whitened_bound(mixture, frame)
    assert np.isinf(bound) == (deviation < 1e-6)
    if dtype == np.float64:
        assert error.max() <= 1e-14
    elif np.isfinite(bound):
        assert error.max() <= bound


@long_double
@each_backend
@pytest.mark.covering
@pytest.mark.parametrize("condition", [1, 10, 100, 1000, 9000])
@pytest.mark.parametrize("n_features", [2, 8, 40])
def test_single_precision_errs_less_than_its_bound(library, backend, n_features, condition):
    """Also where features nearly depend on each other; covariances of the next M-step err by a hundredth at most."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(3, n_features, n_features)))[0]
    spectra = np.geomspace(1, condition, n_features)
    covariances = axes * spectra @ axes.transpose(0, 2, 1)
    means = 2 * np.sqrt(condition) * random.normal(size=(3, n_features))
    mixture = MixtureParameters.from_covariances(FULL, np.array([0.2, 0.3, 0.5]), means, covariances)
    rows = library.draw(mixture, 4000).astype(np.float32)
    frame = library.frame_of(rows)
    kernel, precise = WhitenedKernel(mixture, frame, np.float32, backend), ResidualKernel(mixture, frame)
    size = np.maximum(1, np.abs(exact := library.Reference(mixture).log_density(rows[:500])))
    assert (np.abs(kernel.log_density(rows[:500]) - exact) <= whitened_bound(mixture, frame) * size).all()
    single, double = (maximize(FULL, statistics(k, rows), 0) for k in (kernel, precise))
    factors = double.precisions_cholesky
    errors = factors.transpose(0, 2, 1) @ (single.covariances - double.covariances) @ factors
    assert np.abs(errors).max() < 1e-2
    if whitened_bound(mixture, frame) <= 1e-3:  # then the kernel may be chosen
        assert kernel.resolves(mixture)
    assert not kernel.resolves(
        MixtureParameters.from_covariances(FULL, double.weights, double.means, 1e-9 * double.covariances)
    )


@each_backend
@pytest.mark.covering
@pytest.mark.parametrize("name", ["full", "diag"])
@pytest.mark.parametrize(
    ("n_features", "unit"),
    mostly_slow([(120, 1.0), (400, 1.0), (1000, 1.0), (120, 1e-9), (784, 100.0)], (120, 1.0), (120, 1e-9)),
)
def test_the_bound_counts_the_size_of_log_densities(library, backend, name, n_features, unit):
    """With many features, single precision rounds a log-density by more than its distance errs; units do not matter."""
    rows = np.random.default_rng(0).normal(0, unit, (1000, n_features)).astype(np.float32)
    covariances = unit**2 * (np.eye(n_features) if name == "full" else np.ones(n_features))[None]
    means = np.zeros((1, n_features))
    mixture = MixtureParameters.from_covariances(STRUCTURES[name], np.ones(1), means, covariances)
    frame = library.frame_of(rows)
    single, double = (WhitenedKernel(mixture, frame, dtype, backend) for dtype in (np.float32, np.float64))
    errors = np.abs(single.log_density(rows) - double.log_density(rows))
    assert errors.max() <= whitened_bound(mixture, frame) < 1e-3


@each_backend
def test_single_precision_does_not_sum_many_rows(library, backend):
    """Log-densities and moments of equal rows, whose rounding does not average out."""
    mixture = MixtureParameters.from_covariances(FULL, np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    rows = np.full((8000, 2), 1.1, np.float32)
    kernel = WhitenedKernel(mixture, library.frame_of(rows - [[0], [1]] * 4000), np.float32, backend)
    whole, one = statistics(kernel, rows), statistics(kernel, rows[:1])
    assert whole.log_likelihood == pytest.approx(8000 * one.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(whole.first, 8000 * one.first, rtol=3e-6)
    np.testing.assert_allclose(whole.second_moments, 8000 * one.second_moments, rtol=3e-6)


@each_dtype
@each_backend
def test_the_log_likelihood_of_one_component_follows_from_its_moments(library, structure, backend, dtype):
    """Also of rows of weight zero, however far away, and of equal rows, whose rounding does not average out."""
    mixture = library.make_mixture(structure, 1, 5)
    rows = np.tile(library.draw(mixture, 3), (3000, 1)).astype(dtype)
    kernel = WhitenedKernel(mixture, library.frame_of(rows), dtype, backend)
    few, weights = rows[:3], np.array([0.5, 2, 1])
    one = float(weights @ kernel.log_density(few))
    many = statistics(kernel, rows, np.tile(weights, 3000))
    assert many.log_likelihood == pytest.approx(3000 * one, rel=1e-13 if dtype == np.float64 else 1e-6)
    assert many.entropy == 0
    far = np.concatenate([few, np.full((1, 5), np.finfo(dtype).max)])
    with_far = statistics(kernel, far, np.append(weights, 0.0))
    assert with_far.log_likelihood == pytest.approx(one, rel=1e-13 if dtype == np.float64 else 1e-6)
    np.testing.assert_allclose(with_far.second_moments, statistics(kernel, few, weights).second_moments, rtol=1e-6)
    assert np.isfinite(statistics(kernel, far).second_moments).all()


@each_dtype
@each_backend
@pytest.mark.parametrize("n_components", [1, 3])
def test_a_row_far_away_does_not_change_the_others(library, structure, backend, dtype, n_components):
    mixture = library.make_mixture(structure, n_components, 4)
    rows = library.draw(mixture, 301).astype(dtype)
    kernel = WhitenedKernel(mixture, library.frame_of(rows), dtype, backend)
    before = kernel.log_density(rows)
    rows[150] = np.finfo(dtype).max / 4
    after = kernel.log_density(rows)
    assert after[150] < -1e10
    np.testing.assert_array_equal(np.delete(after, 150), np.delete(before, 150))


@long_double
@each_backend
def test_the_mean_log_density_errs_less_than_its_rounding(library, structure, backend):
    mixture = library.make_mixture(structure, 4, 12, deviation=0.5, spread=20)
    rows = library.draw(mixture, 2000).astype(np.float32)
    frame = library.frame_of(rows)
    exact = float(library.Reference(mixture).log_density(rows).mean())
    for dtype in (np.float32, np.float64):
        kernel = WhitenedKernel(mixture, frame, dtype, backend)
        found = statistics(kernel, rows)
        rounding = kernel.rounding(maximize(structure, found, 1e-6))
        assert (rounding == 0) == (dtype == np.float64)
        assert abs(found.mean_log_likelihood - exact) <= max(rounding, 1e-13)


@each_dtype
@each_backend
@pytest.mark.parametrize(
    ("n_components", "n_features", "n_rows"), [(1, 1, 1), (2, 3, 700), (5, 17, 1001), (3, 70, 500), (12, 4, 3000)]
)
@pytest.mark.parametrize("spread", [0.3, 30])
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_the_precise_kernel(
    library, structure, backend, dtype, n_components, n_features, n_rows, spread, weighted
):
    """With components that overlap, and with some so far apart that most pairs of row and component do not matter."""
    mixture = library.make_mixture(structure, n_components, n_features, spread=spread)
    rows = library.draw(mixture, n_rows).astype(dtype)
    weights = np.random.default_rng(3).uniform(0, 2, n_rows) if weighted else None
    frame = library.frame_of(rows) if n_rows > 1 else library.frame_of(np.concatenate([rows, rows + 1]))
    found = statistics(WhitenedKernel(mixture, frame, dtype, backend), rows, weights)
    assert found.n_rows == n_rows
    assert_close(found, statistics(ResidualKernel(mixture, frame), rows, weights), tolerance(dtype))


@each_dtype
def test_both_forms_give_the_same_results(library, structure, dtype):
    mixture = library.make_mixture(structure, 4, 9)
    rows = library.draw(mixture, 3000).astype(dtype)
    results = []
    for backend in BACKENDS:
        kernel = pickle.loads(pickle.dumps(WhitenedKernel(mixture, library.frame_of(rows), dtype, backend)))
        arrays = np.empty(3000, np.int64), np.empty((3000, 4)), np.empty(3000), np.empty(3000)
        kernel.fill(RowResults(*arrays), rows)
        assert np.array_equal(kernel.labels(rows), arrays[0])
        results.append(arrays)
    for one, other in zip(results[0], results[-1], strict=True):
        np.testing.assert_allclose(one, other, atol=100 * np.finfo(dtype).eps, rtol=100 * np.finfo(dtype).eps)


# ---- extreme data


@each_dtype
@each_backend
@pytest.mark.parametrize("far", [1e2, 1e8, 1e30, 1e200])
def test_rows_far_from_everything(library, structure, backend, dtype, far):
    mixture = library.make_mixture(structure, 3, 3)
    rows = library.draw(mixture, 400)
    frame = library.frame_of(rows)
    rows[7] = [far, 0, -far]
    rows = np.clip(rows, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)
    kernel = WhitenedKernel(mixture, frame, dtype, backend)
    log_density, responsibilities = kernel.log_density(rows), kernel.responsibilities(rows)
    assert np.isfinite(log_density).all()
    assert log_density[7] < -100
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1, rtol=1e-6)
    found = statistics(kernel, rows)
    assert np.isfinite(found.second_moments).all()
    assert np.isfinite([found.log_likelihood, found.entropy]).all()
    without = statistics(kernel, rows, (np.arange(400) != 7).astype(float))
    assert_close(without, statistics(kernel, np.delete(rows, 7, axis=0)), tolerance(dtype))


@each_dtype
@each_backend
def test_huge_offset_costs_nothing(library, structure, backend, dtype):
    mixture = library.make_mixture(structure, 3, 2)
    grid = 2.0**10 if dtype == np.float64 else 2.0**4
    offset = 2.0**27 if dtype == np.float64 else 2.0**16
    rows = (np.round(library.draw(mixture, 400) * grid) / grid).astype(dtype)
    means = np.round(mixture.means * grid) / grid
    found = []
    for shift in (0.0, offset):
        moved = MixtureParameters.from_covariances(structure, mixture.weights, means + shift, mixture.covariances)
        frame = library.frame_of(rows.astype(float) + shift)
        found.append(statistics(WhitenedKernel(moved, frame, dtype, backend), rows + dtype(shift)))
    assert_close(found[1], found[0], tolerance(dtype))


@each_dtype
@each_backend
def test_component_of_weight_zero(library, structure, backend, dtype):
    mixture = library.make_mixture(structure, 3, 4)
    rows = library.draw(mixture, 500).astype(dtype)
    none = replace(mixture, weights=np.array([0.4, 0.0, 0.6]))
    rest = MixtureParameters.from_covariances(
        structure, np.array([0.4, 0.6]), mixture.means[[0, 2]], structure.take(mixture.covariances, np.array([0, 2]))
    )
    frame = library.frame_of(rows)
    one, other = (statistics(WhitenedKernel(p, frame, dtype, backend), rows) for p in (none, rest))
    assert one.soft_counts[1] == 0
    assert not one.first[1].any()
    moments = structure.take(one.second_moments, np.array([0, 2]))
    np.testing.assert_allclose(moments, other.second_moments, rtol=1e-5, atol=1e-3)
    assert structure.shared or not one.second_moments[1].any()
    assert one.entropy == pytest.approx(other.entropy, rel=1e-5)


@each_dtype
@each_backend
def test_what_is_not_a_number_shows(library, structure, backend, dtype):
    mixture = library.make_mixture(structure, 2, 3)
    rows = library.draw(mixture, 300).astype(dtype)
    frame = library.frame_of(rows)
    rows[5, 1] = np.nan
    kernel = WhitenedKernel(mixture, frame, dtype, backend)
    assert np.isnan(statistics(kernel, rows).log_likelihood)
    assert np.flatnonzero(np.isnan(kernel.log_density(rows))).tolist() == [5]


# ---- layouts and memory


@each_backend
@pytest.mark.parametrize("layout", ["int16", ">f8", "float16", "uint64", "Fortran", "strided", "read-only"])
def test_every_dtype_and_layout_equals_its_double_copy(library, structure, backend, layout):
    mixture = library.make_mixture(structure, 3, 5)
    rows = library.draw(mixture, 600)
    forms = {
        "Fortran": lambda: np.asfortranarray(rows),
        "strided": lambda: np.repeat(rows, 2, axis=0)[::2],
        "read-only": lambda: np.frombuffer(rows.tobytes()).reshape(rows.shape),
    }
    given = forms[layout]() if layout in forms else np.abs(10 * rows).astype(layout)
    copied = np.ascontiguousarray(given, dtype=float)
    kernel = WhitenedKernel(mixture, library.frame_of(copied), backend=backend)
    assert_close(statistics(kernel, given), statistics(kernel, copied), 0)
    assert np.array_equal(kernel.log_density(given), kernel.log_density(copied))


@each_dtype
@each_backend
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 5), (40, 6), (2, 200)])
def test_the_plan_is_what_the_workspace_takes(library, structure, backend, dtype, n_components, n_features):
    mixture = library.make_mixture(structure, n_components, n_features)
    kernel = WhitenedKernel(mixture, library.frame_of(library.draw(mixture, 50)), dtype, backend)
    assert kernel.plan.n_bytes == sum(array.nbytes for array in vars(kernel.workspace()).values())


@each_dtype
@each_backend
def test_log_joints_need_no_memory_beside_the_workspace(library, backend, dtype):
    mixture = library.make_mixture(FULL, 3, 64)
    rows = np.asarray(library.draw(mixture, 2000), dtype)
    kernel = WhitenedKernel(mixture, library.frame_of(rows), dtype, backend)
    work, rows = kernel.workspace(), np.ascontiguousarray(rows[: kernel.plan.rows])
    kernel.log_joint(rows, work)  # loads what is compiled
    with traced() as peak:
        kernel.log_joint(rows, work)
    assert peak.n_bytes < work.z.nbytes / 2


@each_backend
def test_no_rows(library, structure, backend):
    mixture = library.make_mixture(structure, 2, 3)
    rows = library.draw(mixture, 20)
    kernel = WhitenedKernel(mixture, library.frame_of(rows), backend=backend)
    assert_close(statistics(kernel, rows[:0]), kernel.zero(), 0)
    assert kernel.log_density(rows[:0]).shape == (0,)
    assert kernel.labels(rows[:1]).shape == (1,)
