"""One pass on one small graph: applied, checked, run before and after, and run a second time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from outlined import PLANE
from region_interpreter import interpret
from small_models import Feeds, Weights, arrays, graphs, in_onnxruntime, in_reference, parse, random_inputs

from nncompile.passes import outline_fused_regions
from nncompile.passes.check import faults, interface
from nncompile.passes.contract import Outcome, Pass

# dtype of an output -> rtol and atol; the graphs are small and their values of order one.
TOLERANCES = {"float64": (1e-12, 1e-12), "float32": (1e-5, 1e-5), "float16": (1e-2, 1e-2)}


@dataclass(frozen=True)
class Applied:
    """What a pass made of a model."""

    outcome: Outcome
    before: onnx.ModelProto
    after: onnx.ModelProto

    @property
    def operators(self) -> list[str]:
        """Operator of every node after the pass, subgraphs included, in order."""
        return [node.op_type for graph in graphs(self.after.graph) for node in graph.node]

    @property
    def reasons(self) -> list[str]:
        return [refusal.reason for refusal in self.outcome.refusals]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Initializers of the outermost graph after the pass."""
        return arrays(self.after)

    def node(self, operator: str) -> onnx.NodeProto:
        (found,) = [node for node in self.after.graph.node if node.op_type == operator]
        return found


def content(model: ir.Model) -> bytes:
    """The model serialised, without the types of inner values, which say nothing new."""
    proto = ir.to_proto(model)
    for graph in graphs(proto.graph):
        graph.ClearField("value_info")
    return proto.SerializeToString(deterministic=True)


def assert_no_forgotten_users(model: ir.Model) -> None:
    """A value is read by nodes of the graph alone: one that was thrown away would keep it alive."""
    given = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in (*given, *(out for node in model.graph.all_nodes() for out in node.outputs)):
        assert all(user.graph is not None for user, _ in value.uses()), value.name


def assert_names_unique(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> None:
    """Static single assignment: no name is defined twice, nor again in a subgraph."""
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    computed = [name for node in graph.node for name in node.output if name]
    assert len(set(weights)) == len(weights)
    defined = [*inputs, *(name for name in weights if name not in inputs), *computed]
    assert len(set(defined)) == len(defined)
    assert not outer & set(defined)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                assert_names_unique(attribute.g, outer | set(defined))


ENGINES = {"onnxruntime": in_onnxruntime, "reference": in_reference}


def assert_same_answers(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, engine: str) -> None:
    run = ENGINES[engine]
    for name, expected, got in zip(
        [value.name for value in before.graph.output], run(before, feeds), run(after, feeds), strict=True
    ):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        rtol, atol = TOLERANCES.get(expected.dtype.name, (0, 0))
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, equal_nan=True, err_msg=name)


def _apply(
    step: Pass,
    text: str,
    weights: Weights | None = None,
    *,
    feeds: Feeds | None = None,
    engines: tuple[str, ...] = ("onnxruntime",),
    opset: int = 20,
) -> Applied:
    before = parse(text, weights, opset)
    model = ir.from_proto(before)
    untouched = content(model)
    expected = interface(model)

    outcome = step.run(model)

    after = ir.to_proto(model)
    assert list(faults(model, expected)) == []
    assert_no_forgotten_users(model)
    onnx.checker.check_model(after, full_check=True)
    assert_names_unique(after.graph)
    assert outcome.changes >= 0
    once = content(model)
    assert (once != untouched) == (outcome.changes > 0)
    for engine in engines:
        assert_same_answers(before, after, random_inputs(before, feeds or {}), engine)

    second = step.run(model)
    assert second.changes == 0
    assert content(model) == once
    return Applied(outcome, before, after)


Apply = Callable[..., Applied]


@pytest.fixture(scope="session")
def apply() -> Apply:
    """Apply a pass to a model in ONNX's text format.

    `apply(PASS, text, weights, feeds=..., engines=..., opset=...)` fails where the pass leaves a fault,
    a name defined twice, other answers, or changes something when it runs a second time, and where
    `changes` does not say whether it changed anything.
    """
    return _apply


@pytest.fixture(scope="session")
def answers() -> Callable[..., list[np.ndarray]]:
    """`answers(model, feeds)`: what ONNX Runtime makes of a graph with its own optimisers off."""
    return in_onnxruntime


@pytest.fixture(scope="session")
def parsed() -> Callable[..., onnx.ModelProto]:
    """`parsed(text, weights)`: a valid model in ONNX's text format, shapes inferred."""
    return parse


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def whatever_it_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions of small graphs, for what they show; test_region_worth.py is about which of them pay."""
    monkeypatch.setattr(outline_fused_regions, "pays", lambda *_: True)


@pytest.fixture
def outline(apply: Apply, random: np.random.Generator, whatever_it_is_worth: None) -> Apply:
    """`outline(nodes, y, x=..., **weights)`: regions are made of `nodes`, which read x and make y.

    A weight is an array, the shape of a random one, or None for none.
    """

    def run(
        nodes: str, y: str = f"{PLANE} y", x: str = f"{PLANE} x", feeds: Feeds | None = None, **weights: Any
    ) -> Applied:
        named = {"w": (4, 4, 1, 1), **weights}
        arrays = {
            name: random.standard_normal(w).astype("f4") if isinstance(w, tuple) else w
            for name, w in named.items()
            if w is not None
        }
        step = outline_fused_regions.OUTLINE_FUSED_REGIONS
        return apply(step, f"g ({x}) => ({y}) {{ {nodes} }}", arrays, feeds=feeds)

    return run


@pytest.fixture
def check(outline: Apply, random: np.random.Generator) -> Callable[..., onnx.NodeProto]:
    """`check(nodes, y=..., x=..., **weights)`: the one region that `outline` makes of these nodes.

    Its program computes what the nodes compute.
    """

    def run(nodes: str, y: str, x: str = f"{PLANE} x", **weights: Any) -> onnx.NodeProto:
        applied = outline(nodes, f"{y} y", x, **weights)
        assert applied.operators == ["FusedRegion"]
        (region,) = applied.after.graph.node
        feeds = random_inputs(applied.after, {})
        given = {**applied.weights, **feeds}
        (got,) = interpret(region, [given[name] for name in region.input])
        (expected,) = in_onnxruntime(applied.before, feeds)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        return region

    return run
