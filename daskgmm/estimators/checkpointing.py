"""The parameters ``checkpoint`` and ``resume``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from ..data.source import Dataset
from ..fitting.fit_state import Checkpointer

if TYPE_CHECKING:
    from .base import BaseMixture


class Checkpointing(Protocol):
    """A checkpoint, as far as estimators know it."""

    name: str

    def setting(self, name: str) -> Any:
        """What the fit that is to go on was asked for; None where there is none."""

    def checkpointer(
        self, dataset: Dataset, models: Sequence[BaseMixture[Any]], more: Mapping[str, Any] | None = None
    ) -> Checkpointer:
        """What `MixtureFits` keeps its state with."""


def check_checkpoint(checkpoint: Any, resume: Any) -> AbstractContextManager[Checkpointing | None]:
    """The checkpoint that is meant, to be entered before any work.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what came and what was expected.
    OutputExistsError, CheckpointError, OSError
        See `daskgmm.persistence.checkpoint.Checkpoint`.
    """
    if not isinstance(resume, bool):
        raise TypeError(f"resume={resume!r:.80}; expected True or False")
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True without a checkpoint: say where it is, with checkpoint=PATH")
        return nullcontext()
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint={checkpoint!r:.80}; expected a path")
    from ..persistence.checkpoint import Checkpoint

    return Checkpoint(checkpoint, resume=resume)
