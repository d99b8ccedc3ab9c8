"""Sums of parallel convolutions as graphs, for merge-branches."""

from rewrites import KINDS

STATISTICS = ("scale", "shift", "mean", "var")
C = 4


def graph(*terms, dtype="float32", size="7, 8", channels=C, outputs="", inputs="", more=""):
    """Text that adds up terms, given as ONNX's text or as "x", from the left."""
    kind, free = KINDS[dtype], ", ".join("hwd"[: size.count(",") + 1])
    names = [f"t{i}" if "(" in term else term for i, term in enumerate(terms)]
    nodes = [f"{name} = {term}" for name, term in zip(names, terms, strict=True) if name != term]
    while len(names) > 1:
        total = "y" if len(names) == 2 else f"s{len(names)}"
        nodes.append(f"{total} = Add({names[0]}, {names[1]})")
        names[:2] = [total]
    return (
        f"g ({kind}[n, {C}, {size}] x{inputs}) => ({kind}[n, {channels}, {free}] y{outputs}) "
        f"{{ {' '.join(nodes)} {more} }}"
    )


def conv(weight, attributes="", bias=""):
    return f"Conv<{attributes}>(x, {weight}{bias and ', '}{bias})".replace("<>", "")


def kernels(random, dtype="float32", channels=C, group=1, **shapes):
    """Weights of the given planes, and `b` and `c` as biases."""
    values = {
        name: random.standard_normal((channels, C // group, *shape)) / 6 for name, shape in shapes.items()
    }
    values |= {name: random.standard_normal(channels) for name in "bc"}
    return {name: array.astype(dtype) for name, array in values.items()}


NORM = "BatchNormalization(x, scale, shift, mean, var)"
WIDE = "pads=[1, 1, 1, 1]"


def merged(applied, changes=1):
    """Attributes of the one convolution that is left, and its kernel's plane."""
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == changes
    node = applied.node("Conv")
    found = {a.name: list(a.ints) or a.i for a in node.attribute}
    return found | {"plane": list(applied.weights[node.input[1]].shape[2:])}
