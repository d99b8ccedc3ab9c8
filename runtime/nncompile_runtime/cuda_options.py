"""A plan's CUDA fields as options of ONNX Runtime's CUDA provider, and the graphs that they do not suit.

Names and values are those of https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
Nothing but checked fields of a plan goes in: the provider takes most nonsense silently.
"""

from __future__ import annotations

from collections.abc import Mapping

from nncompile_runtime.plan import Plan

# Precisions in which float32 factors may be rounded to 10 bits, which is what float16 has; bfloat16 has 7.
# float16 needs it: without use_tf32 the provider leaves no convolution, float16's included, an engine on
# tensor cores where there is another one (core/providers/cuda/nn/conv.cc).
_TF32 = ("tf32", "float16", "bfloat16")
_FUSED_CONV = "FusedConv"  # fuse-conv-relu (nncompile/passes) makes it, for this provider
_TRANSPOSED = "ConvTranspose"
_CONTROL_FLOW = ("If", "Loop", "Scan")


def provider_options(
    plan: Plan, precision: str, stream: int | None = None, *, capture: bool = False
) -> dict[str, str]:
    """Options of the CUDA provider; its own default for float32 is to round factors to 10 bits (TF32).

    Args:
        plan: How the session runs.
        precision: The manifest's.
        stream: Handle of the CUDA stream to run on; None lets the provider make its own.
        capture: Whether the session captures its runs as a CUDA graph; `plan.cuda_graph` alone does not,
            because the session of all other calls has the same plan.
    """
    options = {
        "device_id": str(plan.device_id),
        "use_tf32": "1" if precision in _TF32 else "0",
        "cudnn_conv_algo_search": plan.cudnn_search.upper(),
        "cudnn_conv_use_max_workspace": "1" if plan.cudnn_max_workspace else "0",
        "arena_extend_strategy": plan.arena_strategy,
        "prefer_nhwc": "1" if plan.channels_last else "0",
        "fuse_conv_bias": "1" if plan.fuse_bias else "0",
    }
    if plan.gpu_memory_limit is not None:
        options["gpu_mem_limit"] = str(plan.gpu_memory_limit)
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    if capture:
        options["enable_cuda_graph"] = "1"
    return options


def channels_last(precision: str, operators: Mapping[str, int]) -> bool:
    """Whether a graph's convolutions run in NHWC where nothing was measured: those of float16 do.

    Args:
        precision: The manifest's.
        operators: How often the graph uses each operator.
    """
    return precision == "float16" and "Conv" in operators and _FUSED_CONV not in operators


def unsuited(
    plan: Plan, operators: Mapping[str, int], precision: str, *, in_bfloat16: bool = False
) -> str | None:
    """Why a plan does not suit a graph; None where it does.

    Args:
        plan: How to run it.
        operators: How often the graph uses each operator.
        precision: The manifest's.
        in_bfloat16: Whether the graph computes in it.
    """
    if plan.channels_last and _FUSED_CONV in operators:
        return f"channels_last=True does not suit a graph with {_FUSED_CONV}, which has no NHWC kernel"
    if plan.channels_last and in_bfloat16 and "Conv" in operators:
        return "channels_last=True does not suit convolutions of bfloat16, which have no NHWC kernel"
    if plan.fuse_bias and precision == "float32":  # conv.cc tries again with TF32, and says nothing
        return "fuse_bias=True does not suit float32: what cuDNN cannot fuse without TF32 would run in TF32"
    if plan.fuse_bias and _TRANSPOSED in operators:
        return f"fuse_bias=True does not suit a graph with {_TRANSPOSED}, which fails with it"
    branching = [name for name in _CONTROL_FLOW if name in operators]
    if plan.cuda_graph and branching:
        return f"cuda_graph=True does not suit a graph with {branching[0]}: a captured graph cannot branch"
    return None
