"""The codec of frozen records: what is written comes back, and what was not written by it ends in an error."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.fitting.survey import Survey
from daskgmm.persistence.codec import Codec, Columns, Each, codec, dump, restore

Array = np.ndarray[Any, np.dtype[Any]]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Flat:
    name: str
    count: int
    flag: bool
    size: float
    maybe: float | None

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count is {self.count}")


@dataclass(frozen=True)
class Inner:
    values: Array
    numbers: tuple[float, ...]
    pair: tuple[int, str]


@dataclass(frozen=True)
class Outer(Generic[Thing]):
    inner: Inner
    other: Inner | None
    many: tuple[Inner, ...]
    counts: tuple[int, ...]
    named: Mapping[str, Inner]
    numbered: Mapping[tuple[int, int], float]
    flat: tuple[Flat, ...]
    thing: Thing
    text: str
    flag: bool
    real: float


class Reversed(Codec):
    """A text, backwards."""

    def write(self, value, path, arrays):
        return value[::-1]

    def read(self, written, path, arrays):
        return written[::-1]


MADE = codec(Outer, {Thing: Reversed(), tuple[Flat, ...]: Columns(Flat)})

integers = st.integers(0, (1 << 63) - 1)
texts = st.text(max_size=5)
reals = st.floats(allow_nan=False)
flat = st.builds(Flat, texts, integers, st.booleans(), reals, st.none() | reals)
inner = st.builds(
    Inner,
    st.lists(reals, max_size=3).map(np.array),
    st.lists(reals, max_size=3).map(tuple),
    st.tuples(st.integers(), texts),
)
outer = st.builds(
    Outer,
    inner,
    st.none() | inner,
    st.lists(inner, max_size=2).map(tuple),
    st.lists(st.integers(), max_size=3).map(tuple),
    st.dictionaries(texts, inner, max_size=2),
    st.dictionaries(st.tuples(st.integers(), st.integers()), reals, max_size=2),
    st.lists(flat, max_size=4).map(tuple),
    texts,
    texts,
    st.booleans(),
    reals,
)


def plain(value):
    """A value without records and arrays, for comparisons."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return {name: plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else value


def through_json(written):
    return json.loads(json.dumps(written, allow_nan=False))


EXAMPLE = Outer(
    Inner(np.arange(3.0), (1.0, math.inf), (1, "x")),
    None,
    (Inner(np.zeros((0, 2)), (), (1 << 70, "")),) * 2,
    (4, -5),
    {"a": Inner(np.array(True), (2.0,), (0, "é"))},
    {(0, 1): -math.inf},
    (Flat("a", 1, True, 2.0, None), Flat("b", 2, False, -math.inf, 3.0)),
    "thing",
    "text",
    True,
    1e300,
)


@given(outer)
def test_what_is_written_comes_back(value):
    written, arrays = dump(MADE, value)
    assert plain(restore(MADE, through_json(written), arrays)) == plain(value)


def test_arrays_are_named_after_the_fields():
    written, arrays = dump(MADE, EXAMPLE)
    assert list(arrays) == [
        *("inner/values", "inner/numbers"),
        *("many/0/values", "many/0/numbers", "many/1/values", "many/1/numbers"),
        *("named/0/values", "named/0/numbers"),
        *("flat/counts", "flat/reals"),
    ]
    assert written["flat"] == ["a", "b"]
    assert written["numbered"] == [[[0, 1], "-inf"]]
    assert written["many"][0]["pair"] == [hex(1 << 70), ""]


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def put(value, path, new):
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = put(value[path[0]], path[1:], new)
    return copied


PLACES = [path for path in places(dump(MADE, EXAMPLE)[0]) if path[:1] != ("thing",)]


@given(st.sampled_from(PLACES), st.sampled_from([None, [], {}, 5, 5.5, "x", True, "0x", [[1]], [None], {"a": 1}]))
def test_values_of_another_type_are_refused_or_mean_something(path, new):
    """Whatever comes back can be written as it stood in the file: nothing is guessed."""
    written, arrays = dump(MADE, EXAMPLE)
    edited = put(written, path, new)
    try:
        value = restore(MADE, edited, arrays)
    except (ValueError, TypeError):
        return
    again, _ = dump(MADE, value)
    assert through_json(again) == through_json(edited)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("text",), None),
        (("flag",), 1),
        (("real",), True),
        (("real",), "infinite"),
        (("counts",), {}),
        (("counts",), [1.0]),
        (("counts",), ["7"]),
        (("counts",), [True]),
        (("inner",), None),
        (("inner",), []),
        (("inner", "values"), None),
        (("inner", "numbers"), [1.0]),
        (("inner", "pair"), [1]),
        (("inner", "pair"), [1, "x", 2]),
        (("other",), {}),
        (("many",), None),
        (("named",), {}),
        (("named",), [["a"]]),
        (("numbered",), [[[0, 1], 1.0], [[0, 1], 2.0]]),
        (("flat",), ["a"]),
        (("flat",), ["a", 5]),
    ],
    ids=str,
)
def test_what_was_not_written_is_refused(path, new):
    written, arrays = dump(MADE, EXAMPLE)
    with pytest.raises((ValueError, TypeError)):
        restore(MADE, put(written, path, new), arrays)


def test_missing_and_other_fields_and_arrays_are_named():
    written, arrays = dump(MADE, EXAMPLE)
    less = {name: value for name, value in written.items() if name != "text"}
    for edited in (less, {**written, "os": 1}):
        with pytest.raises(ValueError, match=r"has the fields .*expected"):
            restore(MADE, edited, arrays)
    with pytest.raises(ValueError, match="there is no array 'inner/values'"):
        restore(MADE, written, {name: array for name, array in arrays.items() if name != "inner/values"})
    with pytest.raises(ValueError, match=r"the arrays \['more'\] belong to no field"):
        restore(MADE, written, {**arrays, "more": np.ones(1)})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("inner/numbers", np.array([1, 2]), "inner/numbers contains int64 numbers"),
        ("inner/numbers", np.ones((1, 2)), "inner/numbers has shape"),
        ("flat/counts", np.ones((2, 3)), "flat/counts contains float64 numbers"),
        ("flat/counts", np.ones((2, 4), np.int64), "flat/counts has shape"),
        ("flat/counts", np.ones((3, 3), np.int64), "flat/counts has 3 rows, and flat/reals 2"),
        ("flat/counts", np.array([[1, 2, 0], [1, 1, 1]]), "truth values other than 0 and 1"),
        ("flat/counts", np.array([[1, 1, 2], [1, 1, 1]]), "positions beyond the list of"),
        ("flat/counts", np.array([[1, 1, -1], [1, 1, 1]]), "positions beyond the list of"),
        ("flat/counts", np.array([[-1, 1, 0], [1, 1, 1]]), "count is -1"),
        ("flat/reals", np.ones((2, 2), np.float32), "flat/reals contains float32 numbers"),
        ("flat/reals", np.ones(4), "flat/reals has shape"),
    ],
)
def test_arrays_that_were_not_written_are_refused(name, array, message):
    written, arrays = dump(MADE, EXAMPLE)
    with pytest.raises(ValueError, match=message):
        restore(MADE, written, {**arrays, name: array})


def test_a_tuple_may_have_a_codec_for_each_of_its_items():
    made = codec(tuple[Flat, ...], {tuple[Flat, ...]: Each([codec(Flat), codec(Flat)])})
    two = EXAMPLE.flat
    written, arrays = dump(made, two)
    assert restore(made, through_json(written), arrays) == two
    with pytest.raises(ValueError, match="has 1 items; expected 2"):
        restore(made, written[:1], arrays)


@pytest.mark.parametrize("kind", [Any, object, list[int], int | str, dict])
def test_types_that_nobody_can_write_are_named(kind):
    with pytest.raises(TypeError, match="pass a codec for it"):
        codec(kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_rows": 11}, "s is of 11 rows of weight 10"),
        ({"weight_sum": 9.0}, "s is of 10 rows of weight 9"),
        ({"weight_sum": math.nan}, "s is of 10 rows of weight nan"),
        ({"n_weighted": 9}, "s is of 9 rows that count, out of 10"),
        ({"mean": np.array([math.nan, 0])}, "s/mean contains NaN"),
        ({"maximum": np.array([1, 0])}, "s/maximum contains .* no floating-point numbers"),
        ({"minimum": np.zeros(3)}, "minimum has shape"),
        ({"sample": np.zeros((3, 3))}, "sample has shape"),
        ({"sample": np.zeros((11, 2)), "sample_weight": np.ones(11)}, "with a sample of 11"),
    ],
)
def test_surveys_that_cannot_be(changes, message):
    good = {name: np.zeros(2) for name in ("mean", "squared_deviations", "minimum", "maximum")}
    good |= {
        "n_rows": 10,
        "n_weighted": 10,
        "weight_sum": 10.0,
        "sample": np.zeros((3, 2)),
        "sample_weight": np.ones(3),
    }
    Survey(**good).check("s", 10, 2, weighted=False)
    with pytest.raises(ValueError, match=message):
        Survey(**{**good, **changes}).check("s", 10, 2, weighted=False)
