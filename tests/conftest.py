"""What holds for all tests."""

from hypothesis import settings

# The same examples in every run, so that a test that fails tells of the change before it. Others are drawn with
# `pytest --hypothesis-profile=random`.
settings.register_profile("same", derandomize=True)
settings.register_profile("random")
settings.load_profile("same")
