"""Three networks of others in every test run; `make coverage` compiles them all."""

import pytest
from networks import IN_EVERY_TEST_RUN, largest_errors, networks

import nncompile


@pytest.mark.parametrize("name", IN_EVERY_TEST_RUN)
def test_compiles_with_a_dynamic_batch_and_answers_as_eager_does(name):
    net, image = networks()[name]()
    model = nncompile.compile(net, image)
    assert model.report.verification.dropped_passes == ()
    largest_errors(net, model, image)
