"""Real models, fetched once into the home that all tests share (``GENRANK_HOME``, or the default one)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrank.models import store

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smollm() -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return store.fetch("smollm2-135m")


def load(loader: str, folder: Path) -> Any:
    """Load with transformers' class `loader` from nothing but `folder`."""
    import transformers

    return getattr(transformers, loader).from_pretrained(folder, local_files_only=True)


def test_smollm_answers(smollm: Path) -> None:
    import torch

    tokenizer = load("AutoTokenizer", smollm)
    model = load("AutoModelForCausalLM", smollm)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_smollm_tokenizer(smollm: Path) -> None:
    tokenizer = load("AutoTokenizer", smollm)
    assert tokenizer("hi").input_ids[0] != tokenizer.bos_token_id
    assert tokenizer("<|im_start|>").input_ids == [1]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    # digits stand alone, and so do the line breaks before them, as in the model's own training
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    text = "连衣裙 €12.99 don't\n\n  x"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_smollm_folder_names_no_machine(smollm: Path) -> None:
    assert store.verify("smollm2-135m") == []
    assert store.resolve("smollm2-135m") == smollm
    config = json.loads((smollm / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    for path in smollm.glob("*.json"):
        assert str(store.home()) not in path.read_text(encoding="utf-8")
    assert len({path.stat().st_mode for path in store._files(smollm)}) == 1  # the weights as readable as the rest


def test_bert_compares_sentences() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = store.fetch("bert-minilm")
    assert (folder / "1_Pooling" / "config.json").is_file()
    tokenizer, model = load("AutoTokenizer", folder), load("AutoModel", folder)
    batch = tokenizer(["red shoes", "crimson sneakers", "garden hose"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state  # [3, tokens, 384]
    mask = batch["attention_mask"][:, :, None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_gemma_begins_with_bos() -> None:
    """Only where it is: its licence is not for a test to accept."""
    pytest.importorskip("transformers")
    if store.verify("gemma3-270m", deep=False):
        pytest.skip("not fetched; get it with: genrank models fetch gemma3-270m --accept-license")
    tokenizer = load("AutoTokenizer", store.resolve("gemma3-270m"))
    assert tokenizer("The capital of Germany is").input_ids == [2, 818, 5279, 529, 9405, 563]
    assert tokenizer.chat_template is None
