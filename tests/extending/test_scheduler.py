"""A scheduler from outside the package: one class, an object of which is passed as ``scheduler=``."""

import random

import dask.array as da
import numpy as np
import pytest

from daskgmm import GaussianMixture, events, select
from daskgmm.engine.scheduler import Scheduler
from daskgmm.errors import NonFiniteDataError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).normal(size=(4000, 3))
X[::2] += [3, 0, 1]


class RandomOrder(Scheduler):
    """Runs one task at a time, the next of which is any whose dependencies are there."""

    def __init__(self, seed):
        self.random, self.is_open, self.n_tasks = random.Random(seed), False, 0

    n_threads = 4  # tasks of which no more than one runs: the work is divided for so many

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *exception):
        self.is_open = False

    def run(self, work, **options):
        assert self.is_open
        tasks, key = work.build()
        done = {}
        while key not in done:
            ready = [name for name, task in tasks.items() if name not in done and task.dependencies <= done.keys()]
            chosen = self.random.choice(ready)
            done[chosen] = tasks[chosen](done)
        self.n_tasks += len(done)
        return done[key]


@pytest.fixture(autouse=True)
def many_tasks(tune):
    tune(shortest_leaf=64, longest_leaf=64, shortest_task=0.0, arity=2)


def mixture(**parameters):
    return GaussianMixture(2, random_state=0, max_iter=3, tol=1e-2, init_size=1000, **parameters)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_runs_fits_and_scores_to_the_same_bits(seed):
    rows = da.from_array(X, chunks=(300, 2)).rechunk((170, 3))
    scheduler, heard = RandomOrder(seed), []
    fitted, expected = mixture(scheduler=scheduler, callbacks=[heard.append]).fit(rows), mixture().fit(X)
    assert fitted.lower_bounds_ == expected.lower_bounds_
    np.testing.assert_array_equal(fitted.covariances_, expected.covariances_)
    assert fitted.score(rows) == expected.score(X)
    assert not scheduler.is_open
    assert scheduler.n_tasks > 100
    finished = [event for event in heard if isinstance(event, events.BatchFinished) and event.label == "estep"]
    assert sum(event.n_rows for event in finished) == fitted.n_iter_ * len(X)


def test_it_runs_selections_and_plans():
    rows = da.from_array(X, chunks=(500, 3))
    found, expected = (select(data, [1, 2], estimator=mixture(), **how) for data, how in (
        (rows, {"scheduler": RandomOrder(2)}), (X, {}),
    ))  # fmt: skip
    assert found.table == expected.table
    assert mixture(scheduler=RandomOrder(3)).plan(rows).n_threads == 4


def test_it_is_left_when_a_fit_fails():
    scheduler, rows = RandomOrder(4), X.copy()
    rows[1234, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match="1234"):
        mixture(scheduler=scheduler).fit(da.from_array(rows, chunks=(500, 3)))
    assert not scheduler.is_open
