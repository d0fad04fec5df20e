"""Base class of mixtures whose parameters are numbers and not distributions: made of parameters, and taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import clone

from ..core.conditioning import Conditional, marginal
from ..core.mixture import MixtureParameters
from ..core.structure import CovarianceStructure
from ..core.validity import covariances_problem, weights_problem
from ..data.dimensions import given_layout
from ..data.failures import short_errors
from ..data.files import suggesting_columns
from ..data.inputs import accept, in_memory, is_lazy
from ..data.row_checks import row_kind
from ..data.tables import column_names
from ..engine.blas import one_blas_thread
from ..errors import InvalidAttributesError
from ..fitting.regression import ConditionalMean
from ..names import Defaults
from .attributes import Memory, as_array, checked, rounding
from .features import check_feature_names, feature_positions, given_values, other_features
from .layouts import recorded_layout
from .model import Array
from .outliers import OutlierThreshold
from .predictions import for_each_row
from .validation import check_parameter_names

_LARGEST = 10**9  # numbers in an array of parameters

_OF_FEATURES = "weights_init", "means_init", "precisions_init"
"""Constructor parameters that belong to all features of a mixture."""


_OF_LAYOUT = "feature_dims_", "feature_axis_"
"""Attributes that say where data of several dimensions have their features."""


class ExplicitMixture(OutlierThreshold[MixtureParameters]):
    """Base class of `GaussianMixture`: mixtures made of given parameters, marginals and conditionals."""

    @classmethod
    @short_errors
    def from_parameters(
        cls,
        weights: Any,
        means: Any,
        covariances: Any,
        *,
        covariance_type: str = Defaults.covariance_type,
        feature_names: Iterable[str] | None = None,
        **parameters: Any,
    ) -> Self:
        """Make a fitted model of known parameters, without data.

        Predictions, scores, samples, `save`, and a fit with ``warm_start=True`` work as after a fit. The model has no
        attributes that only a fit knows, such as ``converged_`` and ``lower_bound_``.

        Parameters
        ----------
        weights : array-like of shape (K,)
            Weights of the components, not negative, with the sum 1 up to 1e-5.
        means : array-like of shape (K, D)
            Means of the components.
        covariances : array-like
            Positive definite covariances in the shape of ``covariances_`` for ``covariance_type``.
        covariance_type : str, default='full'
            Form of the covariances, as for the constructor.
        feature_names : iterable of str, optional
            Names of the features.
        **parameters
            Other parameters of the constructor, such as ``random_state``.

        Returns
        -------
        GaussianMixture
            Fitted model with K components. Its attributes have single precision if all three arrays have.

        Raises
        ------
        InvalidAttributesError
            If an array has the wrong shape or values that no mixture has; the message names the argument.
        TypeError, ValueError
            If another parameter is unknown or invalid.

        Examples
        --------
        >>> from daskgmm import GaussianMixture
        >>> weights, means, variances = [0.25, 0.75], [[0.0], [3.0]], [[1.0], [2.0]]
        >>> model = GaussianMixture.from_parameters(weights, means, variances, covariance_type="diag")
        >>> model.predict([[0.1], [2.5]])
        array([0, 1])
        """
        check_parameter_names(cls, parameters, cls.from_parameters)
        centers = _argument("means", means)
        if centers.ndim != 2 or not centers.size:
            raise InvalidAttributesError("means", f"has the shape {centers.shape}; expected (n_components, n_features)")
        if parameters.setdefault("n_components", len(centers)) != len(centers):
            raise ValueError(
                f"n_components={parameters['n_components']!r:.40}, but means has {len(centers)} rows: leave "
                "n_components out"
            )
        model = cls(covariance_type=covariance_type, **parameters)
        model._check_settings()
        names = None if feature_names is None else check_feature_names(feature_names, centers.shape[1])
        arrays = _argument("weights", weights), centers, _argument("covariances", covariances)
        mixture = _given_mixture(model._structure, *arrays)
        single = all(array.dtype == np.float32 for array in arrays)
        return model._filled(mixture, np.float32 if single else np.float64, names)

    @short_errors
    def marginal(self, features: int | str | Iterable[int | str]) -> Self:
        """Mixture of some of the features: the marginal distribution.

        Parameters
        ----------
        features : int, str, or iterable of them
            Positions or names of the features, in the order that the result is to have.

        Returns
        -------
        GaussianMixture
            Fitted model with the same weights and covariance type.

        Raises
        ------
        ValueError, TypeError
            If there is no such feature, or one is chosen twice.
        """
        mixture = self._mixture()
        chosen = feature_positions("features", features, mixture.n_features, self._names())
        with one_blas_thread():
            return self._of(marginal(mixture, chosen), chosen)

    @short_errors
    def conditional(self, given: Mapping[int | str, float]) -> Self:
        """Mixture of the other features, where the values of some features are known: the conditional distribution.

        Parameters
        ----------
        given : mapping of int or str to float
            Values of some features, by their positions or names.

        Returns
        -------
        GaussianMixture
            Fitted model of the other features, in their order, with the same covariance type. Its weights are the
            probabilities of the components given the values. Weights below the smallest double are zero.

        Raises
        ------
        ValueError, TypeError
            If there is no such feature, no feature is left, or a value is no finite number.
        """
        mixture, values = self._mixture(), given_values(given)
        chosen = feature_positions("given", list(given), mixture.n_features, self._names())
        others = other_features("given", chosen, mixture.n_features)
        with one_blas_thread():
            return self._of(Conditional.of(mixture, chosen, others).mixture(values), others)

    @short_errors
    def conditional_mean(
        self,
        X: Any,
        given: int | str | Sequence[int | str],
        *,
        dim: str | Sequence[str] | None = None,
        feature_axis: int | None = None,
    ) -> Any:
        """Compute the mean of the other features for rows of some features: regression with the mixture.

        Parameters
        ----------
        X : array-like of shape (n, q)
            Data, as for `fit`, with one column for each given feature.
        given : int, str, or sequence of them
            Positions or names of the q features that the columns of ``X`` hold.
        dim : str or sequence of str, optional
            Sample dimensions, as for `fit`. None: all but the feature dimensions of the fit.
        feature_axis : int, optional
            Axis of the features, as for `fit`. None: that of the fit.

        Returns
        -------
        means : array of shape (n, D − q)
            Expected values of the other features, in their order. Results have the form of those of `predict_proba`,
            with the dimension ``feature``, or the names of the features as columns. Incomplete rows that are left out
            have NaN.

        Raises
        ------
        ValueError, TypeError
            If there is no such feature, no feature is left, or ``X`` has other features.
        """
        mixture = self._mixture()
        chosen = feature_positions("given", given, mixture.n_features, self._names())
        others = other_features("given", chosen, mixture.n_features)
        with one_blas_thread():
            conditional = Conditional.of(mixture, chosen, others)
        model = self._of(conditional.given, chosen)
        _check_columns(column_names(X), model._names())
        layout = given_layout(dim, feature_axis)
        known = accept(X, missing=self.missing, layout=recorded_layout(model, layout))
        if known.frame is not None:  # the columns of a file are known only now
            with suggesting_columns(X, model._names() or ()):
                _check_columns(list(known.frame.columns), model._names())
        if known.feature_names is None and known.frame is None and column_names(X) is None:
            model.__dict__.pop("feature_names_in_", None)  # ``given`` says what the columns of a plain array are
        accepted, prepared = model._accept_new(X, layout)
        dtype = np.dtype(np.float32 if as_array("means_", self.means_).dtype == np.float32 else np.float64)
        kernel = model._kept_kernel(prepared, accepted.rows)
        names = self._names() or ()
        function = ConditionalMean(
            conditional, kernel, dtype, row_kind(accepted.missing), tuple(names[i] for i in others if names)
        )
        return for_each_row(accepted, function)

    # ---- internal methods

    def _mixture(self) -> MixtureParameters:
        """Mixture with agreed covariances, see `_agreed_covariances`."""
        return replace(self._parameters(), covariances=self._agreed_covariances())

    def _names(self) -> list[str] | None:
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else [str(name) for name in names]

    def _of(self, mixture: MixtureParameters, features: Array) -> Self:
        """Model of some of the features, with the parameters of this one."""
        names = self._names()
        model = clone(self).set_params(**dict.fromkeys(_OF_FEATURES))
        vars(model).update({name: getattr(self, name) for name in _OF_LAYOUT if hasattr(self, name)})
        chosen = None if names is None else tuple(names[i] for i in features)
        return model._filled(mixture, as_array("means_", self.means_).dtype, chosen)

    def _filled(self, mixture: MixtureParameters, dtype: Any, names: Sequence[str] | None) -> Self:
        """Set the fitted attributes of a new model, and return the model."""
        self._store_state(mixture, dtype)
        self._memory = Memory[MixtureParameters]()
        self.n_features_in_ = mixture.n_features
        if names is not None:
            self.feature_names_in_ = np.array(names, object)
        return self


def _check_columns(columns: list[str] | None, expected: list[str] | None) -> None:
    """Raise ValueError for a table with other columns than the expected ones, before scikit-learn speaks of a fit."""
    if columns is not None and expected is not None and list(map(str, columns)) != expected:
        raise ValueError(
            f"X has the columns {columns!s:.200}; expected the given features in their order, X[{expected!s:.200}]"
        )


def _argument(name: str, value: Any) -> Array:
    return as_array(name, in_memory(name, value, _LARGEST) if is_lazy(value) else value)


def _given_mixture(
    structure: CovarianceStructure, weights: Array, means: Array, covariances: Array
) -> MixtureParameters:
    """Validate given arrays; the mixture has copies of them, in double precision.

    Raises
    ------
    InvalidAttributesError
    """
    shape = means.shape
    weights, means = checked("weights", weights, shape[:1]).copy(), checked("means", means, shape).copy()
    values = checked("covariances", covariances, structure.attribute_shape(*shape)).copy()
    values = structure.from_attribute(values, *shape)
    if problem := weights_problem(weights) or covariances_problem(structure, values, rounding(covariances)):
        raise InvalidAttributesError(*problem)
    with one_blas_thread():
        return MixtureParameters.from_covariances(structure, weights, means, values)
