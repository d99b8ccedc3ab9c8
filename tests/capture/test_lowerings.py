"""What replaces torch's own operators while a module is captured answers as they do, in eager PyTorch."""

import itertools

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.capture import fractional, losses, pools, substitutions
from nncompile_runtime import InputError

EXACT = {"rtol": 1e-6, "atol": 1e-6}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("sizes", "outputs"), [((7,), (3,)), ((5, 8), (5, 3)), ((4, 9, 6), (3, 4, 6)), ((3,), (7,))]
)
def test_adaptive_pools_of_every_size(sizes, outputs):
    x = torch.randn(2, 3, *sizes)
    rank = len(sizes)
    average = getattr(functional, f"adaptive_avg_pool{rank}d")(x, outputs)
    torch.testing.assert_close(pools.adaptive_avg_pool(x, outputs), average, **EXACT)
    expected = getattr(functional, f"adaptive_max_pool{rank}d")(x, outputs, return_indices=True)
    for got, want in zip(pools.adaptive_max_pool(x, outputs), expected, strict=True):
        assert torch.equal(got, want)


class Clamp(nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return x.clamp(self.low, self.high)


@pytest.mark.parametrize("bounds", [(-1, 0.5), (-0.5, 1), (0, 6), (-1, None), (None, 0.5), (-0.5, 0.5)])
def test_clamp_with_bounds_of_two_types(bounds):
    net, x = Clamp(*bounds), torch.randn(3, 50)
    assert torch.equal(nncompile.compile(net, x[:2]).predict(x), net(x))


class Each(nn.Module):
    """What every layer makes of the same input."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return [layer(x) for layer in self.layers]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "window"),
    [
        (8, {"kernel_size": 1, "stride": 3}),  # a window would start behind the end
        (8, {"kernel_size": 2, "stride": 3, "padding": 1}),  # behind the padding
        (7, {"kernel_size": 2, "stride": 2}),  # a window over the edge, as ONNX counts too
        ((7, 8, 8), {"kernel_size": (2, 1, 1), "stride": (2, 3, 1)}),  # one axis of each kind
    ],
)
def test_ceil_mode(size, window, rank):
    sizes = size[:rank] if isinstance(size, tuple) else (size,) * rank
    window = {name: part[:rank] if isinstance(part, tuple) else part for name, part in window.items()}
    x = torch.randn(3, 2, *sizes) - 9
    pools = [getattr(nn, f"MaxPool{rank}d")(**window, ceil_mode=True)]
    if not isinstance(size, tuple):
        pools += [
            getattr(nn, f"AvgPool{rank}d")(**window, ceil_mode=True, count_include_pad=counted)
            for counted in (True, False)
        ]
    got = nncompile.compile(Each(pools), x[:2]).predict(x)
    torch.testing.assert_close(got, Each(pools)(x), **EXACT)


class Pooled(nn.Module):
    """A pool whose result is an output and is used elsewhere too."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.norm = pool, nn.BatchNorm2d(7)

    def forward(self, x):
        y = self.pool(x)
        return y, self.norm((y + y.mean((2, 3), keepdim=True)).relu())


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d((2, 1), (2, 3), dilation=2, ceil_mode=True),
        nn.AvgPool2d((2, 1), (2, 3), ceil_mode=True),
    ],
    ids=["maximum", "average"],
)
def test_ceil_mode_does_not_change_the_declared_shape(pool):
    net = Pooled(pool).eval()
    x = torch.randn(3, 7, 6, 8)
    torch.testing.assert_close(nncompile.compile(net, x[:2]).predict(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [1, (0, 2, 1), "same"])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"dilation": 2}, {"bias": True}])
def test_conv3d_without_bias(options, padding):
    net, x = nn.Conv3d(4, 6, 3, padding=padding, **{"bias": False, **options}), torch.randn(3, 4, 6, 5, 7)
    torch.testing.assert_close(nncompile.compile(net, x[:2]).predict(x), net(x), rtol=1e-5, atol=1e-5)


def test_batch_norm_behind_conv3d_without_bias_is_folded():
    net = nn.Sequential(nn.Conv3d(2, 3, 2, bias=False), nn.BatchNorm3d(3)).eval()
    report = nncompile.compile(net, torch.randn(2, 2, 3, 4, 3)).report
    assert {entry.name: entry.changes for entry in report.passes}["fold-batch-norm"] == 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 2, 2)])
def test_cross_entropy_of_indices(shape, weighted, smoothing, reduction):
    x = torch.randn(shape)
    target = torch.randint(4, (shape[0], *shape[2:]) if len(shape) > 1 else ())
    if target.dim():
        target.view(-1)[0] = -100
    weight = torch.rand(4) + 0.1 if weighted else None
    options = {"weight": weight, "label_smoothing": smoothing}
    want = functional.cross_entropy(x, target, reduction=reduction, **options)
    torch.testing.assert_close(
        losses.cross_entropy(x, target, reduction=REDUCTIONS[reduction], **options), want, **EXACT
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 2)])
def test_cross_entropy_of_probabilities(shape, weighted, reduction):
    x, target = torch.randn(shape), torch.randn(shape).softmax(1 if len(shape) > 1 else 0)
    weight = torch.rand(4) + 0.1 if weighted else None
    want = functional.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=0.2)
    got = losses.cross_entropy(x, target, weight, REDUCTIONS[reduction], label_smoothing=0.2)
    torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 2), (3, 4, 2, 2)])
def test_nll(shape, weighted, reduction):
    logp = torch.randn(shape).log_softmax(1 if len(shape) > 1 else 0)
    target = torch.randint(4, (shape[0], *shape[2:]) if len(shape) > 1 else ())
    weight = torch.rand(4) + 0.1 if weighted else None
    ignored = int(target.reshape(-1)[0]) if target.dim() else -100
    want = functional.nll_loss(logp, target, weight, ignore_index=ignored, reduction=reduction)
    torch.testing.assert_close(
        losses.nll(logp, target, weight, REDUCTIONS[reduction], ignored), want, **EXACT
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_an_ignored_target_counts_nothing_where_a_class_is_impossible(smoothing):
    x, target = torch.tensor([[-torch.inf, 1.0, 2.0], [0.0, 1.0, 2.0]]), torch.tensor([-100, 1])
    want = functional.cross_entropy(x, target, label_smoothing=smoothing)
    assert want.isfinite()
    torch.testing.assert_close(losses.cross_entropy(x, target, label_smoothing=smoothing), want, **EXACT)


class ByElement(nn.Module):
    """What a loss of class indices is for each target."""

    def __init__(self, loss, **options):
        super().__init__()
        self.loss = loss(reduction="none", **options)

    def forward(self, x, target):
        return self.loss(x.log_softmax(1), target)


@pytest.mark.parametrize("loss", [nn.NLLLoss, nn.CrossEntropyLoss])
@pytest.mark.parametrize("sizes", [(), (2,)])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 1, "weight": torch.tensor([0.5, 1, 2, 3])}])
def test_a_loss_by_element(loss, sizes, options):
    net, x, target = ByElement(loss, **options), torch.randn(3, 4, *sizes), torch.randint(4, (3, *sizes))
    model = nncompile.compile(net, (x[:2], target[:2]))
    torch.testing.assert_close(model.predict(x, target), net(x, target), **EXACT)
    for wrong in (-1, 4):
        target.view(-1)[2] = wrong
        with pytest.raises(IndexError, match="out of bounds"):
            net(x, target)
        with pytest.raises(InputError, match="outside its table"):
            model.predict(x, target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", list(itertools.product([False, True], repeat=2)))
def test_bce_with_logits(weights, reduction):
    x, target = torch.randn(3, 4) * 200, torch.rand(3, 4)
    weight, pos_weight = (torch.rand(4) + 0.5 if given else None for given in weights)
    want = functional.binary_cross_entropy_with_logits(
        x, target, weight, pos_weight=pos_weight, reduction=reduction
    )
    got = losses.bce_with_logits(x, target, weight, pos_weight, REDUCTIONS[reduction])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_log_sigmoid(scale):
    x = torch.randn(1000) * scale
    torch.testing.assert_close(losses.log_sigmoid(x), functional.logsigmoid(x), **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 1), (3,)])
def test_gaussian_nll(shape, full, reduction):
    x, target, var = torch.randn(3, 4), torch.randn(3, 4), torch.rand(shape)
    want = functional.gaussian_nll_loss(x, target, var, full=full, reduction=reduction)
    got = losses.gaussian_nll(x, target, var, full=full, reduction=reduction)
    torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_multilabel_margin(shape, reduction):
    x = torch.randn(shape)
    target = torch.tensor([3, 1, -1, 0, 2]).expand(shape).clone()
    want = functional.multilabel_margin_loss(x, target, reduction=reduction)
    torch.testing.assert_close(losses.multilabel_margin(x, target, REDUCTIONS[reduction]), want, **EXACT)


def test_ctc_with_padding_that_is_no_class():
    scores, targets = torch.randn(8, 3, 5).log_softmax(2), torch.tensor([[1, 2, 3], [4, 1, -1], [2, -1, 9]])
    steps, lengths = torch.tensor([8, 8, 7]), torch.tensor([3, 2, 1])
    want = functional.ctc_loss(scores, targets, steps, lengths, reduction="none")
    got = losses.ctc(scores, targets, steps, lengths, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("zero_infinity", [True, False])
def test_ctc(spread, zero_infinity, reduction):
    scores = torch.randn(8, 3, 5).log_softmax(2)
    steps, lengths = torch.tensor([8, 6, 2]), torch.tensor([3, 0, 4])  # the last cannot fit: infinite
    targets = torch.randint(1, 5, (3, 4)) if not spread else torch.randint(1, 5, (7,))
    options = {"reduction": reduction, "zero_infinity": zero_infinity}
    want = functional.ctc_loss(scores, targets, steps, lengths, **options)
    torch.testing.assert_close(
        losses.ctc(scores, targets, steps, lengths, **options), want, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cross_map_lrn(size):
    x = torch.randn(2, 7, 3, 3)
    layer = nn.CrossMapLRN2d(size, alpha=0.5, k=2)
    want = layer(x)
    with substitutions.substituted(layer):
        torch.testing.assert_close(layer(x), want, **EXACT)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("options", [{"output_size": 3}, {"output_ratio": 0.6}])
def test_fractional_max_pool(rank, options):
    x = torch.randn(2, 3, *[9, 8, 7][:rank])
    samples = torch.rand(2, 3, rank)
    kind = getattr(nn, f"FractionalMaxPool{rank}d")
    layer = kind(2, return_indices=True, _random_samples=samples, **options)
    want = layer(x)
    with substitutions.substituted(layer):
        got = layer(x)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))
    assert not fractional._samples


def test_fractional_max_pool_in_bfloat16():
    layer = nn.FractionalMaxPool3d(2, output_size=3, _random_samples=torch.rand(2, 3, 3))
    x = torch.randn(2, 3, 9, 8, 7)
    model = nncompile.compile(layer, x, precision="bfloat16", dynamic_batch=False)
    torch.testing.assert_close(model(x), layer(x), rtol=2**-8, atol=0)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 2.5, -0.7])
def test_celu_is_no_operator_of_its_own(alpha):
    layer = nn.CELU(alpha)
    x = torch.cat([3 * torch.randn(2, 40), torch.tensor([[0.0, -0.0, torch.inf, -30.0, torch.nan]] * 2)], 1)
    model = nncompile.compile(layer, x)
    assert "Celu" not in {node.op_type for node in onnx.load_from_string(model.artifact).graph.node}
    torch.testing.assert_close(model(x), layer(x), equal_nan=True, **EXACT)


def test_adaptive_log_softmax():
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8])
    x, target = torch.randn(6, 8), torch.tensor([0, 3, 4, 7, 8, 11])
    want = layer(x, target)
    with substitutions.substituted(layer):
        got = layer(x, target)
    torch.testing.assert_close(got.output, want.output, **EXACT)
    torch.testing.assert_close(got.loss, want.loss, **EXACT)


def test_torch_is_as_it_was_afterwards():
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in substitutions._SUBSTITUTES]

    def fail():
        with substitutions.substituted(nn.Identity()):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(getattr(owner, name) is original for owner, name, original in before)
