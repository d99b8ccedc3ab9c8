"""nn.Module -> CapturedModel: torch.export, then PyTorch's dynamo ONNX exporter with its optimiser off."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch._dynamo.convert_frame import compile_lock
from torch.utils import _pytree as pytree

from nncompile.bfloat16 import widen
from nncompile.capture.containers import known_containers
from nncompile.capture.errors import explain, watching_for_fixed_sizes
from nncompile.capture.example import Example, prepare
from nncompile.capture.exporter import to_onnx
from nncompile.capture.free_axes import BATCH, FreeInput, batch_elsewhere, free_inputs
from nncompile.capture.free_sizes import free_sizes
from nncompile.capture.indices import without_negative_indices
from nncompile.capture.keywords import collected_keywords_named
from nncompile.capture.lowerings import lowered
from nncompile.capture.precision import narrowed
from nncompile.capture.signature import input_names, name_and_describe, take_out_constants
from nncompile.capture.substitutions import substituted
from nncompile.capture.traceable import traceable
from nncompile.options import CompileOptions
from nncompile.stages import CapturedModel
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import Target

_SCOPES = "pkg.torch.onnx.name_scopes"
_NO_SCOPE = "_empty_nn_module_stack"  # what torch.export writes for nodes of no module


def capture(
    module: torch.nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    options: CompileOptions,
) -> CapturedModel:
    """Turn a module in evaluation mode into a graph.

    Args:
        module: Left as it is, except that lazy layers are materialised.
        example_inputs: A tensor, or a tuple of positional inputs.
        example_kwargs: Keyword inputs.
        options: `dynamic_batch`, `dynamic_axes`, `precision` and `target` are read.

    Raises:
        CaptureError: The module cannot be captured; the message names the line of its code.
    """
    # The state of torch.export and TorchDynamo is the process's: two at once fail, or leave flags set.
    with compile_lock, known_containers() as make_known:
        module, example = prepare(
            module, example_inputs, example_kwargs, make_known, dynamic_batch=options.dynamic_batch
        )
        inputs = free_inputs(options.dynamic_axes, input_names(example), example)
        narrow = narrowed(module, example.args, example.kwargs, options.precision)
        return _captured(narrow, example, inputs, module, options.target)


def _captured(
    module: torch.nn.Module,
    example: Example,
    inputs: tuple[FreeInput, ...],
    reference: torch.nn.Module,
    target: Target,
) -> CapturedModel:
    traced = traceable(module)
    with (
        _quiet(),
        substituted(traced),
        collected_keywords_named(traced, example.kwargs),
        torch.no_grad(),
        watching_for_fixed_sizes() as witness,
    ):
        try:
            shapes = _dynamic_shapes(example, inputs)
            program = torch.export.export(
                traced, example.args, example.kwargs, dynamic_shapes=shapes, strict=False
            )
            program = lowered(program, target)
            without_negative_indices(program)
            returned = take_out_constants(program)
            model = to_onnx(program)
            free = free_sizes(program, example, inputs, reference, witness)
        except CaptureError:
            raise
        except Exception as error:
            raise explain(error, witness, batch_elsewhere(inputs, example)) from error
    _keep_outputs_apart(model.graph)
    signature = name_and_describe(returned, model, example, free)
    widen(model.graph)
    _name_nodes_after_modules(model.graph)
    model.producer_name, model.producer_version = "nncompile", None
    return CapturedModel(type(module).__name__, model, signature, module, example.tensors, reference)


def _dynamic_shapes(example: Example, inputs: Sequence[FreeInput]) -> Any:
    """Dimension 0 of every input: `batch` where it has the batch's size, free if possible elsewhere.

    And what the user wants free, which `free_sizes` looks at afterwards: where that were demanded here, the
    error would not tell where it was fixed.
    """
    if example.batch is None and not any(given.axes for given in inputs):
        return None
    batch: Any = torch.export.Dim(BATCH)
    awaiting = iter(inputs)

    def builtin(value: Any) -> bool:
        return pytree._get_node_type(value) in pytree.BUILTIN_TYPES

    def of(value: Any) -> Any:
        registered = pytree.SUPPORTED_NODES.get(type(value))
        if registered is not None and not builtin(value):  # torch.export wants such a class as a flat list
            return [pytree.tree_map(of, part, is_leaf=other) for part in registered.flatten_fn(value)[0]]
        if not isinstance(value, torch.Tensor):
            return None
        given = next(awaiting)
        free = dict.fromkeys(given.axes, torch.export.Dim.AUTO) | dict.fromkeys(given.batch, batch)
        if example.batch is not None and value.dim():
            free[0] = batch if value.shape[0] == example.batch else torch.export.Dim.AUTO
        return free or None

    def other(value: Any) -> bool:
        return not builtin(value)

    return tuple(pytree.tree_map(of, value, is_leaf=other) for value in example.arguments.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings about its own internals, and the graphs it prints, from the user."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "torch._dynamo")
    ]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _keep_outputs_apart(graph: ir.Graph) -> None:
    """Give each graph output a value of its own: not an input, a weight, or another output."""
    seen: set[int] = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for i, value in enumerate(graph.outputs):
        if id(value) in seen:
            node = ir.node("Identity", [value], name=f"output_{i}")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        seen.add(id(graph.outputs[i]))


def _name_nodes_after_modules(graph: ir.Graph) -> None:
    """Name each node `module.path/Operator`, and drop the exporter's metadata (it holds file paths)."""
    used: dict[str, int] = {}
    for node in graph.all_nodes():
        scope = _innermost_scope(node.metadata_props.get(_SCOPES, ""))
        name = f"{scope}/{node.op_type}" if scope else node.op_type
        used[name] = used.get(name, 0) + 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None


def _innermost_scope(scopes: str) -> str:
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    return next((name for name in reversed(names[:-1]) if name and not name.startswith(_NO_SCOPE)), "")
