"""Medians, k-th values and searches: even and odd lengths, ties, NaN, infinity and values on a boundary."""

import pytest
import torch
from several import assert_as_eager

INF, NAN = torch.inf, torch.nan
SPECIAL = [
    [1.0, 2.0, 2.0, 2.0, -1.0, 5.0],
    [NAN, 1.0, 5.0, NAN, 2.0, 3.0],
    [INF, -INF, 1.0, INF, 0.0, INF],
    [NAN] * 6,
]
VALUES = [
    lambda x: (x.median(1).values, x[:, :5].median(1, keepdim=True).values, x.median(0).values, x.median()),
    lambda x: [x.kthvalue(k, 1).values for k in (1, 3, 6)],
    lambda x: x.T.contiguous().kthvalue(2, 0, keepdim=True).values,
]
OF_FLOATS = [lambda x: (x.nanmedian(1).values, x[:, :5].nanmedian(1, keepdim=True).values, x.nanmedian())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_of_floats(dtype):
    torch.manual_seed(0)
    x, special = torch.randn(3, 6, dtype=dtype), torch.tensor(SPECIAL, dtype=dtype)
    assert_as_eager(VALUES + OF_FLOATS, (x,), (special,), (x[:1],), (special[:3],))


def test_values_of_integers():
    torch.manual_seed(0)
    x = torch.randint(-3, 3, (5, 6))
    assert_as_eager(VALUES, (x[:2],), (x,))


def test_places_without_ties():
    torch.manual_seed(0)
    x = torch.stack([torch.randperm(7) for _ in range(4)])
    functions = [lambda x: (x.median(1).indices, x.kthvalue(3, 1).indices)]
    assert_as_eager(functions, (x[:2],), (x,))


def test_stable_sorts():
    torch.manual_seed(0)
    x = torch.randint(-2, 3, (3, 40)).float()
    functions = [
        lambda x: torch.sort(x, dim=1, stable=True),
        lambda x: torch.sort(x, dim=1, stable=True, descending=True),
        lambda x: torch.argsort(x, dim=0, stable=True),
    ]
    assert_as_eager(functions, (x,), (x[:2],))


EDGES = torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0])
SEARCHES = [
    lambda x: torch.searchsorted(EDGES.to(x.dtype), x),
    lambda x: torch.searchsorted(EDGES.to(x.dtype), x, right=True),
    lambda x: torch.searchsorted(EDGES.flip(0).to(x.dtype), x, sorter=torch.arange(4, -1, -1)),
    lambda x: torch.searchsorted(EDGES.to(x.dtype), x, side="right", out_int32=True),
    lambda x: torch.searchsorted(torch.sort(x, 1)[0], x.flip(1)),
    lambda x: torch.searchsorted(EDGES, 0.5) + x,
    lambda x: torch.bucketize(x, EDGES.to(x.dtype)),
    lambda x: torch.bucketize(x, EDGES.to(x.dtype), right=True),
    lambda x: torch.bucketize(x, EDGES[:0].to(x.dtype)),
    lambda x: torch.isin(x, EDGES.to(x.dtype)),
    lambda x: torch.isin(x, EDGES.to(x.dtype), invert=True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_searches(dtype):
    x = torch.tensor([[0.0, 0.5, 2.0, -1.0], [3.0, 0.1, 0.0, 2.5], [0.0, 0.0, 1.0, 2.0]]).abs().to(dtype)
    assert_as_eager(SEARCHES, (x[:2],), (x,))


def test_searches_for_nan_and_infinity():
    x = torch.tensor([[NAN, INF, -INF, 0.0]])
    searches = [search for i, search in enumerate(SEARCHES) if i not in (4, 5)]
    assert_as_eager(searches, (torch.ones(2, 4),), (x,))
