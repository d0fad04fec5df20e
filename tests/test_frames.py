"""Data frames of dask in and out, and columns of numbers of every dtype of pandas."""

import dask
import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture as Reference
from sklearn.utils import check_array

from daskgmm import GaussianMixture, select
from daskgmm.data.inputs import accept
from daskgmm.errors import InvalidWeightsError, NonFiniteDataError, StoreNotFoundError, UnsupportedDataError

dd = pytest.importorskip("dask.dataframe")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 60
X = np.random.RandomState(0).normal(size=(N, 3)) + np.repeat([[0], [5]], N // 2, axis=0)
FRAME = pd.DataFrame(X, columns=list("abc"), index=np.arange(N) * 2 + 7)
WEIGHTS = np.random.RandomState(1).uniform(0.5, 2, size=N)
WEIGHTED = FRAME.assign(w=WEIGHTS)


def fit(x, sample_weight=None, **parameters):
    parameters = {"n_components": 2, "random_state": 0, "max_iter": 2} | parameters
    return GaussianMixture(**parameters).fit(x, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def model():
    return fit(FRAME)


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    for i in range(4):
        FRAME[15 * i : 15 * i + 15].assign(name="x").to_parquet(tmp_path / f"part.{i}.parquet")
    return dd.read_parquet(tmp_path)


def forbidden_compute():
    def get(*_, **__):
        raise AssertionError("something was computed")

    return dask.config.set(scheduler=get)


FRAMES = {
    "known divisions": lambda parquet: dd.from_pandas(FRAME.assign(name="x"), npartitions=4),
    "parquet": lambda parquet: parquet,
    "filtered": lambda parquet: parquet[parquet.a > -100],
    "empty partitions": lambda parquet: parquet[parquet.b < 0],
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_result_becomes_a_column_of_the_frame(frame, model, parquet):
    lazy = FRAMES[frame](parquet)
    features = lazy[list("abc")]
    with forbidden_compute():
        lazy["label"] = model.predict(features)
        lazy["density"] = model.score_samples(features)
        assert lazy.divisions == features.divisions
        assert lazy.label.dtype == np.int64
    found = lazy.compute(scheduler="synchronous")
    expected = FRAME.loc[found.index]
    np.testing.assert_array_equal(found.label, model.predict(expected))
    np.testing.assert_allclose(found.density, model.score_samples(expected), rtol=1e-12)


@pytest.mark.parametrize("frame", FRAMES)
def test_probabilities_are_a_frame_with_the_index_of_the_rows(frame, model, parquet):
    lazy = FRAMES[frame](parquet)[list("abc")]
    with forbidden_compute():
        result = model.predict_proba(lazy)
    assert result.npartitions == lazy.npartitions
    assert result.divisions == lazy.divisions
    assert list(result.columns) == ["component_0", "component_1"]
    assert (result.dtypes == np.float64).all()
    found = result.compute(scheduler="synchronous")
    pd.testing.assert_index_equal(found.index, lazy.compute(scheduler="synchronous").index)
    np.testing.assert_allclose(found, model.predict_proba(FRAME.loc[found.index]), rtol=1e-12)


def test_meta_is_what_is_computed(model):
    lazy = dd.from_pandas(FRAME.rename_axis("id"), npartitions=2)
    for method, name in (("predict", "labels"), ("score_samples", "log_density"), ("predict_proba", None)):
        result = getattr(model, method)(lazy)
        computed = result.compute(scheduler="synchronous")
        assert result._meta.index.name == computed.index.name == "id"
        assert getattr(result, "name", None) == getattr(computed, "name", None) == name
        dd.utils.assert_eq(result, computed, scheduler="synchronous")


def test_single_precision_stays_single():
    lazy = dd.from_pandas(FRAME.astype("f4"), npartitions=2)
    model = fit(lazy)
    assert model.means_.dtype == fit(FRAME.astype("f4")).means_.dtype
    assert model.score_samples(lazy).dtype == model.score_samples(FRAME.astype("f4")).dtype


def test_a_result_keeps_the_old_model(model):
    """Keys are new in every call: no scheduler answers with the results of another model."""
    lazy = dd.from_pandas(FRAME, npartitions=2)
    other = fit(FRAME, means_init=X[[0, 40]])
    first, second = dask.compute(model.predict(lazy), other.predict(lazy), scheduler="synchronous")
    np.testing.assert_array_equal(first, model.predict(FRAME))
    np.testing.assert_array_equal(second, other.predict(FRAME))
    assert (first != second).all()


def test_results_of_one_frame_read_it_once(model):
    calls = []

    def counted(frame):
        calls.append(len(frame))
        return frame

    lazy = dd.from_pandas(FRAME, npartitions=3).map_partitions(counted, meta=FRAME)
    dask.compute(model.predict(lazy), model.predict_proba(lazy), model.score_samples(lazy), scheduler="synchronous")
    assert calls == [N // 3] * 3


def test_the_row_of_a_partition_that_is_not_finite(model):
    bad = FRAME.copy()
    bad.iloc[33, 1] = np.inf
    lazy = dd.from_pandas(bad, npartitions=3)
    with pytest.raises(NonFiniteDataError, match=r"infinity in row 13 of a chunk"):
        model.predict(lazy).compute(scheduler="synchronous")


# ---- dtypes


MIXED = {
    "integers and floats": ["int64", "float64", "int8"],
    "booleans": ["bool", "float64", "bool"],
    "single precision": ["float32", "int8", "float32"],
    "unsigned": ["uint64", "int64", "uint8"],
    "booleans alone": ["bool", "bool", "bool"],
    "nullable": ["Int64", "Float64", "boolean"],
    "nullable single precision": ["Float32", "Int8", "Float32"],
    "nullable and not": ["Int64", "float64", "bool"],
    "Arrow": ["int64[pyarrow]", "double[pyarrow]", "bool[pyarrow]"],
    "Arrow single precision": ["float[pyarrow]", "float[pyarrow]", "float[pyarrow]"],
}


def mixed(dtypes):
    values = np.abs(np.round(X)).astype(int)
    columns = [values[:, 0] % 2, values[:, 1] + 1, values[:, 2] % 2]
    return pd.DataFrame({name: pd.Series(v).astype(d) for name, v, d in zip("abc", columns, dtypes, strict=True)})


@pytest.mark.parametrize("dtypes", MIXED)
def test_columns_of_several_dtypes_are_read_as_scikit_learn_reads_them(dtypes):
    if "Arrow" in dtypes:
        pytest.importorskip("pyarrow")
    frame = mixed(MIXED[dtypes])
    expected = check_array(frame, dtype="numeric")
    lazy = dd.from_pandas(frame, npartitions=3)
    rows = accept(lazy).rows
    assert rows.dtype == expected.dtype
    np.testing.assert_array_equal(rows.compute(scheduler="synchronous"), expected)
    np.testing.assert_array_equal(fit(lazy).means_, fit(frame).means_)
    np.testing.assert_array_equal(fit(lazy).means_, fit(np.asarray(expected)).means_)


@pytest.mark.covering
@pytest.mark.parametrize("dtype", ["Int64", "Float64", "Float32", "boolean", "int64[pyarrow]", "double[pyarrow]"])
@pytest.mark.parametrize("lazy", [False, True])
def test_missing_values_of_nullable_columns_are_incomplete_rows(dtype, lazy):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    column = pd.Series(np.arange(N) % 2).astype(dtype)
    column[5] = pd.NA
    frame = FRAME.reset_index(drop=True).assign(a=column)
    values = frame.to_numpy(dtype=float, na_value=np.nan)
    data = dd.from_pandas(frame, npartitions=3) if lazy else frame
    with pytest.raises(NonFiniteDataError, match=r"NaN in row 5\b.*missing='drop'"):
        fit(data)
    model = fit(data, missing="drop")
    np.testing.assert_array_equal(model.means_, fit(values, missing="drop").means_)
    assert np.flatnonzero(np.asarray(model.predict(data)) == -1).tolist() == [5]


@pytest.mark.parametrize("lazy", [False, True])
def test_integers_beyond_the_digits_of_doubles_are_rounded_as_numpy_rounds_them(lazy):
    large = pd.DataFrame({"a": 2**60 + np.arange(N), "b": X[:, 0]})
    data = dd.from_pandas(large, npartitions=2) if lazy else large
    np.testing.assert_array_equal(np.asarray(accept(data).rows), large.to_numpy())


COLUMNS = {
    "text": pd.Series(["t"] * N),
    "texts of numbers": pd.Series(["1.5"] * N),
    "objects": pd.Series([{}] * N),
    "categories": pd.Series([1, 2] * (N // 2)).astype("category"),
    "times": pd.Series(pd.date_range("2026-01-01", periods=N)),
    "durations": pd.Series(pd.to_timedelta(np.arange(N), "s")),
    "periods": pd.Series(pd.period_range("2026-01", periods=N, freq="M")),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_no_numbers_is_named_before_anything_is_read(column, lazy):
    frame = FRAME.reset_index(drop=True).assign(c=COLUMNS[column])
    if lazy and column == "objects":
        with dask.config.set({"dataframe.convert-string": False}):
            frame = dd.from_pandas(frame, npartitions=2)
    elif lazy:
        frame = dd.from_pandas(frame, npartitions=2)
    message = r"X: the column 'c' is of dtype .*for example X\[\['a', 'b'\]\]"
    with forbidden_compute():
        for function in (fit, GaussianMixture(2).plan, lambda x: select(x, [1, 2])):
            with pytest.raises(UnsupportedDataError, match=message):
                function(frame)


@pytest.mark.parametrize("lazy", [False, True])
def test_frames_that_are_no_rows_of_features(lazy, model):
    made = (lambda frame: dd.from_pandas(frame, npartitions=2)) if lazy else (lambda frame: frame)
    twice = pd.concat([FRAME, FRAME[["a"]]], axis=1)
    for function in (fit, model.predict):
        with pytest.raises(UnsupportedDataError, match="X has several columns with the name 'a'"):
            function(made(twice))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        fit(made(FRAME[[]]))
    with pytest.raises(ValueError, match=r"X is a dask Series.*to_frame" if lazy else "2-dimensional container"):
        fit(made(FRAME)["a"])


def test_objects_that_are_numbers_are_numbers_in_memory(model):
    objects = FRAME.astype(object)
    np.testing.assert_array_equal(fit(objects).means_, model.means_)
    objects.iloc[4, 1] = pd.NA
    assert fit(objects, missing="drop").origin_.n_incomplete == 1


# ---- names of features


NAMES = {
    "order": (lambda frame: frame[["c", "b", "a"]], "must be in the same order"),
    "one too few": (lambda frame: frame[["a", "b"]], "yet now missing"),
    "one too many": (lambda frame: frame.assign(z=1.0), "unseen at fit time"),
    "another": (lambda frame: frame.rename(columns={"a": "q"}), "unseen at fit time"),
}


@pytest.mark.parametrize("names", NAMES)
def test_names_are_compared_as_in_scikit_learn(names, model):
    change, message = NAMES[names]
    reference = Reference(2, random_state=0, max_iter=2).fit(FRAME)
    lazy = dd.from_pandas(FRAME, npartitions=2)
    for method in ("predict", "score"):
        with pytest.raises(ValueError, match=message) as theirs:
            getattr(reference, method)(change(FRAME))
        for data in (FRAME, lazy):
            with pytest.raises(ValueError, match=message) as ours:
                getattr(model, method)(change(data))
            assert str(ours.value) == str(theirs.value)


def test_names_that_are_no_texts():
    numbered = dd.from_pandas(pd.DataFrame(X), npartitions=2)
    model = fit(numbered)
    assert not hasattr(model, "feature_names_in_")
    np.testing.assert_array_equal(model.predict(numbered).compute(scheduler="synchronous"), model.predict(X))
    with pytest.raises(TypeError, match="Feature names are only supported if all input features have string names"):
        fit(dd.from_pandas(FRAME.rename(columns={"a": 1}), npartitions=2))


def test_names_on_one_side_only(model):
    lazy = dd.from_pandas(FRAME, npartitions=2)
    with pytest.warns(UserWarning, match="X has feature names, but GaussianMixture was fitted without feature names"):
        fit(X).predict(lazy)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(lazy.to_dask_array(lengths=True))


# ---- weights in a column


WITH_WEIGHTS = {
    "pandas": lambda: WEIGHTED,
    "dask": lambda: dd.from_pandas(WEIGHTED, npartitions=3),
    "unknown divisions": lambda: dd.from_pandas(WEIGHTED, npartitions=3).clear_divisions(),
    "nullable": lambda: dd.from_pandas(WEIGHTED.convert_dtypes(), npartitions=3),
    "nullable in memory": lambda: WEIGHTED.convert_dtypes(),
    "polars": lambda: pytest.importorskip("polars").from_pandas(WEIGHTED),
    "arrow": lambda: pytest.importorskip("pyarrow").Table.from_pandas(WEIGHTED, preserve_index=False),
    "astropy": lambda: pytest.importorskip("astropy.table").Table.from_pandas(WEIGHTED),
    "records": lambda: WEIGHTED.to_records(index=False),
}


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_a_column_may_hold_the_weights(kind):
    table, expected = WITH_WEIGHTS[kind](), fit(X, WEIGHTS)
    model = fit(table, "w")
    np.testing.assert_array_equal(model.means_, expected.means_)
    assert list(model.feature_names_in_) == list("abc")
    assert model.score(table, sample_weight="w") == expected.score(X, sample_weight=WEIGHTS)
    assert model.criteria(table, sample_weight="w") == expected.criteria(X, sample_weight=WEIGHTS)
    assert GaussianMixture(2).plan(table, "w").n_features == 3
    labels = GaussianMixture(2, random_state=0, max_iter=2).fit_predict(table, sample_weight="w")
    np.testing.assert_array_equal(np.asarray(labels), expected.predict(X))
    estimator = GaussianMixture(random_state=0, max_iter=2)
    chosen = select(table, [1, 2], estimator=estimator, sample_weight="w")
    assert chosen.best == select(X, [1, 2], estimator=estimator, sample_weight=WEIGHTS).best


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_a_column_of_weights_that_is_not_there(kind):
    message = r"sample_weight='v': X has no such column, .*The columns of X are 'a', 'b', 'c', 'w'\."
    with forbidden_compute(), pytest.raises(InvalidWeightsError, match=message):
        fit(WITH_WEIGHTS[kind](), "v")


def test_a_path_of_weights_serves_a_frame_too(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "w.zarr", data=WEIGHTS)
    model = fit(dd.from_pandas(FRAME, npartitions=2), str(tmp_path / "w.zarr"))
    np.testing.assert_array_equal(model.means_, fit(X, WEIGHTS).means_)


def test_a_text_for_weights_of_an_array():
    message = r"sample_weight: There is nothing at w\. A text is the path .*only if X is a table .* X is an ndarray"
    with pytest.raises(StoreNotFoundError, match=message):
        fit(X, "w")


def test_weights_that_are_no_numbers():
    lazy = dd.from_pandas(FRAME.assign(w="heavy"), npartitions=2)
    with pytest.raises(UnsupportedDataError, match=r"sample_weight: the column 'w' is of dtype .*, and weights have"):
        fit(lazy, "w")


def test_two_columns_of_the_name():
    twice = pd.concat([WEIGHTED, WEIGHTED[["w"]]], axis=1)
    with pytest.raises(InvalidWeightsError, match="several columns of that name"):
        fit(twice, "w")
