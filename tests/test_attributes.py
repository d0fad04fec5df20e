"""Fitted attributes: those that a fit leaves, or a refused one does not; set by hand, replaced, changed in place."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn_shared import BayesianGaussianMixture as BayesianReference
from sklearn_shared import GaussianMixture as Reference

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.diagnostics.summary import print_record
from daskgmm.errors import InterruptedWarning, InvalidAttributesError, NonFiniteDataError
from daskgmm.events import IterationFinished
from daskgmm.inspection import store_record
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.results import write_samples

STRUCTURES = list(COVARIANCE_TYPES)
KINDS = [GaussianMixture, BayesianGaussianMixture]
METHODS = ["predict", "predict_proba", "score_samples", "score"]
D = 3

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


def rows(n=200, seed=0, d=D):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) @ (np.eye(d) + np.tri(d, k=-1) * 0.7)
    return mixed + np.repeat([[0.0], [4.0]], n // 2, axis=0)


X = rows()


def call(model, method, x=X):
    return model.sample(3) if method == "sample" else getattr(model, method)(x)


# ---- refused fits

REFUSED = {
    "NaN": np.where(np.arange(X.size).reshape(X.shape) == 7, np.nan, X),
    "one row": X[:1],
    "text": X.astype(str),
    "NaN, lazy": da.from_array(np.where(np.arange(X.size).reshape(X.shape) == 7, np.nan, X), chunks=50),
    "frame": pd.DataFrame(X, columns=["a", "b", "c"]).replace(X[3, 1], np.nan),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_fit_leaves_an_estimator_that_is_not_fitted(kind, data, tmp_path):
    model = kind(n_components=2)
    before = dict(vars(model))
    with pytest.raises(ValueError):  # noqa: PT011  # whatever is wrong with them
        model.fit(data)
    assert vars(model) == before
    more = ["bic", "aic", "criteria"] if kind is GaussianMixture else []
    for method in (*METHODS, *more, "sample"):
        with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
            call(model, method)
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "m.zarr")
    assert model.set_params(warm_start=True).fit(X).n_iter_ > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_fit_of_a_fitted_estimator_leaves_it_as_it_was(kind):
    names = ["a", "b", "c"]
    model = kind(n_components=2, random_state=0).fit(pd.DataFrame(X, columns=names))
    before, labels = dict(vars(model)), model.predict(pd.DataFrame(X, columns=names))
    for refused in (np.full((50, D + 1), np.nan), X[:1, :2], pd.DataFrame({"z": [1.0, np.nan, 2.0]})):
        with pytest.raises(ValueError):  # noqa: PT011
            model.fit(refused)
        assert vars(model) == before
    assert model.n_features_in_ == D
    assert model.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(model.predict(pd.DataFrame(X, columns=names)), labels)


def test_names_of_features_go_with_a_fit_without_them():
    model = GaussianMixture(2, random_state=0).fit(pd.DataFrame(X, columns=["a", "b", "c"]))
    model.fit(X[:, :2])
    assert model.n_features_in_ == 2
    assert not hasattr(model, "feature_names_in_")


# ---- models made by hand


def reference(structure, kind=Reference):
    return kind(n_components=2, covariance_type=structure, random_state=0, tol=1e-6, max_iter=300).fit(X)


def by_hand(theirs, *names, kind=GaussianMixture):
    model = kind(n_components=2, covariance_type=theirs.covariance_type, random_state=0)
    for name in names:
        setattr(model, name, getattr(theirs, name))
    return model


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    "names",
    [
        ("covariances_", "precisions_cholesky_"),
        ("precisions_cholesky_",),
        ("covariances_",),
        ("precisions_",),
        ("covariances_", "precisions_", "precisions_cholesky_"),
    ],
    ids=" ".join,
)
def test_a_model_made_by_hand_is_a_model(structure, names, tmp_path):
    theirs = reference(structure)
    model = by_hand(theirs, "weights_", "means_", *names)
    model.save(tmp_path / "m.zarr")
    for ours in (model, daskgmm.load(tmp_path / "m.zarr"), pickle.loads(pickle.dumps(model))):
        for method in (*METHODS, "bic", "aic"):
            np.testing.assert_allclose(call(ours, method), call(theirs, method), rtol=1e-8, atol=1e-10)
        drawn, labels = ours.sample(4000)
        np.testing.assert_array_equal(labels, theirs.sample(4000)[1])
        for k in (0, 1):
            np.testing.assert_allclose(
                np.cov(drawn[labels == k].T), np.cov(theirs.sample(4000)[0][labels == k].T), atol=0.4
            )
    lazy = model.predict_proba(da.from_array(X, chunks=70))
    np.testing.assert_allclose(lazy.compute(), theirs.predict_proba(X), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("family", ["dirichlet_process", "dirichlet_distribution"])
@pytest.mark.parametrize("covariance", ["precisions_cholesky_", "covariances_"])
def test_a_bayesian_model_made_by_hand_is_a_model(structure, family, covariance, tmp_path):
    theirs = BayesianReference(
        n_components=2, covariance_type=structure, weight_concentration_prior_type=family, random_state=0
    ).fit(X)
    names = ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", covariance)
    model = by_hand(theirs, *names, kind=BayesianGaussianMixture)
    model.set_params(weight_concentration_prior_type=family)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    for ours in (model, loaded):
        for method in METHODS:
            np.testing.assert_allclose(call(ours, method), call(theirs, method), rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(ours.sample(100)[1], theirs.sample(100)[1])
    assert not hasattr(loaded, "mean_prior_")
    assert loaded.set_params(warm_start=True, max_iter=1).fit(X).mean_prior_.shape == (D,)


def test_what_nobody_knows_of_a_model_made_by_hand_stays_unknown(tmp_path):
    model = by_hand(reference("full"), "weights_", "means_", "covariances_")
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    for name in ("converged_", "n_iter_", "n_passes_", "lower_bound_", "lower_bounds_", "history_"):
        assert not hasattr(loaded, name)
    assert loaded.environment_ == {}
    assert loaded.n_features_in_ == D
    record = store_record(str(tmp_path / "m.zarr"))
    for name in ("converged", "n_iter", "n_passes", "log_likelihood"):
        assert record[name] is None
    assert record["history"] == []
    print_record(record)
    loaded.save(tmp_path / "again.zarr")
    assert daskgmm.load(tmp_path / "again.zarr").means_.tolist() == model.means_.tolist()


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_any_square_root_of_the_precisions_serves(structure):
    """Many recipes for scikit-learn set the lower factor, which it takes without a word."""
    theirs = reference(structure)
    model = by_hand(theirs, "weights_", "means_", "covariances_")
    lower = np.linalg.cholesky(np.linalg.inv(theirs.covariances_))
    for root in (lower, -theirs.precisions_cholesky_, lower @ np.linalg.qr(rows(2 * D)[:D])[0]):
        model.precisions_cholesky_ = root
        for method in METHODS:
            np.testing.assert_allclose(call(model, method), call(theirs, method), rtol=1e-8, atol=1e-10)
    far = X * 1e4  # where rows lie that far from tight components, residuals are whitened one by one
    model.means_ = np.array([[-1e9, 0, 0], [1e9, 0, 0]])
    distances = [
        np.einsum("nd,de,ne->n", r, p, r)
        for r, p in zip(far - model.means_[:, None], np.broadcast_to(theirs.precisions_, (2, D, D)), strict=True)
    ]
    np.testing.assert_array_equal(model.predict(far), np.argmin(distances, axis=0))


def test_a_warm_start_goes_on_from_a_model_made_by_hand():
    theirs = reference("full")
    model = by_hand(theirs, "weights_", "means_", "covariances_").set_params(warm_start=True).fit(X)
    assert model.n_iter_ <= 2
    np.testing.assert_allclose(model.means_, theirs.means_, atol=1e-2)


def test_records_and_frames_for_a_model_made_by_hand():
    model = by_hand(reference("full"), "weights_", "means_", "covariances_")
    records = np.rec.fromarrays(X.T, names="a,b,c").view(np.ndarray)
    expected = model.predict(X)
    np.testing.assert_array_equal(model.predict(records), expected)
    np.testing.assert_array_equal(model.predict(pd.DataFrame(X)), expected)
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        model.predict(records[["a", "b"]])


def test_samples_of_lists_are_written(tmp_path):
    model = GaussianMixture(2, covariance_type="diag", random_state=0)
    model.weights_, model.means_, model.covariances_ = [0.5, 0.5], [[0, 0], [9, 9]], [[1, 1], [1, 1]]
    assert write_samples(model, 20, tmp_path / "s.zarr")["rows"] == (20, 2)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "s.zarr")["rows"][:], model.sample(20)[0])


BAD = {
    "weights_": (
        [0.5, 0.6],
        "sum is 1.1",
        [1.0],
        r"shape \(1,\)",
        [-0.5, 1.5],
        "none may be negative",
        ["a", "b"],
        "real numbers",
    ),
    "means_": ([1.0, 2.0], "shape", np.full((2, D), np.nan), "NaN", [[1, 2], [3]], "no array"),
    "covariances_": (
        *(np.zeros((2, D, D)), "not positive definite", np.eye(D), "shape"),
        *(np.stack([np.eye(D), np.tri(D)]), "not symmetric", np.full((2, D, D), np.inf), "infinity"),
    ),
    "precisions_cholesky_": (np.zeros((2, D, D)), "square roots", np.ones((2, D)), "shape", None, "real numbers"),
    "precisions_": (-np.stack([np.eye(D)] * 2), "positive definite", np.ones(2), "shape"),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(n, v, m) for n, all_ in BAD.items() for v, m in zip(all_[::2], all_[1::2], strict=True)],
)
def test_bad_attributes_are_named(name, value, message, tmp_path):
    theirs = reference("full")
    covariance = name if name in BAD and name not in ("weights_", "means_") else "covariances_"
    model = by_hand(theirs, "weights_", "means_", covariance)
    model.predict(X)
    setattr(model, name, value)
    for method in (*METHODS, "sample", "bic"):
        with pytest.raises(InvalidAttributesError, match=f"^{name}.*{message}") as caught:
            call(model, method)
        assert caught.value.attribute == name
    with pytest.raises(InvalidAttributesError, match=f"^{name}"):
        model.save(tmp_path / "m.zarr")
    with pytest.raises(InvalidAttributesError, match=f"^{name}"):
        model.set_params(warm_start=True).fit(X)
    assert not (tmp_path / "m.zarr").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight_concentration_", np.ones(2), "shape"),
        ("weight_concentration_", (np.ones(2), -np.ones(2)), "greater than 0"),
        ("mean_precision_", [0.0, 1.0], "greater than 0"),
        ("degrees_of_freedom_", [1.0, 9.0], "greater than 2"),
        ("mean_prior_", np.ones(2), "shape"),
    ],
)
def test_bad_attributes_of_a_posterior_are_named(name, value, message, tmp_path):
    model = BayesianGaussianMixture(n_components=2, random_state=0).fit(X)
    setattr(model, name, value)
    if name != "mean_prior_":
        with pytest.raises(InvalidAttributesError, match=f"^{name}.*{message}"):
            model.predict(X)
    with pytest.raises(InvalidAttributesError, match=f"^{name}.*{message}"):
        model.save(tmp_path / "m.zarr")


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_another_width_are_refused_by_a_model_made_by_hand(method):
    model = by_hand(reference("full"), "weights_", "means_", "covariances_")
    for x in (X[:, :2], da.from_array(X[:, :2], chunks=50)):
        with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3 features as input"):
            call(model, method, x)


def test_covariances_that_were_changed_alone_are_an_error_where_they_count(tmp_path):
    model = GaussianMixture(2, random_state=0).fit(X)
    labels = model.predict(X)
    model.covariances_ = model.covariances_ * 2
    np.testing.assert_array_equal(model.predict(X), labels)  # as in scikit-learn
    for use in (model.sample, lambda: model.save(tmp_path / "m.zarr")):
        with pytest.raises(InvalidAttributesError, match=r"^covariances_ were changed, and precisions_cholesky_"):
            use()
    del model.precisions_cholesky_
    expected = GaussianMixture(2, random_state=0).fit(X).score_samples(X)
    assert (np.abs(model.score_samples(X) - expected) > 1e-3).all()
    model.sample()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["set", "in place", "pickled", "loaded", "with weights"])
def test_covariances_that_were_changed_alone_are_an_error_of_both_kinds(kind, way, tmp_path):
    model = kind(n_components=2, random_state=0).fit(X)
    model.save(tmp_path / "fit.zarr")
    if way == "pickled":
        model = pickle.loads(pickle.dumps(model))
    if way == "loaded":
        model = daskgmm.load(tmp_path / "fit.zarr")
    if way == "with weights":
        if kind is GaussianMixture:
            model.weights_ = np.array([0.25, 0.75])
        else:
            model.mean_precision_ = model.mean_precision_ * 2
        model.sample()
        model.save(tmp_path / "weights.zarr")
    if way == "in place":
        model.covariances_ *= 100
    else:
        model.covariances_ = model.covariances_ * 100
    labels = model.predict(X)
    for use in (model.sample, lambda: model.save(tmp_path / "m.zarr")):
        with pytest.raises(InvalidAttributesError, match=r"^covariances_ were changed, and precisions_cholesky_"):
            use()
    model.precisions_cholesky_ = model.precisions_cholesky_ / 10
    model.save(tmp_path / "m.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m.zarr").covariances_, model.covariances_)
    assert labels.shape == (len(X),)


@pytest.mark.parametrize(
    ("name", "value"),
    [("precisions_cholesky_", [[1, -1e7], [0, 1e7]]), ("precisions_", [[1, 0.99999999999999], [0.99999999999999, 1]])],
)
def test_factors_of_no_covariances_are_refused_by_all_methods(name, value, tmp_path):
    model = GaussianMixture(1, random_state=0)
    model.weights_, model.means_ = np.ones(1), np.zeros((1, 2))
    setattr(model, name, np.array([value]))
    for use in (lambda: model.predict(X[:, :2]), lambda: model.save(tmp_path / "m.zarr"), model.sample):
        with pytest.raises(
            InvalidAttributesError, match=f"^{name} belong to covariances that are not positive definite"
        ):
            use()


# ---- what depends on parameters alone is kept, and never too long


def results(model, x=X):
    return [np.asarray(call(model, method, x)) for method in METHODS]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def fresh(model):
    """A model with the same attributes that has never said anything of a row."""
    made = type(model)(**model.get_params())
    for name, value in vars(model).items():
        if name.endswith("_"):
            setattr(made, name, copy.deepcopy(value))
    return made


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_results_follow_the_attributes_however_they_change(kind, structure, dtype):
    x = X.astype(dtype)
    model = kind(n_components=2, covariance_type=structure, random_state=0).fit(x)
    concentration = "weights_" if kind is GaussianMixture else "mean_precision_"

    def swap(name):
        values = getattr(model, name)
        values[...] = values[::-1].copy()

    def replace(name, factor):
        setattr(model, name, getattr(model, name) * factor)

    def scale(name, factor):
        np.multiply(getattr(model, name), factor, out=getattr(model, name))

    seen = [results(model, x)]
    for change in (
        lambda: scale("means_", dtype(1.25)),
        lambda: replace("means_", dtype(0.5)),
        lambda: swap("means_"),
        lambda: scale("precisions_cholesky_", dtype(2)),
        lambda: replace("precisions_cholesky_", dtype(0.25)),
        lambda: swap(concentration),
        lambda: setattr(model, "means_", model.means_.astype(np.float64) + 1e-7),
    ):
        change()
        now = results(model, x)
        assert_same(now, results(fresh(model), x))
        assert any((a != b).any() for a, b in zip(now, seen[-1], strict=True))
        seen.append(now)
    assert_same(results(model.fit(x), x), seen[0])


def test_copies_and_clones_do_not_share_what_is_kept():
    model = GaussianMixture(2, random_state=0).fit(X)
    before = results(model)
    size = len(pickle.dumps(GaussianMixture(2, random_state=0).fit(X)))
    assert len(pickle.dumps(model)) == size
    for copied in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(results(copied), before)
        copied.means_ = copied.means_ + 1
        assert (copied.score_samples(X) != before[2]).all()
    assert_same(results(model), before)
    assert not clone(model).__sklearn_is_fitted__()
    assert [name for name in vars(model) if not name.startswith("_")] == [
        name for name in vars(GaussianMixture(2, random_state=0).fit(X)) if not name.startswith("_")
    ]


def test_the_meaning_of_attributes_may_change_with_a_parameter():
    model = by_hand(reference("diag"), "weights_", "means_", "covariances_")
    model.covariances_ = np.array([[1.0, 2.0], [2.0, 5.0]])
    model.means_ = np.zeros((2, 2))
    diagonal = model.score_samples(X[:, :2])
    whole = model.set_params(covariance_type="tied").score_samples(X[:, :2])
    assert (diagonal != whole).any()
    np.testing.assert_array_equal(model.set_params(covariance_type="diag").score_samples(X[:, :2]), diagonal)


def test_threads_that_predict_while_attributes_are_replaced_see_one_model_or_another():
    theirs = reference("full")
    model = by_hand(theirs, "weights_", "means_", "precisions_cholesky_")
    means = [theirs.means_ + shift for shift in range(4)]
    expected = []
    for values in means:
        model.means_ = values
        expected.append(model.score_samples(X).tobytes())

    def score(i):
        if i % 8 == 0:
            model.means_ = means[i // 8 % 4]
        return model.score_samples(X).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(score, range(128))) <= set(expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("d", [D, 90])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_few_rows_have_the_results_of_many(structure, d, dtype):
    """In every arithmetic: 90 features are too many for quadratic ones where covariances are full."""
    x = rows(1000, d=d).astype(dtype)
    model = GaussianMixture(2, covariance_type=structure, random_state=0, reg_covar=1e-3, max_iter=3).fit(x)
    labels, probabilities, densities, _ = results(model, x)
    rtol, atol = (1e-5, 1e-4) if dtype == np.float32 else (1e-10, 1e-12)
    for part in (slice(7, 8), slice(500, 510), slice(0, 600)):
        np.testing.assert_array_equal(model.predict(x[part]), labels[part])
        np.testing.assert_allclose(model.predict_proba(x[part]), probabilities[part], rtol=rtol, atol=atol)
        np.testing.assert_allclose(model.score_samples(x[part]), densities[part], rtol=rtol, atol=atol)
        assert model.score(x[part]) == pytest.approx(densities[part].mean(), rel=rtol)


@pytest.mark.parametrize("weights", [None, np.arange(200) % 3])
def test_the_score_of_few_rows_is_that_of_a_pass(weights):
    model = GaussianMixture(2, random_state=0).fit(X)
    here = model.score(X, sample_weight=weights), model.criteria(X, sample_weight=weights)
    model.set_params(scheduler="synchronous")
    assert here == (model.score(X, sample_weight=weights), model.criteria(X, sample_weight=weights))
    assert here[0] == model.set_params(scheduler=None).score(da.from_array(X, chunks=30), sample_weight=weights)
    with pytest.raises(NonFiniteDataError, match="row 2"):
        model.score(np.where(np.arange(len(X))[:, None] == 2, np.nan, X))


def test_a_posterior_without_priors_is_kept_in_a_checkpoint(tmp_path):
    """A warm start from attributes set by hand, interrupted in its first iteration."""

    def made(**parameters):
        fitted = BayesianGaussianMixture(n_components=2, random_state=0, max_iter=2).fit(X)
        model = BayesianGaussianMixture(n_components=2, warm_start=True, tol=1e-9, max_iter=5, random_state=0)
        for name in ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_"):
            setattr(model, name, getattr(fitted, name))
        return model.set_params(**parameters)

    def interrupt(event):
        if isinstance(event, IterationFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(InterruptedWarning):
        made(callbacks=[interrupt]).fit(X, checkpoint=tmp_path / "c")
    resumed = made().fit(X, checkpoint=tmp_path / "c", resume=True)
    assert resumed.lower_bounds_ == made().fit(X).lower_bounds_
