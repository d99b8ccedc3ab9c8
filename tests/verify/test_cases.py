"""The inputs that are compared on."""

import itertools

import pytest
import torch

from nncompile.verify.cases import BATCHES, at_batch, cases, other_sizes
from nncompile_runtime.manifest import FreeSize

X = {"x": "float32 n 4"}
Y = {"y": "float32 n 4"}


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_batches(signature, rows):
    example = (torch.randn(rows, 4),)
    sizes = [len(case.inputs[0]) for case in cases(signature(X, Y), example)]
    assert sizes[0] == rows
    assert set(sizes) == {*BATCHES, rows}
    assert max(sizes) == sizes[-1] == 8


@pytest.mark.parametrize("rows", [1, 2])
def test_an_example_of_one_row_occurs_once(signature, rows):
    row = torch.randn(1, 4)
    found = cases(signature(X, Y), (row.repeat(rows, 1),))
    assert [case.name for case in found[:2]] == ["example, batch 1", "normal, batch 2"]
    assert equal(found[0].inputs, (row,))
    assert {len(case.inputs[0]) for case in found} == set(BATCHES)


@pytest.mark.parametrize(
    "example", [torch.zeros(5, 4), torch.full((2, 4), torch.nan), torch.tensor([[0.0], [1.0]]).repeat(1, 4)]
)
def test_an_example_of_its_own_batch_or_rows_occurs_twice(signature, example):
    assert [case.name for case in cases(signature(X, Y), (example,))[:2]] == ["example", "example, batch 1"]


def test_the_same_row_is_one_case_only_where_all_inputs_repeat_it(signature):
    two = signature({"a": "float32 n 4", "b": "float32 n 4"}, Y)
    found = cases(two, (torch.zeros(2, 4), torch.randn(2, 4)))
    assert found[0].name == "example"


def test_a_fixed_batch(signature):
    found = cases(signature({"x": "float32 5 4"}, {"y": "float32 5 4"}, batch=None), (torch.randn(5, 4),))
    assert {tuple(case.inputs[0].shape) for case in found} == {(5, 4)}
    assert len(found) == 5
    assert not any(equal(a.inputs, b.inputs) for a, b in itertools.combinations(found, 2))


def test_values(signature):
    example = (torch.randn(2, 4),)
    found = {case.name: case.inputs[0] for case in cases(signature(X, Y), example)}
    assert len(found) == 6
    assert torch.equal(found["example"], example[0])
    assert torch.equal(found["example, batch 1"], example[0][:1])
    assert torch.equal(found["constant, batch 1"], torch.full((1, 4), 0.5))
    assert found["large range, batch 3"].abs().max() > 50
    assert found["normal, batch 8"].abs().max() < 10
    assert len(torch.unique(found["normal, batch 8"])) == 32


def test_the_same_each_time_and_apart_from_torchs_own_generator(signature):
    example = (torch.randn(2, 4),)
    first = cases(signature(X, Y), example)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = cases(signature(X, Y), example)
    assert torch.equal(state, torch.get_rng_state())
    assert all(equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_are_drawn_from_the_example(signature, dtype):
    name = str(dtype).removeprefix("torch.")
    values = (
        torch.tensor([[0, 1, 1], [1, 0, 1]]) if dtype is torch.bool else torch.tensor([[3, 7, 7], [7, 3, 11]])
    )
    example = (values.to(dtype),)
    for case in cases(signature({"i": f"{name} n 3"}, {"y": "float32 n 3"}), example):
        assert case.inputs[0].dtype == dtype
        assert set(case.inputs[0].unique().tolist()) <= set(values.to(dtype).unique().tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes_stay(signature, dtype):
    name = str(dtype).removeprefix("torch.")
    found = cases(signature({"x": f"{name} n 4"}, {"y": f"{name} n 4"}), (torch.randn(2, 4, dtype=dtype),))
    assert {case.inputs[0].dtype for case in found} == {dtype}
    assert all(case.inputs[0].isfinite().all() for case in found)


def test_inputs_without_the_batch_keep_their_size(signature):
    several = signature({"x": "float32 n 4", "table": "float32 m 4", "scale": "float32"}, Y)
    example = (torch.randn(2, 4), torch.randn(5, 4), torch.tensor(2.0))
    for case in cases(several, example):
        assert [tuple(x.shape)[1:] for x in case.inputs] == [(4,), (4,), ()]
        assert len(case.inputs[1]) == 5


def test_rows_are_repeated_or_cut(signature):
    x = torch.arange(6.0).reshape(3, 2)
    (more,) = at_batch(signature({"x": "float32 n 2"}, Y), (x,), 7)
    (fewer,) = at_batch(signature({"x": "float32 n 2"}, Y), (x,), 2)
    assert torch.equal(more, torch.cat([x, x, x[:1]]))
    assert torch.equal(fewer, x[:2])


def test_inputs_without_elements(signature):
    empty = signature({"x": "float32 n 0", "i": "int64 n 0"}, Y)
    for case in cases(empty, (torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64))):
        assert all(x.numel() == 0 for x in case.inputs)


@pytest.mark.parametrize(
    ("row", "sizes"),
    [
        (FreeSize(least=2, typical=11), [2, 16, 3]),
        (FreeSize(least=4, step=4, typical=16), [4, 24, 8]),
        (FreeSize(least=2, most=12, typical=11), [2, 11, 3]),
        (FreeSize(least=8, step=8, most=16, typical=8), [8, 16]),
    ],
)
def test_other_free_sizes_are_the_smallest_the_next_and_larger(signature, row, sizes):
    free = signature({"x": "float32 n 4 length"}, Y).model_copy(update={"sizes": {"length": row}})
    assert [found["length"] for found in other_sizes(free)] == sizes
    found = cases(free, (torch.randn(2, 4, row.typical),))
    assert [case.inputs[0].shape[2] for case in found if "length" in case.name] == sizes
    assert {case.inputs[0].shape[2] for case in found if "length" not in case.name} == {row.typical}


def test_sizes_that_are_equal_in_the_example_are_not_always(signature):
    rows = {"h": FreeSize(least=2, typical=8), "w": FreeSize(least=2, typical=8)}
    free = signature({"x": "float32 n h w"}, Y).model_copy(update={"sizes": rows})
    assert {"h": 3, "w": 5} in other_sizes(free)
