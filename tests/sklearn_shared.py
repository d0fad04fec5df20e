"""scikit-learn's mixtures with one diagonal covariance, or one variance, for all components.

scikit-learn itself has ``tied`` for general matrices only. Here its own ``diag`` and ``spherical`` serve, with the
M-step's covariances replaced by their mean, weighted by the components' counts: scikit-learn's formulas for ``tied``,
written for variances. Outside of a call the attributes have the shapes (D,) and (1,).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from sklearn import mixture
from sklearn.mixture import _gaussian_mixture as module

SHARED = ("tied-diag", "tied-spherical")

_MATRICES = ("covariances_", "precisions_", "precisions_cholesky_", "precisions_init")
_estimate = module._estimate_gaussian_covariances_diag  # spherical takes its mean


def _estimate_shared(resp: Any, x: Any, nk: Any, means: Any, reg_covar: float, **more: Any) -> Any:
    covariances = _estimate(resp, x, nk, means, reg_covar, **more)
    return np.broadcast_to(nk / nk.sum() @ covariances, covariances.shape).copy()


class _Shared:
    _is_shared = False
    covariance_type: str
    n_components: int

    def fit(self, *args: Any) -> Any:
        with self._repeated():
            return super().fit(*args)  # type: ignore[misc]

    def fit_predict(self, *args: Any) -> Any:
        with self._repeated():
            return super().fit_predict(*args)  # type: ignore[misc]

    def predict(self, x: Any) -> Any:
        with self._repeated():
            return super().predict(x)  # type: ignore[misc]

    def predict_proba(self, x: Any) -> Any:
        with self._repeated():
            return super().predict_proba(x)  # type: ignore[misc]

    def score_samples(self, x: Any) -> Any:
        with self._repeated():
            return super().score_samples(x)  # type: ignore[misc]

    def sample(self, n_samples: int) -> Any:
        with self._repeated():
            return super().sample(n_samples)  # type: ignore[misc]

    @contextmanager
    def _repeated(self) -> Iterator[None]:
        name = self.covariance_type
        if name not in SHARED:
            yield
            return
        self.covariance_type, self._is_shared = name.removeprefix("tied-"), True
        given = getattr(self, "precisions_init", None)
        for matrices in _MATRICES:
            if getattr(self, matrices, None) is not None:
                setattr(self, matrices, self._repeat(getattr(self, matrices), name))
        if hasattr(self, "degrees_of_freedom_"):
            self.degrees_of_freedom_ = np.full(self.n_components, self.degrees_of_freedom_)
        try:
            with mock.patch.object(module, "_estimate_gaussian_covariances_diag", _estimate_shared):
                yield
        finally:
            self.covariance_type, self._is_shared = name, False
            for matrices in _MATRICES[:3]:
                if hasattr(self, matrices):
                    values = getattr(self, matrices)
                    np.testing.assert_array_equal(values, values[:1].repeat(len(values), axis=0))
                    setattr(self, matrices, values[:1] if values.ndim == 1 else values[0])
            if hasattr(self, "precisions_init"):
                self.precisions_init = given
            if hasattr(self, "degrees_of_freedom_"):
                self.degrees_of_freedom_ = self.degrees_of_freedom_[0]

    def _repeat(self, values: Any, name: str) -> Any:
        values = np.asarray(values) if name == "tied-spherical" else np.asarray(values)[None]
        return values.repeat(self.n_components, axis=0)


class GaussianMixture(_Shared, mixture.GaussianMixture):
    """scikit-learn's, for all six values of ``covariance_type``."""

    def _n_parameters(self) -> int:
        if self.covariance_type not in SHARED:
            return int(super()._n_parameters())
        k, d = self.means_.shape
        return k - 1 + k * d + (d if self.covariance_type == "tied-diag" else 1)


class BayesianGaussianMixture(_Shared, mixture.BayesianGaussianMixture):
    """scikit-learn's, for all six values of ``covariance_type``."""

    def _estimate_wishart_diag(self, nk: Any, xk: Any, sk: Any) -> None:
        if not self._is_shared:
            super()._estimate_wishart_diag(nk, xk, sk)
            return
        self._estimate_wishart_one(nk, sk, (xk - self.mean_prior_) ** 2)

    def _estimate_wishart_spherical(self, nk: Any, xk: Any, sk: Any) -> None:
        if not self._is_shared:
            super()._estimate_wishart_spherical(nk, xk, sk)
            return
        self._estimate_wishart_one(nk, sk, ((xk - self.mean_prior_) ** 2).mean(axis=1))

    def _estimate_wishart_one(self, nk: Any, sk: Any, squares: Any) -> None:
        # As `_estimate_wishart_tied`, with squares where that has outer products.
        k, mean_count = self.n_components, nk.sum() / self.n_components
        freedom = self.degrees_of_freedom_prior_ + mean_count
        between = self.mean_precision_prior_ / k * np.tensordot(nk / self.mean_precision_, squares, 1)
        scale = self.covariance_prior_ + sk[0] * mean_count + between
        self.degrees_of_freedom_ = np.full(k, freedom)
        self.covariances_ = np.repeat(np.asarray(scale / freedom)[None], k, axis=0)
