"""The operators of PyTorch's fast path for attention, in terms of others: what these compute."""

import pytest
import torch
from several import assert_as_eager
from torch.nn import functional

from nncompile.capture.attention import encoder_layer, multi_head_attention

BATCH, LENGTH, WIDTH, HEADS = 3, 5, 8, 2
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def masks():
    """One of each kind: keys of a sample, positions ahead, both for each head; and one in numbers."""
    keys = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    keys[1, 3:] = True
    ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    both = (keys[:, None, None] | ahead).repeat(1, HEADS, 1, 1)
    numbers = torch.zeros(LENGTH, LENGTH).masked_fill(ahead, -torch.inf)
    return {
        "none": (None, None),
        "keys": (keys, 1),
        "ahead": (ahead, 0),
        "both": (both, 2),
        "numbers": (numbers, 0),
    }


def projections():
    return [torch.randn(*shape) / 3 for shape in ((3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,))]


@pytest.mark.parametrize(("needed", "mean"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("kind", masks())
def test_attention_as_the_operator(kind, needed, mean):
    mask, number = masks()[kind]
    x = torch.randn(BATCH, LENGTH, WIDTH)
    arguments = (x, x, x, WIDTH, HEADS, *projections(), mask, needed, mean, number)
    wanted, weights = torch._native_multi_head_attention(*arguments)
    got, shares = multi_head_attention(*arguments)
    torch.testing.assert_close(got, wanted, **CLOSE)
    if needed:
        torch.testing.assert_close(shares, weights, **CLOSE)
    else:
        assert shares.numel() == 0


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", ["none", "keys"])
def test_layers_as_the_operator(kind, norm_first, gelu):
    norms = [torch.randn(WIDTH) for _ in range(4)]
    feed = [torch.randn(*shape) / 3 for shape in ((16, WIDTH), (16,), (WIDTH, 16), (WIDTH,))]
    x = torch.randn(BATCH, LENGTH, WIDTH)
    arguments = (x, WIDTH, HEADS, *projections(), gelu, norm_first, 1e-3, *norms, *feed, *masks()[kind])
    torch.testing.assert_close(
        encoder_layer(*arguments), torch._transformer_encoder_layer_fwd(*arguments), **CLOSE
    )


@pytest.mark.parametrize("kind", ["none", "ahead"])
def test_a_graph_that_holds_the_operator(works_end_to_end, kind):
    mask, number = masks()[kind]

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(projections())

        def forward(self, x):
            return torch._native_multi_head_attention(
                x, x, x, WIDTH, HEADS, *self.weights, mask, False, False, number
            )[0]

    works_end_to_end(Attention(), (torch.randn(BATCH, LENGTH, WIDTH),), **CLOSE)


def test_attention_of_three_and_two_dimensions():
    q, k, v = torch.randn(3, BATCH, LENGTH, WIDTH)
    mask = torch.rand(BATCH, LENGTH, LENGTH) > 0.3
    mask[:, :, 0] = True
    functions = [
        lambda q, k, v, _: functional.scaled_dot_product_attention(q, k, v),
        lambda q, k, v, mask: functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3),
        lambda q, k, v, _: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v, _: functional.scaled_dot_product_attention(q[:, 0], k[:, 1], v[:, 2]),
    ]
    assert_as_eager(functions, (q, k, v, mask), **CLOSE)
