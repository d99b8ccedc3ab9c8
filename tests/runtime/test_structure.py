"""Nesting: flat lists of tensors to what `forward` takes and returns, and back."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncompile_runtime.structure import (
    ConstantLeaf,
    Fields,
    FieldsOf,
    MappingOf,
    RecordOf,
    SequenceOf,
    StructureMismatchError,
    TensorLeaf,
    flatten,
    flattener,
    leaves,
    unflattener,
)

Pair = namedtuple("Pair", ["first", "second"])
T0, T1, T2 = (TensorLeaf(index=i) for i in range(3))
PAIR = RecordOf(type_name="Pair", entries=(("first", T0), ("second", T1)))


@dataclass
class State:
    first: str
    second: str


def structure_of(value: Any, count: list[int]) -> Any:
    """The structure of a value whose tensors are strings; they are numbered as they come."""
    if isinstance(value, str):
        count[0] += 1
        return TensorLeaf(index=count[0] - 1)
    if isinstance(value, Pair):
        return RecordOf(
            type_name="Pair", entries=tuple((f, structure_of(getattr(value, f), count)) for f in Pair._fields)
        )
    if isinstance(value, (tuple, list)):
        return SequenceOf(kind=type(value).__name__, items=tuple(structure_of(item, count) for item in value))
    if isinstance(value, dict):
        return MappingOf(entries=tuple((key, structure_of(item, count)) for key, item in value.items()))
    return ConstantLeaf(value=value)


def tensors_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in inner for tensor in tensors_of(item)]


constants = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False))
values = st.recursive(
    st.text(max_size=3) | constants,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(min_size=1, max_size=3) | st.integers(), inner, max_size=4),
        st.tuples(inner, inner).map(lambda items: Pair(*items)),
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_survives_flattening(value: Any) -> None:
    count = [0]
    structure = structure_of(value, count)
    flat: list[Any] = [None] * count[0]
    flatten(structure, value, flat, "x")
    assert flat == tensors_of(value)
    again = unflattener(structure)(flat)
    assert again == value
    assert repr(again) == repr(value)
    assert flattener(structure)(again) == flat
    assert [leaf.index for _, leaf in leaves(structure)] == list(range(count[0]))


def test_leaves_may_be_in_any_order() -> None:
    structure = SequenceOf(kind="list", items=(T2, T0, T1))
    flat: list[Any] = [None] * 3
    flatten(structure, ["c", "a", "b"], flat, "x")
    assert flat == ["a", "b", "c"]
    assert unflattener(structure)(flat) == ["c", "a", "b"]
    assert flattener(structure)(["c", "a", "b"]) == flat


def test_containers_keep_their_types_and_order() -> None:
    mapping = MappingOf(entries=((2, T2), ("b", T1)))
    structure = SequenceOf(kind="tuple", items=(SequenceOf(kind="list", items=(T0,)), mapping))
    result = unflattener(structure)("abc")
    assert result == (["a"], {2: "c", "b": "b"})
    assert list(result[1]) == [2, "b"]


def test_a_record_comes_back_as_a_named_tuple() -> None:
    result = unflattener(PAIR)(["a", "b"])
    assert (type(result).__name__, result._fields) == ("Pair", ("first", "second"))
    assert (result.first, result.second) == ("a", "b") == tuple(result)
    assert flattener(PAIR)(result) == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [
        Pair("a", "b"),
        State("a", "b"),
        SimpleNamespace(first="a", second="b"),
        {"second": "b", "first": "a"},
    ],
)
def test_a_record_is_taken_from_whatever_has_its_fields(value: Any) -> None:
    flat: list[Any] = [None, None]
    flatten(PAIR, value, flat, "x")
    assert flat == ["a", "b"]


def test_a_mapping_is_taken_in_any_order_and_of_any_type() -> None:
    structure = MappingOf(entries=(("a", T0), ("b", T1)))
    flat: list[Any] = [None, None]
    flatten(structure, OrderedDict(b="2", a="1"), flat, "x")
    assert flat == ["1", "2"]


LIST = SequenceOf(kind="list", items=(T0, SequenceOf(kind="tuple", items=(T1, T2))))
DICT = MappingOf(entries=(("h", T0), (3, SequenceOf(kind="tuple", items=(PAIR,)))))


@pytest.mark.parametrize(
    ("structure", "value", "path", "expected", "got"),
    [
        (LIST, "ab", "x", "a list of 2", "str"),
        (LIST, ["a"], "x", "a list of 2", "list of 1"),
        (LIST, ["a", ("b",)], "x[1]", "a tuple of 2", "tuple of 1"),
        (LIST, ["a", {"b": 1}], "x[1]", "a tuple of 2", "dict"),
        (LIST, None, "x", "a list of 2", "NoneType"),
        (DICT, ["a"], "x", "a dict", "list"),
        (DICT, {"h": 1}, "x", "['h', 3]", "['h']"),
        (DICT, {"h": 1, "3": 2}, "x", "['h', 3]", "['h', '3']"),
        (DICT, {"h": 1, 3: (5,)}, "x[3][0]", "a record", "int"),
        (DICT, {"h": 1, 3: ({"first": 1},)}, "x[3][0]", "['first', 'second']", "['first']"),
        (PAIR, ("a", "b"), "x", "a record", "tuple"),
        (ConstantLeaf(value=2), 3, "x", "the constant 2", "3"),
        (ConstantLeaf(value=2), 2.0, "x", "the constant 2", "2.0"),
        (ConstantLeaf(value=True), 1, "x", "the constant True", "1"),
        (ConstantLeaf(value=None), "y" * 500, "x", "the constant None", "yyy"),
    ],
)
def test_a_mismatch_says_where_what_and_what_instead(
    structure: Any, value: Any, path: str, expected: str, got: str
) -> None:
    with pytest.raises(StructureMismatchError) as caught:
        flatten(structure, value, [None] * 3, "x")
    assert caught.value.path == path
    assert expected in caught.value.expected
    assert got in caught.value.got
    assert len(caught.value.got) < 200


def test_leaves_name_their_paths() -> None:
    assert [(path, leaf.index) for path, leaf in leaves(DICT, "state")] == [
        ("state['h']", 0),
        ("state[3][0].first", 0),
        ("state[3][0].second", 1),
    ]


FIELDS = FieldsOf(entries=(("logits", T1), ("hidden", T0)), absent=("loss",))


def test_fields_are_had_by_key_by_attribute_and_by_position() -> None:
    result = unflattener(FIELDS)(["h", "l"])
    assert isinstance(result, dict)
    assert flattener(FIELDS)(result) == ["h", "l"]
    assert result == {"logits": "l", "hidden": "h"}
    assert (result.logits, result["logits"], result[0], result[-1], result[:1]) == (
        "l",
        "l",
        "l",
        "h",
        ("l",),
    )
    assert result.to_tuple() == ("l", "h")
    assert result.loss is None
    assert "loss" not in result
    assert repr(result) == "Fields(logits='l', hidden='h')"
    flat: list[Any] = [None, None]
    flatten(FIELDS, result, flat, "x")
    assert flat == ["h", "l"]


@pytest.mark.parametrize("name", ["other", "_absent_too", "__array__"])
def test_an_attribute_that_fields_lack(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(unflattener(FIELDS)(["h", "l"]), name)
    with pytest.raises(AttributeError, match="set the key"):
        setattr(unflattener(FIELDS)(["h", "l"]), name, 1)
    with pytest.raises(KeyError):
        unflattener(FIELDS)(["h", "l"])["loss"]


@pytest.mark.parametrize("structure", [FIELDS, PAIR])
def test_records_survive_copying_and_pickling(structure: Any) -> None:
    result = unflattener(structure)(["a", "b"])
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert again == result
        assert type(again) is type(result)
        assert repr(again) == repr(result)
    if isinstance(result, Fields):
        assert again.loss is None


def test_a_field_that_is_both_there_and_absent() -> None:
    with pytest.raises(ValueError, match="comes twice"):
        FieldsOf(entries=(("a", T0),), absent=("a",))
