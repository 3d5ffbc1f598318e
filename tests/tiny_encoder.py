"""A BERT encoder small enough to make in a test."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "dress", "blue", "mug"]


def make_encoder(folder: Path, kind: str = "BertModel", words: Sequence[str] = WORDS, **options: Any) -> Path:
    """Save one with random weights.

    Args:
        folder: Where it is saved.
        kind: Name of its class in transformers.
        words: Vocabulary of its tokenizer.
        options: Options of its configuration.
    """
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**size, vocab_size=len(words), max_position_embeddings=32, **options)
    getattr(transformers, kind)(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
