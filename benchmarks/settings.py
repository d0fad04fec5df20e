"""Settings of daskgmm's constructor by the names that benchmarks give them."""

from __future__ import annotations

from typing import Any

SAMPLE = "a tenth of the rows"  # stands for `DataSet.init_size`
SCIKIT_LEARN = "scikit-learn"
PLAIN: dict[str, Any] = {"init_size": None, "n_init": 1, "acceleration": None}

STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": PLAIN,
    "accelerated": PLAIN | {"acceleration": "lbfgs"},
    "sample": PLAIN | {"init_size": SAMPLE},
    "sample-several": PLAIN | {"init_size": SAMPLE, "n_init": 5},
    "both": PLAIN | {"init_size": SAMPLE, "acceleration": "lbfgs"},
    "both-several": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": 5},
    "both-auto": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": "auto"},
    "both-100000": {"init_size": 100_000, "acceleration": "lbfgs", "n_init": "auto"},
    SCIKIT_LEARN: {},
}
"""What each gives the constructor."""


def settings(strategy: str, sample_size: int) -> dict[str, Any]:
    """What a strategy gives the constructor for a data set whose tenth has ``sample_size`` rows."""
    return {name: sample_size if value == SAMPLE else value for name, value in STRATEGIES[strategy].items()}
