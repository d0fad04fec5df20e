"""The properties of `fuzz/properties.py`: a few examples of each in every run, many where there is time."""

import functools

import pytest
from fuzz.properties import PROPERTIES, runnable

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [function.__name__ for function in PROPERTIES]


def assert_holds(function, max_examples, **options):
    n_examples = 0

    @functools.wraps(function)
    def counted(*values):
        nonlocal n_examples
        n_examples += 1
        function(*values)

    runnable(counted, max_examples=max_examples, **options)()
    assert n_examples >= max_examples // 2  # there may be fewer different ones


@pytest.mark.slow
@pytest.mark.parametrize("function", PROPERTIES, ids=NAMES)
def test_a_few(function):
    assert_holds(function, 10, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("function", PROPERTIES, ids=NAMES)
def test_many(function):
    assert_holds(function, 2000, print_blob=True, derandomize=False)
