"""What outline-fused-regions is tried on, and what it made of that."""

PLANE = "float[n, 4, 7, 6]"


def regions(applied):
    """The operators of each region, in the order of the graph."""
    bodies = {f.overload: [node.op_type for node in f.node] for f in applied.after.functions}
    calls = [node.overload for node in applied.after.graph.node if node.op_type == "FusedRegion"]
    assert sorted(calls) == sorted(bodies)
    return [bodies[overload] for overload in calls]
