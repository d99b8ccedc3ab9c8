"""`predict_batches`: streams of samples and batches, in order, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError
from nncompile_runtime.manifest import Argument
from nncompile_runtime.structure import SequenceOf, TensorLeaf

from .graphs import adding, compiled, doubling, floats, spec

ROWS = floats(10, 4)


def sizes(results: Any) -> list[int]:
    return [len(y) for y in results]


def stream(elements: Any, batch_size: int | None, net: Any = None) -> list[Any]:
    return list((net or doubling()).predict_batches(elements, batch_size=batch_size))


class Counted:
    """Rows, one by one, and how far they were read."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.read = rows, 0

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            self.read += 1
            yield row


SOURCES = {
    "array": lambda x: x,
    "list of samples": list,
    "generator of samples": lambda x: (row for row in x),
    "list of batches": lambda x: [x[:3], x[3:4], x[4:]],
    "samples and batches": lambda x: [x[0], x[1:4], x[4], x[5:5], x[5:]],
    "tuples of one": lambda x: [(row,) for row in x],
    "dicts": lambda x: [{"x": row} for row in x],
    "Fortran array": np.asfortranarray,
    "read-only rows": lambda x: [np.broadcast_to(row, row.shape) for row in x],
    "tensor": torch.from_numpy,
    "list of tensors": lambda x: list(torch.from_numpy(x)),
    "tensors that require grad": lambda x: [torch.tensor(row, requires_grad=True) for row in x],
}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 9, 10, 11, 1000])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_comes_back_in_order_in_batches(source: str, batch_size: int) -> None:
    results = stream(SOURCES[source](ROWS), batch_size)
    full, rest = divmod(10, batch_size)
    assert sizes(results) == [batch_size] * full + [rest] * bool(rest)
    kind = torch.Tensor if "tensor" in source else np.ndarray
    assert all(isinstance(y, kind) for y in results)
    np.testing.assert_array_equal(np.concatenate([np.asarray(y) for y in results]), 2 * ROWS)


@pytest.mark.parametrize("lengths", [(7,), (1, 7, 2), (5, 5), (3, 3, 3, 1), (10,)])
def test_batches_of_any_size_are_cut_and_joined(lengths: tuple[int, ...]) -> None:
    cuts = np.split(ROWS[: sum(lengths)], np.cumsum(lengths)[:-1])
    results = stream(cuts, 4)
    assert all(size == 4 for size in sizes(results)[:-1])
    np.testing.assert_array_equal(np.concatenate(results), 2 * ROWS[: sum(lengths)])


def test_without_a_batch_size_batches_stay_as_they_come() -> None:
    assert sizes(stream([ROWS[:3], ROWS[3], ROWS[4:4], ROWS[4:]], None)) == [3, 1, 0, 6]


def test_the_default_batch_size() -> None:
    assert sizes(doubling().predict_batches(np.zeros((600, 4), np.float32))) == [256, 256, 88]


@pytest.mark.parametrize("empty", [[], (), iter([]), ROWS[:0], torch.empty(0, 4), [ROWS[:0], ROWS[:0]]])
def test_an_empty_stream_yields_nothing(empty: Any) -> None:
    assert stream(empty, 4) == []


def test_several_inputs_as_tuples_lists_and_dicts() -> None:
    a, b = floats(5, 3), floats(5, 3, seed=1)
    for elements in (
        list(zip(a, b, strict=True)),
        [[x, y] for x, y in zip(a, b, strict=True)],
        [{"b": y, "a": x} for x, y in zip(a, b, strict=True)],
        [(a[:2], b[:2]), (a[2:], b[2:])],
    ):
        results = stream(elements, 2, adding())
        assert sizes(results) == [2, 2, 1]
        np.testing.assert_array_equal(np.concatenate(results), a + b)


def test_an_input_that_is_taken_by_name_alone() -> None:
    arguments = [
        Argument(name="a", structure=TensorLeaf(index=0)),
        Argument(name="b", structure=TensorLeaf(index=1), keyword_only=True),
    ]
    a, b = floats(5, 3), floats(5, 3, seed=1)
    results = stream([{"a": x, "b": y} for x, y in zip(a, b, strict=True)], 2, adding(arguments=arguments))
    np.testing.assert_array_equal(np.concatenate(results), a + b)


def test_arguments_that_are_not_in_the_graphs_order() -> None:
    arguments = [Argument(name=name, structure=TensorLeaf(index=1 - i)) for i, name in enumerate("pq")]
    inputs = [spec("a", "batch", 3), spec("b", "batch", 3)]
    node = helper.make_node("Sub", ["a", "b"], ["y"])
    net = compiled([node], inputs, [spec("y", "batch", 3)], arguments=arguments)
    p, q = floats(5, 3), floats(5, 3, seed=1)
    np.testing.assert_array_equal(np.concatenate(stream(zip(p, q, strict=True), 2, net)), q - p)


def test_a_stream_is_read_one_batch_ahead_of_the_results_and_no_further() -> None:
    rows = Counted(ROWS)
    results = doubling().predict_batches(rows, batch_size=3)
    assert rows.read == 0
    for read in (3, 6, 9, 10):
        next(results)
        assert rows.read == read
    with pytest.raises(StopIteration):
        next(results)


def test_an_endless_stream() -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield ROWS[0]

    results = doubling().predict_batches(endless(), batch_size=2)
    assert sizes(next(results) for _ in range(5)) == [2] * 5


@pytest.mark.parametrize("batch_size", [0, -1, True, False, "3", 2.0, [1]])
def test_a_batch_size_that_is_none_is_refused_at_once(batch_size: Any) -> None:
    rows = Counted(ROWS)
    with pytest.raises(InputError, match="batch_size") as caught:
        doubling().predict_batches(rows, batch_size=batch_size)
    assert repr(batch_size) in str(caught.value)
    assert rows.read == 0


BAD = {
    "size": np.ones(5, np.float32),
    "rank": np.ones((2, 2, 4), np.float32),
    "scalar": np.float32(1),
    "dtype": np.ones(4),
    "None": None,
    "text": "text",
    "key": {"y": ROWS[0]},
    "two inputs": (ROWS[0], ROWS[1]),
    "ragged": [[1.0, 2.0], [3.0]],
    "ragged input": ([[1.0, 2.0], [3.0]],),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, None])
def test_a_bad_element_is_named_by_its_number(bad: str, batch_size: int | None) -> None:
    results = doubling().predict_batches([ROWS[0], ROWS[1], ROWS[2], BAD[bad]], batch_size=batch_size)
    with pytest.raises(InputError, match=r"[Ee]lement 3\b"):
        list(results)


def test_arrays_and_tensors_do_not_mix_in_a_batch() -> None:
    with pytest.raises(InputError, match="Element 1"):
        stream([ROWS[0], torch.from_numpy(ROWS[1])], 2)
    assert [type(y) for y in stream([ROWS[0], torch.from_numpy(ROWS[1])], 1)] == [np.ndarray, torch.Tensor]


def test_what_came_before_a_bad_element_is_delivered() -> None:
    results = doubling().predict_batches([ROWS[0], ROWS[1], None], batch_size=2)
    np.testing.assert_array_equal(next(results), 2 * ROWS[:2])
    with pytest.raises(InputError, match="Element 2"):
        next(results)


def test_columns_of_unequal_length() -> None:
    with pytest.raises(InputError, match=r"Element 0.*\[2, 3\] rows"):
        stream([(floats(2, 3), floats(3, 3))], 4, adding())


def test_an_input_without_a_batch_is_not_cut_and_joined_as_if_it_had_one() -> None:
    """`m` is as a whole part of every row's answer: joining two of them answers something else."""
    nodes = [
        helper.make_node("ReduceSum", ["m"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    net = compiled(nodes, [spec("x", "batch", 4), spec("m", "n", 4)], [spec("y", "batch", 4)])
    x, ones = floats(2, 4), np.ones((2, 4), np.float32)
    elements = [(x, ones), (x, 2 * ones)]
    whole = stream(elements, None, net)
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate([x + 8, x + 16]))
    with pytest.raises(InputError, match="'m'"):
        stream(elements, 4, net)


def test_a_scalar_input_has_no_rows() -> None:
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    net = compiled([node], [spec("x", "batch", 4), spec("factor")], [spec("y", "batch", 4)])
    elements = [(ROWS[:2], np.float32(3)), (ROWS[2:], np.float32(3))]
    np.testing.assert_array_equal(np.concatenate(stream(elements, None, net)), ROWS * np.float32(3))
    with pytest.raises(InputError, match="'factor'"):
        stream(elements, 4, net)


def test_nested_inputs_are_refused_at_once() -> None:
    pair = SequenceOf(kind="tuple", items=(TensorLeaf(index=0), TensorLeaf(index=1)))
    net = adding(arguments=[Argument(name="pair", structure=pair)])
    with pytest.raises(InputError, match="nested"):
        net.predict_batches([])


@pytest.mark.parametrize("source", [5, None, 1.5])
def test_what_is_no_stream_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match=type(source).__name__):
        stream(source, 4)


@pytest.mark.parametrize("scalar", [np.array(1, np.float32), torch.tensor(1.0)])
def test_a_scalar_array_is_no_stream(scalar: Any) -> None:
    with pytest.raises(InputError, match="is no stream"):
        stream(scalar, 4)


def test_a_fixed_batch() -> None:
    net = doubling(2, 4, batch=None)
    assert sizes(stream(ROWS, 2, net)) == [2] * 5
    with pytest.raises(InputError, match=r"float32\[2, 4\]"):
        stream(ROWS, 4, net)
