"""Every network against what its seed document states or prints."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.lenet import LeNet3, LeNet5
from models.mlp import NeuralNetwork, NeuralNetworkProbabilities
from models.net import Net
from models.sequential import ACTIVATIONS, MLP, Model, named_sequential, sequential
from models.zoo import ZOO, trainable_entry, trainable_names

pytestmark = pytest.mark.filterwarnings("ignore:dropout2d. Received a 2-D input")

LENET_LINEAR = [(120,), (84, 120), (84,), (10, 84), (10,)]
STACK = [(512, 784), (512,), (512, 512), (512,), (10, 512), (10,)]
SHAPES = {
    "net": [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 9216), (128,), (10, 128), (10,)],
    "lenet3": [(6, 1, 3, 3), (6,), (16, 6, 3, 3), (16,), (120, 576), *LENET_LINEAR],
    "lenet5": [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), *LENET_LINEAR],
    "model": [(20, 1, 5, 5), (20,), (20, 20, 5, 5), (20,)],
    "sequential": [(20, 1, 5, 5), (20,), (64, 20, 5, 5), (64,)],
    "named-sequential": [(20, 1, 5, 5), (20,), (64, 20, 5, 5), (64,)],
    "lazy-mlp": [(100, 784), (100,), (10, 100), (10,)],
    "mlp": STACK,
    "mlp-probabilities": STACK,
}
TOTALS = {
    "net": 1_199_882,
    "lenet3": 81_194,
    "lenet5": 61_706,
    "model": 10_540,
    "sequential": 32_584,
    "named-sequential": 32_584,
    "lazy-mlp": 79_510,
    "mlp": 669_706,
    "mlp-probabilities": 669_706,
}
INPUTS = {
    "net": (1, 28, 28),
    "mynet": (3, 64, 64),
    "lenet3": (1, 32, 32),
    "lenet5": (1, 32, 32),
    "model": (1, 28, 28),
    "sequential": (1, 28, 28),
    "named-sequential": (1, 28, 28),
    "lazy-mlp": (784,),
    "mlp": (1, 28, 28),
    "mlp-probabilities": (1, 28, 28),
}
OUTPUTS = {"model": (20, 20, 20), "sequential": (64, 20, 20), "named-sequential": (64, 20, 20)}

LENET_REPR = """\
{name}(
  (conv1): Conv2d(1, 6, kernel_size=({k}, {k}), stride=(1, 1))
  (conv2): Conv2d(6, 16, kernel_size=({k}, {k}), stride=(1, 1))
  (fc1): Linear(in_features={flat}, out_features=120, bias=True)
  (fc2): Linear(in_features=120, out_features=84, bias=True)
  (fc3): Linear(in_features=84, out_features=10, bias=True)
)"""
NEURAL_NETWORK_REPR = """\
NeuralNetwork(
  (flatten): Flatten(start_dim=1, end_dim=-1)
  (linear_relu_stack): Sequential(
    (0): Linear(in_features=784, out_features=512, bias=True)
    (1): ReLU()
    (2): Linear(in_features=512, out_features=512, bias=True)
    (3): ReLU()
    (4): Linear(in_features=512, out_features=10, bias=True)
  )
)"""
NET_REPR = """\
Net(
  (conv1): Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1))
  (conv2): Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))
  (dropout1): Dropout2d(p=0.25, inplace=False)
  (dropout2): Dropout2d(p=0.5, inplace=False)
  (fc1): Linear(in_features=9216, out_features=128, bias=True)
  (fc2): Linear(in_features=128, out_features=10, bias=True)
)"""


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def test_zoo_holds_every_network_with_its_input():
    assert {name: entry.input_shape for name, entry in ZOO.items()} == INPUTS
    assert trainable_names() == ["net", "mynet", "lenet3", "lenet5", "mlp"]


@pytest.mark.parametrize("name", SHAPES)
def test_parameters(name):
    parameters = list(ZOO[name].build().parameters())
    assert [tuple(parameter.shape) for parameter in parameters] == SHAPES[name]
    assert sum(parameter.numel() for parameter in parameters) == TOTALS[name]
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_output_shape(name, batch):
    entry = ZOO[name]
    output = entry.build().eval()(torch.randn(batch, *entry.input_shape))
    assert output.shape == (batch, *OUTPUTS.get(name, (10,)))


@pytest.mark.parametrize(
    ("build", "printed"),
    [
        (LeNet3, LENET_REPR.format(name="LeNet3", k=3, flat=576)),
        (LeNet5, LENET_REPR.format(name="LeNet5", k=5, flat=400)),
        (NeuralNetwork, NEURAL_NETWORK_REPR),
        (Net, NET_REPR),
    ],
)
def test_printed_as_in_the_seed(build, printed):
    assert repr(build()) == printed


@pytest.mark.parametrize(("build", "after_pooling", "flat"), [(LeNet3, 6, 576), (LeNet5, 5, 400)])
def test_lenet_computes_the_layers_in_the_seeds_order(build, after_pooling, flat):
    net = seeded(build)
    convolutions = nn.Sequential(net.conv1, nn.ReLU(), nn.MaxPool2d(2), net.conv2, nn.ReLU(), nn.MaxPool2d(2))
    linears = nn.Sequential(nn.Flatten(), net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), net.fc3)
    x = torch.randn(3, 1, 32, 32)
    maps = convolutions(x)
    assert maps.shape == (3, 16, after_pooling, after_pooling)
    assert net.num_flat_features(maps) == flat
    assert torch.equal(net(x), linears(maps))


def test_net_computes_the_layers_in_the_seeds_order():
    net = seeded(Net).eval()
    x = torch.rand(2, 1, 28, 28)
    maps = F.max_pool2d(F.relu(net.conv2(F.relu(net.conv1(x)))), 2)
    assert maps.shape == (2, 64, 12, 12)
    logits = net.fc2(F.relu(net.fc1(maps.reshape(2, 9216))))
    torch.testing.assert_close(net(x), logits - logits.logsumexp(1, keepdim=True))


def test_net_returns_log_probabilities():
    probabilities = seeded(Net).eval()(torch.rand(4, 1, 28, 28)).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_net_drops_only_while_training():
    net = seeded(Net)
    x = torch.rand(1, 1, 28, 28)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("build", [LeNet3, LeNet5])
def test_seed_steps_loss_backward_update(build):
    net = seeded(build)
    x = torch.randn(1, 1, 32, 32)
    target = torch.randn(10).view(1, -1)
    criterion = nn.MSELoss()

    loss = criterion(net(x), target)
    assert type(loss.grad_fn).__name__ == "MseLossBackward0"
    assert type(loss.grad_fn.next_functions[0][0]).__name__ == "AddmmBackward0"

    net.zero_grad()
    assert net.conv1.bias.grad is None
    loss.backward()
    assert net.conv1.bias.grad.shape == (6,)
    assert net.conv1.bias.grad.abs().sum() > 0

    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss = criterion(net(x), target)
    loss.backward()
    optimizer.step()
    for old, parameter in zip(before, net.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.01 * parameter.grad)
        assert not torch.equal(parameter, old)
    assert criterion(net(x), target) < loss


def test_neural_network_takes_seed_003_images_without_a_channel():
    net = seeded(NeuralNetwork)
    images = torch.rand(3, 28, 28)
    logits = net(images)
    assert logits.shape == (3, 10)
    assert torch.equal(logits, net(images.unsqueeze(1)))
    assert torch.equal(logits, net.linear_relu_stack(images.reshape(3, 784)))


def test_probabilities_are_the_softmax_of_the_same_weights():
    logits_net = seeded(NeuralNetwork)
    net = NeuralNetworkProbabilities()
    net.load_state_dict(logits_net.state_dict(), strict=True)
    x = torch.rand(3, 1, 28, 28)
    probabilities = net(x)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    torch.testing.assert_close(probabilities, logits_net(x).softmax(1))


def test_model_applies_relu_after_both_convolutions():
    model = seeded(Model)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(model(x), model.conv2(model.conv1(x).clamp(min=0)).clamp(min=0))


def test_both_sequential_forms_are_one_network():
    plain, named = sequential(), named_sequential()
    assert [type(layer).__name__ for layer in plain] == ["Conv2d", "ReLU", "Conv2d", "ReLU"]
    assert list(named._modules) == ["conv1", "relu1", "conv2", "relu2"]
    named.load_state_dict(dict(zip(named.state_dict(), plain.state_dict().values(), strict=True)))
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(plain(x), named(x))


def test_mlp_sizes_itself_on_the_first_batch():
    net = MLP((7, 5, 3))
    assert all(nn.parameter.is_lazy(parameter) for parameter in net.parameters())
    assert net(torch.randn(2, 11)).shape == (2, 3)
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 11), (7,), (5, 7), (5,), (3, 5), (3,)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mlp_activates_between_the_layers_and_not_after_the_last(name):
    torch.manual_seed(0)
    net = MLP([7, 5, 3], activation=name)
    x = torch.randn(4, 11)
    output = net(x)
    modules = {
        "elu": nn.ELU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU, "softplus": nn.Softplus, "tanh": nn.Tanh,
    }  # fmt: skip
    first, second, last = net.layers
    act = modules[name]()
    torch.testing.assert_close(output, last(act(second(act(first(x))))))


def test_mlp_default_activation_is_the_seeds_sigmoid():
    assert MLP((4, 2)).activation is torch.sigmoid


def test_mlp_takes_a_function_or_a_module():
    assert MLP((4, 2), activation=torch.sin).activation is torch.sin
    learnt = MLP((4, 2), activation=nn.PReLU())
    learnt(torch.randn(1, 3))
    assert "activation.weight" in learnt.state_dict()


@pytest.mark.parametrize("activation", ["sigmold", "", nn.ReLU, None, 3])
def test_mlp_refuses_other_activations_and_names_the_choices(activation):
    with pytest.raises(ValueError, match="elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh"):
        MLP((4, 2), activation=activation)


def test_mlp_refuses_no_layers():
    with pytest.raises(ValueError, match="at least one output size"):
        MLP(())


def test_factories_build_lazy_layers_and_build_fills_them():
    assert any(map(nn.parameter.is_lazy, ZOO["lazy-mlp"].factory().parameters()))
    assert not any(map(nn.parameter.is_lazy, ZOO["lazy-mlp"].build().parameters()))


def test_recipes_score_right_answers_below_wrong_ones():
    logits = torch.tensor([[9.0] + [0.0] * 9])
    for name in trainable_names():
        output = logits.log_softmax(1) if name == "net" else logits
        loss = trainable_entry(name)[1].loss
        assert loss(output, torch.tensor([0])).item() == pytest.approx(math.log1p(9 * math.exp(-9)), rel=1e-3)


def test_net_alone_is_trained_on_log_probabilities():
    losses = {name: trainable_entry(name)[1].loss for name in trainable_names()}
    assert losses.pop("net") is F.nll_loss
    assert set(losses.values()) == {F.cross_entropy}


def test_untrainable_networks_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"^model cannot be trained on digits, because it returns feature maps"
    ):
        trainable_entry("model")
    with pytest.raises(ValueError, match=r"no network is called 'lenet4': choose one of net, mynet, lenet3"):
        trainable_entry("lenet4")


def test_zoo_imports_neither_timm_nor_torchvision():
    code = "import sys, models.zoo; print({'timm', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
