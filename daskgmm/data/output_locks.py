"""One writer for each output, and what writers that died left behind.

A store grows in a hidden directory beside its own name, with a random part that nobody can guess. Its writer holds a
lock on that directory, which the operating system takes away when the process ends, however it ends. So whoever comes
to the same name later knows a writer at work, who is not to be disturbed, from what a dead one left, which is removed.

File systems without such locks (NFS among them) and Windows do without: there the first to finish wins, and what dead
writers left has to be removed by hand.
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

_PATIENCE, _LOOK = 10.0, 0.02  # seconds: for others who are making or removing names in the same directory
_UNNAMED = re.compile(r"\.[0-9a-f]{32}\.partial$")  # what Zarr writes before it gives a file its name
_LOOKS = 10  # for what comes late to a directory that is discarded


def hidden(path: str, why: str) -> str:
    """A new name beside that path; ``why`` is ``"partial"``, ``"replaced"`` or ``"discarded"``."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{secrets.token_hex(8)}.{why}")


@contextmanager
def claimed(path: str) -> Iterator[str]:
    """A new hidden directory for what is to become ``path``; gone afterwards, unless it was renamed.

    Raises
    ------
    OutputExistsError
        If somebody else is writing to that path right now.
    """
    with ExitStack() as stack:
        with _alone(os.path.dirname(path)):
            dead = _left_by_the_dead(path, stack)
            growing = hidden(path, "partial")
            os.mkdir(growing)
            with suppress(OSError):
                stack.enter_context(locked(growing))
        for left in dead:
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield growing
        except BaseException:
            discard(growing, path)
            raise


def discard(directory: str, path: str) -> None:
    """Remove a hidden directory of ``path`` in which something failed.

    Zarr may still be writing, in threads of its own, and makes directories that are gone anew: they are looked for some
    times more. What comes even later is removed by its own task (`remove_remains`), or by the next writer.
    """
    for _ in range(_LOOKS):
        remove(directory, path)
        time.sleep(_LOOK)
    remove(directory, path)


def remove(directory: str, path: str) -> None:
    """Remove a hidden directory of ``path``, at once as far as its name goes.

    Tasks that still run look for the name that they knew before they write, and would fill a new directory otherwise.
    """
    discarded = hidden(path, "discarded")
    with suppress(OSError):
        os.rename(directory, discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def remove_remains(directory: str) -> None:
    """Remove a store that was discarded while a task wrote to it: of a group that has no document only that is left."""
    if directory.endswith(".partial") and not os.path.exists(os.path.join(directory, "zarr.json")):
        shutil.rmtree(directory, ignore_errors=True)


def remove_unnamed(directory: str) -> None:
    """Remove the files of a complete store that never got their names, because their writers were killed."""
    for folder, _, names in os.walk(directory):
        for name in filter(_UNNAMED.search, names):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """The lock of a directory, which goes with it when it is renamed.

    Raises
    ------
    BlockingIOError
        If somebody else holds it.
    OSError
        If there is no such directory, or there are no such locks.
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
def _alone(directory: str) -> Iterator[None]:
    """Nobody else looks for names or makes some in that directory, as far as its file system has locks."""
    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        while time.monotonic() < deadline:
            try:
                stack.enter_context(locked(directory))
                break
            except BlockingIOError:
                time.sleep(_LOOK)
            except OSError:
                break
        yield


def _left_by_the_dead(path: str, stack: ExitStack) -> list[str]:
    """Hidden directories of ``path`` that nobody holds, to be removed; ``stack`` holds them from now on."""
    directory, name = os.path.split(path)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.(partial|replaced|discarded)")
    found = []
    for match in filter(None, map(pattern.fullmatch, os.listdir(directory))):
        left = os.path.join(directory, match[0])
        try:
            stack.enter_context(locked(left))
            if match[1] == "replaced" and not os.path.lexists(path):
                os.rename(left, path)  # its writer died before it had put anything in its place
                continue
            discarded = hidden(path, "discarded")
            os.rename(left, discarded)
        except BlockingIOError as error:
            if match[1] == "partial":
                raise OutputExistsError(
                    f"{without_secrets(path)} is being written by another run right now. Wait for it to end, or choose "
                    "another name."
                ) from error
        except OSError:
            continue  # removed meanwhile, or not ours, or there are no locks here
        else:
            found.append(discarded)
    return found
