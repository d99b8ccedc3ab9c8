"""Reading and writing the protobuf wire format, as far as an ONNX file needs it.

The runtime looks at an ONNX file before ONNX Runtime does, without the `onnx` package. Encoding:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TAG = 2**32 - 1


class WireError(ValueError):
    """The bytes are not a well-formed protobuf message."""


class Field(NamedTuple):
    """One field of a message: where it starts, and where its value lies in the buffer."""

    number: int
    wire_type: int
    start: int
    value_start: int
    end: int


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Decode a base-128 varint.

    Returns:
        The value and the position behind it.

    Raises:
        WireError: It runs past `end` or is longer than ten bytes.
    """
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= end:
            raise WireError("truncated varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("varint longer than ten bytes")


def fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """Walk the fields of the message in `data[start:end]`, without descending.

    Raises:
        WireError: A field is malformed, or the last one runs past `end`.
    """
    position = start
    while position < end:
        field_start = position
        tag, position = read_varint(data, position, end)
        # Protobuf drops the bits beyond: it would read another field than this walk.
        if tag > _MAX_TAG:
            raise WireError("a tag of more than 32 bits")
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if wire_type == VARINT:
            value_start = position
            _, position = read_varint(data, position, end)
        elif wire_type == LENGTH_DELIMITED:
            length, value_start = read_varint(data, position, end)
            position = value_start + length
        elif wire_type in (FIXED32, FIXED64):
            value_start = position
            position += 4 if wire_type == FIXED32 else 8
        else:
            raise WireError(f"unknown wire type {wire_type}")
        if position > end:
            raise WireError("a field runs past the end")
        yield Field(number, wire_type, field_start, value_start, position)


def write_varint(value: int) -> bytes:
    """Encode a non-negative integer as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_bytes_field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field."""
    return write_varint(number << 3 | LENGTH_DELIMITED) + write_varint(len(value)) + value
