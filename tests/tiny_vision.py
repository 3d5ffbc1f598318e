"""A vision-language model small enough to make in a test: LLaVA's architecture, with random weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PARTS = TEMPLATE.replace(
    "{% if message.content is string %}{{ message.content }}{% else %}", "{% if message.content is not string %}"
)
"""A template that drops a text which is not a part of a message."""

TOKENS = 17
"""Tokens of a picture: 4 x 4 patches, and a line end."""


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Bytes, and the special tokens of the template."""
    tokenizers, transformers = (importlib.import_module(name) for name in ("tokenizers", "transformers"))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={one: i for i, one in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": ["<image>", "<|system|>", "<|user|>", "<|assistant|>"]})
    made.pad_token = "</s>"
    made.chat_template = template
    return made


def make_vision(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Save a model with its processor, which needs no torchvision.

    Args:
        folder: Where it is saved.
        template: Its chat template.
    """
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    clip: Any = importlib.import_module("transformers.models.clip.image_processing_pil_clip")
    torch.manual_seed(0)
    tokenizer = make_tokenizer(template)
    image = tokenizer.convert_tokens_to_ids("<image>")
    transformers.LlavaProcessor(
        image_processor=clip.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**size, image_size=32, patch_size=8, projection_dim=16),
        text_config=transformers.LlamaConfig(
            **size,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            initializer_range=0.2,  # else all answers are nearly the same
        ),
        image_token_index=image,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    for part in (model.model.multi_modal_projector, model.model.vision_tower):
        for weight in part.parameters():
            weight.data *= 3
    model.save_pretrained(folder)
    return folder
