"""Model files that somebody has edited, with checksums that fit again: numbers, types, sizes and places are checked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hostile import D, N, X, edit_json, good_store, refuse
from products import thinned

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture, jobs
from daskgmm.cli import main
from daskgmm.errors import ModelFormatError, StoreNotFoundError
from daskgmm.inspection import store_record
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.persistence import layout

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(60),
]

STRUCTURES = list(COVARIANCE_TYPES)
K = 2


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A saved model of each structure, and a Bayesian one."""
    folder = tmp_path_factory.mktemp("models")
    kinds = {name: GaussianMixture(K, covariance_type=name, random_state=0) for name in STRUCTURES}
    kinds["bayesian"] = BayesianGaussianMixture(n_components=K, random_state=0, max_iter=300)
    for name, model in kinds.items():
        model.fit(X).save(folder / f"{name}.zarr")
    return folder


@pytest.fixture
def saved(originals, tmp_path):
    """A function that copies one of them."""

    def copied(name="full"):
        shutil.copytree(originals / f"{name}.zarr", tmp_path / "m.zarr", dirs_exist_ok=True)
        return tmp_path / "m.zarr"

    return copied


def seal(path, change=lambda attributes: None):
    """Edit the attributes, and make their checksum fit again."""

    def sealed(metadata):
        attributes = metadata["attributes"]["daskgmm"]
        change(attributes)
        if isinstance(attributes.get("checksums"), dict):
            attributes["checksums"]["attributes"] = layout.digest(attributes)

    return edit_json(path, sealed)


def put_array(group, name, values):
    """As models have them: one chunk, uncompressed."""
    plain = {"compressors": None, "config": {"write_empty_chunks": True}}
    chunks = tuple(max(1, n) for n in values.shape)
    group.create_array(name, shape=values.shape, chunks=chunks, dtype=values.dtype, **plain)[...] = values


def replace(path, name, values):
    """Put another array in the place of one, with the right checksum."""
    values = np.asarray(values)
    group = zarr.open_group(path, mode="r+")
    del group[name]
    put_array(group, name, values)
    return seal(path, lambda a: a["checksums"].update({name: layout.checksum(values)}))


def stored(path, name):
    return zarr.open_group(path, mode="r")[name][...]


def refused(path, message):
    """Whoever reads a model refuses it alike: load, inspection, prediction, scoring, a warm start, drawing."""
    error = refuse(ModelFormatError, message, daskgmm.load, path)
    assert "m.zarr" in str(error)
    for function in (
        lambda: store_record(str(path)),
        lambda: jobs.predict(jobs.Rows(str(path)), str(path), f"{path}.out"),
        lambda: jobs.score(jobs.Rows(str(path)), str(path)),
        lambda: jobs.sample(str(path), 3, f"{path}.out"),
    ):
        refuse(ModelFormatError, message, function)
    rows = good_store(path.parent, "rows.zarr")
    refuse(
        ModelFormatError,
        message,
        lambda: jobs.fit(jobs.Rows(str(rows)), f"{path}.new", {}, warm_start=str(path)),
    )
    assert sorted(os.listdir(path.parent)) == ["m.zarr", "rows.zarr"]


# ---- attributes

DEEP = json.loads("[" * 300 + "]" * 300)
NO_NUMBER = ["7", None, [7], {"n": 7}, 7.5, True, -1, float("nan"), float("inf"), DEEP]


NAN, INF = float("nan"), float("inf")

PASSED = {
    "start": 0,
    "n_iter": 1,
    "lower_bound": None,
    "n_rows": 9,
    "bytes_read": 9,
    "bytes_cached": 0,
    "seconds": 1.0,
    "arithmetic": "",
}

# Values by the field of `fitted` that they are put into, and what is read then.
FITTED = {
    "n_iter": (NO_NUMBER, "n_iter"),
    "n_passes": (NO_NUMBER, "n_passes"),
    "n_components": ([*NO_NUMBER, 0], "n_components"),
    "n_features_in": ([*NO_NUMBER, 0], "n_features_in"),
    "converged": (["yes", 1, 0, None, [], {}], "converged is"),
    "lower_bound": ([None, "high", "nan", "inf", 5, True, [], NAN, INF], "lower_bound"),
    "lower_bounds": ([None, 5, "x", {}, [None], [[1.0]], ["nan"], ["inf"], [True], [NAN]], "lower_bounds"),
    "dtype": (["object", "O", None, 8, "float16", "f8", ["float64"]], "dtype is"),
    "covariance_type": (["FULL", None, 3, ["full"], {}, "full\0"], "covariance_type"),
    "feature_names_in": (
        ["abc", ["a"], ["a"] * 4, [1, 2, 3], [None] * 3, {}, 5, ["a", "b", "\ud800"]],
        "feature_names_in",
    ),
    "history": (
        [None, 5, "x", "", {}, [5], [{}], [{"kind": "os.system"}], [{**PASSED, "kind": "\x1b[2J"}], [[]], DEEP],
        "history",
    ),
}

DATE = "2026-01-31T12:00:00+00:00"
ARRAY = {"kind": "Zarr array", "address": "/data.zarr", "shape": [N, D], "dtype": "float64"}
ORIGIN = {"date": DATE, "data": ARRAY, "sample_weight": None}
ODD_ARRAYS = [
    *({"kind": value} for value in ["pickle", None, 5, ["Zarr array"], DEEP]),
    *({"address": value} for value in [5, [], {}, "\x1b[2J", "x" * 5000, "\ud800", "a\nb", DEEP]),
    *({"shape": value} for value in [None, 5, "ab", [], [N], [N, D + 1], [N, D, 1], [0, D], [-1, D], [True, D], DEEP]),
    *({"shape": value} for value in [[1e3, D], [10**400, D], [float("nan"), D], {}, [[N], D]]),
    *({"dtype": value} for value in [None, 5, "", "object; import os", "x" * 99, "\ud800", ["float64"], DEEP]),
    {"__class__": "x"},
]

# The same for the attributes themselves.
ATTRIBUTES = {
    "format_version": ([0.5, "1", None, [], True, -1, 10**30], "format_version"),
    "estimator": (["os.system", "__class__", "BaseMixture", None, 5, ["GaussianMixture"], {}], "estimator"),
    "fitted": ([None, [], "x", 5], "fitted is missing"),
    "origin": (
        [
            *(None, [], "x", 5, {}, DEEP, {"date": DATE}, {**ORIGIN, "more": 1}, {**ORIGIN, "data": None}),
            *({**ORIGIN, "date": value} for value in ["today", None, 5, f"{DATE} ", "2026-13-01T00:00:00+00:00", DEEP]),
            *({**ORIGIN, "sample_weight": value} for value in [5, [], {}, "x", {**ARRAY, "shape": [N + 1]}, ARRAY]),
            *({**ORIGIN, "data": {**ARRAY, **change}} for change in ODD_ARRAYS),
        ],
        "origin",
    ),
    "checksums": ([None, [], "x", 5], "checksums is missing"),
    "parameters": (
        [
            *(None, [], "x", 5),
            {"callbacks": ["os.system"]},
            {"scheduler": "tcp://evil:1"},
            {"__class__": "x"},
            {"self": 1},
            {"\ud800": 1},
            {"means_init": [[0]]},
        ],
        "parameters",
    ),
}

# And for the constructor's parameters.
PARAMETERS = {
    "n_components": [0, -1, 1.5, "2", None, DEEP],
    "tol": [-1, "x", "nan", None],
    "reg_covar": [-1, "inf", None],
    "max_iter": [-1, "x"],
    "random_state": [-1, 2**32, "x", 1.5],
    "covariance_type": ["round", 5],
    "init_params": ["os.system"],
    "warm_start": ["yes", 1],
    "verbose": [-1, "x"],
    "verbose_interval": [0],
}

CHECKSUMS = [5, DEEP, "x", None]


def rows_of(table):
    return [(name, value, message) for name, (values, message) in table.items() for value in values]


def short(value):
    return ascii(value)[:30]


@pytest.mark.parametrize(("name", "value", "message"), thinned(rows_of(FITTED)), ids=short)
def test_what_was_fitted(name, value, message, saved):
    path = seal(saved(), lambda a: a["fitted"].update({name: value}))
    refuse(ModelFormatError, rf"m\.zarr: ({message})", daskgmm.load, path)


@pytest.mark.parametrize(("name", "value", "message"), thinned(rows_of(ATTRIBUTES)), ids=short)
def test_attributes(name, value, message, saved):
    path = seal(saved(), lambda a: a.update({name: value}))
    refuse(ModelFormatError, rf"m\.zarr: ({message})", daskgmm.load, path)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in PARAMETERS.items() for v in vs], ids=short)
def test_parameters(name, value, saved):
    path = seal(saved(), lambda a: a["parameters"].update({name: value}))
    refuse(ModelFormatError, f"parameters are not valid: .*{name}", daskgmm.load, path)


@pytest.mark.parametrize("value", CHECKSUMS, ids=short)
def test_checksums(value, saved):
    path = seal(saved(), lambda a: a["checksums"].update(means=value))
    refuse(ModelFormatError, "means does not match its checksum", daskgmm.load, path)
    path = seal(saved(), lambda a: a["checksums"].update(weights_init=value))
    refuse(ModelFormatError, "weights_init is missing", daskgmm.load, path)


@pytest.mark.parametrize(
    "writer", ["9.9", "1'; rm -r ~; '", "1 --index-url=https://evil", "9" * 99, None, 5, "\x1b[2J"]
)
def test_no_file_says_what_to_type(writer, saved):
    """Whoever copies the advice of the message runs it: a version, or nothing, of the file is in it."""
    path = seal(saved(), lambda a: a.update(format_version=99, daskgmm_version=writer))
    error = refuse(ModelFormatError, "reads up to 1", daskgmm.load, path)
    wanted = f"daskgmm>={writer}" if writer in ("9.9", 5) else "--upgrade daskgmm"
    assert str(error).endswith(f": pip install '{wanted}'")


def test_a_name_that_would_steer_the_terminal(tmp_path):
    zarr.create_group(tmp_path / "\x1b[2J")
    error = refuse(ModelFormatError, r"/\?\[2J is a Zarr group, and no model", daskgmm.load, tmp_path / "\x1b[2J")
    assert "\x1b" not in str(error)


def test_every_reader_refuses_alike(saved):
    refused(seal(saved(), lambda a: a["fitted"].update(converged="yes")), "converged is 'yes'")


OTHERS = [None, [], "x", 5, {}, {"daskgmm": None}, {"daskgmm": []}, {"daskgmm": DEEP}]
OTHERS += [{"daskgmm": {"format": name}} for name in ("model", ["model"], None, "results", "\x1b[2J")]


@pytest.mark.parametrize("attributes", OTHERS, ids=short)
def test_attributes_of_another_kind(attributes, saved):
    path = edit_json(saved(), lambda m: m.update(attributes=attributes))
    refuse(ModelFormatError, r"m\.zarr", daskgmm.load, path)


# ---- numbers


def far(values):
    return values + 1e6 * np.abs(values).max()


NUMBERS = {
    "weights that do not sum to one": (
        "full",
        "weights",
        lambda w: w * 1.001,
        "have to sum to one, and none may be negative",
    ),
    "a negative weight": ("full", "weights", lambda w: np.array([1.5, -0.5]), "none may be negative"),
    "weights of NaN": ("full", "weights", lambda w: w * np.nan, "weights contain NaN"),
    "infinite weights": ("full", "weights", lambda w: np.array([np.inf, 1]), "weights contain NaN or infinity"),
    "weights of zero": ("full", "weights", lambda w: w * 0, "sum to one"),
    "weights in two dimensions": ("full", "weights", lambda w: w[None], r"weights has shape \(1, 2\); expected \(2,\)"),
    "no weights": ("full", "weights", lambda w: w[:0], r"weights has shape \(0,\)"),
    "means of NaN": ("full", "means", lambda m: m * np.nan, "means contain NaN"),
    "infinite means": ("full", "means", lambda m: m + np.inf, "means contain NaN or infinity"),
    "transposed means": ("full", "means", lambda m: m.T.copy(), r"means has shape \(3, 2\); expected \(2, 3\)"),
    "complex means": ("full", "means", lambda m: m * 1j, "means has dtype complex128"),
    "half-precision means": ("full", "means", lambda m: m.astype("f2"), "means has dtype float16"),
    "means of integers": ("full", "means", lambda m: m.astype("i8"), "means has dtype int64"),
    **{
        f"{what} covariances, {name}": (name, "covariances", change, message)
        for name in STRUCTURES
        for what, change, message in [
            ("negative", lambda c: -c, "covariances are not positive definite"),
            ("zero", lambda c: c * 0, "covariances are not positive definite"),
            ("NaN", lambda c: c * np.nan, "covariances contain NaN"),
            ("larger", lambda c: c * 1.01, "precisions_cholesky do not belong to the covariances"),
            ("huge", lambda c: c * 1e300, "precisions_cholesky do not belong to the covariances"),
        ]
    },
    **{
        f"{what} factors, {name}": (name, "precisions_cholesky", change, message)
        for name in STRUCTURES
        for what, change, message in [
            ("negative", lambda u: -u, "precisions_cholesky are no Cholesky factors"),
            ("zero", lambda u: u * 0, "precisions_cholesky are no Cholesky factors"),
            ("infinite", lambda u: u + np.inf, "precisions_cholesky contain NaN"),
            ("larger", lambda u: u * 1.001, "precisions_cholesky do not belong to the covariances"),
        ]
    },
    "a covariance that is not symmetric": (
        "full",
        "covariances",
        lambda c: c + 0.1 * np.triu(np.ones((D, D)), 1),
        "covariances are not symmetric",
    ),
    "a tied one": ("tied", "covariances", lambda c: c + 0.1 * np.triu(np.ones((D, D)), 1), "are not symmetric"),
    "factors below the diagonal": (
        "full",
        "precisions_cholesky",
        lambda u: u + np.tril(np.ones((D, D)), -1),
        "do not belong to the covariances",
    ),
    "the other component's factors": ("full", "precisions_cholesky", lambda u: u[::-1].copy(), "do not belong"),
    "negative counts": ("bayesian", "weight_concentration", lambda c: -c, "has to be positive"),
    "NaN counts": ("bayesian", "mean_precision", lambda c: c * np.nan, "contain NaN"),
    "few degrees of freedom": ("bayesian", "degrees_of_freedom", lambda c: c * 0 + 1, "has to be greater than 2"),
    "a prior of NaN": ("bayesian", "prior_mean", lambda c: c * np.nan, "contain NaN"),
    "larger posterior covariances": ("bayesian", "covariances", lambda c: c * 1.01, "do not belong"),
}


@pytest.mark.parametrize("case", thinned(NUMBERS))
def test_numbers(case, saved):
    kind, name, change, message = NUMBERS[case]
    path = saved(kind)
    refuse(ModelFormatError, message, daskgmm.load, replace(path, name, change(stored(path, name))))


@pytest.mark.parametrize("kind", [*STRUCTURES, "bayesian"])
def test_an_untouched_model_is_loaded(kind, saved, originals):
    np.testing.assert_array_equal(
        daskgmm.load(saved(kind)).predict_proba(X), daskgmm.load(originals / f"{kind}.zarr").predict_proba(X)
    )


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scale", [1e-150, 1e-9, 1e9, 1e150])
def test_factors_and_covariances_belong_together_in_any_units(structure, scale, tmp_path):
    x = X * scale
    model = GaussianMixture(K, covariance_type=structure, random_state=0, reg_covar=0).fit(x)
    model.save(tmp_path / "m.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m.zarr").means_, model.means_)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_factors_and_covariances_of_badly_conditioned_mixtures_belong_together(structure, tmp_path):
    x = X * [1, 1e-6, 1e6]
    x[:, 1] = x[:, 2] * 1e-9 + 1e-9 * X[:, 1]
    model = GaussianMixture(K, covariance_type=structure, random_state=0, reg_covar=1e-20).fit(x)
    model.save(tmp_path / "m.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m.zarr").means_, model.means_)
    changed = daskgmm.load(tmp_path / "m.zarr")
    changed.precisions_cholesky_ = changed.precisions_cholesky_ * 2
    changed.save(tmp_path / "m2.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m2.zarr").predict(x), changed.predict(x))


def test_arrays_of_zeros_are_stored(tmp_path):
    """Zarr leaves out what is nothing but zeros, and a file of metadata does not make up for a large one."""
    means = np.zeros((1, 400))
    x = np.random.RandomState(0).normal(size=(900, 400))
    GaussianMixture(1, covariance_type="diag", means_init=means).fit(x).save(tmp_path / "m.zarr")
    assert (tmp_path / "m.zarr" / "means_init" / "c" / "0" / "0").stat().st_size == means.nbytes
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m.zarr").means_init, means)


@pytest.mark.parametrize(
    "error",
    [KeyError("https://me:secret@host/m"), IndexError(), AttributeError("x"), RecursionError(), MemoryError()],
    ids=repr,
)
def test_what_no_check_foresees_is_an_error_of_the_file(error, saved, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("daskgmm.core.state_arrays.matrices_problem", fail)
    told = refuse(ModelFormatError, rf"m\.zarr is damaged \({type(error).__name__}", daskgmm.load, saved())
    assert "secret" not in str(told)


# ---- sizes and places


def declared(k):
    """Everything says that there are so many components, and sparse files as large as that lie there."""

    def change(path):
        for name, shape in (("weights", [k]), ("means", [k, D]), ("covariances", [k, D, D])):
            grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
            edit_json(path / name, lambda m, shape=shape, grid=grid: m.update(shape=shape, chunk_grid=grid))
            chunk = path.joinpath(name, "c", *["0"] * len(shape))
            os.truncate(chunk, 8 * int(np.prod(shape)))
        seal(path, lambda a: (a["fitted"].update(n_components=k), a["parameters"].update(n_components=k)))

    return change


def instead(at, make):
    def change(path):
        target = path / at
        moved = path.parent / "moved"
        target.rename(moved)
        make(target, moved)

    return change


def elsewhere(target, moved):
    target.symlink_to(moved)


def of_means(change):
    return lambda path: edit_json(path / "means", change)


def in_format_2(path):
    """The same model in Zarr format 2, whose documents have other names."""
    group = zarr.open_group(path, mode="r")
    attributes, arrays = dict(group.attrs), {name: array[...] for name, array in group.arrays()}
    shutil.rmtree(path)
    group = zarr.create_group(path, zarr_format=2, attributes=attributes)
    for name, values in arrays.items():
        put_array(group, name, values)


GZIP = {"name": "gzip", "configuration": {"level": 1}}

PLACES = {
    "a terabyte of nothing": (declared(10**11), "weights declares 800000000000 bytes, and this machine has"),
    "a chunk of a terabyte": (
        lambda p: os.truncate(p / "weights/c/0", 10**12),
        "weights declares 16 bytes, and 10{12} are",
    ),
    "a longer chunk": (lambda p: os.truncate(p / "means/c/0/0", 49), "means declares 48 bytes, and 49 are stored"),
    "a shorter chunk": (lambda p: os.truncate(p / "means/c/0/0", 47), "means declares 48 bytes, and fewer are stored"),
    "no chunk": (lambda p: (p / "means/c/0/0").unlink(), "means does not match its checksum"),
    "a pipe for a chunk": (instead("means/c/0/0", lambda t, m: os.mkfifo(t)), "means cannot be read .*is a pipe"),
    "a folder for a chunk": (instead("means/c/0/0", lambda t, m: t.mkdir()), "means cannot be read .*is a directory"),
    "a pipe for metadata": (instead("means/zarr.json", lambda t, m: os.mkfifo(t)), "means cannot be read .*is a pipe"),
    "a device for metadata": (
        instead("means/zarr.json", lambda t, m: t.symlink_to("/dev/zero")),
        "means cannot be read .*device",
    ),
    "a pipe for the group": (instead("zarr.json", lambda t, m: os.mkfifo(t)), "is no model.* is a pipe"),
    "a device for the group": (
        instead("zarr.json", lambda t, m: t.symlink_to("/dev/zero")),
        "is no model.* is a device",
    ),
    "an array elsewhere": (instead("means", elsewhere), r"means is a link \(.*means\); what is in a model"),
    "metadata elsewhere": (instead("means/zarr.json", elsewhere), "means is a link"),
    "a chunk elsewhere": (instead("means/c/0/0", elsewhere), "means is a link"),
    "a chunk in a folder elsewhere": (instead("means/c/0", elsewhere), "means is a link"),
    "chunks elsewhere": (instead("means/c", elsewhere), "means is a link"),
    "a file for an array": (instead("means", lambda t, m: t.write_text("x")), "means is missing|means cannot be read"),
    "no array": (lambda p: shutil.rmtree(p / "means"), "means is missing"),
    "a group for an array": (of_means(lambda m: {"zarr_format": 3, "node_type": "group"}), "means is a group"),
    "compression": (of_means(lambda m: m["codecs"].append(GZIP)), "not stored as one uncompressed"),
    "an unknown codec": (of_means(lambda m: m["codecs"].append({"name": "evil"})), "means cannot be read"),
    "format 2": (in_format_2, "is not stored as one uncompressed chunk of Zarr format 3"),
    "another chunk": (of_means(lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[1, D])), "not stored as"),
    "a dtype of objects": (of_means(lambda m: m.update(data_type="object")), "means cannot be read"),
    "a dtype of text": (of_means(lambda m: m.update(data_type="string")), "means (cannot be read|has dtype)"),
    "a negative shape": (of_means(lambda m: m.update(shape=[-2, D])), "means cannot be read"),
    "a shape of 2**70": (of_means(lambda m: m.update(shape=[2**70, D])), "means has shape"),
    "metadata of nothing": (lambda p: (p / "means/zarr.json").write_text(""), "means cannot be read"),
    "metadata of brackets": (lambda p: (p / "means/zarr.json").write_text("[" * 10**5), "means cannot be read"),
    "metadata in no UTF-8": (lambda p: (p / "means/zarr.json").write_bytes(b"\xff\xfe\x00"), "means cannot be read"),
}


@pytest.mark.parametrize("place", PLACES)
def test_places(place, saved):
    change, message = PLACES[place]
    path = saved()
    change(path)
    refuse(ModelFormatError, message, daskgmm.load, path)


def test_a_link_to_a_model_is_a_model(saved, tmp_path):
    path = saved()
    (tmp_path / "link.zarr").symlink_to(path)
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "link.zarr").means_, daskgmm.load(path).means_)


@pytest.mark.parametrize("address", ["", "\0", "::", "\ud800", "/dev/zero", "evil://x", "memory://", "x" * 10**5])
def test_addresses(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse((ModelFormatError, StoreNotFoundError), "nothing at|no Zarr|empty|is no model", daskgmm.load, address)


def test_the_terminal_tells_it_in_one_line(saved, capsys):
    path = replace(saved(), "weights", np.array([np.nan, 1]))
    rows = good_store(Path(path).parent, "rows.zarr")
    for arguments in (
        ["inspect", path],
        ["predict", rows, "--model", path, "--output", f"{path}.o"],
        ["score", rows, "--model", path],
        ["sample", path, "-n", 3, "--output", f"{path}.o"],
        ["fit", rows, "--warm-start", path, "--model", f"{path}.n"],
        ["fit", rows, "--warm-start", path, "--plan"],
    ):
        assert main([str(a) for a in arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"error: {path}: weights contain NaN or infinity\n"
