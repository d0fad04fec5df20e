"""DataArrays and Datasets of xarray: dimensions of samples, lazy results with labels, weights by name."""

import contextlib
import json

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskgmm import BayesianGaussianMixture, GaussianMixture, load, select, write_predictions
from daskgmm.errors import (
    DimensionError,
    IncompleteDataError,
    InvalidWeightsError,
    NonFiniteDataError,
    UnsupportedDataError,
)
from daskgmm.tuning import tuned

xr = pytest.importorskip("xarray")
pd = pytest.importorskip("pandas")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

T, Y, X_ = 6, 8, 10
DIMS = ("time", "lat", "lon")
rng = np.random.default_rng(0)
TEMPERATURE = rng.normal(size=(T, Y, X_)) + np.where(np.arange(Y) < 4, 0, 6)[:, None]
SALINITY = rng.normal(size=(T, Y, X_)) - np.where(np.arange(X_) < 5, 0, 5)
ROWS = np.stack([TEMPERATURE, SALINITY], axis=-1).reshape(-1, 2)
COORDS = {
    "time": np.arange(T).astype("datetime64[D]").astype("datetime64[ns]"),
    "lat": np.linspace(-70, 70, Y),
    "lon": np.arange(X_) * 36.0,
    "basin": (("lat", "lon"), np.full((Y, X_), "Pacific")),
    "run": 7,
}
DS = xr.Dataset({"temperature": (DIMS, TEMPERATURE), "salinity": (DIMS, SALINITY)}, COORDS)
LAND = xr.DataArray(rng.random((Y, X_)) < 0.3, dims=("lat", "lon"))
OCEAN = DS.where(~LAND)

quick = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def many_leaves():
    """Leaves of 16 rows and several tasks in a pass, so that small data are divided as large data are."""
    with tuned(shortest_leaf=16, longest_leaf=16, slab_bytes=60 * 2 * 8, shortest_task=0.0):
        yield


@contextlib.contextmanager
def forbidden_compute():
    def get(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=get):
        yield


def fit(x, kind=GaussianMixture, parameters=None, **more):
    parameters = {"n_components": 3, "random_state": 0, "max_iter": 3, "tol": 0} | (parameters or {})
    return kind(**parameters).fit(x, **more)


FIRST = {
    "weights_init": np.full(3, 1 / 3),
    "means_init": np.array([[0.0, 0.0], [6.0, 0.0], [0.0, -5.0]]),
    "precisions_init": np.stack([np.eye(2)] * 3),
}
"""First parameters with which the order of rows makes no difference but rounding."""


def assert_same_bits(model, expected):
    assert model.lower_bound_ == expected.lower_bound_
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(expected, name), err_msg=name, strict=True)


@pytest.fixture(scope="module")
def of_rows():
    return fit(ROWS)


@pytest.fixture(scope="module")
def model():
    return fit(DS)


# ---- fits


FORMS = {
    "in memory": lambda: DS,
    "lazy": lambda: DS.chunk({"time": 2}),
    "uneven blocks": lambda: DS.chunk({"time": (1, 3, 2)}),
    "blocks of their own": lambda: DS.assign(
        salinity=DS.salinity.chunk({"time": 4}), temperature=DS.temperature.chunk()
    ),
    "one lazy": lambda: DS.assign(salinity=DS.salinity.chunk({"time": 1})),
    "an array": lambda: DS.to_dataarray("feature").transpose(..., "feature"),
    "features first": lambda: DS.to_dataarray(),
    "lazy, features first": lambda: DS.chunk({"time": 2}).to_dataarray("band"),
    "features in blocks": lambda: DS.to_dataarray("c").transpose(..., "c").chunk({"time": 3, "c": 1}),
}


@pytest.mark.covering
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given_dim", [None, DIMS, ["lon", "lat", "time"]], ids=str)
def test_variables_or_a_dimension_are_the_features_with_the_bits_of_plain_rows(form, given_dim, of_rows):
    found = fit(FORMS[form](), dim=given_dim)
    assert_same_bits(found, of_rows)
    assert list(found.feature_names_in_) == ["temperature", "salinity"]
    assert found.feature_dims_ == tuple({*FORMS[form]().sizes} - {*DIMS})


def test_several_dimensions_of_features_in_their_order():
    x = DS.chunk({"time": 2, "lat": 3})
    one = {"covariance_type": "diag", "n_components": 1}
    found = fit(x.temperature, dim=("lat", "lon"), parameters=one)
    rows = TEMPERATURE.transpose(1, 2, 0).reshape(-1, T)
    np.testing.assert_allclose(found.means_, fit(rows, parameters=one).means_, rtol=1e-9)
    assert found.feature_dims_ == ("time",)
    assert found.feature_names_in_[0] == "1970-01-01 00:00:00"
    found = fit(x.temperature, dim="lat", parameters=one)
    rows = TEMPERATURE.transpose(1, 0, 2).reshape(Y, -1)
    np.testing.assert_allclose(found.means_, fit(rows, parameters=one).means_, rtol=1e-9)
    assert found.predict(x.temperature).dims == ("lat",)


def test_variables_with_and_without_a_dimension_of_features():
    profiles = xr.Dataset(
        {
            "temperature": (("lat", "depth", "lon"), rng.normal(size=(Y, 2, X_))),
            "surface": (("lat", "lon"), rng.normal(size=(Y, X_))),
        },
        {"depth": [0.5, 10.0]},
    )
    rows = np.concatenate([profiles.temperature.values.transpose(0, 2, 1), profiles.surface.values[..., None]], axis=-1)
    expected = fit(rows.reshape(-1, 3))
    for x in (profiles, profiles.chunk({"lat": 3, "depth": 1})):
        found = fit(x, dim=("lat", "lon"))
        assert_same_bits(found, expected)
        assert list(found.feature_names_in_) == ["temperature[depth=0.5]", "temperature[depth=10.0]", "surface"]
        assert found.feature_dims_ == ("depth",)
        labels = found.predict(x)
        assert labels.dims == ("lat", "lon")
        np.testing.assert_array_equal(labels.values.ravel(), expected.predict(rows.reshape(-1, 3)))
    with pytest.raises(DimensionError, match=r"no 'temperature\[depth=0.5\]'"):
        found.predict(profiles.assign_coords(depth=[1.0, 2.0]))


def test_variables_are_broadcast():
    ds = DS.assign(depth=xr.DataArray(np.arange(Y) / 3.0, dims="lat"), season=("time", np.arange(T) % 4))
    names = ["temperature", "depth", "season"]
    expected = np.stack([x.values for x in xr.broadcast(*(ds[name] for name in names))], axis=-1)
    for x in (ds, ds.chunk({"time": 2}), ds.chunk({"time": 1}).assign(depth=ds.depth)):
        assert_same_bits(fit(x[names]), fit(expected.reshape(-1, 3)))
    assert fit(ds[["depth", "season"]]).predict(ds).dims == ("lat", "time")


def cuts(n):
    return st.lists(st.integers(1, n), min_size=1, max_size=4).map(
        lambda edges: np.diff(sorted({0, *edges, n})).tolist()
    )


@given(st.tuples(cuts(T), cuts(Y), cuts(X_)), st.permutations([*DIMS, "feature"]), st.booleans())
@quick
def test_any_blocks_and_any_order_of_dimensions(lengths, order, masked):
    ds = OCEAN if masked else DS
    array = ds.to_dataarray("feature").transpose(*order)
    chunked = array.chunk(dict(zip(DIMS, map(tuple, lengths), strict=True)) | {"feature": 1})
    found, expected = fit(chunked, parameters=FIRST), fit(array, parameters=FIRST)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-8, atol=1e-10)
    for method in ("predict", "predict_proba", "score_samples"):
        with forbidden_compute():
            lazy = getattr(expected, method)(chunked)
        xr.testing.assert_allclose(lazy.compute(), getattr(expected, method)(array))
        assert lazy.chunksizes == {
            **{dim: chunked.chunksizes[dim] for dim in array.dims if dim != "feature"},
            **({"component": (3,)} if method == "predict_proba" else {}),
        }
    stacked = array.transpose(*[dim for dim in order if dim != "feature"], "feature")
    np.testing.assert_array_equal(expected.predict(array).values.ravel(), expected.predict(stacked).values.ravel())


def test_the_order_of_rows_is_that_of_the_array_where_the_first_dimension_is_cut():
    # Held-out rows are chosen by row number, so they differ if rows come in another order.
    held_out = [
        select(x, [2], estimator=GaussianMixture(random_state=0), held_out=0.3).table[0]["held_out"]
        for x in (ROWS, DS, DS.chunk({"time": 2}), DS.chunk({"time": 1, "lat": 3}))
    ]
    assert len(set(held_out)) == 1


# ---- results


def test_labels(model, of_rows):
    labels = model.predict(DS)
    assert (labels.dims, labels.dtype, type(labels.data)) == (DIMS, np.int64, np.ndarray)
    np.testing.assert_array_equal(labels.values.ravel(), of_rows.predict(ROWS))
    xr.testing.assert_identical(labels.coords.to_dataset(), DS.coords.to_dataset())
    assert labels.attrs["flag_meanings"] == "component_0 component_1 component_2"
    assert labels.attrs["flag_values"].tolist() == [0, 1, 2]
    assert labels.attrs["long_name"] == "most probable component"


def test_probabilities_and_densities(model, of_rows):
    probabilities = model.predict_proba(DS)
    assert probabilities.dims == (*DIMS, "component")
    assert probabilities.component.values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(probabilities.values.reshape(-1, 3), of_rows.predict_proba(ROWS))
    densities = model.score_samples(DS)
    assert (densities.dims, densities.attrs["units"]) == (DIMS, "nat")
    np.testing.assert_array_equal(densities.values.ravel(), of_rows.score_samples(ROWS))
    assert model.score(DS) == of_rows.score(ROWS)
    assert model.criteria(DS, dim=DIMS) == of_rows.criteria(ROWS)
    assert model.bic(DS) == of_rows.bic(ROWS)


def test_labels_become_a_variable_of_the_dataset_again_and_again(model):
    ds = DS.chunk({"time": 2, "lat": 3})
    for _ in range(2):
        ds["pcm_label"] = model.predict(ds)
    assert ds.pcm_label.chunksizes == {"time": (2, 2, 2), "lat": (3, 3, 2), "lon": (X_,)}
    xr.testing.assert_equal(ds.pcm_label.compute().drop_attrs(), model.predict(DS).drop_attrs())


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "zarr"])
def test_files_without_blocks_are_read_lazily(engine, model, tmp_path):
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    ds = DS.drop_vars("basin")
    sizes = (2, Y, X_)
    if engine == "zarr":
        encoding = {name: {"chunks": sizes} for name in ds}
        ds.to_zarr(tmp_path / "x", encoding=encoding, consolidated=False, zarr_format=3)
        found = xr.open_dataset(tmp_path / "x", engine="zarr", consolidated=False)
    else:
        ds.to_netcdf(tmp_path / "x", engine=engine, encoding={name: {"chunksizes": sizes} for name in ds})
        found = xr.open_dataset(tmp_path / "x", engine=engine)
    with found, forbidden_compute():
        lazy = model.predict(found)
    assert isinstance(lazy.data, da.Array)
    assert lazy.chunksizes["time"] == (2, 2, 2)
    with found:
        xr.testing.assert_equal(lazy.compute().drop_attrs(), model.predict(ds).drop_attrs())
        assert_same_bits(fit(found[list(ds)]), model)  # xarray lists the members of a store in no fixed order


def test_results_computed_together_read_the_data_once(model):
    reads = []
    ds = DS.chunk({"time": 2}).map(lambda x: x.copy(data=x.data.map_blocks(lambda b: reads.append(0) or b, dtype="f8")))
    reads.clear()
    dask.compute(model.predict(ds), model.predict_proba(ds), model.score_samples(ds), scheduler="synchronous")
    assert len(reads) == 2 * 3  # variables × blocks


def test_another_grid_with_one_dimension_more_and_variables_more(model):
    more = xr.concat([DS, DS + 1], dim="member").assign(other=("x", ["a", "b"]))[["other", "salinity", "temperature"]]
    labels = model.predict(more.isel(lat=slice(3)))
    assert labels.sizes == {"member": 2, "time": T, "lat": 3, "lon": X_}
    xr.testing.assert_equal(labels.isel(member=0).drop_vars(()), model.predict(DS).isel(lat=slice(3)))
    with pytest.raises(DimensionError, match=r"no 'salinity' among its variables \('temperature'\).*\['temperature', "):
        model.predict(DS[["temperature"]])


def test_features_are_known_by_name(model):
    array = DS.to_dataarray()
    for x in (array, array.isel(variable=[1, 0]), xr.concat([array, array.isel(variable=[0]) + 9], "variable")[:2]):
        xr.testing.assert_equal(model.predict(x), model.predict(DS))
    with pytest.raises(DimensionError, match="no 'salinity' among its labels along 'variable'"):
        model.predict(array.assign_coords(variable=["temperature", "oxygen"]))
    of_array = fit(array.transpose(..., "variable"))
    assert of_array.feature_dims_ == ("variable",)
    xr.testing.assert_equal(of_array.predict(DS), model.predict(DS))


@pytest.mark.parametrize("form", ["an array", "a dataset", "without labels", "a Zarr array"])
def test_several_feature_dimensions_are_those_of_the_fit_in_any_order(form, tmp_path):
    x = DS.temperature[:, :3, :4].drop_vars("basin").astype("f4")
    x = x.drop_vars(["lat", "lon"]) if form in ("without labels", "a Zarr array") else x
    of_fit = x.to_dataset() if form == "a dataset" else x
    rows = x.values.reshape(T, 12)
    one = {"covariance_type": "diag", "n_components": 1}
    found, expected = fit(of_fit, dim="time", parameters=one), fit(rows, parameters=one).score_samples(rows)
    for order in (("time", "lon", "lat"), ("lon", "time", "lat")):
        new = of_fit.transpose(*order)
        if form == "a Zarr array":
            new = zarr.create_array(tmp_path / "-".join(order), data=new.values, dimension_names=order)
        for more in ({}, {"dim": "time"}):
            np.testing.assert_allclose(found.score_samples(new, **more), expected, rtol=1e-5)
    if form in ("an array", "a dataset"):
        with pytest.raises(ValueError, match=r"fitted with the features|same ones in another order"):
            found.predict(of_fit.isel(lat=slice(None, None, -1)))


@pytest.mark.parametrize("chunks", [None, {"time": 2, "depth": 3}], ids=str)
def test_labels_of_numbers_choose_features_whatever_their_order(chunks):
    profiles = DS.temperature.rename(lat="depth").drop_vars("basin").transpose("time", "lon", "depth")
    found = fit(profiles, parameters={"covariance_type": "diag"})
    assert list(found.feature_names_in_) == [str(depth) for depth in profiles.depth.values]
    more = xr.concat([profiles, profiles[..., :2].assign_coords(depth=[500.0, 900.0])], "depth")
    for x in (profiles, profiles[..., ::-1], more[..., ::-1]):
        x = x if chunks is None else x.chunk(chunks)
        xr.testing.assert_allclose(found.score_samples(x), found.score_samples(profiles), rtol=1e-12)
    with pytest.raises(DimensionError, match=r"no '-70\.0', .* among its labels along 'depth'.*drop_vars"):
        found.predict(profiles.assign_coords(depth=profiles.depth + 1))


def test_dimensions_of_the_fit_are_remembered_in_the_file(tmp_path):
    profiles = DS.temperature.rename(time="depth")
    found = fit(profiles, dim=("lat", "lon"), parameters={"covariance_type": "diag"})
    found.save(tmp_path / "model.zarr")
    loaded = load(tmp_path / "model.zarr")
    assert loaded.feature_dims_ == ("depth",)
    assert not hasattr(loaded, "feature_axis_")
    for x in (profiles, profiles.transpose("lon", "lat", "depth"), profiles.expand_dims(time=2)):
        xr.testing.assert_identical(loaded.predict(x), found.predict(x))
    with pytest.raises(DimensionError, match="no dimension 'depth', which was a dimension of features in the fit"):
        loaded.predict(profiles.rename(depth="z"))
    assert loaded.predict(profiles.rename(depth="z"), dim=("lat", "lon")).dims == ("lat", "lon")
    with pytest.raises(DimensionError, match=r"labels along 'depth', pass one variable: X\['name'\]"):
        loaded.predict(DS)
    refitted = loaded.set_params(n_components=2).fit(ROWS)
    assert not hasattr(refitted, "feature_dims_")


@pytest.mark.parametrize(
    "change", [{"feature_dims": "depth"}, {"feature_dims": [1]}, {"feature_axis": "last"}], ids=str
)
def test_damaged_dimensions_in_a_file(change, model, tmp_path):
    model.save(tmp_path / "m.zarr")
    path = tmp_path / "m.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    record = document["attributes"]
    while "fitted" not in record:
        record = next(value for value in record.values() if isinstance(value, dict))
    record["fitted"].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"m\.zarr"):
        load(tmp_path / "m.zarr")


def test_stacked_samples_and_one_sample(model):
    stacked = DS.stack(sample=DIMS)
    labels = model.predict(stacked)
    assert labels.dims == ("sample",)
    xr.testing.assert_equal(labels.unstack().drop_vars("basin"), model.predict(DS).drop_vars("basin"))
    assert_same_bits(fit(stacked.to_dataarray()), model)
    assert model.predict(DS.isel(time=[0], lat=[0], lon=[0])).shape == (1, 1, 1)
    assert model.predict(DS.isel(time=0, lat=0)).dims == ("lon",)


def test_a_component_in_the_data(model):
    named = DS.rename(lon="component")
    assert model.predict(named).dims == ("time", "lat", "component")
    with pytest.raises(DimensionError, match=r"dimension or coordinate 'component'.*X\.rename"):
        model.predict_proba(named)


def test_regression_on_a_grid(model, of_rows):
    means = model.conditional_mean(DS[["salinity"]].chunk({"time": 2, "lat": 3}), "salinity")
    assert means.dims == (*DIMS, "feature")
    np.testing.assert_allclose(means.values.reshape(-1, 1), of_rows.conditional_mean(ROWS[:, 1:], 1), rtol=1e-12)


def test_fit_predict_and_select_and_plan(of_rows):
    labels = GaussianMixture(3, random_state=0, max_iter=4, tol=0).fit_predict(DS, dim=DIMS)
    np.testing.assert_array_equal(labels.values.ravel(), of_rows.predict(ROWS))
    found = select(DS, [2, 3], estimator=GaussianMixture(random_state=0), dim=DIMS)
    assert found.best == select(ROWS, [2, 3], estimator=GaussianMixture(random_state=0)).best
    assert found.model.predict(DS).dims == DIMS
    assert GaussianMixture(3).plan(DS, dim=DIMS).n_rows == len(ROWS)
    assert GaussianMixture(3).plan(DS.temperature, dim=("time", "lat")).n_features == X_


def test_results_go_to_a_store_and_back(model, tmp_path):
    ds = OCEAN.chunk({"time": 2}).drop_vars("basin")
    labels = model.predict(ds)
    out = xr.Dataset({"labels": labels, "probabilities": model.predict_proba(ds), "density": model.score_samples(ds)})
    out.to_zarr(tmp_path / "out.zarr", zarr_format=2, consolidated=False)
    back = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    assert back.labels.dtype == np.int64
    xr.testing.assert_equal(back.load(), out.compute())
    assert (back.labels.values == -1).sum() == T * int(LAND.sum())


@pytest.mark.parametrize("chunks", [None, {"time": 2, "lat": 3}, {"time": (1, 3, 2)}], ids=str)
def test_predictions_are_written_with_coordinates(chunks, model, tmp_path):
    ds = OCEAN if chunks is None else OCEAN.chunk(chunks)
    threshold = model.threshold(ds, contamination=0.05)
    shapes = write_predictions(
        model, ds, tmp_path / "out.zarr", probabilities=True, log_density=True, outliers=threshold
    )
    grid = (T, Y, X_)
    assert shapes == {"labels": grid, "probabilities": (*grid, 3), "log_density": grid, "outliers": grid}
    back = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    expected = {"labels": model.predict, "probabilities": model.predict_proba, "log_density": model.score_samples}
    for name, function in expected.items():
        xr.testing.assert_allclose(back[name].load(), function(OCEAN), rtol=1e-12)
        assert back[name].attrs["long_name"] == function(OCEAN).attrs["long_name"]
    np.testing.assert_array_equal(back.outliers, model.score_samples(OCEAN) < threshold)
    assert back.outliers.attrs["threshold"] == threshold
    assert back.labels.dtype == np.int64
    assert back.labels.attrs["flag_meanings"] == "component_0 component_1 component_2"
    assert set(back.coords) == {*OCEAN.coords, "component"}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_coordinates_of_another_store_are_written_in_chunks_of_their_own(zarr_format, model, tmp_path):
    coords = {"area": (("lat", "lon"), np.arange(80.0).reshape(Y, X_)), "year": ("time", np.arange(T) + 0.5)}
    ds = DS.drop_vars("basin").assign_coords(coords)
    ds.chunk({"time": 4, "lon": 7}).to_zarr(tmp_path / "in.zarr", zarr_format=zarr_format, consolidated=False)
    stored = xr.open_zarr(tmp_path / "in.zarr", consolidated=False).chunk({"time": (1, 3, 2), "lat": 3})[
        {"lon": slice(1, 9)}
    ]
    write_predictions(model, stored, tmp_path / "out.zarr")
    back = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    xr.testing.assert_equal(back.labels.load(), model.predict(ds.isel(lon=slice(1, 9))))
    assert set(back.coords) == set(ds.coords)


def test_coordinates_that_cannot_be_written(model, tmp_path):
    path = tmp_path / "out.zarr"
    with pytest.raises(UnsupportedDataError, match=r"several levels along 'sample'.*reset_index\('sample'\)"):
        write_predictions(model, DS.stack(sample=DIMS), path)
    with pytest.raises(DimensionError, match="coordinate 'labels', and so have the results"):
        write_predictions(model, DS.assign_coords(labels=("lat", np.arange(Y))), path)
    with pytest.raises(DimensionError, match="coordinate 'component'"):
        write_predictions(model, DS.rename(lon="component"), path, probabilities=True)
    for values in (np.array(["a", 1] * 4, object), pd.interval_range(0, Y)):
        with pytest.raises(UnsupportedDataError, match=r"coordinates .*'odd'.* cannot all be written.*drop_vars"):
            write_predictions(model, DS.assign_coords(odd=("lat", values)), path)
    assert not list(tmp_path.iterdir())
    assert write_predictions(model, DS.stack(sample=DIMS).reset_index("sample"), path) == {"labels": (T * Y * X_,)}
    assert xr.open_zarr(path, consolidated=False).labels.dims == ("sample",)


# ---- incomplete samples


def test_land_is_left_out():
    expected = fit(ROWS.reshape(T, Y, X_, 2)[:, ~LAND.values].reshape(-1, 2), parameters=FIRST)
    for x in (OCEAN, OCEAN.chunk({"time": 2}), OCEAN.chunk({"time": 2, "lat": 3}).to_dataarray()):
        found = fit(x, parameters=FIRST)
        assert found.origin_.n_incomplete == T * int(LAND.sum())
        assert found.n_passes_ == expected.n_passes_
        np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
        labels, densities, probabilities = found.predict(x), found.score_samples(x), found.predict_proba(x)
        np.testing.assert_array_equal((labels == -1).transpose(*DIMS), np.broadcast_to(LAND, (T, Y, X_)))
        np.testing.assert_array_equal(np.isnan(densities), labels == -1)
        np.testing.assert_array_equal(np.isnan(probabilities).all("component"), labels == -1)
        np.testing.assert_allclose(found.score(x), float(densities.mean()))


@pytest.mark.parametrize("chunks", [None, {"time": 4, "lat": 3, "lon": 7}], ids=str)
def test_an_error_names_the_position_of_the_sample(chunks, model):
    hole = DS.copy(deep=True)
    hole.temperature[5, 6, 8] = np.inf
    hole = hole if chunks is None else hole.chunk(chunks)
    functions = [fit, model.score, lambda x: select(x, [1, 2])]
    for function in functions if chunks else [*functions, model.predict]:
        with pytest.raises(NonFiniteDataError) as caught:
            function(hole)
        assert "is the sample at time=5, lat=6, lon=8 of the grid (6, 8, 10)" in caught.value.__notes__[0]


def test_missing_may_be_refused():
    with pytest.raises(NonFiniteDataError, match="NaN in row"):
        fit(OCEAN, parameters={"missing": "raise"})
    with pytest.raises(IncompleteDataError, match="no complete row"):
        fit(DS.where(False))
    with pytest.raises(NonFiniteDataError, match="infinity"):
        fit(DS.where(DS.lat > -60, np.inf))


# ---- weights


AREA = np.cos(np.deg2rad(DS.lat))
EXPECTED = np.broadcast_to(AREA.values[:, None], (T, Y, X_)).ravel()


WEIGHTS = {
    "along one dimension": AREA,
    "lazy": AREA.chunk({"lat": 3}),
    "without coordinates": xr.DataArray(AREA.values, dims="lat"),
    "along two, in another order": AREA.expand_dims(time=DS.time, axis=1),
    "an array of the shape": EXPECTED.reshape(T, Y, X_),
    "a dask array of the shape": da.from_array(EXPECTED.reshape(T, Y, X_), chunks=(4, 3, 5)),
    "rows": EXPECTED,
    "a list of rows": EXPECTED.tolist(),
    "name of a coordinate": "area",
}


@pytest.mark.covering
@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("chunks", [None, {"time": 2}, {"time": 2, "lat": 3, "lon": 7}], ids=str)
def test_weights_by_name(form, chunks):
    ds = DS.assign_coords(area=AREA)
    x = ds if chunks is None else ds.chunk(chunks)
    found = fit(x, parameters=FIRST, sample_weight=WEIGHTS[form])
    expected = fit(ROWS, parameters=FIRST, sample_weight=EXPECTED)
    if chunks is None or len(chunks) == 1:
        assert_same_bits(found, expected)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
    np.testing.assert_allclose(
        found.score(x, sample_weight=WEIGHTS[form]), expected.score(ROWS, sample_weight=EXPECTED), rtol=1e-12
    )


def test_a_variable_may_be_the_weights():
    ds = DS.assign(area=AREA)
    found = fit(ds, sample_weight="area")
    assert list(found.feature_names_in_) == ["temperature", "salinity"]
    of_rows = fit(ROWS, sample_weight=EXPECTED)
    assert_same_bits(found, of_rows)
    assert found.score(ds, sample_weight="area") == of_rows.score(ROWS, sample_weight=EXPECTED)
    best = select(ds, [1], sample_weight="area", estimator=GaussianMixture(random_state=0)).model
    assert list(best.feature_names_in_) == ["temperature", "salinity"]


def test_broadcast_weights_are_those_of_xarray():
    weights = AREA * (1 + DS.time.dt.day)
    expected = xr.broadcast(weights, DS.temperature)[0].transpose(*DIMS).values.ravel()
    assert_same_bits(fit(DS.chunk({"time": 2}), sample_weight=weights), fit(ROWS, sample_weight=expected))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            AREA.rename(lat="latitude"),
            "has the dimension 'latitude', and the samples have the dimensions 'time', 'lat'",
        ),
        (AREA[:3], "size 3 along 'lat', and X has the size 8"),
        (AREA.assign_coords(lat=AREA.lat + 1), "other coordinates along 'lat' than X"),
        (EXPECTED.reshape(Y, T, X_), r"sample_weight.shape == \(8, 6, 10\), expected \(6, 8, 10\)"),
        (EXPECTED[:-1], r"sample_weight.shape == \(479,\)"),
        ("erea", "no coordinate or variable of that name.*'temperature'"),
    ],
    ids=["dimension", "size", "coordinates", "shape", "length", "name"],
)
@pytest.mark.parametrize("function", [fit, select, lambda x, **more: GaussianMixture(2).plan(x, **more)])
def test_weights_that_do_not_fit(function, weights, message):
    with pytest.raises(InvalidWeightsError, match=message):
        function(DS, sample_weight=weights)


def test_weights_of_a_file_have_no_order_of_blocks(tmp_path):
    zarr.create_array(tmp_path / "w.zarr", data=EXPECTED, chunks=(100,))
    path = str(tmp_path / "w.zarr")
    assert_same_bits(fit(DS.chunk({"time": 2}), sample_weight=path), fit(ROWS, sample_weight=EXPECTED))
    for weights in (path, da.from_array(EXPECTED, chunks=100)):
        with pytest.raises(InvalidWeightsError, match=r"come from 6 blocks.*DataArray"):
            fit(DS.chunk({"time": 3, "lat": 3}), sample_weight=weights)


# ---- errors


@pytest.mark.parametrize(
    ("x", "dim", "error", "message"),
    [
        (DS, "level", DimensionError, "no dimension 'level'.*its dimensions are 'time', 'lat', 'lon'"),
        (DS.temperature, ("time", "level"), DimensionError, "no dimension 'level'"),
        (DS.temperature, DIMS, DimensionError, r"names all dimensions.*expand_dims\('feature'\)"),
        (DS, ("time", "time"), DimensionError, "names 'time' twice"),
        (DS, (), DimensionError, "dim is empty"),
        (DS, 3, TypeError, "dim=3; expected the name of a sample dimension"),
        (DS, ("time", 0), TypeError, "expected the name of a sample dimension"),
        (DS.temperature[:, 0, 0], None, DimensionError, "has the dimension 'time' alone"),
        (DS.temperature.rename(lat="band", lon="c"), None, DimensionError, "dimensions 'band', 'c', and each"),
        (xr.DataArray(np.zeros((50, 400)), dims=("depth", "profile")), None, DimensionError, "pass dim='profile' or"),
        (xr.DataArray(np.zeros((0, 2)), dims=("x", "feature")), None, ValueError, r"0 sample\(s\)"),
        (DS.isel(lat=slice(0)), None, ValueError, r"0 sample\(s\)"),
        (DS.isel(lat=slice(0)).chunk(), None, ValueError, r"0 sample\(s\)"),
        (xr.DataArray(np.zeros((3, 0)), dims=("x", "feature")), None, ValueError, r"0 feature\(s\)"),
        (xr.Dataset(), None, UnsupportedDataError, "Dataset without variables"),
        (ROWS, DIMS, DimensionError, "X is a NumPy array without names of dimensions.*xarray.DataArray"),
        (da.from_array(ROWS), "row", DimensionError, "X is a dask array without names of dimensions"),
        (ROWS.tolist(), "row", DimensionError, "X is a list without names of dimensions"),
    ],
)
def test_dimensions_that_do_not_fit(x, dim, error, message):
    with pytest.raises(error, match=message):
        fit(x, dim=dim)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((Y, X_), "datetime64[ns]"), r"The variable 'odd' of X has dtype datetime64.*X\[\['temperature', "),
        (np.full((Y, X_), "a"), "The variable 'odd' of X has dtype <U1"),
        (np.full((Y, X_), None), "The variable 'odd' of X has dtype object"),
        (np.zeros((Y, X_), complex), "The variable 'odd' of X has dtype complex128.*real and imaginary"),
    ],
    ids=["times", "texts", "objects", "complex"],
)
def test_variables_that_are_no_numbers_are_named(values, message):
    ds = DS.assign(odd=(("lat", "lon"), values))
    for x in (ds, ds.chunk({"lat": 3})):
        with pytest.raises(UnsupportedDataError, match=message):
            fit(x)
    assert fit(DS).predict(ds).dims == DIMS  # the variable is no feature of the fit


def test_a_variable_without_dimensions_is_no_feature():
    with pytest.raises(UnsupportedDataError, match="'crs' of X has no dimensions"):
        fit(DS.assign(crs=1))
    with pytest.raises(UnsupportedDataError, match=r"'temperature' of X has no dimensions.*isel\(time=\[0\]\)"):
        fit(DS.isel(time=0, lat=0, lon=0))


@pytest.mark.parametrize("attribute", [{"scale_factor": 0.01}, {"_FillValue": -9999}, {"missing_value": 1e20}], ids=str)
def test_numbers_that_are_not_decoded(attribute):
    stored = DS.temperature.assign_attrs(attribute)
    for x in (stored, DS.assign(temperature=stored)):
        with pytest.raises(UnsupportedDataError, match=f"'temperature' of X .*{next(iter(attribute))}.*decode_cf"):
            fit(x, dim=("time", "lat"))
    for harmless in ({"scale_factor": 1.0, "add_offset": 0.0}, {"_FillValue": np.nan}):
        fit(DS.assign(temperature=DS.temperature.assign_attrs(harmless)))


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("i2", "f4"), ("u1", "i8"), ("?", "f2"), (">f4", "f8")], ids=str)
def test_dtypes_are_joined(dtypes):
    ds = xr.Dataset({name: (DIMS, (DS[name].values * 10).astype(t)) for name, t in zip(DS, dtypes, strict=True)})
    expected = fit(np.stack([ds[name].values for name in ds], axis=-1).reshape(-1, 2))
    for x in (ds, ds.chunk({"time": 1})):
        assert_same_bits(fit(x), expected)


# ---- parameters with labels


STRUCTURES = {
    "full": ("component", "feature", "feature_"),
    "tied": ("feature", "feature_"),
    "diag": ("component", "feature"),
    "spherical": ("component",),
    "tied-diag": ("feature",),
    "tied-spherical": ("variance",),
}


@pytest.mark.covering
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_parameters_as_a_dataset(kind, structure):
    found = fit(DS, kind, {"covariance_type": structure})
    labelled = found.to_xarray()
    assert labelled.covariances.dims == STRUCTURES[structure]
    assert labelled.attrs["covariance_type"] == structure
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(labelled[name].values, getattr(found, f"{name}_"), rtol=1e-12)
    assert labelled.means.sel(feature="salinity").dims == ("component",)
    if structure == "full":
        assert float(labelled.covariances.sel(component=1, feature="salinity", feature_="salinity")) > 0
    assert "feature" not in fit(ROWS, kind).to_xarray().coords
