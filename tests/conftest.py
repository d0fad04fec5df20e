"""What holds for all tests."""

from contextlib import ExitStack

import pytest
from hypothesis import settings
from products import mark_the_rest_slow

from daskgmm.tuning import tuned

# The same few examples in every run, so that a test that fails tells of the change before it, and the same hundred in
# slow runs. Others are drawn with `pytest --hypothesis-profile=random`.
settings.register_profile("same", derandomize=True, max_examples=10)
settings.register_profile("slow", derandomize=True, max_examples=100)
settings.register_profile("random", max_examples=100)
settings.load_profile("same")


def runs_slow_tests(config: pytest.Config) -> bool:
    return config.option.markexpr.strip() == "slow"


def pytest_configure(config: pytest.Config) -> None:
    if runs_slow_tests(config) and not config.getoption("--hypothesis-profile", default=None):
        settings.load_profile("slow")


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_the_rest_slow(items)
    if runs_slow_tests(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker("slow")


@pytest.fixture
def tune():
    """Change how passes are divided, until the end of the test."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(tuned(**changes))
