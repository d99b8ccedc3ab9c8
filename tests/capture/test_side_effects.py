"""Capturing leaves everything as it was: the module, torch's loggers, the terminal."""

import logging
import warnings

import pytest
import torch
from torch import nn

import nncompile
from nncompile_runtime import CaptureError


class Mixed(nn.Module):
    """Submodules in both modes, weights with and without gradients, tied weights, a buffer."""

    def __init__(self, reshape=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 4)
        self.head.weight = self.stem[0].weight
        self.register_buffer("offset", torch.ones(4))
        self.reshape = reshape

    def forward(self, x):
        print("called")
        warnings.warn("from forward", stacklevel=1)
        y = self.head(self.stem(x)) + self.offset
        return y if self.reshape is None else y.reshape(self.reshape)


@pytest.fixture
def module():
    module = Mixed().train()
    module.stem[1].eval()  # a frozen batch norm in a module that trains
    module.head.bias.requires_grad_(False)
    module.stem[0].weight.grad = torch.ones(4, 4)
    return module


def state(module):
    return {
        "training": {name: part.training for name, part in module.named_modules()},
        "parameters": {
            name: (id(p), p.requires_grad, p.detach().clone().tolist(), p.grad is not None)
            for name, p in module.named_parameters(remove_duplicate=False)
        },
        "buffers": {name: (id(b), b.clone().tolist()) for name, b in module.named_buffers()},
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in module.named_modules()
        },
    }


def torch_state():
    names = ["torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes"]
    loggers = [logging.getLogger(name) for name in names]
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "levels": [logger.level for logger in loggers],
        "handlers": [logger.handlers[:] for logger in loggers],
        "disabled": logging.root.manager.disable,
        "filters": warnings.filters[:],
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.filterwarnings("ignore:from forward")
@pytest.mark.parametrize("reshape", [None, (2, -1)])
def test_the_module_and_torch_are_left_as_they_were(module, reshape):
    module.reshape = reshape
    example = torch.randn(2, 4)
    before, torch_before, example_before = state(module), torch_state(), example.clone()
    if reshape:
        with pytest.raises(CaptureError):
            nncompile.compile(module, example)
    else:
        nncompile.compile(module, example, passes=())
    assert state(module) == before
    assert torch_state() == torch_before
    assert torch.equal(example, example_before)
    assert not example.requires_grad


@pytest.mark.filterwarnings("ignore:from forward")
def test_a_training_module_is_compiled_for_evaluation(module):
    example = torch.randn(3, 4)
    model = nncompile.compile(module, example)
    with torch.no_grad():
        expected = module.eval()(example)
    torch.testing.assert_close(model.predict(example), expected)


@pytest.mark.filterwarnings("ignore:from forward")
@pytest.mark.parametrize("reshape", [None, (2, -1)])
def test_torch_prints_nothing(module, reshape, capfd, caplog, recwarn):
    module.reshape = reshape
    capfd.readouterr()
    try:
        nncompile.compile(module, torch.randn(2, 4), progress=True)
    except CaptureError:
        assert reshape
    out, err = capfd.readouterr()
    assert set(out.split()) <= {"called"}  # the module's own prints are its own affair
    assert err == ""
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert {str(w.message) for w in recwarn} <= {"from forward"}


@pytest.mark.filterwarnings("ignore:from forward")
def test_what_forward_prints_while_it_is_traced_is_not_shown(captured, module, capsys):
    captured(module.eval(), torch.randn(2, 4))
    assert capsys.readouterr().out == "called\n"  # from the one run that checks the example


def test_lazy_layers_are_materialised():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2)).eval()
    model = nncompile.compile(network, torch.randn(1, 3, 6, 6))
    assert not any(nn.parameter.is_lazy(p) for p in network.parameters())
    assert type(network[2]) is nn.Linear
    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(model.predict(x), network(x), rtol=1e-4, atol=1e-5)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids, mask):
        return torch.where(mask, self.embedding(ids).sum(-1), 0.0)


def test_numpy_examples_and_other_dtypes(captured, answers_as_eager):
    ids, mask = torch.randint(10, (2, 5)), torch.tensor([[True, False, True, True, False]] * 2)
    model = captured(Table(), (ids.numpy(), mask.numpy()))
    assert [str(s) for s in model.signature.inputs] == ["int64[batch, 5]", "bool[batch, 5]"]
    assert all(isinstance(x, torch.Tensor) for x in model.example)
    answers_as_eager(model, ids[:1], mask[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_modules_of_other_precisions(captured, dtype):
    model = captured(nn.Linear(3, 2).to(dtype), torch.randn(2, 3, dtype=dtype))
    name = str(dtype).removeprefix("torch.")
    assert [s.dtype for s in (*model.signature.inputs, *model.signature.outputs)] == [name, name]
