"""What is not refused, runs elsewhere or is copied is found."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import cycle
from types import SimpleNamespace

import onnx
import pytest
import torch

from models.gpu_check import strictness
from nncompile import DeviceError, InputError
from nncompile.bench import launches

from .breaking import patch, verdicts


def test_what_is_not_refused_is_found(here, monkeypatch):
    patch(monkeypatch, lambda self, *args: "an answer")
    failed = [f for f in strictness.refusals(here) if f.verdict == "failed"]
    assert {f.what for f in failed} == {"float64 inputs", "an input of another rank"}
    assert all("not refused, but answered with str" in f.said for f in failed)


@pytest.mark.parametrize(
    ("error", "passed"),
    [
        (InputError("It expects float32.", remedy="Cast it."), True),
        (InputError("It expects float32."), False),  # no remedy
        (InputError("Something else.", remedy="Cast it."), False),  # does not name it
        (DeviceError("It expects float32.", remedy="Cast it."), False),  # another kind
        (TypeError("float32"), False),
    ],
)
def test_a_refusal_is_of_a_kind_names_the_fault_and_has_a_remedy(error, passed):
    def request():
        raise error

    found = strictness._refused("a request", request, InputError, "float32")
    assert found.verdict == ("passed" if passed else "failed")


def test_a_node_elsewhere_is_found(here, monkeypatch):
    monkeypatch.setitem(strictness._PROVIDERS, "cpu", "CUDAExecutionProvider")
    found = list(strictness.placement(here))
    assert set(verdicts(found)) == {"failed"}
    assert "on CPUExecutionProvider" in found[0].said


def test_only_arithmetic_on_shapes_may_be_elsewhere(here, monkeypatch):
    """By the rule of sessions: a node of the file that reads data is astray, whatever its operator."""
    made = ("CPUExecutionProvider", "Conv", "conv"), ("Other", "Gather", "Gather_token_0")
    file = onnx.load(here.file("lenet5", "float32"))
    reads_data = next(node for node in file.graph.node if file.graph.input[0].name in node.input)
    reads_data.op_type, reads_data.name = "Max", "of_data"
    monkeypatch.setattr(
        strictness.container, "read", lambda path: SimpleNamespace(data=file.SerializeToString())
    )

    def verdict(*nodes):
        monkeypatch.setattr(strictness, "executed", lambda *_: list(nodes))
        (found,) = strictness.placement(dataclasses.replace(here, precisions=("float32",)))
        return found.verdict

    assert verdict(*made) == "passed"
    for bad in (
        ("Other", "Gemm", "gemm"),
        ("CPUExecutionProvider", "MemcpyToHost", "copy"),
        ("Other", "Max", "of_data"),
    ):
        assert verdict(*made, bad) == "failed"
    assert verdict() == "failed"  # nothing was recorded


@pytest.mark.parametrize(
    ("arrays", "tensors", "expected"),
    [
        ({"HtoD pinned": 1, "DtoH pinned": 1}, {"DtoD": 2}, ["passed", "passed"]),
        ({"HtoD": 1, "DtoH": 1}, {}, ["passed", "passed"]),  # a CUPTI that does not say of what memory
        ({"HtoD pinned": 1, "DtoH pinned": 1}, {"DtoH pageable": 1}, ["failed", "passed"]),
        ({"HtoD pinned": 1, "DtoH pinned": 1}, {"HtoD": 1}, ["failed", "passed"]),
        ({"HtoD pageable": 1, "DtoH pinned": 1}, {}, ["passed", "failed"]),
        ({"HtoD pinned": 1, "DtoH pageable": 1}, {}, ["passed", "failed"]),
        ({}, {}, ["not run"]),  # where copies of arrays do not show, none would
        ({"HtoD pinned": 1}, {}, ["not run"]),
    ],
)
def test_copies_are_believed_only_where_those_of_arrays_show(here, monkeypatch, arrays, tensors, expected):
    seen = cycle([Counter(arrays), Counter(tensors)])
    monkeypatch.setattr(strictness, "copied", lambda *_: next(seen))
    one = dataclasses.replace(here, precisions=("float32",))
    assert verdicts(strictness.copies(one)) == expected * 2


def test_copies_are_read_off_the_profilers_events(here, monkeypatch):
    class Profiler:
        def __init__(self, activities):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def events(self):
            names = (
                "aten::mm",
                "Memcpy HtoD (Pageable -> Device)",
                "Memcpy DtoH (Device -> Pinned)",
                "Memcpy",
            )
            return [type("Event", (), {"name": name}) for name in (*names, names[1], "Memset (Device)")]

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(launches, "_start", lambda device: None)
    calls = []
    found = strictness.copied(lambda: calls.append(1), here)
    assert found == {"HtoD pageable": 2, "DtoH pinned": 1}
    assert len(calls) == 3
