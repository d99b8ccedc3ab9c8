"""Networks compiled before the checks begin, into a folder that is kept.

Compiling takes minutes, which the checks' 480 seconds do not have. What was compiled by the same sources,
with the same versions and on the same GPU is not compiled anew. Large networks are compiled one at a time on
all processors, small ones by several processes. On a machine with a GPU, linear layers in float32 are raced
on it (nncompile/passes/fuse_linear_relu.py): those networks too have the machine for themselves, and the
processes that compile several at once see no GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import nncompile
from models.gpu_check.context import NETWORKS, NO_KERNEL, PRECISIONS, Context
from models.gpu_check.record import RECORD, Record, gpu, sources, this_maker
from models.gpu_check.table import Finding, NotRunError
from models.zoo import LARGER
from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.cuda_onnxruntime import in_precision
from nncompile.bench.engines.exporting import plain_graph
from nncompile_runtime import NncompileError, container
from nncompile_runtime.machine import this_machine

# Whose speed is compared with that of plain ONNX Runtime, on what PyTorch's exporter makes.
_COMPARED = (*((name, "float32") for name in ("lenet5", "net", "mlp")), ("resnet18", "float16"))
_RACED = ("float32", "tf32")  # what has linear layers in float32
_PROCESSORS_EACH = 2  # of those that compile at once

Job = tuple[str, str]  # network, precision


def prepare(context: Context) -> Iterator[Finding]:
    """Compile what is not there yet, verified on the CPU; the record is written after each network."""
    context.folder.mkdir(parents=True, exist_ok=True)
    record = Record.read(context.folder)
    maker = this_maker()
    if record is None or record.maker != maker:
        _clear(context.folder)
        record = Record(maker)
    if not (context.folder / NO_KERNEL).exists():
        yield _attempt("a file with an operator that CUDA lacks", _write_no_kernel, context)
    wanted: list[Job] = []
    for job in _jobs(context):
        finding = record.found.get(_what(job))
        if finding and finding.verdict == "passed" and context.path(*job).exists():
            yield replace(finding, said="was there")
        else:
            wanted.append(job)
    for finding in _made(context, wanted, raced=bool(maker.gpu)):
        record.found[finding.what] = finding
        record.write(context.folder)
        yield finding


def there(context: Context) -> Iterator[Finding]:
    """Whether every network was compiled and verified, by these sources and for this GPU."""
    record = Record.read(context.folder)
    if record is None:
        yield Finding.of("the networks", False, f"{context.folder} has no {RECORD}: prepare it anew")
        return
    if record.maker.sources != sources():
        said = "other sources than these compiled it, so it tells nothing of this compiler: prepare it anew"
        yield Finding("the sources", "not run", said)
    if context.on_gpu and record.maker.gpu != (here := gpu()):
        where = f"on {record.maker.gpu}" if record.maker.gpu else "without a GPU"
        said = f"prepared {where}, so linear layers were not raced on {here}: prepare it there for its choice"
        yield Finding("the race of linear layers", "told", said)
    for job in _jobs(context):
        finding = record.found.get(_what(job))
        if finding is None:
            yield Finding.of(_what(job), False, "it was not prepared")
        elif finding.verdict != "passed":
            yield finding
        else:
            yield _verified(finding, context.path(*job))


def _jobs(context: Context) -> list[Job]:
    return [(name, precision) for name in context.networks for precision in context.precisions]


def _what(job: Job) -> str:
    return ", ".join(job)


def _clear(folder: Path) -> None:
    """Remove what was prepared there, weights included, and nothing else."""
    names = [NO_KERNEL, RECORD]
    for network in NETWORKS:
        files = [f"{network}-{precision}" for precision in PRECISIONS]
        names += [f"{network}.pt", *(f"{file}{end}" for file in files for end in (".onnx", "-exported.onnx"))]
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _verified(finding: Finding, path: Path) -> Finding:
    """Of a network that was compiled: whether it is there, whole, and was verified."""
    try:
        manifest = container.read(path).manifest
    except NncompileError as error:
        return Finding.of(finding.what, False, str(error))
    status = manifest.verification.status if manifest else "without a manifest"
    return finding if status == "verified" else Finding.of(finding.what, False, f"verification: {status}")


def _made(context: Context, wanted: list[Job], *, raced: bool) -> Iterator[Finding]:
    """Compile: first, one at a time, what needs the whole machine; then the rest, several at once."""
    alone = [job for job in wanted if job[0] in LARGER or (raced and job[1] in _RACED)]
    rest = [job for job in wanted if job not in alone]
    workers = min(len(rest), this_machine().processors // _PROCESSORS_EACH)
    if workers <= 1:
        alone, rest = wanted, []
    for job in alone:
        yield _attempt(_what(job), _compile, context, *job)
    if not rest:
        return
    spawn = multiprocessing.get_context("spawn")  # a process with threads of torch should not be forked
    with ProcessPoolExecutor(workers, spawn, _take_processors, (spawn.Value("i", 0),)) as pool:
        asked = [pool.submit(_attempt, _what(job), _compile, context, *job) for job in rest]
        for future in as_completed(asked):
            yield future.result()


def _take_processors(taken: Any) -> None:
    """Give a worker processors of its own, on which it does not crowd the others, and no GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a race among several would be disturbed
    torch.set_num_threads(_PROCESSORS_EACH)
    if not hasattr(os, "sched_setaffinity"):
        return
    with taken.get_lock():
        first, taken.value = taken.value, taken.value + _PROCESSORS_EACH
    free = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, free[first : first + _PROCESSORS_EACH] or free)


def _attempt(what: str, make: Callable[..., str], *arguments: Any) -> Finding:
    try:
        return Finding.of(what, True, make(*arguments))
    except (ImportError, NotRunError) as error:
        return Finding(what, "not run", str(error))
    except Exception as error:
        return Finding.of(what, False, f"{type(error).__name__}: {error}")


def _compile(context: Context, name: str, precision: str) -> str:
    start = time.perf_counter()
    module = context.module(name)
    weights = context.folder / f"{name}.pt"
    part = weights.with_suffix(f".{precision}.part")
    torch.save(module.state_dict(), part)
    part.replace(weights)
    example = torch.from_numpy(context.inputs(name, 2))
    model = nncompile.compile(module, example, target="cuda", precision=precision)
    model.save(context.path(name, precision))
    said = f"compiled in {time.perf_counter() - start:.1f} s"
    return said + (_export(context, name, precision, module) if (name, precision) in _COMPARED else "")


def _export(context: Context, name: str, precision: str, module: torch.nn.Module) -> str:
    """What a user has without nncompile; made here, because a GPU machine may lack what it takes."""
    file = container.read(context.file(name, precision))
    assert file.manifest is not None
    signature = file.manifest.signature
    example = {signature.inputs[0].name: context.inputs(name, 2)}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject("", signature, module, 1, example, Path(folder), "cuda", precision)
        try:
            graph = plain_graph(in_precision(subject))
        except EngineError as error:
            return f"; not exported by PyTorch: {error}"
        container.write(context.exported(name, precision), Path(graph.path).read_bytes())
    return f"; exported by PyTorch in {graph.seconds:.1f} s"


def _write_no_kernel(context: Context) -> str:
    """`y = det(x)`: ONNX Runtime has a kernel of Det for the CPU alone."""
    from onnx import TensorProto, helper

    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 3]), ("y", ["n"]))
    ]
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    graph = helper.make_graph([node], "det", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (context.folder / NO_KERNEL).write_bytes(model.SerializeToString())
    return NO_KERNEL
