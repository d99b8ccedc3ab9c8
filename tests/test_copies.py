"""Copies of modules whose hooks and functions hold on to the module."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.copies import copied


class Features(nn.Module):
    """Returns what a hook kept of an inner layer."""

    def __init__(self, register):
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(4, 5), nn.Linear(5, 2), {}
        register(self)

    def keep(self, _layer, _given, result):
        self.kept["first"] = result

    def forward(self, x):
        y = self.last(self.first(x))
        return y, self.kept["first"].mean(0)


def by_closure(net):
    net.first.register_forward_hook(lambda _layer, _given, result: net.kept.update(first=result))


def by_dictionary(net):
    kept = net.kept
    net.first.register_forward_hook(lambda _layer, _given, result: kept.update(first=result))


def by_a_function_in_a_function(net):
    def keep(result):
        net.kept["first"] = result

    net.first.register_forward_hook(lambda _layer, _given, result: keep(result))


def by_method(net):
    net.first.register_forward_hook(net.keep)


def by_partial(net):
    net.first.register_forward_hook(functools.partial(Features.keep, net))


def by_attribute(net):
    plain = net.forward
    net.forward = lambda x: plain(x)
    by_closure(net)


WAYS = [by_closure, by_dictionary, by_a_function_in_a_function, by_method, by_partial, by_attribute]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("register", WAYS)
def test_a_copy_keeps_its_own(register):
    net = Features(register).eval()
    before = net(torch.zeros(2, 4))
    kept = net.kept["first"]
    own, x = copied(net), torch.randn(3, 4)
    torch.testing.assert_close(own(x), net(x), rtol=0, atol=0)
    assert not torch.equal(own(x)[1], before[1])
    again = net.kept["first"]
    own(x)
    assert net.kept["first"] is again
    assert again is not kept


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_features_of_a_hook_are_computed(precision, dynamic):
    """In a narrower precision, the example's stood in the graph as constants."""
    net = Features(by_closure).eval()
    model = nncompile.compile(net, torch.randn(2, 4), precision=precision, dynamic_batch=dynamic)
    x = torch.randn(2, 4)
    close = {"rtol": 1e-5, "atol": 1e-6} if precision == "float32" else {"rtol": 0, "atol": 0.02}
    torch.testing.assert_close(model(x), net(x), **close)


def test_functions_that_hold_nothing_of_the_module_stay_what_they_are():
    other = nn.Linear(2, 2)
    net = nn.Linear(4, 4)
    net.pool, net.of_another = functional.max_pool2d, lambda x: other(x)  # both with cells
    assert net.pool.__closure__
    own = copied(net)
    assert own.pool is net.pool
    assert own.of_another is net.of_another


def test_an_empty_cell():
    net = nn.Linear(4, 4)

    def later():
        return net, unknown

    net.later = later
    assert copied(net).later is later
    unknown = 1


def test_what_stands_for_a_part():
    net = nn.Linear(4, 4)
    weight = nn.Parameter(net.weight.detach().double())
    memo = {id(net.weight): weight}
    own = copied(net, memo)
    assert own.weight is weight
    assert memo.keys() == {id(net.weight)}
