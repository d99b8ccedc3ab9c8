"""What goes in and comes out: names, nesting, dtypes, shapes."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from nncompile_runtime import CaptureError
from nncompile_runtime.structure import ConstantLeaf, MappingOf, RecordOf, SequenceOf, TensorLeaf

Point = namedtuple("Point", ["mean", "spread"])


def names(specs):
    return [spec.name for spec in specs]


class Nested(nn.Module):
    """Every nesting at once, values that are returned twice, as they came in, or never computed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x, state, *, scale, flag=True, nothing=None):
        y = x * self.weight + state["h"] * scale
        if flag:
            y = y + state["cells"][0]
        return {
            "logits": y,
            "again": y,
            "pair": [y.relu(), (state["cells"][1], None)],
            "point": Point(mean=y.mean(-1), spread=y.amax(-1)),
            3: x,
            "weight": self.weight,
            "mask": self.mask,
            "odd name!": y.argmax(-1),
        }


@pytest.fixture(scope="module")
def nested(captured):
    return captured(Nested().eval(), *inputs(2))


def inputs(batch):
    state = {"h": torch.randn(batch, 3), "cells": (torch.randn(batch, 3), torch.randn(batch, 3))}
    return (torch.randn(batch, 3), state), {"scale": torch.randn(batch, 1), "flag": False, "nothing": None}


def test_input_names(nested):
    assert names(nested.signature.inputs) == ["x", "state_h", "state_cells_0", "state_cells_1", "scale"]
    assert [value.name for value in nested.graph.graph.inputs] == names(nested.signature.inputs)


def test_output_names(nested):
    assert names(nested.signature.outputs) == [
        "logits",
        "again",
        "pair_0",
        "pair_1_0",
        "point_mean",
        "point_spread",
        "output_3",
        "weight",
        "mask",
        "odd_name",
    ]
    assert [value.name for value in nested.graph.graph.outputs] == names(nested.signature.outputs)


def test_arguments_follow_forward(nested):
    arguments = {a.name: a for a in nested.signature.arguments}
    assert list(arguments) == ["x", "state", "scale", "flag", "nothing"]
    assert [a.name for a in arguments.values() if a.keyword_only] == ["scale", "flag", "nothing"]
    assert arguments["x"].structure == TensorLeaf(index=0)
    assert arguments["flag"].structure == ConstantLeaf(value=False)
    assert arguments["nothing"].structure == ConstantLeaf(value=None)
    assert arguments["state"].structure == MappingOf(
        entries=(
            ("h", TensorLeaf(index=1)),
            ("cells", SequenceOf(kind="tuple", items=(TensorLeaf(index=2), TensorLeaf(index=3)))),
        )
    )


def test_result_structure(nested):
    result = dict(nested.signature.result.entries)
    assert result["again"] != result["logits"]  # an output of its own, though it is the same tensor
    assert result["pair"].items[1].items[1] == ConstantLeaf(value=None)
    assert isinstance(result["point"], RecordOf)
    assert result["point"].type_name == "Point"
    assert isinstance(result[3], TensorLeaf)


def test_dtypes_and_shapes(nested):
    outputs = {spec.name: spec for spec in nested.signature.outputs}
    assert str(outputs["logits"]) == "float32[batch, 3]"
    assert str(outputs["weight"]) == "float32[3]"
    assert str(outputs["mask"]) == "bool[3]"
    assert str(outputs["odd_name"]) == "int64[batch]"
    assert {str(spec) for spec in nested.signature.inputs} == {"float32[batch, 3]", "float32[batch, 1]"}


@pytest.mark.parametrize("batch", [1, 5])
def test_answers(nested, answers_as_eager, batch):
    args, kwargs = inputs(batch)
    answers_as_eager(nested, *args, **kwargs)


def test_every_output_is_a_value_of_its_own(nested):
    graph = nested.graph.graph
    assert len({id(value) for value in graph.outputs}) == len(graph.outputs)
    assert not any(value in graph.inputs or value.is_initializer() for value in graph.outputs)


def test_nodes_are_named_after_modules_and_tell_nothing_else(captured):
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(8, 2))
    model = captured(network.eval(), torch.randn(2, 2, 3))
    node_names = [node.name for node in model.graph.graph.all_nodes()]
    assert {name.rpartition("/")[0] for name in node_names} - {""} == {"stem.0", "stem.1", "flat", "head"}
    assert len(set(node_names)) == len(node_names)
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.graph.all_nodes())
    assert (model.name, model.graph.producer_name) == ("Sequential", "nncompile")


class OutputConstants(nn.Module):
    def forward(self, x):
        return {"y": x + 1, "steps": 3, "kind": "relu", "done": True, "rate": 0.5}


def test_constants_in_the_output(captured, answers_as_eager):
    model = captured(OutputConstants(), torch.randn(2, 3))
    assert names(model.signature.outputs) == ["y"]
    answers_as_eager(model, torch.randn(4, 3))


class OutputSize(nn.Module):
    def forward(self, x):
        return x + 1, x.shape[0], x.shape[1]


def test_sizes_in_the_output(captured):
    model = captured(OutputSize(), torch.randn(2, 3))
    assert [str(spec) for spec in model.signature.outputs] == ["float32[batch, 3]", "int64[]"]


class Clashing(nn.Module):
    """Arguments and outputs that bear the names of weights, of inner values and of one another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.output = nn.Parameter(torch.randn(3))

    def forward(self, weight, output, add):
        total = weight + self.weight * output
        return {"weight": total + self.output, "add": total + add, "add_2": total * 2}


def test_names_that_clash(captured, answers_as_eager):
    model = captured(Clashing(), tuple(torch.randn(2, 3) for _ in range(3)))
    assert names(model.signature.inputs) == ["weight", "output", "add"]
    outputs = names(model.signature.outputs)
    assert len({*outputs, "weight", "output", "add"}) == 6
    answers_as_eager(model, *(torch.randn(3, 3) for _ in range(3)))


class Variadic(nn.Module):
    def forward(self, *parts, unused=None):
        return parts[0] * 2 + parts[1]


def test_variadic_inputs(captured, answers_as_eager):
    model = captured(Variadic(), (torch.randn(2, 3), torch.randn(2, 3)))
    assert [a.name for a in model.signature.arguments] == ["parts_0", "parts_1"]
    assert isinstance(model.signature.result, TensorLeaf)
    answers_as_eager(model, torch.randn(1, 3), torch.randn(1, 3))


class Ordered(nn.Module):
    def forward(self, first, second=None, third=None):
        return first["a"] + second * third


def test_keyword_inputs_in_another_order_than_forwards(captured, answers_as_eager):
    tensors = {name: torch.randn(2, size) for name, size in (("third", 1), ("second", 3))}
    model = captured(Ordered(), (), {**tensors, "first": {"a": torch.randn(2, 4, 1, 3)}})
    assert {spec.name: spec.shape[1:] for spec in model.signature.inputs} == {
        "first_a": (4, 1, 3),
        "second": (3,),
        "third": (1,),
    }
    assert [a.name for a in model.signature.arguments] == ["first", "second", "third"]
    answers_as_eager(model, {"a": torch.randn(5, 4, 1, 3)}, torch.randn(5, 3), torch.randn(5, 1))


class Passthrough(nn.Module):
    def forward(self, x, unused, number, /):
        return x


def test_an_input_that_is_returned_and_one_that_is_not_used(captured, answers_as_eager):
    model = captured(Passthrough(), (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), torch.tensor(2.0)))
    assert [str(spec) for spec in model.signature.inputs] == [
        "float32[batch, 3]",
        "int64[batch]",
        "float32[]",
    ]
    assert names(model.signature.outputs) == ["output"]
    answers_as_eager(model, torch.randn(4, 3), torch.ones(4, dtype=torch.int64), torch.tensor(1.0))


class InPlace(nn.Module):
    def forward(self, x):
        x += 1
        return x.relu_()


def test_a_module_that_writes_into_its_input(captured):
    example = torch.zeros(2, 3)
    model = captured(nn.Sequential(nn.ReLU(inplace=True), InPlace()), example)
    assert names(model.signature.outputs) == ["output"]
    assert torch.equal(example, torch.zeros(2, 3))


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda x: None, "no tensor"),
        (lambda x: {"inner": []}, "no tensor"),
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
def test_outputs_that_cannot_be_had(captured, value, problem):
    with pytest.raises(CaptureError, match=problem) as caught:
        captured(Returns(value), torch.randn(2, 3))
    assert caught.value.remedy
