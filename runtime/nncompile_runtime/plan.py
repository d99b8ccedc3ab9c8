"""An execution plan: everything about *how* a graph is run, and which plan is chosen."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nncompile_runtime.errors import PlanError
from nncompile_runtime.machine import Machine

MAX_BATCH = 2**20  # the largest batch that a plan can be stored for, and the largest micro-batch
LONGEST_WINOGRAD = 1024  # characters of a list of convolutions
MOST_GRAPHS = 4  # CUDA graphs that are kept at once where memory is limited
_MOST_REGIMES = 64
_LAYER = "x".join(["[1-9][0-9]{0,8}"] * 4) + "@" + "x".join(["[1-9][0-9]{0,8}"] * 2)
_WINOGRAD = re.compile(f"auto|always|never|{_LAYER}(,{_LAYER})*", re.ASCII)
_log = logging.getLogger("nncompile")
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


Plans = Mapping[int, Plan]
"""Plans by the smallest batch that each serves; the first key is 1."""


def disagreement(plans: Plans) -> str | None:
    """Why plans may not serve one model: a sample would be rounded in another way in another batch.

    ONNX Runtime's kernels and the native ones round differently as well; what is refused here is that the
    native ones, which promise the same bits whatever the batch, run two algorithms.
    """
    served: dict[str, int] = {}
    for start, plan in sorted(plans.items()):
        if plan.native:
            served.setdefault(_algorithms(plan), start)
    if len(served) < 2:
        return None
    (one, first), (other, second), *_ = served.items()
    return f"the native kernels' algorithms would be {one!r} at batch {first} and {other!r} at batch {second}"


def _algorithms(plan: Plan) -> str:
    """What the native kernels round by: as defined, all layouts round alike."""
    if plan.exact or plan.winograd == "never":
        return "never"
    return plan.winograd if plan.lanes else f"{plan.winograd} without lanes"


def plain_plan(
    machine: Machine, provider: Literal["cpu", "cuda"] = "cpu", device_id: int = 0, *, exact: bool = False
) -> Plan:
    """ONNX Runtime with its default options, on as many threads as this process may keep busy."""
    default = default_plan(machine, provider, device_id, exact=exact)
    return default.model_copy(update={"native": False})


def choose(
    user: Plan | Mapping[str, Any] | None,
    stored: Mapping[str, Mapping[str, Any]],
    machine: Machine,
    provider: Literal["cpu", "cuda"] = "cpu",
    device_id: int = 0,
    *,
    exact: bool = False,
    channels_last: bool = False,
) -> dict[int, Plan]:
    """The plans to run: the user's, else those stored for this machine, else the default.

    Args:
        user: A plan, or its fields; it serves every batch.
        stored: The manifest's plans by `key`.
        machine: The machine at hand.
        provider: The provider to run on, where the user gave no plan.
        device_id: The GPU to run on, where the user gave no plan.
        exact: What the model was compiled for; a plan that does not speak of it takes it over.
        channels_last: What the default plan says of it on a GPU.

    Returns:
        Plans by the smallest batch that each serves, in order; the first key is 1.

    Raises:
        PlanError: The user's plan is invalid. Stored ones that are invalid are only warned about,
            because they come from a file and the default is always safe.
    """
    if user is not None:
        return {1: _of_user(user, exact=exact)}
    default = default_plan(machine, provider, device_id, exact=exact, channels_last=channels_last)
    kept = stored.get(key(machine, default))
    if kept is None:
        return {1: default}
    try:
        plans = {
            _batch(start): Plan.model_validate({"exact": exact, **fields}) for start, fields in kept.items()
        }
        if 1 not in plans or len(plans) > _MOST_REGIMES:
            raise ValueError(f"there is none for a batch of 1, or more than {_MOST_REGIMES}")
        fault = disagreement(plans)
        if fault is not None:
            raise ValueError(fault)
    except (ValueError, TypeError) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        _log.warning("The stored plans for this machine are invalid (%s); using the default.", why)
        return {1: default}
    fit = all(
        plan.device == default.device
        and plan.threads * (plan.workers if plan.provider == "cpu" else 1) <= machine.processors
        for plan in plans.values()
    )
    return dict(sorted(plans.items())) if fit else {1: default}


def key(machine: Machine, plan: Plan) -> str:
    """The key of a manifest's `plans` under which those of one machine and device are kept."""
    return machine.fingerprint + ("" if plan.provider == "cpu" else f" | {plan.device}")


def stored_form(plans: Plans) -> dict[str, Any]:
    """What the manifest keeps under `key`: the fields that differ from `Plan()`, by smallest batch."""
    return {str(start): plan.model_dump(exclude_defaults=True) for start, plan in sorted(plans.items())}


def _of_user(user: Plan | Mapping[str, Any], *, exact: bool) -> Plan:
    if isinstance(user, Plan):
        speaks = "exact" in user.model_fields_set or not exact
        return user if speaks else user.model_copy(update={"exact": True})
    if not isinstance(user, Mapping):
        raise PlanError(
            f"The plan is a {type(user).__name__}.",
            remedy="Give a nncompile.Plan or a dict of its fields.",
        )
    try:
        return Plan.model_validate({"exact": exact, **user})
    except ValidationError as error:
        raise PlanError(
            f"The plan is invalid: {_first(error)}.",
            remedy=f"Its fields are {', '.join(Plan.model_fields)}.",
        ) from None


def _batch(text: str) -> int:
    """The batch that a stored plan begins at."""
    if (
        text.isascii()
        and text.isdigit()
        and not text.startswith("0")
        and len(text) < 8
        and int(text) <= MAX_BATCH
    ):
        return int(text)
    raise ValueError(f"{text[:40]!r} is no batch from 1 to {MAX_BATCH}")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'plan'}: {first['msg']}"
