"""Batch buckets: the few sizes that CUDA graphs are captured for; a batch between two is padded.

A captured graph serves one shape. Powers of two waste less than half the rows, which is nothing where
launching kernels takes longer than running them; beyond `LARGEST` it no longer does, and such batches run
as they are.
"""

from __future__ import annotations

LARGEST = 256


def bucket_of(rows: int, *, padding: bool) -> int | None:
    """The bucket that serves a batch; None where no graph should.

    Args:
        rows: Of the batch.
        padding: Whether rows may be added, because no row's answer depends on another row.
    """
    if not 1 <= rows <= LARGEST:
        return None
    bucket = 1 << (rows - 1).bit_length()
    return bucket if padding or bucket == rows else None
