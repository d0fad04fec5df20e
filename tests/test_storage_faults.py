"""What storage does wrong is told: which store, which chunk, which rows. Every fault here is a real one."""

import errno
import functools
import http.server
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from programs import small_files
from zarr.storage import LocalStore

from daskgmm import GaussianMixture, load, open_zarr
from daskgmm.cli import main
from daskgmm.data import output_locks, retry, write
from daskgmm.data.output_locks import hidden
from daskgmm.data.store_outputs import StoreOutput
from daskgmm.data.write import new_store, record
from daskgmm.errors import (
    ChunkError,
    DataChangedError,
    MissingChunkError,
    OutputError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from daskgmm.events import BatchFinished, IterationFinished, PassStarted
from daskgmm.results import write_predictions

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(120),
]

N, D, ROWS = 600, 3, 100  # rows, features, rows of a chunk or shard
BAD = 4  # number of the chunk that is not as it should be
X = np.random.default_rng(0).normal(size=(N, D)) + np.repeat([[0.0], [9.0]], N // 2, axis=0)
FILLED = np.where(np.arange(N)[:, None] // ROWS == BAD, 0, X)
CRC = zarr.codecs.Crc32cCodec()

LAYOUTS = {
    "zstd": {"compressors": zarr.codecs.ZstdCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4")},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "plain": {"compressors": None},
    "crc32c": {"compressors": [zarr.codecs.ZstdCodec(), CRC]},
    "shards": {"chunks": (ROWS // 4, D), "shards": (ROWS, D)},
    "shards, crc32c": {"chunks": (ROWS // 4, D), "shards": (ROWS, D), "compressors": [zarr.codecs.ZstdCodec(), CRC]},
    "format 2": {"zarr_format": 2},
    "format 2, plain": {"zarr_format": 2, "compressors": None},
}


def stored(path, x=X, **layout):
    array = zarr.create_array(path, shape=x.shape, dtype=x.dtype, **{"chunks": (ROWS, *x.shape[1:]), **layout})
    array[...] = x
    return path


def file_of(path, chunk=BAD, zarr_format=3):
    return path / (f"{chunk}.0" if zarr_format == 2 else f"c/{chunk}/0")


def mixture(**parameters):
    return GaussianMixture(2, **{"random_state": 0, "scheduler": "synchronous", "tol": 0, "max_iter": 3} | parameters)


@pytest.fixture(scope="module")
def fitted():
    return mixture().fit(X)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.002)


METHODS = {
    "fit": lambda model, data, folder: mixture().fit(data),
    "fit, threads": lambda model, data, folder: mixture(scheduler="threads").fit(data),
    "predict": lambda model, data, folder: model.predict(data).compute(scheduler="synchronous"),
    "score": lambda model, data, folder: model.score(data),
    "write": lambda model, data, folder: write_predictions(model, data, folder / "out.zarr"),
}
READERS = pytest.mark.parametrize("method", METHODS)


def refused(kind, method, model, data, folder, match=None):
    """The error, and nothing is left beside what was there before."""
    before = set(os.listdir(folder))
    with pytest.raises(kind, match=match) as caught:
        METHODS[method](model, data, folder)
    assert set(os.listdir(folder)) == before
    return caught.value


def assert_names(error, path, chunk, rows):
    assert type(error).__module__ == "daskgmm.errors"
    assert (error.store, error.chunk, error.rows) == (f"file://{path}", chunk, rows)
    assert str(path) in str(error)
    assert f"{chunk}" in str(error)
    assert f"Rows {rows[0]} to {rows[1]} " in str(error)


# ---- damaged chunks


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def turned(file):
    """One bit."""
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)


def trimmed(file):
    file.write_bytes(file.read_bytes()[:-10])


DAMAGED = [(layout, damage) for layout in LAYOUTS for damage in (cut, trimmed, emptied)]
DAMAGED += [(layout, turned) for layout in LAYOUTS if "crc32c" in layout]  # nothing else tells one bit from another


@READERS
@pytest.mark.parametrize(("layout", "damage"), DAMAGED)
def test_a_damaged_chunk_is_named(layout, damage, method, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", **LAYOUTS[layout])
    damage(file_of(path, zarr_format=LAYOUTS[layout].get("zarr_format", 3)))
    error = refused(ChunkError, method, fitted, path, tmp_path, "The store is damaged or was changed|there is nothing")
    # An empty shard is nothing, of another one it is a chunk that cannot be read.
    rows = LAYOUTS[layout].get("chunks", (ROWS,))[0] if type(error) is ChunkError else ROWS
    assert_names(error, path, (BAD * ROWS // rows, 0), (BAD * ROWS, BAD * ROWS + rows))


def test_a_chunk_that_ends_within_its_header_is_named(fitted, tmp_path):
    """What is left of it is as long as it says."""
    path = stored(tmp_path / "x.zarr", **LAYOUTS["blosc"])
    file_of(path).write_bytes(bytes(12) + b"\x0d")
    error = refused(ChunkError, "fit", fitted, path, tmp_path, "a Blosc chunk of 13 bytes declares a length of 13")
    assert_names(error, path, (BAD, 0), (400, 500))


def test_a_chunk_in_a_row_of_chunks_is_named(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", chunks=(ROWS, 2))
    cut(path / "c" / "5" / "1")
    assert_names(refused(ChunkError, "fit", fitted, path, tmp_path), path, (5, 1), (500, 600))


def test_an_unreadable_file_is_named(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    file_of(path).unlink()
    os.symlink(file_of(path), file_of(path))  # a link to itself: root can read everything else
    error = refused(ChunkError, "fit", fitted, path, tmp_path, "The storage failed")
    assert_names(error, path, (BAD, 0), (400, 500))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    file_of(path).chmod(0)
    assert_names(refused(ChunkError, "fit", fitted, path, tmp_path, "PermissionError"), path, (BAD, 0), (400, 500))


# ---- missing chunks


@READERS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_chunk_is_named(layout, method, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", **LAYOUTS[layout])
    file_of(path, zarr_format=LAYOUTS[layout].get("zarr_format", 3)).unlink()
    error = refused(MissingChunkError, method, fitted, path, tmp_path, "missing-chunks")
    assert_names(error, path, (BAD, 0), (400, 500))


@READERS
@pytest.mark.parametrize("layout", ["zstd", "shards", "format 2"])
def test_missing_chunks_may_be_fill_values(layout, method, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", FILLED, **LAYOUTS[layout])
    assert not file_of(path, zarr_format=LAYOUTS[layout].get("zarr_format", 3)).exists()  # as Zarr does by default
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        result = METHODS[method](fitted, path, tmp_path)
    expected = METHODS[method](fitted, FILLED, tmp_path) if method not in ("predict", "write") else None
    if method == "score":
        assert result == pytest.approx(expected, rel=1e-13)
    elif method == "predict":
        np.testing.assert_array_equal(result, fitted.predict(FILLED))
    elif method == "write":
        labels = zarr.open_array(tmp_path / "out.zarr", path="labels", mode="r")
        np.testing.assert_array_equal(labels[:], fitted.predict(FILLED))
    else:
        np.testing.assert_array_equal(result.means_, expected.means_)


@pytest.mark.parametrize("layout", ["zstd", "shards", "format 2"])
def test_fill_values_that_are_stored_are_rows_like_others(layout, tmp_path):
    path = stored(tmp_path / "x.zarr", FILLED, **LAYOUTS[layout], config={"write_empty_chunks": True})
    np.testing.assert_array_equal(mixture().fit(path).means_, mixture().fit(FILLED).means_)


@pytest.mark.parametrize("fill_value", [7.5, np.nan, -np.inf])
def test_missing_chunks_of_any_fill_value(fill_value, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", fill_value=fill_value)
    file_of(path).unlink()
    refused(MissingChunkError, "fit", fitted, path, tmp_path, re.escape(f"the fill value {fill_value}"))


def test_missing_chunks_of_integers_without_a_fill_value(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", X.astype("<i2"), zarr_format=2, fill_value=None)
    file_of(path, zarr_format=2).unlink()
    assert_names(refused(MissingChunkError, "fit", fitted, path, tmp_path), path, (BAD, 0), (400, 500))


def test_the_last_chunk_and_a_chunk_of_some_columns(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", X[:550], chunks=(ROWS, 2))
    (path / "c" / "5" / "1").unlink()
    assert_names(refused(MissingChunkError, "fit", fitted, path, tmp_path), path, (5, 1), (500, 550))


@pytest.mark.parametrize("method", ["fit", "score"])
def test_missing_weights(method, fitted, tmp_path):
    weights = stored(tmp_path / "w.zarr", np.arange(1.0, N + 1))
    (weights / "c" / f"{BAD}").unlink()
    function = mixture().fit if method == "fit" else fitted.score
    with pytest.raises(MissingChunkError) as caught:
        function(X, sample_weight=zarr.open_array(weights))
    assert_names(caught.value, weights, (BAD,), (400, 500))
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        function(X, sample_weight=zarr.open_array(weights))


def test_a_missing_chunk_in_the_terminal(fitted, tmp_path, capsys):
    path = stored(tmp_path / "x.zarr", FILLED)
    fitted.save(tmp_path / "m.zarr")
    for command in (
        ["fit", str(path), "-k", "2", "--max-iter", "2", "--model", str(tmp_path / "new.zarr"), "--quiet"],
        ["score", str(path), "--model", str(tmp_path / "m.zarr"), "--quiet"],
        ["predict", str(path), "--model", str(tmp_path / "m.zarr"), "--output", str(tmp_path / "o.zarr"), "--quiet"],
    ):
        assert main(command) == 1
        assert "--missing-chunks fill" in capsys.readouterr().err
        assert main([*command, "--missing-chunks", "fill"]) == 0
    assert dask.config.get("daskgmm.missing-chunks") == "raise"
    assert main(["score", str(path), "--model", "m", "--missing-chunks", "guess"]) == 2


@pytest.mark.parametrize(
    ("key", "value"), [("missing-chunks", "maybe"), ("read-retries", -1), ("read-retries", "2"), ("read-retries", True)]
)
def test_settings_without_meaning(key, value, tmp_path):
    path = stored(tmp_path / "x.zarr")
    with (
        dask.config.set({f"daskgmm.{key}": value}),
        pytest.raises(ValueError, match=f"daskgmm.{key} is {value!r}; expected"),
    ):
        mixture().fit(path)


# ---- what changes while it is read


def during(kind, action):
    """A callback that acts once, at the first event of that kind."""
    waiting = [action]
    return lambda event: waiting.pop()() if isinstance(event, kind) and waiting else None


@pytest.mark.parametrize("missing", ["raise", "fill"])
@pytest.mark.parametrize("how", [shutil.rmtree, lambda path: os.rename(path, f"{path}.moved")])
def test_a_store_that_disappears_during_the_fit(how, missing, tmp_path):
    path = stored(tmp_path / "x.zarr")
    with dask.config.set({"daskgmm.missing-chunks": missing}), pytest.raises(StoreNotFoundError) as caught:
        mixture(cache=None, callbacks=[during(IterationFinished, lambda: how(path))]).fit(path)
    assert re.search(r"x\.zarr is gone: .*chunk \(0, 0\), rows 0 to 100", str(caught.value))


def test_a_store_that_disappears_in_parts(tmp_path):
    """Of a chunk that is damaged, too, its absence is the reason."""
    path = stored(tmp_path / "x.zarr")

    def remove():
        cut(file_of(path))
        (path / "zarr.json").unlink()

    with pytest.raises(StoreNotFoundError, match=r"x\.zarr is gone: .*chunk \(4, 0\), rows 400 to 500"):
        mixture(cache=None, callbacks=[during(IterationFinished, remove)]).fit(path)


@pytest.mark.parametrize("damage", [cut, os.unlink])
def test_a_chunk_that_changes_during_the_fit(damage, tmp_path):
    path = stored(tmp_path / "x.zarr")
    with pytest.raises(ChunkError) as caught:
        mixture(cache=None, callbacks=[during(IterationFinished, lambda: damage(file_of(path)))]).fit(path)
    assert_names(caught.value, path, (BAD, 0), (400, 500))


CHANGES = {
    "shape": lambda path: zarr.open_array(path).resize((N + 50, D)),
    "data_type": lambda path: replace_in(path / "zarr.json", '"float64"', '"int64"'),
    "codecs": lambda path: replace_in(path / "zarr.json", '"little"', '"big"'),
}


def replace_in(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("field", CHANGES)
def test_metadata_that_change_during_the_fit(field, tmp_path):
    path = stored(tmp_path / "x.zarr")
    with pytest.raises(DataChangedError, match=rf"x\.zarr was changed while it was read: .* differ in {field}[, ]"):
        mixture(callbacks=[during(IterationFinished, lambda: CHANGES[field](path))]).fit(path)


def test_metadata_that_change_in_the_last_pass_are_told(tmp_path):
    path = stored(tmp_path / "x.zarr", zarr_format=2)
    shorter = during(BatchFinished, lambda: zarr.open_array(path).resize((N - ROWS, D)))
    with pytest.raises((DataChangedError, ChunkError), match=r"x\.zarr"):
        mixture(max_iter=0, callbacks=[shorter]).fit(path)


def test_metadata_that_change_while_results_are_written(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    change = during(PassStarted, lambda: CHANGES["codecs"](path))
    with pytest.raises(DataChangedError, match=r"x\.zarr was changed"):
        write_predictions(fitted, path, tmp_path / "out.zarr", callbacks=[change])
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_metadata_that_break_during_the_fit(tmp_path):
    path = stored(tmp_path / "x.zarr")
    with pytest.raises(StoreError, match=r"metadata of .*x\.zarr cannot be read"):
        mixture(callbacks=[during(IterationFinished, lambda: cut(path / "zarr.json"))]).fit(path)


def test_attributes_may_change_during_the_fit(tmp_path):
    path = stored(tmp_path / "x.zarr")

    def annotate():
        zarr.open_array(path).attrs["seen"] = "yes"

    fitted = mixture(callbacks=[during(IterationFinished, annotate)]).fit(path)
    np.testing.assert_array_equal(fitted.means_, mixture().fit(X).means_)


def test_a_mapped_file_that_becomes_shorter_during_the_fit(tmp_path):
    """Reading it would kill the process."""
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.raises(DataChangedError, match=r"x\.npy has 500 bytes, and .* became shorter"):
        mixture(callbacks=[during(IterationFinished, lambda: os.truncate(tmp_path / "x.npy", 500))]).fit(mapped)


# ---- reads that fail, and may work later


class Unreliable(LocalStore):
    """Chunks come only after some attempts."""

    def __init__(self, root, *, failures=0, error=None, chunk=f"c/{BAD}/0", read_only=True):
        super().__init__(root, read_only=read_only)
        self.failures, self.error, self.chunk, self.requests = failures, error, chunk, Counter()

    async def get(self, key, prototype=None, byte_range=None):
        self.requests[key] += 1
        if key == self.chunk and self.failures:
            self.failures -= 1
            raise self.error
        return await super().get(key, prototype, byte_range)


PASSING = [
    OSError(errno.EIO, "input/output error"),
    OSError("no number"),
    TimeoutError("too late"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_read_that_fails_twice_and_then_works(error, tmp_path, caplog):
    store = Unreliable(stored(tmp_path / "x.zarr"), failures=2, error=error)
    with caplog.at_level(logging.WARNING, "daskgmm"):
        fitted = mixture().fit(zarr.open_array(store, mode="r"))
    np.testing.assert_array_equal(fitted.means_, mixture().fit(X).means_)
    told = [entry.getMessage() for entry in caplog.records if entry.name == "daskgmm"]
    assert [re.search(r"attempt (\d) of 5 failed", line)[1] for line in told] == ["1", "2"]
    assert all("x.zarr" in line and type(error).__name__ in line for line in told)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_read_that_always_fails_ends(retries, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    store = Unreliable(path, failures=10**6, error=OSError(errno.EIO, "worn out"))
    with dask.config.set({"daskgmm.read-retries": retries}):
        error = refused(ChunkError, "fit", fitted, zarr.open_array(store, mode="r"), tmp_path, "read-retries")
    assert_names(error, path, (BAD, 0), (400, 500))
    assert store.requests[store.chunk] == retries + 2  # the last one to learn which chunk it is


def test_a_read_that_never_works_is_not_tried_again(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    store = Unreliable(path, failures=10**6, error=PermissionError(errno.EACCES, "not yours"))
    error = refused(ChunkError, "fit", fitted, zarr.open_array(store, mode="r"), tmp_path, "not yours")
    assert_names(error, path, (BAD, 0), (400, 500))
    assert store.requests[store.chunk] == 2


@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc"])
def test_a_damaged_chunk_is_read_once_more_and_not_again(codec, fitted, tmp_path):
    path = stored(tmp_path / "x.zarr", **LAYOUTS[codec])
    file_of(path).write_bytes(b"\0" * 500)  # gzip raises an OSError for it
    store = Unreliable(path)
    refused(ChunkError, "fit", fitted, zarr.open_array(store, mode="r"), tmp_path, "damaged")
    assert store.requests[store.chunk] == 2


def test_damaged_bz2_is_not_taken_for_a_failing_disk(fitted, tmp_path):
    import numcodecs

    path = stored(tmp_path / "x.zarr", zarr_format=2, compressors=numcodecs.BZ2())
    file_of(path, zarr_format=2).write_bytes(b"\0" * 500)
    store = Unreliable(path, chunk=f"{BAD}.0")
    refused(ChunkError, "fit", fitted, zarr.open_array(store, mode="r"), tmp_path, "OSError.*damaged")
    assert store.requests[store.chunk] == 2


class Noisy(Unreliable):
    """One chunk comes in part when it is asked for first."""

    async def get(self, key, prototype=None, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        first = key == self.chunk and self.requests[key] == 1
        return prototype.buffer.from_bytes(found.to_bytes()[:50]) if first else found


def test_a_chunk_that_was_damaged_on_its_way_is_read_again(tmp_path):
    store = Noisy(stored(tmp_path / "x.zarr"))
    np.testing.assert_array_equal(mixture().fit(zarr.open_array(store, mode="r")).means_, mixture().fit(X).means_)


def test_a_chunk_that_is_missing_beside_a_damaged_one_is_told(fitted, tmp_path):
    path = stored(tmp_path / "x.zarr")
    file_of(path, BAD - 1).unlink()
    with pytest.raises(MissingChunkError) as caught:
        fitted.score(zarr.open_array(Noisy(path), mode="r"))  # in one pass: the next would find it in any case
    assert caught.value.chunk == (BAD - 1, 0)


def test_waits_grow_and_have_an_end(monkeypatch):
    monkeypatch.undo()
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retry.time, "sleep", sleep)
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])

    def fail():
        raise TimeoutError

    firsts = set()
    for _ in range(5):
        assert retry.retried(fail, lambda attempts: f"gave up after {attempts}", 4, "rows") == "gave up after 5"
        for wait, longest in zip(waits, [0.2, 0.8, 3.2, 10.0], strict=True):
            assert longest / 2 <= wait <= longest
        firsts.add(waits[0])
        waits.clear()
    assert len(firsts) == 5  # by chance: a thousand tasks do not come back at one time
    retry.retried(fail, lambda attempts: None, 10**6, "rows")
    assert 40 < sum(waits) <= retry.LONGEST_TIME
    assert max(waits) <= retry.LONGEST_WAIT


# ---- a server


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and fails as it is told to."""

    def __init__(self, folder):
        self.faults = {}
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, path):
        kind, left = self.faults.get(path, (None, 0))
        self.faults[path] = (kind, left - 1)
        return kind if left > 0 else None


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        fault = self.server.next_fault(self.path)
        if fault is None:
            super().do_GET()
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
        else:
            self.send_error(fault)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    stored(tmp_path / "x.zarr")
    with Server(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def through_fsspec(server):
    pytest.importorskip("aiohttp")
    return open_zarr(f"{server.url}/x.zarr")


def through_obstore(server):
    obstore = pytest.importorskip("obstore")
    options = {"retry_config": {"max_retries": 0}, "client_options": {"allow_http": True}}
    return zarr.open_array(
        zarr.storage.ObjectStore(obstore.store.HTTPStore(f"{server.url}/x.zarr", **options), read_only=True), mode="r"
    )


REMOTE = pytest.mark.parametrize("through", [through_fsspec, through_obstore])
CHUNK = f"/x.zarr/c/{BAD}/0"


@REMOTE
@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_a_server_that_fails_twice_and_then_answers(fault, through, server):
    array = through(server)
    server.faults[CHUNK] = (fault, 2)
    np.testing.assert_array_equal(mixture().fit(array).means_, mixture().fit(X).means_)
    assert server.faults[CHUNK][1] < 0


@REMOTE
@pytest.mark.parametrize(
    ("fault", "kind", "requests"), [(503, ChunkError, 6), ("cut", ChunkError, 6), (403, ChunkError, 2)]
)
def test_a_server_that_always_fails(fault, kind, requests, through, server, fitted, tmp_path):
    array = through(server)
    server.faults[CHUNK] = (fault, 10**6)
    error = refused(kind, "fit", fitted, array, tmp_path)
    assert (error.chunk, error.rows) == ((BAD, 0), (400, 500))
    assert "x.zarr" in error.store
    assert 10**6 - server.faults[CHUNK][1] == requests


@REMOTE
def test_a_chunk_that_the_server_does_not_have(through, server, fitted, tmp_path):
    array = through(server)
    file_of(tmp_path / "x.zarr").unlink()
    error = refused(MissingChunkError, "fit", fitted, array, tmp_path)
    assert (error.chunk, error.rows) == ((BAD, 0), (400, 500))


@REMOTE
def test_a_server_that_does_not_say_whether_a_chunk_is_there(through, server, fitted, tmp_path):
    """No answer is not "no": the chunk is looked for again."""
    array = through(server)
    stored(tmp_path / "x.zarr", FILLED, overwrite=True, config={"write_empty_chunks": True})
    server.faults[CHUNK] = (503, 1)
    first = mixture().fit(array)
    np.testing.assert_array_equal(first.means_, mixture().fit(FILLED).means_)


@REMOTE
def test_a_server_that_goes_away_during_the_fit(through, server):
    array = through(server)

    def stop():
        server.shutdown()
        server.socket.close()

    with pytest.raises(StoreError, match=r"x\.zarr"):
        mixture(callbacks=[during(IterationFinished, stop)]).fit(array)


def test_errors_keep_secrets(server, tmp_path, caplog):
    pytest.importorskip("aiohttp")
    array = open_zarr(f"{server.url.replace('//', '//me:hush@')}/x.zarr")
    server.faults[CHUNK] = (503, 10**6)
    telling = OSError(errno.EIO, "no answer from https://me:hush@there/x.zarr?token=hush")
    local = zarr.open_array(Unreliable(tmp_path / "x.zarr", failures=10**6, error=telling), mode="r")
    for data in (array, local):
        with caplog.at_level(logging.WARNING, "daskgmm"), pytest.raises(ChunkError) as caught:
            mixture().fit(data)
        assert "hush" not in str(caught.value)
    assert "x.zarr" in caplog.text
    assert "hush" not in caplog.text


# ---- outputs: a full disk


LONG = np.random.default_rng(1).normal(size=(40_000, D))  # whose probabilities are longer than their metadata


def write_all(model, output, x=LONG, **more):
    return write_predictions(model, da.from_array(x, chunks=(20_000, D)), output, probabilities=True, **more)


def assert_predictions(output, model, x):
    group = zarr.open_group(output, mode="r")
    assert group.attrs["daskgmm"]["format"] == "results"
    np.testing.assert_array_equal(group["labels"][:], model.predict(x))
    np.testing.assert_allclose(group["probabilities"][:], model.predict_proba(x), rtol=1e-12)


@pytest.mark.parametrize("most", [20_000, 100, 0])  # for chunks of labels; for metadata; for anything
def test_a_full_disk_leaves_the_results_that_were_there(most, fitted, tmp_path):
    write_all(fitted, tmp_path / "out.zarr")
    other = mixture(random_state=1, max_iter=1).fit(X)
    with small_files(most), pytest.raises(OutputError, match=r"out\.zarr.* cannot be written .*[Mm]ake room") as caught:
        write_all(other, tmp_path / "out.zarr", overwrite=True)
    assert isinstance(caught.value, OSError)
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert_predictions(tmp_path / "out.zarr", fitted, LONG)
    write_all(other, tmp_path / "out.zarr", overwrite=True)
    assert_predictions(tmp_path / "out.zarr", other, LONG)


def test_a_full_disk_names_array_and_rows(fitted, tmp_path):
    with small_files(20_000), pytest.raises(OutputError, match=r"Rows \d+ to \d+ of .*out.* cannot be written"):
        write_all(fitted, tmp_path / "out.zarr")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("most", [150, 0])
def test_a_full_disk_leaves_the_model_that_was_there(most, fitted, tmp_path):
    fitted.save(tmp_path / "m.zarr")
    other = mixture(random_state=1, max_iter=1).fit(X)
    with small_files(most), pytest.raises(OutputError, match=r"m\.zarr cannot be written"):
        other.save(tmp_path / "m.zarr", overwrite=True)
    assert os.listdir(tmp_path) == ["m.zarr"]
    np.testing.assert_array_equal(load(tmp_path / "m.zarr").means_, fitted.means_)


def test_a_full_disk_in_the_terminal(fitted, tmp_path, capsys):
    path = stored(tmp_path / "x.zarr")
    fitted.save(tmp_path / "m.zarr")
    with small_files(100):
        assert main(["predict", str(path), "--model", str(tmp_path / "m.zarr"), "--output", str(tmp_path / "o")]) == 1
    assert "Make room" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["m.zarr", "x.zarr"]


ON_A_SMALL_DISK = """
import os, sys
import numpy as np, dask.array as da
from daskgmm import GaussianMixture, load
from daskgmm.errors import OutputError
from daskgmm.results import write_predictions

x = np.random.default_rng(0).normal(size=(200_000, 2))
model = GaussianMixture(2, max_iter=0, random_state=0, scheduler="synchronous")
import warnings; warnings.simplefilter("ignore")
model.fit(x[:1000])
model.save("m.zarr")
rows = da.from_array(x, chunks=(50_000, 2))
write_predictions(model, rows[:1000], "out.zarr", log_density=True)
before = {name: open(os.path.join(name, "zarr.json")).read() for name in ("m.zarr", "out.zarr")}
try:
    write_predictions(model, rows, "out.zarr", log_density=True, overwrite=True)
except OutputError as error:
    print("told:", error)
with open("filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
try:
    model.save("m.zarr", overwrite=True)
except OutputError as error:
    print("told:", error)
os.remove("filler")
load("m.zarr")
print(sorted(os.listdir(".")), before == {name: open(os.path.join(name, "zarr.json")).read() for name in before})
"""


@pytest.mark.slow
def test_a_disk_that_is_full(tmp_path):
    """Of one megabyte, mounted for this process alone."""
    script = tmp_path / "script.py"
    script.write_text(ON_A_SMALL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=1m none {disk} && cd {disk} &&"
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*alone, f"{mounted} true"], capture_output=True).returncode:
        pytest.skip("a process may not mount a file system here; see the tests with a limit on files")
    run = subprocess.run(
        [*alone, f"{mounted} {sys.executable} {script}"], capture_output=True, text=True, timeout=100, check=True
    )
    lines = run.stdout.splitlines()
    assert [bool(re.match("told: .*No space left on device.*Make room", line)) for line in lines[:2]] == [True, True]
    assert lines[2] == "['m.zarr', 'out.zarr'] True"


# ---- outputs: one writer


def test_whoever_comes_second_is_told(fitted, tmp_path):
    for overwrite in (False, True):
        with new_store(tmp_path / "m.zarr", record("model"), overwrite=overwrite) as group:
            group.create_array("a", data=np.arange(3))
            for second in (False, True):
                with (
                    pytest.raises(OutputExistsError, match=r"m\.zarr (is being written|exists already)"),
                    new_store(tmp_path / "m.zarr", record("model"), overwrite=second),
                ):
                    raise AssertionError("two writers")
            with pytest.raises(OutputExistsError, match="being written by another run"):
                fitted.save(tmp_path / "m.zarr", overwrite=True)
        assert os.listdir(tmp_path) == ["m.zarr"]
        assert zarr.open_group(tmp_path / "m.zarr", mode="r")["a"].shape == (3,)


def test_many_who_come_at_the_same_time(tmp_path):
    """Whoever got it writes the whole of it, and everybody else is told."""
    start, results = threading.Barrier(8), []

    def write(number):
        start.wait()
        try:
            with new_store(tmp_path / "m.zarr", record("model", number=number)) as group:
                for name in "abc":
                    group.create_array(name, data=np.full(5, number))
            results.append(number)
        except OutputExistsError:
            results.append(None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in results if number is not None]
    assert len(results) == 8
    assert os.listdir(tmp_path) == ["m.zarr"]
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    assert group.attrs["daskgmm"]["number"] == winner
    assert all((array[:] == winner).all() for _, array in group.arrays())


def test_a_name_that_is_being_claimed_is_not_taken_for_what_a_dead_writer_left(tmp_path, monkeypatch):
    """Between the making of a directory and its lock."""
    made, progress, go_on = threading.Event(), threading.Event(), threading.Event()
    mkdir = os.mkdir

    def make_and_pause(path, *arguments):
        mkdir(path, *arguments)
        if not made.is_set():
            made.set()
            assert go_on.wait(60)

    def claim_second():
        try:
            with output_locks.claimed(str(tmp_path / "m.zarr")):
                pass
        except OutputExistsError as error:
            told.append(error)
        finally:
            progress.set()

    def claim_first():
        with output_locks.claimed(str(tmp_path / "m.zarr")) as growing:
            made_first.append(os.path.isdir(growing))
            second.join()

    told, made_first = [], []
    monkeypatch.setattr(output_locks.os, "mkdir", make_and_pause)
    monkeypatch.setattr(output_locks.time, "sleep", lambda seconds: progress.set())  # whoever sleeps waits for its turn
    first, second = threading.Thread(target=claim_first), threading.Thread(target=claim_second)
    first.start()
    assert made.wait(60)
    second.start()
    assert progress.wait(60)
    go_on.set()
    first.join()
    assert made_first == [True]
    assert len(told) == 1


def test_what_is_being_replaced_is_not_taken_for_what_a_dead_writer_left(tmp_path, monkeypatch):
    """Between the two renames by which a new output takes the place of the old one."""
    path = tmp_path / "m.zarr"
    with new_store(path, record("model", number=1)):
        pass
    rename, told = os.rename, []

    def rename_and_let_another_come(old, new):
        rename(old, new)
        if str(new).endswith(".replaced"):
            with pytest.raises(OutputExistsError, match="by another run") as caught, output_locks.claimed(str(path)):
                pass
            told.append(caught.value)

    list_names = os.listdir
    monkeypatch.setattr(output_locks.os, "rename", rename_and_let_another_come)
    monkeypatch.setattr(
        output_locks.os, "listdir", lambda folder: sorted(list_names(folder), key=lambda n: n[-1:] != "d")
    )
    with new_store(path, record("model", number=2), overwrite=True):
        pass
    assert len(told) == 1
    assert zarr.open_group(path).attrs["daskgmm"]["number"] == 2
    assert list_names(tmp_path) == ["m.zarr"]


def test_a_rename_that_fails_leaves_the_old_output(tmp_path, monkeypatch):
    path, rename = tmp_path / "m.zarr", os.rename
    with new_store(path, record("model", number=1)):
        pass

    def fail(old, new):
        if str(old).endswith(".partial") and str(new) == str(path):
            raise OSError(errno.EIO, "input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail)
    with (
        pytest.raises(OSError, match="input/output error"),
        new_store(path, record("model", number=2), overwrite=True),
    ):
        pass
    assert zarr.open_group(path).attrs["daskgmm"]["number"] == 1
    assert os.listdir(tmp_path) == ["m.zarr"]


def test_what_appears_before_a_name_is_claimed_is_not_replaced(tmp_path, monkeypatch):
    path, claimed = tmp_path / "m.zarr", write.claimed

    def claimed_late(name):
        path.mkdir()
        (path / "theirs").write_text("x")
        return claimed(name)

    monkeypatch.setattr(write, "claimed", claimed_late)
    with pytest.raises(OutputExistsError, match="not a model"), new_store(path, record("model"), overwrite=True):
        pass
    assert (path / "theirs").read_text() == "x"
    assert os.listdir(tmp_path) == ["m.zarr"]


def test_without_locks_the_first_to_finish_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(output_locks, "fcntl", None)  # as on file systems and systems that have none
    with (
        pytest.raises(OutputExistsError, match="exists already"),
        new_store(tmp_path / "m.zarr", record("model", number=1)),
        new_store(tmp_path / "m.zarr", record("model", number=2)),
    ):
        pass
    assert os.listdir(tmp_path) == ["m.zarr"]
    assert zarr.open_group(tmp_path / "m.zarr").attrs["daskgmm"]["number"] == 2


def test_in_an_object_store_a_failure_leaves_nothing():
    url = f"memory://claims-{os.urandom(8).hex()}/m.zarr"
    with pytest.raises(ValueError, match="a"), new_store(url, record("model")) as group:
        group.create_array("a", data=np.arange(3)).resize((-1, 2, 3))
    with new_store(url, record("model")) as group:  # the name is free, and nothing is in the way
        assert list(group.keys()) == []


def test_in_an_object_store_the_first_writer_wins():
    url = f"memory://claims-{os.urandom(8).hex()}/m.zarr"
    with new_store(url, record("model", number=1)) as group:
        group.create_array("a", data=np.arange(3))
        with pytest.raises(OutputExistsError, match="exists already"), new_store(url, record("model", number=2)):
            raise AssertionError("two writers")
    found = zarr.open_group(url, mode="r")
    assert found.attrs["daskgmm"]["number"] == 1
    assert found["a"].shape == (3,)


def test_in_an_object_store_those_who_come_at_the_same_time_do_not_remove_the_winners(monkeypatch):
    """Both have looked, and nothing was there."""
    url = f"memory://claims-{os.urandom(8).hex()}/m.zarr"
    monkeypatch.setattr(StoreOutput, "check_free", lambda self: None)
    with new_store(url, record("model", number=1)) as group:
        group.create_array("a", data=np.arange(3))
        with pytest.raises(OutputExistsError), new_store(url, record("model", number=2)):
            raise AssertionError("two writers")
    assert zarr.open_group(url, mode="r")["a"].shape == (3,)


def test_names_of_unfinished_outputs_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(3):
        with new_store(tmp_path / "m.zarr", record("model"), overwrite=True) as group:
            group.create_array("a", data=np.arange(3))
            new = set(os.listdir(tmp_path)) - {"m.zarr"}
            assert all(re.fullmatch(r"\.m\.zarr\.[0-9a-f]{16}\.partial", name) for name in new)
            names |= new
    assert len(names) == 3


WRITER = """
import os, sys
import numpy as np, dask.array as da
from daskgmm import load
from daskgmm.results import write_predictions

def slow(block, block_info=None):
    if block_info and block_info[0]["chunk-location"][0] == 1:
        print("writing", flush=True)
        sys.stdin.readline()
    return block

rows = np.load("x.npy")
model = load("m.zarr").set_params(scheduler="synchronous")
data = da.from_array(rows, chunks=(20_000, 3)).map_blocks(slow, dtype=float, meta=rows[:0])
write_predictions(model, data, "out.zarr", probabilities=True, overwrite=len(sys.argv) > 1)
print("written", flush=True)
"""


@contextmanager
def writer(folder, model, *arguments):
    """Another process, in the middle of writing."""
    np.save(folder / "x.npy", LONG)
    model.save(folder / "m.zarr", overwrite=True)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_that_write_one_output(fitted, tmp_path):
    with writer(tmp_path, fitted) as process:
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match=r"out\.zarr is being written by another run"):
                write_all(fitted, tmp_path / "out.zarr", overwrite=overwrite)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
    assert sorted(os.listdir(tmp_path)) == ["m.zarr", "out.zarr", "x.npy"]
    assert_predictions(tmp_path / "out.zarr", fitted, LONG)


@pytest.mark.cluster
def test_a_writer_that_is_killed(fitted, tmp_path):
    other = mixture(random_state=1, max_iter=1).fit(X)
    write_all(other, tmp_path / "out.zarr")
    with writer(tmp_path, fitted, "overwrite") as process:
        process.kill()
        process.wait()
        left = [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
        assert len(left) == 1
        assert_predictions(tmp_path / "out.zarr", other, LONG)
        with pytest.raises(OutputExistsError, match="exists already"):
            write_all(fitted, tmp_path / "out.zarr")
        write_all(fitted, tmp_path / "out.zarr", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["m.zarr", "out.zarr", "x.npy"]
    assert_predictions(tmp_path / "out.zarr", fitted, LONG)


def test_a_writer_that_was_killed_between_two_renames(fitted, tmp_path):
    """The old output comes back."""
    path = tmp_path / "m.zarr"
    fitted.save(path)
    os.rename(path, hidden(str(path), "replaced"))
    shutil.copytree(next(tmp_path.iterdir()), hidden(str(path), "partial"))
    with pytest.raises(OutputExistsError, match="exists already"):
        fitted.save(path)
    assert os.listdir(tmp_path) == ["m.zarr"]
    np.testing.assert_array_equal(load(path).means_, fitted.means_)


def test_what_others_left_stays(fitted, tmp_path):
    """Hidden directories of other outputs, files, and links to somewhere else."""
    os.mkdir(tmp_path / "elsewhere")
    for name in (".m.zarr.partial", ".x.zarr.0123456789abcdef.partial", ".am.zarr.0123456789abcdef.partial"):
        os.mkdir(tmp_path / name)
    os.symlink(tmp_path / "elsewhere", tmp_path / ".m.zarr.0123456789abcdef.partial")
    before = set(os.listdir(tmp_path))
    fitted.save(tmp_path / "m.zarr")
    assert set(os.listdir(tmp_path)) == before | {"m.zarr"}


# ---- several fits at a time


FIT = """
import sys, warnings
from daskgmm import GaussianMixture
warnings.simplefilter("ignore")
model = GaussianMixture(2, random_state=0, tol=0, max_iter=3, scheduler=sys.argv[1]).fit(sys.argv[2])
print(model.means_.tobytes().hex(), model.lower_bound_.hex())
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_fits_of_one_store_on_one_cluster_do_not_disturb_each_other(tmp_path):
    distributed = pytest.importorskip("distributed")
    path = stored(tmp_path / "x.zarr", FILLED)
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        alone = mixture().fit(path)
    stored(path, FILLED, overwrite=True, config={"write_empty_chunks": True})
    with ExitStack() as stack:
        # Two tasks at a time in one process, and a driver in another one: whatever fits could share, they do here.
        cluster = stack.enter_context(
            distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0")
        )
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        process = subprocess.Popen(
            [sys.executable, "-c", FIT, cluster.scheduler_address, str(path)], stdout=subprocess.PIPE, text=True
        )
        models = [mixture(scheduler=client, random_state=0) for _ in range(3)]
        threads = [threading.Thread(target=model.fit, args=(path,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = process.communicate(timeout=100)[0].split()
        # What is configured here is not configured there: it travels with the data.
        file_of(path).unlink()
        with pytest.raises(MissingChunkError) as caught:
            mixture(scheduler=client).fit(path)
        assert_names(caught.value, path, (BAD, 0), (400, 500))
        with dask.config.set({"daskgmm.missing-chunks": "fill"}):
            models.append(mixture(scheduler=client).fit(path))
    for model in models:
        np.testing.assert_array_equal(model.means_, alone.means_)
        assert model.lower_bounds_ == alone.lower_bounds_
    assert told == [alone.means_.tobytes().hex(), float(alone.lower_bound_).hex()]
