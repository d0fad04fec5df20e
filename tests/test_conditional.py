"""Marginals and conditionals of a mixture: densities of SciPy, formulas, another library, and many digits."""

import itertools
from fractions import Fraction

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.stats import multivariate_normal
from sklearn.exceptions import NotFittedError

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import NonFiniteDataError
from daskgmm.names import COVARIANCE_TYPES

K, D = 3, 4
NAMES = ["depth", "salinity", "oxygen", "temperature"]
GIVEN, OTHERS = [2, 0], [1, 3]


def make(covariance_type="full", seed=0, **parameters):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(K, D, D))
    full = roots @ roots.transpose(0, 2, 1) + 0.2 * np.eye(D)
    variances = np.einsum("kii->ki", full)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": variances,
        "spherical": variances[:, 0],
        "tied-diag": variances[0],
        "tied-spherical": variances[0, :1],
    }[covariance_type]
    means = 2 * rng.normal(size=(K, D))
    return GaussianMixture.from_parameters(
        rng.dirichlet(np.ones(K)), means, covariances, covariance_type=covariance_type, **parameters
    )


def dense(model):
    d = model.means_.shape[1]
    values = model.covariances_
    if model.covariance_type in ("full", "tied"):
        return np.broadcast_to(values, (K, d, d))
    variances = values[:, None] if model.covariance_type == "spherical" else values
    return np.broadcast_to(variances, (K, d))[:, :, None] * np.eye(d)


def log_density(model, x, features=slice(None)):
    """Log-density of some features, from the definition."""
    covariances = dense(model)[:, features][:, :, features]
    parts = zip(model.weights_, model.means_[:, features], covariances, strict=True)
    return np.log(sum(w * multivariate_normal(m, c).pdf(x) for w, m, c in parts))


def rows(n=40, d=D, seed=1):
    return 2 * np.random.default_rng(seed).normal(size=(n, d))


def direct_means(model, x, given, others):
    """E[y | x] by Bishop's formulas, with inverses."""
    covariances, result = dense(model), np.zeros((len(x), len(others)))
    densities = [
        w * multivariate_normal(m[given], c[np.ix_(given, given)]).pdf(x)
        for w, m, c in zip(model.weights_, model.means_, covariances, strict=True)
    ]
    shares = np.array(densities) / np.sum(densities, axis=0)
    for k in range(K):
        slopes = covariances[k][np.ix_(others, given)] @ np.linalg.inv(covariances[k][np.ix_(given, given)])
        result += shares[k, :, None] * (model.means_[k, others] + (x - model.means_[k, given]) @ slopes.T)
    return result


# ---- marginals


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_marginal_has_the_density_of_its_features(covariance_type):
    model = make(covariance_type)
    marginal = model.marginal(GIVEN)
    assert (marginal.covariance_type, marginal.n_features_in_) == (covariance_type, 2)
    x = rows(d=2)
    np.testing.assert_allclose(marginal.score_samples(x), log_density(model, x, GIVEN), rtol=1e-11)
    np.testing.assert_array_equal(marginal.weights_, model.weights_)


def test_a_marginal_of_all_features_is_the_mixture_with_its_features_in_another_order():
    model, x = make(feature_names=NAMES), pd.DataFrame(rows(), columns=NAMES)
    order = [3, 1, 0, 2]
    again = model.marginal(order)
    np.testing.assert_allclose(again.score_samples(x.iloc[:, order]), model.score_samples(x), rtol=1e-12)
    assert again.feature_names_in_.tolist() == [NAMES[i] for i in order]


def test_features_by_name_position_and_from_the_end():
    model = make(feature_names=NAMES)
    expected = model.marginal([1, 3]).means_
    for features in (["salinity", "temperature"], [1, "temperature"], (-3, -1), np.array([1, 3]), range(1, 4, 2)):
        marginal = model.marginal(features)
        np.testing.assert_array_equal(marginal.means_, expected)
        assert marginal.feature_names_in_.tolist() == ["salinity", "temperature"]
    for feature in (0, "depth", np.int64(-4)):
        assert model.marginal(feature).feature_names_in_.tolist() == ["depth"]


# ---- conditionals


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_joint_density_is_that_of_the_given_features_times_the_conditional_one(covariance_type):
    model, x = make(covariance_type), rows()
    joint = log_density(model, x)
    for row, expected in zip(x[:8], joint[:8], strict=True):
        conditional = model.conditional(dict(zip(GIVEN, row[GIVEN], strict=True)))
        assert conditional.covariance_type == covariance_type
        density = log_density(model, row[GIVEN], GIVEN) + conditional.score_samples(row[None, OTHERS])[0]
        assert density == pytest.approx(expected, rel=1e-10)


def test_a_conditional_keeps_names_and_parameters():
    model = make(feature_names=NAMES, random_state=3, missing="drop")
    conditional = model.conditional({"oxygen": 0.5, 0: -1.0})
    assert conditional.feature_names_in_.tolist() == ["salinity", "temperature"]
    assert (conditional.random_state, conditional.missing) == (3, "drop")
    np.testing.assert_array_equal(conditional.means_, model.conditional({2: 0.5, 0: -1}).means_)
    assert conditional.sample(5)[0].shape == (5, 2)


def test_first_parameters_of_a_fit_do_not_stay_with_fewer_features():
    x = rows(200)
    model = GaussianMixture(2, means_init=x[:2], random_state=0, tol=0.1).fit(x)
    marginal = model.marginal([0, 1])
    assert marginal.means_init is None
    marginal.fit(x[:, :2])


def test_values_far_from_all_components_have_the_weights_of_the_nearest():
    model = GaussianMixture.from_parameters([0.5, 0.5], [[0.0, 0], [1, 5]], [[1.0, 1], [1, 1]], covariance_type="diag")
    conditional = model.conditional({0: 1e6})  # densities of exp(-5e11)
    np.testing.assert_array_equal(conditional.weights_, [0, 1])
    with pytest.raises(ValueError, match="so far from all components"):
        model.conditional({0: 1e300})


def test_a_component_whose_mean_would_be_infinite():
    covariances = [[[1.0, 0.9], [0.9, 1.0]]] * 2
    model = GaussianMixture.from_parameters([0.5, 0.5], [[-1e308, 0], [1e308, 1]], covariances)
    with pytest.raises(ValueError, match="so far from a component that the component's mean there is beyond"):
        model.conditional({0: 1e308})


def test_a_tight_component_far_from_the_origin_has_its_digits():
    """Another library's arithmetic with fifty digits."""
    mpmath = pytest.importorskip("mpmath")
    shift, deviations = np.array([1e6, -1e6, 1e6]), np.diag([1e-3, 1.0, 1e3])
    root = np.linalg.cholesky([[1, 0.999, 0.5], [0.999, 1, 0.49], [0.5, 0.49, 1]])
    covariance = deviations @ root @ root.T @ deviations
    model = GaussianMixture.from_parameters([1.0], [shift], [covariance])
    conditional = model.conditional({0: 1e6 + 2e-3, 1: -1e6 + 1.9})
    with mpmath.workdps(50):
        exact = mpmath.matrix(covariance.tolist())
        inverse = mpmath.inverse(exact[0:2, 0:2])
        slopes = exact[2, 0:2] * inverse
        residual = mpmath.matrix([mpmath.mpf(1e6 + 2e-3) - mpmath.mpf(1e6), mpmath.mpf(-1e6 + 1.9) + mpmath.mpf(1e6)])
        mean = mpmath.mpf(1e6) + (slopes * residual)[0]
        variance = exact[2, 2] - (slopes * exact[0:2, 2])[0]
        assert conditional.means_[0, 0] == pytest.approx(float(mean), rel=1e-11)
        assert conditional.covariances_[0, 0, 0] == pytest.approx(float(variance), rel=1e-11)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_conditionals_agree_with_another_library(covariance_type):
    gmr = pytest.importorskip("gmr")
    model, x = make(covariance_type), rows(10, 2)
    theirs = gmr.GMM(K, priors=model.weights_, means=model.means_, covariances=np.array(dense(model)))
    conditional, expected = model.conditional(dict(zip(GIVEN, x[0], strict=True))), theirs.condition(GIVEN, x[0])
    np.testing.assert_allclose(conditional.weights_, expected.priors, rtol=1e-9)
    np.testing.assert_allclose(conditional.means_, expected.means, rtol=1e-9)
    np.testing.assert_allclose(dense(conditional), expected.covariances, rtol=1e-9)
    np.testing.assert_allclose(model.conditional_mean(x, GIVEN), theirs.predict(np.array(GIVEN), x), rtol=1e-9)


# ---- regression


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_conditional_means_are_those_of_the_formulas_and_of_the_conditionals(covariance_type):
    model, x = make(covariance_type), rows(d=2)
    means = model.conditional_mean(x, given=GIVEN)
    assert isinstance(means, np.ndarray)
    np.testing.assert_allclose(means, direct_means(model, x, GIVEN, OTHERS), rtol=1e-10, atol=1e-12)
    conditional = model.conditional(dict(zip(GIVEN, x[0], strict=True)))
    np.testing.assert_allclose(means[0], conditional.weights_ @ conditional.means_, rtol=1e-12)


def test_lazy_rows_have_lazy_means(tmp_path):
    model, x = make(), rows(1000, 2)
    expected = model.conditional_mean(x, GIVEN)
    stored = zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(300, 2))
    for data in (da.from_array(x, chunks=(170, 1)), stored, str(tmp_path / "x.zarr")):
        means = model.conditional_mean(data, GIVEN)
        assert isinstance(means, da.Array)
        assert means.shape == (1000, 2)
        np.testing.assert_allclose(means.compute(scheduler="synchronous"), expected, rtol=1e-13)
    assert model.conditional_mean(stored, GIVEN).chunks[0] == (300, 300, 300, 100)
    unknown = da.from_array(x, chunks=(170, 2))
    unknown = unknown[unknown[:, 0] > 0]
    np.testing.assert_allclose(model.conditional_mean(unknown, GIVEN).compute(), expected[x[:, 0] > 0], rtol=1e-13)


def test_columns_of_a_frame_are_compared_by_name():
    model, x = make(feature_names=NAMES), rows(20, 2)
    expected = model.conditional_mean(x, ["oxygen", "depth"])  # a plain array has no names, and needs none
    frame = pd.DataFrame(x, columns=["oxygen", "depth"])
    np.testing.assert_array_equal(model.conditional_mean(frame, ["oxygen", "depth"]), expected)
    with pytest.raises(ValueError, match=r"expected the given features in their order, X\[\['depth', 'oxygen'\]\]"):
        model.conditional_mean(frame, ["depth", "oxygen"])
    whole = pd.DataFrame(rows(20), columns=NAMES)
    with pytest.raises(ValueError, match=r"X has the columns \['depth', 'salinity'.*X\[\['depth'\]\]"):
        model.conditional_mean(whole, "depth")


def test_columns_of_a_file_are_compared_by_name(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("dask.dataframe")
    model, frame, path = make(feature_names=NAMES), pd.DataFrame(rows(), columns=NAMES), tmp_path / "x.parquet"
    frame.to_parquet(path)
    with pytest.raises(ValueError, match=r"expected the given features in their order, X\[\['salinity'\]\]") as caught:
        model.conditional_mean(path, "salinity")
    assert caught.value.__notes__ == [f"An address may choose columns of the table: {path}::salinity"]
    expected = model.conditional_mean(frame[["salinity"]], "salinity")
    means = model.conditional_mean(f"{path}::salinity", "salinity").compute()
    np.testing.assert_allclose(means, expected, rtol=1e-12, atol=1e-13)


def test_results_for_frames_have_the_names_of_the_other_features():
    dataframe = pytest.importorskip("dask.dataframe")
    model, x = make(feature_names=NAMES), pd.DataFrame(rows(20, 2), columns=["oxygen", "depth"])
    means = model.conditional_mean(dataframe.from_pandas(x, npartitions=3), ["oxygen", "depth"])
    assert list(means.columns) == ["salinity", "temperature"]
    computed = means.compute(scheduler="synchronous")
    np.testing.assert_allclose(computed, model.conditional_mean(x, ["oxygen", "depth"]), rtol=1e-13)
    np.testing.assert_array_equal(computed.index, x.index)


def test_results_for_labelled_grids_have_the_names_of_the_other_features():
    xarray = pytest.importorskip("xarray")
    model, x = make(feature_names=NAMES), rows(20, 2).reshape(4, 5, 2)
    grid = xarray.Dataset({"oxygen": (("y", "x"), x[..., 0]), "depth": (("y", "x"), x[..., 1])})
    means = model.conditional_mean(grid, ["oxygen", "depth"])
    assert means.dims == ("y", "x", "feature")
    expected = model.conditional_mean(x.reshape(20, 2), ["oxygen", "depth"]).reshape(4, 5, 2)
    np.testing.assert_allclose(means.sel(feature="temperature"), expected[..., 1], rtol=1e-13)
    assert isinstance(model.conditional_mean(grid.chunk(y=2), ["oxygen", "depth"]).data, da.Array)


def test_the_dimension_of_the_features_is_that_of_the_fit():
    xarray = pytest.importorskip("xarray")
    profiles = xarray.DataArray(rows(40, 3).T, dims=("level", "time"))
    model = GaussianMixture(2, random_state=0, tol=0.1).fit(profiles, dim="time")
    expected = model.conditional_mean(profiles.values[:2].T, [0, 1])
    np.testing.assert_allclose(model.conditional_mean(profiles[:2], [0, 1]), expected, rtol=1e-13)
    assert model.marginal([0, 2]).predict(profiles[[0, 2]]).dims == ("time",)


def test_the_dimensions_of_a_model_of_parameters_are_said_with_the_rows():
    """A fit would have recorded them."""
    xarray = pytest.importorskip("xarray")
    model, x = make(feature_names=NAMES), rows(60, 2)
    expected = make().conditional_mean(x, GIVEN).reshape(6, 10, 2)
    grid = x.reshape(6, 10, 2)
    for axis in (0, 1, -1):
        moved = np.moveaxis(grid, -1, axis)
        np.testing.assert_allclose(model.conditional_mean(moved, GIVEN, feature_axis=axis), expected, rtol=1e-13)
    lazy = da.from_array(np.moveaxis(grid, -1, 0), chunks=(2, 4, 3))
    np.testing.assert_allclose(model.conditional_mean(lazy, GIVEN, feature_axis=0).compute(), expected, rtol=1e-13)
    labelled = xarray.DataArray(np.moveaxis(grid, -1, 0), dims=("level", "y", "x"))
    means = model.conditional_mean(labelled, GIVEN, dim=("y", "x"))
    assert means.dims == ("y", "x", "feature")
    np.testing.assert_allclose(means.values, expected, rtol=1e-13)


def test_incomplete_rows():
    model, x = make(), rows(20, 2)
    x[3, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match="row 3"):
        model.conditional_mean(x, GIVEN)
    with pytest.raises(NonFiniteDataError, match="row 3"):
        model.conditional_mean(da.from_array(x, chunks=(2, 2)), GIVEN).compute(scheduler="synchronous")
    means = model.set_params(missing="drop").conditional_mean(x, GIVEN)
    assert np.flatnonzero(np.isnan(means).any(axis=1)).tolist() == [3]


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2"])
def test_rows_of_other_dtypes(dtype):
    model, x = make(), np.rint(4 * rows(30, 2))
    np.testing.assert_allclose(
        model.conditional_mean(x.astype(dtype), GIVEN), model.conditional_mean(x, GIVEN), rtol=1e-5, atol=1e-5
    )


def test_a_model_of_single_precision_has_means_of_single_precision():
    model = make()
    arrays = (a.astype(np.float32) for a in (model.weights_, model.means_, model.covariances_))
    single = GaussianMixture.from_parameters(*arrays)
    means = single.conditional_mean(rows(5, 2), GIVEN)
    assert means.dtype == np.float32
    assert single.marginal([0]).means_.dtype == np.float32
    np.testing.assert_allclose(means, model.conditional_mean(rows(5, 2), GIVEN), rtol=1e-4, atol=1e-5)


def test_long_inputs_need_no_array_of_rows_times_components():
    rng = np.random.default_rng(0)
    model = GaussianMixture.from_parameters(np.full(200, 1 / 200), rng.normal(size=(200, 2)), np.full(200, 0.1),
                                            covariance_type="spherical")  # fmt: skip
    x = rng.normal(size=(3000, 1))
    np.testing.assert_allclose(
        model.conditional_mean(x, 0)[2990:], model.conditional_mean(x[2990:], 0), rtol=1e-12, atol=1e-14
    )


# ---- refused


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([4], ValueError, "features holds 4; expected positions from 0 to 3"),
        ([-5], ValueError, "features holds -5"),
        (["tempreature"], ValueError, r"holds 'tempreature'; the features are \['depth', 'salinity'"),
        ([], ValueError, "features is empty"),
        ([0, "depth"], ValueError, "features holds feature 0 twice"),
        ([1.5], TypeError, "features holds 1.5; expected positions or names"),
        ([True, False, True, True], TypeError, "numpy.flatnonzero turns a mask into positions"),
        (None, TypeError, "features is None"),
        (slice(2), TypeError, "features is slice"),
        (np.eye(2, dtype=int), TypeError, "features is array"),
        ({2, 0}, TypeError, r"features is the set \{0, 2\}, which has no order"),
        (frozenset({"depth"}), TypeError, "which has no order"),
        (iter([1, 1]), ValueError, "features holds feature 1 twice, the second time as 1"),
        (itertools.repeat("depth"), ValueError, "features holds feature 0 twice, the second time as 'depth'"),
    ],
)
def test_features_that_there_are_not(features, error, message):
    with pytest.raises(error, match=message):
        make(feature_names=NAMES).marginal(features)


def test_given_features_in_no_order():
    """The order of a set of names changes from process to process, and with the order the meaning of the columns."""
    with pytest.raises(TypeError, match=r"given is the set .*, which has no order"):
        make(feature_names=NAMES).conditional_mean(rows(5, 2), {"depth", "oxygen"})


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int8(3), np.array(3), Fraction(3), np.ma.array(3)])
def test_numbers_of_any_type_are_values(value):
    np.testing.assert_array_equal(make().conditional({0: value}).means_, make().conditional({0: 3.0}).means_)


def test_integers_beyond_numpys_are_values():
    far, same = (make().conditional({0: value}) for value in (10**30, 1e30))
    np.testing.assert_array_equal(far.means_, same.means_)
    np.testing.assert_array_equal(far.weights_, same.weights_)


def test_names_of_features_that_have_none():
    with pytest.raises(ValueError, match="the features of this model have no names; expected positions from 0 to 3"):
        make().marginal(["depth"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "given is empty"),
        ([0.5], TypeError, r"given is \[0.5\]; expected the values of some features, such as"),
        ({0: np.nan}, ValueError, r"given\[0\] is nan; expected a finite number"),
        ({"depth": [1.0, 2.0]}, TypeError, r"given\['depth'\] has the shape \(2,\).*conditional_mean takes many rows"),
        ({"depth": "deep"}, TypeError, r"given\['depth'\] is 'deep'; expected a number"),
        ({"depth": 1 + 0j}, TypeError, r"given\['depth'\] is \(1\+0j\); expected a number"),
        ({"depth": np.ma.masked}, ValueError, r"given\['depth'\] is --; expected a finite number. Leave unknown"),
        ({"depth": 10**400}, ValueError, r"given\['depth'\] is 10+; expected a finite number"),
        (pd.Series({"depth": 1.0}), TypeError, "to_dict"),
        ({"dept": 1.0}, ValueError, "given holds 'dept'"),
        ({"depth": 1.0, 0: 2.0}, ValueError, "given holds feature 0 twice"),
        (dict.fromkeys(range(D), 0.0), ValueError, "given holds all 4 features of the model; leave at least one out"),
    ],
)
def test_conditions_that_are_none(given, error, message):
    with pytest.raises(error, match=message):
        make(feature_names=NAMES).conditional(given)


def test_rows_with_other_columns_than_the_given_features():
    with pytest.raises(ValueError, match="X has 3 features, but GaussianMixture is expecting 2 features"):
        make().conditional_mean(rows(5, 3), GIVEN)
    with pytest.raises(ValueError, match="given holds all 4 features"):
        make().conditional_mean(rows(5, 4), range(D))


def test_a_model_without_parameters_has_neither():
    for method, argument in (("marginal", [0]), ("conditional", {0: 1.0})):
        with pytest.raises(NotFittedError):
            getattr(GaussianMixture(2), method)(argument)
    with pytest.raises(NotFittedError):
        GaussianMixture(2).conditional_mean(rows(5, 2), GIVEN)
    assert not hasattr(BayesianGaussianMixture, "conditional")
