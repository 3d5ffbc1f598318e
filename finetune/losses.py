"""Ranking losses over the scores of one window.

All take scores and gains of the same candidates, ``[n]``; equal gains are no preference. A window whose gains are all
equal has the loss 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch.nn.functional import log_softmax, softplus

Kind = Literal["ranknet", "listnet", "lambda"]


def ranknet(scores: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """Weighted RankNet (Burges et al., ICML 2005): ``log(1 + exp(-(s_i - s_j)))`` over pairs with ``g_i > g_j``.

    Each pair weighs as much as its gains differ; the mean over all pairs.
    """
    weights = (gains[:, None] - gains[None, :]).clamp(min=0)
    return _pairs(scores, weights)


def lambda_loss(scores: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """LambdaLoss's NDCG-Loss2 with LambdaRank's weights (Wang et al., CIKM 2018).

    A pair weighs as much as nDCG changes when its two candidates change places in the order of the scores, that order
    being no part of the gradient; the mean over all pairs.
    """
    places = torch.empty_like(scores).scatter_(
        0, scores.detach().argsort(descending=True), torch.arange(len(scores), dtype=scores.dtype, device=scores.device)
    )
    discounts = 1 / torch.log2(places + 2)
    weights = (gains[:, None] - gains[None, :]).clamp(min=0) * (discounts[:, None] - discounts[None, :]).abs()
    return _pairs(scores, weights)


def listnet(scores: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """ListNet's top-one loss (Cao et al., ICML 2007): cross entropy of the scores' softmax under the gains' shares."""
    if not (gains != gains[0]).any():
        return scores.sum() * 0
    return -(gains / gains.sum() * log_softmax(scores, dim=0)).sum()


def _pairs(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = softplus(scores[None, :] - scores[:, None])
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


LOSSES: Mapping[Kind, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ranknet": ranknet,
    "listnet": listnet,
    "lambda": lambda_loss,
}


def text_loss(logits: torch.Tensor, choices: Sequence[Sequence[int]]) -> torch.Tensor:
    """Minus the log of the chance that one of the right tokens is written, the mean over places.

    Args:
        logits: ``[m, vocabulary]``.
        choices: ``[m]`` the tokens that are right at each place.
    """
    logs = log_softmax(logits, dim=-1)
    right = [logs[i, list(tokens)].logsumexp(0) for i, tokens in enumerate(choices)]
    return -torch.stack(right).mean()
