"""What PyTorch's engines on a GPU share: the module there, and a call that ends when its answer is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.bench.engines.eager import module_at_hand
from nncompile.calling import Calling
from nncompile.copies import copied

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Adapted(torch.nn.Module):
    """A module of another dtype or layout that is called as before: the changes are part of a call."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype | None, *, channels_last: bool) -> None:
        """Wrap a module.

        Args:
            module: It, cast already.
            dtype: What it was cast to; None where it was not.
            channels_last: Whether images come to it with their channels last.
        """
        super().__init__()
        self.module = module
        self._dtype = dtype
        self._channels_last = channels_last

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Cast what is wider, call the module, and return float32 where it returns the narrow dtype."""
        args, kwargs = pytree.tree_map(self._enter, (args, kwargs))
        return pytree.tree_map(self._leave, self.module(*args, **kwargs))

    def _enter(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        last = self._channels_last and x.dim() == 4
        return x.to(
            self._dtype or x.dtype, memory_format=torch.channels_last if last else torch.preserve_format
        )

    def _leave(self, y: Any) -> Any:
        return y.float() if isinstance(y, torch.Tensor) and y.dtype == self._dtype else y


class OnGpu:
    """A function of tensors on a GPU behind feeds of either kind.

    Arrays are copied to the GPU and the outputs back, with the plain copies of `Tensor.to` and
    `Tensor.cpu`. For tensors on the GPU nothing is copied, and the call ends with a synchronisation.
    """

    threads: int | None = None
    reopens = False

    def __init__(
        self,
        name: str,
        how: str,
        call: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        """Prepare to call a function.

        Args:
            name: The engine's.
            how: What it does, for the description.
            call: Of one tensor for each graph input, to one for each output.
            names: Of the graph inputs.
            device: Where the tensors are.
        """
        self.name = name
        self.description = f"PyTorch {torch.__version__}, {how}, inference_mode"
        self.compile_seconds = 0.0
        self._call = call
        self._names = names
        self._device = device

    def run(self, feed: Feed) -> list[Array]:
        """All outputs."""
        given: list[Any] = [feed[name] for name in self._names]
        stays = bool(given) and all(isinstance(x, torch.Tensor) for x in given)
        inputs = given if stays else [torch.from_numpy(x).to(self._device) for x in given]
        with torch.inference_mode():
            outputs: list[Any] = self.compute(inputs)
        if not stays:
            return [(y.float() if y.dtype is torch.bfloat16 else y).cpu().numpy() for y in outputs]
        wait(self._device)
        return outputs

    def compute(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs, on the device, perhaps not computed yet."""
        return self._call(inputs)


def wait(device: torch.device) -> None:
    """Return when all that was asked of a GPU is done, on every stream; at once on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def chosen(device: torch.device) -> AbstractContextManager[object]:
    """The GPU on which streams and graphs are made meanwhile; nothing on the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def gpu_of(subject: Subject) -> torch.device:
    """The subject's GPU.

    Raises:
        EngineError: PyTorch cannot use it; the message says why.
    """
    device = torch.device(subject.device)
    number = device.index or 0
    if torch.version.cuda is None:
        raise EngineError(
            f"PyTorch {torch.__version__} is built without CUDA.",
            remedy="Install a build of PyTorch with CUDA.",
        )
    if number >= torch.cuda.device_count():
        raise EngineError(
            f"PyTorch {torch.__version__} finds {torch.cuda.device_count()} GPUs, and {device} is not among "
            "them.",
            remedy="Run nncompile doctor, or check CUDA_VISIBLE_DEVICES.",
        )
    return torch.device("cuda", number)


class Placed(NamedTuple):
    """A module on a GPU.

    Attributes:
        module: A copy, called as the subject's.
        device: The GPU.
        how: Its precision and layout, for descriptions.
    """

    module: torch.nn.Module
    device: torch.device
    how: str


@contextmanager
def module_on_gpu(subject: Subject) -> Iterator[Placed]:
    """A copy of the subject's module on its GPU, in the file's precision.

    In float16 and bfloat16 it has its channels last, which is what tensor cores read, unless it does not run
    so: `x.view` of a tensor with its channels last is an error. TF32 is allowed for `tf32` alone; for float32
    it is switched off in cuDNN too, where PyTorch allows it.

    Raises:
        EngineError: The module is not known, or PyTorch cannot use the GPU.
    """
    device = gpu_of(subject)
    with module_at_hand(subject) as module, tf32_as_in(subject.precision), chosen(device):
        try:
            dtypes = {_DTYPES.get(subject.precision), *(p.dtype for p in module.parameters())}
            narrow = bool(dtypes & set(_DTYPES.values()))
            there = as_in_file(module, subject.precision, channels_last=narrow).to(device)
            if narrow and not _runs(there, subject, device):
                there = as_in_file(module, subject.precision, channels_last=False).to(device)
                narrow = False
        except Exception as error:
            raise EngineError(f"The module cannot be moved to {device}: {first_line(error)}") from error
        yield Placed(there, device, subject.precision + ", channels last" * narrow)


def as_in_file(module: torch.nn.Module, precision: str, *, channels_last: bool) -> torch.nn.Module:
    """A copy of a module that computes in a file's precision and is called as before."""
    own, dtype = copied(module), _DTYPES.get(precision)
    if dtype is not None:
        own = own.to(dtype)
    if channels_last:
        own = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Adapted(own, dtype, channels_last=channels_last) if dtype or channels_last else own


def _runs(module: torch.nn.Module, subject: Subject, device: torch.device) -> bool:
    inputs = [torch.from_numpy(subject.example[spec.name]).to(device) for spec in subject.signature.inputs]
    try:
        with torch.inference_mode():
            flat_call(module, subject)(inputs)
    except Exception:
        return False
    return True


@contextmanager
def tf32_as_in(precision: str) -> Iterator[None]:
    """PyTorch rounds float32 factors to TF32 for this precision alone, meanwhile."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    allowed = precision == "tf32"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    _let_cudnn_round(allowed)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        _let_cudnn_round(before[1])


def _let_cudnn_round(allowed: bool) -> None:
    # Not by assignment: PyTorch refuses that once its own test helpers were imported.
    torch.backends.cudnn.set_flags(_allow_tf32=allowed, _fp32_precision=None)  # type: ignore[no-untyped-call]


def flat_call(
    call: Callable[..., Any], subject: Subject
) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """`call`, which takes what `forward` takes, as a function of the flat inputs."""
    return Calling(subject.signature).adapt(call)
