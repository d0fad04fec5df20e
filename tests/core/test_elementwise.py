"""The loops of an E-step: each form against NumPy and SciPy, and the compiled form against its plain twin."""

import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from daskgmm.core import kernel_choice as module
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import PLAIN, ElementwiseBackend, FeatureMap, Scratch
from daskgmm.core.kernel_choice import MixtureShape, QuadraticKernel, ResidualKernel, choose_backend
from daskgmm.core.structure import CovarianceStructure

numba = pytest.importorskip("numba")

from daskgmm.core.compiled import CompiledBackend  # noqa: E402

pytestmark = pytest.mark.covering

BACKENDS = [PLAIN, CompiledBackend()]
TOLERANCE = {np.float64: 2e-15, np.float32: 1e-6}
both = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: dtype.__name__)


def test_plain_loops_where_numba_is_switched_off() -> None:
    """As debuggers and coverage do; in a process of its own, because numba reads it when it is imported."""
    asked = (
        "from daskgmm.core.covariance import STRUCTURES\n"
        "from daskgmm.core.kernel_choice import PLAIN, MixtureShape, choose_backend\n"
        "print(choose_backend(MixtureShape(STRUCTURES['full'], 8, 8), 1e12) is PLAIN)"
    )
    for disabled, plain in ("0", "False"), ("1", "True"):
        environ = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run([sys.executable, "-c", asked], env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == plain


@both
@each_dtype
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (10, 256), (5, 1000)])
@pytest.mark.parametrize("spread", [1e-3, 30.0, 600.0])
def test_normalise(backend: ElementwiseBackend, dtype: type, shape: tuple[int, int], spread: float) -> None:
    rng = np.random.default_rng(0)
    joint = (spread * rng.normal(size=shape)).astype(dtype)
    weights = rng.uniform(size=shape[1])
    given = joint.astype(np.float64)
    for factor in (None, weights):
        result = joint.copy()
        density = backend.normalise(result, factor)
        assert density.dtype == np.float64
        expected = softmax(given, axis=0) * (1 if factor is None else factor)
        np.testing.assert_allclose(density, logsumexp(given, axis=0), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        smallest = np.finfo(dtype).tiny ** 0.97 if dtype == np.float64 else 1.1e-30
        large = expected > smallest  # smaller ones may be taken for zero
        np.testing.assert_allclose(result[large], expected[large], rtol=5 * TOLERANCE[dtype] * max(1, spread / 10))
        assert result[~large].max(initial=0) < 2 * smallest


@both
@each_dtype
def test_normalise_keeps_what_is_not_a_number(backend: ElementwiseBackend, dtype: type) -> None:
    joint = np.zeros((3, 4), dtype)
    joint[:, 2] = np.nan
    density = backend.normalise(joint, None)
    assert np.isnan(density[2])
    assert np.isfinite(density[[0, 1, 3]]).all()


def fill(
    backend: ElementwiseBackend,
    rows: Any,
    center: Any,
    inverse_scale: Any,
    clip_limit: float,
    dtype: type = np.float64,
    structure: CovarianceStructure = STRUCTURES["tied"],
) -> Any:
    """Features of some rows, without the last, which is one."""
    n_features = rows.shape[1]
    out = np.full((structure.n_quadratic(n_features) + n_features + 1, len(rows)), np.nan, dtype)
    backend.fill(FeatureMap(structure, np.array(center), np.array(inverse_scale), clip_limit), rows, out)
    np.testing.assert_array_equal(out[-1], 1)
    return out[:-1]


@both
@each_dtype
@pytest.mark.parametrize("kind", ["f8", "f4", ">f8", "i2", "u1", "?"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_rows_move_into_their_frame(backend: ElementwiseBackend, dtype: type, kind: str, layout: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, size=(37, 5)).astype(kind)
    rows = (
        np.asfortranarray(rows) if layout == "F" else np.repeat(rows, 2, axis=0)[::2] if layout == "strided" else rows
    )
    center, inverse = np.linspace(-1, 1, 5), 2.0 ** np.arange(-2, 3)
    z = fill(backend, rows, center, inverse, 1e15, dtype)
    np.testing.assert_array_equal(z, ((rows.astype(np.float64) - center) * inverse).T.astype(dtype))


@both
@pytest.mark.parametrize(
    ("dtype", "rows"),
    [
        (np.float32, np.array([[16_777_216.0], [16_777_218.0]], np.float32)),
        (np.float32, np.array([[16_777_216.5], [16_777_217.5]], np.float64) + 0.5),
    ],
)
def test_offsets_are_taken_in_double_precision(backend: ElementwiseBackend, dtype: type, rows: Any) -> None:
    np.testing.assert_array_equal(
        fill(backend, rows, [16_777_217.0], np.ones(1), 1e9, dtype), rows.astype(float).T - 16_777_217
    )


@both
def test_reach(backend: ElementwiseBackend) -> None:
    rows = np.array([[1e300], [-np.inf], [np.nan], [3.0]])
    np.testing.assert_array_equal(fill(backend, rows, np.zeros(1), np.ones(1), 1e6), [[1e6, -1e6, np.nan, 3]])


@both
@each_dtype
@pytest.mark.parametrize("n_features", [1, 2, 9])
def test_quadratic_features(
    backend: ElementwiseBackend, dtype: type, n_features: int, structure: CovarianceStructure
) -> None:
    rows = np.random.default_rng(0).normal(size=(33, n_features)).astype(dtype)
    result = fill(backend, rows, np.zeros(n_features), np.ones(n_features), 1e9, dtype, structure)
    expected = np.zeros((structure.n_quadratic(n_features), 33))
    for left, right, feature in zip(*structure.quadratic_terms(n_features), strict=True):
        expected[feature] += rows[:, left].astype(float) * rows[:, right]
    np.testing.assert_allclose(result[: len(expected)], expected, rtol=n_features * np.finfo(dtype).eps)
    np.testing.assert_array_equal(result[len(expected) :], rows.T)


@both
@each_dtype
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_rows", [1, 248, 249, 1000])
def test_expectation(
    backend: ElementwiseBackend, dtype: type, weighted: bool, n_rows: int, structure: CovarianceStructure
) -> None:
    """One call for many blocks, against the formulas."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_rows, 3)).astype(dtype)
    weights = rng.uniform(0, 2, size=n_rows) if weighted else None
    phi = np.concatenate(
        [fill(backend, rows, np.zeros(3), np.ones(3), 1e9, np.float64, structure), np.ones((1, n_rows))]
    )
    natural = rng.normal(size=(4, len(phi)))
    features = FeatureMap(structure, np.zeros(3), np.ones(3), 1e9)
    shapes = (len(phi), 504), (4, 504), natural.shape
    sums = np.ones(natural.shape)
    scratch = Scratch(natural.astype(dtype), *(np.full(shape, np.nan, dtype) for shape in shapes))
    density = backend.expectation(features, rows, weights, scratch, sums)
    joint = natural @ phi
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(density, logsumexp(joint, axis=0), **tolerance)
    expected = 1 + (softmax(joint, axis=0) * (1 if weights is None else weights)) @ phi.T
    np.testing.assert_allclose(sums, expected, **tolerance)


def test_compiled_loops_take_rows_that_cannot_be_written() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    rows.flags.writeable = False
    np.testing.assert_array_equal(fill(BACKENDS[1], rows, np.zeros(2), np.ones(2), 1e9), rows.T)


@pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])
def test_kernels_with_either(structure: CovarianceStructure, kind: type, library: Any) -> None:
    parameters = library.make_mixture(structure, 4, 3)
    rows = library.draw(parameters, 700)
    frame, weights = library.frame_of(rows), np.random.default_rng(1).uniform(size=len(rows))
    plain, compiled = (kind(parameters, frame, backend=backend) for backend in BACKENDS)
    compiled = pickle.loads(pickle.dumps(compiled))
    one = plain.statistics(rows, weights, plain.workspace())
    two = compiled.statistics(rows, weights, compiled.workspace())
    for field in ("soft_counts", "first", "second_moments", "log_likelihood", "entropy", "weight_sum"):
        a, b = getattr(one, field), getattr(two, field)
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11 * np.abs(a).max())
    np.testing.assert_allclose(compiled.log_density(rows), plain.log_density(rows), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(compiled.responsibilities(rows), plain.responsibilities(rows), atol=1e-13)


@pytest.mark.parametrize("name", [name for name, structure in STRUCTURES.items() if structure.shared])
def test_common_moments_once(library: Any, name: str) -> None:
    """The part that an E-step with shared matrices leaves out when it is known, and `complete` adds."""
    parameters = library.make_mixture(STRUCTURES[name], 4, 3)
    rows = library.draw(parameters, 700)
    whole = QuadraticKernel(parameters, library.frame_of(rows))
    part = QuadraticKernel(parameters, library.frame_of(rows), common_known=True)
    expected = whole.statistics(rows, None, whole.workspace())
    incomplete = part.statistics(rows, None, part.workspace())
    assert not incomplete.second_moments.any()
    completed = part.complete(incomplete, expected.second_moments)
    np.testing.assert_array_equal(completed.second_moments, expected.second_moments)
    np.testing.assert_allclose(completed.log_likelihood, expected.log_likelihood, rtol=1e-14)
    np.testing.assert_allclose(completed.entropy, expected.entropy, rtol=1e-14)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = MixtureShape(STRUCTURES["full"], 8, 8)
    assert choose_backend(shape, 1000) is PLAIN
    assert choose_backend(shape, 10**9).name == "compiled"
    assert choose_backend(shape, 10**9, compiled=False) is PLAIN
    monkeypatch.setattr(module, "_compiled", lambda: None)  # numba is not installed
    assert choose_backend(shape, 10**9) is PLAIN


@pytest.mark.parametrize(
    ("name", "n_features", "n_components", "n_rows", "n_passes", "compiled"),
    [
        ("full", 64, 64, 40_000, 30, True),  # few log-joints, much work in each
        ("full", 16, 4, 200_000, 30, True),
        ("full", 8, 8, 5_000, 30, False),
        ("diag", 64, 64, 5_000, 30, False),
        ("tied", 3, 8, 20_000, 30, False),
        ("full", 64, 64, 40_000, 1, False),  # a score: one pass does not repay loading
        ("spherical", 2, 4, 100_000_000, 1, True),
    ],
)
def test_compiled_loops_serve_fits_that_repay_loading(
    name: str, n_features: int, n_components: int, n_rows: int, n_passes: int, compiled: bool
) -> None:
    shape = MixtureShape(STRUCTURES[name], n_components, n_features)
    assert choose_backend(shape, n_rows, n_passes).name == ("compiled" if compiled else "numpy")
