"""What every check works on: the device, and networks with their weights and compiled files in a folder.

The files can be made beforehand where onnx and onnxscript are installed (`--prepare`), for a GPU machine that
has torch and onnxruntime-gpu alone.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncompile
from models.gpu_check.table import Finding, NotRunError
from models.zoo import LARGER, ZOO
from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.cuda_onnxruntime import in_precision
from nncompile.bench.engines.exporting import plain_graph
from nncompile.verify.eager import as_array
from nncompile_runtime import Predictor, container
from nncompile_runtime.machine import this_machine

NETWORKS = {**ZOO, **LARGER}
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
NO_KERNEL = "no-kernel.onnx"
_SOME = ("lenet5", "net", "mlp", "resnet18")
_SMALL = ("lenet5", "net", "mlp")
# Whose speed is compared with that of plain ONNX Runtime, on what PyTorch's exporter makes.
_COMPARED = (*((name, "float32") for name in _SMALL), ("resnet18", "float16"))
_SEED = 20240501
_PROCESSORS_EACH = 2  # of those that compile


@dataclass(frozen=True)
class Context:
    """What is checked, and where.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        folder: Holds the compiled networks.
        networks: Their names.
        precisions: Those that each is compiled in.
        seconds: Timed seconds of each engine in a check of speed.
        calls: Calls of each kind in the check of memory.
        until: When the process of the check will be ended, in seconds since the epoch.
    """

    device: str
    folder: Path
    networks: tuple[str, ...] = tuple(NETWORKS)
    precisions: tuple[str, ...] = PRECISIONS
    seconds: float = 0.5
    calls: int = 1000
    until: float = math.inf

    @property
    def on_gpu(self) -> bool:
        """Whether this is more than a dry run."""
        return self.device != "cpu"

    @property
    def some(self) -> tuple[str, ...]:
        """A few networks, for what does not differ from one to another."""
        return tuple(name for name in _SOME if name in self.networks) or self.networks[:1]

    @property
    def small(self) -> tuple[str, ...]:
        """The small networks, whose calls are short.

        Raises:
            NotRunError: None of them was chosen.
        """
        names = tuple(name for name in _SMALL if name in self.networks)
        if not names:
            raise NotRunError(f"it needs one of {', '.join(_SMALL)}")
        return names

    def as_json(self) -> str:
        """What `from_json` takes."""
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Context:
        """The context that `as_json` wrote."""
        plain = json.loads(text)
        tuples = {name: tuple(plain[name]) for name in ("networks", "precisions")}
        return cls(**{**plain, **tuples, "folder": Path(plain["folder"])})

    def path(self, name: str, precision: str) -> Path:
        """Where a compiled network is, or will be."""
        return self.folder / f"{name}-{precision}.onnx"

    def file(self, name: str, precision: str) -> Path:
        """A compiled network.

        Raises:
            NotRunError: There is none.
        """
        path = self.path(name, precision)
        if not path.exists():
            raise NotRunError(f"{name} is not there in {precision}: see the check 'compile'")
        return path

    def exported(self, name: str, precision: str) -> Path:
        """Where PyTorch's own export of a network is, if it was made."""
        return self.folder / f"{name}-{precision}-exported.onnx"

    def load(self, name: str, precision: str, plan: dict[str, Any] | None = None) -> Predictor:
        """A compiled network on the device.

        Args:
            name: The network.
            precision: What it computes in.
            plan: Fields of a plan besides the provider; None takes the default plan.

        Raises:
            NotRunError: It needs a GPU, and this is a dry run.
        """
        if precision == "bfloat16" and not self.on_gpu:
            raise NotRunError("ONNX Runtime's CPU does not compute in bfloat16")
        provider, _, number = self.device.partition(":")
        fields = None if plan is None else {"provider": provider, "device_id": int(number or 0), **plan}
        return nncompile.load(self.file(name, precision), device=self.device, plan=fields)

    def module(self, name: str) -> torch.nn.Module:
        """A network with the weights that were compiled, on the CPU, in evaluation mode.

        Raises:
            NotRunError: A package that it needs is missing.
        """
        module = _built(name)
        weights = self.folder / f"{name}.pt"
        if weights.exists():
            module.load_state_dict(torch.load(weights, weights_only=True))
        return module

    def inputs(self, name: str, batch: int, seed: int = 0) -> np.ndarray:
        """Standard normal images or vectors, float32."""
        shape = (batch, *NETWORKS[name].input_shape)
        return np.random.default_rng((_SEED, seed)).standard_normal(shape, dtype=np.float32)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """The same on the device."""
        return torch.from_numpy(array).to(self.device)


def arrays(predictor: Predictor, result: Any) -> list[np.ndarray]:
    """What `predict` returned, copied to arrays on the host, in the order of the outputs."""
    flat = predictor.flatten_result(result)
    return [np.array(as_array(y.cpu()) if isinstance(y, torch.Tensor) else y) for y in flat]


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What nncompile warns of meanwhile, in any thread."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("nncompile")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def compiled(context: Context) -> Iterator[Finding]:
    """Compile what is not there yet, verified on the CPU: several at once, each in a process of its own."""
    context.folder.mkdir(parents=True, exist_ok=True)
    if not (context.folder / NO_KERNEL).exists():
        yield _attempt("a file with an operator that CUDA lacks", _write_no_kernel, context)
    wanted = []
    for name in context.networks:
        for precision in context.precisions:
            if context.path(name, precision).exists():
                yield Finding.of(f"{name}, {precision}", True, "was there")
            else:
                wanted.append((name, precision))
    workers = max(1, min(len(wanted), this_machine().processors // _PROCESSORS_EACH))
    if workers == 1:
        yield from (
            _attempt(f"{name}, {precision}", _compile, context, name, precision) for name, precision in wanted
        )
        return
    # What takes longest first; spawned, because a process with threads of torch should not be forked.
    wanted.sort(key=lambda pair: (pair[0] not in LARGER, pair[1] != "float16"))
    spawn = multiprocessing.get_context("spawn")
    own = _take_processors, (spawn.Value("i", 0),)
    with ProcessPoolExecutor(workers, spawn, *own) as pool:
        asked = [
            pool.submit(_attempt, f"{name}, {precision}", _compile, context, name, precision)
            for name, precision in wanted
        ]
        for future in as_completed(asked):
            yield future.result()


def _take_processors(taken: Any) -> None:
    """Give a worker processors of its own, on which PyTorch and ONNX Runtime do not crowd the others."""
    torch.set_num_threads(_PROCESSORS_EACH)
    if not hasattr(os, "sched_setaffinity"):
        return
    with taken.get_lock():
        first, taken.value = taken.value, taken.value + _PROCESSORS_EACH
    there = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, there[first : first + _PROCESSORS_EACH] or there)


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


def _built(name: str) -> torch.nn.Module:
    """A network of random weights of one seed, its batch norms with statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        try:
            module = NETWORKS[name].build().eval()
        except ImportError as error:
            raise NotRunError(str(error)) from error
        for part in module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return module


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
