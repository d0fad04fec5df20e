"""`select`: what it finds is what each candidate finds alone, in the passes that the slowest of them takes."""

from __future__ import annotations

import builtins
import copy
import io
import itertools
import json
import math
import re
from collections import Counter

import dask
import dask.array as da
import distributed
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn import mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn_shared import GaussianMixture as Reference
from zarr.storage import MemoryStore

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture, ProgressBar, jobs, select
from daskgmm.cli import main
from daskgmm.core import kernel_choice
from daskgmm.criteria import CRITERIA
from daskgmm.data.held_out import HeldOut
from daskgmm.data.inputs import as_dataset
from daskgmm.diagnostics import selection_view as pictures
from daskgmm.diagnostics.summary import print_record
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import (
    FallingLikelihoodWarning,
    IllDefinedCovarianceError,
    InitializationWarning,
    InvalidWeightsError,
    MissingDependencyError,
    SelectionWarning,
)
from daskgmm.estimators import selection, selection_table
from daskgmm.events import IterationFinished, PassStarted, StartBegun, StartFinished
from daskgmm.fitting.fit import fit_mixtures
from daskgmm.fitting.pruning import PruningRule, remaining_gain
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import tuned

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

N, D = 3000, 2
TYPES = list(COVARIANCE_TYPES)


def blobs(n=N, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [6.0, 1.0], [0.0, 8.0]])
    return rng.normal(size=(n, D)) + centers[rng.integers(3, size=n)]


X = blobs()
WEIGHTS = np.random.default_rng(5).random(N)


def same_bits(one, other):
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.lower_bounds_ == other.lower_bounds_
    assert (one.n_iter_, one.converged_, one.n_passes_) == (other.n_iter_, other.converged_, other.n_passes_)


def alone(selection, key, weights=None):
    return clone(selection.models[key]).fit(X, sample_weight=weights)


# ---- a likelihood that falls


def poor(seed=0):
    """Five clusters in a row, one of which most starts of five components miss."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(shift, 1, size=(200, 1)) for shift in (0, 100, 200, 300, 310)])


CENTERS = {
    2: [[50], [305]],
    3: [[0], [100], [250]],
    4: [[-1], [0], [1], [250]],
    5: [[0], [100], [200], [300], [310]],
}


@pytest.fixture
def poor_starts(monkeypatch):
    """Starts of which those of four components miss more than those of three."""
    prepare = GaussianMixture._prepare

    def prepare_at(model, n_features):
        k = model.n_components
        start = {
            "means_init": CENTERS[k],
            "weights_init": np.full(k, 1 / k),
            "precisions_init": np.full((k, 1, 1), 1e-3 if k == 4 else 0.1),
        }
        return prepare(clone(model).set_params(**start), n_features)

    monkeypatch.setattr(GaussianMixture, "_prepare", prepare_at)


@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")  # of the poor start alone
def test_a_candidate_below_a_smaller_one_begins_again_with_the_smaller_one_split(poor_starts):
    estimator, begun = GaussianMixture(random_state=0, max_iter=500), []
    alone = GaussianMixture(4, random_state=0, max_iter=500).fit(poor()).score(poor())
    found = select(poor(), [5, 4, 3, 2], estimator=estimator, callbacks=[begun.append])
    likelihoods = [row["log_likelihood"] for row in found.table]
    assert alone < row_of(found, (3, "full"))["log_likelihood"] - 0.1
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert {(event.label, event.start) for event in begun if isinstance(event, StartBegun) and event.start} == {
        ("4 full", 1)
    }
    (grown,) = [record for record in found.models[4, "full"].history_ if record.kind == "sample"]
    splits, steps = 2, 4 + 8
    assert (grown.start, grown.n_iter, grown.n_rows) == (1, splits * steps, len(poor()))


def test_a_likelihood_that_falls_with_the_number_of_components_is_told(poor_starts):
    """A fit out of iterations does not begin again, and one that others overtake at the end may not, either."""
    table = [
        {"n_components": k, "covariance_type": "full", "log_likelihood": value, "converged": True}
        for k, value in ((5, -1.0), (4, -3.0), (3, -2.0), (2, -4.0))
    ]
    with pytest.warns(FallingLikelihoodWarning, match=r"4 full has .*, 3 full .*Decrease tol") as caught:
        selection_table.warn_of_falls(table, 1e-3)
    assert "5 full" not in str(caught[0].message)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_the_likelihood_never_falls(covariance_type):
    """Overlapping clusters, of which every start finds others; a likelihood that falls would be a warning."""
    rng = np.random.default_rng(1)
    x = rng.normal(scale=1.5, size=(6, 2))[rng.integers(6, size=2000)] + rng.normal(size=(2000, 2))
    estimator = GaussianMixture(random_state=0, init_params="random_from_data")
    found = select(x, range(1, 9), covariance_type, estimator=estimator)
    assert all(row["converged"] for row in found.table)
    assert min(np.diff([row["log_likelihood"] for row in found.table])) > -1e-4  # a tenth of tol


# ---- one search for all numbers of components


def apart(n_features, n_rows=100_500, seed=0):
    """Four clusters, eight standard deviations apart along some axis."""
    rng = np.random.default_rng(seed)
    centers = 12.0 * np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]])[:, :n_features]
    return centers[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=n_rows)] + rng.normal(size=(n_rows, n_features))


@pytest.mark.parametrize("covariance_type", ["full", pytest.param("tied", marks=pytest.mark.slow)])
def test_the_true_number_of_components_is_found(covariance_type):
    check_number(2, covariance_type)


@pytest.mark.slow
@pytest.mark.parametrize("n_features", [2, 3, 4])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_true_number_of_components_is_found_with_any_structure(n_features, covariance_type):
    check_number(n_features, covariance_type)


def check_number(n_features, covariance_type):
    x = apart(n_features)
    found = select(x, range(1, 8), covariance_type, estimator=GaussianMixture(random_state=0))
    assert found.best == (4, covariance_type)
    assert not any(row["undecided"] for row in found.table)
    assert min(np.diff([row["log_likelihood"] for row in found.table])) > -1e-4
    np.testing.assert_allclose(sorted(found.model.weights_), [0.1, 0.2, 0.3, 0.4], atol=0.01)


def test_one_over_fit_serves_all_numbers_of_components():
    """The largest candidate is searched as alone, and the others begin with what it has found."""
    x, estimator = apart(2), GaussianMixture(random_state=0)
    found = select(x, [4, 5], estimator=estimator)
    larger, smaller = (
        next(record for record in found.models[k, "full"].history_ if record.kind == "sample") for k in (5, 4)
    )
    alone = next(record for record in clone(found.models[5, "full"]).fit(x).history_ if record.kind == "sample")
    assert larger.n_iter >= alone.n_iter  # and maybe steps from the smaller one, split
    assert larger.lower_bound >= alone.lower_bound
    assert smaller.n_rows == larger.n_rows
    assert smaller.lower_bound == pytest.approx(larger.lower_bound, abs=0.003)  # of the same held-out rows
    same_bits(select(x, [4], estimator=estimator).model, GaussianMixture(4, random_state=0).fit(x))


def test_a_shared_search_has_the_same_bits_from_any_input():
    x = apart(2)
    expected = select(x, [3, 4, 6], estimator=GaussianMixture(random_state=0))
    found = select(da.from_array(x, chunks=(17_000, 2)), [3, 4, 6], estimator=GaussianMixture(random_state=0))
    assert found.table == expected.table
    for key, model in found.models.items():
        same_bits(model, expected.models[key])


# ---- candidates too close to tell


def test_a_search_that_fails_is_told_and_stops_no_other():
    """An over-fit of nine components has a seed in every one of the 40 distinct rows."""
    x = np.random.default_rng(0).integers(40, size=(100_500, 1)).astype(float)
    estimator = GaussianMixture(reg_covar=0, random_state=0)
    with pytest.warns(InitializationWarning, match="the candidate 9 full failed"):
        found = select(x, [2, 3, 9], estimator=estimator)
    assert [row["failed"] is None for row in found.table] == [True, True, False]
    two, three = (found.models[k, "full"] for k in (2, 3))
    searched = [next(record for record in model.history_ if record.kind == "sample") for model in (two, three)]
    assert searched[0].seconds == searched[1].seconds  # one search serves both
    same_bits(three, select(x, [2, 3], estimator=estimator).models[3, "full"])


def test_candidates_that_could_still_win_go_on():
    """With this tolerance alone, two fits end where the gain that is left decides their order."""
    x = overlapping()
    settings_ = {"init_params": "random_from_data", "random_state": 0, "max_iter": 1000}
    exact = select(x, range(1, 5), estimator=GaussianMixture(tol=1e-5, **settings_))
    found = select(x, range(1, 5), estimator=GaussianMixture(tol=1e-3, **settings_))
    alone = GaussianMixture(found.best[0], tol=1e-3, **settings_).fit(x)
    assert found.best == exact.best
    assert found.model.n_iter_ > alone.n_iter_
    assert found.model.bic(x) < alone.bic(x)
    assert not any(row["undecided"] for row in found.table)
    assert all(row["converged"] for row in found.table)


class Scripted:
    """Comparison of a mixture with a smaller one: the fit goes on in the given ways, one after the other."""

    def __init__(self, *ways):
        self.ways = list(ways)

    def falling(self, standings, tols, weight_sum):
        return {1: 0} if self.ways[:1] == ["grown"] and self.ways.pop(0) else {}

    def undecided(self, standings, weight_sum):
        return [1] if self.ways[:1] == ["tightened"] and self.ways.pop(0) else []


def went_on(ways, ended=lambda event: None, **parameters):
    """The fit of two overlapping clusters that goes on, beside that of one; ``ended`` gets its events."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1)) + rng.choice([-1.2, 1.2], size=(2000, 1))
    models = [GaussianMixture(1, random_state=0), GaussianMixture(2, random_state=0, **parameters)]
    comparison = Scripted(*ways)
    with DaskEngine("synchronous", listeners=[ended]) as engine:
        dataset, _ = as_dataset(x)
        _, found = fit_mixtures(engine, dataset, [model._spec(1) for model in models], comparison=comparison)
    assert not comparison.ways
    return found


@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")
@pytest.mark.parametrize("ways", [[], ["tightened"], ["grown"], ["tightened", "grown"]], ids=", ".join)
def test_no_start_has_converged_because_another_one_went_on(ways):
    """Two components that coincide have nothing to gain; the other start is better, and reaches ``max_iter``."""
    coinciding = {"weights_init": [0.5, 0.5], "means_init": [[0.0], [0.0]], "precisions_init": [[[0.4]], [[0.4]]]}
    found = went_on(ways, tol=1e-8, max_iter=10, **coinciding)
    assert found.converged == ("grown" not in ways)
    assert (found.n_iter == 10) == ("grown" in ways)


@pytest.mark.parametrize("ways", [[], ["tightened"]], ids=", ".join)
def test_a_start_that_went_on_to_its_limit_has_converged_to_the_tolerance_that_was_asked_for(ways):
    events = []
    found = went_on(ways, events.append, tol=1e-3, max_iter=5, means_init=[[-1.0], [1.5]])
    assert found.converged
    assert [event.converged for event in events if isinstance(event, StartFinished)][-1]
    assert found.n_iter == (5 if ways else 4)


def test_an_order_that_could_not_be_told_is_told():
    x = overlapping()
    estimator = GaussianMixture(tol=1, max_iter=2, init_params="random_from_data", random_state=0)
    with pytest.warns(SelectionWarning, match="may still be better by bic .*Decrease tol and increase max_iter"):
        found = select(x, range(1, 5), estimator=estimator)
    open_ones = [row["n_components"] for row in found.table if row["undecided"]]
    assert open_ones
    assert found.best[0] not in open_ones
    assert str(found).count("may be the best") == len(open_ones)
    assert f"{len(open_ones)} of them may be better" in " ".join(str(found).split())
    assert found.as_record()["candidates"] == found.table


def test_what_rounding_and_tol_leave_open_is_no_fall():
    table = [
        {"n_components": k, "covariance_type": kind, "log_likelihood": value, "converged": converged}
        for k, kind, value, converged in [
            (1, "full", -3.0, True),
            (3, "full", -2.005, True),
            (2, "full", -2.0, True),
            (4, "full", -2.5, False),
            (2, "diag", -2.4, True),
            (5, "full", -2.011, True),
            (3, "diag", None, False),
        ]
    ]
    falls = [(higher["n_components"], lower["n_components"]) for higher, lower in selection_table._falls(table, 0.01)]
    assert falls == [(2, 5)]


# ---- every candidate


@settings(  # each example is several fits
    deadline=None, max_examples=settings().max_examples // 3, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    chunks=st.lists(st.integers(100, 1500), min_size=1, max_size=4),
    numbers=st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True),
    types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True),
    scheduler=st.sampled_from(["synchronous", "threads"]),
    kind=st.sampled_from(["numpy", "dask", "zarr"]),
    weighted=st.booleans(),
    n_init=st.integers(1, 2),
    init_size=st.sampled_from([None, 500]),
)
@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")  # too few iterations to separate
@pytest.mark.filterwarnings("ignore::daskgmm.errors.SelectionWarning")  # and to tell the candidates' order
def test_every_candidate_becomes_what_it_becomes_alone(
    chunks, numbers, types, scheduler, kind, weighted, n_init, init_size
):
    estimator = GaussianMixture(
        n_init=n_init, init_size=init_size, max_iter=15, random_state=1, init_params="random_from_data"
    )
    with tuned(shortest_task=0.0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_comparison", lambda *_: None)  # after which some candidates go on
        weights = WEIGHTS if weighted else None
        found = select(
            chunked(kind, chunks), numbers, types, estimator=estimator, sample_weight=weights, scheduler=scheduler
        )
        expected = {key: alone(found, key, weights) for key in itertools.product(numbers, types)}
    assert found.models.keys() == expected.keys()
    for key, model in expected.items():
        same_bits(found.models[key], model)
        row = row_of(found, key)
        assert model.criteria(X, sample_weight=weights) == {name: row[name] for name in TOLD}
        assert (row["n_iter"], row["converged"]) == (model.n_iter_, model.converged_)
    assert found.n_passes == max(model.n_passes_ for model in expected.values()) + 1


TOLD = ("log_likelihood", "bic", "aic", "icl")


def chunked(kind, chunks):
    if kind == "numpy":
        return X
    if kind == "zarr":
        return zarr.create_array(MemoryStore(), data=X, chunks=(chunks[0], D))
    lengths = []
    while (left := N - sum(lengths)) > 0:
        lengths.append(min(left, chunks[len(lengths) % len(chunks)]))
    return da.from_array(X, chunks=(tuple(lengths), D))


def row_of(selection, key):
    (row,) = [row for row in selection.table if (row["n_components"], row["covariance_type"]) == key]
    return row


def test_on_a_cluster():
    expected = select(X, [1, 3], TYPES, "held_out", estimator=GaussianMixture(random_state=0))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        rows = da.from_array(X, chunks=(700, D))
        found = select(rows, [1, 3], TYPES, "held_out", estimator=GaussianMixture(random_state=0), scheduler=client)
    assert found.table == expected.table
    for key, model in found.models.items():
        same_bits(model, expected.models[key])


def test_random_states_that_are_no_int_become_one_that_all_share():
    for state in (None, np.random.RandomState(3)):
        found = select(X, [1, 2], estimator=GaussianMixture(random_state=state))
        (seed,) = {model.random_state for model in found.models.values()}
        assert isinstance(seed, int)
        same_bits(found.models[2, "full"], alone(found, (2, "full")))


def test_the_estimator_stays_as_it_is():
    estimator = GaussianMixture(7, tol=1e-2, random_state=0)
    found = select(X, [2], estimator=estimator)
    assert estimator.n_components == 7
    assert not hasattr(estimator, "weights_")
    assert (found.model.n_components, found.model.tol) == (2, 1e-2)


def test_names_of_features_reach_every_model():
    found = select(pd.DataFrame(X, columns=["a", "b"]), [1, 2], estimator=GaussianMixture(random_state=0))
    for model in found.models.values():
        assert list(model.feature_names_in_) == ["a", "b"]
        assert model.n_features_in_ == 2


def test_single_precision_data():
    x = X.astype(np.float32)
    found = select(x, [3], estimator=GaussianMixture(random_state=0))
    assert found.model.means_.dtype == np.float32
    np.testing.assert_array_equal(found.model.means_, GaussianMixture(3, random_state=0).fit(x).means_)


# ---- criteria


@pytest.mark.parametrize("covariance_type", TYPES)
def test_criteria_are_scikit_learns(covariance_type):
    found = select(X, [1, 2, 4], covariance_type, estimator=GaussianMixture(random_state=0))
    for key, model in found.models.items():
        theirs = Reference(key[0], covariance_type=covariance_type)
        for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
            setattr(theirs, name, getattr(model, name))
        row = row_of(found, key)
        assert row["log_likelihood"] == pytest.approx(theirs.score(X), rel=1e-12)
        assert row["bic"] == pytest.approx(theirs.bic(X), rel=1e-12)
        assert row["aic"] == pytest.approx(theirs.aic(X), rel=1e-12)
        assert row["n_parameters"] == theirs._n_parameters()
        # Biernacki, Celeux & Govaert, eq. 14 with the estimated responsibilities: the entropy counts as a loss.
        r = theirs.predict_proba(X)
        entropy = -np.sum(np.where(r > 0, r * np.log(np.maximum(r, 1e-300)), 0))
        assert row["icl"] == pytest.approx(theirs.bic(X) + 2 * entropy, rel=1e-10)
        assert model.bic(X) == row["bic"]
        assert model.aic(X) == row["aic"]


@pytest.mark.parametrize("arithmetic", ["float32", "float64", "precise"])
def test_the_entropy_in_every_arithmetic(arithmetic, monkeypatch):
    model = GaussianMixture(3, random_state=0).fit(X)
    exact = model.criteria(X)
    x = X.astype(np.float32) if arithmetic == "float32" else X
    if arithmetic == "precise":
        monkeypatch.setattr(kernel_choice, "CANDIDATES", kernel_choice.CANDIDATES[-1:])
        model = copy.copy(model)  # which remembers no kernel
    assert model._kernel(x).arithmetic == arithmetic
    found = model.criteria(x)
    for name in TOLD:
        assert found[name] == pytest.approx(exact[name], rel=1e-6 if arithmetic == "float32" else 1e-11), name


def test_weights_count_rows():
    counts = np.random.default_rng(2).integers(0, 4, size=N)
    model = GaussianMixture(2, random_state=0).fit(X)
    repeated = model.criteria(np.repeat(X, counts, axis=0))
    assert model.criteria(X, sample_weight=counts) == pytest.approx(repeated, rel=1e-12)


def test_all_criteria_take_one_pass():
    labels = []
    model = GaussianMixture(2, random_state=0).fit(X)
    model.set_params(callbacks=[lambda event: labels.append(event) if isinstance(event, PassStarted) else None])
    assert model.criteria(X).keys() == set(TOLD)
    assert [event.label for event in labels] == ["score"]


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_the_lowest_wins(criterion):
    found = select(X, range(1, 6), TYPES, criterion, estimator=GaussianMixture(random_state=0))
    assert row_of(found, found.best)[criterion] == min(row[criterion] for row in found.table)
    assert found.model is found.models[found.best]
    if criterion != "aic":
        assert found.best[0] == 3


def test_the_highest_likelihood_of_rows_held_out_wins():
    found = select(X, range(1, 6), TYPES, "held_out", estimator=GaussianMixture(random_state=0))
    assert row_of(found, found.best)["held_out"] == max(row["held_out"] for row in found.table)
    assert found.best[0] >= 3


def test_ties_go_to_fewer_parameters():
    # With one component and one feature the structures are the same mixture, and have equal parameters.
    x = X[:, :1]
    found = select(x, [1], ["full", "tied"], estimator=GaussianMixture(random_state=0))
    table = [{**row, "bic": 1.0, "n_parameters": n} for row, n in zip(found.table, (5, 4), strict=True)]
    assert selection_table.best_key("bic", table) == (1, "tied")
    assert selection_table.best_key("bic", table[::-1]) == (1, "tied")


# ---- rows held out


@given(seed=st.integers(0, 2**32 - 1), edges=st.lists(st.integers(0, 500), min_size=2, max_size=6))
def test_which_rows_are_held_out_depends_on_nothing_but_their_number(seed, edges):
    rule = HeldOut(0.3, seed)
    whole = rule(0, 500)
    for start, stop in itertools.pairwise(sorted(edges)):
        np.testing.assert_array_equal(rule(start, stop), whole[start:stop])


def test_the_share_that_is_held_out():
    numbers = np.random.Philox(key=7).random_raw(10_000)
    for share in (0.01, 0.1, 0.5, 0.999):
        rule = HeldOut(share, 7)
        out = rule(0, 10_000)
        np.testing.assert_array_equal(out, numbers / 2.0**64 < share)
        assert abs(out.mean() - share) < 4 * math.sqrt(share * (1 - share) / 10_000)
    assert (HeldOut(0.5, 7)(0, 1000) != HeldOut(0.5, 8)(0, 1000)).any()


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("init_size", [None, 500])
def test_rows_that_are_held_out_never_influence_the_fit(init_params, init_size):
    estimator = GaussianMixture(init_params=init_params, init_size=init_size, random_state=0, tol=1e-9, max_iter=5)
    out = HeldOut(0.2, 0)(0, N)
    other = X.copy()
    other[out] = np.random.default_rng(1).normal(50, 100, size=(out.sum(), D))
    one, another = (
        select(x, [1, 3], ["full", "diag"], "held_out", estimator=estimator, held_out=0.2)
        for x in (X, da.from_array(other, chunks=(512, D)))
    )
    for key, model in one.models.items():
        same_bits(model, another.models[key])
        same_bits(model, alone(one, key, weights=np.where(out, 0.0, 1.0)))
        mine, theirs = row_of(one, key), row_of(another, key)
        for name in TOLD:
            assert mine[name] == theirs[name]
        assert mine["held_out"] > theirs["held_out"] + 10
        assert mine["held_out"] == pytest.approx(model.score(X[out]), rel=1e-12)
        assert {name: mine[name] for name in TOLD} == pytest.approx(model.criteria(X[~out]), rel=1e-12)


def test_rows_held_out_beside_weights():
    found = select(
        X, [2], criterion="held_out", estimator=GaussianMixture(random_state=0), sample_weight=WEIGHTS, held_out=0.3
    )
    out = HeldOut(0.3, 0)(0, N)
    same_bits(found.model, alone(found, (2, "full"), weights=np.where(out, 0.0, WEIGHTS)))
    (row,) = found.table
    assert row["held_out"] == pytest.approx(found.model.score(X[out], sample_weight=WEIGHTS[out]), rel=1e-12)


@pytest.mark.parametrize("kind", ["zarr", "dask", "dask of another chunking"])
def test_lazy_weights_beside_rows_held_out(kind):
    lengths = (900, 900, 900, 300)
    rows = da.from_array(X, chunks=(lengths, D))
    weights = {
        "zarr": zarr.create_array(MemoryStore(), data=WEIGHTS, chunks=(400,)),
        "dask": da.from_array(WEIGHTS, chunks=(lengths,)),
        "dask of another chunking": da.from_array(WEIGHTS, chunks=77),
    }[kind]
    how = {"criterion": "held_out", "estimator": GaussianMixture(random_state=0)}
    assert select(rows, [2], sample_weight=weights, **how).table == select(X, [2], sample_weight=WEIGHTS, **how).table


def test_no_row_is_held_out_unless_that_is_asked_for():
    assert [row["held_out"] for row in select(X, [1]).table] == [None]
    found = select(X, [1], held_out=0.1)
    assert found.criterion == "bic"
    assert found.table[0]["held_out"] is not None


def test_weights_that_leave_nothing_to_hold_out_are_told():
    weights = np.where(HeldOut(0.2, 0)(0, N), 0.0, 1.0)
    estimator = GaussianMixture(random_state=0)
    with pytest.raises(InvalidWeightsError, match="held-out rows have weight zero"):
        select(X, [1], criterion="held_out", held_out=0.2, sample_weight=weights, estimator=estimator)


# ---- what it costs


class CountingStore(MemoryStore):
    """Counts how often each chunk is read."""

    def __init__(self):
        super().__init__()
        self.gets = Counter()

    async def get(self, key, prototype, byte_range=None):
        if "/" in key and not key.endswith(".json"):
            self.gets[key] += 1
        return await super().get(key, prototype, byte_range)


@pytest.mark.slow
def test_reads_are_those_of_the_slowest_candidate_alone():
    store = CountingStore()
    rows = zarr.create_array(store, data=X, chunks=(250, D))

    def reads(work):
        store.gets.clear()
        found = work()
        return found, sum(store.gets.values())

    estimator = GaussianMixture(random_state=0, tol=1e-5, max_iter=300, cache=None)
    found, together = reads(lambda: select(rows, range(1, 6), ("full", "diag"), estimator=estimator))

    def fit_and_score(model):
        clone(model).fit(rows).bic(rows)

    slowest = max(reads(lambda model=model: fit_and_score(model))[1] for model in found.models.values())
    assert together <= 1.3 * slowest
    assert together == found.n_passes * 12
    assert found.n_passes == 1 + max(row["n_iter"] for row in found.table) + 1


def test_candidates_that_do_not_fit_into_memory_together_take_more_passes(tune):
    estimator = GaussianMixture(random_state=0)
    expected = select(X, range(1, 7), estimator=estimator)
    tune(most_shared_bytes=1 << 20)
    found = select(X, range(1, 7), estimator=estimator)
    assert found.n_passes > expected.n_passes
    assert found.table == expected.table


@pytest.mark.filterwarnings("ignore::daskgmm.errors.SelectionWarning")  # after two iterations
def test_small_workers_take_the_candidates_in_groups():
    """Each candidate fits into the workers, all of them together do not: no WorkerMemoryError."""
    estimator = GaussianMixture(random_state=0, max_iter=2, tol=1e3)
    rows = da.from_array(X, chunks=(700, D))
    # The worker is a thread of this process, which other tests may have filled: it must not be paused for that.
    unwatched = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    with (
        dask.config.set(unwatched),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            memory_limit="480MiB",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        found = select(rows, range(1, 13), TYPES, estimator=estimator, scheduler=client)
    assert found.n_passes > 4
    assert found.table == select(X, range(1, 13), TYPES, estimator=estimator).table


# ---- candidates that fail, or are given up


def collapsing():
    """Two components find rows that are all the same."""
    return np.concatenate([np.random.default_rng(0).normal(size=(500, D)), np.full((500, D), 40.0)])


def test_a_candidate_that_fails_is_in_the_table_and_stops_no_other():
    estimator = GaussianMixture(reg_covar=0, random_state=0)
    with pytest.warns(InitializationWarning, match="the candidate 2 full failed: Fitting the mixture model failed"):
        found = select(collapsing(), [1, 2], estimator=estimator)
    assert found.best == (1, "full")
    assert list(found.models) == [(1, "full")]
    failed = row_of(found, (2, "full"))
    assert failed["failed"].startswith("Fitting the mixture model failed")
    assert [failed[name] for name in (*TOLD, "n_iter", "n_parameters")] == [None] * 6
    assert not failed["converged"]
    assert "failed" in str(found)


def test_nothing_is_selected_where_all_fail():
    with pytest.raises(IllDefinedCovarianceError):
        select(collapsing(), [2, 3], estimator=GaussianMixture(reg_covar=0, random_state=0))


def test_candidates_that_do_not_converge_are_named_in_one_warning():
    with pytest.warns(ConvergenceWarning, match="2 of 3 candidates did not converge: 4 full, 5 full"):
        found = select(X, [1, 4, 5], estimator=GaussianMixture(max_iter=2, tol=1e-9, random_state=0))
    assert [row["converged"] for row in found.table] == [True, False, False]


def overlapping():
    rng = np.random.default_rng(3)
    return rng.normal(size=(N, D)) * [1.0, 2.0] + 3 * rng.integers(2, size=(N, 1))


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_patience_saves_passes_and_finds_the_same(criterion):
    how = {"criterion": criterion, "estimator": GaussianMixture(random_state=0, tol=1e-5, max_iter=500)}
    x = overlapping()
    whole = select(x, range(1, 7), ("full", "spherical"), **how)
    short = select(x, range(1, 7), ("full", "spherical"), patience=3, **how)
    assert not any(row["dropped"] for row in whole.table)
    dropped = [row for row in short.table if row["dropped"]]
    assert dropped
    assert short.best == whole.best
    assert short.n_passes < whole.n_passes
    for row in dropped:
        key = row["n_components"], row["covariance_type"]
        assert row["n_iter"] < row_of(whole, key)["n_iter"]
        assert not row["converged"]
        assert row[criterion] is not None
    for row in short.table:
        if not row["dropped"]:
            assert row == row_of(whole, (row["n_components"], row["covariance_type"]))


def test_what_is_left_of_a_geometric_series():
    bounds = [1 - 0.5**i for i in range(6)]
    assert remaining_gain(bounds) == pytest.approx(1 - bounds[-1])
    assert remaining_gain(bounds[:2]) == math.inf
    assert remaining_gain([0.0, 1.0, 3.0]) == math.inf  # it gains more and more
    assert remaining_gain([0.0, 1.0, 1.0]) == 0


@given(
    gains=st.lists(st.lists(st.floats(0, 1), min_size=8, max_size=8), min_size=1, max_size=5),
    patience=st.integers(1, 3),
)
def test_whoever_leads_is_never_given_up(gains, patience):
    rule = PruningRule("bic", patience)
    bounds = [list(np.cumsum(each)) for each in gains]

    def compare(state, length):
        given_up = []
        for i, b in enumerate(bounds):
            state, hopeless = rule(state, (i, 0), b[:length], 100.0, 5 * (i + 1))
            given_up.append(hopeless)
        return state, given_up

    state = rule.initial()
    for length in range(1, 9):
        state, given_up = compare(state, length)
        assert compare(state, length) == (state, given_up)  # nothing new
        bic = [CRITERIA["bic"].formula(b[length - 1] * 100, 5 * (i + 1), 100.0, np.nan) for i, b in enumerate(bounds)]
        assert not given_up[int(np.argmin(bic))]


def test_a_step_that_is_rejected_costs_no_patience():
    rule = PruningRule("aic", 2)
    state, _ = rule(rule.initial(), (0, 0), [0.0], 100.0, 1)
    bounds = [-5.0, -4.0, -3.9]
    for seen, expected in ((bounds, False), (bounds, False), ([*bounds, -3.89], True)):
        state, hopeless = rule(state, (1, 0), seen, 100.0, 10)
        assert hopeless == expected


# ---- what makes no sense


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_components": []}, ValueError, "n_components is empty"),
        ({"n_components": range(5, 2)}, ValueError, "n_components is empty"),
        ({"n_components": 0}, ValueError, "n_components holds 0"),
        ({"n_components": [1, -2]}, ValueError, "n_components holds -2"),
        ({"n_components": [2, 3, 2]}, ValueError, "n_components holds 2 twice"),
        ({"n_components": [1, 2.5]}, TypeError, r"n_components is \[1, 2.5\]; expected positive"),
        ({"n_components": [True]}, TypeError, r"n_components is \[True\]"),
        ({"n_components": "1:20"}, TypeError, "n_components is '1:20'"),
        ({"n_components": None}, TypeError, "n_components is None"),
        ({"n_components": [1, N + 1]}, ValueError, f"n_components = {N + 1}, n_samples = {N}"),
        ({"covariance_types": []}, ValueError, "covariance_types is empty"),
        ({"covariance_types": ["full", "round"]}, ValueError, "covariance_types holds 'round'; expected full, tied"),
        ({"covariance_types": ["full", "full"]}, ValueError, "covariance_types holds 'full' twice"),
        ({"covariance_types": [1]}, TypeError, r"covariance_types is \[1\]"),
        ({"criterion": "BIC"}, ValueError, "criterion='BIC'; expected 'bic' or 'aic' or 'icl' or 'held_out'"),
        ({"criterion": None}, ValueError, "criterion=None"),
        ({"held_out": 0}, ValueError, "held_out=0"),
        ({"held_out": 1.0}, ValueError, "held_out=1.0"),
        ({"held_out": True}, ValueError, "held_out=True"),
        ({"held_out": "0.1"}, ValueError, "held_out='0.1'"),
        ({"held_out": 1e-9}, ValueError, f"holds out 0 of {N} rows"),
        ({"held_out": 0.9999, "n_components": 20}, ValueError, "have to be left for the fit"),
        ({"patience": 0}, ValueError, "patience=0"),
        ({"patience": 1.5}, ValueError, "patience=1.5"),
        ({"patience": 2, "criterion": "icl"}, ValueError, "patience=2 with criterion='icl': only 'bic' and 'aic'"),
        ({"estimator": mixture.GaussianMixture()}, TypeError, "estimator is a GaussianMixture; expected .* of daskgmm"),
        ({"estimator": GaussianMixture}, TypeError, "estimator is the class GaussianMixture"),
        ({"estimator": GaussianMixture(tol=-1)}, ValueError, "tol"),
        ({"estimator": GaussianMixture(means_init=np.zeros((2, D)))}, ValueError, "means"),
        ({"estimator": BayesianGaussianMixture()}, ValueError, "criterion='bic'; expected 'held_out' for a Bayesian"),
        ({"callbacks": 3}, TypeError, "callbacks=3"),
        ({"sample_weight": np.ones(5)}, InvalidWeightsError, "sample_weight.shape"),
    ],
)
def test_what_makes_no_sense_is_told_before_any_pass(arguments, error, message):
    with pytest.raises(error, match=message):
        select(X, **{"n_components": [1, 2], "callbacks": [fail_on_pass], **arguments})


def fail_on_pass(event):
    assert not isinstance(event, PassStarted)


# ---- a Bayesian estimator


def test_bayesian_mixtures_are_compared_on_rows_held_out():
    estimator = BayesianGaussianMixture(random_state=0, max_iter=200)
    found = select(X, [1, 3], criterion="held_out", estimator=estimator)
    assert found.best == (3, "full")
    assert isinstance(found.model, BayesianGaussianMixture)
    out = HeldOut(0.1, 0)(0, N)
    for row in found.table:
        assert [row[name] for name in ("bic", "aic", "icl", "n_parameters")] == [None] * 4
        model = found.models[row["n_components"], "full"]
        assert row["held_out"] == pytest.approx(model.score(X[out]), rel=1e-12)
    assert "bic" not in str(found)


# ---- what is told


def test_a_selection_can_be_read():
    found = select(X, [1, 3], ("full", "diag"), held_out=0.2, estimator=GaussianMixture(random_state=0))
    text = str(found)
    assert repr(found) == text
    assert "best by bic: 3 components, the most that were tried, diag covariance; 3,000 rows read" in text
    assert text.count("full") == 2
    assert all(line == line.rstrip() for line in text.splitlines())
    assert sum("best" in line for line in text.splitlines()) == 2
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert record["kind"] == "selection"
    assert record["best"] == {"n_components": 3, "covariance_type": "diag"}
    assert record["candidates"] == found.table
    frame = pd.DataFrame(found.table)
    assert frame.loc[frame.bic.idxmin(), "covariance_type"] == "diag"
    assert frame[["log_likelihood", "bic", "aic", "icl", "held_out"]].dtypes.eq(np.float64).all()


def test_a_notebook_gets_the_same_table(monkeypatch):
    """As text, too: rich shows what it prints in a notebook, and writes nothing, where it finds one."""
    found = select(X, [1, 3], ("full", "diag"), estimator=GaussianMixture(random_state=0))
    text = str(found)
    shell = type("ZMQInteractiveShell", (), {})  # what Jupyter's kernel has, and rich looks for
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    assert str(found) == repr(found) == text
    assert "best by bic: 3 components" in text
    html = found._repr_html_()
    assert html.startswith("<table><tr><th>K</th><th>covariance</th><th>log-likelihood</th>")
    assert html.count("<tr>") == 5
    assert "<td><b>3</b></td><td><b>diag</b></td>" in html
    for row in found.table:
        assert f"{row['bic']:,.1f}" in html
    assert html.endswith(" for 4 candidates</p>")


def test_a_narrow_terminal_shows_what_decides():
    found = select(X, [1, 3], criterion="aic", estimator=GaussianMixture(random_state=0))
    texts = {}
    for width in (70, 120):
        console = Console(file=io.StringIO(), width=width)
        print_record(found.as_record(), console)
        texts[width] = console.file.getvalue()
    assert all(name in texts[120] for name in ("bic", "aic", "icl"))
    assert "aic" in texts[70]
    assert "icl" not in texts[70]
    for row in found.table:
        assert f"{row['aic']:,.1f}" in texts[70]


def test_a_plot(tmp_path):
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("agg")
    found = select(X, range(1, 5), ("full", "diag"), estimator=GaussianMixture(random_state=0))
    ax = Figure().subplots()
    assert found.plot(ax) is ax
    assert [line.get_label() for line in ax.get_lines()] == ["full", "diag"]
    x, y = ax.get_lines()[1].get_data()
    np.testing.assert_array_equal(x, [1, 2, 3, 4])
    lowest = min(row["bic"] for row in found.table)
    np.testing.assert_allclose(y, [row["bic"] - lowest for row in found.table[4:]])
    assert ax.get_ylabel() == "BIC above the best"
    found.plot().figure.savefig(tmp_path / "a.png")
    from matplotlib import pyplot

    pyplot.close("all")


def test_a_plot_needs_matplotlib(monkeypatch):
    found = select(X, [1])
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'daskgmm\[plot\]'"):
        found.plot()


def test_events_name_their_candidates():
    events = []
    found = select(X, [1, 2], TYPES[:2], estimator=GaussianMixture(random_state=0, n_init=2), callbacks=[events.append])
    finished = Counter(event.label for event in events if isinstance(event, StartFinished))
    assert finished == {f"{k} {kind}": 2 for k, kind in found.models}
    assert all(event.label for event in events if isinstance(event, IterationFinished))
    passes = [event.label for event in events if isinstance(event, PassStarted)]
    assert passes == ["survey"] + ["estep"] * (found.n_passes - 2) + ["score"]


def test_verbose_lines_come_one_start_after_the_other(capsys):
    found = select(X, [3, 1], estimator=GaussianMixture(random_state=0, verbose=1, verbose_interval=1))
    lines = capsys.readouterr().out.splitlines()
    expected = []
    for k in (3, 1):
        n_iter = row_of(found, (k, "full"))["n_iter"]
        expected += [f"Initialization 0 of {k} full", *(f"  Iteration {i + 1}" for i in range(n_iter))]
        expected.append("Initialization converged.")
    assert lines == expected


def test_progress_of_several_candidates(capfd):
    select(X, range(1, 6), estimator=GaussianMixture(random_state=0), callbacks=[ProgressBar(interval=0)])
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert any(line.startswith("iteration 1, 5 of 5 running: ") for line in lines)
    ends = [line.partition(":")[0] for line in lines if "converged after" in line]
    assert set(ends) == {f"{k} full" for k in range(1, 6)}
    assert len(ends) > 5  # the leader and its rivals went on
    assert any(re.match(r"iteration 2, \d of 5 running: change \S+ \(\d full\), ", line) for line in lines)
    assert not any(line.startswith("iteration") and "log-likelihood" in line for line in lines)


# ---- the terminal


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("data.zarr", data=X, chunks=(1000, D))
    return tmp_path


@pytest.fixture
def run(capfd):
    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def test_the_exact_call(run, monkeypatch):
    calls = []

    def called(*args, callbacks, **kwargs):
        calls.append((args, kwargs | {"quiet": not callbacks}))
        return {"kind": "called"}

    monkeypatch.setattr(jobs, "select", called)
    assert run("select", "d.zarr")[0] == 0
    more = ["--covariance-types", "full,diag", "--criterion", "aic", "--held-out", 0.2, "--patience", 3, "--tol", 0.5]
    more += ["--model", "m.zarr", "--plot", "p.png", "--overwrite", "--quiet", "--sample-weight", "w.npy"]
    more += ["--checkpoint", "run.checkpoint", "--resume"]
    assert run("select", "d.zarr", "-k", "1:4,8", *more, "--workers", 2)[0] == 0
    nothing = {"bayesian": False, "model": None, "picture": None, "overwrite": False, "quiet": False}
    asked = jobs.Candidates(list(range(1, 21)), ["full"], "bic", None, None)
    assert calls[0] == (
        (jobs.Rows("d.zarr"), asked, {}),
        {"checkpoint_options": jobs.CheckpointOptions(), "compute": jobs.Compute(), **nothing},
    )
    asked = jobs.Candidates([1, 2, 3, 4, 8], ["full", "diag"], "aic", 0.2, 3)
    everything = {"bayesian": False, "model": "m.zarr", "picture": "p.png", "overwrite": True, "quiet": True}
    assert calls[1] == (
        (jobs.Rows("d.zarr", None, "w.npy"), asked, {"tol": 0.5}),
        {
            "checkpoint_options": jobs.CheckpointOptions("run.checkpoint", True),
            "compute": jobs.Compute(None, 2),
            **everything,
        },
    )


def test_in_a_terminal(here, run):
    where = ["--model", "best.zarr", "--plot", "bic.png", "--random-state", 0]
    status, out, err = run("select", "data.zarr", "-k", "1:4", "--covariance-types", "full,diag", *where)
    assert status == 0
    assert "best by bic: 3 components, diag covariance" in out
    assert "3 full: converged" in err
    expected = select(X, range(1, 5), ("full", "diag"), estimator=GaussianMixture(random_state=0))
    np.testing.assert_array_equal(daskgmm.load("best.zarr").means_, expected.model.means_)
    assert (here / "bic.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in here.iterdir()) == ["best.zarr", "bic.png", "data.zarr"]

    status, out, err = run("select", "data.zarr", "-k", "1:4", "--random-state", 0, "--json", "--quiet")
    assert (status, err) == (0, "")
    record = json.loads(out)
    assert record.pop("seconds") > 0
    assert record == select(X, range(1, 5), estimator=GaussianMixture(random_state=0)).as_record()


def test_bayesian_in_a_terminal(here, run):
    status, out, _ = run("select", "data.zarr", "-k", "1,3", "--bayesian", "--criterion", "held_out", "--json")
    assert status == 0
    assert json.loads(out)["best"]["n_components"] == 3
    status, _, err = run("select", "data.zarr", "--bayesian")
    assert status == 2
    assert "expected 'held_out' for a BayesianGaussianMixture" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-k", "one"], 2, "'one' is not a list such as 1:20"),
        (["-k", "4:2"], 2, "--n-components is empty"),
        (["-k", "2,2"], 2, "holds 2 twice"),
        (["--criterion", "mdl"], 2, "--criterion"),
        (["--covariance-types", "round"], 2, "--covariance-types holds 'round'"),
        (["--plot", "picture.tiff"], 2, "ends in .png, .pdf, .svg"),
        (["--plot", "nowhere/picture.png"], 1, "There is no directory"),
        (["--plot", "there.png"], 1, "there.png is there already"),
        (["--model", "data.zarr"], 1, "data.zarr"),
        (["--weight-concentration-prior", "1"], 2, "allowed only with --bayesian"),
    ],
)
def test_command_lines_that_make_no_sense(here, run, arguments, status, message):
    (here / "there.png").touch()
    found, out, err = run("select", "data.zarr", "--quiet", *arguments)
    assert (found, out) == (status, "")
    assert message in " ".join(err.split())
    assert sorted(path.name for path in here.iterdir()) == ["data.zarr", "there.png"]


def test_a_picture_is_replaced_where_that_is_asked_for(here, run):
    (here / "p.svg").touch()
    assert run("select", "data.zarr", "-k", 1, "--plot", "p.svg", "--overwrite", "--quiet")[0] == 0
    assert "<svg" in (here / "p.svg").read_text()


# ---- scikit-learn's own way


def bic_score(model, x):
    """Of which more is better, as in scikit-learn's example of model selection."""
    return -model.bic(x)


@pytest.mark.slow
def test_grid_search_finds_the_same():
    grid = {"n_components": [1, 2, 3, 4], "covariance_type": ["full", "spherical"]}
    search = GridSearchCV(GaussianMixture(random_state=0), grid, scoring=bic_score).fit(X)
    assert search.best_params_ == {"covariance_type": "spherical", "n_components": 3}
    assert select(X, [1, 2, 3, 4], ("full", "spherical"), estimator=GaussianMixture(random_state=0)).best == (
        3,
        "spherical",
    )
    theirs = GridSearchCV(mixture.GaussianMixture(random_state=0), grid, scoring=bic_score).fit(X)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6)


def test_what_a_grid_search_makes_of_lazy_data():
    grid = {"n_components": [1, 3]}
    lazy = da.from_array(X, chunks=(500, D))
    search = GridSearchCV(GaussianMixture(random_state=0), grid, scoring=bic_score, cv=2).fit(lazy)
    expected = GridSearchCV(GaussianMixture(random_state=0), grid, scoring=bic_score, cv=2).fit(X)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    stored = zarr.create_array(MemoryStore(), data=X, chunks=(500, D))
    with pytest.raises(ValueError, match="ambiguous"):
        GridSearchCV(GaussianMixture(random_state=0), grid, scoring=bic_score, cv=2).fit(stored)
