"""What the tests of several rewrites share: dtypes, the statistics of a batch norm, and what a refusal is."""

import math

FLOATS = ("float16", "float32", "float64")
# numpy's name of a dtype -> that of ONNX's text format
KINDS = {"float16": "float16", "float32": "float", "float64": "double", "bfloat16": "bfloat16"}
NOT_CONSTANT = "a weight is not constant"
NORM_NOT_CONSTANT = "a weight of the batch norm is not constant"
SHARED = "an inner value of the pattern is used elsewhere or is a graph output"

# Two layers, x v + c and h w + d, as one: which array is what, and why float16 does not hold the result.
BEYOND_FLOAT16 = (
    ("v", math.nan, "a folded weight is not finite"),
    ("d", math.inf, "a folded weight is not finite"),
    ("v", 3e4, "a folded weight is beyond the range of float16"),
    ("c", 3e4, "a folded weight is beyond the range of float16"),
    ("v", 1e-6, "the folded weights of a channel are too small for float16"),
)


def statistics(random, channels, dtype="float32"):
    """Live running statistics: nothing is the identity."""
    values = {
        "scale": random.uniform(0.5, 2, channels),
        "shift": random.standard_normal(channels),
        "mean": random.standard_normal(channels),
        "var": random.uniform(0.2, 3, channels),
    }
    return {name: array.astype(dtype) for name, array in values.items()}


def unchanged(applied, *reasons):
    """Nothing was changed, for these reasons; `apply` has compared the graphs."""
    assert applied.outcome.changes == 0
    assert applied.reasons == list(reasons)


def unchanged_as_shared(applied):
    """Nothing was changed, wherever it was tried, because an inner value has another reader."""
    assert applied.outcome.changes == 0
    assert set(applied.reasons) == {SHARED}


def as_an_input(weights, name, default):
    """The text that declares a weight as an input of the graph; without a default it leaves the weights."""
    shape = ", ".join(map(str, weights[name].shape))
    if not default:
        del weights[name]
    return f", float[{shape}] {name}"
