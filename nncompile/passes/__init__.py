"""CapturedModel -> OptimizedModel: the passes, in order, each checked."""

from __future__ import annotations

import time
from collections.abc import Collection

import onnx
import onnx_ir as ir

from nncompile.options import CompileOptions
from nncompile.passes.check import faults, interface
from nncompile.passes.compute_in_bfloat16 import COMPUTE_IN_BFLOAT16
from nncompile.passes.contract import BrokenPassError, Pass, node_count
from nncompile.passes.conv1d_to_conv2d import CONV1D_TO_CONV2D
from nncompile.passes.conv_transpose_to_conv import CONV_TRANSPOSE_TO_CONV
from nncompile.passes.fold_affine import FOLD_AFFINE
from nncompile.passes.fold_batch_norm import FOLD_BATCH_NORM
from nncompile.passes.fold_batch_norm_forward import FOLD_BATCH_NORM_FORWARD
from nncompile.passes.fold_constants import FOLD_CONSTANTS, LIFT_CONSTANTS
from nncompile.passes.fold_into_matmul import FOLD_INTO_MATMUL
from nncompile.passes.fold_padding import FOLD_PADDING
from nncompile.passes.fuse_conv_relu import FUSE_CONV_RELU
from nncompile.passes.fuse_linear_relu import FUSE_LINEAR_RELU
from nncompile.passes.global_average_pool import GLOBAL_AVERAGE_POOL
from nncompile.passes.matmul_add_to_gemm import MATMUL_ADD_TO_GEMM
from nncompile.passes.merge_branches import MERGE_BRANCHES
from nncompile.passes.merge_convolutions import MERGE_CONVOLUTIONS
from nncompile.passes.merge_linear import MERGE_LINEAR
from nncompile.passes.merge_pools import MERGE_POOLS
from nncompile.passes.order_pool_and_activation import ORDER_POOL_AND_ACTIVATION
from nncompile.passes.outline_fused_regions import OUTLINE_FUSED_REGIONS
from nncompile.passes.pool_before_linear import POOL_BEFORE_LINEAR
from nncompile.passes.position_to_gemm import POSITION_TO_GEMM
from nncompile.passes.remove_dead_code import REMOVE_DEAD_CODE
from nncompile.passes.remove_identities import REMOVE_IDENTITIES
from nncompile.passes.serializing import serialize
from nncompile.passes.shuffle_to_gather import SHUFFLE_TO_GATHER
from nncompile.passes.simplify_indexing import SIMPLIFY_INDEXING
from nncompile.passes.simplify_tails import SIMPLIFY_TAILS
from nncompile.passes.split_to_slices import SPLIT_TO_SLICES
from nncompile.passes.static_reshape import STATIC_RESHAPE
from nncompile.passes.swap_last_axes import SWAP_LAST_AXES
from nncompile.stages import CapturedModel, OptimizedModel, PassReport
from nncompile_runtime.container import MAX_FILE_BYTES
from nncompile_runtime.errors import PassError

PIPELINE: tuple[Pass, ...] = (
    # First, so that shapes and weights which the exporter computes are plain constants for all others.
    FOLD_CONSTANTS,
    # After folding, which leaves its results as Constant nodes.
    LIFT_CONSTANTS,
    # Needs nothing of the others, and shows the next pass plain shapes.
    STATIC_RESHAPE,
    # After the constants, from which it reads sizes.
    SWAP_LAST_AXES,
    # Likewise.
    SHUFFLE_TO_GATHER,
    # Before what looks at slices: a part may be the whole.
    SPLIT_TO_SLICES,
    # Turns what does nothing into Identity, which the next pass removes.
    SIMPLIFY_TAILS,
    # Likewise; the gates of squeeze-and-excitation are indexed so.
    SIMPLIFY_INDEXING,
    # Before the fusions: an Identity between two layers hides their pattern.
    REMOVE_IDENTITIES,
    # Before all that looks for a Conv.
    CONV_TRANSPOSE_TO_CONV,
    # Before what makes a MatMul a Gemm: a layer without a bias may get one.
    FOLD_INTO_MATMUL,
    # Before the folds, which know Gemm but not MatMul and Add.
    MATMUL_ADD_TO_GEMM,
    FOLD_BATCH_NORM,
    # After batch norm: Conv, BatchNormalization, Mul (layer scale) is the common order.
    FOLD_AFFINE,
    # After batch norm, which may stand between Pad and Conv; before what asks whether a Conv pads.
    FOLD_PADDING,
    GLOBAL_AVERAGE_POOL,
    # After the folds, which remove what stands between layer and pool; before those that look at two layers.
    POOL_BEFORE_LINEAR,
    # After what brings convolutions behind a global pool; before what merges linear layers.
    POSITION_TO_GEMM,
    # After the folds, which remove what stands between two linear layers.
    MERGE_LINEAR,
    # After the folds, which leave of each branch its convolution, with Pad as its padding.
    MERGE_BRANCHES,
    # After the branches, of which one may be two convolutions, and which may be one of the two.
    MERGE_CONVOLUTIONS,
    # After the two that change pools: with padding, or over the whole plane, there is nothing to merge.
    MERGE_POOLS,
    # After the folds, so that the convolution stands directly before the pool.
    ORDER_POOL_AND_ACTIVATION,
    # After the folds backward, where padding does not matter, and after what moves pools out of the way.
    FOLD_BATCH_NORM_FORWARD,
    # After all that looks for neighbours of a convolution or a pool: a Squeeze would hide them.
    CONV1D_TO_CONV2D,
    # After all rewrites: drops what they left unused.
    REMOVE_DEAD_CODE,
    # After all rewrites, which know float32.
    COMPUTE_IN_BFLOAT16,
    # After all that looks for a Conv: its operator is outside the ONNX standard, and no other pass knows it.
    FUSE_CONV_RELU,
    # After the convolutions, whose FusedConv decides which plans the file can have at all.
    FUSE_LINEAR_RELU,
    # Last: no other pass looks into a region, and its program must not go stale.
    OUTLINE_FUSED_REGIONS,
)


def pass_names() -> tuple[str, ...]:
    """The names of all passes, in the order in which they run."""
    return tuple(step.name for step in PIPELINE)


def selected(options: CompileOptions) -> tuple[Pass, ...]:
    """The passes that the options ask for, in pipeline order.

    Raises:
        PassError: A name is not a pass, or one asked for is not for the target or precision.
    """
    for name in (*(options.passes or ()), *options.disabled_passes):
        if name not in pass_names():
            raise PassError(
                f"There is no pass {name!r}.", remedy=f"The passes are {', '.join(pass_names())}."
            )
    for step in PIPELINE:
        for what, wanted, offered in (
            ("target", options.target, step.targets),
            ("precision", options.precision, step.precisions),
        ):
            if step.name in (options.passes or ()) and wanted not in offered:
                raise PassError(
                    f"Pass {step.name!r} is not for {what}={wanted!r}.",
                    remedy=f"Compile with {what}={offered[0]!r}, or leave it out.",
                )
    return tuple(
        step.fitted(options)
        for step in PIPELINE
        if options.target in step.targets
        and options.precision in step.precisions
        and (options.passes is None or step.name in options.passes)
        and step.name not in options.disabled_passes
    )


def optimize(
    captured: CapturedModel, steps: Collection[Pass], skip: Collection[str] = frozenset()
) -> OptimizedModel:
    """Run passes on a copy of the captured graph and serialise the result.

    Args:
        captured: Its graph stays as it is.
        steps: The passes, in order.
        skip: Names of passes to leave out.

    Raises:
        BrokenPassError: A pass raised or left the graph malformed; its `name` says which.
        PassError: The result is larger than one ONNX file can be.
    """
    model = captured.graph.clone()
    reports = tuple(_run(step, model) for step in steps if step.name not in skip)
    return OptimizedModel(captured, _serialize(model), reports)


def _run(step: Pass, model: ir.Model) -> PassReport:
    expected, before, start = interface(model), node_count(model), time.perf_counter()
    try:
        outcome = step.run(model)
    except Exception as error:
        raise BrokenPassError(step.name, f"failed: {type(error).__name__}: {error}") from error
    for fault in faults(model, expected):
        raise BrokenPassError(step.name, fault)
    seconds, after = time.perf_counter() - start, node_count(model)
    return PassReport(step.name, outcome.changes, before, after, seconds, outcome.refusals, outcome.firings)


def _serialize(model: ir.Model) -> bytes:
    try:
        data = serialize(model, MAX_FILE_BYTES - 2**24)
    except ValueError as error:  # protobuf's own limit of 2 GiB
        raise _too_large() from error
    if data is None:
        raise _too_large()
    onnx.checker.check_model(data)
    return data


def _too_large() -> PassError:
    return PassError(
        "The model is larger than the 2 GiB that one ONNX file holds.",
        remedy="Cast it to float16 before compiling: module.half().",
    )
