"""Every network of the seed documents compiles, with a dynamic batch, and answers as eager PyTorch does."""

import numpy as np
import pytest
import torch

import nncompile
from models.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_compiles_and_matches_eager(name):
    torch.manual_seed(0)
    net = ZOO[name].build()
    shape = ZOO[name].input_shape
    model = nncompile.compile(net, torch.randn(1, *shape))
    assert model.report.verification.status == "verified"
    assert model.report.verification.dropped_passes == ()
    assert model.inputs[0].shape == ("batch", *shape)
    net.eval()
    for batch in (1, 3):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(model(x).numpy(), net(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_lazy_network_compiles_before_it_ever_ran():
    torch.manual_seed(0)
    net = ZOO["lazy-mlp"].factory()
    x = torch.randn(1, *ZOO["lazy-mlp"].input_shape)
    model = nncompile.compile(net, x)
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), net.eval()(x).numpy(), rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one():
    model = nncompile.compile(ZOO["mlp-probabilities"].build(), torch.rand(3, 28, 28))
    np.testing.assert_allclose(model(torch.rand(5, 28, 28)).sum(1), np.ones(5), rtol=0, atol=1e-6)
