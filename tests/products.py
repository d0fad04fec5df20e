"""One of each kind by default, the whole product under ``slow``."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import pytest


def covering(cases: Sequence[Sequence[Hashable]], strength: int = 1) -> list[int]:
    """Choose cases in which every value of every axis occurs, or with ``strength=2`` every pair of values.

    Greedy: the case that adds most comes next, of those the one whose values were chosen least often, of those the
    first. So the choice is the same in every process, and short axes go round while a long one is walked through.
    """
    axes = range(len(cases[0]))
    parts = [set(combinations(zip(axes, case, strict=True), min(strength, len(axes)))) for case in cases]
    missing = set().union(*parts)
    used: Counter[tuple[int, Hashable]] = Counter()
    chosen: list[int] = []
    while missing:
        gain = [len(part & missing) for part in parts]
        most = max(gain)
        best = min(
            (i for i in range(len(cases)) if gain[i] == most),
            key=lambda i: sum(used[axis, value] for axis, value in enumerate(cases[i])),
        )
        chosen.append(best)
        missing -= parts[best]
        used.update(enumerate(cases[best]))
    return sorted(chosen)


def mostly_slow(values: Iterable[Hashable], *quick: Hashable) -> list[object]:
    """Values of a parameter, or tuples of values of several; all but the ``quick`` ones are slow cases."""
    several = {value: value if isinstance(value, tuple) else (value,) for value in values}
    return [value if value in quick else pytest.param(*own, marks=pytest.mark.slow) for value, own in several.items()]


def thinned(cases: Iterable[object], step: int = 3) -> list[object]:
    """Every third case of a long table; the others are slow cases. A tuple holds values of several parameters."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*own, marks=[] if number % step == 0 else pytest.mark.slow) for number, own in enumerate(values)
    ]


def mark_the_rest_slow(items: Sequence[pytest.Item]) -> None:
    """Mark cases of tests under ``covering`` as slow, except for those that cover the values of their parameters."""
    families: dict[str, list[tuple[pytest.Item, list[Hashable]]]] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and item.get_closest_marker("covering") and not item.get_closest_marker("slow"):
            values = [_name(callspec.params[axis], callspec.indices[axis]) for axis in sorted(callspec.params)]
            families.setdefault(item.nodeid.partition("[")[0], []).append((item, values))
    for family in families.values():
        marker = family[0][0].get_closest_marker("covering")
        chosen = set(covering([values for _, values in family], *marker.args))
        for number, (item, _) in enumerate(family):
            if number not in chosen:
                item.add_marker(pytest.mark.slow)


def _name(value: object, index: int) -> Hashable:
    """Name of a value: rows of a table that have it in common are cases of one value."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, a nested list
        return index
