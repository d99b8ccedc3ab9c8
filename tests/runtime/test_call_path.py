"""`predict` checks a shape once and what may change in every call; regimes; many callers at once."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from nncompile import InputError, Plan, Predictor
from nncompile_runtime.machine import this_machine
from nncompile_runtime.session import Session

from .graphs import conv_net, doubling, floats, manifest, predictor


def warm() -> Predictor:
    """A model that has accepted float32[2, 4], as an array and as a tensor."""
    net = doubling()
    net(floats(2, 4))
    net(torch.zeros(2, 4))
    assert list(net._accepted) == [(2, 4)]
    return net


class TestAfterAShapeWasAccepted:
    def test_a_call_that_tuning_overtakes_leaves_nothing_of_the_old_plan(self) -> None:
        net = doubling()
        before, end = net.session, net._begin(floats(2, 4))
        net.tune(0.05, batches=(2,))
        end()
        assert net._accepted == {}
        net(floats(2, 4))
        (run,) = net._accepted.values()
        assert run == net.session.run != before.run

    def test_other_contents_of_the_same_array_are_seen(self) -> None:
        net, x = warm(), floats(2, 4)
        net(x)
        x[:] = 5
        np.testing.assert_array_equal(net(x), np.full((2, 4), 10))
        t = torch.from_numpy(x)
        net(t)
        t.fill_(7)
        assert (net(t) == 14).all()

    def test_another_shape_of_the_same_array_is_seen(self) -> None:
        net, x = warm(), floats(2, 4)
        net(x)
        x.shape = (4, 2)
        with pytest.raises(InputError, match=r"\[4, 2\]"):
            net(x)
        with pytest.raises(InputError, match=r"\[4, 2\]"):
            net(torch.from_numpy(x))

    @pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "complex64", "object"])
    def test_another_dtype_is_refused(self, dtype: str) -> None:
        with pytest.raises(InputError, match="expects float32"):
            warm()(np.zeros((2, 4), dtype))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
    def test_a_tensor_of_another_dtype_is_refused(self, dtype: torch.dtype) -> None:
        with pytest.raises(InputError, match="expects float32"):
            warm()(torch.zeros(2, 4, dtype=dtype))

    @pytest.mark.parametrize("tensor", [torch.zeros(2, 4, device="meta"), torch.zeros(2, 4).to_sparse()])
    def test_a_tensor_without_plain_memory_is_refused(self, tensor: torch.Tensor) -> None:
        with pytest.raises(InputError, match="torch tensor"):
            warm()(tensor)

    def test_the_other_byte_order_is_mended(self) -> None:
        x = floats(2, 4)
        np.testing.assert_array_equal(warm()(x.astype(">f4")), 2 * x)

    def test_float16_and_bfloat16_are_widened(self) -> None:
        x = torch.arange(8.0).reshape(2, 4)
        np.testing.assert_array_equal(warm()(x.numpy().astype(np.float16)), 2 * x.numpy())
        assert (warm()(x.bfloat16()) == 2 * x).all()

    def test_views_of_all_kinds(self) -> None:
        net, x = warm(), floats(4, 8)
        for view in (x[::2, ::2], x[1:3, 4:], np.asfortranarray(x[:2, :4]), x[:2, 3::-1]):
            np.testing.assert_array_equal(net(view), 2 * view)
        t = torch.from_numpy(x)
        for tensor in (t[::2, ::2], t[:4, :2].T, torch.complex(t, t)[:2, :4].conj().imag):
            np.testing.assert_array_equal(net(tensor).numpy(), 2 * tensor.resolve_neg().numpy())

    def test_a_tensor_that_requires_grad_gives_one_that_does_not(self) -> None:
        y = warm()(torch.nn.Parameter(torch.ones(2, 4)))
        assert (y == 2).all()
        assert not y.requires_grad

    def test_by_name_and_by_a_wrong_name(self) -> None:
        net, x = warm(), floats(2, 4)
        np.testing.assert_array_equal(net(x=x), 2 * x)
        with pytest.raises(InputError, match="no input 'y'"):
            net(y=x)
        with pytest.raises(InputError, match="given twice"):
            net(x, x=x)

    def test_results_are_not_shared(self) -> None:
        net, x = warm(), floats(2, 4)
        first = net(x)
        kept = first.copy()
        net(x + 1)
        np.testing.assert_array_equal(first, kept)


def test_shapes_that_come_and_go_do_not_pile_up() -> None:
    net = doubling("batch", "n")
    for size in range(1, 600):
        net(np.zeros((1, size), np.float32))
    assert len(net._accepted) <= 256


def test_repeated_dimensions_are_checked_for_each_shape() -> None:
    net = doubling("n", "n", batch=None)
    net(np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="n = 4"):
        net(np.zeros((3, 4), np.float32))


SHARED = {"1": {"threads": 1}, "4": {"threads": 1, "micro_batch": 2}, "6": {"threads": 1, "spinning": False}}


def regimes(**about: Any) -> Predictor:
    model, inputs, outputs = conv_net()
    plans = {this_machine().fingerprint: SHARED}
    return predictor(model, manifest(inputs, outputs, plans=plans, **about))


class TestRegimes:
    def test_each_batch_runs_by_its_plan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net, ran = regimes(), []
        originals = {name: getattr(Session, name) for name in ("run", "run_into")}
        for name, original in originals.items():

            def spy(self: Session, feed: Any, *more: Any, original: Any = original, name: str = name) -> Any:
                ran.append((name, self.plan.spinning, len(feed["x"])))
                return original(self, feed, *more)

            monkeypatch.setattr(Session, name, spy)
        expected = {
            0: [("run", True, 2)],
            1: [("run", True, 1)],
            3: [("run", True, 3)],
            4: [("run_into", True, 2)] * 2,
            5: [("run_into", True, 2)] * 2 + [("run_into", True, 1)],
            6: [("run", False, 6)],
            50: [("run", False, 50)],
        }
        for size, calls in expected.items():
            for _ in range(2):  # the second time without checks
                ran.clear()
                assert net(floats(size, 1, 8, 8)).shape == (size, 5)
                assert ran == calls

    def test_sessions_open_when_needed_and_are_shared(self) -> None:
        net = regimes()
        assert net.plan == Plan(threads=1)
        assert list(net.plans) == [1, 4, 6]
        for size, count in ((1, 1), (3, 1), (4, 1), (6, 2), (1, 2), (40, 2)):
            net(floats(size, 1, 8, 8))
            assert len(net._regimes.sessions) == count

    def test_a_plan_of_the_users_serves_every_batch(self) -> None:
        model, inputs, outputs = conv_net()
        plans = {this_machine().fingerprint: SHARED}
        net = predictor(model, manifest(inputs, outputs, plans=plans), plan={"threads": 1})
        assert dict(net.plans) == {1: Plan(threads=1)}

    def test_pickling_keeps_them(self) -> None:
        net = pickle.loads(pickle.dumps(regimes()))
        assert dict(net.plans) == dict(regimes().plans)
        given = pickle.loads(pickle.dumps(doubling(plan={"threads": 1})))
        assert dict(given.plans) == {1: Plan(threads=1)}
        assert given._fixed

    def test_the_mapping_is_only_to_be_read(self) -> None:
        with pytest.raises(TypeError):
            regimes().plans[1] = Plan()  # type: ignore[index]

    def test_rows_that_depend_on_one_another_are_run_whole_whatever_is_stored(self) -> None:
        net = regimes(rows_independent=False)
        run = net._regimes.runner(5)
        assert run == net.session.run


@pytest.mark.parametrize("processors", [2, 4])
def test_many_callers_get_right_answers_from_few_threads(
    processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nncompile_runtime import batching
    from nncompile_runtime.workers import Workers

    pool = Workers(processors)
    monkeypatch.setattr(batching, "workers", lambda: pool)
    model, inputs, outputs = conv_net()
    plan = Plan(threads=1, micro_batch=2, workers=processors)
    net = predictor(model, manifest(inputs, outputs), plan=plan)
    x = {size: floats(size, 1, 8, 8, seed=size) for size in (1, 2, 3, 9, 16, 33)}
    expected = {
        size: predictor(model, manifest(inputs, outputs), plan=Plan())(one) for size, one in x.items()
    }
    before, most, wrong = threading.active_count(), [0], []

    def call(number: int) -> None:
        size = list(x)[number % len(x)]
        y = net(x[size])
        if not np.allclose(y, expected[size], rtol=1e-6, atol=1e-6):
            wrong.append(size)
        most[0] = max(most[0], len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0)

    native = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    with ThreadPoolExecutor(6) as callers:
        list(callers.map(call, range(240)))
    assert wrong == []
    assert most[0] <= native + 6 + processors - 1
    assert threading.active_count() <= before + processors - 1
    assert pool._busy == 0


@pytest.mark.parametrize("size", range(1, 20))
def test_workers_share_every_batch(size: int) -> None:
    """Smaller pieces than the plan's where a worker would else have none."""
    x = floats(size, 4)
    net = doubling(plan=Plan(micro_batch=4, workers=3))
    np.testing.assert_array_equal(net(x), 2 * x, strict=True)
    np.testing.assert_array_equal(net(x), 2 * x, strict=True)


def test_a_worker_that_fails_is_the_callers_error() -> None:
    net = doubling(plan=Plan(micro_batch=1, workers=2))
    original, count = Session.run_into, [0]

    def fail(self: Session, feed: Any, outputs: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise InputError("It broke.", remedy="")
        original(self, feed, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run_into", fail)
        with pytest.raises(InputError, match="It broke"):
            net(floats(8, 4))
    np.testing.assert_array_equal(net(floats(8, 4)), 2 * floats(8, 4))


@pytest.mark.parametrize(
    ("size", "pieces"), [(2, [1, 1]), (6, [2, 2, 2]), (7, [1, 3, 3]), (13, [1, 4, 4, 4])]
)
def test_pieces_are_smaller_where_a_worker_would_else_have_none(
    size: int, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    original = Session.run_into

    def spy(self: Session, feed: Any, outputs: Any) -> None:
        ran.append(len(feed["x"]))
        original(self, feed, outputs)

    monkeypatch.setattr(Session, "run_into", spy)
    doubling(plan=Plan(micro_batch=4, workers=3))(floats(size, 4))
    assert sorted(ran) == pieces
