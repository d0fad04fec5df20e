"""Checkpoints: the state from which a fit is resumed with the same bits, stored after every pass.

::

    run.checkpoint/        written once, after the first pass: settings, properties of the data, surveys, random states
      pass-00000016/       state of every start of every mixture after pass 16
      pass-00000017/

Each of the three is a `packed` group, written whole or not at all, with checksums. The last two passes are kept: if the
newer one is damaged, the older one is used.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Self, TypeVar

import numpy as np

from ..data.addresses import printable
from ..data.checksum import Checksum
from ..data.dataset import Dataset
from ..data.locations import Address, Location
from ..data.output_locks import locked, remove
from ..data.store import local_path, without_secrets
from ..data.write import check_target
from ..engine.environment import differences, environment
from ..errors import (
    CheckpointError,
    CheckpointWarning,
    OutputExistsError,
    SchedulerError,
    StoreError,
    StoreNotFoundError,
)
from ..fitting.fit_state import Beginning, Snapshot
from .codec import dump
from .fit_records import StoredKind, dump_beginning, restore_beginning, restore_snapshot, snapshot_codec
from .packed import PACKED, PackedGroup, write_packed
from .stored_group import damage_errors

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")

KIND, PASS_KIND = "checkpoint", "checkpoint pass"
EXPECTED = (
    "expected a path on a local or mounted file system, because a checkpoint needs renames in one step and locks. Only "
    "the process that calls fit uses the path; the workers do not"
)
"""Text for errors of the parameter ``checkpoint``."""

_KEPT = 2
_RESUMABLE = (KeyboardInterrupt, SchedulerError, StoreError, OSError, MemoryError)
"""Errors after which a fit can be resumed."""

# Settings and properties of the data that a summary shows, with their types.
_SHOWN_SETTINGS = {"estimator": (str,), "n_components": (int, list), "covariance_type": (str, list), "max_iter": (int,)}
_SHOWN_DATA = {"n_rows": (int,), "n_features": (int,), "dtype": (str,), "sample_weight": (bool,)}

_PASS = re.compile(r"pass-(\d{8,})")


class StoredBeginning(PackedGroup):
    """The checkpoint's own group, with the results of the first pass."""

    kind, origin, failure = KIND, "fit(checkpoint=…) or `daskgmm fit --checkpoint`", CheckpointError


class StoredPass(PackedGroup):
    """Group with the state of a fit after a pass."""

    kind, origin, failure = PASS_KIND, StoredBeginning.origin, CheckpointError


def _pass_name(number: int) -> str:
    return f"pass-{number:08d}"


def passes(path: str) -> list[str]:
    """Folders of the passes in a checkpoint, the newest first."""
    matches = [match for match in map(_PASS.fullmatch, os.listdir(path)) if match]
    return [os.path.join(path, match[0]) for match in sorted(matches, key=lambda match: -int(match[1]))]


def _open_pass(folder: str) -> StoredPass:
    try:
        return StoredPass.open(folder)
    except StoreNotFoundError as error:  # a broken link
        raise CheckpointError(str(error)) from None


class Checkpoint(AbstractContextManager["Checkpoint"]):
    """Checkpoint of a running fit, locked against other runs.

    Parameters
    ----------
    path : str or path
        Path on a local or mounted file system.
    resume : bool
        Resume the fit of an existing checkpoint, if there is one. False: there must not be one.

    Raises
    ------
    OutputExistsError
        If there is something at ``path`` and ``resume`` is false, or another run uses the checkpoint.
    CheckpointError
        If there is something other than a checkpoint, or the checkpoint is damaged.
    OSError
        If the checkpoint cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        self.name = os.fspath(path)
        local = local_path(self.name)
        if not self.name or local is None or "::" in self.name:
            raise ValueError(f"checkpoint={without_secrets(self.name)!r:.200}; {EXPECTED}")
        self._path, self._resources = os.path.realpath(local), ExitStack()
        if not os.path.lexists(self._path):
            check_target(self._path, KIND)
            self.stored: StoredBeginning | None = None
            return
        self.stored = StoredBeginning.open(self._path)
        if not resume:
            raise OutputExistsError(
                f"checkpoint: {self.name} exists already. Continue its fit with resume=True, or "
                "choose another name, or remove it."
            )

    def __enter__(self) -> Self:
        if self.stored is not None:
            self._lock()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._resources.close()
        if isinstance(error, _RESUMABLE) and os.path.isdir(self._path):
            error.add_note(f"The checkpoint {self.name} has the state of the last pass: resume=True continues the fit.")

    def _lock(self) -> None:
        try:
            # Not the checkpoint's own directory: it is locked for a moment whenever a pass gets its name.
            self._resources.enter_context(locked(os.path.join(self._path, PACKED)))
        except BlockingIOError as error:
            raise OutputExistsError(
                f"checkpoint: another run is using {self.name} right now. Wait for it to end, or choose another name."
            ) from error
        except OSError:
            pass  # a file system without locks

    def setting(self, name: str) -> Any:
        """Return a setting of the stored fit; None if there is no stored fit."""
        settings = None if self.stored is None else self.stored.values.get("settings")
        return settings.get(name) if isinstance(settings, dict) else None

    def checkpointer(
        self, dataset: Dataset, settings: Mapping[str, Any], kinds: Sequence[StoredKind]
    ) -> StoreCheckpointer:
        """Make the checkpointer with which `MixtureFits` stores its state.

        Parameters
        ----------
        dataset : Dataset
        settings : mapping
            All settings on which the results depend, as values for JSON.
        kinds : sequence of StoredKind
            Properties of each candidate's mixture.

        Raises
        ------
        CheckpointError
            If the stored fit has other settings or other data.
        """
        data = {
            "n_rows": dataset.n_rows,
            "n_features": dataset.n_features,
            "dtype": dataset.dtype.newbyteorder("=").name,
            "sample_weight": dataset.weights is not None,
        }
        if self.stored is not None:
            _check_equal(self.stored, "settings", settings, "Use the same settings")
            _check_equal(self.stored, "data", data, "Use the same data")
            _compare_environments(self.stored)
        header = {"settings": dict(settings), "data": data, "environment": environment()}
        return StoreCheckpointer(self._path, self.stored, header, kinds, self._lock)


def _check_equal(stored: StoredBeginning, field: str, current: Mapping[str, Any], advice: str) -> None:
    earlier = stored.values.get(field)
    if not isinstance(earlier, dict):
        raise stored.error(field, "are missing or damaged")
    for name in {**earlier, **current}:
        if earlier.get(name) != current.get(name):
            raise CheckpointError(
                f"checkpoint: {stored.path} was made with {name}={earlier.get(name)!r:.80}, and this fit has "
                f"{name}={current.get(name)!r:.80}. {advice}, or another checkpoint."
            )


def _compare_environments(stored: StoredBeginning) -> None:
    earlier = stored.values.get("environment")
    if not (isinstance(earlier, dict) and all(isinstance(value, str) for value in earlier.values())):
        raise stored.error("environment", "is missing or damaged")
    differing = differences(environment(), earlier)
    if differing:
        listed = "; ".join(
            f"{name}: {printable(theirs, 60)}, now {ours:.60}" for name, (ours, theirs) in differing.items()
        )
        warnings.warn(
            CheckpointWarning(
                f"checkpoint: {stored.path} was made with other software or on another kind of processor, so the last "
                f"bits may differ from those of a fit that was never interrupted ({listed})"
            ),
            stacklevel=7,
        )


class StoreCheckpointer:
    """Writer and reader of a fit's state in a checkpoint; see `fitting.fit_state.Checkpointer`."""

    def __init__(
        self,
        path: str,
        stored: StoredBeginning | None,
        header: Mapping[str, Any],
        kinds: Sequence[StoredKind],
        lock: Callable[[], Any],
    ) -> None:
        self._path, self._stored, self._header, self._lock = path, stored, header, lock
        self._kinds, self._codec = kinds, snapshot_codec(kinds)

    def beginning(self) -> Beginning | None:
        """Read the results of the first pass that an earlier run stored; None for a new checkpoint."""
        if self._stored is None:
            return None
        return _reading(self._stored, self._restore_beginning)

    def _restore_beginning(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Beginning:
        written = {name: value for name, value in values.items() if name not in self._header}
        return restore_beginning(written, arrays, self._kinds, values["data"])

    def latest(self) -> Snapshot | None:
        """Read the newest undamaged snapshot; None if there is no pass."""
        failures: list[CheckpointError] = []
        for folder in passes(self._path):
            try:
                stored = _open_pass(folder)
                snapshot = _reading(stored, self._restore_snapshot)
                if os.path.basename(folder) != _pass_name(snapshot.n_passes):
                    raise stored.error("n_passes", f"is {snapshot.n_passes}, and the folder's name has another number")
            except CheckpointError as error:
                failures.append(error)
                continue
            if failures:
                warnings.warn(CheckpointWarning(f"{failures[0]}; the pass before is used instead"), stacklevel=2)
            for damaged in passes(self._path)[: len(failures)]:
                remove(damaged, damaged)
            return snapshot
        if failures:
            raise failures[0]
        return None

    def _restore_snapshot(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Snapshot:
        return restore_snapshot(self._codec, values, arrays, self._kinds)

    def keep_beginning(self, beginning: Beginning) -> None:
        """Store the results of the first pass, which creates the checkpoint."""
        values, arrays = dump_beginning(beginning)
        write_packed(self._path, KIND, {**self._header, **values}, arrays)
        self._lock()

    def keep(self, snapshot: Snapshot) -> None:
        """Store the state of the fit, and remove all but the last two passes."""
        values, arrays = dump(self._codec, snapshot)
        target = os.path.join(self._path, _pass_name(snapshot.n_passes))
        write_packed(target, PASS_KIND, values, arrays)
        for old in passes(self._path)[_KEPT:]:
            with suppress(OSError):
                remove(old, old)

    def check_probes(self, kept: Sequence[Checksum], found: Sequence[Checksum]) -> None:
        """Raise `CheckpointError` if the data differ from the data of the earlier run."""
        if tuple(kept) != tuple(found):
            raise CheckpointError(
                f"checkpoint: {without_secrets(self._path)} was made with other data: a few rows were compared, and "
                "have other values or sample weights. Use the same data, or another checkpoint."
            )


def _reading(stored: PackedGroup, unpack: Callable[[Mapping[str, Any], Mapping[str, Array]], T]) -> T:
    arrays = stored.arrays()
    with damage_errors(stored.path, CheckpointError):
        return unpack(stored.values, arrays)


def checkpoint_record(path: Address | Location) -> dict[str, Any]:
    """Summary of a checkpoint's fit, as values for JSON.

    Raises
    ------
    CheckpointError
        If there is something other than a checkpoint, or the checkpoint is damaged.
    """
    location = Location.of(path)
    if location.path is None:
        raise CheckpointError(f"{location.name}: checkpoints are on local or mounted file systems")
    local = location.path
    stored = StoredBeginning.open(local)
    folders = passes(local)
    latest = _open_pass(folders[0]) if folders else stored
    return {
        "kind": KIND,
        "path": stored.path,
        **_reading(latest, lambda values, _: _progress(stored.values, values, latest)),
    }


def _progress(beginning: Mapping[str, Any], values: Mapping[str, Any], latest: PackedGroup) -> dict[str, Any]:
    starts = [start for fit in values.get("fits", ()) for _, start in fit["starts"]]
    settings, data = _typed(beginning["settings"], _SHOWN_SETTINGS), _typed(beginning["data"], _SHOWN_DATA)
    running = sum(not _is_over(start, settings["max_iter"]) for start in starts)
    return {
        "age_seconds": round(latest.age, 3),
        "n_passes": values["n_passes"],
        "n_iter": max((start["n_iter"] for start in starts), default=0),
        "finished": bool(starts) and not running,
        "n_running": running,
        "settings": settings,
        "data": data,
    }


def _typed(values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    for name, allowed in types.items():
        if type(values[name]) not in allowed:  # an exact type: a bool is not a number
            raise TypeError(f"{name} is {values[name]!r:.40}")
    return dict(values)


def _is_over(start: Mapping[str, Any], max_iter: int) -> bool:
    return start["converged"] or start["stopped"] or start["collapsed"] is not None or start["n_iter"] >= max_iter
