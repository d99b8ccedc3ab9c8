"""Every instruction, alone and in random graphs, against PyTorch in double precision."""

import numpy as np
import pytest
from eager import Kind
from hypothesis import given
from hypothesis import strategies as st
from random_regions import BATCHES, THREADS, examples, graphs, layers
from regions import EXACT, Region, assert_close, run, session


@examples(150)
@given(region=layers(), batch=st.sampled_from(BATCHES), threads=st.sampled_from(THREADS))
def test_a_layer(build, region, batch, threads):
    inputs = region.random_inputs(batch)
    (got,) = run(session(region.model(), build, threads=threads, exact=True), inputs)
    np.testing.assert_allclose(got, region.eager(*inputs).outputs[0], **EXACT)


@examples(150)
@given(region=graphs(), batch=st.sampled_from(BATCHES), threads=st.sampled_from(THREADS), exact=st.booleans())
def test_a_graph(build, region, batch, threads, exact):
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, threads=threads, exact=exact), inputs)
    assert_close(got, region.eager(*inputs), exact=exact)


@pytest.mark.parametrize("batch", [1, 8, 16, 33])
def test_an_input_that_is_returned(build, batch):
    """Also where samples run in lanes, so that no input is laid out with channels in them."""
    region = Region((2, 9, 11))
    y = region.conv(0, np.ones((5, 2, 3, 3)), pads=(1, 1, 1, 1))
    region.output(0).output(y).output(0)
    (x,) = region.random_inputs(batch)
    first, result, second = run(session(region.model(), build, exact=True), [x])
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x)
    np.testing.assert_allclose(result, region.eager(x).outputs[1], **EXACT)


@pytest.mark.parametrize("batch", [1, 8, 16, 33])
def test_two_columns_by_another_name(build, batch):
    """A flattened pixel is the same floats under another number, also for what reads it in lanes."""
    region = Region((1, 12, 12))
    weight = np.arange(54).reshape(6, 1, 3, 3) / 54
    first, second = (region.flatten(region.global_average(region.conv(0, sign * weight))) for sign in (1, -1))
    region.output(region.activation(region.add(first, second), Kind.SIGMOID)).output(second)
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, exact=True), inputs)
    assert_close(got, region.eager(*inputs), exact=True)
