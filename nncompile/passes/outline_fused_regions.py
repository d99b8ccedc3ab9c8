"""The parts of a graph that the native kernels compute, each as one node.

Pattern: a maximal convex connected piece of nodes that have an instruction (`region_encoders.py`), a
convolution or two linear layers among them: one alone is left to ONNX Runtime's own matrix product, which is
as fast.

A region is a node of the domain `nncompile` whose model-local function, an overload of its own, holds the
nodes as they were. Where the kernels of nncompile-kernels are registered, ONNX Runtime runs its program;
elsewhere it inlines the function (ONNX, "Functions", docs/IR.md) and optimises as ever. So the function is
the meaning, and the program is the same computation read off the same nodes; `Mul(x, Sigmoid(x))` becomes one
instruction of it.

Weights stay in the graph and are inputs of the region: two regions, or a region and another node, may share
one. The few numbers that are no weights of the kernels (bounds of a Clip, the shape of a Reshape) move into
the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.convex_pieces import convex_pieces, reads_from
from nncompile.passes.region_encoders import encode
from nncompile.passes.region_program import (
    DOMAIN,
    OPERATOR,
    SCHEMA,
    VERSION,
    Opcode,
    Program,
    Sample,
    Step,
    assemble,
    sample_of,
)
from nncompile.passes.region_steps import fewer_steps
from nncompile.passes.region_worth import pays
from nncompile.passes.rewriting import unused_name
from nncompile.stages import Firing, Refusal

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_FUNCTIONS_WITH_OVERLOADS = 10  # the IR version that has them, and shapes of values inside functions
_TOO_LITTLE = "its region would save less than changing the layout at its borders costs"
_CYCLE = "with it the region would need a result of its own first"


def _run(model: ir.Model) -> Outcome:
    graph, parts = model.graph, _encoded(model.graph)
    pieces = []
    for piece in convex_pieces(graph, parts.steps):
        convolutions = [node for node in piece if node.op_type in _CONVOLUTIONS]
        linear_layers = sum(parts.steps[node].opcode is Opcode.LINEAR for node in piece)
        if not (convolutions or linear_layers > 1) or not _results(piece):
            continue
        if _pays(piece, parts):
            pieces.append(piece)
        else:
            parts.reasons.update(dict.fromkeys(convolutions, _TOO_LITTLE))
    refusals = _refusals(graph, pieces, parts.reasons)
    firings = tuple(Firing(OPERATOR, _outline(model, piece, parts)) for piece in pieces)
    if pieces:
        graph.sort()
    return Outcome(len(pieces), refusals, firings)


@dataclass(frozen=True)
class _Parts:
    """What the nodes of a graph are to the kernels.

    Attributes:
        steps: The instruction of each node that has one.
        reasons: Why each of the others has none.
        samples: The values that are known.
        moved: Values that went into a function, and the output of the region that stands for each.
    """

    steps: dict[ir.Node, Step] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    samples: dict[ir.Value, Sample] = field(default_factory=dict)
    moved: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def step(self, node: ir.Node) -> Step:
        """The instruction of a node, on the values that the graph has now."""
        step = self.steps[node]
        return replace(step, values=tuple(self.moved.get(value, value) for value in step.values))


def _encoded(graph: ir.Graph) -> _Parts:
    parts = _Parts()
    for node in graph:
        found = encode(node, parts.samples)
        if isinstance(found, str):
            parts.reasons[node] = found
        else:
            parts.steps[node] = found
            parts.samples[node.outputs[0]] = found.result
    return parts


def _refusals(
    graph: ir.Graph, pieces: Sequence[Sequence[ir.Node]], reasons: Mapping[ir.Node, str]
) -> tuple[Refusal, ...]:
    """What bounds a region, and each convolution that is in none."""
    inside = {node: number for number, piece in enumerate(pieces) for node in piece}
    bounds = {node: reason for node, reason in reasons.items() if node.op_type in _CONVOLUTIONS}
    for node in graph:
        for source in reads_from(node):
            if inside.get(source) == inside.get(node):
                continue
            bound = source if source not in inside else node
            bounds[bound] = reasons.get(bound, _CYCLE)
    return tuple(
        Refusal(OPERATOR, node.name or node.op_type, bounds[node])
        for node in graph
        if node in bounds and node.domain != DOMAIN
    )


def _results(piece: Sequence[ir.Node]) -> list[ir.Value]:
    """What nodes outside, subgraphs included, or the graph's outputs read of a piece."""
    members = set(piece)
    values = [node.outputs[0] for node in piece]
    return [v for v in values if v.is_graph_output() or any(user not in members for user, _ in v.uses())]


def _outline(model: ir.Model, piece: Sequence[ir.Node], parts: _Parts) -> str:
    """Replace the nodes of a piece by one; its name."""
    graph, results = model.graph, _results(piece)
    inner = {node.outputs[0]: parts.step(node) for node in piece}
    read = (value for step in inner.values() for value in step.values)
    activations = {value: _sample(value, parts) for value in read if value not in inner}
    program = assemble(activations, fewer_steps(activations, inner, results), results)
    for weight in program.weights:
        if not weight.is_initializer():
            weight.name = unused_name(graph, weight.name or "weight")
            graph.register_initializer(weight)
    overload = _free_overload(model)
    region = ir.Node(
        DOMAIN,
        OPERATOR,
        (*activations, *program.weights),
        _attributes(program),
        overload=overload,
        outputs=[ir.Value(name=value.name, type=value.type, shape=value.shape) for value in results],
        version=VERSION,
        name=f"{OPERATOR}/{overload}",
    )
    graph.insert_before(piece[0], region)
    for value, outer in zip(results, region.outputs, strict=True):
        _read_instead(graph, value, outer, piece)
        parts.moved[value], parts.samples[outer] = outer, inner[value].result
    for value, step in inner.items():
        value.shape = ir.Shape(step.result.dimensions)
    body = _body(graph, piece, region, results)
    attributes = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in region.attributes]
    function = ir.Function(DOMAIN, OPERATOR, overload, graph=body, attributes=attributes)
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION
    model.ir_version = max(model.ir_version, _FUNCTIONS_WITH_OVERLOADS)
    return region.name or OPERATOR


def _pays(piece: Sequence[ir.Node], parts: _Parts) -> bool:
    steps = {node.outputs[0]: parts.steps[node] for node in piece}
    read = {value: None for step in steps.values() for value in step.values if value not in steps}
    return pays(steps, [_sample(value, parts) for value in read], _results(piece))


def _sample(value: ir.Value, parts: _Parts) -> Sample:
    found = parts.samples.get(value) or sample_of(value)
    if isinstance(found, str):
        raise ValueError(f"{value.name!r} was encoded, and now {found}")
    return found


def _free_overload(model: ir.Model) -> str:
    taken = {function.overload for function in model.functions.values() if function.domain == DOMAIN}
    return next(name for number in range(len(taken) + 1) if (name := f"r{number}") not in taken)


def _attributes(program: Program) -> list[ir.Attr]:
    return [
        ir.AttrInt64("schema", SCHEMA),
        ir.AttrInt64s("program", program.code),
        ir.AttrFloat32s("constants", program.constants),
    ]


def _read_instead(graph: ir.Graph, value: ir.Value, outer: ir.Value, piece: Sequence[ir.Node]) -> None:
    """Let all that read a value from outside a piece read another."""
    members = set(piece)
    for user, index in tuple(value.uses()):
        if user not in members:
            user.replace_input_with(index, outer)
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = outer


def _body(
    graph: ir.Graph, piece: Sequence[ir.Node], region: ir.Node, results: Sequence[ir.Value]
) -> ir.Graph:
    """Move the nodes of a piece into a graph of their own, which takes what the region takes."""
    inputs = {v: ir.Value(name=v.name, type=v.type, shape=v.shape) for v in region.inputs if v is not None}
    constants: dict[ir.Value, ir.Node] = {}
    graph.remove(piece)
    for node in piece:
        for index, value in enumerate(node.inputs):
            if value in inputs:
                node.replace_input_with(index, inputs[value])
            elif value is not None and value.const_value is not None:
                if value not in constants:
                    constants[value] = _constant(value, value.const_value)
                node.replace_input_with(index, constants[value].outputs[0])
    for value in constants:
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(value.name or "", None)
    return ir.Graph(
        list(inputs.values()),
        results,
        nodes=[*constants.values(), *piece],
        opset_imports={"": graph.opset_imports[""]},
        name=region.name,
    )


def _constant(value: ir.Value, content: ir.TensorProtocol) -> ir.Node:
    attributes = [ir.AttrTensor("value", content)]
    copy = ir.Value(name=value.name, type=value.type, shape=value.shape)
    return ir.Node("", "Constant", [], attributes, outputs=[copy], name=f"{value.name}/Constant")


OUTLINE_FUSED_REGIONS = Pass(
    "outline-fused-regions",
    "what the native kernels compute as one node each, whose function holds the same nodes",
    _run,
    targets=("portable", "cpu"),
)
