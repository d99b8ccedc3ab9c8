"""A copy of a module that torch.export can trace, where it cannot trace the module itself.

Parametrised weights become plain ones: in evaluation mode they are constants, and some are computed by
operators that ONNX lacks (a matrix exponential, a Householder product).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from nncompile.capture.quantized import IN_GRAPHS
from nncompile.capture.stand_ins import STAND_INS
from nncompile.copies import copied


def traceable(module: nn.Module) -> nn.Module:
    """The module itself where nothing needs to be replaced in it, else a copy that computes the same."""
    if not any(_needs_replacing(part) for part in module.modules()):
        return module
    module = copied(module)
    with torch.no_grad():
        for part in list(module.modules()):
            if parametrize.is_parametrized(part):
                _fix_weights(part)
            elif _quantizes(part):
                _rewrite(part)
        stand_ins = {p: STAND_INS[type(p)](p).eval() for p in module.modules() if type(p) in STAND_INS}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # unlike named_children, this names a shared one twice
            if child in stand_ins:
                setattr(parent, name, stand_ins[child])
    return stand_ins.get(module, module)


def _fix_weights(part: nn.Module) -> None:
    """Make plain parameters of the parametrised ones; the class, which the copy shares, is left alone."""
    fixed = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part.parametrizations
    for name, value in fixed.items():
        setattr(part, name, nn.Parameter(value, requires_grad=False))


def _rewrite(part: Any) -> None:
    """Let a graph of torch.fx call what can be traced."""
    for node in part.graph.nodes:
        node.target = IN_GRAPHS.get(node.target, node.target)
    part.recompile()


def _needs_replacing(part: nn.Module) -> bool:
    return parametrize.is_parametrized(part) or type(part) in STAND_INS or _quantizes(part)


def _quantizes(part: nn.Module) -> bool:
    return isinstance(part, torch.fx.GraphModule) and any(n.target in IN_GRAPHS for n in part.graph.nodes)
