"""The covariance structures that there are, by their names.

===============  ===================  ====================  ==================
structure        kind of matrix       matrices              quadratic features
===============  ===================  ====================  ==================
full             General              one each              x_i x_j for i ≤ j
tied             General              one for all           none (they cancel)
diag             Diagonal             one each              x_i²
spherical        Scalar               one each              ‖x‖²
tied-diag        Diagonal             one for all           none (they cancel)
tied-spherical   Scalar               one for all           none (they cancel)
===============  ===================  ====================  ==================
"""

from __future__ import annotations

from ..names import DIAG, FULL, SPHERICAL, TIED, TIED_DIAG, TIED_SPHERICAL
from .matrices import Diagonal, General, Scalar
from .structure import CovarianceStructure

STRUCTURES: dict[str, CovarianceStructure] = {
    structure.name: structure
    for structure in (
        General(FULL),
        General(TIED, shared=True),
        Diagonal(DIAG),
        Scalar(SPHERICAL),
        Diagonal(TIED_DIAG, shared=True),
        Scalar(TIED_SPHERICAL, shared=True),
    )
}
"""Every structure by its name, which is a ``covariance_type``."""
