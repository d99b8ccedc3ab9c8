"""An example that is infinite in one element: a pass that answers otherwise there is left out."""

import torch
from torch import nn

import nncompile


def test_infinities_that_cancel_in_eager():
    """Of both signs between the layers, NaN behind them; the product of both layers would answer infinity."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), torch.randn(3, 4)
    finite = nncompile.compile(net, x)
    assert finite.report.verification.dropped_passes == ()
    x[1, 2] = torch.inf
    assert net(x)[1].isnan().all()
    assert finite.predict(x)[1].isinf().all()
    model = nncompile.compile(net, x)
    assert model.report.verification.dropped_passes == ("merge-linear",)
    torch.testing.assert_close(model.predict(x), net(x), rtol=1e-5, atol=1e-6, equal_nan=True)
