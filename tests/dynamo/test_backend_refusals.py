"""What a compiled graph cannot do is refused in one sentence with its remedy, or runs eagerly, aloud."""

import logging
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from nncompile_runtime import CaptureError, NncompileError, PassError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@contextmanager
def refusal(match, kind=CaptureError):
    """torch wraps the error; its sentence is in there as it is."""
    with pytest.raises(BackendCompilerFailed, match=match) as caught:
        yield caught
    assert type(caught.value.inner_exception) is kind
    assert caught.value.inner_exception.remedy


def refused(call, *args, match):
    with refusal(match), torch.no_grad():
        call(*args)


def test_gradients(compiled, alike):
    net = nn.Linear(4, 2)
    call = compiled(net)
    with refusal("need gradients") as caught:
        call(X)
    for way in ("torch.inference_mode()", "torch.no_grad()", "model.requires_grad_(False)"):
        assert way in str(caught.value)
    alike(call, net, X)
    with refusal("need gradients"):
        call(X)
    net.requires_grad_(False)
    torch.testing.assert_close(call(X), net(X))


def test_gradients_of_an_input(compiled):
    call = compiled(lambda x: x * 2)
    with refusal("need gradients"):
        call(X.clone().requires_grad_())
    assert torch.equal(call(X), X * 2)


def test_views_keep_their_gradients(compiled):
    """They are PyTorch's own, so nothing is refused, and nothing lost."""
    x = X.clone().requires_grad_()
    y = compiled(lambda x: x.t())(x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 4))


def test_batch_norm_in_training(compiled, alike):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    refused(compiled(net), X, match=r"writes into .*running_mean.*model\.eval\(\)")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    alike(compiled(net.eval()), net, X)


def test_dropout_in_training(compiled, alike):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    refused(compiled(net), X, match=r"draws random numbers.*model\.eval\(\)")
    alike(compiled(net.eval()), net, X)


@pytest.mark.parametrize(
    "write", [lambda x: x.mul_(2) + 1, lambda x: torch.relu_(x) @ x.t(), lambda x: x[0].clamp_(-9, 9) + 1]
)
def test_an_input_that_is_written_into(compiled, write):
    """The last one changes nothing in this input, and would in another."""
    x = X.clone()
    refused(compiled(write), x, match=r"writes into x.*x\.clone\(\)")
    assert torch.equal(x, X)


def test_a_buffer_that_counts(compiled):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    net = Counting()
    refused(compiled(net), X, match=r"writes into self\.calls")
    assert net.calls == 0


def test_outputs_in_one_memory_that_is_written(compiled):
    def model(x):
        h = x * 2
        return h, h[:, 0].add_(1)

    refused(compiled(model), X, match=r"share memory.*y\.clone\(\)")


AUTOCAST = r"autocast.*options=\{'precision': 'bfloat16'\}"


def test_autocast_around_the_call(compiled, alike):
    net = nn.Linear(4, 2)
    call = compiled(net)
    with torch.autocast("cpu", torch.bfloat16):
        refused(call, X, match=AUTOCAST)
    alike(call, net, X)


def test_autocast_inside(compiled):
    net = nn.Linear(4, 2)

    def model(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    refused(compiled(model), X, match=AUTOCAST)


def test_a_subclass_of_tensors(compiled):
    """What its operators mean is its own affair."""

    class Tagged(torch.Tensor):
        pass

    refused(compiled(lambda x: x * 2), X.as_subclass(Tagged), match=r"x is a Tagged.*as_subclass")


@pytest.mark.parametrize(
    "transform",
    [lambda x: torch.vmap(torch.sum)(x) + 1, lambda x: torch.func.grad(lambda y: (y * y).sum())(x)],
)
def test_transformations(compiled, transform):
    refused(compiled(transform), X, match=r"torch\.func.*torch\.compiler\.disable")


def test_what_the_exporter_lacks(compiled):
    refused(compiled(lambda x: torch.linalg.eigh(x.t() @ x)[0]), X, match="has no ONNX translation")


def test_a_refusal_is_not_remembered_as_an_answer(compiled):
    call = compiled(nn.Sequential(nn.Linear(4, 4), nn.Dropout()))
    for _ in range(2):
        refused(call, X, match="random numbers")


FALLING_BACK = [
    (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(), "writes into"),
    (lambda x: torch.linalg.eigh(x.t() @ x)[0], "has no ONNX translation"),
]


@pytest.mark.parametrize(("model", "reason"), FALLING_BACK)
def test_falling_back_is_said(compiled, compiles, caplog, model, reason):
    call = compiled(model, options={"fallback": True})
    with torch.no_grad(), caplog.at_level(logging.WARNING, "nncompile"):
        for _ in range(2):
            torch.testing.assert_close(call(X), model(X))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "nncompile"]
    assert line.startswith("A graph of torch.compile runs in eager PyTorch.")
    assert reason in line
    assert compiles == []


def test_falling_back_trains(compiled, caplog):
    net = nn.Linear(4, 2)
    y = compiled(net, options={"fallback": True})(X)
    y.sum().backward()
    assert net.weight.grad is not None
    assert any("need gradients" in record.getMessage() for record in caplog.records)


def test_falling_back_is_no_way_around_a_wrong_option(compiled):
    net = nn.Linear(4, 2).requires_grad_(False)
    with refusal("precision='float8' is not offered", NncompileError):
        compiled(net, options={"precision": "float8", "fallback": True})(X)
    with refusal("no-such-pass", PassError):
        compiled(net, options={"passes": ["no-such-pass"], "fallback": True})(X)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"options": {"exakt": True}}, "no option 'exakt'. Choose from .*exact.*frozen, fallback"),
        ({"options": {"dynamic_batch": True}}, r"'dynamic_batch' is not .*torch\.compile\(model, dynamic="),
        ({"options": {"dynamic_axes": {"x": {1: "n"}}}}, "no option 'dynamic_axes'"),
        ({"options": {"labels": ["a"]}}, "no option 'labels'"),
        ({"options": {"exact": "no"}}, "exact='no' is no boolean"),
        ({"options": {"fallback": 1}}, "fallback=1 is no boolean"),
        ({"mode": "max-autotune"}, "mode='max-autotune' is Inductor's.*'tune': True"),
    ],
)
def test_wrong_options(compiled, arguments, match):
    with refusal(match, NncompileError):
        compiled(nn.Linear(4, 2).requires_grad_(False), **arguments)(X)


def test_options_arrive(compiled, compiles):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False)
    options = {"exact": True, "precision": "float16", "verify": False, "target": "cpu", "disabled_passes": ()}
    y = compiled(net, options=options)(X)
    torch.testing.assert_close(y, net(X), rtol=1e-2, atol=1e-2)
    assert not torch.equal(y, net(X))
    (done,) = compiles
    assert {name: done[name] for name in options} == options
    assert done["model"].report.verification.status == "skipped"
    assert done["model"].manifest.precision == "float16"
