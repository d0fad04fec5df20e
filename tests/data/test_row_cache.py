"""Pieces of kept rows. No cluster is near: its threads draw random numbers, which Hypothesis takes for the test's."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm.data.row_cache import RowCache


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 60), min_size=2, max_size=12),
    st.sets(st.integers(1, 59), max_size=8),
    st.sets(st.integers(0, 10)),
)
def test_pieces_are_kept_as_a_whole_or_not_at_all(kept, cuts, left_out):
    cache, edges = RowCache(10**6), sorted(kept)
    rows = np.arange(60.0)
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        if number not in left_out:
            assert cache.keep(0, start, rows[start:stop], number) is not None
    borders = [0, *sorted(cuts), 60]
    pieces = cache.pieces(0, list(itertools.pairwise(borders)))
    assert [row for piece in pieces for row in range(*piece)] == list(range(60))
    for start, stop in pieces:
        found = cache.find(0, start, stop)
        if found is not None:
            np.testing.assert_array_equal(found.values, rows[start:stop])
        else:
            assert all(cache.find(0, row, row + 1) is None for row in range(start, stop))
            assert any(begin <= start and stop <= end for begin, end in itertools.pairwise(borders))


def test_a_view_is_kept_in_memory_of_its_own():
    cache, whole = RowCache(1000), np.arange(1000.0).reshape(100, 10)
    kept = cache.keep(0, 0, whole[:5, ::2], 1)
    np.testing.assert_array_equal(kept.values, whole[:5, ::2])
    assert kept.values.base is None
    assert cache.n_bytes == 5 * 5 * 8
    assert cache.keep(0, 3, whole[3:5], 1) is None  # two of them are there
    assert cache.keep(0, 5, whole[5:50], 1) is None  # too many
