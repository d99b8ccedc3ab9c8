"""Weights are constants of what is compiled, and yet no answer is ever one of weights that were."""

import gc
import logging

import pytest
import torch
from torch import nn

from nncompile.dynamo.weights import Frozen, same_bits
from nncompile_runtime.session import Session

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def network():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    net[1].running_mean.normal_()
    return net.eval()


def by_load_state_dict(net):
    net.load_state_dict(network().state_dict())


def in_place_through_data(net):
    net[3].bias.data[1] += 1


def data_replaced(net):
    net[0].weight.data = net[0].weight.data * 2


def through_numpy(net):
    net[3].bias.detach().numpy()[2] = 5


def a_new_parameter(net):
    net[0].weight = nn.Parameter(net[0].weight.detach() + 1)


def a_buffer(net):
    net[1].running_mean.add_(1)


UNCOUNTED = [in_place_through_data, through_numpy]
COUNTED = [by_load_state_dict, data_replaced, a_new_parameter, a_buffer]


@pytest.mark.parametrize("change", [*COUNTED, *UNCOUNTED])
def test_changed_weights_are_compiled_anew(compiled, compiles, alike, caplog, change):
    net = network()
    call = compiled(net)
    before = alike(call, net, X)
    alike(call, net, X)
    assert len(compiles) == 1
    change(net)
    assert not torch.equal(alike(call, net, X), before)
    assert len(compiles) == 2
    alike(call, net, X)
    assert len(compiles) == 2
    warned = [
        r.getMessage() for r in caplog.records if r.name == "nncompile" and r.levelno == logging.WARNING
    ]
    assert all("Weights of a model under torch.compile have changed" in line for line in warned)
    assert len(warned) == (
        change is not a_new_parameter
    )  # other tensors are another module's, as far as seen


@pytest.mark.parametrize("change", COUNTED)
def test_frozen_weights_are_still_looked_at(compiled, compiles, alike, change):
    net = network()
    call = compiled(net, options={"frozen": True})
    before = alike(call, net, X)
    change(net)
    assert not torch.equal(alike(call, net, X), before)
    assert len(compiles) == 2


@pytest.mark.parametrize("change", UNCOUNTED)
def test_frozen_is_a_promise(compiled, compiles, alike, change):
    """What torch does not count goes unseen there: the option says so, and spares the comparison."""
    net = network()
    call = compiled(net, options={"frozen": True})
    before = alike(call, net, X)
    change(net)
    with torch.no_grad():
        assert torch.equal(call(X), before)
    assert len(compiles) == 1


def test_weights_written_with_what_they_held_are_the_same(compiled, compiles, alike):
    net = network()
    call = compiled(net)
    alike(call, net, X)
    net.load_state_dict(net.state_dict())
    alike(call, net, X)
    assert len(compiles) == 1


def test_modules_of_one_class_are_told_apart(compiled, compiles, alike):
    """dynamo keeps code by function, and the weights are its arguments: one graph serves all modules."""
    nets = [network() for _ in range(3)]
    calls = [compiled(net) for net in nets]
    for _ in range(2):
        answers = [alike(call, net, X) for call, net in zip(calls, nets, strict=True)]
        assert len({tuple(y.flatten().tolist()) for y in answers}) == 3
    assert len(compiles) == 3


def test_a_module_that_is_gone_takes_its_session_along(compiled, alike):
    def sessions():
        gc.collect()
        return sum(type(x) is Session and x.plan.native for x in gc.get_objects())

    before = sessions()
    nets = [network(), network()]
    for net in nets:
        alike(compiled(net), net, X)
    assert sessions() == before + 2
    del nets[0], net
    assert sessions() == before + 1


def test_tied_weights(compiled, alike):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    net[2].weight = net[0].weight
    call = compiled(net)
    alike(call, net, X)
    net[2].weight.data.neg_()
    alike(call, net, X)


def test_a_weight_in_another_layout(compiled, alike):
    net = nn.Conv2d(3, 4, 3).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 5, 5)
    call = compiled(net)
    alike(call, net, x)
    net.weight.data[3, 2, 1, 1] = 7
    alike(call, net, x)


def test_a_transposed_weight_in_the_same_memory(compiled, alike):
    net = nn.Linear(4, 4)
    call = compiled(net)
    before = alike(call, net, X)
    net.weight.data = net.weight.data.t()
    assert not torch.equal(alike(call, net, X), before)


def looked_at(weight, *, trusting=False):
    return Frozen([weight], lambda _: None, trusting=trusting)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_counts(dtype):
    weight = torch.ones(3, 2).to(dtype)
    frozen = looked_at(weight)
    assert frozen.still([weight])
    weight.view(torch.uint8)[-1, -1] ^= 1
    assert not frozen.still([weight])


@pytest.mark.parametrize("strided", [False, True])
def test_nan_and_signs_of_zero(strided):
    weight = torch.tensor([[float("nan"), 0.0], [1.0, 2.0]])
    weight = weight.t() if strided else weight
    frozen = looked_at(weight)
    assert frozen.still([weight])
    weight[weight == 0] = -0.0
    assert not frozen.still([weight])


@pytest.mark.parametrize("trusting", [False, True])
def test_an_equal_tensor_is_not_the_same(trusting):
    weight = torch.ones(3)
    assert not looked_at(weight, trusting=trusting).still([weight.clone()])


def test_same_bits_of_complex_numbers():
    a = torch.ones(2, dtype=torch.complex128)
    assert same_bits(a, a.clone())
    assert not same_bits(a, a.conj().resolve_conj() * -1)
