"""Which batch is captured as a CUDA graph of how many rows."""

from __future__ import annotations

import pytest

from nncompile_runtime.buckets import LARGEST, bucket_of


@pytest.mark.parametrize(
    ("rows", "bucket"),
    [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16), (33, 64), (129, 256), (255, 256), (256, 256)],
)
def test_with_padding_the_next_power_of_two(rows: int, bucket: int) -> None:
    assert bucket_of(rows, padding=True) == bucket


def test_every_bucket_holds_its_rows_and_wastes_less_than_half() -> None:
    for rows in range(1, LARGEST + 1):
        bucket = bucket_of(rows, padding=True)
        assert bucket is not None
        assert rows <= bucket < 2 * rows


def test_there_are_few() -> None:
    assert {bucket_of(rows, padding=True) for rows in range(1, LARGEST + 1)} == {2**n for n in range(9)}


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("rows", [0, -1, LARGEST + 1, 10**6])
def test_none_for_empty_and_large_batches(rows: int, padding: bool) -> None:
    assert bucket_of(rows, padding=padding) is None


def test_without_padding_only_the_sizes_themselves() -> None:
    served = [rows for rows in range(1, 40) if bucket_of(rows, padding=False) is not None]
    assert served == [1, 2, 4, 8, 16, 32]
    assert all(bucket_of(rows, padding=False) == rows for rows in served)
