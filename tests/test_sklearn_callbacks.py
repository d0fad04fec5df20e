"""scikit-learn's own callbacks, where it has them."""

import pickle

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.events import IterationFinished

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn 1.9 or later")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).normal(size=(200, 2)) + np.repeat([[0.0], [6.0]], 100, axis=0)
RECORDS = []


class Recorder:
    """Callback that notes what it is told."""

    def __init__(self, stop=False):
        self.stop = stop

    def setup(self, estimator, context):
        RECORDS.append(("setup", context.task_name))

    def on_fit_task_begin(self, estimator, context, *, X, metadata):
        RECORDS.append(("begin", context.task_name, context.task_id, len(X), sorted(metadata)))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        fitted = fitted_estimator is not None and fitted_estimator.means_.tolist()
        RECORDS.append(("end", context.task_name, context.task_id, fitted))
        return self.stop and context.task_name == "iteration"

    def teardown(self, estimator, context):
        RECORDS.append(("teardown", context.task_name))


@pytest.fixture
def records():
    RECORDS.clear()
    return RECORDS


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("data", [X, da.from_array(X, chunks=50)], ids=["numpy", "dask"])
def test_a_fit_is_a_task_with_a_task_for_every_iteration(kind, data, records):
    events = []
    model = kind(n_components=2, random_state=0, n_init=2, tol=1e-4, callbacks=[events.append])
    model.set_callbacks(Recorder())
    before = set(vars(model))
    model.fit(data, sample_weight=np.ones(len(X)))
    assert records[:2] == [("setup", "fit"), ("begin", "fit", 0, 200, ["sample_weight"])]
    assert records[-2:] == [("end", "fit", 0, model.means_.tolist()), ("teardown", "fit")]
    inner = records[2:-2]
    longest = max(event.iteration for event in events if isinstance(event, IterationFinished))
    ended = [record[2] for record in inner if record[0] == "end"]
    assert ended == list(range(longest))
    begun = [record[2] for record in inner if record[0] == "begin"]
    assert begun[:longest] == ended
    assert {name for name in set(vars(model)) - before if not name.endswith("_")} <= {
        "_exact",
        "_fingerprints",
        "_memory",
    }


def test_the_result_is_the_same(records):
    plain = GaussianMixture(2, random_state=0).fit(X)
    told = GaussianMixture(2, random_state=0).set_callbacks(Recorder()).fit(X)
    np.testing.assert_array_equal(told.means_, plain.means_)
    assert records
    assert not hasattr(plain, "_skl_callbacks")


def test_callbacks_are_torn_down_after_a_fit_that_failed(records):
    with pytest.raises(ValueError, match="NaN"):
        GaussianMixture(2).set_callbacks(Recorder()).fit(np.where(X > 7, np.nan, X))
    assert [record[0] for record in records] == ["setup", "begin", "teardown"]


def test_without_iterations(records):
    GaussianMixture(2, random_state=0, max_iter=0).set_callbacks(Recorder()).fit(X)
    assert [record[1] for record in records] == ["fit"] * 4


def test_a_request_to_stop_is_refused_aloud():
    model = GaussianMixture(2, random_state=0, tol=1e-6).set_callbacks(Recorder(stop=True))
    with pytest.warns(UserWarning, match="asks to stop the fit, which goes on"):
        model.fit(X)
    assert model.converged_


def test_clones_and_pickles_keep_them(records):
    model = GaussianMixture(2, random_state=0).set_callbacks(Recorder())
    clone(model).fit(X)
    assert records.count(("setup", "fit")) == 1
    pickle.loads(pickle.dumps(model)).fit(X)
    assert records.count(("setup", "fit")) == 2
    model.set_callbacks().fit(X)
    assert records.count(("setup", "fit")) == 2
    with pytest.raises(TypeError, match="FitCallback"):
        model.set_callbacks(print)


def test_their_progress_bar(capsys):
    GaussianMixture(2, random_state=0).set_callbacks(callback.ProgressBar()).fit(X)
    assert "GaussianMixture - fit" in capsys.readouterr().out
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))
    pipeline.set_callbacks(callback.ProgressBar()).fit(X)
    assert "GaussianMixture - fit" in capsys.readouterr().out
