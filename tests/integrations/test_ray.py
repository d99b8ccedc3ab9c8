"""`map_batches`' contract: a dict of arrays in, one of arrays back; with Ray itself where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from runtime.graphs import build, conv_net, floats, manifest, spec

import nncompile
from nncompile import InputError
from nncompile.integrations.ray import BatchPredictor
from nncompile_runtime import container
from nncompile_runtime.manifest import Argument
from nncompile_runtime.structure import ConstantLeaf, MappingOf, SequenceOf, TensorLeaf


def saved(folder: Path, model: Any, inputs: Any, outputs: Any, **about: Any) -> Path:
    path = folder / "net.onnx"
    container.write(
        path, container.append_manifest(model.SerializeToString(), manifest(inputs, outputs, **about))
    )
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(tmp_path, *conv_net())


def test_columns_the_model_does_not_read_are_carried_along(net: Path) -> None:
    predict, x = BatchPredictor(net, device="cpu"), floats(3, 1, 8, 8)
    ids = np.array(["a", "b", "c"], object)
    answers = predict({"id": ids, "x": x})
    assert list(answers) == ["id", "y"]
    assert answers["id"] is ids
    np.testing.assert_array_equal(answers["y"], nncompile.load(net, device="cpu")(x))


def test_rays_arrays_are_read_only(net: Path) -> None:
    x = floats(3, 1, 8, 8)
    x.setflags(write=False)
    assert BatchPredictor(net, device="cpu")({"x": x})["y"].shape == (3, 5)


def test_a_column_of_another_name(net: Path) -> None:
    predict, x = BatchPredictor(net, device="cpu", columns={"x": "data"}), floats(2, 1, 8, 8)
    assert list(predict({"data": x})) == ["y"]
    with pytest.raises(InputError, match="no column 'data'; there are 'x'") as caught:
        predict({"x": x})
    assert "columns=" in caught.value.remedy
    with pytest.raises(InputError, match="names the input 'image'") as caught:
        BatchPredictor(net, device="cpu", columns={"image": "data"})
    assert caught.value.remedy == "Its inputs are x."


def test_plan_and_device_are_those_asked_for(net: Path) -> None:
    predictor = BatchPredictor(net, device="cpu", plan={"threads": 1}).predictor
    assert (predictor.device, predictor.plan.threads) == ("cpu", 1)


def test_nested_inputs_and_several_outputs(tmp_path: Path) -> None:
    inputs, outputs = [spec(n, "batch", 3) for n in "abc"], [spec("s", "batch", 3), spec("t", "batch", 3)]
    nodes = [helper.make_node("Sub", ["a", "b"], ["s"]), helper.make_node("Mul", ["c", "c"], ["t"])]
    leaf_a, leaf_b, leaf_c = (TensorLeaf(index=i) for i in range(3))
    pair = SequenceOf(kind="tuple", items=(leaf_b, ConstantLeaf(value=True), leaf_a))
    arguments = [
        Argument(name="pair", structure=pair),
        Argument(name="rest", structure=MappingOf(entries=(("c", leaf_c),)), keyword_only=True),
    ]
    file = saved(tmp_path, build(nodes, inputs, outputs), inputs, outputs, arguments=arguments)
    a, b, c = (floats(4, 3, seed=i) for i in range(3))
    answers = BatchPredictor(file, device="cpu")({"c": c, "b": b, "a": a})
    assert list(answers) == ["s", "t"]
    np.testing.assert_array_equal(answers["s"], a - b)
    np.testing.assert_array_equal(answers["t"], c * c)


def test_what_does_not_fit_is_refused(net: Path, tmp_path: Path) -> None:
    predict, x = BatchPredictor(net, device="cpu"), floats(3, 1, 8, 8)
    with pytest.raises(InputError, match="'x' expects float32"):
        predict({"x": x.astype("f8")})
    with pytest.raises(InputError, match="column 'y', which an output would replace"):
        predict({"x": x, "y": np.zeros(3)})
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    ports = [spec("x", "batch", 2)], [spec("y")]
    predict = BatchPredictor(saved(tmp_path, build([node], *ports), *ports), device="cpu")
    with pytest.raises(InputError, match=r"'y' is \[\], not one row for each of 5"):
        predict({"x": floats(5, 2)})


def test_with_ray(net: Path) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    x = floats(10, 1, 8, 8)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        answers = ray.data.from_numpy(x).map_batches(
            BatchPredictor,
            fn_constructor_args=[str(net)],
            fn_constructor_kwargs={"device": "cpu", "plan": {"threads": 1}, "columns": {"x": "data"}},
            batch_size=4,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        y = np.stack([row["y"] for row in answers.take_all()])
    finally:
        ray.shutdown()
    expected = nncompile.load(net, device="cpu")(x)
    order = [int(np.argmin(np.abs(expected - row).sum(1))) for row in y]
    assert sorted(order) == list(range(10))
    np.testing.assert_allclose(y, expected[order], rtol=1e-5, atol=1e-6)
