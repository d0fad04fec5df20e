"""Open stores and options of file systems, wherever an address is taken: as data, weights, models and outputs."""

import json
import os
import pickle

import distributed
import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore, ZipStore

import daskgmm
from daskgmm import GaussianMixture, open_zarr, write_predictions
from daskgmm.cli import main
from daskgmm.data.store_outputs import StoreOutput
from daskgmm.data.write import new_store, record
from daskgmm.errors import (
    ModelFormatError,
    NonFiniteDataError,
    OutputError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from daskgmm.estimators.accepted_data import accept_data
from daskgmm.inspection import store_record
from daskgmm.results import write_samples

rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(c, 1.0, (2_000, 2)) for c in (0.0, 8.0)])
rng.shuffle(X)
MODEL = GaussianMixture(2, random_state=0, tol=0.1).fit(X)


class OtherStore(Store):
    """A store of another library: with what Zarr requires, and nothing more."""

    supports_writes = supports_deletes = supports_listing = True

    def __init__(self):
        super().__init__()
        self.kept = {}

    def __eq__(self, other):
        return self is other

    async def get(self, key, prototype=None, byte_range=None):
        return self.kept.get(key)

    async def get_partial_values(self, prototype, key_ranges):
        raise NotImplementedError

    async def exists(self, key):
        return key in self.kept

    async def set(self, key, value):
        self.kept[key] = value

    async def delete(self, key):
        self.kept.pop(key, None)

    async def list(self):
        for key in list(self.kept):
            yield key

    async def list_prefix(self, prefix):
        for key in list(self.kept):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix):
        below = f"{prefix}/".lstrip("/")
        for name in {key.removeprefix(below).split("/")[0] for key in self.kept if key.startswith(below)}:
            yield name


def obstore_store(kind, *arguments, **named):
    return getattr(pytest.importorskip("obstore.store"), kind)(*arguments, **named)


def new_name():
    return os.urandom(8).hex()


STORES = {
    "LocalStore": lambda folder: LocalStore(folder / "s.zarr"),
    "LocalStore, a directory": lambda folder: LocalStore(folder),
    "MemoryStore": lambda folder: MemoryStore(),
    "FsspecStore": lambda folder: FsspecStore.from_url(f"memory://stores-{new_name()}/s.zarr"),
    "mapper": lambda folder: fsspec.get_mapper(f"memory://stores-{new_name()}/s.zarr"),
    "mapper of files": lambda folder: fsspec.get_mapper(str(folder / "mapped.zarr")),
    "ObjectStore": lambda folder: ObjectStore(obstore_store("MemoryStore")),
    "obstore's own": lambda folder: obstore_store("MemoryStore"),
    "ObjectStore of files": lambda folder: ObjectStore(obstore_store("LocalStore", folder / "objects", mkdir=True)),
    "Group": lambda folder: zarr.open_group(MemoryStore()).create_group("models/first"),
    "Group of files": lambda folder: zarr.open_group(folder / "g.zarr").create_group("models/first"),
    "StorePath": lambda folder: StorePath(MemoryStore(), "models/first"),
    "StorePath of files": lambda folder: StorePath(LocalStore(folder), "first"),
    "WrapperStore": lambda folder: WrapperStore(MemoryStore()),
    "another class": lambda folder: OtherStore(),
}


VARIANTS = {
    "LocalStore, a directory",
    "FsspecStore",
    "mapper of files",
    "obstore's own",
    "ObjectStore of files",
    "Group of files",
    "StorePath",
    "WrapperStore",
}
"""Stores that are like another one in most respects."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name in VARIANTS else []) for name in STORES])
def store(request, tmp_path):
    return STORES[request.param](tmp_path)


def place(store):
    """Store and name inside of it, where a test looks for what was written."""
    if isinstance(store, zarr.Group):
        return store.store_path
    if type(store).__module__ == "obstore.store":
        store = ObjectStore(store)
    if isinstance(store, fsspec.FSMap):
        is_local = "file" in store.fs.protocol  # Zarr makes no directories there
        return StorePath(LocalStore(store.root) if is_local else FsspecStore.from_mapper(store))
    return store if isinstance(store, StorePath) else StorePath(store)


def contents(store):
    """Bytes below a place, by their names."""
    where = place(store)

    async def everything():
        below = f"{where.path}/".lstrip("/")
        names = [key async for key in where.store.list_prefix(below)]
        buffers = [await where.store.get(key, zarr.core.buffer.default_buffer_prototype()) for key in names]
        return {key.removeprefix(below): buffer.to_bytes() for key, buffer in zip(names, buffers, strict=True)}

    return sync(everything())


def put_rows(store, rows=X, name=""):
    """Write rows into a store, as an array at its root or of a name."""
    return zarr.create_array(place(store) / name, data=rows, chunks=(1_000, 2))


def array_store(store):
    """Put an array where a group was made, too."""
    where = place(store)
    sync(where.store.delete_dir(where.path))
    put_rows(store)
    return where


# ---- data


def test_rows_come_from_any_store(store):
    where = array_store(store)
    data = where if isinstance(store, zarr.Group) else store
    model = GaussianMixture(2, random_state=0, tol=0.1).fit(data)
    np.testing.assert_array_equal(model.means_, MODEL.means_)
    np.testing.assert_array_equal(model.predict(data).compute(), MODEL.predict(X))
    assert open_zarr(data).shape == X.shape
    assert store_record(data)["shape"] == list(X.shape)


def test_arrays_of_groups_in_stores():
    store = MemoryStore()
    put_rows(store, name="a/x")
    zarr.create_array(StorePath(store, "y"), data=X[:, 0])
    zarr.create_array(StorePath(store, "z"), data=X[:, 0])
    zarr.open_group(store)
    with pytest.raises(StoreError, match=r"is a group with 2 arrays .*y, z"):
        GaussianMixture(2).fit(store)
    with pytest.raises(StoreNotFoundError, match=r"sample_weight: .*/nothing"):
        GaussianMixture(2).fit(StorePath(store, "a"), sample_weight=StorePath(store, "nothing"))
    for data in (open_zarr(store, "a/x"), zarr.open_group(store)["a"], StorePath(store, "a")):
        np.testing.assert_array_equal(GaussianMixture(2, random_state=0, tol=0.1).fit(data).means_, MODEL.means_)


def test_weights_and_selections_of_stores():
    rows, weights = MemoryStore(), MemoryStore()
    put_rows(rows)
    zarr.create_array(weights, data=np.linspace(0, 1, len(X)), chunks=(1_000,))
    expected = MODEL.score(X, sample_weight=np.linspace(0, 1, len(X)))
    assert MODEL.score(rows, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    found = daskgmm.select(rows, [1, 2], estimator=GaussianMixture(random_state=0, tol=0.1), sample_weight=weights)
    assert found.best == (2, "full")


def test_a_store_without_rows_is_an_error_that_names_it():
    with pytest.raises(StoreNotFoundError, match="no Zarr array or group at memory://"):
        GaussianMixture(2).fit(MemoryStore())
    with pytest.raises(StoreNotFoundError, match=r"sample_weight: .*OtherStore"):
        GaussianMixture(2).fit(X, sample_weight=OtherStore())


# ---- models and results


def test_models_are_written_into_any_store(store):
    before = contents(store)
    MODEL.save(store)
    loaded = daskgmm.load(store)
    np.testing.assert_array_equal(loaded.predict(X), MODEL.predict(X))
    saved = contents(store)
    with pytest.raises(OutputExistsError, match=r"exists already|is not empty"):
        MODEL.save(store)
    assert contents(store) == saved
    assert before.keys() <= {"zarr.json"}
    document = json.loads(saved["zarr.json"])
    assert list(document["attributes"]) == ["daskgmm"]
    assert store_record(store)["n_components"] == 2


def test_results_and_samples_are_written_into_any_store(store, tmp_path):
    shapes = write_predictions(MODEL, X, store, probabilities=True, log_density=True)
    assert shapes == {"labels": (4_000,), "probabilities": (4_000, 2), "log_density": (4_000,)}
    group = zarr.open_group(place(store), mode="r")
    np.testing.assert_array_equal(group["labels"][:], MODEL.predict(X))
    np.testing.assert_array_equal(group["probabilities"][:], MODEL.predict_proba(X))
    assert store_record(store)["kind"] == "results"
    with pytest.raises(OutputExistsError):
        write_samples(MODEL, 10, store)


def test_samples_are_written_into_a_store():
    store = MemoryStore()
    write_samples(MODEL.set_params(random_state=3), 100, store)
    np.testing.assert_array_equal(zarr.open_group(store)["rows"][:], MODEL.sample(100)[0])
    MODEL.set_params(random_state=0)


def test_a_failure_leaves_a_store_as_it_was(store):
    if isinstance(store, zarr.Group):
        store.attrs["owner"] = "me"
    before = contents(store)
    incomplete = X.copy()
    incomplete[-1] = np.nan
    with pytest.raises(NonFiniteDataError):
        write_predictions(MODEL, incomplete, store)
    assert contents(store) == before
    MODEL.save(store)  # nothing is in the way
    assert len(contents(store)) > 1


@pytest.mark.parametrize("kind", ["Group", "Group of files"])
def test_attributes_of_a_group_are_kept(kind, tmp_path):
    group = STORES[kind](tmp_path)
    group.attrs["owner"] = "me"
    MODEL.save(group)
    written = zarr.open_group(group.store_path, mode="r")
    assert written.attrs["owner"] == "me"
    assert written.attrs["daskgmm"]["format"] == "model"
    np.testing.assert_array_equal(daskgmm.load(written).means_, MODEL.means_)


def test_one_writer_at_a_time(store):
    with new_store(store, record("results", number=1)) as group:
        group.create_array("a", data=np.arange(3))
        with pytest.raises(OutputExistsError, match=r"exists already|is not empty|being written"):
            MODEL.save(store)
    found = zarr.open_group(place(store), mode="r")
    assert found.attrs["daskgmm"]["number"] == 1
    np.testing.assert_array_equal(found["a"][:], np.arange(3))


def test_a_writer_that_came_while_another_looked_is_left_alone(store, monkeypatch):
    """Both have looked, and the place was free."""
    with new_store(store, record("results", number=1)) as group:
        group.create_array("a", data=np.arange(3))
        before = contents(store)
        monkeypatch.setattr(StoreOutput, "check_free", lambda self: None)
        if "a/zarr.json" in before:  # what has a path is written beside it
            with pytest.raises(OutputExistsError, match="another run is writing it"):
                MODEL.save(store)
            assert contents(store) == before


def test_what_a_killed_writer_left_is_named():
    store = MemoryStore()
    with new_store(store, record("results")):
        left = contents(store)["zarr.json"]
    sync(store.set("zarr.json", zarr.core.buffer.cpu.Buffer.from_bytes(left)))
    with pytest.raises(OutputExistsError, match="another run is writing it, or a run that was killed"):
        MODEL.save(store)


def filled(folder):
    group = zarr.open_group(MemoryStore())
    group.create_array("a", data=np.arange(3))
    return group


REFUSED = {
    "archive": (lambda folder: ZipStore(folder / "x.zip", mode="w"), OutputError, "ZipStore cannot remove"),
    "reading only": (lambda folder: MemoryStore(read_only=True), OutputError, "opened for reading only"),
    "reading only, files": (lambda folder: LocalStore(folder, read_only=True), OutputError, "opened for reading only"),
    "not empty": (filled, OutputExistsError, r"not empty.*group\.create_group\('model'\)"),
    "format 2": (lambda folder: zarr.open_group(MemoryStore(), zarr_format=2), OutputExistsError, "not empty"),
    "format 2, files": (lambda folder: zarr.open_group(folder / "g", zarr_format=2), OutputExistsError, "exists"),
    "array": (lambda folder: array_store(MemoryStore()), OutputExistsError, "not empty"),
    "array itself": (
        lambda folder: put_rows(MemoryStore()),
        TypeError,
        "path is of type Array; expected a path, a URL",
    ),
    "number": (lambda folder: 3, TypeError, "path is of type int; expected a path, a URL, a zarr Store"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_places_that_are_refused(case, tmp_path):
    make, error, message = REFUSED[case]
    output = make(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(error, match=message):
            MODEL.save(output, overwrite=overwrite)


def test_a_local_store_is_replaced_as_its_path_is(tmp_path):
    MODEL.save(LocalStore(tmp_path / "m.zarr"))
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        MODEL.save(LocalStore(tmp_path / "m.zarr"))
    MODEL.save(LocalStore(tmp_path / "m.zarr"), overwrite=True)
    assert os.listdir(tmp_path) == ["m.zarr"]


# ---- versioned stores


def test_sessions_of_icechunk():
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    root = zarr.open_group(session.store)
    put_rows(root, name="x")
    incomplete = X.copy()
    incomplete[-1] = np.nan
    failed = root.create_group("failed")
    with pytest.raises(NonFiniteDataError):
        write_predictions(MODEL, incomplete, failed)
    assert list(failed.keys()) == []
    MODEL.save(root.create_group("model"))
    write_predictions(MODEL, root["x"], root.create_group("results"))
    session.commit("rows, model and results")
    stored = zarr.open_group(repository.readonly_session("main").store, mode="r")
    np.testing.assert_array_equal(daskgmm.load(stored["model"]).predict(stored["x"]), MODEL.predict(X))
    np.testing.assert_array_equal(stored["results/labels"][:], MODEL.predict(X))
    with pytest.raises(OutputError, match="opened for reading only"):
        MODEL.save(stored)


# ---- stores and other processes


class Copied(OtherStore):
    """Travels as a copy, as a session of a versioned store does."""

    def __getstate__(self):
        return self.__dict__ | {"kept": dict(self.kept)}


class Rooted(OtherStore):
    def __reduce__(self):
        raise ValueError("this session does not travel")


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (MemoryStore, "worker processes do not write into this MemoryStore.*scheduler='threads'"),
        (Rooted, "a Rooted does not travel .*this session does not travel.*scheduler='threads'"),
        (Copied, "chunks of .*Copied/labels did not arrive: worker processes do not write into this Copied"),
    ],
)
def test_results_that_would_be_written_into_copies(kind, message, client, tmp_path):
    rows, output = put_rows(LocalStore(tmp_path / "x.zarr")), kind()
    model = daskgmm.GaussianMixture(2, random_state=0, tol=0.1).fit(X).set_params(scheduler=client)
    with pytest.raises(OutputError, match=message):
        write_predictions(model, rows, output)
    assert contents(output) == {}


def test_a_store_that_worker_processes_do_not_see(tmp_path):
    """A worker process has a memory:// of its own."""
    from daskgmm.data.row_arrays import RowWriter

    store = FsspecStore.from_url(f"memory://stores-{new_name()}/s.zarr")
    array = zarr.create_array(store, name="labels", shape=(4,), dtype="i8")
    writer = pickle.loads(pickle.dumps(RowWriter((array,))))
    rows = accept_data(GaussianMixture(2), put_rows(store, name="x"), reset=True).rows
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    with pytest.raises(StoreError, match=r"does not see the store.*scheduler='threads'"):
        writer.write(0, [np.ones(4)])
    with pytest.raises(StoreNotFoundError, match="memory:// belongs to one process"):
        rows.handle[0:5]


# ---- options of file systems


class Guarded(MemoryFileSystem):
    """A file system that opens for those who know the word."""

    protocol = "guarded"
    cachable = False

    def __init__(self, word=None, **options):
        if word != WORD:
            raise PermissionError(f"{word!r} is not the word")
        super().__init__(word=word, **options)


WORD = "s3cr3tW0rd"
OPTIONS = {"word": WORD}


@pytest.fixture
def guarded(monkeypatch):
    """URL of a folder that needs the option ``word``."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    zarr.create_array("guarded://data/x.zarr", data=X, chunks=(1_000, 2), storage_options=OPTIONS)
    return "guarded://data"


def test_options_in_python(guarded):
    rows = open_zarr(f"{guarded}/x.zarr", storage_options=OPTIONS)
    model = GaussianMixture(2, random_state=0, tol=0.1).fit(rows)
    np.testing.assert_array_equal(model.means_, MODEL.means_)
    model.save(f"{guarded}/m.zarr", storage_options=OPTIONS)
    loaded = daskgmm.load(f"{guarded}/m.zarr", storage_options=OPTIONS)
    np.testing.assert_array_equal(loaded.predict(rows).compute(), MODEL.predict(X))
    write_predictions(loaded, rows, f"{guarded}/labels.zarr", storage_options=OPTIONS)
    write_samples(loaded, 10, f"{guarded}/drawn.zarr", storage_options=OPTIONS)
    assert store_record(f"{guarded}/labels.zarr", OPTIONS)["kind"] == "results"
    assert store_record(f"{guarded}/m.zarr", OPTIONS)["n_components"] == 2
    assert store_record(f"{guarded}/drawn.zarr::rows", OPTIONS)["shape"] == [10, 2]
    assert not any(WORD.encode() in file.getvalue() for file in MemoryFileSystem.store.values())


def test_rows_travel_with_their_options(guarded):
    rows = open_zarr(f"{guarded}/x.zarr", storage_options=OPTIONS)
    handle = pickle.loads(pickle.dumps(accept_data(GaussianMixture(2), rows, reset=True).rows.handle))
    np.testing.assert_array_equal(handle[0:5], X[:5])


CALLS = {
    "open_zarr": lambda url, options: open_zarr(f"{url}/x.zarr", storage_options=options),
    "load": lambda url, options: daskgmm.load(f"{url}/m.zarr", storage_options=options),
    "save": lambda url, options: MODEL.save(f"{url}/n.zarr", storage_options=options),
    "predictions": lambda url, options: write_predictions(MODEL, X, f"{url}/n.zarr", storage_options=options),
    "samples": lambda url, options: write_samples(MODEL, 3, f"{url}/n.zarr", storage_options=options),
    "inspect": lambda url, options: store_record(f"{url}/x.zarr", options),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_options_are_an_error_that_hides_them(call, guarded):
    with pytest.raises((ValueError, OSError), match="is not the word") as caught:
        CALLS[call](guarded, {"word": "0therW0rd"})
    assert "0therW0rd" not in str(caught.value)
    for options in (WORD, [WORD], {3: WORD}):
        with pytest.raises(TypeError, match=r"storage_options is a (str|list|dict with .*); expected a dict") as caught:
            CALLS[call](guarded, options)
        assert WORD not in str(caught.value)


def test_options_of_an_open_store_are_its_own(guarded):
    for call in (
        lambda: open_zarr(MemoryStore(), storage_options=OPTIONS),
        lambda: MODEL.save(MemoryStore(), storage_options=OPTIONS),
        lambda: daskgmm.load(MemoryStore(), storage_options=OPTIONS),
    ):
        with pytest.raises(ValueError, match=r"an open store .*: it has its own options") as caught:
            call()
        assert WORD not in str(caught.value)


def test_options_have_no_effect_on_local_paths(tmp_path):
    MODEL.save(tmp_path / "m.zarr", storage_options=OPTIONS)
    assert daskgmm.load(f"file://{tmp_path}/m.zarr", storage_options=OPTIONS).n_components == 2


def test_options_in_fsspecs_configuration(guarded, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "guarded", OPTIONS)
    GaussianMixture(2, tol=0.1).fit(f"{guarded}/x.zarr").save(f"{guarded}/m.zarr")
    assert daskgmm.load(f"{guarded}/m.zarr").n_components == 2
    monkeypatch.setitem(fsspec.config.conf, "guarded", {"word": "0therW0rd"})
    with pytest.raises(ModelFormatError, match="is not the word") as caught:
        daskgmm.load(f"{guarded}/m.zarr")
    assert "0therW0rd" not in str(caught.value)


COMMANDS = (
    "fit URL/x.zarr -k 2 --tol 0.1 --random-state 0 --model URL/m.zarr --quiet",
    "fit URL/x.zarr --warm-start URL/m.zarr --means-init URL/means.zarr --plan",
    "select URL/x.zarr -k 1:2 --tol 0.1 --model URL/best.zarr --quiet",
    "predict URL/x.zarr --model URL/m.zarr --output URL/labels.zarr --quiet",
    "score URL/x.zarr --model URL/m.zarr --quiet",
    "sample URL/m.zarr -n 10 --output URL/drawn.zarr",
    "inspect URL/m.zarr",
)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--storage-options", json.dumps(OPTIONS)], id="JSON"),
        pytest.param([f"--storage-options=word={WORD}"], id="KEY", marks=pytest.mark.slow),
    ],
)
def test_options_in_the_terminal(options, guarded, capsys):
    zarr.create_array(f"{guarded}/means.zarr", data=MODEL.means_, storage_options=OPTIONS)
    for command in COMMANDS:
        assert main([*command.replace("URL", guarded).split(), *options]) == 0, command
    assert main(["inspect", f"{guarded}/m.zarr", "--storage-options", "word=0therW0rd"]) == 1
    out, err = capsys.readouterr()
    assert "is not the word" in err
    assert WORD not in out + err
    assert "0therW0rd" not in out + err


@pytest.mark.parametrize("value", ["[1, 2]", "s3cr3tS", "{broken", "a b=s3cr3tS"])
def test_options_in_the_terminal_that_are_none(value, capsys):
    assert main(["inspect", "x.zarr", "--storage-options", value]) == 2
    err = capsys.readouterr().err
    assert "expected a JSON object such as" in err
    assert value not in err


def test_values_of_options_in_the_terminal_are_json_or_texts(guarded, capsys):
    options = ["--storage-options", '{"word": "wrong", "skip_instance_cache": true}', "--storage-options"]
    assert main(["inspect", f"{guarded}/x.zarr", *options, f'word="{WORD}"']) == 0


# ---- checkpoints


@pytest.mark.parametrize("make", [LocalStore, lambda path: MemoryStore(), lambda path: "s3://bucket/run.zarr"])
def test_checkpoints_are_on_file_systems(make, tmp_path):
    with pytest.raises((TypeError, ValueError), match="because a checkpoint needs renames in one step and locks"):
        GaussianMixture(2).fit(X, checkpoint=make(tmp_path / "c"))
    assert os.listdir(tmp_path) == []
