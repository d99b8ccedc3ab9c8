"""The example inputs: checked on the module itself, and widened so that the batch is not frozen."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from nncompile.capture.errors import user_location
from nncompile.capture.stand_ins import check_quantization
from nncompile.copies import copied
from nncompile_runtime.errors import CaptureError


@dataclass(frozen=True)
class Example:
    """How the module is called for capture.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        arguments: The same by parameter name; what `**kwargs` collected stands by its own names.
        variadic: The parameter that collected positional inputs (`*args`), as a tuple; or None.
        keyword_only: Names that a caller cannot give by position.
        batch: Size of the dynamic batch in these inputs; None where it is fixed.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    variadic: str | None
    keyword_only: frozenset[str]
    batch: int | None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors among the inputs, flat, in the order of the graph's inputs."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return tuple(x for x in leaves if isinstance(x, torch.Tensor))

    @property
    def batched(self) -> tuple[int, ...]:
        """The numbers of the tensors whose dimension 0 is the dynamic batch."""
        if self.batch is None:
            return ()
        return tuple(i for i, x in enumerate(self.tensors) if x.dim() and x.shape[0] == self.batch)


def prepare(
    module: torch.nn.Module,
    inputs: Any,
    kwargs: Mapping[str, Any] | None,
    make_known: Callable[[Any], None],
    *,
    dynamic_batch: bool,
) -> tuple[torch.nn.Module, Example]:
    """Bring module and example to the CPU, run the module once, and widen a batch of 1 to 2.

    Running the module materialises lazy layers, and shows an input that does not fit, or a module
    that keeps state, in plain terms before any tracing.

    Args:
        module: In evaluation mode.
        inputs: A tensor, or a tuple of positional inputs.
        kwargs: Keyword inputs.
        make_known: From `known_containers`; is given what goes in and what comes out.
        dynamic_batch: Whether the batch is to take any size.

    Raises:
        CaptureError: It is no module, does not take the example, or changes its own buffers.
    """
    if not isinstance(module, torch.nn.Module):
        is_class = isinstance(module, type)
        got = f"the class {module.__name__}" if is_class else type(module).__name__
        hint = "Create an instance first." if is_class else "Pass an instance of one."
        raise CaptureError(f"compile() takes a torch.nn.Module, got {got}.", remedy=hint)
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            "A module of TorchScript cannot be captured.", remedy="Pass the nn.Module that it was made from."
        )
    module = _on_cpu(_uncompiled(module))
    check_quantization(module)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise CaptureError(
            f"example_kwargs is of type {type(kwargs).__name__}.", remedy="Give a dict of inputs by name."
        )
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    named: dict[str, Any] = dict(kwargs or {})
    make_known((args, named))
    args, named = pytree.tree_map(_as_cpu_tensor, (args, named))
    make_known(_run_once(module, args, named))
    named = _in_the_order_of_forward(module, named)
    batch = _batch_size(args, named) if dynamic_batch else None
    if batch is not None and batch < 2:
        # torch.export treats sizes 0 and 1 as constants (docs: "0/1 specialization").
        args, named = pytree.tree_map(lambda x: _widen(x, batch), (args, named))
        batch = 2
    return module, _bind(module, args, named, batch)


def _in_the_order_of_forward(module: torch.nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword inputs as `forward` lists them; torch.export keeps the order in which they are given."""
    order = list(inspect.signature(module.forward).parameters)
    return dict(
        sorted(kwargs.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )


def _uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """What torch.compile wrapped; its own compiler has no say here."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # loaded where torch.compile was called
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return cast(torch.nn.Module, module._orig_mod)
    return module


def _on_cpu(module: torch.nn.Module) -> torch.nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    if any(tensor.device.type == "meta" for tensor in tensors):
        raise CaptureError("The module has weights without values.", remedy="Load its weights first.")
    return copied(module).cpu()


def _as_cpu_tensor(value: Any) -> Any:
    if type(value).__module__ == "numpy":
        return torch.as_tensor(value)
    if not isinstance(value, torch.Tensor):
        return value
    eighths = value.is_floating_point() and value.dtype.itemsize == 1  # float8: PyTorch itself adds none
    if value.is_complex() or value.layout is not torch.strided or value.is_quantized or eighths:
        raise CaptureError(
            f"An example input is a {value.layout} tensor of {value.dtype}, which numpy or ONNX cannot hold.",
            remedy="Give dense real tensors; convert inside forward, for example with torch.view_as_complex.",
        )
    return value.detach().cpu()


def _run_once(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    before = _buffers(module)
    args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (args, kwargs))
    try:
        with torch.no_grad():
            result = module(*args, **kwargs)
    except Exception as error:
        _restore(before)
        where = user_location(error)
        raise CaptureError(
            f"The module fails on the example input in eager PyTorch{where}: {_first_line(error)}",
            remedy=_remedy(module, args, kwargs),
        ) from error
    changed = _restore(before)
    if changed:
        raise CaptureError(
            f"forward changes the module's buffer {', '.join(map(repr, changed))}; "
            "a compiled model keeps no state.",
            remedy="Take the state as an input and return the new one as an output.",
        )
    return result


def _remedy(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What to give instead of an example on which the module fails: the likeliest first."""
    if len(args) == 1 and isinstance(args[0], Mapping) and not kwargs:
        return "Give inputs by name as example_kwargs, not as one dict."
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError:
        return (
            f"forward takes {_parameters(module)}: give an example input for each that has no default, "
            "and for no other."
        )
    given = {x.dtype for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
    embeds = any(isinstance(part, (torch.nn.Embedding, torch.nn.EmbeddingBag)) for part in module.modules())
    if embeds and not any(not dtype.is_floating_point for dtype in given):
        return "An embedding takes integers: give an example of int64 (on the command line: 1x128:int64)."
    own = {weight.dtype for weight in module.parameters() if weight.is_floating_point()}
    if len(own) == 1 and not own & given and any(dtype.is_floating_point for dtype in given):
        (dtype,) = (str(kind).removeprefix("torch.") for kind in own)
        return f"The weights are {dtype}: give an example of {dtype} (1x10:{dtype}), or use module.float()."
    return "Give example inputs of the shapes and dtypes that forward takes."


def _parameters(module: torch.nn.Module) -> str:
    return f"({', '.join(inspect.signature(module.forward).parameters)})"


@dataclass(frozen=True)
class _Buffer:
    name: str
    owner: torch.nn.Module
    key: str
    tensor: torch.Tensor
    value: torch.Tensor


def _buffers(module: torch.nn.Module) -> list[_Buffer]:
    return [
        _Buffer(f"{prefix}.{key}" if prefix else key, owner, key, tensor, tensor.clone())
        for prefix, owner in module.named_modules()
        for key, tensor in owner.named_buffers(recurse=False)
        if not _is_lazy(tensor)
    ]


def _restore(buffers: list[_Buffer]) -> list[str]:
    """Give the module back the buffers it had; the names of those that had changed."""
    changed = []
    for buffer in buffers:
        now = getattr(buffer.owner, buffer.key, None)
        if now is not buffer.tensor or not torch.equal(torch.nan_to_num(buffer.value), torch.nan_to_num(now)):
            changed.append(buffer.name)
            buffer.tensor.data = buffer.value
            setattr(buffer.owner, buffer.key, buffer.tensor)
    return changed


def _is_lazy(tensor: torch.Tensor) -> bool:
    return bool(torch.nn.parameter.is_lazy(tensor))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:400] if lines else type(error).__name__


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Dimension 0 of the first tensor that has one."""
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.dim():
            if leaf.shape[0] == 0:
                raise CaptureError(
                    "The example's batch is empty.", remedy="Give an example of at least one row."
                )
            return int(leaf.shape[0])
    return None


def _widen(value: Any, batch: int | None) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch:
        return torch.cat([value, value])
    return value


def _bind(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int | None
) -> Example:
    """Name the inputs after the parameters of `forward`."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    arguments: dict[str, Any] = {}
    variadic = None
    by_name: set[str] = set()
    gap = False  # a parameter that the example left out: those behind it cannot be given by position
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(bound.arguments.get(name, {}))
            by_name.update(bound.arguments.get(name, {}))
        elif name not in bound.arguments:
            gap = gap or parameter.kind is not parameter.VAR_POSITIONAL
        else:
            arguments[name] = bound.arguments[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                variadic = name
            if gap or parameter.kind is parameter.KEYWORD_ONLY:
                by_name.add(name)
    return Example(args, kwargs, arguments, variadic, frozenset(by_name), batch)
