"""Losses in evaluation, in terms of operators that the exporter translates exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

aten = torch.ops.aten
# As torch composes them. Its exporter takes torch._refs for them where another operator was lowered, and
# those want the reduction by name.
_composed = torch.export.default_decompositions()
COMPOSED = {
    operator: _composed[operator]
    for operator in (
        aten.margin_ranking_loss.default,
        aten.hinge_embedding_loss.default,
        aten.triplet_margin_loss.default,
        aten.poisson_nll_loss.default,
    )
}
_MEAN, _SUM = 1, 2
_REDUCTIONS = {"none": 0, "mean": _MEAN, "sum": _SUM}


def reduced(loss: torch.Tensor, reduction: int) -> torch.Tensor:
    """A loss by element, averaged or summed as `reduction` (0 none, 1 mean, 2 sum) says."""
    if reduction == _MEAN:
        return loss.mean()
    return loss.sum() if reduction == _SUM else loss


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """min(x, 0) - log(1 + exp(-|x|)): finite wherever x is; log(sigmoid(x)) underflows below -104."""
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))


def bce_with_logits(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None,
    reduction: int = _MEAN,
) -> torch.Tensor:
    """Binary cross-entropy of logits by way of `log_sigmoid`, which does not overflow."""
    positive = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * x - positive * log_sigmoid(x)
    return reduced(loss if weight is None else loss * weight, reduction)


def cross_entropy(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of logits against class indices or class probabilities (torch.nn.CrossEntropyLoss).

    The formulas, with label smoothing and class weights, are those of that class's documentation.
    """
    axis = 1 if x.dim() > 1 else 0
    classes = x.shape[axis]
    logp = torch.log_softmax(x, axis)
    by_class = torch.ones(classes, dtype=x.dtype) if weight is None else weight
    shaped = by_class.reshape(-1, *[1] * (x.dim() - axis - 1))
    if target.is_floating_point():
        smoothed = target * (1 - label_smoothing) + label_smoothing / classes
        loss = -(logp * smoothed * shaped).sum(axis)
        return loss.sum() * classes / x.numel() if reduction == _MEAN else reduced(loss, reduction)
    loss, share, counted = _by_index(logp, target, weight, ignore_index)
    if label_smoothing:
        uniform = torch.where(counted, -(logp * shaped).sum(axis), 0.0)
        loss = (1 - label_smoothing) * loss + label_smoothing / classes * uniform
    return loss.sum() / share.sum() if reduction == _MEAN else reduced(loss, reduction)


def nll(
    logp: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
) -> torch.Tensor:
    """torch.nn.NLLLoss of log-probabilities of shape (N, C, ...) or (C,) and class indices without C."""
    loss, share, _ = _by_index(logp, target, weight, ignore_index)
    return loss.sum() / share.sum() if reduction == _MEAN else reduced(loss, reduction)


def _by_index(
    logp: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each target's loss, its weight (both 0 where it is ignored), and which are counted."""
    target = target.to(torch.int64)
    counted = target != ignore_index
    index = torch.where(counted, target, 0)
    axis = 1 if logp.dim() > 1 else 0
    loss = -logp.gather(axis, index.unsqueeze(axis)).squeeze(axis)
    share = counted.to(logp.dtype)
    if weight is not None:
        share = share * weight.index_select(0, index.reshape(-1)).reshape(index.shape)
        loss = loss * share
    return torch.where(counted, loss, 0.0), share, counted


def gaussian_nll(
    x: torch.Tensor,
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """torch.nn.GaussianNLLLoss without its check of var, which decides by values.

    A negative variance, which eager refuses, is clamped to eps like a small one.
    """
    variance = torch.as_tensor(var, dtype=x.dtype).expand_as(x) if isinstance(var, float) else var
    if variance.dim() == x.dim() - 1:
        variance = variance.unsqueeze(-1)
    variance = variance.clamp(min=eps)
    loss = 0.5 * (variance.log() + (x - target) ** 2 / variance)
    if full:
        loss = loss + 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=x.dtype))
    return reduced(loss, _REDUCTIONS[reduction])


def multilabel_margin(x: torch.Tensor, target: torch.Tensor, reduction: int = _MEAN) -> torch.Tensor:
    """torch.nn.MultiLabelMarginLoss: each target's margin over each class that is none, over the classes.

    The targets of a row end at its first negative entry.
    """
    rows, labels = (x, target) if x.dim() == 2 else (x.unsqueeze(0), target.unsqueeze(0))
    given = ((labels < 0).cumsum(1) == 0).to(torch.int64)
    index = labels * given
    classes = rows.shape[1]
    is_target = (torch.nn.functional.one_hot(index, classes) * given.unsqueeze(2)).amax(1)
    margins = (1 - rows.gather(1, index).unsqueeze(2) + rows.unsqueeze(1)).clamp(min=0)
    counted = given.unsqueeze(2) * (1 - is_target).unsqueeze(1)
    loss = (margins * counted.to(rows.dtype)).sum((1, 2)) / classes
    return reduced(loss if x.dim() == 2 else loss.squeeze(0), reduction)


_NEVER = -1e30  # log(0), finite so that differences stay finite


def ctc(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor | Sequence[int],
    target_lengths: torch.Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> torch.Tensor:
    """torch.nn.CTCLoss by the forward recursion over time, unrolled.

    Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, section 4.1.
    """
    batched = log_probs.dim() == 3
    scores = log_probs if batched else log_probs.unsqueeze(1)
    steps = torch.as_tensor(input_lengths).reshape(-1)
    lengths = torch.as_tensor(target_lengths).reshape(-1)
    labels = _padded(targets if batched else targets.unsqueeze(0), lengths).to(torch.int64)
    loss = -_log_likelihood(scores, labels, steps, lengths, blank)
    loss = torch.where(loss > -_NEVER / 2, 0.0 if zero_infinity else torch.inf, loss)
    if reduction == "mean":
        return (loss / lengths.clamp(min=1)).mean()
    total = loss.sum() if reduction == "sum" else loss
    return total if batched or reduction == "sum" else total.squeeze(0)


def _padded(targets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Targets of shape (batch, longest); given in one row one after another, they are spread."""
    if targets.dim() == 2:
        return targets
    longest = targets.shape[0]
    starts = lengths.cumsum(0) - lengths
    places = (starts.unsqueeze(1) + torch.arange(longest)).clamp(max=max(longest - 1, 0))
    return targets[places]


def _log_likelihood(
    scores: torch.Tensor, labels: torch.Tensor, steps: torch.Tensor, lengths: torch.Tensor, blank: int
) -> torch.Tensor:
    """Logarithm of the probability of the labels, shape (batch,)."""
    inside = torch.arange(labels.shape[1]) < lengths.unsqueeze(1)  # what follows may be anything, -1 too
    labels = torch.where(inside, labels, blank)
    between = torch.stack([torch.full_like(labels, blank), labels], 2).flatten(1)
    path = torch.nn.functional.pad(between, (0, 1), value=blank)
    emitted = [scores[t].gather(1, path) for t in range(scores.shape[0])]
    place = torch.arange(path.shape[1])
    two_back = torch.nn.functional.pad(path, (2, 0), value=blank)[:, :-2]
    may_skip = (path != blank) & (path != two_back) & (place >= 2)
    alpha = torch.where(place < 2, emitted[0], _NEVER)
    for t in range(1, len(emitted)):
        before = torch.nn.functional.pad(alpha, (2, 0), value=_NEVER)
        skipped = torch.where(may_skip, before[:, :-2], _NEVER)
        summed = _log_sum_exp(torch.stack([alpha, before[:, 1:-1], skipped]))
        alpha = torch.where((t < steps).unsqueeze(1), summed + emitted[t], alpha)
    last = alpha.gather(1, (2 * lengths).unsqueeze(1))
    label = alpha.gather(1, (2 * lengths - 1).clamp(min=0).unsqueeze(1))
    label = torch.where(lengths.unsqueeze(1) > 0, label, _NEVER)
    return _log_sum_exp(torch.stack([last, label])).squeeze(1)


def _log_sum_exp(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of exponentials over dimension 0."""
    largest = x.amax(0)
    return largest + (x - largest).exp().sum(0).log()
