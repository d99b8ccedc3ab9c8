"""Attention in terms of operators that the exporter has: in other ranks than 4, and PyTorch's fast path.

That is one operator, which TorchDynamo leaves in a graph. Source: torch 2.13,
aten/src/ATen/native/transformers/transformer.cpp and attention.cpp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

_KEYS = 1  # the kind of mask that has a row for each sample, and a column for each key


def fits_as_it_is(query: torch.Tensor, mask: torch.Tensor | None, scaled: bool) -> bool:
    """Whether the exporter has `scaled_dot_product_attention` of these; it keeps a scale in float32."""
    if query.dtype is torch.float64 and scaled:
        return False
    return query.dim() == 4 and (mask is None or mask.dtype in (torch.bool, query.dtype))


def scaled_dot_product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **more: Any,
) -> Any:
    """Of no heads or of heads with more axes, as that of shape (batch, heads, length, width).

    With a mask of the queries' dtype, because PyTorch takes another one, which ONNX does not, and with a
    scale of float64 in the query.
    """
    if fits_as_it_is(query, attn_mask, scale is not None):
        return NotImplemented
    lead = query.shape[:-2]
    if scale is not None and query.dtype is torch.float64:
        query, scale = query * (scale * query.shape[-1] ** 0.5), None
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    if attn_mask is not None and len(lead) > 2:
        attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-2:]).flatten(0, -4)
    query, key, value = (
        x.flatten(0, -4) if x.dim() > 4 else x[(None,) * (4 - x.dim())] for x in (query, key, value)
    )
    answer = F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more
    )
    return answer.reshape(*lead, *answer.shape[-2:])


def encoder_layer(
    x: torch.Tensor,
    width: int,
    heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: torch.Tensor,
    norm_bias_1: torch.Tensor,
    norm_weight_2: torch.Tensor,
    norm_bias_2: torch.Tensor,
    weight_1: torch.Tensor,
    bias_1: torch.Tensor,
    weight_2: torch.Tensor,
    bias_2: torch.Tensor,
    mask: torch.Tensor | None = None,
    mask_type: int | None = None,
) -> torch.Tensor:
    """What `torch.nn.TransformerEncoderLayer` computes, of x of shape (batch, length, width)."""

    def norm_1(y: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(y, (width,), norm_weight_1, norm_bias_1, eps)

    def norm_2(y: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(y, (width,), norm_weight_2, norm_bias_2, eps)

    def attend(y: torch.Tensor) -> torch.Tensor:
        weights = (qkv_weight, qkv_bias, out_weight, out_bias)
        return multi_head_attention(y, y, y, width, heads, *weights, mask, False, False, mask_type)[0]

    def feed_forward(y: torch.Tensor) -> torch.Tensor:
        hidden = F.linear(y, weight_1, bias_1)
        return F.linear(F.gelu(hidden) if use_gelu else F.relu(hidden), weight_2, bias_2)

    if norm_first:
        x = x + attend(norm_1(x))
        return x + feed_forward(norm_2(x))
    x = norm_1(x + attend(x))
    return norm_2(x + feed_forward(x))


def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    width: int,
    heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    mask: torch.Tensor | None = None,
    need_weights: bool = True,
    average_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `torch.nn.MultiheadAttention` computes, of inputs of shape (batch, length, width).

    Args:
        query: What asks.
        key: What is asked.
        value: What is answered.
        width: Of a position.
        heads: Number of them; they share the width.
        qkv_weight: Of the three projections, one below the other.
        qkv_bias: Theirs.
        out_weight: Of the projection of what the heads answer.
        out_bias: Its.
        mask: What is not 0 in it is not attended to.
        need_weights: Whether the attention weights are returned.
        average_weights: Whether they are, as their mean over the heads.
        mask_type: 0 for a mask of shape (length, keys), 1 (batch, keys), 2 (batch, heads, length, keys).

    Returns:
        The result, and the weights; an empty tensor where they are not needed.
    """
    weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
    projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    q, k, v = (x.reshape(*x.shape[:2], heads, width // heads).transpose(1, 2) for x in projected)
    scores = (q * (width // heads) ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        hidden = mask.to(torch.bool)
        scores = scores.masked_fill(hidden[:, None, None] if mask_type == _KEYS else hidden, -torch.inf)
    shares = scores.softmax(-1)
    result = F.linear((shares @ v).transpose(1, 2).flatten(-2), out_weight, out_bias)
    if not need_weights:
        return result, query.new_empty(0)
    return result, shares.mean(1) if average_weights else shares
