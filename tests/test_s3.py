"""Rows, models and results in object stores, with s3fs and obstore, on a server of S3's protocol on this machine."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dask
import distributed
import numpy as np
import pytest
import zarr

import daskgmm
from daskgmm import GaussianMixture, open_zarr, write_predictions
from daskgmm.data.stored_rows import StoredRows
from daskgmm.errors import ModelFormatError, NonFiniteDataError, OutputError, OutputExistsError, StoreNotFoundError
from daskgmm.inspection import store_record

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
obstore = pytest.importorskip("obstore")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

KEY, SECRET = "AKIAs3cr3tKey", "s3cr3tS"
rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(c, 1.0, (4_000, 3)) for c in (-4.0, 4.0)])
rng.shuffle(X)
MODEL = GaussianMixture(2, random_state=0, tol=0.1).fit(X)


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def options(endpoint):
    return {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}


@pytest.fixture
def bucket(options):
    """Name of a new bucket with rows."""
    name = f"bucket-{os.urandom(4).hex()}"
    s3fs.S3FileSystem(**options).mkdir(name)
    zarr.create_array(f"s3://{name}/x.zarr", data=X, chunks=(1_000, 3), storage_options=options)
    return name


@pytest.fixture
def opened(endpoint, bucket):
    """A function that opens a place in the bucket with obstore."""

    def store(prefix):
        return zarr.storage.ObjectStore(
            obstore.store.S3Store(
                bucket,
                prefix=prefix,
                endpoint=endpoint,
                access_key_id=KEY,
                secret_access_key=SECRET,
                region="us-east-1",
                client_options={"allow_http": True},
                virtual_hosted_style_request=False,
            )
        )

    return store


def objects(bucket, options):
    """Bytes of all objects in a bucket, by their names."""
    files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    return {name: files.cat_file(name) for name in files.find(bucket)}


def test_urls_with_options(bucket, options):
    rows = open_zarr(f"s3://{bucket}/x.zarr", storage_options=options)
    model = GaussianMixture(2, random_state=0, tol=0.1).fit(rows)
    np.testing.assert_array_equal(model.means_, MODEL.means_)
    model.save(f"s3://{bucket}/m.zarr", storage_options=options)
    with pytest.raises(OutputExistsError, match=f"s3://{bucket}/m.zarr exists already, and only local stores"):
        model.save(f"s3://{bucket}/m.zarr", storage_options=options)
    loaded = daskgmm.load(f"s3://{bucket}/m.zarr", storage_options=options)
    write_predictions(loaded, rows, f"s3://{bucket}/labels.zarr", probabilities=True, storage_options=options)
    labels = zarr.open_group(f"s3://{bucket}/labels.zarr", mode="r", storage_options=options)["labels"]
    np.testing.assert_array_equal(labels[:], MODEL.predict(X))
    assert store_record(f"s3://{bucket}/labels.zarr", options)["kind"] == "results"
    for content in objects(bucket, options).values():
        assert KEY.encode() not in content
        assert SECRET.encode() not in content


def test_stores_of_obstore(bucket, options, opened):
    model = GaussianMixture(2, random_state=0, tol=0.1).fit(opened("x.zarr"))
    np.testing.assert_array_equal(model.means_, MODEL.means_)
    assert model.origin_.data.address == f"s3://{bucket}/x.zarr"
    model.save(opened("m.zarr"))
    with pytest.raises(OutputExistsError, match=f"s3://{bucket}/m.zarr is not empty"):
        model.save(opened("m.zarr"))
    np.testing.assert_array_equal(daskgmm.load(opened("m.zarr")).means_, MODEL.means_)
    write_predictions(model, opened("x.zarr"), opened("labels.zarr"))
    np.testing.assert_array_equal(zarr.open_group(opened("labels.zarr"))["labels"][:], MODEL.predict(X))
    for content in objects(bucket, options).values():
        assert SECRET.encode() not in content


def test_several_lazy_results_read_a_store_once(bucket, options, opened, monkeypatch):
    reads, read = [], StoredRows.__getitem__
    monkeypatch.setattr(StoredRows, "__getitem__", lambda self, rows: (reads.append(rows.start), read(self, rows))[1])
    for make in (lambda: opened("x.zarr"), lambda: open_zarr(f"s3://{bucket}/x.zarr", storage_options=options)):
        labels, density = dask.compute(MODEL.predict(make()), MODEL.score_samples(make()))
        assert sorted(reads) == list(range(0, len(X), 1_000))
        np.testing.assert_array_equal(labels, MODEL.predict(X))
        np.testing.assert_allclose(density, MODEL.score_samples(X), rtol=1e-12)
        reads.clear()


def test_a_failure_leaves_a_bucket_as_it_was(bucket, options, opened):
    before = objects(bucket, options)
    incomplete = X.copy()
    incomplete[-1] = np.nan
    with pytest.raises(NonFiniteDataError):
        write_predictions(MODEL, incomplete, f"s3://{bucket}/a.zarr", storage_options=options)
    with pytest.raises(NonFiniteDataError):
        write_predictions(MODEL, incomplete, opened("b.zarr"))
    assert objects(bucket, options) == before


def test_a_bucket_outlives_what_failed_in_it(endpoint, options):
    files = s3fs.S3FileSystem(**options)
    files.mkdir("empty")
    store = zarr.storage.FsspecStore.from_url("s3://empty", storage_options=options)
    with pytest.raises(NonFiniteDataError):
        write_predictions(MODEL, np.where(X[-1, -1] == X, np.nan, X), store)
    assert objects("empty", options) == {}
    MODEL.save(store)
    assert daskgmm.load("s3://empty", storage_options=options).n_components == 2


@pytest.mark.parametrize("kind", ["s3fs", "obstore"])
def test_one_of_several_writers_wins(kind, bucket, options, opened, monkeypatch):
    """None of them finds anything: the storage decides."""
    monkeypatch.setattr("daskgmm.data.store_outputs.StoreOutput.check_free", lambda self: None)

    def save(_):
        try:
            if kind == "s3fs":
                MODEL.save(f"s3://{bucket}/m.zarr", storage_options=options)
            else:
                MODEL.save(opened("m.zarr"))
        except OutputExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(save, range(4))) == [False, False, False, True]
    assert daskgmm.load(opened("m.zarr")).n_components == 2


def test_errors_of_the_storage_are_typed_and_tell_no_secret(bucket, options):
    url = f"s3://{bucket}/x.zarr"
    cases = {
        (StoreNotFoundError, "no Zarr array or group at s3://"): (f"s3://{bucket}/none.zarr", options),
        (ModelFormatError, "Forbidden.*Check that it can be reached"): (url, {**options, "anon": True}),
        (ModelFormatError, "Check that it can be reached"): (url, {**options, "endpoint_url": "http://127.0.0.1:1"}),
    }
    for (error, message), (address, given) in cases.items():
        with pytest.raises(error, match=f"(?s){message}") as caught:
            daskgmm.load(address, storage_options=given)
        assert SECRET not in str(caught.value)
    with pytest.raises(OutputError, match=r"bucket does not exist.*Check that it can be reached"):
        MODEL.save("s3://there-is-none/m.zarr", storage_options=options)


def test_the_terminal_takes_options_and_the_environment(bucket, options, tmp_path):
    fit = ["fit", f"s3://{bucket}/x.zarr", "-k", "2", "--quiet", "--json"]
    given = ["--storage-options", json.dumps(options)]
    configured = {"FSSPEC_S3_KEY": KEY, "FSSPEC_S3_SECRET": SECRET, "FSSPEC_S3_ENDPOINT_URL": options["endpoint_url"]}
    for name, arguments, environment in (("m", given, {}), ("n", [], configured)):
        done = subprocess.run(
            [sys.executable, "-m", "daskgmm", *fit, "--model", f"s3://{bucket}/{name}.zarr", *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert daskgmm.load(f"s3://{bucket}/{name}.zarr", storage_options=options).n_components == 2


@pytest.mark.cluster
def test_worker_processes_open_the_store_with_its_options(bucket, options, opened):
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster) as client,
    ):
        for rows in (open_zarr(f"s3://{bucket}/x.zarr", storage_options=options), opened("x.zarr")):
            model = GaussianMixture(2, random_state=0, tol=0.1).fit(rows)
            np.testing.assert_array_equal(model.means_, MODEL.means_)
            np.testing.assert_array_equal(model.predict(rows).compute(), MODEL.predict(X))
        write_predictions(model, rows, f"s3://{bucket}/a.zarr", storage_options=options)
        write_predictions(model, rows, opened("b.zarr"))
        logs = repr(client.get_worker_logs()) + repr(client.get_scheduler_logs())
        keys = repr(client.get_task_stream()) + repr(client.who_has())
    assert SECRET not in logs + keys
    for name in ("a.zarr", "b.zarr"):
        np.testing.assert_array_equal(zarr.open_group(opened(name))["labels"][:], MODEL.predict(X))
