"""One NaN or infinite element: what a pass may make of it, at each place of an input.

docs/architecture.md, "NaN and infinity", says why the passes in REGROUPING may do more than the others.
"""

import numpy as np
import pytest
from rewrites import statistics

from nncompile.passes.conv1d_to_conv2d import CONV1D_TO_CONV2D
from nncompile.passes.conv_transpose_to_conv import CONV_TRANSPOSE_TO_CONV
from nncompile.passes.fold_affine import FOLD_AFFINE
from nncompile.passes.fold_batch_norm import FOLD_BATCH_NORM
from nncompile.passes.fold_batch_norm_forward import FOLD_BATCH_NORM_FORWARD
from nncompile.passes.fold_into_matmul import FOLD_INTO_MATMUL
from nncompile.passes.fold_padding import FOLD_PADDING
from nncompile.passes.global_average_pool import GLOBAL_AVERAGE_POOL
from nncompile.passes.matmul_add_to_gemm import MATMUL_ADD_TO_GEMM
from nncompile.passes.merge_branches import MERGE_BRANCHES
from nncompile.passes.merge_convolutions import MERGE_CONVOLUTIONS
from nncompile.passes.merge_linear import MERGE_LINEAR
from nncompile.passes.pool_before_linear import POOL_BEFORE_LINEAR
from nncompile.passes.position_to_gemm import POSITION_TO_GEMM

SPECIAL = (np.nan, np.inf, -np.inf)
NORM = "scale, shift, mean, var"
WIDE = "<pads=[1, 1, 1, 1]>"
ROW, PLANE, LINE = "n, 4", "n, 4, 5, 6", "n, 16, 9"

# Pass -> the shape of x, what is made of it, and the weights by shape.
EXACT = {
    CONV1D_TO_CONV2D: (LINE, "y = Conv<pads=[1, 1]>(x, w, b)", {"w": (16, 16, 3), "b": (16,)}),
    CONV_TRANSPOSE_TO_CONV: (PLANE, "y = ConvTranspose(x, w)", {"w": (4, 16, 2, 3)}),
    FOLD_AFFINE: (PLANE, "h = Conv(x, w) y = Mul(h, f)", {"w": (4, 4, 3, 3), "f": (4, 1, 1)}),
    FOLD_BATCH_NORM: (PLANE, f"h = Conv(x, w) y = BatchNormalization(h, {NORM})", {"w": (4, 4, 3, 3)}),
    FOLD_BATCH_NORM_FORWARD: (
        PLANE,
        f"h = BatchNormalization(x, {NORM}) y = Conv(h, w)",
        {"w": (4, 4, 3, 3)},
    ),
    FOLD_INTO_MATMUL: (ROW, "h = MatMul(x, w) y = Mul(h, f)", {"w": (4, 4), "f": (4,)}),
    FOLD_PADDING: (PLANE, "h = Pad(x, pads) y = Conv(h, w)", {"w": (4, 4, 3, 3)}),
    GLOBAL_AVERAGE_POOL: (PLANE, "y = ReduceMean(x, axes)", {}),
    MATMUL_ADD_TO_GEMM: (ROW, "h = MatMul(x, w) y = Add(h, f)", {"w": (4, 4), "f": (4,)}),
    POOL_BEFORE_LINEAR: (
        PLANE,
        "h = Conv(x, w) y = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(h)",
        {"w": (6, 4, 1, 1)},
    ),
    POSITION_TO_GEMM: ("n, 4, 1, 1", "h = Conv(x, w, f) y = Flatten(h)", {"w": (6, 4, 1, 1), "f": (6,)}),
}
REGROUPING = {
    MERGE_BRANCHES: (
        PLANE,
        f"a = Conv{WIDE}(x, v) b = Conv(x, w) y = Add(a, b)",
        {"v": (4, 4, 3, 3), "w": (4, 4, 1, 1)},
    ),
    MERGE_CONVOLUTIONS: (
        PLANE,
        "h = Conv(x, v) y = Conv(h, w)",
        {"v": (9, 4, 1, 1), "w": (2, 9, 3, 3)},
    ),
    MERGE_LINEAR: (ROW, "h = Gemm(x, v) y = Gemm(h, w)", {"v": (4, 6), "w": (6, 3)}),
}


@pytest.fixture
def in_each_place(apply, random, answers):
    """Answers before and after a pass, for each place of a special number in the first sample."""

    def run(step, case, special):
        shape, nodes, shapes = case
        weights = {name: random.standard_normal(size).astype("f4") for name, size in shapes.items()}
        weights |= statistics(random, 4) | {"pads": np.array([0, 0, 1, 1] * 2), "axes": np.array([2, 3])}
        rank = {"Flatten": 2}.get(nodes.rpartition("= ")[2].partition("(")[0], shape.count(",") + 1)
        text = f"g (float[{shape}] x) => (float[{', '.join(f'd{i}' for i in range(rank))}] y) {{ {nodes} }}"
        applied = apply(step, text, weights)
        assert applied.outcome.changes > 0
        sizes = [2, *map(int, shape.split(", ")[1:])]
        for place in range(int(np.prod(sizes[1:]))):
            x = random.standard_normal(sizes).astype("f4")
            x[0].reshape(-1)[place] = special
            yield tuple(answers(model, {"x": x})[0] for model in (applied.before, applied.after))

    return run


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("step", EXACT, ids=lambda step: step.name)
def test_it_goes_where_it_went(in_each_place, step, special):
    seen = 0
    for before, after in in_each_place(step, EXACT[step], special):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
        seen += np.count_nonzero(~np.isfinite(before))
    assert seen


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("step", REGROUPING, ids=lambda step: step.name)
def test_only_infinities_that_cancelled_may_no_longer(in_each_place, step, special):
    regrouped = 0
    for before, after in in_each_place(step, REGROUPING[step], special):
        cancelled = np.isnan(before) & np.isinf(after)
        regrouped += np.count_nonzero(cancelled)
        np.testing.assert_allclose(after[~cancelled], before[~cancelled], rtol=1e-4, atol=1e-5)
    assert bool(regrouped) == np.isinf(special)
