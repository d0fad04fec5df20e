"""The choice of cases for the default run."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest
from products import covering, mark_the_rest_slow

AXES = [range(5), "abc", [None, True]]


@pytest.mark.parametrize(("strength", "at_most"), [(1, 5), (2, 17)])
def test_every_value_occurs_and_few_cases_are_chosen(strength: int, at_most: int) -> None:
    cases = list(product(*AXES))
    chosen = [cases[i] for i in covering(cases, strength)]
    for axes in combinations(range(len(AXES)), strength):
        wanted = set(product(*(AXES[axis] for axis in axes)))
        assert {tuple(case[axis] for axis in axes) for case in chosen} == wanted
    assert len(chosen) <= at_most


def test_a_table_need_not_be_a_product() -> None:
    assert covering([("a", 1), ("a", 2), ("b", 2), ("c", 1)]) == [0, 2, 3]
    assert covering([("a",)], 2) == [0]


class Case:
    """As much of a collected test as is looked at."""

    def __init__(self, name, *marks, **params):
        self.nodeid = f"test_x.py::{name}[{params}]"
        self.callspec = SimpleNamespace(params=params, indices=dict.fromkeys(params, 0))
        self.marks = [mark.mark for mark in marks]

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark.mark)


def test_the_rest_is_slow_and_nothing_else() -> None:
    covered, slow = pytest.mark.covering, pytest.mark.slow
    product_of = [Case("product", covered, a=a, b=b) for a in range(3) for b in range(3)]
    pairs = [Case("pairs", pytest.mark.covering(2), a=a, b=b) for a in range(2) for b in range(2)]
    plain = [Case("plain", a=a, b=b) for a in range(2) for b in range(2)]
    marked = [Case("marked", covered, *marks, a=a) for a, marks in enumerate([[], [slow], []])]
    mark_the_rest_slow([*product_of, *pairs, *plain, *marked])
    by_default = [[case for case in cases if not case.get_closest_marker("slow")] for cases in (product_of, marked)]
    assert [len(cases) for cases in by_default] == [3, 2]
    assert not any(case.get_closest_marker("slow") for case in [*pairs, *plain])
