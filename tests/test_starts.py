"""Starts: they share every reading of the data, and may run on samples in memory before."""

import collections
import gc
import itertools
import weakref

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from daskgmm import BayesianGaussianMixture, GaussianMixture, select
from daskgmm.core.maximum_likelihood import MaximumLikelihood
from daskgmm.core.statistics import Frame
from daskgmm.data.inputs import as_dataset
from daskgmm.engine import tree
from daskgmm.engine.combined_fold import CombinedFold, SharedCosts
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import DataChangedError, IllDefinedCovarianceError, InitializationWarning, InvalidWeightsError
from daskgmm.events import PassStarted, SampleFitted, SampleStepped, StartBegun, StartFinished
from daskgmm.fitting import nested_samples
from daskgmm.fitting.estep_pass import EStepPass, EStepRequest
from daskgmm.fitting.first_pass import take_surveys
from daskgmm.fitting.nested_samples import sample_sizes
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import Tuning

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

N, D = 4000, 2
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def blobs(n=N, seed=0):
    rng = np.random.RandomState(seed)
    centers = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0], [5.0, 5.0]])
    return rng.normal(size=(n, D)) + centers[rng.randint(4, size=n)]


X = blobs()
WEIGHTS = np.random.RandomState(5).rand(N)


def compute(collection):
    return collection.compute()


def same_bits(one, other):
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.lower_bounds_ == other.lower_bounds_
    assert (one.n_iter_, one.converged_) == (other.n_iter_, other.converged_)


# ---- several folds in one pass


class Moments:
    """Sums of rows, with leaves of its own length."""

    row_seconds, work_bytes, value_bytes, process_bytes = 1e-8, 100, 16, 0

    def __init__(self, leaf_rows, power):
        self.leaf_rows, self.power = leaf_rows, power

    def start(self):
        return lambda start, block: (
            (block.rows**self.power).sum() * (1 if block.weights is None else block.weights.sum())
        )


@quick
@given(
    n=st.integers(1, 700),
    leaves=st.lists(st.sampled_from([1, 2, 8, 16, 64]), min_size=1, max_size=4),
    chunks=st.lists(st.integers(1, 200), min_size=1, max_size=6),
    weighted=st.booleans(),
)
def test_folds_that_share_a_pass_get_the_bits_of_a_pass_of_their_own(n, leaves, chunks, weighted):
    rng = np.random.default_rng(n)
    x, w = rng.normal(size=(n, 3)), rng.random(n) if weighted else None
    folds = [Moments(rows, power) for power, rows in enumerate(leaves, start=1)]
    lengths = []
    while (left := n - sum(lengths)) > 0:
        lengths.append(min(left, chunks[len(lengths) % len(chunks)]))
    rows = da.from_array(x, chunks=(tuple(lengths), 3))
    with DaskEngine("synchronous", tuning=Tuning(shortest_task=0.0)) as engine:
        dataset, _ = as_dataset(rows, w, compute)
        alone = [engine.run(dataset, fold, "alone") for fold in folds]
        n_passes = engine.n_passes
        assert engine.run_together(dataset, folds, "together") == alone
        assert engine.n_passes == n_passes + 1


def test_what_folds_cost_together_is_what_each_of_them_costs():
    one, other = Moments(64, 1), Moments(16, 2)
    costs = SharedCosts((one, other))
    assert costs.leaf_rows == 64
    assert costs.row_seconds == 2e-8
    assert costs.value_bytes == 32
    assert costs.work_bytes == 200 + 2 * 16  # two levels of the tree inside a leaf of 64 rows
    assert CombinedFold((one, other)).leaf_rows == 64


def test_folds_that_do_not_fit_into_memory_together_take_more_passes():
    folds = [Moments(16, power) for power in range(1, 6)]
    with DaskEngine("synchronous", tuning=Tuning(most_shared_bytes=700)) as engine:
        dataset, _ = as_dataset(X, None, compute)
        lengths = engine.groups(dataset, folds)
        assert sum(lengths) == 5
        assert len(lengths) > 1
        values = engine.run_together(dataset, folds, "sums")
        assert engine.n_passes == len(lengths)
        assert values == [engine.run(dataset, fold, "sum") for fold in folds]
    with DaskEngine("synchronous", tuning=Tuning(most_shared_bytes=0)) as engine:
        assert engine.groups(dataset, folds) == [1] * 5  # one always runs: what memory it takes is checked elsewhere


# ---- several starts on all data


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_starts_that_share_passes_end_where_they_end_alone(covariance_type, weighted):
    model = GaussianMixture(4, covariance_type=covariance_type, init_params="random_from_data", max_iter=12, tol=1e-4)
    weights = WEIGHTS if weighted else None
    stream = np.random.RandomState(3)  # one after the other they draw from it what they draw together
    alone = [clone(model).set_params(random_state=stream).fit(X, sample_weight=weights) for _ in range(3)]
    together = clone(model).set_params(n_init=3, random_state=np.random.RandomState(3)).fit(X, sample_weight=weights)
    best = max(alone, key=lambda m: m.lower_bound_)
    same_bits(together, best)
    assert together.n_passes_ == 1 + max(m.n_iter_ for m in alone)
    assert sum(record.kind == "em" for record in together.history_) == sum(m.n_iter_ for m in alone)


def test_starts_share_passes_on_chunks_and_workers_too():
    parameters = {"n_init": 3, "init_params": "random", "max_iter": 5, "tol": 0, "random_state": 0}
    expected = GaussianMixture(3, **parameters).fit(X)
    for scheduler in ("synchronous", "threads"):
        model = GaussianMixture(3, **parameters, scheduler=scheduler).fit(da.from_array(X, chunks=(777, D)))
        same_bits(model, expected)
    assert expected.n_passes_ == 6


def test_a_plan_counts_what_starts_take_together():
    one = GaussianMixture(8, n_init=1, max_iter=50).plan(X)
    many = GaussianMixture(8, n_init=10, max_iter=50).plan(X)
    assert one.most_passes == many.most_passes == 51
    assert many.estep.task.work > 9 * one.estep.task.work


def test_a_plan_of_starts_that_do_not_fit_together_counts_more_passes(tune):
    tune(most_shared_bytes=0)
    model = GaussianMixture(2, n_init=3, init_params="random", tol=0, max_iter=2, random_state=0)
    assert model.plan(X).most_passes == 7
    assert model.fit(X).n_passes_ == 7


# ---- starts on a sample


def test_samples_grow_tenfold_and_are_never_too_small_for_the_mixture():
    assert sample_sizes(100_000, 10)[-1] == 100_000
    for n_rows, n_parameters in [(100_000, 10), (1_000_000, 10), (50_000, 20), (100_000, 5000), (100, 1)]:
        sizes = sample_sizes(n_rows, n_parameters)
        assert sizes[-1] == n_rows
        assert all(small == large // 10 for small, large in itertools.pairwise(sizes))
        assert len(sizes) == 1 or sizes[0] >= nested_samples._ROWS_PER_PARAMETER * n_parameters
    assert len(sample_sizes(1_000_000, 10)) > len(sample_sizes(1_000_000, 50_000)) == 1


@pytest.fixture
def small_rungs(monkeypatch):
    monkeypatch.setattr(nested_samples, "_FEWEST_ROWS", 100)
    monkeypatch.setattr(nested_samples, "_ROWS_PER_PARAMETER", 1)


def test_a_start_from_a_sample_takes_few_passes_and_ends_as_high():
    rng = np.random.default_rng(1)
    x = 1.5 * rng.normal(size=(8, 2))[rng.integers(8, size=60_000)] + rng.normal(size=(60_000, 2))
    plain = GaussianMixture(8, tol=1e-4, max_iter=500, random_state=0).fit(x)
    sampled = GaussianMixture(8, tol=1e-4, max_iter=500, random_state=0, init_size=20_000).fit(x)
    assert sampled.n_passes_ <= plain.n_passes_ / 2
    assert sampled.lower_bound_ >= plain.lower_bound_ - 1e-4
    assert sampled.converged_


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("weighted", [False, True])
def test_sample_starts_do_not_depend_on_chunks_and_schedulers(kind, weighted, small_rungs, tmp_path):
    weights = WEIGHTS if weighted else None
    model = kind(n_components=3, init_size=1000, n_init=3, random_state=0, max_iter=10)
    expected = clone(model).fit(X, sample_weight=weights)
    store = zarr.create_array(store=str(tmp_path / "x.zarr"), data=X, chunks=(333, D))
    lazy_weights = None if weights is None else da.from_array(weights, chunks=901)
    same_bits(clone(model).set_params(scheduler="synchronous").fit(store, sample_weight=weights), expected)
    same_bits(clone(model).fit(da.from_array(X, chunks=(450, D)), sample_weight=lazy_weights), expected)


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_the_sample_stands_for_all_data(kind, small_rungs):
    # Beside a prior counts matter: the bound on the sample is that of data of the same size.
    model = kind(n_components=2, init_size=N // 2, n_init=1, random_state=0, tol=1e-6).fit(X)
    sampled = [record for record in model.history_ if record.kind == "sample"]
    first = next(record for record in model.history_ if record.kind == "em")
    assert sampled[-1].lower_bound == pytest.approx(first.lower_bound, abs=0.1)


def test_all_rows_in_the_sample_are_plain_em():
    expected = GaussianMixture(3, random_state=0).fit(X)
    same_bits(GaussianMixture(3, random_state=0, init_size=N).fit(X), expected)
    same_bits(GaussianMixture(3, random_state=0, init_size=N, n_init="auto").fit(X), expected)


def test_the_history_tells_every_pass_and_every_sample(small_rungs):
    events = []
    model = GaussianMixture(3, init_size=1000, n_init=2, random_state=0, callbacks=[events.append]).fit(X)
    kinds = [record.kind for record in model.history_]
    n_passes = sum(isinstance(event, PassStarted) for event in events)
    assert kinds[:6] == ["survey", *["sample"] * 5]  # two starts on 100 rows, compared on 1000, and one of them there
    assert [record.n_rows for record in model.history_[:6]] == [N, 100, 100, 1000, 1000, 1000]
    assert [record.n_iter for record in model.history_[3:5]] == [1, 1]
    assert set(kinds[6:]) == {"em"}
    assert len(kinds) - 5 == n_passes == model.n_passes_ == 1 + model.n_iter_
    assert [record.lower_bound for record in model.history_[6:]] == model.lower_bounds_
    for record in model.history_:
        assert record.bytes_read == (0 if record.kind == "sample" else X.nbytes)
        assert record.arithmetic == ("" if record.kind == "survey" else "float64")
        assert record.seconds > 0
        assert record.as_record()["rows_per_second"] == pytest.approx(record.n_rows * record.n_iter / record.seconds)


@pytest.fixture
def e_steps(monkeypatch):
    """Number of E-steps by the number of rows."""
    call, found = EStepPass.__call__, collections.Counter()

    def counted(self, requests):
        found[self.dataset.n_rows] += len(requests)
        return call(self, requests)

    monkeypatch.setattr(EStepPass, "__call__", counted)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture(4, n_init=2, random_state=0),
        GaussianMixture(4, init_size=20_000, n_init=2, random_state=0),
        BayesianGaussianMixture(n_components=4, random_state=0),
    ],
    ids=["searches", "nested samples", "Bayesian"],
)
def test_the_records_of_samples_count_every_e_step(model, dtype, e_steps):
    model = clone(model).fit(blobs(100_001).astype(dtype))
    counted = collections.Counter()
    for record in model.history_[1:]:
        counted[record.n_rows] += record.n_iter
        if record.kind == "sample":
            assert record.arithmetic == dtype.__name__  # the last step does not round the rows
            assert record.seconds > 0
    assert counted == e_steps


def test_samples_are_told_as_they_go(small_rungs):
    events = []
    GaussianMixture(3, init_size=1000, n_init=2, random_state=0, callbacks=[events.append]).fit(X)
    ended = [event for event in events if isinstance(event, SampleFitted)]
    assert [(event.start, event.n_rows) for event in ended[:2]] == [(0, 100), (1, 100)]
    assert ended[2].n_rows == 1000
    assert {event.n_starts for event in ended} == {2}
    steps = [event for event in events if isinstance(event, SampleStepped) and event.start == 0]
    assert [event.iteration for event in steps[: ended[0].n_iter]] == list(range(1, ended[0].n_iter + 1))
    assert [type(event) for event in events if isinstance(event, StartBegun | StartFinished)] == [
        StartBegun,
        StartFinished,
    ]


def marked(n_rows, n_marked, seed=0):
    """Rows most of which are noise without weight, the weights, and where the others are."""
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(0, 30, size=(n_rows, D)), np.zeros(n_rows)
    where = np.sort(rng.choice(n_rows, n_marked, replace=False))
    rows[where] = np.array([[100, 0], [0, 100], [-100, -100]])[rng.integers(3, size=n_marked)]
    rows[where] += rng.normal(0, 3, size=(n_marked, D))
    weights[where] = rng.uniform(0.5, 2, size=n_marked)
    return rows, weights, where


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_few_rows_with_weight_among_many_without_start_as_they_do_alone(kind, init_params):
    rows, weights, where = marked(150_000, 40)
    model = kind(n_components=3, init_params=init_params, n_init=2, max_iter=5, tol=0, random_state=1)
    expected = clone(model).fit(rows[where], sample_weight=weights[where])
    found = clone(model).fit(rows, sample_weight=weights)
    np.testing.assert_allclose(found.lower_bounds_, expected.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-7)
    np.testing.assert_allclose(found.weights_, expected.weights_, rtol=1e-7)


@pytest.mark.parametrize("n_almost_nothing", [20_000, 50_000])  # all of them are in the sample, and some of them are
def test_few_rows_among_many_of_almost_no_weight_are_in_every_sample(n_almost_nothing):
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(0, 30, size=(60_000, D)), np.zeros(60_000)
    weights[rng.permutation(60_000)[:n_almost_nothing]] = 1e-6
    where = rng.choice(60_000, 40, replace=False)
    rows[where] = np.array([[100, 0], [-100, 50]])[np.arange(40) % 2] + rng.normal(0, 3, size=(40, D))
    weights[where] = 1
    expected = GaussianMixture(2, random_state=0).fit(rows, sample_weight=weights)
    for seed in range(5):
        model = GaussianMixture(2, init_size=30_000, random_state=seed).fit(rows, sample_weight=weights)
        assert len([record for record in model.history_ if record.kind == "sample"]) > 1
        assert model.score(rows[where]) == pytest.approx(expected.score(rows[where]), abs=0.01)
        assert model.lower_bound_ == pytest.approx(expected.lower_bound_, abs=0.01)


def test_a_sample_that_holds_all_rows_with_weight_is_scaled_by_nothing(small_rungs):
    rows, weights, _ = marked(20_000, 1500)
    model = BayesianGaussianMixture(n_components=3, init_size=2000, n_init=1, random_state=0, tol=1e-6)
    found = model.fit(rows, sample_weight=weights)
    sampled = [record for record in found.history_ if record.kind == "sample"]
    first = next(record for record in found.history_ if record.kind == "em")
    assert [record.n_rows for record in sampled] == [150, 1500, 1500]
    assert sampled[-1].lower_bound == pytest.approx(first.lower_bound, abs=1e-5)  # both of the same rows


def test_fewer_rows_with_weight_than_components():
    rows, weights, _ = marked(150_000, 2)
    with pytest.raises(InvalidWeightsError, match=r"positive for 2 rows, .* n_components = 3"):
        GaussianMixture(3).fit(rows, sample_weight=weights)


def test_samples_follow_the_weights():
    # A hundredth of the rows has half of the weight, and lies elsewhere.
    rng = np.random.default_rng(2)
    heavy = rng.random(50_000) < 0.01
    rows = rng.normal(size=(50_000, D)) + 20 * heavy[:, None]
    weights = np.where(heavy, 99.0, 1.0)
    settings = GaussianMixture(2, init_size=500, random_state=0)._spec(D)
    with DaskEngine("synchronous") as engine:
        (survey,) = take_surveys(engine, as_dataset(rows, weights, compute)[0], [settings])
    assert len(survey.sample) == 500
    of_heavy = survey.sample[:, 0] > 10
    assert 200 < np.count_nonzero(of_heavy) < 300
    assert survey.sample_weight.sum() == pytest.approx(weights.sum(), rel=0.1)
    assert survey.sample_weight[of_heavy].sum() == pytest.approx(weights[heavy].sum(), rel=0.2)


@pytest.mark.parametrize("init_size", [None, 1000, "auto"])
def test_equal_weights_start_as_no_weights_do(init_size):
    x = np.concatenate([X] * 30)
    model = GaussianMixture(4, init_size=init_size, n_init=1, max_iter=3, random_state=0)
    expected, found = clone(model).fit(x), clone(model).fit(x, sample_weight=np.full(len(x), 0.5))
    np.testing.assert_allclose(found.lower_bounds_, expected.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-7)


@pytest.mark.parametrize("lazy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_lazy_weights_take_a_pass_of_their_own(lazy):
    passes = []
    weights = da.from_array(WEIGHTS, chunks=450) if lazy else WEIGHTS
    model = GaussianMixture(3, init_size=1000, random_state=0, max_iter=4, tol=0, callbacks=[passes.append])
    x = da.from_array(X, chunks=(450, D))
    most = model.plan(x, sample_weight=weights).most_passes
    model.fit(x, sample_weight=weights)
    labels = [event.label for event in passes if isinstance(event, PassStarted)]
    assert labels == ["weights"] * lazy + ["survey"] + ["estep"] * 4
    assert model.n_passes_ == most == len(labels)
    assert clone(model).set_params(init_size=N).fit(x, sample_weight=weights).n_passes_ == 5


def test_lazy_weights_that_cannot_be_name_their_row():
    weights = WEIGHTS.copy()
    weights[2345] = np.nan
    with pytest.raises(InvalidWeightsError, match="nan in row 2345"):
        GaussianMixture(2, init_size=1000).fit(da.from_array(X, chunks=(450, D)), sample_weight=da.from_array(weights))
    lying = da.from_array(WEIGHTS, chunks=450).map_blocks(lambda block: block[:-1], dtype=float, meta=np.empty(0))
    with pytest.raises(DataChangedError, match=r"sample_weight: rows 0 to \d+ were expected"):
        GaussianMixture(2, init_size=1000).fit(da.from_array(X, chunks=(450, D)), sample_weight=lying)


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_a_sample_of_fewer_rows_than_components(kind):
    model = kind(n_components=5, init_size=4)
    for ask in (model.fit, model.plan):
        with pytest.raises(ValueError, match=r"init_size=4 is less than n_components=5.*Increase init_size"):
            ask(X)
    with pytest.raises(ValueError, match="init_size=4 is less than n_components=6"):
        select(X, [2, 6], estimator=GaussianMixture(init_size=4))


def test_a_sample_that_is_small_for_the_mixture_is_told_with_the_number_to_use():
    model = GaussianMixture(4, init_size=40, random_state=0)
    with pytest.warns(InitializationWarning, match=r"init_size=40 rows are too few .* at least 58 rows"):
        model.fit(X)  # 23 free parameters, and five numbers for each of them
    model.set_params(init_size=58).fit(X)
    rows, weights, where = marked(20_000, 40)
    model.set_params(n_components=3, init_size=41).fit(rows, sample_weight=weights)  # a sample of all there is
    model.fit(rows[where], sample_weight=weights[where])


def test_no_iterations_mean_no_sample():
    model = GaussianMixture(3, init_size=1000, max_iter=0, random_state=0).fit(X)
    assert [record.kind for record in model.history_] == ["survey"]


def test_going_on_needs_no_sample():
    model = GaussianMixture(3, init_size=1000, random_state=0, warm_start=True).fit(X)
    model.fit(X)
    assert {record.kind for record in model.history_} == {"survey", "em"}


def test_starts_are_judged_on_rows_that_they_have_not_seen(small_rungs):
    # On 100 rows sixteen components fit some start to noise; the best of all rows is what counts.
    x = blobs(40_000, seed=3)
    model = GaussianMixture(8, init_size=4000, n_init=6, init_params="random_from_data", random_state=1).fit(x)
    one = GaussianMixture(8, init_size=4000, n_init=1, init_params="random_from_data", random_state=1).fit(x)
    assert model.lower_bound_ >= one.lower_bound_ - 1e-3


def test_weights_that_change_during_a_fit_are_noticed():
    calls = []

    def weights_of(block):
        calls.append(1)
        return block[:, 0] * 0 + (1.0 if len(calls) < 6 else 2.0)

    rows = da.from_array(X, chunks=(1000, D))
    weights = rows.map_blocks(weights_of, drop_axis=1, dtype=float, meta=np.empty(0))
    with pytest.raises(DataChangedError, match="sample_weight: a pass saw other values"):
        GaussianMixture(2, random_state=0, scheduler="synchronous").fit(rows, sample_weight=weights)


def test_statistics_of_other_weights_or_rows_than_the_survey_saw_are_noticed():
    with DaskEngine("synchronous") as engine:
        dataset, _ = as_dataset(X, WEIGHTS, compute)
        survey = take_surveys(engine, dataset, [GaussianMixture(2)._spec(D)])[0]
        frame = Frame.of(survey.mean, survey.deviation)
        parameters = GaussianMixture(2, random_state=0).fit(X)._parameters()
        EStepPass(engine, dataset, frame, weight_sum=survey.weight_sum)([EStepRequest(parameters)])
        with pytest.raises(DataChangedError, match="sample_weight added up to"):
            EStepPass(engine, dataset, frame, weight_sum=survey.weight_sum + 1e-3)([EStepRequest(parameters)])


def test_leaves_of_folds_are_powers_of_two_of_each_other():
    # What `CombinedFold` relies on.
    for n_features in (1, 3, 64, 1000):
        for value_bytes in (0, 1 << 20, 1 << 24, 1 << 30):
            assert tree.leaf_rows(n_features, value_bytes).bit_count() == 1


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # collected here, of other tests' clusters
@pytest.mark.filterwarnings("ignore:(?s).*unclosed .*socket:pytest.PytestUnraisableExceptionWarning")
def test_a_start_that_collapsed_keeps_no_data(lost, monkeypatch):
    """The error of a start has a traceback, and its frames have the data."""
    begin, calls = MaximumLikelihood.begin, itertools.count()

    def collapse(self, draw):
        if next(calls) < lost:
            raise IllDefinedCovarianceError((0,))
        return begin(self, draw)

    class Same:
        def __call__(self, block):
            return block

    monkeypatch.setattr(MaximumLikelihood, "begin", collapse)
    same = Same()
    alive = weakref.ref(same)
    rows = da.from_array(X, chunks=(1000, D)).map_blocks(same, dtype=X.dtype, meta=X[:0])
    fitted = GaussianMixture(2, random_state=0, init_size=1000, n_init=3, scheduler="synchronous")
    gc.collect()
    gc.disable()
    try:
        if lost == 3:
            with pytest.raises(IllDefinedCovarianceError), pytest.warns(InitializationWarning, match="was dropped"):
                fitted.fit(rows)
        else:
            with pytest.warns(InitializationWarning, match="was dropped"):
                fitted.fit(rows)
        del rows, same
        assert alive() is None
    finally:
        gc.enable()
