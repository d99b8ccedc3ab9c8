"""The signature of an ONNX file that carries no manifest, read from its session."""

from __future__ import annotations

from typing import get_args

from pydantic import ValidationError

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
    if not outputs:
        raise ModelLoadError("The model has no outputs.", remedy="Export it with at least one.")
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
    if kind != "tensor" or dtype not in get_args(DType) or dtype == "bfloat16":
        raise ModelLoadError(
            f"Input or output {port.name!r} has type {port.type}, which numpy cannot hold.",
            remedy="Export the model with float32 inputs and outputs.",
        )
    shape = tuple(
        size if isinstance(size, (int, str)) and size != "" else f"{port.name}_{i}"
        for i, size in enumerate(port.shape)
    )
    try:
        return TensorSpec.model_validate({"name": port.name, "dtype": dtype, "shape": shape})
    except ValidationError as error:
        raise _out_of_bounds(error) from None


def _out_of_bounds(error: ValidationError) -> ModelLoadError:
    first = error.errors(include_url=False, include_input=False)[0]
    return ModelLoadError(
        f"The model's signature is out of bounds at {'.'.join(map(str, first['loc']))}: {first['msg']}.",
        remedy="Rename or reduce what it names.",
    )


def check_against(session: Session, signature: Signature) -> None:
    """Refuse a manifest that describes another graph.

    Raises:
        ModelLoadError: Names, dtypes, ranks or static sizes differ.
    """
    for kind, specs, ports in (
        ("input", signature.inputs, session.inputs),
        ("output", signature.outputs, session.outputs),
    ):
        names, found = [spec.name for spec in specs], [port.name for port in ports]
        if names != found:
            raise _other_graph(f"{kind}s {names}", f"{found}")
        for spec, port in zip(specs, ports, strict=True):
            actual = _spec(port)
            sizes = zip(spec.shape, actual.shape, strict=False)
            clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
            # ONNX Runtime reports rank 0 where the graph leaves the rank of an output open.
            rank = len(spec.shape) != len(actual.shape) and (kind == "input" or actual.shape)
            if spec.array_dtype != actual.array_dtype or rank or clash:
                raise _other_graph(f"{kind} {spec.name!r} as {spec}", f"{actual}")


def _other_graph(said: str, found: str) -> ModelLoadError:
    return ModelLoadError(
        f"The manifest describes {said}, but the graph has {found}.", remedy="Export the model again."
    )
