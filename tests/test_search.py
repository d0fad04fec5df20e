"""Default fits of many rows: a search for the start on small samples, and its promises."""

import warnings

import dask.array as da
import numpy as np
import pytest
import zarr
from products import mostly_slow
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Reference

from daskgmm import BayesianGaussianMixture, GaussianMixture, select
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.elementwise import PLAIN
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.engine.plain import PlainEngine
from daskgmm.errors import IllDefinedCovarianceError, InitializationWarning, ReseedingWarning
from daskgmm.events import IterationFinished, SampleFitted, SampleStepped
from daskgmm.fitting.initialization import Initialization, Sample
from daskgmm.fitting.samples import SampleParts
from daskgmm.fitting.start_search import StartSearch
from daskgmm.names import COVARIANCE_TYPES

MANY = 100_001


def mixture(n_features, n_components, seed, distance=8.0):
    """Mixture whose components are at least this Bhattacharyya distance apart; weights differ by up to ten times."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(n_components, n_features, n_features)) / (2 * np.sqrt(n_features))
    roots += np.eye(n_features) * rng.uniform(0.4, 1.4, size=(n_components, 1, 1))
    covariances, means, spread = roots @ roots.transpose(0, 2, 1), [], 1.0
    while len(means) < n_components:
        mean, k = spread * rng.normal(size=n_features), len(means)
        if all(bhattacharyya(mean - m, covariances[k], covariances[j]) >= distance for j, m in enumerate(means)):
            means.append(mean)
        spread *= 1.01
    weights = np.exp(rng.uniform(np.log(0.3), np.log(3), n_components))
    return MixtureParameters.from_covariances(STRUCTURES["full"], weights / weights.sum(), np.array(means), covariances)


def bhattacharyya(apart, one, other):
    both = (one + other) / 2
    log_det = [np.linalg.slogdet(each)[1] for each in (both, one, other)]
    return apart @ np.linalg.solve(both, apart) / 8 + 0.5 * (log_det[0] - 0.5 * (log_det[1] + log_det[2]))


def rows_of(parameters, n_rows, seed=0):
    rows, _ = parameters.sample(n_rows, np.random.RandomState(seed))
    return rows[np.random.RandomState(seed).permutation(n_rows)]


def truth(parameters):
    """scikit-learn's estimator with given parameters."""
    model = Reference(parameters.n_components)
    model.weights_, model.means_, model.covariances_ = parameters.weights, parameters.means, parameters.covariances
    model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(parameters.covariances))
    return model


SHAPES = [(2, 8), (2, 16), (3, 20), (4, 12), (8, 8), (8, 24), (12, 30), (16, 8), (16, 32)]


@pytest.mark.parametrize(
    ("n_features", "n_components"),
    [shape if shape in {(2, 8), (8, 8)} else pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES],
)
def test_clusters_that_are_well_apart_are_found(n_features, n_components):
    drawn = mixture(n_features, n_components, seed=0)
    x = rows_of(drawn, 150_000)
    model = GaussianMixture(n_components, random_state=0).fit(x)
    assert model.score(x) > truth(drawn).score(x) - 0.003
    assert model.n_passes_ < 10


@pytest.fixture(scope="module")
def blobs():
    return rows_of(mixture(3, 5, 7), MANY, 7)


def test_few_rows_follow_scikit_learn_and_one_row_more_does_not(blobs):
    settings = {"random_state": 3, "tol": 1e-4}
    ours, theirs = GaussianMixture(5, **settings).fit(blobs[:-1]), Reference(5, **settings).fit(blobs[:-1])
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-12)
    assert {record.kind for record in ours.history_} == {"survey", "em"}
    assert "sample" in {record.kind for record in GaussianMixture(5, **settings).fit(blobs).history_}


def test_explicit_values_give_plain_em(blobs):
    settings = {"random_state": 3, "tol": 1e-4, "max_iter": 4, "init_params": "random_from_data"}
    plain = GaussianMixture(5, init_size=None, n_init=1, acceleration=None, **settings)
    with pytest.warns(match="did not converge"):
        plain.fit(blobs)
    assert {record.kind for record in plain.history_} == {"survey", "em"}


@pytest.mark.parametrize("given", ["weights_init", "means_init", "precisions_init"])
def test_given_parameters_are_where_a_fit_begins(blobs, given):
    values = {"weights_init": [0.2] * 5, "means_init": blobs[:5], "precisions_init": [np.eye(3)] * 5}
    model = GaussianMixture(5, random_state=0, **{given: values[given]}).fit(blobs)
    assert "sample" not in {record.kind for record in model.history_}


def test_other_init_params_are_followed(blobs):
    model = GaussianMixture(5, init_params="random_from_data", random_state=0).fit(blobs)
    assert "sample" not in {record.kind for record in model.history_}


def test_every_input_has_the_same_bits(blobs, tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", data=blobs, chunks=(7001, 3))
    forms = blobs, stored, da.from_array(blobs, chunks=(33_333, 2)), da.from_array(blobs[:, ::-1])[:, ::-1]
    first, *others = [
        GaussianMixture(5, random_state=1, scheduler=scheduler).fit(form)
        for form, scheduler in zip(forms, ["synchronous", "threads", None, "threads"], strict=True)
    ]
    for other in others:
        np.testing.assert_array_equal(other.means_, first.means_)
        np.testing.assert_array_equal(other.covariances_, first.covariances_)
        assert other.lower_bounds_ == first.lower_bounds_


@pytest.mark.covering
@pytest.mark.parametrize("structure", mostly_slow(COVARIANCE_TYPES, "full", "tied-diag", "spherical"))
@pytest.mark.parametrize("weighted", [False, True])
def test_every_structure_is_searched(blobs, structure, weighted):
    weights = np.random.default_rng(0).uniform(0.5, 2, size=MANY) if weighted else None
    model = GaussianMixture(5, covariance_type=structure, random_state=0).fit(blobs, sample_weight=weights)
    plain = GaussianMixture(
        5, covariance_type=structure, n_init=3, init_size=None, acceleration=None, random_state=0, tol=1e-4
    ).fit(blobs, sample_weight=weights)
    assert model.lower_bound_ > plain.lower_bound_ - 1e-3


def test_a_bayesian_mixture_begins_with_a_search(blobs):
    for tol in (1e-3, 1e-5):
        model = BayesianGaussianMixture(n_components=8, tol=tol, random_state=0, max_iter=200)
        plain = clone(model).set_params(init_size=None).fit(blobs)
        assert "sample" in {record.kind for record in model.fit(blobs).history_}
        assert model.lower_bound_ > plain.lower_bound_
        assert np.count_nonzero(model.weights_ < 1e-3) >= 2  # there are five clusters, with some overlap


def test_equal_rows_do_not_end_a_search():
    """A component of an over-fit has the zeros to itself, and would collapse on them without ``reg_covar``."""
    rng, rounds = np.random.default_rng(0), []
    x = rng.normal(size=(MANY, 2))
    x[rng.random(MANY) < 0.3] = 0
    model = GaussianMixture(3, reg_covar=0, random_state=0, callbacks=[rounds.append])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReseedingWarning)
        with pytest.raises(IllDefinedCovarianceError):  # the fit collapses on the zeros, too
            model.fit(x)
    assert any(isinstance(event, SampleStepped) for event in rounds)


@pytest.mark.parametrize("n_init", [1, 2])
def test_a_search_that_fails_names_components_of_the_mixture(n_init):
    x = np.random.default_rng(0).normal(size=(MANY, 2))
    x[:, 1] = 3.0
    model = GaussianMixture(2, reg_covar=0, n_init=n_init, random_state=0)
    with warnings.catch_warnings(record=True) as dropped:
        warnings.simplefilter("always")
        with pytest.raises(IllDefinedCovarianceError) as caught:
            model.fit(x)
    assert caught.value.components == (0, 1)
    assert len(dropped) == (n_init if n_init > 1 else 0)


def test_a_failed_search_among_others_is_resumed(tmp_path):
    x = np.random.default_rng(0).normal(size=(MANY, 2))
    x[:, 1] = 3.0
    events = []

    def interrupt(event):
        events.append(event)
        if isinstance(event, IterationFinished):
            raise KeyboardInterrupt

    # A spherical covariance has no direction without variance.
    settings = {"estimator": GaussianMixture(reg_covar=0, random_state=0), "checkpoint": tmp_path / "state"}
    with pytest.raises(KeyboardInterrupt):
        select(x, [2, 3], ("full", "spherical"), callbacks=[interrupt], **settings)
    with pytest.warns(InitializationWarning, match="failed"):
        selection = select(x, [2, 3], ("full", "spherical"), resume=True, **settings)
    assert [row["failed"] is None for row in selection.table].count(True) == 2


def test_the_plan_counts_the_largest_mixture_of_a_search():
    x = da.zeros((MANY, 100), chunks=(10_000, 100))
    plain, searched = (GaussianMixture(20, init_size=size).plan(x) for size in (None, "auto"))
    assert searched.driver_bytes > plain.driver_bytes + 8 * 80 * 100**2 * 8  # rounds begin with 80 components


def test_rows_of_weight_zero_do_not_count(blobs):
    weights = np.zeros(MANY)
    weights[:500] = 1
    alone = GaussianMixture(5, random_state=0).fit(blobs[:500])
    among = GaussianMixture(5, random_state=0).fit(blobs, sample_weight=weights)
    np.testing.assert_allclose(among.lower_bounds_, alone.lower_bounds_, rtol=1e-9)


def test_rows_that_do_not_count_cost_no_iterations_on_samples(blobs):
    missing = np.full((3 * len(blobs), blobs.shape[1]), np.nan)
    missing[::3] = blobs
    zero, weights = np.nan_to_num(missing, nan=1.0), np.isfinite(missing[:, 0]).astype(float)
    alone = GaussianMixture(5, random_state=0).fit(blobs)
    dropped = GaussianMixture(5, random_state=0, missing="drop").fit(missing)
    weighted = GaussianMixture(5, random_state=0).fit(zero, sample_weight=weights)
    expected = on_samples(alone)
    assert [record.n_rows for record in expected[:3]] == [record.n_rows for record in on_samples(dropped)[:3]]
    assert [record.n_rows for record in expected[:3]] == [record.n_rows for record in on_samples(weighted)[:3]]
    for fitted in (dropped, weighted):
        assert sum(record.n_iter * record.n_rows for record in on_samples(fitted)) < 6 * MANY


def on_samples(fitted):
    return [record for record in fitted.history_ if record.kind == "sample"]


def test_a_row_of_most_of_the_weight_is_in_every_part_and_not_held_out_alone():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(2000, 2)), rng.uniform(0.5, 2, size=2000)
    weights[77] = 1.5 * (weights.sum() - weights[77])  # 60 %
    sample = Sample(x, weights, Frame.of(x.mean(axis=0), x.std(axis=0)), float(weights.sum()))
    for seed in range(20):
        parts = SampleParts(sample, 500, np.random.RandomState(seed))
        drawn = [parts.next(100) for _ in range(3)]
        for part in (parts.held_out, *drawn):
            heavy = (part.rows == x[77]).all(axis=1)
            assert part.weights[heavy].sum() / part.weights.sum() == pytest.approx(0.6, abs=0.1)
        assert len(parts.held_out.rows) == 501
        shared = {tuple(row) for row in parts.held_out.rows} & {tuple(row) for part in drawn for row in part.rows}
        assert shared == {tuple(x[77])}


def test_a_row_of_most_of_the_weight_has_its_component(blobs):
    x, weights = blobs.copy(), np.random.default_rng(0).uniform(0.5, 2, size=MANY)
    place, weights[5] = blobs.mean(axis=0) + 30, 1.5 * weights.sum()
    x[5] = place
    for seed in range(3):
        model = GaussianMixture(6, random_state=seed).fit(x, sample_weight=weights)
        own = np.argmin(np.linalg.norm(model.means_ - place, axis=1))
        np.testing.assert_allclose(model.means_[own], place, atol=1e-3)
        assert model.weights_[own] == pytest.approx(0.6, abs=1e-3)
        others = np.delete(np.arange(6), own)
        alone = GaussianMixture(5, random_state=seed).fit(
            blobs, sample_weight=np.where(np.arange(MANY) == 5, 1, weights)
        )
        found = np.linalg.norm(model.means_[others, None] - alone.means_, axis=2).min(axis=1)
        assert found.max() < 0.1


def test_several_searches_are_several_starts(blobs):
    events = []
    model = GaussianMixture(5, n_init=3, random_state=0, callbacks=[events.append]).fit(blobs)
    searches = [record for record in model.history_ if record.kind == "sample"]
    assert [record.start for record in searches[:3]] == [0, 1, 2]
    assert searches[3].n_rows > searches[0].n_rows  # the best start goes on, on a larger sample
    assert len({record.seconds for record in searches[:3]}) == 3  # the searches run one after the other
    assert {event.start for event in events if isinstance(event, SampleStepped)} >= {0, 1, 2}
    assert [event.n_starts for event in events if isinstance(event, SampleFitted)] == [3]


@pytest.mark.parametrize(("n_components", "most_in_vain"), mostly_slow([(2, 6), (8, 16), (15, 20)], (2, 6)))
def test_a_search_ends_after_rounds_in_vain(blobs, n_components, most_in_vain):
    sample = Sample(blobs, None, Frame.of(blobs.mean(axis=0), blobs.std(axis=0)), 1e8)
    how, rounds = Initialization(STRUCTURES["full"], n_components, "kmeans"), []
    with PlainEngine() as engine:  # no gain counts
        search = StartSearch(engine, how, 1e-6, sample, 10**8, np.random.RandomState(0), lambda _: PLAIN, tol=np.inf)
        found = search.run(rounds.append)
    assert len(rounds) == 1 + most_in_vain
    bounds = [each.log_likelihood for each in rounds]
    assert bounds == sorted(bounds)
    assert found.log_likelihood == bounds[-1]


def test_searches_cost_less_than_a_few_passes(blobs):
    model = GaussianMixture(5, random_state=0).fit(blobs)
    # The steps of the search have up to six times as many components.
    assert sum(record.n_iter * record.n_rows for record in model.history_ if record.kind == "sample") < 3 * MANY


@pytest.mark.parametrize(
    "x",
    [
        np.ones((MANY, 2)),
        np.random.default_rng(0).integers(2, size=(MANY, 2)).astype(float),
        np.c_[np.random.default_rng(0).normal(size=(MANY, 1)), np.ones(MANY)],
        np.random.default_rng(0).integers(0, 9, size=(MANY, 3)).astype(np.uint8),
        np.random.default_rng(0).standard_cauchy(size=(MANY, 2)),
    ],
    ids=["constant", "four distinct rows", "constant column", "integers", "heavy tails"],
)
@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_odd_data_are_fitted(x):
    model = GaussianMixture(6, random_state=0, max_iter=20).fit(x)
    assert np.isfinite(model.lower_bound_)
    assert model.weights_.sum() == pytest.approx(1)
