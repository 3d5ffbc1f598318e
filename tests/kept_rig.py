"""For the tests of kept listings: tiny models that read bytes, and a short prompt for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genrank.engines.base import Engine
from genrank.prompting.template import Template, load_template
from genrank.reranker import Reranker


def make_prompt(**change: Any) -> Template:
    """``L:listing``, a line's end, ``S:query``, a line's end, ``?``."""
    short: dict[str, Any] = {"name": "bytes", "candidate": "L:{listing}", "query": "S:{query}\n", "plain_end": "?"}
    lean = load_template("pointwise-lean").model_dump()
    return Template.model_validate(lean | short | {"yes": ["y"], "no": ["n"]} | change)


def write_prompt(path: Path) -> str:
    """The prompt of `make_prompt` as a file."""
    form = make_prompt()
    names = ("candidate", "query", "plain_end", "yes", "no", "system", "instruction", "chat")
    lines = [f"{name} = {json.dumps(getattr(form, name))}" for name in names]
    path.write_text("\n".join(['base = "pointwise"', 'name = "bytes"', "version = 1", *lines]), encoding="utf-8")
    return str(path)


def save_bytes_model(folder: Path, *, sliding: bool = False, seed: int = 1) -> str:
    """A model of random weights whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(BPE({"<end>": 0} | {letter: i for i, letter in enumerate(alphabet, 1)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    sizes: dict[str, Any] = {
        "vocab_size": len(alphabet) + 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.3,
    }
    if sliding:
        layers = ["sliding_attention", "full_attention"]
        config: Any = Gemma3TextConfig(**sizes, sliding_window=8, layer_types=layers)
    else:
        config = LlamaConfig(**sizes)
    torch.manual_seed(seed)
    make_model: Any = AutoModelForCausalLM.from_config
    make_model(config).save_pretrained(folder)
    make_tokenizer: Any = PreTrainedTokenizerFast
    make_tokenizer(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)
    return str(folder)


def make_engine(folder: str, **options: Any) -> Any:
    """An engine in float32, so that scores can be compared."""
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(folder, **{"dtype": "float32"} | options)


def make_reranker(engine: Engine, **change: Any) -> Reranker:
    """A pointwise reranker with the short prompt, or a changed one."""
    return Reranker(engine=engine, decoding="pointwise", prompt=make_prompt(**change))
