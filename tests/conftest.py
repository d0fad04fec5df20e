"""What holds for all tests."""

from contextlib import ExitStack

import pytest
from hypothesis import settings
from products import mark_the_rest_slow

from daskgmm.tuning import tuned

# The same few examples in every run, so that a test that fails tells of the change before it. Others, and more, are
# drawn with `pytest --hypothesis-profile=random`.
settings.register_profile("same", derandomize=True, max_examples=15)
settings.register_profile("random", max_examples=100)
settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_the_rest_slow(items)


@pytest.fixture
def tune():
    """Change how passes are divided, until the end of the test."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(tuned(**changes))
