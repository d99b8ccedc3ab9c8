"""The pieces of a graph that can each become one node.

A set of nodes can become one node where it is convex: no path leaves it and comes back, since the one node
would have to run both before and after what lies on that path. Several pieces must be convex together: with
edges from each of two pieces to the other, each is convex and yet neither can run first. So pieces grow by
merging in the graph in which every piece found so far is one node already; that graph is kept acyclic, and an
acyclic graph of pieces is one in which all of them can run. Merging the two ends of an edge closes a cycle
just where another path leads from one end to the other (Bondy and Murty, "Graph Theory", section 2.1, on
contraction).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from nncompile.passes.values import subgraphs


def convex_pieces(graph: ir.Graph, wanted: Collection[ir.Node]) -> list[list[ir.Node]]:
    """Group nodes into connected pieces, so that all pieces together can become one node each.

    No two pieces that remain can be merged along an edge between them.

    Args:
        graph: In topological order.
        wanted: The nodes to group.

    Returns:
        Every wanted node, in exactly one piece; pieces and their nodes in the order of the graph.
    """
    contracted = _Contraction()
    numbers: dict[ir.Node, int] = {}
    for node in graph:
        sources = [source for source in reads_from(node) if source in numbers]
        number = numbers[node] = contracted.add(numbers[source] for source in sources)
        if node in wanted:
            for source in sources:
                if source in wanted:
                    contracted.merge(numbers[source], number)
    pieces: dict[int, list[ir.Node]] = {}
    for node in graph:
        if node in wanted:
            pieces.setdefault(contracted.find(numbers[node]), []).append(node)
    return list(pieces.values())


def reads_from(node: ir.Node) -> list[ir.Node]:
    """The nodes whose results a node reads, each once; what its subgraphs read, it reads."""
    found: dict[ir.Node, None] = {}
    for reader in (node, *(inner for graph in subgraphs(node) for inner in graph.all_nodes())):
        for value in reader.inputs:
            source = None if value is None else value.producer()
            if source is not None:
                found[source] = None
    return list(found)


class _Contraction:
    """An acyclic graph whose nodes merge; what merged is found by union-find."""

    def __init__(self) -> None:
        self._merged_into: list[int] = []
        self._reads: list[set[int]] = []  # may hold numbers of pieces that have merged since

    def add(self, reads: Iterable[int]) -> int:
        """A new node, which reads earlier ones; its number."""
        self._merged_into.append(len(self._merged_into))
        self._reads.append(set(reads))
        return len(self._reads) - 1

    def find(self, number: int) -> int:
        """The number that stands for all that a node has merged with."""
        while self._merged_into[number] != number:
            self._merged_into[number] = self._merged_into[self._merged_into[number]]
            number = self._merged_into[number]
        return number

    def merge(self, first: int, second: int) -> None:
        """Make one of a node and another that reads it, unless it reads it over a third as well."""
        first, second = self.find(first), self.find(second)
        # A path from the second to the first would be a cycle already.
        if first == second or self._detour(first, second):
            return
        self._merged_into[second] = first
        self._reads[first] |= self._reads[second]

    def _detour(self, start: int, end: int) -> bool:
        """Whether a path leads from `start` to `end` over at least one other node; found backwards."""
        pending = [source for source in self._sources(end) if source != start]
        seen = set(pending)
        while pending:
            sources = self._sources(pending.pop())
            if start in sources:
                return True
            pending += sources - seen
            seen |= sources
        return False

    def _sources(self, number: int) -> set[int]:
        self._reads[number] = {self.find(source) for source in self._reads[number]} - {number}
        return self._reads[number]
