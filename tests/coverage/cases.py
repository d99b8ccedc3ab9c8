"""What torch.nn offers, as modules with inputs: PyTorch's own module database, and what it leaves out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.testing._internal.common_modules import module_db

Build = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


# What has no meaning in inference, and why.
MEANINGLESS = {
    "Container": "an old name of Module, without a forward",
    "Module": "the base class, without a forward",
    "RNNBase": "the base class of RNN, LSTM and GRU",
    "RNNCellBase": "the base class of the cells",
}


def without_a_meaning() -> str:
    """The part of docs/coverage.md on the classes that are not compiled."""
    lines = [f"- `{kind}`: {reason}" for kind, reason in MEANINGLESS.items()]
    return "\n".join(["Without a meaning in inference:", "", *lines]) + "\n"


@dataclass(frozen=True)
class Case:
    """One way to construct and call a class.

    Attributes:
        kind: The class's name in torch.nn.
        label: Which of its constructor options and inputs.
        build: Makes the module, its positional and its keyword inputs; seeded.
    """

    kind: str
    label: str
    build: Build


# The database gives these their samples in float64, which the layers want to match the input.
_DOUBLE = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def from_database() -> Iterator[Case]:
    """Every constructor option and input that PyTorch's module database tries."""
    for info in module_db:
        dtype = torch.float64 if info.module_cls in _DOUBLE else torch.float32
        inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False)
        for number, entry in enumerate(inputs):
            label = entry.desc or f"{number}"
            yield Case(
                info.module_cls.__name__, f"{number}: {label}", _database_build(info.module_cls, entry)
            )


def _database_build(kind: type[nn.Module], entry: Any) -> Build:
    def build() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        torch.manual_seed(0)
        made = kind(*entry.constructor_input.args, **entry.constructor_input.kwargs)
        return made, tuple(entry.forward_input.args), dict(entry.forward_input.kwargs)

    return build


def _case(kind: str, label: str, make: Callable[[], nn.Module], *inputs: Any, **named: Any) -> Case:
    def build() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        torch.manual_seed(0)
        return make(), inputs, named

    return Case(kind, label, build)


def _x(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _live_norm(norm: nn.Module) -> nn.Module:
    """A norm whose running statistics are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    norm.running_mean = torch.randn(norm.num_features, generator=generator)
    norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.5
    return norm


class _Registry(nn.Module):
    """Containers that have no forward of their own, used as a user would."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.named = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))])
        self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.randn(4))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = self.named["relu"](layer(x)) * scale
        return self.named["tanh"](x) + self.shifts["a"]


class _Unpooled(nn.Module):
    """Max-unpooling needs the indices of a pooling."""

    def __init__(self, dimensions: int, **options: Any) -> None:
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{dimensions}d")(2, return_indices=True, **options)
        self.unpool = getattr(nn, f"MaxUnpool{dimensions}d")(2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unpool(*self.pool(x))


def left_out() -> Iterator[Case]:
    """Classes that the module database does not hold."""
    ids = torch.tensor([[1, 2, 4], [4, 3, 2], [0, 5, 6]])
    yield _case(
        "AdaptiveLogSoftmaxWithLoss",
        "two cutoffs",
        lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8]),
        _x(3, 8),
        torch.tensor([0, 5, 11]),
    )
    for kind in ("AlphaDropout", "Dropout", "FeatureAlphaDropout"):
        yield _case(kind, "eval", lambda kind=kind: getattr(nn, kind)(0.3), _x(3, 4))
    for n, shape in ((1, (3, 4, 5)), (2, (3, 4, 5, 5)), (3, (3, 4, 3, 5, 5))):
        yield _case(f"Dropout{n}d", "eval", lambda n=n: getattr(nn, f"Dropout{n}d")(0.3), _x(*shape))
        for affine in (True, False):
            lazy = f"LazyInstanceNorm{n}d"
            yield _case(
                lazy, f"affine={affine}", lambda k=lazy, a=affine: getattr(nn, k)(affine=a), _x(*shape)
            )
        yield _case(
            f"LazyBatchNorm{n}d", "default", lambda n=n: getattr(nn, f"LazyBatchNorm{n}d")(), _x(*shape)
        )
        yield _case(f"MaxUnpool{n}d", "with indices", lambda n=n: _Unpooled(n), _x(3, 2, *[6] * n))
        yield _case(
            f"BatchNorm{n}d",
            "live statistics",
            lambda n=n: _live_norm(getattr(nn, f"BatchNorm{n}d")(4)),
            _x(*shape),
        )
    yield _case("ChannelShuffle", "two groups", lambda: nn.ChannelShuffle(2), _x(3, 4, 5, 5))
    yield _case("CosineSimilarity", "dim 1", lambda: nn.CosineSimilarity(), _x(3, 8), _x(3, 8, seed=1))
    yield _case("CosineSimilarity", "dim 2", lambda: nn.CosineSimilarity(2), _x(3, 8, 4), _x(3, 8, 4, seed=1))
    for size in (2, 3):
        yield _case("CrossMapLRN2d", f"size {size}", lambda s=size: nn.CrossMapLRN2d(s), _x(3, 6, 5, 5))
    yield _case("DataParallel", "one layer", lambda: nn.DataParallel(nn.Linear(4, 3)), _x(3, 4))
    for mode in ("sum", "mean", "max"):
        yield _case("EmbeddingBag", mode, lambda m=mode: nn.EmbeddingBag(10, 4, mode=m), ids)
    yield _case(
        "EmbeddingBag",
        "weights",
        lambda: nn.EmbeddingBag(10, 4, mode="sum"),
        ids,
        per_sample_weights=_x(3, 3),
    )
    yield _case("Flatten", "default", lambda: nn.Flatten(), _x(3, 4, 5))
    yield _case("Flatten", "dims 1 to 2", lambda: nn.Flatten(1, 2), _x(3, 4, 5, 6))
    yield _case("Fold", "stride 1", lambda: nn.Fold((4, 5), (2, 2)), _x(3, 8, 12))
    yield _case("Fold", "padding and stride", lambda: nn.Fold((6, 6), 3, padding=1, stride=2), _x(3, 18, 9))
    yield _case("Unfold", "default", lambda: nn.Unfold((2, 3)), _x(3, 2, 5, 6))
    yield _case(
        "Unfold", "all options", lambda: nn.Unfold(3, dilation=2, padding=1, stride=2), _x(3, 2, 9, 9)
    )
    yield _case("Hardsigmoid", "default", lambda: nn.Hardsigmoid(), _x(3, 4) * 4)
    yield _case("Identity", "default", lambda: nn.Identity(), _x(3, 4))
    yield _case("LazyLinear", "default", lambda: nn.LazyLinear(5), _x(3, 4))
    yield _case("ModuleList", "with ModuleDict, ParameterList, ParameterDict", _Registry, _x(3, 4))
    for kind in ("ModuleDict", "ParameterList", "ParameterDict"):
        yield _case(kind, "in one module", _Registry, _x(3, 4))
    yield _case(
        "NLLLoss2d",
        "default",
        lambda: nn.NLLLoss(),
        _x(3, 4, 5, 5).log_softmax(1),
        torch.randint(4, (3, 5, 5), generator=torch.Generator().manual_seed(0)),
    )
    yield _case("PairwiseDistance", "p=2", lambda: nn.PairwiseDistance(), _x(3, 8), _x(3, 8, seed=1))
    yield _case(
        "PairwiseDistance",
        "p=1, keepdim",
        lambda: nn.PairwiseDistance(1, keepdim=True),
        _x(3, 8),
        _x(3, 8, seed=1),
    )
    yield _case("PixelShuffle", "2", lambda: nn.PixelShuffle(2), _x(3, 8, 3, 4))
    yield _case("PixelUnshuffle", "2", lambda: nn.PixelUnshuffle(2), _x(3, 2, 6, 4))
    yield _case("RReLU", "eval", lambda: nn.RReLU(0.1, 0.5), _x(3, 4))
    yield _case(
        "Sequential",
        "three layers",
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        _x(3, 4),
    )
    yield _case("SyncBatchNorm", "eval", lambda: _live_norm(nn.SyncBatchNorm(4)), _x(3, 4, 5, 5))
    yield _case(
        "TransformerDecoder",
        "two layers",
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2),
        _x(3, 4, 8),
        _x(3, 5, 8, seed=1),
    )
    yield _case(
        "TripletMarginLoss",
        "default",
        lambda: nn.TripletMarginLoss(),
        _x(3, 8),
        _x(3, 8, seed=1),
        _x(3, 8, seed=2),
    )
    yield _case(
        "TripletMarginLoss",
        "swap",
        lambda: nn.TripletMarginLoss(swap=True, reduction="none"),
        _x(3, 8),
        _x(3, 8, seed=1),
        _x(3, 8, seed=2),
    )
    yield _case(
        "TripletMarginWithDistanceLoss",
        "cosine",
        lambda: nn.TripletMarginWithDistanceLoss(
            distance_function=lambda a, b: 1 - nn.functional.cosine_similarity(a, b)
        ),
        _x(3, 8),
        _x(3, 8, seed=1),
        _x(3, 8, seed=2),
    )
    yield _case("Unflatten", "default", lambda: nn.Unflatten(1, (2, 4)), _x(3, 8, 5))
    for mode, shape in (
        ("nearest", (3, 2, 4, 5)),
        ("bilinear", (3, 2, 4, 5)),
        ("bicubic", (3, 2, 4, 5)),
        ("trilinear", (3, 2, 3, 4, 5)),
        ("linear", (3, 2, 5)),
    ):
        yield _case("Upsample", mode, lambda m=mode: nn.Upsample(scale_factor=2, mode=m), _x(*shape))
    yield _case(
        "Upsample",
        "size, align_corners",
        lambda: nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
        _x(3, 2, 4, 5),
    )
    yield _case("UpsamplingBilinear2d", "2", lambda: nn.UpsamplingBilinear2d(scale_factor=2), _x(3, 2, 4, 5))
    yield _case("UpsamplingNearest2d", "2", lambda: nn.UpsamplingNearest2d(scale_factor=2), _x(3, 2, 4, 5))
    for options in (
        {},
        {"proj_size": 3},
        {"proj_size": 3, "num_layers": 2, "bidirectional": True, "batch_first": True},
    ):
        yield _case("LSTM", f"{options}", lambda o=options: nn.LSTM(4, 6, **o), _x(3, 5, 4))


def all_cases() -> list[Case]:
    """Everything, in a fixed order."""
    return [*from_database(), *left_out()]
