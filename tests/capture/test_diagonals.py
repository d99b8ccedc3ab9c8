"""Diagonals are picked: what stands beside them has no part in them."""

import pytest
import torch
from torch import nn

import nncompile
from nncompile.capture.lowerings import diagonal


@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (4, 2), (3, 3)])
@pytest.mark.parametrize("axes", [(1, 2), (-2, 1), (2, 0)])
def test_every_offset(sizes, axes):
    x = torch.randn(2, *sizes, 3)
    for offset in range(-4, 5):
        assert torch.equal(diagonal(x, offset, *axes), x.diagonal(offset, *axes))


class Diagonals(nn.Module):
    def forward(self, x):
        return x.diagonal(dim1=1, dim2=2), torch.einsum("bii->bi", x), x.diagonal(-1, 2, 1).sum(1), x @ x


def test_infinity_and_nan_beside_it():
    net, x = Diagonals(), torch.randn(3, 4, 4)
    model = nncompile.compile(net, x[:2])
    x[0] = torch.where(torch.eye(4).bool(), x[0], -torch.inf)
    x[1, 0, 3] = torch.nan
    for got, want in zip(model.predict(x)[:3], net(x)[:3], strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)
    assert model.predict(x)[0].isfinite().all()
