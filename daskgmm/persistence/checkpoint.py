"""Checkpoints: what a fit needs to go on, to the last bit, kept after every pass.

::

    run.checkpoint/        written once, after the first pass: settings, what the data are, surveys, random states
      pass-00000016/       after pass 16: where every start of every mixture was
      pass-00000017/

Each of the three is a `packed` group, written whole or not at all, with checksums. The last two passes are kept: should
the newer one be damaged, the older one serves.
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
from ..data.output_locks import locked, remove
from ..data.store import local_path, without_secrets
from ..data.write import Address, check_target
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
_KEPT = 2
_TO_GO_ON_AFTER = (KeyboardInterrupt, SchedulerError, StoreError, OSError, MemoryError)
"""What ends a fit that may go on later."""

# What a summary shows of them, and of what types that has to be.
_SHOWN_SETTINGS = {"estimator": (str,), "n_components": (int, list), "covariance_type": (str, list), "max_iter": (int,)}
_SHOWN_DATA = {"n_rows": (int,), "n_features": (int,), "dtype": (str,), "sample_weight": (bool,)}

_PASS = re.compile(r"pass-(\d{8,})")


class StoredBeginning(PackedGroup):
    """The checkpoint itself, with what the first pass found."""

    kind, origin, failure = KIND, "fit(checkpoint=…) or `daskgmm fit --checkpoint`", CheckpointError


class StoredPass(PackedGroup):
    """Where a fit was after a pass."""

    kind, origin, failure = PASS_KIND, StoredBeginning.origin, CheckpointError


def _pass_name(number: int) -> str:
    return f"pass-{number:08d}"


def passes(path: str) -> list[str]:
    """Folders of the passes in a checkpoint, the newest first."""
    found = [match for match in map(_PASS.fullmatch, os.listdir(path)) if match]
    return [os.path.join(path, match[0]) for match in sorted(found, key=lambda match: -int(match[1]))]


def _open_pass(folder: str) -> StoredPass:
    try:
        return StoredPass.open(folder)
    except StoreNotFoundError as error:  # there is a name, which leads nowhere
        raise CheckpointError(str(error)) from None


class Checkpoint(AbstractContextManager["Checkpoint"]):
    """One fit's checkpoint, while it runs: nobody else may write to it.

    Parameters
    ----------
    path : str or path
        On a local or mounted file system.
    resume : bool
        Go on from what is there, if there is something. False: there must not be anything.

    Raises
    ------
    OutputExistsError
        If there is something and ``resume`` is false, or another run is at work with it.
    CheckpointError
        If what is there is no checkpoint, or damaged.
    OSError
        If nothing can be written there.
    """

    def __init__(self, path: Address, *, resume: bool) -> None:
        self.name = os.fspath(path)
        local = local_path(self.name)
        if not self.name or local is None or "::" in self.name:
            raise ValueError(
                f"checkpoint={without_secrets(self.name)!r:.200}; expected a path on a local or mounted file system"
            )
        self._path, self._resources = os.path.realpath(local), ExitStack()
        if not os.path.lexists(self._path):
            check_target(self._path, KIND)
            self.stored: StoredBeginning | None = None
            return
        self.stored = StoredBeginning.open(self._path)
        if not resume:
            raise OutputExistsError(
                f"checkpoint: {self.name} exists already. Go on from it with resume=True, or "
                "choose another name, or remove it."
            )

    def __enter__(self) -> Self:
        if self.stored is not None:
            self._lock()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._resources.close()
        if isinstance(error, _TO_GO_ON_AFTER) and os.path.isdir(self._path):
            error.add_note(f"The checkpoint {self.name} has what was done until then: resume=True goes on from it.")

    def _lock(self) -> None:
        try:
            # Not the checkpoint's own directory: that one is locked for a moment whenever a pass gets its name.
            self._resources.enter_context(locked(os.path.join(self._path, PACKED)))
        except BlockingIOError as error:
            raise OutputExistsError(
                f"checkpoint: another run is at work with {self.name} right now. Wait for it to end, or choose another "
                "name."
            ) from error
        except OSError:
            pass  # a file system without locks

    def setting(self, name: str) -> Any:
        """What the fit that is to go on was asked for; None where there is none."""
        settings = None if self.stored is None else self.stored.values.get("settings")
        return settings.get(name) if isinstance(settings, dict) else None

    def checkpointer(
        self, dataset: Dataset, settings: Mapping[str, Any], kinds: Sequence[StoredKind]
    ) -> StoreCheckpointer:
        """What `MixtureFits` keeps its state with.

        Parameters
        ----------
        dataset : Dataset
        settings : mapping
            What the results depend on besides the data; what JSON can say.
        kinds : sequence of StoredKind
            One for each candidate.

        Raises
        ------
        CheckpointError
            If what is there comes of other settings, or of other data.
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
        told = {"settings": dict(settings), "data": data, "environment": environment()}
        return StoreCheckpointer(self._path, self.stored, told, kinds, self._lock)


def _check_equal(stored: StoredBeginning, what: str, asked: Mapping[str, Any], advice: str) -> None:
    kept = stored.values.get(what)
    if not isinstance(kept, dict):
        raise stored.error(what, "are missing or damaged")
    for name in {**kept, **asked}:
        if kept.get(name) != asked.get(name):
            raise CheckpointError(
                f"checkpoint: {stored.path} was made with {name}={kept.get(name)!r:.80}, and this fit has "
                f"{name}={asked.get(name)!r:.80}. {advice}, or another checkpoint."
            )


def _compare_environments(stored: StoredBeginning) -> None:
    kept = stored.values.get("environment")
    if not (isinstance(kept, dict) and all(isinstance(value, str) for value in kept.values())):
        raise stored.error("environment", "is missing or damaged")
    differing = differences(environment(), kept)
    if differing:
        told = "; ".join(
            f"{name}: {printable(theirs, 60)}, now {ours:.60}" for name, (ours, theirs) in differing.items()
        )
        warnings.warn(
            CheckpointWarning(
                f"checkpoint: {stored.path} was made with other software or on another kind of processor, so the last "
                f"bits may differ from those of a fit that was never interrupted ({told})"
            ),
            stacklevel=7,
        )


class StoreCheckpointer:
    """Keeps the state of a fit in a checkpoint; see `fitting.fit_state.Checkpointer`."""

    def __init__(
        self,
        path: str,
        stored: StoredBeginning | None,
        told: Mapping[str, Any],
        kinds: Sequence[StoredKind],
        lock: Callable[[], Any],
    ) -> None:
        self._path, self._stored, self._progress, self._lock = path, stored, told, lock
        self._kinds, self._codec = kinds, snapshot_codec(kinds)

    def beginning(self) -> Beginning | None:
        """What an earlier run kept."""
        if self._stored is None:
            return None
        return _reading(self._stored, self._restore_beginning)

    def _restore_beginning(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Beginning:
        found = {name: value for name, value in values.items() if name not in self._progress}
        return restore_beginning(found, arrays, self._kinds, values["data"])

    def latest(self) -> Snapshot | None:
        """The last snapshot that is whole."""
        failures: list[CheckpointError] = []
        for folder in passes(self._path):
            try:
                stored = _open_pass(folder)
                snapshot = _reading(stored, self._restore_snapshot)
                if os.path.basename(folder) != _pass_name(snapshot.n_passes):
                    raise stored.error("n_passes", f"is {snapshot.n_passes}, which is not what the pass is named after")
            except CheckpointError as error:
                failures.append(error)
                continue
            if failures:
                warnings.warn(CheckpointWarning(f"{failures[0]}; the pass before it serves"), stacklevel=2)
            for damaged in passes(self._path)[: len(failures)]:
                remove(damaged, damaged)
            return snapshot
        if failures:
            raise failures[0]
        return None

    def _restore_snapshot(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Snapshot:
        return restore_snapshot(self._codec, values, arrays, self._kinds)

    def keep_beginning(self, beginning: Beginning) -> None:
        """Keep what the first pass found: the checkpoint is there from now on."""
        values, arrays = dump_beginning(beginning)
        write_packed(self._path, KIND, {**self._progress, **values}, arrays)
        self._lock()

    def keep(self, snapshot: Snapshot) -> None:
        """Keep where the fit is now, and forget where it was before the last time."""
        values, arrays = dump(self._codec, snapshot)
        target = os.path.join(self._path, _pass_name(snapshot.n_passes))
        write_packed(target, PASS_KIND, values, arrays)
        for old in passes(self._path)[_KEPT:]:
            with suppress(OSError):
                remove(old, old)

    def check_probes(self, kept: Sequence[Checksum], found: Sequence[Checksum]) -> None:
        """Raise `CheckpointError` if the data are not those of the earlier run."""
        if tuple(kept) != tuple(found):
            raise CheckpointError(
                f"checkpoint: {without_secrets(self._path)} was made with other data: a few rows were looked at, and "
                "have other values or sample weights. Use the same data, or another checkpoint."
            )


def _reading(stored: PackedGroup, unpack: Callable[[Mapping[str, Any], Mapping[str, Array]], T]) -> T:
    arrays = stored.arrays()
    with damage_errors(stored.path, CheckpointError):
        return unpack(stored.values, arrays)


def checkpoint_record(path: Address) -> dict[str, Any]:
    """What a checkpoint says of the fit that keeps it; what JSON can say.

    Raises
    ------
    CheckpointError
        If it is none, or damaged.
    """
    local = local_path(os.fspath(path))
    if local is None:
        raise CheckpointError(f"{without_secrets(os.fspath(path))}: checkpoints are on local or mounted file systems")
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


def _typed(found: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    for name, allowed in types.items():
        if type(found[name]) not in allowed:  # True is no number
            raise TypeError(f"{name} is {found[name]!r:.40}")
    return dict(found)


def _is_over(start: Mapping[str, Any], max_iter: int) -> bool:
    return start["converged"] or start["stopped"] or start["collapsed"] is not None or start["n_iter"] >= max_iter
