"""Chunked data are whole data: the same bits from a fit, and lazy, aligned results, whatever the rows come in."""

import contextlib
import itertools

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import daskgmm
from daskgmm import GaussianMixture, open_zarr
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import tuned

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

STRUCTURES = list(COVARIANCE_TYPES)
PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]
METHODS = ["predict", "predict_proba", "score_samples"]
N, D = 230, 3

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def many_leaves():
    """Leaves of 16 rows, reads of 20 and several tasks a pass, so that small data are divided as large data are."""
    with tuned(shortest_leaf=16, longest_leaf=16, slab_bytes=20 * D * 8, shortest_task=0.0):
        yield


@pytest.fixture
def long_leaves(tune):
    """Leaves in which products of vectors are long enough for BLAS to treat layouts differently."""
    tune(shortest_leaf=1024, longest_leaf=1024)


def blobs(n=N, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, D)) + np.array([[0, 0, 0], [4, 1, 0], [0, 5, 2]])[rng.randint(3, size=n)]


X = blobs()
WEIGHTS = np.random.RandomState(5).rand(N) * (np.random.RandomState(6).rand(N) > 0.1)


def fit(x, sample_weight=None, structure="full", **parameters):
    parameters = {"max_iter": 3, "tol": 0, "random_state": 0} | parameters
    return GaussianMixture(3, covariance_type=structure, **parameters).fit(x, sample_weight=sample_weight)


def assert_same_bits(model, expected):
    assert model.lower_bounds_ == expected.lower_bounds_
    assert model.n_iter_ == expected.n_iter_
    for name in PARAMETERS:
        value, reference = getattr(model, name), getattr(expected, name)
        assert value.dtype == reference.dtype
        np.testing.assert_array_equal(value, reference, err_msg=name, strict=True)


@pytest.fixture(scope="module")
def whole():
    return {structure: fit(X, structure=structure) for structure in STRUCTURES}


@st.composite
def lengths(draw, n=N):
    """Chunk lengths that add up to n: uneven, of single rows, empty."""
    cuts = draw(st.lists(st.integers(0, n), max_size=12))
    cuts += [c + 1 for c in cuts if c < n and draw(st.booleans())]
    edges = [0, *sorted(cuts), n]
    return tuple(b - a for a, b in itertools.pairwise(edges))


feature_chunks = st.sampled_from([(D,), (1, D - 1), (D - 1, 1), (1,) * D])
DTYPES = ["?", "i1", "u1", "<i2", ">i4", "i8", "u8", "f2", ">f2", "f4", ">f4", "f8", ">f8"]


def of_dtype(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return X > 1
    if dtype.kind in "iu":
        return np.round(np.abs(X) * 8).astype(dtype)
    return X.astype(dtype)


# ---- fits: the same bits


@given(lengths(), feature_chunks, st.sampled_from(STRUCTURES))
@quick
def test_any_chunking_fits_the_same_bits(chunks, features, structure):
    x = da.from_array(X, chunks=(chunks, features))
    assert_same_bits(fit(x, structure=structure), fit(X, structure=structure))


@given(lengths(), feature_chunks, st.sampled_from(DTYPES), st.sampled_from(STRUCTURES))
@quick
def test_any_dtype_fits_the_same_bits(chunks, features, dtype, structure):
    x = of_dtype(dtype)
    expected = fit(x, structure=structure, reg_covar=1e-2)
    assert_same_bits(fit(da.from_array(x, chunks=(chunks, features)), structure=structure, reg_covar=1e-2), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_is_only_a_way_to_write_numbers(dtype):
    x = of_dtype(dtype)
    plain = x.astype(np.float32 if x.dtype in ("<f4", ">f4") else np.float64)
    model = fit(x, reg_covar=1e-2)
    assert_same_bits(model, fit(plain, reg_covar=1e-2))
    assert model.means_.dtype == plain.dtype


WEIGHT_KINDS = {
    "numpy": lambda w, chunks: w,
    "list": lambda w, chunks: w.tolist(),
    "float32": lambda w, chunks: w.astype(np.float32).astype(np.float64),
    "dask": lambda w, chunks: da.from_array(w, chunks=(chunks,)),
    "zarr": lambda w, chunks: in_zarr(w, chunks=(37,)),
}


def in_zarr(x, **layout):
    array = zarr.create_array({}, shape=x.shape, dtype=x.dtype, **layout)
    array[...] = x
    return array


@given(lengths(), lengths(), st.sampled_from(sorted(WEIGHT_KINDS)), st.sampled_from(STRUCTURES), st.booleans())
@quick
def test_any_kind_of_weights_fits_the_same_bits(chunks, weight_chunks, kind, structure, stored):
    weights = WEIGHTS.astype(np.float32).astype(np.float64)
    x = in_zarr(X, chunks=(41, 2)) if stored else da.from_array(X, chunks=(chunks, D))
    chunked = fit(x, WEIGHT_KINDS[kind](weights, weight_chunks), structure=structure)
    assert_same_bits(chunked, fit(X, weights, structure=structure))


@pytest.mark.parametrize("kind", sorted(WEIGHT_KINDS))
def test_rows_in_memory_take_any_kind_of_weights(kind):
    weights = WEIGHTS.astype(np.float32).astype(np.float64)
    assert_same_bits(fit(X, WEIGHT_KINDS[kind](weights, (100, 0, 130))), fit(X, weights))


@pytest.mark.parametrize("dtype", ["?", "i4", "u1", "f2", "f4", ">f8"])
def test_weights_of_any_dtype(dtype):
    weights = (WEIGHTS * 3).astype(dtype)
    expected = fit(X, weights.astype(np.float64))
    assert_same_bits(fit(X, weights), expected)
    assert_same_bits(fit(da.from_array(X, chunks=50), da.from_array(weights, chunks=30)), expected)


@pytest.mark.parametrize(
    "stride",
    [
        lambda w: np.repeat(w, 2)[::2],
        lambda w: w[::-1].copy()[::-1],
        lambda w: np.column_stack([w, w])[:, 1],
        lambda w: w.astype(">f8"),
        lambda w: da.from_array(np.repeat(w, 2), chunks=900)[::2],
    ],
    ids=["every other", "backwards", "a column", "big endian", "sliced by dask"],
)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_weights_in_any_memory_layout(stride, structure, long_leaves):
    x, weights = blobs(3000), np.random.RandomState(5).rand(3000)
    expected = fit(x, weights, structure=structure)
    assert_same_bits(fit(x, stride(weights), structure=structure), expected)
    assert_same_bits(fit(da.from_array(x, chunks=700), stride(weights), structure=structure), expected)


def test_a_scalar_weight_in_long_leaves(long_leaves):
    x = blobs(3000)
    assert_same_bits(fit(x, 3), fit(x, np.full(3000, 3.0)))


def test_a_scalar_weight_of_any_input():
    expected = fit(X, np.full(N, 3.0))
    for x in (X, da.from_array(X, chunks=50), in_zarr(X, chunks=(50, D))):
        assert_same_bits(fit(x, 3), expected)


@given(lengths(), st.integers(50, 200), st.sampled_from(["kmeans", "k-means++", "random", "random_from_data"]))
@quick
def test_the_sample_for_starts_does_not_depend_on_chunks(chunks, init_size, init):
    parameters = {"init_size": init_size, "init_params": init, "n_init": 2, "reg_covar": 1e-1, "tol": 1e-2}
    assert_same_bits(fit(da.from_array(X, chunks=(chunks, D)), **parameters), fit(X, **parameters))


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "negative strides": lambda x: x[::-1].copy()[::-1],
    "negative feature strides": lambda x: x[:, ::-1].copy()[:, ::-1],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "some columns": lambda x: np.hstack([x, x])[:, :D],
    "transposed": lambda x: x.T.copy().T,
    "unaligned": lambda x: unaligned(x),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


def unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    view = buffer[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_memory_layout_fits_the_same_bits(layout, structure, dtype, long_leaves):
    x = blobs(2500).astype(dtype)
    expected = fit(x, structure=structure)
    moved = LAYOUTS[layout](x)
    np.testing.assert_array_equal(moved, x)
    assert_same_bits(fit(moved, structure=structure), expected)
    assert_same_bits(fit(da.from_array(moved, chunks=(700, 2)), structure=structure), expected)
    blocks = da.from_array(x, chunks=(700, D)).map_blocks(LAYOUTS[layout], dtype=x.dtype)
    assert_same_bits(fit(blocks, structure=structure), expected)


UPSTREAM = {
    "rechunked": lambda x: x.rechunk((33, 2)),
    "persisted": lambda x: x.persist(),
    "shuffled there and back": lambda x: x[shuffled()][np.argsort(shuffled())],
    "reversed": lambda x: x[::-1][::-1],
    "sliced": lambda x: da.concatenate([x[:50], x[50:51], x[51:]]),
    "computed with": lambda x: x * 2 / 2,
    "one block in all": lambda x: x.map_blocks(lambda block, extra: block + 0 * extra.sum(), x.sum(), dtype=x.dtype),
    "stacked": lambda x: da.stack([x[:, i] for i in range(D)], axis=1),
    "transposed": lambda x: x.T.persist().T,
    "delayed": lambda x: da.concatenate(
        [da.from_delayed(dask.delayed(X[a:b]), (b - a, D), X.dtype) for a, b in HALVES]
    ),
}
HALVES = [(0, 100), (100, N)]


def shuffled():
    return np.random.RandomState(1).permutation(N)


@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_any_work_upstream_fits_the_same_bits(upstream, scheduler, whole):
    x = UPSTREAM[upstream](da.from_array(X, chunks=(47, 2)))
    assert_same_bits(fit(x, scheduler=scheduler), whole["full"])


def test_work_that_batches_share_is_done_once_a_pass():
    calls = []

    def expensive(block):
        calls.append(len(block))
        return block

    x = da.from_array(X, chunks=(N, D)).map_blocks(expensive, dtype=X.dtype, meta=X[:0]).rechunk((20, D))
    model = fit(x, scheduler="synchronous")
    assert len(calls) == model.n_passes_ == 4


@given(lengths(), st.integers(0, 3))
@quick
def test_unknown_chunk_lengths_are_counted_once(chunks, seed):
    keep = np.random.RandomState(seed).rand(N) > 0.3
    x = da.from_array(X, chunks=(chunks, (2, 1)))
    mask = da.from_array(keep, chunks=(chunks,))
    model = fit(x[mask])
    expected = fit(X[keep])
    assert_same_bits(model, expected)
    assert model.n_passes_ == expected.n_passes_ + 1


def test_unknown_chunk_lengths_of_rows_and_weights():
    keep = np.random.RandomState(0).rand(N) > 0.3
    mask = da.from_array(keep, chunks=60)
    x, weights = da.from_array(X, chunks=(60, D)), da.from_array(WEIGHTS, chunks=60)
    before = x[mask]
    assert_same_bits(fit(before, weights[mask]), fit(X[keep], WEIGHTS[keep]))
    assert np.isnan(before.chunks[0]).all()  # the caller's array is left as it was


# ---- Zarr


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (50, 3)},
        {"chunks": (1, 3)},
        {"chunks": (64, 1)},
        {"chunks": (500, 2)},
        {"chunks": (20, 3), "shards": (60, 3)},
        {"chunks": (20, 1), "shards": (100, 3)},
        {"chunks": (50, 3), "zarr_format": 2},
        {"chunks": (50, 2), "zarr_format": 2, "order": "F"},
        {"chunks": (50, 3), "compressors": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The `order` keyword argument has no effect")
def test_any_zarr_layout_fits_the_same_bits(layout, structure, whole, tmp_path):
    array = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, **layout)
    array[...] = X
    assert_same_bits(fit(tmp_path / "x.zarr", structure=structure), whole[structure])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_in_zarr_fits_the_same_bits(dtype, zarr_format):
    x = of_dtype(dtype)
    stored = in_zarr(x, chunks=(50, 2), zarr_format=zarr_format)
    assert_same_bits(fit(stored, reg_covar=1e-2), fit(x, reg_covar=1e-2))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A group with two arrays of rows and one of weights, one of them deeper."""
    path = tmp_path_factory.mktemp("stores") / "group.zarr"
    group = zarr.open_group(path, mode="w")
    for name in ("rows", "deep/rows"):
        group.create_array(name, shape=X.shape, dtype=X.dtype, chunks=(50, 3))[...] = X
    group.create_array("weights", shape=WEIGHTS.shape, dtype=WEIGHTS.dtype, chunks=(50,))[...] = WEIGHTS
    return path


ADDRESSES = {
    "str::name": lambda path: f"{path}::rows",
    "str::group/name": lambda path: f"{path}::deep/rows",
    "path of the array": lambda path: path / "rows",
    "str of the array": lambda path: str(path / "rows"),
    "file URL": lambda path: f"file://{path}/rows",
    "file URL::name": lambda path: f"file://{path}::rows",
    "Array": lambda path: zarr.open_array(path / "rows", mode="r"),
    "only array of a Group": lambda path: zarr.open_group(path / "deep", mode="r"),
    "path of a group with one array": lambda path: path / "deep",
    "open_zarr(path, name)": lambda path: open_zarr(path, "rows"),
    "open_zarr(path::name)": lambda path: open_zarr(f"{path}::rows"),
    "dask.from_zarr": lambda path: da.from_zarr(str(path / "rows")),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_any_address_of_a_zarr_array(address, store, whole):
    x = ADDRESSES[address](store)
    model = fit(x)
    assert_same_bits(model, whole["full"])
    np.testing.assert_array_equal(model.predict(x).compute(), whole["full"].predict(X))


def test_weights_by_address(store):
    assert_same_bits(fit(f"{store}::rows", f"{store}::weights"), fit(X, WEIGHTS))


def test_a_relative_path_and_a_url_in_memory(store, whole, monkeypatch):
    monkeypatch.chdir(store.parent)
    assert_same_bits(fit("group.zarr::rows"), whole["full"])
    url = "memory://daskgmm-tests/x.zarr"
    zarr.create_array(url, shape=X.shape, dtype=X.dtype, chunks=(50, 3))[...] = X
    assert_same_bits(fit(url), whole["full"])


def test_data_frames(whole):
    frame = pd.DataFrame(X, columns=list("abc"))
    model = fit(frame)
    assert_same_bits(model, whole["full"])
    assert list(model.feature_names_in_) == list("abc")
    mixed = frame.astype({"a": "float32"})
    assert_same_bits(fit(mixed), fit(mixed.to_numpy()))


def test_dask_data_frames(whole):
    dataframe = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(X, columns=list("abc"))
    lazy = dataframe.from_pandas(frame, npartitions=4)
    model = fit(lazy)
    assert_same_bits(model, whole["full"])
    assert list(model.feature_names_in_) == list("abc")
    np.testing.assert_array_equal(model.predict(lazy).compute(), whole["full"].predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(lazy[["c", "b", "a"]])


def test_xarray(whole):
    xarray = pytest.importorskip("xarray")
    lazy = xarray.DataArray(da.from_array(X, chunks=(60, D)), dims=("row", "feature"))
    with forbidden_compute():
        labels = whole["full"].predict(lazy)
    assert isinstance(labels.data, da.Array)
    for x in (lazy, xarray.DataArray(X, dims=("row", "feature"))):
        assert_same_bits(fit(x), whole["full"])
        np.testing.assert_array_equal(whole["full"].predict(x), whole["full"].predict(X))


def test_xarray_of_a_file_is_not_loaded(whole, tmp_path):
    xarray = pytest.importorskip("xarray")
    encoding = {"rows": {"chunks": (60, D)}}
    xarray.Dataset({"rows": (("row", "feature"), X)}).to_zarr(
        tmp_path / "x.zarr", consolidated=False, encoding=encoding
    )
    lazy = xarray.open_zarr(tmp_path / "x.zarr", chunks=None, consolidated=False)["rows"]
    with tuned(slab_bytes=100 * D * 8):
        assert_same_bits(fit(lazy), whole["full"])
        labels = whole["full"].predict(lazy)
    assert isinstance(labels.data, da.Array)
    assert max(labels.chunks[0]) == 60
    np.testing.assert_array_equal(labels.compute(), whole["full"].predict(X))


def test_a_dask_series_of_weights():
    dataframe = pytest.importorskip("dask.dataframe")
    frame = dataframe.from_pandas(pd.DataFrame(X).assign(w=WEIGHTS), npartitions=3)
    assert_same_bits(fit(frame[[0, 1, 2]], frame["w"]), fit(X, WEIGHTS))


# ---- memory maps


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "x.bin"
    path.write_bytes(b"\0" * 24 + np.ascontiguousarray(X).tobytes())
    np.save(path.with_suffix(".npy"), X)
    np.save(path.with_suffix(".F.npy"), np.asfortranarray(X))
    return path


MAPS = {
    "whole": lambda path: np.memmap(path, X.dtype, "r", offset=24, shape=X.shape),
    "npy": lambda path: np.load(path.with_suffix(".npy"), mmap_mode="r"),
    "npy in Fortran order": lambda path: np.load(path.with_suffix(".F.npy"), mmap_mode="r"),
    "rows": lambda path: MAPS["whole"](path)[17:201],
    "rows of rows": lambda path: MAPS["whole"](path)[17:201][13:],
    "every third row": lambda path: MAPS["whole"](path)[2::3],
    "columns": lambda path: MAPS["whole"](path)[:, 1:],
    "backwards": lambda path: MAPS["whole"](path)[::-1],
    "Fortran rows": lambda path: MAPS["npy in Fortran order"](path)[30:],
    "bytes seen as float32": lambda path: np.memmap(path, np.float32, "r", offset=24, shape=(N, 2 * D))[:, 1::2],
}


@pytest.mark.parametrize("view", MAPS)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_views_of_memory_maps_fit_the_same_bits(view, scheduler, mapped):
    x = MAPS[view](mapped)
    assert isinstance(x, np.memmap)
    expected = fit(np.array(x))
    assert_same_bits(fit(x, scheduler=scheduler), expected)
    for method in METHODS:
        np.testing.assert_array_equal(getattr(expected, method)(x), getattr(expected, method)(np.array(x)))


# ---- results: lazy, aligned, equal


@contextlib.contextmanager
def forbidden_compute():
    def get(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=get):
        yield


@given(lengths(), feature_chunks, st.sampled_from(STRUCTURES))
@quick
def test_lazy_results_equal_those_in_memory(chunks, features, structure):
    model = fit(X, structure=structure)
    x = da.from_array(X, chunks=(chunks, features))
    for method in METHODS:
        with forbidden_compute():
            lazy = getattr(model, method)(x)
        expected = getattr(model, method)(X)
        assert isinstance(lazy, da.Array)
        assert lazy.chunks[0] == x.chunks[0]
        assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
        values = lazy.compute(scheduler="synchronous")
        assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
        if method == "predict":
            np.testing.assert_array_equal(values, expected)
        else:
            np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-300)
    assert model.score(x) == model.score(X)
    assert model.bic(x) == model.bic(X)
    assert model.aic(x) == model.aic(X)


@given(lengths(), lengths())
@quick
def test_scores_do_not_depend_on_chunks(chunks, weight_chunks):
    model = fit(X)
    x, w = da.from_array(X, chunks=(chunks, D)), da.from_array(WEIGHTS, chunks=(weight_chunks,))
    assert model.score(x, sample_weight=w) == model.score(X, sample_weight=WEIGHTS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_results_for_any_dtype(method, dtype, whole):
    x = of_dtype(dtype)
    expected = getattr(whole["full"], method)(x)
    for lazy in (da.from_array(x, chunks=(60, 2)), in_zarr(x, chunks=(60, 2))):
        result = getattr(whole["full"], method)(lazy).compute()
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-5 if x.dtype.itemsize == 4 else 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("layout", "unit"),
    [
        ({"chunks": (50, 3)}, 50),
        ({"chunks": (30, 1)}, 30),
        ({"chunks": (20, 3), "shards": (60, 3)}, 60),
        ({"chunks": (40, 3), "zarr_format": 2}, 40),
        ({"chunks": (1000, 3)}, 1000),
    ],
    ids=str,
)
def test_results_of_a_store_have_its_chunks(method, layout, unit, whole, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, **layout)[...] = X
    with forbidden_compute():
        lazy = getattr(whole["full"], method)(tmp_path / "x.zarr")
    assert lazy.chunks[0] == da.empty(N, chunks=unit).chunks[0]
    expected = getattr(whole["full"], method)(X)
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12)


def test_chunks_that_are_small_and_many_are_joined(whole, tmp_path, tune):
    tune(many_chunks=20, joined_bytes=35 * 8 * (whole["full"].n_components + 2))
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(10, D))
    results = [getattr(whole["full"], method)(tmp_path / "x.zarr") for method in METHODS]
    for result in results:
        assert result.chunks[0] == da.empty(N, chunks=30).chunks[0]
    np.testing.assert_array_equal(results[0].compute(), whole["full"].predict(X))


@pytest.mark.parametrize(("chunk_rows", "block_rows"), [(1, 4), (5, 5)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_blocks_are_as_small_as_large_results_demand(chunk_rows, block_rows, tmp_path, tune):
    tune(many_chunks=2, joined_bytes=800, slab_bytes=800)
    model = GaussianMixture(20, max_iter=1, tol=0, random_state=0).fit(X)
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(chunk_rows, D))
    assert model.predict(tmp_path / "x.zarr").chunks[0][0] == block_rows
    lazy = model.predict_proba(tmp_path / "x.zarr")
    assert lazy.chunks[0] == da.empty(N, chunks=block_rows).chunks[0]
    np.testing.assert_allclose(lazy.compute(), model.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source_kind", ["dask", "zarr", "features apart"])
def test_results_can_be_stored(method, source_kind, whole, tmp_path):
    x = {
        "dask": lambda: da.from_array(X, chunks=(60, D)),
        "zarr": lambda: in_zarr(X, chunks=(60, D)),
        "features apart": lambda: da.from_array(X, chunks=(60, 1)),
    }[source_kind]()
    getattr(whole["full"], method)(x).to_zarr(str(tmp_path / "result.zarr"))
    stored = zarr.open_array(tmp_path / "result.zarr", mode="r")
    expected = getattr(whole["full"], method)(X)
    assert stored.dtype == expected.dtype
    np.testing.assert_allclose(stored[...], expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_results_for_unknown_chunk_lengths(method, whole):
    keep = X[:, 0] > 0
    x = da.from_array(X, chunks=(60, D))
    with forbidden_compute():
        lazy = getattr(whole["full"], method)(x[x[:, 0] > 0])
    np.testing.assert_allclose(lazy.compute(), getattr(whole["full"], method)(X[keep]), rtol=1e-12)


def test_results_of_two_models_do_not_mix():
    x = da.from_array(X, chunks=(60, D))
    one, other = fit(X), fit(X, structure="spherical", random_state=3, init_params="random")
    first, second = dask.compute(one.score_samples(x), other.score_samples(x))
    np.testing.assert_allclose(first, one.score_samples(X), rtol=1e-12)
    np.testing.assert_allclose(second, other.score_samples(X), rtol=1e-12)
    assert not np.allclose(first, second)


def test_results_see_a_store_that_was_rewritten(whole):
    stored = in_zarr(X, chunks=(60, D))
    before = whole["full"].score_samples(stored).compute()
    stored[...] = X + 1
    after = whole["full"].score_samples(stored).compute()
    np.testing.assert_allclose(after, whole["full"].score_samples(X + 1), rtol=1e-12)
    assert not np.allclose(before, after)


def test_in_memory_results_come_back_in_memory(whole):
    for x in (X, X.tolist(), np.asfortranarray(X)):
        for method in METHODS:
            assert type(getattr(whole["full"], method)(x)) is np.ndarray


def test_long_arrays_in_memory_are_cut_into_spans(whole):
    many = np.tile(X, (300, 1))  # 69 000 rows
    np.testing.assert_array_equal(whole["full"].predict(many), np.tile(whole["full"].predict(X), 300))
    np.testing.assert_allclose(
        whole["full"].predict_proba(many), np.tile(whole["full"].predict_proba(X), (300, 1)), rtol=1e-12
    )


# ---- nothing is loaded whole


class Recorder:
    """An array that writes down how many rows are read at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.reads = []

    def __getitem__(self, index):
        part = self.array[index]
        self.reads.append(len(part) if part.ndim == 2 else 1)
        return part


@pytest.fixture
def store_reads(monkeypatch):
    """Rows of every read of a Zarr array."""
    reads = []
    plain = zarr.Array.__getitem__

    def recorded(self, selection):
        part = plain(self, selection)
        reads.append(len(part))
        return part

    monkeypatch.setattr(zarr.Array, "__getitem__", recorded)
    return reads


def everything(model, x):
    """Every method that reads rows."""
    model.fit(x)
    model.fit_predict(x)
    for method in METHODS:
        result = getattr(model, method)(x)
        assert isinstance(result, da.Array)
        for block in result.to_delayed().ravel():
            block.compute(scheduler="synchronous")
    model.score(x)
    model.bic(x)
    model.aic(x)


def test_no_method_loads_a_dask_array_whole():
    recorder = Recorder(X)
    x = da.from_array(recorder, chunks=(25, D), asarray=False)
    everything(GaussianMixture(2, random_state=0, scheduler="synchronous", max_iter=2, cache=None), x)
    assert max(recorder.reads) <= 25
    assert sum(recorder.reads) >= 10 * N


@pytest.mark.parametrize("layout", [{"chunks": (25, 3)}, {"chunks": (5, 3), "shards": (25, 3)}], ids=str)
def test_no_method_loads_a_store_whole(layout, store_reads, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, **layout)[...] = X
    everything(GaussianMixture(2, random_state=0, scheduler="synchronous", max_iter=2, cache=None), tmp_path / "x.zarr")
    assert max(store_reads) <= 25
    assert sum(store_reads) >= 10 * N


def test_no_fit_loads_a_memory_map_whole(mapped, monkeypatch):
    reads = []
    plain = daskgmm.data.arrays.MappedFile.__getitem__

    def recorded(self, rows):
        part = plain(self, rows)
        reads.append(len(part))
        return part

    monkeypatch.setattr(daskgmm.data.arrays.MappedFile, "__getitem__", recorded)
    model = fit(MAPS["whole"](mapped))
    model.score(MAPS["whole"](mapped))
    assert max(reads) <= 20
    assert sum(reads) == (model.n_passes_ + 1) * N


def test_each_pass_reads_each_row_once(store_reads, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(25, 3))[...] = X
    model = fit(tmp_path / "x.zarr", cache=None)
    assert model.n_passes_ == 1 + model.n_iter_
    assert sum(store_reads) == model.n_passes_ * N
