"""The parameters ``checkpoint`` and ``resume``, and the settings that a checkpoint holds of estimators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.locations import is_open_store
from ..fitting.fit_state import Checkpointer
from ..persistence.checkpoint import EXPECTED, Checkpoint
from ..persistence.fit_records import StoredKind
from ..persistence.layout import checksum, encode
from .model import MixtureModel
from .model_kinds import kind_of

Array = np.ndarray[Any, np.dtype[Any]]

_NO_SETTINGS = ("cache", "scheduler", "callbacks", "verbose", "verbose_interval")
"""Parameters that do not affect the result."""


def check_checkpoint(checkpoint: Any, resume: Any) -> AbstractContextManager[Checkpoint | None]:
    """Validate the parameters; return the checkpoint as a context manager, to be entered before any work.

    Raises
    ------
    TypeError, ValueError
        If a parameter is invalid; the message names the parameter, its value and the allowed values.
    OutputExistsError, CheckpointError, OSError
        See `daskgmm.persistence.checkpoint.Checkpoint`.
    """
    if not isinstance(resume, bool):
        raise TypeError(f"resume={resume!r:.80}; expected True or False")
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True without a checkpoint: pass its path as checkpoint=PATH")
        return nullcontext()
    if not isinstance(checkpoint, str | os.PathLike):
        if is_open_store(checkpoint):  # whose text may contain secrets
            raise TypeError(f"checkpoint is an open store ({type(checkpoint).__name__}); {EXPECTED}")
        raise TypeError(f"checkpoint={checkpoint!r:.80}; expected a path")
    return Checkpoint(checkpoint, resume=resume)


def checkpointer_for(
    checkpoint: Checkpoint,
    dataset: Dataset,
    models: Sequence[MixtureModel[Any]],
    more: Mapping[str, Any] | None = None,
) -> Checkpointer:
    """Make the checkpointer for the fits of several estimators.

    Parameters
    ----------
    checkpoint : Checkpoint
    dataset : Dataset
    models : sequence of MixtureModel
        Unfitted estimators, one for each candidate, which differ only in n_components and covariance_type.
    more : mapping, optional
        Further settings on which the results depend, as JSON values.

    Raises
    ------
    CheckpointError
        If the stored checkpoint belongs to other settings or other data.
    TypeError
        If a file could not restore the state of an estimator, such as one of a user-defined class.
    """
    settings = {**(more or {}), **_settings(models), "missing": dataset.row_kind.missing}
    return checkpoint.checkpointer(dataset, settings, [_stored_kind(model, dataset.n_features) for model in models])


def _stored_kind(model: MixtureModel[Any], n_features: int) -> StoredKind:
    how = model._prepare(n_features)
    return StoredKind(
        structure=model._structure,
        n_components=int(model.n_components),
        n_features=n_features,
        state_arrays=model._state_arrays,
        scatter=how.scatter,
        accelerator=how.accelerator,
        accelerates_few=how.accelerates_few,
    )


def _settings(models: Sequence[MixtureModel[Any]]) -> dict[str, Any]:
    """Parameters of the estimators on which their fits depend."""
    model = models[0]
    kind = kind_of(model)
    parameters = {name: value for name, value in model.get_params(deep=False).items() if name not in _NO_SETTINGS}
    seed = parameters.pop("random_state")
    settings = {"n_components": None, **{name: _setting(name, value) for name, value in parameters.items()}}
    if len(models) > 1:
        settings["n_components"] = [model.n_components for model in models]
        settings["covariance_type"] = [model.covariance_type for model in models]
    continuation = model._continuation()
    return {
        "estimator": kind.name,
        **settings,
        "random_state": int(seed) if isinstance(seed, int | np.integer) else "no int",
        # A warm start continues from a model, so the model is a setting, too.
        "warm_start": None if continuation is None else _digest(model._state_arrays.arrays(continuation.state)),
    }


def _setting(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float | np.generic):
        return encode(name, value)
    return f"sha256:{checksum(np.asarray(value, np.float64))}"


def _digest(arrays: Mapping[str, Array]) -> Any:
    return _setting("", np.concatenate([np.ravel(array) for array in arrays.values()]))
