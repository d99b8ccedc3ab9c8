"""fuse-linear-relu in a compile: what is measured decides, for each layer, and is said in the reports."""

import onnx
import pytest
import torch
from torch import nn

import nncompile
from nncompile import passes
from nncompile.cli._graph_tables import pass_lines
from nncompile.cli._graphs import Explained
from nncompile.options import CompileOptions
from nncompile.passes import fuse_linear_relu
from nncompile.passes.fuse_linear_relu import FUSE_LINEAR_RELU, Linear, measured
from nncompile.passes.layer_race import Verdict
from nncompile_runtime import PassError
from nncompile_runtime.devices import NVIDIA_DRIVER

GAIN = "FusedConv is 1.50 times as fast"
FASTER = Verdict(True, GAIN)


class Mlp(nn.Module):
    """Two linear layers of one shape with Relu, one of another, and one without."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.third, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.last(self.third(x).relu())


class Cnn(nn.Module):
    """A convolution, and a linear layer with Relu."""

    def __init__(self, activation):
        super().__init__()
        self.conv, self.activation = nn.Conv2d(1, 4, 3), activation
        self.hidden, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.activation(self.conv(x)).mean((2, 3))
        return self.last(self.hidden(x).relu())


@pytest.fixture
def given(monkeypatch):
    """Verdicts in place of measurements on a GPU; what was asked for."""
    asked = []

    def measure(layer, precision, device):
        asked.append((layer, precision, device))
        return FASTER

    monkeypatch.setattr(fuse_linear_relu, "measured", measure)
    return asked


def compiled(module, *shape, **options):
    torch.manual_seed(0)
    return nncompile.compile(module, torch.randn(2, *shape), target="cuda", **options)


def report(model):
    return next(step for step in model.report.passes if step.name == "fuse-linear-relu")


def test_a_compile_where_it_is_faster(given, tmp_path):
    torch.manual_seed(1)
    net = Mlp()
    model = compiled(net, 6)
    assert model.report.verification.dropped_passes == ()
    assert report(model).changes == 3
    assert f"fuse-linear-relu: {report(model).firings[0].node} and 2 more: {GAIN}" in str(model.report)
    (plain,) = [step for step in model.report.as_dict()["passes"] if step["name"] == "fuse-linear-relu"]
    assert [firing["gain"] for firing in plain["firings"]] == [GAIN] * 3
    assert model.report.as_dict()["caveats"] == [
        "opens in ONNX Runtime only: com.microsoft.FusedConv is outside the ONNX standard"
    ]
    (line,) = [line for line in pass_lines([Explained("", report(model))]) if "fired" in line]
    assert line.endswith(f": {GAIN}")
    model.save(tmp_path / "net.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    loaded = nncompile.load(tmp_path / "net.onnx", device="cpu")
    for rows in (0, 1, 5):
        x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad():
            torch.testing.assert_close(loaded.predict(x), net(x), rtol=1e-5, atol=1e-6)
    assert {device for _, _, device in given} == {"cuda:0"}


@pytest.mark.parametrize(("precision", "changes"), [("float32", 3), ("tf32", 3), ("float16", 0)])
def test_precisions(given, precision, changes):
    model = compiled(Mlp(), 6, precision=precision)
    assert report(model).changes == changes
    assert {asked for _, asked, _ in given} == ({precision} if changes else set())
    reasons = {refusal.reason for refusal in report(model).refusals}
    assert reasons == (set() if changes else {"the CUDA kernel is for float32, not float16"})


@pytest.mark.parametrize(
    ("precision", "activation", "changes"),
    [
        ("tf32", nn.SiLU(), 0),
        ("tf32", nn.ReLU(), 1),
        ("tf32", nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.SiLU()), 1),
        ("float32", nn.SiLU(), 1),
    ],
)
def test_channels_last_is_not_ruled_out_for_a_linear_layer(given, precision, activation, changes):
    """In TF32 tuning tries it, unless a convolution became a FusedConv."""
    model = compiled(Cnn(activation), 1, 5, 5, precision=precision)
    assert report(model).changes == changes
    said = [refusal.reason for refusal in report(model).refusals]
    assert said == [] if changes else ["channels_last" in reason for reason in said] == [True]


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="there is a GPU")
def test_a_compile_without_a_gpu():
    model = compiled(Mlp(), 6)
    assert report(model).changes == 0
    (line,) = [line for line in str(model.report).splitlines() if "fuse-linear-relu: left" in line]
    assert " and 2 more alone: nothing was measured: cuda:0 cannot be had: " in line
    assert model.report.as_dict()["caveats"] == []


def test_a_compile_on_what_is_measured(monkeypatch):
    """On the CPU, in place of a GPU: each shape is measured once, and decides."""
    monkeypatch.setattr(fuse_linear_relu, "_DEVICE", "cpu")
    measured.cache_clear()
    model = compiled(Mlp(), 6)
    assert measured.cache_info().misses == 2
    verdicts = [measured(Linear(6, size, transposed=True), "float32", "cpu") for size in (6, 4)]
    assert report(model).changes == sum(count * v.faster for count, v in zip((2, 1), verdicts, strict=True))
    told = {refusal.reason for refusal in report(model).refusals} | {f.gain for f in report(model).firings}
    assert told == {v.said for v in verdicts}


def test_selection_by_target():
    chosen = passes.selected(CompileOptions(target="cuda", passes=("fuse-linear-relu",)))
    assert [step.name for step in chosen] == ["fuse-linear-relu"]
    for target in ("portable", "cpu"):
        names = [step.name for step in passes.selected(CompileOptions(target=target))]
        assert FUSE_LINEAR_RELU.name not in names
        with pytest.raises(PassError, match=f"'fuse-linear-relu' is not for target='{target}'"):
            passes.selected(CompileOptions(target=target, passes=("fuse-linear-relu",)))
