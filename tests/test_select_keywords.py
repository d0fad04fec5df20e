"""Parameters of the candidates as keywords of `select`."""

import numpy as np
import pytest

from daskgmm import BayesianGaussianMixture, GaussianMixture, select

X = np.random.default_rng(0).normal(size=(200, 2)) + np.repeat([[0.0], [6.0]], 100, axis=0)


def test_keywords_are_parameters_of_all_candidates():
    given = {"random_state": 3, "tol": 0.05, "reg_covar": 1e-4, "init_params": "random_from_data"}
    by_keywords = select(X, [1, 2], **given)
    by_estimator = select(X, [1, 2], estimator=GaussianMixture(**given))
    assert str(by_keywords) == str(by_estimator)
    for model in by_keywords.models.values():
        assert given.items() <= model.get_params().items()
    np.testing.assert_array_equal(by_keywords.model.means_, by_estimator.model.means_)


@pytest.mark.parametrize(("given", "expected"), [("diag", ["diag"]), (["diag", "tied"], ["diag", "tied"])])
def test_the_name_of_the_estimators_parameter_serves_for_the_types(given, expected):
    found = select(X, 2, covariance_type=given, random_state=0, tol=0.1)
    assert [row["covariance_type"] for row in found.table] == expected


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (
            {"random_sate": 0},
            TypeError,
            "select got the keyword 'random_sate', which is no parameter.*near it: random_s",
        ),
        ({"heldout": 0.1}, TypeError, "'heldout', .*near it: held_out"),
        ({"covariances": "diag"}, TypeError, "'covariances', .*near it: covariance_type"),
        ({"frobnicate": 1}, TypeError, "'frobnicate', .*Parameters: acceleration"),
        ({"covariance_type": "diag", "covariance_types": "full"}, TypeError, "mean the same: leave one out"),
        ({"covariance_type": "diagonal"}, ValueError, "'diagonal'; expected full, tied"),
        ({"covariance_type": None}, TypeError, "covariance_types is None; expected names"),
        (
            {"estimator": GaussianMixture(), "random_state": 0},
            TypeError,
            r"random_state=0 beside an estimator: give it to the estimator, GaussianMixture\(random_state=0\)",
        ),
        ({"estimator": BayesianGaussianMixture(), "tol": 1e-5}, TypeError, r"BayesianGaussianMixture\(tol=1e-05\)"),
        ({"tol": -1.0}, ValueError, "'tol' parameter"),
    ],
)
def test_keywords_that_there_are_not(keywords, error, message):
    with pytest.raises(error, match=message):
        select(X, [1, 2], **keywords)


def test_the_type_goes_with_an_estimator():
    assert select(X, 2, covariance_type="tied", estimator=GaussianMixture(random_state=0)).best == (2, "tied")
