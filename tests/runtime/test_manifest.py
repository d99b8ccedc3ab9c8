"""The manifest: what is refused, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from nncompile import ModelLoadError
from nncompile_runtime.manifest import (
    MAX_MANIFEST_BYTES,
    FreeSize,
    ImagePreprocessing,
    Manifest,
    PassRecord,
    parse,
)
from nncompile_runtime.structure import ConstantLeaf

from .graphs import manifest, spec
from .strategies import manifests

JSON = dict[str, Any]


@pytest.fixture
def plain() -> JSON:
    """A valid manifest as JSON."""
    about = manifest(
        [spec("x", "batch", 4)],
        [spec("y", "batch", 2)],
        passes=(PassRecord(name="fold", changes=1),),
        preprocessing=ImagePreprocessing(size=(8, 8)),
    )
    return json.loads(about.model_dump_json())


def put(document: JSON, path: str, value: Any) -> bytes:
    """The document as JSON with the value at a dotted path."""
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = document
    for step in parents:
        place = place[step]
    place[last] = value
    return json.dumps(document).encode()


def refusal(text: bytes) -> str:
    with pytest.raises(ModelLoadError) as caught:
        parse(text, "net.onnx")
    assert caught.value.remedy
    assert "net.onnx" in caught.value.problem
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_the_plain_one_is_accepted(plain: JSON) -> None:
    assert parse(json.dumps(plain).encode(), "net.onnx").model_name == "Net"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("unknown", 1),
        ("signature.unknown", 1),
        ("signature.inputs.0.unknown", 1),
        ("signature.result.unknown", 1),
        ("verification.outputs", [{"name": "y", "max_abs": 0, "max_rel": 0, "eager_max_abs": 0}]),
        ("schema_version", 2),
        ("schema_version", 0),
        ("schema_version", None),
        ("producer", []),
        ("producer", {"nncompile": 1}),
        ("producer", {str(i): "1" for i in range(65)}),
        ("model_name", ""),
        ("model_name", "x" * 257),
        ("model_name", None),
        ("target", "tpu"),
        ("precision", "int4"),
        ("passes.0.changes", -1),
        ("passes.0.changes", 10**13),
        ("passes.0.changes", 1.5),
        ("labels", "abc"),
        ("labels", [1]),
        ("labels", ["x" * 4097]),
        ("signature.inputs.0.dtype", "complex64"),
        ("signature.inputs.0.shape", [-1]),
        ("signature.inputs.0.shape", [2**41]),
        ("signature.inputs.0.shape", [""]),
        ("signature.inputs.0.shape", [1] * 33),
        ("signature.outputs", []),
        ("signature.arguments", []),
        ("signature.arguments.0.structure.index", 1),
        ("signature.arguments.0.structure.index", -1),
        ("signature.result", {"kind": "tensor", "index": 1}),
        ("signature.result", {"kind": "set", "items": []}),
        ("signature.result", {"kind": "tuple", "items": [{"kind": "tensor", "index": 0}] * 2}),
        ("signature.result", {"kind": "record", "type_name": "no name", "entries": []}),
        ("signature.batch", 3),
        ("verification.status", "perhaps"),
        ("verification.rtol", -1e-9),
        ("verification.rtol", math.nan),
        ("verification.rtol", "NaN"),
        ("verification.rtol", "much"),
        ("verification.batches", [-1]),
        ("verification.batches", [1] * 65),
        ("preprocessing.size", [0, 8]),
        ("preprocessing.size", [8, 65537]),
        ("preprocessing.size", [8]),
        ("preprocessing.mode", "CMYK"),
        ("preprocessing.std", [0]),
        ("preprocessing.std", [-1]),
        ("preprocessing.mean", []),
        ("preprocessing.mean", [0, 0, 0, 0]),
        ("plans", {"here": 1}),
        ("plans", {"": {}}),
        ("plans", {str(i): {} for i in range(257)}),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(plain: JSON, path: str, value: Any) -> None:
    assert path.split(".")[0] in refusal(put(plain, path, value))


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_preprocessing_takes_finite_numbers(plain: JSON, field: str, value: float) -> None:
    refusal(put(plain, f"preprocessing.{field}", [value]))


@pytest.mark.parametrize(("mode", "channels"), [("L", 2), ("L", 3), ("RGB", 2)])
def test_preprocessing_has_a_number_for_each_channel_or_one(plain: JSON, mode: str, channels: int) -> None:
    plain["preprocessing"]["mode"] = mode
    refusal(put(plain, "preprocessing.mean", [0.5] * channels))
    plain["preprocessing"]["mean"] = [0.5]
    refusal(put(plain, "preprocessing.std", [0.5] * channels))


@pytest.mark.parametrize(("field", "name"), [("type_name", "class"), ("field", "class"), ("field", "_x")])
def test_a_record_that_cannot_be_rebuilt_is_refused(plain: JSON, field: str, name: str) -> None:
    record = {
        "kind": "record",
        "type_name": name if field == "type_name" else "Out",
        "entries": [[name if field == "field" else "a", {"kind": "tensor", "index": 0}]],
    }
    refusal(put(plain, "signature.result", record))


@pytest.mark.parametrize("kind", ["dict", "record"])
def test_an_entry_that_comes_twice_is_refused(plain: JSON, kind: str) -> None:
    plain["signature"]["outputs"] *= 2
    entries = [["a", {"kind": "tensor", "index": i}] for i in range(2)]
    extra = {"type_name": "Out"} if kind == "record" else {}
    refusal(put(plain, "signature.result", {"kind": kind, "entries": entries, **extra}))


def test_an_argument_that_comes_twice_is_refused(plain: JSON) -> None:
    plain["signature"]["inputs"] *= 2
    leaves = [{"name": "x", "structure": {"kind": "tensor", "index": i}} for i in range(2)]
    refusal(put(plain, "signature.arguments", leaves))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe{}",
        b'{"a": "\\ud800"}',
        b"\x00",
        b'{"schema_version": 1' + b"0" * 6000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_text_that_is_no_manifest_is_refused(text: bytes) -> None:
    refusal(text)


def test_a_huge_manifest_is_refused_unread() -> None:
    assert str(MAX_MANIFEST_BYTES) in refusal(b" " * (MAX_MANIFEST_BYTES + 1))


def nested_structure(depth: int) -> str:
    return '{"kind":"tuple","items":[' * depth + '{"kind":"tensor","index":0}' + "]}" * depth


def nested_plan(depth: int) -> str:
    return '{"here":{"a":' + "[" * depth + "]" * depth + "}}"


@pytest.mark.parametrize(("path", "nested"), [("signature.result", nested_structure), ("plans", nested_plan)])
def test_deep_nesting_is_read_or_refused(plain: JSON, path: str, nested: Callable[[int], str]) -> None:
    text = put(plain, path, "HERE").decode()
    assert parse(text.replace('"HERE"', nested(20)).encode(), "net.onnx").model_dump_json()
    for depth in (50, 80, 95, 105):
        try:
            about = parse(text.replace('"HERE"', nested(depth)).encode(), "net.onnx")
        except ModelLoadError:
            continue
        assert parse(about.model_dump_json().encode(), "net.onnx") == about
    for depth in (250, 50_000):
        refusal(text.replace('"HERE"', nested(depth)).encode())


@settings(max_examples=50)
@given(manifests())
def test_nothing_is_lost_in_json(about: Manifest) -> None:
    again = parse(about.model_dump_json().encode(), "net.onnx")
    assert again.model_copy(update={"plans": {}}) == about.model_copy(update={"plans": {}})
    assert again.model_dump_json() == about.model_dump_json()


@pytest.mark.parametrize("value", [True, 1, 1.0, 0.1, -0.0, math.inf, -math.inf, math.nan, "NaN", "1", None])
def test_a_constant_keeps_its_type_and_value_in_json(value: Any) -> None:
    again = ConstantLeaf.model_validate_json(ConstantLeaf(value=value).model_dump_json()).value
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_the_parts_are_frozen(plain: JSON) -> None:
    about = parse(json.dumps(plain).encode(), "net.onnx")
    with pytest.raises(ValidationError):
        about.model_name = "Other"


class TestFreeSize:
    """Which sizes a free dimension takes."""

    @pytest.mark.parametrize(
        ("row", "inside", "outside", "words"),
        [
            ({"least": 2, "typical": 5}, (2, 3, 10**9), (0, 1, -1), "at least 2"),
            ({"least": 2, "most": 40, "typical": 5}, (2, 40), (1, 41), "2 to 40"),
            ({"least": 8, "step": 4, "typical": 8}, (8, 12, 400), (4, 9, 10), "8, 12, 16 and so on"),
            (
                {"least": 3, "step": 2, "most": 9, "typical": 5},
                (3, 9),
                (1, 4, 11),
                "3, 5, 7 and so on, at most 9",
            ),
        ],
    )
    def test_holds(
        self, row: dict[str, int], inside: tuple[int, ...], outside: tuple[int, ...], words: str
    ) -> None:
        free = FreeSize.model_validate(row)
        assert all(size in free for size in inside)
        assert not any(size in free for size in outside)
        assert str(free) == words

    @pytest.mark.parametrize(
        "row",
        [{"typical": 1}, {"typical": 9}, {"typical": 4}, {"least": 0}, {"step": 0}, {"most": 0}, {"mean": 3}],
    )
    def test_refuses(self, row: dict[str, int]) -> None:
        with pytest.raises(ValidationError):
            FreeSize.model_validate({"least": 3, "step": 2, "most": 7, "typical": 5} | row)
