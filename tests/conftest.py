"""What holds for all tests."""

from contextlib import ExitStack

import pytest
from hypothesis import settings

from daskgmm.tuning import tuned

# The same examples in every run, so that a test that fails tells of the change before it. Others are drawn with
# `pytest --hypothesis-profile=random`.
settings.register_profile("same", derandomize=True)
settings.register_profile("random")
settings.load_profile("same")


@pytest.fixture
def tune():
    """Change how passes are divided, until the end of the test."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(tuned(**changes))
