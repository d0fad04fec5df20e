"""States as named arrays: there and back with the same bits, and what is no state is refused with the array's name."""

import numpy as np
import pytest

from daskgmm.core.concentration import WEIGHT_DISTRIBUTIONS
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.state_arrays import MixtureArrays, PosteriorArrays
from daskgmm.core.variational import Posterior, Priors

K, D = 3, 2


def covariances(structure, rng):
    rows = rng.standard_normal((K, D, D))
    matrices = np.eye(D) + 0.1 * rows @ rows.swapaxes(1, 2)
    of_kind = {(D, D): matrices, (D,): matrices[:, 0, 0, None] + np.ones(D), (): rng.random(K) + 1}
    return of_kind[structure.matrix_shape(D)][: structure.n_matrices(K)]


def mixture(structure):
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.3, 0.2])
    return MixtureParameters.from_covariances(
        structure, weights, rng.standard_normal((K, D)), covariances(structure, rng)
    )


def posterior(structure, weights, *, priors):
    m, rng = mixture(structure), np.random.default_rng(1)
    known = Priors(0.5, 1.0, np.zeros(D), float(D), np.ones(structure.prior_shape(D)))
    freedom = structure.matrix_counts(rng.random(K)) + D
    concentration = rng.random(weights.shape(K)) + 1
    return Posterior(
        structure, weights, known if priors else None, concentration, rng.random(K) + 1, m.means,
        np.asarray(freedom), m.covariances, m.precisions_cholesky,
    )  # fmt: skip


def states():
    for name, structure in STRUCTURES.items():
        yield pytest.param(MixtureArrays(), mixture(structure), id=name)
        for family in WEIGHT_DISTRIBUTIONS.values():
            for priors in (True, False):
                kind, state = PosteriorArrays(family), posterior(structure, family, priors=priors)
                yield pytest.param(kind, state, id=f"{name}-{family.name}-{priors}")


def assert_same(ours, theirs):
    for name, value in vars(ours).items():
        other = getattr(theirs, name)
        if isinstance(value, Priors):
            assert_same(value, other)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other, strict=True)
        else:
            assert value == other
            assert type(value) is type(other)


@pytest.mark.parametrize(("kind", "state"), list(states()))
def test_a_state_comes_back_from_its_arrays(kind, state):
    arrays = kind.arrays(state)
    shapes = kind.known(kind.shapes(state.structure, K, D), arrays)
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert_same(state, kind.checked_state(state.structure, K, D, arrays))


def full_posterior():
    weights = WEIGHT_DISTRIBUTIONS["dirichlet_process"]
    return PosteriorArrays(weights), posterior(STRUCTURES["full"], weights, priors=True)


def changed(array, value):
    array = array.copy()
    array.flat[-1] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("means", lambda a: changed(a, np.nan), "means contain NaN or infinity"),
        ("means", lambda a: a[:, :1], r"means has shape \(3, 1\)"),
        ("means", lambda a: a.astype(np.float32), "dtype float32; expected"),
        ("mean_precision", lambda a: changed(a, 0.0), "mean_precision has to be positive"),
        ("degrees_of_freedom", lambda a: changed(a, 1.0), "degrees_of_freedom has to be greater than 1"),
        ("prior_degrees_of_freedom", lambda a: changed(a, 0.5), "prior_degrees_of_freedom has to be greater than 1"),
        ("prior_mean_precision", lambda a: np.float64(-1) * a, "prior_mean_precision has to be positive"),
        ("covariances", lambda a: -a, "covariances are not positive definite"),
        ("precisions_cholesky", lambda a: 2 * a, "precisions_cholesky do not belong to the covariances"),
    ],
)
def test_arrays_that_are_no_posterior_are_refused(name, change, message):
    kind, state = full_posterior()
    arrays = kind.arrays(state)
    arrays[name] = np.asarray(change(arrays[name]))
    with pytest.raises(ValueError, match=message):
        kind.checked_state(state.structure, K, D, arrays)


@pytest.mark.parametrize("names", [{"prior_mean"}, {"means"}], ids=str)
def test_missing_arrays_are_refused(names):
    kind, state = full_posterior()
    arrays = {name: array for name, array in kind.arrays(state).items() if name not in names}
    with pytest.raises(ValueError, match=r"the arrays are .*; expected"):
        kind.checked_state(state.structure, K, D, arrays)


def test_arrays_of_something_else_are_refused():
    kind, state = MixtureArrays(), mixture(STRUCTURES["full"])
    with pytest.raises(ValueError, match=r"the arrays are .*'more'.*; expected"):
        kind.checked_state(state.structure, K, D, {**kind.arrays(state), "more": np.ones(1)})


def test_weights_sum_to_one():
    kind, state = MixtureArrays(), mixture(STRUCTURES["full"])
    with pytest.raises(ValueError, match="weights have to sum to one, and none may be negative"):
        kind.checked_state(state.structure, K, D, {**kind.arrays(state), "weights": np.ones(K)})
