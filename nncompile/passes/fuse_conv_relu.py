"""Convolution, residual and Relu as one kernel of ONNX Runtime's CUDA provider; for `target="cuda"` only.

Patterns: `Relu(Conv(x))`, `Relu(Conv(x) + z)` and `Relu(z + Conv(x))`.

Algebra: none. `com.microsoft.FusedConv(x, w, b, z, activation="Relu")` is `Relu(Conv(x, w, b) + z)` by its
definition. (ONNX Runtime, docs/ContribOperators.md; contrib_ops/cuda/fused_conv.cc. Its optimiser makes this
operator for the CPU, but for CUDA no longer: pull request 19470.)

What the CUDA kernel needs, and the CPU's, on which a compile is verified, does not ask for:

- float32, and Relu: other dtypes and activations do not load.
- A plane of two axes, and the same padding on both sides: otherwise it computes a larger result and cuts it,
  and the residual is added to the larger one.
- A residual of exactly the result's shape: cuDNN refuses one that it would have to broadcast.
- A bias: without one it allocates zeros in the first run, and a residual would be taken for it.

It has no NHWC form: a session that prefers NHWC would transpose around each of these nodes. cuDNN is told not
to propagate NaN through its Relu. How fast it is on a GPU has not been measured yet.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import given_input, static_shape, window


class _FuseConvRelu(Rule):
    """What the three patterns share; two of them bind the residual `z`."""

    def refusal(self, match: Match) -> str | None:
        conv = match.node("y")
        weight = conv.inputs[1]
        shape, view = static_shape(weight), window(conv)
        if weight is None or shape is None or shape[0] is None or view is None:
            return "the shape of the weight is not known"
        if weight.dtype != ir.DataType.FLOAT:
            return f"the CUDA kernel is for float32, not {str(weight.dtype).lower()}"
        if len(view.kernel) != 2:
            return f"the plane has {len(view.kernel)} axes, not 2"
        if view.same or view.before != view.after:
            return "the padding may differ between two sides"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        conv = match.node("y")
        weight, bias = conv.inputs[1], given_input(conv, 2)
        if bias is None:
            zeros = np.zeros((static_shape(weight) or ())[0] or 0, np.float32)
            bias = op.initializer(ir.tensor(zeros), name=f"{weight.name}_no_bias")  # type: ignore[union-attr]
        inputs = [match["x"], weight, bias, *([match["z"]] if "z" in match.values else [])]
        return op.FusedConv(
            *inputs, **conv.attributes, activation="Relu", _domain="com.microsoft", _version=1
        )


class FuseConvRelu(_FuseConvRelu):
    """`Relu(Conv(x))` to `FusedConv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Relu(op.Conv(x, _allow_other_inputs=True, _outputs=["y"]))


class FuseConvAddRelu(_FuseConvRelu):
    """`Relu(Conv(x) + z)` to `FusedConv(x, z)`."""

    residual_first: ClassVar[bool] = False

    def pattern(self, op: Any, x: ir.Value, z: ir.Value) -> Any:
        y = op.Conv(x, _allow_other_inputs=True, _outputs=["y"])
        return op.Relu(op.Add(*((z, y) if self.residual_first else (y, z))))

    def refusal(self, match: Match) -> str | None:
        if match["z"] is match["y"]:
            return "the convolution is added to itself"
        if not _certainly_same(match["z"].shape, match["y"].shape):
            return f"the shapes {match['y'].shape} and {match['z'].shape} of the sum may differ"
        return super().refusal(match)


class FuseAddConvRelu(FuseConvAddRelu):
    """`Relu(z + Conv(x))` to `FusedConv(x, z)`."""

    residual_first = True


def _certainly_same(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Whether two shapes are equal whatever the symbols in them stand for."""
    if one is None or other is None or one.has_unknown_dim() or other.has_unknown_dim():
        return False
    return one == other


FUSE_CONV_RELU = Pass(
    "fuse-conv-relu",
    "convolution, residual and Relu as one kernel of ONNX Runtime on CUDA",
    apply_rules(FuseConvRelu, FuseConvAddRelu, FuseAddConvRelu),
    targets=("cuda",),
)
