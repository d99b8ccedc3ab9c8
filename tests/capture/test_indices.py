"""An index that eager PyTorch refuses is refused by the compiled model, too: never another row's values."""

import numpy as np
import pytest
import torch
from running import call
from torch import nn

from nncompile_runtime import InputError


class Table(nn.Module):
    """Rows of a table of 9, by the named function."""

    def __init__(self, how):
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 3))
        self.how = how

    def forward(self, ids):
        if self.how == "embedding":
            return nn.functional.embedding(ids, self.table)
        if self.how == "bag":
            return nn.functional.embedding_bag(ids, self.table)
        if self.how == "index_select":
            return self.table.index_select(0, ids[:, 0])
        if self.how == "gather":
            return self.table.gather(0, ids)
        return self.table[ids]  # counts from the end in PyTorch as well


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("how", ["embedding", "index_select", "gather"])
def test_negative_and_too_large(captured, how, dtype):
    if how == "gather" and dtype is torch.int32:
        pytest.skip("torch.gather takes int64 alone")
    net, ids = Table(how), torch.tensor([[0, 8, 3], [1, 2, 7]], dtype=dtype)
    model = captured(net, ids)
    np.testing.assert_allclose(call(model, ids.numpy()), net(ids).detach(), rtol=1e-6)
    for wrong in (-1, -9, -100, torch.iinfo(dtype).min, 9, torch.iinfo(dtype).max):
        bad = ids.clone()
        bad[1, 0] = wrong
        with pytest.raises((IndexError, RuntimeError)):
            net(bad)
        where = "" if how == "gather" else ", which takes 0 to 8"
        with pytest.raises(InputError, match=f"outside its table, at node '.*'{where}") as caught:
            call(model, bad.numpy())
        assert "padding" in caught.value.remedy


class OneHot(nn.Module):
    def forward(self, ids):
        return nn.functional.one_hot(ids, 9)


class Scattered(nn.Module):
    """Ones written where the ids say, by the named function."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, ids):
        empty, ones = torch.zeros(ids.shape[0], 9), torch.ones_like(ids, dtype=torch.float32)
        if self.how == "value":
            return empty.scatter(1, ids, 1.0)
        if self.how == "src":
            return empty.scatter(1, ids, ones)
        if self.how == "add":
            return empty.scatter_add(1, ids, ones)
        return empty.scatter_reduce(1, ids, ones, "amax")


WRITERS = {"one_hot": OneHot()} | {how: Scattered(how) for how in ("value", "src", "add", "reduce")}


@pytest.mark.parametrize("how", WRITERS)
def test_what_is_written_at_an_index(captured, how):
    net, ids = WRITERS[how], torch.tensor([[0, 8, 3], [1, 2, 7]])
    model = captured(net, ids)
    np.testing.assert_array_equal(call(model, ids.numpy()), net(ids))
    for wrong in (-1, -9, torch.iinfo(torch.int64).min, 9):
        bad = ids.clone()
        bad[1, 0] = wrong
        with pytest.raises(RuntimeError, match=r"out of bounds|must be|out_of_bounds"):
            net(bad)
        with pytest.raises(InputError, match=r"outside its table, at node '.*', which takes 0 to 8"):
            call(model, bad.numpy())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_bags(captured, dtype):
    net, ids = Table("bag"), torch.tensor([[0, 8, 3], [1, 2, 7]], dtype=dtype)
    model = captured(net, ids)
    np.testing.assert_allclose(call(model, ids.numpy()), net(ids).detach(), rtol=1e-6)
    for wrong in (-1, 9):
        ids[1, 0] = wrong
        with pytest.raises(InputError, match=r"outside its table, at node '.*', which takes 0 to 8"):
            call(model, ids.numpy())


def test_what_counts_from_the_end_in_pytorch_still_does(captured):
    net, ids = Table("index"), torch.tensor([[0, -1, -9], [1, 2, 8]])
    np.testing.assert_array_equal(call(captured(net, ids), ids.numpy()), net(ids).detach())


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.register_buffer("positions", torch.tensor([3, 0, 6]))

    def forward(self, x):
        return x + self.embed(self.positions)


def test_indices_that_the_module_owns_are_left_alone(captured):
    operators = [node.op_type for node in captured(Positions(), torch.randn(2, 3, 3)).graph.graph]
    assert "Gather" in operators
    assert "Where" not in operators
