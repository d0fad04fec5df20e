"""Parameters of a mixture as an xarray Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.mixture import MixtureParameters
from ..core.structure import CovarianceStructure
from ..errors import MissingDependencyError

Array = np.ndarray[Any, np.dtype[Any]]


def labelled_parameters(parameters: MixtureParameters, covariances: Array, names: Sequence[str] | None) -> Any:
    """Return weights, means and covariances with dimensions ``component``, ``feature`` and ``feature_``.

    Parameters
    ----------
    parameters : MixtureParameters
    covariances : array
        Covariances that agree with the parameters, a matrix for each component, or one that all share.
    names : sequence of str or None
        Names of the features, which become coordinates.

    Raises
    ------
    MissingDependencyError
        If xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise MissingDependencyError("xarray", "xarray", "to_xarray") from error
    structure = parameters.structure
    dims = _covariance_dims(structure, parameters.n_features)
    coords: dict[str, Any] = {"component": np.arange(parameters.n_components)}
    if names is not None:
        coords |= {dim: (dim, [str(name) for name in names]) for dim in {"feature", *dims} & {"feature", "feature_"}}
    variables = {
        "weights": ("component", parameters.weights.copy(), {"long_name": "weights of the components", "units": "1"}),
        "means": (("component", "feature"), parameters.means.copy(), {"long_name": "means of the components"}),
        "covariances": (dims, structure.to_attribute(covariances).copy(), {"long_name": "covariances of the features"}),
    }
    return xarray.Dataset(variables, coords, {"covariance_type": structure.name})


def _covariance_dims(structure: CovarianceStructure, n_features: int) -> tuple[str, ...]:
    """Names of the dimensions of ``covariances_``."""
    shape = structure.matrix_shape(n_features)
    if structure.shared and not shape:
        return ("variance",)  # one number for all features and components
    return (*(() if structure.shared else ("component",)), *_matrix_dims(shape, n_features))


def _matrix_dims(shape: tuple[int, ...], n_features: int) -> Iterator[str]:
    features = iter(("feature", "feature_"))
    for axis, size in enumerate(shape):
        yield next(features, f"axis_{axis}") if size == n_features else f"axis_{axis}"
