from types import SimpleNamespace

import numpy as np

from nncompile.bench.overhead import measure_overhead
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.manifest import Argument, Signature, TensorSpec
from nncompile_runtime.structure import TensorLeaf

SIGNATURE = Signature(
    arguments=(Argument(name="x", structure=TensorLeaf(index=0)),),
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    result=TensorLeaf(index=0),
    batch="batch",
)
FEED = {"x": np.zeros((1, 2), np.float32)}


class FakePredictor:
    """`predict` takes 12 microseconds and the session under it 10, by a clock of its own."""

    signature = SIGNATURE

    def __init__(self):
        self.now = 0
        self.order = ""
        self.session = SimpleNamespace(native=SimpleNamespace(run=self._bare))

    def clock(self):
        return self.now

    def predict(self, x):
        assert x is FEED["x"]
        self.order += "p"
        self.now += 12_000

    def _bare(self, names, feed):
        assert names is None
        assert feed is FEED
        self.order += "b"
        self.now += 10_000


def overhead_of(predictor, **changes):
    return measure_overhead(predictor, FEED, 1, clock=predictor.clock, **changes)


def test_the_difference_is_exact_by_a_fake_clock():
    found = overhead_of(FakePredictor(), seconds=220e-6, warmup=0.0)
    assert (found.predict, found.bare, found.difference) == (12.0, 10.0, Estimate(2.0, 2.0, 2.0))
    assert (found.batch, found.pairs) == (1, 10)


def test_each_call_comes_first_in_every_other_pair():
    predictor = FakePredictor()
    overhead_of(predictor, seconds=88e-6, warmup=0.0)
    assert predictor.order == "pb" + "pbbppbbp"


def test_warm_up_pairs_are_not_counted():
    predictor = FakePredictor()
    assert overhead_of(predictor, seconds=22e-6, warmup=220e-6).pairs == 1
    assert len(predictor.order) == 2 * (10 + 1)


def test_pairs_are_bounded():
    assert overhead_of(FakePredictor(), seconds=10.0, warmup=0.0).pairs == 3000
