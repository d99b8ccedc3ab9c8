"""What `predict` accepts, what it refuses and how it says so."""

from __future__ import annotations

import inspect
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from onnx import helper

from nncompile import InputError, Predictor
from nncompile_runtime.inputs import holds_every_value, python_signature
from nncompile_runtime.manifest import Argument, FreeSize
from nncompile_runtime.structure import ConstantLeaf, MappingOf, SequenceOf, TensorLeaf

from .graphs import adding, build, compiled, doubling, floats, manifest, predictor, spec

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]


def refusal(net: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        net.predict(*args, **kwargs)
    assert caught.value.remedy
    return str(caught.value)


class TestBinding:
    """Arguments are bound as Python binds them to `forward`."""

    def test_by_position_by_name_and_mixed(self) -> None:
        net, a, b = adding(), floats(2, 3), floats(2, 3, seed=1)
        for y in (net(a, b), net(a=a, b=b), net(b=b, a=a), net(a, b=b)):
            np.testing.assert_array_equal(y, a + b)

    def test_a_missing_input(self) -> None:
        message = refusal(adding(), floats(2, 3))
        assert "Missing input 'b'" in message
        assert "a: float32[batch, 3], b: float32[batch, 3]" in message
        assert "'a', 'b'" in refusal(adding())

    def test_a_wrong_name(self) -> None:
        message = refusal(adding(), floats(2, 3), c=floats(2, 3))
        assert "no input 'c'" in message
        assert "b: float32" in message

    def test_given_twice(self) -> None:
        assert "'a' is given twice" in refusal(adding(), floats(2, 3), a=floats(2, 3), b=floats(2, 3))

    def test_too_many(self) -> None:
        assert "takes 2 positional inputs, got 3" in refusal(adding(), *[floats(2, 3)] * 3)

    def test_keyword_only(self) -> None:
        arguments = [
            Argument(name=name, structure=TensorLeaf(index=i), keyword_only=name == "b")
            for i, name in enumerate("ab")
        ]
        net, x = adding(arguments=arguments), floats(2, 3)
        np.testing.assert_array_equal(net(x, b=x), 2 * x)
        assert "takes 1 positional input, got 2" in refusal(net, x, x)

    def test_nested(self) -> None:
        state = MappingOf(
            entries=(
                ("h", SequenceOf(kind="tuple", items=(TensorLeaf(index=1), TensorLeaf(index=0)))),
                ("n", ConstantLeaf(value=2)),
            )
        )
        net = adding(arguments=[Argument(name="state", structure=state)])
        a, b = floats(2, 3), floats(2, 3, seed=1)
        np.testing.assert_array_equal(net({"h": (a, b), "n": 2}), a + b)
        assert "state['h']" in refusal(net, {"h": (a,), "n": 2})
        assert "the constant 2" in refusal(net, {"h": (a, b), "n": 3})
        assert "state (a dict)" in refusal(net)

    def test_a_constant_is_told(self) -> None:
        plain = [Argument(name=name, structure=TensorLeaf(index=i)) for i, name in enumerate("ab")]
        net = adding(arguments=[*plain, Argument(name="n", structure=ConstantLeaf(value=2))])
        a, b = floats(2, 3), floats(2, 3, seed=1)
        np.testing.assert_array_equal(net(a, b, 2), a + b)
        assert "Missing input 'n'" in refusal(net, a, b)
        assert "n: the constant 2" in refusal(net, a, b)
        assert "compile again" in refusal(net, a, b, 3)


class TestCasting:
    """An input is cast where no value can change, and nowhere else."""

    def test_float64_is_refused_with_the_remedy(self) -> None:
        message = refusal(doubling(), np.ones((2, 4)))
        assert "'x' expects float32[batch, 4], got dtype float64" in message
        assert "astype(numpy.float32)" in message

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float16", "bool"])
    def test_a_narrower_type_is_cast_with_equal_values(self, dtype: str) -> None:
        low, high = {"bool": (0, 1), "float16": (-65504, 65504)}.get(dtype) or extremes(np.dtype(dtype))[:2]
        x = np.array([[low, high, 0, 1]]).astype(dtype)
        y = doubling()(x)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, 2 * x.astype(np.float64))

    @pytest.mark.parametrize("target", ["float32", "float64"])
    @pytest.mark.parametrize("source", ["int64", "uint64"])
    def test_large_integers_are_refused(self, source: str, target: str) -> None:
        assert f"got dtype {source}" in refusal(doubling(dtype=target), np.ones((2, 4), source))

    @pytest.mark.parametrize("pair", [("int32", "float64"), ("int32", "int64"), ("bool", "int64")])
    def test_wider_targets(self, pair: tuple[str, str]) -> None:
        source, target = pair
        x = np.array([[0, 1, 1, 0]]).astype(source)
        np.testing.assert_array_equal(doubling(dtype=target)(x), 2 * x.astype(target), strict=True)

    def test_numbers_are_no_booleans(self) -> None:
        node = helper.make_node("Not", ["x"], ["y"])
        port = ("batch", 2)
        net = compiled([node], [spec("x", *port, dtype="bool")], [spec("y", *port, dtype="bool")])
        np.testing.assert_array_equal(net(np.array([[True, False]])), [[False, True]])
        assert "bool[batch, 2], got dtype uint8" in refusal(net, np.ones((1, 2), np.uint8))

    @pytest.mark.parametrize("target", DTYPES)
    @pytest.mark.parametrize("source", DTYPES)
    def test_holds_every_value_agrees_with_arithmetic(self, source: str, target: str) -> None:
        """Python's integers and fractions are exact, so the extreme values decide."""
        assert holds_every_value(np.dtype(source), np.dtype(target)) is keeps(source, target)

    @pytest.mark.parametrize(
        "source", ["complex64", "object", "U3", "S3", "M8[s]", "m8[s]", "V4", "longdouble"]
    )
    def test_no_other_type_is_ever_cast(self, source: str) -> None:
        assert not any(holds_every_value(np.dtype(source), np.dtype(target)) for target in DTYPES)


def extremes(dtype: np.dtype[Any]) -> list[Any]:
    """The values that are the hardest to keep, as exact Python numbers."""
    if dtype.kind == "b":
        return [False, True]
    if dtype.kind in "iu":
        top = np.iinfo(dtype).max
        return [int(np.iinfo(dtype).min), int(top), int(top) - 1]
    info = np.finfo(dtype)
    return [float(v) for v in (info.max, info.min, info.smallest_subnormal, dtype.type(1) + info.eps, 0.5)]


def keeps(source: str, target: str) -> bool:
    """Whether every extreme value of `source` comes back from `target` equal; numbers are no booleans."""
    if target == "bool":
        return source == "bool"
    kind = np.dtype(target).kind
    for value in extremes(np.dtype(source)):
        if kind in "iu":
            fits = int(np.iinfo(target).min) <= value <= int(np.iinfo(target).max)
            if not fits or Decimal(value) != int(value):
                return False
        else:
            with np.errstate(over="ignore"):
                if Decimal(float(np.dtype(target).type(value))) != Decimal(value):
                    return False
    return True


class TestShapes:
    def test_a_missing_batch_dimension(self) -> None:
        message = refusal(doubling(), floats(4))
        assert "expects float32[batch, 4], got shape [4]" in message
        assert "x[None]" in message

    @pytest.mark.parametrize("shape", [(2, 5), (4, 2), (2, 4, 1), (), (2, 0)])
    def test_a_wrong_shape(self, shape: tuple[int, ...]) -> None:
        assert f"got shape {list(shape)}" in refusal(doubling(), np.ones(shape, np.float32))

    def test_a_scalar_is_no_batch(self) -> None:
        assert "got shape []" in refusal(doubling("batch"), np.array(1, np.float32))
        assert "got shape []" in refusal(doubling("batch"), np.float32(1))

    @pytest.mark.parametrize(
        ("wanted", "given", "move"),
        [
            ((3, 8, 6), (2, 8, 6, 3), (-1, 1)),
            ((8, 6, 3), (2, 3, 8, 6), (1, -1)),
            ((4, 9), (2, 9, 4), (-1, 1)),
        ],
    )
    def test_channels_on_the_other_side(
        self, wanted: tuple[int, ...], given: tuple[int, ...], move: tuple[int, int]
    ) -> None:
        """A reshape would be accepted and answer nonsense, so it is not what is recommended."""
        net, x = doubling("batch", *wanted), floats(*given)
        message = refusal(net, x)
        assert f"moveaxis(x, {move[0]}, {move[1]})" in message
        assert "Reshape" not in message
        np.testing.assert_array_equal(net(np.moveaxis(x, *move)), 2 * np.moveaxis(x, *move))

    @pytest.mark.parametrize("given", [(2, 8, 3, 6), (2, 8, 8, 3), (2, 3, 6), (2, 8, 6, 3, 1)])
    def test_other_shapes_are_not_taken_for_swapped_channels(self, given: tuple[int, ...]) -> None:
        assert "moveaxis" not in refusal(doubling("batch", 3, 8, 6), floats(*given))

    def test_a_fixed_batch(self) -> None:
        net = doubling(2, 4, batch=None)
        np.testing.assert_array_equal(net(floats(2, 4)), 2 * floats(2, 4))
        assert "float32[2, 4], got shape [3, 4]" in refusal(net, floats(3, 4))

    def test_inputs_must_agree_on_a_symbol(self) -> None:
        message = refusal(adding(), floats(2, 3), floats(3, 3))
        assert "'b' has batch = 3, but 'a' has 2" in message
        net = predictor(
            build(
                [helper.make_node("MatMul", ["a", "b"], ["y"])],
                [spec("a", "batch", "n"), spec("b", "n", 2)],
                [spec("y", "batch", 2)],
            )
        )
        assert net(floats(3, 5), floats(5, 2)).shape == (3, 2)
        assert "'b' has n = 4, but 'a' has 5" in refusal(net, floats(3, 5), floats(4, 2))

    def test_a_symbol_that_comes_twice_in_one_input(self) -> None:
        net = doubling("n", "n")
        assert net(floats(3, 3)).shape == (3, 3)
        assert "n = 4" in refusal(net, floats(3, 4))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "got a list"),
        ([], "got an empty list"),
        (((1.0,),), "got a tuple"),
        (None, "got None"),
        ("text", "type str"),
        (3, "type int"),
        ({"x": 1}, "type dict"),
        (iter([]), "iterator"),
        (np.array([[1, None, "a", 2]], object), "dtype object"),
        (np.array([["a", "b", "c", "d"]]), "dtype <U1"),
        (np.array([[b"a", b"b", b"c", b"d"]]), "dtype |S1"),
        (np.ones((1, 4), np.complex64), "dtype complex64"),
        (np.ones((1, 4), np.longdouble), "dtype float128"),
        (np.zeros((1, 4), "datetime64[s]"), "dtype datetime64"),
        (np.zeros((1, 4), [("a", "f4")]), "dtype [('a', '<f4')]"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else None,
)
def test_what_is_no_array_of_numbers_is_refused(value: Any, got: str) -> None:
    message = refusal(doubling(), value)
    assert "'x' expects float32[batch, 4]" in message
    assert got in message


@pytest.mark.parametrize("wrap", [lambda x: {"x": x, "y": x}, lambda x: (x, x)])
def test_several_inputs_in_one_container_are_told_to_be_unpacked(wrap):
    model = adding()
    with pytest.raises(InputError, match=r"predict\(\*"):
        model.predict(wrap(np.zeros((2, 3), "f4")))


def test_a_masked_array() -> None:
    x = np.ma.masked_array(floats(2, 4), mask=False)
    np.testing.assert_array_equal(doubling()(x), 2 * x.data)
    x[1, 2] = np.ma.masked
    message = refusal(doubling(), x)
    assert "got a masked array with masked values" in message
    assert "x.filled" in message


def test_torch_tensors_without_plain_values() -> None:
    torch = pytest.importorskip("torch")
    assert "x.to_dense()" in refusal(doubling(), torch.ones(2, 4).to_sparse())
    assert "holds values" in refusal(doubling(), torch.ones(2, 4, device="meta"))


class TestFreeSizes:
    """Sizes that the graph is not right for are refused, as a wrong static size is."""

    @pytest.fixture
    def net(self) -> Any:
        inputs, outputs = [spec("x", "batch", "n")], [spec("y", "batch", "n")]
        about = manifest(inputs, outputs)
        sizes = {"n": FreeSize(least=4, step=2, most=8, typical=6)}
        signature = about.signature.model_copy(update={"sizes": sizes})
        node = helper.make_node("Add", ["x", "x"], ["y"])
        return predictor(build([node], inputs, outputs), about.model_copy(update={"signature": signature}))

    @pytest.mark.parametrize("size", [4, 6, 8])
    def test_inside_the_row(self, net: Any, size: int) -> None:
        x = floats(3, size)
        np.testing.assert_array_equal(net.predict(x), x + x)

    @pytest.mark.parametrize("size", [0, 2, 5, 10])
    def test_outside_it(self, net: Any, size: int) -> None:
        net.predict(floats(3, 6))  # a call that fits is no licence for the next
        message = refusal(net, floats(3, size))
        assert f"n = {size}: the model was compiled for 4, 6, 8 and so on, at most 8" in message


class TestPythonSignature:
    def test_as_forward_has_it(self) -> None:
        a, b = (Argument(name=n, structure=TensorLeaf(index=i)) for i, n in enumerate("ab"))
        assert str(python_signature([a, b])) == "(a, b)"
        named = a.model_copy(update={"keyword_only": True})
        assert str(python_signature([b, named])) == "(b, *, a)"
        assert str(python_signature([named, b])) == "(b, *, a)"
        assert str(python_signature([])) == "()"

    @pytest.mark.parametrize("name", ["input.1", "class", "0"])
    def test_names_that_python_does_not_have(self, name: str) -> None:
        arguments = [Argument(name=n, structure=TensorLeaf(index=i)) for i, n in enumerate(["x", name])]
        assert str(python_signature(arguments)) == "(input_0, input_1, /)"

    def test_of_a_predictor_and_of_its_copy(self) -> None:
        net = adding()
        for one in (net, pickle.loads(pickle.dumps(net))):
            assert str(inspect.signature(one)) == "(a, b)"
        assert "model" in inspect.signature(Predictor).parameters
