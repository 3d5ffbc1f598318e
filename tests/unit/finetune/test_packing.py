"""Sequences share rows without seeing each other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from finetune.packing import collate, keeps_apart, pack

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "gemma3": (
        transformers.Gemma3TextConfig,
        transformers.Gemma3ForCausalLM,
        {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    # its recurrent state goes on from one sequence to the next
    "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM, {}),
}


def model_of(kind: str, attention: str = "sdpa") -> Any:
    config, model, more = KINDS[kind]
    size: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "attn_implementation": attention}
    torch.manual_seed(0)
    return model(config(**size, **({} if kind == "mamba" else heads), initializer_range=0.5, **more)).eval()


def examples_of(lengths: list[list[int]]) -> list[dict[str, Any]]:
    """Examples with sequences of these lengths, each read at its last token."""
    chance = torch.Generator().manual_seed(0)
    made = []
    for of_it in lengths:
        ends = torch.tensor(of_it).cumsum(0).tolist()
        ids = torch.randint(1, 61, (ends[-1],), generator=chance).tolist()
        made.append({"input_ids": ids, "starts": [0, *ends[:-1]], "reads": [end - 1 for end in ends], "answers": [0]})
    return made


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen2"])
def test_logits_of_packed_sequences_are_those_of_each_alone(kind: str, attention: str) -> None:
    model = model_of(kind, attention)
    examples = examples_of([[9, 7, 12, 3], [21], [5, 6, 7]])
    batch = collate(examples)
    assert len(batch["input_ids"]) < 8
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        alone = []
        for example in examples:
            bounds = [*example["starts"], len(example["input_ids"])]
            parts = [
                model(torch.tensor([example["input_ids"][start:end]])).logits[0]
                for start, end in itertools.pairwise(bounds)
            ]
            alone += [torch.cat(parts)[[*example["reads"], *example["answers"]]]]
    assert torch.allclose(found[tuple(batch["where"].T)], torch.cat(alone), atol=1e-4)
    assert keeps_apart(model)


def test_a_model_that_mixes_sequences_of_a_row_is_told() -> None:
    assert not keeps_apart(model_of("mamba"))
    model = model_of("llama").train()
    model.config._attn_implementation = "flash_attention_2"
    assert not keeps_apart(model)
    assert model.training


def test_a_sequence_a_row_needs_no_mask() -> None:
    from transformers.masking_utils import find_packed_sequence_indices

    batch = collate(examples_of([[9, 7], [12]]), packed=False)
    assert list(batch["input_ids"].shape) == [3, 12]
    assert find_packed_sequence_indices(batch["position_ids"]) is None
    assert batch["where"].tolist() == [[0, 8], [1, 6], [0, 0], [2, 11], [2, 0]]


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=100))
def test_each_sequence_has_one_row(lengths: list[int]) -> None:
    rows = pack(lengths)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(rows)


@given(st.lists(st.integers(15, 64), min_size=40, max_size=120))
def test_candidates_leave_little_room(lengths: list[int]) -> None:
    rows = pack(lengths)
    width = max(sum(lengths[i] for i in row) for row in rows)
    assert sum(lengths) / (len(rows) * width) >= 0.93
    assert width <= 512


def test_sequences_of_one_length_share_no_row_when_long() -> None:
    assert len(pack([900] * 4)) == 4
