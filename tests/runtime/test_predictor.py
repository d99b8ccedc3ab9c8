"""`Predictor`: calling conventions, batch sizes, threads, pickling, memory."""

from __future__ import annotations

import gc
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError, ModelLoadError, Plan, Predictor, load
from nncompile_runtime import container
from nncompile_runtime.session import Session
from nncompile_runtime.structure import MappingOf, RecordOf, SequenceOf, TensorLeaf

from .graphs import adding, build, compiled, conv_net, doubling, floats, manifest, predictor, spec

if TYPE_CHECKING:
    from nncompile import CompiledModel


def conv(**options: Any) -> Predictor:
    """The convolutional network with a manifest."""
    model, inputs, outputs = conv_net()
    plan = options.pop("plan", None)
    return predictor(model, manifest(inputs, outputs, **options), plan=plan)


class TestCalls:
    def test_predict_call_and_name_are_the_same(self) -> None:
        net, x = conv(), floats(3, 1, 8, 8)
        y = net.predict(x)
        assert (y.shape, y.dtype) == ((3, 5), np.float32)
        for other in (net(x), net(x=x), net.predict(x=x), *net.predict_batches([x])):
            np.testing.assert_array_equal(other, y, strict=True)

    def test_what_is_compiled_is_what_is_saved(self, compiled_net: CompiledModel, artifact: Path) -> None:
        loaded, x = load(artifact, device="cpu"), floats(3, 1, 8, 8)
        np.testing.assert_array_equal(loaded(x), compiled_net(x), strict=True)
        assert (loaded.inputs, loaded.outputs) == (compiled_net.inputs, compiled_net.outputs)

    def test_properties(self) -> None:
        net = conv(labels=("a", "b", "c", "d", "e"))
        assert [str(s) for s in net.inputs] == ["float32[batch, 1, 8, 8]"]
        assert [str(s) for s in net.outputs] == ["float32[batch, 5]"]
        assert (net.device, net.labels, net.plan) == ("cpu", tuple("abcde"), Plan(threads=net.plan.threads))
        assert repr(net) == "Predictor(Net: x: float32[batch, 1, 8, 8] -> y: float32[batch, 5]; cpu)"

    def test_an_open_session_serves_where_its_plan_is_the_one_to_run(self) -> None:
        model, inputs, outputs = conv_net()
        file = container.parse(
            container.append_manifest(model.SerializeToString(), manifest(inputs, outputs)), "net"
        )
        ready = Session(file, Plan(threads=1))
        assert Predictor(file, device="cpu", plan=Plan(threads=1), session=ready).session is ready
        other = Predictor(file, device="cpu", plan=Plan(threads=2), session=ready)
        assert other.session is not ready
        assert other.session.plan == other.plan == Plan(threads=2)

    def test_the_fast_way_and_the_checked_way_agree(self) -> None:
        net, x = conv(), floats(4, 1, 8, 8)
        checked = net(torch.from_numpy(x))
        assert isinstance(checked, torch.Tensor)
        np.testing.assert_array_equal(checked.numpy(), net(x), strict=True)


SPLIT = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Abs", ["x"], ["a"])]
ONE, TWO = TensorLeaf(index=0), TensorLeaf(index=1)


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    "result",
    [
        SequenceOf(kind="tuple", items=(TWO, ONE)),
        SequenceOf(kind="list", items=(TWO, SequenceOf(kind="tuple", items=(ONE,)))),
        MappingOf(entries=(("abs", TWO), (0, ONE))),
        RecordOf(type_name="Out", entries=(("abs", TWO), ("neg", ONE))),
    ],
    ids=["tuple", "list", "dict", "record"],
)
def test_outputs_are_nested_as_forward_nests_them(
    result: Any, tensors: bool, micro_batch: int | None
) -> None:
    x, n, a = (spec(name, "batch", 3) for name in "xna")
    net = compiled(SPLIT, [x], [n, a], result=result, plan=Plan(micro_batch=micro_batch))
    x = floats(5, 3)
    y = net(torch.from_numpy(x) if tensors else x)
    flat = net.flatten_result(y)
    assert all(isinstance(part, torch.Tensor if tensors else np.ndarray) for part in flat)
    np.testing.assert_array_equal(flat[0], -x)
    np.testing.assert_array_equal(flat[1], abs(x))
    first = y["abs"] if isinstance(y, dict) else y[0]
    np.testing.assert_array_equal(first, abs(x))
    kinds = {"tuple": tuple, "list": list, "dict": dict, "record": tuple}
    assert isinstance(y, kinds[result.kind])


class TestBatches:
    @pytest.mark.parametrize("micro_batch", [None, 1, 2])
    @pytest.mark.parametrize("size", [0, 1, 2, 3])
    def test_any_batch_size(self, size: int, micro_batch: int | None) -> None:
        net, x = conv(plan=Plan(micro_batch=micro_batch)), floats(3, 1, 8, 8)
        y = net(x[:size])
        assert (y.shape, y.dtype) == ((size, 5), np.float32)
        np.testing.assert_allclose(y, net(x)[:size], rtol=1e-6, atol=1e-6)

    def test_an_empty_batch_of_a_graph_that_cannot_run_one(self) -> None:
        """ONNX Runtime cannot infer the -1 of a reshape from nothing."""
        node, weights = helper.make_node("Reshape", ["x", "shape"], ["y"]), {"shape": np.array([0, -1])}
        ports = [spec("x", "batch", 2, 3)], [spec("y", "batch", 6)]
        assert predictor(build([node], *ports, weights), manifest(*ports))(floats(0, 2, 3)).shape == (0, 6)

    def test_an_empty_batch_of_a_graph_that_squeezes_one_row(self) -> None:
        node = helper.make_node("Squeeze", ["x"], ["y"])
        ports = [spec("x", "batch", 4, 1)], [spec("y", "batch", 4)]
        net = predictor(build([node], *ports), manifest(*ports))
        assert [net(floats(size, 4, 1)).shape for size in (0, 1, 2)] == [(0, 4), (4,), (2, 4)]

    def test_an_empty_batch_of_several_inputs_and_tensors(self) -> None:
        assert adding()(floats(0, 3), floats(0, 3)).shape == (0, 3)
        y = conv()(torch.empty(0, 1, 8, 8))
        assert (type(y), y.shape, y.dtype) == (torch.Tensor, (0, 5), torch.float32)

    @pytest.mark.parametrize("shape", [(), (3,), ("width",)])
    def test_an_empty_batch_where_an_output_is_of_all_rows(self, shape: tuple[int | str, ...]) -> None:
        node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
        weights = {"axes": np.array([0] if shape else [0, 1])}
        ports = [spec("x", "batch", *(shape or (3,)))], [spec("rows", "batch", 3), spec("y", *shape)]
        nodes, x = [helper.make_node("Neg", ["x"], ["rows"]), node], floats(2, 3)
        data = build(nodes, *ports, weights)
        net = predictor(data, manifest(*ports))
        np.testing.assert_allclose(net(x)[1], x.mean(0) if shape else x.mean(), rtol=1e-6)
        with pytest.raises(InputError, match="batch is empty, and output 'y' is of all rows") as caught:
            net(x[:0])
        assert caught.value.remedy == "Skip empty batches."
        foreign = predictor(data)(x[:0])
        assert foreign[0].shape == (0, 3)
        assert np.all(foreign[1] == 0)

    @pytest.mark.parametrize("size", ["2*batch", "found"])
    def test_an_empty_batch_where_an_output_has_a_size_of_its_own(self, size: str) -> None:
        node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
        ports = [spec("x", "batch", 3)], [spec("y", size, 3)]
        assert predictor(build([node], *ports), manifest(*ports))(floats(0, 3)).shape == (0, 3)

    @pytest.mark.parametrize("size", range(1, 18))
    def test_ragged_micro_batches(self, size: int) -> None:
        """An element-wise graph has one answer; a convolution may sum in another order."""
        x = floats(size, 4)
        np.testing.assert_array_equal(doubling(plan=Plan(micro_batch=4))(x), doubling()(x), strict=True)
        x = floats(size, 1, 8, 8)
        np.testing.assert_allclose(conv(plan=Plan(micro_batch=4))(x), conv()(x), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(("size", "pieces"), [(4, []), (5, [4, 1]), (8, [4, 4]), (11, [4, 4, 3])])
    def test_micro_batches_are_really_run(
        self, size: int, pieces: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A graph whose sizes are known writes each piece in its place; else the first one shows them."""
        seen: list[int] = []
        original = Session.run_into

        def spy(self: Session, feed: Any, outputs: Any) -> None:
            seen.append(len(feed["x"]))
            original(self, feed, outputs)

        monkeypatch.setattr(Session, "run_into", spy)
        x = floats(size, 4)
        for shape, expected in (("batch", 4), pieces), (("batch", "n"), pieces[1:]):
            seen.clear()
            np.testing.assert_array_equal(doubling(*shape, plan=Plan(micro_batch=4))(x), 2 * x)
            assert seen == expected

    def test_micro_batches_of_several_inputs_one_without_a_batch(self) -> None:
        inputs = [spec("a", "batch", 3), spec("factor"), spec("b", "batch", 3), spec("row", 3)]
        nodes = [
            helper.make_node("Mul", ["a", "factor"], ["s"]),
            helper.make_node("Add", ["s", "b"], ["t"]),
            helper.make_node("Add", ["t", "row"], ["y"]),
        ]
        net = compiled(nodes, inputs, [spec("y", "batch", 3)], plan=Plan(micro_batch=2))
        a, b, row = floats(5, 3), floats(5, 3, seed=1), floats(3)
        np.testing.assert_array_equal(net(a, np.float32(2), b, row), a * 2 + b + row)

    @pytest.mark.parametrize("size", [1, 4, 5, 9])
    def test_micro_batches_of_a_graph_whose_other_sizes_are_free(self, size: int) -> None:
        net = doubling("batch", "n", plan=Plan(micro_batch=4))
        x = floats(size, 7)
        np.testing.assert_array_equal(net(x), 2 * x)

    def test_rows_that_depend_on_each_other_are_never_cut(self) -> None:
        node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
        ports = [spec("x", "batch", 4)], [spec("y", "batch", 4)]
        net = compiled([node], *ports, rows_independent=False, plan=Plan(micro_batch=2))
        cut = compiled([node], *ports, rows_independent=True, plan=Plan(micro_batch=2))
        x = floats(6, 4)
        np.testing.assert_allclose(net(x).sum(0), 1, rtol=1e-6)
        assert cut(x).sum(0)[0] == pytest.approx(3, rel=1e-6)  # what it would be, were it cut

    def test_the_compiler_finds_rows_that_depend_on_each_other(self, compiled_net: CompiledModel) -> None:
        assert compiled_net.manifest is not None
        assert compiled_net.manifest.verification.rows_independent

    def test_an_output_without_the_batch_is_never_cut(self) -> None:
        node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
        net = compiled([node], [spec("x", "batch", 2)], [spec("y")], plan=Plan(micro_batch=2))
        assert net(np.ones((5, 2), np.float32)) == 10
        assert net(np.ones((0, 2), np.float32)) == 0
        assert net(torch.ones(5, 2)).shape == ()


class TestValues:
    def test_outputs_are_not_shared_between_calls(self) -> None:
        for net in (doubling(), doubling(plan=Plan(micro_batch=2))):
            x = floats(5, 4)
            first = net(x)
            first[:] = 7
            second = net(x)
            np.testing.assert_array_equal(second, 2 * x)
            assert not np.shares_memory(first, second)
            second[:] = 9
            np.testing.assert_array_equal(first, 7)

    def test_an_output_that_is_an_input_or_a_weight_is_a_copy(self) -> None:
        x = floats(3, 4)
        kept = x.copy()
        for nodes, out in (([helper.make_node("Identity", ["x"], ["y"])], "y"), ([], "x")):
            y = predictor(build(nodes, [spec("x", "batch", 4)], [spec(out, "batch", 4)]))(x)
            y[:] = 7
            np.testing.assert_array_equal(x, kept)
        net = predictor(build([], [spec("x", "batch", 4)], [spec("w", 2)], {"w": np.ones(2, np.float32)}))
        net(x)[:] = 7
        np.testing.assert_array_equal(net(x), [1, 1])

    def test_nan_and_infinity_propagate(self) -> None:
        x = np.array([[np.nan, np.inf, -np.inf, 3e38]], np.float32)
        np.testing.assert_array_equal(doubling()(x), [[np.nan, np.inf, -np.inf, np.inf]])
        bad = floats(3, 1, 8, 8)
        bad[1, 0, 3, 3] = np.nan
        y = conv()(bad)
        assert np.isfinite(y[[0, 2]]).all()
        assert np.isnan(y[1]).any()


def test_eight_threads_answer_as_one() -> None:
    net = conv()
    xs = [floats(1 + i % 3, 1, 8, 8, seed=i) for i in range(20)]
    expected = [net(x) for x in xs]

    def work(start: int) -> int:
        return sum(np.array_equal(net(xs[(start + i) % 20]), expected[(start + i) % 20]) for i in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [200] * 8


class TestPickling:
    def test_a_predictor_keeps_answers_and_plan(self) -> None:
        net, x = conv(plan=Plan(threads=1, micro_batch=2)), floats(5, 1, 8, 8)
        again = pickle.loads(pickle.dumps(net))
        assert (type(again), again.plan, repr(again)) == (type(net), net.plan, repr(net))
        np.testing.assert_array_equal(again(x), net(x), strict=True)

    def test_a_compiled_model_keeps_its_report(self, compiled_net: CompiledModel) -> None:
        again, x = pickle.loads(pickle.dumps(compiled_net)), floats(2, 1, 8, 8)
        assert type(again) is type(compiled_net)
        assert again.report == compiled_net.report
        np.testing.assert_array_equal(again(x), compiled_net(x), strict=True)

    def test_a_damaged_pickle_is_noticed(self) -> None:
        state = pickle.dumps(conv())
        at = state.index(b"nncompile.sha256") + 30
        damaged = state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :]
        with pytest.raises(ModelLoadError, match="digest"):
            pickle.loads(damaged)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_loading_and_dropping_a_hundred_times_keeps_no_memory(tmp_path: Path) -> None:
    weights = {"w": floats(1000, 1000)}  # 4 MB
    ports = [spec("x", "batch", 1000)], [spec("y", "batch", 1000)]
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], *ports, weights)
    path, x = tmp_path / "net.onnx", floats(2, 1000)
    container.write(path, container.append_manifest(model.SerializeToString(), manifest(*ports)))

    def cycles(count: int) -> None:
        for _ in range(count):
            load(path, device="cpu", plan=Plan(threads=1))(x)
        gc.collect()

    cycles(10)
    before = resident_bytes()
    cycles(90)
    assert resident_bytes() - before < 100e6  # a leak of the file alone would be 360 MB
