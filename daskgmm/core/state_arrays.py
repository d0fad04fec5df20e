"""States of fits as named arrays of float64, and back: names, shapes and checks of each kind of state.

Model files, checkpoints and digests of settings all take the arrays from here, so a new field of a state is added in
one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic

import numpy as np

from .concentration import WeightDistribution
from .estimation import State
from .mixture import MixtureParameters
from .structure import CovarianceStructure
from .validity import Problem, matrices_problem, weights_problem
from .variational import Posterior, Priors

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = dict[str, tuple[int, ...]]
Dimensions = dict[str, tuple[str, ...]]


class StateArrays(ABC, Generic[State]):
    """Arrays of one kind of state. Instances hold settings only, and are values."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Names of arrays that are all present, or all absent if unknown."""

    @abstractmethod
    def shapes(self, structure: CovarianceStructure, n_components: int, n_features: int) -> Shapes:
        """Shape of every array by name."""

    @abstractmethod
    def dimensions(self, structure: CovarianceStructure) -> Dimensions:
        """Names of the axes of every array by name; axes with one name have one length in all arrays."""

    @abstractmethod
    def arrays(self, state: State) -> dict[str, Array]:
        """Arrays of a state by name."""

    @abstractmethod
    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> State:
        """Make a state of arrays that have passed the checks of `problem`; inverse of `arrays`."""

    def known(self, shapes: Shapes, names: Iterable[str]) -> Shapes:
        """Drop the shapes of `optional` arrays if ``names`` contains none of them."""
        left_out = self.optional if set(names).isdisjoint(self.optional) else ()
        return {name: shape for name, shape in shapes.items() if name not in left_out}

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> Problem | None:
        """Name an invalid array and the reason; return None for arrays of a state.

        Parameters
        ----------
        structure : CovarianceStructure
        arrays : mapping of str to array of float64
            Arrays with the shapes of `shapes`.
        """
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                return name, "contain NaN or infinity"
        return matrices_problem(structure, arrays["covariances"], arrays["precisions_cholesky"], arrays["means"])

    def checked_state(
        self, structure: CovarianceStructure, n_components: int, n_features: int, arrays: Mapping[str, Array]
    ) -> State:
        """Validate arrays of unknown origin, and make a state of them.

        Raises
        ------
        ValueError
            If they are not the arrays of a state of that structure and size.
        """
        shapes = self.known(self.shapes(structure, n_components, n_features), arrays)
        if arrays.keys() != shapes.keys():
            raise ValueError(f"the arrays are {sorted(arrays)!s:.200}; expected {sorted(shapes)}")
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; expected {shape}, float64")
        if problem := self.problem(structure, arrays):
            raise ValueError(" ".join(problem))
        return self.state(structure, arrays)


@dataclass(frozen=True)
class MixtureArrays(StateArrays[MixtureParameters]):
    """Arrays of a mixture, the state of maximum likelihood."""

    _NAMES: ClassVar = ("weights", "means", "covariances", "precisions_cholesky")

    def shapes(self, structure: CovarianceStructure, n_components: int, n_features: int) -> Shapes:
        matrices = structure.covariance_shape(n_components, n_features)
        shapes = (n_components,), (n_components, n_features), matrices, matrices
        return dict(zip(self._NAMES, shapes, strict=True))

    def dimensions(self, structure: CovarianceStructure) -> Dimensions:
        matrices = structure.covariance_dimensions()
        return dict(zip(self._NAMES, (("component",), ("component", "feature"), matrices, matrices), strict=True))

    def arrays(self, state: MixtureParameters) -> dict[str, Array]:
        return {name: getattr(state, name) for name in self._NAMES}

    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> MixtureParameters:
        return MixtureParameters(structure, **arrays)

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> Problem | None:
        return super().problem(structure, arrays) or weights_problem(arrays["weights"])


@dataclass(frozen=True)
class PosteriorArrays(StateArrays[Posterior]):
    """Arrays of a posterior with this distribution of the weights; names of priors begin with ``prior_``."""

    weight_distribution: WeightDistribution

    optional = tuple(f"prior_{field.name}" for field in fields(Priors))

    _NAMES: ClassVar = (
        "weight_concentration",
        "mean_precision",
        "means",
        "degrees_of_freedom",
        "covariances",
        "precisions_cholesky",
    )
    _SCALARS: ClassVar = ("prior_weight_concentration", "prior_mean_precision", "prior_degrees_of_freedom")
    _DEGREES_OF_FREEDOM: ClassVar = ("degrees_of_freedom", "prior_degrees_of_freedom")
    _POSITIVE: ClassVar = ("weight_concentration", "mean_precision", "degrees_of_freedom", *_SCALARS)

    def shapes(self, structure: CovarianceStructure, n_components: int, n_features: int) -> Shapes:
        matrices = structure.covariance_shape(n_components, n_features)
        return {
            "weight_concentration": self.weight_distribution.shape(n_components),
            "mean_precision": (n_components,),
            "means": (n_components, n_features),
            "degrees_of_freedom": (structure.n_matrices(n_components),),
            "covariances": matrices,
            "precisions_cholesky": matrices,
            **dict.fromkeys(self._SCALARS, ()),
            "prior_mean": (n_features,),
            "prior_covariance": structure.prior_shape(n_features),
        }

    def dimensions(self, structure: CovarianceStructure) -> Dimensions:
        matrices = structure.covariance_dimensions()
        return {
            "weight_concentration": self.weight_distribution.dimensions(),
            "mean_precision": ("component",),
            "means": ("component", "feature"),
            "degrees_of_freedom": matrices[:1],
            "covariances": matrices,
            "precisions_cholesky": matrices,
            **dict.fromkeys(self._SCALARS, ()),
            "prior_mean": ("feature",),
            "prior_covariance": structure.prior_dimensions(),
        }

    def arrays(self, state: Posterior) -> dict[str, Array]:
        priors = {} if state.priors is None else vars(state.priors)
        arrays = {name: getattr(state, name) for name in self._NAMES}
        return arrays | {f"prior_{name}": np.asarray(value, np.float64) for name, value in priors.items()}

    def state(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> Posterior:
        priors: dict[str, Any] = {
            name.removeprefix("prior_"): float(arrays[name]) if name in self._SCALARS else arrays[name]
            for name in self.optional
            if name in arrays
        }
        known = Priors(**priors) if priors else None
        return Posterior(structure, self.weight_distribution, known, **{name: arrays[name] for name in self._NAMES})

    def problem(self, structure: CovarianceStructure, arrays: Mapping[str, Array]) -> Problem | None:
        for name in arrays.keys() & set(self._POSITIVE):
            if (arrays[name] <= 0).any():
                return name, f"has to be positive: the least is {arrays[name].min():.4g}"
        n_features = arrays["means"].shape[1]
        for name in arrays.keys() & set(self._DEGREES_OF_FREEDOM):
            if (arrays[name] <= n_features - 1).any():
                return name, f"has to be greater than {n_features - 1}: the least is {arrays[name].min():.8g}"
        return super().problem(structure, arrays)
