"""Codecs of the records from which a fit is resumed, and checks of the records against the fit's mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.acceleration import Accelerator, AcceleratorState
from ..core.coordinates import n_coordinates
from ..core.covariance import STRUCTURES
from ..core.estimation import State
from ..core.state_arrays import StateArrays
from ..core.structure import CovarianceStructure
from ..fitting.fit_state import Beginning, FitState, Snapshot
from ..fitting.history import PassRecord
from ..fitting.notes import NOTES
from .codec import Arrays, Codec, Columns, Each, below, codec, dump, expect, restore

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StoredKind:
    """Properties of one mixture of a fit that its stored state has to match."""

    structure: CovarianceStructure
    n_components: int
    n_features: int
    state_arrays: StateArrays[Any]
    scatter: bool
    """True if the mixture needs second moments of a survey."""
    accelerator: Accelerator[Any] | None
    accelerates_few: bool = True
    """False if fits of few rows take plain steps all the same: `MixtureFit.resume` knows how many rows there are."""

    @property
    def scattered(self) -> CovarianceStructure | None:
        """Structure of the second moments that the mixture needs of a survey; None if it needs none."""
        return self.structure if self.scatter else None

    @property
    def accelerator_state(self) -> type[AcceleratorState] | None:
        """Type of the accelerator's state; None for plain EM."""
        return None if self.accelerator is None else self.accelerator.state_type

    @property
    def collapses_whole(self) -> bool:
        """True if all components share one covariance matrix, which collapses for all of them."""
        return self.structure.shared


# ---- values other than records


@dataclass(frozen=True)
class _StateCodec(Codec[Any]):
    """Codec of a mixture's state: named arrays."""

    kind: StoredKind

    def write(self, value: Any, path: str, arrays: Arrays) -> str:
        arrays.update({f"{path}/{name}": array for name, array in self.kind.state_arrays.arrays(value).items()})
        return "state"

    def read(self, written: Any, path: str, arrays: Arrays) -> Any:
        if written != "state":
            raise ValueError(f"{path} is {written!r:.40}; expected 'state'")
        kind = self.kind
        return kind.state_arrays.checked_state(kind.structure, kind.n_components, kind.n_features, below(path, arrays))


class _StructureCodec(Codec[CovarianceStructure]):
    """Codec of a covariance structure: its name."""

    def write(self, value: CovarianceStructure, path: str, arrays: Arrays) -> str:
        return value.name

    def read(self, written: Any, path: str, arrays: Arrays) -> CovarianceStructure:
        if expect(str, written, path) not in STRUCTURES:
            raise ValueError(f"{path} is {written!r:.40}; expected one of {', '.join(STRUCTURES)}")
        return STRUCTURES[written]


class _WarningCodec(Codec[Warning]):
    """Codec of a warning of a fit: name of the class, and text."""

    _CLASSES: Mapping[str, type[Warning]] = {kind.__name__: kind for kind in NOTES}

    def write(self, value: Warning, path: str, arrays: Arrays) -> list[str]:
        return [type(value).__name__, str(value)]

    def read(self, written: Any, path: str, arrays: Arrays) -> Warning:
        if len(expect(list, written, path)) != 2 or written[0] not in list(self._CLASSES):
            raise ValueError(f"{path} is {written!r:.80}; expected the name of a warning and its text")
        return self._CLASSES[written[0]](expect(str, written[1], path))


class _NoAccelerator(Codec[Any]):
    """Codec for plain EM, which refuses any state of an accelerator."""

    def write(self, value: Any, path: str, arrays: Arrays) -> Any:
        raise TypeError(f"{path} is a {type(value).__name__}, and the mixture has no accelerator")

    def read(self, written: Any, path: str, arrays: Arrays) -> Any:
        raise ValueError(f"{path} is the state of an accelerator, and the mixture has none")


# ---- the first pass


_BEGINNING = codec(Beginning, {CovarianceStructure: _StructureCodec()})


def dump_beginning(beginning: Beginning) -> tuple[dict[str, Any], Arrays]:
    """Convert the results of the first pass to values for JSON and named arrays."""
    return dump(_BEGINNING, beginning)


def restore_beginning(
    written: Mapping[str, Any], arrays: Mapping[str, Array], kinds: Sequence[StoredKind], data: Mapping[str, Any]
) -> Beginning:
    """Read the results of the first pass; ``data`` are the stored properties of the data.

    Raises
    ------
    ValueError, TypeError
        If the results are not valid for these mixtures and these data.
    """
    beginning: Beginning = restore(_BEGINNING, dict(written), arrays)
    for number, survey in enumerate(beginning.surveys):
        survey.check(f"surveys/{number}", data["n_rows"], data["n_features"], weighted=data["sample_weight"])
    for kind, number in zip(kinds, beginning.survey_numbers, strict=True):
        scatter = beginning.surveys[number].scatter
        if (None if scatter is None else scatter.structure) is not kind.scattered:
            raise ValueError("the second moments of a survey are not those that its mixture needs")
    return beginning


# ---- a pass


def snapshot_codec(kinds: Sequence[StoredKind]) -> Codec[Snapshot]:
    """Make the codec of a snapshot with the state of one fit for each kind."""
    return codec(Snapshot, {tuple[FitState[Any], ...]: Each([_fit_codec(kind) for kind in kinds])})


def _fit_codec(kind: StoredKind) -> Codec[Any]:
    accelerator_state = kind.accelerator_state
    known: dict[Any, Codec[Any]] = {
        State: _StateCodec(kind),
        AcceleratorState: _NoAccelerator() if accelerator_state is None else codec(accelerator_state),
        Warning: _WarningCodec(),
        tuple[PassRecord, ...]: Columns(PassRecord),
    }
    return codec(FitState, known)


def restore_snapshot(
    made: Codec[Snapshot], written: Mapping[str, Any], arrays: Mapping[str, Array], kinds: Sequence[StoredKind]
) -> Snapshot:
    """Read a snapshot of fits.

    Raises
    ------
    ValueError, TypeError
        If the snapshot is not valid for these mixtures.
    """
    snapshot: Snapshot = restore(made, dict(written), arrays)
    for number, ((structure, _), moments) in enumerate(snapshot.common.items()):
        if structure not in STRUCTURES:
            raise ValueError(f"common/{number} is of {structure!r:.40}; expected a covariance structure")
        # Moments that depend on K are not stored.
        expected = STRUCTURES[structure].moments_shape(1, kinds[0].n_features)
        if moments.shape != expected:
            raise ValueError(f"common/{number} has shape {moments.shape}; expected {expected}")
        if moments.dtype.kind != "f" or not np.isfinite(moments).all():
            raise ValueError(f"common/{number} contains NaN, infinity, or no floating-point numbers")
    for fit, kind in zip(snapshot.fits, kinds, strict=True):
        _check_fit(fit, kind)
    return snapshot


def _check_fit(fit: FitState[Any], kind: StoredKind) -> None:
    for start in fit.starts.values():
        plain = start.accelerator is None
        if plain != (kind.accelerator_state is None) and not (plain and not kind.accelerates_few):
            raise ValueError("a start has no state of the mixture's accelerator, or the mixture has no accelerator")
        if start.accelerator is not None:
            start.accelerator.check_size(n_coordinates(kind.structure, kind.n_components, kind.n_features))
    for collapsed in (fit.collapsed, *(start.collapsed for start in fit.starts.values())):
        if collapsed is None:
            continue
        if not (collapsed or kind.collapses_whole) or max(collapsed, default=0) >= kind.n_components:
            raise ValueError(f"components {collapsed!r:.40} of {kind.n_components} collapsed, which is impossible")
