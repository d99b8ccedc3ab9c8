"""The signature of an ONNX file that carries no manifest, read from its session."""

from __future__ import annotations

from typing import get_args

from nncompile_runtime.errors import ModelLoadError
from nncompile_runtime.manifest import Argument, DType, Signature, TensorSpec
from nncompile_runtime.session import Port, Session
from nncompile_runtime.structure import SequenceOf, Structure, TensorLeaf

_ONNX_NAMES = {"float": "float32", "double": "float64"}


def signature_of(session: Session) -> Signature:
    """Every graph input becomes an argument; several outputs become a tuple.

    The batch is the symbol of the first input's dimension 0, where it has one.

    Raises:
        ModelLoadError: An input or output is no dense tensor of a dtype that numpy has.
    """
    inputs = tuple(_spec(port) for port in session.inputs)
    outputs = tuple(_spec(port) for port in session.outputs)
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    result: Structure = TensorLeaf(index=0)
    if len(outputs) > 1:
        result = SequenceOf(kind="tuple", items=tuple(TensorLeaf(index=i) for i in range(len(outputs))))
    return Signature(
        arguments=tuple(
            Argument(name=spec.name, structure=TensorLeaf(index=i)) for i, spec in enumerate(inputs)
        ),
        inputs=inputs,
        outputs=outputs,
        result=result,
        batch=first if isinstance(first, str) else None,
    )


def _spec(port: Port) -> TensorSpec:
    kind, _, element = port.type.rstrip(")").partition("(")
    dtype = _ONNX_NAMES.get(element, element)
    if kind != "tensor" or dtype not in get_args(DType):
        raise ModelLoadError(
            f"Input or output {port.name!r} has type {port.type}, which numpy cannot hold.",
            remedy="Export the model with float32 inputs and outputs.",
        )
    shape = tuple(
        size if isinstance(size, (int, str)) and size != "" else f"{port.name}_{i}"
        for i, size in enumerate(port.shape)
    )
    return TensorSpec.model_validate({"name": port.name, "dtype": dtype, "shape": shape})
