"""Models, adapters and tokenizers that fit are loaded; others are refused, in one line that says what to do."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.adapters import Manifest, save_manifest
from genrank.cli.main import main
from genrank.errors import ConfigError, EngineError, GenrankError, InputError, ModelError
from genrank.models.weights import weights_fingerprint

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")
peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

from safetensors.torch import load_file, save_file  # noqa: E402

from genrank.engines.base import PermuteRequest, ScoreRequest, TextRequest  # noqa: E402
from genrank.engines.loading import (  # noqa: E402
    check_base,
    check_fit,
    end_tokens,
    find_adapter,
    load,
    load_model,
    native_dtype,
)
from genrank.engines.transformers import TransformersEngine  # noqa: E402

CPU = torch.device("cpu")
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
SIZE: dict[str, Any] = {
    "vocab_size": 9,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "attention_bias": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
Weights = dict[str, Any]


def make(folder: Path, **options: Any) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZE | options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(9)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w3").save_pretrained(folder)
    return folder


def make_adapter(model: Path, folder: Path, **options: Any) -> Path:
    torch.manual_seed(1)
    plain = transformers.AutoModelForCausalLM.from_pretrained(model)
    lora = peft.LoraConfig(
        **{"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"} | options
    )
    peft.get_peft_model(plain, lora).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and an adapter, which no test changes."""
    root = tmp_path_factory.mktemp("tiny")
    model = make(root / "model")
    return model, make_adapter(model, root / "adapter")


@pytest.fixture
def model(original: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "model"))


@pytest.fixture
def adapter(original: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[1], tmp_path / "adapter"))


def change(file: Path, how: Callable[[Weights], Weights]) -> None:
    """Write a safetensors file with other weights."""
    save_file(how({name: weight.clone() for name, weight in load_file(file).items()}), file, {"format": "pt"})


def configure(file: Path, **values: Any) -> None:
    """Change keys of a JSON file; None takes a key away."""
    merged = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))


def refused(model: Path | str, adapter: Path | str | None = None) -> str:
    """The one line that says why."""
    with pytest.raises(GenrankError) as caught:
        load(str(model), None if adapter is None else str(adapter), CPU, torch.float32)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 900
    return said


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.arange(9)[None]).logits


class TestWhatFits:
    def test_packed_layers_compute_what_plain_ones_do(self, original: tuple[Path, Path]) -> None:
        packed, _ = load(str(original[0]), None, CPU, torch.bfloat16)
        plain = transformers.AutoModelForCausalLM.from_pretrained(original[0], dtype=torch.bfloat16).eval()
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            assert not [name for name, part in packed.get_decoder().named_modules() if type(part) is torch.nn.Linear]
        assert torch.allclose(logits(packed), logits(plain), atol=2e-2)

    def test_float32_is_left_as_it_is(self, original: tuple[Path, Path]) -> None:
        model, _ = load(str(original[0]), None, CPU, torch.float32)
        assert [name for name, part in model.get_decoder().named_modules() if type(part) is torch.nn.Linear]

    def test_a_text_ends_by_the_model_or_by_its_tokenizer(self, original: tuple[Path, Path]) -> None:
        assert end_tokens(*load(str(original[0]), None, CPU, torch.float32)) == {2, 3}
        silent = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
        assert end_tokens(silent, SimpleNamespace(eos_token_id=None)) == set()

    def test_an_adapter_in_the_home_directory(
        self, original: tuple[Path, Path], adapter: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(adapter.parent))
        adapted, _ = load(str(original[0]), "~/adapter", CPU, torch.float32)
        bare, _ = load(str(original[0]), None, CPU, torch.float32)
        assert not torch.allclose(logits(adapted), logits(bare), atol=1e-3)

    def test_a_head_that_is_the_embedding_need_not_be_there(self, tmp_path: Path) -> None:
        model = make(tmp_path / "tied", tie_word_embeddings=True)
        assert "lm_head.weight" not in load_file(model / WEIGHTS)
        loaded, _ = load(str(model), None, CPU, torch.float32)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight

    def test_what_old_checkpoints_hold_though_it_is_computed(self, model: Path) -> None:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        change(model / WEIGHTS, lambda weights: weights | {name: torch.ones(4)})
        load(str(model), None, CPU, torch.float32)

    def test_weights_in_parts(self, model: Path) -> None:
        before, _ = load(str(model), None, CPU, torch.float32)
        before.save_pretrained(model, max_shard_size="20KB")
        (model / WEIGHTS).unlink()
        assert (model / "model.safetensors.index.json").is_file()
        after, _ = load(str(model), None, CPU, torch.float32)
        assert torch.equal(logits(before), logits(after))

    @pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
    def test_kinds_of_lora(self, original: tuple[Path, Path], tmp_path: Path, options: dict[str, Any]) -> None:
        found = make_adapter(original[0], tmp_path / "adapter", **options)
        adapted, _ = load(str(original[0]), str(found), CPU, torch.float32)
        bare, _ = load(str(original[0]), None, CPU, torch.float32)
        assert not torch.allclose(logits(adapted), logits(bare), atol=1e-3)
        check_fit(original[0], found, "tiny")


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: w for name, w in weights.items() if not any(part in name for part in parts)}


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


UNFIT: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "one is missing": (without("layers.1.mlp.up_proj"), "missing: 1 (model.layers.1.mlp.up_proj.weight)"),
    "a layer is missing": (without("layers.1."), "missing: 13 ("),
    "an untied head is missing": (without("lm_head"), "missing: 1 (lm_head.weight)"),
    "one is left over": (lambda weights: weights | {"model.extra": torch.ones(2)}, "left over: 1 (model.extra)"),
    "all have a prefix": (prefixed("module."), "missing: 29 ("),
    "one has another shape": (
        lambda weights: weights | {"model.norm.weight": torch.ones(31)},
        "of another shape: 1 (model.norm.weight)",
    ),
    "one is there twice": (
        lambda weights: weights | {"norm.weight": torch.zeros(32)},
        "twice, with and without the prefix model: 1 (norm.weight)",
    ),
    "they are whole numbers": (
        lambda weights: {name: weight.to(torch.int8) for name, weight in weights.items()},
        "are whole numbers (I8): 16 (",
    ),
    "one is a whole number": (
        lambda weights: weights | {"lm_head.weight": torch.ones(9, 32, dtype=torch.uint8)},
        "are whole numbers (U8): 1 (lm_head.weight)",
    ),
    "it was saved without its head": (
        lambda weights: {name.removeprefix("model."): w for name, w in weights.items() if name != "lm_head.weight"},
        "missing: 1 (lm_head.weight)",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_do_not_fit_are_counted_and_named(model: Path, case: str) -> None:
    how, words = UNFIT[case]
    change(model / WEIGHTS, how)
    assert words in (said := refused(model))
    assert str(model) in said
    with pytest.raises(ModelError) as caught:
        check_fit(model, None, "tiny")
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(model: Path, value: float) -> None:
    def spoil(weights: Weights) -> Weights:
        weights["model.embed_tokens.weight"][7, 3] = value
        return weights

    change(model / WEIGHTS, spoil)
    assert "are not finite in torch.float32: 1 (model.embed_tokens.weight)" in refused(model)


def test_weights_that_are_all_zeros(model: Path) -> None:
    change(model / WEIGHTS, lambda weights: {name: torch.zeros_like(w) for name, w in weights.items()})
    assert "are all zeros" in refused(model)


def test_a_layer_of_zeros_is_no_fault(model: Path) -> None:
    change(model / WEIGHTS, lambda weights: {n: w * (0 if "layers.1." in n else 1) for n, w in weights.items()})
    load(str(model), None, CPU, torch.float32)


class TestATokenizerOfAnotherModel:
    def save(self, model: Path, words: int = 9, chat_template: str | None = None, **special: Any) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        made = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w3", **special)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(model)

    def test_words_without_an_embedding(self, model: Path) -> None:
        self.save(model, words=12)
        assert "embeddings for 9 tokens; beyond them: 3, such as 'w9' (9)" in (said := refused(model))
        with pytest.raises(ModelError) as caught:
            check_fit(model, None, "tiny")
        assert str(caught.value) == said

    def test_words_that_were_added_without_resizing_the_model(self, model: Path) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        tokenizer.add_tokens(["shop"])
        tokenizer.save_pretrained(model)
        assert "beyond them: 1, such as 'shop' (9)" in refused(model)

    @pytest.mark.parametrize("kind", ["bos_token", "sep_token", "cls_token"])
    def test_a_special_token_that_begins_or_ends_texts(self, model: Path, kind: str) -> None:
        special: dict[str, Any] = {kind: "<new>"}
        self.save(model, **special)
        assert "such as '<new>' (9)" in refused(model)

    def test_a_special_token_of_the_chat_template(self, model: Path) -> None:
        template = "<turn>{{ messages[0].content }}"
        self.save(model, chat_template=template, additional_special_tokens=["<turn>"])
        assert "such as '<turn>' (9)" in refused(model)

    @pytest.mark.parametrize("special", [{"pad_token": "[PAD]"}, {"additional_special_tokens": ["<image>"]}])
    def test_a_special_token_that_no_text_needs_is_no_fault(self, model: Path, special: dict[str, Any]) -> None:
        self.save(model, **special)
        engine = TransformersEngine(str(model), device="cpu", dtype="float32")
        short, long = engine.score([ScoreRequest((1, 2), (1,), (4,)), ScoreRequest((1, 2, 5, 6), (3,), (4,))])
        (alone,) = engine.score([ScoreRequest((1, 2), (1,), (4,))])
        assert short is not None
        assert long is not None
        assert alone is not None
        assert short.scores[0] == pytest.approx(alone.scores[0], abs=1e-5)


UNFIT_ADAPTER: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "all have a prefix": (prefixed("x."), "missing: 8 ("),
    "half is missing": (without("v_proj"), "missing: 4 ("),
    "every lora_A is missing": (without("lora_A"), "missing: 4 ("),
    "one is left over": (
        lambda weights: weights | {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(8, 32)},
        "without a place in the model: 1 (",
    ),
    "one has another shape": (
        lambda weights: {name: torch.cat([w, w], 1) if "q_proj.lora_A" in name else w for name, w in weights.items()},
        "of another shape: 2 (",
    ),
}


def filled(value: float) -> Callable[[Weights], Weights]:
    return lambda weights: {n: torch.full_like(w, value) if "1.self_attn.q" in n else w for n, w in weights.items()}


UNFIT_ADAPTER["two are no numbers"] = filled(float("nan")), "not finite numbers: 2 ("
UNFIT_ADAPTER["two are infinite"] = filled(float("inf")), "not finite numbers: 2 ("
UNFIT_ADAPTER["they are whole numbers"] = (
    lambda weights: {name: weight.to(torch.int8) for name, weight in weights.items()},
    "not finite numbers: 8 (",
)


@pytest.mark.parametrize("case", UNFIT_ADAPTER)
def test_an_adapter_that_does_not_fit_is_refused(original: tuple[Path, Path], adapter: Path, case: str) -> None:
    how, words = UNFIT_ADAPTER[case]
    change(adapter / ADAPTER, how)
    assert words in (said := refused(original[0], adapter))
    assert str(adapter) in said
    with pytest.raises(ModelError) as caught:
        check_fit(original[0], adapter, str(original[0]))
    assert str(caught.value) == said
    assert "does not fit" not in said or str(original[0]) in said


class TestAnotherBase:
    def test_other_weights_of_the_same_shape_are_refused_unless_the_caller_knows_better(
        self, original: tuple[Path, Path], model: Path, adapter: Path
    ) -> None:
        trained = weights_fingerprint(model)
        save_manifest(Manifest(base_model="shop/base", base_weights=trained, prompts={}), adapter)
        load(str(original[0]), str(adapter), CPU, torch.float32)
        change(model / WEIGHTS, lambda weights: weights | {"model.norm.weight": torch.full((32,), 1.5)})
        said = refused(model, adapter)
        for word in (str(adapter), "shop/base", trained[:16], str(model), weights_fingerprint(model)[:16]):
            assert word in said
        load(str(model), str(adapter), CPU, torch.float32, check_adapter=False)

    def test_a_known_model_may_come_from_another_source(
        self,
        original: tuple[Path, Path],
        adapter: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The hub and a wheel hold the same model in different precision, under one known name."""
        save_manifest(Manifest(base_model="tiny", base_weights="0" * 64, prompts={}), adapter)
        with pytest.raises(ConfigError):
            check_base(adapter, "tiny", original[0])
        monkeypatch.setattr("genrank.engines.loading.KNOWN_MODELS", {"tiny": None, "other": None})
        check_base(adapter, "tiny", original[0])
        assert "weights of tiny from another source" in caplog.text
        for name in ("other", str(original[0])):
            with pytest.raises(ConfigError):
                check_base(adapter, name, original[0])

    def test_another_architecture_is_refused(self, adapter: Path, tmp_path: Path) -> None:
        deeper = make(tmp_path / "deeper", num_hidden_layers=3)
        assert "missing: 4 (" in refused(deeper, adapter)
        wider = make(tmp_path / "wider", hidden_size=48)
        assert "of another shape: 8 (" in refused(wider, adapter)

    def test_an_old_manifest_that_cannot_be_compared_is_said_and_no_error(
        self, original: tuple[Path, Path], adapter: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (adapter / "genrank.json").write_text(
            json.dumps({"format": 1, "base_model": "shop/base", "base_revision": "0" * 64, "prompts": {}})
        )
        load(str(original[0]), str(adapter), CPU, torch.float32)
        assert "does not say which weights of shop/base it was trained on" in caplog.text


class TestNoCausalModel:
    @pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "T5ForConditionalGeneration", "LlamaModel"])
    def test_it_is_refused_by_its_architecture(self, model: Path, name: str) -> None:
        configure(model / "config.json", architectures=[name])
        assert f"is not a causal language model but a {name}" in refused(model)

    def test_an_encoder_with_a_head_for_language_is_refused(self, tmp_path: Path) -> None:
        size = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.BertConfig(**size, intermediate_size=8, is_decoder=True)
        transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
        load_model(tmp_path, dtype=torch.float32)
        configure(tmp_path / "config.json", is_decoder=False)
        with pytest.raises(ModelError, match="not a causal language model but a BertLMHeadModel"):
            load_model(tmp_path, dtype=torch.float32)

    @pytest.mark.parametrize("kind", ["bert", "t5", "llava"])
    def test_without_architectures_its_kind_says_it(self, model: Path, kind: str) -> None:
        configure(model / "config.json", architectures=None, model_type=kind)
        assert f"is not a causal language model but a {kind} (" in refused(model)

    def test_a_causal_model_needs_no_architectures(self, model: Path) -> None:
        configure(model / "config.json", architectures=None)
        load(str(model), None, CPU, torch.float32)

    def test_architectures_that_are_no_names(self, model: Path) -> None:
        configure(model / "config.json", architectures="LlamaForCausalLM")
        assert "architectures must be a list of names" in refused(model)


OWN_MODEL = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


class TestCodeOfStrangers:
    @pytest.fixture
    def strange(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A model with code of its own, for a user who would say yes to every question."""
        (model / "own.py").write_text(f"import pathlib\npathlib.Path({str(model / 'ran')!r}).touch()\n{OWN_MODEL}")
        own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        configure(model / "config.json", model_type="own", architectures=["OwnModelForCausalLM"], auto_map=own)
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
        return model

    def test_it_is_not_run_and_nobody_is_asked(self, strange: Path) -> None:
        said = refused(strange)
        assert "trust_remote_code=True" in said
        assert str(strange) in said
        assert not (strange / "ran").exists()
        assert len(sys.stdin.read().splitlines()) == 9

    def test_it_is_run_when_the_caller_says_so(self, strange: Path) -> None:
        loaded, _ = load(str(strange), None, CPU, torch.float32, trust_remote_code=True)
        assert type(loaded).__name__ == "OwnModel"
        assert (strange / "ran").exists()

    def test_a_tokenizer_s_code_is_not_run(self, model: Path) -> None:
        (model / "own.py").write_text("raise SystemExit")
        configure(model / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.Own"]})
        assert "trust_remote_code=True" in refused(model)

    def test_a_known_kind_of_model_is_loaded_without_the_code_beside_it(self, model: Path) -> None:
        (model / "own.py").write_text("raise SystemExit")
        configure(model / "config.json", auto_map={"AutoConfig": "own.A", "AutoModelForCausalLM": "own.B"})
        load(str(model), None, CPU, torch.float32)

    @pytest.mark.parametrize(
        "values",
        [
            {"attn_implementation": "stranger/kernel"},
            {"_attn_implementation": "stranger/kernel"},
            {"attn_implementation": {"": "stranger/kernel"}},
            {"text_config": {"experts_implementation": "stranger/kernel"}},
        ],
    )
    def test_kernels_of_the_hub_are_code_too(self, model: Path, values: dict[str, Any]) -> None:
        configure(model / "config.json", **values)
        assert "(stranger/kernel), which genrank does not run unless you pass trust_remote_code=True" in refused(model)

    def test_rendering_a_prompt_does_not_ask_either(self, strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["prompts", "render", "inline", "--model", str(strange)]) == 1
        assert "--trust-remote-code" in capsys.readouterr().err
        assert not (strange / "ran").exists()

    def test_a_request_line_that_says_y_is_data(self, strange: Path) -> None:
        lines = '{"query_id": "y", "query": "y", "candidates": [{"listing_id": "a", "title": "y"}]}\ny\n'
        program = "import sys; from genrank.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "rerank", "-", "--model", str(strange)]
        ran = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 1
        assert ran.stdout == ""
        assert "--trust-remote-code" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert not (strange / "ran").exists()


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("config.json", b"{", "is not JSON"),
            ("config.json", b"", "is not JSON"),
            ("config.json", b"\xff\xfe", "is not JSON"),
            ("config.json", b"[1]", "must hold a JSON object"),
            ("config.json", b"{}", "config.json cannot be loaded"),
            ("config.json", b'{"model_type": "no-such-model"}', "cannot be loaded"),
            ("tokenizer.json", b"", "is not a whole JSON object"),
            ("tokenizer.json", b'{"version": "1.0", "mod', "is not a whole JSON object"),
            ("tokenizer.json", b'{"version": 3}', "tokenizer.json cannot be loaded"),
            ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            ("tokenizer_config.json", b"<html>", "is not JSON"),
            ("generation_config.json", b"<html>", "is not JSON"),
            ("chat_template.jinja", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            ("chat_template.jinja", b"\xff\xfe{", "is no UTF-8 text"),
            ("merges.txt", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (WEIGHTS, b"", "is empty"),
            (WEIGHTS, b"<!DOCTYPE html><html>404</html>", "is not a safetensors file"),
            (WEIGHTS, b"not", "is not a safetensors file"),
            (WEIGHTS, (9).to_bytes(8, "little") + b"{", "is cut off"),
            ("model.safetensors.index.json", b"{", "is not JSON"),
            ("model.safetensors.index.json", b"{}", "has no weight_map"),
            ("model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "names 1 of 1 files"),
        ],
    )
    def test_the_file_is_named(self, model: Path, file: str, content: bytes, words: str) -> None:
        (model / file).write_bytes(content)
        assert words in (said := refused(model))
        assert str(model) in said
        assert file in said

    @pytest.mark.parametrize("kept", [0.2, 0.9])
    def test_weights_that_are_cut_off(self, model: Path, kept: float) -> None:
        content = (model / WEIGHTS).read_bytes()
        (model / WEIGHTS).write_bytes(content[: int(len(content) * kept)])
        assert "is cut off" in refused(model)

    def test_a_pickle_is_refused(self, model: Path) -> None:
        torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
        (model / WEIGHTS).unlink()
        assert "only as pickles (pytorch_model.bin)" in refused(model)

    def test_a_gguf_file_is_named(self, model: Path) -> None:
        (model / WEIGHTS).rename(model / "model-q4.gguf")
        assert "only as GGUF (model-q4.gguf)" in refused(model)

    def test_two_sets_of_weights(self, model: Path) -> None:
        """Of the two, transformers reads one and vLLM the other."""
        save_file(load_file(model / WEIGHTS), model / "part.safetensors", {"format": "pt"})
        (model / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "part.safetensors"}}')
        assert "holds both model.safetensors and model.safetensors.index.json" in refused(model)

    def test_weights_of_another_name_that_nobody_checked(self, model: Path) -> None:
        shutil.copy(model / WEIGHTS, model / "other.safetensors")
        configure(model / "config.json", transformers_weights="other.safetensors")
        assert "transformers_weights names other weights" in refused(model)

    def test_a_quantisation_that_nobody_knows(self, model: Path) -> None:
        """Transformers would only warn, and take the numbers as they are."""
        configure(model / "config.json", quantization_config={"quant_method": "own"})
        assert "config.json: transformers cannot read the quantisation 'own'" in refused(model)

    def test_a_relative_folder_without_weights(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (model / WEIGHTS).unlink()
        monkeypatch.chdir(model.parent)
        assert "model holds no weights: no model.safetensors" in refused("./model")

    def test_a_folder_without_a_tokenizer(self, model: Path) -> None:
        (model / "tokenizer.json").unlink()
        assert "holds no tokenizer: no tokenizer.json" in refused(model)

    def test_a_file_is_no_model(self, model: Path) -> None:
        assert "is a file; give the folder of a model" in refused(model / WEIGHTS)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("num_hidden_layers", 10**9), ("hidden_size", 4 * 10**8), ("intermediate_size", 10**12),
            ("vocab_size", 10**30), ("hidden_size", -1), ("hidden_size", "many"),
            ("max_position_embeddings", "long"), ("rope_parameters", 3),
        ],
    )  # fmt: skip
    def test_numbers_that_cannot_be(self, model: Path, key: str, value: Any) -> None:
        configure(model / "config.json", **{key: value})
        assert str(model) in refused(model)


class TestBrokenAdapters:
    def test_one_that_is_nowhere_is_named(self, original: tuple[Path, Path], tmp_path: Path) -> None:
        assert "neither a folder nor a hub name such as owner/name" in refused(original[0], tmp_path / "none")
        assert "neither a folder nor a hub name such as owner/name" in refused(original[0], "./none")

    def test_a_folder_without_one(self, original: tuple[Path, Path]) -> None:
        assert "holds no adapter: no adapter_config.json" in refused(original[0], original[0])

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'; only LORA, ADALORA"),
            ({"peft_type": "NEW_KIND"}, "peft_type is 'NEW_KIND'; only LORA, ADALORA"),
            ({"peft_type": None}, "peft_type is None; only LORA, ADALORA"),
            ({"r": None}, "r missing"),
            ({"lora_alpha": None, "target_modules": None}, "lora_alpha, target_modules missing"),
            ({"r": 0}, "r must be a whole number of at least 1, got 0"),
            ({"r": "8"}, "r must be a whole number of at least 1, got '8'"),
            ({"r": 10**9}, "a rank of 1000000000, and no weight is longer than 32"),
            ({"rank_pattern": {"q_proj": 10**6}}, "a rank of 1000000, and no weight is longer than 32"),
            ({"lora_alpha": "much"}, "lora_alpha must be a number other than 0, got 'much'"),
            ({"lora_alpha": 0}, "lora_alpha must be a number other than 0, got 0"),
            ({"lora_alpha": float("nan")}, "lora_alpha must be a number other than 0, got nan"),
            ({"alpha_pattern": {"q_proj": float("nan")}}, "are not finite"),
            ({"target_modules": ["no_such"]}, "does not fit"),
            ({"target_modules": 3}, "does not fit"),
        ],
    )
    def test_its_configuration(
        self, original: tuple[Path, Path], adapter: Path, values: dict[str, Any], words: str
    ) -> None:
        configure(adapter / "adapter_config.json", **values)
        assert words in (said := refused(original[0], adapter))
        assert str(adapter) in said

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("adapter_config.json", b"{", "is not JSON"),
            ("adapter_config.json", b"[]", "must hold a JSON object"),
            (ADAPTER, b"", "is empty"),
            (ADAPTER, b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            ("genrank.json", b"{", "not JSON"),
        ],
    )
    def test_its_files(self, original: tuple[Path, Path], adapter: Path, file: str, content: bytes, words: str) -> None:
        (adapter / file).write_bytes(content)
        assert words in (said := refused(original[0], adapter))
        assert str(adapter / file) in said

    def test_a_pickle_is_refused(self, adapter: Path) -> None:
        torch.save(load_file(adapter / ADAPTER), adapter / "adapter_model.bin")
        (adapter / ADAPTER).unlink()
        with pytest.raises(ModelError, match=r"only as a pickle \(adapter_model.bin\)"):
            find_adapter(str(adapter))


def test_a_broken_manifest_is_a_wrong_setting(original: tuple[Path, Path], adapter: Path) -> None:
    (adapter / "genrank.json").write_text('{"format": 2, "base_model": "m", "prompts": {}}')
    with pytest.raises(ConfigError, match=r"base_weights: .*missing"):
        load(str(original[0]), str(adapter), CPU, torch.float32)


def test_a_manifest_that_is_a_folder(original: tuple[Path, Path], adapter: Path) -> None:
    (adapter / "genrank.json").mkdir()
    with pytest.raises(ConfigError, match=r"genrank\.json: Is a directory"):
        load(str(original[0]), str(adapter), CPU, torch.float32)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(original: tuple[Path, Path], device: str) -> None:
    with pytest.raises(InputError, match=f"device: cannot use '{device}'") as caught:
        TransformersEngine(str(original[0]), device=device)
    assert "\n" not in str(caught.value)


def test_a_closed_engine_answers_nothing(original: tuple[Path, Path]) -> None:
    engine = TransformersEngine(str(original[0]), device="cpu")
    engine.close()
    engine.close()
    calls: list[Callable[[], object]] = [
        lambda: engine.score([ScoreRequest((1,), (0,), (1,))]),
        lambda: engine.permute([PermuteRequest((1,), (2,), ())]),
        lambda: engine.permute([PermuteRequest((1,), (2, 3), ())]),
        lambda: engine.write([TextRequest((1,), 2, ())]),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="is closed"):
            call()


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "onednn", "expected"),
    [
        ("x86_64", False, False, True, "float32"),  # oneDNN takes two and three times as long without instructions
        ("x86_64", True, False, True, "bfloat16"),
        ("AMD64", False, True, True, "bfloat16"),
        ("aarch64", False, False, True, "bfloat16"),
        ("aarch64", False, False, False, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, avx512_bf16: bool, amx: bool, onednn: bool, expected: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert native_dtype(CPU) == getattr(torch, expected)
