"""Files that other libraries open, as data: in Python by their address, and in the terminal."""

import builtins
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import zarr

from daskgmm import GaussianMixture, load, select, write_predictions
from daskgmm.cli import main
from daskgmm.errors import (
    MissingDependencyError,
    NonFiniteDataError,
    StoreError,
    StoreNotFoundError,
    UnsupportedDataError,
)
from daskgmm.inspection import store_record

pytest.importorskip("dask.dataframe")
pytest.importorskip("pyarrow")
h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 60
X = np.random.RandomState(0).normal(size=(N, 3)) + np.repeat([[0], [5]], N // 2, axis=0)
WEIGHTS = np.random.RandomState(1).uniform(0.5, 2, size=N)
FRAME = pd.DataFrame(X, columns=list("abc"))


def fit(x, sample_weight=None, **parameters):
    parameters = {"n_components": 2, "random_state": 0, "max_iter": 2} | parameters
    return GaussianMixture(**parameters).fit(x, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def model():
    return fit(X)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts(folder, end, **options):
    folder.mkdir()
    for i in range(3):
        part = FRAME[20 * i : 20 * i + 20]
        getattr(part, "to_parquet" if "parquet" in end else "to_csv")(folder / f"{i}{end}", **options)


TABLES = {
    "a Parquet file": (lambda here: FRAME.to_parquet(here / "x.parquet"), "x.parquet"),
    "a name of three letters": (lambda here: FRAME.to_parquet(here / "x.pq"), "x.pq"),
    "a folder": (lambda here: parts(here / "x", ".parquet"), "x"),
    "a folder by its name": (lambda here: parts(here / "x.parquet", ".parquet"), "x.parquet"),
    "a pattern": (lambda here: parts(here / "x", ".parquet"), "x/*.parquet"),
    "a list": (lambda here: parts(here / "x", ".parquet"), [f"x/{i}.parquet" for i in range(3)]),
    "columns": (lambda here: FRAME.assign(t="x").to_parquet(here / "x.parquet"), "x.parquet::a, b, c"),
    "a CSV file": (lambda here: FRAME.to_csv(here / "x.csv", index=False), "x.csv"),
    "packed": (lambda here: FRAME.to_csv(here / "x.csv.gz", index=False), "x.csv.gz"),
    "a pattern of CSV files": (lambda here: parts(here / "x", ".csv", index=False), "x/*.csv"),
    "a folder of CSV files": (lambda here: parts(here / "x", ".csv", index=False), "x"),
    "columns of a CSV file": (lambda here: FRAME.to_csv(here / "x.csv"), "x.csv::a,b,c"),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_data_frames(table, here, model):
    write, address = TABLES[table]
    write(here)
    fitted = fit(address)
    np.testing.assert_array_equal(fitted.means_, model.means_)
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    assert fitted.origin_.data.address.startswith(str(here))
    labels = fitted.predict(address)
    assert type(labels).__name__ == "Series"
    np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), model.predict(X))


def test_other_files_in_a_folder_of_parts_are_left_alone(here, model):
    parts(here / "x", ".parquet")
    (here / "x" / "readme.csv").write_text("a,b\n")
    (here / "x" / "_SUCCESS").write_text("")
    np.testing.assert_array_equal(fit("x").means_, model.means_)
    assert store_record("x")["n_files"] == 3


def test_a_large_file_is_read_in_parts(here):
    pd.DataFrame({"a": np.zeros(10_000_000)}).to_parquet("x.parquet", row_group_size=1_000_000, use_dictionary=False)
    assert fit(FRAME[["a"]], n_components=1).predict("x.parquet").npartitions > 1


def test_a_partitioned_folder(here, model):
    for i in range(3):
        (here / "x" / f"year={i}").mkdir(parents=True)
        FRAME[20 * i : 20 * i + 20].to_parquet(here / "x" / f"year={i}" / "part.parquet")
    np.testing.assert_array_equal(fit("x::a,b,c").means_, model.means_)


def test_a_table_may_hold_its_weights(here):
    FRAME.assign(w=WEIGHTS).to_parquet("x.parquet")
    np.save("w.npy", WEIGHTS)
    expected = fit(X, WEIGHTS)
    for weights in ("w", "w.npy", "x.parquet::w"):
        address = "x.parquet" if weights == "w" else "x.parquet::a,b,c"
        np.testing.assert_array_equal(fit(address, weights).means_, expected.means_)
    assert expected.score(X, sample_weight=WEIGHTS) == fit("x.parquet", "w").score("x.parquet", sample_weight="w")
    chosen = select("x.parquet", [1, 2], estimator=GaussianMixture(random_state=0, max_iter=2), sample_weight="w")
    assert chosen.model.n_features_in_ == 3


def test_integers_of_a_csv_file_may_have_fractions_further_down(here):
    rows = [f"{i},{i % 7}" for i in range(40_000)] + ["1.5,2.5"]
    (here / "x.csv").write_text("a,b\n" + "\n".join(rows))  # dask looks at the first 256 kB
    assert GaussianMixture(1, max_iter=0).fit("x.csv").origin_.data.shape == (40_001, 2)


# ---- arrays in files


def two_arrays(here):
    with h5py.File(here / "x.h5", "w") as file:
        file["g/x"], file["g/y"], file["w"] = X, X, WEIGHTS
    np.savez(here / "x.npz", x=X, y=X, w=WEIGHTS)
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    variables = {"x": (("row", "f"), X), "y": (("row", "f"), X), "w": ("row", WEIGHTS)}
    xr.Dataset(variables).to_netcdf(here / "x.nc", engine="h5netcdf")


@pytest.mark.parametrize(
    ("path", "inside", "kind"), [("x.h5", "g/x", "Array"), ("x.npz", "x", "ndarray"), ("x.nc", "x", "DataArray")]
)
def test_an_array_in_a_file_has_a_name(path, inside, kind, here, model):
    two_arrays(here)
    fitted = fit(f"{path}::{inside}")
    np.testing.assert_array_equal(fitted.means_, model.means_)
    assert type(fitted.predict(f"{path}::{inside}")).__name__ == kind
    np.testing.assert_array_equal(fit(X, f"{path}::w").means_, fit(X, WEIGHTS).means_)
    np.testing.assert_array_equal(fit(X, path).means_, fit(X, WEIGHTS).means_)  # the only one of one dimension
    message = rf"{path} has 2 \w+s of numbers with 2 dimension.*{inside}.*for example as path::{inside}"
    with pytest.raises(StoreError, match=message):
        fit(path)
    with pytest.raises(StoreError, match=rf"{path} has no \w+ 'nope'; its \w+s are .*{inside}"):
        fit(f"{path}::nope")


def test_variables_of_netcdf_may_be_the_features(here, model):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    grid = {name: (("y", "x"), column.reshape(6, 10)) for name, column in zip("abc", X.T, strict=True)}
    xr.Dataset(grid | {"t": ("y", np.arange(6.0))}).to_netcdf("x.nc", engine="h5netcdf")
    fitted = fit("x.nc::a, b, c")
    xr.Dataset(grid).expand_dims(time=2).to_netcdf("grid.nc", engine="h5netcdf")
    whole = GaussianMixture(2, random_state=0).fit("grid.nc", dim=("time", "y", "x"))
    assert list(whole.feature_names_in_) == ["a", "b", "c"]
    assert whole.predict("grid.nc").dims == ("time", "y", "x")
    np.testing.assert_array_equal(fitted.means_, model.means_)
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    labels = fitted.predict("x.nc::a,b,c")
    assert labels.dims == ("y", "x")
    xr.Dataset({"w": (("y", "x"), WEIGHTS.reshape(6, 10))}).to_netcdf("w.nc", engine="h5netcdf")
    np.save("w.npy", WEIGHTS)
    for weights in ("w.nc::w", "w.npy"):
        np.testing.assert_array_equal(fit("x.nc::a,b,c", weights).means_, fit(X, WEIGHTS).means_)
    np.testing.assert_array_equal(labels.values.ravel(), model.predict(X))


def test_packed_values_of_netcdf_are_decoded(here):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    encoding = {"x": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -9999}}
    holes = np.where(np.arange(N)[:, None] == 7, np.nan, X)
    xr.Dataset({"x": (("row", "f"), holes)}).to_netcdf("x.nc", engine="h5netcdf", encoding=encoding)
    model = fit("x.nc", missing="drop")
    assert model.origin_.n_incomplete == 1
    np.testing.assert_allclose(model.means_, fit(holes, missing="drop").means_, atol=0.01)


def test_a_zarr_store_is_one_whatever_its_name(here, model):
    for name in ("x.parquet", "x.nc", "x.csv"):
        zarr.create_array(name, data=X)
        np.testing.assert_array_equal(fit(name).means_, model.means_)


# ---- errors


ENDS = ["parquet", "csv", "csv.gz", "nc", "h5", "npy", "npz"]


@pytest.mark.parametrize("end", ENDS)
def test_a_file_that_is_not_there(end, here, model):
    for method in (fit, model.predict, store_record):
        with pytest.raises(StoreNotFoundError, match=rf"There is nothing at none\.{end}\. Check the path"):
            method(f"none.{end}")
    with pytest.raises(StoreNotFoundError, match=r"There is nothing at none\*"):
        fit(f"none*.{end}")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing \xc0 more" * 20], ids=["empty", "something else"])
def test_a_file_that_is_damaged(end, content, here, model):
    (here / f"bad.{end}").write_bytes(content)
    for method in (fit, model.predict):
        with pytest.raises(StoreError, match=rf"bad\.{end} (cannot be opened|is not a)"):
            method(f"bad.{end}")


def test_a_part_that_is_damaged_is_named(here):
    parts(here / "x", ".parquet")
    (here / "x" / "1.parquet").write_bytes((here / "x" / "1.parquet").read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"1\.parquet cannot be opened with pyarrow"):
        fit("x")


def test_rows_that_are_damaged_are_those_of_the_file(here):
    rows = [f"{i},{i % 7},{i % 3}" for i in range(40_000)]
    (here / "x.csv").write_text("a,b,c\n" + "\n".join([*rows, "1,2,x"]))
    output = here / "out.zarr"
    known = fit(FRAME)
    for method in (fit, known.score, lambda x: write_predictions(known, x, output), GaussianMixture(2).plan):
        with pytest.raises(StoreError, match=r"x\.csv cannot be read \(ValueError: could not convert string to float"):
            method("x.csv")
    assert not output.exists()


HEADERS = {
    "numbers": ("1.5,2\n3,4\n", r"begins with a line of numbers.*header=None"),
    "row numbers": (",a,b\n0,1.5,2\n1,3,4\n", r"a column without a name.*path::a,b"),
    "text": ("a,b\n1,x\n2,y\n", r"column 'b' is of dtype"),
    "semicolons": ("a;b\n1;2\n2;3\n", r"column 'a;b' is of dtype"),
    "one name too few": ("a,b\n0,1.5,2\n1,3,4\n", r"rows of .*x\.csv have more entries than its first line has names"),
    "a comment": ("# x and y\n1.5,2\n3,4\n", r"rows of .*x\.csv have more entries than its first line has names"),
    "no rows": ("a,b\n", r"x\.csv has no rows"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_csv_files_whose_columns_are_no_features(header, here):
    text, message = HEADERS[header]
    (here / "x.csv").write_text(text)
    with pytest.raises(UnsupportedDataError, match=message):
        fit("x.csv")


@pytest.mark.parametrize(
    "second", [FRAME[["b", "a", "c"]], FRAME[["a", "b"]], FRAME.assign(d=1)], ids=["order", "one less", "one more"]
)
def test_parts_of_a_csv_table_have_the_same_columns(second, here):
    parts(here / "x", ".csv", index=False)
    second.to_csv(here / "x" / "1.csv", index=False)
    for address in ("x", "x/*.csv", [f"x/{i}.csv" for i in range(3)]):
        with pytest.raises(UnsupportedDataError, match=r"1\.csv has the columns .*the same order: a, b, c"):
            fit(address)
    (here / "x" / "1.csv").write_text("")
    np.testing.assert_array_equal(fit("x").means_, fit(np.delete(X, np.s_[20:40], axis=0)).means_)


def test_a_truth_value_that_is_missing_is_not_true(here):
    (here / "x.csv").write_text("a,b\n" + "True,1\nFalse,2\n" * 30_000 + ",3\n")
    np.testing.assert_allclose(fit("x.csv", n_components=1, missing="drop").means_, [[0.5, 1.5]])
    with pytest.raises(NonFiniteDataError, match="row 60000"):
        fit("x.csv", n_components=1)


INDEX = {"parquet": {}, "csv": {"index": False}}


@pytest.mark.parametrize("end", INDEX)
def test_rows_are_in_the_order_of_a_list(end, here):
    parts(here / "x", f".{end}", **INDEX[end])
    order = [2, 0, 1]
    rows, weights = (values.reshape(3, 20, -1)[order].reshape(values.shape) for values in (X, WEIGHTS))
    paths = [f"x/{i}.{end}" for i in order]
    fitted = fit(paths, weights)
    np.testing.assert_array_equal(fitted.means_, fit(rows, weights).means_)
    np.testing.assert_array_equal(
        fitted.score_samples(paths), fitted.score_samples(pd.DataFrame(rows, columns=list("abc")))
    )


@pytest.mark.parametrize("end", INDEX)
def test_parts_of_a_folder_are_in_the_order_of_their_numbers(end, here):
    (here / "x").mkdir()
    for i, number in enumerate((2, 10, 9)):
        getattr(FRAME[20 * i : 20 * i + 20], f"to_{end}")(here / "x" / f"{number}.{end}", **INDEX[end])
    rows = X.reshape(3, 20, 3)[[0, 2, 1]].reshape(N, 3)
    for address in ("x", f"x/*.{end}"):
        np.testing.assert_array_equal(fit(address, WEIGHTS).means_, fit(rows, WEIGHTS).means_)


def test_parts_choose_the_same_columns(here):
    parts(here / "x", ".parquet")
    with pytest.raises(StoreError, match="choose different columns"):
        fit(["x/0.parquet::a,b", "x/1.parquet::b,a"])


def test_names_of_csv_columns_may_begin_with_a_space(here):
    (here / "x.csv").write_text("a, b\n1.5,2\n3,4\n")
    np.testing.assert_allclose(fit("x.csv::b,a", n_components=1).means_, [[3, 2.25]])


def test_a_numpy_file_has_nothing_inside(here):
    np.save("x.npy", np.rec.fromarrays(X.T, names="a,b,c"))
    for method in (fit, store_record):
        with pytest.raises(StoreError, match=r"x\.npy is one array, which has no 'a' inside"):
            method("x.npy::a")


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_members_of_an_archive(here, model):
    """Names of fields in other alphabets have a header of their own; members that are no arrays are left alone."""
    np.savez("x.npz", x=np.rec.fromarrays(X.T, names="a,β,日"))
    with zipfile.ZipFile("x.npz", "a") as archive:
        archive.writestr("readme.txt", "x")
    fitted = fit("x.npz")
    np.testing.assert_array_equal(fitted.means_, model.means_)
    assert list(fitted.feature_names_in_) == ["a", "β", "日"]
    assert list(store_record("x.npz")["arrays"]) == ["x"]


def test_links_of_hdf5(here, model):
    with h5py.File("x.h5", "w") as file:
        file["x"] = X
    with h5py.File("y.h5", "w") as file:
        file["soft"], file["outside"] = h5py.SoftLink("/outside"), h5py.ExternalLink("x.h5", "/x")
    for name in ("soft", "outside", "/outside"):
        np.testing.assert_array_equal(fit(f"y.h5::{name}").means_, model.means_)
        assert store_record(f"y.h5::{name}")["shape"] == [N, 3]


def test_a_virtual_dataset_needs_its_sources(here, model):
    (here / "below").mkdir()
    with h5py.File("below/x.h5", "w") as file:
        file["x"] = X
    layout = h5py.VirtualLayout((N, 3), "f8")
    layout[:] = h5py.VirtualSource("x.h5", "x", (N, 3))
    with h5py.File("below/y.h5", "w") as file:
        file.create_virtual_dataset("y", layout)
    np.testing.assert_array_equal(fit("below/y.h5").means_, model.means_)
    (here / "below" / "x.h5").unlink()
    with pytest.raises(StoreNotFoundError, match=r"virtual dataset, and its source x\.h5 is missing"):
        fit("below/y.h5")


def test_inspect_shows_several_variables(here):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    xr.Dataset({name: ("row", FRAME[name]) for name in "abc"}).to_netcdf("x.nc")
    assert list(store_record("x.nc::c, a")["arrays"]) == ["c", "a"]


@pytest.mark.parametrize("path", ["x.nc", "x.h5", "x.npy", "x.npz"])
def test_a_file_at_a_url_keeps_its_secrets(path):
    address = f"https://user:password@host.invalid/{path}?signature=secret"
    with pytest.raises(StoreError, match=r"at a URL, where such files cannot be read piece by piece") as caught:
        fit(address)
    assert not {"secret", "password"} & set(str(caught.value).replace("=", " ").split())
    assert "secret" not in str(caught.value)


def test_a_table_at_a_url(here, model):
    FRAME.to_parquet("x.parquet")
    np.testing.assert_array_equal(fit((here / "x.parquet").as_uri()).means_, model.means_)
    with pytest.raises(StoreNotFoundError, match=r"nothing at memory://daskgmm-nowhere/x\.parquet"):
        fit("memory://daskgmm-nowhere/x.parquet")


@pytest.mark.parametrize(
    ("end", "module", "extra"),
    [("parquet", "dask.dataframe", "frames"), ("nc", "xarray", "netcdf"), ("h5", "h5py", "hdf5")],
)
def test_a_library_that_is_not_installed(end, module, extra, here, monkeypatch):
    (here / f"x.{end}").write_bytes(b"x")
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingDependencyError, match=rf"Reading x\.{end} needs {module}.*pip install 'daskgmm\[{extra}"
    ):
        fit(f"x.{end}")


def test_an_engine_for_netcdf_that_is_not_installed(here, monkeypatch):
    xr = pytest.importorskip("xarray")
    (here / "x.nc").write_bytes(b"x")
    monkeypatch.setattr(xr.backends, "list_engines", lambda: {"scipy": None})
    with pytest.raises(MissingDependencyError, match=r"x\.nc needs h5netcdf.*pip install 'daskgmm\[netcdf\]'"):
        fit("x.nc")


def test_lists_of_other_files_are_no_table(here):
    two_arrays(here)
    for paths in (["x.h5", "x.h5"], ["x.parquet", "x.csv"], ["a.zarr", "b.zarr"]):
        with pytest.raises(UnsupportedDataError, match=r"list of 2 texts or paths"):
            fit(paths)


# ---- in the terminal


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_commands_read_tables(here, capsys):
    FRAME.assign(w=WEIGHTS).to_parquet("x.parquet")
    how = ["--sample-weight", "w", "--json", "--quiet"]
    status, out, _ = run(capsys, "fit", "x.parquet", "-k", 2, "--random-state", 0, "--model", "m.zarr", *how)
    assert status == 0
    assert json.loads(out)["n_rows"] == N
    model = load("m.zarr")
    np.testing.assert_array_equal(model.means_, fit(X, WEIGHTS, max_iter=100).means_)
    status, out, _ = run(capsys, "score", "x.parquet", "--model", "m.zarr", *how)
    assert json.loads(out)["log_likelihood"] == model.score(FRAME, sample_weight=WEIGHTS)
    status, _, err = run(capsys, "predict", "x.parquet", "--model", "m.zarr", "--output", "out.zarr", "--quiet")
    assert status == 1
    assert "unseen at fit time: - w" in err
    assert "An address may choose columns of the table: x.parquet::a,b,c" in err
    predict = ["predict", "x.parquet::a,b,c", "--model", "m.zarr", "--output", "out.zarr", "--quiet"]
    assert run(capsys, *predict)[0] == 0
    assert store_record("out.zarr")["data"] == str(here / "x.parquet::a,b,c")
    assert str(here / "x.parquet") in run(capsys, "inspect", "m.zarr")[1].replace("\n", "")
    np.testing.assert_array_equal(zarr.open_group("out.zarr", mode="r")["labels"][:], model.predict(FRAME))
    status, out, _ = run(capsys, "select", "x.parquet", "-k", "1:2", *how)
    assert status == 0
    assert "component" in run(capsys, "fit", "x.parquet", "-k", 2, "--plan", "--sample-weight", "w")[1]


def test_one_name_for_what_is_inside(here, capsys):
    FRAME.to_parquet("x.parquet")
    for data in (["x.parquet", "--array", "a,b"], ["x.parquet::a,b", "--array", "a,b"]):
        assert run(capsys, "fit", *data, "-k", 2, "--model", "m.zarr", "--overwrite", "--quiet")[0] == 0
        assert list(load("m.zarr").feature_names_in_) == ["a", "b"]
    _, _, err = run(capsys, "fit", "x.parquet::a,b", "--array", "a", "-k", 2, "--model", "n.zarr", "--quiet")
    assert "give only one of them" in err


@pytest.mark.slow
def test_workers_read_tables(here, capsys):
    FRAME.assign(w=WEIGHTS).to_parquet("x.parquet")
    how = ["-k", 2, "--random-state", 0, "--sample-weight", "w", "--quiet"]
    assert run(capsys, "fit", "x.parquet", "--model", "m.zarr", "--workers", 1, *how)[0] == 0
    np.testing.assert_allclose(load("m.zarr").means_, fit(X, WEIGHTS, max_iter=100).means_)


def test_commands_tell_how_to_choose_columns(here, capsys):
    FRAME.assign(t="x").to_parquet("x.parquet")
    status, _, err = run(capsys, "fit", "x.parquet", "-k", 2, "--model", "m.zarr", "--quiet")
    assert status == 1
    assert "the column 't' is of dtype" in err
    assert "An address may choose columns of a table, for example x.parquet::a,b" in err


def test_commands_read_arrays_of_files(here, capsys):
    two_arrays(here)
    for data in (["x.h5::g/x"], ["x.nc", "--array", "x"], ["x.npz::y"]):
        fitted = ["fit", *data, "-k", 2, "--model", "m.zarr", "--overwrite", "--sample-weight", "x.h5::w", "--quiet"]
        assert run(capsys, *fitted)[0] == 0
    status, _, err = run(capsys, "fit", "x.h5", "-k", 2, "--model", "n.zarr", "--quiet")
    assert status == 1
    assert "x.h5 has 2 datasets" in err
    status, _, err = run(capsys, "fit", "x.npz::x", "-k", 2, "--model", "n.zarr", "--sample-weight", "v", "--quiet")
    assert status == 1
    assert "nothing at v" in err


INSPECTED = {
    "x.parquet": {"kind": "Parquet table", "n_rows": N, "columns": dict.fromkeys("abc", "float64")},
    "x.csv": {"kind": "CSV table", "columns": dict.fromkeys("abc", "float64")},
    "x.h5": {"kind": "HDF5 file"},
    "x.h5::g/x": {"kind": "HDF5 file", "shape": [N, 3], "dtype": "float64"},
    "x.npz": {"kind": "archive of NumPy files"},
    "x.nc::x": {"kind": "netCDF file", "shape": [N, 3], "dims": ["row", "f"]},
    "w.npy": {"kind": "NumPy file", "shape": [N], "dtype": "float64"},
}


@pytest.mark.parametrize("address", INSPECTED)
def test_inspect_shows_what_files_hold(address, here, capsys):
    two_arrays(here)
    FRAME.to_parquet("x.parquet")
    FRAME.to_csv("x.csv", index=False)
    np.save("w.npy", WEIGHTS)
    status, out, _ = run(capsys, "inspect", address, "--json")
    record = json.loads(out)
    assert status == 0
    assert record | INSPECTED[address] == record
    assert record["path"] == address
    if address in ("x.h5", "x.npz"):
        assert {name: array["shape"] for name, array in record["arrays"].items()}["w"] == [N]
    assert record["kind"] in run(capsys, "inspect", address)[1]
    with pytest.raises(StoreError, match="nope"):
        store_record("x.h5::nope")
