"""Arrays of more than two dimensions: one axis has the features, the others are a grid of samples."""

import json
import math
import shutil

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import mostly_slow

from daskgmm import GaussianMixture, load, select, write_predictions
from daskgmm.cli import main
from daskgmm.errors import (
    ChunkError,
    DimensionError,
    InvalidWeightsError,
    MissingChunkError,
    NonFiniteDataError,
    StoreError,
    UnsupportedDataError,
)
from daskgmm.results import plan_predictions
from daskgmm.tuning import tuned

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

C, Z, Y, X = 2, 3, 8, 10
SHAPE = (Z, Y, X)
VOLUME = np.random.default_rng(0).normal(size=(C, *SHAPE)) + 5 * (np.arange(Y) < 4)[:, None]
ROWS = VOLUME.reshape(C, -1).T
FIRST = {
    "weights_init": [0.5, 0.5],
    "means_init": [[0.0, 0.0], [5.0, 5.0]],
    "precisions_init": np.stack([np.eye(2)] * 2),
}
"""First parameters with which the order of rows makes no difference but rounding."""

quick = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])


OF_UNKNOWN_LENGTH = da.from_array(VOLUME)[da.from_array(VOLUME[:, 0, 0, 0]) < np.inf]


@pytest.fixture(scope="module", autouse=True)
def many_leaves():
    """Leaves of 16 rows and several tasks in a pass, so that small data are divided as large data are."""
    with tuned(shortest_leaf=16, longest_leaf=16, slab_bytes=60 * C * 8, shortest_task=0.0):
        yield


def fit(x, parameters=None, **more):
    return GaussianMixture(2, **({"random_state": 0, "max_iter": 3, "tol": 0} | (parameters or {}))).fit(x, **more)


def in_file(x, path):
    mapped = np.lib.format.open_memmap(path / "x.npy", "w+", dtype=x.dtype, shape=x.shape)
    mapped[:] = x
    return np.load(path / "x.npy", mmap_mode="r")


KINDS = {
    "numpy": lambda x, path: x,
    "memmap": in_file,
    "dask": lambda x, path: da.from_array(x, chunks=tuple(1 if n == Z else n for n in x.shape)),
    "dask, channels in blocks": lambda x, path: da.from_array(
        x, chunks=tuple(1 if n in (Z, C) else n for n in x.shape)
    ),
}


@pytest.mark.parametrize("kind", ["zarr 3", "zarr 2", "hdf5"])
def test_a_matrix_whose_first_dimension_is_named_after_features_is_read_transposed(kind, tmp_path):
    """As a DataArray is: rows × features is how matrices without such names are read."""
    for names in ("band", "pixel"), ("pixel", "band"), ("y", "x"):
        x = ROWS.T if names[0] == "band" else ROWS
        path = tmp_path / f"{names[0]}.{kind[:4]}"
        if kind == "hdf5":
            h5py = pytest.importorskip("h5py")
            file = h5py.File(path, "w")
            stored = file.create_dataset("x", data=x, chunks=(2, 2))
            for dim, name in zip(stored.dims, names, strict=True):
                dim.label = name
        elif kind == "zarr 3":
            stored = zarr.create_array(path, data=x, chunks=(2, 60), dimension_names=names)
        else:
            attributes = {"_ARRAY_DIMENSIONS": names}
            stored = zarr.create_array(path, shape=x.shape, dtype=x.dtype, zarr_format=2, attributes=attributes)
            stored[:] = x
        model = fit(stored)
        assert model.means_.tolist() == fit(ROWS).means_.tolist()
        np.testing.assert_array_equal(model.predict(stored), fit(ROWS).predict(ROWS))


@pytest.mark.covering
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_results_have_the_shape_of_the_samples(kind, axis, tmp_path):
    x = KINDS[kind](np.moveaxis(VOLUME, 0, axis), tmp_path)
    found, expected = fit(x, feature_axis=axis), fit(ROWS)
    assert found.lower_bound_ == expected.lower_bound_
    np.testing.assert_array_equal(found.means_, expected.means_)
    assert found.feature_axis_ == axis
    labels = found.predict(x)
    assert labels.shape == SHAPE
    assert isinstance(labels, da.Array) == (kind.startswith("dask") or (kind == "memmap" and axis != -1))
    np.testing.assert_array_equal(np.asarray(labels).ravel(), expected.predict(ROWS))
    assert found.predict_proba(x, feature_axis=axis).shape == (*SHAPE, 2)
    assert found.score(x) == pytest.approx(expected.score(ROWS), rel=1e-12)
    assert fit(x, feature_axis=axis).criteria(x)["bic"] == pytest.approx(expected.criteria(ROWS)["bic"], rel=1e-12)


def cuts(n):
    return st.lists(st.integers(1, n), min_size=1, max_size=3).map(
        lambda edges: np.diff(sorted({0, *edges, n})).tolist()
    )


@given(st.tuples(*map(cuts, SHAPE)), st.integers(-4, 3))
@quick
def test_any_blocks(lengths, axis):
    x = np.moveaxis(VOLUME, 0, axis)
    chunks = list(map(tuple, lengths))
    chunks.insert(axis % 4, (1, 1))
    found = fit(da.from_array(x, chunks=tuple(chunks)), FIRST, feature_axis=axis)
    np.testing.assert_allclose(found.means_, fit(ROWS, FIRST).means_, rtol=1e-9)
    labels = found.predict(da.from_array(x, chunks=tuple(chunks)))
    assert labels.chunks == tuple(map(tuple, lengths))
    np.testing.assert_array_equal(labels.compute(), found.predict(x))


def test_the_axis_is_remembered_and_images_may_have_fewer_dimensions(tmp_path):
    found = fit(VOLUME, feature_axis=0)
    found.save(tmp_path / "m.zarr")
    loaded = load(tmp_path / "m.zarr")
    assert loaded.feature_axis_ == 0
    np.testing.assert_array_equal(loaded.predict(VOLUME[:, 0]), found.predict(VOLUME)[0])
    np.testing.assert_array_equal(loaded.predict(ROWS), found.predict(VOLUME).ravel())  # two dimensions are rows
    np.testing.assert_array_equal(loaded.predict(ROWS.T, feature_axis=0), found.predict(ROWS))
    assert not hasattr(loaded.fit(ROWS), "feature_axis_")


def test_select_and_plan():
    x = da.from_array(VOLUME, chunks=(1, 1, Y, X))
    estimator = GaussianMixture(random_state=0)
    found = select(x, [1, 2], estimator=estimator, feature_axis=0)
    assert found.table == select(ROWS, [1, 2], estimator=estimator).table
    assert found.model.predict(x).shape == SHAPE
    assert GaussianMixture(2).plan(x, feature_axis=0).n_rows == len(ROWS)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_have_the_shape_of_the_samples(lazy):
    weights = np.random.default_rng(1).random(SHAPE)
    x = da.from_array(VOLUME, chunks=(1, 2, 3, 4)) if lazy else VOLUME
    expected = fit(ROWS, FIRST, sample_weight=weights.ravel())
    for form in (weights, weights.ravel(), da.from_array(weights, chunks=3), weights.tolist()):
        np.testing.assert_allclose(fit(x, FIRST, sample_weight=form, feature_axis=0).means_, expected.means_, rtol=1e-9)
    with pytest.raises(InvalidWeightsError, match=r"sample_weight.shape == \(8, 10\), expected \(3, 8, 10\)"):
        fit(x, sample_weight=weights[0], feature_axis=0)


@pytest.mark.parametrize(
    ("x", "more", "error", "message"),
    [
        (VOLUME, {}, ValueError, r"got 4D array.*feature_axis=.*moveaxis\(X, axis, -1\)\.reshape\(-1, n_features\)"),
        (da.from_array(VOLUME), {}, ValueError, r"got 4D array.*feature_axis="),
        (VOLUME, {"feature_axis": 4}, DimensionError, "feature_axis=4, and X has 4 dimension.*from -4 to 3"),
        (VOLUME, {"feature_axis": "c"}, TypeError, "feature_axis='c'; expected an integer"),
        (VOLUME, {"feature_axis": True}, TypeError, "feature_axis=True; expected an integer"),
        (VOLUME, {"feature_axis": 0, "dim": "z"}, DimensionError, "both given"),
        (VOLUME[0, 0, 0], {"feature_axis": 0}, DimensionError, "has 1 dimension"),
        (VOLUME.tolist(), {"feature_axis": 0}, DimensionError, r"X is a list; .*numpy\.asarray"),
        (VOLUME.astype("U"), {"feature_axis": 0}, UnsupportedDataError, "dtype <U"),
        (VOLUME[:, :0], {"feature_axis": 0}, ValueError, r"0 sample\(s\)"),
        (OF_UNKNOWN_LENGTH, {"feature_axis": 0}, DimensionError, r"lengths are not all known.*compute_chunk_sizes\(\)"),
        (OF_UNKNOWN_LENGTH.T, {"feature_axis": 0}, DimensionError, r"X\.compute_chunk_sizes\(\)"),
    ],
)
def test_errors(x, more, error, message):
    with pytest.raises(error, match=message):
        fit(x, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_a_grid_are_written_with_its_shape(kind, tmp_path):
    x, found = KINDS[kind](VOLUME, tmp_path), fit(VOLUME, feature_axis=0)
    shapes = write_predictions(found, x, tmp_path / "out.zarr", probabilities=True, log_density=True)
    assert shapes == {"labels": SHAPE, "probabilities": (*SHAPE, 2), "log_density": SHAPE}
    out = zarr.open_group(tmp_path / "out.zarr", mode="r")
    np.testing.assert_array_equal(out["labels"][:], found.predict(VOLUME))
    np.testing.assert_allclose(out["probabilities"][:], found.predict_proba(VOLUME), rtol=1e-12)
    np.testing.assert_allclose(out["log_density"][:], found.score_samples(VOLUME), rtol=1e-12)
    assert out.attrs["daskgmm"]["format"] == "results"
    assert plan_predictions(found, x).n_batches > 0
    assert write_predictions(found, ROWS, tmp_path / "rows.zarr") == {"labels": (len(ROWS),)}
    assert write_predictions(found, ROWS.T, tmp_path / "two.zarr", feature_axis=0) == {"labels": (len(ROWS),)}


@given(st.tuples(*map(cuts, SHAPE)))
@quick
def test_uneven_blocks_are_written_in_even_chunks(tmp_path_factory, lengths):
    path = tmp_path_factory.mktemp("out") / "out.zarr"
    found = fit(VOLUME, FIRST, feature_axis=0)
    x = da.from_array(VOLUME, chunks=((1, 1), *map(tuple, lengths)))
    write_predictions(found, x, path)
    labels = zarr.open_group(path, mode="r")["labels"]
    assert labels.chunks == tuple(map(max, lengths))
    np.testing.assert_array_equal(labels[:], found.predict(VOLUME))


@pytest.mark.parametrize("chunks", [-1, (2, 2, 5, 10)], ids=str)
def test_results_larger_than_slabs_are_written_in_parts_of_a_block(chunks, tmp_path):
    found = fit(VOLUME, feature_axis=0)
    with tuned(slab_bytes=100 * 8):
        write_predictions(found, da.from_array(VOLUME, chunks=chunks), tmp_path / "out.zarr", probabilities=True)
        labels = zarr.open_array(tmp_path / "out.zarr/labels", mode="r")
        assert math.prod(labels.chunks) * (8 + 2 * 8) <= 4 * 100 * 8
        np.testing.assert_array_equal(labels[:], found.predict(VOLUME))
        damaged = VOLUME.copy()
        damaged[1, 2, 6, 3] = np.nan
        x = da.from_array(damaged, chunks=chunks)
        with pytest.raises(NonFiniteDataError) as raised:
            write_predictions(found, x, tmp_path / "other.zarr", probabilities=True)
    assert raised.value.__notes__[0].startswith(
        f"Row {raised.value.row} is the sample at axis 0=2, axis 1=6, axis 2=3 "
    )
    with pytest.raises(NonFiniteDataError, match=f"row {raised.value.row}\\."):
        found.predict(x).compute()


def test_masked_blocks_of_an_array_that_does_not_say_so():
    rows = np.moveaxis(VOLUME, 0, -1)
    x = da.from_array(rows, chunks=2).map_blocks(np.ma.masked_greater, 1, dtype=float, meta=np.empty((0,) * 4))
    with pytest.raises(UnsupportedDataError, match=r"does not say.*map_blocks\(numpy\.ma\.filled, numpy\.nan\)"):
        fit(x, feature_axis=-1, parameters={"missing": "drop"})
    filled = fit(x.astype("float64").map_blocks(np.ma.filled, np.nan), feature_axis=-1, parameters={"missing": "drop"})
    of_nan = fit(
        da.from_array(np.where(rows > 1, np.nan, rows), chunks=2), feature_axis=-1, parameters={"missing": "drop"}
    )
    np.testing.assert_array_equal(filled.means_, of_nan.means_)


def test_a_failure_leaves_nothing_of_a_grid(tmp_path):
    found = fit(VOLUME, feature_axis=0)
    holes = VOLUME.copy()
    holes[0, 2, 7, 9] = np.nan
    for x in (holes, da.from_array(holes, chunks=(2, 1, 3, 10))):
        with pytest.raises(NonFiniteDataError, match="NaN in row"):
            write_predictions(found, x, tmp_path / "out.zarr")
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_events_of_a_written_grid(tmp_path):
    events = []
    found = fit(VOLUME, feature_axis=0)
    x = da.from_array(VOLUME, chunks=(2, 1, 3, 10))
    write_predictions(found, x, tmp_path / "out.zarr", callbacks=[events.append])
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["PassStarted", *["BatchFinished"] * 9, "PassFinished", "EngineClosed"]
    assert sum(event.n_rows for event in events[1:-2]) == events[0].n_rows == len(ROWS)


# ---- stored arrays


AXES = ("c", "z", "y", "x")


def zarr_v3(x, path, axes=AXES, **more):
    zarr.create_array(path, data=x, chunks=(1, 2, 3, 4), dimension_names=axes, **more)
    return str(path)


def zarr_v2(x, path, axes=AXES):
    attributes = {"_ARRAY_DIMENSIONS": list(axes)}
    zarr.create_array(path, data=x, chunks=(1, 2, 3, 4), zarr_format=2, attributes=attributes)
    return zarr.open(path, mode="r")


def sharded(x, path):
    zarr.create_array(path, data=x, chunks=(1, 1, 4, 5), shards=(2, 2, 4, 10), dimension_names=AXES)
    return str(path)


def ome(x, path, version="0.5"):
    zarr_format = 3 if version == "0.5" else 2
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in AXES]
    metadata = {"multiscales": [{"axes": axes, "datasets": [{"path": "s0"}, {"path": "s1"}]}]}
    group = zarr.create_group(
        path, zarr_format=zarr_format, attributes={"ome": metadata} if version == "0.5" else metadata
    )
    group.create_array("s0", data=x, chunks=(1, 2, 3, 4))
    group.create_array("s1", data=x[:, :, ::2, ::2], chunks=(1, 2, 3, 4))
    return str(path)


def hdf5(x, path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=x, chunks=(1, 2, 3, 4), compression="gzip")
        for dim, label in zip(dataset.dims, AXES, strict=True):
            dim.label = label
    return h5py.File(path)["x"]


STORED = {
    "format 3": zarr_v3,
    "format 2": zarr_v2,
    "shards": sharded,
    "OME 0.4": lambda x, path: ome(x, path, "0.4"),
    "OME 0.5": ome,
    "HDF5": hdf5,
}


@pytest.mark.parametrize("kind", mostly_slow(STORED, "format 3", "OME 0.4", "HDF5"))
def test_stored_grids_are_read_region_by_region(kind, tmp_path):
    x = STORED[kind](VOLUME, tmp_path / "x")
    expected = fit(ROWS, FIRST)
    for layout in ({"dim": ("z", "y", "x")}, {"feature_axis": 0}):
        found = fit(x, FIRST, **layout)
        np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
        labels = found.predict(x)
        assert isinstance(labels, da.Array)
        assert max(labels.chunks[1]) < Y
        np.testing.assert_array_equal(labels.compute(), expected.predict(ROWS).reshape(SHAPE))
        assert found.score(x) == pytest.approx(expected.score(ROWS), rel=1e-12)
    found = fit(x, FIRST, dim=("z", "y", "x"))
    assert found.feature_dims_ == ("c",)
    assert str(tmp_path / "x") in found.origin_.data.address
    weights = np.random.default_rng(1).random(SHAPE)
    zarr.create_array(tmp_path / "w.zarr", data=weights, chunks=(3, 4, 5))
    weighted = fit(ROWS, FIRST, sample_weight=weights.ravel())
    for form in (weights, str(tmp_path / "w.zarr"), zarr.open(tmp_path / "w.zarr", mode="r")):
        found = fit(x, FIRST, sample_weight=form, feature_axis=0)
        np.testing.assert_allclose(found.means_, weighted.means_, rtol=1e-9)


def test_results_of_a_stored_grid_computed_together_read_the_store_once(tmp_path, monkeypatch):
    x = zarr.open(zarr_v3(VOLUME, tmp_path / "x.zarr"), mode="r")
    found = fit(VOLUME, feature_axis=0)
    alone = len(found.predict(x).__dask_graph__())
    together = dict(found.predict(x).__dask_graph__()) | dict(found.predict_proba(x).__dask_graph__())
    assert len(together) < 1.8 * alone


def test_encoded_and_missing_values_of_a_stored_grid(tmp_path):
    stored = np.round(VOLUME * 100).astype("i2")
    stored[0, 0, :2, :3] = -9999
    attributes = {"scale_factor": 0.01, "_FillValue": -9999}
    path = zarr_v3(stored, tmp_path / "x.zarr", attributes=attributes)
    values = np.where(stored == -9999, np.nan, stored * 0.01)
    found = fit(path, FIRST | {"missing": "drop"}, dim=("z", "y", "x"))
    np.testing.assert_allclose(
        found.means_, fit(values.reshape(C, -1).T, FIRST | {"missing": "drop"}).means_, rtol=1e-9
    )
    assert found.origin_.n_incomplete == 6
    np.testing.assert_array_equal(found.predict(path).compute() == -1, np.isnan(values[0]))
    with pytest.raises(NonFiniteDataError, match="NaN in row"):
        fit(path, dim=("z", "y", "x"))


def test_a_missing_or_damaged_chunk_of_a_stored_grid(tmp_path):
    path = zarr_v3(VOLUME, tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / "c" / "1" / "0" / "2" / "1").unlink()
    with pytest.raises(MissingChunkError, match=r"chunk \(1, 0, 2, 1\)") as caught:
        fit(path, feature_axis=0)
    assert caught.value.chunk == (1, 0, 2, 1)
    (tmp_path / "x.zarr" / "c" / "1" / "0" / "2" / "1").write_bytes(b"damaged")
    with pytest.raises(ChunkError, match=r"chunk \(1, 0, 2, 1\)"):
        fit(path, feature_axis=0)


def test_dimensions_of_a_stored_grid_that_do_not_fit(tmp_path):
    path = zarr_v3(VOLUME, tmp_path / "x.zarr")
    bare = zarr_v3(VOLUME, tmp_path / "bare.zarr", None)
    for x, layout, message in [
        (path, {"dim": ("time", "y")}, r"no dimension 'time'.*'c', 'z', 'y', 'x'"),
        (path, {"dim": AXES}, "names all dimensions"),
        (path, {"feature_axis": 9}, "feature_axis=9"),
        (bare, {"dim": ("z", "y", "x")}, "X is a Zarr array without names of dimensions.*feature_axis="),
    ]:
        with pytest.raises(DimensionError, match=message):
            fit(x, **layout)
    with pytest.raises(ValueError, match=r"got 4D array.*feature_axis=.*dim="):
        fit(path)


def test_dimensions_of_a_fit_hold_for_other_stores(tmp_path):
    path = zarr_v3(VOLUME, tmp_path / "x.zarr")
    found = fit(path, dim=("z", "y", "x"))
    other = zarr_v3(VOLUME.transpose(1, 2, 3, 0)[:2, :3], tmp_path / "y.zarr", ("z", "y", "x", "c"))
    np.testing.assert_array_equal(found.predict(other).compute(), found.predict(path).compute()[:2, :3])


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": []},
        {"multiscales": [{"datasets": [{"path": 3}]}]},
        {"ome": {"multiscales": [{"datasets": [{}]}]}},
        {"multiscales": "no"},
    ],
    ids=str,
)
def test_groups_that_are_no_images(attributes, tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr", attributes=attributes)
    group.create_array("rows", data=ROWS)
    assert fit(str(tmp_path / "g.zarr")).n_features_in_ == C
    group.create_array("more", data=ROWS)
    with pytest.raises(StoreError, match="group with 2 arrays"):
        fit(str(tmp_path / "g.zarr"))


def test_a_group_of_several_grids_says_how_they_become_features(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("salinity", "temperature"):
        group.create_array(name, data=VOLUME[0], dimension_names=("z", "y", "x"))
    with pytest.raises(StoreError, match=r"xarray\.open_zarr\(path\)\[\['salinity', 'temperature'\]\]"):
        fit(str(tmp_path / "g.zarr"), dim=("z", "y", "x"))


def test_an_image_that_names_an_array_that_is_not_there(tmp_path):
    ome(VOLUME, tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "s0")
    with pytest.raises(StoreError, match="has no array 's0'"):
        fit(str(tmp_path / "x"), feature_axis=0)


def test_options_of_the_terminal(tmp_path, capsys):
    path, model = zarr_v3(VOLUME, tmp_path / "x.zarr"), str(tmp_path / "m.zarr")
    common = ["--quiet", "--json"]

    def run(*arguments):
        assert main([*map(str, arguments), *common]) == 0
        return json.loads(capsys.readouterr().out)

    record = run("fit", path, "-k", 2, "--model", model, "--dim", "z,y,x", "--seed", 0)
    assert record["n_rows"] == len(ROWS)
    expected = fit(path, {"max_iter": 100, "tol": 1e-3}, dim=("z", "y", "x"))
    np.testing.assert_array_equal(load(model).means_, expected.means_)
    assert run("score", path, "--model", model)["log_likelihood"] == pytest.approx(expected.score(path))
    assert run("select", path, "-k", "1:2", "--feature-axis", 0, "--seed", 0)["n_rows"] == len(ROWS)
    written = run("predict", path, "--model", model, "--output", tmp_path / "out.zarr")
    assert written["arrays"] == {"labels": list(SHAPE)}
    labels = zarr.open_group(tmp_path / "out.zarr", mode="r")["labels"]
    assert labels.metadata.dimension_names == ("z", "y", "x")
    np.testing.assert_array_equal(labels[:], expected.predict(path))
    assert main(["fit", path, "-k", "2", "--model", model, "--overwrite", "--dim", "z,t", "--quiet"]) == 1
    assert "no dimension 't'" in capsys.readouterr().err
