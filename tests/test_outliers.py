"""The threshold of outliers: an exact quantile of log-densities, found in passes; outliers as a stored array."""

import json
import math

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import BayesianGaussianMixture, GaussianMixture, write_predictions
from daskgmm.cli import main
from daskgmm.errors import IncompleteDataError, NonFiniteDataError
from daskgmm.events import PassStarted
from daskgmm.fitting import density_quantile
from daskgmm.fitting.density_quantile import NumberRange, float_of, ordered_numbers

K, D = 2, 3
X = np.random.default_rng(0).normal(size=(2_000, D)) + np.repeat([[0.0], [6.0]], 1_000, axis=0)
MODEL = GaussianMixture(K, random_state=0).fit(X)
SHARES = [1e-9, 0.001, 0.01, 0.25, 0.5, 0.75, 1 - 1e-9]

few = pytest.fixture(lambda monkeypatch: monkeypatch.setattr(density_quantile, "_MOST_COLLECTED", 20))


def passes_of(x, contamination, model=MODEL):
    """Threshold, and number of passes."""
    labels = []
    model = GaussianMixture.from_parameters(model.weights_, model.means_, model.covariances_, callbacks=[labels.append])
    found = model.threshold(x, contamination)
    return found, sum(isinstance(event, PassStarted) for event in labels)


# ---- numbers in the order of floats


def test_numbers_have_the_order_of_the_floats():
    values = np.array([-np.inf, -1e300, -2.0, -1.0, -5e-324, 0.0, 5e-324, 1.0, np.nextafter(1, 2), 1e300, np.inf])
    numbers = ordered_numbers(values)
    assert (np.diff(numbers.astype(object)) > 0).all()
    assert [float_of(int(number)) for number in numbers] == values.tolist()
    assert ordered_numbers(np.array([-0.0])) == ordered_numbers(np.array([0.0]))


def test_parts_of_a_range_divide_it():
    numbers = ordered_numbers(np.random.default_rng(0).normal(size=1_000))
    whole = NumberRange()
    counts = whole.counts(numbers)
    assert counts.sum() == 1_000
    for index in np.flatnonzero(counts):
        part = whole.part(int(index))
        assert np.count_nonzero(part.holds(numbers)) == counts[index] == part.counts(numbers).sum()


# ---- the threshold


@pytest.mark.parametrize("contamination", SHARES)
def test_it_is_the_quantile_of_the_log_densities(contamination):
    expected = np.quantile(MODEL.score_samples(X), contamination, method="higher")
    assert MODEL.threshold(X, contamination) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("contamination", SHARES)
@pytest.mark.usefixtures("few")
def test_counting_passes_find_the_same(contamination):
    expected = np.quantile(MODEL.score_samples(X), contamination, method="higher")
    found, n_passes = passes_of(da.from_array(X, chunks=(300, D)), contamination)
    assert found == pytest.approx(expected, rel=1e-13)
    assert 2 <= n_passes <= 4


def test_few_rows_take_one_pass():
    assert passes_of(da.from_array(X, chunks=300), 0.01)[1] == 1


@pytest.mark.usefixtures("few")
def test_equal_log_densities_take_four_passes_and_no_more_memory():
    x = np.zeros((500, D))
    found, n_passes = passes_of(x, 0.3)
    assert found == pytest.approx(MODEL.score_samples(x[:1])[0], rel=1e-13)
    assert n_passes == 4


def test_outliers_are_that_share_of_the_rows():
    threshold = MODEL.threshold(X, 0.05)
    outliers = MODEL.score_samples(X) < threshold
    assert outliers.sum() == math.ceil(0.05 * (len(X) - 1))
    # The rows that scikit-learn's detectors would mark: they interpolate between two rows.
    density = MODEL.score_samples(X)
    np.testing.assert_array_equal(outliers, density < np.percentile(density, 5))


def test_every_kind_of_rows_has_the_same(tmp_path):
    stored = zarr.create_array(str(tmp_path / "x.zarr"), data=X, chunks=(300, D))
    expected = MODEL.threshold(X, 0.02)
    for data in (da.from_array(X, chunks=(170, 2)), stored, str(tmp_path / "x.zarr")):
        assert MODEL.threshold(data, 0.02) == pytest.approx(expected, rel=1e-13)
    posterior = BayesianGaussianMixture(n_components=K, random_state=0).fit(X)
    expected = np.quantile(posterior.score_samples(X), 0.02, method="higher")
    assert posterior.threshold(stored, 0.02) == pytest.approx(expected, rel=1e-13)


def test_a_grid():
    xarray = pytest.importorskip("xarray")
    grid = xarray.DataArray(X.reshape(40, 50, D), dims=("y", "x", "feature"))
    assert MODEL.threshold(grid, 0.02) == pytest.approx(MODEL.threshold(X, 0.02), rel=1e-13)


def test_single_precision():
    model = GaussianMixture(K, random_state=0).fit(X.astype(np.float32))
    density = model.score_samples(X.astype(np.float32))
    assert density.dtype == np.float32
    threshold = model.threshold(X.astype(np.float32), 0.1)
    assert threshold == pytest.approx(np.quantile(density, 0.1, method="higher"), rel=1e-6)
    assert np.float32(threshold) == threshold


def test_incomplete_rows_do_not_count():
    x = X.copy()
    x[::3, 1] = np.nan
    model = GaussianMixture(K, random_state=0, missing="drop").fit(x)
    density = model.score_samples(x)
    expected = np.quantile(density[~np.isnan(density)], 0.1, method="higher")
    assert model.threshold(da.from_array(x, chunks=300), 0.1) == pytest.approx(expected, rel=1e-13)
    with pytest.raises(IncompleteDataError):
        model.threshold(x * np.nan, 0.1)
    with pytest.raises(NonFiniteDataError, match="row 0"):
        MODEL.threshold(x, 0.1)


@pytest.mark.parametrize(
    ("contamination", "error"),
    [
        (0, ValueError),
        (1.0, ValueError),
        (-0.1, ValueError),
        (np.nan, ValueError),
        ("auto", TypeError),
        (True, TypeError),
    ],
)
def test_shares_that_are_none(contamination, error):
    with pytest.raises(error, match=r"contamination=.*; expected a share of the rows"):
        MODEL.threshold(X, contamination)


# ---- outliers as an array


def test_outliers_are_written(tmp_path):
    threshold = MODEL.threshold(X, 0.02)
    shapes = write_predictions(MODEL, da.from_array(X, chunks=300), tmp_path / "out.zarr", outliers=threshold)
    assert shapes == {"labels": (2_000,), "outliers": (2_000,)}
    stored = zarr.open_group(tmp_path / "out.zarr", mode="r")["outliers"]
    assert stored.dtype == np.bool_
    assert stored.attrs["threshold"] == threshold
    np.testing.assert_array_equal(stored[:], MODEL.score_samples(X) < threshold)
    both = write_predictions(MODEL, X, tmp_path / "all.zarr", outliers=threshold, log_density=True, probabilities=True)
    assert set(both) == {"labels", "probabilities", "log_density", "outliers"}
    group = zarr.open_group(tmp_path / "all.zarr", mode="r")
    np.testing.assert_array_equal(group["outliers"][:], group["log_density"][:] < threshold)


def test_incomplete_rows_are_no_outliers(tmp_path):
    x = X.copy()
    x[5, 0] = np.nan
    model = GaussianMixture.from_parameters(MODEL.weights_, MODEL.means_, MODEL.covariances_, missing="drop")
    write_predictions(model, x, tmp_path / "out.zarr", outliers=np.inf)
    stored = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert np.flatnonzero(~stored["outliers"][:]).tolist() == [5]
    assert stored["labels"][5] == -1


@pytest.mark.parametrize("outliers", [True, "0.01", np.nan])
def test_thresholds_that_are_none(outliers, tmp_path):
    with pytest.raises(TypeError, match=r"outliers=.*; expected a log-density, such as model\.threshold"):
        write_predictions(MODEL, X, tmp_path / "out.zarr", outliers=outliers)
    with pytest.raises(ValueError, match="outliers is an integer beyond the range of double precision"):
        write_predictions(MODEL, X, tmp_path / "out.zarr", outliers=10**400)
    assert not (tmp_path / "out.zarr").exists()


def test_the_terminal_writes_a_share_of_outliers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x.zarr", data=X, chunks=(500, D))
    MODEL.save("model.zarr")
    command = ["predict", "x.zarr", "--model", "model.zarr", "--output", "out.zarr", "--quiet", "--json"]
    assert main([*command, "--outliers", "0.01"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["threshold"] == pytest.approx(MODEL.threshold(X, 0.01), rel=1e-13)
    assert record["arrays"]["outliers"] == [2_000]
    assert np.count_nonzero(zarr.open_group("out.zarr", mode="r")["outliers"][:]) == 20
    assert main([*command, "--overwrite"]) == 0
    assert "threshold" not in json.loads(capsys.readouterr().out)
    assert main([*command, "--overwrite", "--outliers", "1"]) == 2
    assert "--outliers" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--outliers", "nan"]) != 0
    assert "error: --outliers nan; expected a share of the rows between 0 and 1" in capsys.readouterr().err
