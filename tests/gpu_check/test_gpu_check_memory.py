"""A leak is found, and a failure for want of memory that is untyped or that breaks the model."""

from __future__ import annotations

import dataclasses
import itertools
import mmap

import numpy as np
import pytest

from models.gpu_check import memory
from models.gpu_check.context import Context
from nncompile import DeviceError, OutOfMemoryError, Plan

from .breaking import patch, real, verdicts


def test_a_leak_is_found(here, monkeypatch):
    kept = []

    def leaks(self, *args):
        block = mmap.mmap(-1, 1 << 20)  # 1 MiB a call; malloc might find it in what other tests freed
        block.write(b"\1" * len(block))
        kept.append(block)
        return real(self, *args)

    patch(monkeypatch, leaks)
    assert set(verdicts(memory.flat(here))) == {"failed"}


def test_batches_come_in_runs_and_all_before_memory_is_first_read(here, monkeypatch):
    """Each change of the shape costs a plain Conv a plan of cuDNN's."""
    rows, read = [], []

    def counts(self, *args):
        rows.append(len(args[0]))
        return real(self, *args)

    patch(monkeypatch, counts)
    monkeypatch.setattr(memory, "_resident", lambda: read.append(list(rows)) or 0)
    way = memory.small(here, {})
    taken = {"host": (memory._resident, 0)}
    list(memory._stays(dataclasses.replace(here, calls=1000), way, taken))
    assert set(read[0]) == set(rows) == {64, 37, 5, 1}
    assert (len(read[0]), len(read[1])) == (100, 1000)
    assert sum(a != b for a, b in itertools.pairwise(rows)) == 79  # of 2000 calls


@pytest.mark.parametrize("sizes", [1, 2, 4])
def test_each_batch_has_had_its_turn_by_call_100(sizes):
    assert set(memory.in_turn(range(sizes), 100)) == set(range(sizes))


class Gpu:
    """A predictor under a memory limit, as it should be or broken, and the memory of its GPU."""

    def __init__(self, fault):
        self.fault, self.taken, self.failed = fault, 0, False

    def __call__(self, x):
        if self.fault == "never fits":
            raise OutOfMemoryError("It takes more memory than there is.", remedy="Less.")
        if len(x) > 1 and self.fault != "no limit":
            self.failed = True
            self.taken += (45 << 20) * (self.fault == "leak")  # the weights of a session
            kinds = {"untyped": RuntimeError, "another type": DeviceError}
            remedy = {} if self.fault in ("untyped", "no remedy") else {"remedy": "Less."}
            raise kinds.get(self.fault, OutOfMemoryError)("It takes more memory than there is.", **remedy)
        if self.failed and self.fault == "lost":
            raise DeviceError("The session is lost.", remedy="Load it again.")
        return np.ones((1, 3), np.float32) * (2 if self.failed and self.fault == "wrong" else 1)

    def flatten_result(self, result):
        return [result]

    def used(self):
        return self.taken


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("", set()),
        ("never fits", {"batch 1 before any failure"}),
        ("no limit", {"batch 1024"}),
        ("untyped", {"batch 1024"}),
        ("another type", {"batch 1024"}),  # though it speaks of memory
        ("no remedy", {"batch 1024"}),
        ("lost", {"batch 1 after it"}),
        ("wrong", {"batch 1 after it"}),
        ("leak", {"memory of the GPU"}),
    ],
)
def test_out_of_memory_must_be_typed_and_recovered(here, monkeypatch, fault, failed):
    gpu = Gpu(fault)
    plans, kinds = [], set()
    monkeypatch.setattr(memory, "GpuMemory", lambda number: gpu)
    monkeypatch.setattr(memory.np, "zeros", lambda shape, dtype: np.broadcast_to(np.float32(0), shape))
    monkeypatch.setattr(Context, "tensor", lambda self, array: kinds.add("tensors") or array)
    monkeypatch.setattr(Context, "load", lambda self, name, precision, plan: plans.append(plan) or gpu)
    monkeypatch.setattr(Context, "inputs", lambda self, name, batch: np.ones((batch, 3), np.float32))
    found = []
    for finding in memory.out_of_memory(dataclasses.replace(here, networks=("resnet18",))):
        found.append(finding)
        if "memory of the GPU" in finding.what:
            gpu.failed = False  # the next is a predictor of its own
    failing = [f.what for f in found if f.verdict == "failed"]
    assert {what.split(" in ")[0].split(", ")[-1] for what in failing} == failed, found
    assert [plan["cuda_graph"] for plan in plans] == [False, True]
    shares = [Plan(provider="cuda", **plan).session.gpu_memory_limit for plan in plans]
    assert shares == [512 << 20] * 2  # where the weights and a batch of 1 find room, with graphs too
    first_activation = 1024 * 64 * 112 * 112 * 4
    assert max(plan["gpu_memory_limit"] for plan in plans) < first_activation
    assert kinds == {"tensors"}
    ways = ("arrays", "tensors", "arrays, CUDA graphs", "tensors, CUDA graphs")
    for way in ways:
        assert any(what.startswith(f"resnet18, {way}, ") for what in failing) == bool(failed)
