"""ONNX Runtime behind one class: installation, refusals, the optimiser that is wrong."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from nncompile import DeviceError, InputError, ModelLoadError
from nncompile_runtime import container, session
from nncompile_runtime.plan import Plan
from nncompile_runtime.session import Session, available_providers, onnxruntime

from .graphs import build, doubling, floats, predictor, spec


@pytest.fixture
def fresh() -> Iterator[None]:
    """ONNX Runtime is looked for again, here and after the test."""
    onnxruntime.cache_clear()
    yield
    onnxruntime.cache_clear()


def no_module(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """`import onnxruntime` fails."""
    original = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(reason)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)


@pytest.mark.usefixtures("fresh")
class TestInstallation:
    def test_both_distributions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        both = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
        monkeypatch.setattr(session, "installed_onnxruntime", lambda: both)
        with pytest.raises(ModelLoadError, match="overwrite each other") as caught:
            doubling()
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.remedy
        assert "pip install" in caught.value.remedy

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "installed_onnxruntime", dict)
        no_module(monkeypatch, "No module named 'onnxruntime'")
        with pytest.raises(ModelLoadError, match="not installed") as caught:
            doubling()
        assert "pip install 'nncompile[cpu]'" in caught.value.remedy

    def test_a_broken_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "installed_onnxruntime", lambda: {"onnxruntime": "1.31.1"})
        no_module(monkeypatch, "libfoo.so: cannot open shared object file")
        with pytest.raises(ModelLoadError, match=r"libfoo\.so") as caught:
            doubling()
        assert "pip install --force-reinstall" in caught.value.remedy

    def test_a_failure_is_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(session, "installed_onnxruntime", lambda: {"a": "1", "b": "1"})
            with pytest.raises(ModelLoadError):
                onnxruntime()
        assert onnxruntime() is ort

    def test_a_provider_that_this_build_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
        assert available_providers() == ["CPUExecutionProvider"]
        with pytest.raises(DeviceError, match="no CUDAExecutionProvider") as caught:
            predictor(pad_and_pool(), device="cuda")
        assert "nncompile[gpu]" in caught.value.remedy


def pad_and_pool() -> onnx.ModelProto:
    """Zero padding before max pooling: over negative values, the maximum at the border is the zero."""
    nodes = [
        helper.make_node("Pad", ["x", "pads", "zero"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3]),
    ]
    weights = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.float32(0)}
    return build(nodes, [spec("x", "batch", 1, 4, 4)], [spec("y", "batch", 1, 4, 4)], weights)


def in_a_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph as a model-local function."""
    imports = [helper.make_opsetid("", 20)]
    body = helper.make_function("ours", "F", ["x", "pads", "zero"], ["y"], list(model.graph.node), imports)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("F", ["x", "pads", "zero"], ["y"], domain="ours"))
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("ours", 1))
    return model


class TestPadThenMaxPool:
    x = -1 - np.abs(floats(2, 1, 4, 4))

    @pytest.mark.parametrize("blocked_layout", [True, False])
    @pytest.mark.parametrize("function", [False, True])
    def test_the_session_is_right(self, function: bool, blocked_layout: bool) -> None:
        model = in_a_function(pad_and_pool()) if function else pad_and_pool()
        (expected,) = ReferenceEvaluator(model).run(None, {"x": self.x})
        y = predictor(model, plan=Plan(blocked_layout=blocked_layout))(self.x)
        np.testing.assert_array_equal(y, expected)
        assert (y[:, :, 0] == 0).all()

    @pytest.mark.skipif(not ort.__version__.startswith("1.31."), reason="known of ONNX Runtime 1.31")
    def test_onnx_runtime_alone_is_wrong(self) -> None:
        """Should this fail with a newer version, the guard in `Session` can go."""
        plain = ort.InferenceSession(pad_and_pool().SerializeToString(), providers=["CPUExecutionProvider"])
        (y,) = plain.run(None, {"x": self.x})
        assert (y[:, :, 0] < 0).all()


def transposed_product(dtype: str = "float16") -> onnx.ModelProto:
    """The batch goes to the middle before a product with weights, as behind attention over a sequence."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    weights = {"w": np.arange(20).reshape(4, 5).astype(dtype)}
    ports = spec("x", "batch", 3, 4, dtype=dtype), spec("y", 3, "batch", 5, dtype=dtype)
    return build(nodes, ports[:1], ports[1:], weights)


class TestTransposedProductInFloat16:
    x = np.arange(24, dtype=np.float16).reshape(2, 3, 4)

    def test_the_session_is_right(self) -> None:
        expected = self.x.transpose(1, 0, 2) @ np.arange(20, dtype=np.float16).reshape(4, 5)
        np.testing.assert_array_equal(predictor(transposed_product())(self.x), expected)

    @pytest.mark.parametrize(
        ("dtype", "provider", "names"),
        [
            ("float16", "cpu", ("MatmulTransposeFusion",)),
            ("float16", "cuda", ()),
            ("float32", "cpu", ()),
        ],
    )
    def test_the_fusion_is_off_only_where_it_harms(
        self, dtype: str, provider: str, names: tuple[str, ...]
    ) -> None:
        file = container.parse(transposed_product(dtype).SerializeToString(), "test.onnx")
        assert file.harmful_optimizers(provider) == names

    @pytest.mark.skipif(not ort.__version__.startswith("1.31."), reason="known of ONNX Runtime 1.31")
    def test_onnx_runtime_alone_ends_the_process(self, tmp_path: Path) -> None:
        """Should this fail with a newer version, the guard in `ModelFile` can go."""
        onnx.save(transposed_product(), tmp_path / "net.onnx")
        opened = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
        ended = subprocess.run([sys.executable, "-c", opened, tmp_path / "net.onnx"], capture_output=True)
        assert ended.returncode < 0


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(ModelLoadError, match=r"test\.onnx") as caught:
        predictor(model)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


X, Y = spec("x", 2), spec("y", 2)


class TestRefusals:
    def test_an_unknown_operator(self) -> None:
        assert "Frobnicate" in refusal(build([helper.make_node("Frobnicate", ["x"], ["y"])], [X], [Y]))

    def test_an_unknown_domain(self) -> None:
        node = helper.make_node("Relu", ["x"], ["y"], domain="nobody")
        assert "nobody" in refusal(build([node], [X], [Y], domains=["nobody"]))

    @pytest.mark.parametrize("opset", [0, 999])
    def test_an_unknown_opset(self, opset: int) -> None:
        refusal(build([helper.make_node("Relu", ["x"], ["y"])], [X], [Y], opset=opset))

    def test_no_opset_at_all(self) -> None:
        model = build([helper.make_node("Relu", ["x"], ["y"])], [X], [Y])
        del model.opset_import[:]
        assert "opset" in refusal(model)

    def test_an_unknown_ir_version(self) -> None:
        model = build([helper.make_node("Relu", ["x"], ["y"])], [X], [Y])
        model.ir_version = 999
        refusal(model)

    def test_a_cycle_and_a_dangling_input(self) -> None:
        nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
        refusal(build(nodes, [X], [spec("b", 2)]))
        refusal(build([helper.make_node("Relu", ["nowhere"], ["y"])], [X], [Y]))

    @pytest.mark.parametrize("dims", [[-2], [2**40], [2**62, 4], [3]])
    def test_a_weight_whose_shape_does_not_fit_its_data(self, dims: list[int]) -> None:
        model = build([helper.make_node("Add", ["x", "w"], ["y"])], [X], [Y], {"w": floats(2)})
        model.graph.initializer[0].dims[:] = dims
        refusal(model)


def test_a_run_that_fails_is_an_input_error_and_the_session_lives_on() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    ports = [spec("x", "n"), spec("shape", 2, dtype="int64")], [spec("y", "a", "b")]
    net = predictor(build([node], *ports))
    x = floats(6)
    with pytest.raises(InputError, match="could not run") as caught:
        net(x, np.array([4, 2]))
    assert "\n" not in str(caught.value)
    assert net(x, np.array([3, 2])).shape == (3, 2)


def test_a_run_that_fails_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime logs what it raises on stderr, where nobody asked for it."""
    table = {"table": np.arange(6, dtype=np.float32).reshape(3, 2)}
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    lookup = build([node], [spec("ids", "batch", dtype="int64")], [spec("y", "batch", 2)], table)
    net = predictor(lookup).session
    outside, into = {"ids": np.array([1, 3])}, [("y", np.empty((2, 2), np.float32))]
    for run in (net.run, lambda feed: net.run_into(feed, into)):
        with pytest.raises(InputError, match="takes 0 to 2"):
            run(outside)
    assert capfd.readouterr() == ("", "")


def recurrent() -> onnx.ModelProto:
    """An LSTM whose batch is dimension 1."""
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    weights = {"w": floats(1, 8, 3), "r": floats(1, 8, 2)}
    return build([node], [spec("x", "time", "batch", 3)], [spec("y", "time", 1, "batch", 2)], weights)


def batched_product() -> onnx.ModelProto:
    """A product of matrices whose batch has no name."""
    node = helper.make_node("Einsum", ["x", "x"], ["y"], equation="bij,bkj->bik")
    return build([node], [spec("x", "?", 2, 3)], [spec("y", "?", 2, 2)])


@pytest.mark.parametrize(("make", "shape"), [(recurrent, (4, 0, 3)), (batched_product, (0, 2, 3))])
def test_an_empty_input_does_not_end_the_process(
    make: Callable[[], onnx.ModelProto], shape: tuple[int, ...], tmp_path: Path
) -> None:
    """ONNX Runtime 1.31's LSTM, GRU and Einsum abort the whole process on an empty batch."""
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    code = (
        "import numpy as np, nncompile\n"
        f"net = nncompile.load({str(path)!r}, device='cpu')\n"
        f"try: print(net(np.zeros({shape}, np.float32)).shape)\n"
        "except nncompile.InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_run_into_writes_where_it_is_told() -> None:
    model = build([helper.make_node("Add", ["x", "x"], ["y"])], [spec("x", "n", 3)], [spec("y", "n", 3)])
    opened = Session(container.parse(model.SerializeToString(), "test.onnx"), Plan())
    room = np.zeros((4, 3), np.float32)
    opened.run_into({"x": np.ones((2, 3), np.float32)}, [("y", room[1:3])])
    np.testing.assert_array_equal(room[:, 0], [0, 2, 2, 0])
    for wrong in (room[:1], room.astype(np.float64)[:2]):
        with pytest.raises(InputError):
            opened.run_into({"x": np.ones((2, 3), np.float32)}, [("y", wrong)])
