"""The losses of a batch, and the part of the head that they need."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

import torch
import transformers

from finetune.packing import collate
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


def example(form: str, reads: list[int], answers: list[int], first: int = 0) -> dict[str, Any]:
    """An example of 12 tokens, the first one of which is given, with three candidates."""
    judged = form != "listwise"
    return {
        "form": form,
        "input_ids": list(range(first, first + 12)),
        "starts": [0, 3, 7] if form == "pointwise" else [0],
        "reads": reads,
        "above": [[7, 9]] * 3 if judged else [[20], [21], [22]],
        "below": [[30]] * 3 if judged else [[]] * 3,
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
    batch = {"input_ids": ids, "position_ids": torch.arange(12).repeat(2, 1), "where": torch.tensor([rows, places]).T}
    expected = whole[rows, places].float()
    assert torch.allclose(states.logits(model, batch), expected)
    assert torch.allclose(states.logits(model, batch, tokens), expected[:, tokens])
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
    batch = {"input_ids": ids, "position_ids": torch.arange(12)[None], "where": torch.tensor([[0, 4]])}
    found = States(model).logits(model, batch, [8, 2])
    assert torch.allclose(found, 2 * whole[:, 4, [8, 2]])


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("answers", [[], [4, 6]])
def test_losses_and_gradients_need_no_more_of_the_head(kind: str, answers: list[int]) -> None:
    rows = [
        example("inline", [3, 6, 9], []),
        example("listwise", [11, 11, 11], answers, 12),
        example("pointwise", [2, 6, 11], [], 24),
    ]
    batch = collate(rows)

    def found(logits: Any, model: Any) -> dict[str, Any]:
        model.zero_grad()
        losses = batch_losses(logits, rows, "ranknet")
        total: Any = torch.stack(list(losses.values())).sum()
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()} | {
            name: weight.grad for name, weight in model.named_parameters()
        }

    def whole(tokens: Any) -> Any:
        """The logits of one sequence at a time."""
        found = []
        for one in rows:
            bounds = [*one["starts"], 12]
            parts = [model(torch.tensor([one["input_ids"][a:b]])).logits[0] for a, b in itertools.pairwise(bounds)]
            found.append(torch.cat(parts)[[*one["reads"], *one["answers"]]])
        logits = torch.cat(found)
        return logits if tokens is None else logits[:, tokens]

    model = model_of(kind)
    expected = found(whole, model)
    got = found(functools.partial(States(model).logits, model, batch), model)
    assert set(got) == set(expected)
    assert {"pointwise", "inline", "first-token"} <= set(got)
    assert ("text" in got) == bool(answers)
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-5), name


def test_a_reason_is_learned_as_text_alone() -> None:
    reason = {
        "form": "reason",
        "input_ids": [*range(12)],
        "starts": [0],
        "reads": [],
        "above": [],
        "below": [],
        "gains": [],
        "answers": [4, 6],
        "choices": [[1], [2]],
    }
    model = model_of("llama")
    states = States(model)

    def losses(*rows: dict[str, Any]) -> dict[str, torch.Tensor]:
        return batch_losses(functools.partial(states.logits, model, collate(rows)), rows, "ranknet")

    alone = losses(reason)
    assert set(alone) == {"text"}
    both = losses(reason, example("inline", [3, 6, 9], []))
    assert set(both) == {"text", "inline"}
    assert torch.allclose(both["text"], alone["text"], atol=1e-5)
