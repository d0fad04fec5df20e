"""Samples of rows: drawn by row number, weight and seed, however the rows are divided."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm.data.inputs import as_dataset
from daskgmm.data.row_sample import draw_by_weight, draw_rows, priorities, random_words
from daskgmm.engine.run import DaskEngine
from daskgmm.fitting.weight_survey import WeightSurveyFold

N = 5000
SKEWED = np.random.default_rng(0).lognormal(0, 2, N) * (np.random.default_rng(1).random(N) < 0.7)


def drawn(weights, size, seed=3, pieces=(1000,)):
    """Row numbers and weights of a sample, found over pieces of the rows."""
    with DaskEngine("synchronous") as engine:
        dataset, _ = as_dataset(np.zeros((len(weights), 1)), weights)
        rule = engine.run(dataset.weights_alone, WeightSurveyFold(size, seed), "weights").sample(seed)
    numbers, counts, start = [], [], 0
    while start < len(weights):
        piece = weights[start : start + pieces[len(numbers) % len(pieces)]]
        positions, of_piece, _ = rule(start, piece)
        numbers.append(start + positions)
        counts.append(of_piece)
        start += len(piece)
    return np.concatenate(numbers), np.concatenate(counts)


def test_the_rows_with_the_highest_priorities_are_drawn():
    numbers, counts = drawn(SKEWED, 200)
    priority = priorities(3, 0, SKEWED)
    order = np.argsort(-priority)
    np.testing.assert_array_equal(numbers, np.sort(order[:200]))
    np.testing.assert_array_equal(counts, np.maximum(SKEWED[numbers], priority[order[200]]))


@settings(deadline=None)
@given(pieces=st.lists(st.integers(1, 700), min_size=1, max_size=5), size=st.integers(1, N))
def test_pieces_do_not_matter(pieces, size):
    for one, other in zip(drawn(SKEWED, size), drawn(SKEWED, size, pieces=pieces), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sums_over_the_sample_are_right_on_average():
    values = SKEWED * np.arange(N)
    found = []
    for seed in range(300):
        numbers, counts = drawn(SKEWED, 100, seed, pieces=(N,))
        found.append(counts @ numbers)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - values.sum()) < 4 * error
    assert error < 0.02 * values.sum()


def test_no_more_rows_with_weight_than_wanted_are_all_drawn():
    few = np.where(np.arange(N) % 100 == 7, SKEWED + 1, 0.0)
    numbers, counts = drawn(few, 50)
    np.testing.assert_array_equal(numbers, np.arange(7, N, 100))
    np.testing.assert_array_equal(counts, few[numbers])


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-100])
def test_equal_weights_draw_what_no_weights_draw(weight):
    numbers, counts = drawn(np.full(N, weight), 70)
    np.testing.assert_array_equal(numbers, draw_rows(N, 70, 3).numbers)
    assert set(counts) == {weight}


def test_priorities_of_weights_of_any_size_are_in_the_same_order():
    for factor in (2.0**-900, 2.0**600):
        np.testing.assert_array_equal(drawn(SKEWED, 99)[0], drawn(SKEWED * factor, 99)[0])


@pytest.mark.parametrize("size", [1, 70, N - 1, N, N + 1])
def test_rows_in_memory_are_drawn_as_rows_of_a_store_are(size):
    for one, other in zip(draw_by_weight(SKEWED, size, 3), drawn(SKEWED, size), strict=True):
        np.testing.assert_array_equal(one, other)


def test_smaller_samples_of_rows_in_memory_are_parts_of_larger_ones():
    small, larger, largest = (set(draw_by_weight(SKEWED, size, 3)[0]) for size in (20, 200, 2000))
    assert (len(small), len(larger), len(largest)) == (20, 200, 2000)
    assert small < larger < largest


def test_a_random_number_depends_on_its_row_alone():
    whole = random_words(11, 0, 50)
    for start in range(9):
        np.testing.assert_array_equal(random_words(11, start, 50), whole[start:])
