"""Which nodes of an ONNX file compute shapes: ONNX Runtime puts those on the CPU beside a GPU, and rightly.

What a value is made from is traced through the graph, the bodies of If, Loop and Scan, and functions. ONNX
Runtime (1.31) tells of a node on the CPU no more than operator and name. It gives new names to what it puts
in the place of a function's call (`_inlfunc_F_token_2_name`), and of an If whose condition is constant
(`_if_then_branch_Max`). Nodes that it makes by itself (`Gather_token_0`) cannot be traced, and are told by
their operator alone.
"""

from __future__ import annotations

import re
from collections import ChainMap, Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from nncompile_runtime.onnx_nodes import Function, Graph, Node, nodes_of
from nncompile_runtime.wire import WireError

# What may compute shapes. Their CUDA kernels do not take every dtype: data of an int8 Max is left to the CPU.
_SHAPE_ARITHMETIC = frozenset((
    "Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Reshape", "Identity",
    "ConstantOfShape", "Range", "Expand", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max",
    "Floor", "Ceil", "ReduceProd", "ReduceMin", "ReduceMax", "ReduceSum", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Where",
))  # fmt: skip
_INLINED, _NUMBER = "_inlfunc_", re.compile(r"_token_\d+")
_OF_A_BRANCH, _BRANCH = re.compile(r"_(then|else)_branch"), "then or else"
_MOST_CALLS = 64  # of functions by functions

Key = tuple[str, str]  # operator, name


class _Origin(IntEnum):
    """What a value is made from; of several inputs the highest counts."""

    CONSTANT = 0
    SIZES = 1  # integers of rank 0 or 1 that the caller gives: a shape where they meet one, or else data
    SHAPE = 2
    DATA = 3


_Scope = ChainMap[str, _Origin]


@dataclass(frozen=True)
class ShapeNodes:
    """How many nodes of an operator and a name there are; names may be empty or repeated.

    Attributes:
        known: Of any kind, (operator, name) -> how many. Those of a function are called as ONNX Runtime calls
            them where it is called; those of a branch are counted as (operator, "then or else") as well.
        shapes: Those that compute shapes or constants.
    """

    known: Counter[Key]
    shapes: Counter[Key]

    def of_data(self, nodes: Iterable[Key]) -> list[Key]:
        """Those of some nodes that do not compute shapes.

        Args:
            nodes: Operators and names, as ONNX Runtime tells them.
        """
        seen: Counter[Key] = Counter()
        found = []
        for operator, name in nodes:
            key = operator, _unnumbered(name)
            if key not in self.known and _OF_A_BRANCH.search(name):
                key = operator, _BRANCH
            seen[key] += 1
            if operator not in _SHAPE_ARITHMETIC or (key in self.known and seen[key] > self.shapes[key]):
                found.append((operator, name))
        return found


def shape_nodes(data: bytes) -> ShapeNodes:
    """Trace the values of a serialised ONNX ModelProto, whose nodes are in order.

    Raises:
        WireError: The bytes are not a well-formed message, or nest too deeply.
    """
    graph, functions = nodes_of(data)
    found = ShapeNodes(Counter(), Counter())
    given = {name: _Origin.SIZES if name in graph.sizes else _Origin.DATA for name in graph.inputs}
    _Tracer(functions, found).outputs_of(graph, ChainMap(given))
    return found


@dataclass(frozen=True)
class _Tracer:
    """Traces one graph.

    Attributes:
        functions: Of the file.
        found: Is added to.
        prefix: Of the names of nodes, as ONNX Runtime calls those of the function that the graph is.
        in_branch: Whether the graph is in a branch.
        calls: How many functions it is in.
    """

    functions: dict[Function, Graph]
    found: ShapeNodes
    prefix: str = ""
    in_branch: bool = False
    calls: int = 0

    def outputs_of(self, graph: Graph, scope: _Scope) -> list[_Origin]:
        """The origins of a graph's outputs; `scope` has those of its inputs, and of what surrounds it."""
        scope.update(dict.fromkeys(graph.constants, _Origin.CONSTANT))
        for node in graph.nodes:
            origin = max((_of(scope, name) for name in node.read), default=_Origin.CONSTANT)
            if node.operator in ("Shape", "Size", "SequenceLength"):
                origin = _Origin.SHAPE
            self._count(node, origin in (_Origin.CONSTANT, _Origin.SHAPE))
            scope.update(zip(node.written, self._written(node, origin, scope), strict=False))
        return [_of(scope, name) for name in graph.outputs]

    def _written(self, node: Node, origin: _Origin, scope: _Scope) -> list[_Origin]:
        function = self.functions.get((node.domain, node.operator, node.overload))
        if function is not None:
            return self._of_function(node, function, scope)
        if node.operator == "If":
            return self._of_branches(node, origin, scope)
        if node.operator in ("Loop", "Scan") and len(node.bodies) == 1:
            return self._of_steps(node, node.bodies[0], scope)
        for body in node.bodies:
            inputs = dict.fromkeys(body.inputs, origin)
            origin = max(origin, *self.outputs_of(body, scope.new_child(inputs)))
        return [origin] * len(node.written)

    def _of_function(self, node: Node, function: Graph, scope: _Scope) -> list[_Origin]:
        if self.calls >= _MOST_CALLS:
            raise WireError(f"functions called by more than {_MOST_CALLS} others")
        inside = replace(self, prefix=f"{_INLINED}{node.operator}_", calls=self.calls + 1)
        given = (_of(scope, name) for name in node.read)
        return inside.outputs_of(function, ChainMap(dict(zip(function.inputs, given, strict=False))))

    def _of_branches(self, node: Node, condition: _Origin, scope: _Scope) -> list[_Origin]:
        branch = replace(self, in_branch=True)
        ways = [branch.outputs_of(body, scope.new_child()) for body in node.bodies]
        return [max(condition, *origins) for origins in zip(*ways, strict=False)]

    def _of_steps(self, node: Node, body: Graph, scope: _Scope) -> list[_Origin]:
        """Of Loop (count; condition, state) or Scan (state; sequences): what a step makes, the next reads.

        A step's number is no data, whatever says how many there are; what comes out after them may be.
        """
        given = [_of(scope, name) for name in node.read]
        loops = node.operator == "Loop"
        count = given[:1] if loops else []
        carried = slice(1, None) if loops else slice(0, len(given) - node.integers.get("num_scan_inputs", 0))
        if loops and given:
            given[0] = _Origin.CONSTANT
        unseen = replace(self, found=ShapeNodes(Counter(), Counter()))
        before: list[_Origin] = []
        while before != given:
            before = list(given)
            made = unseen.outputs_of(body, scope.new_child(dict(zip(body.inputs, given, strict=False))))
            given[carried] = [max(pair) for pair in zip(given[carried], made, strict=False)]
        made = self.outputs_of(body, scope.new_child(dict(zip(body.inputs, given, strict=False))))
        decided = [*count, *given[1:2]] if loops else []  # how many steps there are
        return [max([origin, *decided]) for origin in made[loops:]]

    def _count(self, node: Node, of_shapes: bool) -> None:
        name = _unnumbered(self.prefix + node.name) if node.name else ""
        keys = [(node.operator, name)] + [(node.operator, _BRANCH)] * self.in_branch
        self.found.known.update(keys)
        if of_shapes:
            self.found.shapes.update(keys)


def _of(scope: _Scope, name: str) -> _Origin:
    return scope.get(name, _Origin.CONSTANT)


def _unnumbered(name: str) -> str:
    """The name of what was in a function without the number that tells its calls apart."""
    return _NUMBER.sub("", name) if name.startswith(_INLINED) else name
