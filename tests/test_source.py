"""Modules and weights by what a user writes on a command line."""

import pickle
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nncompile.source import load_module, parse_arguments
from nncompile_runtime import CaptureError

NETWORKS = """
    from dataclasses import dataclass
    from torch import nn
    from beside_{stem} import WIDTH

    @dataclass
    class Config:
        out: int = 2

    class Net(nn.Module):
        class Inner(nn.Linear):
            def __init__(self):
                super().__init__(WIDTH, 4)

        def __init__(self, out=2, activation="relu"):
            super().__init__()
            self.activation = activation
            self.fc = nn.Linear(WIDTH, out)

    class _Private(nn.Module):
        pass

    def factory(out=3):
        return Net(Config(out).out)

    def parallel():
        return nn.DataParallel(Net())

    def broken():
        raise RuntimeError("no such network")

    def number():
        return 3

    instance = nn.Linear(WIDTH, 5)
    constant = 7
"""


@pytest.fixture(scope="module", autouse=True)
def imports_of_their_own():
    """Loading a file adds to the import path, as `python file.py` does; tests must not."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("networks_", "beside_", "pack_")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "networks_a.py").write_text(textwrap.dedent(NETWORKS.format(stem="a")))
    (folder / "beside_a.py").write_text("WIDTH = 3\n")
    (folder / "pack_a").mkdir()
    (folder / "pack_a" / "__init__.py").write_text("")
    (folder / "pack_a" / "mod.py").write_text(
        "from torch import nn\nNet = nn.Linear\nnet = nn.Linear(3, 6)\n"
    )
    (folder / "networks_raises.py").write_text("import no_such_package_at_all\n")
    (folder / "networks_syntax.py").write_text("def f(:\n")
    (folder / "networks_exits.py").write_text("import sys\nsys.exit('usage: train.py --epochs N')\n")
    (folder / "networks_empty.py").write_text("")
    (folder / "notes.txt").write_text("")
    return folder


def load(place, reference, weights=None, **arguments):
    return load_module(f"{place}/{reference}", arguments, weights)


@pytest.mark.parametrize(
    ("reference", "arguments", "out"),
    [
        ("networks_a.py:Net", {}, 2),
        ("networks_a.py:Net", {"out": 7, "activation": "gelu"}, 7),
        ("networks_a:Net", {}, 2),
        ("networks_a.py:factory", {}, 3),
        ("networks_a.py:factory", {"out": 4}, 4),
    ],
)
def test_a_class_or_a_factory_in_a_file(place, reference, arguments, out):
    module = load(place, reference, **arguments)
    assert type(module).__name__ == "Net"
    assert module.fc.out_features == out
    assert module.activation == arguments.get("activation", "relu")


def test_an_instance_in_a_file(place):
    assert load(place, "networks_a.py:instance").out_features == 5


def test_a_nested_name(place):
    assert load(place, "networks_a.py:Net.Inner").out_features == 4


@pytest.mark.parametrize("name", ["net", "Net"])
def test_a_package(place, monkeypatch, name):
    monkeypatch.chdir(place)
    module = load_module(
        f"pack_a.mod:{name}", {"in_features": 3, "out_features": 6} if name == "Net" else {}, None
    )
    assert module.out_features == 6
    assert load_module("torch.nn:Linear", {"in_features": 1, "out_features": 2}, None).out_features == 2


@pytest.mark.parametrize(
    ("reference", "arguments", "problem", "remedy"),
    [
        ("networks_a.py:Nett", {}, "has no 'Nett'", "It has Net."),
        ("networks_a.py:Net.Outer", {}, "has no 'Net.Outer'", "It has Net."),
        ("networks_empty.py:Net", {}, "has no 'Net'", "It defines no nn.Module class."),
        ("networks_b.py:Net", {}, "There is no file", "Check the path before the colon."),
        (
            "networks_a.py:broken",
            {},
            "broken() fails: RuntimeError: no such network",
            "Check its code; --debug",
        ),
        (
            "networks_a.py:Net",
            {"outs": 3},
            "Net(outs=3) fails: TypeError",
            "It takes (out=2, activation='relu')",
        ),
        (
            "networks_a.py:Net",
            {"out": "x"},
            "Net(out='x') fails: TypeError",
            "Check the --arg values and its code",
        ),
        ("notes.txt:Net", {}, "notes.txt is no Python file", "Name the .py file"),
        ("networks_a.py:number", {}, "returned int, not an nn.Module", "Name an nn.Module class"),
        ("networks_a.py:constant", {}, "is of type int", "Name a class, a function or a module."),
        ("networks_a.py:instance", {"out": 3}, "out=3", "--arg"),
        (
            "networks_raises.py:Net",
            {},
            "ModuleNotFoundError: No module named 'no_such_package_at_all'",
            "--debug",
        ),
        ("networks_syntax.py:Net", {}, "cannot be imported: SyntaxError", "--debug"),
        (
            "networks_exits.py:Net",
            {},
            "cannot be imported: SystemExit: usage: train.py --epochs N",
            "--debug",
        ),
    ],
)
def test_what_cannot_be_had_from_a_file(place, reference, arguments, problem, remedy):
    with pytest.raises(CaptureError) as caught:
        load(place, reference, **arguments)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("reference", ["", ":", "file.py", "file.py:", ":Net", "LeNet5"])
def test_what_names_nothing(reference):
    with pytest.raises(CaptureError, match="does not name a module") as caught:
        load_module(reference, {}, None)
    assert "path/to/file.py:Class or package.module:Class" in caught.value.remedy


def test_a_package_that_is_missing():
    with pytest.raises(CaptureError, match="No module named 'no_such_package'"):
        load_module("no_such_package.models:Net", {}, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("out=10", 10),
        ("out=1e-3", 1e-3),
        ("out=True", True),
        ("out=None", None),
        ("out=[1, 2]", [1, 2]),
        ("out=(3,)", (3,)),
        ("out={'a': 1}", {"a": 1}),
        ("out='10'", "10"),
        ("out=resnet18", "resnet18"),
        ("out=", ""),
        ("out=a=b", "a=b"),
        ("out=__import__('os')", "__import__('os')"),
        ("out={[]: 1}", "{[]: 1}"),
        ("out=" + "(" * 300, "(" * 300),
        ("out=\0", "\0"),
    ],
)
def test_arguments(text, value):
    assert parse_arguments([text]) == {"out": value}


def test_the_last_of_equal_arguments_counts():
    assert parse_arguments(iter(["a=1", "b=x", "a=2"])) == {"a": 2, "b": "x"}


@pytest.mark.parametrize("text", ["out", "=3", "1st=3", "a-b=3", "a b=3", ""])
def test_arguments_that_are_none(text):
    with pytest.raises(CaptureError, match="is not NAME=VALUE") as caught:
        parse_arguments([text])
    assert "--arg out=10" in caught.value.remedy


@pytest.fixture
def state():
    torch.manual_seed(1)
    return {"fc.weight": torch.randn(2, 3), "fc.bias": torch.randn(2)}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_a_state_dict_saved_by_torch(place, state, tmp_path, wrapper):
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, tmp_path / "w.pt")
    loaded = load(place, "networks_a.py:Net", tmp_path / "w.pt").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_names_from_within_data_parallel(place, state, tmp_path, caplog):
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    loaded = load(place, "networks_a.py:Net", tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "w.safetensors begins with 'module.', as nn.DataParallel saves them" in record.getMessage()


def test_a_prefix_that_only_some_names_have(place, state, tmp_path, caplog):
    mixed = {"module.fc.weight": state["fc.weight"], "fc.bias": state["fc.bias"]}
    save_file(mixed, tmp_path / "w.safetensors")
    with pytest.raises(CaptureError, match=r'Unexpected key\(s\) in state_dict: "module.fc.weight"'):
        load(place, "networks_a.py:Net", tmp_path / "w.safetensors")
    assert caplog.records == []


def test_a_prefix_that_is_the_networks_own(place, state, tmp_path, caplog):
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    loaded = load(place, "networks_a.py:parallel", tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(loaded[f"module.{name}"], tensor) for name, tensor in state.items())
    assert caplog.records == []


def test_safetensors(place, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    loaded = load(place, "networks_a.py:factory", tmp_path / "w.safetensors", out=2).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_code_in_a_file_is_never_run(place, state, tmp_path, how):
    trap, weights = tmp_path / "trap", tmp_path / "w.pt"
    payload = {**state, "x": Payload(trap)} if how == "inside" else Payload(trap)
    if how == "pickle":
        weights.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, weights)
    with pytest.raises(CaptureError, match="loading it would run code from the file") as caught:
        load(place, "networks_a.py:Net", weights)
    assert "safetensors" in caught.value.remedy
    assert not trap.exists()


def test_a_whole_module_is_not_loaded(place, tmp_path):
    torch.save(nn.Linear(3, 2), tmp_path / "w.pt")
    with pytest.raises(CaptureError, match="holds more than tensors"):
        load(place, "networks_a.py:Net", tmp_path / "w.pt")


@pytest.mark.parametrize("saved", [[torch.zeros(2)], {"fc.weight": 3}, {"net": {}}, torch.zeros(2)])
def test_what_is_no_state_dict(place, tmp_path, saved):
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(CaptureError, match="holds no state dict of tensors"):
        load(place, "networks_a.py:Net", tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"fc.bias": None}, 'Missing key(s) in state_dict: "fc.bias"'),
        ({"head.bias": torch.zeros(2)}, 'Unexpected key(s) in state_dict: "head.bias"'),
        ({"fc.weight": torch.zeros(9, 3)}, "size mismatch for fc.weight"),
        (
            {f"layer.{i}": torch.zeros(1) for i in range(9)},
            'Unexpected key(s) in state_dict: "layer.0", "layer.1", "layer.2" and 6 more.',
        ),
        (
            {f"layer.{i}": torch.zeros(1) for i in range(4)},
            'Unexpected key(s) in state_dict: "layer.0", "layer.1", "layer.2", "layer.3".',
        ),
    ],
)
def test_weights_that_do_not_fit(place, state, tmp_path, change, detail):
    weights = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(CaptureError) as caught:
        load(place, "networks_a.py:Net", tmp_path / "w.safetensors")
    assert "do not fit Net" in caught.value.problem
    assert detail in caught.value.problem
    assert "--arg" in caught.value.remedy


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file(place, state, tmp_path, suffix, kept):
    path = tmp_path / f"w.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CaptureError, match="cannot be read: ") as caught:
        load(place, "networks_a.py:Net", path)
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize(
    "content",
    [b"hello world\n", b"version https://git-lfs.github.com/spec/v1\n", b"\x08\x0a\x12", b"PK\x03\x04zip?"],
)
def test_a_file_of_something_else_is_not_called_dangerous(place, tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CaptureError, match=r"The weights in .*w\.pt cannot be read: ") as caught:
        load(place, "networks_a.py:Net", tmp_path / "w.pt")
    assert ("this is not a weights file" in caught.value.problem) == (not content.startswith(b"PK"))
    assert "*.safetensors" in caught.value.remedy


def test_a_state_dict_as_torch_saved_it_before_its_zip_format(place, state, tmp_path):
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    loaded = load(place, "networks_a.py:Net", tmp_path / "w.pt").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_a_weights_file_that_is_none(place, tmp_path, name):
    with pytest.raises(CaptureError, match="There is no weights file"):
        load(place, "networks_a.py:Net", tmp_path / name)
