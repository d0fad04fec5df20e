"""Rows drawn as lazy arrays: their distribution, and the same rows for any chunks."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.core.drawing import RowSequence
from daskgmm.names import COVARIANCE_TYPES

K, D = 3, 2
RNG = np.random.default_rng(0)
WEIGHTS, MEANS = np.array([0.5, 0.0, 0.5]), np.array([[0.0, 0.0], [9.0, 9.0], [5.0, -5.0]])
FULL = np.array([[1.0, 0.6], [0.6, 2.0]])
COVARIANCES = {
    "full": np.stack([FULL, FULL, FULL / 4]),
    "tied": FULL,
    "diag": np.array([[1.0, 2.0], [1.0, 1.0], [0.5, 0.25]]),
    "spherical": np.array([1.0, 1.0, 0.25]),
    "tied-diag": np.array([1.0, 2.0]),
    "tied-spherical": np.array([2.0]),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(covariance_type="full", random_state=0):
    given = {"covariance_type": covariance_type, "random_state": random_state}
    return GaussianMixture.from_parameters(WEIGHTS, MEANS, COVARIANCES[covariance_type], **given)


def compute(*arrays):
    return dask.compute(*arrays, scheduler="synchronous")


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_rows_have_the_distribution_of_the_mixture(covariance_type):
    n = 40_000
    x, labels = compute(*make(covariance_type).sample(n, chunks=9_000))
    counts = np.bincount(labels, minlength=K)
    assert counts[1] == 0  # its weight is zero
    assert stats.binomtest(int(counts[0]), n, 0.5).pvalue > 1e-4
    for k in (0, 2):
        values = COVARIANCES[covariance_type]
        own = values if covariance_type.startswith("tied") else values[k]
        expected = own if own.shape == (D, D) else np.eye(D) * own
        whitened = np.linalg.solve(np.linalg.cholesky(expected), (x[labels == k] - MEANS[k]).T)
        for marginal in (*whitened, (whitened[0] + whitened[1]) / np.sqrt(2)):
            assert stats.kstest(marginal, "norm").pvalue > 1e-4


def test_rows_are_in_random_order():
    _, labels = compute(*make().sample(20_000, chunks=5_000))
    changes = np.count_nonzero(np.diff(labels))
    assert stats.binomtest(changes, 19_999, 0.5).pvalue > 1e-4


def test_rows_depend_on_the_seed_and_their_number_alone():
    expected, expected_labels = compute(*make().sample(10_000, chunks=10_000))
    for n, chunks in ((10_000, 999), (9_000, ((4096, 1, 4903), D)), (12_345, "40 kiB"), (5, -1), (10_000, "auto")):
        x, labels = make().sample(n, chunks=chunks)
        x, labels = compute(x[:10_000], labels[:10_000])
        np.testing.assert_array_equal(x, expected[:n])
        np.testing.assert_array_equal(labels, expected_labels[:n])
    x, labels = make().sample(10_000, chunks=3_000)
    np.testing.assert_array_equal(compute(x[5_000:5_010])[0], expected[5_000:5_010])
    again = pickle.loads(pickle.dumps(x))
    np.testing.assert_array_equal(again.compute(scheduler="threads"), expected)


def test_rows_do_not_depend_on_the_number_of_blas_threads():
    """Workers compute with one thread, and this process with more: products of large matrices round differently."""
    d = 300
    root = np.tril(RNG.normal(size=(d, d)))
    with threadpool_limits(1):
        covariance = root @ root.T + d * np.eye(d)
    given = {"covariance_type": "tied", "random_state": 0}
    model = GaussianMixture.from_parameters([1.0], np.zeros((1, d)), (covariance + covariance.T) / 2, **given)
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append((model.sample(5_000)[0], *compute(model.sample(5_000, chunks=3_000)[0])))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_seeds():
    def first(random_state, model=None):
        return compute(make(random_state=random_state).sample(3, chunks=3)[0])[0].tolist()

    assert first(0) == first(np.int64(0))
    assert first(0) != first(1)
    assert first(None) != first(None)
    assert first(np.random.RandomState(0)) == first(np.random.RandomState(0))
    model = make(random_state=np.random.RandomState(0))
    one, other = (compute(model.sample(3, chunks=3)[0])[0].tolist() for _ in range(2))
    assert one != other
    x, _ = make(random_state=None).sample(10, chunks=3)
    np.testing.assert_array_equal(*compute(x, x[:]))
    np.testing.assert_array_equal(x.compute(), x.compute())


def test_rows_in_memory_are_drawn_as_before():
    x, labels = make().sample(100)
    assert isinstance(x, np.ndarray)
    assert (np.diff(labels) >= 0).all()


def test_weights_that_sum_to_one_in_single_precision():
    weights = np.array([0.500004, 0.500005, 0.0])
    model = GaussianMixture.from_parameters(weights, MEANS, COVARIANCES["full"], random_state=0)
    assert set(model.sample(100)[1]) == {0, 1}
    assert set(compute(model.sample(100, chunks=100)[1])[0]) == {0, 1}


def test_more_rows_than_memory():
    x, labels = make().sample(10**12, chunks="1 GiB")
    assert isinstance(x, da.Array)
    assert x.nbytes == 16 * 10**12
    assert (x.chunks[0], x.dtype, labels.dtype) == (labels.chunks[0], np.float64, np.int64)
    last = RowSequence(make()._parameters(), 0)
    assert last.rows(10**12 - 2, 10**12).shape == (2, D)


def test_drawn_rows_are_fitted_lazily():
    x, labels = make().sample(6_000, chunks=1_000)
    model = GaussianMixture(2, random_state=0).fit(x)
    np.testing.assert_allclose(np.sort(model.means_[:, 0]), [0, 5], atol=0.2)
    agreement = (model.predict(x) == 0) == (labels == 0)
    assert compute(agreement.mean())[0] > 0.99 or compute(agreement.mean())[0] < 0.01
    posterior = BayesianGaussianMixture(n_components=2, random_state=0).fit(x)
    assert posterior.sample(10, chunks=5)[0].compute().shape == (10, D)


@pytest.mark.parametrize("chunks", [40, (40,), ((40, 40, 20),), (40, -1), ((40, 40, 20), D), [40]])
def test_chunks_of_rows_and_of_weights(chunks):
    x, labels = make().sample(100, chunks=chunks)
    assert x.chunks == ((40, 40, 20), (D,))
    assert labels.chunks == ((40, 40, 20),)


@pytest.mark.parametrize(
    ("n", "chunks", "message"),
    [
        (0, 10, "'n_samples': 0"),
        (2.5, 10, "'n_samples': 2.5"),
        (10, 0, "chunks=0; expected the rows of a block"),
        (10, -5, "chunks=-5; expected"),
        (10, "many", "chunks='many'; expected"),
        (10, (5, 1), r"chunks=\(5, 1\) divide the 2 features; a block has all of them: \(5, -1\)"),
        (10, ((5, 6), 2), "expected the rows of a block"),
        (10, 1.5, "chunks=1.5; expected"),
        (10, True, r"chunks=True; expected .*\(a flag is no number of rows\)"),
        (10, ((5, 6),), "Chunks do not add up"),
    ],
)
def test_blocks_that_there_cannot_be(n, chunks, message):
    with pytest.raises(ValueError, match=message):
        make().sample(n, chunks=chunks)
