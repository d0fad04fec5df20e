"""The loops of an E-step: each form against NumPy and SciPy, and the compiled form against its plain twin."""

import pickle
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from daskgmm.core import loops as module
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernels import QuadraticKernel, ResidualKernel
from daskgmm.core.loops import PLAIN, Loops, choose_loops
from daskgmm.core.structure import CovarianceStructure

numba = pytest.importorskip("numba")

from daskgmm.core.compiled import CompiledLoops  # noqa: E402

LOOPS = [PLAIN, CompiledLoops()]
TOLERANCE = {np.float64: 2e-15, np.float32: 1e-6}
both = pytest.mark.parametrize("loops", LOOPS, ids=lambda loops: loops.name)
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: dtype.__name__)


@both
@each_dtype
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (10, 256), (5, 1000)])
@pytest.mark.parametrize("spread", [1e-3, 30.0, 600.0])
def test_normalise(loops: Loops, dtype: type, shape: tuple[int, int], spread: float) -> None:
    rng = np.random.default_rng(0)
    joint = (spread * rng.normal(size=shape)).astype(dtype)
    weights = rng.uniform(size=shape[1])
    given = joint.astype(np.float64)
    for factor in (None, weights):
        result = joint.copy()
        density = loops.normalise(result, factor)
        assert density.dtype == np.float64
        expected = softmax(given, axis=0) * (1 if factor is None else factor)
        np.testing.assert_allclose(density, logsumexp(given, axis=0), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        large = expected > np.finfo(dtype).tiny ** 0.97  # smaller ones may be taken for zero
        np.testing.assert_allclose(result[large], expected[large], rtol=5 * TOLERANCE[dtype] * max(1, spread / 10))
        assert result[~large].max(initial=0) < 2 * np.finfo(dtype).tiny ** 0.97


@both
@each_dtype
def test_normalise_keeps_what_is_not_a_number(loops: Loops, dtype: type) -> None:
    joint = np.zeros((3, 4), dtype)
    joint[:, 2] = np.nan
    density = loops.normalise(joint, None)
    assert np.isnan(density[2])
    assert np.isfinite(density[[0, 1, 3]]).all()


@both
@each_dtype
@pytest.mark.parametrize("kind", ["f8", "f4", ">f8", "i2", "u1", "?"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_standardise(loops: Loops, dtype: type, kind: str, layout: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, size=(37, 5)).astype(kind)
    rows = (
        np.asfortranarray(rows) if layout == "F" else np.repeat(rows, 2, axis=0)[::2] if layout == "strided" else rows
    )
    center, inverse = np.linspace(-1, 1, 5), 2.0 ** np.arange(-2, 3)
    out = np.empty((5, 37), dtype)
    loops.standardise(rows, center, inverse, 1e15, out)
    np.testing.assert_array_equal(out, ((rows.astype(np.float64) - center) * inverse).T.astype(dtype))


@both
def test_offsets_are_taken_in_double_precision(loops: Loops) -> None:
    rows = np.array([[16_777_216.0], [16_777_218.0]], np.float32)
    out = np.empty((1, 2), np.float32)
    loops.standardise(rows, np.array([16_777_217.0]), np.ones(1), 1e9, out)
    np.testing.assert_array_equal(out, [[-1, 1]])


@both
def test_reach(loops: Loops) -> None:
    out = np.empty((1, 4))
    loops.standardise(np.array([[1e300], [-np.inf], [np.nan], [3.0]]), np.zeros(1), np.ones(1), 1e6, out)
    np.testing.assert_array_equal(out, [[1e6, -1e6, np.nan, 3]])


@both
@each_dtype
@pytest.mark.parametrize("n_features", [1, 2, 9])
def test_products(loops: Loops, dtype: type, n_features: int) -> None:
    z = np.random.default_rng(0).normal(size=(n_features, 33)).astype(dtype)
    i, j = np.triu_indices(n_features)
    out = np.empty((len(i), 33), dtype)
    loops.products(z, out)
    np.testing.assert_array_equal(out, z[i] * z[j])


@pytest.mark.parametrize("kind", [QuadraticKernel, ResidualKernel])
def test_kernels_with_either(structure: CovarianceStructure, kind: type, library: Any) -> None:
    parameters = library.make_mixture(structure, 4, 3)
    rows = library.draw(parameters, 700)
    frame, weights = library.frame_of(rows), np.random.default_rng(1).uniform(size=len(rows))
    plain, compiled = (kind(parameters, frame, loops=loops) for loops in LOOPS)
    compiled = pickle.loads(pickle.dumps(compiled))
    one = plain.statistics(rows, weights, plain.workspace())
    two = compiled.statistics(rows, weights, compiled.workspace())
    for field in ("soft_counts", "first", "second", "log_likelihood", "entropy", "weight_sum"):
        a, b = getattr(one, field), getattr(two, field)
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11 * np.abs(a).max())
    np.testing.assert_allclose(compiled.log_density(rows), plain.log_density(rows), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(compiled.responsibilities(rows), plain.responsibilities(rows), atol=1e-13)


def test_common_moments_once(library: Any) -> None:
    """What a tied E-step leaves out when it is known, and `complete` adds, changes nothing."""
    parameters = library.make_mixture(STRUCTURES["tied"], 4, 3)
    rows = library.draw(parameters, 700)
    whole = QuadraticKernel(parameters, library.frame_of(rows))
    part = QuadraticKernel(parameters, library.frame_of(rows), common_known=True)
    expected = whole.statistics(rows, None, whole.workspace())
    incomplete = part.statistics(rows, None, part.workspace())
    assert not incomplete.second.any()
    completed = part.complete(incomplete, expected.second)
    np.testing.assert_array_equal(completed.second, expected.second)
    np.testing.assert_allclose(completed.log_likelihood, expected.log_likelihood, rtol=1e-14)
    np.testing.assert_allclose(completed.entropy, expected.entropy, rtol=1e-14)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_loops(1000) is PLAIN
    assert choose_loops(10**9).name == "compiled"
    monkeypatch.setattr(module, "_compiled", lambda: None)  # numba is not installed
    assert choose_loops(10**9) is PLAIN
