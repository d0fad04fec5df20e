"""Numbers, parameters and options that nobody should pass, and numbers of other dtypes, which anybody may pass.

Beside test_bad_input.py, which holds what people pass by mistake.
"""

import itertools
import os

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hostile import D, N, X, fit, good_store, refuse
from products import thinned
from sklearn_shared import GaussianMixture as Reference

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.cli import main
from daskgmm.config import compiled, timeout_seconds
from daskgmm.data.store_checks import MOST_ROWS
from daskgmm.errors import DataRangeError, InvalidWeightsError, StoreError, StoreNotFoundError, UnsupportedDataError
from daskgmm.names import COVARIANCE_TYPES

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(60),
]

STRUCTURES = list(COVARIANCE_TYPES)
HUGE = 10**400  # an int that no double holds


# ---- the same numbers in another dtype


def in_zarr(x):
    array = zarr.create_array(
        {}, shape=x.shape, dtype=x.dtype, chunks=(17, 2)[: x.ndim], config={"write_empty_chunks": True}
    )
    array[...] = x
    return array


KINDS = {
    "numpy": lambda x: x,
    "list": lambda x: x.tolist(),
    "dask": lambda x: da.from_array(x, chunks=(17, 2)[: x.ndim]),
    "zarr": in_zarr,
}
WHOLE = np.rint(X * 8)
SAME = {
    **{name: WHOLE.astype(name) for name in ["i1", "i2", "i4", "i8", ">i2", ">i8"]},
    **{name: (WHOLE - WHOLE.min()).astype(name) for name in ["u1", "u2", "u4", "u8"]},
    "bool": np.median(X, axis=0) < X,
    "float16": X.astype("f2"),
    "big-endian": X.astype(">f8"),
    "large integers": (WHOLE.astype("i8") << 40) + (1 << 52),  # all of them doubles
    "largest integers": np.uint64(2**63) + (np.abs(WHOLE).astype("u8") << np.uint64(12)),
    "widest float16": np.where(X > 3, 65504, -65504).astype("f2") * (np.abs(X) > 1),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same", SAME)
def test_the_same_numbers_give_the_same_bits(same, kind, structure):
    narrow = SAME[same]
    wide = narrow.astype(np.float64)
    assert narrow.dtype != wide.dtype
    options = {"covariance_type": structure, "n_components": 2, "random_state": 0, "max_iter": 5}
    one, other = (GaussianMixture(**options).fit(KINDS[kind](x)) for x in (narrow, wide))
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.means_.dtype == np.float64
    for method in ("predict", "predict_proba", "score_samples"):
        ours, theirs = (np.asarray(getattr(other, method)(KINDS[kind](x))) for x in (narrow, wide))
        np.testing.assert_array_equal(ours, theirs, err_msg=method)
        assert ours.dtype == theirs.dtype
    assert other.score(KINDS[kind](narrow)) == other.score(KINDS[kind](wide))


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize("dtype", ["bool", "u1", "i8", "f2", "f4", ">f8"])
def test_weights_of_any_dtype_are_the_same_weights(dtype, kind):
    weights = (np.arange(N) % 3 > 0).astype(dtype)
    one, other = (fit(X, KINDS[kind](w)) for w in (weights, weights.astype("f8")))
    np.testing.assert_array_equal(one.means_, other.means_)
    assert one.score(X, sample_weight=KINDS[kind](weights)) == other.score(X, sample_weight=weights.astype("f8"))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("same", ["i1", "u1", "bool", "float16"])
def test_and_they_are_what_the_reference_finds_in_doubles(same, structure):
    x = SAME[same]
    resp = Reference(2, covariance_type=structure, random_state=0, reg_covar=1e-3, max_iter=1, init_params="random")
    with np.errstate(all="ignore"):
        start = resp.fit(x.astype("f8"))
    given = {
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
        "covariance_type": structure,
        "reg_covar": 1e-3,
        "max_iter": 7,
        "tol": 0,
    }
    expected = Reference(2, **given).fit(x.astype("f8"))
    found = GaussianMixture(2, **given).fit(x)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.score_samples(x), expected.score_samples(x.astype("f8")), rtol=1e-7, atol=1e-9)


# ---- data that declare too much, or lie

LIES = {
    "text": lambda b: "x",
    "nothing": lambda b: None,
    "a number": lambda b: 7.0,
    "one dimension": lambda b: b[:, 0],
    "three dimensions": lambda b: b[None],
    "more rows": lambda b: np.concatenate([b, b]),
    "fewer rows": lambda b: b[1:],
    "more columns": lambda b: np.concatenate([b, b], axis=1),
    "no rows": lambda b: b[:0],
}


@pytest.mark.parametrize("method", ["fit", "score"])
@pytest.mark.parametrize("lie", LIES)
def test_blocks_that_are_not_what_a_dask_array_says(lie, method):
    change = LIES[lie]
    x = da.from_array(X, chunks=(20, D)).map_blocks(change, dtype=float, meta=X[:0])
    model = fit()
    refuse((ValueError, TypeError), r"expected|X", fit if method == "fit" else model.score, x)


@pytest.mark.parametrize("method", ["fit", "score", "predict"])
@pytest.mark.parametrize("chunk", [10**10, 10**12])
def test_more_rows_than_any_fit_comes_to_the_end_of(chunk, method):
    x = da.zeros((MOST_ROWS + chunk, D), chunks=(chunk, D))
    model = fit()
    function = fit if method == "fit" else getattr(model, method)
    refuse(UnsupportedDataError, r"X declares \d+ rows; expected 1e\+13 at most", function, x)


TOO_LARGE = {
    "rows of 1e308": np.sign(X) * 1e308,
    "rows of 1e200": X * 1e200,
    "one row of 1e300": np.vstack([X, [[1e300] * D]]),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # that something overflows is what they are about
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("case", TOO_LARGE)
def test_numbers_whose_squares_are_infinite_end_in_an_error(case, structure):
    x = TOO_LARGE[case]
    refuse(DataRangeError, "apart in feature 0.*Scale the feature", fit, x, covariance_type=structure)


EXTREME = {
    "tiny": X * 1e-200,
    "denormal": X * 1e-310,
    "least": np.sign(X) * 5e-324,
    "one value": X * 0 + 7,
    "one large value": X * 0 + 1e300,
    "zeros": X * 0,
    "two rows": np.repeat([[0.0] * D, [1.0] * D], N // 2, axis=0),
    "equal columns": np.c_[X, X],
    "an empty column": np.c_[X, X[:, 0] * 0],
    "large float32": (X * 1e37).astype("f4"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::daskgmm.errors.ReseedingWarning")
@pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning")  # there is but one distinct row
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("case", EXTREME)
def test_extreme_numbers_give_finite_answers(case, structure):
    x = EXTREME[case]
    model = GaussianMixture(2, covariance_type=structure, random_state=0, max_iter=20).fit(x)
    assert np.isfinite(model.means_).all()
    assert np.isfinite(model.score(x))
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-6)


# ---- parameters

BROADCAST = np.broadcast_to(0.5, (10**12, D))


def declared(*shape):
    """A dask array of that shape that nobody may compute: a block of it would take gigabytes."""

    def fail(block_info=None):
        raise AssertionError("a block was computed")

    rows = (shape[0] // 1000,) * 1000
    return da.map_blocks(fail, chunks=(rows, *shape[1:]), dtype=float, meta=np.empty((0,) * len(shape)))


PARAMETERS = [
    ("n_components", 10**30, "Expected n_samples >= n_components"),
    ("n_components", np.array(2), "n_components"),
    ("covariance_type", "full\0", "covariance_type"),
    ("covariance_type", ["full"], "covariance_type"),
    ("covariance_type", b"full", "covariance_type"),
    ("init_params", "KMEANS", "init_params"),
    ("tol", -HUGE, "tol"),
    ("tol", 1j, "tol"),
    ("random_state", HUGE, "random_state"),
    ("random_state", np.random.default_rng(0), "random_state"),
    ("weights_init", BROADCAST[:, 0], r"'weights' should have the shape of \(2,\), but got \(1000000000000,\)"),
    ("weights_init", declared(10**13), r"'weights' should have the shape of \(2,\)"),
    ("weights_init", [HUGE, 1 - HUGE], "'weights' should be an array of real numbers"),
    ("weights_init", [[0.5], [0.5, 1]], "'weights' should be an array of real numbers"),
    ("weights_init", {"a": 1}, "'weights' should be an array of real numbers"),
    ("means_init", BROADCAST, r"'means' should have the shape of \(2, 3\), but got \(1000000000000, 3\)"),
    ("means_init", declared(10**13, D), r"'means' should have the shape of \(2, 3\)"),
    ("means_init", zarr.create_array({}, shape=(10**12, D), dtype="f8"), r"'means' should have the shape of \(2, 3\)"),
    ("means_init", [[HUGE] * D] * 2, "'means' should be an array of real numbers"),
    ("means_init", [[np.nan] * D] * 2, "Input means contains NaN"),
    ("precisions_init", np.broadcast_to(1.0, (10**9, D, D)), r"'full precision' should have the shape of \(2, 3, 3\)"),
    ("callbacks", itertools.count(), "callbacks=count.*expected an iterable of callables"),
    ("callbacks", itertools.repeat(print), "callbacks=repeat.*at most 1000"),
    ("callbacks", [print] * 1001, "at most 1000"),
    ("callbacks", {"a": 1}, "callbacks"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"), PARAMETERS, ids=lambda v: ascii(v)[:30] if isinstance(v, str) else ""
)
def test_parameters(name, value, message):
    refuse((ValueError, TypeError), message, fit, **{name: value})


PRIORS = [
    *[
        (n, v)
        for n in ("weight_concentration_prior", "mean_precision_prior")
        for v in (HUGE, 0, -1, np.nan, np.inf, "x")
    ],
    *[("degrees_of_freedom_prior", v) for v in (HUGE, 2, 0, -1, np.nan, np.inf, "x")],
    *[("mean_prior", v) for v in ([np.nan] * D, [np.inf] * D, 5, "x", [1], declared(10**13))],
    *[("covariance_prior", v) for v in (-np.eye(D), np.zeros((D, D)), np.eye(D) * np.nan, "x", -1.0, BROADCAST)],
    *[("weight_concentration_prior_type", v) for v in ("x", None, ["dirichlet_process"])],
]


@pytest.mark.parametrize(("name", "value"), PRIORS, ids=lambda v: ascii(v)[:30] if isinstance(v, str) else "")
def test_priors(name, value):
    model = BayesianGaussianMixture(n_components=2, random_state=0, max_iter=2, **{name: value})
    refuse((ValueError, TypeError), "prior|means|precision", model.fit, X)


WEIGHTS = [
    (np.broadcast_to(1.0, (10**12,)), r"sample_weight.shape == \(1000000000000,\), expected \(60,\)"),
    (declared(10**15), r"sample_weight.shape == \(1000000000000000,\)"),
    (zarr.create_array({}, shape=(10**15,), dtype="f8"), r"sample_weight.shape == \(1000000000000000,\)"),
    ([HUGE] * N, "sample_weight has dtype object"),
    (["1"] * N, "sample_weight has dtype"),
    (np.full(N, 1e-320), "weights sum to"),
]


@pytest.mark.parametrize(("weights", "message"), WEIGHTS, ids=lambda v: "" if not isinstance(v, str) else v[:20])
def test_weights(weights, message):
    refuse((InvalidWeightsError, UnsupportedDataError), message, fit, X, weights)
    refuse((InvalidWeightsError, UnsupportedDataError), message, fit().score, X, sample_weight=weights)


# ---- configuration

NO_TIME = [
    "soon",
    "",
    "5 parsecs",
    -5,
    "-5s",
    "inf",
    "nan",
    np.nan,
    np.inf,
    HUGE,
    "1e999s",
    True,
    [],
    {},
    [5],
    "5s; rm -rf /",
]


@pytest.mark.parametrize("value", NO_TIME, ids=lambda v: ascii(v)[:20])
def test_a_timeout_that_is_none(value):
    with dask.config.set({"daskgmm.timeout": value}):
        refuse(ValueError, r"daskgmm\.timeout is .*; expected a length of time that ends", timeout_seconds, "10s")
        refuse(ValueError, r"daskgmm\.timeout is", fit, scheduler="tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 10), (3, 3), (0.5, 0.5), ("3s", 3), ("2min", 120), ("1.5 min", 90), ("2 minutes", 120), ("0s", 0)],
)
def test_a_timeout(value, seconds):
    with dask.config.set({"daskgmm.timeout": value}):
        assert timeout_seconds("10s") == seconds


@pytest.mark.parametrize(
    "value", ["maybe", "", 2, -1, [], {}, None, 0.5, np.array([1, 2])], ids=lambda v: ascii(v)[:20]
)
def test_a_switch_that_is_neither_on_nor_off(value):
    with dask.config.set({"daskgmm.compiled": value}):
        refuse(ValueError, r"daskgmm\.compiled is .*; expected True or False", compiled)
        refuse(ValueError, r"daskgmm\.compiled is", fit)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        ("false", False),
        ("no", False),
        ("off", False),
        ("0", False),
        (0, False),
        ("True", True),
    ],
)
def test_a_switch(value, expected):
    with dask.config.set({"daskgmm.compiled": value}):
        assert compiled() is expected


# ---- schedulers and the terminal

SCHEDULERS = [
    "tcp://",
    ":",
    "inproc://1",
    "foo://x:1",
    "tcp://[::1:1",
    "tls://x:1",
    "\0:1",
    "tcp://" + "a" * 10**4 + ":1",
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda v: ascii(v)[:20])
def test_schedulers(scheduler):
    with dask.config.set({"daskgmm.timeout": "1s"}):
        error = refuse(ValueError, "does not answer", fit, da.from_array(X), scheduler=scheduler)
    assert "\0" not in str(error) or scheduler.startswith("\0")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good_store(tmp_path)
    fit().save("m.zarr")
    np.save("huge.npy", np.zeros(1))
    with open("huge.npy", "r+b") as file:
        header = file.read().replace(b"'shape': (1,)", b"'shape': (1" + b"0" * 15 + b",)")
        file.seek(0)
        file.write(header)
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    os.mkfifo("pipe.npy")
    os.mkdir("folder.npy")
    (tmp_path / "text.npy").write_text("1 2 3")
    zarr.create_array("wide.zarr", shape=(10**12, D), dtype="f8", chunks=(10**6, D))
    return tmp_path


FIT = "fit x.zarr -k 2 --model n.zarr --quiet "
FILES = [
    "huge.npy",
    "objects.npy",
    "pipe.npy",
    "folder.npy",
    "text.npy",
    "nothing.npy",
    "wide.zarr",
    "/dev/zero",
    "m.zarr",
]
TERMINAL = {
    **{f"{name} for weights": (f"{FIT} --sample-weight {name}", 1, "error: ") for name in FILES},
    **{f"{name} for means": (f"{FIT} --means-init {name}", 1, "error: ") for name in FILES},
    "10**15 rows": ("sample m.zarr -n 1000000000000000 --output s.zarr", 1, "s.zarr cannot be written: it takes"),
    "10**30 rows": ("sample m.zarr -n " + "1" + "0" * 30 + " --output s.zarr", 1, "error: "),
    "NaN for a tolerance": (FIT + "--tol nan", 2, "tol"),
    "no size": (FIT + "--memory-limit 1e999GB", 2, "not a size"),
    "a negative size": (FIT + "--memory-limit -5GB", 2, "not a size"),
    "no seed": (FIT + "--random-state 99999999999999999999", 2, "not in the range"),
    "an output that is an input": ("predict x.zarr --model m.zarr --output x.zarr --overwrite", 1, "x.zarr"),
    "an output that is the model": ("predict x.zarr --model m.zarr --output m.zarr --overwrite", 1, "m.zarr"),
    "an output in an array": ("predict x.zarr --model m.zarr --output x.zarr::y", 2, "store of its own"),
    "an output on a device": ("predict x.zarr --model m.zarr --output /dev/null", 1, "exists already"),
    "a device to replace": ("predict x.zarr --model m.zarr --output /dev/null --overwrite", 1, "not a results"),
    "an output in a device": ("predict x.zarr --model m.zarr --output /dev/null/x", 1, "is a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", thinned(TERMINAL))
def test_the_terminal(case, here, capsys):
    words, status, message = TERMINAL[case]
    before = sorted(os.listdir())
    assert main(words.split()) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert "pickle" not in err or "allow_pickle" in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("command", ["fit {} -k 2 --model n.zarr", "inspect {}", "score x.zarr --model {}"])
@pytest.mark.parametrize("name", ["\x1b[2J", "x\x1b]0;title\x07", "a\nb", "a\rb", "\u202egpj"], ids=ascii)
def test_nothing_steers_the_terminal(name, command, here, capsys):
    assert main([name if word == "{}" else word for word in command.split()]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not set("\x1b\x07\r\u202e") & set(err)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(
    "what", ["x.zarr", "x.zarr/zarr.json", "x.zarr/c/1/0", "m.zarr/zarr.json", "m.zarr/means/c/0/0"]
)
def test_without_permission(what, here, capsys):
    os.chmod(what, 0)
    try:
        assert main(["score", "x.zarr", "--model", "m.zarr", "--quiet"]) == 1
        assert "ermission" in capsys.readouterr().err
    finally:
        os.chmod(what, 0o700)


def test_an_address_that_is_none():
    for address in (5, b"x.zarr", None):
        with pytest.raises((TypeError, ValueError, StoreError, StoreNotFoundError)):
            fit(address)
