from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")

from genrank.engines.attention import group_heads  # noqa: E402
from genrank.engines.caches import cache_keyword  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Gemma3Text"])
def test_grouped_heads_give_the_same_states(kind: str, heads: int) -> None:
    """Whole prompts, prompts padded on the left, and tokens that continue both."""
    config = getattr(transformers, f"{kind}Config")(**SIZES, num_attention_heads=4, num_key_value_heads=heads)
    torch.manual_seed(0)
    models = [transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    group_heads(models[1])
    assert models[1].config._attn_implementation != models[0].config._attn_implementation
    ids = torch.randint(3, 90, (3, 20))
    mask = (torch.arange(20) >= torch.tensor([[0], [4], [9]])).long()
    found = []
    with torch.inference_mode():
        for model in models:
            whole = model(input_ids=ids)
            kept = {cache_keyword(model): transformers.DynamicCache(config=model.config)}
            padded = model(input_ids=ids[:, :15], attention_mask=mask[:, :15], **kept)
            after = model(input_ids=ids[:, 15:], attention_mask=mask, **kept)
            found.append([whole.logits, padded.logits[:, 9:], after.logits])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_model_without_shared_heads_gives_the_same_states() -> None:
    config = transformers.GPTNeoXConfig(**(SIZES | {"num_attention_heads": 4}))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids, mask = torch.randint(3, 90, (2, 9)), (torch.arange(9) >= torch.tensor([[0], [4]])).long()
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits[:, 4:]
        group_heads(model)
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[:, 4:], expected)


def test_a_model_with_other_attention_is_left_alone() -> None:
    config = transformers.LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    group_heads(model)
    assert model.config._attn_implementation == "eager"
