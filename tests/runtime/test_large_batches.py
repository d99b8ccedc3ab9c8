"""Batches so large that what lies between layers fills the memory: cut, unless a plan says otherwise."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from nncompile import Plan, Predictor
from nncompile_runtime.kernels import installed_library
from nncompile_runtime.plan import MAX_BATCH
from nncompile_runtime.session import Session

from .graphs import adding, build, compiled, conv_net, doubling, floats, manifest, predictor, spec
from .test_kernels import region_net

STATUS = Path("/proc/self/status")
WIDE = 1024  # floats of a row, of which 256 are 1 MiB
ONE = Plan(threads=1)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each run."""
    ran: list[int] = []
    for name in ("run", "run_into"):
        original = getattr(Session, name)

        def spy(self: Session, feed: Any, *more: Any, original: Any = original) -> Any:
            ran.append(max(map(len, feed.values())))
            return original(self, feed, *more)

        monkeypatch.setattr(Session, name, spy)
    return ran


@pytest.mark.parametrize(
    ("rows", "width", "threads", "expected"),
    [
        (256, WIDE, 1, [256]),
        (257, WIDE, 1, [256, 1]),
        (600, WIDE, 1, [256, 256, 88]),
        (600, 4 * WIDE, 1, [256, 256, 88]),
        (600, WIDE, 2, [512, 88]),
        (600, 4 * WIDE, 4, [256, 256, 88]),
        (600, WIDE // 2, 1, [512, 88]),
        (600, 4, 1, [600]),
        (70_000, 4, 1, [65_536, 4_464]),
    ],
)
def test_pieces_have_256_rows_and_1_mib_a_thread(
    pieces: list[int], rows: int, width: int, threads: int, expected: list[int]
) -> None:
    net, x = doubling("batch", width, plan=Plan(threads=threads)), floats(rows, width)
    for _ in range(2):  # the second time without checks
        pieces.clear()
        np.testing.assert_array_equal(net(x), 2 * x, strict=True)
        assert pieces == expected


def test_all_inputs_that_carry_the_batch_count(pieces: list[int]) -> None:
    """Two of 12 bytes a row make 24; `m`, which has no rows, counts nothing and stays whole."""
    a, b = floats(90_000, 3), floats(90_000, 3, seed=1)
    np.testing.assert_array_equal(adding(plan=ONE)(a, b), a + b)
    assert pieces == [43_690, 43_690, 2_620]
    pieces.clear()
    ports = [spec("x", "batch", WIDE), spec("m", "n", WIDE)], [spec("y", "batch", "n")]
    nodes = [helper.make_node("Transpose", ["m"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    x, m = np.ones((300, WIDE), np.float32), np.ones((7, WIDE), np.float32)
    np.testing.assert_array_equal(
        compiled(nodes, *ports, plan=ONE)(x, m), np.full((300, 7), WIDE, np.float32)
    )
    assert pieces == [256, 44]


def test_a_plan_goes_first(pieces: list[int]) -> None:
    x = floats(600, WIDE)
    for cut, expected in ((400, [400, 200]), (MAX_BATCH, [600])):
        pieces.clear()
        np.testing.assert_array_equal(doubling("batch", WIDE, plan=Plan(micro_batch=cut))(x), 2 * x)
        assert pieces == expected


def test_nothing_is_cut_that_must_not_be(pieces: list[int]) -> None:
    x = floats(600, WIDE)
    softmax = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    ports = [spec("x", "batch", WIDE)], [spec("y", "batch", WIDE)]
    np.testing.assert_allclose(compiled([softmax], *ports, rows_independent=False)(x).sum(0), 1, rtol=1e-5)
    total = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)
    assert compiled([total], ports[0], [spec("y")])(x) == x.max()
    twice = helper.make_node(
        "Concat", ["x", "x"], ["y"], axis=1
    )  # had it another width in some piece, what then
    assert compiled([twice], ports[0], [spec("y", "batch", "k")])(x).shape == (600, 2 * WIDE)
    foreign = predictor(build([softmax], *ports))  # nobody knows whether its rows are independent
    np.testing.assert_allclose(foreign(x).sum(0), 1, rtol=1e-5)
    assert pieces == [600] * 4


def test_a_convolution_has_the_same_bits_in_pieces(pieces: list[int]) -> None:
    model, *ports = conv_net()
    x = floats(9_000, 1, 8, 8)
    cut, whole = (
        predictor(model, manifest(*ports), plan=p)(x) for p in (Plan(), Plan(micro_batch=MAX_BATCH))
    )
    assert pieces == [4_096, 4_096, 808, 9_000]
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.skipif(installed_library().path is None, reason=installed_library().note)
class TestNativeKernels:
    def net(self, *behind: onnx.NodeProto, native: bool = True) -> Predictor:
        model = region_net()
        model.graph.node.extend(behind)
        if behind:
            model.graph.output[0].name = "z"
        _, inputs, _ = conv_net()
        about = manifest(inputs, [spec(model.graph.output[0].name, "batch", 5)])
        return predictor(model, about, plan=Plan(native=native))

    def test_they_cut_what_they_run_themselves(self, pieces: list[int]) -> None:
        x = floats(5_000, 1, 8, 8)
        whole = self.net()(x)
        np.testing.assert_allclose(whole, self.net(native=False)(x), rtol=1e-4, atol=1e-5)
        assert pieces == [5_000, 4_096, 904]

    def test_what_onnx_runtime_runs_beside_them_is_cut(self, pieces: list[int]) -> None:
        x = floats(5_000, 1, 8, 8)
        negative = self.net(helper.make_node("Neg", ["y"], ["z"]))(x)
        assert pieces == [4_096, 904]
        np.testing.assert_array_equal(negative, -self.net()(x))


def resident() -> int:
    """Bytes of this process that are in memory."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("plan", "few"), [(Plan(), True), (Plan(micro_batch=MAX_BATCH), False)])
def test_memory_does_not_grow_with_the_batch(plan: Plan, few: bool) -> None:
    """64 KiB lie between the layers for each of 4096 rows: 256 MiB, which ONNX Runtime would keep."""
    x = floats(4_096, WIDE)
    nodes = [
        helper.make_node("Concat", ["x"] * 16, ["c"], axis=1),
        helper.make_node("ReduceMax", ["c", "axes"], ["y"], keepdims=1),
    ]
    ports: Sequence[Any] = [spec("x", "batch", WIDE)], [spec("y", "batch", 1)]
    net = predictor(build(nodes, *ports, {"axes": np.array([1])}), manifest(*ports), plan=plan)
    net(x[:2])
    gc.collect()
    before = resident()
    np.testing.assert_array_equal(net(x), x.max(1, keepdims=True))
    assert (resident() - before < 2**26) is few
