"""Every network of models/ under torch.compile answers as eager does; what runs is compiled and verified."""

import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from models.lenet import LeNet5
from models.zoo import ZOO
from nncompile.dynamo import backend

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:dropout2d. Received a 2-D input")
@pytest.mark.parametrize("name", sorted(ZOO))
def test_networks_answer_as_eager(compiled, compiles, alike, name):
    entry = ZOO[name]
    shape = (3, 64, 64) if entry.input_shape == (3, 224, 224) else entry.input_shape
    net = entry.build().eval()
    y = alike(compiled(net), net, torch.randn(2, *shape))
    assert isinstance(y, torch.Tensor)
    assert len(compiles) == 1
    assert compiles[0]["model"].report.verification.status == "verified"


def test_one_graph_without_a_break(compiled, compiles, alike):
    net = LeNet5().eval()
    alike(compiled(net, fullgraph=True), net, torch.randn(2, 1, 32, 32))
    assert len(compiles) == 1


def test_weights_are_constants_of_the_graph(compiled, compiles, alike):
    """Else no pass could fold or fuse anything."""
    net = LeNet5().eval()
    alike(compiled(net), net, torch.randn(2, 1, 32, 32))
    model = compiles[0]["model"]
    assert [spec.shape for spec in model.inputs] == [(2, 1, 32, 32)]
    assert len(model.artifact) > sum(weight.nbytes for weight in net.parameters())


def test_under_inference_mode(compiled, compiles):
    net = LeNet5().eval()
    call = compiled(net)
    with torch.inference_mode():
        x = torch.randn(2, 1, 32, 32)
        torch.testing.assert_close(call(x), net(x), rtol=1e-4, atol=1e-5)
    assert len(compiles) == 1


def test_a_module_made_under_inference_mode(compiled, compiles):
    """Its weights have no version that could be looked at."""
    with torch.inference_mode():
        net, x = torch.nn.Linear(4, 3), torch.randn(2, 4)
        call = compiled(net, options={"frozen": True})
        torch.testing.assert_close(call(x), net(x))
        net.weight.mul_(2)
        torch.testing.assert_close(call(x), net(x))
    assert len(compiles) == 2


def test_the_entry_point_is_the_backend():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    group = points["torch_dynamo_backends"]
    assert list(group) == ["nncompile"]
    point = EntryPoint("nncompile", group["nncompile"], "torch_dynamo_backends")
    assert point.load() is backend


def test_by_name_once_it_is_installed(tmp_path):
    """torch finds the backend in the metadata of a distribution, in a process that imported no nncompile."""
    info = tmp_path / "nncompile_here-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nncompile-here\nVersion: 0\n")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"{name} = {value}" for name, value in points["torch_dynamo_backends"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[torch_dynamo_backends]", *lines]))
    code = f"""
        import sys
        sys.path[:0] = {[str(tmp_path), str(ROOT), str(ROOT / "runtime")]!r}
        import torch
        assert "nncompile" in torch.compiler.list_backends()
        net = torch.nn.Linear(4, 3).requires_grad_(False)
        x = torch.randn(2, 4)
        torch.testing.assert_close(torch.compile(net, backend="nncompile")(x), net(x))
        assert "nncompile.dynamo" in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}])
def test_transformers(compiled, compiles, alike, options):
    """In evaluation without gradients dynamo sees one operator of PyTorch's fast path for a whole layer."""
    net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options).eval()
    call = compiled(net)
    alike(call, net, torch.randn(2, 5, 8))
    alike(call, net, torch.randn(3, 5, 8))
    assert [c["dynamic_batch"] for c in compiles] == [False, True]
