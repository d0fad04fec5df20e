"""What was measured, as lines of JSON: each is there as soon as it is known, so that an interrupted run goes on.

A record has a ``kind``: ``session`` (the machine), ``data`` and ``strategy`` (settings that later records depend on),
``fit`` and ``against``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
KEY = ("kind", "data", "strategy", "seed", "tol")
"""Fields that tell a measurement from others."""


class RecordFile:
    """Records of a file, and of what is added to it.

    Raises
    ------
    SystemExit
        If a line is not a record. A last line without an end, which an interrupted run left, is dropped.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        if must_exist and not path.exists():
            raise SystemExit(f"{path} is not there: make it with --output")
        self.records = list(self._read()) if path.exists() else []

    def _read(self) -> Iterator[Record]:
        whole = self.path.read_bytes()[: self._n_whole_bytes()]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                record["kind"]
            except (ValueError, TypeError, KeyError):
                raise SystemExit(f"line {number} of {self.path} is not a record of this benchmark") from None
            yield record

    def _n_whole_bytes(self) -> int:
        return self.path.read_bytes().rfind(b"\n") + 1

    def begin(self) -> None:
        """Make the file ready to be added to."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        os.truncate(self.path, self._n_whole_bytes())

    def add(self, record: Record) -> None:
        """Keep a record and write it at once."""
        with self.path.open("a") as file:
            file.write(f"{json.dumps(record)}\n")
        self.records.append(record)

    def declare(self, kind: str, name: str, settings: Record) -> None:
        """Add settings that later records depend on, once.

        Raises
        ------
        SystemExit
            If the file has records that were made with others: they must not be compared.
        """
        settings = json.loads(json.dumps(settings))
        for record in self.of(kind):
            if record[kind] == name:
                if record["settings"] != settings:
                    raise SystemExit(
                        f"{self.path} has records of {kind} {name!r} with {record['settings']}, and now these are "
                        f"{settings}: choose another file with --output"
                    )
                return
        self.add({"kind": kind, kind: name, "settings": settings})

    def of(self, kind: str) -> list[Record]:
        """Records of one kind."""
        return [record for record in self.records if record["kind"] == kind]

    def settings(self, kind: str) -> dict[str, Record]:
        """By name, in the order in which they came."""
        return {record[kind]: record["settings"] for record in self.of(kind)}

    def known(self) -> set[tuple[Any, ...]]:
        """Keys of what was measured."""
        return {key(record) for kind in ("fit", "against") for record in self.of(kind)}


def key(record: Record) -> tuple[Any, ...]:
    """Of a measurement."""
    return tuple(record[name] for name in KEY)
