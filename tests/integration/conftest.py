"""What the training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrank.models import resolve


@pytest.fixture(scope="session")
def tiny(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of SmolLM2's architecture with its tokenizer, small enough to train in seconds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    config = AutoConfig.from_pretrained(resolve(smollm2))
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(resolve(smollm2)).save_pretrained(folder)
    return folder
