"""Bags of embeddings answer as eager PyTorch does: every mode, padding, empty bags, both kinds of index."""

import pytest
import torch
from running import call
from torch import nn

import nncompile
from nncompile.capture.bags import embedding_bag
from nncompile_runtime import InputError, VerificationError

EXACT = {"rtol": 1e-6, "atol": 1e-6}
MODES = {"sum": 0, "mean": 1, "max": 2}
INDICES = [0, 8, 3, 1, 1, 7, 1, 2]
OFFSETS = [0, 2, 2, 6, 8]  # the second bag is empty; the fourth ends where the indices do


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("padding", [None, 1, -2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_as_the_operator(mode, last, padding, dtype):
    table = torch.randn(9, 3, dtype=dtype)
    indices, offsets = torch.tensor(INDICES), torch.tensor(OFFSETS if last else OFFSETS[:-1])
    want = torch.embedding_bag(table, indices, offsets, False, MODES[mode], False, None, last, padding)[0]
    got = embedding_bag(table, indices, offsets, False, MODES[mode], False, None, last, padding)
    tolerance = EXACT if dtype != torch.float16 else {"rtol": 2e-3, "atol": 2e-3}
    torch.testing.assert_close(got[0], want, **tolerance)


@pytest.mark.parametrize("last", [False, True])
def test_factors_of_each_row(last):
    table, factors = torch.randn(9, 3), torch.randn(len(INDICES))
    arguments = (table, torch.tensor(INDICES), torch.tensor(OFFSETS if last else OFFSETS[:-1]))
    want = torch.embedding_bag(*arguments, False, 0, False, factors, last)[0]
    torch.testing.assert_close(embedding_bag(*arguments, False, 0, False, factors, last)[0], want, **EXACT)


def test_a_bag_of_nothing_but_minus_infinity_keeps_it():
    table = torch.full((9, 3), -torch.inf)
    arguments = (table, torch.tensor(INDICES), torch.tensor(OFFSETS[:-1]), False, MODES["max"])
    want = torch.embedding_bag(*arguments)[0]
    assert want[0, 0] == -torch.inf
    assert want[1, 0] == 0
    assert torch.equal(embedding_bag(*arguments)[0], want)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("mode", MODES)
def test_bags_of_one_size_end_to_end(works_end_to_end, mode, dtype):
    net = nn.EmbeddingBag(9, 3, mode=mode, padding_idx=1)
    works_end_to_end(net, (torch.tensor([[0, 8, 1], [1, 1, 1]], dtype=dtype),), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_bags_by_offsets_end_to_end(mode):
    net = nn.EmbeddingBag(9, 3, mode=mode, padding_idx=1)
    given = torch.tensor(INDICES, dtype=torch.int32), torch.tensor(OFFSETS[:-1], dtype=torch.int32)
    model = nncompile.compile(net, given, dynamic_batch=False)
    torch.testing.assert_close(model.predict(*given), net(*given), **EXACT)


@pytest.mark.parametrize(("place", "wrong"), [(0, 1), (1, -1), (3, 9)])
def test_offsets_outside(captured, place, wrong):
    """The first one begins the bags, none is negative, and none lies beyond the indices."""
    indices, offsets = torch.tensor(INDICES), torch.tensor(OFFSETS[:-1])
    model = captured(nn.EmbeddingBag(9, 3), (indices, offsets), dynamic_batch=False)
    offsets[place] = wrong
    with pytest.raises(InputError, match="outside its table"):
        call(model, indices.numpy(), offsets.numpy())


@pytest.mark.parametrize("padding", [None, 1])
@pytest.mark.parametrize("mode", MODES)
def test_bags_that_end_elsewhere_than_their_indices(mode, padding):
    """Of which PyTorch's answer depends on dtype and mode."""
    net = nn.EmbeddingBag(9, 3, mode=mode, include_last_offset=True, padding_idx=padding)
    indices, closed, open_ = torch.tensor(INDICES), torch.tensor([0, 2, 2, 8]), torch.tensor([0, 2, 2, 5])
    with pytest.raises(VerificationError, match="is 5, and there are 8 indices"):
        nncompile.compile(net, (indices, open_), dynamic_batch=False)
    model = nncompile.compile(net, (indices, closed), dynamic_batch=False)
    torch.testing.assert_close(model.predict(indices, closed), net(indices, closed), **EXACT)
    for end in (5, 9, 0, -1):
        open_[-1] = end
        with pytest.raises(InputError, match="outside its table"):
            model.predict(indices, open_)


def test_pytorch_has_two_answers_for_open_bags():
    table, arguments = (
        torch.randn(9, 3),
        (torch.tensor(INDICES), torch.tensor([0, 2, 2, 5]), False, 0, False, None, True),
    )
    single, double = (
        torch.embedding_bag(table, *arguments)[0],
        torch.embedding_bag(table.double(), *arguments)[0],
    )
    assert (single - double).abs().max() > 0.1
