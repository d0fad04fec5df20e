"""One writer for each output, and removal of what dead writers left.

A store is written in a hidden directory beside its final name; the hidden name has a random part that nobody can guess.
The writer holds a lock on the directory, which the operating system releases when the process ends in any way. So a
later writer of the same name can tell the directory of a working writer, which is left alone, from the directory of a
dead writer, which is removed.

File systems without such locks (NFS among them) and Windows have no such protection: the first writer to finish wins,
and directories of dead writers have to be removed by hand.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from ..errors import OutputExistsError
from .store import without_secrets

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds of waiting for other processes that make or remove names in the same directory: in all, and between attempts.
_LOCK_TIMEOUT, _INTERVAL = 10.0, 0.02
_UNNAMED = re.compile(r"\.[0-9a-f]{32}\.partial$")  # files of Zarr before they get their final names
_REMOVALS = 10  # of a discarded directory in which threads may still write


def hidden(path: str, why: str) -> str:
    """Make a new hidden name beside a path; ``why`` is ``"partial"``, ``"replaced"`` or ``"discarded"``."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{secrets.token_hex(8)}.{why}")


@contextmanager
def claimed(path: str) -> Iterator[str]:
    """Make and lock a hidden directory that is to be renamed to ``path``; remove it if the ``with`` block fails.

    Raises
    ------
    OutputExistsError
        If another writer is writing to the same path.
    """
    with ExitStack() as stack:
        with _directory_lock(os.path.dirname(path)):
            dead = _discard_dead_outputs(path, stack)
            growing = hidden(path, "partial")
            os.mkdir(growing)
            with suppress(OSError):
                stack.enter_context(locked(growing))
        for directory in dead:
            shutil.rmtree(directory, ignore_errors=True)
        try:
            yield growing
        except BaseException:
            discard(growing, path)
            raise


def discard(directory: str, path: str) -> None:
    """Remove a hidden directory of ``path`` after a failure.

    Zarr's own threads may still be writing, and make removed directories again, so the removal is repeated some times.
    Later files are removed by the task that wrote them (`remove_remains`), or by the next writer.
    """
    for _ in range(_REMOVALS):
        remove(directory, path)
        time.sleep(_INTERVAL)
    remove(directory, path)


def remove(directory: str, path: str) -> None:
    """Remove a hidden directory of ``path``: first its name, in one step, then its contents.

    Running tasks check that the directory exists before they write; otherwise they would fill a new directory.
    """
    discarded = hidden(path, "discarded")
    with suppress(OSError):
        os.rename(directory, discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def remove_remains(directory: str) -> None:
    """Remove what a task wrote to a discarded store: a hidden directory without the group's document."""
    if directory.endswith(".partial") and not os.path.exists(os.path.join(directory, "zarr.json")):
        shutil.rmtree(directory, ignore_errors=True)


def remove_unnamed(directory: str) -> None:
    """Remove files of a complete store whose writers were killed before they gave the files their final names."""
    for folder, _, names in os.walk(directory):
        for name in filter(_UNNAMED.search, names):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock of a directory, also after the directory is renamed.

    Raises
    ------
    BlockingIOError
        If another process or thread holds the lock.
    OSError
        If there is no such directory, or the file system has no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no locks on this system")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _directory_lock(directory: str) -> Iterator[None]:
    """Hold the lock under which writers list and make names in a directory; continue without one after a timeout."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    with ExitStack() as stack:
        while time.monotonic() < deadline:
            try:
                stack.enter_context(locked(directory))
                break
            except BlockingIOError:
                time.sleep(_INTERVAL)
            except OSError:
                break
        yield


def _discard_dead_outputs(path: str, stack: ExitStack) -> list[str]:
    """Rename the hidden directories of ``path`` whose writers are dead, for removal; ``stack`` keeps their locks."""
    directory, name = os.path.split(path)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.(partial|replaced|discarded)")
    dead = []
    for match in filter(None, map(pattern.fullmatch, os.listdir(directory))):
        output = os.path.join(directory, match[0])
        try:
            stack.enter_context(locked(output))
            if match[1] == "replaced" and not os.path.lexists(path):
                os.rename(output, path)  # its writer died before it gave the new store this name
                continue
            discarded = hidden(path, "discarded")
            os.rename(output, discarded)
        except BlockingIOError as error:
            if match[1] == "partial":
                raise OutputExistsError(
                    f"{without_secrets(path)} is being written by another run right now. Wait for it to end, or choose "
                    "another name."
                ) from error
        except OSError:
            continue  # removed meanwhile, or another user's, or on a file system without locks
        else:
            dead.append(discarded)
    return dead
