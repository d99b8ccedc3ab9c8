"""ncnn, by way of pnnx: a traced module converted to ncnn's own format, in float32."""

from __future__ import annotations

import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.calling import Calling, evaluation_mode
from nncompile_runtime.manifest import Signature

if TYPE_CHECKING:
    import torch

Way = Callable[[Sequence[Array]], list[Array]]

_PARAM, _WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
_CONVERTING = 300  # seconds
_TRIALS = 3


class Ncnn:
    """A network whose layers know one sample; a batch is run in whichever of four ways is fastest.

    One way gives each sample an extractor of its own, another gives one extractor all samples along the batch
    axis of `ncnn.Mat`; both with all threads, which small layers do not repay, and with one. All are tried
    when a batch is run for the first time.
    """

    name = "ncnn"
    reopens = False

    def __init__(self, folder: Path, signature: Signature, threads: int) -> None:
        """Load the network that pnnx left in `folder`."""
        self.description = f"ncnn {ncnn.__version__}, float32, converted by pnnx from torch.jit.trace"
        self.threads: int | None = threads
        self.compile_seconds = 0.0
        self._names = [spec.name for spec in signature.inputs]
        self._shapes = [spec.shape[1:] for spec in signature.outputs]
        self._nets = [_loaded(folder, count) for count in sorted({threads, 1}, reverse=True)]
        counts = len(self._nets[0].input_names()), len(self._nets[0].output_names())
        if counts != (len(self._names), len(self._shapes)):
            raise ValueError("pnnx left out inputs or outputs of the module")
        self._fastest: dict[int, Way] = {}

    def run(self, feed: Feed) -> list[Array]:
        """All outputs."""
        arrays = [feed[name] for name in self._names]
        batch = len(arrays[0])
        way = self._fastest.get(batch)
        if way is None:
            way = self._fastest[batch] = min(self.ways(), key=lambda way: _least_seconds(way, arrays))
        return way(arrays)

    def ways(self) -> list[Way]:
        """All ways to run a batch."""
        return [partial(how, net) for net in self._nets for how in (self._one_by_one, self._at_once)]

    def _one_by_one(self, net: Any, arrays: Sequence[Array]) -> list[Array]:
        samples = []
        for number in range(len(arrays[0])):
            mats = _extracted(net, [ncnn.Mat(array[number]) for array in arrays])
            samples.append([np.array(mat) for mat in mats])
        return self._stacked(samples)

    def _at_once(self, net: Any, arrays: Sequence[Array]) -> list[Array]:
        mats = _extracted(net, [ncnn.Mat(array, 0) for array in arrays])
        return self._stacked([[np.array(mat.batch(n)) for mat in mats] for n in range(len(arrays[0]))])

    def _stacked(self, samples: Sequence[Sequence[Array]]) -> list[Array]:
        outputs = [np.stack(values) for values in zip(*samples, strict=True)]
        return [_with_units(a, shape) for a, shape in zip(outputs, self._shapes, strict=True)]


def _with_units(array: Array, shape: Sequence[int | str]) -> Array:
    """Samples in the shape that the signature gives one, where only axes of length 1 are more or fewer.

    `ncnn.Mat` has one to four axes and no batch, so pnnx keeps or drops such axes. Any other difference is
    left to be seen.
    """
    sizes = [size for size in shape if isinstance(size, int)]
    same = [n for n in sizes if n != 1] == [n for n in array.shape[1:] if n != 1]
    return array.reshape(len(array), *sizes) if same and len(sizes) == len(shape) else array


def _loaded(folder: Path, threads: int) -> Any:
    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = False
    if net.load_param(str(folder / _PARAM)) or net.load_model(str(folder / _WEIGHTS)):
        raise ValueError("ncnn cannot load what pnnx made of the module")
    return net


def _extracted(net: Any, mats: Sequence[Any]) -> list[Any]:
    extractor = net.create_extractor()
    for name, mat in zip(net.input_names(), mats, strict=True):
        # A Mat on foreign memory has no reference count, which layers that work in place read.
        extractor.input(name, mat.clone())
    outputs = []
    for name in net.output_names():
        status, mat = extractor.extract(name)
        if status:
            raise RuntimeError(f"ncnn's extractor returns {status} for {name}")
        outputs.append(mat)
    return outputs


def _least_seconds(way: Way, arrays: Sequence[Array]) -> float:
    times = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        way(arrays)
        times.append(time.perf_counter() - start)
    return min(times)


@contextmanager
def opened(subject: Subject) -> Iterator[Ncnn]:
    """The engine for a subject, whose module pnnx converts unless that was done before.

    Raises:
        EngineError: The module is not known, has inputs that ncnn cannot take, or cannot be converted.
    """
    seconds = 0.0
    if not (subject.folder / _PARAM).exists():
        start = time.perf_counter()
        _convert(subject)
        seconds = time.perf_counter() - start
    try:
        engine = Ncnn(subject.folder, subject.signature, subject.threads)
    except Exception as error:
        raise EngineError(f"ncnn refuses the network: {first_line(error)}") from error
    engine.compile_seconds = seconds
    yield engine


def _convert(subject: Subject) -> None:
    module, signature = subject.module, subject.signature
    if module is None:
        raise EngineError(
            "No module was given, and pnnx converts none but a traced module.",
            remedy="Give the module that the file was compiled from.",
        )
    for spec in signature.inputs:
        if spec.dtype != "float32" or not spec.shape or spec.shape[0] not in (signature.batch, 1):
            raise EngineError(f"Input {spec.name!r} is {spec}, and ncnn takes float32, one sample at a time.")
    import pnnx
    import torch

    calling = Calling(signature)
    samples = [torch.from_numpy(subject.example[name][:1].copy()) for name in calling.names]
    shapes = ",".join(f"{list(sample.shape)}f32".replace(" ", "") for sample in samples)
    traced = subject.folder / "model.pt"
    try:
        with evaluation_mode(module), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(_flat(module, calling), samples).save(str(traced))  # type: ignore[no-untyped-call]
        subprocess.run(  # noqa: S603
            [pnnx.EXEC_PATH, traced.name, f"inputshape={shapes}", "fp16=0"],
            cwd=subject.folder,
            check=True,
            capture_output=True,
            timeout=_CONVERTING,
        )
    except Exception as error:
        raise EngineError(f"pnnx cannot convert the module: {first_line(error)}") from error
    if not (subject.folder / _PARAM).exists():
        raise EngineError("pnnx writes no network for the module.")


def _flat(module: torch.nn.Module, calling: Calling) -> torch.nn.Module:
    """A module of flat inputs and outputs, which is what can be traced."""
    import torch

    call = calling.adapt(module)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            outputs = call(inputs)
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return Flat()
