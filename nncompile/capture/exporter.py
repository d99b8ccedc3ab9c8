"""ExportedProgram -> ONNX, by PyTorch's dynamo exporter with its optimiser off."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx_ir as ir
import torch

from nncompile.capture.translations import TRANSLATIONS

OPSET = 20


def to_onnx(program: torch.export.ExportedProgram) -> ir.Model:
    """Translate an exported program.

    `torch.onnx.export` builds its table of translations anew for each model, which takes most of a
    second. Where this version of torch lets it be given, it is built once a process.
    """
    table = _translations()
    if table is None:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
        )
        return exported.model  # type: ignore[union-attr]  # None is for dynamo=False
    from torch.onnx._internal.exporter import _core

    return _core.export(program, registry=table, optimize=False, verbose=False, opset_version=OPSET).model


@lru_cache(maxsize=1)
def _translations() -> Any:
    """The exporter's table of translations; None where this torch keeps it elsewhere."""
    try:
        from torch.onnx._internal.exporter import _registration

        registry = _registration.ONNXRegistry().from_torchlib(opset_version=OPSET)
        for target, translation in TRANSLATIONS.items():
            registry.register_op(target, translation)
        return registry
    except (ImportError, AttributeError, TypeError):
        return None
