from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from genrank.errors import ModelError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(
        vocab_size=9,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        attention_bias=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(9)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w3").save_pretrained(folder)
    return str(folder)


def test_packed_layers_compute_what_plain_ones_do(folder: str) -> None:
    from genrank.engines.loading import load

    packed, _ = load(folder, None, torch.device("cpu"), torch.bfloat16)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not [name for name, part in packed.get_decoder().named_modules() if type(part) is torch.nn.Linear]
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.allclose(packed(ids).logits, plain(ids).logits, atol=2e-2)


def test_float32_is_left_as_it_is(folder: str) -> None:
    from genrank.engines.loading import load

    model, _ = load(folder, None, torch.device("cpu"), torch.float32)
    assert [name for name, part in model.get_decoder().named_modules() if type(part) is torch.nn.Linear]


def test_a_text_ends_by_the_model_or_by_its_tokenizer(folder: str) -> None:
    from genrank.engines.loading import end_tokens, load

    assert end_tokens(*load(folder, None, torch.device("cpu"), torch.float32)) == {2, 3}
    silent = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    assert end_tokens(silent, SimpleNamespace(eos_token_id=None)) == set()


def test_an_adapter_that_is_nowhere_is_named(folder: str, tmp_path: Path) -> None:
    from genrank.engines.loading import load

    with pytest.raises(ModelError, match=r"no adapter .*: neither a folder nor a hub name such as owner/name"):
        load(folder, str(tmp_path / "none"), torch.device("cpu"), torch.float32)


def test_an_adapter_in_the_home_directory(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")
    from genrank.engines.loading import load

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(plain, lora).save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv("HOME", str(tmp_path))
    adapted, _ = load(folder, "~/adapter", torch.device("cpu"), torch.float32)
    bare, _ = load(folder, None, torch.device("cpu"), torch.float32)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert not torch.allclose(adapted(ids).logits, bare(ids).logits, atol=1e-3)
