"""What must be refused is refused, and nothing runs, or is copied, where it should not be."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncompile
from models.gpu_check.context import NO_KERNEL, Context
from models.gpu_check.exchange import Foreign
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.ways import large, reduced, small
from nncompile import DeviceError, InputError, NncompileError, PlanError
from nncompile.bench.engines.on_gpu import wait
from nncompile.bench.launches import profiled
from nncompile_runtime import Predictor, container
from nncompile_runtime.session import Session
from nncompile_runtime.shape_nodes import shape_nodes

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def refusals(context: Context) -> Iterator[Finding]:
    """One wrong request after the other."""
    name = context.networks[0]
    file, x = context.file(name, "float32"), context.inputs(name, 2)

    def load(**options: Any) -> Any:
        return nncompile.load(file, **{"device": context.device, **options})

    yield _refused("a GPU that is not there", lambda: load(device="cuda:255"), DeviceError, "cuda:255")
    yield _refused("a device of no such name", lambda: load(device="gpu"), DeviceError, "'gpu'")
    yield _refused("float64 inputs", lambda: load()(x.astype(np.float64)), InputError, "float64")
    yield _refused("an input of another rank", lambda: load()(x[0]), InputError, "shape")
    provider = context.device.partition(":")[0]
    for what, field, plan in (
        ("a memory limit of 0", "gpu_memory_limit", {"provider": provider, "gpu_memory_limit": 0}),
        ("a CUDA graph on the CPU", "cuda_graph", {"provider": "cpu", "cuda_graph": True}),
    ):
        if field in nncompile.Plan.model_fields:
            yield _refused(what, lambda plan=plan: load(device=plan["provider"], plan=plan), PlanError, field)
        else:
            yield Finding(what, "not run", f"plans have no {field}")
    if not context.on_gpu:
        yield Finding("requests that only a GPU can refuse", "not run", "there is none")
        return
    there = context.tensor(x)
    yield _refused(
        "a CUDA tensor for a model on the CPU",
        lambda: load(device="cpu")(there),
        (InputError, DeviceError),
        "cuda",
    )
    chosen = load(device="auto").device
    yield Finding.of("device='auto' takes the GPU", chosen.startswith("cuda"), f"it takes {chosen}")
    yield _refused(
        "an array on the GPU of a library that is not known", lambda: load()(Foreign(there)), InputError,
        "from_dlpack",
    )  # fmt: skip
    yield _channels_last(context)
    lacking = context.folder / NO_KERNEL
    yield (
        _refused(
            "a node without a CUDA kernel",
            lambda: nncompile.load(lacking, device=context.device),
            DeviceError,
            "Det",
        )
        if lacking.exists()
        else Finding("a node without a CUDA kernel", "not run", f"{NO_KERNEL} was not prepared")
    )


def _channels_last(context: Context) -> Finding:
    """FusedConv has no kernel for channels that are last, and ONNX Runtime does not say so."""
    what, plan = "channels last for a graph with FusedConv", {"channels_last": True}
    paths = {name: context.path(name, "float32") for name in context.networks}
    fused = [name for name, path in paths.items() if path.exists() and _holds_fused_conv(path)]
    if not fused:
        return Finding(what, "not run", "no network here has one")
    return _refused(what, lambda: context.load(fused[0], "float32", plan), PlanError, "channels_last")


def _holds_fused_conv(path: Path) -> bool:
    return any("FusedConv" in operator for operator in container.read(path).facts.operators)


def placement(context: Context) -> Iterator[Finding]:
    """ONNX Runtime's own record of a run names the provider of each node that was executed.

    The rule what may be on the CPU is that of sessions, which look where nodes are put before any is fused.
    """
    provider = _PROVIDERS[context.device.partition(":")[0]]
    for name in context.networks:
        for precision in context.precisions:
            what = f"{name}, {precision}"
            try:
                ran = executed(context, name, precision)
            except NotRunError as error:
                yield Finding(what, "not run", str(error))
                continue
            except NncompileError as error:
                yield Finding.of(what, False, str(error))
                continue
            shapes = shape_nodes(container.read(context.file(name, precision)).data)
            places = {(operator, node): place for place, operator, node in ran}
            elsewhere = [(operator, node) for place, operator, node in ran if place != provider]
            copied = [key for key in places if key[0].startswith("Memcpy")]
            astray = sorted(set(shapes.of_data(elsewhere) + copied))
            told = ", ".join(f"{key[0]} {key[1]!r} on {places[key]}" for key in astray[:5])
            yield Finding.of(what, bool(ran) and not astray, told or f"{len(ran)} nodes, all on {provider}")


def executed(context: Context, name: str, precision: str) -> list[tuple[str, str, str]]:
    """Provider, operator and name of each node that ran in one call.

    Raises:
        NotRunError: The network is not there.
    """
    model = container.read(context.file(name, precision))
    plan = context.load(name, precision).plan
    with tempfile.TemporaryDirectory() as folder:
        session = Session(model, plan.session, trace=Path(folder))
        session.run({model.manifest.signature.inputs[0].name: context.inputs(name, 2)})
        events = json.loads(Path(session.native.end_profiling()).read_bytes())
    ending = "_kernel_time"
    nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith(ending)]
    return [(e["args"]["provider"], e["args"]["op_name"], e["name"].removesuffix(ending)) for e in nodes]


def copies(context: Context) -> Iterator[Finding]:
    """Copies between host and GPU, counted by CUPTI for every library of the process.

    A call on numpy arrays comes first: where its copies do not show, none would. Those of arrays go by way of
    pinned memory: the caller waits for a pageable one.
    """
    for name in context.some:
        for precision in context.precisions:
            load, inputs = partial(context.load, name, precision), partial(context.inputs, name)
            yield from _copies(context, f"{name}, {precision}", load, inputs)
    for way in (small(context), *reduced(context), *large(context)):
        yield from _copies(context, f"{way.name}, {way.plan}", partial(way.load, way.plan), way.inputs)


def _copies(
    context: Context, what: str, load: Callable[[], Predictor], inputs: Callable[[int, int], np.ndarray]
) -> Iterator[Finding]:
    try:
        predictor, x = load(), inputs(3, 0)
    except NotRunError as error:
        yield Finding(what, "not run", str(error))
        return
    there = context.tensor(x)
    control = copied(lambda: predictor(x), context)
    if not (_of("HtoD", control) and _of("DtoH", control)):
        yield Finding(what, "not run", f"CUPTI shows {dict(control)} for arrays, which are copied")
        return
    seen = copied(lambda: predictor(there), context)
    between = _of("HtoD", seen) | _of("DtoH", seen)
    yield Finding.of(what, not between, f"tensors: {between or 'none'}; arrays: {dict(control)}")
    pageable = {kind: count for kind, count in control.items() if "pageable" in kind}
    said = f"pageable, for which the caller waits: {pageable}" if pageable else f"{dict(control)}"
    yield Finding.of(f"{what}: arrays are staged in pinned memory", not pageable, said)


def _of(direction: str, seen: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in seen.items() if kind.startswith(direction)}


def copied(call: Callable[[], Any], context: Context) -> Counter[str]:
    """The memory copies of one call by kind, after two that are not looked at.

    A kind is the direction (`HtoD`, `DtoH`, `DtoD`), and `pageable` or `pinned` where CUPTI says so.
    """
    for _ in range(2):
        call()
    wait(torch.device(context.device))
    names = [name.split() for name in profiled(call, context.device)]
    return Counter(_kind(words) for words in names if words[:1] == ["Memcpy"] and len(words) > 1)


def _kind(words: list[str]) -> str:
    """Of `Memcpy HtoD (Pageable -> Device)`, say."""
    memory = {word.strip("()").lower() for word in words[2:]} & {"pageable", "pinned"}
    return " ".join((words[1], *sorted(memory)))


def _refused(
    what: str, request: Callable[[], Any], kind: type[Exception] | tuple[type[Exception], ...], word: str
) -> Finding:
    """Whether a request ends in an error of a kind that names what is wrong and what to do."""
    try:
        result = request()
    except kind as error:
        told = word in str(error) and bool(getattr(error, "remedy", ""))
        return Finding.of(what, told, str(error))
    except Exception as error:
        return Finding.of(what, False, f"{type(error).__name__}, which is not the error for it: {error}")
    return Finding.of(what, False, f"not refused, but answered with {type(result).__name__}")
