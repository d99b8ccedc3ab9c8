"""Every instruction, alone and in random graphs, against PyTorch in double precision."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_regions import BATCHES, THREADS, examples, graphs, layers
from regions import EXACT, assert_close, run, session


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
