"""What several passes make of one graph, each opening the way for the next."""

import onnx_ir as ir
import pytest

from nncompile.options import CompileOptions
from nncompile.passes import selected
from nncompile.passes.contract import Outcome, Pass

NORM = "BatchNormalization({}, scale, shift, mean, var)"
POOL = "MaxPool<kernel_shape=[2, 2], strides=[2, 2]>"


def run(model: ir.Model) -> Outcome:
    options = CompileOptions(disabled_passes=("outline-fused-regions",))
    return Outcome(sum(step.run(model).changes for step in selected(options)))


EVERYTHING = Pass("everything", "all passes that rewrite, in order", run)


@pytest.mark.parametrize(
    ("nodes", "result", "shapes", "operators"),
    [
        (
            f"c = Conv(x, w) r = Relu(c) h = {NORM.format('r')} p = {POOL}(h) f = Flatten(p) y = Gemm(f, u)",
            "n, 5",
            {"w": (4, 3, 3, 3), "u": (16, 5)},
            ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"],
        ),
        (
            f"c = Conv(x, w) r = Relu(c) h = {NORM.format('r')} p = GlobalAveragePool(h) "
            "f = Flatten(p) y = Gemm(f, u)",
            "n, 5",
            {"w": (4, 3, 3, 3), "u": (4, 5)},
            ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"],
        ),
        (
            "c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, u)",
            "n, 5",
            {"w": (10, 3, 1, 1), "u": (10, 5)},
            ["GlobalAveragePool", "Flatten", "Gemm"],
        ),
        (
            f"g = Flatten(x) a = MatMul(g, w) h = {NORM.format('a')} y = MatMul(h, u)",
            "n, 5",
            {"w": (108, 4), "u": (4, 5)},
            ["Flatten", "Gemm", "MatMul"],
        ),
        (
            f"c = Conv(x, w) p = {POOL}(c) f = Flatten(p) r = Relu(f) y = Gemm(r, u)",
            "n, 5",
            {"w": (4, 3, 3, 3), "u": (16, 5)},
            ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"],
        ),
    ],
)
def test_together(apply, random, nodes, result, shapes, operators):
    weights = {name: (random.standard_normal(shape) / 3).astype("f4") for name, shape in shapes.items()}
    if "scale" in nodes:
        weights |= {name: random.standard_normal(4).astype("f4") for name in ("shift", "mean")}
        weights |= {name: random.uniform(0.5, 2, 4).astype("f4") for name in ("scale", "var")}
    text = f"g (float[n, 3, 6, 6] x) => (float[{result}] y) {{ {nodes} }}"
    assert apply(EVERYTHING, text, weights).operators == operators
