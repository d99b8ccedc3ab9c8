"""Arrays and tensors of any layout give the same bits, and are not modified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nncompile import InputError, Predictor
from nncompile_runtime.plan import Plan

from .graphs import conv_net, doubling, floats, manifest, predictor


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def misaligned(x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw.view(x.dtype).reshape(x.shape)


class Subclass(np.ndarray):
    """A user's own array type."""


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "big-endian": lambda x: x.astype(">f4"),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "strided rows": lambda x: np.repeat(x, 3, axis=0)[::3],
    "negative stride": lambda x: x[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": read_only,
    "misaligned": misaligned,
    "subclass": lambda x: x.view(Subclass),
}


@pytest.fixture(scope="module", params=[None, 2], ids=["whole", "micro-batches"])
def net(request: pytest.FixtureRequest) -> Predictor:
    model, inputs, outputs = conv_net()
    return predictor(model, manifest(inputs, outputs), plan=Plan(micro_batch=request.param))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(net: Predictor, layout: str) -> None:
    x = LAYOUTS[layout](floats(5, 1, 8, 8))
    before = x.copy()
    expected = net.predict(np.array(x, np.float32, order="C"))
    np.testing.assert_array_equal(net.predict(x), expected, strict=True)
    np.testing.assert_array_equal(x, before)


TENSORS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda t: t,
    "requires_grad": lambda t: t.clone().requires_grad_(),
    "parameter": torch.nn.Parameter,
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda t: t.repeat_interleave(2, dim=3)[..., ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "inference": lambda t: t.clone(),
    "negative bit": lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag,
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_give_the_same_bits_as_tensors(net: Predictor, kind: str) -> None:
    with torch.inference_mode(kind == "inference"):
        t = TENSORS[kind](torch.from_numpy(floats(5, 1, 8, 8)))
        before = t.detach().clone()
        y = net.predict(t)
    assert isinstance(y, torch.Tensor)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), net.predict(before.resolve_neg().numpy()), strict=True)
    assert torch.equal(t, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int64])
def test_a_tensor_of_another_dtype_is_refused_with_torchs_remedy(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=str(dtype).removeprefix("torch.")) as caught:
        doubling()(torch.ones(2, 4, dtype=dtype))
    assert "astype" not in caught.value.remedy
    assert "float32" in caught.value.remedy


def test_a_tensor_without_plain_data_is_refused() -> None:
    for tensor in (torch.ones(2, 4, device="meta"), torch.eye(4).to_sparse()):
        with pytest.raises(InputError, match="'x' expects"):
            doubling()(tensor)


def test_a_tensor_is_cast_as_an_array_is() -> None:
    t = torch.tensor([[0, 1, 254, 255]], dtype=torch.uint8)
    y = doubling()(t)
    assert y.dtype == torch.float32
    assert y.tolist() == [[0.0, 2.0, 508.0, 510.0]]


def test_tensors_of_each_dtype_come_back_as_such() -> None:
    for dtype in ("float16", "float32", "float64", "int8", "int32", "int64", "uint8"):
        y = doubling(dtype=dtype)(torch.ones(2, 4, dtype=getattr(torch, dtype)))
        assert y.dtype == getattr(torch, dtype)
