"""Merges an adapter into its model: ``python -m finetune.merge --adapter FOLDER --out FOLDER [--base MODEL]``.

The result is a plain checkpoint, in safetensors and in the model's own dtype, that transformers and vLLM load without
PEFT. LoRA, rsLoRA, DoRA and AdaLoRA can be merged. The merge is computed in float32 and rounded once. The adapter's
``genrank.json`` (`genrank.adapters`) is copied too, so that the prompt it was trained with stays known. The output
folder appears only after the merged model has been loaded again and has given the same scores as the model with its
adapter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genrank.adapters import FILE, FITS, load_manifest, merge_values, read_values
from genrank.data.dataset import sample_shop
from genrank.engines.loading import check_base, load_adapter, load_fitting_tokenizer, load_model
from genrank.engines.tokenizer import HubTokenizer
from genrank.errors import InputError, ModelError
from genrank.experiment.program import exit_status
from genrank.models.store import resolve
from genrank.models.weights import ADAPTER_CONFIG, check_adapter_files, reading
from genrank.progress import quiet_loading
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.reranker import DEFAULT_PROMPTS

MOST_MERGED = 0.01
"""The most that merging may change a log-probability that serving reads, in nats; only the order of sums differs."""

MOST_STORED = 0.25
"""The same bound for the stored model: ten times the effect of rounding a small model to bfloat16."""

_QUERIES, _CANDIDATES, _PROMPT_TOKENS = 3, 6, 1024  # for the prompts that are compared


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of a merge.

    Attributes:
        out: The merged model's folder.
        base: The model without the adapter.
        dtype: The dtype in which it is stored, such as ``bfloat16``.
        difference: The greatest change of a log-probability that serving reads, in nats.
    """

    out: Path
    base: str
    dtype: str
    difference: float


def merge(adapter: Path, out: Path, base: str | None = None) -> Merged:
    """Merge an adapter into its model and store both as one.

    Args:
        adapter: The adapter's folder.
        out: The new folder; may exist if it is empty.
        base: The model; by default the one that the adapter's manifest or PEFT's configuration names.

    Raises:
        InputError: When `adapter` holds no adapter, it names no model and `base` is not given, or `out` is not empty.
        ConfigError: When the manifest is broken, or it was trained on other weights than those of `base`.
        ModelError: When the model or the adapter cannot be read, the adapter is not a LoRA in safetensors or does not
            fit the model, or the scores changed too much.
        OSError: When a file cannot be read or written.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise InputError(f"{adapter} holds no adapter: no {ADAPTER_CONFIG}", field="--adapter")
    config, out = check_adapter_files(adapter), out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; give a new folder, or empty it", field="--out")
    manifest = load_manifest(adapter)
    name = base or (manifest.base_model if manifest else config.get("base_model_name_or_path"))
    if not name:
        raise InputError(f"{adapter} does not say to which model it belongs; give it", field="--base")
    folder = resolve(name)
    check_base(adapter, name, folder)
    decodings = manifest.prompts if manifest else ("inline",)
    prompts = {prompt for decoding, prompt in DEFAULT_PROMPTS.items() if decoding in decodings} or {"inline"}
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with quiet_loading():
            dtype, difference = _merge(adapter, name, folder, part, sorted(prompts))
        if (adapter / FILE).is_file():
            merge_values(part / FILE, carried(read_values(adapter / FILE), name))
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Merged(out, name, dtype, difference)


def carried(values: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The content of an adapter's ``genrank.json`` for the merged model.

    A calibration or a blend fitted on the adapter's model is valid for the merged one whatever its name.

    Args:
        values: The content.
        base: The adapter's model.
    """
    own = (base, values.get("base_model"))
    found = dict(values)
    for key in FITS:
        if isinstance(stored := values.get(key), dict):
            found[key] = {
                decoding: fit | {"model": ""} if isinstance(fit, dict) and fit.get("model") in own else fit
                for decoding, fit in stored.items()
            }
    return found


def _merge(adapter: Path, name: str, base: Path, out: Path, prompts: Sequence[str]) -> tuple[str, float]:
    """Write the merged model; return its dtype and the greatest change of a log-probability."""
    model = load_model(base, dtype="auto").eval()
    dtype = model.dtype
    tokenizer = load_fitting_tokenizer(model, base)
    rendered = list(_rendered(prompts, tokenizer))
    adapted = load_adapter(model.float(), adapter, name).eval()
    with reading(adapter):
        expected = [read(adapted, *prompt) for prompt in rendered]
        merged = adapted.merge_and_unload(safe_merge=True)
    check("merging", expected, [read(merged, *prompt) for prompt in rendered], MOST_MERGED)
    merged.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    stored = load_model(out, dtype=torch.float32).eval()
    found = [read(stored, *prompt) for prompt in rendered]
    return str(dtype).removeprefix("torch."), check(f"storing in {dtype}", expected, found, MOST_STORED)


def check(step: str, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], most: float) -> float:
    """The greatest change of a log-probability.

    Args:
        step: The step that was taken, for the message.
        expected: ``[prompts]`` of what `read` returned before it.
        found: ``[prompts]`` of what `read` returns after it.
        most: The bound.

    Raises:
        ModelError: When it is greater than the bound, or not a number.
    """
    changes = [(now - before).abs().flatten() for before, now in zip(expected, found, strict=True)]
    difference = float(torch.cat(changes).max())  # NaN if one of them is
    if not difference <= most:
        raise ModelError(
            f"{step} changed a log-probability by {difference:.3g}, more than {most:g}: the merged model is not "
            "the one that was trained; serve the adapter beside its model"
        )
    return difference


def _rendered(prompts: Sequence[str], tokenizer: Any) -> Iterator[tuple[Sequence[int], Sequence[int], Sequence[int]]]:
    """Prompts of the sample shop: tokens, the places that serving reads, and the tokens that it reads there."""
    shop = sample_shop()
    for name in prompts:
        template = load_template(name)
        decoding = template.decodings[0]
        renderer = Renderer(template, HubTokenizer(tokenizer))
        for query in shop.queries[:_QUERIES]:
            request = shop.request(query, _CANDIDATES)
            prompt = renderer.render(
                request.query,
                request.candidates[:1] if decoding == "pointwise" else request.candidates,
                request.history,
                max_tokens=_PROMPT_TOKENS,
                decoding=decoding,
            )
            answer = renderer.answer
            if prompt.reads:
                yield prompt.ids, prompt.reads, (*answer.yes, *answer.no)
            else:
                yield prompt.ids, [len(prompt.ids) - 1], answer.identifiers[: len(request.candidates)]


@torch.no_grad()
def read(model: Any, ids: Sequence[int], places: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities ``[places, tokens]`` of some tokens against each other, after places of a prompt."""
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0, list(places)]
    return logits[:, list(tokens)].float().log_softmax(-1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m finetune.merge", description="Merge an adapter into its model.")
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument("--base", help="the base model, if it is not the one that the adapter names, or is elsewhere")
    options = parser.parse_args(arguments)

    def body() -> None:
        found = merge(options.adapter.expanduser(), options.out.expanduser(), options.base)
        print(json.dumps(dataclasses.asdict(found), default=str))

    return exit_status(body)


if __name__ == "__main__":
    sys.exit(main())
