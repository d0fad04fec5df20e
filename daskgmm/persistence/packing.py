"""What a fit keeps in order to go on, as values that JSON can say and arrays; and back, believing nothing of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.acceleration import ACCELERATIONS
from ..core.covariance import STRUCTURES
from ..core.kernels import ARITHMETICS
from ..core.state_arrays import StateArrays
from ..core.structure import CovarianceStructure
from ..data.checksum import Checksum
from ..errors import InitializationWarning, ReseedingWarning
from ..fitting.em import AscentSnapshot, Reseeding
from ..fitting.history import PassRecord
from ..fitting.snapshot import Beginning, FitSnapshot, Snapshot
from ..fitting.survey import Scatter, Survey
from .layout import encode

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StoredKind:
    """Structure, size and arrays of one of the mixtures in a checkpoint."""

    structure: CovarianceStructure
    n_components: int
    n_features: int
    state_arrays: StateArrays[Any]
    scatter: bool
    """The mixture wants second moments of a survey."""
    acceleration: str | None

    @property
    def scattered(self) -> CovarianceStructure | None:
        """Structure of the second moments that it wants of a survey, if it wants any."""
        return self.structure if self.scatter else None

    def arrays(self, state: Any) -> dict[str, Array]:
        """Of a state."""
        return self.state_arrays.arrays(state)

    def state(self, arrays: Mapping[str, Array]) -> Any:
        """Inverse of `arrays`; ValueError for what is no state."""
        return self.state_arrays.checked_state(self.structure, self.n_components, self.n_features, arrays)

    def accelerator(self, arrays: Mapping[str, Array] | None) -> Mapping[str, Array] | None:
        """What an acceleration has learnt, if it can be what this one learns; ValueError for what cannot."""
        kind = ACCELERATIONS.get(self.acceleration or "")
        if (kind is None) != (arrays is None):
            raise ValueError("an acceleration where there was none, or none where there was one")
        if kind is not None and arrays is not None:
            kind.from_arrays(arrays)
        return arrays


_WARNINGS = {kind.__name__: kind for kind in (InitializationWarning, ReseedingWarning)}

_SURVEY_ARRAYS = ("mean", "squared_deviations", "minimum", "maximum", "sample", "sample_weight")
_COUNTS, _WORDS = ("start", "n_iter", "n_rows", "bytes_read"), ("kind", "arithmetic")  # of a `PassRecord`
_ASCENT_VALUES = ("n_iter", "converged", "stopped", "proposal", "precise", "coarsest", "last_noise", "relocates")


class Packing:
    """Makes values that JSON can say, and arrays, of what a fit keeps."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def beginning(self, beginning: Beginning) -> dict[str, Any]:
        kept: list[Survey] = []
        for survey in beginning.surveys:
            if not any(survey is one for one in kept):
                kept.append(survey)
        return {
            "surveys": [self._survey(f"survey/{i}", survey) for i, survey in enumerate(kept)],
            "candidates": [
                {"survey": next(i for i, one in enumerate(kept) if one is survey), **self._random_state(j, state)}
                for j, (survey, state) in enumerate(zip(beginning.surveys, beginning.random_states, strict=True))
            ],
            "tally": _tally(beginning.tally),
            "probes": [_tally(probe) for probe in beginning.probes],
            "n_passes": beginning.n_passes,
            "seconds": beginning.seconds,
        }

    def snapshot(self, snapshot: Snapshot, models: Sequence[StoredKind]) -> dict[str, Any]:
        for i, moments in enumerate(snapshot.common.values()):
            self.arrays[f"common/{i}"] = moments
        return {
            "n_passes": snapshot.n_passes,
            "common": [list(key) for key in snapshot.common],
            "fits": [
                self._fit(f"fit/{i}", fit, model)
                for i, (fit, model) in enumerate(zip(snapshot.fits, models, strict=True))
            ],
        }

    def _survey(self, prefix: str, survey: Survey) -> dict[str, Any]:
        for name in _SURVEY_ARRAYS:
            self.arrays[f"{prefix}/{name}"] = getattr(survey, name)
        if survey.scatter is not None:
            self.arrays[f"{prefix}/scatter"] = survey.scatter.second
        return {
            "n_rows": survey.n_rows,
            "n_weighted": survey.n_weighted,
            "weight_sum": float(survey.weight_sum),
            "scatter": None if survey.scatter is None else survey.scatter.structure.name,
        }

    def _random_state(self, number: int, state: Mapping[str, Any]) -> dict[str, Any]:
        self.arrays[f"random/{number}"] = state["state"]["key"]
        return {
            "bit_generator": state["bit_generator"],
            "pos": int(state["state"]["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        }

    def _fit(self, prefix: str, fit: FitSnapshot[Any], model: StoredKind) -> dict[str, Any]:
        return {
            "n_starts": fit.n_starts,
            "history": self._history(f"{prefix}/history", fit.history),
            "notes": [[type(note).__name__, str(note)] for note in fit.notes],
            "failure": None if fit.failure is None else list(fit.failure),
            "prospects": None if fit.prospects is None else _encoded(fit.prospects),
            "ascents": [
                [start, self._ascent(f"{prefix}/{start}", ascent, model)] for start, ascent in fit.ascents.items()
            ],
        }

    def _history(self, prefix: str, history: Sequence[PassRecord]) -> list[str]:
        """The words that occur in it. All else is in arrays: it grows with every pass, and JSON would take long."""
        words = sorted({getattr(told, name) for told in history for name in _WORDS})
        code = {word: i for i, word in enumerate(words)}
        counts = [
            [getattr(told, name) for name in _COUNTS] + [code[getattr(told, name)] for name in _WORDS]
            for told in history
        ]
        reals = [[np.nan if told.lower_bound is None else told.lower_bound, told.seconds] for told in history]
        self.arrays[f"{prefix}/counts"] = np.array(counts, np.int64).reshape(-1, len(_COUNTS) + len(_WORDS))
        self.arrays[f"{prefix}/reals"] = np.array(reals, np.float64).reshape(-1, 2)
        return words

    def _ascent(self, prefix: str, ascent: AscentSnapshot[Any], model: StoredKind) -> dict[str, Any]:
        elsewhere = ascent.next_state is not ascent.state
        self._state(f"{prefix}/state", ascent.state, model)
        if elsewhere:
            self._state(f"{prefix}/next", ascent.next_state, model)
        for name, array in (ascent.accelerator or {}).items():
            self.arrays[f"{prefix}/accelerator/{name}"] = array
        self.arrays[f"{prefix}/lower_bounds"] = np.array(ascent.lower_bounds, np.float64)
        return {
            **{name: getattr(ascent, name) for name in _ASCENT_VALUES},
            "last_bound": encode("last_bound", ascent.last_bound),
            "failure": None if ascent.failure is None else list(ascent.failure),
            "reseedings": [[r.n_iter, list(r.components), r.collapsed] for r in ascent.reseedings],
            "elsewhere": elsewhere,
            "accelerated": ascent.accelerator is not None,
        }

    def _state(self, prefix: str, state: Any, model: StoredKind) -> None:
        for name, array in model.arrays(state).items():
            self.arrays[f"{prefix}/{name}"] = array


class Unpacking:
    """Inverse of `Packing`. Whatever does not fit ends in some exception, which its caller makes sense of."""

    def __init__(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        self._values, self._arrays = values, arrays

    def beginning(self, models: Sequence[StoredKind]) -> Beginning:
        values = self._values
        surveys = [self._survey(f"survey/{i}", told) for i, told in enumerate(values["surveys"])]
        used = [surveys[_count(told["survey"])] for told in values["candidates"]]
        for survey, model in zip(used, models, strict=True):
            found = None if survey.scatter is None else survey.scatter.structure
            if found is not model.scattered:
                raise ValueError("second moments that no mixture asks for, or none where one does")
        return Beginning(
            tuple(used),
            tuple(self._random_state(i, told) for i, told in enumerate(values["candidates"])),
            _as_tally(values["tally"]),
            tuple(map(_as_tally, values["probes"])),
            _count(values["n_passes"]),
            float(values["seconds"]),
        )

    def snapshot(self, models: Sequence[StoredKind]) -> Snapshot:
        values = self._values
        fits = [
            self._fit(f"fit/{i}", told, model)
            for i, (told, model) in enumerate(zip(values["fits"], models, strict=True))
        ]
        n_features = models[0].n_features
        common = {
            (structure, str(how)): self._common(f"common/{i}", STRUCTURES[structure], n_features)
            for i, (structure, how) in enumerate(values["common"])
        }
        return Snapshot(_count(values["n_passes"]), common, tuple(fits))

    def _common(self, name: str, structure: CovarianceStructure, n_features: int) -> Array:
        found = self._finite(name)
        if found.shape != structure.second_shape(1, n_features):  # what depends on their number is not kept
            raise ValueError(f"{name} has shape {found.shape}")
        return found

    def _finite(self, name: str) -> Array:
        found = self._arrays[name]
        if found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ValueError(f"{name} contains NaN, infinity, or no floating-point numbers")
        return found

    def _survey(self, prefix: str, told: Mapping[str, Any]) -> Survey:
        arrays = {name: self._finite(f"{prefix}/{name}") for name in _SURVEY_ARRAYS}
        d = self._values["data"]["n_features"]
        n = len(arrays["sample"])
        for name, array in arrays.items():
            expected = {"sample": (n, d), "sample_weight": (n,)}.get(name, (d,))
            if array.shape != expected:
                raise ValueError(f"{prefix}/{name} has shape {array.shape}; expected {expected}")
        scatter = None
        if told["scatter"] is not None:
            structure = STRUCTURES[told["scatter"]]
            scatter = Scatter(structure, self._finite(f"{prefix}/scatter"))
            if scatter.second.shape != structure.second_shape(1, d):
                raise ValueError(f"{prefix}/scatter has shape {scatter.second.shape}")
        n_rows, weight_sum = _count(told["n_rows"]), float(told["weight_sum"])
        known = self._values["data"]["sample_weight"] or weight_sum == n_rows
        if n_rows != self._values["data"]["n_rows"] or not (known and 0 < weight_sum < np.inf):
            raise ValueError(f"{prefix} is of {n_rows} rows of weight {weight_sum}")
        n_weighted = _count(told["n_weighted"])
        if not n <= n_weighted <= n_rows or not (self._values["data"]["sample_weight"] or n_weighted == n_rows):
            raise ValueError(f"{prefix} is of {n_weighted} rows that count, out of {n_rows}, with a sample of {n}")
        return Survey(n_rows, n_weighted, weight_sum, **arrays, scatter=scatter)

    def _random_state(self, number: int, told: Mapping[str, Any]) -> dict[str, Any]:
        state = {
            "bit_generator": told["bit_generator"],
            "state": {"key": self._arrays[f"random/{number}"], "pos": _count(told["pos"])},
            "has_gauss": _count(told["has_gauss"]),
            "gauss": float(told["gauss"]),
        }
        np.random.RandomState().set_state(state)  # raises for what is none
        return state

    def _fit(self, prefix: str, told: Mapping[str, Any], model: StoredKind) -> FitSnapshot[Any]:
        ascents = {_count(start): self._ascent(f"{prefix}/{start}", ascent, model) for start, ascent in told["ascents"]}
        if not ascents and told["failure"] is None:
            raise ValueError("neither a start nor a failure")
        return FitSnapshot(
            _count(told["n_starts"]),
            tuple(self._history(f"{prefix}/history", told["history"])),
            tuple(_WARNINGS[kind](str(text)) for kind, text in told["notes"]),
            _components(told["failure"]),
            ascents,
            told["prospects"],
        )

    def _history(self, prefix: str, words: Any) -> Iterator[PassRecord]:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"the words of {prefix} are {words!r:.40}")
        counts, reals = self._arrays[f"{prefix}/counts"], self._arrays[f"{prefix}/reals"]
        if counts.dtype != np.int64 or (counts < 0).any():
            raise ValueError(f"{prefix}/counts contains negative numbers, or no integers")
        if reals.dtype != np.float64 or not np.isfinite(reals[:, 1]).all():
            raise ValueError(f"{prefix}/reals contains seconds that are none, or no floating-point numbers")
        for row, (bound, seconds) in zip(counts.tolist(), reals.tolist(), strict=True):
            numbers = dict(zip(_COUNTS, row[: len(_COUNTS)], strict=True))
            texts = {name: words[code] for name, code in zip(_WORDS, row[len(_COUNTS) :], strict=True)}
            yield PassRecord(lower_bound=None if math.isnan(bound) else bound, seconds=seconds, **numbers, **texts)

    def _ascent(self, prefix: str, told: Mapping[str, Any], model: StoredKind) -> AscentSnapshot[Any]:
        state = self._state(f"{prefix}/state", model)
        learnt = f"{prefix}/accelerator/"
        bounds = self._arrays[f"{prefix}/lower_bounds"]
        if bounds.ndim != 1 or bounds.dtype != np.float64 or not (bounds < np.inf).all():
            raise ValueError(f"{prefix}/lower_bounds are no bounds")
        flags = {name: _flag(told[name]) for name in ("converged", "stopped", "precise", "relocates")}
        if told["proposal"] not in (None, "accelerated", "moved"):
            raise ValueError(f"proposal is {told['proposal']!r:.40}")
        if told["coarsest"] not in ARITHMETICS:
            raise ValueError(f"coarsest is {told['coarsest']!r:.40}")
        if not 0 <= (last_noise := float(told["last_noise"])) < np.inf:
            raise ValueError(f"last_noise is {last_noise}")
        return AscentSnapshot(
            state=state,
            next_state=self._state(f"{prefix}/next", model) if _flag(told["elsewhere"]) else state,
            lower_bounds=tuple(bounds.tolist()),
            last_bound=float(told["last_bound"]),
            last_noise=last_noise,
            n_iter=_count(told["n_iter"]),
            failure=_components(told["failure"]),
            reseedings=tuple(
                Reseeding(_count(n_iter), _components(components) or (), _flag(collapsed))
                for n_iter, components, collapsed in told["reseedings"]
            ),
            proposal=told["proposal"],
            coarsest=told["coarsest"],
            accelerator=model.accelerator(self._below(learnt) if _flag(told["accelerated"]) else None),
            **flags,
        )

    def _state(self, prefix: str, model: StoredKind) -> Any:
        return model.state(self._below(f"{prefix}/"))

    def _below(self, prefix: str) -> dict[str, Array]:
        return {name.removeprefix(prefix): array for name, array in self._arrays.items() if name.startswith(prefix)}


def _tally(tally: Checksum) -> list[Any]:
    return [tally.n_rows, f"{tally.rows:016x}", f"{tally.weights:016x}"]  # JSON has no integers of 64 bits everywhere


def _as_tally(told: Sequence[Any]) -> Checksum:
    n_rows, rows, weights = told
    return Checksum(_count(n_rows), int(rows, 16), int(weights, 16))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is no number of anything")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is neither true nor false")
    return value


def _components(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not value:
        raise ValueError("no components where there are some")
    return tuple(map(_count, value))


def _encoded(value: Any) -> Any:
    """The same, with infinities by their names."""
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return encode("", value)
