"""Tables in memory: polars, Arrow, astropy and records; names, missing values, and columns of no numbers."""

from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from daskgmm import GaussianMixture
from daskgmm.errors import UnsupportedDataError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 60
X = np.random.RandomState(0).normal(size=(N, 2)) + np.repeat([[0], [5]], N // 2, axis=0)
INTEGERS = np.arange(N) % 7
TRUTHS = np.arange(N) % 2 == 0


def fit(x, **parameters):
    return GaussianMixture(**({"n_components": 2, "random_state": 0, "max_iter": 2} | parameters)).fit(x)


def polars(columns):
    return pytest.importorskip("polars").DataFrame(columns)


def arrow(columns):
    return pytest.importorskip("pyarrow").table(columns)


def arrow_columns_of_pandas(columns):
    pandas = pytest.importorskip("pandas")
    return arrow(columns).to_pandas(types_mapper=pandas.ArrowDtype)


def parts_of_dask(columns):
    frames = pytest.importorskip("dask.dataframe")
    return frames.from_pandas(arrow_columns_of_pandas(columns), npartitions=2)


def batch(columns):
    return pytest.importorskip("pyarrow").RecordBatch.from_pydict(columns)


TABLES = {"polars": polars, "arrow": arrow, "batch": batch}
every_table = pytest.mark.parametrize("table", TABLES)


@every_table
def test_columns_of_several_dtypes(table):
    columns = {"a": X[:, 0], "i": INTEGERS, "t": TRUTHS, "f": X[:, 1].astype("f4")}
    model = fit(TABLES[table](columns))
    assert list(model.feature_names_in_) == list("aitf")
    np.testing.assert_array_equal(model.means_, fit(np.column_stack(list(columns.values()))).means_)


@every_table
@pytest.mark.parametrize("column", [X[:, 1], INTEGERS, TRUTHS], ids=["floats", "integers", "booleans"])
def test_nulls_are_missing_values(table, column):
    values = [*column.tolist()]
    values[4] = None
    data = TABLES[table]({"a": X[:, 0], "b": values})
    expected = np.column_stack([X[:, 0], column.astype(float)])
    expected[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN in row 4"):
        fit(data)
    model = fit(data, missing="drop")
    np.testing.assert_array_equal(model.means_, fit(expected, missing="drop").means_)
    assert np.flatnonzero(model.predict(data) == -1).tolist() == [4]


@pytest.mark.parametrize("table", [*TABLES.values(), arrow_columns_of_pandas, parts_of_dask])
def test_decimals_are_numbers(table):
    data = table({"a": X[:, 0], "b": [Decimal(int(i)) for i in INTEGERS]})
    np.testing.assert_array_equal(fit(data).means_, fit(np.column_stack([X[:, 0], INTEGERS])).means_)


NO_NUMBERS = {"texts": ["1"] * N, "dates": [date(2026, 1, 1)] * N, "lists": [[1.0, 2.0]] * N, "bytes": [b"x"] * N}


@every_table
@pytest.mark.parametrize("column", NO_NUMBERS)
def test_a_column_of_no_numbers_is_named(table, column):
    data = TABLES[table]({"a": X[:, 0], "b": NO_NUMBERS[column]})
    with pytest.raises(UnsupportedDataError, match=r"X: the column 'b' is of dtype .*\['a'\]"):
        fit(data)


def test_a_lazy_frame_of_polars_has_to_be_collected():
    lazy = polars({"a": X[:, 0]}).lazy()
    for method in (fit, fit(X).predict, lambda rows: GaussianMixture().fit(rows, sample_weight="a")):
        with pytest.raises(UnsupportedDataError, match=r"LazyFrame of polars.*X\.collect\(\).*sink_parquet"):
            method(lazy)


def test_rows_of_arrow_that_are_not_read_yet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    dataset = pytest.importorskip("pyarrow.dataset")
    parquet.write_table(arrow({"a": X[:, 0]}), tmp_path / "x.parquet")
    for data in (dataset.dataset(tmp_path), parquet.ParquetFile(tmp_path / "x.parquet")):
        with pytest.raises(UnsupportedDataError, match=r"of Arrow, whose rows are not read yet\. Pass the path"):
            fit(data)


def test_columns_of_one_name():
    table = pytest.importorskip("pyarrow").Table.from_arrays([X[:, 0], X[:, 1]], names=["a", "a"])
    with pytest.raises(UnsupportedDataError, match="several columns with the name 'a'"):
        fit(table)


# ---- astropy


def astropy(**options):
    table = pytest.importorskip("astropy.table")
    return table.Table({"a": X[:, 0], "b": X[:, 1], "i": INTEGERS}, **options)


EXPECTED = np.column_stack([X, INTEGERS])


def test_columns_of_astropy_are_features():
    model = fit(astropy())
    assert list(model.feature_names_in_) == ["a", "b", "i"]
    np.testing.assert_array_equal(model.means_, fit(EXPECTED).means_)


@pytest.mark.parametrize("column", ["a", "i"])
def test_masked_values_of_astropy_are_missing(column):
    data = astropy(masked=True)
    data[column].mask[[3, 9]] = True
    expected = EXPECTED.copy()
    expected[[3, 9], "abi".index(column)] = np.nan
    with pytest.raises(UnsupportedDataError, match=r"masked in places.*missing='drop'"):
        fit(data)
    model = fit(data, missing="drop")
    np.testing.assert_array_equal(model.means_, fit(expected, missing="drop").means_)
    assert np.flatnonzero(model.predict(data) == -1).tolist() == [3, 9]


@pytest.mark.parametrize(
    "column", [np.array(["x"] * N), np.zeros((N, 2)), X[:, 0] * 1j], ids=["text", "pairs", "complex"]
)
def test_a_column_of_astropy_that_is_no_number_is_named(column):
    data = astropy()
    data["b"] = column
    with pytest.raises(UnsupportedDataError, match=r"X: the column 'b' is of dtype .*X\[\['a', 'i'\]\]"):
        fit(data)


def test_quantities_are_their_numbers():
    units = pytest.importorskip("astropy.units")
    data = pytest.importorskip("astropy.table").QTable({"a": X[:, 0] * units.m, "b": X[:, 1]})
    np.testing.assert_array_equal(fit(data).means_, fit(X).means_)


def test_masked_weights_of_astropy_are_refused():
    units, masked = pytest.importorskip("astropy.units"), pytest.importorskip("astropy.utils.masked").Masked
    kinds = pytest.importorskip("astropy.table")
    weights = masked(np.ones(N), mask=np.arange(N) == 3)
    for column in (weights * units.m, kinds.MaskedColumn(np.ones(N), mask=np.arange(N) == 3)):
        with pytest.raises(UnsupportedDataError, match="sample_weight: The data are masked"):
            GaussianMixture().fit(kinds.QTable({"a": X[:, 0], "w": column}), sample_weight="w")


def test_tables_of_fits_files_are_records(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    astropy().write(tmp_path / "x.fits")
    with fits.open(tmp_path / "x.fits") as file:
        model = fit(file[1].data)
    assert list(model.feature_names_in_) == ["a", "b", "i"]
    np.testing.assert_array_equal(model.means_, fit(EXPECTED).means_)


# ---- records


def test_masked_records_are_missing_values():
    rows = np.ma.array(np.rec.fromarrays(X.T, names="a,b"))
    rows["b"].mask[5] = True
    expected = X.copy()
    expected[5, 1] = np.nan
    with pytest.raises(UnsupportedDataError, match=r"masked in places.*missing='drop'"):
        fit(rows)
    np.testing.assert_array_equal(fit(rows, missing="drop").means_, fit(expected, missing="drop").means_)


@pytest.mark.parametrize(
    ("data", "kind"),
    [({"a": X[:, 0]}, "a dict"), ([{"a": 1.0}] * N, "a list of records"), (({"a": 1.0},) * N, "a tuple of records")],
    ids=["columns", "list", "tuple"],
)
def test_records_of_python_are_made_a_table_by_the_user(data, kind):
    with pytest.raises(UnsupportedDataError, match=rf"X is {kind}; expected a 2D array.*pandas\.DataFrame\(X\)"):
        fit(data)
