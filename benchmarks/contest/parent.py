"""Processes of contestants, seen from the one that compares them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from memory import Process

from contest.contestants import CONTESTANTS

Record = dict[str, Any]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_child(config: Record, time_limit: float) -> Record:
    """What a contestant's process prints, or the ``error`` that ended it."""
    threads = CONTESTANTS[config["contestant"]].blas_threads or config["problem"]["threads"]
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"TMPDIR": config["directory"]}
    command = [sys.executable, "-m", "contest.child", json.dumps(config)]
    # Files, not pipes: what it has started may write there after its end.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], env=environment, stdout=output, stderr=messages
        )
        process = Process(child.pid, children=True)
        try:
            child.wait(time_limit)
            return json.loads(last_line(output))
        except subprocess.TimeoutExpired:
            return {"error": f"time limit of {time_limit:g} s"}
        except ValueError:  # it could not even say what went wrong
            return {"error": f"ended with status {child.returncode}: {last_line(messages)}"}
        finally:
            process.kill()
            child.wait()


def last_line(file: IO[bytes]) -> str:
    file.seek(0)
    return (file.read().decode(errors="replace").strip().splitlines() or [""])[-1]
