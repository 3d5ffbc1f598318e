"""Runs a model in this process with Hugging Face transformers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from genrank.engines.base import (
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    TextRequest,
    TextResult,
)
from genrank.engines.tokenizer import HubTokenizer, longest_context
from genrank.errors import EngineError, InputError, MissingExtraError, ModelError
from genrank.models import resolve
from genrank.types import Tokens

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

R = TypeVar("R", ScoreRequest, PermuteRequest, TextRequest)
A = TypeVar("A")


class TransformersEngine:
    """A causal language model on the CPU or a GPU, through transformers.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a PEFT adapter.
        device: Such as ``cpu`` or ``cuda``; by default the GPU where there is one.
        dtype: ``auto`` takes bfloat16 where the machine computes in it, else float32.
        batch_tokens: The most tokens, padding included, in one forward pass; by default 2,048 on the CPU (more only
            adds padding there) and 65,536 on a GPU.

    Raises:
        ModelNotFoundError: When there is no such model.
        ModelError: When the model's files cannot be read, or it is no causal language model.
        InputError: When an argument is wrong.
    """

    name = "transformers"

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        adapter: str | None = None,
        device: str | None = None,
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"must be at least 1, got {batch_tokens}", field="batch_tokens")
        if dtype not in ("auto", "bfloat16", "float16", "float32"):
            raise InputError(f"must be auto, bfloat16, float16 or float32, got {dtype!r}", field="dtype")
        self.model = model
        self.adapter = adapter
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_tokens = batch_tokens or (2048 if self.device.type == "cpu" else 65536)
        self.dtype: torch.dtype = _native_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        self._lock = threading.Lock()
        folder = resolve(model)
        with _readable(model):
            config = AutoConfig.from_pretrained(folder)
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=self.dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if adapter is not None:
                loaded = _with_adapter(loaded, adapter)
        self._lm = loaded.to(self.device).eval()
        self._decoder = self._lm.get_decoder()
        self._config = self._lm.config.get_text_config()
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        self.context = longest_context(self._config)
        self.tokenizer = HubTokenizer(tokenizer)
        self._own_head = self._head_agrees()

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Read scores in one forward pass a batch; see `genrank.engines.base.Engine`.

        The head is computed only for the places and tokens that are asked for.
        """
        return self._batched(requests, self._score)

    def permute(self, requests: Sequence[PermuteRequest]) -> list[PermuteResult]:
        """Write orders under a mask; see `genrank.engines.base.Engine`.

        A step of the model chooses an identifier; what stands between two, and the last identifier, are filled in.
        """
        return self._batched(requests, self._permute, answer=lambda r: len(r.identifiers) * (1 + len(r.between)))

    def write(self, requests: Sequence[TextRequest]) -> list[TextResult]:
        """Write text greedily; see `genrank.engines.base.Engine`."""
        return self._batched(requests, self._write, answer=lambda r: r.max_tokens)

    def _batched(
        self, requests: Sequence[R], run: Callable[[list[R]], list[A]], answer: Callable[[R], int] = lambda _: 0
    ) -> list[A]:
        """Run requests of like length together, at most `batch_tokens` at once, and answer in their order."""
        lengths = [len(request.ids) + answer(request) for request in requests]
        for length in lengths:
            if length > self.context:
                raise EngineError(f"{length} tokens exceed the {self.context} that {self.model} takes")
        answers: dict[int, A] = {}
        batch: list[int] = []
        by_length = sorted(range(len(requests)), key=lengths.__getitem__, reverse=True)
        with self._lock, torch.inference_mode(), _engine_errors(self.model):
            for i in by_length:
                if batch and (len(batch) + 1) * lengths[batch[0]] > self.batch_tokens:
                    answers.update(zip(batch, run([requests[j] for j in batch]), strict=True))
                    batch = []
                batch.append(i)
            if batch:
                answers.update(zip(batch, run([requests[j] for j in batch]), strict=True))
        return [answers[i] for i in range(len(requests))]

    def _score(self, requests: list[ScoreRequest]) -> list[ScoreResult]:
        # padded on the right, a causal model needs no mask: no real token sees the padding
        width = max(len(request.ids) for request in requests)
        ids = torch.tensor([[*r.ids, *[self._pad] * (width - len(r.ids))] for r in requests], device=self.device)
        states = self._forward(input_ids=ids, use_cache=False)
        results = []
        for row, request in enumerate(requests):
            scores = self._read(states[row, list(request.reads)], list(request.targets))
            results.append(ScoreResult(scores.tolist(), Tokens(prompt=len(request.ids))))
        return results

    def _permute(self, requests: list[PermuteRequest]) -> list[PermuteResult]:
        ids, mask = self._left_padded(requests)
        cache = DynamicCache(config=self._config)
        orders: list[list[int]] = [[] for _ in requests]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(max(len(request.identifiers) for request in requests) - 1):
            last = self._forward(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )[:, -1]
            rows = []
            for row, (request, order) in enumerate(zip(requests, orders, strict=True)):
                if len(order) < len(request.identifiers):
                    scores = self._read(last[row : row + 1], list(request.identifiers))[0]
                    scores[order] = -torch.inf
                    order.append(int(scores.argmax()))
                rows.append([request.identifiers[order[-1]], *request.between])
            ids = torch.tensor(_even(rows, self._pad), device=self.device)
            positions = positions[:, -1:] + 1 + torch.arange(ids.shape[1], device=self.device)
            mask = torch.cat([mask, mask.new_ones(ids.shape)], dim=1)
        results = []
        for request, order in zip(requests, orders, strict=True):
            order += [place for place in range(len(request.identifiers)) if place not in order]
            completion = len(order) + (len(order) - 1) * len(request.between)
            results.append(PermuteResult(tuple(order), Tokens(prompt=len(request.ids), completion=completion)))
        return results

    def _write(self, requests: list[TextRequest]) -> list[TextResult]:
        ids, mask = self._left_padded(requests)
        width = ids.shape[1]
        out = self._lm.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=False,
            pad_token_id=self._pad,
        )
        results = []
        for row, request in enumerate(requests):
            written = out[row, width : width + request.max_tokens].tolist()
            text = self.tokenizer.decode(written)
            results.append(TextResult(text, Tokens(prompt=len(request.ids), completion=len(written))))
        return results

    def _left_padded(self, requests: Sequence[PermuteRequest | TextRequest]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(request.ids) for request in requests)
        pads = [width - len(request.ids) for request in requests]
        ids = [[self._pad] * pad + list(request.ids) for pad, request in zip(pads, requests, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _forward(self, **inputs: Any) -> torch.Tensor:
        """What `_read` reads: hidden states ``[b, length, width]``, or logits where the head must be run whole."""
        if self._own_head:
            return cast(torch.Tensor, self._decoder(**inputs).last_hidden_state)
        return cast(torch.Tensor, self._lm(**inputs).logits)

    def _read(self, states: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """Logits of some tokens, ``[r, t]`` in float32, from ``[r, width]`` of what `_forward` gave."""
        if not self._own_head:
            return states[:, targets].float()
        output = self._lm.get_output_embeddings()
        logits = states.float() @ output.weight[targets].float().T
        if getattr(output, "bias", None) is not None:
            logits = logits + output.bias[targets].float()
        cap = getattr(self._config, "final_logit_softcapping", None)
        return cast(torch.Tensor, torch.tanh(logits / cap) * cap if cap else logits)

    def _head_agrees(self) -> bool:
        """Whether `_read` gives the model's own logits; some models scale them in ways of their own."""
        ids = torch.arange(8, device=self.device)[None] % self._config.vocab_size
        targets = list(range(min(64, self._config.vocab_size)))
        self._own_head = True
        with torch.inference_mode():
            own = self._lm(input_ids=ids).logits[0, -1:, targets].float()
            read = self._read(self._forward(input_ids=ids, use_cache=False)[0, -1:], targets)
        atol = 1e-3 if self.dtype == torch.float32 else 0.25
        return torch.allclose(own, read, atol=atol, rtol=0.02)


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "transformers") from None
    if not Path(adapter).is_dir() and adapter.count("/") != 1:
        raise ModelError(f"no adapter {adapter!r}: neither a folder nor a hub name such as owner/name")
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def _native_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which the device computes fastest without losing an order: bfloat16 or float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _even(rows: list[list[int]], pad: int) -> list[list[int]]:
    width = max(map(len, rows))
    return [[*row, *[pad] * (width - len(row))] for row in rows]


@contextlib.contextmanager
def _readable(model: str) -> Iterator[None]:
    """Turn what transformers raises over broken files into a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {model}: {error}") from error


@contextlib.contextmanager
def _engine_errors(model: str) -> Iterator[None]:
    """Turn what torch raises while it computes into an `EngineError`."""
    try:
        yield
    except (RuntimeError, MemoryError, IndexError, ValueError) as error:
        raise EngineError(f"{model} failed: {error}") from error
