"""The batch dimension: widened, symbolic, fixed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nncompile_runtime import CaptureError


def shapes(specs):
    return [str(spec) for spec in specs]


class Attend(nn.Module):
    """Two inputs with the batch and one, a table, with a first dimension of its own."""

    def forward(self, x, table, y):
        return torch.cat([x @ table.T, y], dim=1), torch.cat([x, x])


@pytest.fixture(scope="module", params=[1, 3])
def attend(captured, request):
    batch = request.param
    example = (torch.randn(batch, 4), torch.randn(5, 4), torch.randn(batch, 2))
    return captured(Attend(), example), example


def test_the_batch_is_named(attend):
    model, _ = attend
    assert model.signature.batch == "batch"
    assert shapes(model.signature.inputs) == ["float32[batch, 4]", "float32[dim_1, 4]", "float32[batch, 2]"]
    first, second = model.signature.outputs
    assert first.shape[0] == "batch"
    assert second.shape == ("2*batch", 4)


def test_the_example_is_of_at_least_two_rows(attend):
    model, example = attend
    rows = max(len(example[0]), 2)
    assert [tuple(x.shape) for x in model.example] == [(rows, 4), (5, 4), (rows, 2)]
    torch.testing.assert_close(model.example[0][0], example[0][0], rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch(attend, answers_as_eager, batch):
    model, _ = attend
    answers_as_eager(model, torch.randn(batch, 4), torch.randn(3, 4), torch.randn(batch, 2))


class Reshape(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)  # fixed here


class AddRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(4, 1))

    def forward(self, x):
        y = x * 2
        return y + self.rows  # fixed here


class Inner(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 1


def line_of_the_cause(module):
    """`file:line` of the line that is marked in the module's source."""
    lines = Path(__file__).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"class {type(module).__name__}("))
    return f"{__file__}:{next(i for i in range(start, len(lines)) if '# fixed here' in lines[i]) + 1}"


@pytest.mark.parametrize("module", [Reshape(), AddRows()])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_fixed_batch_is_located(captured, module, wrapped):
    with pytest.raises(CaptureError, match="fixes its batch size") as caught:
        captured(Inner(module) if wrapped else module, torch.randn(4, 6))
    assert line_of_the_cause(module) in caught.value.problem
    assert "Write that line for any batch" in caught.value.remedy
    assert "dynamic_batch=False" in caught.value.remedy
    assert "--static" in caught.value.remedy


def test_a_batch_fixed_by_pytorchs_own_layers_is_not_blamed_on_the_caller(captured):
    with pytest.raises(CaptureError) as caught:
        captured(nn.Sequential(nn.Flatten(0), nn.Linear(8, 2)), torch.randn(2, 4))
    assert caught.value.problem == "The network fixes its batch size."
    assert "an example whose dimension 0 is the batch" in caught.value.remedy


class OtherSizeFirst(nn.Module):
    """Ties the batches of two inputs, and fixes the size of a third, before it fixes the batch."""

    def forward(self, x, y, table):
        z = x + y
        z = z @ table.reshape(5, 4).T
        return z.reshape(2, -1)  # fixed here


@pytest.mark.parametrize("batch", [2, 4])
def test_lines_that_are_right_for_any_batch_are_not_named(captured, batch):
    module = OtherSizeFirst()
    with pytest.raises(CaptureError, match="fixes its batch size") as caught:
        captured(module, (torch.randn(batch, 4), torch.randn(batch, 4), torch.randn(5, 4)))
    assert line_of_the_cause(module) in caught.value.problem


@pytest.mark.parametrize("batch", [1, 4])
def test_static(captured, answers_as_eager, batch):
    model = captured(
        Inner(Reshape() if batch == 4 else nn.Identity()), torch.randn(batch, 6), dynamic_batch=False
    )
    assert model.signature.batch is None
    assert shapes(model.signature.inputs) == [f"float32[{batch}, 6]"]
    assert [len(x) for x in model.example] == [batch]
    answers_as_eager(model, torch.randn(batch, 6))


class Collecting(nn.Module):
    def forward(self, x, **others):
        return x + others["y"]


class CollectingOnly(nn.Module):
    def forward(self, *parts, **others):
        return sum(parts) + others["y"] * others["z"]["deep"]


@pytest.mark.parametrize("dynamic", [True, False])
def test_collected_keywords(captured, answers_as_eager, dynamic):
    x = torch.randn(1 if dynamic else 2, 3)
    model = captured(Collecting(), x, {"y": x}, dynamic_batch=dynamic)
    assert [a.name for a in model.signature.arguments] == ["x", "y"]
    assert model.signature.batch == ("batch" if dynamic else None)
    x = torch.randn(5 if dynamic else 2, 3)
    answers_as_eager(model, x, y=torch.randn_like(x))


def test_collected_keywords_nested_beside_collected_positions(captured, answers_as_eager):
    x = torch.randn(2, 3)
    module = CollectingOnly()
    model = captured(module, (x, x), {"y": x, "z": {"deep": torch.randn(2, 1)}})
    assert [a.name for a in model.signature.arguments] == ["parts_0", "parts_1", "y", "z"]
    assert shapes(model.signature.inputs)[-1] == "float32[batch, 1]"
    x = torch.randn(5, 3)
    answers_as_eager(model, x, x * 2, y=x + 1, z={"deep": torch.randn(5, 1)})
    assert "forward" not in vars(module)


class CollectingBadly(nn.Module):
    def forward(self, **others):
        return others["x"].reshape(2, -1)  # fixed here


def test_a_forward_that_was_set_on_the_module_is_put_back(captured):
    module = Collecting()
    own = CollectingBadly().forward
    module.forward = own
    with pytest.raises(CaptureError, match="fixes its batch size") as caught:
        captured(module, (), {"x": torch.randn(4, 6)})
    assert vars(module)["forward"] is own
    assert line_of_the_cause(CollectingBadly()) in caught.value.problem


def test_scalars_carry_no_batch(captured):
    model = captured(Scaled(), (torch.tensor(2.0), torch.randn(1, 3)))
    assert shapes(model.signature.inputs) == ["float32[]", "float32[batch, 3]"]


class Scaled(nn.Module):
    def forward(self, factor, x):
        return factor * x


def test_an_empty_batch(captured):
    with pytest.raises(CaptureError, match="example's batch is empty"):
        captured(nn.Linear(4, 2), torch.zeros(0, 4))
