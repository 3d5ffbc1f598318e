"""Linear layers with 8-bit weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest
from genrank.errors import InputError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")

SIZES = {"vocab_size": 90, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def layers(bias: bool = True) -> tuple[Any, Any]:
    from genrank.engines.quantised import Int8Linear

    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 80, bias=bias)
    return linear, Int8Linear(linear)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_differ_by_a_percent(bias: bool, dtype: str) -> None:
    linear, small = layers(bias)
    x = torch.randn(2, 7, 96).to(getattr(torch, dtype))
    expected, out = linear(x.float()).detach(), small(x)
    assert out.dtype == x.dtype
    assert float((out.float() - expected).norm() / expected.norm()) < 0.02


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    _, small = layers()
    x = torch.randn(5, 96) * torch.tensor([[1.0], [1000.0], [1e-6], [0.0], [3.0]])
    torch.testing.assert_close(small(x), torch.cat([small(row[None]) for row in x]), atol=0, rtol=0)


def test_a_small_row_beside_a_large_one_keeps_its_digits() -> None:
    linear, small = layers(bias=False)
    x = torch.randn(2, 96) * torch.tensor([[1e-3], [1e3]])
    expected, out = linear(x).detach(), small(x)
    assert float((out[0] - expected[0]).norm() / expected[0].norm()) < 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(1)
    made = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(**SIZES, initializer_range=0.3)
    transformers.LlamaForCausalLM(config).save_pretrained(made)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(90)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2").save_pretrained(made)
    return str(made)


def test_an_engine_in_int8_scores_nearly_the_same(folder: str) -> None:
    from genrank.engines.quantised import Int8Linear
    from genrank.engines.transformers import TransformersEngine

    whole, small = (TransformersEngine(folder, dtype=dtype) for dtype in ("float32", "int8"))
    kinds = {type(module) for module in small._lm.modules()}
    assert Int8Linear in kinds
    assert type(small._lm.get_output_embeddings()) is torch.nn.Linear
    assert sum(type(module) is torch.nn.Linear for module in small._lm.modules()) == 1
    ids = tuple(range(3, 40))
    requests = [ScoreRequest(ids, [36], range(90))]
    results = [result for engine in (whole, small) for result in engine.score(requests) if result is not None]
    exact, rounded = (torch.tensor(result.scores) for result in results)
    assert float((exact - rounded).norm() / exact.norm()) < 0.1
    assert not torch.equal(exact, rounded)
    assert (whole.bound_to()["dtype"], small.bound_to()["dtype"]) == ("float32", "int8")


def test_what_cannot_be_in_int8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from genrank.engines.quantised import quantise

    model = torch.nn.Module()
    model.head = torch.nn.Linear(4, 4)
    model.get_output_embeddings = lambda: model.head
    with pytest.raises(InputError, match="dtype: int8 takes a model with linear layers, and this one has none"):
        quantise(model)
    model.body = torch.nn.Linear(4, 4)
    monkeypatch.delattr(torch, "quantize_per_channel")
    with pytest.raises(InputError, match="dtype: int8 needs kernels that torch lacks here"):
        quantise(model)


def test_vllm_rounds_no_weights(tmp_path: Path) -> None:
    from genrank.engines.vllm import VLLMEngine

    with pytest.raises(InputError, match="dtype: vLLM rounds no weights itself"):
        VLLMEngine(str(tmp_path), dtype="int8")
