"""What several tests do with processes: start the program as in a terminal, and forbid this one long files."""

import contextlib
import resource
import signal
import subprocess
import sys


@contextlib.contextmanager
def terminal(folder, *arguments, **options):
    """``daskgmm`` in a process of its own, with its outputs in pipes; it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "daskgmm", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever started these tests: background jobs of a shell ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(stream, words):
    """Read lines of a stream, the first that has these words included."""
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}")


@contextlib.contextmanager
def small_files(most):
    """No file may grow beyond so many bytes: writing more fails as on a full disk (EFBIG in place of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
