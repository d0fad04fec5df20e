"""What must hold whatever comes: one property for each thing that reads names, configuration or files of others.

Hypothesis draws the examples; `__main__` runs them for as long as one likes, with atheris as well, which steers them
by the code that they reach.
"""

import atexit
import contextlib
import copy
import functools
import io
import itertools
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import dask
import numpy as np
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.cli import main
from daskgmm.data.addresses import Secrets, local_path, split_address, without_secrets
from daskgmm.data.config import Reading
from daskgmm.data.store import open_node, open_zarr
from daskgmm.data.stored_rows import StoreSource
from daskgmm.diagnostics.summary import print_record
from daskgmm.engine.config import compiled, patience
from daskgmm.errors import (
    CheckpointError,
    DaskGMMError,
    DataChangedError,
    IllDefinedCovarianceError,
    ModelFormatError,
    StoreError,
    StoreNotFoundError,
)
from daskgmm.events import PassFinished
from daskgmm.inspection import store_record
from daskgmm.persistence import layout

N, D = 60, 3
X = np.random.RandomState(0).normal(size=(N, D)) + np.repeat([[0], [5]], N // 2, axis=0)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**15, 10**30])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["nan", "inf", "float64", "full", "diag", "GaussianMixture", "model", "array", "group", "../x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def drawn(*strategies):
    """Say what a property's examples are drawn from."""

    def decorate(function):
        function.strategies = strategies
        return function

    return decorate


def runnable(function, **options):
    """The property as a function without arguments that runs examples of it."""

    def example(values):
        function(*values)

    health = list(HealthCheck)  # files take their time
    test = given(st.tuples(*function.strategies))(example)
    return settings(deadline=None, suppress_health_check=health, **options)(test)


# ---- what there is to spoil, made once


@functools.cache
def originals():
    """A folder with a store of rows, a group, and saved models."""
    folder = Path(tempfile.mkdtemp(prefix="daskgmm-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, options in {
        "rows.zarr": {},
        "sharded.zarr": {"chunks": (10, D), "shards": (20, D)},
        "old.zarr": {"zarr_format": 2},
    }.items():
        zarr.create_array(folder / name, **({"shape": X.shape, "dtype": X.dtype, "chunks": (20, D)} | options))[...] = X
    with quiet():
        GaussianMixture(2, random_state=0, max_iter=3).fit(X).save(folder / "full.zarr")
        GaussianMixture(2, random_state=0, max_iter=3, covariance_type="diag").fit(X).save(folder / "diag.zarr")
        BayesianGaussianMixture(n_components=2, random_state=0, max_iter=3).fit(X).save(folder / "bayesian.zarr")
        for name in FITS:
            stop_early(name, folder / name)
    return folder


# Fits that keep checkpoints: how they are called, with what is given to estimators and to the call.
FITS = {
    "accelerated.checkpoint": lambda callbacks, **more: GaussianMixture(
        2, random_state=0, n_init=2, max_iter=8, tol=0, acceleration="lbfgs", callbacks=callbacks
    ).fit(X, **more),
    "bayesian.checkpoint": lambda callbacks, **more: BayesianGaussianMixture(
        n_components=2, random_state=0, max_iter=8, tol=0, covariance_type="diag", callbacks=callbacks
    ).fit(X, **more),
    "select.checkpoint": lambda callbacks, **more: (
        daskgmm.select(
            X, (1, 2), estimator=GaussianMixture(random_state=0, max_iter=8, tol=0), callbacks=callbacks, **more
        ).model
    ),
}


def stop_early(name, path):
    """Leave the checkpoint of a fit that was interrupted on its way."""
    done = itertools.count(1)

    def interrupt(event):
        if isinstance(event, PassFinished) and next(done) == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        FITS[name]([interrupt], checkpoint=path)
    assert path.exists()


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@contextlib.contextmanager
def copied(*names):
    """A folder of its own with some of them, which is the current one."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="daskgmm-fuzz-") as folder, quiet():
        for name in names:
            shutil.copytree(originals() / name, Path(folder) / name)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(here)


def places(value, path=()):
    """Paths of all values inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def spoiled_json(draw, document):
    """The same document with one to three values replaced, removed or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(document) if p] or [()]))
        if not path:
            return draw(json_values)
        holder = functools.reduce(lambda value, key: value[key], path[:-1], document)
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[path[-1]] = draw(json_values)
            case "remove":
                del holder[path[-1]]
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(json_values)
            case _:
                holder.append(draw(json_values))
    return document


@st.composite
def spoiled_bytes(draw, content):
    """The same bytes with some of them cut out, overwritten or put in."""
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, min(len(content), start + 40)))
    return content[:start] + draw(st.binary(max_size=40)) + content[stop:]


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def dumped(value):
    return json.dumps(value).encode("utf-8", "surrogatepass")


def check_message(error, text=""):
    assert not isinstance(error, np.linalg.LinAlgError | UnicodeError | json.JSONDecodeError)
    assert text in str(error)
    assert len(str(error)) < 4000


# ---- properties


@drawn(st.data())
def model_attributes(data):
    """A model whose attributes say anything, with checksums that fit, is loaded or refused by name."""
    name = data.draw(st.sampled_from(["full.zarr", "diag.zarr", "bayesian.zarr"]))
    with copied(name) as folder:
        file = folder / name / "zarr.json"
        metadata = json.loads(file.read_text())
        attributes = data.draw(spoiled_json(metadata["attributes"]["daskgmm"]))
        if isinstance(attributes, dict) and isinstance(attributes.get("checksums"), dict) and data.draw(st.booleans()):
            attributes["checksums"]["attributes"] = layout.digest(attributes)
        metadata["attributes"]["daskgmm"] = attributes
        file.write_bytes(dumped(metadata))
        loads_or_refuses(name)


@drawn(st.data())
def model_files(data):
    """The same for a model any of whose files holds other bytes, or another document."""
    name = data.draw(st.sampled_from(["full.zarr", "diag.zarr", "bayesian.zarr"]))
    with copied(name) as folder:
        file = data.draw(st.sampled_from(files_of(folder / name)))
        if file.name == "zarr.json" and data.draw(st.booleans()):
            file.write_bytes(dumped(data.draw(spoiled_json(json.loads(file.read_text())))))
        else:
            file.write_bytes(data.draw(spoiled_bytes(file.read_bytes())))
        loads_or_refuses(name)


@drawn(st.data())
def model_numbers(data):
    """A model with any numbers, and checksums that fit, predicts or is refused."""
    name = data.draw(st.sampled_from(["full.zarr", "diag.zarr", "bayesian.zarr"]))
    with copied(name) as folder:
        group = zarr.open_group(folder / name, mode="r+")
        array = group[data.draw(st.sampled_from(sorted(key for key, _ in group.arrays())))]
        values = array[...]
        flat = values.reshape(-1)
        for i in data.draw(st.lists(st.integers(0, flat.size - 1), min_size=1, max_size=4)):
            flat[i] = data.draw(st.floats() | st.sampled_from([0.0, -1.0, 1e300, 1e-300, flat[i] * 1.5, -flat[i]]))
        array[...] = flat.reshape(values.shape)
        file = folder / name / "zarr.json"
        metadata = json.loads(file.read_text())
        attributes = metadata["attributes"]["daskgmm"]
        attributes["checksums"][array.basename] = layout.checksum(flat.reshape(values.shape))
        attributes["checksums"]["attributes"] = layout.digest(attributes)
        file.write_text(json.dumps(metadata))
        loads_or_refuses(name)


@drawn(st.data())
def checkpoints(data):
    """A checkpoint that is damaged, or that somebody has edited so that checksums fit, is gone on from or refused."""
    name = data.draw(st.sampled_from(sorted(FITS)))
    with copied(name) as folder:
        groups = [folder / name, *sorted((folder / name).glob("pass-*"))]
        group = data.draw(st.sampled_from(groups))
        match data.draw(st.sampled_from(["attributes", "numbers", "bytes"])):
            case "attributes":
                edit_checkpoint(data, group, in_attributes)
            case "numbers":
                edit_checkpoint(data, group, in_numbers)
            case _:
                file = data.draw(st.sampled_from(files_of(folder / name)))
                file.write_bytes(data.draw(spoiled_bytes(file.read_bytes())))
        shown_or_refused(name)
        goes_on_or_refuses(name)


def edit_checkpoint(data, group, change):
    metadata = json.loads((group / "zarr.json").read_text())
    attributes = metadata["attributes"]["daskgmm"]
    packed = bytearray((group / "packed" / "c" / "0").read_bytes())
    change(data, attributes, packed)
    if isinstance(attributes.get("checksums"), dict):
        attributes["checksums"]["packed"] = layout.checksum(np.frombuffer(bytes(packed), np.uint8))
        attributes["checksums"]["attributes"] = layout.digest(attributes)
    (group / "packed" / "c" / "0").write_bytes(packed)
    (group / "zarr.json").write_bytes(dumped(metadata))


def in_attributes(data, attributes, packed):
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(["values", "values", "arrays", ""]))  # most of the places are in arrays
        found = [p for p in places(attributes) if p and p[0] != "checksums" and (not part or p[0] == part)]
        path = data.draw(st.sampled_from(found or [("values",)]))
        holder = functools.reduce(lambda value, key: value[key], path[:-1], attributes)
        holder[path[-1]] = data.draw(json_values)


def in_numbers(data, attributes, packed):
    """Of the arrays of doubles, which are most of them; one value or all of one array."""
    offset, doubles = 0, []
    for name, dtype, shape, _ in attributes["arrays"]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if dtype == "float64" and size:
            doubles.append((name, offset, size))
        offset += size
    for _ in range(data.draw(st.integers(1, 3))):
        _, start, size = data.draw(st.sampled_from(doubles))
        values = np.frombuffer(bytes(packed[start : start + size])).copy()
        value = data.draw(st.floats() | st.sampled_from([0.0, -1.0, 1e300, -1e300, 1e-300, 1e16]))
        values[data.draw(st.just(slice(None)) | st.integers(0, len(values) - 1))] = value
        packed[start : start + size] = values.tobytes()


def goes_on_or_refuses(name):
    try:
        model = FITS[name]([], checkpoint=name, resume=True)
    except (CheckpointError, DataChangedError, IllDefinedCovarianceError, StoreNotFoundError) as error:
        check_message(error)  # the third: it may be a mixture that EM cannot go on from
        return
    assert np.isfinite(model.means_).all()
    np.testing.assert_allclose(model.weights_.sum(), 1)
    assert ((model.predict(X) >= 0) & (model.predict(X) < len(model.weights_))).all()


def loads_or_refuses(name):
    try:
        model = daskgmm.load(name)
    except (ModelFormatError, StoreNotFoundError) as error:
        check_message(error)
        shown_or_refused(name)
        return
    labels = model.predict(np.nan_to_num(model.means_[:, : model.n_features_in_]))
    assert ((labels >= 0) & (labels < len(model.weights_))).all()
    assert np.isfinite(model.weights_).all()
    model.save("again.zarr")
    np.testing.assert_array_equal(daskgmm.load("again.zarr").means_, model.means_)


def shown_or_refused(name):
    try:
        record = store_record(name)
    except DaskGMMError:
        return
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_record(record)
    assert "\x1b" not in out.getvalue()


@drawn(st.data())
def store_metadata(data):
    """A store whose metadata say anything is read, or refused by name, without an allocation that it asks for."""
    name = data.draw(st.sampled_from(["rows.zarr", "sharded.zarr", "old.zarr"]))
    with copied(name) as folder:
        document = next(folder / name / d for d in ("zarr.json", ".zarray") if (folder / name / d).exists())
        if data.draw(st.booleans()):
            document.write_bytes(dumped(data.draw(spoiled_json(json.loads(document.read_text())))))
        else:
            document.write_bytes(data.draw(spoiled_bytes(document.read_bytes())))
        shown_or_refused(name)
        read_or_refused(name)


@drawn(st.data())
def store_chunks(data):
    """The same for a store any of whose chunks holds other bytes."""
    name = data.draw(st.sampled_from(["rows.zarr", "sharded.zarr", "old.zarr"]))
    with copied(name) as folder:
        file = data.draw(st.sampled_from([f for f in files_of(folder / name) if f.name[0] not in "z."]))
        file.write_bytes(data.draw(spoiled_bytes(file.read_bytes())))
        read_or_refused(name)


def read_or_refused(name):
    try:
        array = open_zarr(name)
        plan = GaussianMixture(2).plan(array)
        rows = StoreSource(array).handle[: min(array.shape[0], 100)] if plan.n_features <= 1000 else None
        assert rows is None or rows.ndim == 2
    except (ValueError, TypeError, StoreNotFoundError) as error:
        check_message(error)


PARTS = [
    "a",
    "x.zarr",
    "rows.zarr",
    "full.zarr",
    "::",
    "/",
    "..",
    ".",
    "~",
    "file://",
    "memory://",
    "://",
    "@",
    ":",
    "?",
    "#",
]
addresses = st.lists(st.sampled_from(PARTS) | st.text(max_size=6), max_size=8).map("".join)


@drawn(addresses)
def any_address(address):
    """Any text is the address of something, or of nothing; what is shown of it is shown again as it is."""
    path, inside = split_address(address)
    assert inside is None or f"{path}::{inside}" == address
    shown = without_secrets(address)
    assert without_secrets(shown) == shown
    assert local_path(address) is None or os.path.isabs(local_path(address))
    with copied("rows.zarr", "full.zarr"):
        for function in (open_node, open_zarr, store_record, daskgmm.load):
            try:
                function(address)
            except (StoreError, StoreNotFoundError, ModelFormatError) as error:
                check_message(error)


secrets = st.text(st.characters(codec="utf-8", exclude_characters="…"), min_size=12, max_size=30)


@drawn(st.sampled_from(["https", "s3", "memory", "simplecache::s3"]), secrets, st.booleans())
def any_secret(scheme, secret, in_query):
    """No text tells a secret, wherever in an address it stands."""
    address = f"{scheme}://host/x?sig={secret}" if in_query else f"{scheme}://user:{secret}@host/x"
    hidden = Secrets(address)
    for text in (without_secrets(address), hidden.hide(f"cannot read {address}"), hidden.hide(f"no {secret} here")):
        assert secret not in text


@drawn(json_values)
def any_configuration(value):
    """Any configuration value has a meaning, or is refused by name."""
    for name, function in {
        "timeout": lambda: patience("10s"),
        "compiled": compiled,
        "missing-chunks": Reading.configured,
        "read-retries": Reading.configured,
    }.items():
        with dask.config.set({f"daskgmm.{name}": value}):
            try:
                result = function()
            except ValueError as error:
                check_message(error, f"daskgmm.{name}")
            else:
                assert name != "timeout" or 0 <= result < float("inf")


OPTIONS = [
    "fit", "predict", "score", "sample", "inspect", "rows.zarr", "full.zarr", "new.zarr", "rows.zarr::", "rows.zarr::a",
    "-k", "1", "2", "3", "0", "-1", "--model", "--output", "--plan", "--json", "--quiet", "--overwrite", "--array",
    "--tol", "--reg-covar", "--max-iter", "--n-init", "--init-params", "kmeans", "random", "--covariance-type", "tied",
    "diag", "--warm-start", "--bayesian", "--sample-weight", "--means-init", "-n", "5", "--random-state", "--verbose",
    "--probabilities", "--log-density", "--threads", "--help", "--version", "nan", "inf", "1e400", "-h", "--",
]  # fmt: skip
COMMANDS = [
    ["fit", "rows.zarr", "-k", "2", "--max-iter", "2", "--model", "new.zarr"],
    ["predict", "rows.zarr", "--model", "full.zarr", "--output", "new.zarr"],
    ["score", "rows.zarr", "--model", "full.zarr"],
    ["sample", "full.zarr", "-n", "5", "--output", "new.zarr"],
    ["inspect", "full.zarr"],
]
words = st.sampled_from(OPTIONS) | st.text(max_size=8).filter(lambda word: "\0" not in word)


@st.composite
def command_lines(draw):
    """A command that works with some words put in, taken out or changed; or any words."""
    command = list(draw(st.sampled_from([*COMMANDS, []])))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(command)))
        command[at : at + draw(st.integers(0, 1))] = draw(st.lists(words, max_size=2))
    return command


@drawn(command_lines())
def any_command_line(words):
    """Any command line ends with a status, a message of one line for an error, and no traceback."""
    out, err = io.StringIO(), io.StringIO()
    with copied("rows.zarr", "full.zarr"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    assert status in (0, 1, 2)
    assert "Traceback" not in err.getvalue()
    assert (status == 0) or err.getvalue()
    assert "\x1b" not in out.getvalue() + err.getvalue()


PROPERTIES = [
    model_attributes,
    model_files,
    model_numbers,
    checkpoints,
    store_metadata,
    store_chunks,
    any_address,
    any_secret,
    any_configuration,
    any_command_line,
]
