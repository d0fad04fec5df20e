"""Clusters that a sample has too little of are found when all data are seen for the first time."""

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import mostly_slow
from sklearn.base import clone

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.kernel_choice import QuadraticKernel
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.statistics import Frame
from daskgmm.data.inputs import as_dataset
from daskgmm.engine.run import DaskEngine
from daskgmm.fitting import estep_pass, low_density_rows, relocation
from daskgmm.fitting.em import Relocated
from daskgmm.fitting.low_density_rows import DensityThreshold, LowDensityRowsFold, n_kept
from daskgmm.fitting.relocation import Relocation
from daskgmm.tuning import tuned

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_data(seed, n_rows, n_features, n_rare, *, together=False, n_main=4, degrees=None):
    """Clusters of unit width, and one of ``n_rare`` rows of half that, eight widths beside all of them."""
    rng = np.random.default_rng(seed)
    means = 4 * rng.normal(size=(n_main, n_features))
    noise = (
        rng.normal(size=(n_rows, n_features)) if degrees is None else rng.standard_t(degrees, size=(n_rows, n_features))
    )
    x = means[rng.choice(n_main, size=n_rows)] + noise
    away = rng.normal(size=n_features)
    away /= np.linalg.norm(away)
    offsets = means - means.mean(axis=0)
    place = means.mean(axis=0) + away * ((offsets @ away).max() + 8)
    rows = n_rows // 3 + np.arange(n_rare) if together else rng.choice(n_rows, n_rare, replace=False)
    x[rows] = place + 0.5 * rng.normal(size=(n_rare, n_features))
    return x, place


def has_found(model, place, share):
    distance = np.linalg.norm(model.means_ - place, axis=1)
    nearest = distance.argmin()
    return bool(distance[nearest] < 1 and 0.8 * share < model.weights_[nearest] < 1.2 * share)


def without_moves(monkeypatch):
    monkeypatch.setattr(relocation, "MOST_MOVES", 0)


def model_of(n_components=5, **parameters):
    settings = {"init_size": 10_000, "n_init": "auto", "acceleration": None, "random_state": 0}
    return GaussianMixture(n_components, **settings | parameters)


def kinds(model):
    return [record.kind for record in model.history_]


def small(**parameters):
    """A fit in which a component moves, of a second."""
    x, place = make_data(0, 40_000, 2, 30)
    return x, place, model_of(init_size=2000, tol=1e-4, **parameters)


# ---- what is found


@pytest.mark.parametrize("n_features", [2, *(pytest.param(more, marks=pytest.mark.slow) for more in (3, 4))])
@pytest.mark.parametrize("seed", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_one_row_in_ten_thousand_is_a_cluster(n_features, seed, monkeypatch):
    x, place = make_data(seed, 1_000_000, n_features, 100)
    model = model_of(random_state=seed).fit(x)
    assert has_found(model, place, 1e-4)
    assert kinds(model).count("moved") == 1
    without_moves(monkeypatch)
    lost = clone(model).fit(x)
    assert not has_found(lost, place, 1e-4)
    assert model.lower_bound_ > lost.lower_bound_ + model.tol


@pytest.mark.parametrize("n_features", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_cluster_that_lives_in_one_chunk(n_features, monkeypatch):
    x, place = make_data(5, 1_000_000, n_features, 100, together=True)
    chunked = da.from_array(x, chunks=(50_000, n_features))
    model = model_of().fit(chunked)
    assert has_found(model, place, 1e-4)
    without_moves(monkeypatch)
    assert not has_found(clone(model).fit(chunked), place, 1e-4)


@pytest.mark.parametrize("structure", mostly_slow(STRUCTURES, "full", "tied-diag", "spherical"))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_structure_and_precision(structure, dtype, monkeypatch):
    x, place = make_data(1, 200_000, 3, 40)
    model = model_of(covariance_type=structure, init_size=5000, tol=1e-4).fit(x.astype(dtype))
    assert has_found(model, place, 2e-4)
    without_moves(monkeypatch)
    assert not has_found(clone(model).fit(x.astype(dtype)), place, 2e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_fits_with_default_parameters_find_a_rare_cluster(weighted):
    x, place = make_data(4, 200_000, 2, 40)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(x)) if weighted else np.ones(len(x))
    share = weights[np.linalg.norm(x - place, axis=1) < 4].sum() / weights.sum()
    model = GaussianMixture(5, tol=1e-4, random_state=0).fit(x, sample_weight=weights if weighted else None)
    assert has_found(model, place, share)


@pytest.mark.slow
def test_weights_count(monkeypatch):
    x, place = make_data(2, 200_000, 2, 40)
    rare_ones = np.linalg.norm(x - place, axis=1) < 4
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(x))
    model = model_of(tol=1e-4).fit(x, sample_weight=weights)
    assert has_found(model, place, weights[rare_ones].sum() / weights.sum())
    absent = clone(model).fit(x, sample_weight=np.where(rare_ones, 0.0, weights))
    assert np.linalg.norm(absent.means_ - place, axis=1).min() > 4
    without_moves(monkeypatch)
    lost = clone(model).fit(x, sample_weight=weights)
    assert not has_found(lost, place, weights[rare_ones].sum() / weights.sum())


@pytest.mark.parametrize("seed", [4, 6])
def test_few_rows_that_most_weight_lies_on_hold_their_components(seed):
    rng = np.random.default_rng(seed)
    x, weights, place = 3 * rng.normal(size=(60_000, 2)), np.ones(60_000), np.array([-40.0, -40.0])
    rows = rng.choice(len(x), 60, replace=False)
    heavy, rare_ones = rows[:40], rows[40:]
    x[heavy] = np.array([[100, 0], [100, 50]])[np.arange(40) % 2] + rng.normal(size=(40, 2))
    weights[heavy] = 2000
    x[rare_ones] = place + 0.3 * rng.normal(size=(20, 2))
    model = model_of(4, tol=1e-4).fit(x, sample_weight=weights)
    assert has_found(model, place, 20 / weights.sum())
    for mean in ([100, 0], [100, 50]):
        assert has_found(model, np.array(mean), 20 * 2000 / weights.sum())


@pytest.mark.slow
def test_several_are_found_at_once():
    x, place = make_data(2, 400_000, 2, 80)
    other, third = place + 60, place - 80
    rng = np.random.default_rng(0)
    x[1000:1060] = other + rng.normal(size=(60, 2))
    x[5000:5070] = third + rng.normal(size=(70, 2))
    model = model_of(7, tol=1e-4).fit(x)
    for where, share in ((place, 2e-4), (other, 1.5e-4), (third, 1.75e-4)):
        assert has_found(model, where, share)
    assert kinds(model).count("moved") == 1  # one pass sees all of them


def test_the_acceleration_goes_on_from_there():
    x, place, model = small(acceleration="lbfgs")
    model.fit(x)
    assert has_found(model, place, 30 / len(x))
    assert (np.diff(model.lower_bounds_) > -1e-12).all()


# ---- what it costs


def test_the_bound_never_falls():
    x, place, model = small()
    model.fit(x)
    assert has_found(model, place, 30 / len(x))
    assert (np.diff(model.lower_bounds_) > -1e-12).all()
    assert len(model.lower_bounds_) == model.n_iter_


def test_nothing_to_be_found_costs_no_reading_and_changes_no_bit(monkeypatch):
    x, _ = make_data(4, 100_000, 3, 0)
    model = model_of(4, init_size=5000).fit(x)
    assert "moved" not in kinds(model)
    without_moves(monkeypatch)
    plain = clone(model).fit(x)
    assert model.lower_bounds_ == plain.lower_bounds_
    assert model.n_passes_ == plain.n_passes_
    np.testing.assert_array_equal(model.means_, plain.means_)


@pytest.mark.parametrize("degrees", mostly_slow([1, 2, 4], 2))
def test_heavy_tails_cost_a_bounded_number_of_iterations(degrees):
    x, _ = make_data(4, 60_000, 2, 0, degrees=degrees)
    model = model_of(6, init_size=3000, tol=1e-5, max_iter=30).fit(x)
    first = kinds(model).index("em")
    tried = [record for record in model.history_[first:] if record.kind == "sample"]
    assert len(tried) <= 1
    most = relocation._TRIAL_ITERATIONS * relocation.MOST_MOVES * (relocation._MERGES + 1)
    for record in tried:
        assert 0 < record.n_iter <= most
        assert record.n_rows <= (1 + relocation._BETTER_FOR_EACH) * 3000
        assert record.bytes_read == 0
    assert kinds(model).count("rejected") <= 1


def test_a_worse_place_is_left_again(monkeypatch):
    x, _, model = small(max_iter=20)

    def nowhere(self, evaluation, updated):
        means = updated.means + 100
        return Relocated(
            MixtureParameters.from_covariances(updated.structure, updated.weights, means, updated.covariances)
        )

    monkeypatch.setattr(Relocation, "__call__", nowhere)
    misled = clone(model).fit(x)
    without_moves(monkeypatch)
    monkeypatch.setattr(Relocation, "__call__", lambda *_: Relocated())
    plain = clone(model).fit(x)
    assert kinds(misled).count("rejected") == 1
    assert misled.lower_bounds_ == plain.lower_bounds_
    assert misled.n_passes_ == plain.n_passes_ + 1


@pytest.mark.parametrize("case", ["no sample", "all in the sample", "given", "warm", "Bayesian"])
def test_where_no_sample_was_searched_nothing_is_watched(case, monkeypatch):
    x, _, model = small()
    if case == "warm":
        model = model.set_params(warm_start=True).fit(x)

    def refuse(*_):
        raise AssertionError("rows were watched")

    monkeypatch.setattr(estep_pass, "LowDensityRowsFold", refuse)
    if case == "no sample":
        model = clone(model).set_params(init_size=None, n_init=1)
    elif case == "all in the sample":
        model = clone(model).set_params(init_size=len(x))
    elif case == "given":
        start = clone(model).set_params(max_iter=0).fit(x)
        model = clone(model).set_params(
            weights_init=start.weights_, means_init=start.means_, precisions_init=start.precisions_
        )
    elif case == "Bayesian":
        model = BayesianGaussianMixture(n_components=5, init_size=2000, n_init="auto", random_state=0)
    model.fit(x)
    assert "moved" not in kinds(model)


def test_where_a_sample_was_searched_rows_are_watched(monkeypatch):
    x, _, model = small()

    def watched(*_, **__):
        raise AssertionError("rows were watched")

    monkeypatch.setattr(estep_pass, "LowDensityRowsFold", watched)
    with pytest.raises(AssertionError, match="rows were watched"):
        model.fit(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_history_has_it_in_order(dtype):
    x, _, model = small()
    model.fit(x.astype(dtype))
    tail = kinds(model)[kinds(model).index("em") :]
    assert tail[:3] == ["em", "sample", "moved"]
    trial = model.history_[kinds(model).index("moved") - 1]
    assert trial.arithmetic == dtype.__name__
    assert model.n_passes_ == len([record for record in model.history_ if record.bytes_read])


def test_a_plan_counts_what_is_kept():
    x = da.zeros((10_000_000, 8), chunks=(250_000, 8))
    model = GaussianMixture(16, init_size=100_000, n_init="auto")
    watched, plain = model.plan(x), clone(model).set_params(init_size=None, n_init=1).plan(x)
    kept = n_kept(10_000_000, 8, 100_000)
    assert kept == 10_000
    assert watched.estep.task.values > plain.estep.task.values + 8 * 8 * kept
    assert watched.estep.task.work > plain.estep.task.work + 4 * 8 * 8 * kept


def test_a_plan_does_not_count_every_list_as_full():
    # Nodes of a deep tree are many, and what all of them hold together is not more.
    x = da.zeros((30_000_000, 16), chunks=(50_000, 16))
    watched, plain = (GaussianMixture(5, init_size=size).plan(x).estep.task.total for size in (20_000, None))
    assert watched < plain + 60e6


@pytest.mark.parametrize("heavy_are_worst", mostly_slow([False, True], True))
def test_all_lists_together_hold_about_twice_as_many_rows_as_are_kept(heavy_are_worst, monkeypatch, tune):
    """What `watch_cost` relies on."""
    sizes = []
    evaluate = low_density_rows._LowDensityFinder.__call__

    def counting(self, *args):
        found = evaluate(self, *args)
        sizes.append(len(found.rows))
        return found

    monkeypatch.setattr(low_density_rows._LowDensityFinder, "__call__", counting)
    tune(longest_leaf=256)
    x = np.random.default_rng(0).standard_t(4, size=(100_000, 2))
    weights = None
    if heavy_are_worst:  # all of them are in the sample, where each stands for itself alone
        weights = np.ones(len(x))
        weights[np.argsort(np.linalg.norm(x, axis=1))[-500:]] = 200
    GaussianMixture(3, init_size=5000, max_iter=2, random_state=0).fit(x, sample_weight=weights)
    kept = n_kept(len(x), 2, 5000)
    assert kept == 1000
    assert len(sizes) == len(x) // 256 + 1
    assert kept <= sum(sizes) < 3 * kept


def test_a_plan_counts_the_strata_in_the_driver():
    x = da.zeros((10_000_000, 8), chunks=(250_000, 8))
    model = GaussianMixture(16, init_size=100_000, n_init="auto")
    watched, plain = model.plan(x), clone(model).set_params(init_size=None, n_init=1).plan(x)
    kept = n_kept(10_000_000, 8, 100_000)
    assert watched.driver_bytes > plain.driver_bytes + 3 * kept * 8 * 32


# ---- the same bits


@pytest.mark.parametrize("kind", mostly_slow(["dask", "threads", "zarr", "weighted"], "zarr", "weighted"))
def test_chunks_and_schedulers_do_not_matter(kind, tmp_path, tune):
    tune(shortest_task=0.0)
    x, _, model = small()
    weights = np.random.RandomState(0).uniform(0.5, 1.5, len(x)) if kind == "weighted" else None
    expected = clone(model).fit(x, sample_weight=weights)
    assert "moved" in kinds(expected)
    if kind == "zarr":
        data = zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(1777, 1))
    else:
        data = da.from_array(x, chunks=((1, 9999, 20_000, 10_000), (1, 1)))
    found = clone(model).set_params(scheduler="threads" if kind == "threads" else "synchronous")
    found.fit(data, sample_weight=weights)
    assert found.lower_bounds_ == expected.lower_bounds_
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_do_not_matter():
    x, _, model = small()
    expected = clone(model).fit(x)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1GB", dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster) as client:
        found = clone(model).set_params(scheduler=client).fit(da.from_array(x, chunks=(3333, 2)))
    assert "moved" in kinds(found)
    assert found.lower_bounds_ == expected.lower_bounds_
    np.testing.assert_array_equal(found.means_, expected.means_)


@pytest.fixture(scope="module")
def kernel():
    structure = STRUCTURES["full"]
    mixture = MixtureParameters.from_covariances(
        structure, np.array([0.3, 0.7]), np.array([[0.0, 0.0], [3.0, 1.0]]), np.stack([np.eye(2), 2 * np.eye(2)])
    )
    return QuadraticKernel(mixture, Frame(np.zeros(2), np.ones(2)))


@quick
@given(
    n=st.integers(1, 400),
    limit=st.integers(1, 60),
    leaf=st.sampled_from([8, 16, 64]),
    cut=st.integers(1, 399),
    highest=st.sampled_from([np.inf, -6.0, -4.0]),
    weighted=st.booleans(),
)
def test_the_worst_rows_are_those_of_one_sort(kernel, n, limit, leaf, cut, highest, weighted):
    rng = np.random.RandomState(n)
    x = rng.normal(size=(n, 2)).round(1)  # rows repeat
    weights = rng.choice([0.0, 1.0, 2.5], size=n) if weighted else None
    with tuned(shortest_leaf=leaf, longest_leaf=leaf, shortest_task=0.0):
        fold = LowDensityRowsFold(kernel, DensityThreshold(limit, highest), np.dtype(np.float64))
        with DaskEngine("synchronous") as engine:
            chunks = ((min(cut, n), n - cut) if cut < n else (n,), 2)
            dataset, _ = as_dataset(da.from_array(x, chunks=chunks), weights, engine.compute)
            found = engine.run(dataset, fold, "estep")
    density = kernel.log_density(x)
    w = np.ones(n) if weights is None else weights
    eligible = np.flatnonzero((w > 0) & (density <= highest))
    expected = eligible[np.lexsort((eligible, density[eligible].round(9)))][:limit]
    # Equal rows in leaves of other lengths may differ in the last bit of their density.
    np.testing.assert_allclose(found.log_density, np.sort(density[eligible])[:limit], rtol=1e-12)
    np.testing.assert_array_equal(found.rows, x[found.number])
    np.testing.assert_array_equal(found.weights, w[found.number])
    assert len(set(found.number.tolist())) == len(expected)


def test_how_much_is_kept_is_bounded():
    assert n_kept(10**9, 4, 100_000) == 10_000
    assert n_kept(10**9, 4, 3000) == 3000
    assert n_kept(5000, 4, 3000) == 50
    assert n_kept(10**9, 1000, 100_000) * 8 * 1000 <= 2 << 20
    assert n_kept(3, 2, 2) == 0
