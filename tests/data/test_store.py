"""Stores as people have them: archives, groups in groups, copies of metadata, silent servers, other files."""

import functools
import http.server
import json
import os
import shutil
import threading
import zipfile

import dask
import fsspec
import numpy as np
import pytest
import zarr
from clusters import processes

from daskgmm import GaussianMixture, open_zarr
from daskgmm.cli import main
from daskgmm.data.inputs import resolve
from daskgmm.data.stored_rows import StoreSource
from daskgmm.errors import ChunkError, DataChangedError, StoreError, StoreNotFoundError
from daskgmm.inspection import store_record
from daskgmm.results import write_predictions

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, ROWS = 400, 3, 100
X = np.random.default_rng(0).normal(size=(N, D)) + np.repeat([[0.0], [9.0]], N // 2, axis=0)


def fit(data, scheduler="threads", **more):
    return GaussianMixture(2, random_state=0, max_iter=3, tol=0, scheduler=scheduler).fit(data, **more)


@pytest.fixture(scope="module")
def model():
    return fit(X)


def assert_reads(model, data):
    np.testing.assert_array_equal(fit(data).means_, model.means_)
    np.testing.assert_array_equal(model.predict(data).compute(), model.predict(X))


# ---- archives


def archive(folder, target, within=""):
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, os.path.join(within, path.relative_to(folder)))
    return target


@pytest.fixture
def zipped(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("a/b", data=X, chunks=(ROWS, D))
    group.create_array("c", data=X[:, 0] + 10, chunks=(ROWS,))
    return archive(tmp_path / "g.zarr", tmp_path / "g.zip")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_archive_by_its_path(zarr_format, model, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(ROWS, D), zarr_format=zarr_format)
    path = archive(tmp_path / "x.zarr", tmp_path / "x.zarr.zip")
    assert_reads(model, path)
    write_predictions(model, path, tmp_path / "out.zarr")
    assert store_record(str(path))["shape"] == [N, D]


def test_an_array_in_an_archive(model, zipped, tmp_path, capsys):
    assert_reads(model, f"{zipped}::a/b")
    weighted = fit(X, sample_weight=f"{zipped}::c")
    np.testing.assert_array_equal(weighted.means_, fit(X, sample_weight=X[:, 0] + 10).means_)
    assert main(["score", f"{zipped}::a/b", "--model", saved(model, tmp_path), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_rows"] == N


def test_the_address_of_an_archive_opens_it_again(model, zipped, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(ROWS, D))
    for address in (f"{zipped}::a/b", str(archive(tmp_path / "x.zarr", tmp_path / "x.zarr.zip"))):
        assert fit(address).origin_.data.address == str(resolve(address)) == address
        assert_reads(model, fit(address).origin_.data.address)


def saved(model, folder):
    model.save(folder / "m.zarr")
    return str(folder / "m.zarr")


@pytest.mark.slow
@pytest.mark.cluster
def test_whatever_is_read_is_read_by_worker_processes(model, zipped, tmp_path):
    h5py = pytest.importorskip("h5py")
    memory = zarr.create_array(zarr.storage.MemoryStore(), data=X, chunks=(ROWS, D))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(ROWS, 2))
        file.create_dataset("weights", data=X[:, 0] + 10)
    with (
        h5py.File(tmp_path / "x.h5") as file,
        h5py.File("memory", "w", driver="core", backing_store=False) as elsewhere,
        processes(tmp_path) as started,
        started.connect() as client,
    ):
        for data in (f"{zipped}::a/b", memory, file["x"]):
            fitted = fit(data, scheduler=client)
            np.testing.assert_array_equal(fitted.means_, model.means_)
            labels = fitted.predict(data).compute(scheduler=client)
            np.testing.assert_array_equal(labels, model.predict(X))
        score = fitted.score(file["x"], sample_weight=file["weights"])
        assert score == pytest.approx(model.score(X, sample_weight=X[:, 0] + 10), rel=1e-13)
        elsewhere["x"] = X
        with pytest.raises(StoreError, match="is in the memory of this process"):
            fit(elsewhere["x"], scheduler=client)


def test_a_relative_archive_is_found_from_elsewhere(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = zarr.open_array(zarr.storage.ZipStore("g.zip"), path="a/b", mode="r")
    handle = StoreSource(array).handle
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(handle[:10], X[:10])


def test_an_archive_of_a_folder(zipped, tmp_path):
    path = archive(tmp_path / "g.zarr", tmp_path / "h.zip", within="g.zarr")
    with pytest.raises(StoreError, match=r"h\.zip is not a Zarr.*below a folder g\.zarr"):
        fit(path)


def test_a_chunk_of_an_archive_that_would_fill_the_memory(zipped):
    def add(name):
        with zipfile.ZipFile(zipped, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, bytes(5 << 20))

    add("a/bb/c/4/0")  # of another array
    np.testing.assert_array_equal(fit(f"{zipped}::a/b").means_, fit(X).means_)
    add("a/b/c/4/0")
    with pytest.raises(StoreError, match=r"g\.zip/a/b/c/4/0 has 5242880 bytes, and chunks of this store take"):
        fit(f"{zipped}::a/b")


def test_a_damaged_archive(zipped):
    content = zipped.read_bytes()
    zipped.write_bytes(content[:100] + bytes(len(content) - 200) + content[-100:])
    with pytest.raises(StoreError, match=r"g\.zip"):
        fit(f"{zipped}::a/b")


# ---- chunks in directories that the metadata do not tell of


@pytest.mark.parametrize("missing", ["raise", "fill"])
def test_nested_chunks_without_a_separator(missing, tmp_path):

    path = tmp_path / "x.zarr"
    nested = {"name": "v2", "separator": "/"}
    zarr.create_array(path, data=X, chunks=(ROWS, 2), zarr_format=2, chunk_key_encoding=nested)
    metadata = json.loads((path / ".zarray").read_text())
    del metadata["dimension_separator"]
    (path / ".zarray").write_text(json.dumps(metadata))
    with (
        dask.config.set({"daskgmm.missing-chunks": missing}),
        pytest.raises(
            ChunkError, match=r"nothing under '0\.0', but a chunk under '0/0'.*dimension_separator"
        ) as caught,
    ):
        fit(path)
    assert caught.value.chunk == (0, 0)
    (path / ".zarray").write_text(json.dumps(metadata | {"dimension_separator": "/"}))
    np.testing.assert_array_equal(fit(path).means_, fit(X).means_)


# ---- consolidated metadata


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_rows_that_were_appended_after_metadata_were_consolidated(zarr_format, model, tmp_path):
    path = tmp_path / "g.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    rows = group.create_array("rows", data=X[:200], chunks=(ROWS, D))
    zarr.consolidate_metadata(path)
    opened = zarr.open_group(path, mode="r")["rows"]
    rows.append(X[200:])
    for data in (path, f"{path}::rows", path / "rows", zarr.open_group(path, mode="r")):
        assert_reads(model, data)
        assert model.score(data) == pytest.approx(model.score(X), rel=1e-13)
    assert store_record(str(path))["arrays"]["rows"]["shape"] == [N, D]
    for method in (fit, model.predict, model.predict_proba, model.score_samples):
        with pytest.raises(DataChangedError, match="opened through consolidated metadata"):
            method(opened)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_arrays_that_came_and_went_after_metadata_were_consolidated(model, tmp_path):
    path = tmp_path / "g.zarr"
    group = zarr.open_group(path, mode="w")
    group.create_array("old", data=X, chunks=(ROWS, D))
    zarr.consolidate_metadata(path)
    group.create_array("new", data=X, chunks=(ROWS, D))
    assert_reads(model, f"{path}::new")
    shutil.rmtree(path / "old")
    with pytest.raises(StoreError, match=r"consolidated metadata of .* name an array 'old', which is missing"):
        fit(path)


# ---- groups in groups


@pytest.fixture
def annotated(tmp_path):
    """A group as AnnData writes it, with a sparse X."""
    group = zarr.open_group(tmp_path / "ann.zarr", mode="w")
    group.create_array("obsm/X_pca", data=X, chunks=(ROWS, D))
    sparse = group.create_group("X", attributes={"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    sparse.create_array("data", data=X[:, 0])
    group.create_array("obs/batch/codes", data=np.zeros(N, "i1"))
    return tmp_path / "ann.zarr"


def test_arrays_in_groups_are_named(model, annotated):
    assert_reads(model, f"{annotated}::obsm/X_pca")
    message = r"\(obsm/X_pca, X/data, obs/batch/codes\)\. Say which one is meant, for example as path::obsm/X_pca"
    with pytest.raises(StoreError, match=message):
        fit(annotated)
    with pytest.raises(StoreError, match="has no array 'Y'; its arrays are: obsm/X_pca, X/data"):
        fit(f"{annotated}::Y")


def test_a_number_beside_the_rows_is_no_array_of_rows(model, tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("raw", data=np.array(3.0))
    group.create_array("X", data=X, chunks=(ROWS, D))
    assert_reads(model, tmp_path / "g.zarr")


def test_a_group_is_no_array(annotated):
    with pytest.raises(StoreError, match=r"'X': that is a group, a sparse matrix \(csr_matrix\)"):
        fit(f"{annotated}::X")
    with pytest.raises(StoreError, match="'obsm': that is a group; its arrays are: obsm/X_pca"):
        fit(f"{annotated}::obsm")


def test_arrays_of_rows_are_named_before_coordinates(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("band", data=np.arange(D))
    group.create_array("temperature", data=X)
    with pytest.raises(StoreError, match=r"2 arrays \(temperature, band\).*path::temperature"):
        fit(tmp_path / "g.zarr")


# ---- servers that list nothing


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def list_directory(self, path):
        self.send_error(403)


@pytest.fixture
def served(tmp_path):
    handler = functools.partial(Silent, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_server_that_lists_nothing(model, served, tmp_path):
    zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("a/rows", data=X, chunks=(ROWS, D))
    zarr.open_group(tmp_path / "c.zarr", mode="w").create_array("rows", data=X, chunks=(ROWS, D))
    zarr.consolidate_metadata(tmp_path / "c.zarr")
    zarr.create_array(tmp_path / "packed.zarr", data=X * 4, chunks=(ROWS, D), attributes={"scale_factor": 0.25})
    assert_reads(model, f"{served}/packed.zarr")
    for address in ("g.zarr/a/rows", "g.zarr::a/rows", "c.zarr", "c.zarr::rows"):
        np.testing.assert_array_equal(open_zarr(f"{served}/{address}")[:], X)
    with pytest.raises(StoreError, match=r"its storage does not list .*403.*path::array"):
        open_zarr(f"{served}/g.zarr")


# ---- addresses


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("x.npy", "numpy.load('{path}', mmap_mode='r')"),
        ("x.npz", "numpy.load('{path}')['name']"),
        ("x.csv", "dask.dataframe.read_csv('{path}')"),
        ("x.parquet", "dask.dataframe.read_parquet('{path}')"),
        ("x.feather", "pandas.read_feather('{path}')"),
        ("x.fits", "astropy.table.Table.read('{path}')"),
        ("x.xlsx", "pandas.read_excel('{path}')"),
        ("x.h5", "h5py.File('{path}')['name']"),
        ("x.h5ad", "h5py.File('{path}')['name']"),
        ("x.nc", "xarray.open_dataset('{path}', chunks={{}})['name']"),
    ],
)
def test_other_files_come_with_the_line_to_write(name, line, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"something else")
    for address in (str(path), f"{path}::x"):
        with pytest.raises(StoreError, match="is not a Zarr") as caught:
            open_zarr(address)
        assert line.format(path=path) in str(caught.value)
    fsspec.filesystem("memory").pipe_file(f"/{name}", b"something else")
    with pytest.raises((StoreError, StoreNotFoundError)) as caught:
        open_zarr(f"memory://{name}")
    assert line.format(path=f"memory://{name}") in str(caught.value)


def test_a_home_directory(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(ROWS, D))
    assert_reads(model, "~/x.zarr")
    write_predictions(model, "~/x.zarr", "~/out.zarr")
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "x.zarr"]


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("http://host/x.zarr", "'daskgmm[remote]'"),
        ("s3://bucket/x.zarr", "s3fs"),
        ("gs://bucket/x.zarr", "gcsfs"),
        ("abfs://bucket/x.zarr", "adlfs"),
        ("simplecache::gcs://bucket/x.zarr", "gcsfs"),
    ],
)
def test_the_package_of_a_file_system_is_named(url, package, model, monkeypatch):
    def missing(*arguments, **options):
        raise ImportError("Install something")

    monkeypatch.setattr(zarr, "open", missing)
    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    for method in (fit, model.save):
        with pytest.raises(StoreError) as caught:
            method(url)
        assert f"pip install {package}" in str(caught.value)


def test_several_paths(tmp_path):
    for paths in ([tmp_path / "a.zarr", tmp_path / "b.zarr"], ("a.zarr", "b.zarr")):
        with pytest.raises(TypeError, match=r"of 2 texts or paths; expected one .*dask\.array\.concatenate.*xarray"):
            fit(paths)
    with pytest.raises(StoreNotFoundError, match=r"nothing at .*\*\.zarr.*dask\.array\.concatenate"):
        fit(tmp_path / "*.zarr")


def test_an_archive_that_was_copied_in_part(tmp_path):
    store = zarr.storage.ZipStore(tmp_path / "x.zip", mode="w")
    zarr.create_array(store, data=np.zeros((10, 2)))
    store.close()
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="not a zip archive, or an incomplete one"):
        open_zarr(tmp_path / "x.zip")


@pytest.mark.parametrize("address", ["missing.zarr", "~/missing.zarr", "/missing.zarr", "file:///missing.zarr"])
def test_only_relative_paths_are_said_to_be_relative(address):
    with pytest.raises(StoreNotFoundError, match="Check the path") as caught:
        open_zarr(address)
    assert ("relative to" in str(caught.value)) == (address == "missing.zarr")
