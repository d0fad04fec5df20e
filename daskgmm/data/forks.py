"""Forked child processes: they have only the thread that forked, and locks of the other threads stay held."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import zarr

from ..errors import StoreError

_decoder: int | None = None
"""Identifier of the process in which zarrs decoded first: only this process has zarrs' threads."""


def begin_anew_in_children(function: Callable[[], Any]) -> Callable[[], Any]:
    """Have every forked child process call a function before anything else: a decorator."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function


def check_decoder(array: zarr.Array[Any]) -> None:
    """Raise `StoreError` if reading the array would wait for ever for threads that exist only in the parent process.

    Zarr starts its own threads again after a fork. The threads of zarrs, in Rust, are started once and never again.
    """
    global _decoder
    if type(array._async_array.codec_pipeline).__module__.partition(".")[0] != "zarrs":
        return
    _decoder = _decoder or os.getpid()
    if _decoder != os.getpid():
        raise StoreError(
            "This process is a fork of one that has used zarrs, whose threads do not survive that: reading would wait "
            "for ever. Start such processes with multiprocessing's 'spawn' or 'forkserver', or read with Zarr's own "
            "codec pipeline: zarr.config.set({'codec_pipeline.path': 'zarr.core.codec_pipeline.BatchedCodecPipeline'})."
        )
