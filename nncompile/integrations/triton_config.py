"""`config.pbtxt`: what Triton must know of a model, in protobuf's text format.

Fields are those of Triton's model_config.proto (https://github.com/triton-inference-server/common), and what
the ONNX Runtime backend makes of them (https://github.com/triton-inference-server/onnxruntime_backend).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_options import channels_last, provider_options
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Signature, TensorSpec
from nncompile_runtime.plan import default_plan
from nncompile_runtime.shapes import carries_batch

LABELS = "labels.txt"
_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "bfloat16": "FP32",  # a file's inputs and outputs of bfloat16 are float32 in its graph
    "float32": "FP32",
    "float64": "FP64",
}  # the others are called as here, in capitals
_NO_OPTIMIZERS = 2  # the backend's number for ONNX Runtime's ORT_DISABLE_ALL


@dataclass(frozen=True)
class Serving:
    """How Triton is to run a model.

    Attributes:
        device: `cpu`, `cuda`: all GPUs, `cuda:1`, or `auto`: GPUs where the server has some, else the CPU.
        max_batch_size: The most rows of a call, of several requests together; 0 where requests stay apart.
        instances: Sessions that run at the same time, on each device.
        threads: Of each session; None leaves it to ONNX Runtime.
        kernels: Path of the native kernels' library on the server; None runs without.
    """

    device: str
    max_batch_size: int
    instances: int
    threads: int | None
    kernels: str | None


def config(model: ModelFile, signature: Signature, how: Serving) -> str:
    """The text of `config.pbtxt`."""
    return "".join(line + "\n" for line in _lines(model, signature, how))


def _lines(model: ModelFile, signature: Signature, how: Serving) -> Iterator[str]:
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {how.max_batch_size}"
    for spec in signature.inputs:
        yield from _tensor("input", spec, how.max_batch_size)
    for spec in signature.outputs:
        yield from _tensor("output", spec, how.max_batch_size, LABELS if names_classes(model, spec) else None)
    if how.max_batch_size > 1:
        yield "dynamic_batching { }"
    yield from _instances(how)
    if how.threads is not None:
        yield f'parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{how.threads}" }} }}'
    level = [f"  graph {{ level: {_NO_OPTIMIZERS} }}"] if model.wrong_optimizers else []
    provider = [] if how.device == "cpu" else list(_cuda(model))
    if level or provider:
        yield from ("optimization {", *level, *provider, "}")
    if how.kernels is not None:
        yield f"model_operations {{ op_library_filename: {quoted(how.kernels)} }}"


def _tensor(kind: str, spec: TensorSpec, max_batch_size: int, labels: str | None = None) -> Iterator[str]:
    """One input or output; where requests are batched, Triton counts the batch itself.

    Triton has no shape without dimensions: a row that is one number has the shape [1] for clients and [] for
    the model; a tensor that is one number has the shape [1], which the backend knows to be a scalar.
    """
    sizes = [size if isinstance(size, int) else -1 for size in spec.shape[1 if max_batch_size else 0 :]]
    yield f"{kind} {{"
    yield f"  name: {quoted(spec.name)}"
    yield f"  data_type: TYPE_{_TYPES.get(spec.dtype, spec.dtype.upper())}"
    yield f"  dims: [ {', '.join(map(str, sizes or [1]))} ]"
    if max_batch_size and not sizes:
        yield "  reshape: { shape: [ ] }"
    if labels is not None:
        yield f"  label_filename: {quoted(labels)}"
    yield "}"


def _instances(how: Serving) -> Iterator[str]:
    kind = {"auto": "AUTO", "cpu": "CPU"}.get(how.device, "GPU")
    number = how.device.partition(":")[2]
    gpus = f" gpus: [ {int(number)} ]" if number else ""
    yield f"instance_group {{ count: {how.instances} kind: KIND_{kind}{gpus} }}"


def _cuda(model: ModelFile) -> Iterator[str]:
    """The default plan's options of the CUDA provider, which by itself would round float32 to TF32."""
    last = channels_last(model.precision, model.facts.operators)
    plan = default_plan(this_machine(), "cuda", exact=model.exact, channels_last=last)
    options = provider_options(plan, model.precision)
    del options["device_id"]  # Triton's own business
    yield "  execution_accelerators {"
    yield "    gpu_execution_accelerator {"
    yield '      name: "cuda"'
    for key, value in options.items():
        yield f'      parameters {{ key: "{key}" value: "{value}" }}'
    yield "    }"
    yield "  }"


def names_classes(model: ModelFile, output: TensorSpec) -> bool:
    """Whether an output has, in each row, a number for each of the model's labels."""
    labels = model.manifest.labels if model.manifest else None
    return labels is not None and output.shape[1:] == (len(labels),)


def why_requests_stay_apart(model: ModelFile, signature: Signature) -> str | None:
    """Why Triton may not make one call of several requests; None where it may."""
    for spec in (*signature.inputs, *signature.outputs):
        if not carries_batch(spec, signature.batch):
            return f"{spec.name!r} is {spec}, without a free batch in front"
    if not model.rows_independent:
        return "verification did not see that a row's answer depends on no other row"
    return None


def quoted(text: str) -> str:
    """A string of protobuf's text format: ASCII, anything else as the octal numbers of its UTF-8 bytes."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{"".join(plain)}"'
