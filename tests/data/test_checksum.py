"""What a pass saw, in a few numbers: the same for any division, and another one where anything is another."""

import itertools

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture
from daskgmm.data.checksum import Checksum, ChecksumGuard
from daskgmm.data.row_block import RowBlock
from daskgmm.errors import DataChangedError

quick = settings(deadline=None)

DTYPES = ["?", "i1", ">i2", "u4", "i8", "f2", "f4", ">f8", "f8"]


def rows_of(dtype, n=60):
    return np.random.RandomState(0).randint(0, 100, size=(n, 3)).astype(dtype)


def weighted(rows, weights):
    return RowBlock(rows, {"sample_weight": weights})


def total(rows, weights, cuts):
    checksum = Checksum()
    for a, b in itertools.pairwise(sorted({0, *cuts, len(rows)})):
        checksum += Checksum.of(weighted(rows[a:b], weights[a:b]))
    return checksum


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 60), max_size=8))
@quick
def test_it_does_not_depend_on_how_rows_are_divided_and_lie(dtype, cuts):
    rows, weights = rows_of(dtype), np.random.RandomState(1).rand(60)
    whole = Checksum.of(weighted(rows, weights))
    assert total(rows, weights, cuts) == whole
    assert total(np.asfortranarray(rows), weights, cuts) == whole
    assert total(np.repeat(rows, 2, axis=0)[::2], np.repeat(weights, 2)[::2], cuts) == whole


@given(st.sampled_from(DTYPES), st.integers(0, 59), st.integers(0, 2), st.booleans())
@quick
def test_no_single_value_changes_unnoticed(dtype, row, column, is_weight):
    rows, weights = rows_of(dtype), np.random.RandomState(1).rand(60)
    guard = ChecksumGuard()
    guard.check(Checksum.of(weighted(rows, weights)))
    guard.check(Checksum.of(weighted(rows, weights).copy()))
    if is_weight:
        weights[row] = np.nextafter(weights[row], 2)
    else:
        value = rows[row, column]
        rows[row, column] = np.nextafter(value, rows.dtype.type(200)) if rows.dtype.kind == "f" else not value
    with pytest.raises(DataChangedError, match="^sample_weight: " if is_weight else "^X: "):
        guard.check(Checksum.of(weighted(rows, weights)))


@pytest.mark.parametrize("wrong", [lambda x: x[:-1], lambda x: np.concatenate([x, x[:1]]), lambda x: x[:0]])
def test_rows_that_are_missing_or_seen_twice_are_noticed(wrong):
    rows = np.zeros((60, 3))  # whose checksum is that of no rows at all
    guard = ChecksumGuard()
    guard.check(Checksum.of(RowBlock(rows)))
    with pytest.raises(DataChangedError, match=rf"a pass saw {len(wrong(rows))} rows where 60 were expected"):
        guard.check(Checksum.of(RowBlock(wrong(rows))))


@pytest.mark.parametrize("dtype", ["i2", "u4", "f4", "f8"])
def test_the_order_of_bytes_does_not_matter(dtype):
    rows = rows_of(dtype)
    assert Checksum.of(RowBlock(rows.astype(rows.dtype.newbyteorder()))) == Checksum.of(RowBlock(rows))


def test_blocks_of_big_endian_rows_may_be_joined_in_some_passes():
    x = np.random.default_rng(0).normal(size=(300, 3))
    model = GaussianMixture(2, random_state=0)
    expected = model.fit(x).lower_bounds_
    for lengths in ((299, 1), (1, 299), (100, 1, 199)):
        assert model.fit(da.from_array(x.astype(">f8"), chunks=(lengths, 3))).lower_bounds_ == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_with_bytes_that_mean_nothing():
    """Of a long double's sixteen bytes six are whatever lay in memory."""
    rows = rows_of(np.longdouble)
    dirty = np.full(rows.shape, np.nan, np.longdouble)
    dirty.view(np.uint8)[...] = 255
    dirty[...] = rows
    assert Checksum.of(RowBlock(dirty)) == Checksum.of(RowBlock(rows))
    x = da.from_array(np.random.RandomState(0).normal(size=(20_000, 3)), chunks=(3000, 3))
    lazy = x.astype(np.longdouble) * np.longdouble(1.5)
    model = GaussianMixture(2, random_state=0, max_iter=4, tol=0).fit(lazy)
    expected = GaussianMixture(2, random_state=0, max_iter=4, tol=0).fit(x * 1.5)
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-12)
