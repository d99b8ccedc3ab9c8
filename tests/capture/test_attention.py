"""Attention in other ranks than 4, and the operators of PyTorch's fast path, in terms of others."""

import pytest
import torch
from several import assert_as_eager
from torch.nn import functional

import nncompile
from nncompile.capture.attention import encoder_layer, multi_head_attention, scaled_dot_product

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


class Scaled(torch.nn.Module):
    """`scaled_dot_product_attention` on leading axes `lead` behind the batch."""

    def __init__(self, lead, mask=None, **options):
        super().__init__()
        self.lead, self.options = lead, options
        self.register_buffer("mask", mask)

    def forward(self, x):
        parts = x.reshape(-1, 3, *self.lead, LENGTH, WIDTH).unbind(1)
        return torch.nn.functional.scaled_dot_product_attention(*parts, self.mask, **self.options)


@pytest.mark.parametrize(
    ("lead", "mask", "options"),
    [
        ((), None, {}),
        ((), (LENGTH, LENGTH), {"scale": 0.5}),
        ((), (1, LENGTH, LENGTH), {}),
        ((2, 3), None, {"is_causal": True}),
        ((2, 3), (2, 1, LENGTH, LENGTH), {}),
        ((HEADS,), (LENGTH, LENGTH), {}),
    ],
)
def test_attention_in_other_ranks(works_end_to_end, lead, mask, options):
    net = Scaled(lead, None if mask is None else torch.randn(mask), **options)
    width = 3 * torch.Size(lead).numel() * LENGTH * WIDTH
    works_end_to_end(net, (torch.randn(3, width),), **CLOSE)


class Alone(torch.nn.Module):
    """Attention of a matrix: its rows are the batch."""

    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_attention_of_a_matrix(works_end_to_end):
    works_end_to_end(Alone(), (torch.randn(3, WIDTH),), **CLOSE)


@pytest.mark.parametrize("mask", [None, torch.ones(LENGTH, LENGTH) > 0, torch.zeros(LENGTH, LENGTH)])
def test_attention_of_heads_is_left_as_it_is(mask):
    x = torch.randn(BATCH, HEADS, LENGTH, WIDTH)
    assert scaled_dot_product(x, x, x, mask) is NotImplemented


class Biased(torch.nn.Module):
    """A bias by distance, in float32 whatever the queries are."""

    def forward(self, x):
        y = x.unflatten(2, (HEADS, -1)).transpose(1, 2)
        places = torch.arange(x.shape[1])
        distances = -(places - places[:, None]).abs() * torch.tensor(0.5)
        return torch.nn.functional.scaled_dot_product_attention(y, y, y, distances)


def test_a_mask_of_another_dtype():
    x = torch.randn(BATCH, LENGTH, WIDTH)
    model = nncompile.compile(Biased(), x, precision="float16")
    torch.testing.assert_close(model(x), Biased()(x), rtol=0, atol=0.01)


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
