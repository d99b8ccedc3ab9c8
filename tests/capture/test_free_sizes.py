"""Dimensions besides the batch that take several sizes, and which sizes those are."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nncompile
from nncompile import CaptureError, InputError

EXACT = {"rtol": 1e-5, "atol": 1e-5}


class HalvedAndDoubled(nn.Module):
    """A plane plus itself, halved and doubled again: even sizes only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return y + nn.functional.interpolate(nn.functional.max_pool2d(y, 2), scale_factor=2)


class Positions(nn.Module):
    """A table of 40 positions, sliced: a guard of torch.export's says where it ends."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Parameter(torch.randn(1, 40, 8))

    def forward(self, tokens):
        return self.words(tokens) + self.places[:, : tokens.shape[1]]


class LookedUpPositions(nn.Module):
    """A table of 40 positions, looked up: only eager itself says where it ends."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(40, 8)

    def forward(self, tokens):
        return self.words(tokens) + self.places(torch.arange(tokens.shape[1]))


class Longer(nn.Module):
    """Another answer from 11 on."""

    def forward(self, x):
        return x * 2 if x.shape[1] > 10 else x * 3


class But(nn.Module):
    """Another answer at 7 alone."""

    def forward(self, x):
        return x * 2 if x.shape[1] != 7 else x * 3


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens, mask):
        y = self.encoder(self.words(tokens), src_key_padding_mask=~mask)
        weight = mask.unsqueeze(-1).float()
        return (y * weight).sum(1) / weight.sum(1)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(5, 6, **options)

    def forward(self, x):
        return self.cells(x)[0]


class WithState(nn.Module):
    """The batch is axis 1 of the state."""

    def __init__(self):
        super().__init__()
        self.cells = nn.GRU(5, 6, num_layers=2, batch_first=True)

    def forward(self, x, state):
        return self.cells(x, state)


def tokens(batch, length):
    return torch.arange(batch * length).reshape(batch, length) % 50


def images(batch, height, width, channels=2):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(batch))


def rows(batch, length, features=5):
    return torch.randn(batch, length, features, generator=torch.Generator().manual_seed(length))


def assert_as_eager(model, net, *inputs):
    with torch.no_grad():
        expected, got = net(*inputs), model(*inputs)
    for a, b in zip(got, expected, strict=True) if isinstance(expected, tuple) else [(got, expected)]:
        np.testing.assert_allclose(a.numpy(), b.numpy(), **EXACT)


@pytest.fixture(scope="module", autouse=True)
def seeded():
    torch.manual_seed(0)


CASES = [
    (nn.Conv1d(5, 4, 5, 2), "input", {2: "n"}, lambda n: rows(2, 5, n), 21, "at least 7", (7, 8, 30), 6),
    (Positions(), "tokens", {1: "n"}, lambda n: tokens(2, n), 11, "2 to 40", (2, 3, 40), 41),
    (LookedUpPositions(), "tokens", {1: "n"}, lambda n: tokens(2, n), 11, "2 to 40", (2, 3, 40), 41),
    (Longer(), "x", {1: "n"}, lambda n: rows(2, n), 12, "at least 11", (11, 200), 10),
    (Longer(), "x", {1: "n"}, lambda n: rows(2, n), 9, "2 to 10", (2, 10), 11),
    (But(), "x", {1: "n"}, lambda n: rows(2, n), 9, "at least 8", (8, 99), 7),
    (Recurrent(nn.LSTM, batch_first=True), "x", {1: "n"}, lambda n: rows(2, n), 9, "at least 2", (2, 31), 1),
    (Recurrent(nn.RNN, batch_first=True), "x", {1: "n"}, lambda n: rows(2, n), 9, "at least 2", (2, 31), 1),
    (Recurrent(nn.GRU, batch_first=True), "x", {1: "n"}, lambda n: rows(2, n), 9, "at least 2", (2, 31), 1),
]


@pytest.mark.parametrize(
    ("net", "name", "axes", "make", "typical", "row", "right", "refused"),
    CASES,
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_sizes_are_those_that_the_graph_is_right_for(net, name, axes, make, typical, row, right, refused):
    net.eval()
    model = nncompile.compile(net, make(typical), dynamic_axes={name: axes})
    assert {size: str(found) for size, found in model.signature.sizes.items()} == {"n": row}
    for size in right:
        assert_as_eager(model, net, make(size))
    with pytest.raises(InputError, match=rf"n = {refused}: the model was compiled for {row}"):
        model(make(refused))


def test_two_sizes_in_steps():
    net = HalvedAndDoubled().eval()
    model = nncompile.compile(net, images(2, 16, 24), dynamic_axes={"x": {2: "height", -1: "width"}})
    assert {n: (s.least, s.step, s.most, s.typical) for n, s in model.signature.sizes.items()} == {
        "height": (4, 2, None, 16),
        "width": (4, 2, None, 24),
    }
    assert str(model.inputs[0]) == "float32[batch, 2, height, width]"
    for sizes in ((1, 4, 6), (3, 32, 8), (5, 10, 50)):
        assert_as_eager(model, net, images(*sizes))
    with pytest.raises(InputError, match="width = 9: the model was compiled for 4, 6, 8 and so on"):
        model(images(1, 4, 9))


def test_one_name_in_two_inputs_is_one_size():
    net = Masked().eval()
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    model = nncompile.compile(
        net, (tokens(2, 12), mask), dynamic_axes={"tokens": {1: "length"}, "mask": {1: "length"}}
    )
    for length in (2, 5, 33):
        mask = torch.arange(length) < torch.tensor([[length], [2], [1]])
        assert_as_eager(model, net, tokens(3, length), mask)
    with pytest.raises(InputError, match="'mask' has length = 6, but 'tokens' has 5"):
        model(tokens(3, 5), torch.ones(3, 6, dtype=torch.bool))


def test_the_file_keeps_the_sizes(tmp_path: Path):
    net = Positions().eval()
    nncompile.compile(net, tokens(2, 11), dynamic_axes={"tokens": {1: "n"}}).save(tmp_path / "net.onnx")
    model = nncompile.load(tmp_path / "net.onnx", device="cpu")
    assert model.manifest.verification.sizes == {"n": (2, 3, 11, 16)}
    assert_as_eager(model, net, tokens(4, 17))
    with pytest.raises(InputError, match="n = 41: the model was compiled for 2 to 40"):
        model(tokens(4, 41))


def test_the_batch_may_be_another_axis():
    net = WithState().eval()
    example = (rows(3, 9), torch.zeros(2, 3, 6))
    with pytest.raises(CaptureError, match="fixes its batch size") as caught:
        nncompile.compile(net, example)
    assert "dynamic_axes={'state': {1: 'batch'}}" in str(caught.value)
    model = nncompile.compile(net, example, dynamic_axes={"x": {1: "n"}, "state": {1: "batch"}})
    assert [str(spec) for spec in model.inputs] == ["float32[batch, n, 5]", "float32[2, batch, 6]"]
    for batch, length in ((1, 2), (5, 20), (0, 4)):
        assert_as_eager(model, net, rows(batch, length), torch.randn(2, batch, 6))
    with pytest.raises(InputError, match="'state' has batch = 3, but 'x' has 4"):
        model(rows(4, 9), torch.zeros(2, 3, 6))


def test_a_batch_of_as_many_rows_as_the_state_has_layers():
    """Which of the two axes is the batch is not known; the remedy holds with and without dynamic_axes."""
    example = (rows(2, 9), torch.zeros(2, 2, 6))
    for axes in ({}, {"state": {1: "batch"}}):
        with pytest.raises(CaptureError, match="fixes its batch size") as caught:
            nncompile.compile(WithState(), example, dynamic_axes=axes)
        assert "another number of rows, because axes 0 and 1 of 'state' both have" in str(caught.value)


class Table(nn.Module):
    """Another answer for a table of more than 4 rows, which nobody said to be free."""

    def forward(self, x, table):
        return x * table.sum() * (2 if table.shape[0] > 4 else 3)


@pytest.mark.parametrize(("typical", "row", "refused"), [(3, "2 to 4", 5), (6, "at least 5", 4)])
def test_dimension_0_of_what_has_no_batch_is_guarded_too(typical, row, refused):
    net, x = Table(), torch.ones(2, 3)
    model = nncompile.compile(net, (x, torch.ones(typical, 2)))
    assert {size: str(found) for size, found in model.signature.sizes.items()} == {"dim_1": row}
    assert_as_eager(model, net, x, torch.ones(typical + (typical > 4), 2))
    with pytest.raises(InputError, match=f"dim_1 = {refused}"):
        model(x, torch.ones(refused, 2))


class Paired(nn.Module):
    def forward(self, x, table):
        return x.sum(1) + table.reshape(2, 3).sum()


def test_dimension_0_that_the_network_fixes_is_no_symbol():
    model = nncompile.compile(Paired(), (torch.ones(3, 4), torch.ones(2, 3)))
    assert (model.inputs[1].shape, model.signature.sizes) == ((2, 3), {})


def test_a_fixed_batch_beside_a_free_size():
    net = Longer()
    model = nncompile.compile(net, rows(3, 12), dynamic_axes={"x": {1: "n"}}, dynamic_batch=False)
    assert str(model.inputs[0]) == "float32[3, n, 5]"
    assert_as_eager(model, net, rows(3, 20))
    with pytest.raises(InputError, match=r"expects float32\[3, n, 5\]"):
        model(rows(2, 20))


@dataclasses.dataclass
class Given:
    first: torch.Tensor
    others: list


class Fields(OrderedDict):
    """A class of its own, as those of Hugging Face."""


class Nested(nn.Module):
    """Another answer from 6 on."""

    def forward(self, given):
        first = given.first if hasattr(given, "first") else given["first"]
        return first * 2 if first.shape[1] > 5 else first * 3


@pytest.mark.parametrize(
    "nest",
    [
        lambda x, y: Given(x, [y]),
        lambda x, y: Fields(first=x, other=y),
        lambda x, y: namedtuple("Pair", ["first", "other"])(x, y),
        lambda x, y: {"other": (y,), "first": x},
    ],
    ids=["dataclass", "ordered dict", "named tuple", "dict"],
)
def test_guards_of_nested_inputs(nest):
    net = Nested()
    model = nncompile.compile(
        net, (nest(torch.ones(2, 8), torch.ones(2, 3)),), dynamic_axes={"given_first": {1: "n"}}
    )
    assert str(model.signature.sizes["n"]) == "at least 6"
    assert_as_eager(model, net, nest(torch.ones(3, 6), torch.ones(3, 3)))
    with pytest.raises(InputError, match="n = 5"):
        model(nest(torch.ones(3, 5), torch.ones(3, 3)))


def test_nested_and_collected_inputs_have_names_too():
    class Nest(nn.Module):
        def forward(self, *xs, state, **more):
            return torch.cat([*xs, state["h"][0], more["late"]], 1).sum(-1)

    net = Nest()

    def inputs(n, m):
        return (rows(2, n), rows(2, 3)), {"state": {"h": [rows(2, m)]}, "late": rows(2, n)}

    args, named = inputs(4, 6)
    axes = {"xs_0": {1: "n"}, "late": {1: "n"}, "state_h_0": {1: "m"}}
    model = nncompile.compile(net, args, named, dynamic_axes=axes)
    args, named = inputs(9, 5)
    np.testing.assert_allclose(model(*args, **named).numpy(), net(*args, **named).numpy(), **EXACT)
