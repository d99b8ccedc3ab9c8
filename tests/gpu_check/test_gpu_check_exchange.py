"""What is copied on its way between libraries, overwritten later, or out of the stream's order is found."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from models.gpu_check import exchange, ways
from nncompile import Predictor
from nncompile_runtime import cupy_arrays
from tests.runtime.fake_cupy import FakeCupy, cupy, ndarray
from tests.runtime.fake_gpu import gpu

from .breaking import patch, real, verdicts

__all__ = ["cupy", "gpu"]
PLANS = [{}, {"cuda_graph": True}, {"micro_batch": 2}]


def test_a_copy_on_the_way_is_found(here, monkeypatch):
    monkeypatch.setattr(exchange.Foreign, "__dlpack__", lambda self, **_: self._tensor.clone().__dlpack__())
    found = [f for f in exchange.exchange(here) if f.verdict != "not run"]
    assert [(f.verdict, "something was copied" in f.said) for f in found] == [("failed", True)] * 2


def test_memory_that_a_later_call_writes_to_is_found(here, monkeypatch):
    kept = {}

    def reuses(self, x):
        result = real(self, x)
        same = kept.setdefault((id(self), type(result), tuple(result.shape)), result)
        same[...] = result
        return same

    patch(monkeypatch, reuses)
    found = [f for f in exchange.exchange(here) if f.verdict != "not run"]
    assert [(f.verdict, "differs by" in f.said) for f in found] == [("failed", True)] * 2


def test_a_foreign_array_is_one_that_only_knows_dlpack():
    x = torch.arange(3.0)
    foreign = exchange.Foreign(x)
    assert foreign.__dlpack_device__() == (1, 0)
    assert torch.from_dlpack(foreign).data_ptr() == x.data_ptr()
    assert not hasattr(foreign, "__array__")


@pytest.fixture
def there(here):
    return dataclasses.replace(here, device="cuda:0")


@pytest.mark.parametrize("plan", PLANS)
def test_cupys_arrays_on_the_gpu_that_is_not_there(there, cupy: FakeCupy, plan):
    found = list(exchange.with_cupy(there.device, ways.small(there, plan)))
    assert verdicts(found) == ["passed", "passed"], found


def test_without_cupy_it_is_not_run(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    (found,) = exchange.by_cupy(there)
    assert found.verdict == "not run"
    assert "pip install cupy-cuda13x" in found.what  # which the summary tells
    assert "cupy" in found.said


@pytest.mark.parametrize("plan", PLANS)
def test_an_answer_that_comes_out_of_the_streams_order_is_found(there, cupy: FakeCupy, monkeypatch, plan):
    """Taken for that of another stream, on which nothing was queued."""
    monkeypatch.setattr(cupy_arrays, "callers_stream", lambda array: 0)
    found = list(exchange.with_cupy(there.device, ways.small(there, plan)))
    assert found[0].verdict == "failed"


def test_an_answer_that_is_no_array_of_cupys_is_found(there, cupy: FakeCupy, monkeypatch):
    class Other(ndarray):
        pass

    def other(self, x):
        result = real(self, x)
        return result if isinstance(result, np.ndarray) else Other(result.hidden, result.number)

    patch(monkeypatch, other)
    monkeypatch.setattr(cupy, "ndarray", type("Nothing", (), {}), raising=False)
    monkeypatch.setattr(cupy_arrays, "owns", lambda value: isinstance(value, ndarray))
    found = list(exchange.with_cupy(there.device, ways.small(there, {})))
    assert "the answer is a Other" in found[0].said


def test_a_stream_of_cupys_arrays_that_comes_in_another_order_is_found(there, cupy: FakeCupy, monkeypatch):
    stream = Predictor.predict_batches
    monkeypatch.setattr(
        Predictor, "predict_batches", lambda *args, **options: iter(list(stream(*args, **options))[::-1])
    )
    found = list(exchange.with_cupy(there.device, ways.small(there, {})))
    assert verdicts(found) == ["passed", "failed"]
