"""Main scripts that worker processes cannot import.

A process that is spawned imports the main script again. Where the script starts its worker processes without
``if __name__ == "__main__":``, each worker would start worker processes, too: Python refuses that in every worker, with
hundreds of lines, and the script waits for workers that never come. A look at the source finds this before the start.
"""

from __future__ import annotations

import ast
import multiprocessing.spawn
import os
import sys
from collections.abc import Iterator
from types import FrameType

import dask

from ..errors import SchedulerError


def check_main_guard() -> None:
    """Raise if worker processes would start worker processes of their own when they import the main script.

    Raises
    ------
    SchedulerError
        If so; the message has the line of the script.
    """
    path = _script()
    line = None if path is None else _line_of_script()
    if path is None or line is None or _is_guarded(path, line):
        return
    raise SchedulerError(
        f"{os.path.basename(path)}, line {line}, starts worker processes without a main guard. Every worker imports "
        'the script, and would start workers in turn: put what it does below `if __name__ == "__main__":`.'
    )


def _script() -> str | None:
    """Path of the main script; None where spawned processes do not import the script."""
    if dask.config.get("distributed.worker.multiprocessing-method", "spawn") == "fork":
        return None
    told = multiprocessing.spawn.get_preparation_data("worker")
    if not told.keys() & {"init_main_from_name", "init_main_from_path"}:
        return None
    return getattr(sys.modules["__main__"], "__file__", None)


def _line_of_script() -> int | None:
    """Line of the main script that is being executed, outside functions; None where the script is not running."""
    main = vars(sys.modules["__main__"])
    lines = [frame.f_lineno for frame in _frames() if frame.f_globals is main and frame.f_code.co_name == "<module>"]
    return lines[-1] if lines else None


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_guarded(path: str, line: int) -> bool:
    """Test for a guard before a line: an ``if`` on the name or the parent process; True where there is no source."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError):
        return True
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _asks(node.test)]
    return any(node.lineno <= line for node in asked)


def _asks(test: ast.expr) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return "__name__" in names or "parent_process" in ast.unparse(test)
