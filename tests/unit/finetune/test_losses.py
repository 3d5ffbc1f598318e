from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

import torch

from finetune.losses import LOSSES, lambda_loss, listnet, ranknet, text_loss


def tensor(*values: float) -> Any:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_ranknet_by_hand() -> None:
    loss = ranknet(tensor(1.0, 0.0, 2.0), tensor(3.0, 1.0, 1.0))
    pairs = [(2, 1.0 - 0.0), (2, 1.0 - 2.0)]  # weight, margin; the equal ones are no pair
    assert loss.item() == pytest.approx(sum(w * math.log1p(math.exp(-m)) for w, m in pairs) / 4)


def test_lambda_by_hand() -> None:
    loss = lambda_loss(tensor(1.0, 0.0, 2.0), tensor(3.0, 1.0, 1.0))
    discounts = [1 / math.log2(place + 2) for place in (1, 2, 0)]
    weights = [2 * abs(discounts[0] - discounts[j]) for j in (1, 2)]
    margins = [1.0, -1.0]
    expected = sum(w * math.log1p(math.exp(-m)) for w, m in zip(weights, margins, strict=True)) / sum(weights)
    assert loss.item() == pytest.approx(expected)


def test_listnet_by_hand() -> None:
    total = math.log(math.exp(1) + 1 + math.exp(2))
    expected = -(0.6 * (1 - total) + 0.2 * (0 - total) + 0.2 * (2 - total))
    assert listnet(tensor(1.0, 0.0, 2.0), tensor(3.0, 1.0, 1.0)).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_raises_the_better_and_lowers_the_worse(loss: object) -> None:
    assert callable(loss)
    scores = tensor(0.0, 0.0, 0.0, 0.0)
    loss(scores, tensor(0.0, 7.0, 1.0, 0.0)).backward()
    assert scores.grad is not None
    slopes = scores.grad.tolist()
    assert slopes[1] < 0
    assert slopes[1] < slopes[2]
    assert min(slopes[0], slopes[3]) > 0
    perfect = loss(tensor(-20.0, 20.0, 0.0, -20.0), tensor(0.0, 7.0, 1.0, 0.0)).item()
    assert perfect < loss(tensor(20.0, -20.0, 0.0, 20.0), tensor(0.0, 7.0, 1.0, 0.0)).item()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_teachers_soft_scores_are_learned_in_their_order(loss: object) -> None:
    """Gains of a dataset that finetune.distill made: scores of 0 to 1 in hundredths, close together."""
    assert callable(loss)
    gains = tensor(0.81, 0.83, 0.0, 0.8, 0.35)
    scores = tensor(*[0.0] * 5)
    optimizer = torch.optim.Adam([scores], lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(scores, gains.detach()).backward()
        optimizer.step()
    assert scores.argsort(descending=True).tolist() == [1, 0, 3, 4, 2]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("gain", [0.0, 3.0])
def test_no_preference_is_no_loss(loss: object, gain: float) -> None:
    assert callable(loss)
    scores = tensor(5.0, -5.0)
    value = loss(scores, tensor(gain, gain))
    value.backward()
    assert (value.item(), scores.grad.tolist() if scores.grad is not None else None) == (0.0, [0.0, 0.0])


def test_any_right_token_will_do() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    chances = logits.softmax(-1)
    expected = -(math.log(chances[0, 1] + chances[0, 2]) + math.log(chances[1, 0])) / 2
    assert text_loss(logits, [[1, 2], [0]]).item() == pytest.approx(expected, rel=1e-6)
