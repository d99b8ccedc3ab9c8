"""Engines that tests open, and what they are fed."""

from contextlib import ExitStack, contextmanager

import pytest
import torch

from nncompile.bench.engines import EngineError, open_engine


@contextmanager
def opened(name, subject):
    """The engine, or a skipped test that says why there is none."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(open_engine(name, subject))
        except EngineError as error:
            if "cannot be imported" in str(error):
                pytest.skip(str(error))
            raise
        yield engine


def tensors(feed):
    """The same, on the memory of the arrays."""
    return {name: torch.from_numpy(array) for name, array in feed.items()}
