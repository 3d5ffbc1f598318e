"""The losses of a batch, and the part of the head that they need."""

from __future__ import annotations

import functools
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

import torch
import transformers

from finetune.sft import States, batch_losses

VOCABULARY = 61


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 1.0,
    }
    gemma2: Any = transformers.Gemma2ForCausalLM  # caps its logits behind the head
    llama: Any = transformers.LlamaForCausalLM
    if kind == "gemma2":
        return gemma2(transformers.Gemma2Config(**size, final_logit_softcapping=3.0))
    return llama(transformers.LlamaConfig(**size, tie_word_embeddings=kind == "tied"))


def row(form: str, reads: list[int], answers: list[int]) -> dict[str, Any]:
    """An example of 12 tokens with three candidates."""
    return {
        "form": form,
        "input_ids": list(range(12)),
        "reads": reads,
        "above": [[7, 9]] * 3 if form == "inline" else [[20], [21], [22]],
        "below": [[30]] * 3 if form == "inline" else [[]] * 3,
        "gains": [1.0, 0.0, 3.0],
        "answers": answers,
        "choices": [[20, 22] for _ in answers],
    }


@pytest.mark.parametrize("kind", ["llama", "tied", "gemma2"])
def test_logits_of_some_places_and_tokens_are_those_of_the_model(kind: str) -> None:
    model = model_of(kind).double()  # in float32, kernels for 3 rows and for 24 round logits near zero differently
    ids = torch.arange(24).view(2, 12)
    whole = model(ids).logits
    states = States(model)
    rows, places, tokens = [0, 1, 1], [3, 0, 11], [5, 60, 7]
    expected = whole[rows, places].float()
    assert torch.allclose(states.logits(model, ids, rows, places), expected)
    assert torch.allclose(states.logits(model, ids, rows, places, tokens), expected[:, tokens])
    assert torch.equal(model(ids).logits, whole)  # asked by others it answers as before


def test_a_head_of_another_kind_is_read_whole() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    model = model_of("llama")
    ids = torch.arange(12)[None]
    whole = model(ids).logits
    head = Doubled(16, VOCABULARY, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    found = States(model).logits(model, ids, [0], [4], [8, 2])
    assert torch.allclose(found, 2 * whole[:, 4, [8, 2]])


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("answers", [[], [4, 6]])
def test_losses_and_gradients_need_no_more_of_the_head(kind: str, answers: list[int]) -> None:
    rows = [row("inline", [3, 6, 9], []), row("listwise", [11, 11, 11], answers)]
    ids = torch.arange(24).view(2, 12)

    def found(logits: Any, model: Any) -> dict[str, Any]:
        model.zero_grad()
        losses = batch_losses(logits, rows, "ranknet")
        total: Any = torch.stack(list(losses.values())).sum()
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()} | {
            name: weight.grad for name, weight in model.named_parameters()
        }

    def whole(where: Any, places: Any, tokens: Any) -> Any:
        logits = model(ids).logits[where, places]
        return logits if tokens is None else logits[:, tokens]

    model = model_of(kind)
    expected = found(whole, model)
    got = found(functools.partial(States(model).logits, model, ids), model)
    assert set(got) == set(expected)
    assert {"inline", "first-token"} <= set(got)
    assert ("text" in got) == bool(answers)
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-5), name


def test_a_reason_is_learned_as_text_alone() -> None:
    reason = {
        "form": "reason",
        "reads": [],
        "above": [],
        "below": [],
        "gains": [],
        "answers": [4, 6],
        "choices": [[1], [2]],
    }
    ids = torch.arange(24).view(2, 12)
    model = model_of("llama")
    logits = functools.partial(States(model).logits, model, ids)
    alone = batch_losses(logits, [reason], "ranknet")
    assert set(alone) == {"text"}
    both = batch_losses(logits, [reason, row("inline", [3, 6, 9], [])], "ranknet")
    assert set(both) == {"text", "inline"}
    assert torch.allclose(both["text"], alone["text"])
