"""Attributes say how stored numbers are to be read, and they are read with the bits that xarray gives them."""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from daskgmm import GaussianMixture, open_zarr
from daskgmm.cli import main
from daskgmm.data.inputs import resolve
from daskgmm.errors import (
    DataChangedError,
    InvalidWeightsError,
    MissingChunkError,
    NonFiniteDataError,
    StoreError,
    UnsupportedDataError,
)
from daskgmm.results import write_predictions

pytestmark = [pytest.mark.covering, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

N, ROWS = 600, 100
_rng = np.random.default_rng(0)
X = np.concatenate([_rng.normal(280, 1, (N // 2, 2)), _rng.normal(300, 2, (N // 2, 2))])
_rng.shuffle(X)

PACKED = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 290.0, "_FillValue": -32768}


def in_xarray(path, values, encoding, zarr_format):
    dims = ("row", "band")[: values.ndim]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata in format 3
        xr.Dataset({"x": (dims, values)}).to_zarr(
            path, encoding={"x": {"chunks": (ROWS, 1)[: values.ndim], **encoding}}, zarr_format=zarr_format
        )
        return xr.open_zarr(path)["x"]


def plain(path, attributes, x=None, **layout):
    x = np.arange(2 * N, dtype="i2").reshape(N, 2) if x is None else x
    zarr.create_array(path, data=x, chunks=(ROWS, 2)[: x.ndim], attributes=attributes, **layout)
    return path


def fit(data, **more):
    return GaussianMixture(2, random_state=0, max_iter=3, tol=0).fit(data, **more)


ENCODINGS = {
    "scale and offset": {"scale_factor": 0.5, "add_offset": 250.0},
    "scale": {"scale_factor": 2.0},
    "offset": {"add_offset": 250.0},
    "fill value": {"_FillValue": 9},
    "missing value": {"missing_value": 9, "add_offset": 200.0},
    "all": {"_FillValue": 9, "scale_factor": 0.5, "add_offset": 250.0},
    "fill value NaN": {"_FillValue": np.nan, "scale_factor": 0.5},
    "unsigned": {"_FillValue": 250, "_Unsigned": "true", "scale_factor": 1.0, "add_offset": 200.0},
}


def is_possible(name, dtype):
    if np.dtype(dtype).kind == "f":
        return True
    return name != "fill value NaN" and (dtype != "int8" or "add_offset" in ENCODINGS[name])


CASES = [
    (name, dtype)
    for name in ENCODINGS
    for dtype in ("int8", "uint16", "int32", "float32", "float64")
    if is_possible(name, dtype)
]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_have_the_bits_and_the_dtype_of_xarray(name, dtype, zarr_format, tmp_path):
    encoding = ENCODINGS[name] | {"dtype": dtype}
    expected = in_xarray(tmp_path / "x.zarr", X, encoding, zarr_format)
    source = resolve(tmp_path / "x.zarr")
    values = source.handle[:]
    np.testing.assert_array_equal(values, expected.values)
    assert values.dtype == source.dtype == expected.dtype


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("how", ["path", "array", "group", "opened"])
def test_every_method_reads_decoded_values(how, zarr_format, tmp_path):
    path = tmp_path / "x.zarr"
    x = in_xarray(path, X, PACKED, zarr_format).values
    data = {
        "path": lambda: path,
        "array": lambda: f"{path}::x",
        "group": lambda: zarr.open_group(path, mode="r"),
        "opened": lambda: open_zarr(path),
    }[how]()
    model, expected = fit(data), fit(x)
    np.testing.assert_array_equal(model.means_, expected.means_)
    assert np.abs(np.sort(model.means_[:, 0]) - [280, 300]).max() < 1
    np.testing.assert_array_equal(model.predict(data).compute(), expected.predict(x))
    assert model.score_samples(data).dtype == expected.score_samples(x).dtype
    assert model.score(data) == pytest.approx(expected.score(x), rel=1e-13)
    write_predictions(model, data, tmp_path / "out.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr/labels")[:], expected.predict(x))


def test_single_precision_where_it_holds_every_integer(tmp_path):
    in_xarray(tmp_path / "x.zarr", X, {"dtype": "int16", "_FillValue": -1}, 2)
    assert fit(tmp_path / "x.zarr").means_.dtype == np.float32


METHODS = {
    "fit": lambda model, path, folder: fit(path),
    "predict": lambda model, path, folder: model.predict(path).compute(scheduler="synchronous"),
    "score": lambda model, path, folder: model.score(path),
    "write": lambda model, path, folder: write_predictions(model, path, folder / "out.zarr"),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_with_a_missing_value_is_named(method, zarr_format, tmp_path):
    values = X.copy()
    values[[372, 333], [0, 1]] = np.nan  # in one chunk
    in_xarray(tmp_path / "x.zarr", values, PACKED, zarr_format)
    message = r'NaN in row 333: .*x\.zarr/x stores -32768, which its attributes declare to mean "missing"'
    with pytest.raises(NonFiniteDataError, match=message) as caught:
        METHODS[method](fit(X), tmp_path / "x.zarr", tmp_path)
    assert caught.value.row == 333


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("number", [1e20, 9.96921e36, 0.1, -9999.9])
def test_numbers_in_attributes_mean_those_of_the_stored_precision(number, attribute, zarr_format, tmp_path):
    x = X.astype("f4")
    x[333, 1] = number
    path = plain(tmp_path / "x.zarr", {attribute: [number, 1e300]}, x, zarr_format=zarr_format)
    with pytest.raises(NonFiniteDataError, match=r'NaN in row 333: .* declare to mean "missing"') as caught:
        fit(path)
    assert "xarray" in str(caught.value)  # in the stored numbers there is no NaN to look for
    assert "isnan" not in str(caught.value)


def test_of_rows_that_are_missing_and_infinite_the_first_is_named(tmp_path):
    values = X.copy()
    values[20, 0], values[50, 0] = np.inf, np.nan
    in_xarray(tmp_path / "x.zarr", values, {"_FillValue": 1e20}, 3)
    with pytest.raises(NonFiniteDataError, match=r"infinity in row 20\."):
        fit(tmp_path / "x.zarr")


def test_the_fill_value_of_format_2_counts_where_xarray_wrote_it(tmp_path):
    """Zarr itself gives every array of that format the fill value 0, which means nothing."""
    zeros = np.where(np.arange(2 * N).reshape(N, 2) % 7, X, 0)
    np.testing.assert_array_equal(fit(plain(tmp_path / "z.zarr", {}, zeros, zarr_format=2)).means_, fit(zeros).means_)
    dimensions = {"_ARRAY_DIMENSIONS": ["row", "band"]}
    with pytest.raises(NonFiniteDataError, match=r"row 0: .* stores 0"):
        fit(plain(tmp_path / "x.zarr", dimensions, zeros, zarr_format=2))


def test_a_chunk_that_is_not_there_is_missed_whatever_its_values_mean(tmp_path):
    in_xarray(tmp_path / "x.zarr", X, PACKED, 2)
    (tmp_path / "x.zarr" / "x" / "4.0").unlink()
    with pytest.raises(MissingChunkError, match=r"Rows 400 to 500 .* the fill value -32768"):
        fit(f"{tmp_path}/x.zarr::x")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_weights_are_decoded(zarr_format, tmp_path):
    weights = np.arange(N) % 5 + 0.5
    in_xarray(tmp_path / "w.zarr", weights, {"dtype": "uint8", "scale_factor": 0.5, "_FillValue": 255}, zarr_format)
    expected = fit(X, sample_weight=weights)
    np.testing.assert_array_equal(fit(X, sample_weight=tmp_path / "w.zarr").means_, expected.means_)
    weights[7] = np.nan
    in_xarray(tmp_path / "v.zarr", weights, {"dtype": "uint8", "scale_factor": 0.5, "_FillValue": 255}, zarr_format)
    with pytest.raises(InvalidWeightsError, match=r"sample_weight contains a missing value in row 7: .* stores 255"):
        fit(X, sample_weight=tmp_path / "v.zarr")


def test_the_terminal_reads_decoded_values(tmp_path, capsys):
    x = in_xarray(tmp_path / "x.zarr", X, PACKED, 3).values
    path, model = str(tmp_path / "x.zarr"), str(tmp_path / "m.zarr")
    assert main(["fit", path, "-k", "1", "--model", model, "--quiet", "--json"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["means"], [x.mean(axis=0)], rtol=1e-12)
    assert main(["inspect", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["arrays"]["x"]
    assert told["dtype"] == "int16"
    assert told["values"] == {"dtype": "float64", "scale_factor": 0.01, "add_offset": 290.0, "missing": [-32768]}
    assert main(["inspect", path]) == 0


MEANINGLESS = {
    "a text": ({"scale_factor": "0.01"}, "scale_factor is '0.01'; expected one finite number"),
    "zero": ({"scale_factor": 0}, "scale_factor is 0; expected a number other than 0"),
    "infinite": ({"scale_factor": float("inf")}, "scale_factor is inf"),
    "two": ({"add_offset": [1.0, 2.0]}, r"add_offset is \[1.0, 2.0\]"),
    "lists": ({"add_offset": [[1], [2, 3]]}, "add_offset"),
    "a mapping": ({"missing_value": {"a": 1}}, "missing_value is {'a': 1}"),
    "no numbers": ({"missing_value": []}, "missing_value"),
    "too many": ({"missing_value": list(range(1000))}, "missing_value"),
    "too large": ({"scale_factor": 10**400}, "scale_factor"),
    "a fill value in words": ({"_FillValue": "none"}, "_FillValue is 'none'"),
    "neither": ({"_Unsigned": "perhaps"}, "_Unsigned is 'perhaps'; expected 'true' or 'false'"),
}


@pytest.mark.parametrize("name", MEANINGLESS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_without_meaning_are_named(name, zarr_format, tmp_path):
    attributes, message = MEANINGLESS[name]
    path = plain(tmp_path / "x.zarr", attributes, zarr_format=zarr_format)
    with pytest.raises(StoreError, match=message) as caught:
        fit(path)
    assert "xarray" in str(caught.value)
    assert main(["inspect", str(path)]) == 0


def test_a_fill_value_of_floats_in_words(tmp_path):
    with pytest.raises(StoreError, match="_FillValue is 'none'; expected a number, or xarray's base64 form"):
        fit(plain(tmp_path / "x.zarr", {"_FillValue": "none"}, X))


@pytest.mark.parametrize("attributes", [{"units": "days since 2000-01-01"}, {"units": "s", "dtype": "timedelta64[ns]"}])
def test_times_are_no_numbers(attributes, tmp_path):
    with pytest.raises(UnsupportedDataError, match=r"holds times.*xarray"):
        fit(plain(tmp_path / "x.zarr", attributes))


@pytest.mark.parametrize("attributes", [{"units": "K"}, {"units": ["a", "b"]}, {"units": "days"}, {"long_name": "x"}])
def test_other_attributes_say_nothing(attributes, tmp_path):
    x = np.arange(2 * N, dtype="i2").reshape(N, 2)
    np.testing.assert_array_equal(fit(plain(tmp_path / "x.zarr", attributes)).means_, fit(x).means_)


def test_attributes_that_change_during_a_fit(tmp_path):
    path = plain(tmp_path / "x.zarr", {"scale_factor": 0.5})
    store = zarr.open_array(path, mode="a")
    model = GaussianMixture(2, max_iter=3, tol=0, callbacks=[lambda event: store.attrs.update(scale_factor=2.0)])
    with pytest.raises(DataChangedError, match=r"differ in scale_factor \(scale_factor was 0.5, and is 2.0\)"):
        model.fit(path)
