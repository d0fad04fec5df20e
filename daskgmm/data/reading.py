"""Counts of the bytes that a pass has read, and the workers that hold its rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker whose cache holds some of the rows ``start`` to ``stop``."""

    start: int
    stop: int
    worker: str


@dataclass(frozen=True)
class Reading:
    """Bytes of rows that a part of a pass has read. ``+`` joins the parts, neighbours in the order of their rows."""

    bytes_read: int = 0
    """Bytes of the rows that were read from their source."""
    bytes_cached: int = 0
    """Bytes of the rows that were kept in memory since an earlier pass."""
    holders: tuple[Holder, ...] = ()
    """Workers with a cache of rows, in the order of the rows."""

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            self.bytes_read + other.bytes_read,
            self.bytes_cached + other.bytes_cached,
            _joined(self.holders, other.holders),
        )


def _joined(left: tuple[Holder, ...], right: tuple[Holder, ...]) -> tuple[Holder, ...]:
    """Append the holders; neighbours on one worker become one, so that many tasks give a short list."""
    if left and right and (left[-1].worker, left[-1].stop) == (right[0].worker, right[0].start):
        return (*left[:-1], Holder(left[-1].start, right[0].stop, right[0].worker), *right[1:])
    return left + right
