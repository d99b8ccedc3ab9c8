"""`predict` with several inputs: shapes are checked once, and what may change in every call is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError, Predictor
from nncompile_runtime.manifest import Argument
from nncompile_runtime.several import Several
from nncompile_runtime.structure import ConstantLeaf, SequenceOf, TensorLeaf

from .graphs import adding, compiled, doubling, floats, spec

A, B = floats(2, 3), floats(2, 3, seed=1)


def unchecked(monkeypatch: pytest.MonkeyPatch, net: Predictor) -> Predictor:
    """The model, whose calls fail where they are checked as a first one is."""

    def checked(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("the call was checked as a first one is")

    monkeypatch.setattr(net, "_begin", checked)
    return net


def warm(**options: Any) -> Predictor:
    """`a + b`, which has accepted two rows of each."""
    net = adding(**options)
    net(A, B)
    return net


def test_however_the_inputs_are_given_they_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = unchecked(monkeypatch, warm())
    for y in (net(A, B), net(a=A, b=B), net(b=B, a=A), net(A, b=B)):
        np.testing.assert_array_equal(y, A + B)
    a, b = torch.from_numpy(A), torch.from_numpy(B)
    for z in (net(a, b), net(a, b=b), net(a[:, [0, 1, 2]], b.T.contiguous().T)):
        assert isinstance(z, torch.Tensor)
        np.testing.assert_array_equal(z.numpy(), A + B)


def test_an_accepted_call_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="checked as a first one is"):
        unchecked(monkeypatch, warm())(A[:1], B[:1])


def test_other_contents_are_seen_and_results_are_not_shared() -> None:
    net, a = warm(), A.copy()
    first = net(a, B)
    kept = first.copy()
    a[:] = 5
    np.testing.assert_array_equal(net(a, B), 5 + B)
    np.testing.assert_array_equal(first, kept)


def test_shapes_that_were_accepted_apart_do_not_go_together() -> None:
    net = warm()
    net(A[:1], B[:1])
    with pytest.raises(InputError, match="'b' has batch = 1, but 'a' has 2"):
        net(A, B[:1])
    with pytest.raises(InputError, match="'b' has batch = 1, but 'a' has 2"):
        net(torch.from_numpy(A), torch.from_numpy(B[:1]))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((A, B.astype(np.float64)), {}, "'b' expects float32.*float64"),
        ((A, B.astype(np.complex64)), {}, "'b' expects float32.*complex64"),
        ((torch.from_numpy(A), torch.from_numpy(B).double()), {}, "'b' expects float32.*float64"),
        ((torch.from_numpy(A), torch.from_numpy(B).to_sparse()), {}, "sparse"),
        ((A, B.tolist()), {}, "got a list"),
        ((A, None), {}, "got None"),
        ((A,), {}, "Missing input 'b'"),
        ((), {"a": A}, "Missing input 'b'"),
        ((A,), {"c": B}, "no input 'c'"),
        ((A,), {"a": B}, "'a' is given twice"),
        ((A, B, A), {}, "takes 2 positional inputs, got 3"),
        ((), {}, "Missing input 'a', 'b'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_after_it_as_before(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        warm()(*args, **kwargs)


def test_what_needs_a_cast_gets_it() -> None:
    net = warm()
    for b in (B.astype(">f4"), B.astype(np.float16), np.ones((2, 3), np.uint8)):
        np.testing.assert_array_equal(net(A, b), A + b.astype(np.float32))
    y = net(torch.from_numpy(A), torch.ones(2, 3, dtype=torch.bfloat16))
    np.testing.assert_array_equal(y.numpy(), A + 1)


def test_a_tensor_beside_an_array() -> None:
    for a, b in ((A, torch.from_numpy(B)), (torch.from_numpy(A), B)):
        y = warm()(a, b)
        assert isinstance(y, torch.Tensor)
        np.testing.assert_array_equal(y.numpy(), A + B)


def test_a_keyword_only_input_is_not_taken_by_position() -> None:
    arguments = [
        Argument(name=name, structure=TensorLeaf(index=i), keyword_only=name == "b")
        for i, name in enumerate("ab")
    ]
    net = adding(arguments=arguments)
    np.testing.assert_array_equal(net(A, b=B), A + B)
    np.testing.assert_array_equal(net(A, b=B), A + B)
    with pytest.raises(InputError, match="takes 1 positional input, got 2"):
        net(A, B)


def test_inputs_of_two_dtypes() -> None:
    nodes = [
        helper.make_node("Cast", ["n"], ["m"], to=helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    specs = [spec("x", "batch", 3), spec("n", "batch", 3, dtype="int64")]
    net, n = compiled(nodes, specs, [spec("y", "batch", 3)]), np.full((2, 3), 3)
    for _ in range(2):
        np.testing.assert_array_equal(net(A, n), 3 * A)
        with pytest.raises(InputError, match="'x' expects float32"):
            net(n, A)


def test_shapes_that_come_and_go_do_not_pile_up() -> None:
    net = adding()
    for size in range(1, 600):
        net(np.zeros((size, 3), np.float32), np.zeros((size, 3), np.float32))
    assert 0 < len(net._accepted) <= 256


def test_what_is_not_plain_is_always_checked() -> None:
    pair = SequenceOf(kind="tuple", items=(TensorLeaf(index=0), TensorLeaf(index=1)))
    plain = [Argument(name=name, structure=TensorLeaf(index=i)) for i, name in enumerate("ab")]
    constant = Argument(name="n", structure=ConstantLeaf(value=2))
    assert Several.of(adding().signature, "cpu") is not None
    assert Several.of(doubling().signature, "cpu") is None
    for arguments in ([Argument(name="pair", structure=pair)], [*plain, constant], plain[::-1]):
        assert Several.of(adding(arguments=arguments).signature, "cpu") is None
    swapped = adding(arguments=plain[::-1])
    for _ in range(2):
        np.testing.assert_array_equal(swapped(B, A), A + B)
