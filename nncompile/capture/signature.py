"""The signature of an exported program: names, nesting, dtypes and shapes of what goes in and out."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

import onnx_ir as ir
import torch
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.utils import _pytree as pytree

from nncompile.capture.example import Example
from nncompile.capture.free_axes import BATCH
from nncompile.capture.free_sizes import Free
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import Argument, DType, Signature, TensorSpec
from nncompile_runtime.structure import (
    ConstantLeaf,
    FieldsOf,
    MappingOf,
    RecordOf,
    SequenceOf,
    Structure,
    TensorLeaf,
    leaves,
)


class _Tensor:
    """Stands for tensor number `index` where a nest of values is rebuilt."""

    def __init__(self, index: int) -> None:
        self.index = index


def take_out_constants(program: torch.export.ExportedProgram) -> Any:
    """What the program returns, tensors marked; its constants become None, which alone can be exported."""
    outputs = [s for s in program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    returned = pytree.tree_unflatten(_mark([s.arg for s in outputs]), program.call_spec.out_spec)
    for spec in outputs:
        if isinstance(spec.arg, ConstantArgument):
            spec.arg = ConstantArgument(spec.arg.name, None)
    node = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    node.args = (tuple(x if isinstance(x, torch.fx.Node) else None for x in node.args[0]),)
    return returned


def input_names(example: Example) -> list[str]:
    """What the graph's inputs are called, in their order; known before there is a graph.

    Raises:
        CaptureError: An input is of a type that the runtime cannot hold.
    """
    paths = [
        path for argument in _arguments(example) for path, _ in leaves(argument.structure, argument.name)
    ]
    return _unlike_names(paths, "input", ())


def name_and_describe(returned: Any, model: ir.Model, example: Example, free: Free) -> Signature:
    """Name the graph's inputs and outputs after `forward`'s, and describe them.

    Args:
        returned: What `forward` returns, tensors marked, from `take_out_constants`.
        model: The graph.
        example: How the module was called.
        free: What is free in it besides the batch.

    Raises:
        CaptureError: An input or output is of a type or dtype that the runtime cannot hold.
    """
    result = _structure(returned, "the output")
    if not any(leaves(result)):
        raise CaptureError(
            "forward returns no tensor.", remedy="Return what the model computes; None and {} hold nothing."
        )
    graph = model.graph
    names = input_names(example)
    _rename(graph.inputs, names)
    _rename(graph.outputs, _unlike_names([path for path, _ in leaves(result)], "output", names))
    _free_the_names(graph)
    _name_symbols(graph, free)
    return Signature(
        arguments=_arguments(example),
        inputs=tuple(_spec(value) for value in graph.inputs),
        outputs=tuple(_spec(value) for value in graph.outputs),
        result=result,
        batch=BATCH if example.batch is not None else None,
        sizes=dict(free.sizes),
    )


def _arguments(example: Example) -> tuple[Argument, ...]:
    """What `forward` takes, each of its `*args` an argument of its own, tensors numbered as in the graph."""
    count = itertools.count()
    marked = pytree.tree_map_only(torch.Tensor, lambda _: _Tensor(next(count)), example.arguments)
    values: dict[str, Any] = {}
    for name, value in marked.items():
        collected = name == example.variadic
        values |= {f"{name}_{i}": part for i, part in enumerate(value)} if collected else {name: value}
    return tuple(
        Argument(name=name, structure=_structure(value, name), keyword_only=name in example.keyword_only)
        for name, value in values.items()
    )


def _mark(specs: list[Any]) -> list[Any]:
    marked: list[Any] = []
    tensors = 0
    for spec in specs:
        if isinstance(spec, ConstantArgument):
            marked.append(spec.value)
        else:
            marked.append(_Tensor(tensors))
            tensors += 1
    return marked


def _structure(value: Any, path: str) -> Structure:
    if isinstance(value, _Tensor):
        return TensorLeaf(index=value.index)
    if value is None or isinstance(value, (bool, int, float, str)):
        return ConstantLeaf(value=value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = tuple((f, _structure(getattr(value, f), f"{path}.{f}")) for f in value._fields)
        return RecordOf(type_name=type(value).__name__, entries=entries)
    if isinstance(value, dict) and dataclasses.is_dataclass(value):
        present = tuple((key, _structure(value[key], f"{path}.{key}")) for key in value)
        absent = tuple(f.name for f in dataclasses.fields(value) if f.name not in value)
        return FieldsOf(entries=present, absent=absent)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        entries = tuple((f, _structure(getattr(value, f), f"{path}.{f}")) for f in names)
        return RecordOf(type_name=type(value).__name__, entries=entries)
    if isinstance(value, (tuple, list)):
        items = tuple(_structure(item, f"{path}[{i}]") for i, item in enumerate(value))
        return SequenceOf(kind="tuple" if isinstance(value, tuple) else "list", items=items)
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) and key != "" for key in value):
        return MappingOf(entries=tuple((k, _structure(item, f"{path}[{k!r}]")) for k, item in value.items()))
    raise CaptureError(
        f"{path} is of type {type(value).__name__}, which cannot be rebuilt without Python code.",
        remedy="Use tensors, numbers, strings, None, and tuples, lists, dicts or named tuples of them.",
    )


def _unlike_names(paths: Iterable[str], fallback: str, taken: Collection[str]) -> list[str]:
    """Names after paths, none of them twice: `x`, `state_0`, `logits`; `output` where there is none.

    Args:
        paths: Where each value stands in what `forward` takes or returns.
        fallback: The name of one that has no path.
        taken: Names in use, which these are not to be.
    """
    names: list[str] = []
    for path in paths:
        plain = re.sub(r"\W+", "_", path).strip("_") or fallback
        if plain[0].isdigit():
            plain = f"{fallback}_{plain}"
        name, number = plain, 1
        while name in taken or name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def _rename(values: Iterable[ir.Value], names: Iterable[str]) -> None:
    for value, name in zip(values, names, strict=True):
        value.name = name


def _free_the_names(graph: ir.Graph) -> None:
    """Rename inner values and weights that bear the name of an input or output."""
    public = {id(value) for value in (*graph.inputs, *graph.outputs)}
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    inner = [*graph.initializers.values(), *(out for node in graph.all_nodes() for out in node.outputs)]
    used = taken | {value.name for value in inner}
    for value in inner:
        if id(value) in public or value.name not in taken:
            continue
        number = 1
        while f"{value.name}_{number}" in used:
            number += 1
        used.add(f"{value.name}_{number}")
        value.name = f"{value.name}_{number}"


def _name_symbols(graph: ir.Graph, free: Free) -> None:
    """Rename torch's symbols (`s77`) to `batch` and the names of what else is free, or to their one size."""
    names: dict[str, str] = {}
    for value, axes in zip(graph.inputs, free.axes, strict=True):
        for axis, size in enumerate(value.shape or ()):
            if str(size).isidentifier():
                names.setdefault(str(size), str(axes.get(axis, BATCH)))
    for value in _all_values(graph):
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else _renamed(str(size), names) for size in value.shape]
            value.shape = ir.Shape(sizes)


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(out for node in graph.all_nodes() for out in node.outputs)]


def _renamed(symbol: str, names: Mapping[str, str]) -> str | int | None:
    if symbol in ("", "?", "None"):
        return None
    text = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), symbol)
    return int(text) if text.isdigit() else text


def _spec(value: ir.Value) -> TensorSpec:
    dtype = value.dtype.numpy().name if value.dtype is not None else "unknown"
    if dtype not in get_args(DType):
        raise CaptureError(
            f"{value.name!r} is of dtype {dtype}, which numpy cannot hold.",
            remedy="Cast it inside forward, for example with .float().",
        )
    shape = [
        size if isinstance(size, int) else str(size.value or f"{value.name}_{i}")
        for i, size in enumerate(value.shape or ())
    ]
    return TensorSpec.model_validate({"name": value.name, "dtype": dtype, "shape": tuple(shape)})
