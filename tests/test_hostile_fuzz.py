"""The properties of `fuzz/properties.py`: a few examples of each in every run, many where there is time."""

import pytest
from fuzz.properties import PROPERTIES, runnable

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [function.__name__ for function in PROPERTIES]


@pytest.mark.parametrize("function", PROPERTIES, ids=NAMES)
def test_a_few(function):
    runnable(function, max_examples=10, derandomize=True, database=None)()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("function", PROPERTIES, ids=NAMES)
def test_many(function):
    runnable(function, max_examples=2000, print_blob=True, derandomize=False)()
