"""An execution plan: everything about *how* a graph is run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nncompile_runtime.machine import Machine

MAX_BATCH = 2**20  # the largest batch that a plan can be stored for, and the largest micro-batch
LONGEST_WINOGRAD = 1024  # characters of a list of convolutions
MOST_GRAPHS = 4  # CUDA graphs that are kept at once where memory is limited
_LAYER = "x".join(["[1-9][0-9]{0,8}"] * 4) + "@" + "x".join(["[1-9][0-9]{0,8}"] * 2)
_WINOGRAD = re.compile(f"auto|always|never|{_LAYER}(,{_LAYER})*", re.ASCII)
_CUDA_FIELDS = (
    "cudnn_search", "cudnn_max_workspace", "channels_last", "fuse_bias", "cuda_graph", "arena_strategy",
    "gpu_memory_limit",
)  # fmt: skip
_CPU_FIELDS = (
    "spin_microseconds", "dynamic_block_base", "blocked_layout", "arena", "pointwise_channels",
    "winograd", "lanes", "split",
)  # fmt: skip


class Plan(BaseModel):
    """How a graph is run. Plans come from files too, so every field has a closed range.

    Attributes:
        provider: ONNX Runtime's execution provider.
        device_id: Which GPU; 0 on the CPU.
        cudnn_search: How cuDNN chooses its convolutions. FusedConv: `exhaustive` times all algorithms. Conv:
            `exhaustive` is cuDNN's heuristic mode B, `heuristic` mode A, and nothing is timed. ONNX Runtime's
            DEFAULT is no choice: since 1.20 it takes cuDNN's fallback kernels.
        channels_last: Whether the CUDA provider turns convolutions to NHWC, the layout of tensor cores.
        fuse_bias: Whether a Conv adds its bias inside cuDNN's kernel instead of in a pass of its own; needs
            `channels_last`, because in NCHW ONNX Runtime 1.31.1 adds an earlier answer too (docs/cuda.md).
        cuda_graph: Whether small batches replay a captured CUDA graph (graphs.py).
        arena_strategy: How the memory that ONNX Runtime keeps on the GPU grows.
        gpu_memory_limit: Bytes of it, at most, of all sessions of the plan together, which have equal shares;
            None sets no limit.
        cudnn_max_workspace: Whether FusedConv's search may take as much memory as it wants; Conv does always.
        threads: Threads of ONNX Runtime's intra-operator pool, the calling thread included.
        spinning: Whether idle pool threads spin for a while before they sleep.
        spin_microseconds: How long they spin; None leaves it to ONNX Runtime.
        dynamic_block_base: Into how many blocks a thread's share of a loop is cut, so that a slow thread
            is left with less; 0 cuts as many shares as there are threads.
        blocked_layout: Whether ONNX Runtime may use its blocked NCHWc layout.
        arena: Whether ONNX Runtime keeps freed memory in an arena.
        memory_pattern: Whether it plans the memory of a run from an earlier one of the same shapes.
        pointwise_channels: Input channels that a blocked 1 x 1 convolution sums at once; None leaves it to
            ONNX Runtime. Only these values: others end the process (abort) instead of raising.
        micro_batch: Rows run at once; a larger batch is cut into pieces whose outputs are written
            straight into the result. None runs a batch whole, but for large ones on ONNX Runtime's own
            kernels for the CPU, which would keep what lies between layers for all rows (docs/plans.md).
        workers: Threads of the process's pool that run pieces at the same time, the caller's included;
            needs `micro_batch`. Each runs the session on `threads` threads. On a GPU: sessions, each with a
            stream, that calling threads are spread over.
        native: Whether fused regions run on the native kernels, where those are installed.
        exact: Whether the native kernels do without Winograd's algorithm, which is faster and rounds more;
            `winograd` says nothing then.
        winograd: Which convolutions the native kernels run by Winograd's algorithm, of those that it applies
            to: `auto` where it costs less, `always`, `never`, or the shapes of weight and output plane that
            it runs, such as `16x6x5x5@10x10,32x16x3x3@8x8`. One for all batches: it changes how sums round.
        lanes: Whether they may run small networks with a sample in each lane of a vector; as `winograd`, one
            for all batches.
        split: Operations of a layer from which on several threads share it, where a call has fewer samples
            than threads; None leaves it to the kernels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    provider: Literal["cpu", "cuda"] = "cpu"
    device_id: Annotated[int, Field(ge=0, le=255)] = 0
    cudnn_search: Literal["exhaustive", "heuristic"] = "exhaustive"
    channels_last: bool = False
    fuse_bias: bool = False
    cuda_graph: bool = False
    arena_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] = "kNextPowerOfTwo"
    gpu_memory_limit: Annotated[int, Field(ge=2**20, le=2**42)] | None = None
    cudnn_max_workspace: bool = True
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    spinning: bool = True
    spin_microseconds: Annotated[int, Field(ge=0, le=10**6)] | None = None
    dynamic_block_base: Annotated[int, Field(ge=0, le=64)] = 0
    blocked_layout: bool = True
    arena: bool = True
    memory_pattern: bool = True
    pointwise_channels: Literal[32, 64, 128, 256, 512] | None = None
    micro_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    native: bool = True
    exact: bool = False
    winograd: Annotated[str, Field(max_length=LONGEST_WINOGRAD)] = "auto"
    lanes: bool = True
    split: Annotated[int, Field(ge=0, le=10**9)] | None = None

    @field_validator("winograd")
    @classmethod
    def _names_layers(cls, text: str) -> str:
        if not _WINOGRAD.fullmatch(text):
            raise ValueError("neither auto, always, never nor layers such as 16x6x5x5@10x10 between commas")
        return text

    @model_validator(mode="after")
    def _workers_have_pieces(self) -> Plan:
        if self.workers > 1 and self.micro_batch is None and self.provider == "cpu":
            raise ValueError("workers share the pieces of a batch, so micro_batch must be given")
        return self

    @model_validator(mode="after")
    def _fields_fit_the_device(self) -> Plan:
        foreign = _CUDA_FIELDS if self.provider == "cpu" else _CPU_FIELDS
        here, there = ("cpu", "cuda") if self.provider == "cpu" else ("cuda", "cpu")
        for name in foreign:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for provider={there!r}, and this plan's is {here!r}")
        if self.provider == "cpu" and self.device_id:
            raise ValueError("device_id counts GPUs, and this plan's provider is 'cpu'")
        if self.fuse_bias and not self.channels_last:
            raise ValueError("fuse_bias answers wrongly in NCHW, so channels_last=True must be given")
        return self

    @property
    def session(self) -> Plan:
        """What a session is made from: the plan without what batching decides call by call."""
        changes: dict[str, Any] = {"micro_batch": None, "workers": 1, "cuda_graph": False}
        if self.gpu_memory_limit is not None:
            sessions = self.workers * (1 + MOST_GRAPHS if self.cuda_graph else 1)
            changes["gpu_memory_limit"] = self.gpu_memory_limit // sessions
        return self.model_copy(update=changes)

    def __str__(self) -> str:
        """The device, and each field that is not as in `Plan()`: `cpu threads=2 native=False`."""
        fields = self.model_dump(exclude_defaults=True, exclude={"provider", "device_id", "threads"})
        settings = {"threads": self.threads, **fields}
        return " ".join([self.device, *(f"{name}={value}" for name, value in settings.items())])

    @property
    def device(self) -> str:
        """`cpu`, or `cuda:0` and so on."""
        return self.provider if self.provider == "cpu" else f"{self.provider}:{self.device_id}"


def default_plan(
    machine: Machine,
    provider: Literal["cpu", "cuda"] = "cpu",
    device_id: int = 0,
    *,
    exact: bool = False,
    channels_last: bool = False,
) -> Plan:
    """The plan where nothing was measured; `channels_last` is for a GPU (cuda_options.channels_last)."""
    last = channels_last and provider == "cuda"
    return Plan(
        provider=provider, device_id=device_id, threads=machine.processors, exact=exact, channels_last=last
    )


def plain_plan(
    machine: Machine, provider: Literal["cpu", "cuda"] = "cpu", device_id: int = 0, *, exact: bool = False
) -> Plan:
    """ONNX Runtime with its default options, on as many threads as this process may keep busy."""
    default = default_plan(machine, provider, device_id, exact=exact)
    return default.model_copy(update={"native": False})
