"""Stores that somebody has made to do harm, or that were damaged as badly: no hang, no large allocation, a typed error.

Every table maps a name to a function that makes the thing in a folder and returns its address, and to what is read.
"""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numcodecs.pickles
import numpy as np
import pytest
import zarr
from hostile import D, N, X, edit_json, fit, good_store, refuse

from daskgmm import BayesianGaussianMixture, GaussianMixture, load, open_zarr
from daskgmm.cli import main
from daskgmm.data.store_checks import MOST_METADATA, check_extent
from daskgmm.diagnostics.summary import print_record
from daskgmm.errors import (
    ChunkError,
    MissingChunkError,
    ModelFormatError,
    NonFiniteDataError,
    StoreError,
    StoreNotFoundError,
    UnsupportedDataError,
)
from daskgmm.inspection import store_record

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component of a Zarr hierarchy"),
    pytest.mark.timeout(60),
]


@pytest.fixture(scope="module")
def model():
    return fit()


METHODS = {
    "fit": lambda model, address: fit(address),
    "predict": lambda model, address: model.predict(address).compute(scheduler="synchronous"),
    "score": lambda model, address: model.score(address),
    "plan": lambda model, address: model.plan(address),
    "weights": lambda model, address: model.score(X, sample_weight=address),
}
READERS = ["fit", "predict", "score"]


def declare(**metadata):
    return lambda folder: edit_json(good_store(folder), lambda m: m.update(metadata))


SHARDED = {"chunks": (10, D), "shards": (20, D)}


def chunked(*chunks, shape=(N, D), **layout):
    def change(metadata):
        metadata["shape"] = list(shape)
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(chunks)

    return lambda folder: edit_json(good_store(folder, **layout), change)


# ---- sizes that are declared

# Which of them it is depends on the version of Zarr.
HOLLOW = r"declares chunks of (0 × 3|20 × 0) numbers, which are empty|cannot be opened as Zarr"

SIZES = {
    "1e15 rows": (declare(shape=[10**15, D]), UnsupportedDataError, "declares 10{15} rows; expected 1e.13 at most"),
    "2**70 rows": (declare(shape=[2**70, D]), UnsupportedDataError, "declares 1180591620717411303424 rows"),
    "1e15 rows in chunks of one": (chunked(1, D, shape=(10**15, D)), UnsupportedDataError, "declares 10{15} rows"),
    "1e11 rows": (declare(shape=[10**11, D]), StoreError, "in 5000000000 chunks, of which 4 at most are there"),
    "1e12 rows in large chunks": (chunked(10**5, D, shape=(10**12, D)), StoreError, "in 10000000 chunks, of which 4"),
    "a chunk of 1e12 rows": (chunked(10**12, D), StoreError, "cannot be read .*reshape"),
    "a chunk of 1e12 columns": (chunked(20, 10**12), StoreError, "cannot be read .*reshape"),
    "chunks of no rows": (chunked(0, D), StoreError, HOLLOW),
    "chunks of no columns": (chunked(20, 0), StoreError, HOLLOW),
    "chunks of no": (chunked(False, D), StoreError, HOLLOW),
    "shards of no rows": (chunked(0, D, **SHARDED), StoreError, HOLLOW),
    "shards of no": (chunked(False, D, **SHARDED), StoreError, HOLLOW),
    "negative chunks": (chunked(-20, D), StoreError, "cannot be opened as Zarr"),
    "half a row": (chunked(20.5, D), StoreError, "cannot be opened as Zarr"),
    "half a shape": (declare(shape=[60.5, D]), StoreError, "cannot be opened as Zarr .*integers"),
    "NaN rows": (declare(shape=[float("nan"), D]), StoreError, "cannot be opened as Zarr"),
    "infinitely many rows": (declare(shape=[float("inf"), D]), StoreError, "cannot be opened as Zarr"),
    "rows as text": (declare(shape=["60", "3"]), StoreError, "cannot be opened as Zarr"),
    "no shape": (declare(shape=None), StoreError, "cannot be opened as Zarr"),
    "a shape that is an object": (declare(shape={"rows": 60}), StoreError, "cannot be opened as Zarr"),
    "a thousand dimensions": (chunked(*[1] * 1000, shape=[1] * 1000), ValueError, "expected 2D array, got 1000D"),
    "NaN where chunks are missing": (
        lambda folder: without_chunks(declare(fill_value="NaN")(folder)),
        (MissingChunkError, NonFiniteDataError),
        "missing|NaN",
    ),
    "more rows than chunks": (declare(shape=[4 * N, D]), MissingChunkError, "are missing"),
}


def without_chunks(path):
    shutil.rmtree(path / "c")
    return path


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_are_declared(size, method, model, tmp_path):
    make, error, message = SIZES[size]
    refuse(error, message, METHODS[method], model, make(tmp_path))


@pytest.mark.parametrize("size", ["1e15 rows", "2**70 rows", "1e11 rows"])
def test_a_plan_and_weights_do_not_believe_them_either(size, model, tmp_path):
    make, error, message = SIZES[size]
    path = make(tmp_path)
    refuse(error, message, METHODS["plan"], model, path)
    refuse(ValueError, "one dimension", METHODS["weights"], model, path)


def small_store(folder, name, values):
    zarr.create_array(Path(folder) / f"{name}.zarr", data=values, chunks=(1, *values.shape[1:]))
    return Path(folder) / f"{name}.zarr"


GIVEN = {
    "weights_init": np.full(2, 0.5),
    "means_init": np.ones((2, D)),
    "precisions_init": np.stack([np.eye(D)] * 2),
    "mean_prior": np.ones(D),
    "covariance_prior": np.eye(D),
}
DAMAGES = {
    "a missing chunk": (Path.unlink, MissingChunkError, "are missing"),
    "a damaged chunk": (lambda file: file.write_bytes(b"\x28\xb5\x2f\xfd damaged"), ChunkError, "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", GIVEN)
def test_parameters_in_stores_are_read_as_data_are(name, damage, tmp_path, capsys):
    spoil, error, message = DAMAGES[damage]
    path = small_store(tmp_path, name, GIVEN[name])
    kind = BayesianGaussianMixture if name.endswith("prior") else GaussianMixture
    model = kind(n_components=2, max_iter=1, random_state=0, **{name: zarr.open_array(path, mode="r")})
    expected = kind(n_components=2, max_iter=1, random_state=0, **{name: GIVEN[name]}).fit(X)
    np.testing.assert_array_equal(model.fit(X).means_, expected.means_)
    spoil(path / "c" / "1" / "/".join("0" * (GIVEN[name].ndim - 1)))
    refuse(error, message, model.fit, X)
    if kind is GaussianMixture:
        words = ["fit", good_store(tmp_path), "-k", 2, "--model", tmp_path / "m.zarr", "--quiet"]
        assert main([str(word) for word in (*words, f"--{name.replace('_', '-')}", path)]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "m.zarr").exists()


def test_a_row_wider_than_any_memory(tmp_path, model):
    path = declare(shape=[N, 10**12])(tmp_path)
    refuse(StoreError, "declares 60 × 1000000000000 numbers in 1000000000002 chunks", fit, path)
    refuse(StoreError, "declares 60 × 1000000000000 numbers", model.predict, path)


@pytest.mark.parametrize("size", ["1e15 rows", "2**70 rows", "1e11 rows", "a chunk of 1e12 rows"])
def test_inspection_shows_what_is_declared(size, tmp_path, capsys):
    record = store_record(str(SIZES[size][0](tmp_path)))
    print_record(record)
    assert json.loads(json.dumps(record)) == record
    assert record["bytes"] == 8 * record["shape"][0] * D


def test_a_sparse_store_of_a_moderate_size_is_no_fraud(tmp_path):
    path = declare(shape=[10**7, D])(tmp_path)  # half a million chunks, three of them there
    assert GaussianMixture(2).plan(path).n_rows == 10**7


# ---- things in the place of files


def replaced(at, make, **layout):
    def build(folder):
        path = good_store(folder, **layout)
        target = path / at
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        make(target)
        return path

    return build


def link(target):
    return lambda path: os.symlink(target, path)


def sparse(n_bytes):
    def make(path):
        path.touch()
        os.truncate(path, n_bytes)

    return make


def padded(path):
    path.write_text('{"zarr_format": 3, "attributes": {"x": "' + "x" * MOST_METADATA + '"}}')


def nested(depth):
    return lambda path: path.write_text("[" * depth)


METADATA = {
    "a pipe": (replaced("zarr.json", os.mkfifo), r"zarr\.json is a pipe; metadata of a store have to be files"),
    "a directory": (replaced("zarr.json", os.mkdir), r"zarr\.json is a directory"),
    "a device of zeros": (replaced("zarr.json", link("/dev/zero")), r"zarr\.json is a device"),
    "a device of noise": (replaced("zarr.json", link("/dev/urandom")), r"zarr\.json is a device"),
    "a link to a directory": (replaced("zarr.json", link("/etc")), r"zarr\.json is a directory"),
    "a link to itself": (replaced("zarr.json", link("zarr.json")), "cannot be opened as Zarr|is not a Zarr array"),
    "a link to nothing": (replaced("zarr.json", link("/nowhere")), "is not a Zarr array or group"),
    "a link to another file": (replaced("zarr.json", link("/etc/passwd")), "cannot be opened as Zarr .*JSON"),
    "memory of a process": (replaced("zarr.json", link("/proc/self/mem")), "cannot be opened as Zarr .*OSError"),
    "a terabyte of nothing": (replaced("zarr.json", sparse(10**12)), r"has 10{12} bytes, and metadata .* take \d+ at"),
    "giant JSON": (replaced("zarr.json", padded), "has 6710.* bytes, and metadata of this store take 67108864 at most"),
    "brackets without end": (replaced("zarr.json", nested(10**6)), "cannot be opened as Zarr .Recursion"),
    "a number of 10000 digits": (
        replaced("zarr.json", lambda path: path.write_text('{"zarr_format":' + "9" * 10**4 + "}")),
        "cannot be opened as Zarr .*digits",
    ),
    "no UTF-8": (replaced("zarr.json", lambda path: path.write_bytes(b'{"a":"\xff\xfe"}')), "cannot be opened as Zarr"),
    "a pipe, format 2": (replaced(".zarray", os.mkfifo), r"\.zarray is a pipe"),
    "a pipe for attributes": (replaced(".zattrs", os.mkfifo), r"\.zattrs is a pipe"),
    "a pipe for all metadata": (replaced(".zmetadata", os.mkfifo), r"\.zmetadata is a pipe"),
}


@pytest.mark.parametrize("method", ["fit", "inspect"])
@pytest.mark.parametrize("thing", METADATA)
def test_metadata_that_are_no_file(thing, method, tmp_path):
    make, message = METADATA[thing]
    path = make(tmp_path)
    refuse(StoreError, message, fit if method == "fit" else store_record, str(path))


CHUNKS = {
    "a pipe": (replaced("c/1/0", os.mkfifo), "c/1/0 is a pipe; chunks of a store have to be files"),
    "a directory": (replaced("c/1/0", os.mkdir), "c/1/0 is a directory"),
    "a device": (replaced("c/1/0", link("/dev/zero")), "c/1/0 is a device"),
    "a link to another file": (
        replaced("c/1/0", link("/etc/passwd")),
        r"chunk \(1, 0\).* cannot be read|cannot be read",
    ),
    "a terabyte of nothing": (replaced("c/1/0", sparse(10**12)), "c/1/0 has 10{12} bytes, and chunks of this store"),
    "a terabyte, not compressed": (
        replaced("c/1/0", sparse(10**12), compressors=None),
        "c/1/0 has 10{12} bytes, and chunks of this store",
    ),
    "a shard that is a pipe": (
        replaced("c/1/0", os.mkfifo, chunks=(10, D), shards=(20, D)),
        "c/1/0 is a pipe",
    ),
    "a shard of a terabyte": (
        replaced("c/1/0", sparse(10**12), chunks=(10, D), shards=(20, D)),
        "c/1/0 has 10{12} bytes",
    ),
    "all chunks elsewhere": (replaced("c", link("/etc")), "are missing"),
    "a pipe, format 2": (replaced("1.0", os.mkfifo, zarr_format=2), "1.0 is a pipe"),
}


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("thing", CHUNKS)
def test_chunks_that_are_no_file(thing, method, tmp_path, model):
    make, message = CHUNKS[thing]
    refuse(StoreError, message, METHODS[method], model, make(tmp_path))


@pytest.mark.parametrize("name", ["x.zarr", "x.zip"])
def test_a_pipe_for_a_store(name, tmp_path, model):
    os.mkfifo(tmp_path / name)
    for method in READERS:
        refuse(StoreError, "neither a directory nor a file", METHODS[method], model, tmp_path / name)
    refuse(StoreError, "neither a directory nor a file", store_record, str(tmp_path / name))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_devices_are_no_stores(device, model):
    refuse(StoreError, "neither a directory nor a file", fit, device)


def test_an_archive_of_one_giant_document(tmp_path, model):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("zarr.json", b" " * (MOST_METADATA + 1))
    for function in (fit, model.predict, store_record):
        refuse(StoreError, r"zarr\.json has 67108865 bytes, and metadata", function, str(tmp_path / "x.zip"))


# ---- codecs, dtypes and other words of the metadata


class Harm:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def format_2(folder, **metadata):
    path = Path(folder) / "x.zarr"
    path.mkdir()
    plain = {"compressor": None, "filters": None, "fill_value": 0, "order": "C", "dtype": "<f8"}
    content = {"zarr_format": 2, "shape": [N, D], "chunks": [N, D], **plain, **metadata}
    (path / ".zarray").write_text(json.dumps(content))
    (path / "0.0").write_bytes(pickle.dumps(Harm(Path(folder) / "harm")))
    return path


PICKLES = {
    "a filter": {"filters": [{"id": "pickle"}]},
    "the second filter": {"filters": [{"id": "delta", "dtype": "<f8"}, {"id": "pickle"}]},
    "the compressor": {"compressor": {"id": "pickle"}},
    "objects": {"dtype": "|O", "filters": [{"id": "pickle"}]},
    "objects without a filter": {"dtype": "|O", "compressor": {"id": "pickle"}},
}


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("place", PICKLES)
def test_nothing_is_unpickled(place, method, tmp_path, model, monkeypatch):
    # What numcodecs did before it asked for this to be set, and what some other package may have set.
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = format_2(tmp_path, **PICKLES[place])
    refuse(StoreError, "cannot be opened as Zarr|pickle", METHODS[method], model, path)
    assert not (tmp_path / "harm").exists()


WORDS = {
    "objects": {"dtype": "|O"},
    "objects as JSON": {"dtype": "|O", "filters": [{"id": "json2"}]},
    "code for a dtype": {"dtype": "__import__('os').system('id')"},
    "a list for a dtype": {"dtype": [["a", "<f8"]]},
    "a number for a dtype": {"dtype": 8},
    "an unknown filter": {"filters": [{"id": "../../evil"}]},
    "a filter that is a text": {"filters": "zstd"},
    "a filter that is an object": {"filters": {"id": "zstd"}},
    "an unknown compressor": {"compressor": {"id": "evil"}},
    "a compressor without a name": {"compressor": {}},
    "numbers for JSON": {"filters": [{"id": "json2"}]},
    "an order": {"order": "Z"},
    "chunks of one dimension": {"chunks": [N]},
    "a separator that climbs": {"dimension_separator": "../"},
    "a fill value": {"fill_value": "void"},
    "a format": {"zarr_format": 10**30},
}


@pytest.mark.parametrize("word", WORDS)
def test_words_that_mean_nothing(word, tmp_path, model):
    path = format_2(tmp_path, **WORDS[word])
    for function in (fit, model.predict, model.score):
        refuse((StoreError, UnsupportedDataError), r"x\.zarr|dtype", function, path)


CODECS = {
    "unknown": [{"name": "evil"}],
    "none": [],
    "bytes twice": [{"name": "bytes"}, {"name": "bytes"}],
    "a path": [{"name": "../../evil"}],
    "a number": [5],
    "text": "zstd",
    "configuration that is text": [{"name": "bytes", "configuration": "little"}],
    "shards larger than chunks": [
        {"name": "sharding_indexed", "configuration": {"chunk_shape": [10**12, 3], "codecs": [{"name": "bytes"}]}}
    ],
    "shards in shards without end": [
        {"name": "sharding_indexed", "configuration": {"chunk_shape": [0, 0], "codecs": []}}
    ],
    "transposed by nothing": [{"name": "transpose", "configuration": {"order": [7, 8]}}, {"name": "bytes"}],
}


@pytest.mark.parametrize("codecs", CODECS)
def test_codecs_that_mean_nothing(codecs, tmp_path, model):
    path = declare(codecs=CODECS[codecs])(tmp_path)
    for function in (fit, model.score):
        refuse(StoreError, r"x\.zarr", function, path)


# ---- groups, and names of what is in them


@pytest.fixture
def group(tmp_path):
    """A group with one array, beside another store."""
    good_store(tmp_path, "secret.zarr")
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("a", shape=X.shape, dtype=X.dtype)[...] = X
    group.create_group("b")
    return tmp_path / "g.zarr"


NAMES = [
    "../secret.zarr", "a/../../secret.zarr", "a/../a", "./a", ".", "..", "\\..\\secret.zarr", "b/../../secret.zarr",
    "/", "//", "a\0", "\0", "n" * 10_000, "n/" * 5_000, "\ud800", "zarr.json", "a/c", "c", "~", "*", "a b", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("method", ["fit", "inspect", "array="])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_names_that_lead_elsewhere(name, method, group):
    call = {
        "fit": lambda: fit(f"{group}::{name}"),
        "inspect": lambda: store_record(f"{group}::{name}"),
        "array=": lambda: open_zarr(group, name),
    }[method]
    if name in ("/", "//") and method == "inspect":
        assert call()["kind"] == "group"
        return
    # What Zarr would make of these depends on its version.
    is_none = {".", ".."} & set(name.replace("\\", "/").split("/")) or "\0" in name or len(name) > 1000
    message = "is not a name of an array" if is_none else r"has no|cannot be|inside it"
    error = refuse((StoreError, StoreNotFoundError), message, call)
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    "content", ["", "{}", "null", "[]", '{"zarr_format": 3, "node_type": "spy"}', "\x00", "[" * 10**5]
)
@pytest.mark.parametrize("method", ["fit", "predict", "inspect"])
def test_a_damaged_neighbour_is_told(content, method, group, model):
    (group / "b" / "zarr.json").write_text(content)
    function = {"fit": fit, "predict": model.predict, "inspect": store_record}[method]
    refuse(StoreError, r"g\.zarr cannot be opened as Zarr", function, str(group))
    np.testing.assert_array_equal(fit(f"{group}::a").means_, model.means_)


@pytest.mark.parametrize("name", [None, "c"])
def test_names_that_would_steer_the_terminal(name, group, model):
    zarr.open_group(group).create_array("\x1b[2J", data=X)
    address = str(group) if name is None else f"{group}::{name}"
    error = refuse(StoreError, r"\?\[2J, a", fit, address)
    assert "\x1b" not in str(error)


def test_a_thousand_chunks_are_enough(tmp_path):
    """One in a million would be five thousand."""
    array = zarr.create_array(tmp_path / "x.zarr", shape=(5 * 10**9, D), chunks=(1, D), dtype="f8")
    (tmp_path / "x.zarr" / "c").mkdir()
    for i in range(1000):
        (tmp_path / "x.zarr" / "c" / str(i)).touch()
    check_extent(array, "x.zarr")
    (tmp_path / "x.zarr" / "c" / "0").unlink()
    (tmp_path / "x.zarr" / "c" / "1").unlink()
    with pytest.raises(StoreError, match="of which 999 at most are there"):
        check_extent(array, "x.zarr")


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_records_that_cannot_be_there(tmp_path, model):
    dtype = [("a", "<f8"), ("b", "<f8"), ("c", "<f8")]
    zarr.create_array(tmp_path / "x.zarr", shape=(5 * 10**9,), chunks=(1,), dtype=dtype)
    for method in (fit, model.predict):
        refuse(StoreError, "are there: all others would be read as the fill value", method, tmp_path / "x.zarr")


def test_groups_on_the_way_to_an_array_are_not_read(tmp_path):
    path = tmp_path / "g.zarr"
    zarr.create_group(path).create_group("a").create_array("b", data=X)
    (path / "a" / "zarr.json").unlink()
    os.mkfifo(path / "a" / "zarr.json")
    np.testing.assert_array_equal(fit(f"{path}::a/b").means_, fit(X).means_)


@pytest.mark.parametrize("where", ["a", "b"])
def test_a_pipe_in_a_group(where, group, model):
    (group / where / "zarr.json").unlink()
    os.mkfifo(group / where / "zarr.json")
    for function in (fit, model.predict, store_record):
        refuse(StoreError, "is a pipe", function, str(group))
    refuse(StoreError, "is a pipe", fit, f"{group}::{where}")


CONSOLIDATED = {
    "a way out": ({"../secret.zarr": "array"}, "is not a Zarr array or group"),
    "an absolute path": ({"/etc": "array"}, "is not a Zarr array or group"),
    "what is not there": ({"ghost": "array"}, "gone|missing|cannot be"),
    "what steers a terminal": (
        {"\x1b[2Jghost": "array", "other": "array"},
        r"name an array '\\x1b\[2Jghost', which is missing",
    ),
    "null": ({"a": None}, "cannot be opened as Zarr"),
    "nothing": ({"a": {}}, "is not a Zarr array or group"),
    "a number": (5, "cannot be opened as Zarr"),
}


@pytest.mark.parametrize("case", CONSOLIDATED)
def test_consolidated_metadata_that_lie(case, group):
    entries, message = CONSOLIDATED[case]
    array = json.loads((group / "a" / "zarr.json").read_text())
    if isinstance(entries, dict):
        entries = {name: array if value == "array" else value for name, value in entries.items()}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": entries}
    edit_json(group, lambda m: m.update(consolidated_metadata=consolidated))
    error = refuse((StoreError, StoreNotFoundError), message, fit, str(group))
    assert "\x1b" not in str(error)


def test_a_group_of_many_arrays_is_not_listed_whole(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for i in range(30):
        group.create_array(f"array-{i:02}", shape=(1, 1), dtype="f8")
    error = refuse(StoreError, r"group with 30 arrays \(array-00, .*array-19, …\)", fit, tmp_path / "g.zarr")
    assert "array-20" not in str(error)


# ---- addresses

ADDRESSES = {
    "empty": ("", "address is empty"),
    "a null byte": ("\0", "nothing at"),
    "a null byte in it": ("x\0.zarr", "nothing at"),
    "half a surrogate pair": ("\ud800.zarr", "nothing at"),
    "only colons": ("::", "nothing at"),
    "an array of nothing": ("::a", "nothing at"),
    "a thousand levels up": ("../" * 1000 + "nowhere", "nothing at"),
    "longer than any path": ("x" * 100_000, "nothing at"),
    "a home directory": ("~/nowhere.zarr", "nothing at"),
    "a terminal's language": ("\x1b[2Jnowhere", r"nothing at \?\[2Jnowhere"),
    "a scheme without a place": ("memory://", "no Zarr array or group"),
    "no scheme": ("://x", "no Zarr|cannot be opened"),
    "an unknown scheme": ("evil://x", "cannot be opened"),
    "a chain": ("simplecache::memory://nowhere", "no Zarr array or group"),
    "references without a file": ("reference://", "cannot be opened"),
    "data": ("data:application/json,{}", "nothing at"),
}


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses(address, method, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, message = ADDRESSES[address]
    error = refuse((StoreError, StoreNotFoundError), message, METHODS[method], model, name)
    assert len(str(error)) < 1500


# ---- the summary of what somebody else wrote

RECORDS = {
    "means": {"format": "results", "means": 1},
    "weights": {"format": "results", "means": [[1]], "weights": [1], "standard_deviations": [[1]]},
    "another path": {"format": "results", "path": "/elsewhere"},
    "arrays": {"format": "results", "arrays": 3},
    "an object for a kind": {"format": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
    "depth": {"format": "results", "deep": json.loads("[" * 200 + "]" * 200)},
    "NaN": {"format": "results", "x": float("nan"), "y": [float("inf")]},
    "a terminal's language": {"format": "\x1b[2J", "\x1b]0;": "\x1b[31m"},
    "a large number": {"format": "results", "n": 10**300},
}


@pytest.mark.parametrize("content", RECORDS)
def test_records_of_others_are_shown_and_not_believed(content, tmp_path, capsys):
    zarr.create_group(tmp_path / "r.zarr", attributes={"daskgmm": RECORDS[content]})
    record = store_record(str(tmp_path / "r.zarr"))
    print_record(record)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert (record["path"], record["arrays"]) == (str(tmp_path / "r.zarr"), {})


@pytest.mark.parametrize("attributes", [[], [1], "daskgmm", 5, True, [["daskgmm", {"format": "results"}]]], ids=str)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_that_are_no_object(zarr_format, attributes, model, tmp_path, capsys):
    path = good_store(tmp_path, zarr_format=zarr_format)
    if zarr_format == 2:
        (path / ".zattrs").write_text(json.dumps(attributes))
    else:
        edit_json(path, lambda metadata: metadata.update(attributes=attributes))
    try:
        zarr.open_array(path, mode="r")
    except Exception:  # newer versions refuse them
        refuse(StoreError, "cannot be opened as Zarr", store_record, str(path))
        refuse(StoreError, "cannot be opened as Zarr", model.score, path)
    else:
        record = store_record(str(path))
        print_record(record)
        assert (record["kind"], record["shape"]) == ("array", list(X.shape))
        assert model.score(path) == model.score(X)
    (tmp_path / "g.zarr").mkdir()
    (tmp_path / "g.zarr" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
    )
    refuse(ModelFormatError, "is a Zarr group, and no model|is no model", load, tmp_path / "g.zarr")
