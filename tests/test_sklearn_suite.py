"""scikit-learn's own tests of its Gaussian mixtures, with our classes in place of theirs.

Private copies of its test modules are made, in which ``GaussianMixture`` and ``BayesianGaussianMixture`` are ours, and
their tests are collected here under their own names; those of the Bayesian module begin with ``test_bayesian``. What
cannot run stands in `EXCLUDED` with the reason, so that a test which a later scikit-learn adds is run without being
asked for.
"""

import importlib.util
import re
import sys
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import sklearn
import sklearn.mixture
from sklearn.utils.fixes import parse_version

from daskgmm import BayesianGaussianMixture, GaussianMixture

OURS = {"GaussianMixture": GaussianMixture, "BayesianGaussianMixture": BayesianGaussianMixture}
MODULES = ("test_gaussian_mixture", "test_bayesian_mixture", "test_mixture")

# Their configuration shows warnings, ours turns them into errors; tests that expect one say so themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::daskgmm.errors.CoincidingComponentsWarning"),  # which theirs does not have
]

_PRIVATE = "is about scikit-learn's private functions"
_ARRAY_API = "array-API dispatch (arrays of torch, CuPy, …) is not offered"

EXCLUDED = {
    "test_suffstat_sk_full": _PRIVATE,
    "test_suffstat_sk_tied": _PRIVATE,
    "test_suffstat_sk_diag": _PRIVATE,
    "test_gaussian_suffstat_sk_spherical": _PRIVATE,
    "test_compute_log_det_cholesky": _PRIVATE,
    "test_gaussian_mixture_log_probabilities": _PRIVATE,
    "test_gaussian_mixture_precisions_init": "calls the private method _initialize",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": _PRIVATE,
    "test_gaussian_mixture_array_api_compliance": _ARRAY_API,
    "test_gaussian_mixture_raises_where_array_api_not_implemented": _ARRAY_API,
    "test_check_weights": "wants the smallest weight to be called the largest; test_bad_input.py has all its cases",
    "test_bayesian_log_dirichlet_norm": _PRIVATE,
    "test_bayesian_log_wishart_norm": _PRIVATE,
    "test_bayesian_compare_covar_type": "calls the private methods _check_parameters and _initialize_parameters; "
    "test_bayesian.py makes the comparison with max_iter=0",
}

EXCLUDED_CASES = {
    "test_score[float32]": "wants score() to equal a float32 mean to 7 decimals; ours adds in double "
    "precision (test_sklearn_contract.py shows that it is the better number)",
}
if parse_version(sklearn.__version__) < parse_version("1.7"):
    EXCLUDED_CASES["test_regularisation"] = "wants the words that the error had before scikit-learn 1.7"


def _copy_with_ours(name: str) -> ModuleType:
    """The upstream test module, imported once more while scikit-learn's mixtures are ours."""
    spec = importlib.util.find_spec(f"sklearn.mixture.tests.{name}")
    if spec is None or spec.loader is None:
        pytest.skip("this scikit-learn comes without its tests", allow_module_level=True)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.multiple(sklearn.mixture, **OURS):
        spec.loader.exec_module(module)
    return module


def _tests(module: ModuleType) -> dict[str, object]:
    found = {name: value for name, value in vars(module).items() if name.startswith("test_") and callable(value)}
    if "bayesian" not in module.__name__:
        return found
    # Some have the names of tests in the other module.
    return {re.sub("^test_(bayesian_(mixture_)?)?", "test_bayesian_", name): test for name, test in found.items()}


UPSTREAM = {name: test for module in map(_copy_with_ours, MODULES) for name, test in _tests(module).items()}
globals().update({name: test for name, test in UPSTREAM.items() if name not in EXCLUDED})


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def global_dtype(request):
    return request.param


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(autouse=True)
def skip_excluded_cases(request):
    if request.node.name in EXCLUDED_CASES:
        pytest.skip(EXCLUDED_CASES[request.node.name])


def test_every_upstream_test_runs_or_is_excluded_with_a_reason():
    collected = {name for name in vars(sys.modules[__name__]) if name in UPSTREAM}
    assert collected | EXCLUDED.keys() >= UPSTREAM.keys()
    assert not collected & EXCLUDED.keys()
    assert len(collected) >= 40
    assert all(EXCLUDED.values())
    assert {case.partition("[")[0] for case in EXCLUDED_CASES} <= collected


def test_the_copies_test_our_classes():
    for test in UPSTREAM.values():
        names = OURS.keys() & test.__globals__.keys()
        assert names
        assert all(test.__globals__[name] is OURS[name] for name in names)
    assert not any(getattr(sklearn.mixture, name) is ours for name, ours in OURS.items())


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="the table was written for scikit-learn 1.9")
def test_no_exclusion_is_stale():
    assert EXCLUDED.keys() <= UPSTREAM.keys()
