"""A ``GENRANK_HOME`` in which known models are tiny ones of random weights, so that commands and code that name a model
run as they are, in seconds. What such a model ranks means nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genrank.files import sha256_of
from genrank.models.store import MANIFEST

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_home(folder: Path, names: Iterable[str] = ("smollm2-135m", "qwen2.5-coder-0.5b")) -> Path:
    """Fill a folder; ``GENRANK_HOME`` is to name it.

    Args:
        folder: Created if needed.
        names: Names in `genrank.models.registry.KNOWN_MODELS`.
    """
    for name in names:
        model = folder / "models" / name
        model.mkdir(parents=True)
        _save_model(model)
        files = {
            str(path.relative_to(model)): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(model.rglob("*"))
            if path.is_file()
        }
        manifest = {"name": name, "source": "made up", "files": files}
        (model / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _save_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    words: Any = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = BpeTrainer(vocab_size=600, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False)
    # answers are told apart by their first token, so each is one
    answers = " yes no Yes No yes\nno\nYes\nNo\n是 否 是\n否\n" * 50
    words.train_from_iterator([answers, "the shopper is looking for a listing. " * 50], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=16384,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.3,
    )
    make_model: Any = AutoModelForCausalLM.from_config
    make_model(config).save_pretrained(folder)
    make_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
