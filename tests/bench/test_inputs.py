import numpy as np
import pytest

from nncompile.bench.inputs import check_batches, fixed_batch, make_feed
from nncompile_runtime import NncompileError
from nncompile_runtime.manifest import Argument, FreeSize, Signature, TensorSpec
from nncompile_runtime.structure import TensorLeaf


def signature(*specs, batch="batch"):
    inputs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in specs)
    return Signature(
        arguments=tuple(
            Argument(name=spec.name, structure=TensorLeaf(index=i)) for i, spec in enumerate(inputs)
        ),
        inputs=inputs,
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        result=TensorLeaf(index=0),
        batch=batch,
    )


def test_floats_are_seeded_normal_values():
    spec = signature(("x", "float32", ("batch", 500)))
    feed = make_feed(spec, 8)
    assert feed["x"].shape == (8, 500)
    assert feed["x"].dtype == np.float32
    assert abs(feed["x"].mean()) < 0.1
    assert abs(feed["x"].std() - 1) < 0.1
    np.testing.assert_array_equal(feed["x"], make_feed(spec, 8)["x"])
    assert not np.array_equal(feed["x"], make_feed(spec, 8, seed=1)["x"])


def test_two_inputs_differ():
    feed = make_feed(signature(("a", "float32", ("batch", 5)), ("b", "float32", ("batch", 5))), 3)
    assert not np.array_equal(feed["a"], feed["b"])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_what_is_no_float_is_zero(dtype):
    feed = make_feed(signature(("ids", dtype, ("batch", 7))), 2)
    assert feed["ids"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(feed["ids"], np.zeros((2, 7)))


def test_a_free_dimension_takes_the_size_given_for_it():
    spec = signature(("x", "float32", ("batch", 3, "height", "height")))
    assert make_feed(spec, 2, {"height": 9})["x"].shape == (2, 3, 9, 9)


def test_a_free_dimension_without_a_size_is_named():
    with pytest.raises(NncompileError, match="'height' may have any size"):
        make_feed(signature(("x", "float32", ("batch", 3, "height"))), 2)


def test_a_free_dimension_has_its_typical_size_unless_told():
    spec = signature(("x", "float32", ("batch", 3, "height")))
    spec = spec.model_copy(update={"sizes": {"height": FreeSize(least=8, step=4, typical=16)}})
    assert make_feed(spec, 2)["x"].shape == (2, 3, 16)
    assert make_feed(spec, 2, {"height": 20})["x"].shape == (2, 3, 20)
    with pytest.raises(NncompileError, match=r"height = 10 is to be measured: .* 8, 12, 16 and so on"):
        make_feed(spec, 2, {"height": 10})


def test_a_fixed_batch_is_known():
    assert fixed_batch(signature(("x", "float32", (4, 3)), batch=None)) == 4
    assert fixed_batch(signature(("x", "float32", ("batch", 3)))) is None
    assert fixed_batch(signature(("x", "float32", ()), batch=None)) == 1


def test_a_fixed_batch_can_be_measured_at_itself_only():
    fixed = signature(("x", "float32", (4, 3)), batch=None)
    check_batches(fixed, (4,))
    with pytest.raises(NncompileError, match="fixed to 4"):
        check_batches(fixed, (1, 4))


@pytest.mark.parametrize("batches", [(), (0,), (1, -2), (1.5,), (True,)])
def test_batches_that_mean_nothing_are_refused(batches):
    with pytest.raises(NncompileError, match="batches"):
        check_batches(signature(("x", "float32", ("batch", 3))), batches)
