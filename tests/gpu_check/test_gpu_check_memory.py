"""A leak is found, and a failure for want of memory that is untyped or that breaks the model."""

from __future__ import annotations

import dataclasses
import mmap

import numpy as np
import pytest

from models.gpu_check import memory
from models.gpu_check.context import Context
from nncompile import DeviceError

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


class Gpu:
    """A predictor under a memory limit, as it should be or broken, and the memory of its GPU."""

    def __init__(self, fault):
        self.fault, self.taken, self.failed = fault, 0, False

    def __call__(self, x):
        if len(x) > 1 and self.fault != "no limit":
            self.failed = True
            self.taken += (45 << 20) * (self.fault == "leak")  # the weights of a session
            raise (RuntimeError if self.fault == "untyped" else DeviceError)(
                "It takes more memory than there is.",
                **{} if self.fault == "untyped" else {"remedy": "Less."},
            )
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
        ("no limit", {"resnet18, batch 1024"}),
        ("untyped", {"resnet18, batch 1024"}),
        ("lost", {"batch 1 after it"}),
        ("wrong", {"batch 1 after it"}),
        ("leak", {"memory of the GPU"}),
    ],
)
def test_out_of_memory_must_be_typed_and_recovered(here, monkeypatch, fault, failed):
    gpu = Gpu(fault)
    monkeypatch.setattr(memory, "GpuMemory", lambda number: gpu)
    monkeypatch.setattr(memory, "_TOO_MANY", 1024)
    monkeypatch.setattr(memory.np, "zeros", lambda shape, dtype: np.broadcast_to(np.float32(0), shape))
    monkeypatch.setattr(Context, "load", lambda self, name, precision, plan: gpu)
    monkeypatch.setattr(Context, "inputs", lambda self, name, batch: np.ones((batch, 3), np.float32))
    found = list(memory.out_of_memory(dataclasses.replace(here, networks=("resnet18",))))
    assert {f.what.split(" in ")[0] for f in found if f.verdict == "failed"} == failed, found
