"""Checkpoints that somebody has edited, with checksums that fit again, or put other things in the place of.

Beside test_checkpoints.py, which holds damage, and what a fit does with a checkpoint that is whole.
"""

import functools
import json
import os
import shutil

import fsspec
import numpy as np
import pytest
import zarr
from hostile import D, N, X, edit_json, good_store, refuse
from products import thinned

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.cli import main
from daskgmm.core.acceleration import BFGSState, LimitedMemoryBFGS
from daskgmm.core.covariance import STRUCTURES
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.state_arrays import MixtureArrays
from daskgmm.core.tilting import TiltedBFGS, TiltedState
from daskgmm.diagnostics.summary import print_record
from daskgmm.errors import CheckpointError, CheckpointWarning, StoreError
from daskgmm.events import PassFinished
from daskgmm.fitting.em_start import EMStart
from daskgmm.fitting.fit_state import FitState, Snapshot
from daskgmm.inspection import store_record
from daskgmm.persistence import layout
from daskgmm.persistence.codec import dump
from daskgmm.persistence.fit_records import StoredKind, restore_snapshot, snapshot_codec

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::daskgmm.errors.InterruptedWarning"),
    pytest.mark.timeout(60),
]

OPTIONS = {"random_state": 0, "max_iter": 8, "tol": 0}
WEIGHTS = np.random.RandomState(1).rand(N)
FITS = {
    "accelerated": lambda **more: GaussianMixture(2, acceleration="lbfgs", n_init=2, **OPTIONS, **callbacks(more)).fit(
        X, **more
    ),
    "bayesian": lambda **more: BayesianGaussianMixture(n_components=2, **OPTIONS, **callbacks(more)).fit(X, **more),
    "tied": lambda **more: GaussianMixture(2, covariance_type="tied", **OPTIONS, **callbacks(more)).fit(X, **more),
    "weighted": lambda **more: GaussianMixture(2, **OPTIONS, **callbacks(more)).fit(X, sample_weight=WEIGHTS, **more),
    "select": lambda **more: (
        daskgmm.select(X, (1, 2), estimator=GaussianMixture(**OPTIONS), **callbacks(more), **more).model
    ),
}


def callbacks(more):
    return {"callbacks": more.pop("callbacks", ())}


class Stop(KeyboardInterrupt):
    """Ctrl-C, from a callback."""


def stop_after(n_passes):
    passes = iter(range(n_passes - 1))

    def interrupt(event):
        if isinstance(event, PassFinished) and next(passes, None) is None:
            raise Stop

    return interrupt


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Checkpoints of fits that were interrupted in their fifth pass."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, fit in FITS.items():
        with pytest.raises(Stop):
            fit(checkpoint=folder / name, callbacks=[stop_after(5)])
    return folder


@pytest.fixture
def stopped(originals, tmp_path):
    """A function that copies one of them, and its last two passes."""

    def copied(name="accelerated"):
        shutil.copytree(originals / name, tmp_path / "c", dirs_exist_ok=True)
        return tmp_path / "c"

    return copied


def last(path):
    return sorted(path.glob("pass-*"))[-1]


def alone(path):
    """Leave the last pass only, so that no other one can serve."""
    for folder in sorted(path.glob("pass-*"))[:-1]:
        shutil.rmtree(folder)
    return last(path)


def seal(group, change):
    """Edit attributes and bytes of a group, and make the checksums fit again."""
    file = group / "packed" / "c" / "0"
    packed = bytearray(file.read_bytes())

    def sealed(metadata):
        attributes = metadata["attributes"]["daskgmm"]
        change(attributes, packed)
        attributes["checksums"]["packed"] = layout.checksum(np.frombuffer(bytes(packed), np.uint8))
        attributes["checksums"]["attributes"] = layout.digest(attributes)

    edit_json(group, sealed)
    file.write_bytes(packed)


def put(keys, value):
    def change(attributes, packed):
        holder = functools.reduce(lambda found, key: found[key], keys[:-1], attributes["values"])
        holder[keys[-1]] = value

    return change


def refused(name, path, message="damaged"):
    """The fit and the inspection, which may know enough to show it, end in an error of the file."""
    error = refuse(CheckpointError, message, FITS[name], checkpoint=path, resume=True)
    assert str(path) in str(error)
    try:
        print_record(store_record(str(path)))
    except (CheckpointError, StoreError) as told:
        assert str(path) in str(told)  # noqa: PT017  # either is right


@pytest.mark.parametrize("name", FITS)
def test_an_untouched_one_goes_on(name, stopped):
    np.testing.assert_array_equal(FITS[name](checkpoint=stopped(name), resume=True).means_, FITS[name]().means_)


# ---- what the first pass found

DEEP = json.loads("[" * 200 + "]" * 200)
NO_NUMBER = ["7", None, [7], {"n": 7}, 7.5, True, -1, float("nan"), float("inf"), DEEP]

BEGINNING = {
    ("surveys",): [None, 5, [], {}, "x", [5]],
    ("surveys", 0, "n_rows"): [*NO_NUMBER, N - 1, 10**15],
    ("surveys", 0, "n_weighted"): [*NO_NUMBER, N - 1, 10**15],
    ("surveys", 0, "weight_sum"): [None, "x", [], 0, -1, 1, 2 * N, float("nan"), float("inf"), "nan", "inf"],
    ("surveys", 0, "mean"): [None, 5, "full", []],
    ("surveys", 0, "scatter"): ["full", "round", 5, [], True, {}, {"structure": "full", "second_moments": "array"}],
    ("survey_numbers",): [None, 5, [], {}, "x", ["x"], [0, 0]],
    ("survey_numbers", 0): [*NO_NUMBER, 1, 10**15],
    ("random_states",): [None, 5, [], {}, "x", [5], [{}]],
    ("random_states", 0, "key"): [None, 5, "x", []],
    ("random_states", 0, "pos"): [*NO_NUMBER, 10**15],
    ("random_states", 0, "has_gauss"): ["x", None, [], -1],
    ("random_states", 0, "gauss"): ["x", None, []],
    ("checksum",): [None, 5, [], {}, [60, "0", "0"]],
    ("checksum", "n_rows"): NO_NUMBER,
    ("checksum", "rows"): ["x", "0x", None, [], -1, 1.5, True, 1 << 70, "0x" + "f" * 17],
    ("checksum", "beside"): [
        *(None, 5, {}, "x", [5], [["sample_weight"]], [["sample_weight", -1]], [["sample_weight", 1 << 70]]),
        *([[5, 5]], [["sample_weight", "x"]], [["a\x1b[2J", 5]], [["a", 5], ["a", 5]]),
    ],
    ("probes",): [None, 5, [5], [{}], [[60]]],
    ("n_passes",): NO_NUMBER,
    ("seconds",): ["x", None, [], {}],
}


def rows_of(table):
    return [(keys, value) for keys, values in table.items() for value in values]


def short(value):
    return "/".join(map(str, value)) if isinstance(value, tuple) else ascii(value)[:30]


@pytest.mark.parametrize(("keys", "value"), thinned(rows_of(BEGINNING)), ids=short)
def test_what_the_first_pass_found(keys, value, stopped):
    path = stopped()
    seal(path, put(keys, value))
    refused("accelerated", path, "damaged|was made with other data")


@pytest.mark.parametrize(
    ("name", "value"), [("n_rows", N - 1), *(("weight_sum", value) for value in (0, -1, float("nan"), float("inf")))]
)
def test_rows_and_weights_that_cannot_be(name, value, stopped):
    """Where there are sample weights, one does not follow from the other."""
    path = stopped("weighted")
    seal(path, put(("surveys", 0, name), value))
    refused("weighted", path, r"damaged \(ValueError: surveys/0(: 60 rows that count, out of 59| is of 60 rows of)")


def test_fewer_rows_than_the_data_have(stopped):
    path = stopped()
    seal(path, put(("surveys", 0, "n_rows"), N - 1))
    seal(path, put(("surveys", 0, "weight_sum"), N - 1))
    refused("accelerated", path, rf"damaged \(ValueError: surveys/0: {N} rows that count, out of {N - 1}")


@pytest.mark.parametrize("value", [None, "diag", "tied", 5])
def test_second_moments_that_a_prior_takes(value, stopped):
    path = stopped("bayesian")
    seal(path, put(("surveys", 0, "scatter"), value))
    refused("bayesian", path)


SETTINGS = [
    *[("data", name, value) for name in ("n_rows", "n_features", "dtype") for value in (None, [], 5.5, "x", True)],
    *[("data", "sample_weight", value) for value in (None, "x", 1, [])],
    *[("settings", name, value) for name in ("estimator", "covariance_type") for value in (None, 5, {}, "x\x1b[2J")],
    *[("settings", "n_components", value) for value in (None, "2", 2.5, True, 10**15)],
]


@pytest.mark.parametrize(("field", "name", "value"), SETTINGS, ids=short)
def test_what_it_was_asked_for(field, name, value, stopped, capsys):
    path = stopped()
    seal(path, put((field, name), value))
    refused("accelerated", path, "was made with|damaged")
    main(["inspect", str(path)])
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err


@pytest.mark.parametrize("field", ["settings", "data", "environment"])
@pytest.mark.parametrize("value", [None, [], {}, 5, "x", DEEP], ids=short)
def test_fields_of_another_type(field, value, stopped):
    path = stopped()
    seal(path, lambda attributes, _: attributes["values"].update({field: value}))
    if (field, value) == ("environment", {}):
        with pytest.warns(CheckpointWarning, match="other software"):
            FITS["accelerated"](checkpoint=path, resume=True)
    else:
        refused("accelerated", path, "damaged|was made with")


@pytest.mark.parametrize("value", [5, None, ["1.0"]], ids=short)
def test_software_that_is_no_text(value, stopped):
    path = stopped()
    seal(path, put(("environment", "numpy"), value))
    refused("accelerated", path, "environment is missing or damaged")


def test_software_that_would_steer_the_terminal(stopped):
    path = stopped()
    seal(path, put(("environment", "numpy"), "\x1b[2J" + "9" * 10**5))
    with pytest.warns(CheckpointWarning, match=r"numpy: \?\[2J9+…, now ") as told:
        FITS["accelerated"](checkpoint=path, resume=True)
    (text,) = [str(warning.message) for warning in told if isinstance(warning.message, CheckpointWarning)]
    assert "\x1b" not in text
    assert len(text) < 1000


# ---- where it was

START = ("fits", 0, "starts", 0, 1)
RESEEDINGS = (
    {"n_iter": -1, "components": [0], "collapsed": True},
    {"n_iter": 1, "components": [-1], "collapsed": True},
    {"n_iter": 1, "components": [], "collapsed": True},
    {"n_iter": 1, "components": [0], "collapsed": "yes"},
)
PASS = {
    ("n_passes",): [*NO_NUMBER, 1, 10**15],
    ("common",): [None, 5, [5], [["full", "x"]]],
    ("fits",): [None, 5, [], {}, [5]],
    ("fits", 0, "n_starts"): NO_NUMBER,
    ("fits", 0, "history"): [None, 5, [5], [], ["em"], ["x"] * 20, [{"os": 1}]],
    ("fits", 0, "notes"): [None, 5, [5], [["os.system", "x"]], [["KeyboardInterrupt", "x"]]],
    ("fits", 0, "collapsed"): ["x", 5, [], [-1], [1.5], [2]],
    ("fits", 0, "starts"): [None, 5, [], [5], [[0]], {}],
    ("fits", 0, "starts", 0, 0): [*NO_NUMBER, 1],
    (*START, "n_iter"): NO_NUMBER,
    (*START, "converged"): ["yes", 1, None, []],
    (*START, "stopped"): ["yes", 1, None, []],
    (*START, "precise"): ["yes", 1, None, []],
    (*START, "coarsest"): ["float16", "", 1, None, []],
    (*START, "single"): ["yes", 1, None, []],
    (*START, "rounding"): ["x", None, [], -1e-9],
    (*START, "relocates"): ["yes", 1, None, []],
    (*START, "state"): ["yes", 1, None, False],
    (*START, "accelerator"): ["yes", 1, None, False, {}],
    (*START, "accelerator", "steps"): ["yes", 1, None, []],
    (*START, "accelerator", "rejected"): NO_NUMBER,
    (*START, "accelerator", "trust_radius"): ["x", None, []],
    (*START, "proposal"): ["os.system", 5, [], {}, {"state": "state", "kind": "os.system"}],
    (*START, "compared_bound"): ["x", None, []],
    (*START, "lower_bounds"): ["x", None, [], [1.0]],
    (*START, "collapsed"): ["x", 5, [], [-1], [2]],
    (*START, "reseedings"): [None, 5, [5], [{}], *[[made] for made in RESEEDINGS]],
    (*START, "os"): [1],
    ("pruner_state",): [5, "x", [], {}],
}


@pytest.mark.parametrize(("keys", "value"), thinned(rows_of(PASS)), ids=short)
def test_where_it_was(keys, value, stopped):
    path = stopped()
    seal(alone(path), put(keys, value))
    refused("accelerated", path, "damaged|n_passes is")


def test_names_that_would_steer_the_terminal(stopped):
    path = stopped()
    seal(alone(path), put(("fits", 0, "history"), ["\x1b[2J"] * 20))
    error = refuse(
        CheckpointError,
        r"damaged \(ValueError: .*\[2J.*expected one of",
        FITS["accelerated"],
        checkpoint=path,
        resume=True,
    )
    assert "\x1b" not in str(error)


def test_a_pass_under_the_name_of_another(stopped):
    """The number that it goes on with is the name of what it writes next."""
    path = stopped()
    alone(path).rename(path / "pass-00000002")
    refused("accelerated", path, "n_passes is .*, and the folder's name has another number")


@pytest.mark.parametrize("name", ["pass-4", "pass-x", "pass-00000009.bak", ".pass-00000009"])
def test_other_names_are_left_alone(name, stopped):
    path = stopped()
    (path / name).mkdir()
    np.testing.assert_array_equal(
        FITS["accelerated"](checkpoint=path, resume=True).means_, FITS["accelerated"]().means_
    )
    assert (path / name).exists()


# ---- numbers


def all_of(name, value, most=None):
    """Put a number into every place of the arrays of that name, or into so many."""

    def change(attributes, packed):
        offset = 0
        for array, dtype, shape, _ in attributes["arrays"]:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            if array.rpartition("/")[2] == name:
                put = np.full(int(np.prod(shape)), value, dtype)[:most].tobytes()
                packed[offset : offset + len(put)] = put
            offset += size

    return change


NUMBERS = [
    *[("select", name, value) for name in ("means", "covariances", "weights") for value in (np.nan, np.inf, -np.inf)],
    *[("select", "covariances", value) for value in (0.0, -1.0)],
    *[("select", "weights", value) for value in (0.0, -1.0, 1e300)],
    *[
        ("bayesian", name, value)
        for name in ("weight_concentration", "mean_precision")
        for value in (0.0, -1.0, np.nan)
    ],
    *[("bayesian", "degrees_of_freedom", value) for value in (0.0, 1.0, np.nan)],
    ("accelerated", "lower_bounds", np.nan),
    ("accelerated", "lower_bounds", np.inf),
    *[("accelerated", "steps", value) for value in (np.nan, np.inf)],
    *[("accelerated", "reals", value) for value in (np.nan, np.inf)],
    *[("tied", "0", value) for value in (np.nan, np.inf)],  # second moments that all components have in common
]


@pytest.mark.parametrize(("kind", "name", "value"), NUMBERS, ids=short)
def test_numbers(kind, name, value, stopped):
    path = stopped(kind)
    seal(alone(path), all_of(name, value))
    refused(kind, path)


def test_a_pass_of_a_start_before_the_first(stopped):
    path = stopped()
    seal(alone(path), all_of("counts", -1, most=1))
    refused("accelerated", path, r"damaged \(ValueError: start is -1; expected no negative number")


@pytest.mark.parametrize("name", ["mean", "squared_deviations", "minimum", "maximum", "sample", "sample_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_of_the_first_pass(name, value, stopped):
    path = stopped()
    seal(path, all_of(name, value))
    refused("accelerated", path)


@pytest.mark.parametrize("shape", [[N, D + 1], [10**12, D], [1 << 47, 1], [2**70], [-1], [1.5], "x", None], ids=short)
def test_shapes(shape, stopped):
    path = stopped()
    seal(path, lambda attributes, _: attributes["arrays"][0].__setitem__(2, shape))
    refused("accelerated", path, r"arrays hold|has the shape|has the axes|declares|damaged")


def as_if(name, shape, dtype=None):
    """Say that the arrays of that name have another shape, or dtype, of as many bytes."""

    def change(attributes, packed):
        for told in attributes["arrays"]:
            if told[0].endswith(f"/{name}") or told[0] == name:
                told[1:] = [dtype or told[1], shape(told[2]), list(range(len(shape(told[2]))))]

    return change


SHAPES = {"reversed": lambda shape: shape[::-1], "in a row": lambda shape: [1, *shape], "the same": lambda shape: shape}
AS_IF = [
    *[("accelerated", False, name, "in a row", None) for name in ("mean", "minimum", "sample_weight")],
    ("accelerated", False, "sample", "reversed", None),
    ("accelerated", False, "mean", "the same", "int64"),
    ("bayesian", False, "second_moments", "in a row", None),
    *[("accelerated", True, name, "in a row", None) for name in ("weights", "covariances", "lower_bounds")],
    ("accelerated", True, "means", "reversed", None),
    ("tied", True, "common/0", "in a row", None),
    *[("accelerated", True, name, "the same", "int64") for name in ("means", "lower_bounds", "reals")],
    ("accelerated", True, "counts", "the same", "float64"),
]


@pytest.mark.parametrize(("kind", "of_pass", "name", "shape", "dtype"), AS_IF)
def test_arrays_of_another_shape_or_dtype(kind, of_pass, name, shape, dtype, stopped):
    path = stopped(kind)
    seal(alone(path) if of_pass else path, as_if(name, SHAPES[shape], dtype))
    refused(kind, path, rf"damaged \(ValueError: .*{name} (has shape|contains)")


@pytest.mark.parametrize("told", [None, 5, {}, "x"], ids=short)
def test_no_list_of_arrays(told, stopped):
    path = stopped()
    seal(path, lambda attributes, _: attributes.update(arrays=told))
    refused("accelerated", path, "arrays is missing or damaged")


@pytest.mark.parametrize("written", [None, "x", [], True], ids=short)
def test_times_that_are_none(written, stopped):
    path = stopped()
    seal(last(path), lambda attributes, _: attributes.update(written=written))
    refuse(CheckpointError, "written is .*expected a time in seconds", store_record, str(path))


def test_a_clock_that_was_ahead(stopped):
    path = stopped()
    seal(last(path), lambda attributes, _: attributes.update(written=2.0**40))
    assert store_record(str(path))["age_seconds"] == 0


# ---- sizes and places


def of_packed(change):
    return lambda group: edit_json(group / "packed", change)


def instead(at, make):
    def change(group):
        target = group / at
        moved = group.with_name(f"{group.name}.moved")
        target.rename(moved)
        make(target, moved)

    return change


def elsewhere(target, moved):
    target.symlink_to(moved)


def terabyte(group):
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**12]}}
    edit_json(group / "packed", lambda m: m.update(shape=[10**12], chunk_grid=grid))
    os.truncate(group / "packed" / "c" / "0", 10**12)
    edit_json(group, lambda m: None)


def many_names(group):
    seal(group, lambda a, _: a.update(arrays=[[f"x/{i}", "float64", [0], [0]] for i in range(10**5)]))


MANY = "a hundred thousand names"  # half a minute to write
PLACES = {
    "a terabyte of nothing": terabyte,
    "a chunk of a terabyte": lambda g: os.truncate(g / "packed/c/0", 10**12),
    "a shorter chunk": lambda g: os.truncate(g / "packed/c/0", 5),
    "a pipe for the chunk": instead("packed/c/0", lambda t, m: os.mkfifo(t)),
    "a folder for the chunk": instead("packed/c/0", lambda t, m: t.mkdir()),
    "a device for the chunk": instead("packed/c/0", lambda t, m: t.symlink_to("/dev/zero")),
    "a pipe for metadata": instead("packed/zarr.json", lambda t, m: os.mkfifo(t)),
    "a device for metadata": instead("packed/zarr.json", lambda t, m: t.symlink_to("/dev/zero")),
    "a pipe for the group": instead("zarr.json", lambda t, m: os.mkfifo(t)),
    "a device for the group": instead("zarr.json", lambda t, m: t.symlink_to("/dev/zero")),
    "an array elsewhere": instead("packed", elsewhere),
    "metadata elsewhere": instead("packed/zarr.json", elsewhere),
    "a chunk elsewhere": instead("packed/c/0", elsewhere),
    "chunks elsewhere": instead("packed/c", elsewhere),
    "a file for the array": instead("packed", lambda t, m: t.write_text("x")),
    "a group for the array": of_packed(lambda m: {"zarr_format": 3, "node_type": "group"}),
    "compression": of_packed(lambda m: m["codecs"].append({"name": "gzip", "configuration": {"level": 1}})),
    "an unknown codec": of_packed(lambda m: m["codecs"].append({"name": "evil"})),
    "objects": of_packed(lambda m: m.update(data_type="object")),
    "doubles": of_packed(lambda m: m.update(data_type="float64", fill_value=0)),
    "a negative shape": of_packed(lambda m: m.update(shape=[-2])),
    "brackets": lambda g: (g / "packed/zarr.json").write_text("[" * 10**5),
    MANY: many_names,
}


@pytest.mark.parametrize("where", ["beginning", "pass"])
@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=pytest.mark.slow) if name == MANY else name for name in PLACES]
)
def test_places(place, where, stopped):
    path = stopped()
    PLACES[place](path if where == "beginning" else alone(path))
    refused("accelerated", path, r"c( |:|/)")


INSTEAD_OF_A_PASS = {
    "a file": lambda target, moved: target.write_text("x"),
    "a pipe": lambda target, moved: os.mkfifo(target),
    "an empty folder": lambda target, moved: target.mkdir(),
    "a model": lambda target, moved: GaussianMixture(2, random_state=0, max_iter=1).fit(X).save(target),
    "data": lambda target, moved: good_store(target.parent, target.name),
    "a checkpoint": lambda target, moved: shutil.copytree(target.parent, target, ignore=lambda *_: [target.name]),
    "a link to nothing": lambda target, moved: target.symlink_to("nothing"),
}


@pytest.mark.parametrize("what", INSTEAD_OF_A_PASS)
def test_what_is_no_pass(what, stopped, tmp_path):
    path = stopped()
    folder = alone(path)
    folder.rename(tmp_path / "moved")
    INSTEAD_OF_A_PASS[what](folder, tmp_path / "moved")
    refused("accelerated", path, "no checkpoint pass|nothing at|damaged")


def test_a_damaged_pass_that_leads_elsewhere_takes_nothing_with_it(stopped, tmp_path):
    """What does not serve is removed; what a link leads to is somebody else's."""
    path = stopped()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (path / "pass-00000099").symlink_to(tmp_path / "precious")
    with pytest.warns(CheckpointWarning, match="the pass before is used instead"):
        FITS["accelerated"](checkpoint=path, resume=True)
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_the_terminal_tells_it_in_one_line(stopped, tmp_path, capsys):
    path = stopped()
    seal(path, put(("surveys",), None))
    rows = good_store(tmp_path, "rows.zarr")
    words = ["fit", rows, "-k", 2, "--model", tmp_path / "m.zarr", "--checkpoint", path, "--resume", "--quiet"]
    more = ["--random-state", 0, "--max-iter", 8, "--tol", 0, "--n-init", 2, "--acceleration", "lbfgs"]
    assert main([str(word) for word in (*words, *more)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "damaged" in err
    assert not (tmp_path / "m.zarr").exists()


def test_one_that_was_copied_to_an_object_store(stopped):
    files = fsspec.filesystem("memory")
    files.put(str(stopped()), "/hostile/c", recursive=True)
    try:
        refuse(CheckpointError, "checkpoints are on local or mounted file systems", store_record, "memory://hostile/c")
    finally:
        files.rm("/hostile", recursive=True)


def test_a_zarr_store_of_another_kind_of_node(tmp_path):
    zarr.create_group(tmp_path / "c")
    refused("accelerated", tmp_path / "c", "no checkpoint that daskgmm wrote")


@pytest.mark.parametrize("where", ["bfgs", "sampled", None])
def test_vectors_of_an_accelerator_for_a_mixture_of_another_size(where):
    right = BFGSState(*(np.ones(shape) for shape in [(1, 12), (1, 12), 12, 12]))  # of K = D = 2
    wrong = BFGSState(*(np.ones(shape) for shape in [(1, 9), (1, 9), 9, 9]))
    state = TiltedState(**{"bfgs": right, "sampled": right, **({where: wrong} if where else {})})
    accelerator = TiltedBFGS(LimitedMemoryBFGS())
    kinds = [StoredKind(STRUCTURES["full"], 2, 2, MixtureArrays(), scatter=False, accelerator=accelerator)]
    covariances = np.stack([np.eye(2)] * 2)
    mixture = MixtureParameters.from_covariances(STRUCTURES["full"], np.full(2, 0.5), np.eye(2), covariances)
    snapshot = Snapshot(1, {}, (FitState(1, {0: EMStart(mixture, accelerator=state)}),))
    made = snapshot_codec(kinds)
    written, arrays = dump(made, snapshot)
    if where is None:
        assert restore_snapshot(made, written, arrays, kinds).fits[0].starts[0].accelerator.bfgs.em_step.size == 12
    else:
        with pytest.raises(ValueError, match=r"has shape \(9,\); the mixture has 12 coordinates"):
            restore_snapshot(made, written, arrays, kinds)
