"""What forward may take, return and do: each is compiled, saved, loaded, and answers as eager does."""

import dataclasses
import pickle
from collections import OrderedDict, defaultdict, namedtuple

import pytest
import torch
from likeness import assert_like
from torch import nn
from torch.utils import _pytree as pytree

import nncompile
from nncompile_runtime import CaptureError

Point = namedtuple("Point", ["mean", "spread"])


def x(*shape):
    return torch.randn(shape or (3, 4), generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Detections:
    boxes: torch.Tensor
    scores: list
    extra: torch.Tensor | None = None
    note: str = "raw"


@dataclasses.dataclass
class Registered:
    logits: torch.Tensor
    hidden: torch.Tensor


class ModelOutput(OrderedDict):
    """The behaviour of Hugging Face's base class: an ordered dict of the fields that are not None."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


@dataclasses.dataclass
class Classified(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden: tuple | None = None


class Calls(nn.Module):
    """A linear layer and a function of the module and its inputs."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.function = function

    def forward(self, *inputs):
        return self.function(self.layer, *inputs)


RESULTS = {
    "tuple": lambda layer, x: (layer(x), x + 1),
    "list": lambda layer, x: [layer(x)],
    "nested": lambda layer, x: ({"a": [x, (layer(x),)]}, x.sum(-1)),
    "named tuple": lambda layer, x: Point(layer(x).mean(-1), layer(x).std(-1)),
    "dataclass": lambda layer, x: Detections(layer(x), [x, layer(x).amax(-1)]),
    "dataclass with its option": lambda layer, x: Detections(layer(x), [], extra=x, note="all"),
    "dataclass in a dict": lambda layer, x: {"found": Detections(x, [layer(x)])},
    "ordered dict": lambda layer, x: OrderedDict(b=layer(x), a=x * 2),
    "default dict": lambda layer, x: defaultdict(list, {"b": layer(x)}),
    "integers and booleans": lambda layer, x: (layer(x).argmax(-1), x > 0),
}


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results(works_end_to_end, function):
    works_end_to_end(Calls(function), (x(),))


def test_a_registered_dataclass(works_end_to_end):
    torch.export.register_dataclass(Registered)
    works_end_to_end(Calls(lambda layer, x: Registered(layer(x), x)), (x(),))
    works_end_to_end(Calls(lambda layer, r: layer(r.logits) + r.hidden), (Registered(x(), x(3, 5)),))
    assert Registered in pytree.SUPPORTED_NODES  # the user's registration stays


def test_what_huggingface_returns(works_end_to_end):
    model = works_end_to_end(
        Calls(lambda layer, x: Classified(logits=layer(x), hidden=(x + 1, x * 2))), (x(),)
    )
    result = model.predict(x())
    assert list(result) == ["logits", "hidden"]
    assert result.loss is None
    assert result.logits is result["logits"] is result[0]
    assert result.to_tuple() == result[:] == (result["logits"], result["hidden"])


@pytest.mark.parametrize("function", [RESULTS["dataclass"], lambda layer, x: Classified(logits=layer(x))])
def test_torchs_registry_is_left_as_it_was(function):
    before = set(pytree.SUPPORTED_NODES)
    nncompile.compile(Calls(function), x())
    assert set(pytree.SUPPORTED_NODES) == before
    with pytest.raises(CaptureError):
        nncompile.compile(Calls(lambda layer, x: [function(layer, x), layer(x).reshape(2, -1)]), x(2, 4))
    assert set(pytree.SUPPORTED_NODES) == before


def test_results_can_be_pickled_where_the_class_is_not_known():
    for function in (RESULTS["dataclass"], RESULTS["named tuple"], lambda layer, x: Classified(logits=x)):
        result = nncompile.compile(Calls(function), x()).predict(x().numpy())
        again = pickle.loads(pickle.dumps(result))
        assert repr(again) == repr(result)
        assert type(again) is type(result)


class Takes(nn.Module):
    """Reads its input by attribute, as it is both in the user's class and in what stands for it."""

    def forward(self, given):
        first, second = (given.boxes, given.scores[0]) if hasattr(given, "boxes") else given.hidden
        return first.sum(-1, keepdim=True) + second


class TakesLeaves(nn.Module):
    def forward(self, given):
        first, second = pytree.tree_leaves(given)
        return first.sum(-1, keepdim=True) + second


NESTED = [
    (Takes(), Detections(x(), [x(3, 5)])),
    (Takes(), Classified(hidden=(x(), x(3, 5)))),
    (TakesLeaves(), Point(x(), x(3, 5))),
    (TakesLeaves(), {"a": x(), "b": x(3, 5)}),
    (TakesLeaves(), [x(), (x(3, 5),)]),
]


@pytest.mark.parametrize(("module", "given"), NESTED, ids=[type(given).__name__ for _, given in NESTED])
def test_nested_inputs(works_end_to_end, module, given):
    model = works_end_to_end(module, (given,))
    assert [spec.shape for spec in model.inputs] == [("batch", 4), ("batch", 5)]


class Named(nn.Module):
    def forward(self, a, b, *, scale, flag):
        return {"sum": (a + b) * scale, "where": torch.where(flag, a, b)}


def test_several_inputs_by_position_and_by_name(works_end_to_end):
    model = works_end_to_end(Named(), (x(), x()), {"scale": x(3, 1), "flag": x() > 0})
    assert [spec.dtype for spec in model.inputs] == ["float32", "float32", "float32", "bool"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.randn(5, 4))
        self.register_buffer("order", torch.tensor([3, 0, 1]), persistent=False)

    def forward(self, x):
        return x[:, self.order] + self.positions[: len(self.order)]


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x):
        state, states = torch.zeros_like(x[:, 0]), []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            states.append(state)
        return torch.stack(states, 1)


class Branches(nn.Module):
    """torch.cond by a value, by the batch's size, nested, with several results, and by an input."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x, flag):
        chosen = torch.cond(x.sum() > 0, self.left, self.right, (x,))
        sized = torch.cond(x.shape[0] > 2, lambda x: x.sin(), lambda x: x.cos(), (x,))

        def inner(x):
            return torch.cond(x.amax() > 1, lambda x: (x * 3, x + 1), lambda x: (x + 7, x * 2), (x,))

        first, second = torch.cond(flag, inner, lambda x: (x - 1, x * 4), (x,))
        return {"chosen": chosen, "sized": sized, "nested": (first, second)}


def test_tied_weights(works_end_to_end):
    works_end_to_end(Tied(), (torch.randint(1000, (3, 6)),))


@pytest.mark.parametrize("module", [Buffers(), Loop()], ids=["buffers", "loop"])
def test_buffers_and_loops(works_end_to_end, module):
    works_end_to_end(module, (x(3, 5, 4),))


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_cond(works_end_to_end, flag, sign):
    works_end_to_end(Branches(), (sign * x().abs(), torch.tensor(flag)))


def test_cond_takes_the_branch_that_the_example_did_not():
    module = Branches()
    model = nncompile.compile(module, (x(), torch.tensor(True)))
    for flag in (True, False):
        for rows in (-x().abs(), x().abs() * 3):
            with torch.no_grad():
                expected = module(rows, torch.tensor(flag))
            assert_like(model.predict(rows, torch.tensor(flag)), expected, 1e-4, 1e-5)


def test_the_largest_and_smallest_of_all(works_end_to_end):
    works_end_to_end(
        Calls(lambda layer, x: (layer(x) - x.amax(), x - torch.amin(x, (), keepdim=True))), (x(),)
    )


def test_a_module_from_torch_export(works_end_to_end):
    batch = torch.export.Dim.AUTO
    program = torch.export.export(nn.Linear(4, 3).eval(), (x(),), dynamic_shapes=({0: batch},))
    works_end_to_end(program.module(), (x(),))
