"""Models without a manifest, and manifests that do not fit their graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nncompile import InputError, ModelLoadError, load
from nncompile_runtime.manifest import Manifest

from .graphs import build, conv_net, floats, manifest, predictor, spec


def relu(*shape: int | str) -> onnx.ModelProto:
    return build([helper.make_node("Relu", ["x"], ["y"])], [spec("x", *shape)], [spec("y", *shape)])


def test_a_plain_model_loads_and_predicts(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(conv_net()[0].SerializeToString())
    net = load(path, device="cpu")
    assert (net.manifest, net.labels) == (None, None)
    assert [str(s) for s in (*net.inputs, *net.outputs)] == ["float32[batch, 1, 8, 8]", "float32[batch, 5]"]
    assert "plain.onnx" in repr(net)
    for size in (0, 1, 3):
        assert net(floats(size, 1, 8, 8)).shape == (size, 5)


def test_a_plain_model_answers_as_the_artifact_does() -> None:
    model, inputs, outputs = conv_net()
    x = floats(3, 1, 8, 8)
    np.testing.assert_array_equal(predictor(model)(x), predictor(model, manifest(inputs, outputs))(x))


@pytest.mark.parametrize("unnamed", ["?", -1])
def test_unnamed_dimensions_take_any_size(unnamed: int | str) -> None:
    model = relu("batch", "n")
    for port in (*model.graph.input, *model.graph.output):
        for dimension in port.type.tensor_type.shape.dim:
            dimension.Clear()
            if unnamed == -1:  # as some exporters write it
                dimension.dim_value = -1
    net = predictor(model)
    for shape in ((2, 3), (1, 1), (0, 4)):
        assert net(floats(*shape)).shape == shape
    assert not any(isinstance(size, int) for size in net.inputs[0].shape)


def test_several_outputs_come_as_a_tuple() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Abs", ["x"], ["a"])]
    net = predictor(build(nodes, [spec("x", 2)], [spec("n", 2), spec("a", 2)]))
    n, a = net(np.array([1, -2], np.float32))
    assert (n.tolist(), a.tolist()) == ([-1, 2], [1, 2])


def test_a_model_without_inputs() -> None:
    net = predictor(build([], [], [spec("w", 2)], {"w": np.ones(2, np.float32)}))
    np.testing.assert_array_equal(net(), [1, 1])
    with pytest.raises(InputError, match="no inputs"):
        net(floats(1))


def test_a_weight_among_the_inputs_is_no_input() -> None:
    node, weights = helper.make_node("Add", ["x", "w"], ["y"]), {"w": np.ones(2, np.float32)}
    model = build([node], [spec("x", 2), spec("w", 2)], [spec("y", 2)], weights)
    np.testing.assert_array_equal(predictor(model)(np.zeros(2, np.float32)), [1, 1])


def test_a_type_that_numpy_lacks_is_refused() -> None:
    text = relu("batch")
    text.graph.node[0].op_type = "Identity"
    for port in (text.graph.input[0], text.graph.output[0]):
        port.type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelLoadError, match=r"'x'.*string"):
        predictor(text)
    sequence = build([], [], [])
    sequence.graph.input.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]))
    sequence.graph.output.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelLoadError, match="seq"):
        predictor(sequence)


def no_outputs() -> onnx.ModelProto:
    model = relu(2)
    del model.graph.output[:]
    return model


def long_name() -> onnx.ModelProto:
    model = relu(2)
    model.graph.input[0].name = model.graph.node[0].input[0] = "x" * 300
    return model


def many_dimensions() -> onnx.ModelProto:
    model = relu(2)
    for port in (*model.graph.input, *model.graph.output):
        port.CopyFrom(helper.make_tensor_value_info(port.name, TensorProto.FLOAT, [1] * 33))
    return model


@pytest.mark.parametrize("make", [no_outputs, long_name, many_dimensions])
def test_a_signature_out_of_bounds_is_refused_as_a_model(make: Callable[[], onnx.ModelProto]) -> None:
    """Beyond what a manifest could say: a `ModelLoadError`, never the validator's own."""
    with pytest.raises(ModelLoadError):
        predictor(make())


X, Y = spec("x", "batch", 4), spec("y", "batch", 4)


@pytest.mark.parametrize(
    "about",
    [
        pytest.param(manifest([spec("z", "batch", 4)], [Y]), id="input name"),
        pytest.param(manifest([spec("x", "batch", 4, dtype="float64")], [Y]), id="input dtype"),
        pytest.param(manifest([spec("x", "batch", 5)], [Y]), id="input size"),
        pytest.param(manifest([spec("x", "batch", 2, 2)], [Y]), id="input rank"),
        pytest.param(manifest([X, spec("w", "batch")], [Y]), id="one more input"),
        pytest.param(manifest([X], [spec("z", "batch", 4)]), id="output name"),
        pytest.param(manifest([X], [spec("y", "batch", 4, dtype="int8")]), id="output dtype"),
        pytest.param(manifest([X], [spec("y", "batch", 2)]), id="output size"),
        pytest.param(manifest([X], [Y, spec("z", "batch")]), id="one more output"),
    ],
)
def test_a_manifest_of_another_graph_is_refused_when_it_is_loaded(about: Manifest) -> None:
    with pytest.raises(ModelLoadError, match="graph"):
        predictor(relu("batch", 4), about)


def test_a_manifest_may_name_its_symbols_otherwise() -> None:
    """What was captured as `batch` the graph may leave unnamed, or know the size of."""
    assert predictor(relu("?", 4), manifest([X], [Y]))(floats(3, 4)).shape == (3, 4)
