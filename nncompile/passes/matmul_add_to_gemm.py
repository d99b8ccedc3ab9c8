"""MatMul and the Add behind it as one Gemm.

Pattern: `Add(MatMul(a, b), c)` or `Add(c, MatMul(a, b))` with a and b of rank 2.

Algebra: `Gemm(a, b, c) = a @ b + c` by definition. Gemm broadcasts c to the product's shape (M, N) and
never the product to c's: where c would enlarge the result, the rule must not fire.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import GEMM_DTYPES, static_shape


class MatMulAddToGemm(Rule):
    """`Add(MatMul(a, b), c)` to `Gemm(a, b, c)`."""

    def pattern(self, op: Any, a: ir.Value, b: ir.Value, c: ir.Value) -> Any:
        return op.Add(op.MatMul(a, b), c)

    def refusal(self, match: Match) -> str | None:
        left, right, added = (static_shape(match[name]) for name in "abc")
        if left is None or right is None or added is None:
            return "a shape is not known"
        if len(left) != 2 or len(right) != 2:
            return f"the factors have rank {len(left)} and {len(right)}, not 2"
        if match["a"].dtype not in GEMM_DTYPES:
            return f"ONNX Runtime has no Gemm of {str(match['a'].dtype).lower()}"
        rows, columns = left[0], right[1]
        if len(added) > 2:
            return f"the added tensor has rank {len(added)}"
        if added and added[-1] != 1 and (added[-1] is None or added[-1] != columns):
            return f"the added tensor has {added[-1]} columns, the product {columns}"
        if len(added) == 2 and added[0] != 1 and (added[0] is None or added[0] != rows):
            return "the added tensor may have more rows than the product"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Gemm(match["a"], match["b"], match["c"])


class AddMatMulToGemm(MatMulAddToGemm):
    """`Add(c, MatMul(a, b))` to `Gemm(a, b, c)`."""

    def pattern(self, op: Any, a: ir.Value, b: ir.Value, c: ir.Value) -> Any:
        return op.Add(c, op.MatMul(a, b))


MATMUL_ADD_TO_GEMM = Pass(
    "matmul-add-to-gemm",
    "MatMul and the Add behind it as one Gemm",
    apply_rules(MatMulAddToGemm, AddMatMulToGemm),
)
