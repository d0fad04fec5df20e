"""Covariance structures by name.

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

Other packages may add structures: an installed package names its structure in the entry-point group `ENTRY_POINTS`, and
is imported on the first look-up of that name. Estimators, model files and the terminal all look names up here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from ..names import DIAG, FULL, SPHERICAL, TIED, TIED_DIAG, TIED_SPHERICAL
from .matrices import Diagonal, General, Scalar
from .structure import CovarianceStructure

ENTRY_POINTS = "daskgmm.structures"


class Structures(Mapping[str, CovarianceStructure]):
    """Structures by name; structures of other packages are added when their names are looked up."""

    def __init__(self, structures: Iterable[CovarianceStructure]) -> None:
        self._by_name = {structure.name: structure for structure in structures}

    def register(self, structure: CovarianceStructure) -> None:
        """Add a structure under its name for this process.

        Raises
        ------
        ValueError
            If another structure has the name.
        """
        if self._by_name.setdefault(structure.name, structure) != structure:
            raise ValueError(f"there is another covariance structure with the name {structure.name!r}: choose another")

    def unregister(self, structure: CovarianceStructure) -> None:
        """Undo `register`."""
        del self._by_name[structure.name]

    def __getitem__(self, name: str) -> CovarianceStructure:
        if name not in self._by_name:
            for point in entry_points(group=ENTRY_POINTS, name=name):
                self.register(_loaded(point))
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _loaded(point: EntryPoint) -> CovarianceStructure:
    """Import the structure of an entry point; ValueError for an import that fails, or another object."""
    place = f"the entry point {point.name} = {point.value} in the group {ENTRY_POINTS}"
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{place} cannot be imported ({error}): mend or remove the package that declares it"
        ) from error
    if not isinstance(loaded, CovarianceStructure) or loaded.name != point.name:
        raise ValueError(f"{place} is {loaded!r:.80}; expected a CovarianceStructure with the name {point.name!r}")
    return loaded


STRUCTURES = Structures(
    (
        General(FULL),
        General(TIED, shared=True),
        Diagonal(DIAG),
        Scalar(SPHERICAL),
        Diagonal(TIED_DIAG, shared=True),
        Scalar(TIED_SPHERICAL, shared=True),
    )
)
"""Every structure by its name, a value of ``covariance_type``."""
