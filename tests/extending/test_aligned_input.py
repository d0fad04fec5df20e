"""An aligned input, as CONTRIBUTING.md tells: error bars of every number, which reach the fold with their rows."""

import itertools

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskgmm.data.inputs import as_dataset, with_input
from daskgmm.data.row_block import AlignedInput
from daskgmm.engine.combined_fold import CombinedFold
from daskgmm.engine.memory import task_memory
from daskgmm.engine.plain import PlainEngine
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import DataChangedError, UnsupportedDataError
from daskgmm.tuning import Tuning

ERROR_BARS = AlignedInput("error_bars", np.dtype(np.float64), per_feature=True)

N, D, LEAF = 300, 3, 16
X = np.random.default_rng(0).integers(-50, 50, size=(N, D)).astype(np.float64)
BARS = np.random.default_rng(1).integers(1, 9, size=(N, D)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).integers(0, 5, size=N)
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


class Precision:
    """Σ w x / σ² and Σ w / σ² of every feature."""

    row_seconds, work_bytes, value_bytes, process_bytes = 1e-8, 1000, 8 * 2 * D, 0

    def __init__(self, leaf_rows=LEAF):
        self.leaf_rows = leaf_rows

    def start(self):
        def evaluate(start, block):
            assert block.beside["error_bars"].dtype == np.float64
            w = np.ones(len(block)) if block.weights is None else block.weights
            precision = w[:, None] / block.beside["error_bars"] ** 2
            return np.stack([(precision * block.rows).sum(axis=0), precision.sum(axis=0)])

        return evaluate


def expected(weighted):
    precision = (WEIGHTS if weighted else np.ones(N))[:, None] / BARS.astype(np.float64) ** 2
    return np.stack([(precision * X).sum(axis=0), precision.sum(axis=0)])


@st.composite
def forms(draw, values):
    """The same values as a NumPy array, a dask array, some of whose tasks are shared, or a Zarr array."""
    kind = draw(st.sampled_from(["numpy", "dask", "rechunked", "zarr"]))
    columns = values.shape[1:]
    if kind == "numpy":
        return values
    if kind == "zarr":
        return zarr.create_array({}, data=values, chunks=(draw(st.integers(7, 100)), *columns))
    cuts = draw(st.lists(st.integers(0, N), max_size=6))
    chunks = tuple(b - a for a, b in itertools.pairwise([0, *sorted(cuts), N]))
    array = da.from_array(values, chunks=(chunks, *columns))
    return array if kind == "dask" else array.rechunk((41, *((1,) if columns else ())))


@given(forms(X), forms(BARS), st.one_of(st.none(), forms(WEIGHTS)), st.sampled_from([8, 100, 1 << 20]))
@quick
def test_every_row_comes_with_its_error_bars(x, bars, weights, slab_bytes):
    dataset = with_input(as_dataset(x, weights)[0], ERROR_BARS, bars)
    tuning = Tuning(slab_bytes=slab_bytes, shortest_task=1e-7, longest_task=1e-6)
    values = []
    for engine in (PlainEngine(tuning=tuning), DaskEngine("synchronous", tuning=tuning)):
        with engine:
            values.append(engine.run(dataset, Precision(), "bars"))
            # Of two folds in one reading, the one with the shorter leaves cuts each block again.
            values.append(engine.run(dataset, CombinedFold((Precision(), Precision(4 * LEAF))), "both")[0])
    for value in values:
        np.testing.assert_array_equal(value, values[0])
    np.testing.assert_allclose(values[0], expected(weights is not None), rtol=1e-13)


def test_a_number_stands_for_every_error_bar():
    with PlainEngine() as engine:
        value = engine.run(with_input(as_dataset(X)[0], ERROR_BARS, 0.5), Precision(), "bars")
    np.testing.assert_allclose(value, [4 * X.sum(axis=0), np.full(D, 4 * N)], rtol=1e-13)


@pytest.mark.parametrize(
    ("bars", "error", "message"),
    [
        (BARS[:-1], ValueError, r"error_bars.shape == \(299, 3\), expected \(300, 3\): one entry for each row of X"),
        (BARS[:, :2], ValueError, r"error_bars.shape == \(300, 2\), expected \(300, 3\)"),
        (BARS[:, 0], ValueError, "error_bars: expected 2D array, got 1D array"),
        (BARS.astype(complex), UnsupportedDataError, "Complex data not supported: error_bars has dtype complex128"),
    ],
)
def test_error_bars_of_another_shape_or_dtype_are_refused(bars, error, message):
    for each in (bars, da.from_array(bars, chunks=100)):
        with pytest.raises(error, match=message):
            with_input(as_dataset(X)[0], ERROR_BARS, each)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (lambda values: values[1:], "error_bars: rows 0 to 300 were expected to be 300 rows, but 297 came"),
        (lambda values: values[:, :1], r"error_bars: rows 0 to 300 were expected to have 3 columns.*\(300, 1\)"),
    ],
)
def test_blocks_that_are_not_as_declared_are_noticed(block, message):
    lying = da.from_array(BARS, chunks=(100, D)).map_blocks(block, dtype=BARS.dtype, chunks=((100,) * 3, (D,)))
    dataset = with_input(as_dataset(da.from_array(X, chunks=(100, D)))[0], ERROR_BARS, lying)
    with PlainEngine() as engine, pytest.raises(DataChangedError, match=message):
        engine.run(dataset, Precision(), "bars")


def test_error_bars_that_change_between_passes_are_noticed():
    bars = BARS.copy()
    dataset = with_input(as_dataset(X)[0], ERROR_BARS, bars)
    with PlainEngine() as engine:
        engine.run(dataset, Precision(), "first")
        bars[5, 1] += 1
        with pytest.raises(DataChangedError, match=r"^error_bars: a pass saw other values"):
            engine.run(dataset, Precision(), "second")


def test_memory_counts_error_bars():
    plain, _ = as_dataset(da.from_array(X, chunks=(100, D)))
    dataset = with_input(plain, ERROR_BARS, da.from_array(BARS, chunks=(30, D)))
    edges = np.array([0, 100, 200, 300])
    with_bars, without = (task_memory(each, Precision(), edges, Tuning()) for each in (dataset, plain))
    assert with_bars.leaves == 2 * without.leaves  # both in double precision
    assert with_bars.slabs == without.slabs * 3 // 2  # single precision where they are read
