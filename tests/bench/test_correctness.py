from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nncompile.bench.correctness import disagreement, rejected


@dataclass
class FakeEngine:
    name: str
    answer: Any
    description: str = ""
    threads: int | None = 1

    def run(self, feed):
        return self.answer(feed["x"])


FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
right = FakeEngine("right", lambda x: [x * 2])


def rejections(*engines, reference="right"):
    by_name = {engine.name: engine for engine in (right, *engines)}
    return {r.engine: r.reason for r in rejected(by_name, reference, FEED, 2)}


def test_engines_that_agree_are_all_kept():
    assert rejections(FakeEngine("other", lambda x: [x + x])) == {}


def test_a_wrong_engine_is_rejected_with_the_numbers():
    found = rejections(FakeEngine("wrong", lambda x: [x * 2 + np.float32(0.5)]))
    assert found == {"wrong": "disagrees with right: output 0: 8 of 8 values differ, by up to 0.5"}


def test_one_wrong_value_is_enough():
    def almost(x):
        y = x * 2
        y[1, 3] += 0.01
        return [y]

    assert "1 of 8 values differ, by up to 0.01" in rejections(FakeEngine("wrong", almost))["wrong"]


def test_rounding_is_no_disagreement():
    assert rejections(FakeEngine("other", lambda x: [x * np.float32(2.0005)])) == {}


def test_an_engine_that_fails_is_rejected_in_one_line():
    def fails(x):
        raise RuntimeError("no kernel\nfor this")

    assert rejections(FakeEngine("broken", fails)) == {"broken": "fails: RuntimeError: no kernel"}


def test_where_the_reference_fails_the_next_engine_stands_in():
    def fails(x):
        raise RuntimeError("no")

    found = rejections(
        FakeEngine("wrong", lambda x: [x]), FakeEngine("reference", fails), reference="reference"
    )
    assert set(found) == {"reference", "wrong"}
    assert "disagrees with right" in found["wrong"]


def test_an_engine_that_writes_into_its_inputs_is_rejected_and_harms_no_other():
    def writes(x):
        x *= 2
        return [x]

    before = FEED["x"].copy()
    found = rejections(
        FakeEngine("writes", writes), FakeEngine("other", lambda x: [x + x]), reference="writes"
    )
    assert list(found) == ["writes"]
    assert "writes into its inputs" in found["writes"]
    np.testing.assert_array_equal(FEED["x"], before)


def test_an_engine_that_reuses_its_output_buffer_is_compared_on_its_own_answer():
    buffer = np.empty((2, 4), np.float32)

    def reuses(factor):
        def answer(x):
            np.multiply(x, factor, out=buffer)
            return [buffer]

        return answer

    found = rejections(FakeEngine("first", reuses(2)), FakeEngine("second", reuses(3)), reference="first")
    assert list(found) == ["second"]


ONE = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("got", "expected", "problem"),
    [
        ([ONE, ONE], [ONE], "2 outputs instead of 1"),
        ([ONE[:2]], [ONE], "shape [2] instead of [3]"),
        ([ONE.astype(np.float64)], [ONE], "dtype float64 instead of float32"),
        ([ONE, ONE + 1], [ONE, ONE], "output 1: 3 of 3 values differ, by up to 1"),
        ([np.array([1, 2])], [np.array([1, 3])], "output 0: 1 of 2 values differ"),
        ([np.array([np.nan, 1], np.float32)], [np.array([1, 1], np.float32)], "1 of 2 values differ"),
        ([np.array([np.inf, 1], np.float32)], [np.array([-np.inf, 1], np.float32)], "1 of 2 values differ"),
        ([ONE * np.float32(1.0012)], [ONE], "3 of 3 values differ"),
        ([ONE * np.float32(0) + np.float32(1.2e-4)], [ONE * 0], "3 of 3 values differ"),
    ],
)
def test_disagreements(got, expected, problem):
    assert problem in (disagreement(got, expected) or "none")


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([ONE * np.float32(1.0009)], [ONE]),
        ([ONE * 0 + np.float32(0.9e-4)], [ONE * 0]),
        ([np.array([np.nan, np.inf], np.float32)], [np.array([np.nan, np.inf], np.float32)]),
        ([np.array([True, False])], [np.array([True, False])]),
        ([np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.float32)]),
        ([], []),
    ],
)
def test_agreements(got, expected):
    assert disagreement(got, expected) is None


def test_a_narrow_precision_may_lose_a_share_of_the_largest_value():
    exact = np.float32([100.0, 0.0, 1.0])
    off = exact + np.float32([0.0, 0.4, 0.0])
    assert disagreement([off], [exact]) is not None
    assert disagreement([off], [exact], "float16") is None
    assert disagreement([off + 1], [exact], "float16") is not None
    assert disagreement([np.float32([np.nan, 0, 1])], [exact], "bfloat16") is not None
