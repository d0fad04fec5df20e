"""Resident memory and processor time of processes while something runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SAMPLING = 0.02  # seconds
SEARCHING = 0.5  # seconds; a look through all processes of the machine costs milliseconds, so it is taken less often


class Process:
    """One process, or with ``children`` the whole tree below it, whose members come and go."""

    def __init__(self, pid: int, children: bool = False) -> None:
        self.pid = pid
        self.root = psutil.Process(pid)
        self.children = children
        self._members = [self.root]
        self._searched = -SEARCHING

    def members(self) -> list[psutil.Process]:
        """The process first, then its children as of the last search."""
        if self.children and time.monotonic() - self._searched > SEARCHING:
            with suppress(psutil.NoSuchProcess):
                self._members = [self.root, *self.root.children(recursive=True)]
            self._searched = time.monotonic()
        return self._members

    def resident(self) -> int:
        """Sum of the resident sets, in bytes; pages that members share are counted for each."""
        total = 0
        for member in self.members():
            with suppress(psutil.NoSuchProcess):  # it ended since the search
                total += member.memory_info().rss
        return total

    def processor_seconds(self) -> float:
        """Sum over the members, and over those of their children that have ended."""
        total = 0.0
        for member in self.members():
            with suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.children_user + times.children_system
                # To nanoseconds where that is known, to hundredths of a second elsewhere.
                total += time.process_time() if member.pid == os.getpid() else times.user + times.system
        return total

    def kill(self) -> None:
        """End all members."""
        self._searched = -SEARCHING
        for member in self.members():
            with suppress(psutil.NoSuchProcess):
                member.kill()


@contextmanager
def peak_memory(processes: dict[str, Process]) -> Iterator[dict[str, int]]:
    """Largest resident set, in bytes, of each process while the block runs."""
    peaks = {name: process.resident() for name, process in processes.items()}
    finished = threading.Event()

    def sample() -> None:
        while not finished.wait(SAMPLING):
            for name, process in processes.items():
                peaks[name] = max(peaks[name], process.resident())

    sampler = threading.Thread(target=sample, name="peak-memory")
    sampler.start()
    try:
        yield peaks
    finally:
        finished.set()
        sampler.join()
