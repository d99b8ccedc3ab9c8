"""Pieces of random graphs: with each as one node all can run, and none could be larger."""

from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncompile.passes.convex_pieces import convex_pieces, reads_from


@st.composite
def graphs(draw):
    """A graph of Sum nodes, each of which reads some earlier values, and the nodes that are wanted."""
    count = draw(st.integers(1, 12))
    nodes = []
    for number in range(count):
        earlier = [f"v{n}" for n in range(number)]
        reads = draw(st.lists(st.sampled_from(["x", *earlier]), min_size=1, max_size=3))
        nodes.append(onnx.helper.make_node("Sum", reads, [f"v{number}"]))
    port = onnx.helper.make_tensor_value_info("x", 1, [2])
    graph = ir.from_proto(onnx.helper.make_graph(nodes, "g", [port], []))
    wanted = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return graph, [node for node, is_wanted in zip(graph, wanted, strict=True) if is_wanted]


def can_run(graph, pieces):
    """Whether an order exists in which every piece is one step."""
    piece_of = {node: number for number, piece in enumerate(pieces) for node in piece}
    step = {node: piece_of.get(node, node) for node in graph}
    before = {}
    for node in graph:
        before.setdefault(step[node], set()).update(
            step[source] for source in reads_from(node) if step[source] != step[node]
        )
    try:
        TopologicalSorter(before).prepare()
    except CycleError:
        return False
    return True


def adjacent(first, second):
    return any(source in second for node in first for source in reads_from(node))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(graphs())
def test_pieces_can_run_and_are_maximal(case):
    graph, wanted = case
    pieces = convex_pieces(graph, wanted)
    assert [node for piece in pieces for node in piece if node not in wanted] == []
    assert sorted(map(id, wanted)) == sorted(id(node) for piece in pieces for node in piece)
    assert can_run(graph, pieces)
    for piece in pieces:
        assert len(piece) == 1 or all(
            adjacent([node], piece) or adjacent([other for other in piece if other is not node], [node])
            for node in piece
        )
    for first in pieces:
        for second in pieces:
            if first is not second and adjacent(second, first):
                rest = [piece for piece in pieces if piece not in (first, second)]
                assert not can_run(graph, [first + second, *rest])


@pytest.mark.parametrize(
    ("reads", "wanted", "expected"),
    [
        ("x 0 1", "0 1 2", ["0 1 2"]),
        ("x 0 1", "0 2", ["0", "2"]),
        ("x 0 0 12", "0 2 3", ["0 2", "3"]),  # a diamond with one arm that is not wanted
        ("x 0 0 12", "0 1 2 3", ["0 1 2 3"]),
        ("x x 0 1 21 30 4 5", "0 1 4 5 6 7", ["0", "1 4 6", "5 7"]),  # 2 and 3 lead from pair to pair
    ],
)
def test_known_graphs(reads, wanted, expected):
    nodes = [
        onnx.helper.make_node("Sum", ["x" if r == "x" else f"v{r}" for r in word], [f"v{number}"])
        for number, word in enumerate(reads.split())
    ]
    port = onnx.helper.make_tensor_value_info("x", 1, [2])
    graph = ir.from_proto(onnx.helper.make_graph(nodes, "g", [port], []))
    numbers = {node: str(number) for number, node in enumerate(graph)}
    chosen = [node for node in graph if numbers[node] in wanted.split()]
    assert [" ".join(numbers[node] for node in piece) for piece in convex_pieces(graph, chosen)] == expected


def test_a_subgraphs_reads_count(parsed):
    text = """g (float[n, 3] x, bool k) => (float[n, 3] y) {
        a = Relu(x)
        u = If(k) <then_branch = t () => (float[n, 3] p) { r = Exp(a) p = Neg(r) },
                   else_branch = e () => (float[n, 3] q) { q = Neg(x) }>
        y = Add(a, u)
    }"""
    first, branch, last = ir.from_proto(parsed(text)).graph
    assert first in reads_from(branch)
    assert convex_pieces(first.graph, [first, last]) == [[first], [last]]
