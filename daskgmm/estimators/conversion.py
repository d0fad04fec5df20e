"""Conversion of fitted models to scikit-learn's own classes, and back."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import numpy as np
from sklearn import mixture
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from ..core.covariance import STRUCTURES
from ..core.estimation import State
from ..core.structure import CovarianceStructure
from ..data.failures import short_errors
from ..engine.blas import one_blas_thread
from ..names import AUTO, DIAG, FULL, SPHERICAL, TIED
from .attributes import COVARIANCES, Memory, as_array
from .model import MixtureModel

Array = np.ndarray[Any, np.dtype[Any]]

_THEIR_TYPES = (FULL, TIED, DIAG, SPHERICAL)
_THEIR_CLASSES = (mixture.GaussianMixture, mixture.BayesianGaussianMixture)

_FACTS = ("converged_", "n_iter_", "n_features_in_", "feature_names_in_")
"""Attributes of both libraries that belong to no state."""


class SklearnConversion(MixtureModel[State]):
    """Conversion between a mixture and the class of the same name in `sklearn.mixture`."""

    _sklearn_class: ClassVar[type[BaseEstimator]]

    _state_attributes: ClassVar[tuple[str, ...]]
    """Attributes of both classes that hold the result of a fit: parameters, or a posterior and its priors."""

    @staticmethod
    def _bound_unit(model: Any) -> float:
        """Factor from the bound and ``tol`` of this class to scikit-learn's, for a fitted model of either class."""
        return 1.0

    @short_errors
    def to_sklearn(self) -> Any:
        """Convert the fitted model to scikit-learn's class of the same name.

        The result predicts the same up to rounding, and has copies of all parameters and fitted attributes that both
        classes have. ``n_init='auto'`` becomes 1. The covariance types 'tied-diag' and 'tied-spherical' become 'diag'
        and 'spherical', with the one covariance repeated for every component: the same mixture. The bounds and ``tol``
        of a `BayesianGaussianMixture` become sums over the rows. Attributes of a fit to float32 rows have single
        precision there, too, while this model predicts with the parameters that were rounded.

        Returns
        -------
        sklearn.mixture.GaussianMixture or sklearn.mixture.BayesianGaussianMixture

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        TypeError
            If scikit-learn has no matrices in the form of the covariance type, which another package has added.
        """
        attributes = self._agreed_attributes()
        parameters = _common_parameters(self, self._sklearn_class)
        parameters["covariance_type"] = _repeat_shared(self._structure, attributes, parameters)
        if parameters["n_init"] == AUTO:
            parameters["n_init"] = 1
        unit = self._bound_unit(self)
        parameters["tol"] *= unit
        model = self._sklearn_class(**parameters)
        vars(model).update(attributes, **_facts(self, unit))
        return model

    @classmethod
    @short_errors
    def from_sklearn(cls, model: Any) -> Self:
        """Make a fitted model of a model of scikit-learn's class of the same name.

        The result predicts the same up to rounding, for data of any kind and size. It can be saved, and fitted on with
        ``warm_start=True``.

        Parameters
        ----------
        model : sklearn.mixture.GaussianMixture or sklearn.mixture.BayesianGaussianMixture
            Fitted model of the class with the name of this one, or of a subclass.

        Returns
        -------
        GaussianMixture or BayesianGaussianMixture
            Fitted model, with copies of all parameters and fitted attributes that both classes have.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        TypeError
            If the model is of another class.
        ValueError
            If a parameter is out of range, or the attributes are no mixture (`InvalidAttributesError`).
        """
        _check_class(cls._sklearn_class, model)
        check_is_fitted(model)
        parameters, unit = _common_parameters(model, cls), cls._bound_unit(model)
        parameters["tol"] /= unit
        made = cls(**parameters)
        made._validate_params()
        present = [name for name in cls._state_attributes if hasattr(model, name)]
        attributes = {name: copy.deepcopy(getattr(model, name)) for name in present}
        made.__dict__.update(attributes, **_facts(model, 1 / unit))
        made._memory = Memory[State]()
        made._prepared()  # raises for attributes that are no mixture
        made._remember()
        return made

    def _agreed_attributes(self) -> dict[str, Any]:
        """Copies of the attributes in `_state_attributes`; a stale one is computed from those that predictions use."""
        exact = copy.copy(self)
        with one_blas_thread():
            exact._store_state(self._state(), as_array("means_", self.means_).dtype)
        known = {name: value for name, value in vars(exact).items() if name in self._state_attributes}
        return {name: copy.deepcopy(_chosen(getattr(self, name, None), value)) for name, value in known.items()}


def _chosen(own: Any, computed: Any) -> Any:
    """Attribute as it is set, if it agrees up to rounding with what was computed."""
    ours, expected = np.asarray(own), np.asarray(computed)
    if ours.dtype.kind not in "iuf" or ours.shape != expected.shape:
        return computed
    eps = np.finfo(np.result_type(ours, np.float32)).eps
    tolerance = np.sqrt(eps) * np.abs(expected).max()
    return own if (np.abs(ours - expected) <= tolerance).all() else computed


def _common_parameters(source: BaseEstimator, target: Any) -> dict[str, Any]:
    """Copies of the constructor parameters of an estimator that another class has, too."""
    parameters = source.get_params(deep=False)
    return {name: clone(value, safe=False) for name, value in parameters.items() if name in target._get_param_names()}


def _facts(model: Any, factor: float) -> dict[str, Any]:
    """Copies of known facts of the fit; ``factor`` multiplies its bounds."""
    facts = {name: copy.deepcopy(getattr(model, name)) for name in _FACTS if hasattr(model, name)}
    if hasattr(model, "lower_bound_"):
        facts["lower_bound_"] = _number(model.lower_bound_) * factor
    if hasattr(model, "lower_bounds_"):
        facts["lower_bounds_"] = [_number(bound) * factor for bound in model.lower_bounds_]
    return facts


def _number(bound: Any) -> float:
    """Bound as a number: in scikit-learn, the bound of a posterior with a tied covariance is an array of one number."""
    return float(np.asarray(bound).item())


def _repeat_shared(structure: CovarianceStructure, attributes: dict[str, Any], parameters: dict[str, Any]) -> str:
    """Return scikit-learn's covariance type, and repeat what all components share where that type has one for each."""
    n_components, n_features = attributes["means_"].shape
    covariance_type = _their_type(structure, n_features)
    if structure.shared and covariance_type != structure.name:
        one = 1, *structure.matrix_shape(n_features)
        for values, names in ((attributes, COVARIANCES), (parameters, ("precisions_init",))):
            for name in names:
                if values.get(name) is not None:
                    values[name] = np.repeat(np.reshape(values[name], one), n_components, axis=0)
        if "degrees_of_freedom_" in attributes:
            attributes["degrees_of_freedom_"] = np.repeat(attributes["degrees_of_freedom_"], n_components)
    return covariance_type


def _their_type(structure: CovarianceStructure, n_features: int) -> str:
    """Covariance type of scikit-learn in which a structure's matrices can be written."""
    if structure.name in _THEIR_TYPES:
        return structure.name
    for name in (FULL, DIAG, SPHERICAL):
        if STRUCTURES[name].matrix_shape(n_features) == structure.matrix_shape(n_features):
            return name
    raise TypeError(
        f"covariance_type={structure.name!r} has matrices of the shape {structure.matrix_shape(n_features)}, which "
        f"scikit-learn does not have: its types are {', '.join(_THEIR_TYPES)}"
    )


def _check_class(expected: type[BaseEstimator], model: Any) -> None:
    if isinstance(model, expected):
        return
    came = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    library = type(model).__module__.partition(".")[0]
    origin = "" if isinstance(model, type) or library == "builtins" else f" of {library}"
    hint = f". Use {type(model).__name__}.from_sklearn" if type(model) in _THEIR_CLASSES else ""
    raise TypeError(f"model is {came}{origin}; expected a fitted sklearn.mixture.{expected.__name__}{hint}")
