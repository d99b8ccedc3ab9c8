"""The protobuf wire format: known bytes, malformed bytes, and agreement with the protobuf library."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncompile_runtime.wire import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    Field,
    WireError,
    fields,
    read_varint,
    write_bytes_field,
    write_varint,
)

KNOWN_VARINTS = [
    (0, b"\x00"),
    (1, b"\x01"),
    (127, b"\x7f"),
    (128, b"\x80\x01"),
    (150, b"\x96\x01"),
    (300, b"\xac\x02"),
    (2**32, b"\x80\x80\x80\x80\x10"),
    (2**64 - 1, b"\xff" * 9 + b"\x01"),
]


@pytest.mark.parametrize(("value", "encoded"), KNOWN_VARINTS)
def test_known_varints(value: int, encoded: bytes) -> None:
    assert write_varint(value) == encoded
    assert read_varint(encoded, 0, len(encoded)) == (value, len(encoded))


def test_a_varint_may_be_padded() -> None:
    assert read_varint(b"\x81\x80\x00", 0, 3) == (1, 3)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=4))
def test_varints_survive_a_round_trip_inside_other_bytes(value: int, around: bytes) -> None:
    data = around + write_varint(value) + around
    assert read_varint(data, len(around), len(data)) == (value, len(data) - len(around))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9])
def test_a_truncated_varint_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="truncated"):
        read_varint(data, 0, len(data))


def test_a_varint_stops_at_the_end_of_its_message() -> None:
    with pytest.raises(WireError, match="truncated"):
        read_varint(b"\x80\x01", 0, 1)


def test_a_varint_of_eleven_bytes_is_refused() -> None:
    with pytest.raises(WireError, match="ten bytes"):
        read_varint(b"\x80" * 10 + b"\x01", 0, 11)


def test_each_wire_type_is_walked() -> None:
    fixed = b"\x1d\x00\x00\x80\x3f" + b"\x21" + b"\x00" * 8
    data = b"\x08\x96\x01" + b"\x12\x07testing" + fixed + b"\xa2\x06\x00"
    assert list(fields(data, 0, len(data))) == [
        Field(1, VARINT, 0, 1, 3),
        Field(2, LENGTH_DELIMITED, 3, 5, 12),
        Field(3, FIXED32, 12, 13, 17),
        Field(4, FIXED64, 17, 18, 26),
        Field(100, LENGTH_DELIMITED, 26, 29, 29),
    ]


def test_only_the_given_part_of_the_buffer_is_walked() -> None:
    inner = b"\x08\x01\x10\x02"
    data = b"\xff\xff" + inner + b"\xff"
    assert [(f.number, data[f.value_start]) for f in fields(data, 2, 2 + len(inner))] == [(1, 1), (2, 2)]


def test_an_empty_message_has_no_fields() -> None:
    assert list(fields(b"", 0, 0)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01",  # field number 0
        b"\x0b\x0c",  # a group, which ONNX does not use
        b"\x0e",  # wire type 6
        b"\x0f",  # wire type 7
        b"\x80",  # truncated tag
        b"\x08",  # no value
        b"\x08\x80",  # truncated value
        b"\x12",  # no length
        b"\x12\x02a",  # one byte short
        b"\x12" + b"\xff" * 9 + b"\x01" + b"a",  # a length of 2**64 - 1
        b"\x0d\x00\x00\x00",  # three of four bytes
        b"\x09" + b"\x00" * 7,  # seven of eight bytes
    ],
)
def test_malformed_fields_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(fields(data, 0, len(data)))


def test_a_field_may_not_run_past_the_end_of_its_message() -> None:
    data = b"\x12\x03abc"
    with pytest.raises(WireError, match="past the end"):
        list(fields(data, 0, 4))


@pytest.mark.parametrize("tag", [b"\xea\x80\x80\x80\x10", b"\xea\x80\x80\x80\x80\x80\x80\x80\x80\x01"])
def test_a_tag_beyond_32_bits_is_refused(tag: bytes) -> None:
    """ONNX Runtime's protobuf drops the upper bits: it would see another field than we do."""
    data = tag + b"\x01a"
    with pytest.raises(WireError):
        list(fields(data, 0, len(data)))


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_tiled_without_a_gap(data: bytes) -> None:
    position = 0
    try:
        for field in fields(data, 0, len(data)):
            assert field.start == position < field.value_start <= field.end
            position = field.end
    except WireError:
        return
    assert position == len(data)


@given(st.integers(1, 2**29 - 1), st.binary(max_size=300))
def test_a_written_field_is_read_back(number: int, value: bytes) -> None:
    data = write_bytes_field(number, value)
    (field,) = fields(data, 0, len(data))
    assert (field.number, field.wire_type) == (number, LENGTH_DELIMITED)
    assert data[field.value_start : field.end] == value


def test_the_walk_agrees_with_protobuf(model: onnx.ModelProto) -> None:
    for message in (model, model.graph, model.graph.node[0], model.graph.initializer[0]):
        data = message.SerializeToString()
        packed = {d.number for d, _ in message.ListFields() if d.name == "dims"}
        expected = Counter(
            {d.number: len(value) if d.is_repeated else 1 for d, value in message.ListFields()}
        )
        found = Counter(field.number for field in fields(data, 0, len(data)))
        assert {n: c for n, c in found.items() if n not in packed} == {
            n: c for n, c in expected.items() if n not in packed
        }
