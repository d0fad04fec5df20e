"""Distributions over the weights of a mixture: a symmetric Dirichlet distribution, or a truncated Dirichlet process.

==========================  ================================================  ================
prior                       weights                                           parameters
==========================  ================================================  ================
``dirichlet_distribution``  w ~ Dirichlet(α, …, α)                            (K,)
``dirichlet_process``       w_k = v_k Π_{j<k} (1 − v_j),  v_k ~ Beta(1, α)    (2, K)
==========================  ================================================  ================

α is the prior's concentration: the smaller α, the fewer components are used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from scipy.special import betaln, digamma, gammaln

from ..names import DIRICHLET_DISTRIBUTION, DIRICHLET_PROCESS

Array = np.ndarray[Any, np.dtype[Any]]


class WeightDistribution(ABC):
    """Conjugate family of distributions over the weights. Instances hold no state."""

    name: ClassVar[str]

    @abstractmethod
    def shape(self, n_components: int) -> tuple[int, ...]:
        """Shape of the family's parameters."""

    def dimensions(self) -> tuple[str, ...]:
        """Names of the axes of `shape`."""
        return ("parameter", "component")[-len(self.shape(1)) :]

    @abstractmethod
    def posterior(self, prior: float, soft_counts: Array) -> Array:
        """Parameters of the posterior after ``soft_counts`` (K,) rows, from the prior's concentration."""

    @abstractmethod
    def expected_log_weights(self, concentration: Array) -> Array:
        """E log w_k, shape (K,)."""

    @abstractmethod
    def mean_weights(self, concentration: Array) -> Array:
        """Mean weights, shape (K,), summing to one."""

    @abstractmethod
    def log_volume(self, concentration: Array) -> float:
        """Logarithm of the integral of the density without its constant."""


class DirichletDistribution(WeightDistribution):
    """Dirichlet distribution: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2."""

    name = DIRICHLET_DISTRIBUTION

    def shape(self, n_components: int) -> tuple[int, ...]:
        return (n_components,)

    def posterior(self, prior: float, soft_counts: Array) -> Array:
        return prior + soft_counts  # Bishop (10.58)

    def expected_log_weights(self, concentration: Array) -> Array:
        return np.asarray(digamma(concentration) - digamma(concentration.sum()))  # Bishop (10.66)

    def mean_weights(self, concentration: Array) -> Array:
        return np.asarray(concentration / concentration.sum())

    def log_volume(self, concentration: Array) -> float:
        return float(gammaln(concentration).sum() - gammaln(concentration.sum()))


class DirichletProcess(WeightDistribution):
    """Dirichlet process, a stick truncated at K pieces: Blei & Jordan, Bayesian Analysis 1(1), 2006."""

    name = DIRICHLET_PROCESS

    def shape(self, n_components: int) -> tuple[int, ...]:
        return 2, n_components

    def posterior(self, prior: float, soft_counts: Array) -> Array:
        later = np.append(np.cumsum(soft_counts[:0:-1])[::-1], 0.0)  # rows of all components after k
        return np.stack([1.0 + soft_counts, prior + later])  # Blei & Jordan (18), (19)

    def expected_log_weights(self, concentration: Array) -> Array:
        broken, left = digamma(concentration) - digamma(concentration.sum(axis=0))
        return np.asarray(broken + np.append(0.0, np.cumsum(left[:-1])))

    def mean_weights(self, concentration: Array) -> Array:
        broken, left = concentration / concentration.sum(axis=0)
        weights = broken * np.append(1.0, np.cumprod(left[:-1]))
        return np.asarray(weights / weights.sum())  # the last piece takes the remainder of the stick

    def log_volume(self, concentration: Array) -> float:
        return float(betaln(*concentration).sum())


WEIGHT_DISTRIBUTIONS: dict[str, WeightDistribution] = {d.name: d for d in (DirichletProcess(), DirichletDistribution())}
"""Every family by its name, which is scikit-learn's ``weight_concentration_prior_type``."""
