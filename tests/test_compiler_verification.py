"""`nncompile.compile` and verification: no pass is dropped without need; NaN, and batches unlike others."""

import logging

import pytest
import torch
from torch import nn

import nncompile


class Twice(nn.Module):
    def forward(self, x):
        y = x.relu()
        return y, y


class Branches(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda h: h.clone(), lambda h: h * 2, (x.relu(),))


class IntegerProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(12, dtype=torch.int32).reshape(4, 3))

    def forward(self, x):
        return x @ self.table + 1


class AddedToItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        y = x @ self.weight
        return y + y


@pytest.mark.parametrize(
    ("module", "example", "options"),
    [
        (Twice(), torch.randn(2, 4), {}),
        (Branches(), torch.randn(2, 4), {}),
        (IntegerProduct(), torch.arange(8, dtype=torch.int32).reshape(2, 4), {}),
        (AddedToItself(), torch.randn(2, 4), {"dynamic_batch": False}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_no_pass_has_to_be_dropped(module, example, options, caplog):
    model = nncompile.compile(module, example, **options)
    assert model.report.verification.dropped_passes == ()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class LogOfSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        return (2 * self.linear(x)).softmax(1).log()


def test_a_pass_that_is_more_accurate_than_eager_is_kept():
    """Found by fuzzing: on large inputs eager's softmax is 0, and its logarithm infinite."""
    torch.manual_seed(0)
    model = nncompile.compile(LogOfSoftmax(), torch.randn(2, 8))
    assert model.report.verification.dropped_passes == ()
    assert {entry.name: entry.changes for entry in model.report.passes}["simplify-tails"] == 1


@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_weights_that_are_nan(where):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    getattr(net[1], where).data.fill_(torch.nan)
    with pytest.raises(
        nncompile.VerificationError, match=rf"answers NaN on every input.*'1\.{where}'"
    ) as caught:
        nncompile.compile(net, torch.randn(2, 3))
    assert "diverge" in caught.value.remedy
    getattr(net[1], where).data[1:] = 1.0  # one channel alone: the others are compared
    answer = nncompile.compile(net, torch.randn(2, 3))(torch.randn(2, 3))
    assert answer[:, 0].isnan().all()
    assert not answer[:, 1:].isnan().any()


class NotANumber(nn.Module):
    def forward(self, x):
        return x * torch.nan


def test_nan_that_no_weight_makes():
    with pytest.raises(nncompile.VerificationError, match="NaN in every element") as caught:
        nncompile.compile(NotANumber(), torch.randn(2, 3))
    assert "typical values" in caught.value.remedy


class UnlikeAtOne(nn.Module):
    def forward(self, x):
        return 3 * x if x.shape[0] == 1 else 2 * x


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_batch_of_one_that_is_treated_differently(rows):
    with pytest.raises(nncompile.VerificationError, match="treats a batch of 1 unlike every other") as caught:
        nncompile.compile(UnlikeAtOne(), torch.randn(rows, 3))
    assert "--static" in caught.value.remedy
    x = torch.randn(1, 3)
    model = nncompile.compile(UnlikeAtOne(), x, dynamic_batch=False)
    torch.testing.assert_close(model(x), 3 * x, rtol=1e-6, atol=1e-6)
