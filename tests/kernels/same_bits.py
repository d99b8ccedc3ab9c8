"""Answers of the same samples in other batches, on other numbers of threads."""

import numpy as np
from regions import run, session

BATCHES, THREADS = (1, 5, 8, 11, 23, 40), (1, 2, 8)


def answers(region, build, exact, options=None):
    """Of 40 samples: (batch, threads) and each output of all samples."""
    inputs = region.random_inputs(40)
    for threads in THREADS:
        running = session(region.model(), build, threads=threads, exact=exact, options=options)
        for batch in BATCHES:
            pieces = [run(running, [x[i : i + batch] for x in inputs]) for i in range(0, 40, batch)]
            yield (batch, threads), [np.concatenate(rows) for rows in zip(*pieces, strict=True)]


def assert_same_bits(region, build, exact=True, options=None):
    (_, first), *others = answers(region, build, exact, options)
    for case, got in others:
        for have, want in zip(got, first, strict=True):
            np.testing.assert_array_equal(have.view(np.int32), want.view(np.int32), err_msg=str(case))
