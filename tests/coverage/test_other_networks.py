"""Three networks of others in every test run; `make coverage` compiles them all."""

import numpy as np
import pytest
import torch
from networks import IN_EVERY_TEST_RUN, networks

import nncompile


@pytest.mark.parametrize("name", IN_EVERY_TEST_RUN)
def test_compiles_with_a_dynamic_batch_and_answers_as_eager_does(name):
    net, image = networks()[name]()
    model = nncompile.compile(net, image)
    assert model.report.verification.dropped_passes == ()
    for batch in (1, 3):
        x = torch.randn(batch, *image.shape[1:], generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(model(x).numpy(), net(x).numpy(), rtol=1e-3, atol=1e-4)
