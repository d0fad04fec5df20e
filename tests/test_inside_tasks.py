"""Fits, scores and results inside tasks of the cluster that they run on: its only thread is for their own tasks."""

import asyncio

import dask.array as da
import distributed
import joblib
import numpy as np
import pytest
import zarr
from products import mostly_slow
from sklearn.model_selection import GridSearchCV

from daskgmm import GaussianMixture, select
from daskgmm.errors import SchedulerError
from daskgmm.results import write_predictions

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(120),
]

SECONDS = 60  # so that what waits for ever ends in an error


def clouds():
    rng = np.random.RandomState(0)
    return np.concatenate([rng.normal(center, 1.0, (4000, 2)) for center in (-5, 5)])


X = clouds()


def model(n_components=2, **parameters):
    return GaussianMixture(n_components, random_state=0, max_iter=3, tol=0, **parameters)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.zarr"
    zarr.create_array(path, data=X, chunks=(1000, 2))
    return str(path)


@pytest.fixture(scope="module")
def expected():
    return model().fit(X)


@pytest.fixture(scope="module", params=["threads", pytest.param("processes", marks=pytest.mark.cluster)])
def client(request):
    """Of one worker with one thread, in this process or in one of its own."""
    where = {"host": "127.0.0.1"} if request.param == "processes" else {"processes": False}
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None, **where
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def fit(path, n_components=2):
    return model(n_components).fit(path).lower_bound_


def fit_twice(path):
    return fit(path), fit(path)


def fit_in_scope(path):
    with distributed.worker_client():
        return fit(path)


def fit_by_worker_client(path):
    with distributed.worker_client() as client:
        return model(scheduler=client).fit(path).lower_bound_


def fit_by_get_client(path):
    return model(scheduler=distributed.get_client()).fit(path).lower_bound_


def fit_by_address(path):
    return model(scheduler=distributed.get_worker().scheduler.address).fit(path).lower_bound_


def fit_on_threads(path):
    return model(scheduler="threads").fit(path).lower_bound_


def fit_after_seceding(path):
    distributed.secede()
    return fit(path)


@pytest.mark.parametrize(
    "job",
    mostly_slow(
        [
            fit,
            fit_in_scope,
            fit_by_worker_client,
            fit_by_get_client,
            fit_by_address,
            fit_on_threads,
            fit_after_seceding,
        ],
        fit,
        fit_by_worker_client,
        fit_by_address,
        fit_after_seceding,
    ),
)
def test_a_fit_inside_a_task_gives_the_same_bits(job, path, client, expected):
    assert client.submit(job, path, pure=False).result(SECONDS) == expected.lower_bound_


def test_a_task_that_has_fitted_comes_back_to_its_worker(path, client, expected):
    """Otherwise the worker would have a thread more after each."""

    def n_threads(dask_worker):
        return len(dask_worker.executors["default"]._threads)

    assert client.submit(fit_twice, path, pure=False).result(SECONDS) == (expected.lower_bound_,) * 2
    assert set(client.run(n_threads).values()) == {1}


def test_many_fits_at_once(path, client):
    keys = [1, 2, 3, 4]
    found = client.gather(client.map(fit, [path] * len(keys), keys, pure=False))
    assert found == [model(key).fit(X).lower_bound_ for key in keys]


def use(fitted, path, output):
    """All else that waits for a pass."""
    best = select(path, [1, 2], estimator=model()).best
    write_predictions(fitted, path, output)
    labels = fitted.predict(path).compute()
    return best, fitted.score(path), labels.sum(), model().plan(path).n_rows


def test_all_other_work_inside_a_task(path, client, expected, tmp_path):
    labels = expected.predict(X)
    found = client.submit(use, expected, path, str(tmp_path / "out.zarr")).result(SECONDS)
    assert found == (select(X, [1, 2], estimator=model()).best, expected.score(X), labels.sum(), len(X))
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out.zarr", mode="r")["labels"][:], labels)


def test_a_grid_search_of_lazy_rows_on_joblibs_dask_backend(client):
    grid, folds = {"n_components": [1, 2]}, 2
    with client.as_current(), joblib.parallel_config(backend="dask"):
        found = GridSearchCV(model(), grid, cv=folds).fit(da.from_array(X, chunks=(1000, 2)))
    expected = GridSearchCV(model(), grid, cv=folds).fit(X)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


class Fitter:
    def fit(self, path):
        return fit(path)


def test_a_fit_inside_an_actor(path, client, expected):
    with client.as_current():
        made = client.submit(Fitter, actor=True)  # as long as somebody wants it, it is there
        actor = made.result(SECONDS)
    assert actor.fit(path).result(SECONDS) == expected.lower_bound_


async def fit_in_coroutine(path):
    return fit_by_address(path)


async def fit_in_thread_of_coroutine(path):
    return await asyncio.to_thread(fit_by_address, path)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (fit_in_coroutine, "would hold up its own worker"),
        (fit_in_thread_of_coroutine, "in the task's own thread, or compute"),
    ],
)
def test_a_task_that_would_wait_for_itself_is_told(job, message, path, client):
    with pytest.raises(SchedulerError, match=message):
        client.submit(job, path, pure=False).result(SECONDS)


def test_a_worker_of_another_cluster_keeps_its_thread(path, client, expected):
    def fit_elsewhere(path, address):
        lower_bound = model(scheduler=address).fit(path).lower_bound_
        state = distributed.get_worker().state.tasks[distributed.get_worker().get_current_task()].state
        return lower_bound, state

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", processes=False, protocol="tcp",
        dashboard_address="127.0.0.1:0",
    ) as other:  # fmt: skip
        done = client.submit(fit_elsewhere, path, other.scheduler_address, pure=False).result(SECONDS)
    assert done == (expected.lower_bound_, "executing")


# ---- asynchronous clients


def test_an_asynchronous_client_in_scope(path, expected):
    """Tasks have clients of their own, rows in memory need none, and a coroutine is told what to do."""

    async def use():
        async with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", asynchronous=True
            ) as cluster,
            distributed.Client(cluster, asynchronous=True) as client,
        ):
            inside = await asyncio.wait_for(client.submit(fit, path, pure=False).result(), SECONDS)
            in_memory = fit(X)
            with pytest.raises(TypeError, match="in scope is asynchronous"):
                fit(path)
            advised = await asyncio.to_thread(model(scheduler=client.scheduler.address).fit, path)
            return inside, in_memory, advised.lower_bound_

    assert asyncio.run(use()) == (expected.lower_bound_,) * 3
